"""A load that came to rest, or died, is taken up where it was; and where that would be wrong, it begins anew."""

from __future__ import annotations

import codecs
import gzip
import pickle
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support.clock import Clock, unhurried
from support.cluster import made_once
from support.effort import effort
from support.postgres import fresh_database, query, run_alone

import loader
from loader.core.deadline import Deadline
from loader.core.report import LoadReport
from loader.engine.counters import Progress
from loader.engine.job import is_large
from loader.pipeline import How, Load, load_one
from loader.postgres.database import Database
from loader.sources.source import PART_SIZE, open_source

pytestmark = pytest.mark.usefixtures("large_way")

RECORDS = 400_000  # so that the file has more segments than go straight into the target
SPEC: dict[str, Any] = {"table": "trips", "segment_mb": 1, "rejects": {"max_rows": 5000}}


def line(number: int) -> str:
    """Most are plain; some span lines, some are bad, some break the file's quotes for a while."""
    if number % 50_000 == 17:
        return f'{number},"two\nlines"'
    if number % 20_000 == 99:
        return f"no number,bad {number}"
    if number == 123_456:
        return f'{number},stray "quote\nbut "no end,x'
    return f"{number},a text that makes the record longer than it would be {number}"


CREATE = "CREATE TABLE trips (a bigint PRIMARY KEY, b text)"
TEXT = "a,b\n" + "\n".join(map(line, range(RECORDS))) + "\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "trips.csv"
    path.write_text(TEXT, "utf-8")
    return path


@pytest.fixture
def database(dsn: str, database: Database) -> Database:
    query(dsn, CREATE)
    return database


class StopAt:
    """Stops the load when it has taken so many records."""

    def __init__(self, *records: int) -> None:
        self.deadline = Deadline()
        self._records = records[0]

    def __call__(self, progress: Progress) -> None:
        if progress.rows >= self._records:
            self.deadline.stop("it was told to stop")


def load(database: Database, source: Path | str, spec: dict[str, Any] = SPEC, **how: Any) -> LoadReport:
    return load_one(str(source), loader.LoadSpec.from_dict(spec), database, How(**how))


def pause(database: Database, source: Path | str, spec: dict[str, Any], at: int) -> loader.PausedError:
    stop = StopAt(at)
    with pytest.raises(loader.PausedError) as caught:
        load(database, source, spec, progress=stop, deadline=stop.deadline)
    return caught.value


def outcome(dsn: str, table: str = "trips") -> tuple[Any, ...]:
    """The table, and the rejects of the newest load."""
    (rows,) = query(dsn, f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY a)) FROM {table} t")
    rejects = query(
        dsn,
        "SELECT record_number, line_number, byte_offset, column_name, reason, raw FROM loader.rejects"
        " WHERE load_id = (SELECT max(load_id) FROM loader.loads) ORDER BY 1",
    )
    return (*rows, rejects)


def leftovers(dsn: str) -> list[tuple[Any, ...]]:
    tables = query(dsn, "SELECT tablename FROM pg_tables WHERE schemaname = 'loader' AND tablename LIKE 'staging%%'")
    return tables + query(dsn, "SELECT load_id FROM loader.checkpoints")


@pytest.fixture
def in_one_go(server: str) -> Any:
    """What a load without a break gives, for comparison: it was into another database."""

    def make(folder: Path) -> None:
        file = folder / "trips.csv"
        file.write_text(TEXT, "utf-8")
        with fresh_database(server) as dsn, closing(Database(dsn)) as database:
            query(dsn, CREATE)
            report = load(database, file)
            assert (report.rows_read, report.resumes) == (RECORDS + 1, 0)
            assert report.rows_rejected > 20
            (folder / "outcome").write_bytes(pickle.dumps(outcome(dsn)))

    return pickle.loads((made_once("in-one-go", make) / "outcome").read_bytes())


FORMS = {
    "plain": lambda text: text.encode(),
    "with a mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "gzip": lambda text: gzip.compress(text.encode(), 0),
    "utf-16": lambda text: text.encode("utf-16"),
}


@pytest.mark.parametrize(
    ("mode", "form"),
    effort(
        [("append", "plain"), ("merge", "gzip"), ("merge", "with a mark"), ("replace", "utf-16")],
        [(mode, form) for mode in ("append", "merge", "replace") for form in FORMS],
    ),
)
def test_paused_and_continued_gives_what_one_go_gives(
    dsn: str, database: Database, file: Path, in_one_go: Any, mode: str, form: str
) -> None:
    """The same rows and the same rejects, to the byte offset, whatever the mode and however the text is held."""
    file.write_bytes(FORMS[form](TEXT))
    spec = {**SPEC, "mode": mode}
    for at in (1, 150_000, 300_000):
        error = pause(database, file, spec, at)
        assert "the same call goes on from there" in str(error)
        assert not error.handover
        assert query(dsn, "SELECT count(*) FROM trips") == [(0,)]
        assert query(dsn, "SELECT state FROM loader.loads") == [("paused",)]
    report = load(database, file, spec)
    assert (report.state, report.rows_read, report.load_id) == ("loaded", RECORDS + 1, report.load_id)
    assert (report.attempts, report.resumes, report.handovers) == (4, 3, 0)
    assert outcome(dsn) == in_one_go
    assert leftovers(dsn) == []
    if form == "plain":
        assert report.bytes_read < 0.3 * file.stat().st_size


