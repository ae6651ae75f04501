"""Records that swallowed others after a stray quote are reported, and ordinary text of several lines is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.postgres import query

import loader
from loader.core.deadline import Deadline
from loader.engine.counters import Progress
from loader.pipeline import How, load_one
from loader.postgres.database import Database
from loader.records.dialect import Dialect
from loader.records.splitter import split
from loader.records.stray_quotes import find_swallowed
from loader.records.swallowed_lines import NONE_SWALLOWED, Swallowed
from loader.sharding.shards import ShardReport, finish, load_shard, plan_shards, prove

NOTE = "that look like records of their own"


def found(text: str, *, delimiter: str = ",", block_size: int = 1 << 20) -> Swallowed:
    """In a file of that text, cut into blocks of that size; its first line tells how many fields a record has."""
    dialect = Dialect(delimiter.encode(), ord('"'), ord('"'))
    fields = text.splitlines()[0].count(delimiter) + 1
    total = NONE_SWALLOWED
    for block in split([text.encode()], dialect, name="f", block_size=block_size):
        total += find_swallowed(block, fields)
    return total


def rows(number: int, line: str = "{},name {},{}.5") -> list[str]:
    return [line.format(each, each, each) for each in range(number)]


def strayed(lines: list[str], places: list[int], how: str) -> str:
    """The lines as a text, with a stray quote in those at ``places``."""
    lines = list(lines)
    for place in places:
        cells = lines[place].split(",")
        cells[1] = {"before": '"' + cells[1], "within": cells[1][:2] + '"' + cells[1][2:], "after": cells[1] + '"'}[how]
        lines[place] = ",".join(cells)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("block_size", [1 << 20, 700, 64])
@pytest.mark.parametrize("how", ["before", "within", "after"])
@pytest.mark.parametrize("apart", [1, 2, 10, 100])
def test_a_stray_quote_every_so_many_lines(apart: int, how: str, block_size: int) -> None:
    """Two of them make one record of all lines from the one to the other."""
    places = list(range(50, 1000, apart))
    places = places[: len(places) // 2 * 2]
    result = found(strayed(rows(1000), places, how), block_size=block_size)
    assert result == Swallowed(len(places) // 2, len(places) // 2 * (apart + 1), 51)


def test_quotes_around_a_field_that_swallowed_lines() -> None:
    """One quote opens a field, the other closes one: nothing is irregular but the many lines between."""
    lines = rows(200)
    lines[10] = '10,"name 10,10.5'
    lines[40] = '40,name 40","40.5"'
    assert found("\n".join(lines) + "\n").records in (0, 1)  # of another width: given up line by line
    lines[40] = '40,name 40",40.5'
    assert found("\n".join(lines)) == Swallowed(1, 31, 11)


@pytest.mark.parametrize("delimiter", [";", "\t", "|", "||"])
def test_other_delimiters(delimiter: str) -> None:
    text = strayed(rows(100), [10, 30], "within").replace(",", delimiter)
    assert found(text, delimiter=delimiter) == Swallowed(1, 21, 11)


def test_a_delimiter_with_a_blank_behind_it_in_every_record() -> None:
    assert found(strayed(rows(100), [10, 30], "after").replace(",", ", ")) == Swallowed(1, 21, 11)


LETTER = "Dear Mrs Smith,\nthank you for the book, which I liked.\nIt was long, though.\nBye,\nJohn, of Leeds"
ADDRESS = "12 Main Street,\nSpringfield,\nIllinois, 62701,\nUSA,\nEarth"
CITIES = "Flat 2, The Mews\n4 High St, Leeds\nLeeds, Yorkshire\nEngland, UK\nEurope, Earth\nMilky Way, Universe"
LIST = "a\nb\nc\nd\ne\nf\ng"


@pytest.mark.parametrize(
    "text", [LETTER, ADDRESS, CITIES, LIST, "one\ntwo", "\n\n\n\n\n\n", ",,,\n,,,\n,,,\n,,,\n,,,\n,,,\n"]
)
@pytest.mark.parametrize(
    "record", ['{n},"{text}"', '"{text}",{n}', '{n},"{text}",x', '{n},x,"{text}"', '"{text}","{text}"']
)
def test_ordinary_text_of_several_lines_is_no_alarm(text: str, record: str) -> None:
    head = record.format(n=0, text="none")
    assert found("\n".join([head, *(record.format(n=n, text=text) for n in range(50))])) == NONE_SWALLOWED


def test_nothing_is_said_of_one_column() -> None:
    assert found('a\nb\n"c\nd\ne\nf\ng\nh"\n') == NONE_SWALLOWED


def text_of_a_file() -> str:
    """2,000 lines, a stray quote in every hundredth."""
    return "id,name,price\n" + strayed(rows(2000), list(range(50, 2000, 100)), "within")


SPEC: dict[str, Any] = {"table": "t", "mode": "append", "columns": {"id": "int", "name": "text", "price": "text"}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text(text_of_a_file())
    return path


def test_the_report_and_the_ledger_say_so(dsn: str, file: Path) -> None:
    """What is loaded is what COPY loads."""
    report = loader.load(str(file), SPEC, dsn=dsn)
    note = (
        "10 records run over 1,010 lines that look like records of their own, the first of them from line 52 on; "
        "COPY reads them so too, but a quote may be out of place"
    )
    assert report.rows_inserted == 2000 - 10 * 100
    assert report.notes[-1:] == (note,)
    assert query(dsn, "SELECT notes[array_upper(notes, 1)] FROM loader.loads") == [(note,)]


def test_ordinary_files_have_no_such_note(dsn: str, file: Path) -> None:
    file.write_text("id,name,price\n" + "".join(f'{number},"{ADDRESS}",1.5\n' for number in range(100)))
    assert not [note for note in loader.load(str(file), SPEC, dsn=dsn).notes if NOTE in note]


def test_a_load_in_shards_says_the_same(dsn: str, file: Path) -> None:
    """Each shard counts its own, and its lines are those of the whole file."""
    database = Database(dsn)
    spec = loader.LoadSpec.from_dict(SPEC)
    plan = plan_shards(str(file), spec, database, shards=6)
    reports = [load_shard(plan, number, database, threads=1) for number in range(6)]
    while (proof := prove(plan, reports)).again:
        reports += [load_shard(plan, number, database, known=known, threads=1) for number, known in proof.again]
    report = finish(plan, [ShardReport.from_dict(json.loads(json.dumps(each.to_dict()))) for each in reports], database)
    database.close()
    assert report.rows_read == 1000
    assert "10 records run over 1,010 lines that look like records of their own, the first of them from line 52" in str(
        report.notes
    )


@pytest.mark.parametrize("where", [1, 100_000, 190_000])
def test_a_load_that_is_continued_says_the_same(
    dsn: str, file: Path, where: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint knows what was found before it."""
    monkeypatch.setattr("loader.engine.job.STRAIGHT", 0)
    file.write_text("id,name,price\n" + strayed(rows(200_000), [where, where + 9, 195_000, 195_009], "within"))
    database, spec = Database(dsn), loader.LoadSpec.from_dict({**SPEC, "segment_mb": 1})
    deadline = Deadline()

    def stop(progress: Progress) -> None:
        if progress.rows > 120_000:
            deadline.stop("it was told to stop")

    with pytest.raises(loader.PausedError):
        load_one(str(file), spec, database, How(progress=stop, deadline=deadline))
    report = load_one(str(file), spec, database)
    database.close()
    assert report.resumes == 1
    assert (
        f"2 records run over 20 lines that look like records of their own, the first of them from line {where + 2:,}"
        in (report.notes[-1])
    )
