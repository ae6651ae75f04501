"""The blocks of one shard: where its first record begins, and the first place past its range where another can go on.

Where it begins is known, or guessed from a window at its beginning: once as if that were inside quotes and once as if
not, the first line end outside quotes is looked for, and of what follows it how many records look right. What cannot be
told so, a record that is longer than the window or a file that is right both ways, is told by the neighbour (`proof`).

Where it ends is never guessed. A record that begins in the range is finished, wherever that is; and amid broken
records, where more than a place would have to be handed on (`Block.after`), the shard goes on until there is a place.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace

import numpy as np

from loader.records.block import RECORD_LIMIT, Block, Layout, Place, Positions, delimiters, irregular_quotes, layout
from loader.records.dialect import Dialect
from loader.records.splitter import BLOCK_SIZE, EndlessRecordError, Splitter
from loader.sharding.proof import Known
from loader.sources import crc
from loader.sources.checksums import corrupted

Read = Callable[[int, int], Iterator[bytes]]
"""The object's bytes from one offset up to another, in chunks of any size, as they are asked for."""

Clean = Callable[[Block], int]
"""How many records of a block look right."""

WINDOW = 64 << 10
"""Bytes of the first window: a few hundred records. It grows where it shows no record that looks right."""

TAIL = 1 << 20
"""Bytes that are read at a time past the range's end: the splitter looks at a block's worth at once."""

SHARD_BITS = 40
"""A record's number within its shard has so many bits, below those of the shard's number: so records are ordered as
in the file while nobody knows how many come before. That is room for a terabyte of empty lines in each of 8 million
shards."""


@dataclass(frozen=True, slots=True)
class Shard:
    """``first`` to ``past``: its range of the object's bytes. ``start`` to ``stop``: that of the text, in which its
    records begin; ``end`` of the whole text; all of them offsets in the text, which begins ``mark`` bytes later.
    ``fields``: of a record. ``counts_quotes``: see `ShardPlan`."""

    number: int
    first: int
    past: int
    start: int
    stop: int
    end: int
    fields: int
    mark: int = 0
    begins: bool = False  # the text's first record begins it
    counts_quotes: bool = True
    algorithm: str = crc.PLAIN
    block_size: int = BLOCK_SIZE
    record_limit: int = RECORD_LIMIT


def counts_quotes(dialect: Dialect) -> bool:
    """Whether the number of quotes before a place tells if it is inside them: not where one may be escaped, or stand
    in a comment."""
    return not dialect.leaves_out and (dialect.quote is None or dialect.doubled)


