"""Figures out of a scenario's runs, and how they are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.measure import Figure, ratio

LOADER, ARROW = "loader", "loader, without kernel"
COPY, UPSERT, CEILING = r"psql \copy", r"psql \copy, ON CONFLICT", "binary COPY, ready-made"

Found = dict[str, Any]
"""A scenario, as results have it."""

UNKNOWN = "–"
"""In the place of a figure that could not be had."""


def values(scenario: Found, name: str, figure: str) -> list[float]:
    """Of each run of a contender; empty where it did not run, or where the server could not say."""
    found = [each[figure] for each in scenario["runs"].get(name, [])]
    return [] if None in found else found


def median(scenario: Found, name: str, figure: str) -> float | None:
    found = values(scenario, name, figure)
    return Figure.of(found).median if found else None


def by_million(scenario: Found, name: str, figure: str) -> float | None:
    """The median, for a million rows."""
    found = median(scenario, name, figure)
    return None if found is None else found / scenario["rows"][name] * 1e6


def without_start(scenario: Found, name: str) -> float | None:
    """CPU seconds of the client for a million rows, less what it takes for a file of one record."""
    starts = [each["client_cpu"] for each in scenario.get("starts", {}).get(name, [])]
    cpu = median(scenario, name, "client_cpu")
    if not starts or cpu is None:
        return None
    return (cpu - Figure.of(starts).median) / scenario["rows"][name] * 1e6


def faster(scenario: Found, other: str, name: str = LOADER) -> Figure | None:
    """How many times faster ``name`` is than ``other``, by the row; None where one of them did not run.

    Round by round; where one ran less often (once, or until it failed), the other's median stands against it.
    """
    ours, theirs = values(scenario, name, "seconds"), values(scenario, other, "seconds")
    if not ours or not theirs:
        return None
    share = scenario["rows"][name] / scenario["rows"][other]
    if len(theirs) < len(ours):
        ours = [Figure.of(ours).median] * len(theirs)
    elif len(ours) < len(theirs):
        theirs = [Figure.of(theirs).median] * len(ours)
    return ratio([each / share for each in ours], theirs)


def rival(scenario: Found) -> str | None:
    """psql's way in this scenario."""
    return next((each for each in scenario["runs"] if each.startswith(("psql", "gzip"))), None)


def times(figure: Figure) -> str:
    places = 2 if figure.median < 10 else 0
    return f"{figure.median:.{places}f} × ({figure.low:.{places}f}–{figure.high:.{places}f})"


def written(value: float | None, form: str) -> str:
    """By a format such as ``.2f``."""
    return UNKNOWN if value is None else format(value, form)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(each.replace("|", "\\|") for each in line) + " |" for line in lines)
