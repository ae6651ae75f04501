"""What is around the attempts at a load: its table's turn, its row in the ledger, faults that pass, and the end.

However an attempt ends, the next one knows what to make of it: what was committed is vouched for by a checkpoint or
thrown away, and nobody has to clear anything by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import uuid4

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.core.callbacks import call
from loader.core.deadline import NEVER, Deadline, paused_by
from loader.core.display import brief
from loader.core.errors import BusyError, DatabaseError, LoaderError, PausedError, SourceCorruptedError, recalled
from loader.core.faults import backoff, of_sqlstate
from loader.core.process.cores import available_cores, positive
from loader.core.report import ROW_COUNTS, LoadReport
from loader.core.spec.model import LoadSpec
from loader.engine.cleanup import clear_leftovers
from loader.engine.counters import Progress
from loader.engine.report_builder import Account
from loader.engine.segments import staged_so_far
from loader.ledger import checkpoints, ledger
from loader.ledger.ledger import Entry, Errand
from loader.ledger.versions import Standing, find_standing, has_order, why_not_due
from loader.postgres import catalog
from loader.postgres.database import Database, translate
from loader.postgres.merging.staging import drop_tables
from loader.postgres.tables import Table
from loader.sources.source import Missing, Source

TURN_WAIT = 900.0
"""Seconds that a load waits for its table's turn by default: as long as the longest Lambda runs."""

HANDOVERS = 12
"""Invocations by which one load may be carried on: three hours of Lambda's longest, and below the 16 or so rounds after
which Lambda itself stops a function that goes on calling itself (Lambda's guide, "Recursive loop detection")."""

ATTEMPTS = 5
"""Attempts of one call that may fail in a row, for reasons that pass, without a checkpoint further on."""

READS = 3
"""Times that one call reads an object whose bytes do not have its checksum. A later call, as by a queue, goes on."""

_LOCK_NOT_AVAILABLE = "55P03"
_CANCELED = "57014"
"""SQLSTATE of a statement that ran into ``statement_timeout``, or was called back (manual, appendix A)."""


@dataclass(frozen=True, slots=True)
class How:
    """How a load goes about it.

    ``force``: load what was loaded before. ``token``: of a forced load, which request it is, see `with_token`.
    ``workers``: processes that may share one object, see `loader.sharding.shards`. ``threads``: that parse in each of
    them, by default one a core.
    ``progress``: is told how far it is, block by block. ``wait``: how long to wait for another load into the
    same table, in seconds. ``replay_of``: the source holds rejects of that load. ``deadline``: when to come to rest.
    ``handovers``: how often one load may do so because its time was up. ``sequencer``: that of the S3 event which
    told of the object's version. ``told`` is told when an attempt begins, and when one failed that is to be made again:
    what it is, and facts of it, ``load_id`` among them. ``notes``: what is to stand first among the report's.
    ``failed_since``: a failure of the same version by the same spec that the ledger has from then on, and that would
    come again, is the answer; by default every call tries. ``attempts``: how many of them one load may have.
    """

    force: bool = False
    workers: int = 1
    threads: int | None = None
    progress: Callable[[Progress], None] | None = None
    wait: float = TURN_WAIT
    replay_of: int | None = None
    deadline: Deadline = NEVER
    handovers: int = HANDOVERS
    sequencer: str | None = None
    told: Callable[[str, Mapping[str, Any]], None] | None = None
    notes: tuple[str, ...] = ()
    failed_since: datetime | None = None
    attempts: int | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        """Raises UsageError where ``workers`` or ``threads`` is no number of processes or threads."""
        positive(self.workers, "workers")
        if self.threads is not None:
            positive(self.threads, "threads")

    def errand(self, source: Source | Missing, target: str, spec: LoadSpec) -> Errand:
        """To load ``source`` into the table ``target`` in this way."""
        token = self.token if self.force else None
        return Errand(source, target, spec, self.force, self.replay_of, self.sequencer, token)


PLAINLY = How()


