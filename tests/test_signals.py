"""Ctrl-C and SIGTERM: a load comes to rest wherever it is, and the same command goes on with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support.clients import wait_for
from support.clock import PATIENCE
from support.postgres import query
from support.s3 import FaultProxy, stall

from loader.core.deadline import Deadline
from loader.core.process.signals import exit_code, run_stoppable, stopping

pytestmark = pytest.mark.usefixtures("large_way")

WAITS = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = '{}'"


def test_the_first_signal_stops_the_deadline() -> None:
    """And what was done about signals before is done again afterwards."""
    before = signal.getsignal(signal.SIGINT)
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        deadline = Deadline()
        with stopping(deadline):
            assert exit_code(deadline) == 0
            os.kill(os.getpid(), number)
            assert deadline.stopped
        assert exit_code(deadline) == code
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As by nohup, or by a shell for what it runs in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping(deadline := Deadline()):
            os.kill(os.getpid(), signal.SIGINT)
            assert not deadline.stopped
    finally:
        signal.signal(signal.SIGINT, before)


def test_only_the_main_thread_takes_signals() -> None:
    """Anywhere else the work is done just the same, and no handler is changed."""
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []

    def work() -> int:
        return run_stoppable(lambda: seen.append(signal.getsignal(signal.SIGTERM)) or 7, Deadline())

    thread = threading.Thread(target=lambda: seen.append(work()))
    thread.start()
    thread.join()
    assert seen == [before, 7]


def test_what_the_work_gives_or_raises_is_given_or_raised() -> None:
    """From the thread in which it is done."""
    assert run_stoppable(lambda: threading.current_thread() is threading.main_thread(), Deadline()) is False

    def fail() -> None:
        raise KeyError("no")

    with pytest.raises(KeyError, match="no"):
        run_stoppable(fail, Deadline())


def test_a_callback_that_raises_does_not_leave_the_work_to_itself(caplog: pytest.LogCaptureFixture) -> None:
    """The others are called, the work comes to rest and is waited for, and the log has the callback's error."""
    deadline, stopped = Deadline(), threading.Event()

    def fail() -> None:
        raise ValueError("in the callback")

    def work() -> str:
        with deadline.calling(fail), deadline.calling(stopped.set):
            os.kill(os.getpid(), signal.SIGINT)
            assert stopped.wait(60)
        return "at rest"

    assert run_stoppable(work, deadline) == "at rest"
    assert "in the callback" in caplog.text


