"""What stands around the records: skipped lines, the header, the footer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.convert.infer import infer_columns
from loader.core.errors import ShapeError
from loader.core.spec.model import CsvSpec
from loader.records.block import RECORD_LIMIT
from loader.records.dialect import Dialect
from loader.records.reading.preamble import Preamble, read_preamble, without_footer
from loader.records.reading.reader import open_records

PLAIN = Dialect.of(CsvSpec())


def preamble(
    data: bytes, *, skip: int = 0, header: bool = True, rows: int = 1, chunk: int = 3, dialect: Dialect = PLAIN
) -> Preamble:
    chunks = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    return read_preamble(chunks, dialect, name="x.csv", skip_lines=skip, header=header, header_rows=rows)


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_the_header_is_read_as_a_record(chunk: int) -> None:
    """Quoted names may hold delimiters, quotes and newlines; what follows starts at its true place."""
    found = preamble(b'a,"b,""\nc"\r\n1,2\n', chunk=chunk)
    assert (found.names, found.offset, found.line) == (("a", 'b,"\nc'), 12, 3)
    assert b"".join(found.rest) == b"1,2\n"


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_skipped_lines_are_physical_lines(chunk: int) -> None:
    """Lines before the header may hold single quotes and anything else."""
    found = preamble(b'Report of "May\r\n\na,b\n1,2', skip=2, chunk=chunk)
    assert (found.names, found.offset, found.line) == (("a", "b"), 21, 4)
    assert b"".join(found.rest) == b"1,2"


def test_without_a_header_nothing_is_taken() -> None:
    """The first line is a record."""
    found = preamble(b"1,2\n", header=False)
    assert found.names is None
    assert b"".join(found.rest) == b"1,2\n"


@pytest.mark.parametrize(
    ("data", "skip", "message"),
    [
        (b"", 0, "the file is empty; a header was expected"),
        (b"x\n", 1, "the file ends where a header should stand"),
        (b"x\n", 3, "the file ends where the lines to skip should stand"),
        (b'a,"b\n1,2\n', 0, "the header has a quote that is never closed"),
        (b"a,\xff\n", 0, r'the header\'s name 2, "\\xff", is not valid UTF-8'),
    ],
)
def test_a_file_without_the_header_it_should_have(data: bytes, skip: int, message: str) -> None:
    """One sentence says what is missing."""
    with pytest.raises(ShapeError, match=f"^x.csv: {message}"):
        preamble(data, skip=skip)


def test_a_header_wider_than_the_first_look() -> None:
    """Twenty thousand columns are a header like any other."""
    names = tuple(f"column_{number}" for number in range(20_000))
    assert preamble(",".join(names).encode() + b"\n1\n", chunk=1 << 20).names == names


@pytest.mark.parametrize("chunk", [1000, 1 << 20])
def test_a_header_wider_than_a_block(chunk: int) -> None:
    """Three megabytes of names, and the records after them in their place."""
    names = tuple(f"{number:_>100}" for number in range(30_000))
    data = ",".join(names).encode() + b"\n" + b"1," * 29_999 + b"2\n"
    records = open_records((data[at : at + chunk] for at in range(0, len(data), chunk)), CsvSpec(), name="x.csv")
    assert records.header == names
    assert [(each.records, each.offset, each.line) for each in records.blocks] == [(1, 30_000 * 101, 2)]


@pytest.mark.parametrize("chunk", [1, 100])
def test_a_header_of_several_rows(chunk: int) -> None:
    """A column's name is what stands in its rows, joined by a blank; empty cells and short rows add nothing."""
    found = preamble(b'Price,,Trip\n"from\nto",Unit\n1,2,3\n', rows=2, chunk=chunk)
    assert (found.names, found.offset, found.line) == (("Price from\nto", "Unit", "Trip"), 27, 4)
    assert b"".join(found.rest) == b"1,2,3\n"


@pytest.mark.parametrize("chunk", [1, 100])
def test_comments_before_the_header(chunk: int) -> None:
    """And between its rows."""
    dialect = Dialect.of(CsvSpec(comment="#"))
    found = preamble(b'#"x\n#\na,b\n# units\nkm,h\n1,2\n', rows=2, chunk=chunk, dialect=dialect)
    assert (found.names, found.offset, found.line) == (("a km", "b h"), 23, 6)


