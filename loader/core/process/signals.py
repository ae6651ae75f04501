"""Ctrl-C and SIGTERM: the first asks a load to come to rest, the second ends the process.

Python runs a signal's handler in the main thread alone, between two of its own instructions, and psycopg2 waits in C.
So where the main thread has nothing else to do, the work goes to another, and the main one waits for signals.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeVar

from loader.core.deadline import Deadline

T = TypeVar("T")

_log = logging.getLogger(__name__)

REASONS = {signal.SIGINT: "it was interrupted", signal.SIGTERM: "it was told to stop"}


@contextmanager
def stopping(deadline: Deadline) -> Iterator[None]:
    """SIGINT and SIGTERM stop ``deadline`` while the body runs; a second one ends the process.

    A signal that the process was started to ignore, as by nohup, is ignored still. In any other than the main thread
    nothing is changed: Python takes signals there alone. What a callback of the deadline raises is logged: raised in
    the middle of the body, it would keep that from waiting for what it has begun.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        if deadline.stopped:
            os._exit(128 + number)  # at once: what is committed is vouched for
        try:
            deadline.stop(REASONS[signal.Signals(number)])
        except Exception:
            _log.warning("a callback raised when the load was asked to stop", exc_info=True)

    # None: of a handler that was not set from Python, so it could not be set again
    ours = [number for number in REASONS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    previous = {number: signal.signal(number, handle) for number in ours}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_stoppable(work: Callable[[], T], deadline: Deadline) -> T:
    """Do the work in a thread of its own while signals stop ``deadline``; gives or raises what it does.

    The work has ended when this returns or raises. What is raised in the main thread meanwhile, as by a handler of
    somebody else's, stops the deadline, and is raised once the work has come to rest.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="loader-main")
    with stopping(deadline):
        thread.start()
        try:
            _wait_for(thread)
        except BaseException as error:
            with suppress(Exception):  # the error that is under way counts
                deadline.stop(f"{type(error).__name__} was raised while it ran")
            _wait_for(thread)
            raise
    if errors:
        raise errors[0]
    return results[0]


def _wait_for(thread: threading.Thread) -> None:
    while thread.is_alive():
        thread.join(1.0)  # a signal's handler runs in between


def exit_code(deadline: Deadline) -> int:
    """128 and the signal's number, as shells have it, where a signal stopped the deadline; else 0."""
    return next((128 + number for number, reason in REASONS.items() if deadline.reached == reason), 0)
