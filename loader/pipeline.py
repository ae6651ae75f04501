"""The whole flow: open the source, split it into blocks, parse, transform, encode, copy, merge, enter in the ledger."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader import catalog, checkpoints, ledger
from loader.account import Account
from loader.checkpoints import Checkpoint, Found
from loader.columns import fields_by_position
from loader.database import Database
from loader.errors import LoaderError, UsageError
from loader.infer import widened
from loader.judge import Judge
from loader.lane import TextLane
from loader.ledger import Entry
from loader.merge import Counts
from loader.parse import Parser
from loader.plan import Plan, make_plan
from loader.reading import Records, head, open_records
from loader.records import Block, Encoded
from loader.refusals import is_refusal
from loader.report import LoadReport
from loader.segments import NotStraightError
from loader.sniff import sniffed
from loader.source import Source, expand, open_source
from loader.spec import LoadSpec
from loader.staging import drop_tables
from loader.tables import Table
from loader.tally import Progress, RejectKeeper
from loader.target import is_empty
from loader.transform import Transformer, WidenColumn
from loader.undertaking import PLAINLY, TURN_WAIT, How, Undertaking, note_unopened
from loader.ways import PlanChangedError, Staged, Straight, begins_new

__all__ = ["PLAINLY", "How", "Load", "as_spec", "load", "load_one"]

STRAIGHT = 24
"""Segments that an object may have to go straight into the target: 768 MiB by default, some ten seconds. To begin again
costs little then, and staging what need not be merged costs half as much again (`bench.segments`)."""

NOTHING_FOUND = Found()

TRIAL_FROM = 16 << 20
"""Bytes of an object from which on it pays to find out whether it may go straight into a table that has rows."""

UNPACKED = 8
"""Bytes of text, about, in a byte of a compressed object."""


def load(
    source: str,
    spec: LoadSpec | Mapping[str, Any] | str | os.PathLike[str],
    *,
    dsn: str | None = None,
    database: Database | None = None,
    s3: Any = None,
    force: bool = False,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    wait: float = TURN_WAIT,
) -> LoadReport:
    """Load each object or file that ``source`` names: a path, a glob, s3://bucket/key or s3://bucket/prefix/.

    ``dsn`` or ``database`` says where to, ``s3`` is a boto3 client to use, and for the rest see `How`.

    Each object is a load of its own, and all at once or not at all. With several, all are tried, and the
    report adds them up. Raises LoaderError for the first that failed; its ``report`` says what became of all.
    """
    spec = as_spec(spec)
    if (dsn is None) == (database is None):
        raise UsageError("load() needs either dsn or database")
    how = How(force=force, workers=workers, progress=progress, wait=wait)
    reports, failed = [], []
    with ExitStack() as stack:
        if database is None:
            assert dsn is not None
            database = Database(dsn)
            stack.callback(database.close)
        for uri in expand(source, client=s3):
            try:
                reports.append(load_one(uri, spec, database, how, s3=s3))
            except LoaderError as error:
                reports += [error.report] if error.report else []
                failed.append(error)
    report = LoadReport.combine(reports)
    if failed:
        failed[0].report = report
        raise failed[0]
    return report


def load_one(
    uri: str, spec: LoadSpec, database: Database, how: How = PLAINLY, *, version_id: str | None = None, s3: Any = None
) -> LoadReport:
    """Load the one object or file of that name; no character of it is a pattern.

    ``version_id`` pins a version of the object. Raises LoaderError; its ``report`` says what became of it.
    """
    try:
        with open_source(uri, version_id=version_id, client=s3) as source:
            return Load(source, spec, database, how).run()
    except LoaderError as error:
        if error.report is None:  # it could not even be opened
            error.report = LoadReport(
                "failed", uri, spec.table, spec.mode, version=version_id, error=str(error), retryable=error.retryable
            )
            if uri.startswith("s3://"):
                note_unopened(database, spec, error.report, how)
        raise


def as_spec(spec: LoadSpec | Mapping[str, Any] | str | os.PathLike[str]) -> LoadSpec:
    """The spec, made of whatever form it was given in. Raises SpecError."""
    if isinstance(spec, LoadSpec):
        return spec
    return LoadSpec.from_dict(spec) if isinstance(spec, Mapping) else LoadSpec.from_toml(spec)


class Load:
    """One object's version on its way into one table. Made for one `run`.

    Memory: the source's prefetch (4 parts of 4 MiB from S3, and two more that are being split; 1 chunk of a file), and
    workers + `overlap.AHEAD` + STREAMS blocks of 1 MiB, each at most as text, as a record batch and as COPY tuples,
    about 5 MiB: with two workers 24 + 6 × 5 MiB, beside 90 MB of libraries (110 MB with S3's). A longer record grows
    its block, up to `blocks.RECORD_LIMIT`. Nothing grows with the file, the table, or the number of rejects.

    Transactions: the rejects, the running entry, and what is staged with its checkpoints commit as they go; what is
    visible in the target, the ledger's "loaded" and the end of the staging table are one transaction, on the
    connection that holds the target's turn.
    """

    def __init__(self, source: Source, spec: LoadSpec, database: Database, how: How) -> None:
        source.deadline = how.deadline
        self.source = source
        self.spec = spec
        self.database = database.until(how.deadline)
        self.how = how
        self.workers = how.workers or len(os.sched_getaffinity(0))
        self.account = Account(source, spec, progress=how.progress, replay_of=how.replay_of)
        self.types: Mapping[str, str] = {}  # what was inferred

    def run(self) -> LoadReport:
        """Load it, or find that it was loaded before. Raises LoaderError, and the target is as it was."""
        return Undertaking(self.source, self.spec, self.database, self.how, self.account).run(self._attempt)

    def _attempt(self, connection: Connection, entry: Entry) -> LoadReport:
        """Load it in the hope that the target takes every record, and that the types that were inferred hold.

        Where one does not, begin again: with care, or with a wider type.
        """
        checkpoint = checkpoints.find(connection, entry.load_id)
        found = checkpoint.found if checkpoint else Found()
        while True:
            if checkpoint is None:
                self._start_over(connection, entry.load_id)
            try:
                return self._flow(connection, entry, checkpoint, found)
            except PlanChangedError:
                found = Found()
            except NotStraightError as reason:
                found = replace(found, staged=str(reason))
            except WidenColumn as error:
                wider = widened(self.types[error.column], error.texts)
                found = replace(found, widened={**found.widened, error.column: wider})
            except psycopg2.Error as error:
                if found.careful or not is_refusal(error):
                    raise
                found = replace(found, careful=True)
            checkpoint = None

    def _start_over(self, connection: Connection, load_id: int) -> None:
        """Forget what was read, staged and rejected so far."""
        connection.rollback()
        checkpoints.forget(connection, load_id)
        ledger.forget_rejects(connection, load_id)
        drop_tables(connection, load_id)
        connection.commit()
        self.account.restart()

    def _flow(self, connection: Connection, entry: Entry, checkpoint: Checkpoint | None, found: Found) -> LoadReport:
        """The whole way, from the checkpoint on where there is one."""
        account, uri = self.account, self.source.uri
        table = self.target(connection)
        further = checkpoint is not None and (checkpoint.complete or checkpoint.place.offset > 0)
        chunks = head(self.source) if further else account.tally.watch(self.source.chunks())
        records = open_records(chunks, self.spec.csv, name=uri, fields=fields_by_position(self.spec, table))
        ledger.note_file(connection, entry.load_id, records.header, records.csv)
        plan = self.plan(connection, records, table, found, again=entry.attempts > 1)
        self.types = plan.inferred
        with (
            RejectKeeper(self.database, entry.load_id, self.spec.rejects, uri) as keeper,
            TextLane(self.database, plan.columns, plan.session_zone) as lane,
        ):
            account.rejected, account.rejected_columns = keeper.reasons, keeper.columns
            if plan.guarded and self._begins_new(connection, plan, lane, records):
                plan = replace(plan, straight=True)
            counts = (Straight if plan.straight else Staged)(
                connection=connection,
                database=self.database,
                deadline=self.how.deadline,
                source=self.source,
                plan=plan,
                records=records,
                work=self._work(plan, lane, entry.load_id),
                workers=self.workers,
                keeper=keeper,
                account=account,
            ).go(checkpoint)
            keeper.settle(account.tally.counts.read)
        self.source.digest()
        account.notes = sniffed(self.spec.csv, records.csv) + plan.notes + account.tally.notes() + _notes(counts)
        report = account.report("loaded", counts)
        checkpoints.forget(connection, entry.load_id)
        ledger.finish(connection, report, "loaded")
        connection.commit()
        return report

    def _begins_new(self, connection: Connection, plan: Plan, lane: TextLane, records: Records) -> bool:
        """Whether the file is worth a trial of going straight, and its first records look like that."""
        if plan.straight or records.first is None or self.source.size < TRIAL_FROM:
            return False
        entry = self.account.entry
        return begins_new(connection, plan, entry, self._work(plan, lane, entry.load_id)(records.first))

    def _work(self, plan: Plan, lane: TextLane, load_id: int) -> Callable[[Block], Encoded]:
        """What is done with each block, on any thread: parse, transform, encode."""
        parser = Parser(
            plan.reading, plan.fields, self.spec.csv.null, name=self.source.uri, pad=self.spec.csv.ragged == "pad"
        )
        constants = self._constants(load_id)
        transformer = Transformer(plan.reading, constants, key=plan.key, hook=plan.hook, filter=plan.filter)
        judge = Judge(lane, plan.reading, key=() if plan.straight else plan.key, with_position=not plan.straight)

        def work(block: Block) -> Encoded:
            rows = transformer.convert(parser.parse(block))
            if transformer.looks:
                rows = transformer.finish(judge.show(rows))
            return judge.encode(rows)

        return work

    def target(self, connection: Connection) -> Table:
        """The table that it goes into, as it is now."""
        table = catalog.describe(connection, *self.spec.table_name)
        return replace(table, empty=table.oid is not None and is_empty(connection, table))

    def plan(
        self, connection: Connection, records: Records, table: Table, found: Found = NOTHING_FOUND, *, again: bool
    ) -> Plan:
        """What is to be done with ``records``. ``again``: an attempt at it ended early, so there are to be checkpoints.

        Raises SpecError, ShapeError or TableError; nothing has been read or changed then.
        """
        return make_plan(
            self.spec,
            records.header,
            records.first,
            table,
            spell_types=lambda names: catalog.spell_types(connection, names),
            column_types=lambda names: catalog.column_types(connection, names),
            name=self.source.uri,
            session_zone=catalog.session_zone(connection),
            found=found,
            resumable=again or self._is_large(records),
        )

    def _is_large(self, records: Records) -> bool:
        """Whether to begin again would cost so much that there have to be checkpoints on the way."""
        text = self.source.size * (1 if records.form.compression == "none" else UNPACKED)
        return text > STRAIGHT * self.spec.segment_size

    def _constants(self, load_id: int) -> dict[str, str]:
        """What stands for the placeholders of ``value`` columns."""
        asked = any("{version_id}" in (column.value or "") for column in self.spec.columns)
        return {
            "bucket": self.source.bucket or "",
            "key": self.source.key,
            "version_id": self.source.digest() if asked else "",
            "load_id": str(load_id),
        }


def _notes(counts: Counts) -> tuple[str, ...]:
    return (f"{counts.deleted:,} rows of the table that the file does not have were deleted",) if counts.deleted else ()
