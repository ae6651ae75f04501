"""What the suite is asked to do."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.limits import SIZES
from bench.scenarios import SCENARIOS
from bench.servers import Choice

ROWS, ROUNDS = 2_000_000, 3

STAGES = "stages"
"""The part that is no scenario: what each stage of a load costs, what a start costs, how fast the bucket is."""

LIMITS = tuple(f"limits-{size}" for size in SIZES)
"""The parts under Lambda's limits, one for each size."""

PARTS = (*SCENARIOS, STAGES, *LIMITS)


@dataclass(frozen=True, slots=True)
class OwnFile:
    """``--file``: with its spec, and the statement that creates its table; None: the loader creates it."""

    path: Path
    spec: Path
    ddl: str | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """``parts``: of `PARTS`. ``limiter``: "auto", "image" or "group". ``build``: the folder for runs of a part;
    ``results`` and ``docs``: those for what is published."""

    rows: int = ROWS
    rounds: int = ROUNDS
    parts: tuple[str, ...] = PARTS
    peers: bool = True
    limiter: str = "auto"
    image: str = "loader"
    server: Choice = field(default_factory=Choice)
    own: OwnFile | None = None
    keep: bool = False
    publish: bool = False
    incomplete: bool = False
    build: Path = Path("build/bench")
    results: Path = Path("bench/results")
    docs: Path = Path("docs")

    @property
    def full(self) -> bool:
        """Whether it is all of the suite as it is by default, whose results are published without being told to."""
        as_usual = (self.rows, self.rounds, self.parts, self.peers) == (ROWS, ROUNDS, PARTS, True)
        return as_usual and self.server.embedded and self.own is None and not self.keep


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Of a command line. Exits with 2 where it is wrong."""
    parser = _parser()
    told = parser.parse_args(arguments)
    try:
        return Options(
            rows=told.rows,
            rounds=told.rounds,
            parts=_parts(told.scenario, limits=not told.no_limits),
            peers=not told.no_peers,
            limiter=told.limits,
            image=told.image,
            server=_server(told),
            own=_own_file(told),
            keep=told.keep,
            publish=told.publish,
            incomplete=told.incomplete,
            build=told.build,
            results=told.results,
            docs=told.docs,
        )
    except ValueError as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="The loader beside everything that does its job today, on one server.",
        epilog="parts: " + ", ".join(PARTS),
    )
    parser.add_argument("--rows", type=_count, default=ROWS, help="of lineitem (default: 2,000,000, which are 253 MB)")
    parser.add_argument("--rounds", type=_count, default=ROUNDS, help="how often each contender runs (default: 3)")

    parts = parser.add_argument_group("a part of the suite; the published page and results stay as they are")
    parts.add_argument("--scenario", metavar="PART,…", help='some of the parts below; "limits" for all limits-…')
    parts.add_argument("--no-peers", action="store_true", help="only psql beside the loader")
    parts.add_argument("--no-limits", action="store_true", help="not under Lambda's limits")
    parts.add_argument("--keep", action="store_true", help="add the parts to those in BUILD/results.json")
    parts.add_argument("--publish", action="store_true", help="run nothing; publish what was kept")
    parts.add_argument("--incomplete", action="store_true", help="publish although parts are missing")

    server = parser.add_argument_group("the server")
    server.add_argument(
        "--server", default="embedded", metavar="embedded|container[:TAG]", help="or container:IMAGE:TAG"
    )
    server.add_argument("--tag", help="of the container's image, from 15 up (default: 18)")
    server.add_argument("--server-cpus", type=_positive, metavar="N", help="CPUs that the container may use")
    server.add_argument("--server-memory", type=_megabytes, metavar="SIZE", help="memory of the container: 4g, 512m")
    server.add_argument("--dsn", metavar="URI", help="your own server, in a schema that is removed again")

    own = parser.add_argument_group("a file of your own; nothing is published")
    own.add_argument("--file", type=_existing, metavar="PATH", help="a CSV file, also compressed")
    own.add_argument("--spec", type=_existing, metavar="FILE.toml", help="the loader's spec for it")
    own.add_argument(
        "--table-ddl", metavar="SQL|FILE", help="CREATE TABLE {} (…); default: the loader creates the table"
    )

    limits = parser.add_argument_group("Lambda's limits")
    limits.add_argument(
        "--limits", choices=["auto", "image", "group"], default="auto", help="by which the function is held"
    )
    limits.add_argument(
        "--image", default=os.environ.get("IMAGE", "loader"), help="made by make image (default: loader)"
    )

    places = parser.add_argument_group("where the results go")
    places.add_argument("--build", type=Path, default=Options().build, help="runs of a part (default: build/bench)")
    places.add_argument("--results", type=Path, default=Options().results, help="published (default: bench/results)")
    places.add_argument("--docs", type=Path, default=Options().docs, help="published (default: docs)")
    return parser


def _parts(told: str | None, *, limits: bool) -> tuple[str, ...]:
    names = PARTS if told is None else tuple(told.split(","))
    parts = [part for name in names for part in (LIMITS if name == "limits" else (name,))]
    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return tuple(part for part in parts if limits or part not in LIMITS)


def _server(told: argparse.Namespace) -> Choice:
    kind, _, rest = told.server.partition(":")
    limited = told.server_cpus is not None or told.server_memory is not None
    if kind not in ("embedded", "container") or (kind == "embedded" and rest):
        raise ValueError(f"--server {told.server}: it is embedded, container, container:TAG or container:IMAGE:TAG")
    if kind == "embedded" and (limited or told.tag):
        raise ValueError("--tag, --server-cpus and --server-memory are for --server container")
    if told.dsn is not None and kind != "embedded":
        raise ValueError("--dsn and --server container: which of the two?")
    if rest and told.tag:
        raise ValueError(f"--server {told.server} and --tag {told.tag}: which of the two?")
    image = _image(rest or told.tag or "18") if kind == "container" else None
    return Choice(image, told.server_cpus, told.server_memory, told.dsn)


def _image(name: str) -> str:
    """``18`` is postgres:18; what has a colon or a slash is an image's whole name."""
    return name if ":" in name or "/" in name else f"postgres:{name}"


