"""Time that a test decides: it stands still, or passes with the blocks that a load enters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from loader.core.deadline import MARGIN
from loader.engine.counters import Books
from loader.postgres import database

PATIENCE = 120.0
"""Seconds after which a test gives up on what never happens. So many that no machine is too slow."""


class Clock:
    """Seconds that pass only where a test lets them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def unhurried() -> Iterator[None]:
    """PostgreSQL goes by its own clock: where a load's time is up, its last statements have as long as they need."""
    with mock.patch.multiple(database, LEAST=PATIENCE, UNANSWERED=PATIENCE):
        yield


@contextmanager
def by_blocks(seconds: float = 10.0) -> Iterator[Clock]:
    """A clock by which each block that a load of this process enters takes so long, and nothing else takes any time."""
    clock, enter = Clock(), Books.enter

    def entered(books: Books, encoded: Any) -> None:
        clock.now += seconds
        enter(books, encoded)

    with mock.patch.object(Books, "enter", entered), unhurried():
        yield clock


class Invocation:
    """What Lambda hands to a function that has ``seconds`` for work, by a clock of the test's."""

    aws_request_id = "request"
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:loader"

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._clock = clock
        self._end = clock() + seconds + MARGIN

    def get_remaining_time_in_millis(self) -> int:
        return max(0, round((self._end - self._clock()) * 1000))
