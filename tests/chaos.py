"""The fault harness: loads that die, in every way that can be thought of, and tables that must be right nevertheless.

    make chaos [SECONDS=600] [SEED=…] [WITHOUT=ddl,roles,…]

A trial uploads versions of one or several objects and delivers their events to loader processes: in any order, more
than once, two at the same time, some of them forced; while S3 answers with errors, stalls, breaks off and lies about
lengths, objects are overwritten in mid-read, loaders are killed at random and at named steps, run out of time, lose
their sessions, commits or the answers to them are lost on the way, an operator changes the table's form, and the
server is killed and recovers. A reader looks at the table all the while. Then the faults stop, and events come until
they are done.

After every trial: the table is that of the files which the ledger says were applied, in their order, and those are
the ones that had to be: each version once, none after a newer one where that matters, the newest of each object among
them, and of each forced call one effect. A reader saw what the table was between two of them, and nothing else. The
ledger's sums are the files'; rejects are there once, at their places; and there is no lock, session, staging table or
running load left.

A trial's seed decides its worlds, files, faults and their order; how they meet in time it does not.
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
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn
from support import roles, victim
from support.cluster import MissingServerError
from support.objects import Place, Put, is_due
from support.operations import KEYLESS, SWAPPED, Change, Operator
from support.own_server import OwnServer, own_server
from support.pg_proxy import Break, PgProxy
from support.pooled import pooled
from support.postgres import DEFAULT, query
from support.s3 import S3, Fault, FaultProxy, answer, call, cut, ignore, moto, stall, truncate
from support.upload import DIGEST, GLANCE, REFUSED, Upload, digest, glance, make_upload, table_after
from support.victim import Death, Job

from loader.core.process.cores import available_cores

PATIENCE = 60.0
"""Seconds within which a load ends, one way or another."""

MOST = 4
"""Versions of all objects in one trial."""

WORLDS: Mapping[str, float] = {
    "servers": 0.5,  # PostgreSQL 15, 16 or 17 instead of 18
    "keys": 0.4,  # several objects, in a bucket that keeps versions and in one that does not; the same bytes at several
    "nameless": 0.2,  # events without a version id for objects that have one, of before the bucket kept versions
    "sequencers": 0.4,  # that some events lack, and of any length
    "listing": 0.3,  # S3 does not list an object's versions
    "forced": 0.4,  # calls that force a load
    "versions": 0.2,  # the spec says whether an object's versions are snapshots or deltas
    "proxy": 0.4,  # commits, or the answers to them, are lost between loader and server; resets and stalls
    "pgbouncer": 0.25,  # a pooler in session mode is between them
    "ddl": 0.35,  # an operator changes the table's form, and keeps its rows
    "stale": 0.7,  # so that what the loader knows of it is true no more: without its key for a while, or a copy of it
    "roles": 0.35,  # the loader's role has odd settings
}
"""What a trial may have besides, and of how many it is part; see `docs/chaos.md`."""


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Site:
    """What a worker's trials share: servers that can be killed, an S3, and a proxy before it."""

    endpoint: str
    proxy: FaultProxy
    folder: Path
    stack: ExitStack
    servers: dict[str, OwnServer] = field(default_factory=dict)

    @property
    def server(self) -> OwnServer:
        """The default one."""
        return self.server_of(DEFAULT)

    def server_of(self, name: str) -> OwnServer:
        """The server of that name, started when it is first asked for. Raises MissingServerError."""
        if name not in self.servers:
            server = self.stack.enter_context(own_server(name))
            server.options["synchronous_commit"] = "on"  # what it says is committed, must outlive it
            server.restart()
            self.servers[name] = server
        return self.servers[name]

    def pool_settings(self) -> dict[str, object]:
        """Of a PgBouncer that knows the odd role, and is soon back when the server is."""
        users = self.folder / "users"
        users.write_text(f'"postgres" ""\n"{roles.ROLE}" ""\n')
        self.folder.chmod(0o755)  # it is not this user
        return {"auth_file": users, "server_login_retry": 0.1, "default_pool_size": 40, "max_client_conn": 200}

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
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-chaos-")))
        endpoint = stack.enter_context(moto())
        proxy = stack.enter_context(FaultProxy(endpoint))
        here = Site(endpoint, proxy, folder, stack)
        stack.enter_context(mock.patch.dict(os.environ, here.environment))
        yield here


