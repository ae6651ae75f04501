"""The one place that hands statements to psycopg2.

psycopg2 looks for ``%s`` in a statement's text whenever it is given parameters, even an empty tuple, and it looks
inside quotes too: the name ``"Growth %"`` is a broken placeholder to it. So a statement without parameters goes to
psycopg2 without any. In a statement that was composed of names (`psycopg2.sql`), a parameter stands only where a
`psycopg2.sql.Placeholder` does; any other ``%`` in it is a plain character, whether it comes from a name, a literal, a
type, or a definition that the server gave.

A plain string is a constant of this package, with ``%s`` or ``%(name)s`` where its parameters go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class
from psycopg2.extras import execute_values

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""What binary COPY begins with (manual, COPY, "Binary Format"): signature, flags, length of the header's extension."""

TRAILER = b"\xff\xff"
"""What it ends with."""

Statement = str | sql.Composable
Parameters = Sequence[Any] | Mapping[str, Any]


def execute(connection: Connection, statement: Statement, parameters: Parameters = ()) -> int:
    """Run a statement in the transaction that is open, and give the number of rows it touched."""
    with connection.cursor() as cursor:
        cursor.execute(_text(connection, statement, parameters), parameters or None)
        return cursor.rowcount


def execute_all(connection: Connection, statements: Sequence[Statement]) -> None:
    """Run statements without parameters, one after the other."""
    for statement in statements:
        execute(connection, statement)


def rows(connection: Connection, statement: Statement, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
    """All rows of a statement's answer. Raises psycopg2.ProgrammingError for a statement that has none."""
    with connection.cursor() as cursor:
        cursor.execute(_text(connection, statement, parameters), parameters or None)
        return cursor.fetchall()


def planned_rows(
    connection: Connection,
    statement: str,
    parameters: Mapping[str, Any],
    *,
    after: sql.Composable | None = None,
) -> list[tuple[Any, ...]]:
    """All rows of a statement that a session runs for each load. A `database` session plans it once; its parameters get
    their types from where they stand. ``statement``: a constant of this package with ``%(name)s`` where they go.
    ``after``: another one, without parameters, which is sent with it and run before it."""
    known: set[str] | None = getattr(connection, "planned", None)
    first = "" if after is None else _literally(after.as_string(connection)) + ";"
    if known is None:
        return rows(connection, first + statement, parameters)
    name, preparing, executing = _planned(statement)
    if name not in known:
        execute(connection, preparing)
        known.add(name)
    return rows(connection, first + executing, parameters)


def planned_row(
    connection: Connection, statement: sql.Composable, settings: sql.Composable, *, most: int = 256
) -> tuple[Any, ...]:
    """The row of a statement without parameters that a session runs for each load of one kind. A `database` session
    plans it once, under those ``settings``, up to so many of them."""
    text = statement.as_string(connection)
    name = _name_of(text)
    known: set[str] | None = getattr(connection, "planned", None)
    if known is None or name not in known:
        execute(connection, settings)
        if known is None or len(known) >= most:
            return rows(connection, statement)[0]
        execute(connection, sql.SQL("PREPARE {} AS ").format(sql.Identifier(name)) + sql.SQL(text))
        known.add(name)
    return rows(connection, sql.SQL("EXECUTE {}").format(sql.Identifier(name)))[0]


@lru_cache(maxsize=256)
def _planned(statement: str) -> tuple[str, str, str]:
    """A name for it, and what prepares and what runs it."""
    names = list(dict.fromkeys(_NAMED.findall(statement)))
    name = _name_of(statement)
    numbered = statement % {each: f"${number}" for number, each in enumerate(names, 1)}
    given = f"({', '.join(f'%({each})s' for each in names)})" if names else ""
    return name, f"PREPARE {name} AS {numbered}", f"EXECUTE {name}{given}"


def _name_of(statement: str) -> str:
    """By which a session knows a statement that it has planned."""
    return f"loader_{sha256(statement.encode()).hexdigest()[:16]}"


_NAMED = re.compile(r"(?<!%)(?:%%)*%\((\w+)\)s")


def stream(
    connection: Connection, statement: Statement, parameters: Parameters = (), *, name: str, fetched: int
) -> Iterator[tuple[Any, ...]]:
    """The rows of a query, through the server's cursor ``name``, ``fetched`` rows at a time."""
    with connection.cursor(name=name) as cursor:
        cursor.itersize = fetched
        cursor.execute(_text(connection, statement, parameters), parameters or None)
        yield from cursor


def insert(connection: Connection, statement: str, values: Sequence[Sequence[Any]], *, page_size: int = 1000) -> None:
    """Insert many rows. ``statement``: a constant with ``VALUES %s`` in it; ``page_size``: rows of one statement."""
    with connection.cursor() as cursor:
        execute_values(cursor, statement, values, page_size=page_size)


def copy(connection: Connection, statement: Statement, stream: Any, *, size: int) -> int:
    """COPY from or to ``stream``, ``size`` bytes at a time, and give the number of rows."""
    with connection.cursor() as cursor:
        cursor.copy_expert(_text(connection, statement, ()), stream, size=size)
        return cursor.rowcount


def _text(connection: Connection, statement: Statement, parameters: Parameters) -> str:
    """The statement as psycopg2 takes it together with these parameters."""
    if isinstance(statement, str):
        return statement
    if not parameters:
        return statement.as_string(connection)
    return "".join(
        part.as_string(connection) if isinstance(part, sql.Placeholder) else _literally(part.as_string(connection))
        for part in _parts(statement)
    )


def _literally(text: str) -> str:
    return text.replace("%", "%%")


def _parts(statement: sql.Composable) -> Iterator[sql.Composable]:
    if isinstance(statement, sql.Composed):
        for part in statement.seq:
            yield from _parts(part)
    else:
        yield statement
