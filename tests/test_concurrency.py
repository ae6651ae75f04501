"""Loads beside each other, and beside whatever else goes on in a database: all end well, or fail clearly."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support.clients import wait_for
from support.clock import PATIENCE
from support.postgres import query, run_alone

import loader
from loader.core.report import LoadReport
from loader.engine.counters import Progress
from loader.pipeline import How, load_one
from loader.postgres.database import Database

RECORDS = 120_000
MODES = ["append", "merge", "replace"]


@pytest.fixture
def files(dsn: str, tmp_path: Path) -> list[Path]:
    """Files of different keys, for the table "trips"."""
    query(dsn, "CREATE TABLE trips (a bigint PRIMARY KEY, b text)")
    made = []
    for number in range(3):
        path = tmp_path / f"{number}.csv"
        first = number * RECORDS
        path.write_text("a,b\n" + "".join(f"{key},text {key}\n" for key in range(first, first + RECORDS)))
        made.append(path)
    return made


def load(dsn: str, path: Path, *, mode: str = "append", table: str = "trips", **how: Any) -> LoadReport:
    database = Database(dsn)
    try:
        spec = loader.LoadSpec.from_dict({"table": table, "mode": mode, "segment_mb": 1})
        return load_one(str(path), spec, database, How(**how))
    finally:
        database.close()


class Aside(threading.Thread):
    """Runs something beside the test; `result` waits for it, and gives what it gave or raises what it raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self._work = work
        self._outcome: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._outcome = self._work()
        except BaseException as error:
            self._error = error

    @property
    def result(self) -> Any:
        self.join()
        if self._error is not None:
            raise self._error
        return self._outcome


@contextmanager
def session(dsn: str, *statements: str) -> Iterator[Any]:
    """A transaction that stays open until the body has ended."""
    connection = psycopg2.connect(dsn)
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        yield cursor
    connection.close()


def when(dsn: str, question: str) -> None:
    """Wait until the question has an answer."""
    wait_for(lambda: query(dsn, f"SELECT count(*) FROM ({question}) q")[0][0])


