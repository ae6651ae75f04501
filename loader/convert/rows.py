"""Records of a block as a record batch, on their way through the Arrow lane."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from loader.core.arrays import booleans, integers
from loader.core.datetime_texts import moment_texts
from loader.records.block import Block
from loader.records.key_order import Run
from loader.records.rejects import NO_REJECTS, Rejects


@dataclass(frozen=True)
class Doubtful:
    """Records with values that the server is to judge: their texts, one row a record, and their places in the block.

    ``suspects``: the columns with a text that the client could not convert.
    """

    texts: pa.RecordBatch
    index: npt.NDArray[np.int64]
    suspects: frozenset[str]

    @classmethod
    def of(
        cls, values: Sequence[pa.Array], names: Sequence[str], index: npt.NDArray[np.int64], *, suspects: Iterable[str]
    ) -> Doubtful:
        """Columns of any type as texts, in the spelling that PostgreSQL reads as the very value."""
        texts = pa.RecordBatch.from_arrays([_spelled(each) for each in values], list(names))
        return cls(texts, index, frozenset(suspects))


def _spelled(values: pa.Array) -> pa.Array:
    dated = pa.types.is_date(values.type) or pa.types.is_timestamp(values.type)
    return moment_texts(values) if dated else values.cast(pa.string())


FEW = 8
"""Rows up to which what is left of a batch is joined of its runs: a sixth of the time that a filter takes."""


@dataclass(frozen=True)
class Rows:
    """Records of one block on their way to staging.

    ``batch``: one row a record, columns of shape (n,). ``index``: shape (n,), each row's record within the
    block, from 0. ``rejects``: records that were set aside. ``filtered``: how many the filter left out. ``short``
    and ``long``: how many were filled with NULL, or lost surplus fields, to be of the right shape.
    """

    block: Block
    batch: pa.RecordBatch
    index: npt.NDArray[np.int64]
    rejects: Rejects = NO_REJECTS
    filtered: int = 0
    doubtful: Doubtful | None = None
    short: int = 0
    long: int = 0

    def keep(self, mask: npt.NDArray[np.bool_]) -> Rows:
        """These rows without those where ``mask`` is False."""
        gone = np.flatnonzero(~mask).tolist()
        if len(gone) > FEW:
            return replace(self, batch=self.batch.filter(booleans(mask)), index=self.index[mask])
        begins = [0, *(each + 1 for each in gone)]
        runs = [self.batch.slice(at, end - at) for at, end in zip(begins, [*gone, len(mask)], strict=True)]
        return replace(self, batch=pa.concat_batches(runs), index=self.index[mask])

    def doubt(self, mask: npt.NDArray[np.bool_], suspects: Iterable[str] | None = None) -> Rows:
        """With the rows where ``mask`` is True among the doubtful, in the file's order.

        ``suspects``: see `Doubtful`; by default all columns.
        """
        if not mask.any():
            return self
        names = self.batch.schema.names
        chosen = self.batch if mask.all() else self.batch.filter(booleans(mask))
        asked = Doubtful.of(chosen.columns, names, self.index[mask], suspects=names if suspects is None else suspects)
        if self.doubtful is not None:
            texts, index = in_order((asked.texts, asked.index), (self.doubtful.texts, self.doubtful.index))
            asked = Doubtful(texts, index, asked.suspects | self.doubtful.suspects)
        rest = replace(self, batch=self.batch.slice(0, 0), index=self.index[:0]) if mask.all() else self.keep(~mask)
        return replace(rest, doubtful=asked)


Placed = tuple[pa.RecordBatch, npt.NDArray[np.int64]]
"""A batch, and the places of its records in the block."""


def in_order(one: Placed, other: Placed) -> Placed:
    """Two batches as one in the file's order."""
    index = np.concatenate((one[1], other[1]))
    order = np.argsort(index, kind="stable")
    return pa.concat_batches([one[0], other[0]]).take(integers(order)), index[order]


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
