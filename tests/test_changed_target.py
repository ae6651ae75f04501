"""An operator alters, replaces, moves or drops a table while a load into it is under way: it counts as it is then."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn
from support.clients import wait_for
from support.postgres import query
from support.victim import STEPS

import loader
from loader.core.report import LoadReport
from loader.core.spec.model import LoadSpec
from loader.pipeline import How, load_one
from loader.postgres import catalog
from loader.postgres.database import Database
from loader.postgres.merging.target import hold
from loader.records import splitter
from loader.sharding.shards import ReplanError, ShardPlan, finish, load_shard, plan_shards

pytestmark = pytest.mark.usefixtures("large_way")

RECORDS = 30
ROWS = "SELECT id, v FROM t ORDER BY id, v"
EXPECTED = [(number, f"new {number}") for number in range(1, RECORDS + 1)]

KEY_DROPPED = "ALTER TABLE t DROP CONSTRAINT t_pkey"
SWAPPED = """
    CREATE TABLE other (LIKE t); INSERT INTO other TABLE t;
    ALTER TABLE t RENAME TO before; ALTER TABLE other RENAME TO t"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text("id,v\n" + "".join(f"{number},new {number}\n" for number in range(1, RECORDS + 1)))
    return path


@pytest.fixture
def keyed(dsn: str) -> None:
    """A table with a key that the file has, at a place where no sample looks."""
    query(dsn, "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (7, 'old')")


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads go by way of a staging table, and look at a sample of it first."""
    monkeypatch.setattr("loader.engine.job.STRAIGHT", 0)
    monkeypatch.setattr("loader.engine.job.STRAIGHT_BYTES", 0)
    monkeypatch.setattr("loader.postgres.merging.merge.FEW", 0)


Before = Callable[..., None]


@pytest.fixture
def before(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Before:
    """``before(step, statement)``: another session runs the statement when the loader first comes to the step, or as
    often as ``times`` says. The statement may be a function instead."""

    def arrange(step: str, change: str | Callable[[], object], *, times: int = 1) -> None:
        module, path = STEPS[step]
        owner: Any = import_module(module)
        *holders, name = path.split(".")
        for holder in holders:
            owner = getattr(owner, holder)
        original, left = getattr(owner, name), iter(range(times))

        def stepping(*arguments: Any, **options: Any) -> Any:
            if next(left, None) is not None:
                query(dsn, change) if isinstance(change, str) else change()
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, stepping)

    return arrange


def load(database: Database, path: Path, mode: str = "merge", **spec: Any) -> LoadReport:
    made = LoadSpec.from_dict({"table": "t", "mode": mode, **spec})
    return load_one(str(path), made, database, How(threads=1))


# --- the key


@pytest.mark.usefixtures("keyed", "staged")
@pytest.mark.parametrize("change", [KEY_DROPPED, SWAPPED])
def test_a_key_that_is_lost_while_the_load_stages(
    dsn: str, database: Database, file: Path, before: Before, change: str
) -> None:
    """The merge does not trust a key that is not there any more, and what was staged is used."""
    before("make ready", change)
    report = load(database, file, key=["id"])
    assert (report.rows_inserted, report.rows_updated, report.resumes) == (RECORDS - 1, 1, 1)
    assert query(dsn, ROWS) == EXPECTED


@pytest.mark.usefixtures("keyed", "staged")
@pytest.mark.parametrize("change", [KEY_DROPPED, SWAPPED])
def test_a_key_that_the_load_needs_to_be_there(
    dsn: str, database: Database, file: Path, before: Before, change: str
) -> None:
    """A spec without a key goes by the table's."""
    before("make ready", change)
    with pytest.raises(loader.TableError, match="no primary key"):
        load(database, file)
    assert query(dsn, ROWS) == [(7, "old")]
    assert query(dsn, "SELECT count(*) FROM pg_tables WHERE schemaname = 'loader' AND tablename ~ '^staging'") == [(0,)]


