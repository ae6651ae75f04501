"""Rows as parsed → rows as the table wants them, column by column and all values at once.

The order for a column: null texts (already NULL), its ``transform`` chain, ``default``, then ``format`` or the
type's own rules, then NOT NULL and length. For the record: the hook, whose values are judged in turn, then the
filter. A text that the client cannot convert makes its record doubtful, for the server to judge, and never touches its
neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from string import Formatter
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from loader.convert.column_mapping import WidenColumn
from loader.convert.hook_results import UnfitError, as_given
from loader.convert.rows import Doubtful, Rows
from loader.convert.steps import apply_chain
from loader.convert.values import convert, decode, fits, has_nul
from loader.core import arrays
from loader.core.display import shown
from loader.core.errors import TransformError
from loader.core.spec.datetimes import FIXED_ZONES, Zones
from loader.core.vectors import Mask
from loader.postgres.load_column import LoadColumn
from loader.records.block import Block, first_invalid_byte, reject_each
from loader.records.rejects import RejectGroup, Rejects

if TYPE_CHECKING:
    from loader.convert.hooks import Hook
    from loader.core.spec.filter import Condition
    from loader.core.spec.filter import Mask as Filter


@dataclass(frozen=True, slots=True)
class _Fault:
    """Values of one column that cannot be stored: where, and why. ``texts`` is None where there is no text to show."""

    column: LoadColumn
    bad: Mask
    reason: str
    texts: pa.Array | None


@dataclass(frozen=True, slots=True)
class _Made:
    """A column's values. ``doubtful``: those whose ``texts`` the client could not convert, NULL in ``array``."""

    array: pa.Array
    texts: pa.Array | None = None
    doubtful: Mask | None = None


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
        zones: Zones = FIXED_ZONES,
    ) -> None:
        self._columns = columns
        self._constants = constants
        self._key = frozenset(key)
        self._hook = hook
        self._filter = filter
        self._zones = zones

    @property
    def hooks(self) -> bool:
        """Whether a hook wants to see the records."""
        return self._hook is not None

    def convert(self, rows: Rows) -> Rows:
        """The rows as values of their columns' types.

        Records that PostgreSQL is sure to refuse are among the rejects; records with a text that only it can
        judge are among the doubtful.
        """
        faults: list[_Fault] = []
        made = [self._column(column, rows, faults) for column in self._columns]
        return self._settled(rows, made, faults)

    def hooked(self, rows: Rows) -> Rows:
        """The rows as the hook gives them back, each value judged as one of the file is.

        There are no doubtful ones among ``rows``, but there may be afterwards. Raises TransformError.
        """
        if self._hook is None or not rows.batch.num_rows:
            return rows
        given = self._hook(rows.batch, rows.block.numbers(rows.index))
        faults: list[_Fault] = []
        made = [
            self._given(column, values, faults) for column, values in zip(self._columns, given.columns, strict=True)
        ]
        return self._settled(rows, made, faults)

    def _settled(self, rows: Rows, made: Sequence[_Made], faults: list[_Fault]) -> Rows:
        """The rows with the values that were ``made``, without those that have ``faults`` or are doubtful."""
        batch = pa.RecordBatch.from_arrays([each.array for each in made], schema=schema_of(self._columns))
        converted = replace(rows, batch=batch)
        doubtful = [each.doubtful for each in made if each.doubtful is not None and each.doubtful.any()]
        if not faults and not doubtful:
            return converted
        asked: Mask = np.zeros(len(rows.index), bool)
        for mask in doubtful:
            asked |= mask
        # the server, who is asked anyway, will also say that a text is too long, and which column it minds first
        faults = [replace(each, bad=each.bad & ~asked) if each.reason == "value_too_long" else each for each in faults]
        refused: Mask = np.zeros(len(rows.index), bool)
        for fault in faults:
            refused |= fault.bad
        asked &= ~refused
        kept = converted.keep(~(refused | asked))
        return replace(
            kept,
            rejects=rows.rejects + _rejects(converted, faults),
            doubtful=_doubtful(made, self._columns, rows.index, asked) if asked.any() else None,
        )

    def finish(self, rows: Rows) -> Rows:
        """The rows that the filter keeps.

        Those of which it is not sure are among the doubtful: the server applies it to them.
        """
        return rows if self._filter is None else _filtered(rows, self._filter)

    def _column(self, column: LoadColumn, rows: Rows, faults: list[_Fault]) -> _Made:
        given = self._value(column, rows) if column.value is not None else rows.batch.column(column.name)
        if pa.types.is_binary(given.type):
            given, bad = decode(given)
            _note(faults, column, bad, "invalid_encoding", rows.batch.column(column.name))
            _note(faults, column, has_nul(given), "nul_byte", given)
        made = self._from_text(column, given, faults) if pa.types.is_string(given.type) else _Made(given)
        return self._checked(column, made, faults)

    def _given(self, column: LoadColumn, values: pa.Array, faults: list[_Fault]) -> _Made:
        """What a hook gave back for a column. Raises TransformError."""
        try:
            given = as_given(values, column.type)
        except UnfitError as error:
            assert self._hook is not None
            raise TransformError(
                f'the hook "{self._hook.name}" returned {values.type} for "{column.name}", which is {column.type.name}'
            ) from error
        made = _Made(given)
        if pa.types.is_string(given.type) or pa.types.is_binary(given.type):
            raw = given.cast(pa.binary())
            texts, bad = decode(raw)
            _note(faults, column, bad, "invalid_encoding", raw)
            _note(faults, column, has_nul(texts), "nul_byte", texts)
            array, odd = convert(texts, column.type, column.zone, self._zones)
            made = _Made(array, texts, odd)
        return self._checked(column, made, faults)

    def _checked(self, column: LoadColumn, made: _Made, faults: list[_Fault]) -> _Made:
        """Note values that are too long, or missing where there must be one."""
        if column.type.max_length is not None:
            _note(faults, column, ~fits(made.array, column.type), "value_too_long", made.texts)
        if made.array.null_count and (column.not_null or column.name in self._key):
            missing = arrays.mask(made.array.is_null())
            if made.doubtful is not None:
                missing &= ~made.doubtful
            _note(faults, column, missing, "null_value" if column.not_null else "null_key", None)
        return made

    def _from_text(self, column: LoadColumn, texts: pa.Array, faults: list[_Fault]) -> _Made:
        texts = apply_chain(column.steps, texts)
        if column.default is not None:
            texts = _filled(texts, arrays.text(column.default))
        array, bad = typed(column, texts, self._zones)
        if column.pattern is not None:
            odd = ~arrays.mask(pc.fill_null(pc.match_substring_regex(texts, column.pattern), arrays.TRUE))
            if not pa.types.is_string(array.type):  # numeric, uuid: the server makes what the client cannot
                odd |= bad
            if odd.any():
                raise WidenColumn(column.name, texts.filter(arrays.booleans(odd)))
        if column.format is None:
            return _Made(array, texts, bad)
        _note(faults, column, bad, "invalid_value", texts)  # a format is the client's: nobody else can judge it
        return _Made(array)

    def _value(self, column: LoadColumn, rows: Rows) -> pa.Array:
        assert column.value is not None
        pieces: list[pa.Array | pa.Scalar] = []
        for literal, placeholder, _, _ in Formatter().parse(column.value):
            pieces.append(arrays.text(literal))
            if placeholder == "record_number":
                pieces.append(arrays.integers(rows.block.numbers(rows.index)).cast(pa.string()))
            elif placeholder is not None:
                pieces.append(arrays.text(self._constants[placeholder]))
        return pc.binary_join_element_wise(arrays.repeated("", len(rows.index)), *pieces, arrays.text(""))


