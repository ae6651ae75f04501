"""Bytes → record-aligned blocks, at memory speed.

A newline ends a record where the number of quotes before it is even; that is all there is to know, and
numpy knows it for a whole window at once. Nothing is parsed here. A block knows where in the file it
stands, so blocks can be parsed in any order, and an error found in one has an exact place.

A quote that is never closed turns that rule against the file: all that follows is one record. Such a broken
record is given up line by line until records have the right shape again; from there on quotes are counted anew.
What COPY accepts is never broken: a record is only where it has no end (within `RECORD_LIMIT`), or runs over
several lines, has quotes in the middle of fields, and not as many fields as the file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

from loader.core.errors import ShapeError
from loader.kernel.compiled import compiled_kernel
from loader.records.block import (
    RECORD_LIMIT,
    Block,
    Layout,
    Place,
    Positions,
    delimiters,
    irregular_quotes,
    layout,
    lines_only,
)
from loader.records.dialect import Dialect

BLOCK_SIZE = 1 << 20
"""Bytes of a block. Measured on lineitem: 256 KiB to 2 MiB are within noise of each other, above that
memory grows and nothing else does."""

LOOK_AHEAD = 64 << 10
"""Bytes in which a record of several lines must end for the file to be taken up again at it, after a broken one."""

GIVEN_UP_LINES = 4096
"""Lines of a block of given-up lines: each is a reject, some hundred bytes and more."""

_SMALL = 4096
"""Bytes of the first window after a broken record. Another may follow soon, and the rest of the window were
looked at in vain; it doubles with each block that has none."""

START = Place()
"""Of a file whose first record is to tell how many fields there are."""

_ENDLESS = sys.maxsize

_LINE_END = re.compile(rb"\r\n?|\n")


class EndlessRecordError(ShapeError):
    """A record is over ``limit`` bytes. ``place``: where it begins."""

    def __init__(self, name: str, place: Place, limit: int = RECORD_LIMIT) -> None:
        super().__init__(
            f"{name}: record {place.record} (line {place.line}, byte {place.offset}) is longer than the "
            f"limit of {limit:,} bytes; is a quote left open?"
        )
        self.place = place


class _NeedMoreError(Exception):
    """What is at hand does not decide what comes next."""


@dataclass(slots=True)
class _Lost:
    """Lines that are being given up: their bytes and number, as far as they are not handed out yet."""

    size: int = 0
    lines: int = 0
    first: bool = True  # none was given up so far


@dataclass(frozen=True, slots=True)
class _Runaway:
    """What a broken record ran over, up to ``end`` in the file's text.

    A later record that begins in there and is open where its first line ends, is, from that line end on, open
    where this one was: it need not be followed again, line by line, up to the same end. ``delimiters`` and
    ``odd``: the delimiters outside quotes and the irregular quotes, in the file's text; None where ``end`` is
    only as far as the record was followed.
    """

    end: int
    delimiters: Positions | None = None
    odd: Positions | None = None


class Splitter:
    """Feed it the file in chunks of any size, then flush it; both hand out blocks.

    The blocks are the same however the file was cut into chunks, and the records, broken or not, whatever
    ``block_size`` is, and wherever a block's ``after`` is taken for the ``start`` of another splitter. Raises
    EndlessRecordError for a line over ``record_limit`` bytes.
    """

    def __init__(
        self,
        dialect: Dialect,
        *,
        name: str,
        start: Place = START,
        block_size: int = BLOCK_SIZE,
        record_limit: int = RECORD_LIMIT,
        look_ahead: int = LOOK_AHEAD,
    ) -> None:
        self._dialect = dialect
        self._name = name
        self._offset = start.offset  # of what `_at` stands at
        self._line = start.line
        self._record = start.record
        self._fields = start.fields
        self._block_size = max(1, min(block_size, record_limit // 4))
        self._record_limit = record_limit
        self._look_ahead = look_ahead
        self._data = b""
        self._at = 0
        self._window = self._block_size
        self._usual_window = self._block_size
        self._lost: _Lost | None = None
        self._runaway: _Runaway | None = None
        self._kernel = compiled_kernel() if dialect.is_plain else None

    def feed(self, chunk: bytes) -> Iterator[Block]:
        if self._data:
            yield from self._blocks_at_seam(chunk)
        else:
            self._data = chunk
        yield from self._blocks(final=False)
        self._data, self._at = self._data[self._at :], 0

    def _blocks_at_seam(self, chunk: bytes) -> Iterator[Block]:
        """The blocks that begin in what is left of earlier chunks; then the data are ``chunk``, uncopied if it can be.

        To copy all of it would take a third of the time that splitting takes.
        """
        held = self._data
        if len(chunk) > self._window:
            self._data = held + chunk[: self._window]
            yield from self._blocks(final=False, stop=len(held))
            if self._at >= len(held):
                self._data, self._at = chunk, self._at - len(held)
                return
        self._data, self._at = held[self._at :] + chunk, 0

    def flush(self) -> Iterator[Block]:
        yield from self._blocks(final=True)

    def _blocks(self, *, final: bool, stop: int = _ENDLESS) -> Iterator[Block]:
        """All that the data at hand decides and that begins before ``stop``."""
        while self._at < min(stop, len(self._data)):
            try:
                found = self._give_up_lines(final) if self._lost else self._take_records(final)
            except _NeedMoreError:
                return
            if found is not None:
                yield found

    # --- records

    def _take_records(self, final: bool) -> Block | None:
        """A block of the whole records in the window; None where it has to grow or begins with a broken record."""
        at, window = self._at, self._window
        self._need(at + window, final)
        last = final and at + window >= len(self._data)
        if self._kernel is not None and self._fields is not None:
            block = self._scanned(self._kernel, at, window, last)
            if block is not None:
                return block
        piece = self._data[at : at + window]
        found = layout(piece, self._dialect, final=last)
        size = len(piece) if last and not found.open else found.cut
        if not size:
            self._grow(piece, found, last)
            return None
        whole = found if size == len(piece) else found.until(size)
        data = piece if size == len(piece) else piece[:size]
        if self._fields is None:
            self._fields = self._fields_of_first(data, whole)
        odd = irregular_quotes(data, whole.quotes, self._dialect)
        if len(odd) and (broken := self._first_broken(data, whole, odd)) is not None:
            start, end = broken
            self._give_up(self._trace(data[start:end], self._offset + start))
            if not start:
                return None
            size, whole, data, odd = start, whole.until(start), data[:start], odd[odd < start]
        else:
            self._usual_window = min(self._usual_window * 2, self._block_size)
        self._window = self._usual_window
        plain = len(self._dialect.delimiter) == 1 and not len(whole.comments)
        return self._block(data, whole, regular=plain and not len(odd) and not self._escapes(data))

    def _scanned(self, kernel: ModuleType, at: int, window: int, last: bool) -> Block | None:
        """The same by the kernel, at a fraction of the time, where all quotes in the window are regular."""
        quote = -1 if self._dialect.quote is None else self._dialect.quote
        delimiter = self._dialect.delimiter[0]
        found = kernel.scan(self._data, at, window, delimiter, quote, last)
        size, records, lines, shortest, longest, open_, regular = found
        if not size or not regular or (last and open_):
            return None
        self._usual_window = min(self._usual_window * 2, self._block_size)
        self._window = self._usual_window
        data = self._data[at : at + size]
        return self._made(data, records, lines, shortest, regular=True, most_lines=longest)

    def _grow(self, piece: bytes, found: Layout, last: bool) -> None:
        """The record at hand does not end in the window: it is longer, or broken."""
        if last:
            self._give_up(_Runaway(_ENDLESS))
        elif self._runs_away(piece, found):
            self._give_up(self._runaway)
        elif self._window >= self._record_limit:
            self._need(self._at + len(piece) + 1, final=False)  # it may be the file's last, and just not too long
            self._give_up(_Runaway(self._offset + len(piece)))
        else:
            self._window = min(self._window * 2, self._record_limit)

    def _first_broken(self, data: bytes, found: Layout, odd: Positions) -> tuple[int, int] | None:
        """Where the first broken record begins and ends, of those that ``odd`` quotes stand in."""
        starts = found.starts(len(data))
        ends = np.append(found.ends, len(data))
        for index in np.unique(np.searchsorted(ends, odd, side="right")):
            start, end = int(starts[index]), int(ends[index])
            inner = np.searchsorted(found.line_ends, end) > np.searchsorted(found.line_ends, start, side="right")
            if inner and self._width(data[start:end]) != self._fields:
                return start, end
        return None

    def _fields_of_first(self, data: bytes, found: Layout) -> int | None:
        """The number of fields of the first record that is no empty line."""
        starts = found.starts(len(data))
        ends = np.append(found.ends, len(data))
        for index in range(len(starts) - 1):
            record = data[starts[index] : ends[index]].rstrip(b"\r\n")
            if record:
                return self._width(record)
        return None

    def _width(self, record: bytes) -> int:
        """The number of its fields, by COPY's rules."""
        return len(delimiters(record, layout(record, self._dialect).quotes, self._dialect)) + 1

    # --- broken records

    def _give_up(self, runaway: _Runaway | None) -> None:
        """The next record is broken: give up its lines, from the first on."""
        self._runaway = runaway
        self._lost = _Lost()
        self._window = self._usual_window = min(_SMALL, self._block_size)

    def _trace(self, record: bytes, offset: int) -> _Runaway:
        quotes = layout(record, self._dialect).quotes
        return _Runaway(
            offset + len(record),
            delimiters(record, quotes, self._dialect) + offset,
            irregular_quotes(record, quotes, self._dialect) + offset,
        )

    def _runs_away(self, piece: bytes, found: Layout) -> bool:
        """Whether the record at hand, which is open to the end of ``piece``, is known to be broken."""
        runaway = self._runaway
        if runaway is None or not len(found.line_ends):
            return False
        length = int(found.line_ends[0])
        line_end = self._offset + length
        if line_end >= runaway.end:
            return False
        if runaway.delimiters is None or runaway.odd is None:
            # as good as over the limit; to follow each such record to it would take the square of the file's length
            return length <= self._record_limit // 4 and runaway.end - self._offset > self._record_limit // 2
        line, quotes = piece[:length], found.quotes[: np.searchsorted(found.quotes, length)]
        odd = irregular_quotes(line, quotes, self._dialect)
        if not len(odd) and not len(_from(runaway.odd, line_end)):
            return False
        own = delimiters(line, quotes, self._dialect)
        return len(own) + len(_from(runaway.delimiters, line_end)) + 1 != self._fields

    def _give_up_lines(self, final: bool) -> Block | None:
        """A block of given-up lines; it ends where records have the right shape again."""
        lost = self._lost
        assert lost is not None
        while lost.size < self._block_size and lost.lines < GIVEN_UP_LINES:
            position = self._at + lost.size
            self._need(position + 1, final)
            if position == len(self._data) or (not lost.first and self._resumes(position, final)):
                self._lost = None
                break
            lost.size = self._line_end(position, final) - self._at
            lost.lines, lost.first = lost.lines + 1, False
        data = self._data[self._at : self._at + lost.size]
        lost.size = lost.lines = 0
        return self._block(data, layout(data, lines_only(self._dialect)), regular=False, terminated=False)

    def _resumes(self, position: int, final: bool) -> bool:
        """Whether the record that begins there, and the one after it, are regular and as wide as they should be."""
        if self._is_comment(position, final):
            return False
        end, width = self._regular_record(position, final)
        if not end or self._fields not in (None, width):
            return False
        self._need(end + 1, final)
        if end == len(self._data) or self._is_comment(end, final):
            return True
        return self._regular_record(end, final)[1] == width

    def _regular_record(self, position: int, final: bool) -> tuple[int, int]:
        """Where the record that begins at ``position`` ends, and its fields; zeros where it is not regular."""
        end = self._line_end(position, final)
        line = self._data[position:end]
        if self._dialect.quote is None or self._dialect.quote not in line:
            return end, line.count(self._dialect.delimiter) + 1
        found = layout(line, self._dialect)
        size, done = len(line), not found.open
        while not len(irregular_quotes(line, found.quotes, self._dialect)):
            if done:
                return position + len(line), len(delimiters(line, found.quotes, self._dialect)) + 1
            if size >= self._look_ahead:
                break
            size = min(max(size * 2, 512), self._look_ahead)
            self._need(position + size, final)
            line, found, done = self._first_record(position, size, final)
            if not done and final and position + size >= len(self._data):
                break
        return 0, 0

    def _first_record(self, position: int, size: int, final: bool) -> tuple[bytes, Layout, bool]:
        """The record that begins there, and whether it ends within ``size`` bytes; else what of it can be judged."""
        piece = self._data[position : position + size]
        last = final and position + size >= len(self._data)
        found = layout(piece, self._dialect, final=last)
        if len(found.ends):
            end = int(found.ends[0])
            return piece[:end], found.until(end), True
        if last:
            return piece, found, not found.open
        # a delimiter that is cut in two were none
        return piece, found.until(max(size - len(self._dialect.delimiter), 0)), False

    def _is_comment(self, position: int, final: bool) -> bool:
        dialect = self._dialect
        if dialect.leaves_out:
            self._need(position + max(len(dialect.comment), 1), final)
        return dialect.is_left_out(self._data, position)

    def _line_end(self, position: int, final: bool) -> int:
        """The position past the physical line that begins at ``position``."""
        match = _LINE_END.search(self._data, position)
        size = len(self._data)
        ended = match is not None and (final or match.end() < size or match[0] != b"\r")
        end = match.end() if match is not None and ended else size
        if end - position > self._record_limit:
            raise self._too_long(position)
        if not ended:
            self._need(size + 1, final)
        return end

    # --- blocks

    def _need(self, end: int, final: bool) -> None:
        if not final and len(self._data) < end:
            raise _NeedMoreError

    def _block(self, data: bytes, found: Layout, *, regular: bool, terminated: bool = True) -> Block | None:
        """The next block, of ``data``; None where it holds no record."""
        size = len(data)
        records = len(found.ends) + (0 if found.cut == size else 1)
        if len(found.comments):
            sizes = found.ends - found.starts(size)[: len(found.ends)]
        else:
            sizes = np.diff(found.ends, prepend=0)
        shortest = int(sizes.min(initial=size))
        return self._made(data, records, len(found.line_ends), shortest, regular=regular, terminated=terminated)

    def _made(
        self,
        data: bytes,
        records: int,
        lines: int,
        shortest: int,
        *,
        regular: bool,
        terminated: bool = True,
        most_lines: int | None = None,
    ) -> Block | None:
        """The next block; None where it holds no record."""
        offset, record, line = self._offset, self._record, self._line
        self._at += len(data)
        self._offset += len(data)
        self._record += records
        self._line += lines
        if not records:
            return None
        return Block(
            data=data,
            offset=offset,
            record=record,
            line=line,
            records=records,
            shortest=shortest,
            regular=regular,
            terminated=terminated,
            dialect=self._dialect,
            after=self._place(),
            lines=lines,
            most_lines=most_lines,
        )

    def _place(self) -> Place | None:
        """What another splitter has to know to go on here; None where that is more than a place."""
        amid_broken = self._lost is not None or (self._runaway is not None and self._runaway.end > self._offset)
        return None if amid_broken else Place(self._offset, self._record, self._line, self._fields)

    def _escapes(self, data: bytes) -> bool:
        escape = self._dialect.escape
        return escape is not None and not self._dialect.doubled and escape in data

    def _too_long(self, position: int) -> EndlessRecordError:
        lines = self._lost.lines if self._lost else 0
        place = Place(self._offset + position - self._at, self._record + lines, self._line + lines)
        return EndlessRecordError(self._name, place, self._record_limit)


