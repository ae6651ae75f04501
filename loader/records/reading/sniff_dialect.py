"""Delimiter, quote and escape: the dialect under which the beginning of a file is most of a table.

After van den Burg, Nazábal and Sutton, "Wrangling messy CSV files by detecting row and type patterns" (2019), and
DuckDB's sniffer: each likely dialect divides the text into records, and is as good as (1) many records have the same
number of fields, (2) there are many of these, and (3) each column's texts are values of one kind. Of texts of no kind
those are worse that another delimiter or a quote stands in. Characters that stand in texts, times and names too count
half. Of equals the earlier candidate wins.

A file of one column is what remains; and what the values themselves say, where one column of numbers (``11,830,420``),
times (``01:02:03``) or names (``Smith, John``) stands under a name without a delimiter.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from loader.records.reading.sniff_records import Cell, Quoting, Row, read_rows
from loader.records.reading.sniff_values import TEXT, held_together, kind

LIKELY = (",", ";", "\t", "|")
UNLIKELY = (":", " ", "^", "~")
RARE = ("\x01", "\x1f", "\x1e", "¦", "§", "¬", "#", "&", "!", "*")
SEVERAL = ("||", "::", "^^", "~~", "|~|", "~|~", "|^|", "^|^", "##", "&&", "$$", "@@", ";;", "<|>", "\t\t")
PADDED = (", ", "; ", " | ", " , ", " ; ", "\t|\t")

RECORDS = 120
"""Records that are looked at, of a dialect: tables show themselves by fewer."""

CELLS = 1500
"""Fields that are looked at for each dialect, of as many records as have them: they cost a microsecond each."""

DOUBLED = Quoting('"', '"')
ENOUGH = 0.7  # of the records, that must agree
HELD = 0.7  # of what columns can hold together, for a delimiter that is none of the usual ones


@dataclass(frozen=True)
class Reading:
    """The sample's records as one dialect has them, blank lines left out."""

    delimiter: str
    quoting: Quoting
    rows: tuple[Row, ...]

    @cached_property
    def width(self) -> int:
        """The number of fields that most records have; of two that are as frequent, the greater one."""
        counts = Counter(len(row.cells) for row in self.rows if not row.broken)
        return max(counts, key=lambda each: (counts[each], each), default=0)

    @cached_property
    def agreeing(self) -> float:
        """The share of the records, the lines before the table left out, that have that many fields."""
        rows = self.rows[self.first :]
        return sum(len(row.cells) == self.width and not row.broken for row in rows) / len(rows) if rows else 0.0

    @cached_property
    def first(self) -> int:
        """The first record that has as many fields; before it stand titles, if the others are few."""
        first = next((at for at, row in enumerate(self.rows) if len(row.cells) == self.width), 0)
        few = 2 * first <= len(self.rows) and len(self.rows) - first > 1
        return first if few and all(len(row.cells) < 3 for row in self.rows[:first]) else 0

    def columns(self) -> list[list[Cell]]:
        """The cells below one another, of the records that have all fields."""
        whole = [row.cells for row in self.rows if len(row.cells) == self.width]
        whole = whole[: max(2, CELLS // max(self.width, 1))]
        return [list(each) for each in zip(*whole, strict=True)]


def read(lines: Sequence[str], delimiter: str, quoting: Quoting, *, records: int = RECORDS) -> Reading:
    """The first records of ``lines``."""
    rows = (row for row in read_rows(lines, delimiter, quoting) if not row.blank)
    return Reading(delimiter, quoting, tuple(islice(rows, records)))


@dataclass(frozen=True, slots=True)
class Choice:
    """The best reading, and what else would do. ``rival``: another delimiter that fits as well; "" where none does."""

    reading: Reading
    worth: float
    rival: str = ""


def choose(lines: Sequence[str], *, delimiter: str | None, quotings: Sequence[Quoting]) -> Choice:
    """The dialect of ``lines``. ``delimiter``: the one that was given; ``quotings``: those that it may have."""
    sample = "\n".join(lines[: RECORDS * 2])
    if delimiter is not None:
        readings = [read(lines, delimiter, each) for each in quotings]
        best = max(readings, key=worth)
        return Choice(best if worth(best) > 0 else readings[0], worth(best))
    taken = {each.quote for each in quotings if len(quotings) == 1} | {""}
    likely = [each for each in (*LIKELY, *SEVERAL, *PADDED, *UNLIKELY, *RARE) if each not in taken and each in sample]
    readings = [read(lines, each, quoting) for each in likely for quoting in quotings]
    readings = _without_halves([each for each in readings if each.width > 1])
    for judge in (worth, ragged_worth):
        worths = [(judge(each), each) for each in readings]
        found = max(worths, key=lambda each: each[0], default=(0.0, None))
        if found[1] is not None and found[0] > 0:
            return Choice(found[1], found[0], _rival(found[1], found[0], worths))
    return Choice(read(lines, "", quotings[0]), 0.0)


def _rival(best: Reading, worth: float, worths: Sequence[tuple[float, Reading]]) -> str:
    """Another of the usual delimiters, by which as many records of as good values come out."""
    for other, reading in worths:
        usual = {best.delimiter, reading.delimiter} <= set(LIKELY) and reading.delimiter != best.delimiter
        if usual and other > 0.995 * worth and reading.width == best.width:
            return reading.delimiter
    return ""


def _without_halves(readings: Sequence[Reading]) -> list[Reading]:
    """Without ``|`` where it only stands doubled, and without ``||`` where that is an empty field."""
    single = {each.delimiter: each for each in readings if len(each.delimiter) == 1}
    left_out: set[str] = set()
    for each in readings:
        half = each.delimiter[:1]
        if each.delimiter == half * 2 and half in single:
            left_out.add(half if _in_pairs(single[half], each) else each.delimiter)
        elif len(each.delimiter) > 1:
            left_out |= {half for half in set(each.delimiter) & set(single) if _only_within(single[half], each)}
    return [each for each in readings if each.delimiter not in left_out]


def _in_pairs(single: Reading, doubled: Reading) -> bool:
    """Whether a character stands doubled in the first record, and mostly elsewhere: else fields are empty."""
    singles = [len(row.cells) - 1 for row in single.rows]
    pairs = [len(row.cells) - 1 for row in doubled.rows]
    return bool(singles and pairs) and singles[0] == 2 * pairs[0] and 0 < 0.75 * sum(singles) <= 2 * sum(pairs)


def _only_within(single: Reading, several: Reading) -> bool:
    """Whether a character delimits only where the longer delimiter that it is of does, in every record."""
    times = several.delimiter.count(single.delimiter)
    pairs = list(zip(single.rows, several.rows, strict=False))
    same = all(len(one.cells) - 1 == times * (len(other.cells) - 1) for one, other in pairs)
    return same and len(single.rows) == len(several.rows) and several.agreeing > ENOUGH


# --- how good a reading is


def worth(reading: Reading) -> float:
    """How likely its dialect is the file's, from 0 to 1."""
    if reading.width < 2 or reading.agreeing < ENOUGH:
        return 0.0
    held = _held_together(reading)
    if held < HELD and reading.delimiter not in LIKELY:
        return 0.0
    first = 1.0 if len(reading.rows[0].cells) == reading.width else 0.8  # the header, most often
    return reading.agreeing**2 * (1 - 1 / reading.width) * first * _usual(reading.delimiter) * held


def ragged_worth(reading: Reading) -> float:
    """The same where records have all numbers of fields: nearly each must have the delimiter, and most the first."""
    rows = reading.rows
    widths = [len(row.cells) for row in rows]
    if reading.delimiter not in LIKELY or widths[0] < 2 or sum(width > 1 for width in widths) < 0.75 * len(widths):
        return 0.0
    cells = [cell for row in rows[:RECORDS] for cell in row.cells][:CELLS]
    clean = sum(_clean(cell, _dirt(reading.delimiter)) for cell in cells) / len(cells)
    return sum(width <= widths[0] for width in widths) / len(widths) * clean


def _usual(delimiter: str) -> float:
    if delimiter in LIKELY or delimiter in SEVERAL:
        return 1.0
    if delimiter in PADDED:
        return 1.0 if delimiter.strip() in LIKELY else 0.5
    return 0.5 if delimiter in UNLIKELY else 0.45


def _held_together(reading: Reading) -> float:
    """The mean over columns: 1 for values of one kind, less for texts, little for texts with delimiters in them."""
    dirt = _dirt(reading.delimiter)
    worths = [_column_worth(cells, dirt) for cells in reading.columns()]
    return sum(worths) / len(worths) if worths else 0.0


def _column_worth(cells: Sequence[Cell], dirt: re.Pattern[str]) -> float:
    body = cells[1:] if len(cells) > 1 else cells  # a header says little about it
    clean = sum(_clean(cell, dirt) for cell in cells) / len(cells)
    found, share = held_together(kind(cell.text) for cell in body)
    if found in (TEXT, "nothing"):
        return clean
    return clean * (0.8 + 0.2 * share)


def _clean(cell: Cell, dirt: re.Pattern[str]) -> float:
    text = cell.text
    if not cell.regular:
        return 0.3
    if cell.quoted or not text:
        return 1.0
    return _text_worth(text, dirt)


def _text_worth(text: str, dirt: re.Pattern[str]) -> float:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return 0.2
    padded = 0.97 if text[0] == " " or text[-1] == " " else 1.0
    if kind(text) != TEXT:
        return padded
    if dirt.search(text) or _TWO_NUMBERS.fullmatch(text):
        return 0.0
    if '"' in text:
        return 0.2 if text.startswith('"') and '"' in text[1:] else 0.6
    return 0.9 * padded


_TWO_NUMBERS = re.compile(r"[0-9.,]+ [0-9.,]+")


def _dirt(delimiter: str) -> re.Pattern[str]:
    """The other usual delimiters. A comma before a blank is prose, and so is a semicolon."""
    others = "".join(each for each in "\t|" if each not in delimiter)
    pattern = f"[{re.escape(others)}]" if others else "(?!)"
    pattern += "" if ";" in delimiter else "|;(?! )"
    return re.compile(pattern if "," in delimiter else pattern + "|,(?! )")


# --- one column


def is_one_column(reading: Reading, lines: Sequence[str]) -> bool:
    """Whether what ``reading`` divides is one column: its values are of one kind as they are, or names with a comma,
    and stand under a name that is not divided."""
    single = read(lines, "", reading.quoting)
    rows = single.rows
    if len(rows) < 2 or reading.delimiter in ("\t", "|", ";", *SEVERAL):
        return False
    body = [row.cells[0] for row in rows[1:]]
    found, share = held_together(kind(cell.text) for cell in body)
    named = reading.delimiter not in rows[0].cells[0].text and kind(rows[0].cells[0].text) == TEXT
    of_values = found not in (TEXT, "nothing") and share >= 0.95 and _is_sure(found, body, named=named)
    if named and of_values:
        return True
    if named and reading.delimiter in (",", ", ", " "):
        return _is_prose(reading)
    first = kind(rows[0].cells[0].text)
    if reading.delimiter == ",":
        return _are_grouped([row.cells[0].text for row in rows])
    return of_values and reading.delimiter not in LIKELY and first in (found, "integer")


_GROUPED = re.compile(r"[-+]?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?")


_DECIMAL = re.compile(r"[-+]?[0-9]+,[0-9]+")


def _are_grouped(texts: Sequence[str]) -> bool:
    """Whether all are numbers in groups by threes, and not columns of numbers: those have no ``005``."""
    if not all(_GROUPED.fullmatch(text) for text in texts):
        return False
    return any(",0" in text for text in texts) or len({text.count(",") for text in texts}) > 1


def _is_sure(found: str, body: Sequence[Cell], *, named: bool) -> bool:
    """Numbers that a comma may as well divide are one column where they are grouped by threes; and under a name that it
    does not divide, where each has one comma."""
    texts = [cell.text.strip() for cell in body]
    if found != "number":
        return True
    commas = [text for text in texts if "," in text]
    if named and all(_DECIMAL.fullmatch(each) for each in commas):
        return True
    return all(_GROUPED.fullmatch(each) for each in commas) or len(commas) < len(texts) / 2


def _is_prose(reading: Reading) -> bool:
    """Whether commas stand as in texts, before a blank, under one name; and no column that they make has values."""
    below = reading.rows[1:]
    cells = [cell for row in below for cell in row.cells[1:]]
    spaced = reading.delimiter != "," or all(cell.text.startswith(" ") for cell in cells)
    columns = zip(*(row.cells for row in below if len(row.cells) == reading.width), strict=True)
    values = any(held_together(kind(cell.text) for cell in column)[0] not in (TEXT, "nothing") for column in columns)
    return spaced and not values and not _like_names(below[0])


def _like_names(row: Row) -> bool:
    """Whether a record looks like a header of several names: short words in small letters."""
    return all(re.fullmatch(r" ?[a-z_][a-z0-9_]*", cell.text) for cell in row.cells)
