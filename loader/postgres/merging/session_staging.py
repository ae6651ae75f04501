"""A temporary staging table for objects of one transaction, which its session keeps for the next of the same columns.

It is empty again at each commit (manual, CREATE TABLE, "ON COMMIT DELETE ROWS"), so a merge of a small object creates
and drops nothing: the catalog does not grow by it. Where a column's type or collation is the user's own, the table goes
with its transaction, for while it exists nobody could drop the type.
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.postgres.database import kept_by
from loader.postgres.load_column import LoadColumn
from loader.postgres.merging.staging import Staging, defining
from loader.postgres.statements import execute

KEPT = 8
"""Staging tables that a session keeps. Each commit empties all of them, which takes some 50 µs for each."""


@dataclass(frozen=True, slots=True)
class KeptStaging(Staging):
    """The staging table of a load in one transaction. ``attempt``: which one of its session's it is."""

    @property
    def name(self) -> sql.Identifier:
        return sql.Identifier("pg_temp", f"staging_0_{self.attempt}")

    def creating(self, text: int = 0) -> list[sql.Composed]:  # noqa: ARG002 - there is no index to size
        """The statements that create the table."""
        end = sql.SQL("DELETE ROWS" if is_kept(self.columns) else "DROP")
        statement = sql.SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT {}")
        return [statement.format(self.name, defining(self), end)]


def is_kept(columns: tuple[LoadColumn, ...]) -> bool:
    """Whether all types and collations are PostgreSQL's own, so that the table keeps no type from being dropped."""
    return all(
        each.type.built_in and (each.collation is None or each.collation.startswith("pg_catalog.")) for each in columns
    )


def staging_for(connection: Connection, load_id: int, columns: tuple[LoadColumn, ...]) -> KeptStaging:
    """An empty staging table of those columns, in the transaction that is open. `keep` keeps it when that has
    committed."""
    kept: dict[object, int] = kept_by(connection).setdefault("staging", {})
    number = kept.get(_form(columns))
    if number is not None:
        return KeptStaging(load_id, number, columns)
    number = next(each for each in range(KEPT + 1) if each not in kept.values())
    staging = KeptStaging(load_id, number, columns)
    execute(connection, sql.SQL("DROP TABLE IF EXISTS {}").format(staging.name))  # of one that was given up
    staging.create(connection)
    return staging


def keep(connection: Connection, staging: KeptStaging) -> None:
    """The transaction that used the table has committed. The one that was used longest ago goes where there are too
    many."""
    kept: dict[object, int] = kept_by(connection).setdefault("staging", {})
    if not is_kept(staging.columns):
        return
    kept.pop(_form(staging.columns), None)
    kept[_form(staging.columns)] = staging.attempt
    if len(kept) > KEPT:
        del kept[next(iter(kept))]


def forget(connection: Connection) -> None:
    """The session does not have the tables that it kept any more: somebody has cleared it."""
    kept_by(connection).pop("staging", None)


def _form(columns: tuple[LoadColumn, ...]) -> object:
    return tuple((each.name, each.type.name, each.collation) for each in columns)