def typed(column: LoadColumn, texts: pa.Array, zones: Zones) -> tuple[pa.Array, Mask]:
    """Texts as values of the column's type, and which of them the client is not sure of."""
    if column.format is None:
        return convert(texts, column.type, column.zone, zones)
    moments, bad = column.format.parse(texts)
    kind = column.type.arrow
    if pa.types.is_timestamp(kind) and kind.tz and moments.type.tz is None:
        moments = zones.localize(moments, column.zone)
    return moments.cast(kind, safe=False), bad


def bind_filter(condition: Condition, columns: Sequence[LoadColumn], *, zone: str, zones: Zones) -> Filter:
    """The condition over the batches of ``columns``. Raises as `Condition.bind` does."""
    types = {column.name: column.type for column in columns}
    return condition.bind(schema_of(columns), zone=zone, zones=zones, types=types)


def schema_of(columns: Sequence[LoadColumn]) -> pa.Schema:
    """The schema of the batches that a `Transformer` of ``columns`` makes."""
    return pa.schema([(column.name, column.type.arrow) for column in columns])


def _filled(array: pa.Array, default: pa.Scalar) -> pa.Array:
    return array.fill_null(default) if array.null_count else array


def _note(faults: list[_Fault], column: LoadColumn, bad: Mask, reason: str, texts: pa.Array | None) -> None:
    if bad.any():
        faults.append(_Fault(column, bad, reason, texts))


