r"""Many small files: what one costs, what many functions do with one table, and what ten thousand leave behind.

    python -m bench.small files [--files 300] [--rows 1,100,1000] [--delays 0,1,5] [--modes append,merge] [--rounds 3]
    python -m bench.small invocation [--files 50] [--rows 1000] [--modes append,merge] [--batches 1,10]
    python -m bench.small contention [--files 1000] [--rows 1000] [--tables 1,10] [--functions 1,2,4] [--batches 1,10]
    python -m bench.small churn [--files 10000] [--rows 10] [--modes merge]

Beside the loader runs the floor: psycopg2 in one session, COPY, and to merge a temporary table and ON CONFLICT.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.objects import Objects, serving
from bench.rig import Server, open_server
from bench.servers import SETTINGS
from bench.small import churn, contention, files, invocation


@dataclass(frozen=True, slots=True)
class Told:
    """What the command line asks for; None: what the part takes by itself."""

    files: int
    rows: tuple[int, ...]
    modes: tuple[str, ...]
    delays: tuple[float, ...]
    rounds: int
    tables: tuple[int, ...]
    functions: tuple[int, ...]
    batches: tuple[int, ...]


def _files(server: Server, objects: Objects, told: Told) -> None:
    files.measure(server, objects, files.Asked(told.files, told.rows, told.modes, told.delays, told.rounds))


def _invocation(server: Server, objects: Objects, told: Told) -> None:
    invocation.measure(server, objects, files=told.files, rows=told.rows[0], modes=told.modes, batches=told.batches)


def _contention(server: Server, objects: Objects, told: Told) -> None:
    contention.measure(
        server,
        objects,
        files=told.files,
        rows=told.rows[0],
        tables=told.tables,
        functions=told.functions,
        batches=told.batches,
    )


def _churn(server: Server, objects: Objects, told: Told) -> None:
    for mode in told.modes:
        churn.measure(server, objects, loads=told.files, rows=told.rows[0], mode=mode, kinds=files.KINDS)


Part = tuple[Callable[[Server, Objects, Told], None], Mapping[str, str]]

PARTS: Mapping[str, Part] = {
    "files": (_files, {"files": "300", "rows": "1,100,1000"}),
    "invocation": (_invocation, {"files": "50", "rows": "1000"}),
    "contention": (_contention, {"files": "1000", "rows": "1000"}),
    "churn": (_churn, {"files": "10000", "rows": "10", "modes": "merge"}),
}
"""Each with its own defaults."""


def parse(arguments: Sequence[str] | None = None) -> tuple[str, Told]:
    """The part, and what is asked of it. Exits with 2 where the command line is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.small", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    for name in ("files", "rows"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--modes")
    parser.add_argument("--delays", default="0,1,5", help="milliseconds of a round trip")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tables", default="1,10")
    parser.add_argument("--functions", default="1,2,4", help="how many run at once")
    parser.add_argument("--batches", default="1,10", help="messages that a function gets at once")
    told = vars(parser.parse_args(arguments))
    part = told["part"]
    told = {**told, **{name: told[name] or default for name, default in PARTS[part][1].items()}}
    try:
        return part, Told(
            files=int(told["files"]),
            rows=_numbers(told["rows"]),
            modes=_modes(told["modes"] or "append,merge"),
            delays=tuple(map(float, told["delays"].split(","))),
            rounds=told["rounds"],
            tables=_numbers(told["tables"]),
            functions=_numbers(told["functions"]),
            batches=_numbers(told["batches"]),
        )
    except ValueError as error:
        parser.error(str(error))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _modes(text: str) -> tuple[str, ...]:
    modes = tuple(text.split(","))
    if not set(modes) <= {"append", "merge"}:
        raise ValueError(f"--modes {text}: they are append and merge")
    return modes


def main() -> int:
    part, told = parse()
    measure = PARTS[part][0]
    settings = {**SETTINGS, **(churn.RDS if part == "churn" else {})}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-small-")))
        server = stack.enter_context(open_server(folder, settings))
        bucket = folder / "bucket"
        bucket.mkdir()
        measure(server, stack.enter_context(serving(bucket)), told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
