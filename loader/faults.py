"""Stand-in until the table of faults lands."""

import random


def backoff(attempt: int) -> float:
    return random.uniform(0, 0.5 * 2**attempt)
