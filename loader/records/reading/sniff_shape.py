"""What stands around a table's records: titles, comments, blank lines, footers, delimiters at the line's end."""

from __future__ import annotations

import re
from collections.abc import Sequence

from loader.records.reading.sniff_dialect import Reading, choose
from loader.records.reading.sniff_records import Quoting, Row, read_rows
from loader.records.reading.sniff_values import TEXT, held_together, kind

MARKERS = ("##", "#", "//", "--", "%", "!")
"""What a comment may begin with."""

TAIL = 60
"""Lines at the file's end that are looked at for a footer."""

MANY = 2000
"""Lines from which on it costs too much to find out where records begin near the end, where quotes may be escaped."""


# --- comments


def find_comment(lines: Sequence[str], *, delimiter: str | None, quotings: Sequence[Quoting]) -> str:
    """What comments begin with; "" where there are none.

    A line with as many fields as the others is a record, whatever it begins with, or the header.
    """
    for marker in MARKERS:
        marked = [line for line in lines[:400] if line.startswith(marker)]
        if not marked:
            continue
        if marker == "--" and all(re.fullmatch(r"[-+|,;\t =]+", line) for line in marked):
            return marker
        rest = without_comments(lines[:400], marker)
        if sum(bool(line.strip()) for line in rest) and _are_comments(marked, rest, marker, delimiter, quotings):
            return marker
    return ""


def _are_comments(
    marked: Sequence[str],
    rest: Sequence[str],
    marker: str,
    delimiter: str | None,
    quotings: Sequence[Quoting],
) -> bool:
    table = choose(rest, delimiter=delimiter, quotings=quotings).reading
    if table.width < 2:
        prose = all(line[len(marker) : len(marker) + 1] in ("", " ") for line in marked)
        return prose and len(marked) < sum(bool(line.strip()) for line in rest) + 5
    widths = [len(row.cells) for row in read_rows(marked, table.delimiter, Quoting("", ""))]
    if marker not in ("#", "##") and not all(re.match(r"[\s\W]", line[len(marker) :] or " ") for line in marked):
        return False
    return sum(width == table.width for width in widths) < len(widths) / 2


def without_comments(lines: Sequence[str], comment: str) -> list[str]:
    """The lines, those of comments blank, so that each keeps its number."""
    return ["" if comment and line.startswith(comment) else line for line in lines]


# --- titles


def first_of_table(reading: Reading) -> int:
    """The place among the rows of the table's first; before it stand titles."""
    rows, at = reading.rows, 0
    while at + 1 < len(rows) and at < 60 and _is_title(rows, at, reading.width):
        at += 1
    return at


def _is_title(rows: Sequence[Row], at: int, width: int) -> bool:
    row, rest = rows[at], rows[at + 1 :]
    fields = len(row.cells)
    if width < 2:
        return False
    if fields < width:
        return fields == 1 or _heads(rest, width)
    if fields > width or row.filled > 1 or (row.filled and not row.cells[0].text.strip()):
        return False
    after = next((each for each in rest if each.filled > 1), None)  # Excel fills titles up with delimiters
    apart = width > 2 or not rest[0].filled or not row.filled
    return after is not None and apart and after.filled > width / 2 and not _alike(row, rest, width)


def _heads(rows: Sequence[Row], width: int) -> bool:
    """Whether the first of ``rows`` is the header of the others."""
    whole = [row for row in rows if len(row.cells) == width]
    if not whole or whole[0] is not rows[0] or len(whole) < 2:
        return False
    if any(kind(cell.text) != TEXT for cell in rows[0].cells):
        return False
    columns = zip(*(row.cells for row in whole[1:20]), strict=True)
    return any(held_together(kind(cell.text) for cell in cells)[0] not in (TEXT, "nothing") for cells in columns)


def _alike(row: Row, rest: Sequence[Row], width: int) -> bool:
    """Whether most of what follows is as empty as the row."""
    whole = [each for each in rest[:20] if len(each.cells) == width]
    return sum(each.filled <= row.filled for each in whole) > len(whole) / 2


# --- the end


_ENDS = re.compile(
    r"\W*(?:(?:grand |sub-?)?totals?\b|sums?\b|summe\b|gesamt|insgesamt|sources?:|notes?:"
    r"|\d+ (?:rows?|records?|lines?)\b|(?:row|record) ?count|end of |generated |copyright|©|exported |report |legend)",
    re.IGNORECASE,
)
_TOTAL = re.compile(r"\W*(?:(?:grand |sub-?)?totals?|sum|summe|gesamt|insgesamt)\W*", re.IGNORECASE)


