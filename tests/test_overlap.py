"""The hand-over between stages: in order, bounded, and nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from support.clock import PATIENCE

from loader.core.process.parallel import AHEAD, overlapped


def threads() -> set[str]:
    return {each.name for each in threading.enumerate() if each.name.startswith("loader-")}


def test_results_come_in_the_order_of_their_items() -> None:
    """However long each takes."""
    slow = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            slow.wait(PATIENCE)
        if item == 2:
            slow.set()
        return item * item

    with overlapped(iter(range(50)), work, workers=3) as results:
        assert list(results) == [item * item for item in range(50)]
    assert not threads()


def test_only_a_few_items_are_in_flight() -> None:
    """No more are taken from the iterator than workers, waiting places, and the one in the feeder's hand."""
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(1000):
            taken += 1
            yield item

    with overlapped(items(), lambda item: item, workers=2) as results:
        for number, _ in enumerate(results):
            assert taken <= number + 1 + (2 + AHEAD) + 1


def test_an_error_of_the_work_reaches_the_taker() -> None:
    """After the results before it, and everything stops."""

    def work(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    with overlapped(iter(range(1000)), work, workers=2) as results:
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="three"):
            next(results)
        assert list(results) == []
    assert not threads()


def test_an_error_of_the_items_reaches_the_taker() -> None:
    """What was read before it is still handed out."""

    def items() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    with overlapped(items(), lambda item: item, workers=2) as results:
        assert next(results) == 1
        with pytest.raises(OSError, match="gone"):
            next(results)
    assert not threads()


def test_leaving_early_ends_the_threads_and_closes_the_items() -> None:
    """A consumer that fails leaves nothing running, and whoever still waits for a result is told to stop."""
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    def leave() -> None:
        with overlapped(items(), lambda item: item, workers=2) as results:
            next(results)
            raise KeyError("consumer")

    with pytest.raises(KeyError, match="consumer"):
        leave()
    assert closed.is_set()
    assert not threads()


def test_a_taker_that_waits_is_woken_when_the_context_ends() -> None:
    """It sees the end of the results instead of waiting for ever."""
    hold = threading.Event()
    ended: list[list[int]] = []

    def items() -> Iterator[int]:
        hold.wait(PATIENCE)
        yield from ()

    with overlapped(items(), lambda item: item, workers=1) as results:
        taker = threading.Thread(target=lambda: ended.append(list(results)))
        taker.start()
        hold.set()
        taker.join(PATIENCE)
    assert ended == [[]]


def test_several_threads_share_the_results() -> None:
    """Each result goes to exactly one of them."""
    taken: list[int] = []
    with overlapped(iter(range(500)), lambda item: item, workers=2) as results:
        takers = [threading.Thread(target=lambda: taken.extend(results)) for _ in range(3)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join(PATIENCE)
    assert sorted(taken) == list(range(500))


def test_the_end_does_not_wait_for_items_that_do_not_come() -> None:
    """They are interrupted."""
    interrupted = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        assert interrupted.wait(PATIENCE)

    with overlapped(items(), lambda item: item, workers=1, interrupt=interrupted.set) as results:
        assert next(results) == 1
    assert interrupted.is_set()
