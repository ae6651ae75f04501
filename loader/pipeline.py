"""The whole flow: open the source, split it into blocks, parse, transform, encode, copy, merge, enter in the ledger."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader import catalog, ledger
from loader.columns import fields_by_position
from loader.database import Database, translate
from loader.deadline import NEVER, Deadline
from loader.errors import DatabaseError, LoaderError, UsageError
from loader.infer import widened
from loader.judge import Judge
from loader.lane import TextLane
from loader.merge import Counts, Merge, add_columns, create_table, target_name
from loader.overlap import overlapped
from loader.parse import Parser
from loader.plan import Plan, make_plan
from loader.reading import Records, open_records, recall
from loader.records import Block, Encoded, reject
from loader.refusals import is_refusal, sift
from loader.report import LoadReport, State
from loader.sniff import sniffed
from loader.source import Source, expand, open_source
from loader.spec import LoadSpec
from loader.staging import Staging, copy
from loader.tables import Table
from loader.tally import Progress, RejectKeeper, Tally, Tuples
from loader.transform import Transformer, WidenColumn

STREAMS = 2
"""COPY streams into a staging table. Two load it in half the time of one where client and server have cores
for it; into the target itself there is one, because a transaction has one connection."""

TURN_WAIT = 900.0
"""Seconds that a load waits for its table's turn by default: as long as the longest Lambda runs."""

HANDOVERS = 12
"""Invocations by which one load may be carried on: three hours of Lambda's longest, and below the 16 or so rounds after
which Lambda itself stops a function that goes on calling itself (Lambda's guide, "Recursive loop detection")."""


@dataclass(frozen=True, slots=True)
class How:
    """How a load goes about it.

    ``force``: load what was loaded before. ``workers``: threads that parse, by default one a core.
    ``progress``: is told how far it is, block by block. ``wait``: how long to wait for another load into the
    same table, in seconds. ``replay_of``: the source holds rejects of that load. ``deadline``: when to come to rest.
    ``handovers``: how often one load may do so because its time was up. ``sequencer``: that of the S3 event which
    told of the object's version.
    """

    force: bool = False
    workers: int | None = None
    progress: Callable[[Progress], None] | None = None
    wait: float = TURN_WAIT
    replay_of: int | None = None
    deadline: Deadline = NEVER
    handovers: int = HANDOVERS
    sequencer: str | None = None


PLAINLY = How()


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
    how = How(force, workers, progress, wait)
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
        raise


def as_spec(spec: LoadSpec | Mapping[str, Any] | str | os.PathLike[str]) -> LoadSpec:
    """The spec, made of whatever form it was given in. Raises SpecError."""
    if isinstance(spec, LoadSpec):
        return spec
    return LoadSpec.from_dict(spec) if isinstance(spec, Mapping) else LoadSpec.from_toml(spec)


