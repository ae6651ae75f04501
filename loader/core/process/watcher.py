"""Looks at things that may have to be ended from outside, again and again, in one thread for all of them.

A thread of its own for each would cost a small load more than its statements: to start one takes 0.1 ms of CPU, and
hands the interpreter to and fro.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

Look = Callable[[], float | None]
"""Looks, and gives the seconds until it has to look again; None where it need not. It must not wait for anything."""


class Watcher:
    """Safe to share between threads. Its thread begins with the first thing to look at, and does not keep the process
    from its end. A child that was forked looks at nothing of its parent's."""

    def __init__(self) -> None:
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._due: dict[Look, float] = {}
        self._wakes = inf  # when the thread looks next
        self._thread: threading.Thread | None = None

    @contextmanager
    def looking(self, look: Look, after: float) -> Iterator[None]:
        """``look`` is called ``after`` so many seconds, and again when it says, in any case not after the body."""
        with self._changed:
            self._due[look] = due = time.monotonic() + after
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
                self._thread.start()
            elif due < self._wakes:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._due.pop(look, None)

    def _run(self) -> None:
        with self._changed:
            while True:
                self._look(time.monotonic())
                self._wakes = min(self._due.values(), default=inf)
                pause = self._wakes - time.monotonic()
                self._changed.wait(min(max(0.0, pause), threading.TIMEOUT_MAX))

    def _look(self, now: float) -> None:
        for look in [each for each, due in self._due.items() if due <= now]:
            pause = look()
            if pause is None:
                del self._due[look]
            else:
                self._due[look] = now + pause
