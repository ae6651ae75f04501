"""Records that have swallowed others: after a stray quote, COPY makes one value of all lines up to the next one.

Such a record has the right number of fields and is loaded, as by COPY; the report says so. A line looks like a record
of its own where it has as many delimiters as a record. The first and the last line of a record that holds ordinary text
of several lines share its delimiters, so they have too few each; where whole lines were swallowed, they have all of
theirs, like the lines between. Delimiters that a blank or a line end follows are those of prose and addresses and show
nothing, unless the record's own are like that.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from loader.records.block import Block, Positions, delimiters, irregular_quotes
from loader.records.swallowed_lines import NONE_SWALLOWED, Swallowed

LINES = 5
"""Lines from which on a record is looked at whose quotes are all around whole fields. One with a quote in the middle of
a field, which no program writes into a value of several lines, needs two."""

SHARE = 0.75
"""The share of a record's lines that have to look like records."""


def find_swallowed(block: Block, fields: int) -> Swallowed:
    """The records of ``block`` that have swallowed others; a record has ``fields`` fields.

    Costs next to nothing where no record runs over several lines. Of one column nothing can be said.
    """
    if block.lines is not None and block.lines + (not block.data.endswith((b"\n", b"\r"))) <= block.records:
        return NONE_SWALLOWED  # each is a line of its own
    if block.regular and block.most_lines is not None and block.most_lines < LINES:
        return NONE_SWALLOWED
    found = block.layout
    if fields < 2 or not block.terminated or not len(found.quotes) or len(found.line_ends) <= len(found.ends):
        return NONE_SWALLOWED
    first = np.searchsorted(found.line_ends, block.starts[: block.records], side="right")
    last = np.searchsorted(found.line_ends, block.ends, side="left")
    spans = last - first + 1
    if not (spans > 1).any():
        return NONE_SWALLOWED
    lines = _Lines(block, fields)
    odd = np.zeros(block.records, bool)
    if not block.regular:
        irregular = irregular_quotes(block.data, found.quotes, block.dialect)
        odd[np.unique(np.searchsorted(block.ends, irregular, side="right"))] = True
    enough = (spans > 1) & (odd | (spans >= LINES))
    chosen = np.flatnonzero(enough & lines.mostly_alike(first, last))
    swallowing = [each for each in chosen.tolist() if lines.holds_records(each, int(first[each]), int(last[each]))]
    if not swallowing:
        return NONE_SWALLOWED
    return Swallowed(len(swallowing), int(spans[swallowing].sum()), block.line_of(swallowing[0]))


class _Lines:
    """The physical lines of a block. ``alike``: which look like records, shape (n,); ``strictly``: by a delimiter that
    prose does not have."""

    def __init__(self, block: Block, fields: int) -> None:
        found, size = block.layout, len(block.data)
        view = np.frombuffer(block.data, np.uint8)
        self._block = block
        self._places = delimiters(block.data, _NO_QUOTES, block.dialect)
        line = np.searchsorted(found.line_ends, self._places, side="right")
        begins = np.append(0, found.line_ends)
        before = np.searchsorted(found.quotes, self._places)
        self._inside = before & 1 == 1
        within_line = (before - np.searchsorted(found.quotes, begins)[line]) & 1 == 1
        following = view[np.minimum(self._places + len(block.dialect.delimiter), size - 1)]
        self._of_prose = (following == ord(" ")) | (following == ord("\n")) | (following == ord("\r"))
        number = len(begins)
        all_of_them = np.bincount(line, minlength=number)
        unquoted = np.bincount(line[~within_line], minlength=number)
        self.alike = (all_of_them == fields - 1) | (unquoted == fields - 1)
        self.strictly = self.alike & (np.bincount(line[~self._of_prose], minlength=number) > 0)

    def mostly_alike(self, first: Positions, last: Positions) -> npt.NDArray[np.bool_]:
        """Of records from one line to another each, whether their lines look like records."""
        return _mostly(self.alike, first, last)

    def holds_records(self, index: int, first: int, last: int) -> bool:
        """Whether record ``index`` of the block, from one line to another, holds records and not prose."""
        start, end = np.searchsorted(self._places, (self._block.starts[index], self._block.ends[index]))
        own = self._of_prose[start:end][~self._inside[start:end]]
        if len(own) and own.mean() > 0.5:
            return True
        return bool(_mostly(self.strictly, np.array([first]), np.array([last]))[0])


_NO_QUOTES: Positions = np.empty(0, np.intp)


def _mostly(alike: npt.NDArray[np.bool_], first: Positions, last: Positions) -> npt.NDArray[np.bool_]:
    before = np.append(0, np.cumsum(alike))
    count = before[last + 1] - before[first]
    result: npt.NDArray[np.bool_] = alike[first] & alike[last] & (count >= np.maximum(2, SHARE * (last - first + 1)))
    return result
