"""From results to a page that is understood at a glance: docs/benchmarks.md, its plots, and the JSON behind them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bench.limits import DOLLARS_PER_GB_SECOND, priced
from bench.measure import Figure, ratio

LOADER, COPY, UPSERT, CEILING = "loader", r"psql \copy", r"psql \copy, ON CONFLICT", "binary COPY, ready-made"


def write(results: dict[str, Any], folder: Path, docs: Path) -> None:
    """``latest.json`` into ``folder``; benchmarks.md and its plots into ``docs``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    plots = docs / "benchmarks"
    plots.mkdir(parents=True, exist_ok=True)
    (docs / "benchmarks.md").write_text("\n\n".join(_page(results, plots)) + "\n", "utf-8")


def _page(results: dict[str, Any], plots: Path) -> Iterable[str]:
    made, scenarios = results["made"], results["scenarios"]
    yield "# Benchmarks"
    yield (
        f"Made by `make bench` on {made['at']}: {made['machine']}, PostgreSQL {made['postgresql']} on the same "
        f"machine, Python {made['python']}, {made['rounds']} interleaved rounds. The loader reads from an S3-protocol "
        "server on the loopback interface, the others from a local file. Figures are medians, with the lowest and "
        "highest in brackets; a ratio is made round by round, and says how many times faster the loader is. The "
        "machine is shared and noisy: the ratios mean something, the seconds little."
    )
    yield "Server settings beside PostgreSQL's defaults: " + _listed(
        f"`{k} = {v}`" for k, v in made["settings"].items()
    )
    yield from _targets(results)
    if "staging" in scenarios:
        yield from _staging(results, plots)
    yield from _scenarios(scenarios, plots)
    yield from _stages(results)
    yield from _limits(results.get("limits"), plots)
    yield from _absent(results)


def _values(scenario: dict[str, Any], name: str, figure: str) -> list[float]:
    return [each[figure] for each in scenario["runs"].get(name, [])]


