"""The hand-over between stages: in order, in parallel, and never more than a few items ahead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 2
"""Items that wait beyond those being worked on. With one, a consumer waits whenever a worker is late; with
four, memory grows by two blocks and nothing gets faster (lineitem, two cores)."""

_POLL = 0.05  # seconds between looks at whether to stop, while a queue is full


def _nothing() -> None:
    """There is nothing to interrupt."""


@contextmanager
def overlapped(
    items: Iterator[T],
    work: Callable[[T], R],
    *,
    workers: int,
    interrupt: Callable[[], object] = _nothing,
) -> Iterator[Iterator[R]]:
    """The results of ``work`` on each of ``items``, in their order, worked out by ``workers`` threads.

    One more thread takes the items from their iterator, so reading overlaps too. At most ``workers`` +
    `AHEAD` items are in flight. The results may be taken by several threads. An exception of ``items`` or
    ``work`` is raised to whoever takes that result. When the context ends, all threads have ended; ``interrupt`` makes
    ``items`` give up what they may be waiting for.
    """
    line: _Line[R] = _Line(workers + AHEAD)
    with ThreadPoolExecutor(workers, thread_name_prefix="loader-work") as pool:
        feeder = threading.Thread(target=_feed, args=(items, work, pool, line), name="loader-feed")
        feeder.start()
        try:
            yield line
        finally:
            line.stop()
            interrupt()
            feeder.join()


def _feed(items: Iterator[T], work: Callable[[T], R], pool: ThreadPoolExecutor, line: _Line[R]) -> None:
    try:
        for item in items:
            if not line.put(pool.submit(work, item)):
                break
        line.put(None)
    except BaseException as error:
        failed: Future[R] = Future()
        failed.set_exception(error)
        line.put(failed)
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


class _Line(Generic[R]):
    """Futures in order; an iterator over their results that several threads may share."""

    def __init__(self, length: int) -> None:
        self._queue: Queue[Future[R] | None] = Queue(length)
        self._taking = threading.Lock()
        self._stopped = threading.Event()

    def put(self, future: Future[R] | None) -> bool:
        """Append; False when nobody takes any more."""
        while not self._stopped.is_set():
            try:
                self._queue.put(future, timeout=_POLL)
                return True
            except Full:
                continue
        return False

    def stop(self) -> None:
        """Nothing is taken any more; a taker that waits is told so."""
        self._stopped.set()
        with suppress(Empty):
            while True:
                future = self._queue.get_nowait()
                if future is not None:
                    future.cancel()
        with suppress(Full):
            self._queue.put_nowait(None)

    def __iter__(self) -> Iterator[R]:
        return self

    def __next__(self) -> R:
        with self._taking:
            if self._stopped.is_set():
                raise StopIteration
            future = self._queue.get()
            if future is None:
                self._stopped.set()
                raise StopIteration
            try:
                return future.result()
            except BaseException:
                self._stopped.set()
                raise
