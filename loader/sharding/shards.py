"""One object by many workers: plan the shards, load each, prove them, finish.

    plan = plan_shards("s3://bucket/key", spec, database, shards=16)
    reports = [load_shard(plan, number, database) for number in range(len(plan.ranges))]    # anywhere, in any order
    while (proof := prove(plan, reports)).again:
        reports += [load_shard(plan, number, database, known=known) for number, known in proof.again]
    report = finish(plan, reports, database)

Plan, reports and proof are values that JSON can carry. `load_shard` may be called again at any time, also while another
call for the same shard is under way: each call has a part of the staging for itself, and only what is proved is merged.
`finish` merges all of it in one transaction with the ledger, holding the table's turn, which nobody holds before.

What has to be known of the whole object beforehand keeps it from being split: see `why_single`. What turns out on the
way to be otherwise for the whole object (an inferred type that is too narrow) ends the plan, and another begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.core.callbacks import passing_on
from loader.core.deadline import NEVER, Deadline
from loader.core.errors import DecodeError, LimitError, LoaderError, ShapeError, SourceChangedError
from loader.core.pgtypes import COLUMN_LIMIT
from loader.core.report import LoadReport
from loader.core.spec.model import LoadSpec
from loader.core.stored import read_stored
from loader.engine.attempts import PLAINLY, How, Undertaking, for_version, with_token
from loader.engine.counters import Progress
from loader.engine.job import Task
from loader.ledger import ledger
from loader.ledger.checkpoints import Found
from loader.ledger.ledger import Entry, Errand
from loader.ledger.versions import Standing
from loader.postgres.database import Database, translated
from loader.records.dialect import Dialect
from loader.records.reading.preamble import footer_start
from loader.records.reading.reader import Head, Records
from loader.sharding import runs
from loader.sharding.boundaries import counts_quotes
from loader.sharding.finish import Finishing, ReplanError, UnprovedError, replanned
from loader.sharding.messages import OTHER_HEAD
from loader.sharding.proof import Known, Proof, ShardPlan, ShardReport, cut, prove
from loader.sharding.shard import ShardLoad
from loader.sources import crc
from loader.sources.checksums import Checksum, corrupted
from loader.sources.source import Source, open_source

__all__ = [
    "Proof",
    "ReplanError",
    "ShardPlan",
    "ShardReport",
    "UnprovedError",
    "finish",
    "load_shard",
    "plan_shards",
    "prove",
    "replanned",
]

SIZE = 256 << 20
"""Bytes of a shard by default: a worker copies as much in some seconds, so little is lost with one that dies, and what
a run costs besides (the head of the object, its catalog, a table) is some hundredths of it."""

STAGED = "it is loaded by many workers"


# --- the plan


@passing_on
def plan_shards(
    uri: str,
    spec: LoadSpec,
    database: Database,
    *,
    shards: int | Callable[[int], int] | None = None,
    size: int | None = None,
    s3: Any = None,
    version_id: str | None = None,
    sequencer: str | None = None,
    force: bool = False,
    again: Mapping[str, Any] | None = None,
    how: How = PLAINLY,
) -> ShardPlan:
    """Cut the object into ``shards`` ranges, or ranges of ``size`` bytes, and enter the load in the ledger.

    ``shards`` may be a function that gives their number for the object's bytes.

    The plan's ``verdict`` is "split"; or "single", and nothing was entered; or "settled", where this version had its
    effect already or came too late. While a load is in progress, the same call gives the same plan, so an event that
    comes twice begins nothing twice. ``again``: what `replanned` says of a plan that had to end; another attempt
    begins. ``how`` gives the rest: ``wait``, ``deadline``, whom to tell. Raises LoaderError, which is entered, too.
    """
    how = with_token(replace(how, force=force or how.force, sequencer=sequencer or how.sequencer))
    with open_source(uri, version_id=version_id, client=s3) as source:
        how = for_version(how, source, version_id)
        load = Task(source, spec, database, how)
        with translated(f"{source.uri}: planning its shards"), load.database.session() as connection:
            ledger.migrate(connection)
            table = load.target(connection)
        plan = ShardPlan("single", source.uri, spec.to_dict(), forced=how.force, sequencer=how.sequencer)
        plan = replace(plan, token=how.token)
        front = Head(source)
        try:
            records = load.open_records(iter(front), table)
        except (DecodeError, LimitError, ShapeError) as error:  # one worker comes to the same, and enters it
            return replace(plan, why=f"its beginning cannot be read: {error}")
        if why := why_single(source, spec, records):
            return replace(plan, why=why)
        number = shards(source.size) if callable(shards) else shards
        checksum = source.checksum()
        borders = checksum.borders if isinstance(checksum, Checksum) else []
        ranges = cut(source.size, shards=number, length=None if number else size or SIZE, at=borders)
        plan = replace(_laid_out(plan, source, records, ranges), head=front.crc)
        if len(plan.ranges) == 1:
            return replace(plan, verdict="single", why=f"its {source.size:,} bytes are one shard")
        return _Planning(load, records, plan, again or {}).plan()


def why_single(source: Source, spec: LoadSpec, records: Records) -> str:
    """Why the object is for one worker, in words for the ledger; empty where it may be split."""
    form = records.form
    if form.compression != "none":
        return f"it is compressed ({form.compression}), so it can be read from its beginning only"
    if not form.plain:
        return f"it is written in {form.encoding}, so places in its text are none in the object"
    if any("{record_number}" in (column.value or "") for column in spec.columns):
        return "a column holds the record's number, and that is known when all records before it were counted"
    fields = records.first.after.fields if records.first is not None and records.first.after is not None else None
    if fields is None or fields >= COLUMN_LIMIT:  # a staging table has one column more
        return (
            "its beginning does not tell how many fields a record has" if not fields else f"it has {fields:,} columns"
        )
    if records.csv.skip_footer and footer_start(source.read_range, source.size, records.csv.skip_footer) is None:
        return "its footer is too long to be found from its end"
    checksum = source.checksum()
    in_order = isinstance(checksum, Checksum) and not (checksum.combines or checksum.knows_parts)
    return "its checksum can be computed of all its bytes in their order only" if in_order else ""


def _laid_out(plan: ShardPlan, source: Source, records: Records, ranges: tuple[tuple[int, int], ...]) -> ShardPlan:
    mark, csv = records.form.mark, records.csv
    past = footer_start(source.read_range, source.size, csv.skip_footer) if csv.skip_footer else source.size
    assert records.first is not None
    assert records.first.after is not None
    assert records.first.after.fields is not None
    assert past is not None
    version = source.version if source.bucket is not None and not source.pin.startswith("etag:") else None
    checksum = source.checksum()
    known = checksum if isinstance(checksum, Checksum) and checksum.combines else None
    begin = records.begin
    return replace(
        plan,
        verdict="split",
        version_id=version,
        pin=source.pin,
        size=source.size,
        mark=mark,
        start=begin.offset,
        line=begin.line,
        end=max(past - mark, begin.offset),
        fields=records.first.after.fields,
        ranges=ranges,
        counts_quotes=counts_quotes(Dialect.of(csv)),
        algorithm=known.algorithm if known else crc.PLAIN,
        checksum=crc.spelt(known.value) if known else None,
    )


class _OpenError(Exception):
    """There is a plan already, and it is in progress."""

    def __init__(self, plan: ShardPlan) -> None:
        super().__init__()
        self.plan = plan


class _Planning(Undertaking):
    """Enters a load that goes on by shards."""

    rereads = False

    def __init__(self, load: Task, records: Records, plan: ShardPlan, again: Mapping[str, Any]) -> None:
        super().__init__(load.source, load.spec, load.database, load.how, load.account)
        self._load = load
        self._records = records
        self._plan = plan
        self._found = replace(read_stored(Found, again.get("found") or {}, what="what a plan found"), staged=STAGED)
        self._after = int(again.get("after", 0))
        self._made: ShardPlan | None = None

    def plan(self) -> ShardPlan:
        try:
            report = self.run(self._attempt)
        except _OpenError as found:
            return found.plan
        return self._made or replace(self._plan, verdict="settled", load_id=report.load_id, report=report.to_dict())

    def _enter(self, connection: Connection, errand: Errand, standing: Standing, waited: float) -> Entry:
        begun = runs.find_open_plan(connection, errand)
        if begun is not None and begun.attempt > self._after:
            raise _OpenError(begun)
        return super()._enter(connection, errand, standing, waited)

    def _attempt(self, connection: Connection, entry: Entry) -> LoadReport:
        load = self._load
        load.start_over(connection, entry.load_id)
        ledger.note_file(connection, entry.load_id, self._records.header, self._records.csv)
        try:
            plan = load.plan(connection, self._records, load.target(connection), self._found, again=True)
        except LoaderError as error:
            if not error.retryable:  # it may come of a head that was damaged on its way
                if Head(load.source).crc != self._plan.head:
                    raise corrupted(load.source.uri, OTHER_HEAD) from error
                load.account.doubt(load.how.deadline)
            raise
        made = replace(
            self._plan,
            load_id=entry.load_id,
            attempt=entry.attempts,
            digest=plan.digest,
            found=asdict(plan.found),
            target=(plan.table.schema, plan.table.name),
        )
        runs.open_plan(connection, entry.load_id, made)
        self._made = made
        return load.account.report("loaded")  # nobody sees it


# --- a shard


@passing_on
def load_shard(
    plan: ShardPlan,
    number: int,
    database: Database,
    *,
    known: Known | None = None,
    deadline: Deadline = NEVER,
    s3: Any = None,
    threads: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ShardReport:
    """Load one shard into a staging table of its own. ``known``: what a proof knows of its beginning.

    A run of it that is through already, and began as is known, is not done again: its report is given. What may be
    the fault of a wrong guess is no error but the report's ``problem``. Raises LoaderError: PausedError (retryable)
    where the deadline comes first, and then this shard begins again; SourceChangedError where the object is another by
    now; and where the load is over, or another attempt at it has begun, an error that is not retryable.
    """
    with open_source(plan.uri, version_id=plan.version_id, client=s3) as source:
        if source.pin != plan.pin:
            raise SourceChangedError(f"{plan.uri}: is another version than load {plan.load_id} was planned for")
        spec = LoadSpec.from_stored(plan.spec, origin="shard plan")
        how = How(threads=threads, deadline=deadline, progress=progress)
        load = Task(source, spec, database, how)
        load.account.target = plan.target or spec.table_name
        return ShardLoad(plan, number, load).run(known)


# --- the end


@passing_on
def finish(
    plan: ShardPlan,
    reports: Iterable[ShardReport] | None,
    database: Database,
    *,
    s3: Any = None,
    how: How = PLAINLY,
) -> LoadReport:
    """Merge what is proved, all in one transaction with the ledger, and clear up. ``reports``: None for the ledger's.

    Once more after it was done, it gives the same report. Raises ReplanError where the whole plan has to begin again,
    and LoaderError for what else keeps it from being loaded; where that is retryable, the same call may succeed.
    """
    how = replace(how, force=plan.forced, token=plan.token, sequencer=plan.sequencer)
    with open_source(plan.uri, version_id=plan.version_id, client=s3) as source:
        if source.pin != plan.pin:
            raise SourceChangedError(f"{plan.uri}: is another version than load {plan.load_id} was planned for")
        spec = LoadSpec.from_stored(plan.spec, origin="shard plan")
        load = Task(source, spec, database, how)
        assert plan.load_id is not None
        load.account.entry = Entry(plan.load_id, plan.attempt)
        return Finishing(load, plan, reports).run_all()
