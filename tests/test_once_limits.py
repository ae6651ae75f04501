"""What "exactly once" means where a table or an object is not what it was: each sentence of docs/exactly-once.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.own_server import own_server
from support.postgres import query

import loader
from loader.core.spec.model import LoadSpec
from loader.pipeline import How, load_one
from loader.postgres.database import Database

ONE = b"id\n1\n"


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "a.csv"
    path.write_bytes(ONE)
    return str(path)


def load(database: Database, uri: str, table: str = "t", mode: str = "append", **rest: Any) -> str:
    spec = LoadSpec.from_dict({"table": table, "mode": mode, **({"key": ["id"]} if mode == "merge" else {})})
    return load_one(uri, spec, database, How(), **rest).state


def test_a_table_is_its_name(dsn: str, database: Database, file: str) -> None:
    """Renamed, it takes its rows along and not what the ledger knows; under its old name there is no table."""
    query(dsn, "CREATE TABLE t (id int)")
    assert [load(database, file), load(database, file)] == ["loaded", "skipped"]
    query(dsn, "ALTER TABLE t RENAME TO u")
    assert [load(database, file), load(database, file)] == ["loaded", "skipped"]
    assert [load(database, file, "u"), load(database, file, "u")] == ["loaded", "skipped"]
    assert query(dsn, "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM u)") == [(1, 2)]


def test_a_renamed_table_takes_its_history_along(dsn: str, database: Database, file: str) -> None:
    """Where the operator renames it in the ledger, too."""
    query(dsn, "CREATE TABLE t (id int)")
    assert load(database, file) == "loaded"
    query(dsn, "ALTER TABLE t RENAME TO u; UPDATE loader.loads SET target = 'public.u' WHERE target = 'public.t'")
    assert load(database, file, "u") == "skipped"


def test_a_table_that_was_rebuilt_is_vouched_for(dsn: str, database: Database, file: str) -> None:
    """As an operator does to repack or to restore it: it has another oid, and the rows that were loaded."""
    query(dsn, "CREATE TABLE t (id int)")
    assert load(database, file) == "loaded"
    ((oid,),) = query(dsn, "SELECT 't'::regclass::oid")
    query(dsn, "CREATE TABLE rebuilt AS TABLE t; DROP TABLE t; ALTER TABLE rebuilt RENAME TO t")
    assert query(dsn, "SELECT 't'::regclass::oid") != [(oid,)]
    assert load(database, file) == "skipped"
    assert query(dsn, "SELECT id FROM t") == [(1,)]


@pytest.mark.parametrize(("mode", "rows"), [("append", 2), ("merge", 1)])
def test_a_version_that_was_put_again_is_another_version(
    dsn: str, database: Database, s3: Any, mode: str, rows: int
) -> None:
    """Whoever deletes an object of a versioned bucket and puts the same bytes, asks for them once more."""
    query(dsn, "CREATE TABLE t (id int)")
    first = s3.put("a.csv", ONE)
    assert load(database, s3.uri("a.csv"), mode=mode, version_id=first) == "loaded"
    s3.delete("a.csv")
    second = s3.put("a.csv", ONE)
    assert load(database, s3.uri("a.csv"), mode=mode, version_id=second) == "loaded"
    assert load(database, s3.uri("a.csv"), mode=mode, version_id=second) == "skipped"
    assert query(dsn, "SELECT count(*) FROM t") == [(rows,)]


def test_bytes_that_were_put_again_are_the_same_object(dsn: str, database: Database, s3_unversioned: Any) -> None:
    """Without versions, nothing tells the second from the first."""
    query(dsn, "CREATE TABLE t (id int)")
    for expected in ("loaded", "skipped"):
        s3_unversioned.put("a.csv", ONE)
        assert load(database, s3_unversioned.uri("a.csv")) == expected
        s3_unversioned.delete("a.csv")
    assert query(dsn, "SELECT count(*) FROM t") == [(1,)]


def test_a_crash_that_empties_a_table_is_known(tmp_path: Path) -> None:
    """What the server threw away is loaded again when it is asked for, once; nothing else is."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_bytes(f"id\n{name == 'a':d}\n".encode())
    first, second = str(tmp_path / "a.csv"), str(tmp_path / "b.csv")
    with own_server() as server:
        query(
            server.dsn,
            "CREATE TABLE kept (id int); CREATE UNLOGGED TABLE lost (id int); CREATE UNLOGGED TABLE saved (id int)",
        )

        def states(uri: str) -> list[str]:
            database = Database(server.dsn)
            try:
                return [load(database, uri, table) for table in ("kept", "lost", "saved")]
            finally:
                database.close()

        assert states(first) == states(second) == ["loaded"] * 3
        query(server.dsn, "ALTER TABLE saved SET LOGGED")
        server.restart()
        assert states(first) == states(second) == ["skipped"] * 3
        for _ in range(2):
            server.stop("immediate")
            server.start()
            assert query(server.dsn, "SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM lost)") == [(2, 0)]
            assert states(first) == states(second) == ["skipped", "loaded", "skipped"]
            assert states(first) == states(second) == ["skipped"] * 3
        assert query(server.dsn, "SELECT count(*) FROM kept UNION ALL SELECT count(*) FROM saved") == [(2,), (2,)]
        assert query(server.dsn, "SELECT id FROM lost ORDER BY 1") == [(0,), (1,)]


@pytest.mark.parametrize("crashes", [(1, 3), (4,), (5, 2)])
def test_what_a_crash_took_is_told_from_what_came_after(
    dsn: str, database: Database, tmp_path: Path, crashes: tuple[int, ...]
) -> None:
    """A crash takes the notes of all loads before it, however many have come since."""
    query(dsn, "CREATE UNLOGGED TABLE t (id int)")
    files = [tmp_path / f"{number}.csv" for number in range(5)]
    for number, each in enumerate(files):
        each.write_text(f"id\n{number}\n")
        assert load(database, str(each)) == "loaded"
    first = "SELECT load_id FROM loader.unlogged_loads JOIN loader.loads USING (load_id) ORDER BY applied LIMIT %s"
    for lost in crashes:
        query(dsn, f"DELETE FROM loader.unlogged_loads WHERE load_id IN ({first})", lost)
        assert [load(database, str(each)) for each in files] == ["loaded"] * lost + ["skipped"] * (5 - lost)
        files = files[lost:] + files[:lost]


def test_an_order_of_versions_outlives_a_crash(s3: Any) -> None:
    """An older version does not come back because a newer one was lost."""
    old, new = s3.put("a.csv", ONE), s3.put("a.csv", b"id\n2\n")
    with own_server() as server:
        query(server.dsn, "CREATE UNLOGGED TABLE t (id int)")
        database = Database(server.dsn)
        spec = loader.LoadSpec.from_dict({"table": "t", "versions": "snapshot"})
        for version, sequencer in ((old, "1"), (new, "2")):
            load_one(s3.uri("a.csv"), spec, database, How(sequencer=sequencer), version_id=version)
        database.close()
        server.stop("immediate")
        server.start()
        database = Database(server.dsn)
        found = [
            load_one(s3.uri("a.csv"), spec, database, How(sequencer=sequencer), version_id=version).state
            for version, sequencer in ((old, "1"), (new, "2"))
        ]
        database.close()
        assert found == ["skipped", "loaded"]
        assert query(server.dsn, "SELECT id FROM t") == [(2,)]
