"""The two ways of a load's blocks into its target: straight, or by way of a staging table.

Straight is one COPY within the one transaction: the fastest there is, but after a fault it begins again from the first
byte. Staged is for what has to be merged, judged or continued: segments with checkpoints, then one merge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader import checkpoints, ledger
from loader.account import Account
from loader.checkpoints import NOTHING, Checkpoint
from loader.columns import fields_by_position
from loader.database import Database
from loader.deadline import Deadline
from loader.errors import DatabaseError, PausedError
from loader.merge import Counts, Merge, add_columns, create_table, target_name
from loader.overlap import overlapped
from loader.plan import Plan
from loader.reading import Records, recall, take_up
from loader.records import Block, Encoded, Place, reject
from loader.refusals import is_refusal, sift
from loader.segments import Segments, copy_segments, straight
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
            tuples = straight(encoded, self.books, self.deadline)
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
        if not start.complete:
            self._stage(staging, start)
        return self._merge(staging)

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

    def _stage(self, staging: Staging, start: Checkpoint) -> None:
        """COPY what comes after the checkpoint, segment by segment."""
        records = self.records
        if start.place.offset:
            records = take_up(self.source, records, start.place, self.account.tally.watch)
        with overlapped(records.blocks, self.work, workers=self.workers) as encoded:
            segments = Segments(
                encoded,
                self.books,
                self.deadline,
                start,
                lambda checkpoint: self._save(staging, checkpoint),
                size=self.plan.spec.segment_mb << 20,
                streams=min(STREAMS, self.workers),
            )
            last = copy_segments(segments, self.database, staging)
        self.account_for(segments.copied, last.counts.kept - start.counts.kept)
        if not last.complete:
            raise self._paused(f"{last.counts.read:,} records are staged")

    def _save(self, staging: Staging, checkpoint: Checkpoint) -> None:
        checkpoints.save(self.connection, staging.load_id, checkpoint)
        self.account.staged = checkpoint.counts.read

    def _paused(self, so_far: str) -> PausedError:
        why = f"{self.source.uri}: {self.deadline.reached or 'its time is nearly up'}"
        return PausedError(f"{why}; {so_far}, and the same call goes on from there", handover=not self.deadline.stopped)

    def _merge(self, staging: Staging) -> Counts:
        """Merge what is staged; records that the target does not take become rejects."""
        kept = self.account.tally.counts.kept
        if self.deadline.reached or self._is_late(kept):
            raise self._paused("all of it is staged")
        merge = Merge(staging, self.plan.table, self.plan.key, replace=self.plan.spec.mode == "replace")
        rejected = self.keeper.count
        with self.deadline.calling(self.connection.cancel):
            counts = self._merge_carefully(merge) if self.plan.found.careful else self._merge_hopefully(merge)
        merged = counts.inserted + counts.updated + counts.unchanged + counts.duplicate
        self.account_for(merged + self.keeper.count - rejected, kept)
        staging.drop(self.connection)
        return counts

    def _is_late(self, rows: int) -> bool:
        """Whether the merge, which cannot be continued, had better begin with another invocation's whole time."""
        deadline = self.deadline
        return deadline.left < rows / MERGE_RATE and deadline.left < 0.8 * deadline.budget

    def _merge_hopefully(self, merge: Merge) -> Counts:
        """All at once; where the target refuses a record, once more with care."""
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
