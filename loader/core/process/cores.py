"""How many processor cores this process may use, on every platform that Python runs on, and how many were asked for."""

from __future__ import annotations

import os
from typing import Any

from loader.core.errors import UsageError

MOST = 10_000
"""Processes or threads above which a number is a mistake, whatever the machine."""


def positive(value: Any, name: str) -> int:
    """``value``, if it is a number of processes or threads: an int from 1 to `MOST`. Raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{name} is {_shown(value)}, and has to be a whole number, 1 or more")
    if not 1 <= value <= MOST:
        raise UsageError(f"{name} is {_shown(value)}, and has to be a number from 1 to {MOST:,}")
    return value


def positive_text(text: str, name: str) -> int:
    """The same of a text, such as an environment variable or an option. Raises UsageError."""
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(MOST)):
        raise UsageError(f"{name} is {_shown(text)}, and has to be a number from 1 to {MOST:,}")
    return positive(int(text), name)


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) > 10**18:  # its digits may be thousands
        return "far larger" if value > 0 else "negative"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def available_cores() -> int:
    """Cores that this process may run on, at least 1: of the machine's, those that its CPU affinity leaves it.

    Python has `os.process_cpu_count` from 3.13 on. `os.sched_getaffinity` exists on Linux and some BSDs, not on macOS
    and Windows, where `os.cpu_count` has to do.
    """
    counted = getattr(os, "process_cpu_count", None)
    if counted is not None:
        return counted() or 1
    affinity = getattr(os, "sched_getaffinity", None)
    if affinity is not None:
        return len(affinity(0)) or 1
    return os.cpu_count() or 1