def test_what_is_raised_in_the_main_thread_waits_for_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as by somebody else's handler: the work is asked to stop, and is over when the error comes through."""
    deadline, ended = Deadline(), []
    join, began = threading.Thread.join, threading.Event()

    def once(self: threading.Thread, timeout: float | None = None) -> None:
        if self.name == "loader-main" and not deadline.stopped:
            began.wait(60)
            raise KeyError("of somebody else")
        join(self, timeout)

    def work() -> None:
        stopped = threading.Event()
        with deadline.calling(stopped.set):
            began.set()
            ended.append(stopped.wait(60))

    monkeypatch.setattr(threading.Thread, "join", once)
    with pytest.raises(KeyError, match="of somebody else"):
        run_stoppable(work, deadline)
    assert ended == [True]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_the_process(number: signal.Signals) -> None:
    """At once, whatever its threads wait for."""
    code = (
        "import time\nfrom loader.core.deadline import Deadline\n"
        "from loader.core.process.signals import run_stoppable\n"
        "def work():\n    with deadline.calling(lambda: print('stopped', flush=True)):\n"
        "        print('ready', flush=True)\n        time.sleep(3600)\n"
        "deadline = Deadline()\nrun_stoppable(work, deadline)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "stopped\n"
        process.send_signal(number)
        assert process.wait(PATIENCE) == 128 + number


@pytest.fixture
def target(dsn: str, tmp_path: Path) -> Path:
    """A table "trips", and a file for it whose loads are staged in many segments."""
    query(dsn, "CREATE TABLE trips (a bigint PRIMARY KEY)")
    query(dsn, "INSERT INTO trips SELECT generate_series(0, 599999, 100)")  # so they have to be matched
    (tmp_path / "spec.toml").write_text('table = "trips"\nmode = "merge"\nsegment_mb = 1\n')
    path = tmp_path / "trips.csv"
    path.write_text("a\n" + "".join(f"{number}\n" for number in range(600_000)))
    return path


@pytest.fixture
def few(target: Path) -> Path:
    """Its file has only some records, for where it does not matter how they are staged."""
    target.write_text("a\n" + "".join(f"{number}\n" for number in range(6_000)))
    return target


class Loader:
    """``loader load`` in processes of its own, by the spec of `target`."""

    def __init__(self, dsn: str, spec: Path) -> None:
        self.spec = spec
        self._options = ["--spec", str(spec), "--dsn", dsn]
        self._begun: list[subprocess.Popen[str]] = []

    def start(self, *sources: Path | str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "loader", "load", *map(str, sources), *self._options]
        self._begun.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return self._begun[-1]

    def finish(self, source: Path) -> None:
        """The same command once more, which has to get through."""
        _, errors = self.start(source).communicate(timeout=PATIENCE)
        assert self._begun[-1].returncode == 0, errors

    def close(self) -> None:
        for each in self._begun:
            each.kill()
            each.communicate()


@pytest.fixture
def loader(dsn: str, target: Path) -> Iterator[Loader]:
    processes = Loader(dsn, target.with_name("spec.toml"))
    yield processes
    processes.close()


def when(dsn: str, question: str) -> None:
    """Wait until the question has an answer."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    with closing(connection), connection.cursor() as cursor:

        def answered() -> bool:
            cursor.execute(question)
            return cursor.rowcount > 0

        wait_for(answered)


def interrupt(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> str:
    """Send the signal; what the process says before it ends, with the signal's code.

    What it waits for does not come while it is interrupted, so it ends because of the signal, or not at all.
    """
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors.count("\n")) == (128 + number, 1), errors
    return errors


@contextmanager
def held(dsn: str, statement: str) -> Iterator[None]:
    """A transaction that has done ``statement`` and goes no further."""
    connection = psycopg2.connect(dsn)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
        yield
    finally:
        connection.close()


TURN = "SELECT pg_advisory_lock(hashtextextended('loader public.trips', 0))"


def test_while_it_waits_for_its_turn(dsn: str, loader: Loader, few: Path) -> None:
    """The wait is called back."""
    with held(dsn, TURN):
        process = loader.start(few)
        when(dsn, WAITS.format("advisory"))
        assert "it was interrupted while waiting for its turn" in interrupt(process)
    loader.finish(few)
    assert query(dsn, "SELECT count(*) FROM trips WHERE a < 6000") == [(6_000,)]


def test_while_it_merges(dsn: str, loader: Loader, target: Path) -> None:
    """The statement is called back; all is staged, and nothing has to be read again."""
    query(
        dsn, "CREATE FUNCTION nap() RETURNS trigger AS 'BEGIN PERFORM pg_sleep(3600); RETURN NEW; END' LANGUAGE plpgsql"
    )
    query(dsn, "CREATE TRIGGER nap BEFORE INSERT ON trips FOR EACH ROW EXECUTE FUNCTION nap()")
    process = loader.start(target)
    when(dsn, WAITS.format("PgSleep"))
    assert "it was interrupted; 600,000 records are staged, and the same call goes on from there" in interrupt(process)
    # with the trigger dropped it would be another table, whose NULLs the client judges
    query(dsn, "CREATE OR REPLACE FUNCTION nap() RETURNS trigger AS 'BEGIN RETURN NEW; END' LANGUAGE plpgsql")
    assert query(dsn, "SELECT state, retryable FROM loader.loads") == [("paused", True)]
    loader.finish(target)
    assert query(dsn, "SELECT state, attempts, resumes, bytes_read < 1000000 FROM loader.loads") == [
        ("loaded", 2, 1, True)
    ]
    assert query(dsn, "SELECT count(*) FROM trips") == [(600_000,)]


def test_while_it_inserts_ahead(dsn: str, loader: Loader, target: Path) -> None:
    """The statement is called back, and what was copied meanwhile is kept."""
    query(dsn, "TRUNCATE trips; INSERT INTO trips VALUES (-1)")
    query(
        dsn, "CREATE FUNCTION nap() RETURNS trigger AS 'BEGIN PERFORM pg_sleep(3600); RETURN NEW; END' LANGUAGE plpgsql"
    )
    query(dsn, "CREATE TRIGGER nap BEFORE INSERT ON trips FOR EACH ROW EXECUTE FUNCTION nap()")
    process = loader.start(target)
    when(dsn, WAITS.format("PgSleep"))
    assert "staged, and the same call goes on from there" in interrupt(process)
    query(dsn, "DROP TRIGGER nap ON trips")
    loader.finish(target)
    assert query(dsn, "SELECT count(*) FROM trips") == [(600_001,)]


def test_while_it_merges_behind_a_lock(dsn: str, loader: Loader, few: Path) -> None:
    """Of somebody who changes the table, say."""
    with held(dsn, "LOCK TABLE trips IN SHARE MODE"):
        process = loader.start(few)
        when(dsn, WAITS.format("relation"))
        assert "staged, and the same call goes on from there" in interrupt(process, signal.SIGTERM)
    loader.finish(few)


@pytest.mark.parametrize("mode", ["append", "merge"])
@pytest.mark.parametrize("size", ["small", "large"])
def test_while_it_copies(
    dsn: str, loader: Loader, target: Path, s3: Any, fault_proxy: FaultProxy, mode: str, size: str
) -> None:
    """What has come is kept: it is staged, or saved from the table. Of a small append nothing is kept."""
    s3.put("big.csv", b"a\n" + b"".join(b"%d\n" % number for number in range(1_200_000)))
    fault_proxy.faults = [stall(0, at=8 << 20)] * 9  # so that the COPY comes to no end
    loader.spec.write_text(f'table = "trips"\nmode = "{mode}"\nsegment_mb = {1 if size == "large" else 16}\n')
    if mode == "append":
        query(dsn, "TRUNCATE trips")
    process = loader.start(s3.uri("big.csv"))
    if (mode, size) == ("merge", "large"):
        when(dsn, "SELECT FROM loader.checkpoints WHERE record_number > 100000")
    else:
        when(dsn, "SELECT FROM pg_stat_progress_copy WHERE tuples_processed > 100000")
    errors = interrupt(process)
    assert "it was interrupted" in errors
    assert query(dsn, "SELECT count(*) FROM trips") == [(0 if mode == "append" else 6_000,)]
    ((state, staged),) = query(dsn, "SELECT state, (SELECT count(*) FROM loader.checkpoints) FROM loader.loads")
    assert state == "paused"
    assert ("records are staged, and the same call goes on from there" in errors) == (staged == 1)
    straight = (mode, size) == ("append", "small")
    assert staged == (not straight)
    told = "it was being copied straight into the table, so nothing of it was staged, and the same call begins anew"
    assert (told in errors) == straight


def test_while_it_waits_for_s3(dsn: str, loader: Loader, target: Path, s3: Any, fault_proxy: FaultProxy) -> None:
    """That has fallen silent in the middle of the object."""
    s3.put("trips.csv", target.read_bytes())
    fault_proxy.faults = [stall(1 << 20)] * 9
    process = loader.start(s3.uri("trips.csv"))
    when(dsn, "SELECT FROM pg_tables WHERE schemaname = 'loader' AND tablename = 'loads'")
    when(dsn, "SELECT FROM loader.loads WHERE state = 'running'")
    assert "it was interrupted" in interrupt(process)


def test_later_sources_are_not_begun(dsn: str, loader: Loader, few: Path) -> None:
    """And said to be so; those before are loaded."""
    first, last = few.with_name("first.csv"), few.with_name("last.csv")
    first.write_text("a\n-1\n")
    last.write_text("a\n-2\n")
    with held(dsn, "BEGIN; INSERT INTO trips VALUES (1)"):  # the merge waits to see what becomes of it
        process = loader.start(first, few, last)
        when(dsn, WAITS.format("transactionid"))
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert f"{first} → public.trips: loaded" in out
    paused, rest = errors.splitlines()
    assert f"{few}: loading into public.trips: it was told to stop" in paused
    assert rest == f"loader: it was told to stop; sources that were not begun: 1, from {last} on"
    assert query(dsn, "SELECT a FROM trips WHERE mod(a, 100) <> 0") == [(-1,)]
