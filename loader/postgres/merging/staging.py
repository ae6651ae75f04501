"""Staging tables, and `copy_expert` into them or straight into the target.

A staging table is UNLOGGED and lives in schema ``loader``. It has the load's columns, each of its own type and with
the collation of the target's column, so that staged keys are the same where the target's are; and `POSITION`: the merge
needs the file's order, and a load that is continued has to know what was staged beyond its checkpoint.

Each attempt at a load has a staging table of its own name. Whoever holds the turn of the load's target may take over
that of an earlier attempt, whatever is left of that attempt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.postgres.copy_forms import CopyForm
from loader.postgres.load_column import LoadColumn
from loader.postgres.statements import HEADER, TRAILER, execute, execute_all
from loader.postgres.statements import copy as run_copy
from loader.postgres.statements import rows as rows_of
from loader.postgres.tables import NEW_TABLE, POSITION, staging_name

COPY_SIZE = 1 << 20
"""What psycopg2 asks ``read`` for. It takes more than that too, so buffers go over whole; what counts is that
it is not the default 8 KiB, for which a reader would cut them up."""


RANGES = 1200
"""Ranges of pages up to which the index on the position is kept up to date.

The first page of its map of ranges holds 1,360. Since PostgreSQL 17 a COPY remembers for all its rows how many such
pages there were when it began. A row that it puts into a range of a later page, summarized since, is not entered in the
index, and a search by the index then misses that row. Seen on 18.4 with two streams: 8 to 10 rows of 3 million. What is
not summarized is always looked at, so ranges beyond these are left alone.
"""

WIDEST = 4096
"""Pages of the widest range: 32 MiB, about a segment. A search by wider ones would look at many times what it wants."""


def pages_per_range(text: int) -> int:
    """Pages of a range with which `RANGES` hold twice so many bytes of ``text``; over `WIDEST` where that is much."""
    pages = 32
    while pages * RANGES * 8192 < 2 * text:
        pages *= 2
    return pages


@dataclass(frozen=True, slots=True)
class Staging:
    """The staging table of one attempt at a load, or of one ``run`` of a shard."""

    load_id: int
    attempt: int
    columns: tuple[LoadColumn, ...]
    run: int | None = None

    @property
    def name(self) -> sql.Identifier:
        return sql.Identifier("loader", staging_name(self.load_id, self.attempt, self.run))

    @property
    def heaps(self) -> tuple[sql.Identifier, ...]:
        """The tables that hold its rows."""
        return (self.name,)

    @property
    def place(self) -> tuple[str, ...]:
        """System columns that tell one of its rows from all others."""
        return ("ctid",)

    @property
    def written(self) -> tuple[str, ...]:
        """Names of the columns that COPY writes, in order."""
        return (*(column.name for column in self.columns), self.position)

    @property
    def position(self) -> str:
        """The name of the column that orders records: `POSITION`, or longer where a column has that name."""
        name = POSITION
        while any(column.name == name for column in self.columns):
            name += "_"
        return name

    @property
    def index(self) -> str:
        """The name of the index by which a run of records is found."""
        return f"position_{self.load_id}" + ("" if self.run is None else f"_{self.run}")

    def create(self, connection: Connection, text: int = 0) -> None:
        """Create the table in the transaction that is open; ``text``: bytes of text that it will hold, about."""
        execute_all(connection, self.creating(text))

    def creating(self, text: int = 0) -> list[sql.Composed]:
        """The statements that create the table."""
        # autovacuum would only ever find rows that are about to be dropped
        statement = sql.SQL("CREATE UNLOGGED TABLE {} ({}) WITH (autovacuum_enabled = off)")
        # records come in their order, nearly, so this costs next to nothing, and finds a segment again
        index = sql.SQL("CREATE INDEX {} ON {} USING brin ({}) WITH (pages_per_range = {})")
        return [
            statement.format(self.name, defining(self)),
            index.format(
                sql.Identifier(self.index),
                self.name,
                sql.Identifier(self.position),
                sql.Literal(min(pages_per_range(text), WIDEST)),
            ),
        ]

    def begin(self, connection: Connection) -> None:
        """Nothing has to be done before a transaction that writes into it: positions tell its rows apart."""

    def drop(self, connection: Connection) -> None:
        """Drop the table in the transaction that is open; it may be gone already."""
        execute(connection, sql.SQL("DROP TABLE IF EXISTS {}").format(self.name))

    def take_over(self, connection: Connection, *, record: int, rows: int) -> bool:
        """Make the table of an earlier attempt this one's, without what it holds from ``record`` on, and commit.

        False where it does not hold the ``rows`` that it should. Under its new name nothing can
        write into it that belongs to the earlier attempt: a session left over from that is ended.
        """
        if not take_name(connection, self.load_id, self.name):
            return False
        beyond = sql.SQL("DELETE FROM {} WHERE {} >= {}")
        execute(connection, beyond.format(self.name, sql.Identifier(self.position), sql.Literal(record)))
        staged = rows_of(connection, sql.SQL("SELECT count(*) FROM {}").format(self.name))[0][0]
        connection.commit()
        return bool(staged == rows)

    def forget_refusals(self, connection: Connection) -> None:
        """Delete the rejects that an earlier merge made of staged records, in the transaction that is open: this one
        will find out for itself."""
        statement = sql.SQL("DELETE FROM loader.rejects r USING {} s WHERE r.load_id = {} AND r.record_number = s.{}")
        execute(connection, statement.format(self.name, sql.Literal(self.load_id), sql.Identifier(self.position)))


@dataclass(frozen=True, slots=True)
class Parts(Staging):
    """The staging of several runs as one table: their parent, which has no rows of its own.

    Tables inherit (manual, 5.11) and are no partitions: a partition's rows would all be read once more, to see that
    they belong there, and PostgreSQL 18 has no unlogged table with partitions.
    """

    runs: tuple[int, ...] = ()

    @property
    def heaps(self) -> tuple[sql.Identifier, ...]:
        names = (staging_name(self.load_id, self.attempt, run) for run in self.runs)
        return tuple(sql.Identifier("loader", name) for name in names)

    @property
    def place(self) -> tuple[str, ...]:
        return ("tableoid", "ctid")

    def create(self, connection: Connection, text: int = 0) -> None:  # noqa: ARG002 - the runs hold it
        """Make it anew, and commit: the transaction of the merge may be rolled back and begun again."""
        parent = staging_name(self.load_id, self.attempt)
        children = rows_of(
            connection,
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = to_regclass(%s)",
            (f"loader.{parent}",),
        )
        leave = sql.SQL("ALTER TABLE {} NO INHERIT {}")
        join = sql.SQL("ALTER TABLE {} INHERIT {}")
        execute_all(connection, [leave.format(sql.Identifier("loader", child), self.name) for (child,) in children])
        execute_all(connection, [sql.SQL("DROP TABLE IF EXISTS {}").format(self.name), *self.creating()])
        execute_all(connection, [join.format(heap, self.name) for heap in self.heaps])
        connection.commit()

    def drop(self, connection: Connection) -> None:
        """Drop it, and the tables of all runs, also of those that were for nothing."""
        drop_tables(connection, self.load_id)


def defining(staging: Staging) -> sql.Composed:
    """The definitions of a staging table's columns, with commas between."""
    columns = [
        sql.SQL("{} {}{}").format(sql.Identifier(column.name), sql.SQL(column.type.name), collating(column.collation))
        for column in staging.columns
    ]
    return sql.SQL(", ").join([*columns, sql.SQL("{} bigint").format(sql.Identifier(staging.position))])


