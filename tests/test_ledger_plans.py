"""The ledger is as fast with millions of loads as with ten: no statement reads more of it than it is about."""

from __future__ import annotations

from pathlib import Path

import psycopg2
from support.postgres import query

from bench.ledger import MOST, TABLES, Watch, fill, read, shape, worst
from bench.objects import serving
from loader.postgres.database import Database

LOADS = 20_000


def test_no_statement_reads_more_of_the_ledger_than_it_is_about(dsn: str, tmp_path: Path) -> None:
    """Half of the loads went into one table, an eighth into an UNLOGGED one that a crash has emptied, and a tenth are
    versions of one object: none may be read as a whole, by a load in any mode and state, a replay, shards, the clearing
    up, or the history."""
    query(dsn, TABLES)
    connection = psycopg2.connect(dsn)
    fill(connection, LOADS)
    connection.close()
    database = Database(dsn)
    with serving(tmp_path) as objects:
        readings = read(database, objects, LOADS)
    database.close()
    assert {each.doing: (each.looked_at, each.statement) for each in readings if each.looked_at > MOST} == {}
    assert {each.doing: (each.scans, each.statement) for each in readings if each.whole} == {}
    kinds = {each.statement.split()[0].lstrip("(") for each in readings}
    assert kinds == {"SELECT", "INSERT", "UPDATE"}
    assert len(worst(readings)) > 25  # that many statements name the table: all of them were seen


def test_rows_that_were_looked_at_in_vain_count_too() -> None:
    """PostgreSQL tells the mean of a scan's loops."""
    scan = {
        "Node Type": "Index Scan",
        "Relation Name": "loads",
        "Index Name": "loads_pkey",
        "Actual Rows": 1.5,
        "Rows Removed by Filter": 2,
        "Actual Loops": 4,
    }
    plan = {"Node Type": "Limit", "Shared Hit Blocks": 3, "Shared Read Blocks": 4, "Plans": [scan]}
    watch = Watch("x")
    watch.note("SELECT 1", {"Plan": plan, "Execution Time": 0.5})
    (reading,) = watch.readings
    assert (reading.looked_at, reading.buffers, reading.whole, reading.scans) == (14, 7, False, ("loads_pkey",))
    watch.note("SELECT 2", {"Plan": {**scan, "Node Type": "Seq Scan"}, "Execution Time": 0.5})
    assert watch.readings[1].whole
    assert [each.statement for each in worst(watch.readings)] == ["SELECT 1"]


def test_statements_are_alike_whatever_their_values() -> None:
    one, two = (
        shape(f"SELECT a  FROM t WHERE b = '{value}' AND c = {number}") for value, number in (("x''y", 1), ("", 2.5))
    )
    assert one == two == "SELECT a FROM t WHERE b = ? AND c = ?"
