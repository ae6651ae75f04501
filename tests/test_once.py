"""Exactly once, as a machine of states against a model of ten lines."""

from __future__ import annotations

import itertools
import os
import random
from typing import Any

from chaos import World, world
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
from support.postgres import query
from support.s3 import S3
from support.upload import DIGEST, Upload, digest, make_upload, table_after
from support.victim import Death, Job

KEY = "in/a+b c.csv"
EXAMPLES = int(os.environ.get("LOADER_ONCE_EXAMPLES", effort(1, 6)))

_numbers = itertools.count()


class Model:
    """Which versions of an object have had their effect, in their order; of ``deltas`` each has, whenever it comes."""

    def __init__(self, *, deltas: bool) -> None:
        self.deltas = deltas
        self.applied: list[int] = []

    def deliver(self, version: int) -> None:
        if version not in self.applied and (self.deltas or version > max(self.applied, default=-1)):
            self.applied.append(version)


class Once(RuleBasedStateMachine):
    """Versions are uploaded; their events come, again, late, and to loaders that die; the server crashes."""

    here: World

    def __init__(self) -> None:
        super().__init__()
        self.table = f"once_{next(_numbers)}"
        self.model = Model(deltas=True)
        self.uploads: list[Upload] = []
        self.ids: list[str | None] = []
        query(self.here.server.dsn, f"CREATE TABLE {self.table} (id bigint, v text)")
        self.s3 = S3(self.here.endpoint, versioned=True)

    @initialize(deltas=st.booleans())
    def say_what_versions_hold(self, deltas: bool) -> None:
        self.model.deltas = deltas

    @rule(seed=st.integers(0, 10**6))
    def upload(self, seed: int) -> None:
        self.uploads.append(make_upload(random.Random(seed), len(self.uploads) + 1, refusing=False))
        self.ids.append(self.s3.put(KEY, self.uploads[-1].body))

    @precondition(lambda self: self.uploads)
    @rule()
    def deliver(self) -> None:
        self.load(len(self.uploads) - 1)

    @precondition(lambda self: self.uploads)
    @rule(which=st.integers(0, 100))
    def deliver_again_or_late(self, which: int) -> None:
        self.load(which % len(self.uploads))

    @precondition(lambda self: self.uploads)
    @rule(step=st.sampled_from(list(victim.STEPS)), when=st.sampled_from(["before", "after"]), nth=st.integers(1, 3))
    def deliver_and_kill(self, step: str, when: Any, nth: int) -> None:
        version = len(self.uploads) - 1
        process = victim.start(self.job(version, Death(step, when, nth)))
        process.join(PATIENCE)
        assert process.exitcode in (victim.DONE, -9)
        before = list(self.model.applied)
        self.model.deliver(version)
        if process.exitcode != victim.DONE and not self.has_had_its_effect(version):
            self.model.applied = before  # it died before, and the next delivery has it

    @rule()
    def crash_server(self) -> None:
        self.here.server.kill()
        self.here.server.start()

    @invariant()
    def the_table_is_the_models(self) -> None:
        assert self.found() == self.expected()

    def teardown(self) -> None:
        for version in range(len(self.uploads)):  # whatever was left undone, is done now
            self.load(version)
        self.the_table_is_the_models()
        self.s3.remove()
        query(self.here.server.dsn, f"DROP TABLE {self.table}")

    def load(self, version: int) -> None:
        process = victim.start(self.job(version, None))
        process.join(PATIENCE)
        assert process.exitcode == victim.DONE
        self.model.deliver(version)

    def job(self, version: int, death: Death | None) -> Job:
        return Job(
            uri=self.s3.uri(KEY),
            dsn=self.here.server.dsn,
            spec={
                "table": self.table,
                "segment_mb": 1,
                "rejects": {"max_ratio": 1},
                "versions": "delta" if self.model.deltas else "snapshot",
            },
            environment=self.here.environment,
            told=str(self.here.folder / "told"),
            version_id=self.ids[version],
            sequencer=f"{version:X}",
            death=death,
        )

    def has_had_its_effect(self, version: int) -> bool:
        """As the ledger has it: of an upload that holds nothing, the table does not tell."""
        if not query(self.here.server.dsn, "SELECT FROM pg_tables WHERE schemaname = 'loader' AND tablename = 'loads'"):
            return False
        loaded = "SELECT FROM loader.loads WHERE state = 'loaded' AND target = %s AND version = %s"
        return bool(query(self.here.server.dsn, loaded, f"public.{self.table}", self.ids[version]))

    def found(self) -> tuple[int, str]:
        count, hashed = query(self.here.server.dsn, DIGEST.format(self.table))[0]
        return count, hashed

    def expected(self) -> tuple[int, str]:
        return digest(table_after([self.uploads[each] for each in self.model.applied], "append", keyed=False))


def test_a_version_takes_effect_once_whatever_happens() -> None:
    """And of snapshots in their order. More examples: $LOADER_ONCE_EXAMPLES."""
    with world() as Once.here:
        run_state_machine_as_test(
            Once,
            settings=settings(max_examples=EXAMPLES, stateful_step_count=effort(8, 12), deadline=None, database=None),
        )
