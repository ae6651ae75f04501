"""The whole flow: open the source, split it into blocks, parse, transform, encode, copy, merge, enter in the ledger."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.convert.column_mapping import WidenColumn
from loader.convert.plan import Plan
from loader.core.callbacks import passing_on
from loader.core.errors import LoaderError, UsageError
from loader.core.report import LoadReport
from loader.core.spec.model import LoadSpec
from loader.engine.attempts import (
    PLAINLY,
    TURN_WAIT,
    How,
    Undertaking,
    for_version,
    plan_anew,
    turn_of,
    with_token,
    within_cores,
)
from loader.engine.counters import Progress, RejectKeeper
from loader.engine.job import Task
from loader.engine.late_versions import overtaking
from loader.engine.routes import PlanChangedError, Renamed, Staged, Straight, TargetChangedError, begins_new
from loader.engine.segments import NotStraightError
from loader.engine.small_load import ahead, load_small
from loader.ledger import checkpoints, ledger
from loader.ledger.checkpoints import Checkpoint, Found
from loader.ledger.ledger import Entry
from loader.postgres.database import Database
from loader.postgres.merging.constraints import is_refusal
from loader.postgres.tables import Table
from loader.records.dialect import Dialect
from loader.records.reading.reader import Head, Records
from loader.records.splitter import no_longer_than
from loader.sharding import runs
from loader.sharding.workers import load_by_workers
from loader.sources.source import Missing, Source, expand, open_source, table_for
from loader.sources.standard_input import SIGN

__all__ = ["PLAINLY", "How", "Load", "as_spec", "load", "load_one", "with_token"]

TRIAL_FROM = 16 << 20
"""Bytes of an object from which on it pays to find out whether it may go straight into a table that has rows."""


def load(
    source: str,
    spec: LoadSpec | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    table: str | None = None,
    mode: str | None = None,
    key: Sequence[str] | None = None,
    delimiter: str | None = None,
    header: bool | None = None,
    encoding: str | None = None,
    null: str | Sequence[str] | None = None,
    unknown: str | None = None,
    dsn: str | None = None,
    database: Database | None = None,
    s3: Any = None,
    force: bool = False,
    workers: int = 1,
    progress: Callable[[Progress], None] | None = None,
    wait: float = TURN_WAIT,
) -> LoadReport:
    """Load each object or file that ``source`` names: a path, a glob, s3://bucket/key or s3://bucket/prefix/.

    ``table``, ``mode`` and ``key`` go before the spec's, and so do ``delimiter``, ``header``, ``encoding``, ``null``
    and ``unknown``. Without a spec, what is not given is found by the beginning of the file (see `sniff`), and the
    table is named after it.

    ``dsn`` or ``database`` says where to, ``s3`` is a boto3 client to use. ``workers`` processes may load parts of a
    large object side by side, see `loader.sharding.shards`; at most one a core does. For the rest see `How`.

    Each object is a load of its own, and all at once or not at all. With several, all are tried, and the
    report adds them up. Raises LoaderError for the first that failed; its ``report`` says what became of all. Raises
    what ``progress`` raises: the load that it interrupts ends as failed, and the same call continues it.
    """
    told: dict[str, Any] = {
        "delimiter": delimiter,
        "header": header,
        "encoding": encoding,
        "null": null,
        "unknown": unknown,
    }
    given = None if spec is None else as_spec(spec, table=table, mode=mode, key=key).with_options(**told)
    if (dsn is None) == (database is None):
        raise UsageError("load() needs either dsn or database")
    how = How(force=force, workers=workers, progress=progress, wait=wait)
    reports, failed = [], []
    notes: list[str] = []
    with ExitStack() as stack:
        if database is None:
            assert dsn is not None
            database = Database(dsn)
            stack.callback(database.close)
        uris = expand(source, client=s3, note=notes.append)
        if given is None and table is None and len(uris) > 1:
            raise UsageError(f"{len(uris)} sources, and no table or spec to say where they go")
        for uri in uris:
            one = given or LoadSpec.sniffed(table=table or table_for(uri), mode=mode, key=key, **told)
            try:
                reports.append(load_one(uri, one, database, how, s3=s3))
            except LoaderError as error:
                reports += [error.report] if error.report else []
                failed.append(error)
    report = LoadReport.combine(reports)
    report = replace(report, notes=(*notes, *report.notes))
    if failed:
        failed[0].report = report
        raise failed[0]
    return report


@passing_on
def load_one(
    uri: str,
    spec: LoadSpec,
    database: Database,
    how: How = PLAINLY,
    *,
    version_id: str | None = None,
    s3: Any = None,
    source: Source | None = None,
) -> LoadReport:
    """Load the one object or file of that name; no character of it is a pattern.

    ``version_id`` pins a version of the object. ``source``: that object, where the caller has it open already, and
    closes it; several workers open it themselves.

    Raises LoaderError; its ``report`` says what became of it. Raises what a callback of ``how`` raises, after the load
    has come to its end: it is then entered as failed and can be continued; of
    a small object (`small_load`) nothing was done then, and the ledger has nothing of it.
    """
    try:
        how = with_token(within_cores(how))
        if how.workers > 1:
            loaded = (
                "no other process has standard input"
                if uri == SIGN
                else load_by_workers(uri, spec, database, how, version_id=version_id, s3=s3)
            )
            if isinstance(loaded, LoadReport):
                return loaded
            how = replace(how, notes=(*how.notes, f"loaded by one worker: {loaded}"))
        opening = (
            nullcontext(source) if source else open_source(uri, version_id=version_id, client=s3, ahead=ahead(how))
        )
        with opening as found:
            return Load(found, spec, database, for_version(how, found, version_id)).run()
    except LoaderError as error:
        if error.report is None:  # it could not even be opened
            error.report = LoadReport.failed(uri, spec.table, spec.mode, error, version=version_id)
            if uri.startswith("s3://"):
                note_unopened(database, spec, error.report, how)
        raise


def _opened(uri: str, how: How, *, version_id: str | None, s3: Any) -> Source:
    return open_source(uri, version_id=version_id, client=s3, ahead=ahead(how))


def as_spec(
    spec: LoadSpec | Mapping[str, Any] | str | os.PathLike[str],
    *,
    table: str | None = None,
    mode: str | None = None,
    key: Sequence[str] | None = None,
) -> LoadSpec:
    """The spec, of whatever form it was given in; what else is given goes before its own word. Raises SpecError."""
    if isinstance(spec, LoadSpec):
        if (table, mode, key) == (None, None, None):
            return spec
        spec = spec.to_dict()
    if isinstance(spec, Mapping):
        return LoadSpec.from_dict(spec, table=table, mode=mode, key=key)
    return LoadSpec.from_toml(spec, table=table, mode=mode, key=key)


class Load(Task):
    """One object's version on its way into one table. Made for one `run`.

    Memory: the source's prefetch (3 parts of 4 MiB from S3, and two more that are being split; 1 chunk of a file), and
    workers + `parallel.AHEAD` + STREAMS blocks of 1 MiB, each as text and as COPY tuples, about 2.5 MiB, beside 75 MB
    of libraries. What the kernel does not take is a record batch as well: 5 MiB a block, and 35 MB more of libraries. A
    longer record grows its block, up to `blocks.RECORD_LIMIT`. Nothing grows with the file, the table, or the number of
    rejects.

    Transactions: the rejects, the running entry, and what is staged with its checkpoints commit as they go; what is
    visible in the target, the ledger's "loaded" and the end of the staging table are one transaction, on the
    connection that holds the target's turn.
    """

    types: Mapping[str, str]  # what was inferred

    def run(self) -> LoadReport:
        """Load it, or find that it was loaded before. Raises LoaderError, and the target is as it was."""
        if (report := load_small(self)) is not None:
            return report
        return Undertaking(self.source, self.spec, self.database, self.how, self.account).run(self._attempt)

    def _attempt(self, connection: Connection, entry: Entry) -> LoadReport:
        """One attempt. What fails it for good is checked against the object's checksum first: if the bytes were damaged
        on their way, the object is not to blame, and SourceCorruptedError says so."""
        try:
            return self._hope(connection, entry)
        except (LoaderError, psycopg2.Error) as error:
            if is_refusal(error) if isinstance(error, psycopg2.Error) else not error.retryable:
                self.account.doubt(self.how.deadline)
            raise

    def _hope(self, connection: Connection, entry: Entry) -> LoadReport:
        """Load it in the hope that the target takes every record and stays as it is, and that the types that were
        inferred hold.

        Where one does not, begin again: with care, with a plan for the target as it is by then, or with a wider type.
        """
        self.account.expected = ()
        checkpoint = checkpoints.find(connection, entry.load_id)
        found = checkpoint.found if checkpoint else Found()
        changes = 0
        while True:
            if checkpoint is None:
                self.start_over(connection, entry.load_id)
            try:
                return self._flow(connection, entry, checkpoint, found)
            except TargetChangedError:
                changes += 1
                plan_anew(connection, self.spec, self.account, changes=changes)
                checkpoint = checkpoints.find(connection, entry.load_id)  # what is staged may be the same for it
                continue
            except PlanChangedError:
                found = Found()
            except NotStraightError as reason:
                found = replace(found, staged=str(reason))
            except WidenColumn as error:
                from loader.convert.infer import widened

                wider = widened(self.types[error.column], error.texts)
                found = replace(found, widened={**found.widened, error.column: wider})
                self.account.expect_again()
            except psycopg2.Error as error:
                if found.careful or not is_refusal(error):
                    raise
                found = replace(found, careful=True)
            checkpoint = None

    def _flow(self, connection: Connection, entry: Entry, checkpoint: Checkpoint | None, found: Found) -> LoadReport:
        """The whole way, from the checkpoint on where there is one."""
        account, uri = self.account, self.source.uri
        table = self.target(connection)
        further = checkpoint is not None and (checkpoint.complete or checkpoint.place.offset > 0)
        try:
            records, plan = self._begin(connection, entry, table, found, further=further)
        except LoaderError as error:
            if error.retryable or not further:
                raise
            # the head was read alone, and is compared with nothing; from the beginning on, all bytes are
            raise PlanChangedError from error
        self.types = plan.inferred
        drop_overtaken = overtaking(self)
        if drop_overtaken:  # what newer versions have overtaken can only be taken out of a staging table
            plan = replace(plan, straight=False, guarded=False)
        with RejectKeeper(
            self.database,
            entry.load_id,
            self.spec.rejects,
            uri,
            attempt=entry.attempts,
            encoding=records.form.encoding,
        ) as keeper:
            account.keeper = keeper
            form = self.form(plan, Dialect.of(records.csv))
            if plan.guarded and form is None and self._begins_new(connection, plan, keeper, records):
                plan = replace(plan, straight=True)
            with self.lanes(plan, entry.load_id, lambda: keeper.left, form) as lanes:
                counts = _way(plan)(
                    connection=connection,
                    database=self.database,
                    deadline=self.how.deadline,
                    source=self.source,
                    plan=plan,
                    records=records,
                    work=lanes.convert,
                    again=lanes.convert_again,
                    form=form,
                    threads=self.threads,
                    keeper=keeper,
                    account=account,
                    drop_overtaken=drop_overtaken,
                ).go(checkpoint)
            keeper.settle(account.tally.counts.read)
        return self.conclude(connection, records, plan, counts)

    def _begin(
        self, connection: Connection, entry: Entry, table: Table, found: Found, *, further: bool
    ) -> tuple[Records, Plan]:
        """Look at the beginning of the object, and plan. ``further``: what follows it is not wanted."""
        chunks = iter(Head(self.source)) if further else self.account.read()
        records = self.open_records(chunks, table)
        self.account.tally.form = records.form
        ledger.note_file(connection, entry.load_id, records.header, records.csv)
        again = entry.attempts > 1 or further
        return records, self.plan(connection, records, table, found, again=again)

    def _begins_new(self, connection: Connection, plan: Plan, keeper: RejectKeeper, records: Records) -> bool:
        """Whether the file is worth a trial of going straight, and its first records look like that."""
        if plan.straight or records.first is None or self.source.size < TRIAL_FROM:
            return False
        entry = self.account.entry
        first = next(no_longer_than([records.first], plan.block_records))
        with self.lanes(plan, entry.load_id, lambda: keeper.left, form=None) as lanes:
            return begins_new(connection, plan, entry, lanes.convert(first))


def _way(plan: Plan) -> type[Renamed | Straight | Staged]:
    if plan.renamed:
        return Renamed
    return Straight if plan.straight else Staged


def note_unopened(database: Database, spec: LoadSpec, report: LoadReport, how: How) -> None:
    """Enter the failure of a load whose object could not even be opened, as far as the database can be reached."""
    with suppress(psycopg2.Error, LoaderError), database.session() as connection:
        ledger.migrate(connection)
        missing = Missing(report.source, report.version)
        with turn_of(connection, spec.table_name, wait=1.0, deadline=how.deadline) as (table, _):
            target = str(table)
            errand = how.errand(missing, target, spec)
            if ledger.is_settled(connection, errand):
                return
            if runs.is_open(connection, target, missing.bucket, missing.key):
                return  # another attempt would end the one that goes well
            entry = ledger.enter(connection, errand, goes_on=False)
            told = replace(report, load_id=entry.load_id, attempts=entry.attempts, handovers=entry.handovers)
            ledger.finish(connection, told, "failed")
            connection.commit()
