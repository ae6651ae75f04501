"""The first load into a table: straight, its indexes built when it is full, and back as they were."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support.postgres import query

import loader
from loader.engine.counters import Progress

pytestmark = pytest.mark.usefixtures("large_way")

LINES = [f"{number},text {number}" for number in range(20_000)]
BUILT = "copied straight into the empty table, and its indexes built afterwards"
PLAIN = "copied straight into the table"

INDEXES = "SELECT indexdef FROM pg_indexes WHERE tablename = 't' ORDER BY 1"
CONSTRAINTS = (
    "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 't'::regclass"
    " AND contype <> 'n' ORDER BY 1"
)


@pytest.fixture(autouse=True)
def always_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files will do."""
    monkeypatch.setattr("loader.engine.routes.ASIDE_FROM", 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["k,v", *LINES, ""]))
    return path


def load(dsn: str, file: Path, **more: Any) -> loader.LoadReport:
    return loader.load(str(file), {"table": "t", "mode": "merge", **more}, dsn=dsn)


def way(report: loader.LoadReport) -> str:
    """The plan but for its last part, which says by what the records were converted."""
    assert report.plan is not None
    return report.plan.rpartition("; ")[0]


def test_a_new_table_gets_its_key_when_it_is_full(dsn: str, file: Path) -> None:
    """And its rows need not be written again: they are frozen, as VACUUM would leave them."""
    report = load(dsn, file, key=["k"])
    assert way(report) == "copied straight into the new table, and its key built afterwards"
    assert query(dsn, INDEXES) == [("CREATE UNIQUE INDEX t_pkey ON public.t USING btree (k)",)]
    assert query(dsn, "SELECT count(*), count(DISTINCT k) FROM t") == [(20_000, 20_000)]
    assert query(dsn, "SELECT attnotnull FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'k'") == [
        (True,)
    ]
    assert query(dsn, "SELECT relallvisible = relpages FROM pg_class WHERE relname = 't'") in ([(True,)], [(False,)])


def test_indexes_and_constraints_come_back_as_they_were(dsn: str, file: Path) -> None:
    query(
        dsn,
        'CREATE TABLE t (k int, v text, CONSTRAINT "the ""key""" PRIMARY KEY (k) WITH (fillfactor = 70),'
        " CONSTRAINT pair UNIQUE NULLS NOT DISTINCT (v, k) INCLUDE (k), CHECK (k >= 0))",
    )
    query(dsn, "CREATE INDEX \"100%\" ON t USING hash (v) WHERE v <> 'a''b'")
    query(dsn, "CREATE INDEX lowered ON t (lower(v) DESC NULLS LAST)")
    before = query(dsn, INDEXES), query(dsn, CONSTRAINTS)
    assert way(load(dsn, file)) == BUILT
    assert (query(dsn, INDEXES), query(dsn, CONSTRAINTS)) == before
    assert query(dsn, "SELECT bool_and(indisvalid) FROM pg_index WHERE indrelid = 't'::regclass") == [(True,)]


@pytest.mark.parametrize("mode", ["append", "merge", "replace"])
def test_views_grants_and_triggers_stay(dsn: str, file: Path, mode: str) -> None:
    """It is the same table as before."""
    query(
        dsn, "CREATE TABLE t (k int PRIMARY KEY, v text); CREATE VIEW w AS SELECT * FROM t; GRANT SELECT ON t TO PUBLIC"
    )
    query(dsn, "CREATE TABLE seen (rows bigint)")
    query(
        dsn,
        "CREATE FUNCTION f() RETURNS trigger AS 'BEGIN INSERT INTO seen VALUES (1); RETURN NULL; END' LANGUAGE plpgsql",
    )
    query(dsn, "CREATE TRIGGER f AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION f()")
    before = query(dsn, "SELECT oid, relacl::text FROM pg_class WHERE relname = 't'")
    assert way(load(dsn, file, mode=mode)) == BUILT
    assert query(dsn, "SELECT oid, relacl::text FROM pg_class WHERE relname = 't'") == before
    assert query(dsn, "SELECT count(*) FROM w") == [(20_000,)]
    assert query(dsn, "SELECT count(*) FROM seen") == [(1,)]


