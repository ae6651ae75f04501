"""Splitting: the same blocks however the bytes arrive, and every record whole and in its place."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loader.blocks import RECORD_LIMIT, split
from loader.errors import ShapeError
from loader.fields import Dialect, UnterminatedQuoteError, split_record
from loader.margins import read_preamble
from loader.records import Block
from loader.spec import CsvSpec

PLAIN = Dialect.of(CsvSpec())
BACKSLASH = Dialect.of(CsvSpec(escape="\\"))
UNQUOTED = Dialect.of(CsvSpec(quote="", escape=""))

csv_bytes = st.text(alphabet='a,"\n\r\\\0é', max_size=60).map(str.encode)
dialects = st.sampled_from([PLAIN, BACKSLASH, UNQUOTED])


def blocks_of(data: bytes, size: int, dialect: Dialect = PLAIN, chunk: int = 1 << 20) -> list[Block]:
    chunks = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    return list(split(chunks, dialect, name="x.csv", block_size=size))


def records_of(blocks: list[Block]) -> list[tuple[int, int, int, bytes]]:
    """(record number, line, offset, raw) of each record."""
    return [
        (block.record + index, block.line_of(index), block.offset + int(block.starts[index]), block.raw(index))
        for block in blocks
        for index in range(block.records)
    ]


def reference(data: bytes, dialect: Dialect) -> list[tuple[int, int, int, bytes]]:
    """The same, by a reading of one byte after the other."""
    found, start, line, begun, inside, at = [], 0, 1, 1, False, 0
    while at < len(data):
        byte = data[at]
        end = at + 1
        if inside and byte == dialect.escape and at + 1 < len(data) and data[at + 1] in (dialect.escape, dialect.quote):
            end += 1
        elif byte == dialect.quote:
            inside = not inside
        elif byte in b"\r\n":
            end += byte == 13 and data[at + 1 : at + 2] == b"\n"
            line += 1
            if not inside:
                found.append((len(found) + 1, begun, start, data[start:at]))
                start, begun = end, line
        at = end
    if start < len(data):
        found.append((len(found) + 1, begun, start, data[start:]))
    return found


@given(csv_bytes, dialects, st.integers(1, 70), st.integers(1, 70))
@example(b'a,"b\r\nc"\r\nd\r', PLAIN, 1, 1)
@example(b'"a\\"\n"\n"\\\\"\nb', BACKSLASH, 2, 3)
def test_every_record_is_found_at_its_place(data: bytes, dialect: Dialect, size: int, chunk: int) -> None:
    """Record numbers, lines, offsets and raw texts are those of a reading byte by byte."""
    assert records_of(blocks_of(data, size, dialect, chunk)) == reference(data, dialect)


@given(csv_bytes, dialects, st.integers(1, 70))
def test_blocks_tile_the_file(data: bytes, dialect: Dialect, size: int) -> None:
    """Blocks follow each other without a gap and hold all bytes; their record counts and lines add up."""
    offset, record = 0, 1
    for block in blocks_of(data, size, dialect):
        assert (block.offset, block.record) == (offset, record)
        offset += len(block.data)
        record += block.records
    assert offset == len(data)


@given(csv_bytes, st.integers(1, 70), st.integers(1, 9))
def test_how_the_bytes_arrive_does_not_matter(data: bytes, size: int, chunk: int) -> None:
    """The blocks of a file are the same, whatever chunks it comes in."""
    whole = [(each.data, each.regular) for each in blocks_of(data, size)]
    assert [(each.data, each.regular) for each in blocks_of(data, size, chunk=chunk)] == whole


@given(csv_bytes)
def test_regular_means_quotes_around_whole_fields(data: bytes) -> None:
    """A block is regular exactly if no field of its records has a quote in its middle."""
    for block in blocks_of(data, 1 << 20):
        if block.terminated:
            fields = [field for index in range(block.records) for field in spelled(block.raw(index))]
            assert block.regular == all(b'"' not in bare(field) for field in fields)


def spelled(record: bytes) -> list[bytes]:
    """The fields as they are written, quotes included."""
    fields, start, inside = [], 0, False
    for at, byte in enumerate(record):
        inside ^= byte == 34
        if byte == 44 and not inside:
            fields.append(record[start:at])
            start = at + 1
    return [*fields, record[start:]]


def bare(field: bytes) -> bytes:
    """Without the quotes that RFC 4180 allows."""
    if len(field) >= 2 and field.startswith(b'"') and field.endswith(b'"'):
        return field[1:-1].replace(b'""', b"")
    return field


def test_an_open_quote_at_the_end_is_a_block_of_its_own() -> None:
    """What follows an unbalanced quote is one record, marked as not terminated; what stands before is not harmed."""
    blocks = blocks_of(b'1,a\n2,"b\n3,c\n', 1 << 20)
    assert [(each.data, each.records, each.terminated) for each in blocks] == [
        (b"1,a\n", 1, True),
        (b'2,"b\n3,c\n', 1, False),
    ]


def test_a_record_longer_than_a_block_grows_the_block() -> None:
    """A record of many block sizes comes whole."""
    long = b'"' + b"x\n" * 500 + b'"\n'
    records = records_of(blocks_of(b"a\n" + long + b"b\n", 16))
    assert records == [(1, 1, 0, b"a"), (2, 2, 2, long[:-1]), (3, 503, 1005, b"b")]


def test_a_record_over_the_limit_is_an_error_with_its_place() -> None:
    """The message names the file, the record, its line and its first byte."""
    data = b'a,b\n"' + b"x" * (RECORD_LIMIT + 10)
    with pytest.raises(
        ShapeError, match=r"^x\.csv: record 2 \(line 2, byte 4\) is longer than the limit of 16,777,216"
    ):
        blocks_of(data, 1 << 20)


def preamble(data: bytes, *, skip: int = 0, header: bool = True, chunk: int = 3):
    chunks = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    return read_preamble(chunks, PLAIN, name="x.csv", skip_lines=skip, header=header)


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
        (b"a,\xff\n", 0, "the header's name 2, b'.{4}', is not valid UTF-8"),
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


@given(csv_bytes)
def test_records_of_terminated_blocks_have_their_quotes_in_pairs(data: bytes) -> None:
    """So that each can be split into fields by itself."""
    for block in blocks_of(data, 8):
        if block.terminated:
            for index in range(block.records):
                split_record(block.raw(index), PLAIN)
        else:
            with pytest.raises(UnterminatedQuoteError):
                split_record(block.raw(0), PLAIN)
