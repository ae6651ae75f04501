"""From staging to target, in the transaction that is open, and how many rows it changed in which way.

UPDATE and INSERT instead of MERGE: their command tags tell updated from inserted on every PostgreSQL from
15 on, where MERGE says so only from 17 on. What is counted are records: one that meets several rows of the table
updates those that differ and counts once (see `Written`). "Unchanged" is compared to the letter: text by its bytes,
floats and types that are carried as text by their text output, so that ``1.0`` replaces ``1.00``.

Which statements, and in which order, is planned: see `Course`. All courses leave the same table behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import psycopg2
import psycopg2.errors
from psycopg2 import sql

from loader.core.errors import TableError
from loader.core.report import reason_of
from loader.core.spec.model import LoadSpec
from loader.postgres.load_column import LoadColumn
from loader.postgres.merging.constraints import Refused, is_refusal
from loader.postgres.merging.merge_sql import ALL, BY_ANY, Matching, Sample, Written, names_of
from loader.postgres.tables import Table

WORK_MEM = "64MB"
"""For the merge's hash tables: at the default 4 MB, finding repeated keys among 2 M rows spills to disk."""

FEW = 10_000
"""Staged rows up to which every course is short."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of the staged records. ``left_out``: see `Written`. ``deleted`` counts rows of the table that
    ``replace`` took out. ``course``: by which way, and why, in words for the ledger. ``overtaken``: how many of the
    ``duplicate`` ones are so because a newer version of the object has set their keys."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicate: int = 0
    deleted: int = 0
    course: str = ""
    left_out: int = 0
    overtaken: int = 0

    @classmethod
    def of(cls, written: Written, course: str, *, duplicate: int = 0, deleted: int = 0) -> Merged:
        """The counts of what was ``written``."""
        return cls(written.inserted, written.updated, written.unchanged, duplicate, deleted, course, written.left_out)

    @property
    def records(self) -> int:
        """The staged records that these are."""
        return self.inserted + self.updated + self.unchanged + self.duplicate + self.left_out


class Course(Enum):
    """How staged rows are matched with those of the target; the value says so in words.

    Each statement leaves alone what the one before it did, and one that has nothing left to do is not run. To update
    comes before to insert: the rows that are looked up are fewer then. Lineitem, 1.8 M rows, of which every hundredth
    is there: 12.5 s against 18.7 s the other way round; half of them there: 7.5 s against 9.3 s.
    """

    INSERT = "inserted, for {}"
    UPDATE_FIRST = "updated what differs and then inserted what is new, for {}"
    COMPARE = "compared first, and only what differs or is new written, for {}"
    RECORDS = "compared record by record, and what differs or is new written, for {}"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A course, and why."""

    course: Course
    why: str

    def __str__(self) -> str:
        return self.course.value.format(self.why)