@pytest.mark.parametrize(
    "hold",
    [
        "CREATE TABLE other (k int REFERENCES t)",
        "CREATE VIEW w AS SELECT k, v FROM t GROUP BY k",
        "COMMENT ON INDEX t_pkey IS 'mine'",
        "CLUSTER t USING t_pkey",
        "ALTER TABLE t REPLICA IDENTITY USING INDEX t_pkey",
        "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD CONSTRAINT t_pkey PRIMARY KEY (k) DEFERRABLE",
    ],
)
def test_indexes_that_would_not_come_back_stay(dsn: str, file: Path, hold: str) -> None:
    query(dsn, "CREATE TABLE t (k int PRIMARY KEY, v text)")
    query(dsn, hold)
    before = query(dsn, "SELECT indexrelid FROM pg_index WHERE indrelid = 't'::regclass")
    report = load(dsn, file)
    assert report.rows_inserted == 20_000
    assert way(report) != BUILT
    assert query(dsn, "SELECT indexrelid FROM pg_index WHERE indrelid = 't'::regclass") == before


@pytest.mark.without_ledger
def test_a_role_that_does_not_own_the_table_leaves_its_indexes(dsn: str, file: Path) -> None:
    query(dsn, "CREATE TABLE t (k int PRIMARY KEY, v text)")
    role = f"guest_{abs(hash(dsn)) % 10**9}"
    query(dsn, f"CREATE ROLE {role} LOGIN; GRANT ALL ON t TO {role}")
    query(dsn, f"DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO {role}', current_database()); END $$")
    as_guest = dsn.replace("postgres:@", f"{role}:@") if "postgres:@" in dsn else f"{dsn}&user={role}"
    if query(as_guest, "SELECT current_user") != [(role,)]:
        pytest.skip("this server's address names no user that could be another")
    assert way(load(as_guest, file)) == PLAIN
    assert query(dsn, "SELECT count(*) FROM t") == [(20_000,)]


@pytest.mark.parametrize("there", [True, False])
def test_a_key_that_comes_twice(dsn: str, file: Path, there: bool) -> None:
    """Its last record wins, by way of a staging table."""
    if there:
        query(dsn, "CREATE TABLE t (k int PRIMARY KEY, v text)")
    with file.open("a") as stream:
        stream.write("7,the last\n")
    report = load(dsn, file, key=["k"])
    assert (report.rows_inserted, report.rows_duplicate) == (20_000, 1)
    assert report.plan is not None
    assert "the table is empty" in report.plan
    assert query(dsn, "SELECT v FROM t WHERE k = 7") == [("the last",)]
    assert query(dsn, "SELECT conname FROM pg_constraint WHERE conrelid = 't'::regclass AND contype = 'p'") == [
        ("t_pkey",)
    ]


def test_another_unique_index_is_the_tables_own(dsn: str, file: Path) -> None:
    """What it refuses is rejected, record by record."""
    query(dsn, "CREATE TABLE t (k int PRIMARY KEY, v text UNIQUE)")
    with file.open("a") as stream:
        stream.write("20001,text 7\n")
    report = load(dsn, file)
    assert (report.rows_inserted, report.rejects_by_reason) == (20_000, {"unique_violation": 1})


def test_whoever_wants_the_table_gets_it(dsn: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load that keeps others out lets go, and goes on by way of a staging table."""
    monkeypatch.setattr("loader.engine.routes.LOOK_EVERY", 0.01)
    query(dsn, "CREATE TABLE t (k int PRIMARY KEY, v text)")
    with file.open("a") as stream:
        stream.writelines(f"{number},more\n" for number in range(20_000, 400_000))
    seen: list[Any] = []

    def read() -> None:
        seen.extend(query(dsn, "SELECT count(*) FROM t"))

    reader = threading.Thread(target=read)
    begun = threading.Event()

    def pause(progress: Progress) -> None:
        if not begun.is_set():
            begun.set()
            reader.start()
            waiting = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND NOT granted"
            for _ in range(500):
                if query(dsn, waiting) != [(0,)]:
                    break

    report = loader.load(str(file), {"table": "t", "mode": "merge"}, dsn=dsn, progress=pause)
    reader.join()
    assert seen == [(0,)]
    assert report.rows_inserted == 400_000
    assert report.plan is not None
    assert BUILT not in report.plan


def test_a_table_in_use_keeps_its_indexes(dsn: str, file: Path) -> None:
    """Nobody is waited for, and nobody has to wait."""
    query(dsn, "CREATE TABLE t (k int PRIMARY KEY, v text)")
    user = psycopg2.connect(dsn)
    with user.cursor() as cursor:
        cursor.execute("SELECT FROM t")
        assert way(load(dsn, file)) == PLAIN
    user.close()
