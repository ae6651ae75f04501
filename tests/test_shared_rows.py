"""Tables that share rows: a view and the table behind it, a partition and its parent, foreign tables."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.clients import wait_for
from support.postgres import query

import loader
from loader.core.deadline import NEVER
from loader.core.errors import BusyError, TableError
from loader.engine.attempts import turn_of
from loader.ledger import ledger
from loader.postgres import catalog
from loader.postgres.database import Database

TABLES = """
    CREATE TABLE plain (a int PRIMARY KEY, b int);
    CREATE VIEW of_plain AS SELECT a, b FROM plain WHERE a >= 0;
    CREATE VIEW of_that_view AS SELECT a, b FROM of_plain;
    CREATE TABLE whole (a int PRIMARY KEY, b int) PARTITION BY RANGE (a);
    CREATE TABLE half PARTITION OF whole FOR VALUES FROM (0) TO (1000) PARTITION BY RANGE (a);
    CREATE TABLE part PARTITION OF half FOR VALUES FROM (0) TO (500);
    CREATE TABLE part_2 PARTITION OF half FOR VALUES FROM (500) TO (1000);
    CREATE VIEW of_part AS SELECT a, b FROM part;
    CREATE TABLE parent (a int PRIMARY KEY, b int);
    CREATE TABLE child (PRIMARY KEY (a)) INHERITS (parent);
"""

SHARE_ROWS = [
    ("plain", "of_plain"),
    ("of_plain", "plain"),
    ("plain", "of_that_view"),
    ("of_plain", "of_that_view"),
    ("whole", "part"),
    ("part", "whole"),
    ("half", "part"),
    ("whole", "of_part"),
    ("of_part", "half"),
    ("parent", "child"),
    ("part", "part_2"),  # a merge moves a row from one to the other: the table that they are parts of has one turn
]


@contextmanager
def turn(database: Database, name: str) -> Iterator[None]:
    """The turn of a load into that table, if it is to be had at once."""
    with database.session() as connection:
        table = catalog.describe(connection, None, name)
        with ledger.turn(connection, str(table), wait=0.05, deadline=NEVER, oid=table.oid):
            yield


@pytest.mark.parametrize(("one", "other"), SHARE_ROWS)
def test_tables_that_share_rows_have_one_turn(dsn: str, one: str, other: str) -> None:
    query(dsn, TABLES)
    database = Database(dsn)
    with turn(database, one), pytest.raises(BusyError), turn(database, other):
        pass
    with turn(database, other):  # and it ends with the load that had it
        pass
    assert query(dsn, "SELECT pid FROM pg_locks WHERE locktype = 'advisory'") == []
    database.close()


def test_a_table_that_comes_to_exist_while_a_load_waits_for_it(dsn: str) -> None:
    """The load has the turn of its rows, too, when it goes on."""
    database, busy = Database(dsn), []

    def wait_and_look() -> None:
        with database.session() as connection, turn_of(connection, (None, "later"), wait=60, deadline=NEVER):
            try:
                with turn(database, "of_later"):
                    busy.append(False)
            except BusyError:
                busy.append(True)

    waiting = threading.Thread(target=wait_and_look)
    with database.session() as connection, ledger.turn(connection, "public.later", wait=60, deadline=NEVER):
        waiting.start()
        wait_for(lambda: query(dsn, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        query(dsn, "CREATE TABLE later (a int); CREATE VIEW of_later AS SELECT * FROM later")
    waiting.join()
    assert busy == [True]
    database.close()


def test_tables_that_share_no_rows_have_turns_of_their_own(dsn: str) -> None:
    query(dsn, TABLES)
    database = Database(dsn)
    with turn(database, "plain"), turn(database, "of_part"), turn(database, "child"):
        pass
    database.close()


def test_merges_into_a_view_and_its_table_do_not_race(dsn: str, tmp_path: Path) -> None:
    """The second waits for the first. Before, both found the keys missing, and each inserted them."""
    query(dsn, "CREATE TABLE plain (a int, b int); CREATE VIEW of_plain AS SELECT a, b FROM plain")
    query(dsn, "CREATE TABLE gate (a int)")
    query(
        dsn,
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN LOCK TABLE gate IN ROW EXCLUSIVE MODE; RETURN new; END'",
    )
    query(dsn, "CREATE TRIGGER wait BEFORE INSERT ON plain FOR EACH STATEMENT EXECUTE FUNCTION wait()")
    file = tmp_path / "t.csv"
    file.write_text("a,b\n" + "".join(f"{key},1\n" for key in range(500)))

    def merge(table: str) -> Callable[[], Any]:
        return lambda: loader.load(str(file), {"table": table, "mode": "merge", "key": ["a"]}, dsn=dsn)

    threads = [threading.Thread(target=merge(table)) for table in ("plain", "of_plain")]
    with Database(dsn).session() as gate:
        gate.cursor().execute("LOCK TABLE gate IN SHARE MODE")
        waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        for number, thread in enumerate(threads, 1):
            thread.start()
            wait_for(lambda number=number: len(query(dsn, waiting)) == number)  # type: ignore[misc]
        gate.rollback()
    for thread in threads:
        thread.join()
    assert query(dsn, "SELECT count(*), count(DISTINCT a) FROM plain") == [(500, 500)]
    assert query(dsn, "SELECT rows_inserted, rows_unchanged FROM loader.loads ORDER BY load_id") == [(500, 0), (0, 500)]


FOREIGN = """
    CREATE FOREIGN DATA WRAPPER far;
    CREATE SERVER far FOREIGN DATA WRAPPER far;
    CREATE FOREIGN TABLE alone (a int) SERVER far;
    CREATE TABLE whole (a int) PARTITION BY RANGE (a);
    CREATE TABLE near PARTITION OF whole FOR VALUES FROM (0) TO (10);
    CREATE FOREIGN TABLE "far %" PARTITION OF whole FOR VALUES FROM (10) TO (20) SERVER far;
    CREATE TABLE parent (a int);
    CREATE FOREIGN TABLE child () INHERITS (parent) SERVER far;
    CREATE VIEW of_alone AS SELECT a FROM alone;
    CREATE VIEW of_whole AS SELECT a FROM whole;
    CREATE VIEW of_that_view AS SELECT a FROM of_whole;
"""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("alone", "is a foreign table"),
        ("whole", 'has rows in the foreign table "far %"'),
        ("parent", "has rows in the foreign table child"),
        ("of_alone", "has rows in the foreign table alone"),
        ("of_whole", 'has rows in the foreign table "far %"'),
        ("of_that_view", 'has rows in the foreign table "far %"'),
    ],
)
def test_foreign_tables_are_refused(dsn: str, tmp_path: Path, name: str, why: str) -> None:
    """Their server commits before the ledger's, and a crash in between would load the file twice."""
    query(dsn, FOREIGN)
    file = tmp_path / "t.csv"
    file.write_text("a\n1\n")
    with pytest.raises(TableError, match="commits before the ledger does") as caught:
        loader.load(str(file), {"table": name}, dsn=dsn)
    assert f"public.{name}: {why}," in str(caught.value)
    assert not caught.value.retryable


def test_a_partition_beside_a_foreign_one_is_loaded(dsn: str, tmp_path: Path) -> None:
    """It has no row elsewhere."""
    query(dsn, FOREIGN)
    file = tmp_path / "t.csv"
    file.write_text("a\n1\n")
    assert loader.load(str(file), {"table": "near"}, dsn=dsn).rows_inserted == 1
