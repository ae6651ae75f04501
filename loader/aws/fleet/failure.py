"""What an execution of the state machine fails of in the end: it is entered in the ledger, where people look."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from loader.aws import telemetry
from loader.aws.fleet.plan_store import StoredJson
from loader.aws.settings import settings
from loader.sharding import runs
from loader.sharding.proof import ShardPlan

TROUBLE, FAILED = "trouble.json", "failed.json"
"""Beside a plan: what a shard failed of last, which Step Functions does not tell of a Map; and what all failed of."""


class NotLoaded(Exception):  # noqa: N818 - the state machine's name for it
    """What an execution fails of in the end, once that is in the ledger."""


def note_trouble(place: StoredJson, number: int, error: str) -> None:
    """Leave word, beside the plan at ``place``, of what a run of shard ``number`` failed of."""
    place.beside(TROUBLE).write({"number": number, "error": error})


def give_up(execution: Mapping[str, Any], failure: Mapping[str, Any]) -> dict[str, Any]:
    """Enter what the execution failed of, and fail of it, too; but once it is redriven, lead it back to its plan.

    ``execution``: the context object's. ``failure``: Error and Cause. A redrive begins with the state that failed,
    which is this one, so it comes with the same failure again; that it is one, the execution's count of redrives says.
    What is staged stays for that, as long as `loader.engine.cleanup` keeps unfinished loads. Raises NotLoaded.
    """
    place = StoredJson.of_plan(execution["Name"])
    noted, redrives = place.beside(FAILED), execution.get("RedriveCount", 0)
    before = noted.read()
    if before is not None and before.get("redrives", 0) < redrives:
        noted.write({**before, "redrives": redrives})  # what fails from here on fails of itself
        telemetry.log("redriven", redrives=redrives)
        return {"redriven": redrives}
    why = _why(place, failure)
    if (told := place.read()) is not None and (plan := ShardPlan.from_dict(told)).verdict == "split":
        with settings().database.session() as connection:
            runs.give_up(connection, plan, why)
    noted.write({"redrives": redrives, "why": why})
    telemetry.log("given up", level="ERROR", state="failed", error=why)
    raise NotLoaded(why)


def _why(place: StoredJson, failure: Mapping[str, Any]) -> str:
    why = f"{failure.get('Error')}: {_cause(failure)}"
    trouble = place.beside(TROUBLE).read() if failure.get("Error") == "States.ExceedToleratedFailureThreshold" else None
    return f"shard {trouble['number']}: {trouble['error']} ({why})" if trouble else why


def _cause(failure: Mapping[str, Any]) -> str:
    """The message in what Lambda tells of an error, the reason in what ECS tells of a task: both are JSON in a text."""
    cause = str(failure.get("Cause", ""))
    try:
        told = json.loads(cause)
    except ValueError:
        return cause
    if not isinstance(told, dict):
        return cause
    return str(told.get("errorMessage") or told.get("StoppedReason") or cause)