CHILD = """
import os, signal, sys, loader
def kill(progress):
    if progress.rows >= {at}:
        os.kill(os.getpid(), signal.SIGKILL)
loader.load({source!r}, {spec!r}, dsn={dsn!r}, progress=kill)
"""


def test_a_killed_load_is_taken_up_at_its_checkpoint(dsn: str, database: Database, file: Path, in_one_go: Any) -> None:
    """At nine tenths of the file; the next attempt reads the rest, a segment, and what was in flight."""
    code = CHILD.format(at=int(0.9 * RECORDS), source=str(file), spec=SPEC, dsn=dsn)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    report = load(database, file)
    assert (report.attempts, report.resumes) == (2, 1)
    assert report.bytes_read <= 0.5 * file.stat().st_size  # how far staging was behind depends on the machine
    assert outcome(dsn) == in_one_go
    assert leftovers(dsn) == []
    assert query(dsn, "SELECT last_error FROM loader.loads") == [("its process ended before it did",)]


def test_an_object_is_read_from_the_checkpoint_on(dsn: str, database: Database, s3: Any, in_one_go: Any) -> None:
    """Of S3 the head is fetched twice, and the part that holds the checkpoint, for the checksum of the whole."""
    s3.put("trips.csv", TEXT.encode())
    pause(database, s3.uri("trips.csv"), SPEC, int(0.9 * RECORDS))
    report = load(database, s3.uri("trips.csv"))
    assert (report.resumes, outcome(dsn)) == (1, in_one_go)
    assert report.bytes_read <= 0.2 * len(TEXT) + PART_SIZE


def test_a_lost_connection_is_taken_up_by_itself(dsn: str, database: Database, file: Path, in_one_go: Any) -> None:
    """As often as it takes, as long as that leads on."""
    killed = 0

    def kill(progress: Progress) -> None:
        nonlocal killed
        if progress.rows > killed * 100_000:
            killed += 1
            query(dsn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                       " WHERE datname = current_database() AND pid <> pg_backend_pid()")  # fmt: skip

    report = load(database, file, progress=kill)
    assert killed == 5
    assert (report.state, report.attempts) == ("loaded", killed + 1)
    assert outcome(dsn) == in_one_go
    assert leftovers(dsn) == []


def test_time_that_is_up_is_a_handover(dsn: str, database: Database, file: Path, in_one_go: Any) -> None:
    """Each attempt does at least a block; after so many of them the load fails for good."""
    with unhurried():
        for number in range(3):
            with pytest.raises(loader.PausedError, match="its time is up") as caught:
                load(database, file, deadline=Deadline(5.0), handovers=3)
            assert caught.value.handover
            assert caught.value.report is not None
            assert (caught.value.report.handovers, caught.value.report.retryable) == (number + 1, True)
        with pytest.raises(loader.LoaderError, match="was handed over 3 times and is not loaded") as failed:
            load(database, file, deadline=Deadline(5.0), handovers=3)
    assert not failed.value.retryable
    assert query(dsn, "SELECT state, attempts, handovers FROM loader.loads") == [("failed", 4, 3)]
    assert load(database, file).state == "loaded"
    assert outcome(dsn) == in_one_go


@pytest.mark.parametrize("change", ["spec", "file", "table", "staging"])
def test_what_has_changed_begins_anew(dsn: str, database: Database, file: Path, change: str) -> None:
    """What was staged by another spec, of another file, for another table, or is not there any more, is not used."""
    spec = {**SPEC, "mode": "merge"}
    pause(database, file, spec, 200_000)
    records = RECORDS + 1
    if change == "spec":
        spec["columns"] = {"a": "bigint", "b": {"type": "text", "transform": ["upper"]}}
    elif change == "file":
        file.write_text("a,b\n1,x\n")
        records = 1
    elif change == "table":
        query(dsn, "ALTER TABLE trips ALTER b TYPE varchar(10000)")
    else:
        query(dsn, "DELETE FROM loader.staging_1_1 WHERE a = 5")
    report = load(database, file, spec)
    assert (report.state, report.resumes, report.rows_read) == ("loaded", 0, records)
    assert query(dsn, "SELECT count(*) FROM trips") == [(report.rows_inserted,)]
    if change in ("spec", "file"):  # the other load is waited for; it may come back to them
        assert query(dsn, "SELECT state FROM loader.loads ORDER BY 1") == [("loaded",), ("paused",)]
    else:
        assert leftovers(dsn) == []


