"""Ctrl-C and SIGTERM, sent to real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg2
import pytest
from support.postgres import query

from loader.deadline import Deadline
from loader.signals import run_stoppable, stopping


def loading(dsn: str, path: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "loader", "load", str(path), "--dsn", dsn, "--table", "trips", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def when(dsn: str, question: str) -> None:
    deadline = time.monotonic() + 30
    while not query(dsn, f"SELECT count(*) FROM ({question}) q")[0][0]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


STAGING = "SELECT FROM pg_class WHERE relname LIKE 'staging%%' AND relkind = 'r' AND pg_relation_size(oid) > 0"


@pytest.fixture
def path(dsn: str, tmp_path: Path) -> Path:
    query(dsn, "CREATE TABLE trips (a bigint PRIMARY KEY)")
    made = tmp_path / "trips.csv"
    made.write_text("a\n" + "".join(f"{number}\n" for number in range(3_000_000)))
    return made


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_load_comes_to_rest_and_the_same_command_goes_on(dsn: str, path: Path, number: signal.Signals) -> None:
    """One sentence says how far it is; the exit code is the shell's for that signal."""
    process = loading(dsn, path, "--mode", "merge")
    when(dsn, STAGING)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "records are staged, and the same call goes on from there" in told
    assert query(dsn, "SELECT count(*) FROM trips") == [(0,)]
    done = loading(dsn, path, "--mode", "merge")
    out, _ = done.communicate(timeout=60)
    assert (done.returncode, "loaded (load 1)" in out) == (0, True)
    assert query(dsn, "SELECT count(*) FROM trips") == [(3_000_000,)]
    assert query(dsn, "SELECT attempts, resumes FROM loader.loads") == [(2, 1)]


def test_a_load_that_waits_for_its_turn_is_called_back(dsn: str, path: Path) -> None:
    """Within a moment, not when the turn comes."""
    busy = psycopg2.connect(dsn)
    busy.cursor().execute("SELECT pg_advisory_lock(hashtextextended('loader public.trips', 0))")
    process = loading(dsn, path)
    when(dsn, "SELECT FROM pg_locks WHERE NOT granted")
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=10)
    busy.close()
    assert (process.returncode, "while waiting for its turn" in told) == (130, True)


def test_a_merge_is_called_back(dsn: str, path: Path) -> None:
    """It is rolled back, what is staged stays."""
    busy = psycopg2.connect(dsn)
    busy.cursor().execute("LOCK TABLE trips IN EXCLUSIVE MODE")
    process = loading(dsn, path, "--mode", "merge")
    when(dsn, "SELECT FROM pg_locks WHERE NOT granted")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    busy.close()
    assert process.returncode == 143
    assert query(dsn, "SELECT complete FROM loader.checkpoints") == [(True,)]


def test_the_second_signal_ends_the_process(dsn: str, path: Path) -> None:
    """For whoever cannot wait; nothing is lost by it."""
    code = """if True:
        import os, signal, time
        from loader.deadline import Deadline
        from loader.signals import stopping
        with stopping(Deadline()):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)
    """
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 130


def test_work_gives_what_it_gives() -> None:
    """Or raises what it raises; and handlers are as they were."""
    before = signal.getsignal(signal.SIGINT)
    assert run_stoppable(lambda: threading.current_thread() is threading.main_thread(), Deadline()) is False
    with pytest.raises(ZeroDivisionError):
        run_stoppable(lambda: 1 // 0, Deadline())
    assert signal.getsignal(signal.SIGINT) is before


def test_elsewhere_than_in_the_main_thread_signals_are_left_alone() -> None:
    """Only that one may set handlers."""
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with stopping(Deadline()):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
