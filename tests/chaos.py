"""The fault harness: loads that die, in every way that can be thought of, and tables that must be right nevertheless.

    make chaos [SECONDS=600] [SEED=…]

A trial uploads one to three versions of an object and delivers their events to loader processes: in any order, more
than once, two at the same time; while S3 answers with errors, stalls, breaks off and lies about lengths, objects are
overwritten in mid-read, loaders are killed at random and at named steps, run out of time, lose their sessions, and the
server is killed and recovers. A reader looks at the table all the while. Then the faults stop, and events come until
they are done.

After every trial: the table is that of the versions which the ledger says were applied, each once, in their order, the
newest last; nobody saw anything else in between but such a table; the ledger's sums are the files'; rejects are there
once, at their places; and there is no lock, session, staging table or running load left.

Each trial is told by its seed, from which files, faults and their order follow; how they meet in time does not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import md5
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg2
from support import victim
from support.own_server import OwnServer, own_server
from support.postgres import query
from support.s3 import S3, Fault, FaultProxy, answer, call, cut, ignore, moto, stall, truncate
from support.upload import DIGEST, GLANCE, REFUSED, Upload, digest, glance, make_upload, table_after
from support.victim import Death, Job

from loader.cores import available_cores

PATIENCE = 60.0
"""Seconds within which a load ends, one way or another."""


MOST = 4
"""Versions of an object in one trial."""


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class World:
    """What a worker's trials share: a server that can be killed, an S3, and a proxy before it."""

    server: OwnServer
    endpoint: str
    proxy: FaultProxy
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.proxy.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def world() -> Iterator[World]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-chaos-")))
        endpoint = stack.enter_context(moto())
        proxy = stack.enter_context(FaultProxy(endpoint))
        server = stack.enter_context(own_server())
        server.options["synchronous_commit"] = "on"  # what it says is committed, must outlive it
        server.restart()
        here = World(server, endpoint, proxy, folder)
        stack.enter_context(mock.patch.dict(os.environ, here.environment))
        yield here


# --- a trial