def _own_file(told: argparse.Namespace) -> OwnFile | None:
    if told.file is None:
        if told.spec is not None or told.table_ddl is not None:
            raise ValueError("--spec and --table-ddl are for --file")
        return None
    if told.spec is None:
        raise ValueError("--file needs its --spec; `loader infer FILE` prints one to begin with")
    if told.keep or told.publish or not _only_sizes(told.scenario):
        raise ValueError("--file is a run of its own, without --keep, --publish, and scenarios other than limits-…")
    return OwnFile(told.file, told.spec, _ddl(told.table_ddl))


def _only_sizes(told: str | None) -> bool:
    """A user's own file can be measured in some of Lambda's sizes."""
    return told is None or all(name == "limits" or name in LIMITS for name in told.split(","))


def _ddl(told: str | None) -> str | None:
    """A statement, or the file that holds one; it has a place for the table's name."""
    if told is None:
        return None
    statement = Path(told).read_text("utf-8") if "{}" not in told and Path(told).is_file() else told
    if "{}" not in statement:
        raise ValueError("--table-ddl: the statement needs {} in the place of the table's name")
    return statement.strip().removesuffix(";")


def _count(text: str) -> int:
    number = int(text.replace("_", "").replace(",", ""))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1")
    return number


def _positive(text: str) -> float:
    number = float(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text}: more than 0")
    return number


def _megabytes(text: str) -> int:
    """As `docker run` has it: a number with m or g behind it."""
    number, unit = text[:-1], text[-1:].lower()
    if unit not in "mg" or not number.isdigit() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a whole number of megabytes or gigabytes, such as 512m or 4g")
    return int(number) << (10 if unit == "g" else 0)


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text}: there is no such file")
    return path.resolve()
