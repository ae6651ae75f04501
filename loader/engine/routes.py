"""The three ways of a load's blocks into its target: straight, into a new table that is renamed, or by a staging table.

Straight is one COPY within the one transaction. That is the fastest way, but after a fault the load begins again from
the first byte, so it is for what is read again in some seconds (`job.STRAIGHT`, `segments.LONG`). An append that is
asked to stop saves what it has copied (`saving`). Staged is for what has to be merged, judged or continued: segments
with checkpoints, then one merge. Renamed is for a table that the load itself creates: several streams fill it under
another name, in segments with checkpoints, and the last transaction renames it.

Several streams cannot fill a table that exists. What they commit would be visible before the load is complete, and a
transaction has one connection: no snapshot that is exported and no prepared transaction lets two sessions commit as
one. Filling a second table and swapping the two, for mode "replace" or an empty target, makes another table of it: its
oid, which views, foreign keys, grants, publications and prepared statements refer to, its triggers and policies, and
its own history of statistics. So a table that exists has one stream, or a staging table with several.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain

import psycopg2
import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.convert.column_mapping import fields_by_position
from loader.convert.encoded import Encoded
from loader.convert.plan import Plan
from loader.core.deadline import Deadline, paused_by
from loader.core.errors import DatabaseError, PausedError
from loader.core.faults import is_servers
from loader.core.process.parallel import overlapped
from loader.engine.counters import Books, RejectKeeper
from loader.engine.report_builder import Account
from loader.engine.segments import (
    NOTHING_SAVED,
    Fillable,
    NotStraightError,
    Segments,
    Unbroken,
    copy_segments,
    staged_so_far,
)
from loader.ledger import checkpoints, ledger
from loader.ledger.checkpoints import NOTHING, Checkpoint
from loader.ledger.ledger import Entry
from loader.postgres import catalog
from loader.postgres.copy_forms import CopyForm, CsvForm
from loader.postgres.database import Database, bound
from loader.postgres.merging.constraints import is_refusal, sift
from loader.postgres.merging.merge import Merge, Merged
from loader.postgres.merging.merge_sql import Written
from loader.postgres.merging.new_table import NewTable
from loader.postgres.merging.saved_rows import SAVED, pages_of, save_copied
from loader.postgres.merging.staging import WIDEST, Staging, copy, pages_per_range
from loader.postgres.merging.target import (
    SetAside,
    creating,
    hold,
    is_wanted,
    keying,
    set_aside_indexes,
    target_name,
    widening,
)
from loader.postgres.statements import execute, execute_all
from loader.postgres.tables import Table
from loader.records.block import Block, Place, reject
from loader.records.reading.reader import Records, recall, take_up, text_of
from loader.records.rejects import Rejects
from loader.records.splitter import no_longer_than
from loader.sources.source import Source

STREAMS = 2
"""COPY streams into a staging table, or a new one. Two load it in half the time of one where client and server have
cores for it; into a target that exists there is one, because a transaction has one connection."""

MERGE_RATE = 50_000
"""Rows a second that a merge is expected to manage at least, when it is asked whether it still fits into the time
left. Measured on two cores: 150,000 where all rows change, a million where none does."""


ASIDE_FROM = 16 << 20
"""Bytes of an object from which on an empty table's indexes are set aside: some tenths of a second's work. For less, it
is not worth a lock that keeps others away."""

LOOK_EVERY = 1.0
"""Seconds between looks at whether somebody waits for a table that is locked."""


GRACE = 5.0
"""Seconds that a COPY has to end when somebody asks to stop, and what it copied is worth saving."""


class PlanChangedError(Exception):
    """What was staged by an earlier attempt is not what would be staged now."""


class TargetChangedError(Exception):
    """The target is not the table any more that the load was planned for. What is staged may be of use yet."""


@dataclass(frozen=True, slots=True)
class Way:
    """What both ways have: the connection with the target's turn, on which the one transaction is, and what is to go.

    ``work``: what is done with each block, by so many ``threads``; ``again``: what is done with one instead of which
    PostgreSQL refused a record. ``form``: of what goes to COPY, None for the binary one. ``drop_overtaken``: of a
    version that came late, takes from staging what newer ones have overtaken, and gives how many records.
    """

    connection: Connection
    database: Database
    deadline: Deadline
    source: Source
    plan: Plan
    records: Records
    work: Callable[[Block], Encoded]
    again: Callable[[Block], Encoded]
    form: CopyForm | None
    threads: int
    keeper: RejectKeeper
    account: Account
    drop_overtaken: Callable[[Merge], int] | None

    @property
    def text(self) -> int:
        """Bytes of text in the source, about."""
        return text_of(self.source.size, self.records.form.compression)

    @property
    def books(self) -> Books:
        return Books(self.account.tally, self.keeper)

    def encoded(self, records: Records) -> AbstractContextManager[Iterator[Encoded]]:
        """The records' blocks, encoded, in their order."""
        return overlapped(
            no_longer_than(records.blocks, self.plan.block_records),
            self.work,
            workers=self.threads,
            interrupt=self.source.interrupt,
        )

    def make_ready(self) -> None:
        """The target is the one that was planned for, stays so, and has every column of the load after this, in the
        transaction that fills it. Raises TargetChangedError where it is another by now."""
        if self.plan.table.oid is not None:
            self._hold_target()
        try:
            execute_all(self.connection, readying(self.plan))
        except psycopg2.errors.DuplicateTable:
            raise self._changed() from None
        except psycopg2.errors.UniqueViolation as error:
            if error.diag.schema_name != "pg_catalog":
                raise
            raise self._changed() from None  # two sessions created it at the same time

    def _hold_target(self) -> None:
        """Lock the target, and see whether it is what the plan says of it: columns, keys, triggers and all."""
        planned = replace(self.plan.table, empty=False)
        try:
            hold(self.connection, planned, alone=bool(self.plan.added))
        except psycopg2.ProgrammingError:  # it was dropped, or is no table, or no table of this role's any more
            if self.connection.closed:
                raise
            self.connection.rollback()
            if self._described() == planned:
                raise
            raise self._changed() from None
        if self._described() != planned:
            raise self._changed()

    def _described(self) -> Table:
        return catalog.describe(self.connection, self.plan.table.schema, self.plan.table.name)

    def _changed(self) -> TargetChangedError:
        return TargetChangedError(f"{self.plan.table}: was altered, replaced, created or dropped meanwhile")

    def complete(self) -> None:
        """A new table has its key after this. Raises psycopg2's UniqueViolation where two rows have the same."""
        if self.plan.table.oid is None and self.plan.key:
            bound(self.connection, self.deadline)
            execute(self.connection, keying(self.plan.table, self.plan.key))

    def account_for(self, copied: int, sent: int) -> None:
        """Every record that was kept must have arrived; a stage that loses one is a defect, and must not commit."""
        if copied != sent:
            raise DatabaseError(
                f"{self.source.uri}: {sent:,} records were sent and PostgreSQL took {copied:,}; "
                "this is a defect of the loader, nothing was loaded"
            )


