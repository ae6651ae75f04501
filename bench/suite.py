"""The suite's run: each part that was asked for, on one server, one after the other."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench import limits
from bench.circumstances import circumstances
from bench.data import DATA, one_record
from bench.function import limiter
from bench.measure import CommandFailedError, Run, run
from bench.objects import BUCKET, Objects, serving, wire_speed
from bench.options import LIMITS, STAGES, Options
from bench.peers import PEERS, UNAVAILABLE
from bench.rig import Server
from bench.scenarios import LIMIT, SCENARIOS, Bench, Contender, Scenario
from bench.servers import opened
from bench.shapes import EVERY
from bench.stages import stage_rates
from bench.starts import start_costs


@dataclass(frozen=True, slots=True)
class Stand:
    """Where everything is while the suite runs: ``folder`` is served as the bucket."""

    folder: Path
    server: Server
    objects: Objects
    told: Options

    def lineitem(self) -> Path:
        """The file that stages and limits are measured with, made when it is first asked for."""
        folder = self.folder / "lineitem"
        found = list(folder.glob("**/*.csv"))
        return found[0] if found else DATA["lineitem"].make(folder, self.told.rows)


@contextlib.contextmanager
def stand(told: Options) -> Iterator[Stand]:
    """A folder, a server and a bucket, which are gone after the body."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-bench-")))
        server = stack.enter_context(opened(told.server, folder))
        yield Stand(folder, server, stack.enter_context(serving(folder)), told)


def run_parts(told: Options) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each part's name and what was found, as soon as it is through."""
    with stand(told) as place:
        made = circumstances(place.server, told)
        for name in told.parts:
            began = time.monotonic()
            part = _part(place, name)
            yield name, {"made": {**made, "seconds": round(time.monotonic() - began)}, **part}


def _part(place: Stand, name: str) -> dict[str, Any]:
    if name == STAGES:
        return {"found": _stages(place)}
    if name in LIMITS:
        return {"found": _limits(place, int(name.rpartition("-")[2]))}
    scenario = SCENARIOS[name]
    return {"found": _scenario(place, scenario), **(_peers(place) if scenario.peers and place.told.peers else {})}


def _peers(place: Stand) -> dict[str, Any]:
    absent = {peer.name: why for peer in PEERS if (why := peer.unable(own=place.server.own))}
    return {"peers": {peer.name: peer.how for peer in PEERS}, "unavailable": {**UNAVAILABLE, **absent}}


# --- stages, and the function under limits


def _stages(place: Stand) -> dict[str, Any]:
    file = place.lineitem()
    return {
        "rows": records(file),
        "wire": wire_speed(place.objects, file.relative_to(place.folder)),
        "stages": stage_rates(file, place.server),
        "starts": start_costs(),
    }


def _limits(place: Stand, memory: int) -> dict[str, Any]:
    holds = limiter(place.server, place.told.image, place.told.limiter)
    if isinstance(holds, str):
        return {"unavailable": holds}
    file = place.lineitem()
    rows = records(file)
    job = limits.lineitem_job(place.server, f"s3://{BUCKET}/{file.relative_to(place.folder)}", rows)
    paces = {pace: limits.measure(place.server, place.objects, holds, job, memory, pace=pace) for pace in limits.PACES}
    return {"how": holds.how, "rows": rows, "bytes": file.stat().st_size, "cores": os.cpu_count(), "paces": paces}


def records(file: Path) -> int:
    """Lines of a file after its header."""
    with file.open("rb") as stream:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b"")) - 1


# --- a scenario


def _scenario(place: Stand, scenario: Scenario) -> dict[str, Any]:
    found: dict[str, Any] = {"what": scenario.what, "data": {}}
    if scenario.pinned and (why := _unpinnable(place.server)):
        return {**found, **_nothing(f"{scenario.name}: {why}")}
    for name in scenario.data:
        data = EVERY[name]
        folder = place.folder / f"{scenario.name}-{name}"
        folder.mkdir()
        asked = scenario.rows(data, place.told.rows)
        file = data.make(folder, asked)
        bench = Bench(place.server, place.folder, data, records(file) if name == "lineitem" else asked, file)
        found["data"][name] = {"rows": bench.rows, "bytes": file.stat().st_size, "what": data.what}
        with _cores(place.server, pinned=scenario.pinned) as prefix:
            found |= _rounds(place, bench, scenario, prefix)
        shutil.rmtree(folder)
        _forget(bench)
    return found


