"""A table that the load creates, filled by several sessions before it gets its name.

It is the target from the beginning: created by the statement that creates a target, in the target's schema, so that it
has the owner, the default privileges and the names of constraints that a target would have. Then it is renamed until
its rows are complete. Several sessions can write into it and commit as they go, for nobody knows it; the last
transaction gives it its name. It is logged, for to make a table logged is to write it again.

It has no column for a record's position. What was committed beyond a checkpoint is known by the transaction that wrote
it (``xmin``): sessions begin a segment one after the other, each with the number of its transaction, so the rows of
later segments have later transactions. A crash of the server empties the checkpoint, which is unlogged, and what is
left of the table is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.postgres.load_column import LoadColumn
from loader.postgres.merging.staging import take_name
from loader.postgres.merging.target import creating, target_name
from loader.postgres.statements import execute, execute_all, rows
from loader.postgres.tables import NEW_TABLE, Table, new_table_name


@dataclass(frozen=True, slots=True)
class NewTable:
    """The table ``table`` of one attempt at a load, before it has its name.

    ``columns``: those that the load fills; ``absent``: those that it has beside them; ``key``: see `target.creating`.
    """

    load_id: int
    attempt: int
    table: Table
    columns: tuple[LoadColumn, ...]
    absent: tuple[LoadColumn, ...]
    key: Sequence[str]

    @property
    def _own_name(self) -> str:
        return new_table_name(self.load_id, self.attempt)

    @property
    def name(self) -> sql.Identifier:
        return sql.Identifier(self.table.schema, self._own_name)

    @property
    def written(self) -> tuple[str, ...]:
        """Names of the columns that COPY writes, in order."""
        return tuple(column.name for column in self.columns)

    def creating(self) -> list[sql.Composed]:
        """The statements that create it.

        It is not to be vacuumed yet: that would hold a lock when the table is renamed.
        """
        rename = sql.SQL("ALTER TABLE {} RENAME TO {}")
        return [
            creating(self.table, (*self.columns, *self.absent), self.key),
            rename.format(target_name(self.table), sql.Identifier(self._own_name)),
            sql.SQL("ALTER TABLE {} SET (autovacuum_enabled = off)").format(self.name),
            sql.SQL("COMMENT ON TABLE {} IS {}").format(self.name, sql.Literal(NEW_TABLE)),
        ]

    def create(self, connection: Connection) -> None:
        """Create it in the transaction that is open. Raises psycopg2's DuplicateTable where the target exists."""
        execute_all(connection, self.creating())

    def is_published(self, connection: Connection) -> bool:
        """Whether subscribers get its rows as they are written, so that they would see what is not complete."""
        found = rows(
            connection,
            "SELECT EXISTS (SELECT FROM pg_publication) AND EXISTS ("
            "SELECT FROM pg_publication_tables WHERE schemaname = %s AND tablename = %s)",
            (self.table.schema, self._own_name),
        )
        return bool(found[0][0])

    def begin(self, connection: Connection) -> int:
        """Begin a transaction that writes into it; gives the transaction's number.

        Its commit does not wait for the disk: the commit that gives the table its name does, and before that nothing
        outlives a crash.
        """
        statement = "SELECT set_config('synchronous_commit', 'off', true), pg_current_xact_id()::text::bigint"
        number: int = rows(connection, statement)[0][1]
        return number

    def take_over(self, connection: Connection, *, transaction: int | None, rows_staged: int) -> bool:
        """Make the table of an earlier attempt this one's, without rows later than ``transaction``, and commit.

        False where it does not hold so many ``rows_staged`` then.
        """
        if transaction is None or not take_name(connection, self.load_id, self.name):
            return False
        beyond = sql.SQL("DELETE FROM {} WHERE age(xmin) < age({}::text::xid8::xid)")
        execute(connection, beyond.format(self.name, sql.Literal(str(transaction))))
        staged = rows(connection, sql.SQL("SELECT count(*) FROM {}").format(self.name))[0][0]
        connection.commit()
        return bool(staged == rows_staged)

    def naming(self) -> list[sql.Composed]:
        """The statements that give it its name."""
        target = target_name(self.table)
        return [
            sql.SQL("ALTER TABLE {} RENAME TO {}").format(self.name, sql.Identifier(self.table.name)),
            sql.SQL("ALTER TABLE {} RESET (autovacuum_enabled)").format(target),
            sql.SQL("COMMENT ON TABLE {} IS NULL").format(target),
        ]

    def give_name(self, connection: Connection) -> None:
        """Give it its name in the transaction that is open. Raises psycopg2's DuplicateTable where somebody else has
        created a table of this name meanwhile."""
        execute_all(connection, self.naming())
