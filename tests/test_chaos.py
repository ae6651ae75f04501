"""A minute of the fault harness; ``make chaos`` is for longer."""

from __future__ import annotations

import random
import time
from collections import Counter

from chaos import run_trials

SECONDS = 60.0


def test_a_minute_of_faults_breaks_no_promise() -> None:
    """Nothing lost, nothing twice, nothing left behind, whatever dies; a failure names its seed."""
    seed = random.SystemRandom().randrange(10**9)
    struck: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    for trial in run_trials(seed, 1, until=time.monotonic() + SECONDS, trials=-1):
        struck += trial.struck
        ended += trial.ended
    assert sum(count for fault, count in struck.items() if fault.startswith("killed")) > 0
    assert min(struck.total(), ended["done"], ended["killed"]) > 0
