"""Staged rows and those of the target, matched by key: the statements of a merge.

"The same" is compared to the letter: text by its bytes, floats and types that are carried as text by their text
output, so that ``1.0`` replaces ``1.00``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.columns import LoadColumn
from loader.staging import Staging
from loader.statements import execute, rows
from loader.tables import Table
from loader.target import target_name

ALL = sql.SQL("true")
"""Every staged row."""

SAMPLE = 5000
"""Staged rows that are looked up in the target, to find out which course is the shortest: some hundredths of a
second. Of a file of which one record in a thousand is in the table, so many are sure to show one."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Of ``seen`` staged rows so many are ``new``, and so many are the ``same`` as in the target."""

    seen: int
    new: int
    same: int


@dataclass(frozen=True, slots=True)
class Matching:
    """The rows of ``staging`` and those of ``table``, by ``key``. Raises psycopg2's errors."""

    connection: Connection
    staging: Staging
    table: Table
    key: tuple[str, ...]

    def has_rows(self) -> bool:
        return bool(self._row(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(target_name(self.table)))[0])

    def count(self) -> int:
        return int(self._row(sql.SQL("SELECT count(*) FROM {}").format(self.staging.name))[0])

    def _has_repeated(self) -> bool:
        """Whether a key is staged twice. To ask costs little where no row is written: the server may use all cores."""
        statement = sql.SQL("SELECT EXISTS (SELECT FROM {} s GROUP BY {} HAVING count(*) > 1)")
        keys = sql.SQL(", ").join(self._value(name, "s") for name in self.key)
        return bool(self._row(statement.format(self.staging.name, keys))[0])

    def drop_repeated(self) -> int:
        """The last record of a repeated key wins: the earlier ones leave staging."""
        if not self._has_repeated():
            return 0
        keys = sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(self._value(name, "s"), sql.Identifier(name)) for name in self.key
        )
        statement = sql.SQL(
            "DELETE FROM {staging} s USING (SELECT {keys}, max({position}) AS {position} FROM {staging} s"
            " GROUP BY {numbers} HAVING count(*) > 1) r WHERE {same} AND s.{position} < r.{position}"
        )
        return self._run(
            statement.format(
                staging=self.staging.name,
                keys=keys,
                position=sql.Identifier(self.staging.position),
                numbers=sql.SQL(", ").join(sql.SQL(str(number + 1)) for number in range(len(self.key))),
                same=self._same_key("r"),
            ),
        )

    def sample(self, staged: int) -> Sample:
        """Some of the ``staged`` rows, from all over, looked up in the target."""
        percent = sql.Literal(min(100.0, 150.0 * SAMPLE / staged))
        some = sql.SQL("SELECT * FROM {} TABLESAMPLE SYSTEM ({}) REPEATABLE (1) LIMIT {}")
        return self._look_up(some.format(self.staging.name, percent, sql.Literal(SAMPLE)))

    def sample_part(self, first: int, past: int) -> Sample:
        """Some of the records from number ``first`` up to ``past``."""
        step = max(1, (past - first) // SAMPLE)
        nth = sql.SQL("mod(s.{}, {}) = 0").format(sql.Identifier(self.staging.position), sql.Literal(step))
        some = sql.SQL("SELECT * FROM {} s WHERE {} AND {} LIMIT {}")
        return self._look_up(some.format(self.staging.name, self.part(first, past), nth, sql.Literal(SAMPLE)))

    def _look_up(self, some: sql.Composable) -> Sample:
        statement = sql.SQL(
            "SELECT count(*), count(*) FILTER (WHERE f.differs IS NULL), count(*) FILTER (WHERE NOT f.differs)"
            " FROM ({}) s LEFT JOIN LATERAL (SELECT {} AS differs FROM {} t WHERE {} LIMIT 1) f ON true"
        )
        target = target_name(self.table)
        return Sample(*self._row(statement.format(some, self._differ(), target, self._same_key("t"))))

    def compare(self) -> tuple[int, int]:
        """Rows updated and inserted, after those that have to be were found, on all cores that the server grants."""
        touched = sql.Identifier("loader", f"touched_{self.staging.load_id}")
        statement = sql.SQL(
            "CREATE UNLOGGED TABLE {} AS SELECT {}, t.{} IS NULL AS is_new"
            " FROM {} s LEFT JOIN {} t ON {} WHERE t.{} IS NULL OR {}"
        ).format(
            touched,
            sql.SQL(", ").join(sql.SQL(f"s.{name} AS place_{name}") for name in self.staging.place),
            sql.Identifier(self.key[0]),
            self.staging.name,
            target_name(self.table),
            self._same_key("t"),
            sql.Identifier(self.key[0]),
            self._differ(),
        )
        updated = inserted = 0
        if self._run(statement):
            self._run(sql.SQL("ANALYZE {}").format(touched))
            # what is left is known by its place, and whether that is few or many, the planner knows now
            self._run(sql.SQL("SET LOCAL enable_hashjoin TO DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT"))
            updated = self.update(self._among(touched, sql.SQL("NOT is_new")))
            inserted = self.insert(self._among(touched, sql.SQL("is_new")), only_new=False)
        self._run(sql.SQL("DROP TABLE {}").format(touched))
        return updated, inserted

    def _among(self, touched: sql.Composable, which: sql.Composable) -> sql.Composed:
        """The staged rows of which ``touched`` has the places."""
        own = sql.SQL(", ").join(sql.SQL(f"s.{name}") for name in self.staging.place)
        found = sql.SQL(", ").join(sql.SQL(f"place_{name}") for name in self.staging.place)
        return sql.SQL("({}) IN (SELECT {} FROM {} WHERE {})").format(own, found, touched, which)

    def delete(self) -> int:
        """Rows that the file does not have; without a key to tell by, all of them.

        DELETE and not TRUNCATE: a reader with an older snapshot would see a truncated table empty (manual,
        13.6), and rows that other tables refer to must not go only to come back.
        """
        return self._run(self.deleting())

    def deleting(self) -> sql.Composed:
        """The statement of `delete`."""
        target = target_name(self.table)
        if not self.key:
            return sql.SQL("DELETE FROM {}").format(target)
        statement = sql.SQL("DELETE FROM {} t WHERE NOT EXISTS (SELECT FROM {} s WHERE {})")
        return statement.format(target, self.staging.name, self._same_key("t"))

    def update(self, among: sql.Composable) -> int:
        """Update the rows of the target that differ from theirs ``among`` the staged ones; gives how many."""
        return self._run(self.updating(among)) if self._others else 0

    def updating(self, among: sql.Composable) -> sql.Composed:
        """The statement of `update`."""
        assignments = [
            sql.SQL("{} = {}").format(sql.Identifier(column.name), self._value(column.name, "s"))
            for column in self._others
        ]
        return sql.SQL("UPDATE {} t SET {} FROM {} s WHERE {} AND {} AND {}").format(
            target_name(self.table),
            sql.SQL(", ").join(assignments),
            self.staging.name,
            self._same_key("t"),
            self._differ(),
            among,
        )

    def insert(self, among: sql.Composable, *, only_new: bool) -> int:
        """Insert the staged rows ``among`` all, or of them those whose keys the target has not; gives how many."""
        return self._run(self.inserting(among, only_new=only_new))

    def inserting(self, among: sql.Composable, *, only_new: bool) -> sql.Composed:
        """The statement of `insert`."""
        names = [column.name for column in self.staging.columns]
        statement = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} s WHERE {}").format(
            target_name(self.table),
            names_of(names),
            sql.SQL(", ").join(self._value(name, "s") for name in names),
            self.staging.name,
            among,
        )
        if only_new:
            statement += sql.SQL(" AND NOT EXISTS (SELECT FROM {} t WHERE {})").format(
                target_name(self.table), self._same_key("t")
            )
        return statement

    def ready_parts(self) -> None:
        """What is staged by now can be found by its position."""
        index = sql.Literal(f"loader.{self.staging.index}")
        self._run(sql.SQL("SELECT brin_summarize_new_values({}::regclass)").format(index))

    def part(self, first: int, past: int) -> sql.Composable:
        """The records from number ``first`` up to ``past``."""
        position = sql.Identifier(self.staging.position)
        return sql.SQL("s.{0} >= {1} AND s.{0} < {2}").format(position, sql.Literal(first), sql.Literal(past))

    def bounds(self) -> tuple[int | None, int | None]:
        """The first and the last position, after an index was built over all, for the halves to be found by."""
        position = sql.Identifier(self.staging.position)
        for heap in self.staging.heaps:
            self._run(sql.SQL("CREATE INDEX ON {} ({})").format(heap, position))
        return self._row(sql.SQL("SELECT min({0}), max({0}) FROM {1}").format(position, self.staging.name))

    def halves(self, first: int, last: int) -> list[tuple[int, int]]:
        """The two halves of the positions from one to another, of which there are at least two; the later one first."""
        position = sql.Identifier(self.staging.position)
        statement = sql.SQL(
            "SELECT max({0}) FILTER (WHERE nth <= total / 2), min({0}) FILTER (WHERE nth > total / 2) FROM"
            " (SELECT {0}, row_number() OVER (ORDER BY {0}) AS nth, count(*) OVER () AS total FROM {1}"
            " WHERE {0} BETWEEN {2} AND {3}) AS numbered"
        ).format(position, self.staging.name, sql.Literal(first), sql.Literal(last))
        end, begin = self._row(statement)
        return [(begin, last), (first, end)]

    @property
    def _others(self) -> list[LoadColumn]:
        return [column for column in self.staging.columns if column.name not in self.key]

    def _differ(self) -> sql.Composable:
        """Whether a staged row and that of its key in the target differ."""
        differences = [self._differs(column) for column in self._others]
        return sql.SQL("({})").format(sql.SQL(" OR ").join(differences) if differences else sql.SQL("false"))

    def _differs(self, column: LoadColumn) -> sql.Composed:
        stored, staged = sql.Identifier("t", column.name), self._value(column.name, "s")
        type_ = column.type
        domain_of_enum = type_.wire == "enum" and type_.hopeful  # of which PostgreSQL has no operators
        by_text = domain_of_enum or type_.wire not in ("arrow", "uuid", "enum")
        if by_text or pa.types.is_floating(type_.arrow):
            template = '{}::text COLLATE "C" IS DISTINCT FROM {}::text COLLATE "C"'
        elif type_.wire == "arrow" and pa.types.is_string(type_.arrow):  # an enum has no collation
            template = '{} COLLATE "C" IS DISTINCT FROM {} COLLATE "C"'
        else:
            template = "{} IS DISTINCT FROM {}"
        return sql.SQL(template).format(stored, staged)

    def _same_key(self, alias: str) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier(alias, name), self._value(name, "s")) for name in self.key
        )

    def _value(self, name: str, alias: str) -> sql.Composable:
        """A staged value as the target's type."""
        column = next(each for each in self.staging.columns if each.name == name)
        if not column.type.text_only:
            return sql.Identifier(alias, name)
        return sql.SQL("({}::{})").format(sql.Identifier(alias, name), sql.SQL(column.type.name))

    def _row(self, statement: sql.Composable) -> tuple[Any, ...]:
        return rows(self.connection, statement)[0]

    def _run(self, statement: sql.Composable) -> int:
        """Run it, and give the number of rows it touched."""
        return execute(self.connection, statement)


def names_of(names: Sequence[str]) -> sql.Composed:
    """The names, quoted, with commas between."""
    return sql.SQL(", ").join(map(sql.Identifier, names))