_BY_INDEX = sql.SQL("SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
"""So are staged rows matched with those of the target. Not keys that are staged twice, which no index finds: to look
for 30,000 of them among 60,000 rows took 270 s so, and a whole load takes 1 s otherwise."""

AT_ONCE = "compared, updated and inserted by one statement, for the object is small"
"""The course of `Merge.run_at_once`."""


def check_rules(spec: LoadSpec, table: Table, key: Sequence[str]) -> None:
    """Raise TableError where rewrite rules would make something else of the load's statements.

    COPY takes rows past a table's INSERT rule (see `copy_rows`); there is no such way past the others, or into a view.
    """
    needed = {"INSERT"} if table.view else set()
    if key:
        needed.add("UPDATE")
    if spec.mode == "replace":
        needed.add("DELETE")
    if rules := sorted(needed & table.rules):
        what = "a view with" if table.view else "a table with"
        raise TableError(
            f"{table}: is {what} rewrite rules on {' and '.join(rules)}, which would make something else of the load's "
            f"own statements; drop them, or load {'into the table behind it' if table.view else 'with mode append'}"
        )


def merge_key(spec: LoadSpec, table: Table, columns: Sequence[LoadColumn]) -> tuple[str, ...]:
    """The key columns by which rows are matched, empty where the load matches none.

    Raises TableError where the mode needs a key and there is none, or it is not among the columns.
    """
    if spec.mode == "append":
        return ()
    key = spec.key or table.primary_key
    if spec.mode == "merge" and not key:
        why = "has" if table.oid is not None else "does not exist yet, so it has"
        how = f'name the columns to merge by: key = ["{columns[0].name}"] in the spec, or --key'
        raise TableError(f'{table}: {why} no primary key, so mode "merge" needs a "key"; {how}')
    loaded = {column.name for column in columns}
    missing = [name for name in key if name not in loaded]
    if spec.mode == "replace" and missing and not table.referenced:
        return ()
    if missing:
        raise TableError(f'{table}: the key column "{missing[0]}" is not among the columns that are loaded')
    if table.referenced and not key:
        raise TableError(f"{table}: other tables refer to it and it has no primary key, so it cannot be replaced")
    return key


@dataclass(frozen=True, slots=True)
class Merge(Matching):
    """Moves the rows of ``staging`` into ``table``, in the transaction that is open. ``key``: see `merge_key`."""

    replace: bool = False

    def run(self, *, distinct: bool = False) -> Merged:
        """Do it. ``distinct``: no key is staged twice. Raises psycopg2's errors; the caller rolls back."""
        self._prepare()
        deleted = self.delete() if self.replace else 0
        staged = self.count()
        chosen = self.choose(staged)
        if chosen.course is Course.INSERT and self._is_guarded:
            if (inserted := self._insert_if_new()) is not None:
                return Merged(inserted=inserted, deleted=deleted, course=str(chosen))
            chosen = Chosen(Course.UPDATE_FIRST, f"a key was there already, though {chosen.why}")
        duplicate = self.drop_repeated() if self.key and not distinct else 0
        if distinct and self._is_guarded:
            self._match_by_index()
        return Merged.of(
            self._follow(chosen.course, staged - duplicate), str(chosen), duplicate=duplicate, deleted=deleted
        )

    def run_at_once(self, staged: int, *, distinct: bool = False) -> Merged:
        """Do it in as few statements as that takes, where only a few rows are ``staged``. Raises psycopg2's errors."""
        if self.key and (self.is_watched or staged > FEW):
            return self.run(distinct=distinct)
        deleted = self.delete() if self.replace else 0
        if not self.key:
            chosen = Chosen(Course.INSERT, "the load matches no rows")
            return Merged.of(self.put(ALL), str(chosen), deleted=deleted)
        settings = sql.SQL("SET LOCAL work_mem = {}; SET LOCAL jit = off; ").format(sql.Literal(WORK_MEM)) + _BY_INDEX
        duplicate = 0
        if (written := self.match_at_once(settings, distinct=distinct)) is None:
            self._run(BY_ANY)  # no index finds them
            duplicate = self.drop_repeated()
            written = self.match_at_once(settings, distinct=True)
        assert written is not None
        return Merged.of(written, AT_ONCE, duplicate=duplicate, deleted=deleted)

    def choose(self, staged: int) -> Chosen:
        """The shortest course for so many ``staged`` rows, by what is true of the target."""
        if not self.key:
            return Chosen(Course.INSERT, "the load matches no rows")
        if not self.has_rows():
            return Chosen(Course.INSERT, "the table is empty")
        if self.is_watched:
            left_out = f"{self.table.leaves_out} may leave records out"
            return Chosen(
                Course.RECORDS, left_out if self.table.leaves_out else "the table has no unique index on the key"
            )
        if staged <= FEW:
            return Chosen(Course.UPDATE_FIRST, f"there are only {staged:,} rows")
        return self._choose_by(self.sample(staged))

    def _choose_by(self, sample: Sample) -> Chosen:
        sampled = f"of {sample.seen:,} sampled rows"
        if sample.new == sample.seen:
            return Chosen(Course.INSERT, f"{sampled} none was there")
        if sample.same * 2 >= sample.seen:
            return Chosen(Course.COMPARE, f"{sampled} {sample.same:,} are as they were")
        changed = sample.seen - sample.new - sample.same
        return Chosen(Course.UPDATE_FIRST, f"{sampled} {sample.new:,} are new and {changed:,} have changed")

    @property
    def _is_guarded(self) -> bool:
        """Whether the table itself refuses a key that it has, or that comes twice."""
        return bool(self.key) and self.table.oid is not None and not self.is_watched

    def looks_new(self, first: int, past: int) -> bool:
        """Whether the records from number ``first`` up to ``past`` can be inserted without being matched: the table
        itself would refuse what it has, and a sample shows nothing of that."""
        if not self._is_guarded:
            return not self.key or self.table.oid is None
        sample = self.sample_part(first, past)
        return sample.new == sample.seen

    def _match_by_index(self) -> None:
        """The rows come in the order of their keys, so each is found in the target's index next to the one before it.

        Lineitem, 2 M rows as they were: 2.0 s against 3.4 s by a hash table, and it needs no memory; and what is
        inserted, is inserted in order.
        """
        self._run(_BY_INDEX)

    def _insert_if_new(self) -> int | None:
        """Insert all without a look at what is there; None where the table refused a key, and nothing was done."""
        self._run(sql.SQL("SAVEPOINT loader_new"))
        try:
            inserted = self.insert(ALL)
        except psycopg2.errors.UniqueViolation:
            self._run(sql.SQL("ROLLBACK TO SAVEPOINT loader_new"))
            return None
        self._run(sql.SQL("RELEASE SAVEPOINT loader_new"))
        return inserted

    def insert_part(self, first: int, past: int) -> Written:
        """Insert the records from number ``first`` up to ``past``, where nothing has to be matched."""
        self._run(sql.SQL("SET LOCAL enable_seqscan = off"))
        return self.put(self.part(first, past))

    def _follow(self, course: Course, staged: int) -> Written:
        if course is Course.INSERT:
            return self.put(ALL)
        return self.compare(staged) if course is Course.COMPARE else self.match(ALL, staged)

    def run_carefully(self, *, at_most: int) -> tuple[Merged, list[Refused]]:
        """The same, and records that the target refuses are left out and told, as long as they are ``at_most``.

        A half of the records that is refused as a whole is halved again, down to the record; earlier halves are
        in the table before later ones are tried, so the outcome is that of one record after another.
        """
        self._prepare()
        duplicate = self.drop_repeated() if self.key else 0
        deleted = self.delete() if self.replace else 0
        filled = bool(self.key) and self.has_rows()
        first, last = self.bounds()
        counted = Written()
        refused: list[Refused] = []
        pending = [(first, last)] if first is not None and last is not None else []
        while pending and len(refused) < at_most:
            first, last = pending.pop()
            written = self._try(first, last, filled=filled)
            if isinstance(written, Written):
                counted += written
            elif first == last:
                refused.append(_refused(first, written))
            else:
                pending += self.halves(first, last)
        how = "written in halves, down to the records that the table refused"
        return Merged.of(counted, how, duplicate=duplicate, deleted=deleted), refused

    def _prepare(self) -> None:
        self._run(sql.SQL("SET LOCAL work_mem = {}").format(sql.Literal(WORK_MEM)))
        self._run(sql.SQL("SET LOCAL jit = off"))  # there is nothing to gain in statements of so few expressions
        if self.key:  # else there is nothing to plan
            self._run(sql.SQL("SET LOCAL default_statistics_target = 10"))
            self._run(sql.SQL("ANALYZE {} ({})").format(self.staging.name, names_of(self.key)))

    def _try(self, first: int, last: int, *, filled: bool) -> Written | psycopg2.Error:
        """Write the records from one position to another; what became of them, or why they were refused."""
        among = sql.SQL("s.{} BETWEEN {} AND {}").format(
            sql.Identifier(self.staging.position), sql.Literal(first), sql.Literal(last)
        )
        self._run(sql.SQL("SAVEPOINT loader_merge"))
        try:
            self._run(sql.SQL("SET CONSTRAINTS ALL IMMEDIATE"))
            written = self.match(among) if filled else self.put(among)
        except psycopg2.Error as error:
            if not is_refusal(error):
                raise
            self._run(sql.SQL("ROLLBACK TO SAVEPOINT loader_merge"))
            return error
        self._run(sql.SQL("RELEASE SAVEPOINT loader_merge"))
        return written


_OF_PARTITIONS = ("ExecFindPartition", "ExecPartitionCheckEmitError")
"""The server's functions that report a row for which there is no partition, or that does not belong in the one that it
is loaded into (execPartition.c, execMain.c). A trigger may raise the same SQLSTATE, and messages are translated."""


def _refused(position: int, error: psycopg2.Error) -> Refused:
    told = error.diag
    message = f"{told.message_primary}: {told.message_detail}" if told.message_detail else told.message_primary
    sqlstate = error.pgcode or ""
    reason = "no_partition" if sqlstate == "23514" and told.source_function in _OF_PARTITIONS else reason_of(sqlstate)
    return Refused(position, told.column_name, reason, sqlstate, message or str(error))
