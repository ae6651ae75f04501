"""Invocations of the function through the Runtime API, warm, each with one message of a small object or with ten."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from bench.figures import table, written
from bench.function import HANDLER
from bench.objects import Objects
from bench.rig import Server
from bench.small.contention import Message, record_of
from bench.small.data import make_files, make_table
from bench.small.files import TABLE, TABLE_ROWS, WARM, Cost, run_client
from twin.runtime import Runtime


def measure(
    server: Server, objects: Objects, *, files: int, rows: int, modes: Sequence[str], batches: Sequence[int]
) -> None:
    """The function beside the floor, which loads the same files without any of AWS. All figures are of a file."""
    objects.versioned = True
    folder = objects.folder / "invocation"
    made = make_files(folder, WARM + files, rows, table_rows=TABLE_ROWS)
    lines = []
    for mode in modes:
        for batch in batches:
            ours = _invoke(server, objects, made, mode, batch)
            lines.append(_line(mode, rows, f"function, {batch} at once", ours))
        floor, _ = run_client(server, objects, "floor", mode, folder)
        lines.append(_line(mode, rows, "floor", floor))
    print(table(("mode", "rows", "", "ms", "slowest ms", "client CPU ms", "server CPU ms"), lines))


def _invoke(server: Server, objects: Objects, files: list[Path], mode: str, batch: int) -> Cost:
    """The cost of a file, of which ``batch`` come with an invocation."""
    make_table(server, TABLE, rows=TABLE_ROWS, keyed=mode == "merge")
    server.forget_loads()
    server.checkpoint()
    specs = objects.folder / "specs"
    specs.mkdir(exist_ok=True)
    key = 'key = ["id"]\n' if mode == "merge" else ""
    (specs / "spec.toml").write_text(f'source = "invocation/*.csv"\ntable = "{TABLE}"\nmode = "{mode}"\n{key}')
    environment = {**objects.environment, "LOADER_DSN": server.dsn, "LOADER_SPECS": str(specs)}
    messages = [
        Message(0, number, path.relative_to(objects.folder).as_posix(), received=1) for number, path in enumerate(files)
    ]
    seconds: list[float] = []
    with Runtime(HANDLER, environment) as function:
        _hand(function, objects, messages[:WARM])
        own, others = cpu_of(function.pid), server.host.cpu()
        for first in range(WARM, len(messages), batch):
            taken = messages[first : first + batch]
            seconds += [_hand(function, objects, taken) / len(taken)] * len(taken)
        after = server.host.cpu()
        taken = None if others is None or after is None else after - others
        return Cost.of(seconds, cpu_of(function.pid) - own, taken)


def _hand(function: Runtime, objects: Objects, messages: Sequence[Message]) -> float:
    """Seconds of an invocation with the messages, all of which it has to load."""
    event = {"Records": [record_of(message, objects) for message in messages]}
    began = time.perf_counter()
    answer = function.invoke(event)
    took = time.perf_counter() - began
    if answer["batchItemFailures"]:
        raise SystemExit(f"not loaded: {answer}")
    return took


def cpu_of(pid: int) -> float:
    """Seconds of CPU of one process (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _line(mode: str, rows: int, who: str, cost: Cost) -> tuple[str, ...]:
    figures = (cost.wall, cost.slowest, cost.client_cpu, cost.server_cpu)
    return mode, f"{rows:,}", who, *(written(each, ".2f") for each in figures)
