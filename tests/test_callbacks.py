"""Callbacks that raise: the load comes to a clean end, the ledger names the error, and the caller gets it."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support.postgres import query

import loader
from loader.engine.counters import Progress
from loader.pipeline import How, load, load_one
from loader.postgres.database import Database
from loader.sharding import worker

SPEC: dict[str, Any] = {"table": "t", "columns": {"id": "bigint", "note": "text"}}
ROWS = 20_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "t.csv"
    made.write_text("id,note\n" + "".join(f"{number},{'x' * 60}\n" for number in range(ROWS)))
    return made


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The worker processes that were begun."""
    begun: list[subprocess.Popen[bytes]] = []

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            begun.append(self)

    monkeypatch.setattr(worker.subprocess, "Popen", Popen)
    monkeypatch.setattr("loader.sharding.workers.LEAST", 100_000)
    monkeypatch.setattr("loader.engine.attempts.available_cores", lambda: 2)
    return begun


def raising(error: BaseException) -> Callable[..., None]:
    def callback(*_: Any) -> None:
        raise error

    return callback


ERRORS = [
    ZeroDivisionError("in the callback"),
    psycopg2.errors.UniqueViolation("that looks like the table's"),
    loader.PausedError("that looks like the deadline's", handover=False),
    StopIteration("that looks like the end"),
]


def assert_ended(dsn: str, error: BaseException) -> None:
    """Entered as failed of the callback's error, which says nothing about the file; and nothing goes on."""
    ((state, retryable, told),) = query(dsn, "SELECT state, retryable, error FROM loader.loads")
    assert (state, retryable) == ("failed", True)
    assert told.endswith(f" callback raised {type(error).__name__}: {error}")
    assert not [each for each in threading.enumerate() if each.name.startswith("loader-")]


@pytest.mark.usefixtures("large_way")
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("way", ["straight", "staged", "by workers"])
def test_progress_that_raises(
    dsn: str, path: Path, processes: list[subprocess.Popen[bytes]], error: BaseException, way: str
) -> None:
    """Its own error, not another one that it is taken for. The same call without it loads the file."""
    if way == "staged":
        query(dsn, "CREATE TABLE t (id bigint PRIMARY KEY, note text); INSERT INTO t VALUES (5, 'y')")
    spec = {**SPEC, "mode": "merge", "key": ["id"]} if way == "staged" else SPEC
    workers = 2 if way == "by workers" else 1
    with pytest.raises(type(error)) as caught:
        load(str(path), spec, dsn=dsn, progress=raising(error), workers=workers)
    assert caught.value is error
    assert_ended(dsn, error)
    assert all(each.returncode is not None for each in processes)  # ended, and waited for
    assert load(str(path), spec, dsn=dsn, workers=workers).rows_read == ROWS


@pytest.mark.parametrize("workers", [1, 2])
def test_told_that_raises(dsn: str, path: Path, processes: list[subprocess.Popen[bytes]], workers: int) -> None:
    """At its first word, when the attempt has just been entered."""
    error = ValueError("in told")
    database = Database(dsn)
    with pytest.raises(ValueError, match="in told") as caught:
        load_one(str(path), loader.LoadSpec.from_dict(SPEC), database, How(told=raising(error), workers=workers))
    assert caught.value is error
    assert_ended(dsn, error)
    assert processes == []
    told: list[tuple[str, Mapping[str, Any]]] = []
    how = How(told=lambda what, facts: told.append((what, facts)), workers=workers)
    assert load_one(str(path), loader.LoadSpec.from_dict(SPEC), database, how).rows_read == ROWS
    assert told[0][0] == "begun"
    database.close()


def test_an_interrupt_of_the_callers_ends_the_workers(
    dsn: str, path: Path, processes: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in a program that calls `loader.load`: no process and no thread is left behind."""
    join = threading.Thread.join
    interrupted: list[bool] = []

    def once(self: threading.Thread, timeout: float | None = None) -> None:
        if self.name == "loader-worker-0" and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        join(self, timeout)

    monkeypatch.setattr(threading.Thread, "join", once)
    with pytest.raises(KeyboardInterrupt):
        load(str(path), SPEC, dsn=dsn, workers=2)
    assert all(each.returncode is not None for each in processes)
    assert query(dsn, "SELECT state, retryable, error FROM loader.loads") == [("failed", True, "KeyboardInterrupt")]


def test_progress_of_workers_comes_from_one_thread_at_a_time(
    dsn: str, path: Path, processes: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a callback need not be safe to share."""
    monkeypatch.setattr("loader.sharding.worker.TELLING", 0.0)
    busy, clashes = threading.Lock(), []

    def progress(_: Progress) -> None:
        if not busy.acquire(blocking=False):
            clashes.append(threading.current_thread().name)
            return
        threading.Event().wait(0.01)
        busy.release()

    load(str(path), SPEC, dsn=dsn, workers=2, progress=progress)
    assert processes
    assert clashes == []
