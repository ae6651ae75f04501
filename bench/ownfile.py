r"""A user's own file by their own spec: rows and bytes a second beside ``psql \copy``, and dollars by Lambda's sizes.

It prints a short table, and publishes nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from typing import Any

from bench import limits
from bench.function import Limiter, limiter
from bench.measure import CommandFailedError, Figure, Run, ratio, run
from bench.objects import BUCKET
from bench.options import LIMITS, Options, OwnFile
from bench.plaincopy import NoWordsError, PlainCopy
from bench.suite import Stand, stand
from loader.core.spec.model import LoadSpec

LIMIT = 3600.0
"""Seconds that one run may take: a user's file may be large."""

MINE, PSQL = "by_loader", "by_psql"

PACE = "as S3"


@dataclass
class Measured:
    """``loaded``: the report of a first load. ``psql``: empty where ``\\copy`` cannot load it, and ``why``. ``equal``:
    whether both tables held the same rows, None where there was one. ``sizes``: by MB, as `limits.measure` gives them;
    ``how`` the function was held to them, or why it could not be."""

    bytes: int
    loaded: dict[str, Any]
    loader: list[Run] = field(default_factory=list)
    psql: list[Run] = field(default_factory=list)
    why: str = ""
    equal: bool | None = None
    sizes: dict[str, Any] = field(default_factory=dict)
    how: str = ""

    @property
    def rows(self) -> int:
        """Records of the file."""
        rows: int = self.loaded["rows_read"]
        return rows


def measure_own(told: Options, own: OwnFile) -> Measured:
    """Measure, and print the table. Raises SystemExit where the loader cannot load the file by its spec."""
    with stand(told) as place:
        bench = _OwnBench(place, own)
        found = bench.compare(told.rounds)
        sizes = [int(part.rpartition("-")[2]) for part in told.parts if part in LIMITS]
        bench.under_limits(found, sizes, told)
    print("\n".join(lines(found, own)), flush=True)
    return found


class _OwnBench:
    """The file in the bucket, and its table, made by the user's statement or by the first load."""

    def __init__(self, place: Stand, own: OwnFile) -> None:
        self._place = place
        self._server = place.server
        self._own = own
        (place.folder / "own").mkdir()
        (place.folder / "own" / own.path.name).symlink_to(own.path)
        self._source = f"s3://{BUCKET}/own/{own.path.name}"
        if own.ddl is not None:
            self._server.execute(own.ddl.format(MINE))
        self._loaded = self._first()
        self._server.execute(f"CREATE TABLE {PSQL} (LIKE {MINE} INCLUDING ALL)")

    def _first(self) -> dict[str, Any]:
        """The report of a load that is not timed: it makes the table where there is none."""
        environment = {**os.environ, **self._place.objects.environment}
        done = subprocess.run(
            [*self._command(), "--json"], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"the loader cannot load it: {done.stderr.strip() or done.stdout.strip()}")
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def _command(self) -> list[str]:
        options = ["--spec", str(self._own.spec), "--table", MINE, "--dsn", self._server.dsn, "--force"]
        return [sys.executable, "-m", "loader", "load", self._source, *options]

    def compare(self, rounds: int) -> Measured:
        """Both, round by round, each into an empty table."""
        found = Measured(self._own.path.stat().st_size, self._loaded)
        try:
            statement = self._plain_copy().statement(PSQL)
        except NoWordsError as reason:
            statement, found.why = "", str(reason)
        for _ in range(rounds):
            found.loader.append(self._run(self._command(), MINE))
            if statement and not found.why:
                try:
                    found.psql.append(self._run(self._psql(statement), PSQL))
                except CommandFailedError as reason:
                    found.why = str(reason)
        if found.psql:
            found.equal = self._server.digest(MINE) == self._server.digest(PSQL)
        return found

    def _plain_copy(self) -> PlainCopy:
        columns = self._server.ask(
            f"SELECT json_agg(attname) FROM pg_attribute WHERE attrelid = '{MINE}'::regclass"
            " AND attnum > 0 AND NOT attisdropped"
        )
        spec = LoadSpec.from_toml(self._own.spec, table=MINE)
        return PlainCopy(self._own.path, spec, json.loads(columns))

    def _psql(self, statement: str) -> list[str]:
        options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", self._server.dsn]
        return [self._server.psql, *options, f"--command={statement}"]

    def _run(self, command: list[str], table: str) -> Run:
        self._server.execute(f"TRUNCATE {table}")
        self._server.checkpoint()
        made = run(command, self._server, environment=self._place.objects.environment, limit=LIMIT)
        print(f"{table:10} {made.seconds:7.2f} s  client {made.client_cpu:6.2f} s  {made.peak:5.0f} MB", flush=True)
        return made

    def under_limits(self, found: Measured, sizes: list[int], told: Options) -> None:
        """The function, at S3's latency and pace, in each of the sizes."""
        holds = limiter(self._server, told.image, told.limiter) if sizes else "not asked for"
        if isinstance(holds, str):
            found.how = holds
            return
        found.how = holds.how
        for memory in sizes:
            found.sizes[str(memory)] = {PACE: self._limited(holds, memory, told.rounds)}

    def _limited(self, holds: Limiter, memory: int, rounds: int) -> dict[str, Any]:
        def renew() -> None:
            self._server.forget_loads()
            self._server.execute(f"TRUNCATE {MINE}")
            self._server.checkpoint()

        spec = {**tomllib.loads(self._own.spec.read_text("utf-8")), "table": MINE}
        kept = int(self._loaded["rows_inserted"])
        job = limits.Job({"source": self._source, "spec": spec}, MINE, kept, renew)
        return limits.measure(self._server, self._place.objects, holds, job, memory, pace=PACE, rounds=rounds)


