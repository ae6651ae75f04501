"""The loader against everything that does its job today, in one run on one server.

    python -m bench [--rows 1000000] [--rounds 3] [--scenario NAME,NAME] [--no-peers] [--no-limits]

Every round runs each contender once, one after the other, so that what disturbs one disturbs the others too; figures
are medians, ratios are made round by round. Writes ``bench/results/latest.json``, docs/benchmarks.md and its plots.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import limits, report
from bench.data import DATA
from bench.measure import CommandFailedError, Run, run
from bench.objects import serving, wire_speed
from bench.peers import PEERS, UNAVAILABLE
from bench.rig import Server, open_server
from bench.scenarios import LIMIT, SCENARIOS, Bench, Contender, Scenario
from bench.stages import stage_rates

PACKAGES = ("pyarrow", "pgpq", "psycopg2-binary", "numpy", "boto3")

SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "wal_compression": "off", "checkpoint_timeout": "15min"}
"""The server's, as a small database of production has them; the rest is PostgreSQL's default."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of lineitem; 1,000,000 are 125 MB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scenario", default=",".join(SCENARIOS), help="some of: " + ", ".join(SCENARIOS))
    parser.add_argument("--no-peers", action="store_true", help="only psql beside the loader")
    parser.add_argument("--no-limits", action="store_true", help="not under Lambda's limits")
    parser.add_argument("--results", type=Path, default=Path("bench/results"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    told = parser.parse_args()
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-bench-")))
        server = stack.enter_context(open_server(folder, SETTINGS))
        objects = stack.enter_context(serving(folder))
        results: dict[str, Any] = {"made": _made(server, told), "unavailable": dict(UNAVAILABLE)}
        results["unavailable"] |= {peer.name: why for peer in PEERS if (why := peer.missing())}
        results["peers"] = {peer.name: peer.how for peer in PEERS}
        results["scenarios"] = {
            name: _scenario(server, folder, SCENARIOS[name], told, dict(objects.environment))
            for name in told.scenario.split(",")
        }
        lineitem = DATA["lineitem"].make(folder, told.rows)
        results["wire"] = wire_speed(objects, lineitem.relative_to(folder))
        results["stages"] = stage_rates(lineitem, server)
        if not told.no_limits:
            results["limits"] = limits.measure(server, objects, lineitem, rows=_rows(lineitem))
    results["made"]["seconds"] = round(time.monotonic() - began)
    report.write(results, told.results, told.docs)
    return 0


def _made(server: Server, told: argparse.Namespace) -> dict[str, Any]:
    processor = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "")
    return {
        "at": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {processor or platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "postgresql": server.ask("SHOW server_version"),
        "settings": SETTINGS,
        "packages": {name: version(name) for name in PACKAGES},
        "rows": told.rows,
        "rounds": told.rounds,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text("utf-8").splitlines() if Path(path).exists() else []


def _rows(file: Path) -> int:
    with file.open("rb") as stream:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b"")) - 1


def _scenario(
    server: Server, folder: Path, scenario: Scenario, told: argparse.Namespace, environment: dict[str, str]
) -> dict[str, Any]:
    found: dict[str, Any] = {"what": scenario.what, "data": {}}
    for name in scenario.data:
        data = DATA[name]
        place = folder / f"{scenario.name}-{name}"
        place.mkdir()
        file = data.make(place, int(told.rows * scenario.share))
        bench = Bench(server, folder, data, _rows(file), file)
        found["data"][name] = {"rows": bench.rows, "bytes": file.stat().st_size, "what": data.what}
        found |= _rounds(bench, scenario, told, environment)
        for path in place.rglob("*.csv"):
            path.unlink()
        _forget(bench)
    return found


def _forget(bench: Bench) -> None:
    """What was made for one scenario's file alone."""
    (bench.folder / "ready.bin").unlink(missing_ok=True)
    (bench.folder / "rejects.csv").unlink(missing_ok=True)
    (bench.folder / f"{bench.file.stem}.csv.gz").unlink(missing_ok=True)


def _rounds(bench: Bench, scenario: Scenario, told: argparse.Namespace, environment: dict[str, str]) -> dict[str, Any]:
    runs: dict[str, list[Run]] = {}
    rows: dict[str, int] = {}
    failed: dict[str, str] = {}
    checked = True
    for number in range(told.rounds):
        tables = []
        for contender in _contenders(bench, scenario, told):
            if contender.name in failed or (number and contender.rows < bench.rows):  # the slow ones run once
                continue
            scenario.prepare(bench, contender.table)
            bench.server.execute("CHECKPOINT")
            try:
                made = run(contender.command, bench.server, environment=environment, limit=LIMIT)
            except CommandFailedError as error:
                failed[contender.name] = str(error)
                continue
            runs.setdefault(contender.name, []).append(made)
            rows[contender.name] = contender.rows
            tables += [contender.table] if contender.checked else []
            _tell(scenario.name, contender, made)
        if number == 0:
            checked = len({bench.server.digest(table) for table in tables}) <= 1
    if not checked:
        raise SystemExit(f"{scenario.name}: the tables differ")
    return {
        "equal": checked,
        "failed": failed,
        "rows": rows,
        "runs": {name: [asdict(each) for each in made] for name, made in runs.items()},
    }


def _tell(scenario: str, contender: Contender, made: Run) -> None:
    costs = f"{made.peak:5.0f} MB  server {made.server_cpu:6.2f} s  WAL {made.wal / 1e6:7.1f} MB"
    rate = f"{made.seconds:7.2f} s {contender.rows / made.seconds:11,.0f} rows/s"
    print(f"{scenario:14} {contender.name:24} {rate}  {costs}", flush=True)


def _contenders(bench: Bench, scenario: Scenario, told: argparse.Namespace) -> list[Contender]:
    for table in ("by_loader", "by_psql", "by_upsert", "by_binary"):
        bench.server.execute(
            "SET client_min_messages = warning", f"DROP TABLE IF EXISTS {table}", bench.data.table(table)
        )
    left_out = {peer.name for peer in PEERS} if told.no_peers else set()
    return [each for each in scenario.contenders(bench) if each.name not in left_out]


if __name__ == "__main__":
    sys.exit(main())
