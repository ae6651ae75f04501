"""The target before and after its rows: made, given columns, and the indexes of an empty one built when it is full.

To build an index over what is there costs a third of keeping it up to date row by row (lineitem, 2 M rows, primary
key: 0.9 s against 3 s). So a new table gets its key at the end, and the indexes of an empty one are dropped first and
made again in the same transaction, by the definitions that PostgreSQL itself gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.postgres.load_column import LoadColumn
from loader.postgres.statements import execute, execute_all, rows
from loader.postgres.tables import Table

PATIENCE = "500ms"
"""How long to wait for a look at the table."""

_PATIENCE = sql.Literal(PATIENCE)


def target_name(table: Table) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)


def hold(connection: Connection, table: Table, *, alone: bool = False) -> None:
    """Keep others from altering, renaming or dropping the table until the transaction ends; they may go on to read and
    to write it, unless it is to be had ``alone``.

    This is the lock that COPY and INSERT take themselves (ROW EXCLUSIVE; manual, 13.3.1), taken before anything is
    asked of the table: a stronger one later might wait for somebody who waits for this one. LOCK wants a right on
    the table as a whole, locks what is behind a view as well, and does not take foreign tables. Where it cannot be had,
    an INSERT is planned, which takes the same lock and changes nothing.

    Raises psycopg2.ProgrammingError where the table of that name cannot be locked so any more.
    """
    execute(connection, holding(table, alone=alone))


def holding(table: Table, *, alone: bool = False) -> sql.Composed:
    """The statement of `hold`."""
    if not table.lockable:
        return sql.SQL("EXPLAIN INSERT INTO {} DEFAULT VALUES").format(target_name(table))
    mode = sql.SQL("ACCESS EXCLUSIVE" if alone else "ROW EXCLUSIVE")
    return sql.SQL("LOCK TABLE ONLY {} IN {} MODE").format(target_name(table), mode)


def creating(table: Table, columns: Sequence[LoadColumn], key: Sequence[str]) -> sql.Composed:
    """The statement that creates the target; ``key`` are columns of a primary key that `keying` is to give it."""
    parts = [
        sql.SQL("{} {}{}").format(
            sql.Identifier(column.name),
            sql.SQL(column.type.name),
            sql.SQL(" NOT NULL" if column.name in key else ""),
        )
        for column in columns
    ]
    return sql.SQL("CREATE TABLE {} ({})").format(target_name(table), sql.SQL(", ").join(parts))


def keying(table: Table, key: Sequence[str]) -> sql.Composed:
    """The statement that gives a new table its primary key."""
    names = sql.SQL(", ").join(map(sql.Identifier, key))
    return sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(target_name(table), names)


def widening(table: Table, columns: Sequence[LoadColumn]) -> list[sql.Composed]:
    """The statements that give the table new columns, NULL in the rows that are there."""
    statement = sql.SQL("ALTER TABLE {} ADD COLUMN {} {}")
    return [
        statement.format(target_name(table), sql.Identifier(column.name), sql.SQL(column.type.name))
        for column in columns
    ]


@dataclass(frozen=True, slots=True)
class SetAside:
    """The indexes that a table had; ``definitions`` make them again, in order."""

    definitions: tuple[sql.Composable, ...]

    def put_back(self, connection: Connection) -> None:
        """Make them again. Raises psycopg2's UniqueViolation where two rows have a key of one."""
        execute_all(connection, self.definitions)


_INDEXES = """
    SELECT c.relname, n.nspname, pg_get_indexdef(i.indexrelid), k.conname, k.contype::text,
           i.indisvalid AND NOT i.indisclustered AND NOT i.indisreplident AND NOT i.indisexclusion
             AND c.reltablespace = 0 AND NOT coalesce(k.condeferrable, false)
             AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = c.oid)
             AND NOT EXISTS (SELECT FROM pg_description d WHERE d.objoid IN (c.oid, k.oid))
             AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attstattarget >= 0)
      FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid
     WHERE i.indrelid = %s ORDER BY c.relname
"""


def set_aside_indexes(connection: Connection, table: Table) -> SetAside | None:
    """Drop the indexes of a table that nobody uses right now; from then on nobody can, until the transaction ends.

    None where there are none, where one would not come back as it was, or where this role may not: then nothing is
    changed, and nothing locked.
    """
    found = rows(connection, _INDEXES, (table.oid,))
    if not found or not table.owned or not all(plain for *_, plain in found):
        return None
    execute(connection, sql.SQL("SAVEPOINT loader_indexes"))
    try:
        execute(connection, sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE NOWAIT").format(target_name(table)))
        for index, schema, _, constraint, _, _ in found:
            execute(connection, _drop(table, schema, index, constraint))
    except psycopg2.Error:  # somebody is using it, or something depends on an index: a foreign key, a view's GROUP BY
        if connection.closed:
            raise
        execute(connection, "ROLLBACK TO SAVEPOINT loader_indexes; RELEASE SAVEPOINT loader_indexes")
        return None
    execute(connection, "RELEASE SAVEPOINT loader_indexes")
    return SetAside(tuple(each for index in found for each in _made_again(table, *index[:5])))


def _drop(table: Table, schema: str, index: str, constraint: str | None) -> sql.Composed:
    if constraint is None:
        return sql.SQL("DROP INDEX {}").format(sql.Identifier(schema, index))
    return sql.SQL("ALTER TABLE ONLY {} DROP CONSTRAINT {}").format(target_name(table), sql.Identifier(constraint))


def _made_again(
    table: Table, index: str, _schema: str, definition: str, constraint: str | None, kind: str | None
) -> list[sql.Composable]:
    made: list[sql.Composable] = [sql.SQL(definition)]  # the server's own words, with its own quotes
    if constraint is not None:
        statement = sql.SQL("ALTER TABLE ONLY {} ADD CONSTRAINT {} {} USING INDEX {}")
        words = sql.SQL("PRIMARY KEY" if kind == "p" else "UNIQUE")
        made.append(statement.format(target_name(table), sql.Identifier(constraint), words, sql.Identifier(index)))
    return made


def is_empty(connection: Connection, table: Table) -> bool:
    """Whether the table is seen, at a glance, to have no rows; not where it is locked or may not be read."""
    execute(connection, sql.SQL("SAVEPOINT loader_glance"))
    try:
        execute(
            connection, sql.SQL("SET LOCAL lock_timeout = {0}; SET LOCAL statement_timeout = {0}").format(_PATIENCE)
        )
        statement = sql.SQL("SELECT NOT EXISTS (SELECT FROM {})").format(target_name(table))
        return bool(rows(connection, statement)[0][0])
    except psycopg2.Error:
        if connection.closed:
            raise
        return False
    finally:
        if not connection.closed:
            execute(connection, sql.SQL("ROLLBACK TO SAVEPOINT loader_glance"))


def is_wanted(connection: Connection, table: Table) -> bool:
    """Whether somebody waits for the table."""
    statement = (
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'relation' AND relation = %s AND NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
    )
    return bool(rows(connection, statement, (table.oid,))[0][0])