def with_token(how: How) -> How:
    """``how`` with a token of its own where it forces and has none: for one object, and all attempts of one call at it.

    By the token a call finds in the ledger what it has done itself, though the answer to its commit was lost.
    """
    return replace(how, token=uuid4().hex) if how.force and how.token is None else how


def for_version(how: How, source: Source, asked: str | None) -> How:
    """``how`` for the version that ``source`` pins; ``asked`` is the version that the event named.

    An event that names none is of a time before the bucket kept versions. Its sequencer then says nothing of the
    version that the object has now.
    """
    return how if asked is not None or not has_order(source) else replace(how, sequencer=None)


def within_cores(how: How) -> How:
    """``how`` with at most one worker process a core, and a note where that is fewer than it asks for.

    More processes than cores only take memory and connections: each has a session with the server for each stream.
    """
    cores = available_cores()
    if how.workers <= cores:
        return how
    few = f"{cores} cores" if cores > 1 else "one core"
    note = f"{how.workers:,} workers were asked for and this machine has {few}, so it used {cores}"
    return replace(how, workers=cores, notes=(*how.notes, note))


RESOLUTIONS = 5
"""Times that a name may come to mean another table while a load waits for the turn of the one that it meant."""

CHANGES = 5
"""Times that one attempt plans anew because its target was changed since it was planned for."""


class TargetMovedError(DatabaseError):
    """The name of the target, which the search_path resolves, means another table than the one whose turn is held."""

    retryable = True


@contextmanager
def turn_of(
    connection: Connection,
    name: tuple[str | None, str],
    told: Callable[[Table], object] = lambda _table: None,
    *,
    wait: float,
    deadline: Deadline,
) -> Iterator[tuple[Table, float]]:
    """Hold the turn of the table that ``name`` means; gives where that is, and the seconds that it took.

    While it waits, the table may be moved, dropped, or hidden by another of the search_path: then the turn is given
    back, and that of the right table taken. ``told`` is told of each before it is waited for. Raises as `ledger.turn`
    does, and BusyError after `RESOLUTIONS` turns of tables that were not meant any more.
    """
    waited = 0.0
    for _ in range(RESOLUTIONS):
        table = catalog.locate(connection, *name)
        told(table)
        left = max(0.0, wait - waited)
        with ledger.turn(connection, str(table), wait=left, deadline=deadline, oid=table.oid) as more:
            waited += more
            now = catalog.locate(connection, *name)
            if (str(now), now.oid) == (str(table), table.oid):
                yield now, waited
                return
    why = f"{table}: was moved, or another table put in its place, {RESOLUTIONS} times while its turn was waited for"
    raise BusyError(why, _LOCK_NOT_AVAILABLE)


def plan_anew(connection: Connection, spec: LoadSpec, account: Account, *, changes: int) -> None:
    """The target was changed since it was planned for: end the transaction, so that it can be planned for once more.

    Raises TargetMovedError as `check_meant` does, and BusyError where it was changed ``changes`` times, which is so
    often that to go on would be a race.
    """
    connection.rollback()
    check_meant(connection, spec, account)
    if changes >= CHANGES:
        why = f"{account.table}: was altered or replaced {changes} times while this load was under way"
        raise BusyError(why, _LOCK_NOT_AVAILABLE)


def check_meant(connection: Connection, spec: LoadSpec, account: Account) -> None:
    """Raise TargetMovedError where the spec's name means another table than the one whose turn is held."""
    now = str(catalog.locate(connection, *spec.table_name))
    if now != account.table:
        raise TargetMovedError(f'{account.table}: "{spec.table}" means {now} by now, so the load begins anew there')


Attempt = Callable[[Connection, Entry], LoadReport]
"""One attempt, on the connection that holds the table's turn. It has committed when it gives its report."""


