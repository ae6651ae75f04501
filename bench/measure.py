"""What a command costs: its time and memory, and what the server does for it. Nothing here knows the loader."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.rig import Server

T = TypeVar("T", int, float)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a command. Times in seconds; ``client_cpu`` is of its process and those that it waited for,
    ``server_cpu`` of all the server's processes meanwhile. ``peak``: resident, MB. ``wal``: bytes, of the whole server.
    None: the server is such that it cannot be known."""

    seconds: float
    client_cpu: float
    server_cpu: float | None
    peak: float
    wal: int | None


def run(command: Sequence[str], server: Server, *, environment: Mapping[str, str], limit: float) -> Run:
    """Run it to its end. Raises CommandFailedError where that is bad, or does not come within ``limit`` seconds."""
    cpu, wal = server.host.cpu(), server.wal()
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    watch = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
    watch.start()
    assert process.stderr is not None
    try:
        with _watched(process.pid) as peak:
            told = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # it has a session of its own, so no Ctrl-C reaches it
        raise
    finally:
        watch.cancel()
        process.stderr.close()
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        late = f"it was not done in {limit:g} s" if process.returncode == -signal.SIGKILL else ""
        raise CommandFailedError(late or told.decode("utf-8", "replace").strip().rpartition("\n")[2][:300])
    return Run(
        seconds=seconds,
        client_cpu=usage.ru_utime + usage.ru_stime,
        server_cpu=_since(cpu, server.host.cpu()),
        peak=peak[0],
        wal=_since(wal, server.wal()),
    )


LOOK_EVERY = 0.02
"""Seconds between looks at a process's memory. What ``wait4`` would say of it counts this process, too, from which it
was forked."""


@contextlib.contextmanager
def _watched(pid: int) -> Iterator[list[float]]:
    """The most that the process had resident, MB (proc(5), VmHWM), in a list that is right when the body has ended."""
    peak, ended = [0.0], threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_EVERY):
            with contextlib.suppress(OSError):
                found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
                peak[0] = int(found[1]) / 1024 if found else peak[0]

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield peak
    finally:
        ended.set()
        watch.join()


class CommandFailedError(Exception):
    """A command did not do what it was to; the message is the last line of what it said."""


def _since(before: T | None, after: T | None) -> T | None:
    return None if before is None or after is None else after - before


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure over the rounds of one benchmark."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure:
        """Of at least one value."""
        found = sorted(values)
        return cls(statistics.median(found), found[0], found[-1])


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """How many times ``theirs`` is of ``ours``, round by round: what runs side by side has the same noise."""
    return Figure.of(their / our for our, their in zip(ours, theirs, strict=True))
