"""Run tests on a machine that is too slow on purpose: what they find must not depend on how fast it is.

    tests/slow.py [--busy N] [--cores X] [PYTEST OPTIONS AND TESTS]

The tests, and all processes that they start, run beside ``--busy`` loops that do nothing but use up processor time,
and may use no more than ``--cores`` of the machine's cores. Linux only. The share is held by the first of these that
works here:

- a control group of the CPU controller (v2 or v1), which takes root or a delegated group;
- stopping and continuing the processes (SIGSTOP, SIGCONT) a hundred times in ten seconds, which takes no right at all.
  Processes that a test itself stops or that run as another user, such as PostgreSQL's where the tests run as root, are
  left out if they cannot be signalled.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil

PERIOD = 0.1
"""Seconds in which a share of the processor time is used up and then waited for."""

CONTROLLERS = (
    ("/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup", "cpu.max", "{quota} {period}"),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "{quota}"),
    ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu,cpuacct", "cpu.cfs_quota_us", "{quota}"),
)
"""Of version 2 and of version 1: what is there if it is, the root, the limit's file, and what to write into it. (The
period is 100 ms by default; kernel documentation, cgroup-v2.rst, "CPU Interface Files".)"""

Run = Callable[[list[str]], int]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="loops beside the tests")
    parser.add_argument("--cores", type=float, metavar="X", help="the most that the tests may use, such as 0.5")
    options, rest = parser.parse_known_args()
    command = [sys.executable, "-m", "pytest", *rest]
    with busy_loops(options.busy), share(options.cores) as run:
        return run(command)


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many processes that never rest."""
    loops = [multiprocessing.Process(target=_loop, daemon=True) for _ in range(count)]
    for each in loops:
        each.start()
    try:
        yield
    finally:
        for each in loops:
            each.kill()
            each.join()


def _loop() -> None:
    while True:
        pass


@contextlib.contextmanager
def share(cores: float | None) -> Iterator[Run]:
    """A way to run a command that leaves it, and whatever it starts, no more than so many cores."""
    if cores is None:
        yield subprocess.call
        return
    group = _make_group(cores)
    if group is None:
        print(f"slow: {cores:g} cores, by stopping the processes again and again", flush=True)
        yield partial(_by_stopping, cores)
        return
    print(f"slow: {cores:g} cores, by the control group {group}", flush=True)
    try:
        yield partial(_in_group, group)
    finally:
        _remove(group)


def _make_group(cores: float) -> Path | None:
    """A control group with that limit; None where this process may not make one."""
    period = round(PERIOD * 1e6)
    for probe, root, name, value in CONTROLLERS:
        group = Path(root) / f"slow-{uuid.uuid4().hex[:8]}"
        if Path(probe).exists():
            with contextlib.suppress(OSError):
                group.mkdir()
                (group / name).write_text(value.format(quota=round(cores * period), period=period))
                return group
            with contextlib.suppress(OSError):
                group.rmdir()
    return None


def _in_group(group: Path, command: list[str]) -> int:
    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    return subprocess.call(command, preexec_fn=enter)


def _remove(group: Path) -> None:
    """Once nothing runs in it any more: servers take a moment to end."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.1)


def _by_stopping(cores: float, command: list[str]) -> int:
    process = subprocess.Popen(command)
    ended = threading.Event()
    runs = PERIOD * min(cores, 1.0)  # while they run, they may use every core that they like
    pinned = psutil.Process(process.pid)
    with contextlib.suppress(psutil.Error, OSError):
        pinned.cpu_affinity(pinned.cpu_affinity()[: max(1, round(cores))])

    def stop_and_go() -> None:
        while not ended.wait(runs):
            stopped = [each for each in _family(pinned) if _send(each, signal.SIGSTOP)]
            ended.wait(PERIOD - runs)
            for each in stopped:
                _send(each, signal.SIGCONT)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        return process.wait()
    finally:
        ended.set()
        thread.join()


def _family(process: psutil.Process) -> list[psutil.Process]:
    """The process and all that come of it, but for those that are stopped already: a test means them to be."""
    with contextlib.suppress(psutil.Error):
        found = [process, *process.children(recursive=True)]
        return [each for each in found if _status(each) != psutil.STATUS_STOPPED]
    return []


def _status(process: psutil.Process) -> str | None:
    with contextlib.suppress(psutil.Error):
        return process.status()
    return None


def _send(process: psutil.Process, number: signal.Signals) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        process.send_signal(number)
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