@dataclass
class Trial:
    """``struck``: how often which fault was tried; ``ended``: how loader processes ended."""

    world: World
    seed: int
    struck: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    _uploading: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """Raises Violation."""
        self.rng = rng = random.Random(self.seed)
        self.mode = rng.choice(["append", "merge", "merge", "replace"])
        self.keyed = self.mode == "merge" or (self.mode == "replace" and rng.random() < 0.3)
        self.versioned = rng.random() < 0.6
        # else a version that comes late is superseded
        self.delta = self.versioned and self.mode != "replace" and rng.random() < 0.5
        self.refusing = rng.random() < 0.25
        self.table = f"t{self.seed}"
        self._is_calm = False
        self.uploads: list[Upload] = []
        self.versions: dict[str, list[Upload]] = {}  # several, where content that was there before comes back
        dsn = self.world.server.dsn
        columns = f"id bigint{' PRIMARY KEY' if self.keyed else ''}{f' CHECK (NOT {REFUSED})' if self.refusing else ''}"
        self.absent = not self.refusing and rng.random() < 0.4  # then the first load creates the table
        if not self.absent:
            query(dsn, f"CREATE TABLE {self.table} ({columns}, v text)")
        self.s3 = S3(self.world.endpoint, versioned=self.versioned)
        try:
            reader = _Reader(dsn, self.table)
            with reader:
                self._faulty()
                self._calm()
            self._check(reader.seen)
        finally:
            self.world.proxy.faults.clear()
            self.s3.remove()
            with suppress(psycopg2.Error):
                query(dsn, f"DROP TABLE {self.table}")

    # --- faults

    def _faulty(self) -> None:
        events: list[str] = []
        total = self.rng.randint(1, 3)
        for _ in range(total):
            events.append(self._upload())
            for _ in range(self.rng.randint(1, 4)):
                self._deliver(self.rng.choice(events))

    def _upload(self) -> str:
        """Put the next version; gives its version id, or the ETag where there are none."""
        with self._uploading:
            number = len(self.uploads) + 1
            upload = make_upload(random.Random(f"{self.seed} {number}"), number, refusing=self.refusing)
            version = self.s3.put("in/a+b c.csv", upload.body)
            identity = version or f"etag:{md5(upload.body).hexdigest()}"
            self.versions.setdefault(identity, []).append(upload)
            self.uploads.append(upload)
            return identity

    def _deliver(self, identity: str) -> None:
        """One event, or two at a time, and what befalls them."""
        jobs = [self._job(identity)]
        if self.rng.random() < 0.2:
            self.struck["two at once"] += 1
            jobs.append(self._job(identity))
        if self.rng.random() < 0.5:
            self._spoil_s3()
        processes = [victim.start(job) for job in jobs]
        self.why = ""
        blows = [None, self._kill, self._terminate, self._kill_backend, self._kill_server]
        (blow,) = self.rng.choices(blows, [10, 4, 3, 2, 1])
        if blow is not None:
            processes[0].join(self.rng.uniform(0.05, 0.6))
            if any(process.is_alive() for process in processes):
                self.struck[blow.__name__.strip("_").replace("_", " ")] += 1
                blow(processes[0])
        self._await(processes, jobs)
        self.world.proxy.faults.clear()

    def _job(self, identity: str, *, calm: bool = False) -> Job:
        rng = self.rng
        death = deadline = None
        if not calm and rng.random() < 0.6:
            death = Death(rng.choice(list(victim.STEPS)), rng.choice(["before", "after"]), rng.choice([1, 1, 2, 3, 6]))
            self.struck[f"killed {death.when}: {death.step}"] += 1
        elif not calm and rng.random() < 0.5:
            deadline = rng.uniform(0.01, 0.5)
            self.struck["time is up"] += 1
        return Job(
            uri=self.s3.uri("in/a+b c.csv"),
            dsn=self.world.server.dsn,
            spec={
                "table": self.table,
                "mode": self.mode,
                "versions": "delta" if self.delta else "snapshot",
                "segment_mb": 1,
                "rejects": {"max_ratio": 1},
                **({"key": ["id"]} if self.keyed else {}),
                **({"columns": {"id": "bigint", "v": "text"}} if self.absent else {}),
            },
            environment=self.world.environment,
            told=str(self.world.folder / f"told-{time.monotonic_ns()}"),
            version_id=identity if self.versioned else None,
            sequencer=f"{self.versions[identity][0].number:X}" if self.versioned and self.seed % 2 else None,
            deadline=deadline,
            straight=rng.choice([0, 0, 0, 24]),
            shards=rng.choice([0, 0, 2, 7]),
            death=death,
            patience=PATIENCE if calm else 1,
        )

    def _spoil_s3(self) -> None:
        rng = self.rng
        for _ in range(rng.randint(1, 4)):
            kinds: dict[str, Fault] = {
                "S3: cut": cut(rng.randrange(0, 300_000)),
                "S3: reset": cut(rng.randrange(0, 300_000), reset=True),
                "S3: stall": stall(rng.choice([-1, 0, 1000, 150_000])),
                "S3: truncated, and the length agrees": truncate(rng.randrange(0, 300_000)),
                "S3: 500": answer(500, "InternalError"),
                "S3: 503": answer(503, "SlowDown"),
                "S3: 412": answer(412, "PreconditionFailed"),
                "S3: 403": answer(403, "AccessDenied"),
                "S3: Range ignored": ignore("Range"),
                "S3: 503 to the HEAD": answer(503, "SlowDown", method="HEAD"),
                "S3: overwritten": call(self._upload_once),
            }
            kind = rng.choice(list(kinds))
            if kind == "S3: overwritten" and len(self.uploads) >= MOST:
                continue
            self.struck[kind] += 1
            self.world.proxy.faults.append(kinds[kind])

    def _upload_once(self) -> None:
        """In the midst of a read, from the proxy's thread."""
        if len(self.uploads) < MOST and not self._is_calm:
            self._upload()

    def _kill(self, process: Any) -> None:
        process.kill()

    def _terminate(self, process: Any) -> None:
        """Every session of the loader's."""
        self._ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'loader%'")

    def _kill_backend(self, process: Any) -> None:
        """PostgreSQL then ends all others, recovers, and empties what is UNLOGGED."""
        for (pid,) in self._ask("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'loader%' LIMIT 1"):
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        time.sleep(0.1)

    def _kill_server(self, process: Any) -> None:
        self.world.server.kill()
        self.world.server.start()

    def _ask(self, statement: str) -> list[tuple[Any, ...]]:
        with suppress(psycopg2.Error):
            return query(self.world.server.dsn, statement)
        return []

    def _await(self, processes: list[Any], jobs: list[Job]) -> None:
        for process, job in zip(processes, jobs, strict=True):
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                raise Violation(f"a load did not end in {PATIENCE:g} seconds")
            told = Path(job.told)
            why = told.read_text("utf-8") if told.exists() else ""
            told.unlink(missing_ok=True)
            if process.exitcode == victim.DEFECT:
                raise Violation(f"a load failed with an error of no kind that it knows:\n{why}")
            self.ended[{0: "done", 3: "failed, passes", 4: "failed, lasts", -9: "killed"}[process.exitcode]] += 1
            self.why = why

    # --- and after them

    def _calm(self) -> None:
        """Every event comes until it is done; with nothing in its way, at once, or when what is left has ended."""
        self.world.proxy.faults.clear()
        self._is_calm = True
        with self._uploading:
            pass  # whoever is at it, is done
        self._wait_for_server()
        events = list(self.versions)
        self.rng.shuffle(events)
        for identity in [*events, events[0]]:
            for attempt in itertools.count(1):
                job = self._job(identity, calm=True)
                process = victim.start(job)
                before = self.ended["done"]
                self._await([process], [job])
                if self.ended["done"] > before:
                    break
                if attempt == 3:
                    raise Violation(f"an event was not done in {attempt} calm attempts: {self.why}")

    def _wait_for_server(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(psycopg2.Error):
                query(self.world.server.dsn, "SELECT 1")
                return
            time.sleep(0.1)
        raise Violation("the server did not come back")

    # --- the oracle

    def _check(self, seen: set[tuple[int, ...]]) -> None:
        dsn, target = self.world.server.dsn, f"public.{self.table}"
        loads = query(
            dsn,
            "SELECT load_id, version, state, rows_read, rows_rejected, rows_inserted + rows_updated + rows_unchanged"
            " + rows_duplicate, attempts, resumes, handovers FROM loader.loads WHERE target = %s"
            " ORDER BY applied, load_id",
            target,
        )
        applied = [each for each in loads if each[2] == "loaded"]
        versions = self._uploads_of([version for _, version, *_ in applied])
        numbers = [each.number for each in versions]
        newest = len(self.uploads)
        if self.delta:  # in whatever order; the table is as if it had been theirs
            self._hold(sorted(numbers) == sorted(set(numbers)), f"versions were applied twice: {numbers}")
            self._hold(newest in numbers, f"of {newest} versions, {numbers} were applied")
        else:
            self._hold(numbers == sorted(set(numbers)), f"versions were applied in the order {numbers}")
            self._hold(numbers[-1:] == [newest], f"of {newest} versions, {numbers} were applied")
        others = {each[2] for each in loads if each[2] != "loaded"}
        self._hold(
            others <= ({"superseded"} if self.versioned else {"failed", "paused", "sharded"}), f"loads are {others}"
        )
        self._hold(not (self.delta and others), f"deltas are {others}")
        in_order = sorted(versions, key=lambda each: each.number)
        expected = digest(table_after(in_order, self.mode, keyed=self.keyed))
        found = query(dsn, DIGEST.format(self.table))[0]
        self._hold(found == expected, f"the table differs from {self.mode} of {numbers}: {self._difference(in_order)}")
        for (load_id, _, _, read, rejected, kept, *_), upload in zip(applied, versions, strict=True):
            self._hold(
                (read, rejected, kept) == (upload.records, len(upload.bad), len(upload.rows)),
                f"load {load_id} of version {upload.number} counts {read} read, {rejected} rejected, {kept} kept",
            )
            columns = "record_number, line_number, byte_offset, raw"
            rejects = query(dsn, f"SELECT {columns} FROM loader.rejects WHERE load_id = %s ORDER BY 1", load_id)
            self._hold(
                rejects == [(each.record, each.line, each.offset, each.raw) for each in upload.bad],
                f"load {load_id} has {len(rejects)} rejects, and should have {len(upload.bad)}",
            )
        self._check_seen(seen)
        self._check_leftovers(dsn, target)
        for _, _, _, _, _, _, attempts, resumes, handovers in loads:
            self.ended["attempts"] += attempts
            self.ended["resumes"] += resumes
            self.ended["handovers"] += handovers

    def _uploads_of(self, applied: list[str]) -> list[Upload]:
        """The uploads that were applied. Of several with one content each time the next is meant."""
        found: list[Upload] = []
        for version in applied:
            later = [each for each in self.versions[version] if not found or each.number > found[-1].number]
            found.append((later or self.versions[version])[0])
        if found and self.versions[applied[-1]][-1].number == len(self.uploads):
            found[-1] = self.uploads[-1]
        return found

    def _difference(self, versions: list[Upload]) -> str:
        found = Counter(query(self.world.server.dsn, f"SELECT id, v FROM {self.table}"))
        expected = Counter(table_after(versions, self.mode, keyed=self.keyed))
        more, less = list((found - expected).elements()), list((expected - found).elements())
        return f"{len(more)} rows too many, {len(less)} too few, such as {more[:2]} {less[:2]}"

    def _check_seen(self, seen: set[tuple[int, ...]]) -> None:
        """Whatever versions were applied meanwhile, each of them is there as a whole."""
        possible = {
            glance(table_after(list(some), self.mode, keyed=self.keyed))
            for size in range(len(self.uploads) + 1)
            for some in itertools.combinations(self.uploads, size)
        }
        self._hold(seen <= possible, f"a reader saw {seen - possible}")

    def _check_leftovers(self, dsn: str, target: str) -> None:
        deadline = time.monotonic() + 10
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'loader%'"
        while query(dsn, sessions)[0][0] and time.monotonic() < deadline:
            time.sleep(0.05)  # the last process has ended only just now
        for what, statement in {
            "sessions": sessions,
            "locks": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
            "running loads": "SELECT count(*) FROM loader.loads WHERE state = 'running'",
            "staging tables and checkpoints of loads that are through": (
                "SELECT count(*) FROM loader.loads l WHERE state IN ('loaded', 'superseded') AND (EXISTS (SELECT FROM"
                " loader.checkpoints c WHERE c.load_id = l.load_id) OR EXISTS (SELECT FROM loader.shards s WHERE"
                " s.load_id = l.load_id) OR EXISTS (SELECT FROM pg_tables WHERE"
                " tablename ~ ('^(loader_)?staging_' || l.load_id || '_')))"
            ),
        }.items():
            ((count,),) = query(dsn, statement)
            self._hold(count == 0, f"{count} {what} are left")

    def _hold(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Violation(otherwise)


class _Reader:
    """Looks at the table all the while, as a user would."""

    def __init__(self, dsn: str, table: str) -> None:
        self.seen: set[tuple[int, ...]] = set()
        self._dsn = dsn
        self._statement = GLANCE.format(table)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> _Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.03):
            with suppress(psycopg2.Error):
                connection = psycopg2.connect(self._dsn)
                try:
                    connection.autocommit = True
                    with connection.cursor() as cursor:
                        while not self._done.wait(0.03):
                            cursor.execute(self._statement)
                            self.seen.add(tuple(int(each) for each in cursor.fetchall()[0]))
                finally:
                    connection.close()


# --- many trials


def run_trials(first: int, step: int, *, until: float, trials: int, tell: Any = print) -> Iterator[Trial]:
    """Trials of the seeds ``first``, ``first + step`` …, until the time (of ``time.monotonic``) or their number is up.

    Raises Violation, with the seed.
    """
    with world() as here:
        for number in itertools.count():
            if time.monotonic() >= until or number == trials:
                return
            trial = Trial(here, first + number * step)
            try:
                trial.run()
            except BaseException as error:
                raise Violation(f"seed {trial.seed}, {number} trials after {first}: {error}") from error
            yield trial


def _work(options: argparse.Namespace) -> int:
    """One worker: a line of JSON for each trial."""
    until = time.monotonic() + options.seconds
    for trial in run_trials(options.seed + options.worker, options.workers, until=until, trials=options.trials):
        print(json.dumps({"seed": trial.seed, "struck": trial.struck, "ended": trial.ended}), flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--trials", type=int, default=-1, help="of each worker; default: as many as there is time for")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6) * 1000)
    parser.add_argument("--workers", type=int, default=available_cores())
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        return _work(options)
    print(f"seed {options.seed}, {options.workers} workers", flush=True)
    began = time.monotonic()
    command = [
        sys.executable,
        __file__,
        *(f"--{name}={value}" for name, value in vars(options).items() if value is not None),
    ]
    workers = [
        subprocess.Popen([*command, f"--worker={number}"], stdout=subprocess.PIPE, text=True)
        for number in range(options.workers)
    ]
    struck: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    with ThreadPoolExecutor(len(workers)) as pool:  # side by side, or a worker would wait for its lines to be read
        counts = list(pool.map(lambda worker: _gather(worker, struck, ended), workers))
    failed = sum(worker.wait() != 0 for worker in workers)
    _summarize(sum(counts), time.monotonic() - began, failed, struck, ended)
    return int(failed > 0)


_counting = threading.Lock()


def _gather(worker: Any, struck: Counter[str], ended: Counter[str]) -> int:
    count = 0
    for line in worker.stdout:
        told = json.loads(line)
        with _counting:
            struck.update(told["struck"])
            ended.update(told["ended"])
        count += 1
    return count


def _summarize(trials: int, seconds: float, failed: int, struck: Counter[str], ended: Counter[str]) -> None:
    print(f"{trials} trials in {seconds:,.0f} s; {failed} violations")
    for title, counter in (("how loads ended", ended), ("what struck", struck)):
        print(f"\n{title}:")
        for name, count in sorted(counter.items()):
            print(f"  {count:6}  {name}")


if __name__ == "__main__":
    sys.exit(main())
