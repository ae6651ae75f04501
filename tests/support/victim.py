"""A process that makes one load and may die of it: at a named step, when its time is up, or when somebody kills it.

The steps are functions of the loader, wrapped in this process alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib import import_module
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from loader.engine import small_load
from support.clock import PATIENCE

SMALL_STEPS = {
    "take the turn at once": ("loader.ledger.ledger", "turn_at_once"),
    "find a small object's standing": ("loader.engine.small_load", "find_standing"),
    "take the id of a new key": ("loader.ledger.ledger", "new_id"),
    "take an id": ("loader.ledger.ledger", "first_id"),
    "copy a small object": ("loader.engine.small_load", "copy"),
    "merge at once": ("loader.postgres.merging.merge", "Merge.run_at_once"),
    "enter as loaded": ("loader.ledger.ledger", "enter_loaded"),
    "commit a small object": ("loader.engine.small_load", "_SmallLoad._commit"),
}
"""Steps of the way of small objects alone, as `STEPS`."""

STEPS = SMALL_STEPS | {
    "migrate": ("loader.ledger.ledger", "migrate"),
    "take the turn": ("loader.ledger.ledger", "_take_turn"),
    "close the dead": ("loader.ledger.ledger", "close_dead"),
    "find the standing": ("loader.engine.attempts", "find_standing"),
    "enter": ("loader.ledger.ledger", "enter"),
    "find the checkpoint": ("loader.ledger.checkpoints", "find"),
    "start over": ("loader.engine.job", "Task.start_over"),
    "note the file": ("loader.ledger.ledger", "note_file"),
    "create staging": ("loader.postgres.merging.staging", "Staging.create"),
    "take over staging": ("loader.postgres.merging.staging", "Staging.take_over"),
    "create the new table": ("loader.postgres.merging.new_table", "NewTable.create"),
    "take over the new table": ("loader.postgres.merging.new_table", "NewTable.take_over"),
    "give it its name": ("loader.postgres.merging.new_table", "NewTable.give_name"),
    "note the resume": ("loader.ledger.ledger", "note_resume"),
    "copy a segment": ("loader.engine.segments", "copy"),
    "copy straight": ("loader.engine.routes", "copy"),
    "keep rejects": ("loader.ledger.ledger", "keep_rejects"),
    "save a checkpoint": ("loader.ledger.checkpoints", "save"),
    "make ready": ("loader.engine.routes", "Way.make_ready"),
    "insert ahead": ("loader.postgres.merging.merge", "Merge.insert_part"),
    "merge": ("loader.postgres.merging.merge", "Merge.run"),
    "sift": ("loader.engine.routes", "sift"),
    "merge with care": ("loader.postgres.merging.merge", "Merge.run_carefully"),
    "drop staging": ("loader.postgres.merging.staging", "Staging.drop"),
    "forget the checkpoint": ("loader.ledger.checkpoints", "forget"),
    "finish": ("loader.ledger.ledger", "finish"),
    "commit": ("loader.postgres.database", "_Session.commit"),
    "clear leftovers": ("loader.engine.attempts", "clear_leftovers"),
    "open the shard plan": ("loader.sharding.runs", "open_plan"),
    "begin a shard": ("loader.sharding.runs", "begin"),
    "copy a shard": ("loader.sharding.shard", "ShardLoad._copy"),
    "give a sign of life": ("loader.sharding.runs", "give_sign"),
    "end a shard": ("loader.sharding.runs", "end"),
    "take up the shards": ("loader.sharding.runs", "take_up"),
    "place rejects": ("loader.sharding.runs", "place_rejects"),
    "join the shards": ("loader.postgres.merging.staging", "Parts.create"),
    "note the shards": ("loader.sharding.runs", "note_shards"),
}
"""By name, where each is found: a module, and a function or method in it."""

DONE, TRANSIENT, LASTING, DEFECT = 0, 3, 4, 5
"""Exit codes: loaded or skipped; a failure that passes; one that lasts; no error that the loader raises on purpose."""


@dataclass(frozen=True)
class Death:
    """SIGKILL at a step: before or after its ``nth`` call."""

    step: str
    when: Literal["before", "after"]
    nth: int = 1


@dataclass(frozen=True)
class Job:
    """One load, or its ``shards``. ``deadline``: seconds of work until it has to come to rest; ``straight``: segments
    that may go straight into the target. ``told``: a file for what there is to say about a failure. ``patience``: the
    seconds that S3 has to answer. ``token``: the load is forced, by a call of that name. ``replay_of``: what the object
    holds are rejects of that load, repaired. ``workers``: processes that load its shards. ``small``: small objects go
    their own way."""

    uri: str
    dsn: str
    spec: Mapping[str, Any]
    environment: Mapping[str, str]
    told: str
    version_id: str | None = None
    sequencer: str | None = None
    deadline: float | None = None
    straight: int = 0
    shards: int = 0
    workers: int = 1
    token: str | None = None
    replay_of: int | None = None
    small: bool = True
    death: Death | None = None
    wait: float = 30.0
    patience: float = PATIENCE
    settings: Mapping[str, float] = field(default_factory=dict)


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["loader.pipeline", "loader.sources.s3", "support.victim"])


def start(job: Job) -> BaseProcess:
    """The process that carries the job out, forked from one that has imported everything."""
    process = _context.Process(target=_run, args=(job,), daemon=True)
    process.start()
    return process


def _run(job: Job) -> None:
    os.environ.update({**job.environment, small_load.SETTING: "" if job.small else "0"})
    if job.death is not None:
        _arm(job.death)
    code = DEFECT
    try:
        code = _load(job)
    except BaseException:
        _tell(job, traceback.format_exc())
    finally:
        sys.stdout.flush()
        os._exit(code)


def _load(job: Job) -> int:
    import loader
    from loader import pipeline, replays
    from loader.core import faults
    from loader.core.deadline import MARGIN, NEVER, Deadline
    from loader.engine import job as task
    from loader.postgres.database import Database
    from loader.sharding import workers
    from loader.sources.s3 import s3_client

    faults.backoff.__kwdefaults__["first"] = 0.05  # waiting is not what is tested
    task.STRAIGHT = job.straight
    make_small()
    how = pipeline.How(
        **_forced(job),
        deadline=NEVER if job.deadline is None else Deadline(job.deadline + MARGIN),
        sequencer=job.sequencer,
        wait=job.wait,
        threads=2,
        handovers=1000,
    )
    client = s3_client(
        read_timeout=job.patience, connect_timeout=PATIENCE, retries={"mode": "standard", "total_max_attempts": 2}
    )
    try:
        spec, database = loader.LoadSpec.from_dict(dict(job.spec)), Database(job.dsn)
        if job.replay_of is not None:
            replays.replay(job.replay_of, database, source=job.uri, how=how, s3=client)
        elif job.workers > 1:
            workers.LEAST = 100 << 10
            pipeline.load_one(job.uri, spec, database, replace(how, workers=job.workers), version_id=job.version_id)
        elif not (job.shards and _load_shards(job, spec, how, client)):
            pipeline.load_one(job.uri, spec, database, how, version_id=job.version_id, s3=client)
    except loader.LoaderError as error:
        _tell(job, f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        return TRANSIENT if error.retryable else LASTING
    return DONE


def _forced(job: Job) -> dict[str, Any]:
    return {} if job.token is None else {"force": True, "token": job.token}


def _load_shards(job: Job, spec: Any, how: Any, client: Any) -> bool:
    """As many functions would, but for the one process: False where the object is not to be split.

    A shard is begun where its neighbour does not end more often than by chance: every third is told a wrong beginning.
    """
    from loader.postgres.database import Database, translated
    from loader.sharding import runs, shards

    database, again = Database(job.dsn), None
    while True:
        plan = shards.plan_shards(
            job.uri, spec, database, shards=job.shards, s3=client, version_id=job.version_id, again=again, how=how
        )
        if plan.verdict != "split":
            return plan.verdict == "settled"

        def load(told: tuple[int, Any], plan: Any = plan) -> None:
            number, known = told
            wrong = {"inside": number % 2 == 0} if known is None and number % 3 == 2 else known
            shards.load_shard(plan, number, database, known=wrong, s3=client, deadline=how.deadline, threads=1)

        while True:
            with translated(job.uri), database.session() as connection:
                proof = shards.prove(plan, runs.reports(connection, plan))
            if proof.proved or proof.problem is not None:
                break
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(load, proof.again))
        try:
            shards.finish(plan, None, database, s3=client, how=how)
        except shards.ReplanError as error:
            again = error.again
        else:
            return True


def make_small() -> None:
    """Blocks, segments and parts of some kilobytes, so that small files have many of each."""
    from loader.core.spec import model as spec
    from loader.records import splitter
    from loader.sources import source

    splitter.split.__kwdefaults__["block_size"] = 32 << 10
    source.open_source.__kwdefaults__["part_size"] = 200 << 10
    spec.LoadSpec.segment_size = property(lambda self: self.segment_mb << 17)  # type: ignore[assignment, method-assign]


def _tell(job: Job, text: str) -> None:
    with open(job.told, "w", encoding="utf-8") as file:  # noqa: PTH123 - the process may be about to die
        file.write(text)


def _arm(death: Death) -> None:
    module, _, name = STEPS[death.step][0], None, STEPS[death.step][1]
    *owners, attribute = name.split(".")
    owner: Any = import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    setattr(owner, attribute, _lethal(getattr(owner, attribute), death))


def _lethal(function: Callable[..., Any], death: Death) -> Callable[..., Any]:
    calls, lock = 0, threading.Lock()

    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        with lock:
            calls += 1
            due = calls == death.nth
        if due and death.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **options)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped
