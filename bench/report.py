"""From results to a page that is understood at a glance: benchmarks.md, its plots, and the JSON behind them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.drawing import bars
from bench.figures import (
    ARROW,
    CEILING,
    COPY,
    LOADER,
    UNKNOWN,
    Found,
    by_million,
    faster,
    median,
    rival,
    table,
    times,
    values,
    without_start,
    written,
)
from bench.limits import DOLLARS_PER_GB_SECOND, priced
from bench.measure import Figure
from bench.targets import targets

Results = dict[str, Any]


def write(results: Results, folder: Path, docs: Path) -> Path:
    """``latest.json`` into ``folder``; benchmarks.md and its plots into ``docs``. Gives the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    plots = docs / "benchmarks"
    plots.mkdir(parents=True, exist_ok=True)
    page = docs / "benchmarks.md"
    page.write_text("\n\n".join(_page(results, plots)) + "\n", "utf-8")
    return page


def _page(results: Results, plots: Path) -> Iterable[str]:
    scenarios = results["scenarios"]
    yield "# Benchmarks"
    yield from _preface(results)
    yield "## What was asked, and what was reached"
    yield "The figures of issue 13. A ratio is met by its median; memory is met by the highest of all runs."
    yield table(("", "asked", "reached", "met"), [each.row for each in targets(results)])
    if "staging" in scenarios:
        yield from _staging(results, plots)
    yield from _scenarios(scenarios, plots)
    yield from _lanes(scenarios)
    yield from _elsewhere(results["elsewhere"])
    yield from _stages(results.get("stages"))
    yield from _limits(results.get("limits"), plots)
    yield from _absent(results)
    yield from _parts(results)


def _preface(results: Results) -> Iterable[str]:
    made = results["made"]
    dates = sorted({part["at"] for part in results["parts"].values()})
    rounds = sorted({part["rounds"] for part in results["parts"].values()})
    server = "on the same machine" if made["server"] == "embedded" else f"({made['server']})"
    yield (
        f"Made by `make bench` on {' to '.join(dict.fromkeys((dates[0], dates[-1])))}: {made['machine']}, PostgreSQL "
        f"{made['postgresql']} {server}, Python {made['python']}, kernel {made['kernel']}, "
        f"{'–'.join(dict.fromkeys((str(rounds[0]), str(rounds[-1]))))} interleaved rounds. The loader reads from an "
        "S3-protocol server on the loopback interface, the others from a local file. Every run is a process of its "
        "own, its start-up included. Figures are medians, with the lowest and highest in brackets; a ratio is made "
        "round by round, and says how many times faster the loader is. The machine is shared and noisy: the ratios "
        f"mean something, the seconds little. CPU of the server: {made['cpu_from']}."
    )
    if made["settings"]:
        listed = ", ".join(f"`{name} = {value}`" for name, value in made["settings"].items())
        yield f"Server settings beside PostgreSQL's defaults: {listed}."


def _staging(results: Results, plots: Path) -> Iterable[str]:
    scenario = results["scenarios"]["staging"]
    rates = {
        name: Figure.of(scenario["rows"][name] / each for each in values(scenario, name, "seconds"))
        for name in scenario["runs"]
    }
    ranked = sorted(rates, key=lambda name: -rates[name].median)
    (plots / "staging.svg").write_text(
        bars([(name, rates[name].median, f"{rates[name].median:,.0f} rows/s") for name in ranked], LOADER), "utf-8"
    )
    data = scenario["data"]["lineitem"]
    yield "## Into an UNLOGGED table, against everybody"
    yield f"{data['what']}; {data['rows']:,} rows, {data['bytes'] / 1e6:,.0f} MB."
    yield "![rows a second](benchmarks/staging.svg)"
    head = (
        *("", "rows", "rows/s", "MB/s", "loader is faster by", "client CPU s/M rows", "without start-up"),
        *("server CPU s/M rows", "peak MB"),
    )
    yield table(head, [_contender(scenario, name, data["bytes"] / data["rows"]) for name in ranked])
    if "stages" in results:
        yield f"The S3-protocol server alone gives {results['stages']['wire'] / 1e6:,.0f} MB/s to four connections."
    yield (
        "Ready-made binary COPY is what one backend of the server can take: nothing was read, parsed, checked. The "
        "start-up is a load of one record, measured in the same rounds."
    )


