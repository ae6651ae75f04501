"""From staging to target, in the transaction that is open, and how many rows it changed in which way.

UPDATE and INSERT instead of MERGE: their command tags tell updated from inserted on every PostgreSQL from
15 on, where MERGE says so only from 17 on. "Unchanged" is compared to the letter: text by its bytes, floats
and types that are carried as text by their text output, so that ``1.0`` replaces ``1.00``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg2
import pyarrow as pa
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.catalog import rows
from loader.columns import LoadColumn
from loader.errors import TableError
from loader.refusals import Refused, is_refusal
from loader.report import reason_of
from loader.spec import LoadSpec
from loader.staging import Staging
from loader.tables import Table

_ALL = sql.SQL("true")

WORK_MEM = "64MB"
"""For the merge's hash tables: at the default 4 MB, finding repeated keys among 2 M rows spills to disk."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the staged rows. ``deleted`` counts rows of the table that ``replace`` took out."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicate: int = 0
    deleted: int = 0


def merge_key(spec: LoadSpec, table: Table, columns: Sequence[LoadColumn]) -> tuple[str, ...]:
    """The key columns by which rows are matched, empty where the load matches none.

    Raises TableError where the mode needs a key and there is none, or it is not among the columns.
    """
    if spec.mode == "append":
        return ()
    key = spec.key or table.primary_key
    if spec.mode == "merge" and not key:
        raise TableError(f'{table}: has no primary key, so mode "merge" needs a "key" in the spec')
    loaded = {column.name for column in columns}
    missing = [name for name in key if name not in loaded]
    if spec.mode == "replace" and (missing or not _covers(table, loaded)) and not table.referenced:
        return ()
    if missing:
        raise TableError(f'{table}: the key column "{missing[0]}" is not among the columns that are loaded')
    if table.referenced and not key:
        raise TableError(f"{table}: other tables refer to it and it has no primary key, so it cannot be replaced")
    return key


def _covers(table: Table, loaded: set[str]) -> bool:
    return table.oid is None or all(column.generated or column.name in loaded for column in table.columns)


def create_table(connection: Connection, table: Table, columns: Sequence[LoadColumn], key: Sequence[str]) -> None:
    """Create the target, with ``key`` as its primary key."""
    parts = [sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.type.name)) for column in columns]
    if key:
        parts.append(sql.SQL("PRIMARY KEY ({})").format(_names(key)))
    _run(connection, sql.SQL("CREATE TABLE {} ({})").format(target_name(table), sql.SQL(", ").join(parts)))


def add_columns(connection: Connection, table: Table, columns: Sequence[LoadColumn]) -> None:
    """Give the table new columns, NULL in the rows that are there."""
    for column in columns:
        statement = sql.SQL("ALTER TABLE {} ADD COLUMN {} {}")
        parts = target_name(table), sql.Identifier(column.name), sql.SQL(column.type.name)
        _run(connection, statement.format(*parts))


def target_name(table: Table) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)