class Undertaking:
    """One version of an object that is to be loaded into one table, by as many attempts as that takes."""

    rereads = True
    """Whether an attempt reads the object, so that another one may help where its bytes were damaged on their way."""

    def __init__(self, source: Source, spec: LoadSpec, database: Database, how: How, account: Account) -> None:
        self._source = source
        self._spec = spec
        self._database = database
        self._how = how
        self._account = account

    def run(self, attempt: Attempt) -> LoadReport:
        """Load it, or find that it was loaded before. Raises LoaderError, and the target is as it was."""
        try:
            return self._persevere(attempt)
        except LoaderError as error:
            error.report = self._account.report("failed", error=str(error), retryable=error.retryable)
            raise

    def _persevere(self, attempt: Attempt) -> LoadReport:
        """Try again after a fault that passes, as long as that leads somewhere and there is time."""
        failed = damaged = 0
        while True:
            staged = self._account.staged
            try:
                return self._in_turn(attempt)
            except (DatabaseError, SourceCorruptedError) as error:
                if isinstance(error, SourceCorruptedError):
                    damaged += 1
                    if damaged == READS or not self.rereads:
                        raise
                failed = 1 if self._account.staged > staged else failed + 1
                begun = self._account.entry.load_id
                if not (begun and _passes_soon(error)) or failed == ATTEMPTS or self._how.deadline.reached:
                    raise
                pause = backoff(failed)
                self._tell("to be tried again", error=str(error), pause=round(pause, 3))
                self._how.deadline.sleep(pause)

    def _in_turn(self, attempt: Attempt) -> LoadReport:
        how, account = self._how, self._account
        with self._clear_errors(), self._database.session() as connection:
            ledger.migrate(connection)
            with turn_of(connection, self._name, account.aim, wait=how.wait, deadline=how.deadline) as (table, waited):
                ledger.close_dead(connection, account.table)
                errand = how.errand(self._source, account.table, self._spec)
                if account.entry.load_id and ledger.is_loaded(connection, account.entry.load_id, errand.token):
                    return self._loaded_after_all(connection)
                standing = find_standing(connection, errand, self._source, table)
                if standing.verdict != "due":
                    return self._not_due(connection, errand, standing, table, waited)
                account.newer = standing.newer
                self._recall(connection, errand)
                account.entry = entry = self._enter(connection, errand, standing, waited)
                try:
                    self._tell("begun", table=account.table, attempt=entry.attempts, waited=round(waited, 3))
                    with self._clear_errors():
                        self._check_handovers(entry)
                        self._check_attempts(entry)
                        report = attempt(connection, entry)
                except BaseException as error:
                    self._set_aside(connection, error)
                    raise
                clear_leftovers(connection)
                return report

    @property
    def _name(self) -> tuple[str | None, str]:
        """The table's schema, None where the search_path is to find it, and its name."""
        return self._spec.table_name

    def _enter(self, connection: Connection, errand: Errand, standing: Standing, waited: float) -> Entry:
        """Enter the attempt."""
        return ledger.enter(connection, errand, follows=standing.follows, waited=waited)

    def _tell(self, what: str, **facts: Any) -> None:
        if self._how.told is not None:
            call("told", self._how.told, what, {"load_id": self._account.entry.load_id, **facts})

    def _not_due(
        self, connection: Connection, errand: Errand, standing: Standing, table: Table, waited: float
    ) -> LoadReport:
        account = self._account
        account.notes = (why_not_due(connection, errand, standing, self._source, table),)
        if standing.verdict == "loaded":
            account.entry = Entry(standing.load_id)
            self._end_paused(connection, errand, standing)
            return account.report("skipped")
        account.entry = ledger.enter(connection, errand, waited=waited)
        checkpoints.forget(connection, account.entry.load_id)
        drop_tables(connection, account.entry.load_id)
        ledger.forget_rejects(connection, account.entry.load_id)
        report = replace(account.report("skipped"), superseded_by=standing.load_id)
        ledger.finish(connection, report, "superseded")
        connection.commit()
        return report

    def _end_paused(self, connection: Connection, errand: Errand, standing: Standing) -> None:
        """What an earlier attempt has staged is of no use any more: another load has loaded the version meanwhile."""
        for load_id in ledger.end_paused(connection, errand, standing.load_id):
            checkpoints.forget(connection, load_id)
            drop_tables(connection, load_id)
        connection.commit()

    def _loaded_after_all(self, connection: Connection) -> LoadReport:
        """This very call's commit came through, though the answer to it was lost: what it did, the ledger has.

        So it is, whatever became of the table since, and of a load that was forced, too."""
        report = self._account.report("loaded")
        entry = ledger.find_load(connection, self._account.entry.load_id) or {}
        counts = {name: entry[name] for name in ("rows_read", *ROW_COUNTS)}
        return replace(report, notes=tuple(entry["notes"]), **counts)

    def _check_handovers(self, entry: Entry) -> None:
        if entry.handovers >= self._how.handovers and not math.isinf(self._how.deadline.budget):
            raise LoaderError(
                f"{self._source.uri}: was handed over {entry.handovers} times and is not loaded; where time has no "
                f"limit, it can be brought to its end with: loader replay {entry.load_id}"
            )

    def _check_attempts(self, entry: Entry) -> None:
        if self._how.attempts is not None and entry.attempts > self._how.attempts:
            raise LoaderError(
                f"{self._source.uri}: was attempted {entry.attempts - 1} times and is not loaded; load {entry.load_id} "
                "says in last_error why; once that is repaired, ask for it again"
            )

    def _recall(self, connection: Connection, errand: Errand) -> None:
        """Raise what the same load failed of, if that was long enough after it was asked for to be the answer."""
        since = self._how.failed_since
        if since is None or errand.forced or (found := ledger.find_failure(connection, errand, since)) is None:
            return
        error = recalled(found.kind, found.error)
        if error is not None:
            self._account.entry = found.entry
            self._account.notes = (f"answered from the ledger: load {found.entry.load_id} failed of it already",)
            raise error

    def _set_aside(self, connection: Connection, error: BaseException) -> None:
        """Enter how the attempt ended. Where that fails, too, the next load into the table does it.

        What is staged stays where the load can be continued.
        """
        lasting = isinstance(error, Exception) and not getattr(error, "retryable", False)
        paused = isinstance(error, PausedError)
        reason = str(error) if isinstance(error, LoaderError) else brief(str(error))
        report = self._account.report("failed", error=reason or type(error).__name__, retryable=not lasting)
        assert report.load_id is not None
        with suppress(psycopg2.Error, LoaderError), ExitStack() as stack:
            if connection.closed:
                connection = stack.enter_context(self._database.session())
            connection.rollback()
            handover = isinstance(error, PausedError) and error.handover
            kind = type(error).__name__ if isinstance(error, LoaderError) else None
            ledger.finish(connection, report, "paused" if paused else "failed", handover=handover, error_type=kind)
            if lasting or isinstance(error, SourceCorruptedError | TargetMovedError):
                # nobody knows which of the bytes were wrong; or nobody comes back to a table that is not meant any more
                checkpoints.forget(connection, report.load_id)
            if isinstance(error, SourceCorruptedError):
                ledger.forget_rejects(connection, report.load_id)
            if not checkpoints.is_vouched_for(connection, report.load_id):
                drop_tables(connection, report.load_id)
            connection.commit()
            if handover:
                self._account.entry = replace(self._account.entry, handovers=report.handovers + 1)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """psycopg2's errors as this package's, naming the object and the table."""
        try:
            yield
        except psycopg2.Error as error:
            doing = f"{self._source.uri}: loading into {self._account.table}"
            deadline = self._how.deadline
            if error.pgcode == _CANCELED and (reached := deadline.reached):
                so_far = staged_so_far(self._account.staged)
                raise paused_by(deadline, f"{doing}: {reached}; {so_far}") from error
            raise translate(error, doing) from error


def _passes_soon(error: DatabaseError | SourceCorruptedError) -> bool:
    """Whether it is worth while to try again at once: not where a disk is full, or another load has its turn."""
    if isinstance(error, SourceCorruptedError):
        return True
    if not error.retryable or error.sqlstate == _LOCK_NOT_AVAILABLE:
        return False
    return error.sqlstate is None or of_sqlstate(error.sqlstate).soon
