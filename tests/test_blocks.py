"""Splitting: the same blocks however the bytes arrive, and every record whole and in its place."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loader.core.errors import ShapeError
from loader.core.spec.model import CsvSpec
from loader.records.block import Block, Place
from loader.records.dialect import Dialect, split_record
from loader.records.splitter import RECORD_LIMIT, Splitter, split

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
    return list(split(chunks, dialect, name="x.csv", block_size=size, start=Place(fields=fields)))


def limited(
    data: bytes, size: int, dialect: Dialect, fields: int | None, *, limit: int, look: int, chunk: int
) -> Found:
    """As `blocks_of`, where records may be as long as ``limit``, and only ``look`` bytes are looked ahead."""
    start = Place(fields=fields)
    splitter = Splitter(dialect, name="x.csv", start=start, block_size=size, record_limit=limit, look_ahead=look)
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
            allowed = after in (b"\r", b"\n") or (doubled and after == quote) or place + 1 in before_delimiter
            if not inside and place + 1 < end and not allowed:
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
@example(b'#a\\"', ODD, None, 1, 1)
@example(b'"\\"\n#a"|\n#a"\r\n#a\\"\n"', ODD, 2, 1, 1)
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


@given(st.one_of(csv_bytes, texts), dialects, widths, st.integers(1, 70), st.integers(1, 70))
@example(b'1,a\n2,"b\n3,c\n4,d\n5,e\n', PLAIN, 2, 4, 9)
def test_a_file_can_be_taken_up_after_a_block(
    data: bytes, dialect: Dialect, fields: int | None, size: int, again: int
) -> None:
    """Wherever a block says that it can be, the rest is found as it was, broken or not, with its numbers and places."""
    blocks = blocks_of(data, size, dialect, fields=fields)
    for number, block in enumerate(blocks):
        if block.after is not None:
            rest = split([data[block.after.offset :]], dialect, name="x.csv", start=block.after, block_size=again)
            assert records_of(list(rest)) == records_of(blocks[number + 1 :])
    if all(block.terminated for block in blocks):
        assert all(block.after is not None for block in blocks)


@given(csv_bytes, dialects, st.integers(1, 70))
def test_blocks_tile_the_file(data: bytes, dialect: Dialect, size: int) -> None:
    """Blocks follow each other without a gap and hold all bytes, but for comments; their record counts add up."""
    offset, record = 0, 1
    for block in blocks_of(data, size, dialect):
        assert (block.offset, block.record) == (offset, record)
        offset += len(block.data)
        record += block.records
    assert offset == len(data)


@given(csv_bytes, st.integers(1, 70), st.integers(1, 70))
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


@pytest.mark.parametrize("chunk", [1, 7, 40])
def test_a_last_record_may_be_as_long_as_the_limit(chunk: int) -> None:
    """Without a line end, too; and whether it is all there is to read, or what came before it is done with."""
    data = b'1,a\n2,"' + b"x" * 8 + b"\n" + b"x" * 7 + b'"'
    for start in (0, 4):
        found = limited(data[start:], 1 << 20, PLAIN, 2, limit=20, look=20, chunk=chunk)
        assert [(raw, terminated) for *_, raw, terminated in found][-1] == (data[4:], True)
    broken = limited(data + b"x", 1 << 20, PLAIN, 2, limit=20, look=20, chunk=chunk)
    assert [terminated for *_, terminated in broken] == [True, False, False]


@given(csv_bytes)
def test_records_of_terminated_blocks_have_their_quotes_in_pairs(data: bytes) -> None:
    """So that each can be split into fields by itself."""
    for block in blocks_of(data, 8):
        if block.terminated:
            for index in range(block.records):
                split_record(block.raw(index), PLAIN)


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_comments_are_no_records(size: int) -> None:
    """They count as lines and bytes, not as records; their quotes open nothing; in a quoted field there are none."""
    data = b'# it\'s "so\r\n1,a\r\n#"\n#\n2,"\n# b"\n 3,#c\n#end "'
    assert records_of(blocks_of(data, size, COMMENTED)) == [
        (1, 2, 12, b"1,a", True),
        (2, 5, 22, b'2,"\n# b"', True),
        (3, 7, 31, b" 3,#c", True),
    ]


@pytest.mark.parametrize("comment", ["//", "REM ", "§"])
@given(data=st.data(), size=st.integers(1, 20))
def test_a_comment_may_be_several_bytes(comment: str, data: st.DataObject, size: int) -> None:
    """And less than that is none."""
    text = data.draw(st.lists(st.sampled_from([*comment, comment, "\n", '"', ","]), max_size=30).map("".join)).encode()
    dialect = Dialect.of(CsvSpec(comment=comment))
    assert records_of(blocks_of(text, size, dialect, fields=2)) == Reference(text, dialect, 2).found


@pytest.mark.parametrize(
    ("data", "fields", "broken"),
    [
        (b'1,"a\n2,b\n3,c\n', 2, [b'1,"a']),  # never closed
        (b'1,a"\n2,b\n3,c\n', 2, [b'1,a"']),  # opened at the end of a field
        (b'0,x\n1,"a" b"\n2,b\n3,"c"\n', 2, [b'1,"a" b"']),
        (b'1,"a\nx\ny,z,z\n2,b\n3,c\n', 2, [b'1,"a', b"x", b"y,z,z"]),  # resumed where the shape is right
        (b'1,"a\n2,b', 2, [b'1,"a']),  # the file's last record needs none after it
        (b'1,"a', 2, [b'1,"a']),
        (b'1,"a,x\n2,"b,c",d\n3,e,f\n', 3, [b'1,"a,x']),  # it closes at another's quote
        (b'1,"a\nb" c\n2,b\n', 2, []),  # COPY makes two fields of it
        (b'1,"a\nb",c\n2,b\n', 2, []),  # regular, though too wide: it is rejected as one record
        (b'1,a"b"c,d\n2,b\n', 2, []),  # on one line
        (b'1,"a\r2,b\r3,"c"\r', 2, [b'1,"a']),  # lines end as they do
    ],
)
@pytest.mark.parametrize("size", [1, 3, 64])
def test_what_a_stray_quote_costs(data: bytes, fields: int, broken: list[bytes], size: int) -> None:
    """Its line, and those up to the next from which records have the right shape: never the rest of the file."""
    assert [raw for *_, raw, terminated in records_of(blocks_of(data, size, fields=fields)) if not terminated] == broken


def test_a_quote_left_open_early_in_a_large_file_costs_one_line() -> None:
    """Also where the file goes on beyond the length that a record may have."""
    good = b'17,"some text, quoted",18.5\n'
    data = b'1,"open,2\n' + good * ((RECORD_LIMIT + (4 << 20)) // len(good))
    blocks = blocks_of(data, 1 << 20, fields=3)
    assert [(each.data, each.records) for each in blocks if not each.terminated] == [(b'1,"open,2\n', 1)]
    assert sum(each.records for each in blocks) == data.count(b"\n")


@pytest.mark.parametrize(
    ("stray", "good", "dialect"),
    [
        (b'1,"open,2\n', b'17,"some text, quoted",18.5\n' * 2, PLAIN),
        (b'x,"a\\"\n', b'"\n', PLAIN),
        (b'x,"a\\"\n', b"17,some text,18.5\n" * 2, BACKSLASH),  # open after each line, however it began
        (b'"\\"\n', b"", BACKSLASH),
        (b'#"\n1,"open,2\n', b"17,some text\n" * 2, COMMENTED),
    ],
)
def test_many_stray_quotes_cost_time_in_proportion(stray: bytes, good: bytes, dialect: Dialect) -> None:
    """Each is followed to its end once, not once for every stray quote on the way."""

    def seconds(size: int) -> float:
        data = (stray + good) * (size // len(stray + good))
        began = time.process_time()
        splitter = Splitter(dialect, name="x.csv", start=Place(fields=3))
        assert [*splitter.feed(data), *splitter.flush()]
        return time.process_time() - began

    seconds(1 << 10)
    assert seconds(1 << 16) < 20 * seconds(1 << 13) + 1  # the square would be 64 times as much
