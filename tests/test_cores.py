"""How many cores there are, on every platform, and how many workers are asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loader
from loader.aws.fleet.steps import shards_for
from loader.core.errors import UsageError
from loader.core.process.cores import available_cores, positive, positive_text
from loader.engine.attempts import within_cores
from loader.pipeline import How
from loader.pipeline import load as load_


def have(monkeypatch: pytest.MonkeyPatch, **functions: Callable[..., Any]) -> None:
    """Of the functions that tell how many cores there are, only these exist."""
    for name in ("process_cpu_count", "sched_getaffinity", "cpu_count"):
        monkeypatch.delattr(os, name, raising=False)
    for name, function in functions.items():
        monkeypatch.setattr(os, name, function, raising=False)


def test_cores_wherever_python_tells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, cpu_count=lambda: 8)  # macOS
    assert available_cores() == 8
    have(monkeypatch, cpu_count=lambda: None)
    assert available_cores() == 1
    have(monkeypatch, sched_getaffinity=lambda _: {0, 3}, cpu_count=lambda: 8)
    assert available_cores() == 2
    have(monkeypatch, process_cpu_count=lambda: 3, sched_getaffinity=lambda _: {0}, cpu_count=lambda: 8)
    assert available_cores() == 3


WRONG = [0, -1, True, False, 1.0, "2", None, 10**9, 10**5000, -(10**5000), float("nan"), [2]]


@pytest.mark.parametrize("number", WRONG, ids=lambda number: type(number).__name__)
def test_what_is_no_number_of_workers(tmp_path: Path, number: Any) -> None:
    """One short sentence, before anything is read or connected to."""
    with pytest.raises(UsageError, match=r"^workers is ") as caught:
        How(workers=number)
    assert len(str(caught.value)) < 200
    with pytest.raises(UsageError, match="workers is"):
        load_(str(tmp_path / "nosuch.csv"), {"table": "t"}, dsn="host=nosuch", workers=number)
    if number is not None:
        with pytest.raises(UsageError, match="threads is"):
            How(threads=number)
    with pytest.raises(UsageError, match="number of workers is"):
        shards_for(100, number)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "two", "", " 2", "²", "٢", "9" * 5000])
def test_what_is_no_number_as_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="it is"):
        positive_text(text, "it")
    if text:
        monkeypatch.setenv("LOADER_SHARD_BYTES", text)
        with pytest.raises(UsageError, match="LOADER_SHARD_BYTES"):
            shards_for(100, 1)


def test_numbers() -> None:
    assert (positive(1, "it"), positive_text("10000", "it"), How(workers=2, threads=3).threads) == (1, 10_000, 3)


def test_more_workers_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are cores load it, and the report says so."""
    monkeypatch.setattr("loader.engine.attempts.available_cores", lambda: 2)
    how = within_cores(How(workers=99, notes=("before",)))
    assert how.workers == 2
    assert how.notes == ("before", "99 workers were asked for and this machine has 2 cores, so it used 2")
    assert within_cores(How(workers=2)) == How(workers=2)


def test_one_core_is_for_one_process(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loader.engine.attempts.available_cores", lambda: 1)
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n")
    report = load_(str(path), {"table": "t"}, dsn=dsn, workers=99)
    assert report.state == "loaded"
    assert report.notes[0] == "99 workers were asked for and this machine has one core, so it used 1"


ELSEWHERE = """
import os, signal, socket, sys
for name in ("sched_getaffinity", "process_cpu_count", "sched_setaffinity", "posix_fadvise", "posix_fallocate",
             "memfd_create", "pidfd_open", "splice", "sendfile", "copy_file_range", "eventfd", "prctl", "O_DIRECT"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGRTMIN", "SIGRTMAX", "SIGPOLL", "SIGPWR", "SIGSTKFLT", "pthread_sigmask_linux"):
    if hasattr(signal, name):
        delattr(signal, name)
for name in ("TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "TCP_QUICKACK", "SO_PROTOCOL", "SO_DOMAIN", "SOCK_CLOEXEC",
             "SOCK_NONBLOCK", "MSG_ZEROCOPY", "AF_NETLINK"):
    if hasattr(socket, name):
        delattr(socket, name)

# what is not the loader's own is made for each platform
import argparse, concurrent.futures, multiprocessing, subprocess, sysconfig, tempfile, zoneinfo
import boto3, botocore.httpsession, numpy, pgpq, psycopg2.extras, pyarrow.compute, pyarrow.csv

sysconfig.get_config_vars()

sys.platform = sys.argv[1]
no_proc = lambda event, arguments: (_ for _ in ()).throw(FileNotFoundError(arguments[0])) \\
    if event == "open" and str(arguments[0]).startswith(("/proc", "/sys")) else None
sys.addaudithook(no_proc)

import importlib, pkgutil, loader
for module in pkgutil.walk_packages(loader.__path__, "loader."):
    if module.name != "loader.__main__":
        importlib.import_module(module.name)
from loader.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_nothing_that_only_linux_has_is_needed(dsn: str, tmp_path: Path, platform: str) -> None:
    """Every module can be imported, and a file loaded. (Of Windows that is all that is shown here.)"""
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, platform, "load", str(path), "--table", "t", "--dsn", dsn],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "1 read = 1 inserted" in done.stdout


def test_the_public_face_takes_workers() -> None:
    with pytest.raises(loader.UsageError, match="workers is 0"):
        loader.load("nosuch.csv", {"table": "t"}, dsn="host=nosuch", workers=0)
