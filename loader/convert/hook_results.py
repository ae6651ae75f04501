"""What a hook gives back for a column → values of the column's type, or texts for PostgreSQL to judge.

Arrow values stay typed where each is surely a value of the column's PostgreSQL type. All others become the texts that
a file would hold for them, and go the way of a file's texts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from loader.convert.values import is_surely_right
from loader.core import arrays
from loader.core.datetime_texts import A_DAY, FIRST_DAY, LAST_DAY, moment_texts
from loader.core.pgtypes import ColumnType, Form


class UnfitError(Exception):
    """No value of this Arrow type can be spelt as a text of this PostgreSQL type."""


def as_given(values: pa.Array, type_: ColumnType) -> pa.Array:
    """``values`` of any Arrow type, shape (n,), as an array of ``type_.arrow`` where each is surely right.

    Else their texts, as strings or as the UTF-8 that they should be. Raises UnfitError.
    """
    values = _plain(values)
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), type_.arrow)
    if type_.form != "text" and not pa.types.is_string(values.type):
        try:
            typed = _typed(values, type_)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # a value does not fit, or there is no such cast
            typed = None
        if typed is not None and _is_sure(typed):
            return typed
    return _spelled(values, type_)


def _plain(values: pa.Array) -> pa.Array:
    """Without what changes only how values are stored: dictionaries, runs, views, 64-bit offsets, extension types."""
    while True:
        kind = values.type
        if isinstance(kind, pa.BaseExtensionType):
            values = values.storage
        elif pa.types.is_dictionary(kind):
            values = values.dictionary_decode()
        elif pa.types.is_run_end_encoded(kind):
            values = pc.run_end_decode(values)
        elif pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            values = values.cast(pa.string())
        elif pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
            values = values.cast(pa.binary())
        else:
            return values


# --- typed


def _typed(values: pa.Array, type_: ColumnType) -> pa.Array | None:
    """The values by Arrow's casts that lose nothing; None where PostgreSQL would read their text otherwise.

    Raises ArrowInvalid or ArrowNotImplementedError where Arrow cannot cast them.
    """
    kind, wanted = values.type, type_.arrow
    if type_.form in ("float32", "float64"):
        return _as_floats(values, wanted)
    if type_.form in ("date", "timestamp"):
        return _as_local(values, wanted)
    return values.cast(wanted) if any(is_kind(kind) for is_kind in _CAST[type_.form]) else None


def _is_zoned(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) and kind.tz is not None


_WHOLE = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
_CAST: dict[Form, tuple[Callable[[pa.DataType], bool], ...]] = {
    "int16": _WHOLE,
    "int32": _WHOLE,
    "int64": _WHOLE,
    "decimal": (pa.types.is_integer, pa.types.is_decimal),
    "bool": (pa.types.is_boolean,),
    "time": (pa.types.is_time,),
    "timestamptz": (_is_zoned,),
}
"""Of which Arrow types a cast is tried, by what it is to make. It refuses what it would have to round or cut."""


def _as_local(values: pa.Array, wanted: pa.DataType) -> pa.Array | None:
    """As date, which takes the day of a time, or as timestamp."""
    if not (pa.types.is_date(values.type) or pa.types.is_timestamp(values.type)):
        return None
    return _local(values).cast(wanted, safe=not pa.types.is_date(wanted))


def _as_floats(values: pa.Array, wanted: pa.DataType) -> pa.Array | None:
    kind = values.type
    if pa.types.is_integer(kind):
        return values.cast(wanted)
    if not pa.types.is_floating(kind):
        return None
    made = values.cast(wanted)
    zero, zero_before = arrays.integer(0).cast(wanted), arrays.integer(0).cast(pa.float64())
    before = values.cast(pa.float64())
    same = pc.and_(
        pc.equal(pc.is_inf(made), pc.is_inf(before)), pc.equal(pc.equal(made, zero), pc.equal(before, zero_before))
    )
    return made if pc.all(same, min_count=0).as_py() else None  # else one overflowed or vanished


def _local(values: pa.Array) -> pa.Array:
    """Times with a zone as the clock shows them there: the types without one ignore the zone of a text."""
    kind = values.type
    return pc.local_timestamp(values) if pa.types.is_timestamp(kind) and kind.tz is not None else values


def _is_sure(values: pa.Array) -> bool:
    """Whether each is within what both Arrow and PostgreSQL spell alike: the years 1 to 9999, a decimal's digits."""
    kind = values.type
    if pa.types.is_decimal(kind):
        return is_surely_right(values, np.empty(0, np.uint8))
    if pa.types.is_date(kind):
        return _within(values.cast(pa.int32()), FIRST_DAY, LAST_DAY)
    if pa.types.is_timestamp(kind):
        return _within(values.cast(pa.int64()), FIRST_DAY * A_DAY, (LAST_DAY + 1) * A_DAY - 1)
    if pa.types.is_time(kind):
        return _within(values.cast(pa.int64()), 0, A_DAY - 1)
    return True


def _within(numbers: pa.Array, least: int, most: int) -> bool:
    found = pc.min_max(numbers).as_py()
    return found["min"] is None or (found["min"] >= least and found["max"] <= most)


# --- as texts


def _spelled(values: pa.Array, type_: ColumnType) -> pa.Array:
    """The texts of ``values``, as PostgreSQL reads them for ``type_``. Raises UnfitError."""
    for is_kind, spell in _SPELLINGS:
        if is_kind(values.type):
            return spell(values, type_)
    raise UnfitError


def _spelled_alike(values: pa.Array, _type: ColumnType) -> pa.Array:
    """Arrow's own text, which is PostgreSQL's as well."""
    return values.cast(pa.string())


