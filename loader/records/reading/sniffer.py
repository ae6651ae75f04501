"""The dialect that the beginning of a file shows: what a load without a spec reads it by, and what ``"auto"`` asks for.

This is the front of a small room, of functions over the first bytes that read and write nothing:

- `sniff_records`: lines → records, by one dialect.
- `sniff_values`: the kind of value that a text is.
- `sniff_dialect`: delimiter, quote and escape, by how well the columns' values hold together.
- `sniff_shape`: titles, comments, blank lines, footers, delimiters at the line's end, short records.
- `sniff_header`: names or values in the first record.
- `sniff_style`: decimal comma, thousands, the order of days and months.

A first line such as ``sep=;``, as Excel writes it, decides about the delimiter. With ``sniff = true`` all that the spec
leaves at its default is found; with ``delimiter = "auto"`` or ``header = "auto"`` alone, that alone.

It is a guess by nature, so it is told in the report and the ledger, and written out by ``infer``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain, islice

from loader.core.errors import ShapeError
from loader.core.spec.model import CsvSpec
from loader.records.reading.sniff_dialect import (
    CELLS,
    DOUBLED,
    LIKELY,
    SEVERAL,
    Choice,
    Reading,
    choose,
    is_one_column,
    read,
)
from loader.records.reading.sniff_header import has_header
from loader.records.reading.sniff_records import Cell, Quoting, Row, lines_of
from loader.records.reading.sniff_shape import (
    find_comment,
    first_of_table,
    footer_lines,
    has_trailing_delimiter,
    is_padded,
    without_comments,
)
from loader.records.reading.sniff_style import PLAIN, date_order, number_style

SAMPLE = 1 << 20
"""Bytes of the file's text that are looked at. Few of them are, by each candidate: see `sniff_dialect`."""

_LONGEST = 1 << 16  # characters of a line that are looked at
LINES = 50_000
"""Lines that are looked at. Without a limit 1 MiB of line ends took 370 MB of memory."""

_SEPARATOR = re.compile(rb"(\"?)sep=([^\r\n]{1,8}?)\1(\r\n|\n|\r|\Z)", re.IGNORECASE)
_LINE_END = re.compile(rb"\r\n|\n|\r")


def sniff(text: Iterator[bytes], csv: CsvSpec, *, name: str = "") -> tuple[CsvSpec, Iterator[bytes]]:
    """``csv`` with nothing left to find, and the ``text``, in UTF-8, with nothing taken off.

    Raises ShapeError where two dialects fit equally well and a person would have to say.
    """
    if not csv.sniff and csv.delimiter != "auto" and csv.header != "auto":
        return csv, text
    sample, text = _sample(text, csv.skip_lines)
    sample, csv = _without_separator_line(sample, csv)
    return _Sniffer(sample, csv, name).found(), text


# --- the sample


@dataclass(frozen=True, slots=True)
class _Sample:
    """The beginning of a file, without the lines to skip. ``whole``: nothing follows."""

    data: bytes
    whole: bool

    def lines(self) -> list[str]:
        """At most `LINES`, each of which costs memory, however short it is."""
        end = next(islice(_LINE_END.finditer(self.data), LINES, None), None)
        data, whole = (self.data, self.whole) if end is None else (self.data[: end.start()], False)
        lines = lines_of(data.decode("utf-8", "replace")) if data else []
        return lines if whole or len(lines) < 2 else lines[:-1]


def _sample(text: Iterator[bytes], skip_lines: int) -> tuple[_Sample, Iterator[bytes]]:
    taken: list[bytes] = []
    size = 0
    while size < SAMPLE:
        chunk = next(text, None)
        if chunk is None:
            return _Sample(_after_lines(b"".join(taken), skip_lines), whole=True), iter(taken)
        taken.append(chunk)
        size += len(chunk)
    return _Sample(_after_lines(b"".join(taken)[:SAMPLE], skip_lines), whole=False), chain(taken, text)


def _after_lines(data: bytes, count: int) -> bytes:
    ends = (found.end() for found in _LINE_END.finditer(data))
    return data[next(islice(ends, count - 1, None), len(data)) :] if count else data


