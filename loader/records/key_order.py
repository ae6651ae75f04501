"""Whether a file's keys rise from record to record: then none comes twice, and the server need not look for that.

Exports in the order of their key are the rule, and to compare neighbours costs next to nothing where the keys are
at hand as numbers; to group two million staged rows by their key costs half a second or more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True)
class Run:
    """The first and last key of records whose keys rise; of no records, where they are None."""

    first: tuple[Any, ...] | None = None
    last: tuple[Any, ...] | None = None


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
