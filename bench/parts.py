"""Results in parts: kept from several runs, put together, and refused where they do not belong together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.circumstances import code, machine
from bench.options import LIMITS, PARTS, STAGES

KEPT = "results.json"

SAME = ("machine", "code", "python", "kernel", "packages", "rows")
"""What all parts of one page have in common; those on one server also `SAME_SERVER`."""

SAME_SERVER = ("postgresql", "server", "settings", "cpu_from")

OWN = ("at", "commit", "rounds", "seconds")
"""What each part has of its own, and the page tells of each."""

MAIN = "embedded"
"""The server of the page's main tables; parts on others are in a table of their own."""


class RefusedError(SystemExit):
    """The parts cannot become one page; the message says which, why, and what to do."""


def key(name: str, part: Mapping[str, Any]) -> str:
    """A part's name among others: on another server it is another part."""
    server = part["made"]["server"]
    return name if server == MAIN else f"{name} @ {server}"


def kept(folder: Path) -> dict[str, Any]:
    """All parts that runs with ``--keep`` left in ``folder``."""
    path = folder / KEPT
    parts: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return parts


def keep(folder: Path, name: str, part: Mapping[str, Any]) -> None:
    """Add a part to those in ``folder``, in the place of an older one of its name."""
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f"{KEPT}.new"
    written.write_text(json.dumps({**kept(folder), name: part}, indent=1, ensure_ascii=False) + "\n", "utf-8")
    written.replace(folder / KEPT)


def check(parts: Mapping[str, Any], *, incomplete: bool) -> None:
    """Raises RefusedError unless all parts are there, were made here, by the code that is here, and alike."""
    if not parts:
        raise RefusedError("there is nothing to publish: run parts with --keep first")
    faults = [*_made_elsewhere(parts), *_unlike(parts)]
    missing = [name for name in PARTS if name not in parts]
    if missing and not incomplete:
        faults.append(f"missing: {', '.join(missing)} (run them with --keep, or publish with --incomplete)")
    if faults:
        raise RefusedError("\n".join(["not published:", *faults]))


def _made_elsewhere(parts: Mapping[str, Any]) -> Iterable[str]:
    for what, here in (("code", code()), ("machine", machine())):
        others = [name for name, part in parts.items() if part["made"][what] != here]
        if others:
            again = ",".join(dict.fromkeys(name.partition(" @ ")[0] for name in others))
            yield f"made by another {what} than is here: {', '.join(others)} (--keep --scenario {again})"


def _unlike(parts: Mapping[str, Any]) -> Iterable[str]:
    """Parts of one page that differ in what they must have in common."""
    yield from _differing(parts, SAME)
    for server in {part["made"]["server"] for part in parts.values()}:
        yield from _differing(
            {name: each for name, each in parts.items() if each["made"]["server"] == server}, SAME_SERVER
        )
    ways = {name: part["found"].get("how") for name, part in parts.items() if name in LIMITS}
    if len(set(ways.values())) > 1:
        yield f"the function was held to its limits in several ways: {ways}"


def _differing(parts: Mapping[str, Any], names: Iterable[str]) -> Iterable[str]:
    for name in names:
        found = {part: each["made"][name] for part, each in parts.items()}
        if len({json.dumps(value, sort_keys=True) for value in found.values()}) > 1:
            yield f"made with different {name}: {'; '.join(f'{part}: {value}' for part, value in found.items())}"


def composed(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The parts as the one document that a page is written from, in the suite's order."""
    first = next(iter(parts.values()))
    main = {name: parts[name] for name in PARTS if name in parts}
    scenarios = {name: part["found"] for name, part in main.items() if name not in (STAGES, *LIMITS)}
    document: dict[str, Any] = {
        "made": {name: next(iter(main.values()), first)["made"][name] for name in (*SAME, *SAME_SERVER)},
        "parts": {name: {each: part["made"][each] for each in OWN} for name, part in parts.items()},
        "missing": [name for name in PARTS if name not in parts],
        "peers": _joined(parts.values(), "peers"),
        "unavailable": _joined(parts.values(), "unavailable"),
        "scenarios": scenarios,
        "elsewhere": _elsewhere(parts),
    }
    if STAGES in main:
        document["stages"] = main[STAGES]["found"]
    if found := {name: main[name]["found"] for name in LIMITS if name in main}:
        document["limits"] = _limits(found)
    return document


def _joined(parts: Iterable[Mapping[str, Any]], what: str) -> dict[str, str]:
    return {name: told for part in parts for name, told in part.get(what, {}).items()}


def _elsewhere(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Scenarios on other servers, by server."""
    found: dict[str, Any] = {}
    for name, part in parts.items():
        scenario, _, server = name.partition(" @ ")
        if server and "runs" in part["found"]:
            made = {each: part["made"][each] for each in SAME_SERVER}
            found.setdefault(server, {"made": made, "scenarios": {}})["scenarios"][scenario] = part["found"]
    return found


def _limits(found: Mapping[str, Any]) -> dict[str, Any]:
    """All sizes in one; where none could be measured, why."""
    good = {name.rpartition("-")[2]: each for name, each in found.items() if "unavailable" not in each}
    if not good:
        return {"unavailable": next(iter(found.values()))["unavailable"]}
    common = {name: value for name, value in next(iter(good.values())).items() if name != "paces"}
    return {**common, "sizes": {size: each["paces"] for size, each in good.items()}}
