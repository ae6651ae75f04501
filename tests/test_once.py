"""Exactly once, as a machine of states against a model that says which files had their effect on a table."""

from __future__ import annotations

import itertools
import os
import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psycopg2
from chaos import Site, site
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support import victim
from support.clock import PATIENCE
from support.effort import effort
from support.objects import Place, Put, is_due
from support.postgres import query
from support.s3 import S3
from support.upload import DIGEST, Upload, digest, make_upload, repaired, table_after
from support.victim import Death, Job

EXAMPLES = int(os.environ.get("LOADER_ONCE_EXAMPLES", effort(1, 6)))

SMALL = st.booleans()
"""Whether small objects go their own way; all that are uploaded here are small."""

STEPS = st.sampled_from(list(victim.STEPS)) | st.sampled_from(list(victim.SMALL_STEPS))

DEATHS = st.builds(Death, STEPS, st.sampled_from(["before", "after"]), st.integers(1, 3))

_numbers = itertools.count()


class Model:
    """Which files had their effect on a table, in their order: versions of objects, and rejects that were repaired."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.applied: list[tuple[Put, Upload]] = []

    def deliver(self, put: Put) -> None:
        """A version once, and not after a newer one unless versions add up."""
        before = [each for each, file in self.applied if each.place is put.place and not file.adds]
        if is_due(put, before, late=self.mode == "append"):
            self.force(put)

    def force(self, put: Put) -> None:
        self.applied.append((put, put.upload))

    def replay(self, put: Put, file: Upload) -> None:
        """Once for the load that had these rejects, and not after another version was merged."""
        since = self.since(put)
        merged = [each for each, other in since if each.place is put.place and each is not put and not other.adds]
        if (put, file) not in since and (self.mode == "append" or not merged):
            self.applied.append((put, file))

    def since(self, put: Put) -> list[tuple[Put, Upload]]:
        """What came after the version's last load."""
        return self.applied[len(self.applied) - self.applied[::-1].index((put, put.upload)) :]