def readying(plan: Plan) -> list[sql.Composed]:
    """The statements after which the target has every column of the load."""
    if plan.table.oid is None:
        return [creating(plan.table, (*plan.columns, *plan.absent), plan.key)]
    return widening(plan.table, plan.added)


def sets_aside(table: Table, size: int) -> bool:
    """Whether an object of ``size`` bytes is to fill an empty table whose indexes are worth setting aside for it."""
    return table.empty and table.owned and size >= ASIDE_FROM


def begins_new(connection: Connection, plan: Plan, entry: Entry, first: Encoded) -> bool:
    """Whether a file begins with keys that rise, of which the target has none: then all may well be new, and in order.

    COPY into the target itself then saves the way by a staging table: 2 M rows of lineitem between 2 M others in 6.4 s
    instead of 7.9 s. Where a later key turns out to be there, or to come twice, the target refuses it, and the load
    begins again by way of a staging table.
    """
    if first.keys is None or first.keys.first is None or first.rejects:
        return False
    staging = Staging(entry.load_id, entry.attempts, plan.columns)
    try:
        staging.create(connection)
        copy(connection, staging.name, staging.written, iter([first.tuples]))
        past = first.block.record + first.block.records
        return Merge(connection, staging, plan.table, plan.key).looks_new(first.block.record, past)
    finally:
        if not connection.closed:
            connection.rollback()


