"""Records on their way through the stages: `Block` before they are converted, `Encoded` after.

A record ends at LF, CRLF or a lone CR outside quotes. "Regular" quotes stand only where RFC 4180 puts them
(around whole fields, doubled inside); those Arrow and COPY read alike. The others are re-spelled by `fields`
before Arrow sees them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from loader.core.display import SHOWN, brief
from loader.core.report import Reject
from loader.records.dialect import Dialect, UnterminatedQuoteError, split_record
from loader.records.rejects import RejectGroup

_LF, _CR = 10, 13

Positions = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where records and lines of a run of bytes begin and end.

    ``ends`` and ``line_ends`` hold the position just past each record end and each physical line end;
    ``quotes`` the position of each quote that opens or closes. ``comments``, shape (n, 2), holds where each
    comment line begins and the position just past its end; a comment's line end ends no record, and its quotes
    are none.
    """

    ends: Positions
    quotes: Positions
    line_ends: Positions
    comments: Positions

    @property
    def cut(self) -> int:
        """The position past the last complete record or comment, 0 where there is none."""
        return max(int(self.ends[-1]) if len(self.ends) else 0, int(self.comments[-1, 1]) if len(self.comments) else 0)

    @property
    def open(self) -> bool:
        """The last record is still inside quotes at the end."""
        return len(self.quotes) % 2 == 1

    def starts(self, size: int) -> Positions:
        """Where each record begins in the first ``size`` bytes, which no record straddles, and then ``size``."""
        borders = np.concatenate((np.zeros(1, np.intp), self.ends[: np.searchsorted(self.ends, size, side="right")]))
        if len(self.comments):
            comments = self.comments[: np.searchsorted(self.comments[:, 0], size)]
            borders = np.setdiff1d(np.concatenate((borders, comments[:, 1])), comments[:, 0])
        return borders if len(borders) and borders[-1] >= size else np.append(borders, size)

    def until(self, size: int) -> Layout:
        """That of the first ``size`` bytes, which no record straddles."""
        return Layout(
            self.ends[: np.searchsorted(self.ends, size, side="right")],
            self.quotes[: np.searchsorted(self.quotes, size)],
            self.line_ends[: np.searchsorted(self.line_ends, size, side="right")],
            self.comments[: np.searchsorted(self.comments[:, 0], size)],
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record begins, and all that has to be known to read a file from there on.

    ``offset``: its first byte in the file's text (bytes, from 0). ``record``: its number (from 1). ``line``: the
    physical line (from 1). ``fields``: how many the file's records have; None where the next one is to tell.
    """

    offset: int = 0
    record: int = 1
    line: int = 1
    fields: int | None = None


@dataclass(frozen=True)
class Block:
    """A run of whole records.

    ``offset``: its first byte in the file's text (bytes, from 0). ``record``: the number of its first record
    (from 1). ``line``: the physical line it begins on (from 1). ``records``: how many it holds. ``shortest``:
    bytes of the shortest of them, line end included. ``regular``: Arrow reads it as COPY does, just as it is.
    ``terminated``: False for lines that were given up after an unbalanced quote; each is a record then. ``after``:
    where the file can be taken up again; None amid broken records, where more has to be known. ``origin``: of records
    that were picked from another block, that block and each one's place in it, from 0, shape (records,). ``lines``:
    physical lines that end in it; ``most_lines``: those of the record that has most; None where they were not counted.
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
    after: Place | None = None
    origin: tuple[Block, npt.NDArray[np.int64]] | None = None
    lines: int | None = None
    most_lines: int | None = None

    @cached_property
    def layout(self) -> Layout:
        return layout(self.data, self.dialect if self.terminated else lines_only(self.dialect))

    @cached_property
    def starts(self) -> Positions:
        """Where each record begins in ``data``; one entry more than there are records: the end.

        A record ends where the next begins, unless comments stand between the two: see `ends`.
        """
        return self.layout.starts(len(self.data))

    @cached_property
    def ends(self) -> Positions:
        """The position just past each record's line end in ``data``."""
        ends = self.layout.ends
        return ends if len(ends) == self.records else np.append(ends, len(self.data))

    def empty_lines(self) -> Positions:
        """The records (from 0) that are nothing but a line end."""
        if self.shortest > 2:
            return np.empty(0, np.intp)
        first = np.frombuffer(self.data, np.uint8)[self.starts[:-1]]
        return np.flatnonzero((first == _LF) | (first == _CR))

    def raw(self, index: int) -> bytes:
        """Record ``index`` (from 0) as it stands in the file's text, without its line end."""
        record = self.data[self.starts[index] : self.ends[index]]
        if index >= len(self.layout.ends):  # the last record of a file that ends without a line end
            return record
        return record[:-2] if record.endswith(b"\r\n") else record[:-1]

    def pick(self, index: npt.NDArray[np.int64]) -> Block:
        """The records at ``index`` as a block of their own."""
        data = b"".join(self.raw(each) + b"\n" for each in index.tolist())
        return replace(self, data=data, records=len(index), origin=(self, index), lines=None, most_lines=None)

    def numbers(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The numbers of the records at ``index``, however the file was cut into blocks."""
        return index + self.record if self.origin is None else self.origin[1][index] + self.origin[0].record

    def whence(self, index: int) -> tuple[Block, int]:
        """Where record ``index`` stands in the file: its block, and its place there."""
        return (self, index) if self.origin is None else (self.origin[0], int(self.origin[1][index]))

    def line_of(self, index: int) -> int:
        """The physical line on which record ``index`` begins."""
        return self.line + int(np.searchsorted(self.layout.line_ends, self.starts[index], side="right"))


def lines_only(dialect: Dialect) -> Dialect:
    """The dialect in which each physical line is a record or a comment."""
    return replace(dialect, quote=None, escape=None)


def layout(data: bytes, dialect: Dialect, *, final: bool = True) -> Layout:
    """The record ends of ``data``, which must begin at a record's beginning.

    ``final``: nothing follows, so a CR in last place is a line end and not half of a CRLF.
    """
    view = np.frombuffer(data, np.uint8)
    line_ends = _line_ends(data, view, final=final)
    if dialect.skips_blank or (dialect.comment and dialect.comment in data):
        quotes, comments = _quotes_past_comments(data, line_ends, dialect, final=final)
    else:
        quotes, comments = _quotes(data, view, dialect), _NO_COMMENTS
    ends = line_ends
    if len(quotes):
        ends = ends[np.searchsorted(quotes, line_ends) & 1 == 0]
    if len(comments):
        past_comment = np.zeros(len(data) + 1, bool)
        past_comment[comments[:, 1]] = True
        ends = ends[~past_comment[ends]]
    return Layout(ends, quotes, line_ends, comments)


_NO_COMMENTS: Positions = np.empty((0, 2), np.intp)


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
        return np.array([at for match in _section(dialect).finditer(data) for at in _toggles(match)], np.intp)
    return np.flatnonzero(view == dialect.quote)


@lru_cache(maxsize=16)
def _section(dialect: Dialect, *, or_comment: bool = False) -> re.Pattern[bytes]:
    """A quoted section (group 1: its closing quote), or the end of a line and a comment after it (group 2)."""
    pattern = rb"(?!)()"
    if dialect.quote is not None and dialect.escape is not None:
        q, e = re.escape(bytes([dialect.quote])), re.escape(bytes([dialect.escape]))
        if dialect.doubled:  # the second of a pair begins a section of its own
            pattern = q + rb"[^" + q + rb"]*+(" + q + rb")?"
        else:  # inside quotes, COPY takes an escape with a following quote or escape as one character
            pattern = q + rb"(?:[^" + q + e + rb"]++|" + e + rb"[" + q + e + rb"]|" + e + rb")*+(" + q + rb")?"
    if or_comment:  # a first byte that must be one of three lets the search skip what lies between
        comment = re.escape(dialect.comment) + rb"[^\r\n]*+" if dialect.comment else rb"(?!)"
        pattern += rb"|[\r\n](" + comment + (rb"|(?=[\r\n])" if dialect.skips_blank else b"") + rb")"
    return re.compile(pattern)


def _toggles(match: re.Match[bytes]) -> tuple[int, ...]:
    return (match.start(),) if match[1] is None else (match.start(), match.end() - 1)


def _quotes_past_comments(
    data: bytes, line_ends: Positions, dialect: Dialect, *, final: bool
) -> tuple[Positions, Positions]:
    """The quotes, and the comment lines, of which one without its end counts only where ``final``."""
    view = np.frombuffer(data, np.uint8)
    begins = _comment_like(view, line_ends, dialect)
    if not len(begins):
        return _quotes(data, view, dialect), _NO_COMMENTS
    following = np.searchsorted(line_ends, begins, side="right")
    comments = np.column_stack((begins, np.append(line_ends, len(data))[following]))
    if dialect.escape is not None and not dialect.doubled and dialect.escape in data:
        quotes, real = _escaped_quotes_past_comments(data, comments, dialect)
    else:
        quotes, real = _quotes_outside(_quotes(data, view, dialect), comments)
    return quotes, comments[real if final else real & (following < len(line_ends))]


def _comment_like(view: npt.NDArray[np.uint8], line_ends: Positions, dialect: Dialect) -> Positions:
    """The beginnings of the lines that are comments, or blank where such are left out; they may be in quotes."""
    lines = np.append(0, line_ends)
    commented = _beginning_with(view, lines, dialect.comment) if dialect.comment else lines[:0]
    if not dialect.skips_blank:
        return commented
    lines = lines[lines < len(view)]
    blank = lines[(view[lines] == _LF) | (view[lines] == _CR)]
    return np.union1d(commented, blank).astype(np.intp) if len(commented) else blank


def _beginning_with(view: npt.NDArray[np.uint8], begins: Positions, comment: bytes) -> Positions:
    begins = begins[begins + len(comment) <= len(view)]
    for number, byte in enumerate(comment):
        begins = begins[view[begins + number] == byte]
    return begins


def _quotes_outside(quotes: Positions, comments: Positions) -> tuple[Positions, npt.NDArray[np.bool_]]:
    """The quotes that stand in no comment, and which of the lines ``comments`` are not inside quotes themselves."""
    first, past = np.searchsorted(quotes, comments[:, 0]), np.searchsorted(quotes, comments[:, 1])
    if np.array_equal(first, past):  # no comment holds a quote
        return quotes, first % 2 == 0
    real = np.zeros(len(comments), bool)
    dropped = 0
    for number, (before, until) in enumerate(zip(first.tolist(), past.tolist(), strict=True)):
        if (before - dropped) % 2 == 0:
            real[number] = True
            dropped += until - before
    steps = np.zeros(len(quotes) + 1, np.intp)
    np.add.at(steps, first[real], 1)
    np.add.at(steps, past[real], -1)
    return quotes[np.cumsum(steps)[:-1] == 0], real


_LINE = re.compile(rb"[^\r\n]*+")


def _escaped_quotes_past_comments(
    data: bytes, comments: Positions, dialect: Dialect
) -> tuple[Positions, npt.NDArray[np.bool_]]:
    """The same where quotes may be escaped, so that a comment's quote would change what follows are."""
    toggles: list[int] = []
    begins: list[int] = []
    at = 0
    if dialect.is_left_out(data, 0):
        begins.append(0)
        at = _LINE.match(data).end()  # type: ignore[union-attr]  # it matches anything
    for match in _section(dialect, or_comment=True).finditer(data, at):
        if match[2] is None:
            toggles += _toggles(match)
        else:
            begins.append(match.start(2))
    return np.array(toggles, np.intp), np.isin(comments[:, 0], begins)


def delimiters(data: bytes, quotes: Positions, dialect: Dialect) -> Positions:
    """Where each delimiter outside quotes begins; ``quotes`` are those of the layout of ``data``."""
    view, delimiter = np.frombuffer(data, np.uint8), dialect.delimiter
    found = view[: max(len(view) - len(delimiter) + 1, 0)] == delimiter[0]
    for number, byte in enumerate(delimiter[1:], start=1):
        found &= view[number : len(found) + number] == byte
    places = np.flatnonzero(found)
    if len(delimiter) > 1 and (np.diff(places) < len(delimiter)).any():  # such as "|||" where "||" delimits
        places = np.array([match.start() for match in re.finditer(re.escape(delimiter), data)], np.intp)
    return places[np.searchsorted(quotes, places) & 1 == 0] if len(quotes) else places


def irregular_quotes(data: bytes, quotes: Positions, dialect: Dialect) -> Positions:
    """Those of ``quotes`` that stand in the middle of a field: opened after its beginning or closed before its end."""
    if not len(quotes):
        return quotes
    view = np.frombuffer(data, np.uint8)
    opening, closing = quotes[0::2], quotes[1::2]
    before, after = np.maximum(opening - 1, 0), np.minimum(closing + 1, len(view) - 1)
    border = np.zeros(256, bool)
    border[[_LF, _CR]] = True
    if dialect.doubled:
        border[dialect.quote] = True
    if len(dialect.delimiter) == 1:
        border[dialect.delimiter[0]] = True
        odd_opening, odd_closing = ~border[view[before]], ~border[view[after]]
    else:
        places = delimiters(data, quotes, dialect)
        begins, ends = np.zeros((2, len(view) + 1), bool)
        begins[places], ends[places + len(dialect.delimiter)] = True, True
        odd_opening = ~border[view[before]] & ~ends[opening]
        odd_closing = ~border[view[after]] & ~begins[closing + 1]
    odd = np.zeros(len(quotes), bool)
    odd[0::2] = odd_opening & (opening > 0)
    odd[1::2] = odd_closing & (closing + 1 < len(view))
    return quotes[odd]


def first_invalid_byte(raw: bytes) -> int | None:
    """Where ``raw`` is no valid UTF-8 any more (bytes, from 0); None where all of it is."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return None


_UNDECODABLE = re.compile(rb"\xed([\xb0-\xb3])([\x80-\xbf])")


def as_in_file(raw: bytes, dialect: Dialect) -> bytes:
    """``raw`` with the bytes that could not be decoded as they were, which `decode` spelt U+DC00 and their value."""
    if not dialect.transcoded or b"\xed" not in raw:
        return raw
    return _UNDECODABLE.sub(lambda match: bytes([(match[1][0] & 3) << 6 | match[2][0] & 63]), raw)


RECORD_LIMIT = 16 << 20
"""Bytes of the longest record. A block grows up to this for a record that does not fit, so it bounds memory."""


RAW_LIMIT = 1 << 20
"""Bytes of a reject's raw text that are kept; a longer record is cut there, so that rejects bound memory too."""


def joined(blocks: Sequence[Block]) -> Block:
    """Terminated blocks as one, at the place of the first; what stood between them is left out."""
    if len(blocks) == 1:
        return blocks[0]
    return replace(
        blocks[0],
        data=b"".join(each.data for each in blocks),
        records=sum(each.records for each in blocks),
        shortest=min(each.shortest for each in blocks),
        regular=all(each.regular for each in blocks),
        lines=None,
        most_lines=None,
    )


def reject(
    block: Block, index: int, reason: str, message: str, column: str | None = None, *, sqlstate: str | None = None
) -> Reject:
    """Set aside record ``index`` (from 0) of ``block``. ``message``: long values in it are cut. ``sqlstate``:
    PostgreSQL's code, where it refused."""
    block, index = block.whence(index)
    raw = block.raw(index)
    kept = as_in_file(raw, block.dialect)
    return Reject(
        record=block.record + index,
        line=block.line_of(index),
        offset=block.offset + int(block.starts[index]),
        column=column,
        reason=reason,
        message=brief(message, _fields(raw, block.dialect) if len(message) > SHOWN else ()),
        raw=kept[:RAW_LIMIT],
        raw_length=len(kept),
        sqlstate=sqlstate,
    )


def _fields(raw: bytes, dialect: Dialect) -> list[str]:
    """The texts of a record that a message may quote whole; none where its quotes are broken."""
    try:
        return [value.decode("utf-8", "replace") for value, _ in split_record(raw, dialect)]
    except UnterminatedQuoteError:
        return []


def reject_each(
    block: Block,
    index: npt.NDArray[np.int64],
    reason: str,
    message: Callable[[int], str],
    column: str | None = None,
    *,
    sqlstate: str | None = None,
) -> RejectGroup:
    """Set aside the records ``index`` of ``block``. ``message`` says why, for a place within ``index``."""

    def build(number: int) -> Reject:
        return reject(block, int(index[number]), reason, message(number), column, sqlstate=sqlstate)

    return RejectGroup(reason, column, index, build)
