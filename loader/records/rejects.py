"""The rejected records of one block, counted at once and built one by one.

A block of empty lines holds a hundred thousand rejects. What is kept of each is some hundred bytes and more, so a stage
that rejects records says only which and why; a `Reject` is built when it is about to be entered in the ledger, and not
at all where the load's limit is reached already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loader.core.report import Reject


@dataclass(frozen=True, slots=True)
class RejectGroup:
    """Records of one block that are rejected for the same reason.

    ``index``: their places in the block, from 0, shape (n,). ``build`` makes the `Reject` of the one at a place within
    ``index``. ``column``: the column to blame, if one is.
    """

    reason: str
    column: str | None
    index: npt.NDArray[np.int64]
    build: Callable[[int], Reject]


class Rejects:
    """All of a block's rejects so far. Iterating over it builds each, in the file's order."""

    __slots__ = ("groups",)

    def __init__(self, groups: Iterable[RejectGroup] = ()) -> None:
        self.groups = tuple(each for each in groups if len(each.index))

    def __len__(self) -> int:
        return sum(len(each.index) for each in self.groups)

    def __add__(self, other: Rejects) -> Rejects:
        return Rejects((*self.groups, *other.groups))

    def __iter__(self) -> Iterator[Reject]:
        return self.first(len(self))

    def first(self, limit: int) -> Iterator[Reject]:
        """The first of them in the file, at most ``limit``, each built when it is asked for."""
        if limit <= 0 or not self.groups:
            return
        sizes = [len(each.index) for each in self.groups]
        order = np.argsort(np.concatenate([each.index for each in self.groups]), kind="stable")[:limit]
        past = np.cumsum(sizes)
        for number, group in zip(order.tolist(), np.searchsorted(past, order, side="right").tolist(), strict=True):
            yield self.groups[group].build(number - int(past[group]) + sizes[group])

    @classmethod
    def of(cls, rejects: Sequence[Reject]) -> Rejects:
        """Rejects that were built already."""
        places: dict[tuple[str, str | None], list[int]] = {}
        for place, each in enumerate(rejects):
            places.setdefault((each.reason, each.column), []).append(place)
        return cls(
            RejectGroup(reason, column, np.array(own, np.int64), lambda number, own=own: rejects[own[number]])  # type: ignore[misc]
            for (reason, column), own in places.items()
        )

    def without(self, places: npt.NDArray[np.int64]) -> Rejects:
        """Those of other records than the ones at ``places`` in the block."""
        if not len(places):
            return self
        return Rejects(_chosen(each, np.flatnonzero(~np.isin(each.index, places))) for each in self.groups)

    def counts(self) -> Counter[tuple[str, str | None]]:
        """How many there are, by reason and column."""
        counted: Counter[tuple[str, str | None]] = Counter()
        for each in self.groups:
            counted[each.reason, each.column] += len(each.index)
        return counted


def _chosen(group: RejectGroup, chosen: npt.NDArray[np.intp]) -> RejectGroup:
    build = group.build
    return RejectGroup(group.reason, group.column, group.index[chosen], lambda number: build(int(chosen[number])))


NO_REJECTS = Rejects()
