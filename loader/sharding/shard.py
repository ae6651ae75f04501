"""One shard of an object on its way into a staging table of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

import psycopg2

from loader.convert.column_mapping import WidenColumn
from loader.convert.lanes.routing import Lanes
from loader.convert.plan import Plan
from loader.core.deadline import paused_by
from loader.core.display import brief
from loader.core.errors import DatabaseError, LimitError, LoaderError, RejectLimitError, ShapeError, TransformError
from loader.core.process.parallel import overlapped
from loader.core.stored import read_stored
from loader.engine.counters import Books
from loader.engine.job import Task
from loader.engine.routes import STREAMS
from loader.engine.segments import Segments, copy_segments
from loader.ledger.checkpoints import NOTHING, Checkpoint, Found
from loader.postgres.copy_forms import CopyForm
from loader.postgres.database import translate, translated
from loader.postgres.merging.constraints import is_refusal
from loader.postgres.merging.staging import Staging
from loader.records.block import Block, Place
from loader.records.reading.reader import Head, Records
from loader.records.splitter import EndlessRecordError, no_longer_than
from loader.sharding import runs
from loader.sharding.boundaries import SHARD_BITS, Cutter, Shard
from loader.sharding.messages import OTHER_HEAD
from loader.sharding.proof import Known, ShardPlan, ShardReport
from loader.sharding.runs import ShardRejects
from loader.sources.checksums import ByteCheck, Checksum

_GARBAGE = (LimitError, RejectLimitError, ShapeError, TransformError)
"""What a shard that begins in the middle of a quoted field may come to."""


class ShardLoad:
    """One run of one shard. Memory: as `Load`; its transactions are its own, and nobody waits for them."""

    def __init__(self, plan: ShardPlan, number: int, load: Task) -> None:
        self._plan = plan
        self._number = number
        self._load = load
        self._source = load.source
        self._database = load.database
        self._began = time.monotonic()

    def run(self, known: Known | None) -> ShardReport:
        """Load it, or find that it was. Raises LoaderError."""
        with translated(f"{self._source.uri}: shard {self._number} of load {self._plan.load_id}"):
            return self._run(known)

    def _run(self, known: Known | None) -> ShardReport:
        plan, load = self._plan, self._load
        with self._database.session() as connection:
            for each in runs.reports(connection, plan, self._number):
                if _answers(each, known):
                    return each
            run = runs.begin(connection, plan, self._number)
            table = load.target(connection)
            report = ShardReport(
                plan.load_id or 0, plan.attempt, self._number, run, known=dict(known) if known else None
            )
            front = Head(self._source)
            if plan.head is not None and front.crc != plan.head:
                problem = {"kind": "changed", "message": OTHER_HEAD, "run": run}
                report = replace(report, problem=problem)
                runs.end(connection, plan, report)
                return report
            records = load.open_records(iter(front), table)
            found = read_stored(Found, plan.found, what="a shard plan's findings")
            whole = load.plan(connection, records, table, found, again=True)
            if whole.digest != plan.digest:
                problem = {
                    "kind": "changed",
                    "message": f"the table {table} is not what it was when the shards were planned",
                }
                report = replace(report, problem={**problem, "run": run})
            else:
                staging = Staging(report.load_id, plan.attempt, whole.columns, run)
                try:
                    staging.create(connection)
                    connection.commit()
                    report = self._stage(report, whole, records, staging)
                except psycopg2.Error as error:
                    told = self._told(error)
                    if told.retryable:
                        raise
                    report = replace(report, problem={"kind": "failed", "message": str(told), "run": run})
            connection.rollback()
            runs.end(connection, plan, report)
        return report

    def _told(self, error: psycopg2.Error) -> LoaderError:
        return translate(error, f"{self._source.uri}: loading into {self._load.account.table}")

    def _stage(self, report: ShardReport, whole: Plan, records: Records, staging: Staging) -> ShardReport:
        plan, load, account = self._plan, self._load, self._load.account
        start, stop = plan.text(self._number)
        first, past = plan.ranges[self._number]
        shard = Shard(
            self._number,
            first,
            past,
            start,
            stop,
            plan.end,
            plan.fields,
            plan.mark,
            begins=start == plan.start,
            counts_quotes=plan.counts_quotes,
            algorithm=plan.algorithm,
        )
        dialect = records.first.dialect if records.first is not None else None
        assert dialect is not None
        keeper = ShardRejects(self._database, report.load_id, load.spec.rejects, plan.uri)
        form = load.form(whole, dialect, judged=True)
        lanes = load.lanes(whole, report.load_id, lambda: keeper.left, form)
        cutter = Cutter(self._read, dialect, shard, name=plan.uri, clean=lanes.count_convertible)
        cutter.begin(report.known)
        report = replace(report, inside=cutter.inside, start=cutter.start)
        account.entry = replace(account.entry, load_id=report.load_id, attempts=plan.attempt)
        keeper.run, keeper.base = report.run, self._number << SHARD_BITS
        account.keeper = keeper
        problem: dict[str, Any] | None = None
        try:
            with keeper, lanes:
                blocks = no_longer_than(cutter.blocks(), whole.block_records)
                self._copy(blocks, lanes, form, Books(account.tally, keeper), staging)
                keeper.flush()
        except _GARBAGE as error:
            kind = "limit" if isinstance(error, RejectLimitError) else type(error).__name__
            problem = {"kind": kind, "message": str(error)}
            if isinstance(error, RejectLimitError):
                problem["rejected"] = [[*each, count] for each, count in keeper.counts().items()]
            if isinstance(error, EndlessRecordError):
                place = error.place
                problem |= {"kind": "endless", "place": [place.offset, place.record - keeper.base, place.line]}
        except WidenColumn as error:
            from loader.convert.infer import widened

            wider = widened(whole.inferred[error.column], error.texts)
            told = f'the column "{error.column}" has to be {wider}'
            problem = {"kind": "widen", "column": error.column, "type": wider, "message": told}
        except psycopg2.Error as error:
            if not is_refusal(error):
                raise
            problem = {
                "kind": "careful",
                "message": f"the database refused a record: {brief(str(error.diag.message_primary))}",
            }
            if whole.found.careful:  # it may be garbage yet, of a wrong guess
                problem = {"kind": "refused", "message": str(self._told(error))}
        report = replace(
            report,
            bytes_read=cutter.bytes_read,
            seconds=round(time.monotonic() - self._began, 3),
            rejected=keeper.count,
        )
        if problem is not None:
            cutter.confirm()
            return replace(report, problem={**problem, "run": report.run})
        counts = account.tally.counts
        return replace(
            report,
            end=cutter.end.offset if cutter.end else None,
            records=counts.read,
            lines=cutter.end.line - 1 if cutter.end else 0,
            kept=counts.kept,
            filtered=counts.filtered,
            short=counts.short,
            long=counts.long,
            parity=cutter.parity,
            crc=cutter.crc,
            lead=cutter.lead,
            tail=cutter.tail,
            broken=cutter.broken,
            keys=account.tally.keys.bounds,
            swallowed=asdict(counts.swallowed) if counts.swallowed.records else None,
        )

    def _read(self, start: int, stop: int) -> Iterator[bytes]:
        """The object's bytes; the parts of a multipart upload that the shard consists of are compared as they pass."""
        chunks = self._source.chunks(start, stop)
        checksum = self._source.checksum()
        if (start, stop) != self._plan.ranges[self._number] or not isinstance(checksum, Checksum):
            return chunks
        own = checksum.within(start, stop)
        return chunks if own is None else ByteCheck(self._source.uri, stop - start, own).watch(chunks)

    def _copy(
        self, blocks: Iterator[Block], lanes: Lanes, form: CopyForm | None, books: Books, staging: Staging
    ) -> None:
        """COPY the shard's records into its staging table, segment by segment, each a sign of life."""
        load, source = self._load, self._source
        with (
            overlapped(blocks, lanes.convert, workers=load.threads, interrupt=source.interrupt) as encoded,
            self._database.session() as telling,
        ):
            segments = Segments(
                encoded,
                books,
                load.how.deadline,
                Checkpoint("", Found(), Place(), NOTHING),
                lambda _checkpoint: runs.give_sign(telling, self._plan, staging.run or 0),
                size=load.spec.segment_size,
                streams=min(STREAMS, load.threads),
                form=form,
            )
            with closing(copy_segments(segments, self._database, staging)) as saved:
                for _ in saved:
                    pass
        if not segments.saved.complete:
            deadline = load.how.deadline
            why = f"{source.uri}: shard {self._number}: {deadline.reached or 'its time is nearly up'}"
            raise paused_by(deadline, f"{why}; the same call begins it anew")
        if segments.copied != books.tally.counts.kept:
            raise DatabaseError(
                f"{source.uri}: shard {self._number}: {books.tally.counts.kept:,} records were sent and PostgreSQL "
                f"took {segments.copied:,}; this is a defect of the loader"
            )


def _answers(report: ShardReport, known: Known | None) -> bool:
    """Whether a run that is through is what is asked for."""
    if known is None:
        return True
    if "start" in known:
        return bool(report.start == known["start"])
    return report.inside is known["inside"] or (report.known is not None and "start" in report.known)
