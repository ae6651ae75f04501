"""Entry points of the state machine that has many functions load one object (docs/fleet.md).

Each task of `infra.machine` is a step here: plan, shard, prove, finish; whole, for an object that is not to be split;
and fail. What passes between them are addresses: the plan is in S3 and in the ledger, the reports are in the ledger.
Every step may be run again, by a retry or a redrive, or twice at once: `loader.sharding.runs` sees to it that it takes
effect once.

As a function: ``loader.aws.fleet.steps.handler``. As a task, for a merge that takes longer than a function may:
``python -m loader.aws.fleet.steps finish BUCKET KEY``. The environment is that of `loader.aws.settings`, and
``$LOADER_PLANS``: ``s3://bucket/prefix/`` for plans; ``$LOADER_SHARD_BYTES``: see `SHARD_BYTES`.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from loader.aws import telemetry
from loader.aws.events import direct_of, shown, with_token
from loader.aws.fleet.failure import NotLoaded, give_up, note_trouble
from loader.aws.fleet.plan_store import StoredJson, is_told_again, tell_again, told_again
from loader.aws.handler import deadline_of, how_of, named_spec
from loader.aws.settings import settings
from loader.core.deadline import Deadline
from loader.core.errors import DatabaseError, LoaderError, PausedError, SourceCorruptedError, UsageError
from loader.core.process.cores import positive
from loader.core.process.memory import keep_buffers, spare_imports
from loader.core.process.signals import exit_code, run_stoppable
from loader.core.report import LoadReport
from loader.core.stored import read_report
from loader.pipeline import How, load_one
from loader.sharding import runs, shards
from loader.sharding.shards import Proof, ReplanError, ShardPlan
from loader.sources.source import open_source

SHARD_BYTES = 4 << 30
"""Bytes of a shard, at most. Four workers that share two cores of a database copy it in 70 s (docs/benchmarks.md): that
is what a killed one loses, and a cold start of some seconds is little beside it. A terabyte is 236 of them."""

SURE_APPEND_RATE, SURE_MERGE_RATE = 400_000, 100_000
"""Rows a second that a merge is sure to do, into a table without a key and with one: what was measured (docs/fleet.md),
and less, for tables have other indexes, too, and do not fit in memory."""

MERGE_SECONDS = 600
"""Of a function's 900, that a merge may be expected to take; a longer one is a task's. One that takes longer than
expected is called back when the function's time is up, and the task does it."""


class TimeUp(Exception):  # noqa: N818 - the state machine's name for it
    """It came to rest because its time was up: the machine calls again, and it goes on."""


class TryAgain(Exception):  # noqa: N818 - see above
    """It failed of something that passes."""


class Busy(Exception):  # noqa: N818 - see above
    """Another load has the table's turn, or somebody a lock on it: that may take hours."""


BUSY_WAIT, TASK_WAIT = 20.0, 6 * 3600.0
"""Seconds that a function waits for a table's turn, and a task does. The function is paid for waiting, and the machine
waits for nothing; the task costs two cents an hour."""

_LOCK_NOT_AVAILABLE = "55P03"


ROUNDS = 1000
"""Times that shards are loaded again and proved again: at worst, where no parity tells anything, a round proves one."""

PLANS = 16
"""Times that an object is planned anew for what a shard found out, such as that a type was inferred too narrow."""


def handler(event: Any, context: Any = None) -> dict[str, Any]:
    """One step, within the time that the function has. Gives what the state machine goes by.

    Raises TimeUp, TryAgain and Busy, after which the same call goes on; and any other error, which ends the execution.
    """
    telemetry.begin(context)
    name = event.get("step") if isinstance(event, Mapping) else None
    step = _STEPS.get(name) if isinstance(name, str) else None
    if step is None:
        raise UsageError(f"the event is no step of a fleet: {shown(event)}")
    deadline = deadline_of(context)
    spare_imports()
    keep_buffers()
    return run_stoppable(lambda: _run(step, event, deadline), deadline)


Step = Callable[[Mapping[str, Any], Deadline], dict[str, Any]]


