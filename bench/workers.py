r"""One object by several processes against one: the ratio, and where the time goes.

    python -m bench.workers [--scale 0.5] [--rounds 3]

TPC-H lineitem from the disk, merged by its key into a table that has every hundredth of its rows, and appended to an
empty one, by ``loader load`` with one worker and with as many as there are cores. Medians of interleaved rounds, the
server on the same machine. ``loading`` is from the first shard's beginning to the last one's end, ``merging`` from
there on; one process inserts while it copies, or copies straight into the table. Checked: the tables are equal.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.measure import Run, ratio, run
from bench.rig import Server, fresh, lineitem, open_server, options
from loader.core.process.cores import available_cores

SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "15min"}

KEY = "l_orderkey, l_linenumber"


def main() -> int:
    told = options(__doc__, scale=0.5)
    cores = available_cores()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-workers-")))
        server = stack.enter_context(open_server(folder, SETTINGS))
        file = lineitem(folder, told.scale)
        print(f"{file.stat().st_size / 1e6:,.0f} MB, {cores} cores", flush=True)
        return max(_compare(server, file, way, cores, told.rounds) for way in ("merge", "append"))


def _compare(server: Server, file: Path, way: str, cores: int, rounds: int) -> int:
    runs: dict[int, list[Run]] = {1: [], cores: []}
    phases: list[dict[str, float]] = []
    digests = set()
    for _ in range(rounds):
        for workers, made in runs.items():
            table = _prepared(server, way, file)
            made.append(_run(server, file, table, way, workers))
            if workers > 1:
                phases.append(_shards(server))
            digests.add(server.digest(table))
            print(f"  {way} by {workers}: {_told(made[-1])}", flush=True)
    for workers, made in runs.items():
        middle = sorted(made, key=lambda each: each.seconds)[len(made) // 2]
        print(f"{way} by {workers}: median {_told(middle)}")
    gain = ratio([each.seconds for each in runs[cores]], [each.seconds for each in runs[1]])
    spent = ", ".join(f"{name} {statistics.median(each[name] for each in phases):.1f} s" for name in phases[0])
    print(f"{way}: {cores} workers are {gain.median:.2f} times as fast ({gain.low:.2f} to {gain.high:.2f}): {spent}")
    if len(digests) > 1:
        print(f"{way}: the tables differ")
    return int(len(digests) > 1)


def _told(made: Run) -> str:
    return f"{made.seconds:.2f} s; CPU {made.client_cpu:.2f} s of the loader, {made.server_cpu:.2f} s of the server"


def _prepared(server: Server, way: str, file: Path) -> str:
    table = fresh(server, "by_loader")
    if way == "merge":
        server.copy(table, file)
        server.execute(
            f"DELETE FROM {table} WHERE l_orderkey % 100 <> 0",
            f"UPDATE {table} SET l_comment = 'was'",
            f"ALTER TABLE {table} ADD PRIMARY KEY ({KEY})",
            f"VACUUM ANALYZE {table}",
        )
    server.execute("CHECKPOINT")
    return table


def _run(server: Server, file: Path, table: str, way: str, workers: int) -> Run:
    command = [sys.executable, "-m", "loader", "load", str(file), "--dsn", server.dsn, "--table", table, "--force"]
    keyed = ["--mode", "merge", "--key", KEY.replace(" ", "")] if way == "merge" else []
    return run([*command, *keyed, "--workers", str(workers)], server, environment={}, limit=600)


def _shards(server: Server) -> dict[str, float]:
    """Of the last load: the seconds of its two phases."""
    newest = server.ask("SELECT max(load_id) FROM loader.loads")
    command = [sys.executable, "-m", "loader", "status", newest, "--json", "--dsn", server.dsn]
    told: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["shards"]
    return {name: told[name] for name in ("loading", "merging")}


if __name__ == "__main__":
    sys.exit(main())
