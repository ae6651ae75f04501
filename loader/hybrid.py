"""Columns that the compiled kernel does not know, made by Arrow, beside all the others that it does.

The kernel makes each record's tuple with the texts of those *open* columns in it. They are taken out as arrays,
transformed and encoded like any other, and put back in the texts' places. A record of which Arrow is not sure goes the
way that all records go without a kernel, whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from loader.columns import LoadColumn
from loader.encode import encode
from loader.expression import parse
from loader.kernel.express import Express, Sure, express_lane, is_known
from loader.kernel.filter import EVERYTHING, compile_filter
from loader.records import Block, Rows
from loader.transform import Transformer, schema_of

SHARE = 2
"""One column in so many may be open. With more of them the two ways together are no faster than Arrow's alone."""


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
        kept = self._transformer.finish(rows)
        if filtered.any():
            kept = kept.keep(~filtered[kept.index])
        is_kept = np.zeros(len(filtered), bool)
        is_kept[kept.index] = True
        made = encode(kept, self._types, with_position=False)
        tuples = self._kernel.assemble(sure.tuples, made, places, is_kept)
        return self._settled(sure, block, tuples, is_kept, np.delete(np.arange(len(filtered)), rows.index))

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


def fast_lane(
    kernel: ModuleType | None,
    columns: Sequence[LoadColumn],
    fields: int,
    null: Sequence[str],
    constants: Mapping[str, str],
    *,
    key: Sequence[str],
    required: Sequence[str],
    condition: str | None,
    zone: str,
    with_position: bool,
) -> Express | Hybrid | None:
    """The compiled lane for ``columns`` and the filter ``condition``, with as few open columns as can be.

    None where there is no kernel, or too little for it to do. ``zone``: see `loader.expression.Condition.bind`;
    the other arguments are those of `express_lane`.
    """
    if kernel is None:
        return None
    opened = {column.name for column in columns if not is_known(column, constants)}
    compiled = compile_filter(condition, columns, zone=zone)
    by_arrow = condition is not None and (compiled is None or bool(compiled.operands & opened))
    if by_arrow and condition is not None:
        opened |= parse(condition).columns
    open = [column for column in columns if column.name in opened]
    if SHARE * len(open) > len(columns) or any(each.field is None or each.type.wire == "server" for each in open):
        return None
    express = express_lane(
        kernel,
        columns,
        fields,
        null,
        constants,
        key=key,
        required=required,
        open=opened,
        filter=EVERYTHING if by_arrow else compiled,
        with_position=with_position,
    )
    if express is None or not open:
        return express
    bound = parse(condition).bind(schema_of(open), zone=zone) if by_arrow and condition is not None else None
    mask = bytes(column.name in opened for column in columns) + bytes(with_position)
    return Hybrid(express, kernel, mask, open, Transformer(open, constants, key=required, filter=bound))
