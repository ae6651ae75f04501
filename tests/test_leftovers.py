"""Staging tables that nobody will come back to are dropped, and no others."""

from __future__ import annotations

from pathlib import Path

import psycopg2
import pytest
from support.postgres import query

import loader
from loader import ledger
from loader.database import Database
from loader.deadline import Deadline
from loader.leftovers import clear_leftovers
from loader.pipeline import How, load_one

SPEC = loader.LoadSpec.from_dict({"table": "a", "mode": "merge", "key": ["n"]})


@pytest.fixture
def paused(dsn: str, tmp_path: Path) -> str:
    """A database in which load 1, into table "a", has come to rest at a checkpoint."""
    path = tmp_path / "a.csv"
    path.write_text("n\n" + "\n".join(map(str, range(300_000))) + "\n")
    query(
        dsn, "CREATE TABLE a (n bigint PRIMARY KEY); INSERT INTO a VALUES (-1)"
    )  # so that there is something to merge
    stopping = Deadline()
    database = Database(dsn)
    how = How(deadline=stopping, progress=lambda progress: stopping.stop("enough"))
    with pytest.raises(loader.PausedError):
        load_one(str(path), SPEC, database, how)
    database.close()
    assert tables(dsn) == ["staging_1_1"]
    return dsn


def tables(dsn: str) -> list[str]:
    return [name for (name,) in query(dsn, "SELECT tablename FROM pg_tables WHERE tablename LIKE 'staging%%'")]


def clear(dsn: str) -> list[str]:
    connection = psycopg2.connect(dsn)
    clear_leftovers(connection)
    assert query(dsn, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
    connection.close()
    return tables(dsn)


def test_a_load_that_can_be_continued_is_waited_for(paused: str) -> None:
    """Not for ever: a day after its last sign of life it is given up."""
    assert clear(paused) == ["staging_1_1"]
    query(paused, "UPDATE loader.loads SET seen_at = seen_at - interval '2 days'")
    assert clear(paused) == ["staging_1_1"]
    query(paused, "UPDATE loader.checkpoints SET taken_at = taken_at - interval '2 days'")
    assert clear(paused) == []
    assert query(paused, "SELECT count(*) FROM loader.checkpoints") == [(0,)]


@pytest.mark.parametrize(
    "end",
    [
        "UPDATE loader.loads SET state = 'loaded'",
        "UPDATE loader.loads SET state = 'superseded'",
        "UPDATE loader.loads SET state = 'failed', retryable = false",
        "DELETE FROM loader.checkpoints",
        "DELETE FROM loader.loads",
    ],
)
def test_a_load_that_nobody_will_continue_is_cleared(paused: str, end: str) -> None:
    """Whatever it was that ended it without clearing up."""
    query(paused, end)
    assert clear(paused) == []


def test_what_is_in_use_stays(paused: str) -> None:
    """Whoever holds the turn of the table is at it."""
    query(paused, "UPDATE loader.loads SET state = 'failed', retryable = false")
    busy = psycopg2.connect(paused)
    with ledger.turn(busy, "public.a", wait=1, deadline=Deadline()):
        connection = psycopg2.connect(paused)
        clear_leftovers(connection)
        connection.close()
        assert tables(paused) == ["staging_1_1"]
    busy.close()
    assert clear(paused) == []


def test_a_session_that_still_writes_is_ended(paused: str) -> None:
    """It belongs to an attempt that has lost its turn."""
    leftover = psycopg2.connect(paused)
    with leftover.cursor() as cursor:
        cursor.execute("INSERT INTO loader.staging_1_1 VALUES (7, 7)")
    query(paused, "UPDATE loader.loads SET state = 'superseded'")
    assert clear(paused) == []
    with pytest.raises(psycopg2.OperationalError):
        leftover.commit()


def test_other_tables_of_the_schema_are_left_alone(paused: str) -> None:
    """Whatever somebody puts there."""
    query(paused, "CREATE TABLE loader.staging_notes (a int)")
    query(paused, "UPDATE loader.loads SET state = 'loaded'")
    assert clear(paused) == ["staging_notes"]
