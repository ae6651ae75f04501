"""PostgreSQL's own COPY, given records one at a time: the judge of what a load must have done."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection


def records_of(data: bytes, *, quote: int | None = 0x22, escape: int | None = 0x22) -> list[tuple[int, bytes]]:
    """Physical line, from 1, and bytes, without the line end, of each record: byte by byte, as the manual has it.

    LF, CR and CRLF outside quotes end a record.
    """
    found: list[tuple[int, bytes]] = []
    record, inside, line, began, at = bytearray(), False, 1, 1, 0
    while at < len(data):
        byte, following = data[at], data[at + 1 : at + 2]
        if inside and byte == escape and following and following[0] in (escape, quote):
            record += data[at : at + 2]
            at += 2
            continue
        if byte == quote:
            inside = not inside
        ends_line = byte == 0x0A or (byte == 0x0D and following != b"\n")
        line += ends_line
        if not inside and byte in b"\r\n":
            found.append((began, bytes(record)))
            at += 2 if byte == 0x0D and following == b"\n" else 1
            line += not ends_line
            record.clear()
            began = line
            continue
        record.append(byte)
        at += 1
    if record:
        found.append((began, bytes(record)))
    return found


def copy_statement(table: sql.Composable, columns: Sequence[str] | None, options: str = "") -> sql.Composed:
    names = sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Identifier, columns))) if columns else sql.SQL("")
    return sql.SQL("COPY {} {} FROM STDIN (FORMAT csv{})").format(table, names, sql.SQL(options))


def copy_one_by_one(
    connection: Connection,
    table: sql.Composable,
    columns: Sequence[str] | None,
    records: Sequence[bytes],
    options: str = "",
) -> dict[int, psycopg2.Error]:
    """COPY each record by itself, in the transaction that is open; what was refused, by the record's number from 1."""
    statement = copy_statement(table, columns, options).as_string(connection)
    refused: dict[int, psycopg2.Error] = {}
    with connection.cursor() as cursor:
        for number, record in enumerate(records, start=1):
            cursor.execute("SAVEPOINT one")
            try:
                cursor.copy_expert(statement, io.BytesIO(record + b"\n"))
            except psycopg2.Error as error:
                refused[number] = error
                cursor.execute("ROLLBACK TO SAVEPOINT one")
    return refused


def output_of(connection: Connection, table: sql.Composable, *, order_by: str | None = None) -> list[list[str | None]]:
    """The table in PostgreSQL's text output (a cast to text would drop the blanks of ``char(n)``)."""
    names = columns_of(connection, table)
    values = sql.SQL(", ").join(
        sql.SQL("CASE num_nulls({name}) WHEN 0 THEN format('%s', {name}) END").format(name=sql.Identifier(name))
        for name in names
    )
    order = sql.SQL(f" ORDER BY {order_by}" if order_by else "")
    return rows(connection, sql.SQL("SELECT {} FROM {}{}").format(values, table, order)) if names else []


def columns_of(connection: Connection, table: sql.Composable) -> dict[str, str]:
    """The columns' names and types, in the table's order."""
    statement = sql.SQL(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = {}::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    ).format(sql.Literal(table.as_string(connection)))
    return {name: type_name for name, type_name in rows(connection, statement)}  # noqa: C416 - lists are no pairs


def rows(connection: Connection, statement: sql.Composable | str) -> list[list[Any]]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return [list(row) for row in cursor]


def in_order(table: list[list[str | None]]) -> list[list[str | None]]:
    """A table's rows in an order of their own, to compare tables as the sets that they are."""
    return sorted(table, key=lambda row: [(value is not None, value or "") for value in row])