def _rejects(rows: Rows, faults: Sequence[_Fault]) -> Rejects:
    """The records with a fault; one with several is rejected for the first."""
    seen: Mask = np.zeros(len(rows.index), bool)
    groups = []
    for fault in faults:
        groups.append(_group(rows, fault, np.flatnonzero(fault.bad & ~seen)))
        seen |= fault.bad
    return Rejects(groups)


def _doubtful(
    made: Sequence[_Made], columns: Sequence[LoadColumn], index: npt.NDArray[np.int64], asked: Mask
) -> Doubtful:
    chosen = arrays.booleans(asked)
    values = [(each.array if each.texts is None else each.texts).filter(chosen) for each in made]
    suspects = [
        column.name
        for column, each in zip(columns, made, strict=True)
        if each.doubtful is not None and each.doubtful.any()
    ]
    return Doubtful.of(values, [column.name for column in columns], index[asked], suspects=suspects)


def _group(rows: Rows, fault: _Fault, bad: npt.NDArray[np.int64]) -> RejectGroup:
    """The rejects of the rows ``bad``. Their messages are made only of those that are kept."""
    block, index, type_name = rows.block, rows.index[bad], fault.column.type.name

    def message(number: int) -> str:
        value = shown(fault.texts[int(bad[number])].as_py()) if fault.texts is not None else ""
        where = _where(block, int(index[number])) if fault.reason == "invalid_encoding" else ""
        return {
            "invalid_value": f"{value} is not a valid {type_name}",
            "invalid_encoding": f"{value} is not valid{where}",
            "nul_byte": f"{value} holds a NUL byte",
            "value_too_long": f"{value} is longer than {type_name} allows",
            "null_value": "there is no value, and the column is NOT NULL",
            "null_key": "there is no value, and the key has to have one",
        }[fault.reason]

    return reject_each(block, index, fault.reason, message, fault.column.name)


def _where(block: Block, record: int) -> str:
    """The place of a record's first byte that is not UTF-8, in the file's text."""
    block, record = block.whence(record)
    invalid = first_invalid_byte(block.raw(record))
    if invalid is None:
        return " UTF-8"
    kind = "in the file's encoding" if block.dialect.transcoded else "UTF-8"
    return f" {kind} at byte {block.offset + int(block.starts[record]) + invalid}"


def _filtered(rows: Rows, filter: Filter) -> Rows:
    kept, unsure = filter.judge(rows.batch)
    if unsure.any():
        sure = ~unsure
        rows, kept = rows.doubt(unsure), kept[sure]
    if kept.all():
        return rows
    return replace(rows.keep(kept), filtered=rows.filtered + int((~kept).sum()))
