"""How long a load may go on: until its process will be ended, or somebody asks it to stop.

A load asks between blocks, comes to rest at a checkpoint, and says so with PausedError. What waits in
PostgreSQL in the meantime is bounded by the same deadline (see `database.Database.until`) and is called back at once
when somebody asks.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from loader.core.errors import PausedError

MARGIN = 5.0
"""Seconds before the end at which work stops, so that what was done can be committed and there is an answer."""


class Deadline:
    """``seconds`` from now the process ends; by default never. Safe to share between threads and signal handlers.

    ``clock`` tells the time in seconds: any clock that only goes forward, such as Lambda's own or a test's.
    """

    def __init__(
        self, seconds: float = math.inf, *, margin: float = MARGIN, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.budget = seconds - margin
        self._clock = clock
        self._end = clock() + self.budget
        self._reason: str | None = None
        self._callbacks: list[Callable[[], object]] = []
        self._lock = threading.RLock()  # a signal may come while its own thread holds it

    @property
    def left(self) -> float:
        """Seconds in which there may be work, at least 0; infinite where nothing ends it."""
        return max(0.0, self._end - self._clock())

    @property
    def reached(self) -> str | None:
        """Why work has to stop; None while it may go on."""
        if self._reason is not None:
            return self._reason
        return "its time is up" if self._end <= self._clock() else None

    @property
    def stopped(self) -> bool:
        """Whether somebody asked for it, rather than the time."""
        return self._reason is not None

    def stop(self, reason: str) -> None:
        """Work has to stop now. The first reason counts.

        Every callback is called, whatever others raise; after that the first error is raised, with the rest as notes.
        """
        with self._lock:
            self._reason = self._reason or reason
            callbacks = list(self._callbacks)
        errors: list[Exception] = []
        for callback in callbacks:
            try:
                callback()
            except Exception as error:
                errors.append(error)
        if errors:
            for other in errors[1:]:
                errors[0].add_note(f"another callback raised {type(other).__name__}: {other}")
            raise errors[0]

    @contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """`stop` calls ``callback`` while the body runs, as to call back what the body waits for."""
        with self._lock:
            self._callbacks.append(callback)
        try:
            if self._reason is not None:
                callback()
            yield
        finally:
            with self._lock:
                self._callbacks.remove(callback)

    def sleep(self, seconds: float) -> None:
        """Sleep so long, or until work has to stop."""
        woken = threading.Event()
        with self.calling(woken.set):
            woken.wait(min(seconds, self.left))


def paused_by(deadline: Deadline, why: str) -> PausedError:
    """What to raise of work that came to rest because the ``deadline`` was reached: where it was the time, others may
    go on with it at once."""
    return PausedError(why, handover=not deadline.stopped)


NEVER = Deadline()
