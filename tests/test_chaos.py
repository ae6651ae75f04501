"""Some trials of the fault harness; ``make chaos`` is for longer."""

from __future__ import annotations

import math
import random
from collections import Counter

from chaos import run_trials
from support.effort import effort

TRIALS = effort(3, 60)
WITHOUT = effort({"servers"}, set())
"""A short test has no time to start several servers."""


def test_some_faults_break_no_promise() -> None:
    """Nothing lost, nothing twice, nothing left behind, whatever dies; a failure names its seed."""
    seed = random.SystemRandom().randrange(10**9)
    struck: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    for trial in run_trials(seed, 1, until=math.inf, trials=TRIALS, without=WITHOUT):
        struck += trial.struck
        ended += trial.ended
    assert sum(count for fault, count in struck.items() if fault.startswith("killed")) > 0
    assert min(struck.total(), ended["done"], ended["killed"]) > 0