def _without_separator_line(sample: _Sample, csv: CsvSpec) -> tuple[_Sample, CsvSpec]:
    """Excel's line is no record, and what it names is the delimiter, if it is one that can be read by."""
    line = _SEPARATOR.match(sample.data)
    named = line[2].decode("utf-8", "replace") if line else ""
    if not named or "\ufffd" in named or (csv.quote and csv.quote in named) or csv.delimiter not in ("auto", named):
        return sample, csv
    return (
        _Sample(_after_lines(sample.data, 1), sample.whole),
        replace(csv, delimiter=named, skip_lines=csv.skip_lines + 1),
    )


# --- what it shows


class _Sniffer:
    """The state of one `sniff`."""

    def __init__(self, sample: _Sample, csv: CsvSpec, name: str) -> None:
        self._csv = csv
        self._name = name
        self._whole = sample.whole
        self._lines = sample.lines()
        self._delimiter = None if csv.delimiter == "auto" else csv.delimiter
        self._quotings = _quotings(self._lines, csv)

    def found(self) -> CsvSpec:
        csv = self._csv
        if csv.sniff and not csv.comment:
            csv = replace(csv, comment=find_comment(self._lines, delimiter=self._delimiter, quotings=self._quotings))
        lines = without_comments(self._lines, csv.comment)
        if self._whole and csv.skip_footer:
            lines = lines[: -csv.skip_footer]
        reading = self._reading(lines)
        csv = self._with_dialect(csv, reading, lines)
        if not csv.sniff:
            rows = reading.rows
            return replace(csv, header=self._has_header(rows)) if csv.header == "auto" else csv
        return self._with_shape(csv, reading, lines)

    def _reading(self, lines: Sequence[str]) -> Reading:
        choice = choose(lines, delimiter=self._delimiter, quotings=self._quotings)
        if self._delimiter is not None or not choice.reading.delimiter:
            return choice.reading
        if is_one_column(choice.reading, lines):
            return read(lines, "", choice.reading.quoting)
        if choice.rival and self._csv.sniff:
            raise self._undecided(choice)
        return choice.reading

    def _undecided(self, choice: Choice) -> ShapeError:
        one, other = map(_plain, (choice.reading.delimiter, choice.rival))
        return ShapeError(
            f"{self._name}: the delimiter may be {one} or {other}, by which the file is as good a table; "
            f"set delimiter = {one} in [csv], or --delimiter"
        )

    def _with_dialect(self, csv: CsvSpec, reading: Reading, lines: Sequence[str]) -> CsvSpec:
        delimiter = reading.delimiter or self._delimiter or _unused(lines if csv.sniff else ())
        if not csv.sniff:
            return replace(csv, delimiter=delimiter)
        return replace(csv, delimiter=delimiter, quote=reading.quoting.quote, escape=reading.quoting.escape)

    def _with_shape(self, csv: CsvSpec, reading: Reading, lines: Sequence[str]) -> CsvSpec:
        rows = reading.rows
        start = first_of_table(reading)
        line = rows[start].line if rows else 0
        footer = self._footer(reading, lines, line) if self._whole and not csv.skip_footer else 0
        end = len(lines) - footer
        table = tuple(row for row in rows[start:] if row.line < end)
        header = self._has_header(table, reading.width) if csv.header == "auto" else bool(csv.header)
        csv = replace(
            csv,
            sniff=False,
            header=header,
            skip_lines=csv.skip_lines + self._lines_before(line, csv.comment),
            skip_footer=csv.skip_footer or footer,
            skip_blank_lines=csv.skip_blank_lines or (reading.width > 1 and not all(self._lines[line:end])),
        )
        names, body = (table[0] if table else None, table[1:]) if header else (None, table)
        return self._with_style(_with_ends(csv, names, body, reading.width), names, body, reading.width)

    def _footer(self, reading: Reading, lines: Sequence[str], line: int) -> int:
        found = footer_lines(lines, reading, line) if reading.rows else 0
        return max(0, min(found, len(lines) - line - 1))

    def _with_style(self, csv: CsvSpec, names: Row | None, body: Sequence[Row], width: int) -> CsvSpec:
        columns = _texts(_columns(body, max(width, len(names.cells) if names else 0)))
        given = (csv.decimal, csv.thousands) != PLAIN
        decimal, thousands = (csv.decimal, csv.thousands) if given else number_style(columns)
        dates = csv.dates or date_order(columns, "\n".join(self._lines))
        return replace(csv, decimal=decimal, thousands=thousands, dates=dates)

    def _lines_before(self, line: int, comment: str) -> int:
        """Physical lines to skip before the table; none where all are comments, which are left out anyway."""
        before = self._lines[:line]
        return line if any(not comment or not each.startswith(comment) for each in before) else 0

    def _has_header(self, rows: Sequence[Row], width: int = 0) -> bool:
        if not rows:
            return True
        names, others = rows[0].cells, rows[self._csv.header_rows :]
        if len(names) == width - 1:  # a delimiter at each record's end, or an index without a name
            others = [replace(row, cells=row.cells[:-1]) for row in others if len(row.cells) == width]
        if not self._csv.sniff:
            others = [row for row in others if len(row.cells) == len(names)]
        below = _columns(others, len(names))
        return has_header(names, below, frozenset(self._csv.null))


