"""The fleet's handler, in functions that are killed: in two shards, once each, as one is that takes too much memory.

One dies with all of its rows staged, before that is on record; the other when it is, before it has answered.
``$FRAIL``: a folder for marks, that each dies once.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from loader.aws.fleet.steps import handler
from loader.sharding import runs

__all__ = ["handler"]

BEFORE, AFTER = 5, 9
"""Numbers of the two shards."""

_end = runs.end


def _die_once(number: int) -> None:
    try:
        (Path(os.environ["FRAIL"]) / str(number)).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _frail_end(connection: Any, plan: Any, report: Any) -> None:
    if report.number == BEFORE:
        _die_once(BEFORE)
    _end(connection, plan, report)
    if report.number == AFTER:
        _die_once(AFTER)


if "FRAIL" in os.environ:  # in a function, and not where its numbers are wanted
    runs.end = _frail_end
