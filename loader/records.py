"""Records on their way through the stages: `Block` before they are parsed, `Rows` after.

A record ends at LF, CRLF or a lone CR outside quotes. "Regular" quotes stand only where RFC 4180 puts them
(around whole fields, doubled inside); those Arrow and COPY read alike. The others are re-spelled by `fields`
before Arrow sees them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from loader.arrays import booleans
from loader.fields import Dialect
from loader.report import Reject

_LF, _CR = 10, 13

Positions = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where records and lines of a run of bytes end.

    ``ends`` and ``line_ends`` hold the position just past each record end and each physical line end;
    ``quotes`` the position of each quote that opens or closes.
    """

    ends: Positions
    quotes: Positions
    line_ends: Positions

    @property
    def cut(self) -> int:
        """The position past the last complete record, 0 where there is none."""
        return int(self.ends[-1]) if len(self.ends) else 0


@dataclass(frozen=True)
class Block:
    """A run of whole records.

    ``offset``: its first byte in the file's text (bytes, from 0). ``record``: the number of its first record
    (from 1). ``line``: the physical line it begins on (from 1). ``records``: how many it holds. ``shortest``:
    bytes of the shortest of them, line end included. ``regular``: quotes stand only where RFC 4180 puts them.
    ``terminated``: False for the last block of a file that ends inside quotes.
    """

    data: bytes
    offset: int
    record: int
    line: int
    records: int
    shortest: int
    regular: bool
    terminated: bool
    dialect: Dialect

    @cached_property
    def _layout(self) -> Layout:
        return layout(self.data, self.dialect)

    @cached_property
    def starts(self) -> Positions:
        """Where each record begins in ``data``; one entry more than there are records: the end."""
        ends = self._layout.ends
        inner = np.concatenate(([0], ends)).astype(np.intp)
        return inner if inner[-1] == len(self.data) else np.append(inner, len(self.data))

    def empty_lines(self) -> Positions:
        """The records (from 0) that are nothing but a line end."""
        if self.shortest > 2:
            return np.empty(0, np.intp)
        first = np.frombuffer(self.data, np.uint8)[self.starts[:-1]]
        return np.flatnonzero((first == _LF) | (first == _CR))

    def raw(self, index: int) -> bytes:
        """Record ``index`` (from 0) as it stands in the file, without its line end."""
        record = self.data[self.starts[index] : self.starts[index + 1]]
        if index >= len(self._layout.ends):  # the last record of a file that ends without a line end
            return record
        return record[:-2] if record.endswith(b"\r\n") else record[:-1]

    def line_of(self, index: int) -> int:
        """The physical line on which record ``index`` begins."""
        return self.line + int(np.searchsorted(self._layout.line_ends, self.starts[index], side="right"))


def layout(data: bytes, dialect: Dialect, *, final: bool = True) -> Layout:
    """The record ends of ``data``, which must begin at a record's beginning.

    ``final``: nothing follows, so a CR in last place is a line end and not half of a CRLF.
    """
    view = np.frombuffer(data, np.uint8)
    line_ends = _line_ends(data, view, final=final)
    quotes = _quotes(data, view, dialect)
    if not len(quotes):
        return Layout(line_ends, quotes, line_ends)
    outside = np.searchsorted(quotes, line_ends) & 1 == 0
    return Layout(line_ends[outside], quotes, line_ends)


def _line_ends(data: bytes, view: npt.NDArray[np.uint8], *, final: bool) -> Positions:
    """The position just past each LF, CRLF or lone CR."""
    past_lf = np.flatnonzero(view == _LF) + 1
    if b"\r" not in data:
        return past_lf
    past_cr = np.flatnonzero(view == _CR) + 1
    before_end = past_cr[past_cr < len(view)]
    lone = before_end[view[before_end] != _LF]
    if final and len(past_cr) and past_cr[-1] == len(view):
        lone = np.append(lone, len(view))
    return np.sort(np.concatenate((past_lf, lone))) if len(lone) else past_lf


def _quotes(data: bytes, view: npt.NDArray[np.uint8], dialect: Dialect) -> Positions:
    """Each quote that opens or closes a quoted section; a doubled one counts as a close and an open."""
    if dialect.quote is None:
        return np.empty(0, np.intp)
    if dialect.escape is not None and not dialect.doubled and dialect.escape in data:
        return _quotes_past_escapes(data, dialect.quote, dialect.escape)
    return np.flatnonzero(view == dialect.quote)


def _quotes_past_escapes(data: bytes, quote: int, escape: int) -> Positions:
    """Inside quotes, COPY takes an escape with a following quote or escape as one character."""
    q, e = re.escape(bytes([quote])), re.escape(bytes([escape]))
    section = re.compile(q + rb"(?:[^" + q + e + rb"]++|" + e + rb"[" + q + e + rb"]|" + e + rb")*+(" + q + rb")?")
    toggles: list[int] = []
    for match in section.finditer(data):
        toggles.append(match.start())
        if match[1] is not None:
            toggles.append(match.end() - 1)
    return np.array(toggles, np.intp)


def irregular_quotes(data: bytes, quotes: Positions, dialect: Dialect) -> Positions:
    """Those of ``quotes`` that stand in the middle of a field: opened after its beginning or closed before its end."""
    if not len(quotes):
        return quotes
    view = np.frombuffer(data, np.uint8)
    border = np.zeros(256, bool)
    border[[dialect.delimiter, _LF, _CR]] = True
    if dialect.doubled:
        border[dialect.quote] = True
    odd = np.zeros(len(quotes), bool)
    opening, closing = quotes[0::2], quotes[1::2]
    odd[0::2] = ~border[view[opening - 1]] & (opening > 0)
    odd[1::2] = ~border[view[np.minimum(closing + 1, len(view) - 1)]] & (closing + 1 < len(view))
    return quotes[odd]


RAW_LIMIT = 1 << 20
"""Bytes of a reject's raw text that are kept; a longer record is cut there, so that rejects bound memory too."""


POSITION = "loader_position"
"""The staging column that orders records as the file does: its record's place among the bytes of the file."""


@dataclass(frozen=True)
class Rows:
    """Records of one block on their way to staging.

    ``batch``: one row a record, columns of shape (n,). ``index``: shape (n,), each row's record within the
    block, from 0. ``rejects``: records that were set aside. ``filtered``: how many the filter left out.
    """

    block: Block
    batch: pa.RecordBatch
    index: npt.NDArray[np.int64]
    rejects: tuple[Reject, ...] = ()
    filtered: int = 0

    def keep(self, mask: npt.NDArray[np.bool_]) -> Rows:
        """These rows without those where ``mask`` is False."""
        return replace(self, batch=self.batch.filter(booleans(mask)), index=self.index[mask])


def reject(
    block: Block, index: int, reason: str, message: str, column: str | None = None, *, sqlstate: str | None = None
) -> Reject:
    """Set aside record ``index`` (from 0) of ``block``. ``sqlstate``: PostgreSQL's code, where it refused."""
    raw = block.raw(index)
    return Reject(
        record=block.record + index,
        line=block.line_of(index),
        offset=block.offset + int(block.starts[index]),
        column=column,
        reason=reason,
        message=message,
        raw=raw[:RAW_LIMIT],
        raw_length=len(raw),
        sqlstate=sqlstate,
    )
