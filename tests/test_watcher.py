"""One thread looks at whatever may have to be ended from outside."""

from __future__ import annotations

import os
import threading

import pytest
from support.clock import PATIENCE

from loader.core.process.watcher import Watcher


def test_it_looks_until_there_is_nothing_to_look_for() -> None:
    """Each at its own time, whichever came first."""
    watcher, looks, over = Watcher(), [], threading.Event()

    def look() -> float | None:
        looks.append(len(looks))
        if len(looks) < 3:
            return 0.0
        over.set()
        return None

    with watcher.looking(lambda: None, 1000), watcher.looking(look, 0):
        assert over.wait(PATIENCE)
    assert looks == [0, 1, 2]


def test_it_does_not_look_when_the_body_is_over() -> None:
    """Nor at what is due at the same time and comes after it."""
    watcher, looks, over = Watcher(), [], threading.Event()
    with watcher.looking(lambda: looks.append("early"), 0.05):
        pass

    def end() -> None:
        over.set()

    with watcher.looking(end, 0.1):
        assert over.wait(PATIENCE)
    assert looks == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_looks_at_its_own() -> None:
    """A thread is not forked with its process."""
    watcher, over = Watcher(), threading.Event()
    with watcher.looking(lambda: None, 1000):
        child = os.fork()
        if child == 0:
            with watcher.looking(over.set, 0):
                os._exit(0 if over.wait(PATIENCE) else 1)
    assert os.waitpid(child, 0)[1] == 0
