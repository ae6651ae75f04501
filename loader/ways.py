"""The two ways of a load's blocks into its target: straight, or by way of a staging table.

Straight is one COPY within the one transaction: the fastest there is, but after a fault it begins again from the first
byte. Staged is for what has to be merged, judged or continued: segments with checkpoints, then one merge.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader import checkpoints, ledger
from loader.account import Account
from loader.checkpoints import NOTHING, Checkpoint
from loader.columns import fields_by_position
from loader.database import Database, bound
from loader.deadline import Deadline
from loader.errors import DatabaseError, PausedError
from loader.merge import Counts, Merge, add_columns, create_table, target_name
from loader.overlap import overlapped
from loader.plan import Plan
from loader.reading import Records, recall, take_up
from loader.records import Block, Encoded, Place, reject
from loader.refusals import is_refusal, sift
from loader.segments import Segments, copy_segments, staged_so_far, straight
from loader.source import Source
from loader.staging import Staging, copy
from loader.tally import Books, RejectKeeper

STREAMS = 2
"""COPY streams into a staging table. Two load it in half the time of one where client and server have cores
for it; into the target itself there is one, because a transaction has one connection."""

MERGE_RATE = 50_000
"""Rows a second that a merge is expected to manage at least, when it is asked whether it still fits into the time
left. Measured on two cores: 150,000 where all rows change, a million where none does."""


class PlanChangedError(Exception):
    """What was staged by an earlier attempt is not what would be staged now."""


@dataclass(frozen=True, slots=True)
class Way:
    """What both ways have: the connection with the target's turn, on which the one transaction is, and what is to go.

    ``work``: what is done with each block, by ``workers`` threads.
    """

    connection: Connection
    database: Database
    deadline: Deadline
    source: Source
    plan: Plan
    records: Records
    work: Callable[[Block], Encoded]
    workers: int
    keeper: RejectKeeper
    account: Account

    @property
    def books(self) -> Books:
        return Books(self.account.tally, self.keeper)

    def make_ready(self) -> None:
        """The target has every column of the load after this, in the transaction that fills it."""
        plan = self.plan
        if plan.table.oid is None:
            create_table(self.connection, plan.table, (*plan.columns, *plan.absent), plan.key)
        elif plan.added:
            add_columns(self.connection, plan.table, plan.added)

    def account_for(self, copied: int, sent: int) -> None:
        """Every record that was kept must have arrived; a stage that loses one is a defect, and must not commit."""
        if copied != sent:
            raise DatabaseError(
                f"{self.source.uri}: {sent:,} records were sent and PostgreSQL took {copied:,}; "
                "this is a defect of the loader, nothing was loaded"
            )


class Straight(Way):
    """COPY into the target itself."""

    def go(self, checkpoint: Checkpoint | None) -> Counts:
        """Put every record into the target, in the transaction that this leaves open. There is no checkpoint yet."""
        assert checkpoint is None
        self.make_ready()
        names = [column.name for column in self.plan.columns]
        with (
            self.deadline.calling(self.connection.cancel),
            overlapped(self.records.blocks, self.work, workers=self.workers) as encoded,
        ):
            tuples = straight(encoded, self.books, self.deadline, name=self.source.uri, size=self.source.size)
            copied = copy(self.connection, target_name(self.plan.table), names, tuples)
        self.account_for(copied, self.account.tally.counts.kept)
        return Counts(inserted=copied)


class Staged(Way):
    """COPY into a staging table over several streams, then merge it."""

    def go(self, checkpoint: Checkpoint | None) -> Counts:
        """Put every record into the target, in the transaction that this leaves open.

        ``checkpoint``: where an earlier attempt came to. Raises PausedError where the deadline comes first, and
        PlanChangedError where the checkpoint is of no use.
        """
        entry = self.account.entry
        staging = Staging(entry.load_id, entry.attempts, self.plan.columns)
        start = self._resume(staging, checkpoint) if checkpoint else self._begin(staging)
        merge = Merge(staging, self.plan.table, self.plan.key, replace=self.plan.spec.mode == "replace")
        ahead = _Ahead(self, merge)
        if not start.complete:
            self._stage(staging, start, ahead)
        return self._merge(merge, ahead)

    def _begin(self, staging: Staging) -> Checkpoint:
        staging.create(self.connection)
        self.connection.commit()
        return Checkpoint(self.plan.digest, self.plan.found, Place(), NOTHING)

    def _resume(self, staging: Staging, checkpoint: Checkpoint) -> Checkpoint:
        """Throw away what was staged and rejected beyond the checkpoint."""
        record, counts = checkpoint.place.record, checkpoint.counts
        if checkpoint.plan != self.plan.digest or not staging.take_over(
            self.connection, record=record, rows=counts.kept
        ):
            raise PlanChangedError
        ledger.forget_rejects(self.connection, staging.load_id, record=record)
        staging.forget_refusals(self.connection)
        self.account.resume(ledger.note_resume(self.connection, self.account.entry), counts)
        self.connection.commit()
        self.keeper.resume(self.connection)
        self.connection.rollback()
        return checkpoint

    def _stage(self, staging: Staging, start: Checkpoint, ahead: _Ahead) -> None:
        """COPY what comes after the checkpoint, segment by segment."""
        records = self.records
        if start.place.offset:
            records = take_up(self.source, records, start.place, self.account.tally.watch)
        with (
            overlapped(records.blocks, self.work, workers=self.workers) as encoded,
            self.database.session() as saving,
        ):
            segments = Segments(
                encoded,
                self.books,
                self.deadline,
                start,
                lambda checkpoint: checkpoints.save(saving, self.account.entry, checkpoint),
                size=self.plan.spec.segment_size,
                streams=min(STREAMS, self.workers),
            )
            with closing(copy_segments(segments, self.database, staging)) as saved:
                for checkpoint in saved:
                    self.account.staged = checkpoint.counts.read
                    ahead.insert(checkpoint)
        last = segments.saved
        self.account_for(segments.copied, last.counts.kept - start.counts.kept)
        if not last.complete:
            raise self._paused(staged_so_far(last.counts.read))

    def _paused(self, so_far: str) -> PausedError:
        why = f"{self.source.uri}: {self.deadline.reached or 'its time is nearly up'}"
        return PausedError(f"{why}; {so_far}", handover=not self.deadline.stopped)

    def _merge(self, merge: Merge, ahead: _Ahead) -> Counts:
        """Merge what is staged; records that the target does not take become rejects."""
        kept = self.account.tally.counts.kept
        if self.deadline.reached or self._is_late(kept - ahead.rows):
            raise self._paused("all of it is staged, and the same call goes on from there")
        rejected = self.keeper.count
        bound(self.connection, self.deadline)
        with self.deadline.calling(self.connection.cancel):
            counts = ahead.finish(self.account.tally.counts.read + 1) or self._merge_at_once(merge)
        merged = counts.inserted + counts.updated + counts.unchanged + counts.duplicate
        self.account_for(merged + self.keeper.count - rejected, kept)
        merge.staging.drop(self.connection)
        return counts

    def _is_late(self, rows: int) -> bool:
        """Whether the merge, which cannot be continued, had better begin with another invocation's whole time."""
        deadline = self.deadline
        return deadline.left < rows / MERGE_RATE and deadline.left < 0.8 * deadline.budget

    def _merge_at_once(self, merge: Merge) -> Counts:
        """In one statement or a few; where the target refuses a record, once more with care."""
        if not self.plan.found.careful:
            self.make_ready()
            try:
                return merge.run(self.connection)
            except psycopg2.Error as error:
                if not is_refusal(error):
                    raise
            self.connection.rollback()
        return self._merge_carefully(merge)

    def _merge_carefully(self, merge: Merge) -> Counts:
        """What the target takes; the other records become rejects."""
        self.make_ready()
        keeper, spec = self.keeper, self.plan.spec
        refused = sift(
            self.connection,
            merge.staging,
            merge.table,
            keyed=bool(merge.key),
            emptied=merge.replace,
            at_most=keeper.left + 1,
        )
        counts, more = merge.run_carefully(self.connection, at_most=keeper.left + 1 - len(refused))
        refused = sorted([*refused, *more], key=lambda each: each.position)
        positions = [each.position for each in refused]
        fields = fields_by_position(spec, merge.table)
        found = recall(self.source.chunks(), spec.csv, positions, name=self.source.uri, fields=fields)
        for each, (block, index) in zip(refused, found, strict=True):
            keeper.add([reject(block, index, each.reason, each.message, each.column, sqlstate=each.sqlstate)])
        return counts