class Once(RuleBasedStateMachine):
    """Objects are uploaded; their events come, again, late, and to loads that die; the server crashes."""

    here: Site

    @initialize(modes=st.tuples(*[st.sampled_from(["append", "merge", "replace"])] * 2), seed=st.integers(0, 10**6))
    def begin(self, modes: tuple[str, str], seed: int) -> None:
        self.models = {f"once_{next(_numbers)}": Model(mode) for mode in modes}
        for table, model in self.models.items():
            key = " PRIMARY KEY" if model.mode == "merge" else ""
            query(self.here.server.dsn, f"CREATE TABLE {table} (id bigint{key}, v text)")
        self.buckets = {versioned: S3(self.here.endpoint, versioned=versioned) for versioned in (True, False)}
        self.places = [
            Place(bucket, key, versioned, random.Random(f"{seed} {versioned} {key}"), sequencers)
            for versioned, bucket in self.buckets.items()
            for key, sequencers in (("in/a+b c.csv", "mixed"), ("in/b.csv", "counted"))
        ]
        self.puts: list[Put] = []

    # --- what happens

    @rule(where=st.integers(0, 3), seed=st.integers(0, 10**6), same=st.booleans())
    def upload(self, where: int, seed: int, same: bool) -> None:
        """A new file, or the bytes of another object."""
        place, rng = self.places[where], random.Random(seed)
        others = [each.upload for each in self.puts if not place.had(each.upload)] if same else []
        file = others[-1] if others else make_upload(rng, len(self.puts) + 1, refusing=False)
        if not place.had(file):
            self.puts.append(place.put(file))

    @precondition(lambda self: self.puts)
    @rule(
        which=st.integers(0, 100),
        table=st.integers(0, 1),
        how=st.sampled_from(["one", "one", "shards", "workers"]),
        small=SMALL,
    )
    def deliver(self, which: int, table: int, how: str, small: bool) -> None:
        """Any version's event: its first, again, or late."""
        self.load(self.chosen(which), self.named(table), how, small=small)

    @precondition(lambda self: self.puts)
    @rule(which=st.integers(0, 100), table=st.integers(0, 1), calls=st.integers(1, 2), death=DEATHS)
    def force(self, which: int, table: int, calls: int, death: Death) -> None:
        """One call, which may come again, and may have died before."""
        put, name, token = self.chosen(which), self.named(table), f"call {next(_numbers)}"
        self.run(self.job(put, name, token=token, death=death), victim.DONE, -9)
        for _ in range(calls):
            self.run(self.job(put, name, token=token), victim.DONE)
        self.models[name].force(put)

    @precondition(lambda self: self.puts)
    @rule(which=st.integers(0, 100), table=st.integers(0, 1), death=DEATHS, small=SMALL)
    def deliver_and_kill(self, which: int, table: int, death: Death, small: bool) -> None:
        put, name = self.chosen(which), self.named(table)
        ended = self.run(self.job(put, name, death=death, small=small), victim.DONE, -9)
        before = list(self.models[name].applied)
        self.models[name].deliver(put)
        if ended != victim.DONE and self.effects(name) == len(before):
            self.models[name].applied = before  # it died before, and the next delivery has it

    @precondition(lambda self: self.replayable())
    @rule(which=st.integers(0, 100))
    def replay(self, which: int) -> None:
        """The rejects of a version that was loaded, repaired; also again."""
        options = self.replayable()
        name, put = options[which % len(options)]
        file = repaired(put.upload)
        self.buckets[False].put(f"repaired/{put.upload.number}.csv", file.body)
        uri = self.buckets[False].uri(f"repaired/{put.upload.number}.csv")
        job = replace(self.job(put, name), uri=uri, version_id=None, replay_of=self.load_of(put, name))
        self.run(job, victim.DONE)
        self.models[name].replay(put, file)

    @rule()
    def crash_server(self) -> None:
        self.here.server.kill()
        self.here.server.start()

    @invariant()
    def the_tables_are_the_models(self) -> None:
        for name in getattr(self, "models", {}):
            assert self.found(name) == self.expected(name)
            assert self.effects(name) == len(self.models[name].applied)

    def teardown(self) -> None:
        if not hasattr(self, "models"):
            return
        for name in self.models:
            for put in self.puts:  # whatever was left undone, is done now
                self.load(self.meant(put), name, "one")
        self.the_tables_are_the_models()
        for bucket in self.buckets.values():
            bucket.remove()
        for name in self.models:
            query(self.here.server.dsn, f"DROP TABLE {name}")

    # --- how

    def chosen(self, which: int) -> Put:
        return self.meant(self.puts[which % len(self.puts)])

    def meant(self, put: Put) -> Put:
        """What an event leads to: its version, or where the bucket keeps none, what the object holds now."""
        return put if put.version_id is not None else put.place.puts[-1]

    def named(self, table: int) -> str:
        return list(self.models)[table]

    def replayable(self) -> list[tuple[str, Put]]:
        """Tables, and versions with rejects that were loaded into them."""
        return [
            (name, put)
            for name, model in self.models.items()
            for put in dict.fromkeys(put for put, file in model.applied if file is put.upload and file.bad)
        ]

    def load(self, put: Put, name: str, how: str, *, small: bool = True) -> None:
        self.run(self.job(put, name, how, small=small), victim.DONE)
        self.models[name].deliver(put)

    def run(self, job: Job, *codes: int) -> int | None:
        """Carry the job out; gives its exit code, which is one of ``codes``."""
        process = victim.start(job)
        process.join(PATIENCE)
        told = Path(job.told)
        assert process.exitcode in codes, told.read_text("utf-8") if told.exists() else process.exitcode
        return process.exitcode

    def job(
        self,
        put: Put,
        name: str,
        how: str = "one",
        *,
        token: str | None = None,
        death: Death | None = None,
        small: bool = True,
    ) -> Job:
        mode = self.models[name].mode
        return Job(
            uri=put.place.uri,
            dsn=self.here.server.dsn,
            spec={"table": name, "mode": mode, "segment_mb": 1, "rejects": {"max_ratio": 1}},
            environment=self.here.environment,
            told=str(self.here.folder / "told"),
            version_id=put.version_id,
            sequencer=put.sequencer,
            shards=3 if how == "shards" else 0,
            workers=2 if how == "workers" else 1,
            token=token,
            small=small,
            straight=24 if small and token is None else 0,
            death=death,
        )

    def load_of(self, put: Put, name: str) -> int:
        """The version's last load."""
        statement = (
            "SELECT load_id FROM loader.loads WHERE state = 'loaded' AND target = %s AND bucket = %s AND key = %s"
            " AND version = %s ORDER BY applied DESC LIMIT 1"
        )
        place = put.place
        ((found,),) = query(self.here.server.dsn, statement, f"public.{name}", place.s3.bucket, place.key, put.version)
        return int(found)

    def effects(self, name: str) -> int:
        """As the ledger has it: of an upload that holds nothing, the table does not tell."""
        with suppress(psycopg2.errors.UndefinedTable):
            loaded = "SELECT count(*) FROM loader.loads WHERE state = 'loaded' AND target = %s"
            return int(query(self.here.server.dsn, loaded, f"public.{name}")[0][0])
        return 0

    def found(self, name: str) -> tuple[int, str]:
        count, hashed = query(self.here.server.dsn, DIGEST.format(name))[0]
        return count, hashed

    def expected(self, name: str) -> tuple[int, str]:
        model = self.models[name]
        return digest(table_after([file for _, file in model.applied], model.mode, keyed=model.mode == "merge"))


def test_a_version_takes_effect_once_whatever_happens() -> None:
    """And in the order of the versions. More examples: $LOADER_ONCE_EXAMPLES."""
    with site() as Once.here:
        run_state_machine_as_test(
            Once,
            settings=settings(max_examples=EXAMPLES, stateful_step_count=effort(8, 12), deadline=None, database=None),
        )
