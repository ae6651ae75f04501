"""An invocation of the function through the Runtime API, warm, with a small object."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench.figures import table, written
from bench.function import HANDLER
from bench.objects import BUCKET, Objects
from bench.rig import Server
from bench.small.data import make_files, make_table
from bench.small.files import TABLE, TABLE_ROWS, WARM, Cost, run_client
from loader.twin.runtime import Runtime


def measure(server: Server, objects: Objects, *, invocations: int, rows: int, modes: tuple[str, ...]) -> None:
    """The function beside the floor, which loads the same files without any of AWS."""
    folder = objects.folder / "invocation"
    files = make_files(folder, WARM + invocations, rows, table_rows=TABLE_ROWS)
    lines = []
    for mode in modes:
        ours = _invoke(server, objects, files, mode)
        floor, _ = run_client(server, objects, "floor", mode, folder)
        lines.append(_line(mode, rows, "function", ours))
        lines.append(_line(mode, rows, "floor", floor))
    print(table(("mode", "rows", "", "ms", "slowest ms", "client CPU ms", "server CPU ms"), lines))


def _invoke(server: Server, objects: Objects, files: list[Path], mode: str) -> Cost:
    """The cost of an invocation, each with one file."""
    make_table(server, TABLE, rows=TABLE_ROWS, keyed=mode == "merge")
    server.forget_loads()
    server.checkpoint()
    spec = {"table": TABLE, "mode": mode, **({"key": ["id"]} if mode == "merge" else {})}
    seconds = []
    with Runtime(HANDLER, {**objects.environment, "LOADER_DSN": server.dsn}) as function:
        for number, path in enumerate(files):
            if number == WARM:
                own, others = cpu_of(function.pid), server.host.cpu()
            began = time.perf_counter()
            function.invoke({"source": f"s3://{BUCKET}/{path.relative_to(objects.folder)}", "spec": spec})
            if number >= WARM:
                seconds.append(time.perf_counter() - began)
        after = server.host.cpu()
        taken = None if others is None or after is None else after - others
        return Cost.of(seconds, cpu_of(function.pid) - own, taken)


def cpu_of(pid: int) -> float:
    """Seconds of CPU of one process (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _line(mode: str, rows: int, who: str, cost: Cost) -> tuple[str, ...]:
    figures = (cost.wall, cost.slowest, cost.client_cpu, cost.server_cpu)
    return mode, f"{rows:,}", who, *(written(each, ".2f") for each in figures)
