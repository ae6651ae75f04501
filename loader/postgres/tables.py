"""Tables as a load sees them: the target as the catalog has it, and the staging table before it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

POSITION = "loader_position"
"""The staging column that orders records as the file does: its record's place among the bytes of the file."""


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of an existing table. ``generated``: PostgreSQL computes it, nobody may write it.
    ``has_default``: a record that lacks it gets more than NULL. ``collation``: its quoted name, where the column has
    another one than the database."""

    name: str
    type: str
    not_null: bool = False
    generated: bool = False
    has_default: bool = False
    collation: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table as the catalog has it, or, with ``oid`` None, one that the load will create.

    ``referenced``: other tables have foreign keys to it. ``plain``: COPY may write into it (it is a table, and row
    security is not active for this role). ``fills_in``: a BEFORE trigger may fill what a record lacks, so NOT
    NULL is judged later, or leave records out. ``owned``: this role may alter it. ``unique``: sets of columns of which
    no two rows have the same values. ``empty``: seen to have no rows. ``leaves_out``: what may keep a record out of the
    table, or a row from being updated, without an error, in words such as "a trigger"; empty where nothing does.
    ``rules``: the commands ("INSERT", "UPDATE", "DELETE") that its rewrite rules change. ``view``: it is a view.
    ``unlogged``: a crash of the server empties it. ``lockable``: LOCK TABLE can be had on it by this role.
    """

    schema: str
    name: str
    columns: tuple[TableColumn, ...] = ()
    primary_key: tuple[str, ...] = ()
    oid: int | None = None
    referenced: bool = False
    plain: bool = True
    fills_in: bool = False
    owned: bool = True
    unique: tuple[frozenset[str], ...] = ()
    empty: bool = False
    leaves_out: str = ""
    rules: frozenset[str] = frozenset()
    view: bool = False
    unlogged: bool = False
    lockable: bool = True

    def __str__(self) -> str:
        """``schema.name``: what messages call it, and what the ledger knows it by, so no two tables have the same."""
        schema = self.schema
        if "." in schema or '"' in schema:  # else "a.b".c would be a."b.c"
            schema = '"' + schema.replace('"', '""') + '"'
        return f"{schema}.{self.name}"

    def is_covered(self, names: Collection[str]) -> bool:
        """Whether columns of these ``names`` are all that a row has, but for those that PostgreSQL computes."""
        return all(column.generated or column.name in names for column in self.columns)

    def tells_apart(self, key: tuple[str, ...]) -> bool:
        """Whether no two rows of it can have the same ``key``."""
        return self.oid is None or any(columns <= set(key) for columns in self.unique)


def staging_name(load_id: int, attempt: int, run: int | None = None) -> str:
    """The name of a load's staging table in schema ``loader``.

    Each attempt gives it a new one, so that what is left of an earlier attempt cannot write into it any more; and
    where an object is loaded in shards, so does each ``run`` of one.
    """
    return f"staging_{load_id}_{attempt}" + ("" if run is None else f"_{run}")


def new_table_name(load_id: int, attempt: int) -> str:
    """The name, in the target's schema, of a table that the load creates, until it gets the target's name."""
    return f"loader_staging_{load_id}_{attempt}"


NEW_TABLE = "A load is filling this table, and renames it at its end. It is not part of the data before that."
"""The comment on such a table. Without it, a table of such a name is somebody else's."""
