"""What a straight load has copied, saved in a staging table when it is asked to stop.

The rows are in the target, but only their own transaction sees them, and that is about to be undone. So it reads them
back while another connection writes them to a staging table. A process that is killed saves nothing.

The rows are told from others by their transaction (``xmin``), so COPY must not have run in a subtransaction.
"""

from __future__ import annotations

import os
import threading

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.postgres.merging.staging import COPY_SIZE, Staging
from loader.postgres.merging.target import target_name
from loader.postgres.statements import copy, execute, rows
from loader.postgres.tables import Table

SAVED = "it was interrupted while it went straight into the table, and what it had copied was saved"
"""Why such a load goes on by way of a staging table, for the ledger. The order of its staged rows is not quite that of
the file, so their positions lead to no records."""

FEW_PAGES = 1 << 15
"""Pages of a table, 256 MiB, that are read through for rows that COPY has put where others were deleted."""


def pages_of(connection: Connection, table: Table) -> int:
    """How many pages the table has; 0 where it does not exist."""
    if table.oid is None:
        return 0
    ((pages,),) = rows(
        connection, "SELECT pg_relation_size(%s::oid) / current_setting('block_size')::int", (table.oid,)
    )
    return int(pages)


def save_copied(
    connection: Connection, saving: Connection, staging: Staging, table: Table, *, rows: int, pages: int
) -> bool:
    """Copy the ``rows`` rows that the open transaction of ``connection`` put into ``table`` into ``staging``, in the
    open transaction of ``saving``; whether that was possible. ``pages``: the table's, before they came.

    It is not where the role may not read the table, or where COPY has put rows amid a large table's old ones.
    """
    first = max(pages - 1, 0)
    execute(saving, "SAVEPOINT loader_saving")
    for begin in (first, 0) if 0 < first < FEW_PAGES else (first,):
        try:
            if _move(connection, saving, staging, table, begin) == rows:
                return True
        except psycopg2.Error:
            if saving.closed or connection.closed:
                raise
            return False
        execute(saving, "ROLLBACK TO SAVEPOINT loader_saving")
    return False


def _move(connection: Connection, saving: Connection, staging: Staging, table: Table, begin: int) -> int:
    """The transaction's own rows, from page ``begin`` on; gives their number. Raises psycopg2.Error."""
    giving = sql.SQL(
        "COPY (SELECT {}, row_number() OVER () FROM ONLY {} WHERE ctid >= {} AND xmin = pg_current_xact_id()::xid)"
        " TO STDOUT (FORMAT binary)"
    ).format(
        sql.SQL(", ").join(sql.Identifier(column.name) for column in staging.columns),
        target_name(table),
        sql.Literal(f"({begin},0)"),
    )
    taking = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
        staging.name, sql.SQL(", ").join(map(sql.Identifier, staging.written))
    )
    reading, writing = os.pipe()
    errors: list[BaseException] = []

    def give() -> None:
        try:
            with os.fdopen(writing, "wb", COPY_SIZE) as stream:
                copy(connection, giving, stream, size=COPY_SIZE)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=give, name="loader-save")
    thread.start()
    try:
        with os.fdopen(reading, "rb", COPY_SIZE) as stream:
            return copy(saving, taking, stream, size=COPY_SIZE)
    finally:
        thread.join()
        if errors:
            raise errors[0]