def _faster(scenario: dict[str, Any], other: str) -> Figure | None:
    """How many times faster the loader is, by the row."""
    ours, theirs = _values(scenario, LOADER, "seconds"), _values(scenario, other, "seconds")
    if not ours or not theirs:
        return None
    share = scenario["rows"][LOADER] / scenario["rows"][other]
    if len(theirs) < len(ours):
        ours = sorted(ours)[len(ours) // 2 : len(ours) // 2 + 1] * len(theirs)
    return ratio([each / share for each in ours], theirs)


def _targets(results: dict[str, Any]) -> Iterable[str]:
    scenarios = results["scenarios"]
    lines: list[tuple[str, str, str]] = []

    def faster(name: str, other: str, what: str, asked: float) -> None:
        found = _faster(scenarios[name], other) if name in scenarios else None
        if found is not None:
            lines.append((what, f"≥ {asked:g} ×", _times(found)))

    faster("staging", COPY, r"into an UNLOGGED table, against `psql \copy` of the local file", 1.7)
    faster("staging", "adbc", "the same against ADBC", 2.2)
    faster("staging", "pgloader", "the same against pgloader", 30)
    if "staging" in scenarios:
        ours, theirs = (_values(scenarios["staging"], name, "server_cpu") for name in (LOADER, COPY))
        share = Figure.of(our / their for our, their in zip(ours, theirs, strict=True))
        lines.append((r"server CPU for a row, of that of `psql \copy`", "≤ 0.65", f"{share.median:.2f}"))
    faster("first", UPSERT, r"first load into an empty keyed table, against `\copy` and `ON CONFLICT`", 2.5)
    faster("merge-new", UPSERT, "all-new rows into a filled keyed table, the same comparison", 1.5)
    faster("merge-same", UPSERT, "the same file again, nothing changed, the same comparison", 3.5)
    if "merge-same" in scenarios:
        ours, theirs = (_values(scenarios["merge-same"], name, "wal") for name in (LOADER, UPSERT))
        lines.append(("its WAL, of that of the customary way", "≤ 2 %", f"{sum(ours) / sum(theirs):.2%}"))
    peaks = [each["peak"] for found in scenarios.values() for each in found["runs"].get(LOADER, [])]
    lines.append(("peak resident memory of any run", "≤ 220 MB", f"{max(peaks):.0f} MB"))
    small = (results.get("limits") or {}).get("sizes", {}).get("256", {}).get("loopback", {})
    if small:
        said = small.get("failed") or f"yes, {small['peak']:.0f} MB"
        lines.append(("runs under a hard 256 MB", "yes", said))
    yield "## What was asked, and what was reached"
    yield _table(("", "asked", "reached"), lines)


def _staging(results: dict[str, Any], plots: Path) -> Iterable[str]:
    scenario = results["scenarios"]["staging"]
    rates = {
        name: Figure.of(scenario["rows"][name] / each for each in _values(scenario, name, "seconds"))
        for name in scenario["runs"]
    }
    ranked = sorted(rates, key=lambda name: -rates[name].median)
    (plots / "staging.svg").write_text(
        _bars([(name, rates[name].median, f"{rates[name].median:,.0f} rows/s") for name in ranked], LOADER), "utf-8"
    )
    yield "## Into an UNLOGGED table, against everybody"
    data = scenario["data"]["lineitem"]
    yield f"{data['what']}; {data['rows']:,} rows, {data['bytes'] / 1e6:,.0f} MB."
    yield "![rows a second](benchmarks/staging.svg)"
    rows = []
    for name in ranked:
        count = scenario["rows"][name]
        megabytes = data["bytes"] / data["rows"] * count / 1e6
        median = {
            figure: Figure.of(_values(scenario, name, figure)).median
            for figure in ("seconds", "client_cpu", "server_cpu", "peak", "wal")
        }
        faster = _faster(scenario, name)
        rows.append(
            (
                f"**{name}**" if name == LOADER else name,
                f"{count:,}",
                f"{rates[name].median:,.0f}",
                f"{megabytes / median['seconds']:,.0f}",
                "" if name == LOADER or faster is None else _times(faster),
                f"{median['client_cpu'] / count * 1e6:.2f}",
                f"{median['server_cpu'] / count * 1e6:.2f}",
                f"{median['peak']:,.0f}",
            )
        )
    head = (
        "",
        "rows",
        "rows/s",
        "MB/s",
        "loader is faster by",
        "client CPU s/M rows",
        "server CPU s/M rows",
        "peak MB",
    )
    yield _table(head, rows)
    yield (
        f"The S3-protocol server alone gives {results['wire'] / 1e6:,.0f} MB/s to four connections that do nothing "
        "with it. Ready-made binary COPY is what one backend of the server can take: nothing was read, parsed, checked."
    )


def _scenarios(scenarios: dict[str, Any], plots: Path) -> Iterable[str]:
    rows, bars = [], []
    for name, scenario in scenarios.items():
        if LOADER not in scenario["runs"] or name == "staging":
            continue
        other = next((each for each in scenario["runs"] if each.startswith(("psql", "gzip"))), None)
        faster = _faster(scenario, other) if other else None
        figures = [
            Figure.of(_values(scenario, LOADER, each)).median for each in ("seconds", "server_cpu", "peak", "wal")
        ]
        count = scenario["rows"][LOADER]
        theirs = Figure.of(_values(scenario, other, "wal")).median if other else 0
        rows.append(
            (
                name,
                scenario["what"],
                f"{count / figures[0]:,.0f}",
                f"`{other}`" if other else "",
                _times(faster) if faster else "",
                f"{figures[1] / count * 1e6:.2f}",
                f"{figures[3] / 1e6:,.0f} / {theirs / 1e6:,.0f}",
                f"{figures[2]:,.0f}",
            )
        )
        if faster:
            bars.append((name, faster.median, f"{faster.median:.2f} ×"))
    if not rows:
        return
    (plots / "scenarios.svg").write_text(_bars(bars, "", line=1.0), "utf-8")
    yield "## Tables in every state, and files of every kind"
    yield "![times faster than psql's customary way](benchmarks/scenarios.svg)"
    head = ("", "", "rows/s", "against", "faster by", "server CPU s/M rows", "WAL MB, ours / theirs", "peak MB")
    yield _table(head, rows)
    yield "Wherever both load the same records, the tables were equal, row for row, in the first round."


def _stages(results: dict[str, Any]) -> Iterable[str]:
    stages = results.get("stages")
    if not stages:
        return
    rows = results["made"]["rows"]
    yield "## Where the time goes"
    yield "CPU of one core, one stage after the other, lineitem:"
    yield _table(
        ("stage", "CPU s/M rows", "M rows/s of one core"),
        [
            (name, f"{spent / rows * 1e6:.2f}", f"{rows / spent / 1e6:.2f}" if spent else "")
            for name, spent in stages.items()
        ],
    )


def _limits(limits: dict[str, Any] | None, plots: Path) -> Iterable[str]:
    if limits is None:
        return
    yield "## Under Lambda's limits"
    if "unavailable" in limits:
        yield f"Not measured: {limits['unavailable']}."
        return
    yield (
        f"The function under its real runtime client, in a control group of so much memory (no swap) and its share "
        f"of a core (1,769 MB = 1), {limits['cores']} cores at most, which it shares with the server here. "
        f"{limits['rows']:,} rows of lineitem a file, warm invocations. ${DOLLARS_PER_GB_SECOND} a GB-second."
    )
    for kind, what in (
        ("loopback", "From the loopback interface"),
        ("as S3", "With 25 ms and 85 MB/s a connection, as S3"),
    ):
        told = priced(limits, kind)
        yield f"### {what}"
        rows = [_priced_row(each) for each in told]
        yield _table(("MB", "rows/s", "cold s", "warm s", "peak MB", "GB-s/M rows", "$/M rows", "$/TB"), rows)
        good = [each for each in told if "failed" not in each]
        if good:
            cheapest, fastest = min(good, key=lambda each: each["terabyte"]), max(good, key=lambda each: each["rate"])
            yield f"Cheapest: {cheapest['memory']:,} MB. Fastest: {fastest['memory']:,} MB."
            (plots / f"limits-{kind.replace(' ', '-').lower()}.svg").write_text(
                _bars(
                    [
                        (
                            f"{each['memory']:,} MB",
                            each["rate"],
                            f"{each['rate']:,.0f} rows/s, ${each['terabyte']:.2f}/TB",
                        )
                        for each in good
                    ],
                    "",
                ),
                "utf-8",
            )
            yield f"![rows a second by size](benchmarks/limits-{kind.replace(' ', '-').lower()}.svg)"


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


def _absent(results: dict[str, Any]) -> Iterable[str]:
    yield "## How each runs, and who could not"
    yield _table(("", "by which of its ways"), [(name, how) for name, how in results["peers"].items()])
    failed = {
        f"{name} ({scenario})": why
        for scenario, found in results["scenarios"].items()
        for name, why in found["failed"].items()
    }
    told = results["unavailable"] | failed
    if told:
        yield _table(("not measured", "why"), list(told.items()))


def _times(figure: Figure) -> str:
    places = 2 if figure.median < 10 else 0
    return f"{figure.median:.{places}f} × ({figure.low:.{places}f}–{figure.high:.{places}f})"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words) + "."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(each.replace("|", "\\|") for each in line) + " |" for line in lines)


BAR, GAP, LEFT, WIDTH = 22, 8, 190, 860


def _bars(rows: Sequence[tuple[str, float, str]], accent: str, *, line: float | None = None) -> str:
    """A bar chart: names, lengths, and what stands beside them. ``line``: a length that is marked."""
    longest = max((value for _, value, _ in rows), default=1)
    scale = (WIDTH - LEFT - 260) / longest
    height = len(rows) * (BAR + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for number, (name, value, told) in enumerate(rows):
        top = GAP + number * (BAR + GAP)
        color = "#d1495b" if name == accent else "#30638e"
        parts += [
            f'<text x="{LEFT - 8}" y="{top + 16}" text-anchor="end" fill="#222222">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{top}" width="{max(value * scale, 1):.1f}" height="{BAR}" fill="{color}"/>',
            f'<text x="{LEFT + value * scale + 8:.1f}" y="{top + 16}" fill="#222222">{escape(told)}</text>',
        ]
    if line is not None:
        at = LEFT + line * scale
        parts.append(
            f'<line x1="{at:.1f}" y1="0" x2="{at:.1f}" y2="{height}" stroke="#d1495b" stroke-dasharray="4 3"/>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
