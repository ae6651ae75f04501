"""Staging tables, and `copy_expert` into them or straight into the target.

A staging table is UNLOGGED and lives in schema ``loader``. It has the load's columns, each of its own type or,
where the server is to cast it, of type text, and where the merge needs the file's order, `POSITION`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.columns import LoadColumn
from loader.encode import HEADER, TRAILER
from loader.records import POSITION
from loader.tables import staging_name

COPY_SIZE = 1 << 20
"""What psycopg2 asks ``read`` for. It takes more than that too, so buffers go over whole; what counts is that
it is not the default 8 KiB, for which a reader would cut them up."""


@dataclass(frozen=True, slots=True)
class Staging:
    """One load's staging table."""

    load_id: int
    columns: tuple[LoadColumn, ...]
    with_position: bool

    @property
    def name(self) -> sql.Identifier:
        return sql.Identifier("loader", staging_name(self.load_id))

    @property
    def written(self) -> tuple[str, ...]:
        """Names of the columns that COPY writes, in order."""
        names = tuple(column.name for column in self.columns)
        return (*names, self.position) if self.with_position else names

    @property
    def position(self) -> str:
        """The name of the column that orders records: `POSITION`, or longer where a column has that name."""
        name = POSITION
        while any(column.name == name for column in self.columns):
            name += "_"
        return name

    def create(self, connection: Connection) -> None:
        """Create the table in the transaction that is open."""
        columns = [
            sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.type.staging_name))
            for column in self.columns
        ]
        if self.with_position:
            columns.append(sql.SQL("{} bigint").format(sql.Identifier(self.position)))
        # autovacuum would only ever find rows that are about to be dropped
        statement = sql.SQL("CREATE UNLOGGED TABLE {} ({}) WITH (autovacuum_enabled = off)")
        with connection.cursor() as cursor:
            cursor.execute(statement.format(self.name, sql.SQL(", ").join(columns)))

    def drop(self, connection: Connection) -> None:
        """Drop the table in the transaction that is open; it may be gone already."""
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self.name))


class _Stream:
    """What `copy_expert` reads from: header, buffers, trailer.

    psycopg2 swallows what ``read`` raises and reports a failed COPY, so the first cause is kept here.
    """

    def __init__(self, buffers: Iterator[bytes]) -> None:
        self._pieces = self._framed(buffers)
        self.error: BaseException | None = None

    def read(self, _size: int = -1) -> bytes:
        try:
            return next(self._pieces, b"")
        except BaseException as error:
            self.error = error
            raise

    def readline(self, _size: int = -1) -> bytes:
        """Of psycopg2's protocol, which never calls it."""
        raise NotImplementedError

    @staticmethod
    def _framed(buffers: Iterator[bytes]) -> Iterator[bytes]:
        yield HEADER
        for buffer in buffers:
            if buffer:  # an empty answer means the end
                yield buffer
        yield TRAILER


def copy(connection: Connection, table: sql.Composable, columns: Sequence[str], buffers: Iterator[bytes]) -> int:
    """COPY binary tuples into ``table`` in the transaction that is open, and give the number of rows it took.

    Raises what ``buffers`` raised, or psycopg2's error.
    """
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
        table, sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    stream = _Stream(buffers)
    with connection.cursor() as cursor:
        try:
            cursor.copy_expert(statement.as_string(connection), stream, size=COPY_SIZE)
        except Exception:
            if stream.error is not None:
                raise stream.error from None
            raise
        return cursor.rowcount
