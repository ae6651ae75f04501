"""One object by several processes of this machine: `loader.sharding.shards`, its shards loaded by as many workers side
by side.

A worker that dies costs the shard that it was at: another takes its place, and that shard is loaded again.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import psycopg2

from loader.core.callbacks import call
from loader.core.errors import LoaderError, PausedError, SourceCorruptedError
from loader.core.faults import backoff
from loader.core.process.cores import available_cores
from loader.core.report import LoadReport
from loader.core.spec.model import LoadSpec
from loader.core.stored import read_report
from loader.engine.attempts import ATTEMPTS, READS, How
from loader.engine.counters import Progress
from loader.postgres.database import Database, translated
from loader.sharding import runs
from loader.sharding.proof import Known, ShardPlan, ShardReport, prove
from loader.sharding.shards import ReplanError, finish, plan_shards
from loader.sharding.worker import Worker, WorkerDiedError

LEAST, MOST = 16 << 20, 256 << 20
"""Bytes of a shard: below, what one costs besides its records is more than a tenth of it; above, a worker that dies
costs more than some seconds."""

EACH = 4
"""Shards for each worker, where they are within those bounds, so that none waits long for the last."""


def load_by_workers(
    uri: str, spec: LoadSpec, database: Database, how: How, *, version_id: str | None = None, s3: Any = None
) -> LoadReport | str:
    """Load the object by ``how.workers`` processes; or the reason why one has to do it. Raises LoaderError."""
    if s3 is not None and uri.startswith("s3://"):
        return "the S3 client that was given cannot be handed to other processes"
    began, again, damaged = time.monotonic(), None, 0
    while True:
        try:
            plan = plan_shards(
                uri,
                spec,
                database,
                shards=partial(shards_for, workers=how.workers),
                version_id=version_id,
                again=again,
                how=how,
            )
        except SourceCorruptedError:
            damaged += 1
            if damaged == READS or how.deadline.reached:
                raise
            continue
        if plan.verdict == "single":
            return plan.why
        if plan.verdict == "settled":
            return read_report(plan.report or {})
        try:
            _load_shards(plan, spec, database, how)
            report = finish(plan, None, database, how=how)
            return replace(report, seconds=round(time.monotonic() - began, 3))
        except ReplanError as error:
            again = error.again
        except SourceCorruptedError as error:
            damaged += 1
            _discard(plan, database)
            if damaged == READS or how.deadline.reached:
                error.report = error.report or _give_up(plan, spec, error, database)
                raise
        except LoaderError as error:
            if error.report is None:
                error.report = _give_up(plan, spec, error, database)
            raise


def _load_shards(plan: ShardPlan, spec: LoadSpec, database: Database, how: How) -> None:
    """Load all shards. Raises LoaderError; of other errors it enters that the load has failed of them."""
    try:
        _Crew(plan, database, how).load_all()
    except LoaderError:
        raise
    except BaseException as error:  # a callback's, Ctrl-C where it is not asked for, a defect
        _give_up(plan, spec, error, database)
        raise


def _discard(plan: ShardPlan, database: Database) -> None:
    with suppress(psycopg2.Error, LoaderError), database.session() as connection:
        runs.discard(connection, plan)


def shards_for(size: int, workers: int) -> int:
    """How many shards to make of an object of ``size`` bytes."""
    return max(1, -(-size // min(max(size // (workers * EACH), LEAST), MOST)))


def _give_up(plan: ShardPlan, spec: LoadSpec, error: BaseException, database: Database) -> LoadReport:
    """Enter what keeps the shards from being loaded, as far as the database can be reached; give the report of it.

    Of a load that may go on, shards that are through stay; what came to rest is not even entered as failed.
    """
    reason = str(error) or type(error).__name__
    retryable = getattr(error, "retryable", not isinstance(error, Exception))
    report = LoadReport(
        "failed",
        plan.uri,
        spec.table,
        spec.mode,
        load_id=plan.load_id,
        version=plan.version_id,
        attempts=plan.attempt,
        error=reason,
        retryable=retryable,
    )
    with suppress(psycopg2.Error, LoaderError), database.session() as connection:
        if not isinstance(error, PausedError):
            runs.give_up(connection, plan, reason, retryable=retryable, error_type=type(error).__name__)
        elif error.handover:
            report = replace(report, handovers=runs.note_handover(connection, plan))
    return report


class _Crew:
    """So many workers, and what each is at. Which shard is next, the proof of all that was done so far says."""

    def __init__(self, plan: ShardPlan, database: Database, how: How) -> None:
        self._plan = plan
        self._database = database
        self._how = how
        self._threads = how.threads or max(1, available_cores() // how.workers)
        self._reports: list[ShardReport] = []
        self._asked: set[tuple[int, str]] = set()  # what was handed out, by shard and what was known of it
        self._at: dict[int, tuple[int, int]] = {}  # shards under way: bytes and records that were read
        self._workers: list[Worker] = []
        self._failure: BaseException | None = None
        self._turn = threading.Condition()  # of all of these
        self._telling = threading.Lock()  # the progress callback is called by one thread at a time

    def load_all(self) -> None:
        """Load shards until all are proved, or one shows what keeps the object from being loaded at all.

        However it ends, the worker processes have ended, too.
        """
        with translated(f"{self._plan.uri}: its shards"), self._database.session() as connection:
            self._reports = runs.reports(connection, self._plan)
        number = min(self._how.workers, len(self._plan.ranges))
        threads = [threading.Thread(target=self._work, name=f"loader-worker-{each}") for each in range(number)]
        begun: list[threading.Thread] = []
        with self._how.deadline.calling(self._stop):
            try:
                for thread in threads:
                    thread.start()
                    begun.append(thread)
                for thread in threads:
                    thread.join()
            except BaseException as error:  # Ctrl-C in a program that does not ask for it, or no more threads
                self._fail(error)
                raise
            finally:
                for thread in begun:
                    thread.join()
        if self._failure is not None:
            raise self._failure

    def _stop(self) -> None:
        with self._turn:
            for worker in self._workers:
                worker.stop(self._how.deadline.reached or "")

    def _work(self) -> None:
        """One worker's share, and its successors' where it dies."""
        worker = None
        try:
            while (task := self._next()) is not None:
                worker = self._load(worker, *task)
        except BaseException as error:
            self._fail(error)
        finally:
            if worker is not None:
                self._end(worker)

    def _fail(self, error: BaseException) -> None:
        """Begin nothing more. What is no error of the load's own ends the others at once, in the middle of a shard."""
        with self._turn:
            self._failure = self._failure or error
            if not isinstance(error, LoaderError):
                for worker in self._workers:
                    worker.abandon()
            self._turn.notify_all()

    def _next(self) -> tuple[int, Known | None] | None:
        """Waits for something to do; None when there is nothing more."""
        with self._turn:
            while True:
                proof = prove(self._plan, self._reports)
                if self._failure is not None or proof.proved or proof.problem is not None:
                    return None
                free = [each for each in proof.again if each[0] not in self._at]
                if free:
                    return self._hand_out(*free[0])
                if not self._at:
                    raise LoaderError(f"{self._plan.uri}: its shards cannot be proved; this is a defect of the loader")
                self._turn.wait()

    def _hand_out(self, number: int, known: Known | None) -> tuple[int, Known | None]:
        asked = (number, repr(known))
        if asked in self._asked:
            raise LoaderError(f"{self._plan.uri}: shard {number} proves nothing; this is a defect of the loader")
        self._asked.add(asked)
        self._at[number] = (0, 0)
        return number, known

    def _load(self, worker: Worker | None, number: int, known: Known | None) -> Worker:
        """Load a shard, in as many attempts as that takes. Gives the worker for the next one."""
        failed = 0
        while True:
            worker = worker or self._begin()
            try:
                report = worker.load(number, known, partial(self._tell, number))
            except LoaderError as error:
                failed += 1
                over = failed == ATTEMPTS or self._failure is not None
                if isinstance(error, PausedError) or not error.retryable or over:
                    self._end(worker)
                    raise
                if isinstance(error, WorkerDiedError):
                    self._end(worker)
                    worker = None
                self._how.deadline.sleep(backoff(failed))
            except BaseException:  # the progress callback's
                self._end(worker)
                raise
            else:
                with self._turn:
                    self._reports.append(report)
                    self._at.pop(number)
                    self._turn.notify_all()
                return worker

    def _begin(self) -> Worker:
        worker = Worker(self._plan, self._database, self._how.deadline, threads=self._threads)
        with self._turn:
            self._workers.append(worker)
            if self._failure is not None and not isinstance(self._failure, LoaderError):
                worker.abandon()
            if self._how.deadline.stopped:
                worker.stop(self._how.deadline.reached or "")
        return worker

    def _end(self, worker: Worker) -> None:
        with self._turn:
            if worker in self._workers:
                self._workers.remove(worker)
        worker.close()

    def _tell(self, number: int, read: int, records: int) -> None:
        if self._how.progress is None:
            return
        with self._telling:
            with self._turn:
                self._at[number] = (read, records)
                done = {each.number: (each.bytes_read, each.records) for each in self._reports} | self._at
                sums = [sum(each) for each in zip(*done.values(), strict=True)]
            progress = Progress(min(sums[0], self._plan.size), self._plan.size, sums[1])
            call("progress", self._how.progress, progress)