class _Ahead:
    """Inserts the segments of an append into the target while later ones are being copied, in the one transaction.

    Copying and inserting take two sessions of the server, so the one hides behind the other. Lineitem, 1.8 M rows, two
    cores shared with the server: 6.8 s instead of 8.9 s; where the server has cores of its own, more. What is inserted
    is lost when the attempt ends early, so this waits until the attempt looks like getting through. ``rows``: so far.
    """

    def __init__(self, way: Staged, merge: Merge) -> None:
        plan = way.plan
        self._way = way
        self._merge = merge
        self._began = time.monotonic()
        # a column is added at the end, for from then on nobody can read the table
        self._apt = plan.spec.mode == "append" and not plan.found.careful and not plan.added
        self._next: int | None = None
        self.rows = 0

    def insert(self, checkpoint: Checkpoint) -> None:
        """Insert what is staged up to the checkpoint, if that is worth it by now."""
        if self._apt and (self._next is not None or self._will_get_through(checkpoint)):
            self._insert_up_to(checkpoint.place.record)

    def finish(self, past: int) -> Counts | None:
        """Insert the rest, up to record ``past``; None where nothing was inserted, and all is still to do."""
        if self._next is not None:
            self._insert_up_to(past)
        return None if self._next is None else Counts(inserted=self.rows)

    def _insert_up_to(self, past: int) -> None:
        connection = self._way.connection
        try:
            if self._next is None:
                self._way.make_ready()
                self._next = 1
            self.rows += self._merge.insert_part(connection, self._next, past)
            self._next = past
        except psycopg2.Error as error:
            if not is_refusal(error):
                raise
            connection.rollback()
            self._apt, self._next, self.rows = False, None, 0

    def _will_get_through(self, checkpoint: Checkpoint) -> bool:
        """Whether the rest of the file will take well less than the time left, by how long it took so far."""
        way = self._way
        if math.isinf(way.deadline.left) or checkpoint.complete:
            return True
        done = way.account.tally.bytes_read
        rest = way.source.size - (checkpoint.place.offset if way.records.form.plain else done)
        return rest / max(done, 1) * (time.monotonic() - self._began) < way.deadline.left / 2
