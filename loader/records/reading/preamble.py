"""What stands around the records of a file: lines before them, the header, the footer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from loader.core.display import shown
from loader.core.errors import ShapeError
from loader.records.block import RECORD_LIMIT, Layout, delimiters, layout
from loader.records.dialect import Dialect, UnterminatedQuoteError, split_record
from loader.sources.encoding_guess import SAMPLE, suggest_encoding

_LINES = Dialect(b",", None, None)  # each physical line is a record


NAMES_LIMIT = 100_000
"""Names of a header: 60 times what a table can have, and a second's work."""


@dataclass(frozen=True, slots=True)
class Preamble:
    """What stands before the first record: skipped lines and the header.

    ``names`` is None where the file has no header. ``offset`` and ``line`` are where the first record
    begins; ``rest`` is the text from there on.
    """

    names: tuple[str, ...] | None
    offset: int
    line: int
    rest: Iterator[bytes]


def read_preamble(
    chunks: Iterable[bytes],
    dialect: Dialect,
    *,
    name: str,
    skip_lines: int,
    header: bool,
    header_rows: int = 1,
    trailing_delimiter: bool = False,
) -> Preamble:
    """Take the skipped physical lines and the records of the header off the front of a file.

    A column's name is what stands in the header's rows, joined by blanks. ``trailing_delimiter``: what follows each
    record's last delimiter is a field without a name, whether the header has that delimiter or not. Raises ShapeError
    where the file ends before all that, or a record of the header is over `RECORD_LIMIT` bytes.
    """
    reader = _Front(iter(chunks), name)
    for _ in range(skip_lines):
        reader.take(_LINES, "the lines to skip")
    names = None
    if header:
        rows = [_header_row(reader.take(dialect, "a header"), dialect, name, reader) for _ in range(header_rows)]
        names = tuple(" ".join(filter(None, cells)) for cells in zip_longest(*rows, fillvalue=""))
        if trailing_delimiter and names[-1].strip():
            names = (*names, "")
    return Preamble(names, reader.offset, reader.line, reader.rest())


class _Front:
    """Takes single records off the front of a stream of chunks."""

    def __init__(self, chunks: Iterator[bytes], name: str) -> None:
        self._chunks = chunks
        self._name = name
        self._data = b""
        self._at = 0  # what stands before it was taken
        self.sample = b""  # of the file's beginning
        self.offset = 0
        self.line = 1

    def take(self, dialect: Dialect, what: str) -> bytes:
        """The next record without its line end; ``what`` names it in the error where there is none."""
        window = 4096
        while True:
            more = self._fill(window)
            self.sample = self.sample or self._data[:SAMPLE]
            piece = self._data[self._at : self._at + window]
            last = not more and self._at + window >= len(self._data)
            found = layout(piece, dialect, final=last)
            if len(found.ends):
                return self._drop(int(found.starts(len(piece))[0]), int(found.ends[0]), found)
            if found.cut:  # comments only
                self._drop(0, found.cut, found)
                continue
            if last:
                if not piece:
                    raise ShapeError(f"{self._name}: {self._missing(what)}")
                return self._drop(0, len(piece), found)
            if window >= RECORD_LIMIT:
                raise ShapeError(f"{self._name}: {what} (line {self.line}) is longer than {RECORD_LIMIT:,} bytes")
            window *= 2

    def _missing(self, what: str) -> str:
        return f"the file ends where {what} should stand" if self.offset else f"the file is empty; {what} was expected"

    def rest(self) -> Iterator[bytes]:
        if self._at < len(self._data):
            yield self._data[self._at :]
        yield from self._chunks

    def _fill(self, size: int) -> bool:
        """Hold at least ``size`` bytes; False where the stream ended before that."""
        while len(self._data) - self._at < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._data, self._at = self._data[self._at :] + chunk, 0
        return True

    def _drop(self, start: int, size: int, found: Layout) -> bytes:
        """Take ``size`` bytes off, of which the record is what begins at ``start``."""
        record = self._data[self._at + start : self._at + size]
        self._at += size
        self.offset += size
        self.line += int(np.searchsorted(found.line_ends, size, side="right"))
        return record.rstrip(b"\r\n")


def _header_row(record: bytes, dialect: Dialect, name: str, front: _Front) -> list[str]:
    if record.count(dialect.delimiter) >= NAMES_LIMIT:
        width = len(delimiters(record, layout(record, dialect).quotes, dialect)) + 1
        if width > NAMES_LIMIT:
            raise ShapeError(f"{name}: the header has {width:,} names, and may have {NAMES_LIMIT:,}")
    try:
        fields = split_record(record, dialect)
    except UnterminatedQuoteError as error:
        raise ShapeError(f"{name}: the header has a quote that is never closed") from error

    def hint() -> str:
        return "" if dialect.transcoded else suggest_encoding(front.sample)

    names = []
    for number, (value, _) in enumerate(fields, start=1):
        try:
            names.append(value.decode("utf-8"))
            if "\0" in names[-1]:
                raise ShapeError(f"{name}: the header's name {number}, {shown(value)}, holds the byte 0{hint()}")
        except UnicodeDecodeError as error:
            raise ShapeError(
                f"{name}: the header's name {number}, {shown(value)}, is not valid UTF-8{hint()}"
            ) from error
    return names


def without_footer(chunks: Iterable[bytes], lines: int, *, name: str) -> Iterator[bytes]:
    """The chunks without the last ``lines`` physical lines of the text that they make up.

    What may be the footer is held back: raises ShapeError where that is more than `RECORD_LIMIT` bytes.
    """
    if not lines:
        yield from chunks
        return
    held = b""
    for chunk in chunks:
        held += chunk
        begin = _footer(held, lines, final=False)
        if begin:
            yield held[:begin]
            held = held[begin:]
        if len(held) > RECORD_LIMIT:
            raise ShapeError(f"{name}: the last {lines} lines, to be skipped, are longer than {RECORD_LIMIT:,} bytes")
    begin = _footer(held, lines, final=True)
    if begin:
        yield held[:begin]


def footer_start(read: Callable[[int, int], bytes], size: int, lines: int) -> int | None:
    """Where the last ``lines`` physical lines of ``size`` bytes of text begin; None where that is too far from the end.

    ``read`` gives the bytes from one offset up to another.
    """
    window = 4096
    while True:
        first = max(0, size - window)
        text = read(first, size)
        begin = _footer(text, lines, final=True)
        if begin > 1 or first == 0:  # a window that begins with LF may have cut a line end in two
            return first + begin
        if window >= RECORD_LIMIT:
            return None
        window *= 8


def _footer(text: bytes, lines: int, *, final: bool) -> int:
    """Where the last ``lines`` lines of ``text`` begin, or can begin at the earliest where more text may follow."""
    ends = layout(text, _LINES, final=final).line_ends
    unended = len(ends) == 0 or int(ends[-1]) < len(text)
    number = lines if final and unended else lines + 1
    return int(ends[-number]) if number <= len(ends) else 0
