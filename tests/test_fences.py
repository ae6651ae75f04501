"""What must not be written any more is not written, and what a role or a second delivery brings along does no harm."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support.clients import wait_for
from support.postgres import query
from support.s3 import S3

import loader
from loader.core.report import Reject
from loader.core.spec.model import LoadSpec, RejectSpec
from loader.engine.counters import RejectKeeper
from loader.ledger import checkpoints, ledger
from loader.ledger.checkpoints import Checkpoint, Counts, Found
from loader.ledger.ledger import Entry
from loader.pipeline import How, load_one
from loader.postgres.database import Database
from loader.records.block import Place
from loader.records.rejects import Rejects
from loader.sharding.shards import finish, load_shard, plan_shards

REJECT = Reject(1, 2, 4, "a", "invalid_value", "no number", b"x", 1)


def begun(dsn: str, *, attempts: int = 1, state: str = "running") -> Entry:
    """A load that is at an attempt."""
    columns = "source, key, target, mode, forced, spec, fingerprint, attempts, state"
    values = f"('x', 'x', 'public.t', 'append', false, '{{}}', '', {attempts}, '{state}')"
    ((load_id,),) = query(dsn, f"INSERT INTO loader.loads ({columns}) VALUES {values} RETURNING load_id")
    return Entry(load_id, attempts=attempts)


@pytest.mark.parametrize(("attempts", "state"), [(2, "running"), (1, "loaded"), (1, "failed")])
def test_a_lost_attempt_enters_no_rejects(dsn: str, database: Database, attempts: int, state: str) -> None:
    """Neither into one that is through, nor beside those of the attempt that goes on."""
    entry = begun(dsn, attempts=attempts, state=state)
    keeper = RejectKeeper(database, entry.load_id, RejectSpec(), "x", attempt=1)
    with keeper:
        keeper.add(Rejects.of([REJECT]))
        with pytest.raises(loader.DatabaseUnavailableError, match="another attempt"):
            keeper.flush()
    assert query(dsn, "SELECT * FROM loader.rejects") == []


def test_a_lost_attempt_saves_no_checkpoint(dsn: str, database: Database) -> None:
    """Not even where the next one begins while it saves: that one waits until it has, and then finds it."""
    entry = begun(dsn)
    checkpoint = Checkpoint("", Found(), Place(100, 3, 3), Counts(2, 2))
    with database.session() as saving:
        ledger.claim(saving, entry.load_id, entry.attempts)
        waiting = threading.Thread(target=query, args=(dsn, "UPDATE loader.loads SET attempts = attempts + 1"))
        waiting.start()
        wait_for(lambda: query(dsn, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
        checkpoints.save(saving, entry, checkpoint)
        waiting.join()
        with pytest.raises(loader.DatabaseUnavailableError, match="another attempt"):
            checkpoints.save(saving, entry, checkpoint)
    assert query(dsn, "SELECT record_number FROM loader.checkpoints") == [(3,)]


def set_for_all(dsn: str, **settings: str) -> None:
    """What every session in the database has from now on, as a role's own settings would give it."""
    ((name,),) = query(dsn, "SELECT current_database()")
    for setting, value in settings.items():
        query(dsn, f"ALTER DATABASE {name} SET {setting} = '{value}'")


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
@pytest.mark.parametrize("mode", ["append", "merge"])
def test_the_isolation_of_a_session_is_its_own(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolation: str, mode: str
) -> None:
    """A merge has to see what other sessions have staged since its transaction began."""
    monkeypatch.setattr("loader.engine.job.STRAIGHT", 0)
    path = tmp_path / "t.csv"
    path.write_text("id,text\n" + "".join(f"{number},{'x' * 50}\n" for number in range(60_000)))
    query(dsn, "CREATE TABLE t (id int PRIMARY KEY, text text)")
    set_for_all(dsn, default_transaction_isolation=isolation)
    spec = {"table": "t", "mode": mode, "segment_mb": 1}
    assert loader.load(str(path), spec, dsn=dsn).rows_inserted == 60_000


def test_a_commit_is_synchronous(dsn: str, database: Database) -> None:
    """A load that is said to be through is not lost in a crash, whatever the role prefers; what is stricter stays."""
    for own, expected in (("off", "on"), ("remote_apply", "remote_apply"), ("on", "on")):
        set_for_all(dsn, synchronous_commit=own)
        with Database(dsn).session() as connection, connection.cursor() as cursor:
            cursor.execute("SHOW synchronous_commit")
            assert cursor.fetchone() == (expected,)


def test_a_statement_timeout_is_told_as_one(dsn: str, tmp_path: Path) -> None:
    """And not as the patience that the load would have had."""
    path = tmp_path / "t.csv"
    path.write_text("id\n1\n")
    query(dsn, "CREATE TABLE t (id int)")
    holder = psycopg2.connect(dsn)
    with holder.cursor() as cursor:
        cursor.execute(f"SELECT pg_advisory_lock({ledger.TURN_KEY})", ("public.t",))
    set_for_all(dsn, statement_timeout="300ms")
    with pytest.raises(loader.BusyError, match="the role's statement_timeout lets it, 300ms"):
        loader.load(str(path), {"table": "t"}, dsn=dsn)
    holder.close()


def test_what_cannot_be_opened_ends_no_shards(dsn: str, database: Database, s3_unversioned: Any) -> None:
    """A second delivery that S3 refuses, while the shards that the first one has planned go well."""
    s3: S3 = s3_unversioned
    body = "id,text\n" + "".join(f"{number},{'x' * 50}\n" for number in range(20_000))
    s3.put("t.csv", body.encode())
    spec = LoadSpec.from_dict({"table": "t", "columns": {"id": "int", "text": "text"}})
    plan = plan_shards(s3.uri("t.csv"), spec, database, shards=2)
    assert plan.verdict == "split"
    s3.delete("t.csv")
    for version in (None, plan.version_id):
        with pytest.raises(loader.SourceError):
            load_one(s3.uri("t.csv"), spec, database, How(), version_id=version)
    s3.put("t.csv", body.encode())
    reports = [load_shard(plan, number, database, threads=1) for number in range(len(plan.ranges))]
    assert finish(plan, reports, database).rows_inserted == 20_000