@pytest.mark.parametrize("chunk", [1, 100])
def test_a_header_with_a_long_delimiter(chunk: int) -> None:
    """Which a quoted name may hold."""
    dialect = Dialect.of(CsvSpec(delimiter="§|"))
    assert preamble('a§|"b§|c"§|§\n1'.encode(), dialect=dialect, chunk=chunk).names == ("a", "b§|c", "§")


def lines_of(text: bytes) -> list[bytes]:
    """The physical lines with their ends."""
    lines, start, at = [], 0, 0
    while at < len(text):
        end = at + 1
        if text[at] in b"\r\n":
            end += text[at : at + 2] == b"\r\n"
            lines.append(text[start:end])
            start = end
        at = end
    return lines + ([text[start:]] if start < len(text) else [])


@given(st.text(alphabet='a"\r\n', max_size=40).map(str.encode), st.integers(0, 4), st.integers(1, 9))
def test_the_footer_is_the_last_lines(text: bytes, lines: int, chunk: int) -> None:
    """Whatever stands in them, and however the bytes arrive."""
    chunks = [text[at : at + chunk] for at in range(0, len(text), chunk)]
    left = b"".join(without_footer(chunks, lines, name="x.csv"))
    assert left == b"".join(lines_of(text)[: -lines or None])


def test_a_footer_without_end_is_an_error() -> None:
    """It would have to be held back."""
    with pytest.raises(ShapeError, match=r"^x\.csv: the last 2 lines, to be skipped, are longer than 16,777,216 bytes"):
        list(without_footer([b"a\n", b"x" * RECORD_LIMIT, b"x"], 2, name="x.csv"))


def test_header_and_footer_of_a_whole_file() -> None:
    """Nothing of either is a record; the header is never taken for the footer."""
    csv = CsvSpec(skip_lines=1, header_rows=2, skip_footer=2, comment="#")
    records = open_records(iter([b'Report "x\na,b\nkm,h\n#c\n1,2\n\nTotal "1\n']), csv, name="x.csv")
    assert records.header == ("a km", "b h")
    assert [(each.raw(0), each.record, each.line, each.records) for each in records.blocks] == [(b"1,2", 1, 4, 1)]
    empty = open_records(iter([b"a,b\n"]), CsvSpec(skip_footer=1), name="x.csv")
    assert (empty.header, empty.first) == (("a", "b"), None)


def test_the_sample_is_the_first_block_of_whole_records() -> None:
    """Lines that a stray quote cost say nothing about the columns; they are read as the file has them, still."""
    records = open_records(iter([b'a,b\n1,"x\n2,y\n3,z\n']), CsvSpec(), name="x.csv")
    assert records.first is not None
    assert records.first.data == b"2,y\n3,z\n"
    assert [each.data for each in records.blocks] == [b'1,"x\n', b"2,y\n3,z\n"]
    lost = open_records(iter([b'1,"x']), CsvSpec(header=False), name="x.csv")
    assert (lost.first, [each.data for each in lost.blocks]) == (None, [b'1,"x'])


def test_a_header_of_millions_of_names_is_refused_before_they_are_made() -> None:
    """Delimiters in quotes are no names."""
    with pytest.raises(ShapeError, match=r"x\.csv: the header has 4,000,001 names, and may have 100,000"):
        open_records(iter([b"," * 4_000_000 + b"\n1\n"]), CsvSpec(), name="x.csv")
    quoted = open_records(iter([b'a,"' + b"," * 4_000_000 + b'"\n1,2\n']), CsvSpec(), name="x.csv")
    assert quoted.header is not None
    assert len(quoted.header) == 2


def test_a_record_of_millions_of_fields_does_not_make_as_many_columns() -> None:
    records = open_records(iter([b"," * 4_000_000 + b"\n1\n"]), CsvSpec(header=False), name="x.csv")
    with pytest.raises(ShapeError, match="has 4,000,001 columns, and a table can have no more than 1,600"):
        infer_columns(records.first, records.header, records.csv, name="x.csv")
