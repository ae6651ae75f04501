"""Bytes → record-aligned blocks, at memory speed.

A newline ends a record where the number of quotes before it is even; that is all there is to know, and
numpy knows it for a whole window at once. Nothing is parsed here. A block knows where in the file it
stands, so blocks can be parsed in any order, and an error found in one has an exact place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from loader.errors import ShapeError
from loader.fields import Dialect, UnterminatedQuoteError, split_record
from loader.records import Block, Layout, irregular_quotes, layout

BLOCK_SIZE = 1 << 20
"""Bytes of a block. Measured on lineitem: 256 KiB to 2 MiB are within noise of each other, above that
memory grows and nothing else does."""

RECORD_LIMIT = 16 << 20
"""Bytes of the longest record. A block grows up to this for a record that does not fit, so it bounds memory."""


class Splitter:
    """Feed it the file in chunks of any size, then flush it; both hand out blocks.

    The blocks are the same however the file was cut into chunks. Raises ShapeError for a record over
    ``record_limit`` bytes.
    """

    def __init__(
        self,
        dialect: Dialect,
        *,
        name: str,
        offset: int = 0,
        line: int = 1,
        block_size: int = BLOCK_SIZE,
        record_limit: int = RECORD_LIMIT,
    ) -> None:
        self._dialect = dialect
        self._name = name
        self._offset = offset
        self._line = line
        self._record = 1
        self._block_size = block_size
        self._record_limit = record_limit
        self._pending = b""

    def feed(self, chunk: bytes) -> Iterator[Block]:
        data = self._pending + chunk if self._pending else chunk
        at, window = 0, self._block_size
        while len(data) - at >= window:
            piece = data[at : at + window]
            found = layout(piece, self._dialect, final=False)
            if found.cut:
                yield self._block(piece[: found.cut], found, terminated=True)
                at, window = at + found.cut, self._block_size
            elif window >= self._record_limit:
                raise self._too_long()
            else:
                window = min(window * 2, self._record_limit)
        self._pending = data[at:]

    def flush(self) -> Iterator[Block]:
        data, self._pending = self._pending, b""
        if not data:
            return
        found = layout(data, self._dialect)
        terminated = len(found.quotes) % 2 == 0
        if terminated or found.cut:
            whole = len(data) if terminated else found.cut
            yield self._block(data[:whole], found, terminated=True)
            data = data[whole:]
        if not terminated:
            rest = layout(data, self._dialect)
            yield self._block(data, rest, terminated=False)

    def _block(self, data: bytes, found: Layout, *, terminated: bool) -> Block:
        size = len(data)
        unended = 0 if found.cut == size and terminated else 1
        records = (len(found.ends) if terminated else 0) + unended
        quotes = found.quotes[: np.searchsorted(found.quotes, size)]
        block = Block(
            data=data,
            offset=self._offset,
            record=self._record,
            line=self._line,
            records=records,
            shortest=int(np.diff(found.ends, prepend=0).min(initial=size)),
            regular=terminated and not self._escapes(data) and not len(irregular_quotes(data, quotes, self._dialect)),
            terminated=terminated,
            dialect=self._dialect,
        )
        self._offset += size
        self._record += records
        self._line += int(np.searchsorted(found.line_ends, size, side="right"))
        return block

    def _escapes(self, data: bytes) -> bool:
        escape = self._dialect.escape
        return escape is not None and not self._dialect.doubled and escape in data

    def _too_long(self) -> ShapeError:
        return ShapeError(
            f"{self._name}: record {self._record} (line {self._line}, byte {self._offset}) is longer than the "
            f"limit of {self._record_limit:,} bytes; is a quote left open?"
        )


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


def read_preamble(chunks: Iterable[bytes], dialect: Dialect, *, name: str, skip_lines: int, header: bool) -> Preamble:
    """Take the skipped physical lines and the header record off the front of a file.

    Raises ShapeError where the file ends before them, or the header is over `RECORD_LIMIT` bytes.
    """
    reader = _Front(iter(chunks), name)
    for _ in range(skip_lines):
        reader.take(Dialect(dialect.delimiter, None, None), "the lines to skip")
    names = None
    if header:
        record = reader.take(dialect, "a header")
        names = _header_names(record, dialect, name)
    return Preamble(names, reader.offset, reader.line, reader.rest())


class _Front:
    """Takes single records off the front of a stream of chunks."""

    def __init__(self, chunks: Iterator[bytes], name: str) -> None:
        self._chunks = chunks
        self._name = name
        self._data = b""
        self.offset = 0
        self.line = 1

    def take(self, dialect: Dialect, what: str) -> bytes:
        """The next record without its line end; ``what`` names it in the error where there is none."""
        window = 4096
        while True:
            more = self._fill(window)
            piece = self._data[:window]
            found = layout(piece, dialect, final=not more and len(piece) == len(self._data))
            if len(found.ends):
                return self._drop(int(found.ends[0]), found)
            if not more and len(piece) == len(self._data):
                if not piece:
                    raise ShapeError(f"{self._name}: {self._missing(what)}")
                return self._drop(len(piece), found)
            if window >= RECORD_LIMIT:
                raise ShapeError(f"{self._name}: {what} (line {self.line}) is longer than {RECORD_LIMIT:,} bytes")
            window *= 2

    def _missing(self, what: str) -> str:
        return f"the file ends where {what} should stand" if self.offset else f"the file is empty; {what} was expected"

    def rest(self) -> Iterator[bytes]:
        if self._data:
            yield self._data
        yield from self._chunks

    def _fill(self, size: int) -> bool:
        """Hold at least ``size`` bytes; False where the stream ended before that."""
        while len(self._data) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._data += chunk
        return True

    def _drop(self, size: int, found: Layout) -> bytes:
        record, self._data = self._data[:size], self._data[size:]
        self.offset += size
        self.line += int(np.searchsorted(found.line_ends, size, side="right"))
        return record.rstrip(b"\r\n")


def _header_names(record: bytes, dialect: Dialect, name: str) -> tuple[str, ...]:
    try:
        fields = split_record(record, dialect)
    except UnterminatedQuoteError as error:
        raise ShapeError(f"{name}: the header has a quote that is never closed") from error
    names = []
    for number, (value, _) in enumerate(fields, start=1):
        try:
            names.append(value.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ShapeError(f"{name}: the header's name {number}, {value!r}, is not valid UTF-8") from error
    return tuple(names)


def split(
    chunks: Iterable[bytes],
    dialect: Dialect,
    *,
    name: str,
    offset: int = 0,
    line: int = 1,
    block_size: int = BLOCK_SIZE,
) -> Iterator[Block]:
    """Blocks of the records that ``chunks`` make up."""
    splitter = Splitter(dialect, name=name, offset=offset, line=line, block_size=block_size)
    for chunk in chunks:
        yield from splitter.feed(chunk)
    yield from splitter.flush()