class Straight(Way):
    """COPY into the target itself."""

    def go(self, checkpoint: Checkpoint | None) -> Merged:
        """Put every record into the target, in the transaction that this leaves open. There is no checkpoint yet.

        Raises NotStraightError where it had better go by way of a staging table.
        """
        assert checkpoint is None
        with ExitStack() as stack:
            with self._waiting():
                self.make_ready()
                indexes = self._set_aside()
            encoded = stack.enter_context(self.encoded(self.records))
            if indexes is not None:
                encoded = self._until_wanted(encoded, stack.enter_context(self.database.session()))
            try:
                copied = self._copy(encoded)
                bound(self.connection, self.deadline)
                with self._waiting():
                    self.complete()
                    if indexes is not None:
                        indexes.put_back(self.connection)
            except psycopg2.errors.UniqueViolation:
                if not self.plan.key:
                    raise
                raise NotStraightError("a key comes twice") from None
        self.account_for(copied, self.account.tally.counts.kept)
        return Merged(inserted=copied, course=_course(self.plan, indexes))

    def _set_aside(self) -> SetAside | None:
        if not sets_aside(self.plan.table, self.source.size):
            return None
        return set_aside_indexes(self.connection, self.plan.table)

    def _copy(self, encoded: Iterator[Encoded]) -> int:
        """COPY it all. Raises PausedError where somebody asked to stop."""
        plan, segment = self.plan, self.plan.spec.segment_size
        names = [column.name for column in plan.columns]
        blocks = Unbroken(
            encoded,
            self.books,
            self.deadline,
            name=self.source.uri,
            size=self.source.size,
            segment=segment,
            saves=self._saves,
        )
        pages = pages_of(self.connection, plan.table) if self.source.size > segment else 0
        with self._stopping() if self._saves else self._waiting():
            copied = self._copy_in(names, blocks.tuples())
        if blocks.stopped:
            assert blocks.after is not None
            saved = self._save(copied, blocks.after, pages)
            raise blocks.paused(staged_so_far(saved) if saved else NOTHING_SAVED)
        return copied

    @property
    def _saves(self) -> bool:
        """Whether it is to save what it has copied when somebody asks to stop."""
        return not self.plan.key and self.source.size > self.plan.spec.segment_size

    def _waiting(self) -> AbstractContextManager[None]:
        """A statement that runs meanwhile is canceled when somebody asks to stop."""
        return self.deadline.calling(self.connection.cancel)

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """When somebody asks to stop, the COPY gets no more blocks and ends. Where it waits, for a lock say, it is
        canceled after `GRACE`. To save what it copied takes as long as it takes: to cancel that would lose it all."""
        canceling: list[threading.Timer] = []

        def cancel_soon() -> None:
            canceling.append(threading.Timer(GRACE, self.connection.cancel))
            canceling[-1].start()

        try:
            with self.deadline.calling(cancel_soon):
                yield
        finally:
            for each in canceling:
                each.cancel()

    def _save(self, copied: int, after: Place, pages: int) -> int:
        """Save what was copied in a staging table, with a checkpoint at ``after``; gives how many records that are, 0
        where it cannot be saved. The table had ``pages`` pages."""
        tally, entry = self.account.tally, self.account.entry
        counts = tally.counts
        self.account_for(copied, counts.kept)
        self.keeper.flush()
        plan = replace(self.plan, found=replace(self.plan.found, staged=SAVED))
        checkpoint = Checkpoint(plan.digest, plan.found, after, counts, seen=tally.seen(after))
        staging = Staging(entry.load_id, entry.attempts, plan.columns)
        with self.database.session() as saving:
            staging.create(saving, self.text)
            if save_copied(self.connection, saving, staging, plan.table, rows=copied, pages=pages):
                checkpoints.save(saving, entry, checkpoint)
                self.account.staged = counts.read
                return counts.read
            saving.rollback()
        return 0

    def _copy_in(self, names: Sequence[str], sent: Iterator[bytes]) -> int:
        target, new = target_name(self.plan.table), self.plan.table.oid is None
        try:
            return copy(self.connection, target, names, sent, freeze=new, form=self.form)
        except psycopg2.errors.UniqueViolation:
            raise
        except psycopg2.Error as error:
            if not isinstance(self.form, CsvForm) or self.connection.closed or is_servers(error.pgcode or ""):
                raise
            raise NotStraightError("PostgreSQL refused a value, which is found by way of a staging table") from None

    def _until_wanted(self, encoded: Iterator[Encoded], watch: Connection) -> Iterator[Encoded]:
        """The blocks, as long as nobody waits for the table: while its indexes are set aside, nobody can use it."""
        look_at = time.monotonic() + LOOK_EVERY
        for each in encoded:
            yield each
            if time.monotonic() > look_at:
                if is_wanted(watch, self.plan.table):
                    raise NotStraightError("somebody else wanted the table meanwhile")
                watch.rollback()
                look_at = time.monotonic() + LOOK_EVERY