def _run(step: Step, event: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
    try:
        return step(event, deadline)
    except PausedError as error:
        telemetry.log("paused", step=event["step"], error=telemetry.one_line(error))
        raise TimeUp(telemetry.one_line(error)) from error
    except LoaderError as error:
        if isinstance(error, DatabaseError) and error.sqlstate == _LOCK_NOT_AVAILABLE:
            telemetry.log("busy", step=event["step"], error=telemetry.one_line(error))  # and not failed
            raise Busy(telemetry.one_line(error)) from error
        if error.report is None:
            telemetry.tell_failure(error, step=event["step"])
        else:
            telemetry.tell_report(error.report, error=error)
        if error.retryable:
            raise TryAgain(telemetry.one_line(error)) from error
        raise


# --- the steps


def _plan(event: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
    """Cut the object, or say that there is nothing to cut. A plan that is in progress is gone on with."""
    direct = _direct(event)
    spec, how = named_spec(direct, direct["source"]), _how(direct, deadline)
    place = StoredJson.of_plan(event["execution"])
    uri, version = direct["source"], direct.get("version_id")
    with telemetry.about(uri, version):
        with open_source(uri, version_id=version, client=settings().s3) as source:
            number = shards_for(source.size, event["workers"])
        plan = shards.plan_shards(
            uri,
            spec,
            settings().database,
            shards=number,
            s3=settings().s3,
            version_id=version,
            again=told_again(place, spec),
            how=how,
        )
        facts: dict[str, Any] = {"load_id": plan.load_id, "shards": len(plan.ranges), "why": plan.why}
        telemetry.log("planned", verdict=plan.verdict, **facts)
        if plan.verdict == "settled":
            telemetry.tell_report(read_report(plan.report or {}))
    place.write(plan.to_dict())
    answer = {"plan": place.to_dict(), "round": 0, **facts}
    if plan.verdict != "split":
        return {"verdict": "whole" if plan.verdict == "single" else "done", **answer}
    return _judged(place, plan, 0, answer, deadline)


def _direct(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event that the execution was started with. One that forces does so once for the whole execution, however
    often its steps are run."""
    return with_token(direct_of(event["load"]), event["execution"])


def _how(direct: Mapping[str, Any], deadline: Deadline) -> How:
    return replace(how_of(direct, deadline), wait=TASK_WAIT if math.isinf(deadline.budget) else BUSY_WAIT)


def shards_for(size: int, workers: int) -> int:
    """As many shards as make whole rounds of so many workers, none larger than `SHARD_BYTES`.

    Raises UsageError where the state machine's number of workers, or the variable, is no positive number.
    """
    positive(workers, "the state machine's number of workers")
    told = os.environ.get("LOADER_SHARD_BYTES") or str(SHARD_BYTES)
    largest = int(told) if told.isascii() and told.isdecimal() and len(told) < 19 else 0
    if largest < 1:
        raise UsageError(f"LOADER_SHARD_BYTES has to be a number of bytes, 1 or more, and is {shown(told)}")
    return workers * max(1, -(-size // (workers * largest)))


def _shard(event: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
    """Load a shard. What came of it is in the ledger, so that a failure of the whole loses none."""
    place, plan = _planned(event)
    number, known = event["shard"]["number"], event["shard"]["known"]
    with telemetry.about(plan.uri, plan.version_id):
        try:
            report = shards.load_shard(
                plan, number, settings().database, known=known, deadline=deadline, s3=settings().s3
            )
        except LoaderError as error:
            note_trouble(place, number, telemetry.one_line(error))
            raise
        told = {name: value for name, value in report.to_dict().items() if name not in ("known", "crc")}
        telemetry.log("shard", known=known, **told)
    return {"number": number}


def _prove(event: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
    """Judge what came of the shards: what is to be loaded again, or who is to merge them."""
    place, plan = _planned(event)
    return _judged(place, plan, event["round"] + 1, {"plan": place.to_dict()}, deadline)


def _judged(
    place: StoredJson, plan: ShardPlan, number: int, answer: dict[str, Any], deadline: Deadline
) -> dict[str, Any]:
    """``number``: of the round of shards that was loaded. ``answer``: what the step has to say besides."""
    with settings().database.session() as connection:
        try:
            proof = shards.prove(plan, runs.reports(connection, plan))
        except SourceCorruptedError:
            runs.discard(connection, plan)  # when this step is tried again, all shards are to be loaded again
            raise
    wrong: dict[str, Any] = {"guessed": proof.guessed, "wrong": proof.wrong}
    telemetry.log("proof", load_id=plan.load_id, proved=proof.proved, again=len(proof.again), round=number, **wrong)
    if proof.proved:
        return {"verdict": _who_merges(plan, proof), **answer, "round": number}
    if proof.problem is not None:
        if (again := shards.replanned(plan, proof)) is not None:
            return _planned_again(place, plan, again, answer)
        return _merge(place, plan, deadline, answer)  # which fails of it, as one load would
    if number > min(ROUNDS, len(plan.ranges) + 1) or not proof.again:
        raise NotLoaded(f"{plan.uri}: load {plan.load_id} is not proved after {number} rounds")
    items = place.beside(f"plan-{plan.attempt}-round-{number}.json")
    items.write([{"number": shard, "known": known} for shard, known in proof.again])
    return {"verdict": "again" if number else "split", **answer, "round": number, "items": items.to_dict()}


def _who_merges(plan: ShardPlan, proof: Proof) -> str:
    rate = SURE_APPEND_RATE if plan.spec.get("mode", "append") == "append" else SURE_MERGE_RATE
    return "function" if proof.counts["kept"] <= rate * MERGE_SECONDS else "task"


def _planned_again(
    place: StoredJson, plan: ShardPlan, again: Mapping[str, Any], answer: dict[str, Any]
) -> dict[str, Any]:
    if (plans := tell_again(place, plan, again)) > PLANS:
        raise NotLoaded(f"{plan.uri}: was planned {plans} times, and again it is to be: {again}")
    return {"verdict": "plan", **answer, "round": 0}


def _finish(event: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
    """Merge, all at once, with the ledger. What was merged already, as by the task, gives the same answer."""
    place, plan = _planned(event)
    to_plan = {"plan": place.to_dict()}
    if is_told_again(place, plan):  # by the task
        return {"verdict": "plan", **to_plan}
    return _merge(place, plan, deadline, to_plan, stored=event.get("load", {}).get("time"))


def _merge(
    place: StoredJson, plan: ShardPlan, deadline: Deadline, answer: dict[str, Any], *, stored: str | None = None
) -> dict[str, Any]:
    with telemetry.about(plan.uri, plan.version_id):
        try:
            report = shards.finish(plan, None, settings().database, s3=settings().s3, how=_how({}, deadline))
        except ReplanError as error:
            telemetry.log("planned again", level="WARNING", load_id=plan.load_id, error=telemetry.one_line(error))
            return _planned_again(place, plan, error.again, answer)
        telemetry.tell_report(report, stored=stored)
    return _summary(report)


def _whole(event: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
    """An object that is not to be split: one function after the other goes on with it, as with any load."""
    direct = _direct(event)
    spec, how = named_spec(direct, direct["source"]), _how(direct, deadline)
    with telemetry.about(direct["source"], direct.get("version_id")):
        report = load_one(
            direct["source"],
            spec,
            settings().database,
            replace(how, workers=1, notes=(f"loaded by one worker: {event['why']}",)),
            s3=settings().s3,
            version_id=direct.get("version_id"),
        )
        telemetry.tell_report(report, stored=direct.get("time"))
    return _summary(report)


def _fail(event: Mapping[str, Any], _deadline: Deadline) -> dict[str, Any]:
    """Fail of what another step failed of, once that is in the ledger; after a redrive, do not."""
    return give_up(event["execution"], event["failure"])


def _planned(event: Mapping[str, Any]) -> tuple[StoredJson, ShardPlan]:
    place = StoredJson.of(event["plan"])
    told = place.read()
    if told is None:
        raise UsageError(f"there is no plan at s3://{place.bucket}/{place.key}")
    return place, ShardPlan.from_dict(told)


def _summary(report: LoadReport) -> dict[str, Any]:
    """What the execution's answer has of a report, which may be long: the rest is in the ledger and the log."""
    return {"verdict": "done", "state": report.state, "load_id": report.load_id, "rows_read": report.rows_read}


_STEPS: dict[Any, Step] = {
    "plan": _plan,
    "shard": _shard,
    "prove": _prove,
    "finish": _finish,
    "whole": _whole,
    "fail": _fail,
}


# --- the command line


def main(arguments: Sequence[str]) -> int:
    """``finish BUCKET KEY``: the merge of the plan at that place, for as long as it takes. Gives the exit code."""
    match list(arguments):
        case ["finish", bucket, key]:
            telemetry.begin(None)
            deadline = Deadline()
            event = {"step": "finish", "plan": {"bucket": bucket, "key": key}}
            try:
                run_stoppable(lambda: _run(_finish, event, deadline), deadline)
            except (LoaderError, TimeUp, TryAgain, Busy) as error:
                print(f"loader: {error}", file=sys.stderr)
                return exit_code(deadline) or 1
            return 0
    print("usage: python -m loader.aws.fleet.steps finish BUCKET KEY", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
