"""The function under Lambda's limits: so much memory and not a page more, and the share of a core that comes with it.

Lambda gives a function one vCPU for each 1,769 MB (Lambda's guide, "Configure Lambda function memory"). Here a control
group holds the function's process to that: memory with no swap, and a quota of CPU, up to the cores that there are. The
function runs under its real runtime client and is invoked through the Runtime API.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.objects import BUCKET, Objects
from bench.rig import DDL, Server
from loader.twin.runtime import FunctionError, Runtime

SIZES = (256, 512, 1024, 1769, 3008, 10240)

MB_PER_CORE = 1769

DOLLARS_PER_GB_SECOND = 0.0000166667
"""AWS Lambda's price for x86 in us-east-1, the first six billion GB-seconds a month, as of 2026-11."""

DOLLARS_PER_REQUEST = 0.20 / 1e6

S3_LATENCY, S3_PACE = 0.025, 85e6
"""Seconds to the first byte, and bytes a second of one connection, as S3 has them within a region."""

ROUNDS = 3

CGROUPS = Path("/sys/fs/cgroup")


def measure(server: Server, objects: Objects, file: Path, *, rows: int) -> dict[str, Any]:
    """Seconds, peak and price by size of function, on the loopback and with S3's latency and pace; else why not."""
    if why := _unable():
        return {"unavailable": why}
    sizes: dict[str, Any] = {}
    for memory in SIZES:
        sizes[str(memory)] = {
            "loopback": _size(server, objects, file, memory, rows),
            "as S3": _size(server, objects, file, memory, rows, latency=S3_LATENCY, pace=S3_PACE),
        }
    return {"rows": rows, "bytes": file.stat().st_size, "cores": os.cpu_count(), "sizes": sizes}


def cost(seconds: float, memory: int) -> float:
    """Dollars of one invocation, which Lambda counts by the millisecond."""
    return seconds * memory / 1024 * DOLLARS_PER_GB_SECOND + DOLLARS_PER_REQUEST


def _unable() -> str | None:
    if os.geteuid() != 0:
        return "only root may make control groups"
    if (CGROUPS / "cgroup.controllers").exists():
        return None
    return None if (CGROUPS / "memory").is_dir() and (CGROUPS / "cpu").is_dir() else "there are no control groups here"


def _size(
    server: Server,
    objects: Objects,
    file: Path,
    memory: int,
    rows: int,
    *,
    latency: float = 0.0,
    pace: float | None = None,
) -> dict[str, Any]:
    # the image has the last of these
    environment = {**objects.environment, "LOADER_DSN": server.dsn, "OPENBLAS_NUM_THREADS": "1"}
    event = {"source": f"s3://{BUCKET}/{file.relative_to(objects.folder)}", "spec": {"table": "limited"}}
    seconds = []
    objects.latency, objects.pace = latency, pace
    try:
        with (
            _group(memory) as prefix,
            Runtime("loader.handler.handler", environment, memory=memory, prefix=prefix) as function,
        ):
            for _ in range(ROUNDS + 1):  # the first is cold
                _make_new(server)
                began = time.perf_counter()
                function.invoke(event)
                seconds.append(time.perf_counter() - began)
                if int(server.ask("SELECT count(*) FROM limited")) != rows:
                    raise SystemExit(f"under {memory} MB: not every row arrived")
            highest = _peak(function.pid)
    except FunctionError as error:
        return {"failed": str(error)}
    finally:
        objects.latency, objects.pace = 0.0, None
    warm = statistics.median(seconds[1:])
    told = f"{rows / warm:11,.0f} rows/s, cold {seconds[0]:.2f} s, peak {highest:.0f} MB"
    print(f"limits         {memory:6} MB {warm:7.2f} s {told}", flush=True)
    return {"seconds": warm, "low": min(seconds[1:]), "high": max(seconds[1:]), "cold": seconds[0], "peak": highest}


def _make_new(server: Server) -> None:
    """The table is empty, and nobody remembers that the file was loaded before."""
    quietly = "SET client_min_messages = warning"
    drop = "DROP TABLE IF EXISTS limited", "DROP SCHEMA IF EXISTS loader CASCADE"
    server.execute(quietly, *drop, DDL.format("limited"), "CHECKPOINT")


def _peak(pid: int) -> float:
    """The most that the process had resident, MB (proc(5), VmHWM)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


@contextlib.contextmanager
def _group(memory: int) -> Iterator[tuple[str, ...]]:
    """A control group of so many MB and its share of the cores; gives what to put before a command."""
    name = f"loader-bench-{os.getpid()}"
    quota = int(100_000 * min(memory / MB_PER_CORE, os.cpu_count() or 1))
    if (CGROUPS / "cgroup.controllers").exists():
        folders = [CGROUPS / name]
        folders[0].mkdir()
        (folders[0] / "memory.max").write_text(str(memory << 20))
        (folders[0] / "memory.swap.max").write_text("0")
        (folders[0] / "cpu.max").write_text(f"{quota} 100000")
    else:
        folders = [CGROUPS / "memory" / name, CGROUPS / "cpu" / name]
        for folder in folders:
            folder.mkdir()
        (folders[0] / "memory.limit_in_bytes").write_text(str(memory << 20))
        with contextlib.suppress(OSError):  # no swap is counted here, and then there is none
            (folders[0] / "memory.memsw.limit_in_bytes").write_text(str(memory << 20))
        (folders[1] / "cpu.cfs_period_us").write_text("100000")
        (folders[1] / "cpu.cfs_quota_us").write_text(str(quota))
    enter = " && ".join(f"echo $$ > {folder}/cgroup.procs" for folder in folders)
    try:
        yield "/bin/sh", "-c", f'{enter} && exec "$@"', "sh"
    finally:
        for folder in folders:
            _remove(folder)


def _remove(folder: Path) -> None:
    """As soon as its processes have ended."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.05)


def priced(limits: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """By size: rows a second, GB-seconds and dollars for a million rows, dollars for a terabyte."""
    rows, size = limits["rows"], limits["bytes"]
    told = []
    for memory, kinds in limits["sizes"].items():
        found = kinds[kind]
        if "failed" in found:
            told.append({"memory": int(memory), "failed": found["failed"]})
            continue
        dollars = cost(found["seconds"], int(memory))
        told.append(
            {
                "memory": int(memory),
                "rate": rows / found["seconds"],
                "seconds": found["seconds"],
                "cold": found["cold"],
                "peak": found["peak"],
                "gb_seconds": found["seconds"] * int(memory) / 1024 / rows * 1e6,
                "million": dollars / rows * 1e6,
                "terabyte": dollars / size * 1e12,
            }
        )
    return told
