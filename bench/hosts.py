"""Where a server's processes are: how the CPU that they take is read, and whether they can be kept to some cores."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

_TICKS = os.sysconf("SC_CLK_TCK")


class Host(Protocol):
    """``cpu_from``: in words, where `cpu` has its figure from. ``pins``: whether `pin` works."""

    cpu_from: str
    pins: bool

    def cpu(self) -> float | None:
        """Seconds of CPU of all the server's processes, those that have ended included; None where unknown."""

    def pin(self, cores: Iterable[int]) -> None:
        """Let the server's processes run on these cores only."""


class LocalProcesses:
    """A server whose processes belong to this machine: the postmaster and its children in /proc."""

    cpu_from = "the postmaster and its children in /proc"
    pins = hasattr(os, "sched_setaffinity")

    def __init__(self, postmaster: int) -> None:
        self._postmaster = postmaster

    def cpu(self) -> float | None:
        """A child that ends while /proc is read is in neither its own place nor its parent's: then once more."""
        _, waited, children = self._ticks()
        while True:
            before = waited, set(children)
            own, waited, children = self._ticks()
            if before == (waited, set(children)):
                return (own + waited + sum(children.values())) / _TICKS

    def _ticks(self) -> tuple[int, int, dict[int, int]]:
        """Of the postmaster, of the children that it waited for, and of each child that there is (proc(5))."""
        own, waited, children = 0, 0, {}
        for pid, fields in _processes():
            if pid == self._postmaster:
                own, waited = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
            elif int(fields[1]) == self._postmaster:
                children[pid] = sum(map(int, fields[11:13]))
        return own, waited, children

    def pin(self, cores: Iterable[int]) -> None:
        """The postmaster first: what it starts later inherits its cores."""
        os.sched_setaffinity(self._postmaster, cores)
        for pid, fields in _processes():
            if int(fields[1]) == self._postmaster:
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(pid, cores)


def _processes() -> Iterator[tuple[int, list[str]]]:
    """Every process: its id, and the fields of its ``stat`` from the third on (proc(5))."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it has just ended
                yield int(folder.name), (folder / "stat").read_text().rpartition(")")[2].split()


class InContainer:
    """A server in a container of its own. ``container``: docker-py's."""

    cpu_from = "the container's control group, as the Docker engine reports it"
    pins = True

    def __init__(self, container: Any) -> None:
        self._container = container

    def cpu(self) -> float | None:
        told = self._container.client.api.stats(self._container.id, stream=False, one_shot=True)
        nanoseconds: int = told["cpu_stats"]["cpu_usage"]["total_usage"]
        return nanoseconds / 1e9

    def pin(self, cores: Iterable[int]) -> None:
        self._container.update(cpuset_cpus=",".join(map(str, cores)))


class Elsewhere:
    """A server of which only its address is known."""

    cpu_from = "not to be had: the server is not the benchmark's own"
    pins = False

    def cpu(self) -> float | None:
        return None

    def pin(self, cores: Iterable[int]) -> None:
        raise NotImplementedError(
            f"the server cannot be kept to the cores {list(cores)}: it is not the benchmark's own"
        )