def _spelled_floats(values: pa.Array, _type: ColumnType) -> pa.Array:
    known = arrays.mask(values.is_valid())
    pairs = zip(arrays.numbers(values), known, strict=True)
    return arrays.nullable_texts(float_text(number) if there else None for number, there in pairs)


_UNITS = {"s": " seconds", "ms": " milliseconds", "us": " microseconds"}


def _spelled_durations(values: pa.Array, _type: ColumnType) -> pa.Array:
    numbers, unit = values.cast(pa.int64()), values.type.unit
    if unit == "ns":
        return arrays.nullable_texts(None if each is None else span_text(each) for each in numbers.to_pylist())
    return pc.binary_join_element_wise(numbers.cast(pa.string()), arrays.text(_UNITS[unit]), _NOTHING)


def _spelled_intervals(values: pa.Array, _type: ColumnType) -> pa.Array:
    spans = values.to_pylist()
    return arrays.nullable_texts(
        None if each is None else f"{each.months} months {each.days} days {span_text(each.nanoseconds)}"
        for each in spans
    )


def span_text(nanoseconds: int) -> str:
    """A span of time as PostgreSQL's interval reads it."""
    whole, rest = divmod(abs(nanoseconds), 10**9)
    return f"{'-' if nanoseconds < 0 else ''}{whole}.{rest:09} seconds"


_NOTHING = arrays.text("")


def float_text(value: float | np.floating[Any]) -> str:
    """The shortest decimal that is read as the same number; a whole number without point and exponent up to 10^18."""
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    if number.is_integer() and abs(number) < 1e18:
        return f"{number:.0f}"
    return str(value)


def _spelled_bytes(values: pa.Array, type_: ColumnType) -> pa.Array:
    """Bytes for ``bytea`` and ``uuid``; for texts, the UTF-8 that they should be."""
    if type_.name == "bytea":
        return arrays.nullable_texts(None if value is None else f"\\x{value.hex()}" for value in values.to_pylist())
    if type_.wire == "uuid" and pa.types.is_fixed_size_binary(values.type) and values.type.byte_width == 16:
        return arrays.nullable_texts(None if value is None else str(UUID(bytes=value)) for value in values.to_pylist())
    if type_.wire == "server":
        raise UnfitError
    return values.cast(pa.binary())


def _spelled_moments(values: pa.Array, type_: ColumnType) -> pa.Array:
    """A zone is part of the text, as UTC, where the type heeds it."""
    if type_.form in ("date", "timestamp", "time"):
        values = _local(values)
    return moment_texts(values)


# --- nested


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def _spelled_nested(values: pa.Array, type_: ColumnType) -> pa.Array:
    """Lists for an array, anything for JSON. Raises UnfitError."""
    if type_.wire in ("json", "jsonb") or type_.name in ("json", "jsonb"):
        try:
            return arrays.nullable_texts(
                None if value is None else _json(value) for value in values.to_pylist(maps_as_pydicts="strict")
            )
        except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise UnfitError from error
    if type_.name.endswith("[]") and _is_list(values.type):
        element = ColumnType(type_.name.removesuffix("[]"), "text", "server")
        return arrays.nullable_texts(_array_texts(values, element))
    raise UnfitError


def _json(value: object) -> str:
    """As JSON, decimals with all of their digits. Raises TypeError for what JSON has not, such as bytes."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_json(str(name))}: {_json(each)}' for name, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_json, value))}]"
    if isinstance(value, Decimal):
        return str(value)
    return json.dumps(str(value) if isinstance(value, _SPELT_IN_JSON) else value, ensure_ascii=False)


_SPELT_IN_JSON = (date, time, timedelta, UUID)


def _array_texts(values: pa.Array, element: ColumnType) -> Iterator[str | None]:
    """Lists as PostgreSQL's arrays (manual, 8.15.6). Raises UnfitError."""
    parts = _plain(values.flatten())
    nested = _is_list(parts.type)
    if nested:
        spelled: list[str | None] = list(_array_texts(parts, element))
    elif pa.types.is_null(parts.type):
        spelled = [None] * len(parts)
    else:
        spelled = [None if text is None else _quoted(text) for text in _element_texts(parts, element)]
    at = 0
    for length in pc.if_else(values.is_valid(), pc.list_value_length(values), arrays.null(pa.int64())).to_pylist():
        if length is None:
            yield None
            continue
        yield "{" + ",".join("NULL" if each is None else each for each in spelled[at : at + length]) + "}"
        at += length


def _element_texts(parts: pa.Array, element: ColumnType) -> list[str | None]:
    texts = _spelled(parts, element)
    if pa.types.is_binary(texts.type):
        raise UnfitError
    listed: list[str | None] = texts.to_pylist()
    return listed


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_SPELLINGS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array, ColumnType], pa.Array]], ...] = (
    (pa.types.is_string, _spelled_alike),
    (pa.types.is_boolean, _spelled_alike),
    (pa.types.is_integer, _spelled_alike),
    (pa.types.is_decimal, _spelled_alike),
    (pa.types.is_time, _spelled_alike),
    (pa.types.is_floating, _spelled_floats),
    (pa.types.is_date, _spelled_moments),
    (pa.types.is_timestamp, _spelled_moments),
    (pa.types.is_duration, _spelled_durations),
    (pa.types.is_interval, _spelled_intervals),
    (pa.types.is_binary, _spelled_bytes),
    (pa.types.is_fixed_size_binary, _spelled_bytes),
    (_is_list, _spelled_nested),
    (pa.types.is_struct, _spelled_nested),
    (pa.types.is_map, _spelled_nested),
)
