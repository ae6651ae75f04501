"""The state machine's definition, in Amazon States Language: one object by many functions, proved, merged once.

    Plan ─┬─ whole ──▶ Whole ──────────────────────────────────────────────┬─▶ Done
     ▲    ├─ done ─────────────────────────────────────────────────────────┤
     │    └─ split ──▶ Shards ──▶ Prove ─┬─ function ──▶ Finish ─── done ──┘
     │                  ▲                │                │  ▲ its time was up, or the merge is long
     │                  ├───── again ────┤                ▼  │
     │                                   ├─ task ──▶ FinishAsTask
     └──────────────── plan ─────────────┴──────── plan, of Finish
    any of them ──▶ GiveUp, which fails; after a redrive it leads to Plan

What passes between states are addresses: a payload may have 256 KiB (Step Functions, "Quotas"). Nothing but text and
``${…}`` is here, so that what the tests run in an emulator is what is deployed, with other addresses. There is no null
and nothing empty either, for CDK leaves those out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHARDS = "Shards"
"""The label of the Map: child executions and Map Runs have it in their ARNs."""

TASK_SECONDS = 24 * 3600
"""What a merge as a task may take, before somebody should have a look."""

TIME_UP, PASSES, BUSY = "TimeUp", "TryAgain", "Busy"
"""Errors of `loader.aws.fleet.steps`: it came to rest, and goes on when it is called again; it failed for a reason that
passes; another load has the table's turn, for hours perhaps."""

OF_LAMBDA = (
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.ClientExecutionTimeoutException",
)
THROTTLED = "Lambda.TooManyRequestsException"
"""What Step Functions' guide wants tried again of every function ("Error handling", "Transient errors"); the last of
them says that the account's functions are all busy."""

KILLED = ("Lambda.Unknown", "Runtime.ExitError", "Sandbox.Timedout", "States.Timeout")
"""A function that was killed, for its memory or time, says nothing; this is what is said of it."""

HANDOVERS = 12
"""How often one shard may come to rest and go on, as often as a load of the queue's (`infra.sizes`)."""


def definition(*, workers: int, seconds: int, subnets: int) -> dict[str, Any]:
    """``workers``: shards under way at once. ``seconds``: what a function has. ``subnets``: how many the task has.

    To be put in where it is deployed: ``${Function}``, and of the task ``${Cluster}``, ``${Task}``,
    ``${SecurityGroup}``, and ``${Subnet1}`` and so on.
    """
    execution = {"execution.$": "$$.Execution.Name", "load.$": "$$.Execution.Input"}
    proof = {"plan.$": "$.plan", "round.$": "$.round"}
    return {
        "Comment": "One object over many functions: loaded on a guess, proved, merged once. See docs/fleet.md",
        "StartAt": "Plan",
        "States": {
            "Plan": _call({"step": "plan", **execution, "workers": workers}, seconds, "Planned"),
            "Planned": _choose(
                {"split": "Shards", "whole": "Whole", "function": "Finish", "task": "FinishAsTask", "plan": "Plan"},
                default="Done",
            ),
            "Shards": _shards(workers, seconds),
            "Prove": _call({"step": "prove", **proof}, seconds, "Proved"),
            "Proved": _choose({"again": "Shards", "plan": "Plan", "task": "FinishAsTask"}, default="Finish"),
            "Finish": _finish(seconds),
            "Finished": _choose({"plan": "Plan"}, default="Done"),
            "FinishAsTask": _finish_as_task([f"${{Subnet{number}}}" for number in range(1, subnets + 1)]),
            "Whole": _call({"step": "whole", **execution, "why.$": "$.why"}, seconds, "Done"),
            "GiveUp": _give_up(seconds),
            "Done": {"Type": "Succeed"},
        },
    }


def _call(payload: Mapping[str, Any], seconds: int, following: str, **more: Any) -> dict[str, Any]:
    """A state that calls the function with ``payload`` and has its answer for the next."""
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {"FunctionName": "${Function}", "Payload": dict(payload)},
        "OutputPath": "$.Payload",
        "TimeoutSeconds": seconds + 30,  # the function ends before: it is for an answer that is lost
        "Retry": _retries(),
        "Catch": _on_failure(),
        "Next": following,
        **more,
    }