def test_rejects_of_a_merge_that_died_are_found_again(dsn: str, database: Database, tmp_path: Path) -> None:
    """Once, whether or not the table would refuse them still."""
    query(dsn, "CREATE TABLE limited (a bigint CHECK (a < 100000 AND a <> 7))")
    path = tmp_path / "limited.csv"
    path.write_text("a\n" + "\n".join(f"{number:020}" for number in range(100_003)) + "\n")
    spec = {"table": "limited", "segment_mb": 1, "rejects": {"max_ratio": 1}}
    stop = Deadline()
    blocker = psycopg2.connect(dsn)
    blocker.cursor().execute("LOCK TABLE limited IN EXCLUSIVE MODE")
    watcher = _when(dsn, "SELECT FROM pg_locks WHERE NOT granted", lambda: stop.stop("it was told to stop"))
    with pytest.raises(loader.PausedError):
        load(database, path, {**spec, "segment_mb": 1, "mode": "append"}, deadline=stop)
    watcher.join()
    blocker.rollback()
    # what an attempt leaves that dies after it has found out what the table refuses
    query(dsn, "INSERT INTO loader.rejects SELECT 1, position, 1, 0, 'a', 'check_violation', '', '', NULL, 1, '23514'"
               " FROM unnest('{8,9}'::bigint[]) position")  # fmt: skip
    report = load(database, path, spec)
    blocker.close()
    assert (report.rows_read, report.rows_rejected, report.rows_inserted) == (100_003, 4, 99_999)
    assert query(dsn, "SELECT record_number, reason FROM loader.rejects ORDER BY 1") == [
        (number, "check_violation") for number in (8, 100_001, 100_002, 100_003)
    ]


def _when(dsn: str, question: str, act: Any) -> threading.Thread:
    """Act as soon as the question has an answer."""

    def watch() -> None:
        while not query(dsn, f"SELECT count(*) FROM ({question}) q")[0][0]:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.parametrize("straight", [48, 8])