# --- a trial


@dataclass(frozen=True)
class Event:
    """A call for a version of an object. ``token``: it is forced, and this is its name. ``nameless``: it does not name
    the version."""

    put: Put
    token: str | None = None
    nameless: bool = False


@dataclass(frozen=True)
class Effect:
    """A load that the ledger has as loaded: of which version, and for which forced call, if for one."""

    load_id: int
    put: Put
    token: str | None
    counts: tuple[int, int, int]

    @property
    def upload(self) -> Upload:
        return self.put.upload

    @property
    def forced(self) -> bool:
        return self.token is not None


@dataclass
class Trial:
    """``struck``: how often which fault was tried; ``ended``: how loader processes ended; ``worlds``: what it was."""

    site: Site
    seed: int
    without: Collection[str] = ()
    struck: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    worlds: Counter[str] = field(default_factory=Counter)
    _uploading: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """Raises Violation."""
        self.rng = random.Random(self.seed)
        self._is_calm = False
        self._draw(random.Random(f"{self.seed} worlds"))
        dsn = self.server.dsn
        try:
            if not self.absent:
                query(dsn, f"CREATE TABLE {self.table} ({self._columns()}, v text)")
            reader = _Reader(dsn, self.table)
            with reader:
                with ExitStack() as stack:
                    self.dsn = self._way(stack)
                    self._faulty()
                self._calm()
            self._check(reader.seen)
        finally:
            self.site.proxy.faults.clear()
            for bucket in self.buckets:
                bucket.remove()
            with suppress(psycopg2.Error):
                query(dsn, f"DROP TABLE {self.table}")

    def _draw(self, rng: random.Random) -> None:
        """Decide what kind of trial it is. Which worlds are left out changes nothing else of it."""
        drawn = [name for name, chance in WORLDS.items() if rng.random() < chance]
        self.has = {name for name in drawn if name not in self.without}
        self.mode = rng.choice(["append", "merge", "merge", "replace"])
        self.keyed = self.mode == "merge" or (self.mode == "replace" and rng.random() < 0.3)
        self.refusing = rng.random() < 0.25
        self.absent = not self.refusing and rng.random() < 0.4  # then the first load creates the table
        self.table = f"t{self.seed}"
        self.puts: list[Put] = []
        self.again = rng.random() < 0.5  # events that are done come once more in the end
        self.done: set[Event] = set()
        self.versions = rng.choice(["snapshot", "delta"])
        self.server = self._server(rng.choice(["system-15", "system-15", "embedded-17", "embedded-16"]))
        self.buckets: list[S3] = []
        self.places = self._places(rng)
        self.pg_proxy: PgProxy | None = None
        self.unchanged = self._unchanged()
        self.odd = roles.make_odd(self.server.dsn, rng) if "roles" in self.has else []
        self.worlds.update([self.mode, *sorted(self.has)])

    def _unchanged(self) -> set[str]:
        """What no operator does."""
        return {
            *({KEYLESS, SWAPPED} if "stale" not in self.has else ()),
            *({KEYLESS} if self.mode != "merge" else ()),
        }

    def _server(self, name: str) -> OwnServer:
        name = name if "servers" in self.has else DEFAULT
        try:
            server = self.site.server_of(name)
        except MissingServerError as error:
            self.worlds[str(error)] += 1
            name, server = DEFAULT, self.site.server
        self.worlds[f"PostgreSQL {name.partition('-')[2]}"] += 1
        return server

    def _places(self, rng: random.Random) -> list[Place]:
        """The objects: one; or two or three of two keys in two buckets."""
        versioned, turns = rng.random() < 0.6, rng.random() < 0.5
        kinds = [(each, key) for each in (True, False) for key in ("in/a+b c.csv", "in/b.csv")]
        some = rng.sample(kinds, rng.randint(2, 3)) if "keys" in self.has else [(versioned, "in/a+b c.csv")]
        buckets: dict[bool, S3] = {}
        for each in dict(some):
            turning = "nameless" in self.has and turns
            buckets[each] = S3(self.site.endpoint, versioned=each and not turning)
            self.buckets.append(buckets[each])
        made = []
        for each, key in some:
            sequencers = rng.choice(["none", "counted", "mixed"])
            turning = "nameless" in self.has and turns and each
            place = Place(buckets[each], key, each and not turning, random.Random(f"{self.seed} {key}"))
            place.sequencers = sequencers if "sequencers" in self.has or sequencers != "mixed" else "none"
            place.turns_versioned = turning
            made.append(place)
        return made

    def _columns(self) -> str:
        kind = "integer" if "ddl" in self.has else "bigint"  # that an operator makes wider
        return f"id {kind}{' PRIMARY KEY' if self.keyed else ''}{f' CHECK (NOT {REFUSED})' if self.refusing else ''}"

    def _way(self, stack: ExitStack) -> str:
        """The DSN that loaders have: of the server, or of what is before it."""
        port = self.server.port
        if "pgbouncer" in self.has:
            try:
                pool = stack.enter_context(pooled(self.server.dsn, "session", **self.site.pool_settings()))
                port = int(parse_dsn(pool.dsn)["port"])
            except pytest.skip.Exception as reason:
                self.worlds[str(reason)] += 1
        if "proxy" in self.has:
            self.pg_proxy = stack.enter_context(PgProxy(port))
            port = self.pg_proxy.port
        return self._dsn(port)

    def _dsn(self, port: int) -> str:
        return f"postgresql://{roles.ROLE if 'roles' in self.has else 'postgres'}@127.0.0.1:{port}/postgres"

    # --- faults

    def _faulty(self) -> None:
        self.events: list[Event] = []
        for _ in range(self.rng.randint(1, 3)):
            self._upload(self.rng.randrange(2**32))
            for _ in range(self.rng.randint(1, 4)):
                event = self._event()
                if event not in self.events:
                    self.events.append(event)
                self._deliver(event)

    def _upload(self, seed: int) -> None:
        """Put the next version of one of the objects."""
        rng = random.Random(seed)
        with self._uploading:
            place = rng.choice(self.places)
            upload = self._file(rng, place)
            self.puts.append(place.put(upload))

    def _file(self, rng: random.Random, place: Place) -> Upload:
        """New ones, or the same bytes as of another object; never what was at the place before."""
        others = [each.upload for each in self.puts if not place.had(each.upload)]
        if others and rng.random() < 0.4:
            return rng.choice(others)
        while True:
            upload = make_upload(rng, len(self.puts) + 1, refusing=self.refusing)
            if not place.had(upload):
                return upload

    def _event(self) -> Event:
        """For a version that there is, old or new: an event of S3's, or a call that forces it, new or again."""
        rng = self.rng
        put = rng.choice(self.puts)
        forced, again, nameless = rng.random() < 0.3, rng.random() < 0.4, rng.random() < 0.3
        if "forced" in self.has and forced:
            before = [each for each in self.events if each.token is not None]
            return rng.choice(before) if before and again else Event(put, f"{self.seed} {len(self.events)}")
        return Event(put, nameless="nameless" in self.has and nameless)

    def _deliver(self, event: Event) -> None:
        """One event, or two at a time, and what strikes then."""
        rng = self.rng
        jobs = [self._job(event)]
        if rng.random() < 0.2:
            self.struck["two at once"] += 1
            jobs.append(self._job(event))
        if rng.random() < 0.5:
            self._spoil_s3()
        if self.pg_proxy is not None and rng.random() < 0.6:
            self._spoil_connections(self.pg_proxy)
        number = rng.randint(0, 3)
        changes = [Change.at_random(rng, self.unchanged) for _ in range(number if "ddl" in self.has else 0)]
        blows = [None, self._kill, self._terminate, self._kill_backend, self._kill_server]
        (blow,), when = rng.choices(blows, [10, 4, 3, 2, 1]), rng.uniform(0.05, 0.6)
        operator = Operator(self.server.dsn, self.table, changes, self.struck)
        with operator:
            processes = [victim.start(job) for job in jobs]
            if blow is not None:
                processes[0].join(when)
                if any(process.is_alive() for process in processes):
                    self.struck[blow.__name__.strip("_").replace("_", " ")] += 1
                    blow(processes[0])
            ended = self._await(processes, jobs)
        self.done |= {event} if victim.DONE in ended else set()
        self.site.proxy.faults.clear()
        if self.pg_proxy is not None:
            self.pg_proxy.breaks.clear()
        self._add_key_again(operator)

    def _job(self, event: Event, *, calm: bool = False) -> Job:
        rng = self.rng
        death = deadline = None
        small = rng.random() < 0.5
        steps = victim.SMALL_STEPS if small and rng.random() < 0.5 else victim.STEPS
        if not calm and rng.random() < 0.6:
            death = Death(rng.choice(list(steps)), rng.choice(["before", "after"]), rng.choice([1, 1, 2, 3, 6]))
            self.struck[f"killed {death.when}: {death.step}"] += 1
        elif not calm and rng.random() < 0.5:
            deadline = rng.uniform(0.01, 0.5)
            self.struck["time is up"] += 1
        return Job(
            uri=event.put.place.uri,
            dsn=self._dsn(self.server.port) if calm else self.dsn,
            spec=self._spec(),
            environment=self.site.environment,
            told=str(self.site.folder / f"told-{time.monotonic_ns()}"),
            version_id=None if event.nameless else event.put.version_id,
            sequencer=None if "sequencers" in self.has and rng.random() < 0.2 else event.put.sequencer,
            deadline=deadline,
            straight=rng.choice([0, 0, 0, 24]),
            shards=rng.choice([0, 0, 2, 7]),
            token=event.token,
            small=small,
            death=death,
            patience=PATIENCE if calm else 1,
        )

    def _spec(self) -> dict[str, Any]:
        typed = self.absent or "ddl" in self.has
        return {
            "table": self.table if "roles" not in self.has else f"public.{self.table}",
            "mode": self.mode,
            "segment_mb": 1,
            "rejects": {"max_ratio": 1},
            **({"key": ["id"]} if self.keyed else {}),
            **({"columns": {"id": "bigint", "v": "text"}} if typed else {}),
            **({"versions": self.versions} if "versions" in self.has and self.mode != "replace" else {}),
        }

    @property
    def late(self) -> bool:
        """Whether a version takes effect after a newer one, too."""
        if "versions" in self.has and self.mode != "replace":
            return self.versions == "delta"
        return self.mode == "append"

    def _spoil_s3(self) -> None:
        rng = self.rng
        for _ in range(rng.randint(1, 4)):
            method, seed = rng.choice(["GET", "GET", "HEAD"]), rng.randrange(2**32)
            kinds: dict[str, Fault] = {
                "S3: cut": cut(rng.randrange(0, 300_000)),
                "S3: reset": cut(rng.randrange(0, 300_000), reset=True),
                "S3: stall": stall(rng.choice([-1, 0, 1000, 150_000])),
                "S3: truncated, and the length agrees": truncate(rng.randrange(0, 300_000)),
                f"S3: 500 to a {method}": answer(500, "InternalError", method=method),
                f"S3: 503 to a {method}": answer(503, "SlowDown", method=method),
                f"S3: 412 to a {method}": answer(412, "PreconditionFailed", method=method),
                f"S3: 404 to a {method}": answer(404, "NoSuchKey", method=method),
                f"S3: 403 to a {method}": answer(403, "AccessDenied", method=method),
                "S3: Range ignored": ignore("Range"),
                "S3: overwritten": call(lambda seed=seed: self._upload_once(seed)),
            }
            kind = rng.choice(list(kinds))
            if kind == "S3: overwritten" and len(self.puts) >= MOST:
                continue
            self.struck[kind] += 1
            self.site.proxy.faults.append(kinds[kind])
        if "listing" in self.has:
            status, code = rng.choice([(403, "AccessDenied"), (503, "SlowDown")])
            self.struck[f"S3: {status} to the list of versions"] += 1
            self.site.proxy.faults += [answer(status, code, query="versions")] * rng.choice([1, 9])

    def _upload_once(self, seed: int) -> None:
        """In the midst of a read, from the proxy's thread."""
        if len(self.puts) < MOST and not self._is_calm:
            self._upload(seed)

    def _spoil_connections(self, proxy: PgProxy) -> None:
        rng = self.rng
        for _ in range(rng.randint(1, 2)):
            fault = Break(
                at=rng.choice(["request", "answer", "bytes"]),
                nth=rng.choice([1, 1, 2, 3, 5]),
                decisive=rng.random() < 0.6,
                after=int(10 ** rng.uniform(1, 6.3)),
                stall=rng.choice([0, 0, 0.3, 1.5]),
                then=rng.choice(["close", "reset", "pass"]),
            )
            fault = replace(fault, nth=1) if fault.decisive else fault
            proxy.breaks.append(fault)

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
        self.server.kill()
        self.server.start()

    def _ask(self, statement: str) -> list[tuple[Any, ...]]:
        with suppress(psycopg2.Error):
            return query(self.server.dsn, statement)
        return []

    def _add_key_again(self, operator: Operator) -> None:
        """Loads went on without it, and its rows must be of one key each nevertheless."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return operator.add_again()
            except psycopg2.IntegrityError as error:
                raise Violation(f"a key that was dropped cannot be added again: {error}") from error
            except psycopg2.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _await(self, processes: list[Any], jobs: list[Job]) -> list[int]:
        """Their exit codes."""
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
        return [process.exitcode for process in processes]

    # --- and after them

    def _calm(self) -> None:
        """Every event comes until it is done, and in half of the trials once more; with nothing in its way, at once, or
        when what is left has ended."""
        self.site.proxy.faults.clear()
        self._is_calm = True
        with self._uploading:
            pass  # whoever is at it, is done
        self._wait_for_server()
        if "roles" in self.has:
            roles.make_bearable(self.server.dsn)
        if self.pg_proxy is not None:
            self.struck.update({f"COMMIT or bytes lost: {at}": n for at, n in self.pg_proxy.struck.items()})
        forced = [each for each in self.events if each.token is not None]
        events = [each for each in [*map(Event, self.puts), *forced] if self.again or each not in self.done]
        self.rng.shuffle(events)
        for event in [*events, *events[:1]]:
            for attempt in itertools.count(1):
                job = self._job(event, calm=True)
                process = victim.start(job)
                if self._await([process], [job]) == [victim.DONE]:
                    break
                if attempt == 3:
                    raise Violation(f"an event was not done in {attempt} calm attempts: {self.why}")

    def _wait_for_server(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(psycopg2.Error):
                query(self.server.dsn, "SELECT 1")
                return
            time.sleep(0.1)
        raise Violation("the server did not come back")

    # --- the oracle

    def _check(self, seen: set[tuple[int, ...]]) -> None:
        dsn, target = self.server.dsn, f"public.{self.table}"
        effects = self._effects(target)
        self._check_effects(effects)
        self._check_others(target, {effect.put.version for effect in effects if effect.forced})
        uploads = self._written(effects)
        expected = digest(table_after(uploads, self.mode, keyed=self.keyed))
        found = query(dsn, DIGEST.format(self.table))[0]
        self._hold(
            found == expected,
            f"the table differs from {self.mode} of {[each.number for each in uploads]}: {self._difference(uploads)}",
        )
        for effect in effects:
            self._check_counts(effect)
        self._check_seen(seen, effects)
        self._check_leftovers(dsn, target)
        sums = "coalesce(sum(attempts), 0), coalesce(sum(resumes), 0), coalesce(sum(handovers), 0)"
        (total,) = query(dsn, f"SELECT {sums} FROM loader.loads WHERE target = %s", target)
        for name, count in zip(("attempts", "resumes", "handovers"), total, strict=True):
            self.ended[name] += int(count)

    def _effects(self, target: str) -> list[Effect]:
        loads = query(
            self.server.dsn,
            "SELECT bucket, key, version, load_id, token, rows_read, rows_rejected, rows_inserted + rows_updated"
            " + rows_unchanged + rows_duplicate FROM loader.loads WHERE target = %s AND state = 'loaded'"
            " ORDER BY applied, load_id",
            target,
        )
        places = {(each.s3.bucket, each.key): each for each in self.places}
        return [
            Effect(load_id, places[bucket, key].find(version), token, tuple(counts))
            for bucket, key, version, load_id, token, *counts in loads
        ]

    def _check_effects(self, effects: list[Effect]) -> None:
        """Of each object those versions took effect that had to, in an order in which they may."""
        for place in self.places:
            before: list[Put] = []
            for effect in (each for each in effects if each.put.place is place):
                due = effect.forced or is_due(effect.put, before, late=self.late)
                before.append(effect.put)
                self._hold(due, f"{place.uri}: versions were applied in the order {[each.number for each in before]}")
            wanted = [put for put in place.puts if put.version_id is not None] if self.late else []
            missing = {*wanted, *place.puts[-1:]} - {*before}
            self._hold(not missing, f"{place.uri}: versions {[each.number for each in missing]} were not applied")
        calls = {event.token: event for event in self.events if event.token is not None}
        tokens = Counter(each.token for each in effects if each.forced)
        self._hold(tokens == Counter(list(calls)), f"forced calls {sorted(calls)} had as effects {dict(tokens)}")
        for each in effects:
            if each.token is not None:
                self._hold(each.put in self._meant(calls[each.token]), f"{each.token} had {each.put} as its effect")

    def _meant(self, event: Event) -> Sequence[Put]:
        """The versions that a call may load: the one that it names, or what the object is just then."""
        named = event.put.version_id is not None and not event.nameless
        return [event.put] if named else event.put.place.puts

    def _written(self, effects: list[Effect]) -> list[Upload]:
        """What each of them wrote: of a version that was merged late, no row whose key a newer one had set."""
        files = [each.upload for each in effects]
        if self.mode != "merge" or not self.late:
            return files
        for number, effect in enumerate(effects):
            newer = [each for each in effects[:number] if not effect.forced and each.put.is_newer_than(effect.put)]
            keys = {key for each in newer for key, _ in each.upload.rows}
            files[number] = replace(effect.upload, rows=tuple(row for row in effect.upload.rows if row[0] not in keys))
        return files

    def _check_others(self, target: str, forced: set[str]) -> None:
        """What did not take effect came too late, or is of what an object is no more, or is of a version that was
        ``forced`` before an event's load of it was through."""
        others = query(
            self.server.dsn,
            "SELECT DISTINCT state, bucket, version FROM loader.loads WHERE target = %s AND state <> 'loaded'",
            target,
        )
        keeping = {place.s3.bucket for place in self.places if place.versioned}
        for state, bucket, version in others:
            passing = bucket not in keeping or version is None or version.startswith("etag:") or version in forced
            allowed = {"superseded", *({"failed", "paused", "sharded"} if passing else ())}
            self._hold(state in allowed, f"a load of version {version} is {state}")

    def _check_counts(self, effect: Effect) -> None:
        """The ledger's sums and its rejects."""
        upload, load_id = effect.upload, effect.load_id
        wanted = (upload.records, len(upload.bad), len(upload.rows))
        self._hold(
            effect.counts == wanted,
            f"load {load_id} of file {upload.number} counts {effect.counts} read, rejected, kept, and not {wanted}",
        )
        rejects = query(
            self.server.dsn,
            "SELECT record_number, line_number, byte_offset, raw FROM loader.rejects WHERE load_id = %s ORDER BY 1",
            load_id,
        )
        self._hold(
            rejects == [(each.record, each.line, each.offset, each.raw) for each in upload.bad],
            f"load {load_id} has {len(rejects)} rejects, and should have {len(upload.bad)}",
        )

    def _difference(self, uploads: list[Upload]) -> str:
        found = Counter(query(self.server.dsn, f"SELECT id::bigint, v FROM {self.table}"))
        expected = Counter(table_after(uploads, self.mode, keyed=self.keyed))
        more, less = list((found - expected).elements()), list((expected - found).elements())
        return f"{len(more)} rows too many, {len(less)} too few, such as {more[:2]} {less[:2]}"

    def _check_seen(self, seen: set[tuple[int, ...]], effects: list[Effect]) -> None:
        """The table as it was after so many effects, and nothing in between."""
        states = [self._written(effects[:count]) for count in range(len(effects) + 1)]
        possible = {glance(table_after(each, self.mode, keyed=self.keyed)) for each in states}
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


