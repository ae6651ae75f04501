"""Whether a file's keys rise from record to record: then none comes twice, and the server need not look for that.

Exports in the order of their key are the rule, and to compare neighbours costs next to nothing where the keys are
at hand as numbers; to group two million staged rows by their key costs half a second or more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True, slots=True)
class Run:
    """The first and last key of records whose keys rise; of no records, where they are None."""

    first: tuple[Any, ...] | None = None
    last: tuple[Any, ...] | None = None


def run_of(columns: Sequence[pa.Array]) -> Run | None:
    """The run that keys make, given by their columns, each of shape (n,); None where they do not rise.

    Of types for which `LoadColumn.is_exact`.
    """
    if not len(columns[0]):
        return Run()
    if any(column.null_count for column in columns) or not _rise(columns):
        return None
    return Run(_key(columns, 0), _key(columns, -1))


def _rise(columns: Sequence[pa.Array]) -> bool:
    """By the first column, and where that stays the same by the next."""
    size = len(columns[0]) - 1
    higher = None
    for column in reversed(columns):
        before, after = column.slice(0, size), column.slice(1)
        above = pc.greater(after, before)
        higher = above if higher is None else pc.or_(above, pc.and_(pc.equal(after, before), higher))
    return bool(pc.all(higher, min_count=0).as_py())


def _key(columns: Sequence[pa.Array], row: int) -> tuple[Any, ...]:
    return tuple(_number(column[row]) for column in columns)


def _number(key: pa.Scalar) -> Any:
    """A time by its number, for there are some that Python has no time for."""
    return key.value if pa.types.is_temporal(key.type) else key.as_py()


class Rising:
    """Follows a file's keys, block after block. ``so_far``: they rose all the way."""

    def __init__(self, *, so_far: bool = True) -> None:
        self.so_far = so_far
        self._first: tuple[Any, ...] | None = None
        self._last: tuple[Any, ...] | None = None

    @property
    def bounds(self) -> tuple[tuple[str, ...], ...] | None:
        """The first and the last key as texts, nothing where there was none, None where they do not rise."""
        if not self.so_far:
            return None
        return tuple(tuple(map(str, key)) for key in (self._first, self._last) if key is not None)

    def add(self, run: Run | None) -> None:
        """The keys of the next records; None where they do not rise, or are not known."""
        if run is None:
            self.so_far = False
        elif run.first is not None:
            self.so_far = self.so_far and (self._last is None or self._last < run.first)
            self._first = self._first or run.first
            self._last = run.last


def rise_together(parts: Iterable[Sequence[Sequence[str]] | None]) -> bool:
    """Whether keys rise over all ``parts`` of a file, given in order by the `Rising.bounds` of each."""
    last: tuple[Decimal, ...] | None = None
    for bounds in parts:
        if bounds is None:
            return False
        if bounds:
            first, end = (tuple(map(Decimal, key)) for key in bounds)
            if last is not None and not last < first:
                return False
            last = end
    return True