def _from(positions: Positions, start: int) -> Positions:
    """Those of sorted ``positions`` that are not before ``start``."""
    return positions[np.searchsorted(positions, start) :]


def no_longer_than(blocks: Iterable[Block], records: int) -> Iterator[Block]:
    """The blocks, those with more than so many ``records`` cut into several.

    What a record becomes has a size of its own, however short its line is: a row of 1,600 defaults, or a reject.
    """
    for block in blocks:
        if block.records <= records:
            yield block
            continue
        for first in range(0, block.records, records):
            past = min(first + records, block.records)
            start, end = int(block.starts[first]), int(block.starts[past])
            last = past == block.records
            yield replace(
                block,
                data=block.data[start:] if last else block.data[start:end],
                offset=block.offset + start,
                record=block.record + first,
                line=block.line_of(first),
                records=past - first,
                after=block.after if last else None,  # a place amid broken records may be none to go on from
                lines=None,
            )


def split(
    chunks: Iterable[bytes],
    dialect: Dialect,
    *,
    name: str,
    start: Place = START,
    block_size: int = BLOCK_SIZE,
) -> Iterator[Block]:
    """Blocks of the records that ``chunks`` make up, as `Splitter` has them."""
    splitter = Splitter(dialect, name=name, start=start, block_size=block_size)
    for chunk in chunks:
        yield from splitter.feed(chunk)
    yield from splitter.flush()
