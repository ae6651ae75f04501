"""The state machine in the small: goes through infra.machine's definition state by state, and calls the steps here.

What it plays of Amazon States Language is what the definition has: Task, Choice, Map, Succeed; Retry, Catch; paths.
It waits for nothing, and the children of a Map come one after the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import boto3

from infra.machine import definition
from loader.aws.fleet import steps

WORKERS = 4


class StatesError(Exception):
    """An error by its name, as a machine sees it."""

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(f"{name}: {cause}")
        self.name, self.cause = name, cause


class Execution:
    """One execution, which can be redriven. ``states``: that were entered; ``told``: what each answered, by state."""

    def __init__(self, name: str, load: Mapping[str, Any], *, killed: Sequence[str] = ()) -> None:
        self.name, self.load = name, dict(load)
        self.states: list[str] = []
        self.answers: list[dict[str, Any]] = []
        self.shards: list[list[int]] = []
        self.redrives = 0
        self._killed = list(killed)
        self._machine = definition(workers=WORKERS, seconds=900, subnets=1)["States"]
        self._at: tuple[str, Any] = ("Plan", {})

    def run(self) -> dict[str, Any]:
        """To its end; gives its output. Raises StatesError where it fails."""
        name, value = self._at
        while True:
            self._at = name, value
            self.states.append(name)
            state = self._machine[name]
            if state["Type"] == "Succeed":
                return dict(value)
            name, value = self._next(state, value)

    def redrive(self) -> dict[str, Any]:
        """Go on at the state that failed."""
        self.redrives += 1
        return self.run()

    def _next(self, state: Mapping[str, Any], value: Any) -> tuple[str, Any]:
        if state["Type"] == "Choice":
            chosen = [each["Next"] for each in state["Choices"] if each["StringEquals"] == value["verdict"]]
            return (chosen or [state["Default"]])[0], value
        try:
            result = self._map(state, value) if state["Type"] == "Map" else self._task(state, value)
        except StatesError as error:
            for each in state.get("Catch", []):
                if {"States.ALL", error.name} & set(each["ErrorEquals"]):
                    return each["Next"], {**value, "failure": {"Error": error.name, "Cause": error.cause}}
            raise
        if "ResultPath" in state:
            return state["Next"], {**value, state["ResultPath"].removeprefix("$."): result}
        self.answers.append(result)
        return state["Next"], result

    def _task(self, state: Mapping[str, Any], value: Any, item: Any = None) -> Any:
        tried: dict[int, int] = {}
        while True:
            try:
                return self._call(state, value, item)
            except StatesError as error:
                found = [n for n, each in enumerate(state.get("Retry", [])) if error.name in each["ErrorEquals"]]
                if not found or tried.get(found[0], 0) == state["Retry"][found[0]]["MaxAttempts"]:
                    raise
                tried[found[0]] = tried.get(found[0], 0) + 1

    def _call(self, state: Mapping[str, Any], value: Any, item: Any) -> Any:
        if state["Resource"].endswith("ecs:runTask.sync"):
            plan = value["plan"]
            if code := steps.main(["finish", plan["bucket"], plan["key"]]):
                raise StatesError("States.TaskFailed", json.dumps({"StoppedReason": f"it ended with {code}"}))
            return {"Containers": []}
        payload = json.loads(json.dumps(self._filled(state["Parameters"]["Payload"], value, item)))
        if self._killed and self._killed[0] == payload["step"]:
            del self._killed[0]
            raise StatesError("Sandbox.Timedout", "it was killed")
        return _named(lambda: json.loads(json.dumps(steps.handler(payload))))

    def _map(self, state: Mapping[str, Any], value: Any) -> list[Any]:
        source = self._filled(state["ItemReader"]["Parameters"], value, None)
        items = json.loads(boto3.client("s3").get_object(**source)["Body"].read())
        self.shards.append([each["number"] for each in items])
        (shard,) = state["ItemProcessor"]["States"].values()
        results, failed = [], 0
        for item in items:
            selected = self._filled(state["ItemSelector"], value, item)
            try:
                results.append(self._task(shard, selected))
            except StatesError:
                failed += 1
        if failed > state["ToleratedFailureCount"]:
            raise StatesError("States.ExceedToleratedFailureThreshold", f"{failed} of the items failed")
        return results

    def _filled(self, template: Any, value: Any, item: Any) -> Any:
        if not isinstance(template, Mapping):
            return template
        context = {
            "Execution": {"Name": self.name, "Input": self.load, "RedriveCount": self.redrives},
            "Map": {"Item": {"Value": item}},
        }
        filled = {}
        for name, path in template.items():
            if not name.endswith(".$"):
                filled[name] = self._filled(path, value, item)
                continue
            found: Any = context if path.startswith("$$.") else value
            for part in path.lstrip("$").lstrip(".").split("."):
                found = found[part]
            filled[name[:-2]] = found
        return filled


def _named(call: Callable[[], Any]) -> Any:
    """What the runtime client makes of an error: its class's name, and JSON that has the message."""
    try:
        return call()
    except Exception as error:
        name = type(error).__name__
        raise StatesError(name, json.dumps({"errorMessage": str(error), "errorType": name})) from error