def _contender(scenario: Found, name: str, bytes_of_row: float) -> tuple[str, ...]:
    rate = scenario["rows"][name] / (median(scenario, name, "seconds") or 1)
    ratio = None if name == LOADER else faster(scenario, name)
    return (
        f"**{name}**" if name == LOADER else name,
        f"{scenario['rows'][name]:,}",
        f"{rate:,.0f}",
        f"{rate * bytes_of_row / 1e6:,.0f}",
        times(ratio) if ratio else "",
        written(by_million(scenario, name, "client_cpu"), ".2f"),
        written(without_start(scenario, name), ".2f"),
        written(by_million(scenario, name, "server_cpu"), ".2f"),
        written(median(scenario, name, "peak"), ",.0f"),
    )


SCENARIO_HEAD = (
    *("", "", "rows", "MB", "rows/s", "against", "its s", "faster by", "client / server CPU s/M rows"),
    *("WAL MB, ours / theirs", "peak MB"),
)


def _scenarios(scenarios: dict[str, Found], plots: Path) -> Iterable[str]:
    measured = {name: found for name, found in scenarios.items() if LOADER in found["runs"] and name != "staging"}
    if not measured:
        return
    ratios = {name: faster(found, other) for name, found in measured.items() if (other := rival(found))}
    drawn = [(name, each.median, f"{each.median:.2f} ×") for name, each in ratios.items() if each]
    (plots / "scenarios.svg").write_text(bars(drawn, "", line=1.0), "utf-8")
    yield "## Tables in every state, and files of every kind"
    yield "![times faster than psql's customary way](benchmarks/scenarios.svg)"
    yield table(SCENARIO_HEAD, [_scenario(name, found) for name, found in measured.items()])
    yield "Wherever both load the same records, the tables were equal, row for row, in the first round."


def _scenario(name: str, scenario: Found) -> tuple[str, ...]:
    other = rival(scenario)
    ratio = faster(scenario, other) if other else None
    rows = scenario["rows"][LOADER]
    wal = [median(scenario, each, "wal") if each else 0 for each in (LOADER, other)]
    cpu = [written(by_million(scenario, LOADER, each), ".2f") for each in ("client_cpu", "server_cpu")]
    return (
        name,
        scenario["what"],
        f"{rows:,}",
        f"{sum(data['bytes'] for data in scenario['data'].values()) / 1e6:,.0f}",
        f"{rows / (median(scenario, LOADER, 'seconds') or 1):,.0f}",
        f"`{other}`" if other else "",
        written(median(scenario, other, "seconds"), ".1f") if other else "",
        times(ratio) if ratio else "",
        " / ".join(cpu),
        " / ".join(UNKNOWN if each is None else f"{each / 1e6:,.0f}" for each in wal),
        written(median(scenario, LOADER, "peak"), ",.0f"),
    )


def _lanes(scenarios: dict[str, Found]) -> Iterable[str]:
    """The kernel beside the Arrow lane, wherever both ran."""
    both = {name: found for name, found in scenarios.items() if {LOADER, ARROW} <= set(found["runs"])}
    if not both:
        return
    yield "## The kernel beside the Arrow lane"
    yield "The same command with `LOADER_KERNEL=off`, in the same rounds."
    head = (
        *("", "with the kernel, against `\\copy`", "without", "binary COPY against `\\copy`"),
        *("client CPU s/M rows, with / without", "start-up left out, with / without", "peak MB, with / without"),
    )
    yield table(head, [_lane(name, found) for name, found in both.items()])


def _lane(name: str, scenario: Found) -> tuple[str, ...]:
    ratios = [faster(scenario, COPY, each) for each in (LOADER, ARROW, CEILING)]
    return (
        name,
        *(times(each) if each else "" for each in ratios),
        " / ".join(written(by_million(scenario, each, "client_cpu"), ".2f") for each in (LOADER, ARROW)),
        " / ".join(written(without_start(scenario, each), ".2f") for each in (LOADER, ARROW)),
        " / ".join(written(median(scenario, each, "peak"), ",.0f") for each in (LOADER, ARROW)),
    )


def _elsewhere(servers: dict[str, Any]) -> Iterable[str]:
    """Scenarios on other servers than the embedded one."""
    for about, found in servers.items():
        made = found["made"]
        yield f"## Against another server: {about}"
        yield f"PostgreSQL {made['postgresql']}. CPU of the server: {made['cpu_from']}."
        measured = {name: each for name, each in found["scenarios"].items() if LOADER in each["runs"]}
        yield table(SCENARIO_HEAD, [_scenario(name, each) for name, each in measured.items()])


