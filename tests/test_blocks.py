"""Splitting: the same blocks however the bytes arrive, and every record whole and in its place."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loader.blocks import RECORD_LIMIT, Splitter, split
from loader.errors import ShapeError
from loader.fields import Dialect, split_record
from loader.margins import read_preamble
from loader.records import Block
from loader.spec import CsvSpec

PLAIN = Dialect.of(CsvSpec())
BACKSLASH = Dialect.of(CsvSpec(escape="\\"))
UNQUOTED = Dialect.of(CsvSpec(quote="", escape=""))
COMMENTED = Dialect.of(CsvSpec(comment="#"))
BARS = Dialect.of(CsvSpec(delimiter="||"))
ODD = Dialect.of(CsvSpec(delimiter="|", escape="\\", comment="#a"))
DIALECTS = [PLAIN, BACKSLASH, UNQUOTED, COMMENTED, BARS, ODD]

csv_bytes = st.text(alphabet='a,"\n\r\\\0é', max_size=60).map(str.encode)
pieces = [
    "a",
    ",",
    '"',
    "\n",
    "\r",
    "#",
    "|",
    "\\",
    '""',
    '","',
    '"\n',
    "\n#",
    "||",
    "a,a\n",
    "a||a\r\n",
    '"a\na",a\n',
    '\\"',
]
texts = st.lists(st.sampled_from(pieces), max_size=40).map(lambda each: "".join(each).encode())
dialects = st.sampled_from(DIALECTS)
widths = st.sampled_from([None, 1, 2, 3])

Found = list[tuple[int, int, int, bytes, bool]]  # (record number, line, offset, raw, terminated) of each record


def blocks_of(
    data: bytes, size: int, dialect: Dialect = PLAIN, chunk: int = 1 << 20, fields: int | None = None
) -> list[Block]:
    chunks = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    return list(split(chunks, dialect, name="x.csv", block_size=size, fields=fields))


def limited(
    data: bytes, size: int, dialect: Dialect, fields: int | None, *, limit: int, look: int, chunk: int
) -> Found:
    """As `blocks_of`, where records may be as long as ``limit``, and only ``look`` bytes are looked ahead."""
    splitter = Splitter(dialect, name="x.csv", fields=fields, block_size=size, record_limit=limit, look_ahead=look)
    fed = (block for at in range(0, len(data), chunk) for block in splitter.feed(data[at : at + chunk]))
    return records_of([*fed, *splitter.flush()])


def records_of(blocks: list[Block]) -> Found:
    return [
        (
            block.record + index,
            block.line_of(index),
            block.offset + int(block.starts[index]),
            block.raw(index),
            block.terminated,
        )
        for block in blocks
        for index in range(block.records)
    ]


class Reference:
    """The same, by a reading of one byte after the other, of the whole text."""

    def __init__(self, data: bytes, dialect: Dialect, fields: int | None) -> None:
        self.data, self.dialect, self.fields = data, dialect, fields
        self.found: Found = []
        at = 0
        while at < len(data):
            at = self.take(at)

    def take(self, at: int) -> int:
        if self.is_comment(at):
            return self.line_end(at)
        end, closed, _ = self.record(at)
        if closed and self.fields is None and self.width(at, end) is not None and self.bare(at, end):
            self.fields = self.width(at, end)
        several = self.line_end(at) < end
        if closed and not (several and not self.regular(at, end) and self.width(at, end) != self.fields):
            self.enter(at, end, True)
            return end
        while True:
            end = self.line_end(at)
            if not self.is_comment(at):
                self.enter(at, end, False)
            at = end
            if at == len(self.data) or self.resumes(at):
                return at

    def resumes(self, at: int) -> bool:
        if self.is_comment(at) or not self.good(at):
            return False
        end, _, _ = self.record(at)
        if end == len(self.data) or self.is_comment(end):
            return self.fields in (None, self.width(at, end))
        after, _, _ = self.record(end)
        if not self.good(end) or self.width(end, after) != self.width(at, end):
            return False
        return self.fields in (None, self.width(at, end))

    def good(self, at: int) -> bool:
        end, closed, _ = self.record(at)
        return closed and self.regular(at, end)

    def is_comment(self, at: int) -> bool:
        return bool(self.dialect.comment) and self.data.startswith(self.dialect.comment, at)

    def line_end(self, at: int) -> int:
        while at < len(self.data) and self.data[at] not in b"\r\n":
            at += 1
        return min(at + 1 + (self.data[at : at + 2] == b"\r\n"), len(self.data))

    def bare(self, at: int, end: int) -> bytes:
        return self.data[at:end].rstrip(b"\r\n")

    def width(self, at: int, end: int) -> int:
        record = self.data[at:end]
        record = record[:-2] if record.endswith(b"\r\n") else record[:-1] if record[-1:] in (b"\n", b"\r") else record
        return len(split_record(record, self.dialect))

    def record(self, start: int) -> tuple[int, bool, list[int]]:
        """Its end, whether it was closed there, and where its quotes are."""
        data, dialect = self.data, self.dialect
        at, inside, quotes = start, False, []
        while at < len(data):
            byte, pair = data[at], data[at + 1 : at + 2]
            if (
                inside
                and byte == dialect.escape != dialect.quote
                and pair
                and pair[0] in (dialect.escape, dialect.quote)
            ):
                at += 2
                continue
            if byte == dialect.quote:
                inside = not inside
                quotes.append(at)
            elif byte in b"\r\n" and not inside:
                return self.line_end(at), True, quotes
            at += 1
        return len(data), not inside, quotes

    def regular(self, start: int, end: int) -> bool:
        """Each quote stands at a field's beginning or end, or beside another of the quotes."""
        delimiter, quote = self.dialect.delimiter, bytes([self.dialect.quote or 0])
        begins = {start}
        at, inside = start, False
        quotes = set(self.record(start)[2])
        before_delimiter = set()
        while at < end:
            if at in quotes:
                inside = not inside
            elif not inside and self.data.startswith(delimiter, at):
                before_delimiter.add(at)
                at += len(delimiter)
                begins.add(at)
                continue
            at += 1
        inside = False
        for place in sorted(quotes):
            inside = not inside
            doubled = self.dialect.doubled
            if inside and place not in begins and not (doubled and self.data[place - 1 : place] == quote):
                return False
            after = self.data[place + 1 : place + 2]
            closes = not inside and place + 1 < end and place + 1 not in before_delimiter
            if closes and after not in (b"\r", b"\n") and not (doubled and after == quote):
                return False
        return True

    def enter(self, at: int, end: int, terminated: bool) -> None:
        raw = self.data[at:end]
        raw = raw[:-2] if raw.endswith(b"\r\n") else raw[:-1] if raw[-1:] in (b"\n", b"\r") else raw
        before = self.data[:at]
        line = 1 + len(before.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")) - 1
        self.found.append((len(self.found) + 1, line, at, raw, terminated))


@given(st.one_of(csv_bytes, texts), dialects, widths, st.integers(1, 70), st.integers(1, 70))
@example(b'a,"b\r\nc"\r\nd\r', PLAIN, None, 1, 1)
@example(b'"a\\"\n"\n"\\\\"\nb', BACKSLASH, None, 2, 3)
@example(b'1,a\n2,"b\n3,c\n4,d\n', PLAIN, 2, 4, 1)
@example(b'#"\n1,a\n#x\n2,b', COMMENTED, None, 1, 1)
def test_every_record_is_found_at_its_place(
    data: bytes, dialect: Dialect, fields: int | None, size: int, chunk: int
) -> None:
    """Record numbers, lines, offsets and raw texts are those of a reading byte by byte; so is what is given up."""
    assert records_of(blocks_of(data, size, dialect, chunk, fields)) == Reference(data, dialect, fields).found


@given(texts, dialects, widths, st.sampled_from([8, 20, 40]), st.sampled_from([8, 20]))
def test_neither_blocks_nor_chunks_decide_what_is_broken(
    data: bytes, dialect: Dialect, fields: int | None, limit: int, look: int
) -> None:
    """Not even where records reach their limit, and lines the bytes that are looked ahead."""
    outcomes = []
    for size, chunk in [(1 << 20, 1 << 20), (1, 1 << 20), (1 << 20, 1), (2, 3), (3, 1), (7, 7), (64, 2)]:
        try:
            outcomes.append(limited(data, size, dialect, fields, limit=limit, look=look, chunk=chunk))
        except ShapeError as error:
            outcomes.append(str(error))
    assert outcomes.count(outcomes[0]) == len(outcomes)


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


def test_an_open_quote_costs_its_record() -> None:
    """The line is a block of its own, marked as not terminated; from the next one on quotes are counted anew."""
    blocks = blocks_of(b'1,a\n2,"b\n3,c\n4,"d"\n', 1 << 20)
    assert [(each.data, each.records, each.terminated) for each in blocks] == [
        (b"1,a\n", 1, True),
        (b'2,"b\n', 1, False),
        (b'3,c\n4,"d"\n', 2, True),
    ]


def test_a_record_longer_than_a_block_grows_the_block() -> None:
    """A record of many block sizes comes whole."""
    long = b'"' + b"x\n" * 500 + b'"\n'
    records = records_of(blocks_of(b"a\n" + long + b"b\n", 16))
    assert records == [(1, 1, 0, b"a", True), (2, 2, 2, long[:-1], True), (3, 503, 1005, b"b", True)]


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