@pytest.mark.parametrize("table", ["that is empty", "that has rows", "with holes", "that is not there"])
def test_a_large_append_that_is_interrupted_late_is_not_read_again(
    dsn: str, tmp_path: Path, file: Path, table: str, straight: int
) -> None:
    """Ctrl-C at nine tenths of an append, of at most ``straight`` segments or of more: the rest is all that is read."""
    before = 0
    query(dsn, "DROP TABLE IF EXISTS trips")
    if table != "that is not there":
        query(dsn, "CREATE TABLE trips (a bigint, b text)")
    if table in ("that has rows", "with holes"):
        before = 1000
        query(dsn, f"INSERT INTO trips SELECT -number, repeat('y', 500) FROM generate_series(1, {2 * before}) number")
        query(dsn, f"DELETE FROM trips WHERE a {'<' if table == 'that has rows' else '>='} -{before}")
        query(dsn, f"DELETE FROM trips WHERE a = -{2 * before}")
        before = query(dsn, "SELECT count(*) FROM trips")[0][0]
        run_alone(dsn, "VACUUM trips")
    text = "a,b\n" + "".join(f"{number},{'x' * 55}\n" for number in range(RECORDS))
    file.write_text(text)
    assert 8 << 20 < file.stat().st_size < 48 << 20
    (tmp_path / "spec.toml").write_text('table = "trips"\nsegment_mb = 1\n[columns]\na = "bigint"\nb = "text"\n')
    command = ["load", str(file), "--spec", str(tmp_path / "spec.toml"), "--dsn", dsn]
    code = AT_NINE_TENTHS.format(records=RECORDS * 9 // 10, straight=straight)
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert "records are staged, and the same call goes on from there" in done.stderr
    ((staged,),) = query(dsn, "SELECT record_number - 1 FROM loader.checkpoints")
    assert staged >= RECORDS * 8 // 10
    done = subprocess.run([sys.executable, "-m", "loader", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ((state, resumes, share),) = query(dsn, "SELECT state, resumes, bytes_read::float / size FROM loader.loads")
    assert (state, resumes) == ("loaded", 1)
    assert share < 0.3
    assert query(dsn, "SELECT count(*), count(DISTINCT a) FROM trips") == [(RECORDS + before,) * 2]


AT_NINE_TENTHS = """
import os, signal, sys, threading
from loader.engine import counters as tally, job as task, routes as ways
from loader.cli import main
from loader.core.deadline import Deadline
task.STRAIGHT = {straight}
stop = Deadline.stop
add = tally.Tally.add
save_copied = ways.save_copied

def save(*given, **named):
    timers = [each for each in threading.enumerate() if isinstance(each, threading.Timer)]
    assert all(each.finished.is_set() for each in timers), "this would cancel the saving, too"
    return save_copied(*given, **named)

ways.save_copied = save

def stopping(self, *given, **named):
    stop(self, *given, **named)
    stopped.set()

Deadline.stop = stopping

def counted(self, encoded):
    add(self, encoded)
    if self.counts.read >= {records} and not sent:
        sent.append(os.kill(os.getpid(), signal.SIGINT))
        assert stopped.wait(60), "nobody was told to stop"

sent, stopped = [], threading.Event()
tally.Tally.add = counted
sys.exit(main())
"""
"""A command that gets Ctrl-C when so many records were handed to COPY."""


@pytest.mark.parametrize(
    ("segment", "size", "compression", "large"),
    [
        (32, 768 << 20, "none", False),
        (32, (768 << 20) + 1, "none", True),
        (32, (96 << 20) + 1, "gzip", True),
        (1, 24 << 20, "none", False),
        (1, (24 << 20) + 1, "none", True),
        (128, (768 << 20) + 1, "none", True),  # however long its segments are
        (2048, 2 << 30, "none", False),  # of one segment, which has no checkpoint on the way
        (2048, (2 << 30) + 1, "none", True),
    ],
)
def test_how_much_may_go_straight(segment: int, size: int, compression: str, large: bool) -> None:
    """Bytes of text that are read again in some seconds; of more, most must be kept."""
    assert is_large(size, segment << 20, compression=compression) == large


def test_a_small_append_that_was_stopped_goes_by_checkpoints_then(dsn: str, database: Database, file: Path) -> None:
    """The straight way cannot be continued, so a load that did not get through by it takes the other."""
    spec = {**SPEC, "segment_mb": 64}
    error = pause(database, file, spec, 1)
    assert "nothing of it was staged" in str(error)
    assert "records are staged" in str(pause(database, file, spec, 100_000))
    assert load(database, file, spec).resumes == 1


def test_a_pace_that_will_not_do_is_seen_in_time(dsn: str, database: Database, file: Path) -> None:
    """The straight way is left early, and what is staged then is handed over."""
    clock = Clock()

    def slowly(progress: Progress) -> None:
        clock.now += 10

    spec = {**SPEC, "segment_mb": 64}
    with pytest.raises(loader.PausedError, match="records are staged") as caught, unhurried():
        load(database, file, spec, deadline=Deadline(155.0, clock=clock), progress=slowly)
    assert caught.value.handover
    assert load(database, file, spec).resumes == 1
    assert query(dsn, "SELECT count(*) FROM trips") == query(dsn, "SELECT rows_inserted FROM loader.loads")


def test_a_newer_version_supersedes_what_was_begun(dsn: str, database: Database, s3: Any) -> None:
    """The older one is not continued, and what it had staged is dropped."""
    snapshots = {**SPEC, "versions": "snapshot"}
    first = s3.put("trips.csv", TEXT.encode())
    pause(database, s3.uri("trips.csv"), snapshots, 100_000)
    s3.put("trips.csv", b"a,b\n1,new\n")
    load(database, s3.uri("trips.csv"), snapshots)
    spec = loader.LoadSpec.from_dict(snapshots)
    late = load_one(s3.uri("trips.csv"), spec, database, How(sequencer=None), version_id=first)
    assert late.state == "skipped"
    assert late.notes == ("a newer version of it was loaded before, by load 2: add --force to load this one anyway",)
    assert query(dsn, "SELECT load_id, state FROM loader.loads ORDER BY 1") == [(1, "superseded"), (2, "loaded")]
    assert query(dsn, "SELECT * FROM trips") == [(1, "new")]
    assert leftovers(dsn) == []


def test_a_commit_whose_answer_was_lost_is_found_in_the_ledger(dsn: str, database: Database, tmp_path: Path) -> None:
    """The call that tries again finds its own load done, and tells what that did."""
    path = tmp_path / "small.csv"
    path.write_text("a,b\n1,x\nno,y\n")
    spec = loader.LoadSpec.from_dict({**SPEC, "rejects": {"max_ratio": 1}})
    with open_source(str(path)) as source:
        attempts = Load(source, spec, database, How())
        first, second = attempts.run(), attempts.run()
    assert (second.state, second.rows_read, second.rows_inserted, second.rows_rejected) == ("loaded", 2, 1, 1)
    assert (second.load_id, second.notes) == (first.load_id, first.notes)
    assert query(dsn, "SELECT count(*) FROM trips") == [(1,)]
