"""Blocks in odd spellings → bytes that Arrow reads as COPY would read the block.

Arrow knows one delimiter of one byte, and quotes where RFC 4180 puts them. Comments are cut out; a delimiter
of several bytes gives way to a byte that the block has not; a record with irregular quotes or with escapes is
split as COPY splits it and written again. Fields, and whether they were quoted, stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from loader.records.block import Block, Positions, delimiters, irregular_quotes, layout
from loader.records.dialect import Dialect, join_record, split_record

# Control characters first: a block has the others more often, and one that is free is found at once.
_CANDIDATES = bytes([0x1F, 0x1E, 0x1D, 0x1C, *range(1, 9), 11, 12, *range(14, 28), 127, 9, *range(32, 127)])


@dataclass(frozen=True, slots=True)
class Spelling:
    """A block for Arrow: ``data`` with as many records, and the bytes that structure it; doubled quotes, no escapes."""

    data: bytes
    delimiter: int
    quote: int | None


def respell(block: Block, null: Sequence[str] = ("",)) -> Spelling:
    """``block``, which must be terminated, in regular spelling. ``null``: unquoted texts that must stay unquoted."""
    if not block.regular:
        block = _without_comments(block)
        if len(block.dialect.delimiter) > 1:
            free = _free_byte(block, null)
            if free is None:
                return _quoted_throughout(block, null)
            block = _delimited_by(block, free)
        block = _with_regular_quotes(block)
    return Spelling(block.data, block.dialect.delimiter[0], block.dialect.quote)


def _without_comments(block: Block) -> Block:
    comments = block.layout.comments
    kept = zip(np.append(0, comments[:, 1]), np.append(comments[:, 0], len(block.data)), strict=True)
    data = b"".join(block.data[start:end] for start, end in kept) if len(comments) else block.data
    return replace(block, data=data, dialect=replace(block.dialect, comment=b"", skips_blank=False))


def _free_byte(block: Block, null: Sequence[str]) -> int | None:
    """A byte that can delimit: neither the block nor a text that means NULL has it."""
    return next((byte for byte in _usable(block.dialect, null) if byte not in block.data), None)


def _usable(dialect: Dialect, null: Sequence[str]) -> list[int]:
    taken = {dialect.quote, dialect.escape, *"".join(null).encode()}
    return [byte for byte in _CANDIDATES if byte not in taken]


def _delimited_by(block: Block, byte: int) -> Block:
    """The block with the single ``byte``, which it must not hold, for a delimiter."""
    old, new, data, quotes = block.dialect.delimiter, bytes([byte]), block.data, block.layout.quotes
    if not len(quotes):
        data = data.replace(old, new)
    else:
        places = delimiters(data, quotes, block.dialect)
        view = np.frombuffer(data, np.uint8).copy()
        view[places] = byte
        rest = (places[:, None] + np.arange(1, len(old))).ravel()
        data = np.delete(view, rest).tobytes()
    return replace(block, data=data, dialect=replace(block.dialect, delimiter=new))


def _with_regular_quotes(block: Block) -> Block:
    dialect, starts = block.dialect, block.starts
    odd = irregular_quotes(block.data, block.layout.quotes, dialect)
    pieces: list[bytes] = []
    copied = 0
    for index in np.unique(np.searchsorted(starts, odd, side="right") - 1):
        start, stop = int(starts[index]), int(starts[index + 1])
        respelt = join_record(split_record(block.raw(index), dialect), dialect)
        pieces += [_doubled(block.data[copied:start], dialect), respelt, b"\n"]
        copied = stop
    return replace(block, data=b"".join([*pieces, _doubled(block.data[copied:], dialect)]))


def _doubled(records: bytes, dialect: Dialect) -> bytes:
    """Whole records with quotes that are regular: an escaped quote is doubled, an escaped escape stands alone."""
    quote, escape = dialect.quote, dialect.escape
    if quote is None or escape is None or escape == quote or escape not in records:
        return records
    view = np.frombuffer(records, np.uint8).copy()
    places = np.flatnonzero(view[:-1] == escape)
    places = places[np.searchsorted(layout(records, dialect).quotes, places) & 1 == 1]
    if not len(places):
        return records
    # of a run of escapes, the first, the third and so on escape what follows
    first = np.append(True, np.diff(places) > 1)
    numbers = np.arange(len(places))
    in_run = numbers - np.maximum.accumulate(np.where(first, numbers, 0))
    escaping = places[in_run % 2 == 0]
    following = view[escaping + 1]
    view[escaping[following == quote]] = quote
    return np.delete(view, escaping[following == escape]).tobytes()


def _quoted_throughout(block: Block, null: Sequence[str]) -> Spelling:
    """For a block that holds every byte that could delimit it: fields that hold the one chosen are quoted."""
    dialect = block.dialect
    usable = _usable(dialect, null)
    quote = dialect.quote or next(byte for byte in (ord('"'), *reversed(usable)) if byte in usable)
    delimiter = next(byte for byte in usable if byte != quote)
    regular = Dialect(bytes([delimiter]), quote, quote)
    lines = []
    for index in range(block.records):
        fields = split_record(block.raw(index), dialect)
        spelt = [(value, quoted or delimiter in value or quote in value) for value, quoted in fields]
        lines.append(join_record(spelt, regular) + b"\n")
    return Spelling(b"".join(lines), delimiter, quote)


def well_shaped(block: Block, fields: int) -> tuple[Block, Positions, Positions]:
    """``block`` without records of another number of fields, the places of those, and how many fields each has.

    To COPY an empty line is a record of one field. Offsets are no longer those of the file.
    """
    counts = _field_counts(block, _delimiters(block))
    gone = np.flatnonzero(counts != fields)
    begins = np.append(0, block.starts[gone + 1])
    ends = np.append(block.starts[gone], len(block.data))
    filled = ends > begins
    pieces: list[bytes] = []
    for begin, end in zip(begins[filled].tolist(), ends[filled].tolist(), strict=True):
        run = block.data[begin:end]
        if run.startswith(b"\n") and pieces and pieces[-1].endswith(b"\r"):
            pieces.append(b"\r")  # the two are the ends of two records, and together would be one
        pieces.append(run)
    return replace(block, data=b"".join(pieces)), gone, counts[gone]


def _delimiters(block: Block) -> Positions:
    return delimiters(block.data, block.layout.quotes, block.dialect)


def _field_counts(block: Block, places: Positions) -> npt.NDArray[np.intp]:
    """How many fields each record has, shape (records,); ``places`` are those of its delimiters."""
    begin, end = np.searchsorted(places, block.starts[:-1]), np.searchsorted(places, block.ends)
    counts: npt.NDArray[np.intp] = end - begin + 1
    return counts


@dataclass(frozen=True, slots=True)
class Evened:
    """A block whose records were all given one number of fields: ``short`` were filled, ``long`` cut off."""

    block: Block
    short: int
    long: int


def even(block: Block, fields: int, null: str) -> Evened:
    """``block``, which must be terminated, with ``fields`` fields in each record.

    Short records are filled with ``null``; surplus fields go. Offsets are no longer those of the file.
    """
    dialect = block.dialect
    places = _delimiters(block)
    before = np.searchsorted(places, block.starts)
    counts = _field_counts(block, places)
    uneven = np.flatnonzero(counts != fields)
    pieces: list[bytes] = []
    copied = 0
    for index in uneven.tolist():
        start, stop = int(block.starts[index]), int(block.starts[index + 1])
        if counts[index] < fields:
            record = block.raw(index) + (dialect.delimiter + null.encode()) * int(fields - counts[index])
        else:
            record = block.data[start : places[before[index] + fields - 1]]
        pieces += [block.data[copied:start], record, b"\n"]
        copied = stop
    data = b"".join([*pieces, block.data[copied:]])
    short = int((counts[uneven] < fields).sum())
    return Evened(replace(block, data=data), short, len(uneven) - short)
