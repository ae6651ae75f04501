"""What a small file costs: time, CPU of client and server, statements, commits and sessions; over networks, too."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from bench.figures import table, written
from bench.measure import Figure, ratio
from bench.objects import Objects
from bench.rig import Server
from bench.small.data import make_files, make_table
from bench.small.proxy import Counts, Proxy, proxied

TABLE, TABLE_ROWS = "orders", 100_000
"""What the files go into, and how many rows it has before."""

WARM = 5
"""Files before those that are measured."""

COUNTED = 10
"""Files by which statements are counted: they do not vary."""

KINDS = ("loader", "floor")


@dataclass(frozen=True, slots=True)
class Asked:
    """``files`` of so many ``rows``, in each of ``modes`` and with each of ``delays``, milliseconds of a round trip."""

    files: int = 300
    rows: tuple[int, ...] = (1, 100, 1000)
    modes: tuple[str, ...] = ("append", "merge")
    delays: tuple[float, ...] = (0.0, 1.0, 5.0)
    rounds: int = 3


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one file. Times in milliseconds; ``server_cpu`` is None where it cannot be had."""

    wall: float
    slowest: float
    client_cpu: float
    server_cpu: float | None

    @classmethod
    def of(cls, seconds: Sequence[float], client: float, server: float | None) -> Cost:
        """By the seconds of each file, and CPU seconds of all of them."""
        number = len(seconds)
        return cls(
            sum(seconds) / number * 1000,
            max(seconds) * 1000,
            client / number * 1000,
            None if server is None else server / number * 1000,
        )


def run_client(
    server: Server, objects: Objects, kind: str, mode: str, folder: Path, *, via: Proxy | None = None
) -> tuple[Cost, Counts]:
    """Load all files of ``folder`` into a table as it is before, in one process. What ``via`` counted is of all
    that are measured; its sessions are those that the process opened since it began."""
    make_table(server, TABLE, rows=TABLE_ROWS, keyed=mode == "merge")
    server.forget_loads()
    server.checkpoint()
    before = via.counts.sessions if via else 0
    command = [sys.executable, "-m", "bench.small.client", kind, mode, TABLE]
    with started([*command, via.dsn if via else server.dsn, str(folder), str(WARM)], objects.environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{kind}, {mode}: the client did not get ready")
        cpu, counts = server.host.cpu(), via.counts if via else Counts()
        process.stdin.write("go\n")
        process.stdin.flush()
        told = json.loads(process.stdout.readline() or "null")
        spent, after = server.host.cpu(), via.counts if via else Counts()
    if told is None:
        raise SystemExit(f"{kind}, {mode}: the client did not come to its end")
    taken = None if cpu is None or spent is None else spent - cpu
    return Cost.of(told["seconds"], told["cpu"], taken), replace(after - counts, sessions=after.sessions - before)


@contextmanager
def started(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process with pipes to it, which has ended when the body has."""
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def measure(server: Server, objects: Objects, asked: Asked) -> None:
    """Print a line for each run, then the tables."""
    costs: dict[tuple[int, str, float], dict[str, list[Cost]]] = {}
    counts: dict[tuple[int, str], dict[str, Counts]] = {}
    for rows in asked.rows:
        folder = objects.folder / f"rows-{rows}"
        make_files(folder, WARM + asked.files, rows, table_rows=TABLE_ROWS)
        few = objects.folder / f"few-{rows}"
        make_files(few, WARM + COUNTED, rows, table_rows=TABLE_ROWS)
        for mode in asked.modes:
            for delay in asked.delays:
                found = costs.setdefault((rows, mode, delay), {each: [] for each in KINDS})
                digests = set()
                for _ in range(asked.rounds):
                    for kind in KINDS:
                        with _network(server, delay) as via:
                            cost, _ = run_client(server, objects, kind, mode, folder, via=via)
                        found[kind].append(cost)
                        digests.add(server.digest(TABLE))
                        print(f"{rows:5} rows, {mode:6}, {delay:g} ms: {kind:6} {cost.wall:8.2f} ms a file", flush=True)
                if len(digests) > 1:
                    raise SystemExit(f"{rows} rows, {mode}: the tables differ")
            with proxied(server.dsn) as via:
                counts[rows, mode] = {kind: run_client(server, objects, kind, mode, few, via=via)[1] for kind in KINDS}
        shutil.rmtree(folder)
        shutil.rmtree(few)
    print(_times(costs), _counts(counts), sep="\n\n")


def _network(server: Server, delay: float) -> AbstractContextManager[Proxy | None]:
    """Nothing in between where there is no delay: a proxy takes its time, too."""
    return proxied(server.dsn, delay / 1000) if delay else nullcontext(None)


def _times(costs: Mapping[tuple[int, str, float], Mapping[str, Sequence[Cost]]]) -> str:
    head = (
        *("rows a file", "mode", "round trip ms", "ms a file", "files/s", "slowest ms", "floor ms a file"),
        *("floor is faster by", "client CPU ms", "of the floor", "server CPU ms", "of the floor"),
    )
    return table(head, [_time(key, found["loader"], found["floor"]) for key, found in costs.items()])


def _time(key: tuple[int, str, float], ours: Sequence[Cost], theirs: Sequence[Cost]) -> tuple[str, ...]:
    rows, mode, delay = key
    wall = Figure.of(each.wall for each in ours)
    faster = ratio([each.wall for each in theirs], [each.wall for each in ours])
    return (
        f"{rows:,}",
        mode,
        f"{delay:g}",
        f"{wall.median:.2f} ({wall.low:.2f}-{wall.high:.2f})",
        f"{1000 / wall.median:,.0f}",
        f"{max(each.slowest for each in ours):,.0f}",
        f"{Figure.of(each.wall for each in theirs).median:.2f}",
        f"{faster.median:.1f} ×",
        *(f"{statistics.median(each.client_cpu for each in found):.2f}" for found in (ours, theirs)),
        *(written(_server_cpu(found), ".2f") for found in (ours, theirs)),
    )


def _server_cpu(costs: Sequence[Cost]) -> float | None:
    found = [each.server_cpu for each in costs if each.server_cpu is not None]
    return statistics.median(found) if found else None


def _counts(counts: Mapping[tuple[int, str], Mapping[str, Counts]]) -> str:
    head = ("rows a file", "mode", "", "statements a file", "commits a file", "round trips a file", "sessions")
    return table(
        head,
        [
            (f"{rows:,}", mode, kind, *(f"{number / COUNTED:.1f}" for number in _numbers(each)), str(each.sessions))
            for (rows, mode), found in counts.items()
            for kind, each in found.items()
        ],
    )


def _numbers(counts: Counts) -> tuple[int, ...]:
    return counts.statements, counts.commits, counts.round_trips