@pytest.mark.usefixtures("keyed", "staged")
def test_a_key_that_is_lost_before_segments_are_inserted_ahead(
    dsn: str, database: Database, file: Path, before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While later ones are being staged, in the transaction that stays open from then on."""
    monkeypatch.setitem(STEPS, "ready parts", ("loader.postgres.merging.merge_sql", "Matching.ready_parts"))
    monkeypatch.setattr("loader.postgres.merging.merge_sql.SAMPLE", 1)
    monkeypatch.setitem(splitter.split.__kwdefaults__, "block_size", 40)
    monkeypatch.setattr(LoadSpec, "segment_size", property(lambda _self: 80))
    tried: list[object] = []
    before("insert ahead", lambda: tried.append(1))
    before("copy a segment", KEY_DROPPED)
    report = load(database, file, key=["id"])
    assert (report.rows_inserted, report.rows_updated, tried) == (RECORDS - 1, 1, [])
    assert query(dsn, ROWS) == EXPECTED


@pytest.mark.usefixtures("keyed")
def test_a_key_that_is_lost_before_a_straight_load(dsn: str, database: Database, file: Path, before: Before) -> None:
    """A key that comes twice would not be noticed without it."""
    query(dsn, "DELETE FROM t")
    file.write_text(file.read_text() + "7,again\n")
    before("make ready", KEY_DROPPED)
    report = load(database, file, key=["id"])
    assert (report.rows_inserted, report.rows_duplicate) == (RECORDS, 1)
    assert query(dsn, "SELECT v FROM t WHERE id = 7") == [("again",)]


# --- columns and what else there is about a table


@pytest.mark.usefixtures("staged")
@pytest.mark.parametrize(
    ("first", "change", "expected"),
    [
        ("int", "ALTER TABLE n ALTER v TYPE text USING v::text || ' of old'", ["007", "2 of old"]),
        ("text", "ALTER TABLE n ALTER v TYPE int USING v::int", [2, 7]),
        ("numeric(10,2)", "ALTER TABLE n ALTER v TYPE numeric(10,4)", ["2.0000", "7.1234"]),
    ],
)
def test_a_column_whose_type_is_altered(
    dsn: str, database: Database, tmp_path: Path, before: Before, first: str, change: str, expected: list[Any]
) -> None:
    """The records are read once more, for the type as it is now."""
    query(dsn, f"CREATE TABLE n (id int, v {first}); INSERT INTO n VALUES (0, '2')")
    path = tmp_path / "n.csv"
    path.write_text("id,v\n1,7.1234\n" if "numeric" in first else "id,v\n1,007\n")
    before("make ready", change)
    assert load(database, path, "append", table="n").rows_inserted == 1
    found = [value if isinstance(value, int) else str(value) for (value,) in query(dsn, "SELECT v FROM n ORDER BY id")]
    assert sorted(found) == expected


@pytest.mark.usefixtures("keyed", "staged")
def test_a_column_that_records_cannot_do_without(dsn: str, database: Database, file: Path, before: Before) -> None:
    """The load fails of the header, and not of each of its records."""
    before("make ready", "DELETE FROM t; ALTER TABLE t ADD COLUMN w int NOT NULL")
    with pytest.raises(loader.ShapeError, match="w"):
        load(database, file)
    assert query(dsn, "SELECT count(*) FROM t") == [(0,)]


@pytest.mark.usefixtures("keyed", "staged")
def test_a_column_that_may_be_null_now(dsn: str, database: Database, file: Path, before: Before) -> None:
    """What was rejected for it while the load staged, is not."""
    query(dsn, "ALTER TABLE t ALTER v SET NOT NULL")
    file.write_text(file.read_text() + "99,\n")
    before("make ready", "ALTER TABLE t ALTER v DROP NOT NULL")
    report = load(database, file, rejects={"max_rows": 9, "max_ratio": 1})
    assert (report.rows_inserted, report.rows_updated, report.rows_rejected) == (RECORDS, 1, 0)
    assert query(dsn, "SELECT count(*) FROM loader.rejects") == [(0,)]


@pytest.mark.usefixtures("keyed")
@pytest.mark.parametrize("mode", ["append", "merge"])
def test_a_trigger_that_leaves_records_out(dsn: str, database: Database, file: Path, before: Before, mode: str) -> None:
    """They are counted as filtered, as if it had been there from the beginning."""
    query(dsn, "DELETE FROM t")
    function = "CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    query(dsn, f"{function} IF NEW.id % 2 = 0 THEN RETURN NULL; END IF; RETURN NEW; END $$")
    before("make ready", "CREATE TRIGGER odd BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION odd()")
    report = load(database, file, mode)
    assert (report.rows_inserted, report.rows_filtered) == (RECORDS // 2, RECORDS // 2)
    assert query(dsn, "SELECT count(*) FROM t") == [(RECORDS // 2,)]


@pytest.mark.usefixtures("keyed", "staged")
def test_what_changes_nothing_costs_nothing(dsn: str, database: Database, file: Path, before: Before) -> None:
    """With a column more, the load goes on with what is staged."""
    copied: list[object] = []
    before("make ready", "ALTER TABLE t ADD COLUMN w int DEFAULT 5")
    before("copy a segment", lambda: copied.append(1), times=9)
    report = load(database, file)
    assert (report.rows_inserted, report.rows_updated, report.resumes, copied) == (RECORDS - 1, 1, 1, [1])
    assert query(dsn, "SELECT DISTINCT w FROM t") == [(5,)]


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_a_table_that_somebody_creates_meanwhile(
    dsn: str, database: Database, file: Path, before: Before, mode: str
) -> None:
    """It is loaded as one that was there before."""
    before("make ready", "CREATE TABLE t (id int, v text); INSERT INTO t VALUES (7, 'old')")
    report = load(database, file, mode, **({"key": ["id"]} if mode == "merge" else {}))
    assert report.state == "loaded"
    assert query(dsn, ROWS) == (EXPECTED if mode == "merge" else sorted([*EXPECTED, (7, "old")]))


@pytest.mark.usefixtures("keyed", "staged")
@pytest.mark.parametrize("mode", ["append", "merge", "replace"])
def test_a_table_that_is_dropped_meanwhile(dsn: str, database: Database, file: Path, before: Before, mode: str) -> None:
    """It is created, as for a load that finds none."""
    before("make ready", "DROP TABLE t")
    assert load(database, file, mode, **({} if mode == "append" else {"key": ["id"]})).rows_inserted == RECORDS
    assert query(dsn, ROWS) == EXPECTED
    assert query(dsn, "SELECT created FROM loader.loads") == [(True,)]


@pytest.mark.usefixtures("keyed", "staged")
def test_an_operator_who_does_not_stop(dsn: str, database: Database, file: Path, before: Before) -> None:
    """The load gives up in a sentence, and can be asked for again."""
    columns = iter("abcdefghijklmnopq")
    before("make ready", lambda: query(dsn, f"ALTER TABLE t ADD COLUMN {next(columns)} int"), times=5)
    with pytest.raises(loader.DatabaseUnavailableError, match="was altered or replaced 5 times") as caught:
        load(database, file)
    assert caught.value.retryable
    assert query(dsn, ROWS) == [(7, "old")]
    assert load(database, file).rows_inserted == RECORDS - 1


@pytest.mark.usefixtures("keyed", "staged")
def test_what_waits_for_the_load_comes_after_it(dsn: str, database: Database, file: Path, before: Before) -> None:
    """Nobody takes the key from a merge that has begun, and the wait ends with it."""
    operator = threading.Thread(target=query, args=(dsn, KEY_DROPPED))

    def wait_for_the_lock() -> None:
        operator.start()
        wait_for(lambda: query(dsn, "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'relation'"))

    before("merge", wait_for_the_lock)
    report = load(database, file, key=["id"])
    operator.join()
    assert (report.rows_inserted, report.rows_updated) == (RECORDS - 1, 1)
    assert query(dsn, "SELECT 1 FROM pg_index WHERE indrelid = 't'::regclass") == []
    assert query(dsn, ROWS) == EXPECTED


@pytest.mark.every_postgres
@pytest.mark.parametrize("rights", ["INSERT (id, v), SELECT (id, v)", "INSERT, SELECT"])
def test_a_role_that_may_only_insert(dsn: str, file: Path, rights: str) -> None:
    """Be it into some columns, so that LOCK is refused: then an INSERT is planned. The operator waits for both."""
    role = f"given_{uuid.uuid4().hex}"
    query(dsn, f"CREATE TABLE t (id int, v text, w int); CREATE ROLE {role} LOGIN PASSWORD '{role}'")
    query(dsn, f"GRANT {rights} ON t TO {role}")
    for right in ("SCHEMA loader", "ALL TABLES IN SCHEMA loader", "ALL SEQUENCES IN SCHEMA loader"):
        query(dsn, f"GRANT ALL ON {right} TO {role}")
    try:
        with contextlib.closing(psycopg2.connect(dsn, user=role, password=role)) as connection:
            table = catalog.describe(connection, None, "t")
            hold(connection, table)
            with pytest.raises(psycopg2.errors.LockNotAvailable):
                query(dsn, "LOCK TABLE t IN SHARE MODE NOWAIT")
            assert table.lockable == (rights == "INSERT, SELECT")
        database = Database(make_dsn(dsn, user=role, password=role))
        assert load(database, file, "append", columns={"id": "int", "v": "text"}).rows_inserted == RECORDS
        database.close()
    finally:
        query(dsn, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_view_is_held_with_what_is_behind_it(dsn: str, database: Database, file: Path) -> None:
    """As far as an INSERT would."""
    query(dsn, "CREATE TABLE base (id int, v text); CREATE VIEW t AS SELECT * FROM base")
    with database.session() as connection:
        hold(connection, catalog.describe(connection, None, "t"))
        for name in ("t", "base"):
            with pytest.raises(psycopg2.errors.LockNotAvailable):
                query(dsn, f"LOCK TABLE {name} IN SHARE MODE NOWAIT")
    assert load(database, file, "append").rows_inserted == RECORDS


def name_of(dsn: str) -> str:
    return str(query(dsn, "SELECT current_database()")[0][0])


# --- shards


def plan_for(database: Database, file: Path) -> ShardPlan:
    plan = plan_shards(
        str(file), LoadSpec.from_dict({"table": "t", "mode": "merge", "key": ["id"]}), database, shards=2
    )
    assert plan.verdict == "split"
    return plan


def load_shards(plan: ShardPlan, database: Database) -> None:
    for number in range(len(plan.ranges)):
        load_shard(plan, number, database, threads=1)


@pytest.mark.usefixtures("keyed", "staged")
@pytest.mark.parametrize("change", [KEY_DROPPED, SWAPPED])
def test_a_key_that_is_lost_while_shards_are_merged(
    dsn: str, database: Database, file: Path, before: Before, change: str
) -> None:
    """What they have staged is merged by the key all the same."""
    plan = plan_for(database, file)
    load_shards(plan, database)
    before("make ready", change)
    report = finish(plan, None, database)
    assert (report.rows_inserted, report.rows_updated) == (RECORDS - 1, 1)
    assert query(dsn, ROWS) == EXPECTED


@pytest.mark.usefixtures("keyed", "staged")
def test_a_column_whose_type_is_altered_while_shards_are_merged(
    dsn: str, database: Database, file: Path, before: Before
) -> None:
    """What they have staged is of no use, and their plan begins again."""
    plan = plan_for(database, file)
    load_shards(plan, database)
    before("make ready", "ALTER TABLE t ALTER v TYPE varchar(10)")
    with pytest.raises(ReplanError, match="not what it was"):
        finish(plan, None, database)
    assert query(dsn, ROWS) == [(7, "old")]


@pytest.mark.usefixtures("keyed", "staged")
def test_a_table_that_moves_while_its_shards_are_loaded(dsn: str, database: Database, file: Path) -> None:
    """The plan begins again, for the table that the name means by then."""
    query(dsn, "CREATE SCHEMA second")
    query(dsn, f"ALTER DATABASE {name_of(dsn)} SET search_path = second, public")
    plan = plan_for(database, file)
    load_shards(plan, database)
    query(dsn, "ALTER TABLE t SET SCHEMA second")
    with pytest.raises(ReplanError, match=r"means second\.t by now") as caught:
        finish(plan, None, database)
    spec = LoadSpec.from_dict(plan.spec)
    again = plan_shards(str(file), spec, database, shards=2, again=caught.value.again)
    load_shards(again, database)
    assert finish(again, None, database).table == "second.t"
    assert query(dsn, "SELECT id, v FROM second.t ORDER BY 1") == EXPECTED


# --- where it is


@pytest.fixture
def two_schemas(dsn: str) -> None:
    query(dsn, "CREATE SCHEMA first; CREATE SCHEMA second")
    query(dsn, f"ALTER DATABASE {name_of(dsn)} SET search_path = first, second, public")


LEDGER = "SELECT target, state FROM loader.loads ORDER BY load_id"


@pytest.mark.usefixtures("keyed", "two_schemas")
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("ALTER TABLE public.t SET SCHEMA second", "second.t"),
        ("CREATE TABLE second.t (id int PRIMARY KEY, v text)", "second.t"),
        ("DROP TABLE public.t", "first.t"),  # it is created in the path's first schema
        ("DROP TABLE public.t; CREATE TABLE public.t (v text, id int PRIMARY KEY)", "public.t"),
    ],
)
def test_a_table_that_moves_while_a_load_waits_for_its_turn(
    dsn: str, database: Database, file: Path, before: Before, change: str, expected: str
) -> None:
    """It goes where the name leads to when its turn has come, and the ledger says so: the next event is skipped."""
    before("take the turn", change)
    report = load(database, file, key=["id"])
    assert (report.state, report.table) == ("loaded", expected)
    assert query(dsn, f"SELECT v FROM {expected} WHERE id = 1") == [("new 1",)]
    assert query(dsn, LEDGER) == [(expected, "loaded")]
    assert load(database, file, key=["id"]).state == "skipped"
    assert query(dsn, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


@pytest.mark.usefixtures("keyed", "two_schemas")
def test_what_could_not_be_opened_is_entered_where_its_table_is(
    dsn: str, database: Database, before: Before, s3: Any
) -> None:
    """The failure, too, is under the name that the table has when its turn has come."""
    before("take the turn", "ALTER TABLE public.t SET SCHEMA second")
    with pytest.raises(loader.SourceError):
        load_one(s3.uri("nothing.csv"), LoadSpec.from_dict({"table": "t"}), database, How())
    assert query(dsn, LEDGER) == [("second.t", "failed")]


@pytest.mark.usefixtures("keyed", "two_schemas")
def test_a_name_that_means_another_table_each_time(dsn: str, database: Database, file: Path, before: Before) -> None:
    """The load gives up in a sentence, and can be asked for again."""
    there = iter(["second", "first"] * 5)
    before("take the turn", lambda: query(dsn, f"ALTER TABLE t SET SCHEMA {next(there)}"), times=5)
    with pytest.raises(loader.BusyError, match="was moved, or another table put in its place, 5 times"):
        load(database, file, key=["id"])
    assert load(database, file, key=["id"]).state == "loaded"


@pytest.mark.usefixtures("keyed", "two_schemas", "staged")
def test_a_table_that_moves_while_the_load_stages(dsn: str, database: Database, file: Path, before: Before) -> None:
    """The load begins anew under the other name, and its turn. What it had staged is dropped."""
    before("make ready", "ALTER TABLE public.t SET SCHEMA second")
    report = load(database, file, key=["id"])
    assert (report.table, report.rows_inserted, report.rows_updated) == ("second.t", RECORDS - 1, 1)
    assert query(dsn, LEDGER) == [("public.t", "failed"), ("second.t", "loaded")]
    assert query(dsn, "SELECT 1 FROM pg_tables WHERE tablename ~ '^(loader_)?staging_'") == []
    assert load(database, file, key=["id"]).state == "skipped"


@pytest.mark.usefixtures("keyed", "staged")
def test_a_table_that_is_renamed_while_the_load_stages(
    dsn: str, database: Database, file: Path, before: Before
) -> None:
    """The name is what was asked for: a table of that name is created."""
    before("make ready", "ALTER TABLE t RENAME TO before")
    assert load(database, file, table="public.t", key=["id"]).rows_inserted == RECORDS
    assert query(dsn, "SELECT * FROM before") == [(7, "old")]
    assert query(dsn, ROWS) == EXPECTED
