"""Processes with a database session of their own, for tests to kill, freeze and thaw."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from support.clock import PATIENCE

STUCK_COPY = """
class Slow:
    def read(self, size):
        print("ready", flush=True)
        time.sleep(3600)
cursor.copy_expert("COPY t FROM STDIN", Slow())
"""


@contextmanager
def client(dsn: str, body: str, *, left: float | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process with a session of its own, in which ``body`` runs; it has said "ready" by then."""
    deadline = "Deadline()" if left is None else f"Deadline({left}, margin=0)"
    code = f"""
import signal, time
from loader.postgres import database
from loader.core.deadline import Deadline
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGUSR1}})  # of all its threads: it is for the body to wait for
database.LEAST = 0.5
database.LIMITS.update(idle_in_transaction_session_timeout=0.5, idle_session_timeout=0.5)
database.GRACE = 1
with database.Database({dsn!r}).until({deadline}).session() as connection:
    cursor = connection.cursor()
{textwrap.indent(textwrap.dedent(body), "    ")}
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_for(condition: Callable[[], object], within: float = PATIENCE) -> None:
    """Wait until it is true. ``within``: seconds after which it will never be."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
