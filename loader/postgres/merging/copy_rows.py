"""Staged rows into a target by COPY: rewrite rules change what INSERT does, and COPY does not run them.

A connection copies one way at a time, so the rows come to this side in chunks of bounded size and go back.
"""

from __future__ import annotations

from collections.abc import Iterator
from tempfile import SpooledTemporaryFile

from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.postgres.merging.staging import COPY_SIZE, Staging
from loader.postgres.statements import copy, rows

CHUNK = 8 << 20
"""Bytes of text in a chunk, about; a longer record is one of its own. What is longer goes to a file."""


def move_by_copy(
    connection: Connection,
    staging: Staging,
    target: sql.Composable,
    selecting: sql.Composable,
    names: sql.Composable,
) -> int:
    """COPY what ``selecting`` gives, of staged rows with the alias ``s``, into the columns ``names`` of ``target``.

    ``selecting`` ends within its WHERE clause. Gives the number of rows that the target took. Works in the transaction
    that is open; raises psycopg2's errors.
    """
    giving = sql.SQL("COPY ({} AND s.{} BETWEEN {} AND {}) TO STDOUT")
    taking = sql.SQL("COPY {} ({}) FROM STDIN").format(target, names)
    position = sql.Identifier(staging.position)
    moved = 0
    for first, last in _chunks(connection, staging):
        part = giving.format(selecting, position, sql.Literal(first), sql.Literal(last))
        with SpooledTemporaryFile(2 * CHUNK) as chunk:
            copy(connection, part, chunk, size=COPY_SIZE)
            chunk.seek(0)
            moved += copy(connection, taking, chunk, size=COPY_SIZE)
    return moved


def _chunks(connection: Connection, staging: Staging) -> Iterator[tuple[int, int]]:
    """The first and the last position of each chunk of the staged rows."""
    statement = sql.SQL(
        "SELECT min({0}), max({0}) FROM (SELECT {0}, sum(octet_length(s::text)) OVER (ORDER BY {0}) / {2} AS chunk"
        " FROM {1} s) AS numbered GROUP BY chunk ORDER BY 1"
    )
    found = rows(connection, statement.format(sql.Identifier(staging.position), staging.name, sql.Literal(CHUNK)))
    yield from found