def collating(collation: str | None) -> sql.SQL:
    """The COLLATE clause for a collation by its quoted name; nothing for None."""
    return sql.SQL("" if collation is None else f" COLLATE {collation}")


def tables_of(connection: Connection, load_id: int) -> list[sql.Identifier]:
    """A load's staging tables: one, but where an attempt died between two steps, or has shards.

    Among them are those of `loader.postgres.merging.new_table`, which live in the target's schema.
    """
    found = rows_of(
        connection,
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = 'loader' AND tablename ~ %s"
        " UNION ALL SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'r' AND c.relname ~ %s AND obj_description(c.oid, 'pg_class') = %s"
        " ORDER BY 1, 2",
        # version 2 of the ledger knew no attempts
        (f"^staging_{load_id}(_[0-9]+){{0,2}}$", f"^loader_staging_{load_id}_[0-9]+$", NEW_TABLE),
    )
    return [sql.Identifier(*name) for name in found]


def take_name(connection: Connection, load_id: int, name: sql.Identifier) -> bool:
    """Give an earlier attempt's staging table this attempt's ``name``, locked in the transaction that is open.

    A session of the earlier attempt that still writes into it is ended. False where the load does not have one table.
    """
    found = tables_of(connection, load_id)
    if len(found) != 1:
        return False
    _end_writers(connection, found[0])
    execute(connection, sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(found[0]))
    if found[0] != name:
        last = sql.Identifier(name.strings[-1])
        execute(connection, sql.SQL("ALTER TABLE {} RENAME TO {}").format(found[0], last))
    return True