def _stages(found: dict[str, Any] | None) -> Iterable[str]:
    if not found:
        return
    rows = found["rows"]
    yield "## Where the time goes"
    yield "CPU of one core, one stage of the Arrow lane after the other, lineitem:"
    yield table(
        ("stage", "CPU s/M rows", "M rows/s of one core"),
        [
            (name, f"{spent / rows * 1e6:.2f}", f"{rows / spent / 1e6:.2f}" if spent else "")
            for name, spent in found["stages"].items()
        ],
    )
    yield "What an import costs, in a process of its own (medians of five; the interpreter's own start is in it):"
    yield table(
        ("", "CPU s", "of it a bare interpreter", "peak MB", "imports pyarrow"),
        [
            (
                f"`import {module}`",
                f"{each['cpu']:.2f}",
                f"{each['bare_cpu']:.2f}",
                f"{each['peak']:.0f}",
                "yes" if each["pyarrow"] else "no",
            )
            for module, each in found["starts"].items()
        ],
    )


PACES = (("loopback", "From the loopback interface"), ("as S3", "With 25 ms and 85 MB/s a connection, as S3"))


def _limits(limits: dict[str, Any] | None, plots: Path) -> Iterable[str]:
    if limits is None:
        return
    yield "## Under Lambda's limits"
    if "unavailable" in limits:
        yield f"Not measured: {limits['unavailable']}."
        return
    yield (
        f"The function under its real runtime client in {limits['how']}: so much memory, no swap, and its share of a "
        f"core (1,769 MB = 1), {limits['cores']} cores at most, which it shares with the server here. "
        f"{limits['rows']:,} rows of lineitem a file. Cold: from the start of the process or container to the first "
        "response, with the load; Lambda lets a function have more of a core while it starts. Warm: medians of three. "
        f"${DOLLARS_PER_GB_SECOND} a GB-second."
    )
    for pace, what in PACES:
        yield f"### {what}"
        yield from _sizes(priced(limits, pace), plots, f"limits-{pace.replace(' ', '-').lower()}.svg")


def _sizes(told: list[dict[str, Any]], plots: Path, plot: str) -> Iterable[str]:
    head = ("MB", "rows/s", "cold s", "warm s", "peak MB", "GB-s/M rows", "$/M rows", "$/TB")
    yield table(head, [_priced_row(each) for each in told])
    good = [each for each in told if "failed" not in each]
    if not good:
        return
    cheapest, fastest = min(good, key=lambda each: each["terabyte"]), max(good, key=lambda each: each["rate"])
    yield f"Cheapest: {cheapest['memory']:,} MB. Fastest: {fastest['memory']:,} MB."
    drawn = [
        (f"{each['memory']:,} MB", each["rate"], f"{each['rate']:,.0f} rows/s, ${each['terabyte']:.2f}/TB")
        for each in good
    ]
    (plots / plot).write_text(bars(drawn, ""), "utf-8")
    yield f"![rows a second by size](benchmarks/{plot})"


def _priced_row(each: dict[str, Any]) -> tuple[str, ...]:
    if "failed" in each:
        return (f"{each['memory']:,}", each["failed"], "", "", "", "", "", "")
    return (
        f"{each['memory']:,}",
        f"{each['rate']:,.0f}",
        f"{each['cold']:.2f}",
        f"{each['seconds']:.2f}",
        f"{each['peak']:.0f}",
        f"{each['gb_seconds']:.2f}",
        f"{each['million']:.6f}",
        f"{each['terabyte']:.2f}",
    )


def _absent(results: Results) -> Iterable[str]:
    yield "## How each runs, and who could not"
    yield table(("", "by which of its ways"), list(results["peers"].items()))
    failed = {
        f"{name} ({scenario})": why
        for scenario, found in results["scenarios"].items()
        for name, why in found["failed"].items()
    }
    told = results["unavailable"] | failed
    if results["missing"]:
        told[", ".join(results["missing"])] = "not run for this page"
    if told:
        yield table(("not measured", "why"), list(told.items()))


def _parts(results: Results) -> Iterable[str]:
    """When and how often each part ran."""
    yield "## The parts of this page"
    yield "All were made by the same code on the same machine; commits that differ change documents alone."
    rows = [
        (name, part["at"], part["commit"], str(part["rounds"]), str(part["seconds"]))
        for name, part in results["parts"].items()
    ]
    yield table(("part", "date", "commit", "rounds", "s"), rows)
