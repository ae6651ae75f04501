"""Who loads an object: this function, or as many as a state machine has work for.

One function has its time, and what it stages in that it also has to merge in it. Where a load is likely to need more,
an execution of the state machine is started (docs/fleet.md), under a name that is made of the object's version: the
same event again finds that name taken, and starts nothing twice. What makes loads take effect once is nevertheless the
ledger, never this name, which Step Functions forgets after 90 days.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from loader.core.deadline import Deadline
from loader.core.display import shown
from loader.core.errors import SetupError, SourceError
from loader.engine.small_load import small_bytes
from loader.sources.source import Source, open_source

RATE = 10.0
"""MB of CSV that one invocation is sure to load a second, its merge among them: less than the slowest that was seen.

lineitem, 253 MB, of which every row is there already and differs: 140,886 rows a second on two cores beside the
database, 18 MB/s. Into an empty table it is 78 MB/s, as the first load of one with a key 64 (docs/benchmarks.md). A
table has more indexes than that, and does not fit in memory. Too low a rate costs some cents for an execution that was
not needed; too high a one sends a load through hand-overs, whose merge then has too little time. In 895 s, 10 MB/s are
8.95 GB.
"""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """``machine``: the state machine's ARN. ``rate``: MB a second, see `RATE`."""

    machine: str
    rate: float = RATE

    @classmethod
    def from_environment(cls) -> Dispatch | None:
        """``$LOADER_STATE_MACHINE`` and ``$LOADER_RATE``; None where there is no machine. Raises SetupError."""
        machine = os.environ.get("LOADER_STATE_MACHINE")
        if not machine:
            return None
        told = os.environ.get("LOADER_RATE")
        try:
            rate = float(told) if told else RATE
        except ValueError:
            rate = 0.0
        if not rate > 0:
            raise SetupError(f"LOADER_RATE is {shown(told)}, and has to be a number of MB a second")
        return cls(machine, rate)

    def is_for_many(self, size: int, deadline: Deadline) -> bool:
        """Whether ``size`` bytes are more than this invocation is sure to load before its ``deadline``."""
        return size / (self.rate * 1e6) > deadline.left


@contextmanager
def opened(direct: Mapping[str, Any], s3: Any) -> Iterator[Source | None]:
    """The object that the event ``direct`` asks for, where its size decides who loads it. None where there is no
    machine, and for one that cannot be opened: this function's load is to fail of it."""
    source = None
    if Dispatch.from_environment() is not None:
        with suppress(SourceError):
            source = open_source(direct["source"], version_id=direct.get("version_id"), client=s3, ahead=small_bytes())
    with source or nullcontext():
        yield source


def dispatch(direct: Mapping[str, Any], source: Source, deadline: Deadline, client: Any) -> dict[str, Any] | None:
    """Start an execution for the load that the event ``direct`` asks for, of ``source``; None where this function is to
    load it.

    ``client``: gives a boto3 client by its service's name. The answer tells the execution, and ``already`` where its
    name was taken; while it runs, Step Functions answers the very same request as it did the first time. Raises
    SetupError for an environment that makes no sense; what Step Functions refuses is raised as it is, so that the event
    comes again.
    """
    how = Dispatch.from_environment()
    if how is None or not how.is_for_many(source.size, deadline):
        return None
    return _start(how, source, direct, client("stepfunctions"))


def _start(how: Dispatch, source: Source, direct: Mapping[str, Any], client: Any) -> dict[str, Any]:
    name = name_of(source, direct)
    about = {"source": source.uri, "version": source.version, "bytes": source.size}
    load = {name: value for name, value in direct.items() if value is not None and name != "handover"}
    if not source.pin.startswith("etag:"):
        load["version_id"] = source.pin  # an event without one means the version that was there when it came
    try:
        started = client.start_execution(stateMachineArn=how.machine, name=name, input=json.dumps(load))
    except client.exceptions.ExecutionAlreadyExists:
        arn = how.machine.replace(":stateMachine:", ":execution:") + f":{name}"
        return {"state": "dispatched", **about, "execution": arn, "already": True}
    return {"state": "dispatched", **about, "execution": started["executionArn"], "already": False}


def name_of(source: Source, direct: Mapping[str, Any]) -> str:
    """The execution's name: of the version of the object, whatever event tells of it, and however often.

    A spec that was given with the event makes another load. One that is forced is to be loaded again, once for each
    request, so its name is made of that one's token. Without versions an object may come back to
    a content that it had, and is to be loaded again then: when it was stored is a part of the name.
    """
    told = [source.bucket, source.key, source.pin]
    if source.pin.startswith("etag:"):
        told.append(f"stored {source.last_modified}")
    if direct.get("spec") is not None:
        told.append(json.dumps(direct["spec"], sort_keys=True))
    if direct.get("force"):
        told.append(f"forced by {direct.get('token')}")
    return "load-" + hashlib.sha256(json.dumps(told).encode()).hexdigest()[:40]