def _course(plan: Plan, indexes: SetAside | None) -> str:
    """How rows went straight into the target, in words for the ledger."""
    if plan.table.oid is None:
        return "copied straight into the new table" + (", and its key built afterwards" if plan.key else "")
    if indexes is not None:
        return "copied straight into the empty table, and its indexes built afterwards"
    why = ", for its first records are new to it" if plan.key and not plan.table.empty else ""
    return f"copied straight into the table{why}"


class InSegments(Way):
    """COPY over several streams into a table that nobody knows yet, with checkpoints on the way."""

    @property
    def streams(self) -> int:
        return min(STREAMS, self.threads)

    def check(self, checkpoint: Checkpoint) -> None:
        """Raises PlanChangedError where what an earlier attempt copied is not what this one would copy."""
        if checkpoint.plan != self.plan.digest or not self.account.can_resume(checkpoint.seen):
            raise PlanChangedError

    def resume(self, checkpoint: Checkpoint) -> Checkpoint:
        """Throw away what was rejected beyond the checkpoint, count what comes before it, and commit."""
        ledger.forget_rejects(self.connection, self.account.entry.load_id, record=checkpoint.place.record)
        resumes = ledger.note_resume(self.connection, self.account.entry)
        self.account.resume(resumes, checkpoint.counts, checkpoint.seen)
        self.connection.commit()
        self.keeper.resume(self.connection)
        self.connection.rollback()
        return checkpoint

    def first(self) -> Checkpoint:
        """Where a load begins that was not begun before."""
        return Checkpoint(self.plan.digest, self.plan.found, Place(), NOTHING)

    def fill(self, table: Fillable, start: Checkpoint, told: Callable[[Checkpoint], object]) -> None:
        """COPY what comes after the checkpoint into ``table``, segment by segment. ``told``: is told of checkpoints."""
        records = self.records
        if start.place.offset > 0:
            records = take_up(records, start.place, self.account.read, name=self.source.uri)
        with (
            self.encoded(records) as encoded,
            self.database.session() as saving,
        ):
            segments = Segments(
                encoded,
                self.books,
                self.deadline,
                start,
                lambda checkpoint: checkpoints.save(saving, self.account.entry, checkpoint),
                size=self.plan.spec.segment_size,
                streams=self.streams,
                form=self.form,
                again=self.again,
            )
            with closing(copy_segments(segments, self.database, table)) as saved:
                for checkpoint in saved:
                    self.account.staged = checkpoint.counts.read
                    told(checkpoint)
        last = segments.saved
        self.account_for(segments.copied, last.counts.kept - start.counts.kept)
        if not last.complete:
            raise self.paused(staged_so_far(last.counts.read))

    def paused(self, so_far: str) -> PausedError:
        why = f"{self.source.uri}: {self.deadline.reached or 'its time is nearly up'}"
        return paused_by(self.deadline, f"{why}; {so_far}")


ALL_STAGED = "all of it is staged, and the same call goes on from there"


class Renamed(InSegments):
    """COPY over several streams into a table that the load creates, and give it its name in the end."""

    def go(self, checkpoint: Checkpoint | None) -> Merged:
        """Put every record into the target, in the transaction that this leaves open.

        ``checkpoint``: where an earlier attempt came to. Raises PausedError where the deadline comes first,
        PlanChangedError where the checkpoint is of no use, and NotStraightError where it had better go by way of a
        staging table.
        """
        entry, plan = self.account.entry, self.plan
        table = NewTable(entry.load_id, entry.attempts, plan.table, plan.columns, plan.absent, plan.key)
        start = self._resume(table, checkpoint) if checkpoint else self._begin(table)
        if not start.complete:
            self.fill(table, start, lambda _checkpoint: None)
        if self.deadline.reached:
            raise self.paused(ALL_STAGED)
        bound(self.connection, self.deadline)
        with self.deadline.calling(self.connection.cancel), self._or_by_staging():
            table.give_name(self.connection)
            self.complete()
        keyed = ", and its key built afterwards" if plan.key else ""
        streams = f"{self.streams} streams" if self.streams > 1 else "one stream"
        return Merged(
            inserted=self.account.tally.counts.kept,
            course=f"copied over {streams} into a new table, which was renamed when it was full{keyed}",
        )

    def _begin(self, table: NewTable) -> Checkpoint:
        with self._or_by_staging():
            table.create(self.connection)
        if table.is_published(self.connection):
            raise NotStraightError("subscribers of a publication would see a new table before it is full")
        self.connection.commit()
        return self.first()

    def _resume(self, table: NewTable, checkpoint: Checkpoint) -> Checkpoint:
        """Throw away what was copied and rejected beyond the checkpoint."""
        self.check(checkpoint)
        kept = checkpoint.counts.kept
        if not table.take_over(self.connection, transaction=checkpoint.transaction, rows_staged=kept):
            raise PlanChangedError
        return self.resume(checkpoint)

    @contextmanager
    def _or_by_staging(self) -> Iterator[None]:
        """Raises NotStraightError where the table cannot be the target."""
        try:
            yield
        except (psycopg2.errors.DuplicateTable, psycopg2.errors.DuplicateObject):
            raise NotStraightError("somebody else created the table meanwhile") from None
        except psycopg2.errors.UniqueViolation as error:
            if error.diag.schema_name == "pg_catalog":  # two sessions created it at the same time
                raise NotStraightError("somebody else created the table meanwhile") from None
            raise NotStraightError("a key comes twice") from None


