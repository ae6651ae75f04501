"""The function by its size: rows a second, memory and dollars, on the loopback and with S3's latency and pace."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.function import Limiter
from bench.objects import Objects
from bench.rig import DDL, Server
from twin.runtime import FunctionError

SIZES = (128, 256, 512, 1024, 1769, 3008, 10240)
"""MB: Lambda's smallest and largest, and where its share of a core reaches one."""

DOLLARS_PER_GB_SECOND = 0.0000166667
"""AWS Lambda's price for x86 in us-east-1, the first six billion GB-seconds a month, as of 2026-11."""

DOLLARS_PER_REQUEST = 0.20 / 1e6

S3_LATENCY, S3_PACE = 0.025, 85e6
"""Seconds to the first byte, and bytes a second of one connection, as S3 has them within a region."""

PACES: Mapping[str, tuple[float, float | None]] = {"loopback": (0.0, None), "as S3": (S3_LATENCY, S3_PACE)}
"""Latency and pace, by the name that results have."""

ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Job:
    """What the function is to do. ``renew`` makes the table as it is before; ``rows`` must be in ``table`` after."""

    event: Mapping[str, Any]
    table: str
    rows: int
    renew: Callable[[], None]


def lineitem_job(server: Server, source: str, rows: int) -> Job:
    """A file of lineitem into a new table; the ledger knows no earlier load of it."""

    def renew() -> None:
        quietly = "SET client_min_messages = warning"
        server.forget_loads()
        server.execute(quietly, "DROP TABLE IF EXISTS limited", DDL.format("limited"))
        server.checkpoint()

    return Job({"source": source, "spec": {"table": "limited"}}, "limited", rows, renew)


def measure(
    server: Server, objects: Objects, limiter: Limiter, job: Job, memory: int, *, pace: str, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Seconds, peak (MB) and cold start of the function of so many MB; or how it failed."""
    variables = {**objects.environment, "LOADER_DSN": server.dsn}
    objects.latency, objects.pace = PACES[pace]
    seconds = []
    try:
        job.renew()
        began = time.perf_counter()
        with limiter.start(memory, variables) as function:
            for _ in range(rounds + 1):  # the first is cold: it begins before the process does
                function.runtime.invoke(job.event)
                seconds.append(time.perf_counter() - began)
                if int(server.ask(f"SELECT count(*) FROM {job.table}")) != job.rows:
                    raise SystemExit(f"under {memory} MB: not every row arrived")
                job.renew()
                began = time.perf_counter()
            peak = function.peak()
    except FunctionError as error:
        print(f"limits         {memory:6} MB {pace}: {error}", flush=True)
        return {"failed": str(error)}
    finally:
        objects.latency, objects.pace = PACES["loopback"]
    warm = statistics.median(seconds[1:])
    told = f"{job.rows / warm:11,.0f} rows/s, cold {seconds[0]:.2f} s, peak {peak:.0f} MB"
    print(f"limits         {memory:6} MB {warm:7.2f} s {told}, {pace}", flush=True)
    return {"seconds": warm, "low": min(seconds[1:]), "high": max(seconds[1:]), "cold": seconds[0], "peak": peak}


def cost(seconds: float, memory: int) -> float:
    """Dollars of one invocation, which Lambda counts by the millisecond."""
    return seconds * memory / 1024 * DOLLARS_PER_GB_SECOND + DOLLARS_PER_REQUEST


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