def footer_lines(lines: Sequence[str], reading: Reading, start: int) -> int:
    """Physical lines at the end of a whole file that are no records: blank ones, notes, totals.

    ``start``: the line on which the table begins.
    """
    width = reading.width
    rows = _tail(lines, reading, start)
    table = [row for row in rows if len(row.cells) == width and row.filled]
    last = _before_notes(rows, table)
    while last > 1 and _is_footer(rows, last - 1, table, width):
        last -= 1
    if last == len(rows):  # also of none
        return 0
    kept = rows[last - 1]
    return len(lines) - kept.line - kept.lines


def _before_notes(rows: Sequence[Row], table: Sequence[Row]) -> int:
    """How many rows stand before the last blank line, if what follows it are notes; else all."""
    blank = next((at for at in range(len(rows) - 2, 0, -1) if rows[at].blank), None)
    if blank is None or len(table) < 3:
        return len(rows)
    notes = [row.cells[0].text.strip() for row in rows[blank + 1 :] if not row.blank]
    if notes and (_ENDS.match(notes[0]) or all(_odd(note, table[: len(table) // 2 + 1]) for note in notes)):
        return blank
    return len(rows)


def _tail(lines: Sequence[str], reading: Reading, start: int) -> list[Row]:
    """The last rows, from ``start`` on where they might begin amid a record; none where that would cost too much."""
    begin = max(start, len(lines) - TAIL)
    quote, escape = reading.quoting.quote, reading.quoting.escape
    if begin > start and quote and (escape != quote or "\n".join(lines[start:begin]).count(quote) % 2):
        begin = start if len(lines) < MANY else len(lines)
    rows = read_rows(lines[begin:], reading.delimiter, reading.quoting)
    return [Row(row.line + begin, row.lines, row.cells, row.broken) for row in rows]


def _is_footer(rows: Sequence[Row], at: int, table: Sequence[Row], width: int) -> bool:
    row = rows[at]
    if row.blank or not row.filled:
        return True
    if width < 2 or row.broken or len(table) < 2:
        return False
    apart = rows[at - 1].blank or not rows[at - 1].filled
    text = row.cells[0].text.strip()
    if len(row.cells) < width:
        ends = bool(_ENDS.match(text))
        prose = ends or len(text.split()) > 2 or not re.search(r"\w", text)
        alone = len(row.cells) == 1 and kind(text) == TEXT
        return (apart and ends) or (alone and (apart or prose or _odd(text, table)))
    totals = len(row.cells) == width and bool(_TOTAL.fullmatch(text))
    return totals and (apart or _odd(text, table) or _gaps(row, table))


def _odd(text: str, table: Sequence[Row]) -> bool:
    """Whether a first field is a text where the others have values."""
    others = [kind(row.cells[0].text) for row in table[1:] if row.cells[0].text.strip() != text]
    found, share = held_together(others)
    return found not in (TEXT, "nothing") and share > 0.9 and kind(text) == TEXT


def _gaps(row: Row, table: Sequence[Row]) -> bool:
    """Whether a field is empty that is filled in all other records."""
    others = [each for each in table if each is not row]
    empty = [place for place, cell in enumerate(row.cells) if not cell.text.strip()]
    return any(all(each.cells[place].text.strip() for each in others) for place in empty)


# --- each line's end


def has_trailing_delimiter(names: Row | None, body: Sequence[Row], width: int) -> bool:
    """Whether each record ends with a delimiter after which nothing comes, and the header gives it no name."""
    if width < 2 or not body:
        return False
    whole = [row for row in body if len(row.cells) == width]
    empty = sum(not row.cells[-1].text and not row.cells[-1].quoted for row in whole)
    if empty < len(whole) or len(whole) < 0.9 * len(body) or any(row.filled == 0 for row in whole[:1]):
        return False
    if names is None:
        return len(whole) > 1
    return len(names.cells) == width - 1 or (len(names.cells) == width and not names.cells[-1].text.strip())


def is_padded(names: Row | None, body: Sequence[Row], width: int) -> bool:
    """Whether records lack fields at their end, and none has too many."""
    most = len(names.cells) if names is not None else width
    widths = [len(row.cells) for row in body if not row.broken and not row.blank]
    return bool(widths) and max(widths) <= most and min(widths) < most and most > 1
