"""CPU time of the compiled lane alone, by the shape of the file: ``python -m bench.kernel [SHAPE...]``.

Blocks of 1 MiB are split and converted in this process, and nothing is sent. The best of the rounds, in seconds of CPU
for a million rows, and in MB of CSV for each of these seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from bench.data import DATA
from loader.convert.lanes.kernel_program import express_lane
from loader.core.pgtypes import column_type
from loader.core.spec.datetimes import YearOffsets, Zones
from loader.kernel.compiled import compiled_kernel
from loader.postgres.load_column import LoadColumn
from loader.records.block import Place
from loader.records.dialect import Dialect
from loader.records.splitter import Splitter

SIZE = 16 << 20
CHUNK = 4 << 20
COMMA = Dialect(b",", ord('"'), ord('"'))
WORDS = ("lorem", "ipsum", "dolor, sit", "amet\n", 'the "x"', "Zürich", "слово", "日本語")

Record = Callable[[int, random.Random], str]


@dataclass(frozen=True)
class Shape:
    """The types of a file's columns, and its records: made one by one, or ``rows`` of the suite's ``data``."""

    types: tuple[str, ...]
    record: Record | None = None
    data: str | None = None
    rows: int = 0
    zone: str = "UTC"

    def bytes(self) -> bytes:
        """The file without a header, `SIZE` bytes or a little more."""
        if self.data is not None:
            with tempfile.TemporaryDirectory() as folder:
                return DATA[self.data].make(Path(folder), self.rows).read_bytes().partition(b"\n")[2]
        assert self.record is not None
        dice = random.Random(1)
        made: list[bytes] = []
        size = 0
        for number in itertools.count(1):
            made.append(self.record(number, dice).encode() + b"\n")
            size += len(made[-1])
            if size >= SIZE:
                break
        return b"".join(made)


def _texts(words: tuple[str, ...]) -> Record:
    """Texts of 500 kB, quoted."""

    def record(number: int, dice: random.Random) -> str:
        text = " ".join(dice.choices(words, k=90_000))
        return f'{number},"{text.replace(chr(34), chr(34) * 2)}"'

    return record


def _nulls(number: int, dice: random.Random) -> str:
    fields = [""] * 30
    fields[dice.randrange(30)] = "7"
    return f"{number},{','.join(fields)}"


def _json(number: int, dice: random.Random) -> str:
    text = json.dumps({"id": number, "name": f"user {number}", "tags": ["a", "b"], "score": round(dice.random(), 3)})
    return f'{number},"{text.replace(chr(34), chr(34) * 2)}"'


def _moment(dice: random.Random) -> datetime:
    return datetime(2000, 1, 1) + timedelta(microseconds=dice.randrange(25 * 365 * 86_400 * 10**6))


def _moments(offset: str) -> Record:
    return lambda number, dice: f"{number},{_moment(dice)}{offset},{_moment(dice).replace(microsecond=0)}{offset}"


def _uuids(number: int, dice: random.Random) -> str:
    return f"{number},{uuid.UUID(int=dice.getrandbits(128))},{uuid.UUID(int=dice.getrandbits(128))}"


def _doubles(number: int, dice: random.Random) -> str:
    return f"{number},{dice.random()!r},{dice.gauss(0, 1e6)!r},{dice.random() * 10.0 ** dice.randint(-20, 20)!r}"


LINEITEM = ("bigint",) * 3 + ("integer",) + ("numeric(15,2)",) * 4 + ("character(1)",) * 2 + ("date",) * 3
MOMENTS = ("integer", "timestamp with time zone", "timestamp with time zone")

SHAPES = {
    "lineitem": Shape(
        (*LINEITEM, "character(25)", "character(10)", "character varying(44)"), data="lineitem", rows=130_000
    ),
    "wide": Shape(("integer", *["text"] * 39), data="wide", rows=17_500),
    "narrow": Shape(("integer", "bigint", "double precision", "smallint"), data="narrow", rows=430_000),
    "integers": Shape(("integer",) * 1000, lambda _, dice: ",".join(str(dice.randrange(100_000)) for _ in range(1000))),
    "long": Shape(("integer", "text"), _texts(WORDS[:2])),
    "long-quoted": Shape(("integer", "text"), _texts(WORDS)),
    "nulls": Shape(("integer", *["integer"] * 10, *["text"] * 10, *["numeric"] * 10), _nulls),
    "lines": Shape(
        ("integer", "text", "text", "bigint"),
        lambda number, _: f'"{number}","first line\nsecond, line\r\nof number {number}","x ""y"" z",{number * 7}',
    ),
    "jsonb": Shape(("integer", "jsonb"), _json),
    "offset": Shape(MOMENTS, _moments("+02:00")),
    "local": Shape(MOMENTS, _moments(""), zone="Europe/Berlin"),
    "double": Shape(("integer", *["double precision"] * 3), _doubles),
    "uuid": Shape(("integer", "uuid", "uuid"), _uuids),
}


def _berlin(_zone: str, years: Sequence[int]) -> dict[int, YearOffsets]:
    """The offsets of Europe/Berlin since 1996, for which no server has to be asked."""
    hour = 3_600_000_000

    def last_sunday(year: int, month: int) -> int:
        day = date(year, month, 31)
        return (day - timedelta(days=(day.weekday() + 1) % 7) - date(year, 1, 1)).days * 24 * hour

    return {
        year: ((0, hour), (last_sunday(year, 3) + 3 * hour, 2 * hour), (last_sunday(year, 10) + 2 * hour, hour))
        for year in years
    }


def measure(shape: Shape, data: bytes, rounds: int) -> tuple[int, int, float, float]:
    """Rows, those of them that the kernel leaves to other lanes, and the seconds for splitting and for converting."""
    columns = [LoadColumn(f"c{at}", column_type(name), at, zone=shape.zone) for at, name in enumerate(shape.types)]
    chunks = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
    best = (float("inf"), float("inf"))
    for _ in range(rounds):
        lane = express_lane(
            compiled_kernel(),
            columns,
            len(columns),
            ("",),
            {},
            key=(),
            required=(),
            with_position=False,
            zones=Zones(_berlin),
        )
        assert lane is not None
        splitter = Splitter(COMMA, name="bench", start=Place(fields=len(columns)))
        rows = kept = 0
        splitting = converting = 0.0
        begun = time.process_time()
        for blocks in (*map(splitter.feed, chunks), splitter.flush()):
            for block in blocks:
                split = time.process_time()
                sure = lane.take(block)
                done = time.process_time()
                splitting, converting, begun = splitting + split - begun, converting + done - split, done
                rows, kept = rows + block.records, kept + (sure.kept if sure is not None else 0)
        best = (min(best[0], splitting), min(best[1], converting))
    return rows, rows - kept, *best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", choices=[*SHAPES, []], metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if compiled_kernel() is None:
        raise SystemExit("there is no compiled kernel")
    print("shape             rows     left   split  convert  s/M rows     split  convert  MB/s")
    for name in options.shapes or SHAPES:
        data = SHAPES[name].bytes()
        rows, left, splitting, converting = measure(SHAPES[name], data, options.rounds)
        each = f"{splitting / rows * 1e6:8.3f} {converting / rows * 1e6:8.3f}"
        print(
            f"{name:12} {rows:9,} {left:8,} {each}            "
            f"{len(data) / splitting / 1e6:7,.0f}  {len(data) / converting / 1e6:7,.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
