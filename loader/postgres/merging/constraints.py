"""What the target's constraints refuse of the staged records, found set by set before the merge.

A unique index, a foreign key or a CHECK that one record in a million breaks would fail the whole statement that
moves them. So each constraint is put as a question to the staging table: which records would break it? They leave
staging, and each is told by its position. The answer is that of ``COPY`` given the records one after another: of
two records with one key the first stays. What no question covers (exclusion constraints, triggers, a
partitioned table without a place for a row, a CHECK that itself fails) `merge` finds by halving.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.core.report import reason_of
from loader.postgres.catalog import SAME_EQUALITY
from loader.postgres.merging.staging import Staging, collating
from loader.postgres.statements import execute, rows
from loader.postgres.tables import Table

REFUSALS = ("22", "23", "44", "54", "P0")
"""Classes of SQLSTATE by which PostgreSQL refuses what a record holds: data exceptions, integrity constraints, a
view's check option, limits that a value goes beyond (JSON nested too deep), and what a trigger's function raises
(manual, appendix A)."""


def is_refusal(error: BaseException) -> bool:
    """Whether PostgreSQL's error is about what a record holds, and not about the ledger."""
    if not isinstance(error, psycopg2.Error) or (error.pgcode or "")[:2] not in REFUSALS:
        return False
    return error.diag.schema_name != "loader"


@dataclass(frozen=True, slots=True)
class Refused:
    """A staged record that the target would not have. ``position``: see `binary_copy.positions`."""

    position: int
    column: str | None
    reason: str
    sqlstate: str
    message: str


@dataclass(frozen=True, slots=True)
class _Question:
    """``broken``: SQL of a condition over a staged row; ``columns`` are those of the constraint. ``again``: whoever
    goes may make others break it, so it is asked until nobody does."""

    broken: sql.Composable
    columns: tuple[str, ...]
    sqlstate: str
    message: str
    again: bool = False


def sift(
    connection: Connection, staging: Staging, table: Table, *, keyed: bool, emptied: bool, at_most: int
) -> list[Refused]:
    """Take the records that the target would refuse out of staging, in the transaction that is open.

    ``keyed``: rows are matched by a key, so an existing key is no violation. ``emptied``: the target's rows go
    before these come. No more than ``at_most`` records are looked for.
    """
    found: list[Refused] = []
    if table.oid is None:
        return found
    shape = _Shape(staging, table)
    for question in _questions(connection, shape, table, keyed=keyed, emptied=emptied):
        if len(found) >= at_most:
            break
        while taken := _take_out(connection, shape, question, at_most - len(found)):
            found += taken
            if not question.again or len(found) >= at_most:
                break
    return found


class _Shape:
    """The staging table as the target would have its rows: its name, its columns, its values."""

    def __init__(self, staging: Staging, table: Table) -> None:
        self.staging = staging
        self.alias = sql.Identifier(table.name)  # conditions of the table's own may say whose columns they mean
        self.other = sql.Identifier("r_" if table.name == "r" else "r")
        self.loaded = {column.name for column in staging.columns}
        values = sql.SQL(", ").join(sql.Identifier("s", name) for name in staging.written)
        self.rows = sql.SQL("(SELECT {} FROM {} s) AS {}").format(values, staging.name, self.alias)

    def column(self, name: str) -> sql.Composable:
        return sql.SQL(".").join([self.alias, sql.Identifier(name)])

    @property
    def position(self) -> sql.Composable:
        return self.column(self.staging.position)


def _questions(
    connection: Connection, shape: _Shape, table: Table, *, keyed: bool, emptied: bool
) -> Iterator[_Question]:
    yield from _checks(connection, shape, table)
    references = list(_foreign_keys(connection, shape, table))
    yield from (each for each in references if not each.again)
    if not keyed:
        yield from _unique_indexes(connection, shape, table, emptied=emptied)
    yield from (each for each in references if each.again)


_CHECKS = """
    SELECT c.conname, pg_get_expr(c.conbin, c.conrelid),
           ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey))
      FROM pg_constraint c WHERE c.conrelid = %s AND c.contype = 'c' ORDER BY c.conname
"""


def _checks(connection: Connection, shape: _Shape, table: Table) -> Iterator[_Question]:
    for name, expression, columns in rows(connection, _CHECKS, (table.oid,)):
        if set(columns) <= shape.loaded:
            message = f'new row for relation "{table.name}" violates check constraint "{name}"'
            broken = sql.SQL("NOT ({})").format(sql.SQL(expression))
            yield _Question(broken, tuple(columns), "23514", message)


_FOREIGN_KEYS = """
    SELECT c.conname, c.confrelid::regclass::text, n.nspname, r.relname,
           c.confmatchtype::text, c.confrelid = c.conrelid,
           ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY k(num, place), pg_attribute a
                  WHERE a.attrelid = c.conrelid AND a.attnum = k.num ORDER BY k.place),
           ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY k(num, place), pg_attribute a
                  WHERE a.attrelid = c.confrelid AND a.attnum = k.num ORDER BY k.place),
           ARRAY(SELECT CASE WHEN a.attcollation <> 0 THEN format('%%I.%%I', s.nspname, l.collname) END
                   FROM unnest(c.confkey) WITH ORDINALITY k(num, place)
                   JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.num
                   LEFT JOIN pg_collation l ON l.oid = a.attcollation
                   LEFT JOIN pg_namespace s ON s.oid = l.collnamespace
                  ORDER BY k.place)
      FROM pg_constraint c JOIN pg_class r ON r.oid = c.confrelid JOIN pg_namespace n ON n.oid = r.relnamespace
     WHERE c.conrelid = %s AND c.contype = 'f' ORDER BY c.conname
"""