class Staged(InSegments):
    """COPY into a staging table over several streams, then merge it."""

    def go(self, checkpoint: Checkpoint | None) -> Merged:
        """Put every record into the target, in the transaction that this leaves open.

        ``checkpoint``: where an earlier attempt came to. Raises PausedError where the deadline comes first, and
        PlanChangedError where the checkpoint is of no use.
        """
        entry = self.account.entry
        staging = Staging(entry.load_id, entry.attempts, self.plan.columns)
        start = self._resume(staging, checkpoint) if checkpoint else self._begin(staging)
        merge = Merge(self.connection, staging, self.plan.table, self.plan.key, self.plan.spec.mode == "replace")
        ahead = Ahead(self, merge)
        if not start.complete:
            self.fill(staging, start, ahead.insert)
        return self.merge_staged(merge, ahead)

    def _begin(self, staging: Staging) -> Checkpoint:
        staging.create(self.connection, self.text)
        self.connection.commit()
        return self.first()

    def _resume(self, staging: Staging, checkpoint: Checkpoint) -> Checkpoint:
        """Throw away what was staged and rejected beyond the checkpoint."""
        self.check(checkpoint)
        if not staging.take_over(self.connection, record=checkpoint.place.record, rows=checkpoint.counts.kept):
            raise PlanChangedError
        staging.forget_refusals(self.connection)
        return self.resume(checkpoint)

    def merge_staged(self, merge: Merge, ahead: Ahead) -> Merged:
        """Merge what is staged; records that the target does not take become rejects."""
        kept = self.account.tally.counts.kept
        if self.deadline.reached or self._is_late(kept - ahead.written.inserted):
            raise self.paused(ALL_STAGED)
        rejected = self.keeper.count
        bound(self.connection, self.deadline)
        with self.deadline.calling(self.connection.cancel):
            counts = ahead.finish(self.account.tally.counts.read + 1) or self._merge_at_once(merge)
        lost = 0 if self.plan.table.leaves_out else counts.left_out
        self.account_for(counts.records - lost + self.keeper.count - rejected, kept)
        merge.staging.drop(self.connection)
        return counts

    def _is_late(self, rows: int) -> bool:
        """Whether the merge, which cannot be continued, had better begin with another invocation's whole time."""
        deadline = self.deadline
        return deadline.left < rows / MERGE_RATE and deadline.left < 0.8 * deadline.budget

    def _merge_at_once(self, merge: Merge) -> Merged:
        """In one statement or a few; where the target refuses a record, once more with care."""
        if not self.plan.found.careful:
            self.make_ready()
            overtaken = self._drop_overtaken(merge)
            try:
                counts = merge.run(distinct=self.account.tally.keys.so_far)
                self.complete()
                return replace(counts, duplicate=counts.duplicate + overtaken, overtaken=overtaken)
            except psycopg2.Error as error:
                # the positions of rows that were saved from the target are not those of their records
                if not is_refusal(error) or self.plan.found.staged == SAVED:
                    raise
            self.connection.rollback()
        return self._merge_carefully(merge)

    def _merge_carefully(self, merge: Merge) -> Merged:
        """What the target takes; the other records become rejects."""
        self.make_ready()
        overtaken = self._drop_overtaken(merge)
        keeper = self.keeper
        refused = sift(
            self.connection,
            merge.staging,
            merge.table,
            keyed=bool(merge.key),
            emptied=merge.replace,
            at_most=keeper.left + 1,
        )
        counts, more = merge.run_carefully(at_most=keeper.left + 1 - len(refused))
        self.complete()
        refused = sorted([*refused, *more], key=lambda each: each.position)
        positions = [each.position for each in refused]
        found = self.recalled(positions)
        for each, (block, index) in zip(refused, found, strict=True):
            keeper.add(
                Rejects.of([reject(block, index, each.reason, each.message, each.column, sqlstate=each.sqlstate)])
            )
        return replace(counts, duplicate=counts.duplicate + overtaken, overtaken=overtaken)

    def _drop_overtaken(self, merge: Merge) -> int:
        return 0 if self.drop_overtaken is None else self.drop_overtaken(merge)

    def recalled(self, positions: Sequence[int]) -> Iterator[tuple[Block, int]]:
        """The records at rising ``positions``, each one's block and place in it, read from the object once more."""
        if not positions:
            return
        spec = self.plan.spec
        fields = fields_by_position(spec, self.plan.table)
        chunks = self.account.read_again()
        # chain(): so that the readers in between, when they are done, do not close the chunks
        yield from recall(chain(chunks), spec.csv, positions, name=self.source.uri, fields=fields)
        for _ in chunks:  # to the end, where they are compared
            pass