@dataclass(frozen=True, slots=True)
class Merge:
    """Moves the rows of ``staging`` into ``table``. ``key``: see `merge_key`."""

    staging: Staging
    table: Table
    key: tuple[str, ...]
    replace: bool = False

    def run(self, connection: Connection) -> Counts:
        """Do it. Raises psycopg2's errors; the caller rolls back."""
        duplicate, deleted = self._prepare(connection)
        filled = bool(self.key) and self._has_rows(connection)
        updated, inserted = self._write(connection, filled=filled)
        staged = self._count(connection)
        return Counts(inserted, updated, staged - inserted - updated, duplicate, deleted)

    def insert_part(self, connection: Connection, first: int, past: int) -> int:
        """Insert the records from number ``first`` up to ``past``, where nothing has to be matched; gives the rows."""
        index = sql.Literal(f"loader.{self.staging.index}")
        _run(connection, sql.SQL("SELECT brin_summarize_new_values({}::regclass)").format(index))
        _run(connection, sql.SQL("SET LOCAL enable_seqscan = off"))
        position = sql.Identifier(self.staging.position)
        part = sql.SQL("s.{0} >= {1} AND s.{0} < {2}").format(position, sql.Literal(first), sql.Literal(past))
        return self._insert(connection, part, only_new=False)

    def run_carefully(self, connection: Connection, *, at_most: int) -> tuple[Counts, list[Refused]]:
        """The same, and records that the target refuses are left out and told, as long as they are ``at_most``.

        A half of the records that is refused as a whole is halved again, down to the record; earlier halves are
        in the table before later ones are tried, so the outcome is that of one record after another.
        """
        duplicate, deleted = self._prepare(connection)
        filled = bool(self.key) and self._has_rows(connection)
        first, last = self._bounds(connection)
        updated = inserted = 0
        refused: list[Refused] = []
        pending = [(first, last)] if first is not None and last is not None else []
        while pending and len(refused) < at_most:
            first, last = pending.pop()
            written = self._try(connection, first, last, filled=filled)
            if isinstance(written, tuple):
                updated, inserted = updated + written[0], inserted + written[1]
            elif first == last:
                refused.append(_refused(first, written))
            else:
                pending += self._halves(connection, first, last)
        staged = self._count(connection) - len(refused)
        return Counts(inserted, updated, staged - inserted - updated, duplicate, deleted), refused

    def _prepare(self, connection: Connection) -> tuple[int, int]:
        """Repeated keys leave staging, and where the mode is replace, rows that the file has not leave the table."""
        _run(connection, sql.SQL("SET LOCAL work_mem = {}").format(sql.Literal(WORK_MEM)))
        _run(connection, sql.SQL("ANALYZE {}").format(self.staging.name))
        duplicate = self._drop_repeated(connection) if self.key else 0
        return duplicate, self._delete(connection) if self.replace else 0

    def _write(self, connection: Connection, *, filled: bool, among: sql.Composable = _ALL) -> tuple[int, int]:
        """Rows updated and inserted."""
        updated = self._update(connection, among) if filled else 0
        return updated, self._insert(connection, among, only_new=filled)

    def _try(self, connection: Connection, first: int, last: int, *, filled: bool) -> tuple[int, int] | psycopg2.Error:
        """Write the records from one position to another; what became of them, or why they were refused."""
        among = sql.SQL("s.{} BETWEEN {} AND {}").format(
            sql.Identifier(self.staging.position), sql.Literal(first), sql.Literal(last)
        )
        _run(connection, sql.SQL("SAVEPOINT loader_merge"))
        try:
            _run(connection, sql.SQL("SET CONSTRAINTS ALL IMMEDIATE"))
            written = self._write(connection, filled=filled, among=among)
        except psycopg2.Error as error:
            if not is_refusal(error):
                raise
            _run(connection, sql.SQL("ROLLBACK TO SAVEPOINT loader_merge"))
            return error
        _run(connection, sql.SQL("RELEASE SAVEPOINT loader_merge"))
        return written

    def _bounds(self, connection: Connection) -> tuple[int | None, int | None]:
        """The first and the last position, after an index was built over all, for the halves to be found by."""
        position = sql.Identifier(self.staging.position)
        _run(connection, sql.SQL("CREATE INDEX ON {} ({})").format(self.staging.name, position))
        return self._row(connection, sql.SQL("SELECT min({0}), max({0}) FROM {1}").format(position, self.staging.name))

    def _halves(self, connection: Connection, first: int, last: int) -> list[tuple[int, int]]:
        """The two halves of the positions from one to another, of which there are at least two; the later one first."""
        position = sql.Identifier(self.staging.position)
        statement = sql.SQL(
            "SELECT max({0}) FILTER (WHERE nth <= total / 2), min({0}) FILTER (WHERE nth > total / 2) FROM"
            " (SELECT {0}, row_number() OVER (ORDER BY {0}) AS nth, count(*) OVER () AS total FROM {1}"
            " WHERE {0} BETWEEN {2} AND {3}) AS numbered"
        ).format(position, self.staging.name, sql.Literal(first), sql.Literal(last))
        end, begin = self._row(connection, statement)
        return [(begin, last), (first, end)]

    def _drop_repeated(self, connection: Connection) -> int:
        """The last record of a repeated key wins: the earlier ones leave staging."""
        keys = sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(self._value(name, "s"), sql.Identifier(name)) for name in self.key
        )
        statement = sql.SQL(
            "DELETE FROM {staging} s USING (SELECT {keys}, max({position}) AS last FROM {staging} s"
            " GROUP BY {numbers} HAVING count(*) > 1) r WHERE {same} AND s.{position} < r.last"
        )
        return _run(
            connection,
            statement.format(
                staging=self.staging.name,
                keys=keys,
                position=sql.Identifier(self.staging.position),
                numbers=sql.SQL(", ").join(sql.SQL(str(number + 1)) for number in range(len(self.key))),
                same=self._same_key("r"),
            ),
        )

    def _delete(self, connection: Connection) -> int:
        """Rows that the file does not have; without a key to tell by, all of them.

        DELETE and not TRUNCATE: a reader with an older snapshot would see a truncated table empty (manual,
        13.6), and rows that other tables refer to must not go only to come back.
        """
        target = target_name(self.table)
        if not self.key:
            return _run(connection, sql.SQL("DELETE FROM {}").format(target))
        statement = sql.SQL("DELETE FROM {} t WHERE NOT EXISTS (SELECT FROM {} s WHERE {})")
        return _run(connection, statement.format(target, self.staging.name, self._same_key("t")))

    def _has_rows(self, connection: Connection) -> bool:
        return bool(self._row(connection, sql.SQL("SELECT EXISTS (SELECT FROM {})").format(target_name(self.table)))[0])

    def _update(self, connection: Connection, among: sql.Composable) -> int:
        others = [column for column in self.staging.columns if column.name not in self.key]
        if not others:
            return 0
        assignments = [
            sql.SQL("{} = {}").format(sql.Identifier(column.name), self._value(column.name, "s")) for column in others
        ]
        differences = [self._differs(column) for column in others]
        statement = sql.SQL("UPDATE {} t SET {} FROM {} s WHERE {} AND ({}) AND {}").format(
            target_name(self.table),
            sql.SQL(", ").join(assignments),
            self.staging.name,
            self._same_key("t"),
            sql.SQL(" OR ").join(differences),
            among,
        )
        return _run(connection, statement)

    def _differs(self, column: LoadColumn) -> sql.Composed:
        stored, staged = sql.Identifier("t", column.name), self._value(column.name, "s")
        if column.type.wire not in ("arrow", "uuid", "enum") or pa.types.is_floating(column.type.arrow):
            template = '{}::text COLLATE "C" IS DISTINCT FROM {}::text COLLATE "C"'
        elif pa.types.is_string(column.type.arrow):
            template = '{} COLLATE "C" IS DISTINCT FROM {} COLLATE "C"'
        else:
            template = "{} IS DISTINCT FROM {}"
        return sql.SQL(template).format(stored, staged)

    def _insert(self, connection: Connection, among: sql.Composable, *, only_new: bool) -> int:
        names = [column.name for column in self.staging.columns]
        statement = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} s WHERE {}").format(
            target_name(self.table),
            _names(names),
            sql.SQL(", ").join(self._value(name, "s") for name in names),
            self.staging.name,
            among,
        )
        if only_new:
            statement += sql.SQL(" AND NOT EXISTS (SELECT FROM {} t WHERE {})").format(
                target_name(self.table), self._same_key("t")
            )
        return _run(connection, statement)

    def _count(self, connection: Connection) -> int:
        return int(self._row(connection, sql.SQL("SELECT count(*) FROM {}").format(self.staging.name))[0])

    def _row(self, connection: Connection, statement: sql.Composable) -> tuple[Any, ...]:
        return rows(connection, statement)[0]

    def _same_key(self, alias: str) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier(alias, name), self._value(name, "s")) for name in self.key
        )

    def _value(self, name: str, alias: str) -> sql.Composable:
        """A staged value as the target's type."""
        column = next(each for each in self.staging.columns if each.name == name)
        if not column.type.text_only:
            return sql.Identifier(alias, name)
        return sql.SQL("({}::{})").format(sql.Identifier(alias, name), sql.SQL(column.type.name))


def _refused(position: int, error: psycopg2.Error) -> Refused:
    told = error.diag
    message = f"{told.message_primary}: {told.message_detail}" if told.message_detail else told.message_primary
    sqlstate = error.pgcode or ""
    # no constraint by name: there is no partition for it
    reason = "no_partition" if sqlstate == "23514" and told.constraint_name is None else reason_of(sqlstate)
    return Refused(position, told.column_name, reason, sqlstate, message or str(error))


def _names(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _run(connection: Connection, statement: sql.Composable) -> int:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.rowcount