def run_trials(first: int, step: int, *, until: float, trials: int, without: Collection[str] = ()) -> Iterator[Trial]:
    """Trials of the seeds ``first``, ``first + step`` …, until the time (of ``time.monotonic``) or their number is up.

    Raises Violation, with the seed.
    """
    with site() as here:
        for number in itertools.count():
            if time.monotonic() >= until or number == trials:
                return
            trial = Trial(here, first + number * step, without)
            try:
                trial.run()
            except BaseException as error:
                told = ", ".join([*trial.worlds, *getattr(trial, "odd", [])])
                raise Violation(f"seed {trial.seed}, {number} trials after {first} ({told}): {error}") from error
            yield trial


def _work(options: argparse.Namespace) -> int:
    """One worker: a line of JSON for each trial."""
    until = time.monotonic() + options.seconds
    first, without = options.seed + options.worker, _named(options.without)
    for trial in run_trials(first, options.workers, until=until, trials=options.trials, without=without):
        print(json.dumps({"seed": trial.seed, **{name: getattr(trial, name) for name in TOLD}}), flush=True)
    return 0


TOLD = {"worlds": "in which worlds", "ended": "how loads ended", "struck": "what struck"}
"""What is counted in all trials, and its title in the log."""


def _named(without: str) -> frozenset[str]:
    """Raises ValueError where a world's name is misspelt."""
    names = frozenset(filter(None, without.split(",")))
    if unknown := names - WORLDS.keys():
        raise ValueError(f"no such world: {', '.join(sorted(unknown))}; there are {', '.join(WORLDS)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--trials", type=int, default=-1, help="of each worker; default: as many as there is time for")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6) * 1000)
    parser.add_argument("--workers", type=int, default=available_cores())
    parser.add_argument("--without", default="", help="worlds that are left out, separated by commas")
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
    told: dict[str, Counter[str]] = {name: Counter() for name in TOLD}
    with ThreadPoolExecutor(len(workers)) as pool:  # side by side, or a worker would wait for its lines to be read
        counts = list(pool.map(lambda worker: _gather(worker, told), workers))
    failed = sum(worker.wait() != 0 for worker in workers)
    _summarize(sum(counts), time.monotonic() - began, failed, told)
    return int(failed > 0)


_counting = threading.Lock()


def _gather(worker: Any, told: Mapping[str, Counter[str]]) -> int:
    count = 0
    for line in worker.stdout:
        trial = json.loads(line)
        with _counting:
            for name, counter in told.items():
                counter.update(trial[name])
        count += 1
    return count


def _summarize(trials: int, seconds: float, failed: int, told: Mapping[str, Counter[str]]) -> None:
    print(f"{trials} trials in {seconds:,.0f} s; {failed} violations")
    for name, counter in told.items():
        print(f"\n{TOLD[name]}:")
        for what, count in sorted(counter.items()):
            print(f"  {count:6}  {what}")


if __name__ == "__main__":
    sys.exit(main())
