"""Time that is up, and requests to stop."""

from __future__ import annotations

import threading

import pytest
from support.clock import PATIENCE, Clock

from loader.core.deadline import NEVER, Deadline


def test_time_runs_out_a_margin_before_the_end() -> None:
    """So that there is time left to tell of it. A clock that is given is asked each time."""
    clock = Clock()
    deadline = Deadline(100.0, margin=40.0, clock=clock)
    assert (deadline.budget, deadline.left, deadline.reached) == (60.0, 60.0, None)
    clock.now = 59.0
    assert (deadline.left, deadline.reached) == (1.0, None)
    clock.now = 60.0
    assert (deadline.left, deadline.reached, deadline.stopped) == (0.0, "its time is up", False)
    assert Deadline(10.0, margin=10.0).reached
    assert NEVER.reached is None


def test_the_first_reason_to_stop_counts() -> None:
    """And it is told from the time."""
    deadline = Deadline()
    deadline.stop("first")
    deadline.stop("second")
    assert (deadline.reached, deadline.stopped) == ("first", True)


def test_whoever_waits_is_called_back() -> None:
    """Once it waits, even where it had been asked to stop before; afterwards no more."""
    deadline, calls = Deadline(), []
    with deadline.calling(lambda: calls.append("during")):
        deadline.stop("enough")
    with deadline.calling(lambda: calls.append("late")):
        pass
    deadline.stop("again")
    assert calls == ["during", "late"]


def test_a_sleeper_is_woken() -> None:
    """A pause between attempts does not keep a load from coming to rest."""
    deadline = Deadline()
    sleeper = threading.Thread(target=deadline.sleep, args=(10 * PATIENCE,), daemon=True)
    sleeper.start()
    deadline.stop("enough")
    sleeper.join(PATIENCE)
    assert not sleeper.is_alive()


def test_a_callback_that_raises_keeps_no_other_from_being_called() -> None:
    """Whoever asked to stop gets the first error, once all were called."""
    deadline, calls = Deadline(), []

    def fail(number: int) -> None:
        calls.append(number)
        raise ValueError(f"of {number}")

    with (
        deadline.calling(lambda: fail(1)),
        deadline.calling(lambda: fail(2)),
        deadline.calling(lambda: calls.append(3)),
        pytest.raises(ValueError, match="of 1") as caught,
    ):
        deadline.stop("enough")
    assert (calls, deadline.reached) == ([1, 2, 3], "enough")
    assert caught.value.__notes__ == ["another callback raised ValueError: of 2"]