class Load:
    """One object's version on its way into one table. Made for one `run`.

    Memory: the source's prefetch (4 parts of 8 MiB from S3, 1 chunk of a file), and about workers + 4 blocks
    of 1 MiB, each at most as text, as a record batch and as COPY tuples. A longer record grows its block, up
    to `blocks.RECORD_LIMIT`. Nothing grows with the file, the table, or the number of rejects.

    Transactions: the rejects and the running entry commit as they go; what is visible in the target, the
    ledger's "loaded" and the end of the staging table are one transaction, on ``connection``.
    """

    def __init__(self, source: Source, spec: LoadSpec, database: Database, how: How) -> None:
        self.source = source
        self.spec = spec
        self.database = database
        self.how = how
        self.workers = how.workers or len(os.sched_getaffinity(0))
        self.began = time.monotonic()
        self.table = ".".join(part for part in spec.table_name if part)
        self.load_id: int | None = None
        self.rejected: Mapping[str, int] = {}
        self.rejected_columns: Mapping[str, Mapping[str, int]] = {}
        self.notes: tuple[str, ...] = ()
        self.tally = Tally(source.size, how.progress)
        self.types: Mapping[str, str] = {}  # what was inferred
        self.widened: dict[str, str] = {}

    def run(self) -> LoadReport:
        """Load it, or find that it was loaded before. Raises LoaderError, and the target is as it was."""
        try:
            return self._in_turn()
        except LoaderError as error:
            error.report = self.report("failed", error=str(error), retryable=error.retryable)
            raise

    def _in_turn(self) -> LoadReport:
        with self._clear_errors(), self.database.session() as connection:
            ledger.migrate(connection)
            self.table = str(catalog.describe(connection, *self.spec.table_name))
            with ledger.turn(connection, self.table, wait=self.how.wait):
                ledger.clear_abandoned(connection, self.table)
                force, replay_of = self.how.force, self.how.replay_of
                if not force and (
                    earlier := ledger.find_loaded(connection, self.source, self.table, replay_of=replay_of)
                ):
                    return self._skipped(*earlier)
                self.load_id = ledger.begin(
                    connection, self.source, self.table, self.spec, forced=force, replay_of=replay_of
                )
                try:
                    with self._clear_errors():
                        return self._load(connection, self.load_id)
                except BaseException as error:
                    self._undo(connection, self.load_id, error)
                    raise

    def _load(self, connection: Connection, load_id: int) -> LoadReport:
        """Load it in the hope that the target takes every record, and that the types that were inferred hold.

        Where one does not, begin again: with care, or with a wider type.
        """
        careful = False
        while True:
            try:
                return self._attempt(connection, load_id, careful=careful)
            except WidenColumn as found:
                was = self.types[found.column]
                self.widened[found.column] = widened(was, found.texts)
            except psycopg2.Error as error:
                if careful or not is_refusal(error):
                    raise
                careful = True
            self._start_over(connection, load_id)

    def _attempt(self, connection: Connection, load_id: int, *, careful: bool) -> LoadReport:
        name = self.source.uri
        table = catalog.describe(connection, *self.spec.table_name)
        fields = fields_by_position(self.spec, table)
        records = open_records(self.tally.watch(self.source.chunks()), self.spec.csv, name=name, fields=fields)
        ledger.note_file(connection, load_id, records.header, records.csv)
        plan = self._plan(connection, records, table, careful=careful)
        self.types = plan.inferred
        with (
            RejectKeeper(self.database, load_id, self.spec.rejects, name) as keeper,
            TextLane(self.database, plan.columns, plan.session_zone) as lane,
            overlapped(records.blocks, self._work(plan, lane, load_id), workers=self.workers) as encoded,
        ):
            self.rejected, self.rejected_columns = keeper.reasons, keeper.columns
            tuples = Tuples(encoded, self.tally, keeper)
            if plan.straight:
                counts = self._straight(connection, plan, tuples)
            else:
                counts = self._staged(connection, load_id, plan, tuples, keeper)
            keeper.settle(self.tally.read)
        self.notes = sniffed(self.spec.csv, records.csv) + plan.notes + self.tally.notes() + _notes(counts)
        report = self.report("loaded", counts)
        ledger.finish(connection, report)
        connection.commit()
        return report

    def _work(self, plan: Plan, lane: TextLane, load_id: int) -> Callable[[Block], Encoded]:
        """What is done with each block, on any thread: parse, transform, encode."""
        parser = Parser(
            plan.reading, plan.fields, self.spec.csv.null, name=self.source.uri, pad=self.spec.csv.ragged == "pad"
        )
        constants = self._constants(load_id)
        transformer = Transformer(plan.reading, constants, key=plan.key, hook=plan.hook, filter=plan.filter)
        judge = Judge(lane, plan.reading, with_position=plan.with_position)

        def work(block: Block) -> Encoded:
            rows = transformer.convert(parser.parse(block))
            if transformer.looks:
                rows = transformer.finish(judge.show(rows))
            return judge.encode(rows)

        return work

    def _start_over(self, connection: Connection, load_id: int) -> None:
        """Forget what was read, kept and rejected so far."""
        connection.rollback()
        Staging(load_id, (), with_position=False).drop(connection)
        ledger.forget_rejects(connection, load_id)
        connection.commit()
        self.tally = Tally(self.source.size, self.how.progress)

    def _plan(self, connection: Connection, records: Records, table: Table, *, careful: bool) -> Plan:
        return make_plan(
            self.spec,
            records.header,
            records.first,
            table,
            spell_types=lambda names: catalog.spell_types(connection, names),
            column_types=lambda names: catalog.column_types(connection, names),
            name=self.source.uri,
            session_zone=catalog.session_zone(connection),
            careful=careful,
            widened=self.widened,
        )

    def _make_ready(self, connection: Connection, plan: Plan) -> None:
        """The target has every column of the load after this, in the transaction that fills it."""
        if plan.table.oid is None:
            create_table(connection, plan.table, (*plan.columns, *plan.absent), plan.key)
        elif plan.added:
            add_columns(connection, plan.table, plan.added)

    def _straight(self, connection: Connection, plan: Plan, tuples: Iterator[bytes]) -> Counts:
        """COPY into the target itself."""
        self._make_ready(connection, plan)
        copied = copy(connection, target_name(plan.table), [column.name for column in plan.columns], tuples)
        self._account_for(copied)
        return Counts(inserted=copied)

    def _staged(
        self, connection: Connection, load_id: int, plan: Plan, tuples: Iterator[bytes], keeper: RejectKeeper
    ) -> Counts:
        """COPY into a staging table over several streams, then merge it."""
        staging = Staging(load_id, plan.columns, with_position=plan.with_position)
        staging.create(connection)
        connection.commit()
        self._copy_streams(staging, tuples)
        self._make_ready(connection, plan)
        merge = Merge(staging, plan.table, plan.key, replace=plan.spec.mode == "replace")
        counts = self._merge_carefully(connection, merge, keeper) if plan.careful else merge.run(connection)
        staging.drop(connection)
        return counts

    def _merge_carefully(self, connection: Connection, merge: Merge, keeper: RejectKeeper) -> Counts:
        """Merge what the target takes; the other records become rejects."""
        refused = sift(
            connection,
            merge.staging,
            merge.table,
            keyed=bool(merge.key),
            emptied=merge.replace,
            at_most=keeper.left + 1,
        )
        counts, more = merge.run_carefully(connection, at_most=keeper.left + 1 - len(refused))
        refused = sorted([*refused, *more], key=lambda each: each.position)
        positions = [each.position for each in refused]
        fields = fields_by_position(self.spec, merge.table)
        found = recall(self.source.chunks(), self.spec.csv, positions, name=self.source.uri, fields=fields)
        for each, (block, index) in zip(refused, found, strict=True):
            keeper.add([reject(block, index, each.reason, each.message, each.column, sqlstate=each.sqlstate)])
        return counts

    def _copy_streams(self, staging: Staging, tuples: Iterator[bytes]) -> None:
        errors: list[BaseException] = []
        copied: list[int] = []

        def stream() -> None:
            try:
                with self.database.session() as connection:
                    copied.append(copy(connection, staging.name, staging.written, tuples))
                    connection.commit()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=stream, name="loader-copy") for _ in range(min(STREAMS, self.workers))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        self._account_for(sum(copied))

    def _account_for(self, copied: int) -> None:
        """Every record that was kept must have arrived; a stage that loses one is a defect, and must not commit."""
        if copied != self.tally.kept:
            raise DatabaseError(
                f"{self.source.uri}: {self.tally.kept:,} records were sent and PostgreSQL took {copied:,}; "
                "this is a defect of the loader, nothing was loaded"
            )

    def _constants(self, load_id: int) -> dict[str, str]:
        """What stands for the placeholders of ``value`` columns."""
        asked = any("{version_id}" in (column.value or "") for column in self.spec.columns)
        return {
            "bucket": self.source.bucket or "",
            "key": self.source.key,
            "version_id": self.source.digest() if asked else "",
            "load_id": str(load_id),
        }

    def _undo(self, connection: Connection, load_id: int, error: BaseException) -> None:
        """Enter the failure and drop the staging table. Where that fails too, the next load into the table does it."""
        reason = str(error) or type(error).__name__
        with suppress(psycopg2.Error, LoaderError), ExitStack() as stack:
            if connection.closed:
                connection = stack.enter_context(self.database.session())
            connection.rollback()
            Staging(load_id, (), with_position=False).drop(connection)
            ledger.finish(connection, self.report("failed", error=reason))
            connection.commit()

    def _skipped(self, load_id: int, uri: str) -> LoadReport:
        self.load_id = load_id
        same = "" if uri == self.source.uri else f", as {uri}"
        self.notes = (f"this version was loaded already, by load {load_id}{same}",)
        return self.report("skipped")

    def report(
        self, state: State, counts: Counts | None = None, *, error: str | None = None, retryable: bool = False
    ) -> LoadReport:
        """What there is to tell. Only a load that succeeded changed rows, so only then are there counts."""
        counted = self.tally if counts is not None else None
        counts = counts or Counts()
        return LoadReport(
            state=state,
            source=self.source.uri,
            table=self.table,
            mode=self.spec.mode,
            load_id=self.load_id,
            version=self.source.version,
            bytes_read=self.tally.bytes_read,
            seconds=round(time.monotonic() - self.began, 3),
            rejects_by_reason=dict(self.rejected),
            rejects_by_column={name: dict(codes) for name, codes in self.rejected_columns.items()},
            replay_of=self.how.replay_of,
            notes=self.notes,
            error=error,
            retryable=retryable,
            rows_read=counted.read if counted else 0,
            rows_inserted=counts.inserted,
            rows_updated=counts.updated,
            rows_unchanged=counts.unchanged,
            rows_duplicate=counts.duplicate,
            rows_filtered=counted.filtered if counted else 0,
            rows_rejected=sum(self.rejected.values()) if counted else 0,
        )

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """psycopg2's errors as this package's, naming the object and the table."""
        try:
            yield
        except psycopg2.Error as error:
            raise translate(error, f"{self.source.uri}: loading into {self.table}") from error


def _notes(counts: Counts) -> tuple[str, ...]:
    return (f"{counts.deleted:,} rows of the table that the file does not have were deleted",) if counts.deleted else ()