class Cutter:
    """Splits one shard. Made for one run of `blocks`; the other members are right when that has come to its end.

    ``start``: where the shard's first record begins, None where none was found; ``inside``: what its beginning was
    taken for; ``end``: where the next record begins, and its number and line, counted from the shard's beginning.
    """

    def __init__(self, read: Read, dialect: Dialect, shard: Shard, *, name: str, clean: Clean | None = None) -> None:
        self._read = read
        self._dialect = dialect
        self._shard = shard
        self._name = name
        self._clean = clean
        self._crc = crc.updater(shard.algorithm)
        self.start: int | None = None
        self.inside: bool | None = None
        self.end: Place | None = None
        self.crc = self.lead = self.tail = 0  # see `ShardReport`
        self._summed_to = shard.first
        self._past: deque[tuple[int, int, bytes]] = deque()  # chunks past the range: offset, the CRC before, bytes
        self.quotes = 0
        self.broken = False
        self.bytes_read = 0

    @property
    def parity(self) -> int | None:
        return self.quotes & 1 if self._shard.counts_quotes else None

    def begin(self, known: Known | None) -> None:
        """Settle where the first record begins."""
        shard = self._shard
        if known is not None and "start" in known:
            self.start = int(known["start"])
        elif known is None and shard.begins:
            self.start = shard.start
        elif shard.start < shard.stop:
            self.start, self.inside = self._guess(None if known is None else bool(known["inside"]))

    def blocks(self) -> Iterator[Block]:
        """The records that begin in the shard, numbered from ``number << SHARD_BITS`` on."""
        shard = self._shard
        base = shard.number << SHARD_BITS
        with closing(self._summed(shard.first, shard.past)) as summed:
            if self.start is not None and self.start < shard.stop:
                splitter = self._splitter(Place(self.start, base + 1, 1, shard.fields), shard.block_size)
                with closing(self._text(summed, self.start)) as text, closing(_split(text, splitter)) as blocks:
                    yield from self._owned(blocks)
            elif self.start is not None:
                self.end = Place(self.start, base + 1)
            for _ in summed:  # all of the range has its part in the sum, also where no record begins, and a footer
                pass
        self.tail = self._tail()

    def _splitter(self, place: Place, block_size: int) -> Splitter:
        limit = self._shard.record_limit
        return Splitter(self._dialect, name=self._name, start=place, block_size=block_size, record_limit=limit)

    # --- the end

    def _owned(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """The blocks up to the first place at or past the shard's end where another reader can go on."""
        stop = self._shard.stop
        assert self.start is not None
        self.end = Place(self.start, (self._shard.number << SHARD_BITS) + 1)
        settled = True  # the next block begins at a place that says all
        for block in blocks:
            if settled and block.offset >= stop:
                self.end = Place(block.offset, block.record, block.line)
                return
            self.broken = self.broken or not block.terminated
            if settled and block.terminated and (at := _border(block, stop)) is not None:
                records, line = _counted(block, at)
                self.end = Place(block.offset + at, block.record + records, line)
                if records:
                    yield block if at == len(block.data) else _cut(block, at, records)
                return
            yield block
            lines = len(block.layout.line_ends)
            self.end = Place(block.offset + len(block.data), block.record + block.records, block.line + lines)
            settled = block.after is not None
        self.end = replace(self.end, offset=self._shard.end)  # what no record came of, such as comments

    # --- the bytes

    def _text(self, summed: Iterator[bytes], start: int) -> Generator[bytes]:
        """The text from ``start`` on: what of it is in the shard's range, and then what follows."""
        shard = self._shard
        at, first, end = shard.first, start + shard.mark, shard.end + shard.mark
        for chunk in summed:
            low, high = max(first - at, 0), min(end - at, len(chunk))
            at += len(chunk)
            if low < high:
                yield chunk[low:high] if high - low < len(chunk) else chunk
        at = max(at, first)
        while at < end:
            past = min(at + TAIL, end)  # the reader is done here most of the time
            for chunk in self._read(at, past):
                self.bytes_read += len(chunk)
                self._keep(at, chunk)
                at += len(chunk)
                yield chunk

    def _sum(self, chunk: bytes, at: int, lead_end: int) -> None:
        view = memoryview(chunk)
        if at < lead_end:
            size = lead_end - at
            self.lead = self.crc = self._crc(view[:size], self.crc)
            view = view[size:]
        self.crc = self._crc(view, self.crc)
        self._summed_to = at + len(chunk)

    def _keep(self, at: int, chunk: bytes) -> None:
        """Hold a chunk past the range until it is known that the shard ends behind it: its sum ends where the shard
        does."""
        held = self._past
        before = self._crc(held[-1][2], held[-1][1]) if held else 0
        held.append((at, before, chunk))
        reached = self.end.offset + self._shard.mark if self.end is not None else 0
        while len(held) > 1 and held[1][0] <= reached:
            held.popleft()

    def _tail(self) -> int:
        end = self.end.offset + self._shard.mark if self.end is not None else 0
        for at, before, chunk in reversed(self._past):
            if at <= end:
                return self._crc(chunk[: end - at], before)
        return 0

    def confirm(self) -> None:
        """Read once more what was read so far: a problem may be the object's only if the bytes are the same again.

        Raises SourceCorruptedError where they are not.
        """
        first = self._shard.first
        sums = [(first, self._summed_to, self.crc)] if self._summed_to > first else []
        if self._past:
            at, before, chunk = self._past[-1]
            sums.append((self._shard.past, at + len(chunk), self._crc(chunk, before)))
        for begin, past, met in sums:
            value = 0
            for chunk in self._read(begin, past):
                value = self._crc(chunk, value)
            if value != met:
                raise corrupted(self._name, f"its bytes {begin:,} to {past:,} were read twice and were not the same")

    def _summed(self, first: int, past: int) -> Generator[bytes]:
        shard = self._shard
        at = first
        low, high = shard.start + shard.mark, shard.stop + shard.mark
        begin = shard.stop if self.start is None else min(self.start, shard.stop)
        lead_end = min(max(begin + shard.mark, first), past)  # as `ShardPlan.lead_end`
        quote = None if self._dialect.quote is None or not shard.counts_quotes else bytes([self._dialect.quote])
        for chunk in self._read(first, past):
            self.bytes_read += len(chunk)
            self._sum(chunk, at, lead_end)
            if quote is not None:
                self.quotes += chunk.count(quote, max(low - at, 0), max(min(high - at, len(chunk)), 0))
            at += len(chunk)
            yield chunk

    # --- the guess

    def _guess(self, told: bool | None) -> tuple[int | None, bool]:
        """Where the first record begins, and whether the shard's first byte is inside quotes; ``told``: it is."""
        shard = self._shard
        both = (False, True) if self._dialect.quote is not None else (False,)
        hypotheses = both if told is None else (told,)
        size = WINDOW
        while True:
            first, past = max(shard.start - 1, 0), min(shard.start + size, shard.end)
            data = b"".join(self._read(first + shard.mark, past + shard.mark))
            self.bytes_read += len(data)
            found = [self._judge(data, shard.start - first, each, final=past == shard.end) for each in hypotheses]
            best = max(range(len(found)), key=lambda each: (found[each][0], -each))
            score, start = found[best]
            if score > 0 or (told is not None and start is not None) or size >= min(shard.record_limit, self._rest):
                break
            size *= 8
        begin = None if start is None else first + start
        return None if begin is None or begin >= shard.stop else begin, hypotheses[best]

    @property
    def _rest(self) -> int:
        """Bytes after which a record that begins there would not be the shard's any more."""
        return self._shard.stop - self._shard.start

    def _judge(self, data: bytes, at: int, inside: bool, *, final: bool) -> tuple[float, int | None]:
        """How sure the hypothesis is, and where in ``data`` the first record begins by it.

        ``at``: where the shard begins in ``data``, of which one byte before it may be seen. Splitters recover: even a
        wrong hypothesis has most records right soon, so what counts is how many more there are than misshapen ones.
        """
        start = _first_start(data, at, self._dialect, inside=inside, final=final)
        if start is None:
            return -math.inf, None
        splitter = self._splitter(Place(0, 1, 1, self._shard.fields), WINDOW // 8)
        blocks: list[Block] = []
        with suppress(EndlessRecordError):  # it is one if this is how the file is read, and then `blocks` says so
            blocks += splitter.feed(data[start:])
            blocks += splitter.flush() if final or not blocks else ()
        return sum(map(self._score, blocks)), start

    def _score(self, block: Block) -> int:
        """Records that look right, less those that have not even the shape; of a right shape some may not convert."""
        shaped = self._regular(block) if block.terminated else 0
        right = shaped if self._clean is None or not shaped else min(shaped, self._clean(block))
        return right - (block.records - shaped)

    def _regular(self, block: Block) -> int:
        """Records of the right number of fields, with quotes around whole fields only."""
        ends, starts, quotes = block.ends, block.starts[: block.records], block.layout.quotes
        places = delimiters(block.data, quotes, block.dialect)
        right = np.searchsorted(places, ends) - np.searchsorted(places, starts) == self._shard.fields - 1
        odd = irregular_quotes(block.data, quotes, block.dialect)
        right[np.unique(np.searchsorted(ends, odd, side="right"))] = False
        return int(right.sum())


def _split(text: Iterator[bytes], splitter: Splitter) -> Generator[Block]:
    for chunk in text:
        yield from splitter.feed(chunk)
    yield from splitter.flush()


def _borders(found: Layout) -> Positions:
    """Where lines begin that may be records: past the ends of records and comments."""
    return np.union1d(found.ends, found.comments[:, 1]) if len(found.comments) else found.ends


def _border(block: Block, stop: int) -> int | None:
    """The first of a block's borders, from its beginning, that is not before ``stop``; None where there is none."""
    borders = _borders(block.layout)
    index = int(np.searchsorted(borders, stop - block.offset))
    return int(borders[index]) if index < len(borders) else None


def _counted(block: Block, at: int) -> tuple[int, int]:
    """How many records end up to that border, and the physical line that begins there."""
    records = int(np.searchsorted(block.layout.ends, at, side="right"))
    return records, block.line + int(np.searchsorted(block.layout.line_ends, at, side="right"))


def _cut(block: Block, at: int, records: int) -> Block:
    return replace(block, data=block.data[:at], records=records, after=None)


def _first_start(data: bytes, at: int, dialect: Dialect, *, inside: bool, final: bool) -> int | None:
    """Where the first line begins, outside quotes, that is not before ``at``; ``inside``: what ``at`` is."""
    if at >= len(data):
        return None
    if inside:
        assert dialect.quote is not None
        found, shift = layout(bytes([dialect.quote]) + data[at:], dialect, final=final), at - 1
    elif at and data[at - 1] in b"\r\n":  # it may be the line end itself, or a half of it
        found, shift = layout(data[at - 1 :], dialect, final=final), at - 1
    else:
        found, shift = layout(data[at:], dialect, final=final), at
    borders = _borders(found)
    return int(borders[0]) + shift if len(borders) else None
