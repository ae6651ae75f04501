"""Processes with a database session of their own, for tests to kill, freeze and thaw."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STUCK_COPY = """
class Slow:
    def read(self, size):
        print("ready", flush=True)
        time.sleep(60)
cursor.copy_expert("COPY t FROM STDIN", Slow())
"""


@contextmanager
def client(dsn: str, body: str, *, left: float | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process with a session of its own, in which ``body`` runs; it has said "ready" by then."""
    deadline = "Deadline()" if left is None else f"Deadline({left}, margin=0)"
    code = f"""
import time
from loader import database
from loader.deadline import Deadline
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


def wait_for(condition: Callable[[], object], within: float) -> float:
    """Seconds until it was true."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within
        time.sleep(0.05)
    return time.monotonic() - began