def _with_ends(csv: CsvSpec, names: Row | None, body: Sequence[Row], width: int) -> CsvSpec:
    """``csv`` with what is odd about the ends of records."""
    if csv.trailing_delimiter or has_trailing_delimiter(names, body, width):
        return replace(csv, trailing_delimiter=True)
    return replace(csv, ragged="pad") if csv.null and is_padded(names, body, width) else csv


def _columns(rows: Sequence[Row], width: int) -> list[list[Cell]]:
    """The cells below one another, of the rows that have them."""
    few = rows[: max(20, CELLS // max(width, 1))]
    return [[row.cells[place] for row in few if len(row.cells) > place] for place in range(width)]


def _texts(columns: Sequence[Sequence[Cell]]) -> list[list[str]]:
    return [[cell.text for cell in cells] for cells in columns]


def _quotings(lines: Sequence[str], csv: CsvSpec) -> list[Quoting]:
    """The quotes that the file may have, the usual ones first."""
    if not csv.sniff or (csv.quote, csv.escape) != ('"', '"'):
        return [Quoting(csv.quote, csv.escape or csv.quote)]
    text = "\n".join(line[:_LONGEST] for line in lines[:400])
    quotings = [DOUBLED]
    if '\\"' in text:
        quotings.append(Quoting('"', "\\"))
    if re.search(r"(?m)(?:^|[,;\t|:])'[^'\n]*'(?:$|[,;\t|:])", text):
        quotings += [Quoting("'", "'"), *([Quoting("'", "\\")] if "\\'" in text else [])]
    return [*quotings, Quoting("", "")] if '"' in text else quotings


def _unused(lines: Sequence[str]) -> str:
    """A delimiter for a file of one column: one that no line has, so that it stays one."""
    return next((each for each in (*LIKELY, "\x1f") if not any(each in line for line in lines)), ",")


# --- what the report says


def sniffed(asked: CsvSpec, found: CsvSpec) -> tuple[str, ...]:
    """What a reader of the report should know of the dialect ``found``, in one sentence; none where all was given."""
    parts = []
    if asked.delimiter == "auto":
        parts.append(f"the delimiter {_plain(found.delimiter)}")
    if asked.header == "auto":
        parts.append("a header" if found.header else "that there is no header")
    parts += _settings(asked, found)
    if not parts:
        return ()
    named = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    return (f"{named} {'were' if len(parts) > 1 else 'was'} found by sniffing",)


def _settings(asked: CsvSpec, found: CsvSpec) -> list[str]:
    """The other settings that were found, as a spec says them."""
    if not asked.sniff:
        return []
    names = [each.name for each in fields(CsvSpec) if each.name not in ("delimiter", "header", "sniff")]
    usual = replace(asked, encoding="utf-8") if asked.encoding == "auto" else asked
    changed = [(name, getattr(found, name)) for name in names if getattr(found, name) != getattr(usual, name)]
    return [f"{name} = {_plain(value)}" for name, value in changed if name != "escape" or value != found.quote]


def _plain(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


# --- a dialect that was given and is another


def misread(header: Sequence[str] | None, first: bytes, csv: CsvSpec) -> str:
    """The delimiter that the file seems to have where, as it is read, it has one column; "" where it seems right.

    ``first``: the first records' text.
    """
    lines = first[:_LONGEST].decode("utf-8", "replace")
    head = header[0] if header else lines_of(lines)[0] if lines else ""
    if csv.delimiter and csv.delimiter in head:
        return ""
    rest = [line for line in lines_of(lines)[:50] if line] if lines else []
    for each in (*SEVERAL[:4], *LIKELY):
        if each in head and each not in csv.delimiter:
            divided = [len(line.split(each)) for line in [head, *rest]]
            if sum(width == divided[0] for width in divided) > 0.9 * len(divided):
                return each
    return ""