WAITING = "SELECT FROM pg_locks WHERE NOT granted AND locktype = '{}'"


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_loads_into_one_table_take_turns(dsn: str, files: list[Path], mode: str) -> None:
    """All at once they are asked for, one after the other they go, and the waiting is told."""
    first, go_on = stand_still(dsn, files[0], mode=mode)
    loads = [first, *(Aside(lambda path=path: load(dsn, path, mode=mode)) for path in files[1:])]
    wait_for(lambda: query(dsn, WAITING.format("advisory").replace("FROM", "count(*) FROM", 1)) == [(2,)])
    go_on.set()
    reports = [each.result for each in loads]
    assert [each.rows_inserted for each in reports] == [RECORDS] * 3
    assert query(dsn, "SELECT count(*), count(DISTINCT a) FROM trips") == [(3 * RECORDS, 3 * RECORDS)]
    assert min(each.waited for each in reports[1:]) > 0
    assert query(dsn, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


def stand_still(dsn: str, path: Path, **rest: Any) -> tuple[Aside, threading.Event]:
    """A load that has its turn and goes no further until the event is set."""
    has_turn, go_on = threading.Event(), threading.Event()

    def pause(progress: Progress) -> None:
        has_turn.set()
        go_on.wait(PATIENCE)

    standing = Aside(lambda: load(dsn, path, progress=pause, **rest))
    assert has_turn.wait(PATIENCE)
    return standing, go_on


def test_loads_into_different_tables_do_not_wait(dsn: str, files: list[Path]) -> None:
    """One that stands still keeps no other from its end."""
    query(dsn, "CREATE TABLE others (a bigint, b text)")
    standing, go_on = stand_still(dsn, files[0])
    assert load(dsn, files[1], table="others").state == "loaded"
    assert standing.is_alive()
    go_on.set()
    assert standing.result.state == "loaded"


def test_the_wait_for_a_turn_is_bounded(dsn: str, files: list[Path]) -> None:
    """And says so in one sentence; the same call succeeds later."""
    standing, go_on = stand_still(dsn, files[0])
    with pytest.raises(loader.DatabaseUnavailableError, match=r"another load has had its turn for 0\.3 s") as caught:
        load(dsn, files[1], wait=0.3)
    assert caught.value.retryable
    go_on.set()
    assert standing.result.state == "loaded"
    assert load(dsn, files[1]).state == "loaded"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("statement", ["VACUUM trips", "VACUUM FULL trips", "ANALYZE trips", "REINDEX TABLE trips"])
def test_maintenance_in_the_midst_of_a_load(dsn: str, files: list[Path], mode: str, statement: str) -> None:
    """Whichever comes first, both end."""
    load(dsn, files[0])
    begun = threading.Event()
    loading = Aside(lambda: load(dsn, files[1], mode=mode, progress=lambda _: begun.set()))
    assert begun.wait(PATIENCE)
    run_alone(dsn, statement)
    assert loading.result.rows_inserted == RECORDS
    assert query(dsn, "SELECT count(*) FROM trips") == [(RECORDS if mode == "replace" else 2 * RECORDS,)]


@pytest.mark.parametrize("mode", MODES)
def test_a_column_is_added_in_the_midst_of_a_load(dsn: str, files: list[Path], mode: str) -> None:
    """It is NULL, or its default, in the rows that are loaded."""
    begun, altered = threading.Event(), threading.Event()

    def pause(progress: Progress) -> None:
        begun.set()
        altered.wait(0.5)  # a straight load holds the table, so the change waits for its end

    loading = Aside(lambda: load(dsn, files[0], mode=mode, progress=pause))
    assert begun.wait(PATIENCE)
    query(dsn, "ALTER TABLE trips ADD COLUMN c int DEFAULT 7")
    altered.set()
    assert loading.result.rows_inserted == RECORDS
    assert query(dsn, "SELECT c, count(*) FROM trips GROUP BY 1") == [(7, RECORDS)]


@pytest.mark.parametrize("mode", MODES)
def test_a_column_is_dropped_in_the_midst_of_a_load(dsn: str, files: list[Path], mode: str) -> None:
    """The load either comes before, or fails clearly and changes nothing."""
    begun, altered = threading.Event(), threading.Event()

    def pause(progress: Progress) -> None:
        begun.set()
        altered.wait(0.5)

    loading = Aside(lambda: load(dsn, files[0], mode=mode, progress=pause))
    assert begun.wait(PATIENCE)
    query(dsn, "ALTER TABLE trips DROP COLUMN b")
    altered.set()
    loading.join()
    ((state,),) = query(dsn, "SELECT state FROM loader.loads")
    if state == "loaded":
        assert loading.result.rows_inserted == RECORDS
        return
    with pytest.raises(loader.TableError, match='column "b"'):
        loading.result  # noqa: B018 - it raises
    assert query(dsn, "SELECT count(*) FROM trips") == [(0,)]
    assert query(dsn, "SELECT state, retryable FROM loader.loads") == [("failed", False)]


@pytest.mark.parametrize("mode", MODES)
def test_a_long_reader_neither_waits_nor_is_waited_for(dsn: str, files: list[Path], mode: str) -> None:
    """And goes on seeing what it saw."""
    load(dsn, files[0])
    count = "SELECT count(*), min(a) FROM trips"
    with session(dsn, "BEGIN ISOLATION LEVEL REPEATABLE READ", count) as reader:
        assert load(dsn, files[1], mode=mode).rows_inserted == RECORDS
        reader.execute(count)
        assert reader.fetchone() == (RECORDS, 0)


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_a_writer_of_other_rows_neither_waits_nor_is_waited_for(dsn: str, files: list[Path], mode: str) -> None:
    """Its transaction is open all the while."""
    query(dsn, "INSERT INTO trips VALUES (-1, 'other')")
    change = "UPDATE trips SET b = 'changed' WHERE a = -1"
    with session(dsn, change, "INSERT INTO trips VALUES (-2, 'new')") as writer:
        assert load(dsn, files[0], mode=mode).rows_inserted == RECORDS
        writer.connection.commit()
    assert query(dsn, "SELECT a, b FROM trips WHERE a < 0 ORDER BY 1") == [(-2, "new"), (-1, "changed")]


def test_a_writer_of_the_same_row_is_waited_for(dsn: str, files: list[Path]) -> None:
    """And what the file says of it holds then, for it came later."""
    query(dsn, "INSERT INTO trips VALUES (5, 'before')")
    with session(dsn, "UPDATE trips SET b = 'by the writer' WHERE a = 5") as writer:
        loading = Aside(lambda: load(dsn, files[0], mode="merge"))
        when(dsn, WAITING.format("transactionid"))
        writer.connection.commit()
    report = loading.result
    assert (report.rows_updated, report.rows_inserted) == (1, RECORDS - 1)
    assert query(dsn, "SELECT b FROM trips WHERE a = 5") == [("text 5",)]


def test_a_key_that_another_session_inserts_meanwhile(dsn: str, files: list[Path]) -> None:
    """The merge is told of it by the unique index, and ends well the second time."""
    with session(dsn, "INSERT INTO trips VALUES (5, 'by the writer')") as writer:
        loading = Aside(lambda: load(dsn, files[0], mode="merge"))
        when(dsn, WAITING.format("transactionid"))
        writer.connection.commit()
    report = loading.result
    assert (report.rows_updated, report.rows_inserted, report.rows_rejected) == (1, RECORDS - 1, 0)
    assert query(dsn, "SELECT b FROM trips WHERE a = 5") == [("text 5",)]


@pytest.mark.parametrize("mode", MODES)
def test_a_table_that_is_locked_for_too_long(dsn: str, files: list[Path], mode: str) -> None:
    """Fails in bounded time, may be tried again, and leaves the table's turn to others."""
    from loader.core.deadline import MARGIN, Deadline

    with session(dsn, "LOCK TABLE trips IN ACCESS EXCLUSIVE MODE"):
        with pytest.raises(loader.LoaderError) as caught:
            load(dsn, files[0], mode=mode, deadline=Deadline(MARGIN + 2.0))
        assert caught.value.retryable
        assert query(dsn, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
    assert load(dsn, files[0], mode=mode).rows_inserted == RECORDS
