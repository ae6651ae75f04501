"""Staged rows and those of the target, matched by key: the statements of a merge.

"The same" is compared to the letter: text by its bytes, floats and types that are carried as text by their text
output, so that ``1.0`` replaces ``1.00``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.postgres.load_column import LoadColumn
from loader.postgres.merging.copy_rows import move_by_copy
from loader.postgres.merging.staging import RANGES, Staging
from loader.postgres.merging.target import target_name
from loader.postgres.statements import execute, planned_row, rows
from loader.postgres.tables import Table

ALL = sql.SQL("true")
"""Every staged row."""

BY_ANY = sql.SQL("SET LOCAL enable_hashjoin TO DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT")
"""From here on the planner joins as it likes."""

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
class Written:
    """What became of staged records. ``unchanged``: every row with its key was compared and is the same. ``left_out``:
    sent to the target, which took no row for it and raised no error."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    left_out: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(
            self.inserted + other.inserted,
            self.updated + other.updated,
            self.unchanged + other.unchanged,
            self.left_out + other.left_out,
        )


@dataclass(frozen=True, slots=True)
class Matching:
    """The rows of ``staging`` and those of ``table``, by ``key``. Raises psycopg2's errors."""

    connection: Connection
    staging: Staging
    table: Table
    key: tuple[str, ...]

    def has_rows(self) -> bool:
        return bool(self._row(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(target_name(self.table)))[0])

    def count(self, among: sql.Composable = ALL) -> int:
        """How many rows are staged ``among`` all."""
        return int(self._row(sql.SQL("SELECT count(*) FROM {} s WHERE {}").format(self.staging.name, among))[0])

    def _has_repeated(self) -> bool:
        """Whether a key is staged twice. To ask costs little where no row is written: the server may use all cores."""
        return bool(self._row(self._repeated())[0])

    def _repeated(self) -> sql.Composed:
        statement = sql.SQL("SELECT EXISTS (SELECT FROM {} s GROUP BY {} HAVING count(*) > 1) AS yes")
        keys = sql.SQL(", ").join(self._value(name, "s") for name in self.key)
        return statement.format(self.staging.name, keys)

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

    def drop_known(self, other: Matching) -> int:
        """Records whose keys ``other`` has staged as well leave staging; gives how many."""
        for each in (self, other):
            self._run(sql.SQL("ANALYZE {} ({})").format(each.staging.name, names_of(self.key)))
        statement = sql.SQL("DELETE FROM {} s USING {} o WHERE {}")
        return self._run(statement.format(self.staging.name, other.staging.name, self._same_staged(other)))

    def count_known(self, other: Matching) -> int:
        """How many records have keys that ``other`` has staged as well."""
        known = sql.SQL("EXISTS (SELECT FROM {} o WHERE {})")
        return self.count(known.format(other.staging.name, self._same_staged(other)))

    def _same_staged(self, other: Matching) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(self._value(name, "s"), other._value(name, "o")) for name in self.key
        )

    def drop_unlike(self) -> int:
        """Records that the target does not have as they are staged leave staging; gives how many."""
        noted = self._noted
        self._run(self._noting(noted, ALL))
        statement = sql.SQL("DELETE FROM {} s USING {} n WHERE s.{} = n.position AND (n.is_new OR n.differs)")
        dropped = self._run(statement.format(self.staging.name, noted, sql.Identifier(self.staging.position)))
        self._run(sql.SQL("DROP TABLE {}").format(noted))
        return dropped

    def sample(self, staged: int) -> Sample:
        """Some of the ``staged`` rows, from all over, looked up in the target.

        Every tenth row of ten times the pages: the rows of one page are alike, and the first pages are not the table.
        """
        percent = sql.Literal(min(100.0, 1000.0 * SAMPLE / staged))
        some = sql.SQL("SELECT * FROM {} s TABLESAMPLE SYSTEM ({}) REPEATABLE (1) WHERE mod(s.{}, 10) = 0")
        return self._look_up(some.format(self.staging.name, percent, sql.Identifier(self.staging.position)))

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

    def compare(self, staged: int) -> Written:
        """Write those of the ``staged`` rows that have to be, found on all cores that the server grants.

        Where the table tells keys apart and nothing else decides about a row: the one statement that compares meets
        each staged row once, and what it does not note, it found to be the same.
        """
        touched = self._noted
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
        noted = self._run(statement)
        written = Written(unchanged=staged - noted)
        if noted:
            self._run(sql.SQL("ANALYZE {}").format(touched))
            # what is left is known by its place, and whether that is few or many, the planner knows now
            self._run(BY_ANY)
            updated = self._run(self.updating(self._among(touched, sql.SQL("NOT is_new")))) if self._others else 0
            written += Written(self.insert(self._among(touched, sql.SQL("is_new"))), updated)
        self._run(sql.SQL("DROP TABLE {}").format(touched))
        return written

    def match_at_once(self, settings: sql.Composable, *, distinct: bool = False) -> Written | None:
        """The same as `match` of all, in one statement, where a row is a record and they are few. None where a key is
        staged twice, and nothing was done; that none is, is known where they are ``distinct``. ``settings``: by which
        the statement is planned.

        What is new and what differs is found once, and by the snapshot of this statement. Where somebody else inserts
        a key meanwhile, the table refuses it.
        """
        target, place = target_name(self.table), sql.SQL("s.ctid")
        changed: sql.Composable = sql.SQL("SELECT WHERE false")
        if self._others:
            noted = sql.SQL("s.ctid IN (SELECT place FROM met WHERE differs)")
            changed = self.updating(noted, differing=sql.SQL("true")) + sql.SQL(" RETURNING 1")
        added = self.inserting(sql.SQL("s.ctid IN (SELECT place FROM met WHERE is_new)"), only_new=False)
        statement = sql.SQL(
            "WITH repeated AS MATERIALIZED ({repeated}),"
            " met AS MATERIALIZED (SELECT {place} AS place, t.{key} IS NULL AS is_new,"
            " t.{key} IS NOT NULL AND {differ} AS differs FROM {staging} s LEFT JOIN {target} t ON {same}"
            " WHERE NOT (SELECT yes FROM repeated)),"
            " changed AS ({changed}), added AS ({added} RETURNING 1)"
            " SELECT (SELECT yes FROM repeated), (SELECT count(*) FROM added), (SELECT count(*) FROM changed),"
            " count(*) FILTER (WHERE NOT is_new AND NOT differs) FROM met"
        )
        repeated, *found = planned_row(
            self.connection,
            statement.format(
                repeated=sql.SQL("SELECT false AS yes") if distinct else self._repeated(),
                place=place,
                key=sql.Identifier(self.key[0]),
                differ=self._differ(),
                staging=self.staging.name,
                target=target,
                same=self._same_key("t"),
                changed=changed,
                added=added,
            ),
            settings,
        )
        return None if repeated else Written(*found)

    @property
    def _noted(self) -> sql.Identifier:
        """The table in which it is noted meanwhile what becomes of which record."""
        return sql.Identifier("loader", f"touched_{self.staging.load_id}")

    def match(self, among: sql.Composable, staged: int | None = None) -> Written:
        """Update the rows of the target that differ from theirs ``among`` the staged ones, and insert those whose keys
        the target does not have. Each record counts once, however many rows have its key. ``staged``: how many there
        are, where that is known."""
        return self._match_records(among) if self.is_watched else self._match_rows(among, staged)

    def _match_rows(self, among: sql.Composable, staged: int | None) -> Written:
        """Where a row is a record: updated and inserted are what the server says, and a sequence counts the rows that
        the UPDATE compared and found to be the same, which no command tag tells."""
        if not self._others:
            same = self._row(
                sql.SQL("SELECT count(*) FROM {} s JOIN {} t ON {} WHERE {}").format(
                    self.staging.name, target_name(self.table), self._same_key("t"), among
                )
            )[0]
            return Written(self.insert(among, only_new=True), unchanged=same)
        counter = sql.Identifier("loader", f"same_{self.staging.load_id}")
        self._run(sql.SQL("CREATE UNLOGGED SEQUENCE {}").format(counter))
        updated = self._run(self.updating(among, counter=sql.Literal(f"loader.same_{self.staging.load_id}")))
        same = self._row(sql.SQL("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {}").format(counter))[0]
        self._run(sql.SQL("DROP SEQUENCE {}").format(counter))
        inserted = self.insert(among, only_new=True) if updated + same != staged else 0
        return Written(inserted, updated, same)

    def _match_records(self, among: sql.Composable) -> Written:
        """Where several rows may have a record's key, or something may leave rows out: what is to become of each record
        is noted first, and then the server says of which records it changed a row."""
        noted = self._noted
        position = sql.Identifier(self.staging.position)
        self._run(self._noting(noted, among))
        self._run(sql.SQL("ANALYZE {}").format(noted))
        counting = "SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new AND NOT differs) FROM {}"
        new, same = self._row(sql.SQL(counting).format(noted))
        inserted = updated = prevented = 0
        if self._others:
            differing = sql.SQL("s.{} IN (SELECT position FROM {} WHERE differs)").format(position, noted)
            statement = sql.SQL(
                "WITH changed AS ({} RETURNING s.{} AS position) SELECT (SELECT count(DISTINCT position) FROM changed),"
                " (SELECT count(*) FROM {} n WHERE differs AND NOT EXISTS"
                " (SELECT FROM changed c WHERE c.position = n.position))"
            )
            updated, prevented = self._row(statement.format(self.updating(differing), position, noted))
        if new:
            inserted = self.insert(sql.SQL("s.{} IN (SELECT position FROM {} WHERE is_new)").format(position, noted))
        self._run(sql.SQL("DROP TABLE {}").format(noted))
        return Written(inserted, updated, same, new - inserted + prevented)

    def _noting(self, noted: sql.Composable, among: sql.Composable) -> sql.Composed:
        """Creates the table ``noted``: of each staged record ``among`` all, whether it is new, and whether one of the
        rows that have its key differs from it."""
        statement = sql.SQL(
            "CREATE UNLOGGED TABLE {} AS SELECT s.{} AS position, bool_and(t.{} IS NULL) AS is_new,"
            " bool_or(t.{} IS NOT NULL AND {}) AS differs FROM {} s LEFT JOIN {} t ON {} WHERE {} GROUP BY 1"
        )
        first = sql.Identifier(self.key[0])
        target = target_name(self.table)
        position = sql.Identifier(self.staging.position)
        differ, same_key = self._differ(), self._same_key("t")
        return statement.format(noted, position, first, first, differ, self.staging.name, target, same_key, among)

    @property
    def is_watched(self) -> bool:
        """Whether a row that the server wrote may be no record of its own, or a record may be left out in silence."""
        return bool(self.table.leaves_out) or not self.table.tells_apart(self.key)

    def _among(self, touched: sql.Composable, which: sql.Composable) -> sql.Composed:
        """The staged rows of which ``touched`` has the places."""
        own = sql.SQL(", ").join(sql.SQL(f"s.{name}") for name in self.staging.place)
        found = sql.SQL(", ").join(sql.SQL(f"place_{name}") for name in self.staging.place)
        return sql.SQL("({}) IN (SELECT {} FROM {} WHERE {})").format(own, found, touched, which)

    def delete(self) -> int:
        """Rows that the file does not have; all of them without a key, and where no row can stay (`_keeps_rows`).

        DELETE and not TRUNCATE: a reader with an older snapshot would see a truncated table empty (manual,
        13.6), and rows that other tables refer to must not go only to come back.
        """
        return self._run(self.deleting())

    def deleting(self) -> sql.Composed:
        """The statement of `delete`."""
        target = target_name(self.table)
        if not self._keeps_rows:
            return sql.SQL("DELETE FROM {}").format(target)
        statement = sql.SQL("DELETE FROM {} t WHERE NOT EXISTS (SELECT FROM {} s WHERE {})")
        return statement.format(target, self.staging.name, self._same_key("t"))

    @property
    def _keeps_rows(self) -> bool:
        """Whether rows stay whose keys the file has. In columns that it lacks they would keep values that no row of the
        file has, so there they stay only where others refer to them."""
        loaded = {column.name for column in self.staging.columns}
        return bool(self.key) and (self.table.referenced or self.table.is_covered(loaded))

    def updating(
        self, among: sql.Composable, *, counter: sql.Composable | None = None, differing: sql.Composable | None = None
    ) -> sql.Composed:
        """The statement that updates the rows of the target that differ from theirs ``among`` the staged ones.

        ``counter``: the name of a sequence that is to count the pairs that do not differ. ``differing``: the condition
        by which they do, where it was found out before.
        """
        assignments = [
            sql.SQL("{} = {}").format(sql.Identifier(column.name), self._value(column.name, "s"))
            for column in self._others
        ]
        differ, same_key = differing or self._differ(), self._same_key("t")
        if counter is not None:
            # whatever the planner asks first, only pairs with the same key are counted
            counting = sql.SQL("CASE WHEN {} THEN true ELSE {} AND nextval({}::regclass) IS NULL END")
            differ = counting.format(differ, same_key, counter)
        return sql.SQL("UPDATE {} t SET {} FROM {} s WHERE {} AND {} AND {}").format(
            target_name(self.table), sql.SQL(", ").join(assignments), self.staging.name, same_key, differ, among
        )

    def put(self, among: sql.Composable) -> Written:
        """Insert the staged rows ``among`` all without matching them."""
        if not self.table.leaves_out:
            return Written(self.insert(among))
        sent = self.count(among)
        inserted = self.insert(among)
        return Written(inserted, left_out=sent - inserted)

    def insert(self, among: sql.Composable, *, only_new: bool = False) -> int:
        """Insert the staged rows ``among`` all, or of them those whose keys the target does not have; gives how many
        the target took. As COPY would, so rewrite rules are not run."""
        if "INSERT" not in self.table.rules:
            return self._run(self.inserting(among, only_new=only_new))
        names = names_of([column.name for column in self.staging.columns])
        selecting = self._selecting(among, only_new=only_new)
        return move_by_copy(self.connection, self.staging, target_name(self.table), selecting, names)

    def inserting(self, among: sql.Composable, *, only_new: bool) -> sql.Composed:
        """The statement of `insert`."""
        return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE {}").format(
            target_name(self.table),
            names_of([column.name for column in self.staging.columns]),
            self._selecting(among, only_new=only_new),
        )

    def _selecting(self, among: sql.Composable, *, only_new: bool) -> sql.Composed:
        statement = sql.SQL("SELECT {} FROM {} s WHERE {}").format(
            sql.SQL(", ").join(self._value(column.name, "s") for column in self.staging.columns),
            self.staging.name,
            among,
        )
        if only_new:
            statement += sql.SQL(" AND NOT EXISTS (SELECT FROM {} t WHERE {})").format(
                target_name(self.table), self._same_key("t")
            )
        return statement

    def ready_parts(self) -> None:
        """What is staged by now can be found by its position, as far as `staging.RANGES` go."""
        statement = sql.SQL(
            "SELECT CASE WHEN pg_relation_size(i.indrelid) / current_setting('block_size')::int"
            " < {} * option_value::int THEN brin_summarize_new_values(i.indexrelid) END FROM pg_index i JOIN pg_class c"
            " ON c.oid = i.indexrelid, pg_options_to_table(c.reloptions) WHERE c.oid = {}::regclass"
            " AND option_name = 'pages_per_range'"
        )
        self._run(statement.format(sql.Literal(RANGES), sql.Literal(f"loader.{self.staging.index}")))

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
        """The columns in which rows of the same key may differ: a key of the same value may be spelt in another way."""
        return [column for column in self.staging.columns if column.name not in self.key or column.has_spellings]

    def _differ(self) -> sql.Composable:
        """Whether a staged row and that of its key in the target differ."""
        differences = [self._differs(column) for column in self._others]
        return sql.SQL("({})").format(sql.SQL(" OR ").join(differences) if differences else sql.SQL("false"))

    def _differs(self, column: LoadColumn) -> sql.Composed:
        stored, staged = sql.Identifier("t", column.name), self._value(column.name, "s")
        type_ = column.type
        domain_of_enum = type_.wire == "enum" and type_.hopeful  # of which PostgreSQL has no operators
        by_text = domain_of_enum or type_.wire not in ("arrow", "uuid", "bytea", "enum")
        if by_text or type_.form in ("float32", "float64"):
            template = '{}::text COLLATE "C" IS DISTINCT FROM {}::text COLLATE "C"'
        elif type_.wire == "arrow" and type_.form == "text":  # an enum has no collation
            template = '{} COLLATE "C" IS DISTINCT FROM {} COLLATE "C"'
        else:
            template = "{} IS DISTINCT FROM {}"
        return sql.SQL(template).format(stored, staged)

    def _same_key(self, alias: str) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier(alias, name), self._value(name, "s")) for name in self.key
        )

    def _value(self, name: str, alias: str) -> sql.Composable:
        """A staged value."""
        return sql.Identifier(alias, name)

    def _row(self, statement: sql.Composable) -> tuple[Any, ...]:
        return rows(self.connection, statement)[0]

    def _run(self, statement: sql.Composable) -> int:
        """Run it, and give the number of rows it touched."""
        return execute(self.connection, statement)


def names_of(names: Sequence[str]) -> sql.Composed:
    """The names, quoted, with commas between."""
    return sql.SQL(", ").join(map(sql.Identifier, names))