def drop_tables(connection: Connection, load_id: int) -> None:
    """Drop all staging tables of a load, in the transaction that is open.

    Needs its target's turn: whoever still writes into them, is a leftover.
    """
    for name in reversed(tables_of(connection, load_id)):  # a parent after its children
        _end_writers(connection, name)
        execute(connection, sql.SQL("DROP TABLE IF EXISTS {}").format(name))


def _end_writers(connection: Connection, name: sql.Identifier) -> None:
    """End the sessions that are writing into a staging table, as far as this role may."""
    execute(connection, "SAVEPOINT loader_end_writers")
    with suppress(psycopg2.errors.InsufficientPrivilege):
        execute(
            connection,
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE relation = to_regclass(%s)"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND mode = 'RowExclusiveLock' AND pid <> pg_backend_pid()",
            (name.as_string(connection),),
        )
    execute(connection, "ROLLBACK TO SAVEPOINT loader_end_writers")


class _Stream:
    """What `copy_expert` reads from: the buffers, in binary form between header and trailer.

    psycopg2 swallows what ``read`` raises and reports a failed COPY, so the first cause is kept here.
    """

    def __init__(self, buffers: Iterator[bytes], *, binary: bool) -> None:
        # an empty answer means the end
        self._pieces = filter(None, self._framed(buffers) if binary else buffers)
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
        yield from buffers
        yield TRAILER


def copying(
    table: sql.Composable, columns: Sequence[str], *, freeze: bool = False, form: CopyForm | None = None
) -> sql.Composed:
    """The statement of `copy`."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    how = form.options if form is not None else sql.SQL("FORMAT binary")
    return sql.SQL("COPY {} ({}) FROM STDIN ({}{})").format(table, names, how, sql.SQL(", FREEZE" if freeze else ""))


def copy(
    connection: Connection,
    table: sql.Composable,
    columns: Sequence[str],
    buffers: Iterator[bytes],
    *,
    freeze: bool = False,
    form: CopyForm | None = None,
) -> int:
    """COPY binary tuples into ``table`` in the transaction that is open, and give the number of rows it took.

    ``form``: they are records in that form instead.

    ``freeze``: as VACUUM FREEZE would leave them, so that nobody has to write them again; the table must have been
    created in this transaction. Raises what ``buffers`` raised, or psycopg2's error.
    """
    stream = _Stream(buffers, binary=form is None)
    try:
        return run_copy(connection, copying(table, columns, freeze=freeze, form=form), stream, size=COPY_SIZE)
    except Exception:
        if stream.error is not None:
            raise stream.error from stream.error.__cause__  # and not from psycopg2's word for it
        raise
