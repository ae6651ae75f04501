"""What was asked of the loader, and what it reached: the first table of the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.figures import CEILING, COPY, LOADER, UPSERT, faster, rival, times, without_start
from bench.limits import priced
from bench.scenarios import LARGE
from bench.shapes import SHAPES

Results = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """``reached`` in words; ``met`` is None where nobody measured it."""

    what: str
    asked: str
    reached: str
    met: bool | None

    @property
    def row(self) -> tuple[str, str, str, str]:
        """Of the page's table."""
        return self.what, self.asked, self.reached, {True: "yes", False: "**no**", None: ""}[self.met]


NOT_MEASURED = "not measured"

SPEEDS: tuple[tuple[str, str, str | None, float], ...] = (
    ("append", "append {rows} rows of lineitem, from S3, against `psql \\copy` of the local file", COPY, 1.3),
    ("append-large", "the same, {large} rows", COPY, 1.5),
    ("append-large", "the same, against ready-made binary COPY", CEILING, 0.93),
    ("created-large", "{large} rows into a table that the load creates, against `\\copy`", None, 1.9),
    ("two-streams", "staging by two streams until the merge begins, against `\\copy`", COPY, 1.7),
    ("first", "first load into a keyed table, against `\\copy` and `ON CONFLICT`", UPSERT, 2.8),
    ("merge-new", "all rows new, the same comparison", UPSERT, 2.2),
    ("merge-same", "the same file again, the same comparison", UPSERT, 3.5),
    ("wide", "wide text, against `\\copy`", COPY, 1.0),
    ("narrow", "narrow numbers, against `\\copy`", COPY, 1.0),
    ("gzip", "gzip, against `\\copy`", None, 1.0),
    ("transforms", "transforms, against `\\copy`", COPY, 1.0),
    ("rejects", "rejects, against `\\copy`", COPY, 1.0),
    *((shape.name, f"{shape.what}, against `\\copy`", COPY, shape.asked) for shape in SHAPES),
    ("staging", "against ADBC", "adbc", 3.0),
    ("staging", "against Polars", "polars", 3.0),
    ("staging", "against pgloader", "pgloader", 30.0),
)
"""Scenario, what it is about, whom the loader is compared with (None: psql's way there), and how many times faster it
has to be. ``{rows}`` and ``{large}``: how many the suite was asked for, and that of its large scenarios."""


def targets(results: Results) -> Iterator[Target]:
    """All of them, in the order of the page."""
    for scenario, what, other, asked in SPEEDS:
        yield _speed(results, scenario, what, other, asked)
    yield _client_cpu(results)
    yield from _memory(results)
    yield from _sizes(results)
    yield _dollars(results)
    yield from _handler(results)


def _speed(results: Results, name: str, what: str, other: str | None, asked: float) -> Target:
    asked_rows = results["made"]["rows"]
    what = what.replace("{rows}", _millions(asked_rows)).replace("{large}", _millions(asked_rows * LARGE))
    scenario = results["scenarios"].get(name)
    against = other or (rival(scenario) if scenario else None)
    found = faster(scenario, against) if scenario and against else None
    if found is None:
        return Target(what, f"≥ {asked:g} ×", NOT_MEASURED, None)
    return Target(what, f"≥ {asked:g} ×", times(found), found.median >= asked)


def _millions(rows: float) -> str:
    return f"{rows / 1e6:g} M"


def _client_cpu(results: Results) -> Target:
    scenario = results["scenarios"].get("append")
    found = without_start(scenario, LOADER) if scenario else None
    what = "client CPU, s per million rows, start-up left out"
    if found is None:
        return Target(what, "≤ 0.40", NOT_MEASURED, None)
    return Target(what, "≤ 0.40", f"{found:.2f}", found <= 0.40)


CLEAN = ("staging", "append", "append-large")


def _memory(results: Results) -> Iterator[Target]:
    """The highest of all runs."""
    peaks = {
        name: max(each["peak"] for each in found["runs"][LOADER])
        for name, found in results["scenarios"].items()
        if found["runs"].get(LOADER)
    }
    yield _peak("peak resident memory, clean load", 120, {name: peaks[name] for name in CLEAN if name in peaks})
    yield _peak("peak resident memory, any load", 200, peaks)


def _peak(what: str, asked: int, peaks: dict[str, float]) -> Target:
    if not peaks:
        return Target(what, f"≤ {asked} MB", NOT_MEASURED, None)
    worst = max(peaks, key=lambda name: peaks[name])
    return Target(what, f"≤ {asked} MB", f"{peaks[worst]:.0f} MB ({worst})", peaks[worst] <= asked)


def _sizes(results: Results) -> Iterator[Target]:
    """Lambda's small sizes; of the smallest, that it runs at all."""
    found = {each["memory"]: each for each in _priced(results)}
    for memory, asked in ((128, 0), (256, 300_000), (512, 600_000)):
        wanted = f"≥ {asked:,} rows/s" if asked else "runs"
        what = f"Lambda, {memory} MB"
        if memory not in found:
            yield Target(what, wanted, NOT_MEASURED, None)
        elif "failed" in found[memory]:
            yield Target(what, wanted, f"failed: {found[memory]['failed']}", met=False)
        else:
            rate = found[memory]["rate"]
            yield Target(what, wanted, f"{rate:,.0f} rows/s", rate >= asked)


def _dollars(results: Results) -> Target:
    good = [each for each in _priced(results) if "failed" not in each]
    what = "dollars per TB at the cheapest size"
    if not good:
        return Target(what, "≤ 0.12", NOT_MEASURED, None)
    best = min(good, key=lambda each: each["terabyte"])
    return Target(what, "≤ 0.12", f"{best['terabyte']:.2f} ({best['memory']:,} MB)", best["terabyte"] <= 0.12)


def _priced(results: Results) -> list[dict[str, Any]]:
    """By size, from the loopback interface."""
    limits = results.get("limits") or {}
    return priced(limits, "loopback") if "sizes" in limits else []


def _handler(results: Results) -> Iterator[Target]:
    """The interpreter's own start is in it."""
    found = results.get("stages", {}).get("starts", {}).get("loader.handler")
    if found is None:
        yield Target("`import loader.handler`, CPU", "≤ 0.20 s", NOT_MEASURED, None)
        yield Target("pyarrow imported by it", "no", NOT_MEASURED, None)
        return
    yield Target("`import loader.handler`, CPU", "≤ 0.20 s", f"{found['cpu']:.2f} s", found["cpu"] <= 0.20)
    yield Target("pyarrow imported by it", "no", "yes" if found["pyarrow"] else "no", not found["pyarrow"])
