"""A small object in one transaction: ledger, rows and end, or nothing at all.

Most objects that land in a bucket are small, and of those it is round trips that cost. So an object of at most `SMALL`
bytes of text is read first, and then everything else happens in one transaction of one session: the table's turn, the
look at what was loaded before, the plan, COPY, the merge, and the load's row in the ledger, which is entered as loaded
at once. What dies before the commit leaves nothing that anyone has to know, so there is no attempt, no checkpoint and
no staging table in schema ``loader``. A merge goes through a temporary table that the session keeps (`KeptStaging`).

This is a way for the plain case only. Whatever is not plain (the table does not exist, an earlier attempt at the same
load, a load that is under way, a newer version, a record that the table refuses, too many rejects, any error) ends the
transaction and goes the way of a large object (`undertaking`), from its beginning. So a promise is kept here, or the
question is put there.

A commit whose answer is lost is no exception: the load's id is known before, and the ledger has it or has not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace

import psycopg2
import psycopg2.errors
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.convert.encoded import Encoded
from loader.convert.plan import Plan
from loader.core.callbacks import call
from loader.core.errors import LoaderError, UsageError
from loader.core.report import LoadReport, Reject
from loader.core.spec.model import LoadSpec
from loader.engine.attempts import How
from loader.engine.cleanup import clear_leftovers
from loader.engine.counters import Books, RejectKeeper
from loader.engine.job import Task
from loader.ledger import ledger
from loader.ledger.ledger import Entry, Errand
from loader.ledger.versions import find_standing
from loader.postgres import catalog
from loader.postgres.database import kept_by
from loader.postgres.merging.merge import Merge, Merged
from loader.postgres.merging.session_staging import KeptStaging, forget, keep, staging_for
from loader.postgres.merging.staging import copy
from loader.postgres.merging.target import holding, target_name
from loader.postgres.tables import Table
from loader.postgres.time_zones import server_zones
from loader.records.dialect import Dialect
from loader.records.reading.reader import Records, text_of
from loader.records.splitter import no_longer_than
from loader.sources.decode import find_compression

SMALL = 4 << 20
"""Bytes of text up to which an object is small: some 40,000 records. More would still be faster this way, but to begin
again would cost more than the round trips that are saved."""

MOST = 64 << 20
"""Bytes of text that a deployment may set at most: a small object is held in memory as a whole."""

SETTING = "LOADER_SMALL_BYTES"
"""The environment variable by which a deployment sets another limit; 0: every object goes the way of a large one."""

KEPT_PLANS = 32
"""Plans that a session keeps, so that what the catalog says of types is asked once a table and spec."""


class NotSmallError(Exception):
    """The load is not a plain one, and goes the way of a large object."""


def small_bytes() -> int:
    """Bytes of text up to which an object is small. Raises UsageError where `SETTING` is no number up to `MOST`."""
    asked = os.environ.get(SETTING, "")
    if asked and not (re.fullmatch("[0-9]{1,9}", asked) and int(asked) <= MOST):
        raise UsageError(
            f"${SETTING} is {asked!r}; it must be a number of bytes, 0 for no small objects, at most {MOST}"
        )
    return int(asked) if asked else SMALL


def ahead(how: How) -> int:
    """Bytes up to which an object is asked for at once, because it is likely to be loaded as a small one. Raises
    UsageError, see `small_bytes`."""
    return small_bytes() if _may_be_small(how) else 0


def load_small(task: Task) -> LoadReport | None:
    """Load the object in one transaction; None where it is not small or not plain, and nothing was done.

    Raises BusyError and PausedError, with their report, where the table's turn cannot be had.
    """
    if not _is_small(task):
        return None
    account, load = task.account, _SmallLoad(task)
    try:
        report = load.run()
    except (LoaderError, psycopg2.Error) as error:
        if load.waits and isinstance(error, LoaderError):
            error.report = account.report("failed", error=str(error), retryable=error.retryable)
            raise
        report = None
    if report is None:
        account.keeper = None
        account.notes = ()
        if not load.commits:
            account.entry = Entry(0)
        account.restart()
    return report


def _is_small(task: Task) -> bool:
    """Whether what is known before the object is read speaks for it. Raises UsageError, see `small_bytes`."""
    return _may_be_small(task.how) and task.spec.unknown != "add" and task.source.size <= small_bytes()


def _may_be_small(how: How) -> bool:
    counted = how.attempts is not None  # one that ends its process would leave nothing to count
    return not how.force and how.replay_of is None and not counted


class _SmallLoad:
    """``waits``: for the table's turn. ``commits``: whether it has, only the ledger knows from here on."""

    def __init__(self, task: Task) -> None:
        self.waits = False
        self.commits = False
        self._lane = ""  # by what the records were converted
        self._task = task
        self._account = task.account

    def run(self) -> LoadReport | None:
        """Load it. None, NotSmallError, and any error but those of waiting mean that nothing was done, or that only the
        ledger knows."""
        chunks = list(self._account.read())
        compression, _ = find_compression(iter(chunks), self._task.spec.csv.compression)
        if text_of(self._task.source.size, compression) > small_bytes():
            return None
        with self._task.database.session() as connection:
            try:
                self._make_ready(connection)
                with self._task.how.deadline.calling(connection.cancel):
                    return self._load(connection, chunks)
            except NotSmallError:
                connection.rollback()
                return None
            except (LoaderError, psycopg2.Error) as error:
                if connection.closed or self.waits:
                    raise
                connection.rollback()
                self.commits = False  # it was refused
                if isinstance(error, psycopg2.errors.UndefinedTable):
                    forget(connection)
                return None

    def _make_ready(self, connection: Connection) -> None:
        """What a session has to do once: bring the ledger up to date, and drop what dead loads have left."""
        kept = kept_by(connection)
        if not kept.get("ready"):
            ledger.migrate(connection)
            clear_leftovers(connection)
            kept["ready"] = True

    def _load(self, connection: Connection, chunks: list[bytes]) -> LoadReport:
        task, account = self._task, self._account
        table, waited = self._take_turn(connection)
        errand = task.how.errand(task.source, account.table, task.spec)
        table = self._held(connection, table)
        records = task.open_records(iter(chunks), table)
        account.tally.form = records.form
        plan = self._plan(connection, records, table)
        load_id, follows = self._due(connection, errand, table)
        account.entry = Entry(load_id, waited=waited)
        keeper = _Unentered(task.database, load_id, task.spec.rejects, task.source.uri, encoding=records.form.encoding)
        with keeper:
            account.keeper = keeper
            counts, staging = self._put(connection, plan, records, keeper)
            keeper.settle(account.tally.counts.read)
        report = task.summed_up(records, plan, counts, lane=self._lane)
        csv, header = records.csv, records.header
        ledger.enter_loaded(
            connection, errand, report, header=header, csv=csv, follows=follows, unlogged=table.unlogged
        )
        if keeper.batch:
            ledger.keep_rejects(connection, load_id, keeper.batch)
        self._tell_begun(waited)
        self._commit(connection, staging)
        return report

    def _commit(self, connection: Connection, staging: KeptStaging | None) -> None:
        self.commits = True
        connection.commit()
        if staging is not None:
            keep(connection, staging)

    def _tell_begun(self, waited: float) -> None:
        """Only now, for a load that is not small after all begins there, under another id."""
        if self._task.how.told is not None:
            entry, table = self._account.entry, self._account.table
            facts = {"load_id": entry.load_id, "table": table, "attempt": 1, "waited": round(waited, 3)}
            call("told", self._task.how.told, "begun", facts)

    def _take_turn(self, connection: Connection) -> tuple[Table, float]:
        """Raises NotSmallError where there is no table, and as `ledger.turn` does."""
        how = self._task.how
        self.waits = True
        found = ledger.turn_at_once(connection, self._task.spec.table_name, wait=how.wait, deadline=how.deadline)
        self.waits = False
        if found is None:
            raise NotSmallError
        self._account.aim(found[0])
        return found

    def _due(self, connection: Connection, errand: Errand, table: Table) -> tuple[int, int]:
        """The load's id, and the load that it follows, see `Standing`. Raises NotSmallError where it is not due, or not
        the first attempt, or has newer versions beside it."""
        if (load_id := ledger.new_id(connection, errand)) is not None:
            return load_id, 0
        standing = find_standing(connection, errand, self._task.source, table)
        if standing.verdict != "due" or standing.newer:
            raise NotSmallError
        load_id = ledger.first_id(connection, errand)
        if load_id is None:
            raise NotSmallError
        return load_id, standing.follows

    def _held(self, connection: Connection, located: Table) -> Table:
        """The table, which stays as it is until the transaction ends. Raises NotSmallError where the name means another
        one by now."""
        schema, name = self._task.spec.table_name
        table = catalog.describe(connection, schema, name, after=holding(located))
        if (str(table), table.oid) != (str(located), located.oid):
            raise NotSmallError
        return table

    def _plan(self, connection: Connection, records: Records, table: Table) -> Plan:
        """What is to be done with the records: as for the load before, where nothing is different. What a type is that
        is not PostgreSQL's own is asked each time: its name may mean another one by now.

        Raises NotSmallError where the target would be another table after it, and as `Task.plan` does.
        """
        spec, zone = self._task.spec, catalog.session_zone(connection)
        kept: dict[object, Plan] = kept_by(connection).setdefault("plans", {})
        key = (spec.fingerprint(), table, records.header, records.csv, zone)
        if (plan := kept.pop(key, None)) is not None:
            plan = replace(plan, spec=replace(spec, csv=records.csv), zones=server_zones(self._task.database, zone))
        else:
            plan = self._task.plan(connection, records, table, again=False)
        if plan.added or table.rules or table.view:
            raise NotSmallError
        constant = is_constant(spec) and not records.csv.dates  # a file's dates are in its own format
        if constant and all(each.type.built_in for each in plan.columns):
            kept[key] = plan
            if len(kept) > KEPT_PLANS:
                del kept[next(iter(kept))]
        return plan

    def _put(
        self, connection: Connection, plan: Plan, records: Records, keeper: RejectKeeper
    ) -> tuple[Merged, KeptStaging | None]:
        """Put the records into the target, which `Merge` does by a staging table where COPY cannot."""
        task, account = self._task, self._account
        form = task.form(plan, Dialect.of(records.csv))
        books = Books(account.tally, keeper)
        with task.lanes(plan, account.entry.load_id, lambda: keeper.left, form) as lanes:
            self._lane = lanes.told(records.dialect)
            blocks = no_longer_than(records.blocks, plan.block_records)
            sent = _sent((lanes.convert(block) for block in blocks), books)
            if plan.straight:
                names = [column.name for column in plan.columns]
                copied = copy(connection, target_name(plan.table), names, sent, form=form)
                return self._accounted(Merged(inserted=copied, course="copied straight into the table"), copied), None
            staging = staging_for(connection, account.entry.load_id, plan.columns)
            copy(connection, staging.name, staging.written, sent, form=form)
        merge = Merge(connection, staging, plan.table, plan.key, plan.spec.mode == "replace")
        counts = merge.run_at_once(account.tally.counts.kept, distinct=account.tally.keys.so_far)
        lost = 0 if plan.table.leaves_out else counts.left_out
        return self._accounted(counts, counts.records - lost), staging

    def _accounted(self, counts: Merged, records: int) -> Merged:
        """Raises NotSmallError where not every record that was kept is among so many ``records``: somebody else has
        changed rows meanwhile."""
        if records != self._account.tally.counts.kept:
            raise NotSmallError
        return counts


def is_constant(spec: LoadSpec) -> bool:
    """Whether what it means stays the same: a default such as "now" is another value each time, and a filter asks for
    zones by the sessions of its own load."""
    return spec.transform.filter is None and all(each.default is None for each in spec.columns)


def _sent(encoded: Iterator[Encoded], books: Books) -> Iterator[bytes]:
    """What COPY is given. Raises NotSmallError where it comes to much more than an object of its size would hold."""
    sent = 0
    for each in encoded:
        books.enter(each)
        sent += len(each.block.data)
        if sent > 4 * small_bytes():
            raise NotSmallError
        yield each.sent


class _Unentered(RejectKeeper):
    """Keeps rejects in memory until the load is entered. More than a batch of them is more than a small load keeps."""

    @property
    def batch(self) -> list[Reject]:
        return self._batch

    def flush(self) -> None:
        """They are entered with the load. Raises NotSmallError where they fill a batch."""
        if len(self._batch) >= self.BATCH_RECORDS or self._batch_bytes >= self.BATCH_BYTES:
            raise NotSmallError
