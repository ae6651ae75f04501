"""Whether the first record of a table is a header.

Each column votes. Where its first text is a name and all below are values of one kind (numbers, dates, times …), the
first record is a header; where the first is a value itself, it is not. Numbers may be names: years over what are no
years, and whole numbers that rise by one step over fractions, or beside a column that votes (``date,10,20,30``). Where
no column votes, all are of text: then the first record is a header if its texts are there, differ, and none of them
comes again in its column. An index, which has no gaps, may lack its name; where it counts the records, as R and pandas
write it, what lacks it is surely the header.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from loader.records.reading.sniff_records import Cell
from loader.records.reading.sniff_values import TEXT, held_together, kind

_YEAR = re.compile(r"1[5-9][0-9]{2}|2[01][0-9]{2}")
_NUMBER = re.compile(r"[0-9]{1,9}")

Cells = Sequence[Cell]


def has_header(names: Cells, below: Sequence[Cells], null: frozenset[str]) -> bool:
    """Whether ``names`` is a header over the columns ``below``. ``null``: unquoted texts that mean NULL."""
    if not names:
        return True
    if not names[0].text.strip() and _counts_records(below[0]):
        return True
    numbers = _number_names(names, below)
    votes = [
        None if place in numbers else _vote(name, cells, null)
        for place, (name, cells) in enumerate(zip(names, below, strict=True))
    ]
    if True in votes or False in votes:
        return votes.count(True) >= votes.count(False)
    return _are_names(names, below, null)


def _is_nothing(cell: Cell, null: frozenset[str]) -> bool:
    return (not cell.quoted and cell.text in null) or kind(cell.text) == "nothing"


def _vote(name: Cell, below: Cells, null: frozenset[str]) -> bool | None:
    """Whether a column says that its first text is a name; None where it does not say."""
    if _is_nothing(name, null):
        return None
    if kind(name.text) != TEXT:
        return False
    known = [kind(cell.text) for cell in below if not _is_nothing(cell, null)]
    values = sum(each != TEXT for each in known)
    return True if known and values >= 0.9 * len(known) else None


def _counts_records(cells: Cells) -> bool:
    """Whether they are 0, 1, 2 … or 1, 2, 3 …, as R and pandas write beside the records, mostly without a name."""
    first = next((int(cell.text == "1") for cell in cells), 0)
    return len(cells) > 1 and all(cell.text == str(at) for at, cell in enumerate(cells, start=first))


def _number_names(names: Cells, below: Sequence[Cells]) -> set[int]:
    """The places of numbers that are likely names."""
    places = [at for at, name in enumerate(names) if _NUMBER.fullmatch(name.text)]
    numbers = [int(names[at].text) for at in places]
    steps = {later - earlier for earlier, later in pairwise(numbers)}
    even = len(steps) == 1 and min(steps) > 0
    years = all(_YEAR.fullmatch(names[at].text) for at in places)
    if years and even and len(places) > 2:
        return set(places)
    if even and len(places) > 1 and all(_has_points(below[at]) for at in places):
        return set(places)
    beside = [at for at in range(len(names)) if at not in places]
    if not places or not beside or any(kind(names[at].text) != TEXT for at in beside):
        return set()
    other = all(not _holds(below[at], numbers) for at in places)
    if years and other and (even or len(places) == 1):
        return set(places)
    return set(places) if even and len(places) > 1 and other and _over_values(below, beside) else set()


def _has_points(cells: Cells) -> bool:
    """Whether a column is of numbers with a fraction, as a whole number above it is not."""
    return bool(cells) and all(re.fullmatch(r"-?[0-9]*[.,][0-9]+", cell.text.strip()) for cell in cells)


def _holds(cells: Cells, numbers: Sequence[int]) -> bool:
    """Whether values of a column are like the names: years, or the very numbers."""
    texts = [cell.text.strip() for cell in cells]
    years = sum(_YEAR.fullmatch(text) is not None for text in texts)
    return years > len(texts) / 2 or any(text in {str(each) for each in numbers} for text in texts)


def _over_values(below: Sequence[Cells], beside: Sequence[int]) -> bool:
    """Whether a column whose name is no number is of values: its name stands out."""
    return any(held_together(kind(cell.text) for cell in below[at])[0] not in (TEXT, "nothing") for at in beside)


def _are_names(names: Cells, below: Sequence[Cells], null: frozenset[str]) -> bool:
    texts = [name.text for name in names]
    if all(_is_nothing(name, null) for name in names) or len(set(texts)) < len(texts):
        return False
    for name, cells in zip(names, below, strict=True):
        if not name.text.strip():
            if any(_is_nothing(cell, null) for cell in cells):
                return False  # unlike an index without a name, it has gaps
        elif any(cell.text == name.text for cell in cells):
            return False
    return True
