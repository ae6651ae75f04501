"""Columns that the compiled kernel does not know, made by Arrow, beside all the others that it does.

The kernel makes each record's tuple with the texts of those *open* columns in it. They are taken out as arrays,
transformed and encoded like any other, and put back in the texts' places. A record of which Arrow is not sure goes the
way that all records go without a kernel, whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from loader.convert.binary_copy import encode
from loader.convert.lanes.kernel_program import Express, Sure
from loader.convert.rows import Rows
from loader.convert.transform import Transformer
from loader.postgres.load_column import LoadColumn
from loader.records.block import Block


class Hybrid:
    """The compiled lane of a load with open columns. Safe to share between threads.

    ``open``: for each field of a tuple 1 where it is of an open column, 0 else; ``columns`` are those columns.
    """

    def __init__(
        self, express: Express, kernel: ModuleType, open: bytes, columns: Sequence[LoadColumn], transformer: Transformer
    ) -> None:
        self._express = express
        self._kernel = kernel
        self._open = open
        self._names = [column.name for column in columns]
        self._types = [column.type for column in columns]
        self._transformer = transformer

    def take(self, block: Block) -> Sure | None:
        """What comes of ``block``; None where it is not for the kernel. Raises as `Transformer.convert` does."""
        sure = self._express.take(block)
        if sure is None or not sure.tuples:
            return sure
        columns, marks, places = self._kernel.texts(sure.tuples, self._open, sure.kept + sure.filtered)
        filtered: npt.NDArray[np.bool_] = np.frombuffer(marks, bool)
        batch = pa.RecordBatch.from_arrays([_array(len(filtered), *each) for each in columns], self._names)
        rows = self._transformer.convert(Rows(block, batch, np.arange(len(filtered))))
        kept = self._transformer.finish(replace(rows, doubtful=None))
        unsure = kept.doubtful.index if kept.doubtful is not None else np.empty(0, np.int64)
        if filtered.any():
            kept = kept.keep(~filtered[kept.index])
        is_kept = np.zeros(len(filtered), bool)
        is_kept[kept.index] = True
        made = encode(kept, self._types, with_position=False)
        tuples = self._kernel.assemble(sure.tuples, made, places, is_kept)
        sure_of = np.setdiff1d(rows.index, unsure)
        return self._settled(sure, block, tuples, is_kept, np.delete(np.arange(len(filtered)), sure_of))

    def _settled(
        self, sure: Sure, block: Block, tuples: bytes, is_kept: npt.NDArray[np.bool_], left: npt.NDArray[np.int64]
    ) -> Sure:
        """With the ``tuples`` of the records that are kept, and those that Arrow has ``left`` among the rest."""
        kept = int(is_kept.sum())
        filtered = len(is_kept) - len(left) - kept
        keys = sure.keys if kept == sure.kept else None
        if not len(left):
            return replace(sure, tuples=tuples, kept=kept, filtered=filtered, keys=keys)
        if 2 * len(left) > block.records:
            self._express.give_way()
        odd = sure.rest.origin[1] if sure.rest is not None and sure.rest.origin is not None else np.empty(0, np.int64)
        taken = np.delete(np.arange(block.records), odd)
        rest = block.pick(np.sort(np.concatenate((odd, taken[left]))))
        return Sure(tuples, kept, filtered, None, rest)


def _array(records: int, ends: bytes, data: bytes, valid: bytes) -> pa.StringArray:
    return pa.StringArray.from_buffers(records, pa.py_buffer(ends), pa.py_buffer(data), pa.py_buffer(valid))
