"""Staging tables that nobody will come back to are dropped, and no others."""

from __future__ import annotations

from pathlib import Path

import psycopg2
import pytest
from support.postgres import query

import loader
from loader.core.deadline import Deadline
from loader.engine.cleanup import clear_leftovers
from loader.ledger import ledger
from loader.pipeline import How, load_one
from loader.postgres.database import Database
from loader.sharding import runs
from loader.sharding.shards import ShardPlan, UnprovedError, finish, load_shard, plan_shards

pytestmark = pytest.mark.usefixtures("large_way")

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


class TestShards:
    """What shards have staged is kept as long as somebody may come back to it, and nothing depends on that."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        path = tmp_path / "b.csv"
        path.write_text("n,t\n" + "".join(f'{number},"line\n{number}"\n' for number in range(20_000)))
        return str(path)

    @pytest.fixture
    def begun(self, dsn: str, path: str) -> ShardPlan:
        """Three shards, of which two are loaded."""
        database = Database(dsn)
        plan = plan_shards(path, SPEC, database, shards=3)
        for number in (0, 2):
            load_shard(plan, number, database)
        database.close()
        return plan

    def test_they_are_waited_for_a_day(self, dsn: str, begun: ShardPlan) -> None:
        assert clear(dsn) == ["staging_1_1_1", "staging_1_1_2"]
        query(dsn, "UPDATE loader.loads SET seen_at = seen_at - interval '2 days'")
        assert clear(dsn) == []
        assert query(dsn, "SELECT count(*) FROM loader.shards") == [(0,)]

    def test_what_was_given_up_for_good_goes(self, dsn: str, begun: ShardPlan) -> None:
        with psycopg2.connect(dsn) as connection:
            runs.give_up(connection, begun, "somebody took it away", retryable=False)
        connection.close()
        assert clear(dsn) == []

    def test_after_a_week_the_same_plan_is_gone_on_with(self, dsn: str, path: str, begun: ShardPlan) -> None:
        """Its shards are gone and are loaded again; the rows are there once."""
        query(dsn, "UPDATE loader.loads SET seen_at = seen_at - interval '7 days'")
        assert clear(dsn) == []
        database = Database(dsn)
        assert plan_shards(path, SPEC, database, shards=5) == begun
        with pytest.raises(UnprovedError):
            finish(begun, None, database)
        for number in range(3):
            load_shard(begun, number, database)
        report = finish(begun, None, database)
        database.close()
        assert (report.load_id, report.attempts, report.rows_inserted) == (1, 1, 20_000)
        assert query(dsn, "SELECT count(DISTINCT n), count(*) FROM a") == [(20_000, 20_000)]
        assert clear(dsn) == []
