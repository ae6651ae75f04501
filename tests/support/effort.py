"""How much a test does that could go on for ever: `make test` is for minutes, `make test-long` for longer."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

LONG = os.environ.get("LOADER_TESTS", "short") == "long"
"""``$LOADER_TESTS``: ``short``, which is the default, or ``long``."""


def effort(short: T, long: T) -> T:
    """How many examples, files, trials or the like."""
    return long if LONG else short
