"""Rows as parsed → rows as the table wants them, column by column and all values at once.

The order for a column: null texts (already NULL), its ``transform`` chain, ``default``, then ``format`` or the
type's own rules, then NOT NULL and length. For the record: the hook, then the filter. A value that does not
convert rejects its record, never its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from loader import arrays
from loader.columns import LoadColumn
from loader.convert import Mask, convert, decode, fits, has_nul
from loader.records import Block, Rows, reject
from loader.report import Reject
from loader.steps import apply_chain

Filter = Callable[[pa.RecordBatch], pa.BooleanArray]
Hook = Callable[[pa.RecordBatch], pa.RecordBatch]


@dataclass(frozen=True, slots=True)
class _Fault:
    """Values of one column that cannot be stored: where, and why. ``texts`` is None where there is no text to show."""

    column: LoadColumn
    bad: Mask
    reason: str
    texts: pa.Array | None


class Transformer:
    """Turns parsed rows into rows of the load's columns, in their order and of their types.

    ``constants`` fills the placeholders of ``value`` columns except ``{record_number}``. Safe to share
    between threads.
    """

    def __init__(
        self,
        columns: Sequence[LoadColumn],
        constants: Mapping[str, str],
        *,
        key: Sequence[str] = (),
        hook: Hook | None = None,
        filter: Filter | None = None,
    ) -> None:
        self._columns = columns
        self._constants = constants
        self._key = frozenset(key)
        self._hook = hook
        self._filter = filter
        self._defaults = {column.name: typed_default(column) for column in columns if column.default is not None}

    def transform(self, rows: Rows) -> Rows:
        """The rows to be stored; the rejects and the filtered count include those of this stage.

        Raises TransformError where the hook fails.
        """
        faults: list[_Fault] = []
        made_columns = [self._column(column, rows, faults) for column in self._columns]
        batch = pa.RecordBatch.from_arrays(made_columns, schema=schema_of(self._columns))
        made = Rows(rows.block, batch, rows.index, rows.rejects)
        if faults:
            made = _set_aside(made, faults)
        if self._hook is not None and made.batch.num_rows:
            made = Rows(made.block, self._hook(made.batch), made.index, made.rejects)
        return made if self._filter is None else _filtered(made, self._filter)

    def _column(self, column: LoadColumn, rows: Rows, faults: list[_Fault]) -> pa.Array:
        given = self._value(column, rows) if column.value is not None else rows.batch.column(column.name)
        texts = None
        if pa.types.is_binary(given.type):
            given, bad = decode(given)
            _note(faults, column, bad, "invalid_encoding", rows.batch.column(column.name))
            _note(faults, column, has_nul(given), "nul_byte", given)
        if pa.types.is_string(given.type):
            texts, array = self._from_text(column, given, faults)
        else:
            array = _filled(given, self._defaults[column.name]) if column.name in self._defaults else given
        if column.type.max_length is not None:
            _note(faults, column, ~fits(array, column.type), "value_too_long", texts)
        if array.null_count and (column.not_null or column.name in self._key):
            missing = arrays.mask(array.is_null())
            _note(faults, column, missing, "null_value" if column.not_null else "null_key", None)
        return array

    def _from_text(self, column: LoadColumn, texts: pa.Array, faults: list[_Fault]) -> tuple[pa.Array, pa.Array]:
        texts = apply_chain(column.steps, texts)
        if column.default is not None:
            texts = _filled(texts, arrays.text(column.default))
        array, bad = _typed(column, texts)
        _note(faults, column, bad, "invalid_value", texts)
        return texts, array

    def _value(self, column: LoadColumn, rows: Rows) -> pa.Array:
        assert column.value is not None
        pieces: list[pa.Array | pa.Scalar] = []
        for literal, placeholder, _, _ in Formatter().parse(column.value):
            pieces.append(arrays.text(literal))
            if placeholder == "record_number":
                pieces.append(arrays.integers(rows.index + rows.block.record).cast(pa.string()))
            elif placeholder is not None:
                pieces.append(arrays.text(self._constants[placeholder]))
        return pc.binary_join_element_wise(arrays.repeated("", len(rows.index)), *pieces, arrays.text(""))


def typed_default(column: LoadColumn) -> pa.Scalar:
    """``default`` as a value of the column's type, NULL where it is not one."""
    assert column.default is not None
    array, _ = _typed(column, arrays.texts([column.default]))
    return array[0]


def _typed(column: LoadColumn, texts: pa.Array) -> tuple[pa.Array, Mask]:
    if column.format is None:
        return convert(texts, column.type, column.zone)
    from loader.datetimes import localize

    moments, bad = column.format.parse(texts)
    kind = column.type.arrow
    if pa.types.is_timestamp(kind) and kind.tz and moments.type.tz is None:
        moments = localize(moments, column.zone)
    return moments.cast(kind, safe=False), bad


def schema_of(columns: Sequence[LoadColumn]) -> pa.Schema:
    """The schema of the batches that a `Transformer` of ``columns`` makes."""
    return pa.schema([(column.name, column.type.arrow) for column in columns])


def _filled(array: pa.Array, default: pa.Scalar) -> pa.Array:
    return array.fill_null(default) if array.null_count else array


def _note(faults: list[_Fault], column: LoadColumn, bad: Mask, reason: str, texts: pa.Array | None) -> None:
    if bad.any():
        faults.append(_Fault(column, bad, reason, texts))


def _set_aside(rows: Rows, faults: Sequence[_Fault]) -> Rows:
    """Take the records with a fault out of ``rows``; a record with several is rejected for the first."""
    fault_of: npt.NDArray[np.int64] = np.full(len(rows.index), len(faults))
    for number in reversed(range(len(faults))):
        fault_of[faults[number].bad] = number
    rejects = [
        _reject(rows.block, int(rows.index[row]), int(row), faults[fault_of[row]])
        for row in np.flatnonzero(fault_of < len(faults))
    ]
    kept = rows.keep(fault_of == len(faults))
    return Rows(kept.block, kept.batch, kept.index, rows.rejects + tuple(rejects))


SHOWN = 100
"""Characters of a value that a message shows."""


def _reject(block: Block, record: int, row: int, fault: _Fault) -> Reject:
    column, type_name = fault.column, fault.column.type.name
    value = _shown(fault.texts[row].as_py()) if fault.texts is not None else ""
    message = {
        "invalid_value": f"{value} is not a valid {type_name}",
        "invalid_encoding": f"{value} is not valid UTF-8",
        "nul_byte": f"{value} holds a NUL byte",
        "value_too_long": f"{value} is longer than {type_name} allows",
        "null_value": "there is no value, and the column is NOT NULL",
        "null_key": "there is no value, and the key has to have one",
    }[fault.reason]
    return reject(block, record, fault.reason, message, column.name)


def _shown(value: str | bytes | None) -> str:
    text = repr(value)[1:] if isinstance(value, bytes) else repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def _filtered(rows: Rows, filter: Filter) -> Rows:
    kept: npt.NDArray[np.bool_] = arrays.mask(filter(rows.batch))
    if kept.all():
        return rows
    remaining = rows.keep(kept)
    return Rows(remaining.block, remaining.batch, remaining.index, rows.rejects, int((~kept).sum()))