def _foreign_keys(connection: Connection, shape: _Shape, table: Table) -> Iterator[_Question]:
    for name, shown, schema, relation, match, own, columns, referenced, collations in rows(
        connection, _FOREIGN_KEYS, (table.oid,)
    ):
        if not set(columns) <= shape.loaded or (own and not set(referenced) <= shape.loaded):
            continue
        pairs = list(zip(columns, referenced, collations, strict=True))
        missing = _missing(shape, sql.Identifier(schema, relation), pairs)
        if own:  # a row may refer to another of the same file
            missing += sql.SQL(" AND ") + _missing(shape, shape.staging.name, pairs)
        whole = sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(shape.column(each)) for each in columns)
        broken = sql.SQL("({} AND {})").format(whole, missing)
        if match == "f":
            some = sql.SQL(" OR ").join(sql.SQL("{} IS NOT NULL").format(shape.column(each)) for each in columns)
            broken = sql.SQL("({} OR (({}) AND NOT ({})))").format(broken, some, whole)
        message = f'insert into table "{table.name}" violates foreign key constraint "{name}": no such row in {shown}'
        yield _Question(broken, tuple(columns), "23503", message, again=own)


def _missing(shape: _Shape, relation: sql.Composable, pairs: Sequence[tuple[str, str, str | None]]) -> sql.Composed:
    """``pairs``: of columns, one that refers and the other that it refers to, whose collation decides."""
    same = sql.SQL(" AND ").join(
        sql.SQL("{}.{} = {}{}").format(shape.other, sql.Identifier(other), shape.column(name), collating(collation))
        for name, other, collation in pairs
    )
    return sql.SQL("NOT EXISTS (SELECT FROM {} {} WHERE {})").format(relation, shape.other, same)


_UNIQUE_INDEXES = """
    SELECT c.relname, i.indnullsnotdistinct,
           pg_get_expr(i.indpred, i.indrelid) IS NULL AND 0 <> ALL (i.indkey::int2[]) AND <same equality>,
           ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(num, place), pg_attribute a
                  WHERE a.attrelid = i.indrelid AND a.attnum = k.num AND k.place <= i.indnkeyatts ORDER BY k.place)
      FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
     WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid ORDER BY c.relname
""".replace("<same equality>", SAME_EQUALITY)


def _unique_indexes(connection: Connection, shape: _Shape, table: Table, *, emptied: bool) -> Iterator[_Question]:
    found = [
        (name, nulls_are_same, tuple(columns))
        for name, nulls_are_same, plain, columns in rows(connection, _UNIQUE_INDEXES, (table.oid,))
        if plain and set(columns) <= shape.loaded
    ]
    target = sql.Identifier(table.schema, table.name)
    for name, nulls_are_same, columns in found if not emptied else ():
        equals = "{}.{} IS NOT DISTINCT FROM {}" if nulls_are_same else "{}.{} = {}"
        same = sql.SQL(" AND ").join(
            sql.SQL(equals).format(shape.other, sql.Identifier(each), shape.column(each)) for each in columns
        )
        broken = sql.SQL("EXISTS (SELECT FROM {} {} WHERE {})").format(target, shape.other, same)
        yield _Question(broken, columns, "23505", _duplicate(name, columns, "is in the table already"))
    # In the file itself the first stays. With several indexes, who is first in one depends on who was refused by
    # another: that is for the halving to find, record by record.
    if len(found) == 1:
        for name, nulls_are_same, columns in found:
            yield _Question(
                _repeated(shape, columns, nulls_are_same=nulls_are_same),
                columns,
                "23505",
                _duplicate(name, columns, "is in an earlier record of the file"),
            )


def _repeated(shape: _Shape, columns: Sequence[str], *, nulls_are_same: bool) -> sql.Composed:
    names = sql.SQL(", ").join(map(shape.column, columns))
    there = sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(shape.column(each)) for each in columns)
    positions = sql.SQL(
        "SELECT position FROM (SELECT {position} AS position,"
        " row_number() OVER (PARTITION BY {names} ORDER BY {position}) AS nth"
        " FROM {rows} WHERE {there}) AS numbered WHERE nth > 1"
    ).format(
        position=shape.position,
        names=names,
        rows=shape.rows,
        there=sql.SQL("true") if nulls_are_same else there,
    )
    return sql.SQL("{} IN ({})").format(shape.position, positions)


def _duplicate(index: str, columns: Sequence[str], where: str) -> str:
    return f'duplicate key value violates unique constraint "{index}": its ({", ".join(columns)}) {where}'


def _take_out(connection: Connection, shape: _Shape, question: _Question, at_most: int) -> list[Refused]:
    """The records that break one constraint. One whose condition cannot be computed is left to the halving."""
    statement = sql.SQL(
        "DELETE FROM {staging} WHERE {name} IN (SELECT {position} FROM {rows} WHERE {broken} LIMIT {at_most})"
        " RETURNING {name}"
    ).format(
        staging=shape.staging.name,
        name=sql.Identifier(shape.staging.position),
        position=shape.position,
        rows=shape.rows,
        broken=question.broken,
        at_most=sql.Literal(at_most),
    )
    column = question.columns[0] if len(question.columns) == 1 else None
    execute(connection, "SAVEPOINT loader_sift")
    try:
        positions = [position for (position,) in rows(connection, statement)]
    except psycopg2.Error as error:
        if not is_refusal(error):
            raise
        execute(connection, "ROLLBACK TO SAVEPOINT loader_sift")
        return []
    execute(connection, "RELEASE SAVEPOINT loader_sift")
    reason = reason_of(question.sqlstate)
    return [Refused(each, column, reason, question.sqlstate, question.message) for each in sorted(positions)]