def _nothing(why: str) -> dict[str, Any]:
    return {"equal": True, "failed": {"all": why}, "rows": {}, "runs": {}, "starts": {}}


def _forget(bench: Bench) -> None:
    """What was made for one scenario's file alone, and the tables."""
    for path in bench.folder.glob(f"{bench.file.stem}*.*"):
        path.unlink()
    tables = bench.server.ask(
        "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables"
        " WHERE schemaname = current_schema AND tablename LIKE 'by\\_%'"
    )
    if tables:
        bench.server.execute(f"DROP TABLE {tables}")


def _rounds(place: Stand, bench: Bench, scenario: Scenario, prefix: tuple[str, ...]) -> dict[str, Any]:
    runs: dict[str, list[Run]] = {}
    starts: dict[str, list[Run]] = {}
    rows: dict[str, int] = {}
    failed: dict[str, str] = {}
    for number in range(place.told.rounds):
        tables = []
        for contender in _contenders(bench, scenario, peers=place.told.peers):
            if contender.name in failed or (number and contender.rows < bench.rows):  # the slow ones run once
                continue
            try:
                made = _run(place, bench, scenario, contender, prefix)
            except CommandFailedError as error:
                failed[contender.name] = str(error)
                print(f"{scenario.name:18} {contender.name:24} {error}", flush=True)
                continue
            runs.setdefault(contender.name, []).append(made)
            rows[contender.name] = contender.rows
            tables += [contender.table] if contender.checked else []
        if number == 0 and len({bench.server.digest(table) for table in tables}) > 1:
            raise SystemExit(f"{scenario.name}: the tables differ")
        if scenario.starts is not None:
            first = replace(bench, file=one_record(bench.file, bench.folder), rows=1)
            for contender in scenario.starts(first):
                starts.setdefault(contender.name, []).append(_run(place, first, scenario, contender, prefix))
    return {
        "equal": True,
        "failed": failed,
        "rows": rows,
        "runs": {name: [asdict(each) for each in made] for name, made in runs.items()},
        "starts": {name: [asdict(each) for each in made] for name, made in starts.items()},
    }


def _contenders(bench: Bench, scenario: Scenario, *, peers: bool) -> list[Contender]:
    left_out = set() if peers else {peer.name for peer in PEERS}
    return [each for each in scenario.contenders(bench) if each.name not in left_out]


def _run(place: Stand, bench: Bench, scenario: Scenario, contender: Contender, prefix: tuple[str, ...]) -> Run:
    """Once, on a table that is as it was before."""
    scenario.prepare(bench, contender.table)
    bench.server.checkpoint()
    environment = {**place.objects.environment, **contender.environment}
    made = run([*prefix, *contender.command], bench.server, environment=environment, limit=LIMIT)
    _tell(scenario.name, contender, made)
    return made


def _tell(scenario: str, contender: Contender, made: Run) -> None:
    costs = f"{made.peak:5.0f} MB  client {made.client_cpu:6.2f} s"
    if made.server_cpu is not None:
        costs += f"  server {made.server_cpu:6.2f} s"
    if made.wal is not None:
        costs += f"  WAL {made.wal / 1e6:7.1f} MB"
    rate = f"{made.seconds:7.2f} s {contender.rows / made.seconds:11,.0f} rows/s"
    print(f"{scenario:18} {contender.name:24} {rate}  {costs}", flush=True)


# --- a core each


def _unpinnable(server: Server) -> str | None:
    """Why server and client cannot have a core each, if so."""
    if not server.host.pins:
        return "the server's processes cannot be kept to a core"
    if len(os.sched_getaffinity(0)) < 2:
        return "there is one core"
    return None if shutil.which("taskset") else "there is no taskset on this machine"


@contextlib.contextmanager
def _cores(server: Server, *, pinned: bool) -> Iterator[tuple[str, ...]]:
    """Gives what to put before a client's command. The bucket, in this process, stays free to run on either core."""
    if not pinned:
        yield ()
        return
    cores = sorted(os.sched_getaffinity(0))
    server.host.pin(cores[:1])
    try:
        yield "taskset", "--cpu-list", str(cores[1])
    finally:
        server.host.pin(cores)
