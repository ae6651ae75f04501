"""The beginning of a file → its records, as one dialect has them, by COPY's rules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

JOINED = 200
"""Lines that a quoted field may go over. A quote that is not closed by then is taken for a stray one."""

STRAYS = 20
"""Stray quotes after which every line is a record: each has cost the look at `JOINED` lines."""

_LONGEST = 64 << 10  # characters of a record that are looked at


@dataclass(frozen=True, slots=True)
class Cell:
    """A field's text without its quotes. ``regular``: quotes stand only around it, or doubled or escaped inside."""

    text: str
    quoted: bool = False
    regular: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """One record: the physical ``line`` it begins on, from 0, how many ``lines`` it has, and its cells.

    ``broken``: a quote is never closed.
    """

    line: int
    lines: int
    cells: tuple[Cell, ...]
    broken: bool = False

    @property
    def blank(self) -> bool:
        """Whether it is an empty line."""
        return len(self.cells) == 1 and not self.cells[0].quoted and not self.cells[0].text.strip()

    @property
    def filled(self) -> int:
        """How many cells are not empty."""
        return sum(bool(cell.text.strip()) for cell in self.cells)


@dataclass(frozen=True, slots=True)
class Quoting:
    """``quote``: one character, "" for none; ``escape``: the same where it is doubled."""

    quote: str
    escape: str


def lines_of(text: str) -> list[str]:
    """The physical lines, without their ends; what follows the last line end counts only if there is something."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def read_rows(lines: Sequence[str], delimiter: str, quoting: Quoting) -> Iterator[Row]:
    """The records of ``lines``; without a ``delimiter`` each has one field."""
    at = strays = 0
    while at < len(lines):
        record, count = _record(lines, at, quoting) if strays < STRAYS else (lines[at], 1)
        broken = record is None
        strays += broken
        text = (lines[at] if record is None else record)[:_LONGEST]
        yield Row(at, count, _cells(text, delimiter, Quoting("", "") if broken else quoting), broken)
        at += count


def _record(lines: Sequence[str], at: int, quoting: Quoting) -> tuple[str | None, int]:
    """The record that begins with a line, and its number of lines; None where a quote stays open."""
    line = lines[at]
    if not quoting.quote or quoting.quote not in line:
        return line, 1
    open_ = _opens(line, quoting, is_open=False)
    if not open_:
        return line, 1
    for end in range(at + 1, min(at + JOINED, len(lines))):
        if quoting.quote in lines[end]:
            open_ = _opens(lines[end], quoting, is_open=open_)
            if not open_:
                return "\n".join(lines[at : end + 1]), end + 1 - at
    return None, 1


def _opens(line: str, quoting: Quoting, *, is_open: bool) -> bool:
    """Whether a quoted section is open at the end of ``line``."""
    if quoting.escape == quoting.quote:
        return is_open ^ bool(line.count(quoting.quote) % 2)
    at = 0
    outside, inside = _tokens("", quoting)
    while (found := (inside if is_open else outside).search(line, at)) is not None:
        at = found.end()
        is_open = is_open if len(found[0]) > 1 else not is_open
    return is_open


def _cells(record: str, delimiter: str, quoting: Quoting) -> tuple[Cell, ...]:
    if not quoting.quote or quoting.quote not in record:
        return tuple(map(Cell, record.split(delimiter))) if delimiter else (Cell(record),)
    outside, inside = _tokens(delimiter, quoting)
    cells: list[Cell] = []
    value: list[str] = []
    begin = at = 0
    quoted, regular = False, True
    while (found := outside.search(record, at)) is not None:
        value.append(record[at : found.start()])
        at = found.end()
        if delimiter and found[0] == delimiter:
            cells.append(Cell("".join(value), quoted, regular))
            value, quoted, regular, begin = [], False, True, at
            continue
        regular &= found.start() == begin
        quoted = True
        at = _unquote(record, at, inside, value)
        regular &= at == len(record) or (bool(delimiter) and record.startswith(delimiter, at))
    value.append(record[at:])
    cells.append(Cell("".join(value), quoted, regular))
    return tuple(cells)


def _unquote(record: str, at: int, inside: re.Pattern[str], value: list[str]) -> int:
    """Add what stands between quotes from ``at`` on to ``value``; the place past the closing one, or the end."""
    while (found := inside.search(record, at)) is not None:
        value.append(record[at : found.start()])
        at = found.end()
        if len(found[0]) == 1:
            return at
        value.append(found[0][1:])
    value.append(record[at:])
    return len(record)


@lru_cache(maxsize=64)
def _tokens(delimiter: str, quoting: Quoting) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What ends a run of plain characters outside quotes, and inside them."""
    quote, escape = re.escape(quoting.quote), re.escape(quoting.escape or quoting.quote)
    outside = re.escape(delimiter) + "|" + quote if delimiter else quote
    return re.compile(outside), re.compile(f"{escape}[{escape}{quote}]|{quote}")