def _retries() -> list[dict[str, Any]]:
    """What a rejected file or a wrong spec fails of is not tried again."""
    return [
        {"ErrorEquals": [TIME_UP], "IntervalSeconds": 1, "BackoffRate": 1, "MaxAttempts": HANDOVERS},
        {
            "ErrorEquals": [BUSY, THROTTLED],
            "IntervalSeconds": 15,
            "BackoffRate": 2,
            "MaxDelaySeconds": 300,
            "JitterStrategy": "FULL",
            "MaxAttempts": 500,  # a day or two: no longer than the longest merge, another's
        },
        {
            "ErrorEquals": [PASSES, *OF_LAMBDA, *KILLED],
            "IntervalSeconds": 2,
            "BackoffRate": 2,
            "MaxDelaySeconds": 120,
            "JitterStrategy": "FULL",  # else all the shards of a database that was away come back in one moment
            "MaxAttempts": 6,
        },
    ]


def _on_failure(*others: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        *(dict(each) for each in others),
        {"ErrorEquals": ["States.ALL"], "ResultPath": "$.failure", "Next": "GiveUp"},
    ]


def _choose(ways: Mapping[str, str], *, default: str) -> dict[str, Any]:
    choices = [{"Variable": "$.verdict", "StringEquals": verdict, "Next": state} for verdict, state in ways.items()]
    return {"Type": "Choice", "Choices": choices, "Default": default}


def _shards(workers: int, seconds: int) -> dict[str, Any]:
    """A child execution a shard, of which at most ``workers`` are under way; what they did is in the ledger.

    The items are a list in S3, never the data: an item of those would be a row.
    """
    shard = _call({"step": "shard", "plan.$": "$.plan", "shard.$": "$.shard"}, seconds, "")
    del shard["Next"], shard["Catch"]
    return {
        "Type": "Map",
        "Label": SHARDS,
        "ItemReader": {
            "Resource": "arn:aws:states:::s3:getObject",
            "ReaderConfig": {"InputType": "JSON"},
            "Parameters": {"Bucket.$": "$.items.bucket", "Key.$": "$.items.key"},
        },
        "ItemSelector": {"plan.$": "$.plan", "shard.$": "$$.Map.Item.Value"},
        "MaxConcurrency": workers,
        "ToleratedFailureCount": 0,
        "ItemProcessor": {
            "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
            "StartAt": "Shard",
            "States": {"Shard": {**shard, "End": True}},
        },
        "ResultPath": "$.loaded",  # a number each: what all children give may have 256 KiB, too
        "Catch": _on_failure(),
        "Next": "Prove",
    }


def _finish(seconds: int) -> dict[str, Any]:
    """A merge that a function has not the time for is one for the task, whatever was expected of it."""
    state = _call({"step": "finish", "plan.$": "$.plan", "load.$": "$$.Execution.Input"}, seconds, "Finished")
    state["Retry"] = [each for each in _retries() if TIME_UP not in each["ErrorEquals"]]
    for each in state["Retry"]:
        each["ErrorEquals"] = [name for name in each["ErrorEquals"] if name not in KILLED]
    state["Catch"] = _on_failure(
        {"ErrorEquals": [TIME_UP, *KILLED], "ResultPath": "$.failure", "Next": "FinishAsTask"},
    )
    return state


def _finish_as_task(subnets: list[str]) -> dict[str, Any]:
    """The same image where there is no limit of time: the functions' code, by its command line.

    What came of it the task can only tell by its exit code, so Finish asks once more, which costs nothing by then.
    """
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::ecs:runTask.sync",
        "Parameters": {
            "LaunchType": "FARGATE",
            "Cluster": "${Cluster}",
            "TaskDefinition": "${Task}",
            "NetworkConfiguration": {
                "AwsvpcConfiguration": {
                    "Subnets": subnets,
                    "SecurityGroups": ["${SecurityGroup}"],
                    "AssignPublicIp": "DISABLED",
                }
            },
            "Overrides": {
                "ContainerOverrides": [
                    {"Name": "loader", "Command.$": "States.Array('finish', $.plan.bucket, $.plan.key)"}
                ]
            },
        },
        "ResultPath": "$.task",
        "TimeoutSeconds": TASK_SECONDS,
        "Retry": [{"ErrorEquals": ["States.TaskFailed"], "IntervalSeconds": 30, "BackoffRate": 2, "MaxAttempts": 2}],
        "Catch": _on_failure(),
        "Next": "Finish",
    }


def _give_up(seconds: int) -> dict[str, Any]:
    """Enters the failure in the ledger, and fails of it: a state that is redriven must be one that failed.

    A Fail state would only fail again. Called once more after a redrive, which the execution counts, it does not fail.
    """
    payload = {"step": "fail", "load.$": "$$.Execution.Input", "execution.$": "$$.Execution", "failure.$": "$.failure"}
    state = _call(payload, seconds, "Plan")
    del state["Catch"]
    return state