class Ahead:
    """Inserts segments into the target while later ones are being copied, in the one transaction.

    Copying and inserting take two sessions of the server, so the one hides behind the other. Lineitem, 1.8 M rows, two
    cores shared with the server: 6.8 s instead of 8.9 s; where the server has cores of its own, more. What is inserted
    is lost when the attempt ends early, so this waits until the attempt looks like getting through. ``written``: what
    became of the records so far.

    Only where rows need not be matched: in an append, or where a sample shows that a segment is new to the table. A
    key that was there all the same is refused by the table itself, and then all is undone and merged at once.
    """

    def __init__(self, way: Staged, merge: Merge) -> None:
        plan = way.plan
        self._way = way
        self._merge = merge
        self._began = time.monotonic()
        # a column is added at the end, for from then on nobody can read the table
        apt = not (merge.replace or plan.found.careful or plan.added or way.drop_overtaken)
        self._apt = apt and pages_per_range(way.text) <= WIDEST
        self._next: int | None = None
        self.written = Written()

    def insert(self, checkpoint: Checkpoint) -> None:
        """Insert what is staged up to the checkpoint, if that is worth it by now."""
        begun = self._next is not None
        if self._apt and not self._way.deadline.reached and (begun or self._will_get_through(checkpoint)):
            self._insert_up_to(checkpoint.place.record)

    def finish(self, past: int) -> Merged | None:
        """Insert the rest, up to record ``past``; None where nothing was inserted, and all is still to do."""
        if self._next is not None and self._insert_up_to(past):
            try:
                self._way.complete()
            except psycopg2.errors.UniqueViolation:
                self._give_up()
        if self._next is None:
            return None
        return Merged.of(self.written, "inserted segment by segment, while later ones were copied")

    def _insert_up_to(self, past: int) -> bool:
        connection, first = self._way.connection, self._next or 1
        try:
            bound(connection, self._way.deadline)
            with self._way.deadline.calling(connection.cancel):
                if self._next is None:
                    self._way.make_ready()
                self._merge.ready_parts()
                if not self._merge.looks_new(first, past):
                    self._give_up()
                    return False
                self.written += self._merge.insert_part(first, past)
            self._next = past
        except psycopg2.Error as error:
            called_back = isinstance(error, psycopg2.errors.QueryCanceled) and self._way.deadline.reached
            if not (called_back or is_refusal(error)):
                raise
            self._give_up()
        return self._next is not None

    def _give_up(self) -> None:
        """Undo it; all is merged at once in the end."""
        self._way.connection.rollback()
        self._apt, self._next, self.written = False, None, Written()

    def _will_get_through(self, checkpoint: Checkpoint) -> bool:
        """Whether there is a rest of the file, and it will take well less than the time left, by how long it took so
        far."""
        way = self._way
        if checkpoint.complete or math.isinf(way.deadline.left):
            return not checkpoint.complete
        done = way.account.tally.bytes_read
        rest = way.source.size - (checkpoint.place.offset if way.records.form.plain else done)
        return rest / max(done, 1) * (time.monotonic() - self._began) < way.deadline.left / 2