# --- the table


def lines(found: Measured, own: OwnFile) -> list[str]:
    """What is printed in the end."""
    kept, rejected = found.loaded["rows_inserted"], found.loaded["rows_rejected"]
    told = [
        "",
        f"{own.path.name}: {found.rows:,} records, {found.bytes / 1e6:,.1f} MB; {kept:,} rows, {rejected:,} rejected",
        f"{found.loaded.get('plan') or ''}",
        "",
        f"{'':14}{'rows/s':>12}{'MB/s':>8}{'s':>9}{'client CPU s/M rows':>21}{'peak MB':>9}",
        _line("loader", found.loader, found),
    ]
    if found.psql:
        faster = ratio([each.seconds for each in found.loader], [each.seconds for each in found.psql])
        told += [
            _line(r"psql \copy", found.psql, found),
            f"the loader is {faster.median:.2f} times as fast ({faster.low:.2f} to {faster.high:.2f})",
            "the tables are equal" if found.equal else "the tables DIFFER: " + _difference(rejected),
        ]
    else:
        told.append(rf"psql \copy: {found.why}")
    return [*told, "", *_sizes(found)]


def _line(name: str, runs: list[Run], found: Measured) -> str:
    seconds = Figure.of(each.seconds for each in runs).median
    cpu = Figure.of(each.client_cpu for each in runs).median / max(found.rows, 1) * 1e6
    peak = Figure.of(each.peak for each in runs).median
    rates = f"{found.rows / seconds:12,.0f}{found.bytes / 1e6 / seconds:8,.1f}"
    return f"{name:14}{rates}{seconds:9.2f}{cpu:21.2f}{peak:9.0f}"


def _difference(rejected: int) -> str:
    return "the loader rejected records" if rejected else "compare the spec with psql's options"


def _sizes(found: Measured) -> list[str]:
    if not found.sizes:
        return [f"under Lambda's limits: {found.how}"]
    told = [
        f"as a function, in {found.how}, from S3's latency and pace:",
        f"{'MB':>8}{'rows/s':>12}{'warm s':>9}{'cold s':>9}{'peak MB':>9}{'$ a file':>12}{'$/M rows':>11}{'$/TB':>9}",
    ]
    priced = limits.priced({"rows": found.rows, "bytes": found.bytes, "sizes": found.sizes}, PACE)
    good = [each for each in priced if "failed" not in each]
    told += [_size(each) for each in priced]
    if good:
        told.append(f"cheapest: {min(good, key=lambda each: each['terabyte'])['memory']:,} MB")
    return told


def _size(each: dict[str, Any]) -> str:
    if "failed" in each:
        return f"{each['memory']:8,}  {each['failed']}"
    times = f"{each['rate']:12,.0f}{each['seconds']:9.2f}{each['cold']:9.2f}{each['peak']:9.0f}"
    dollars = limits.cost(each["seconds"], each["memory"])
    return f"{each['memory']:8,}{times}{dollars:12.7f}{each['million']:11.6f}{each['terabyte']:9.2f}"
