"""Text → the bytes of PostgreSQL's binary COPY, for types that Arrow has not, all values at once.

Each type has a pattern of the texts that it is surely right about; the rest is the server's to judge (`lane`).
The formats are those of the types' ``send`` functions: numeric_send, uuid_send, byteasend, enum_send, jsonb_send.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from loader.core import arrays
from loader.core.pgtypes import ColumnType
from loader.core.vectors import Mask

_WHOLE = _FRACTION = 20
"""Digits before and after the point of a numeric that is encoded here: five groups of four each."""

NUMERIC = rf"^[+-]?(?:[0-9]{{1,{_WHOLE}}}(?:\.[0-9]{{0,{_FRACTION}}})?|\.[0-9]{{1,{_FRACTION}}})$"
_HEX = "[0-9a-fA-F]"
UUID = rf"^{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}$"
BYTEA = rf"^\\x(?:{_HEX}{{2}})*$"

_PATTERNS = {"numeric": NUMERIC, "uuid": UUID, "bytea": BYTEA}


def has_form(values: pa.Array, type_: ColumnType) -> Mask:
    """Which texts `to_wire` can make the bytes of; NULL counts as one that it can."""
    if type_.wire == "enum":
        known = pc.is_in(values, arrays.texts(type_.labels))
    elif type_.wire in _PATTERNS:
        known = pc.match_substring_regex(values, _PATTERNS[type_.wire])
    else:
        return np.ones(len(values), bool)
    return arrays.mask(pc.or_(pc.fill_null(known, arrays.FALSE), values.is_null()))


def to_wire(values: pa.Array, type_: ColumnType) -> pa.Array:
    """Texts of the right form → an array, shape (n,), whose bytes are the fields of binary COPY."""
    encode = _ENCODERS.get(type_.wire)
    if encode is None or values.null_count == len(values):
        return values
    if not values.null_count:
        return encode(values)
    present = encode(values.drop_null())
    places = pc.if_else(values.is_valid(), _ranks(values), arrays.null(pa.int64()))
    return present.take(places)


def _ranks(values: pa.Array) -> pa.Array:
    """For each value its place among those that are not NULL."""
    return arrays.integers(np.maximum(np.cumsum(arrays.mask(values.is_valid())) - 1, 0))


def _jsonb(values: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(arrays.text("\x01"), values, arrays.text(""))  # the version of the format


def _uuid(values: pa.Array) -> pa.Array:
    _, data = arrays.ends_and_bytes(values)
    digits = _NIBBLE[data.reshape(-1, 36)[:, _UUID_DIGITS]]
    made = np.ascontiguousarray(digits[:, 0::2] << 4 | digits[:, 1::2])
    return pa.Array.from_buffers(pa.binary(16), len(made), [None, pa.py_buffer(made)])


def _bytea(values: pa.Array) -> pa.Array:
    """After ``\\x``, two hexadecimal digits a byte."""
    ends, data = arrays.ends_and_bytes(values)
    is_digit = np.ones(len(data), bool)
    is_digit[ends[:-1]] = is_digit[ends[:-1] + 1] = False
    digits = _NIBBLE[data[is_digit]]
    made = np.ascontiguousarray(digits[0::2] << 4 | digits[1::2])
    bounds = np.ascontiguousarray((ends - 2 * np.arange(len(ends), dtype=np.int32)) // 2, dtype=np.int32)
    return pa.Array.from_buffers(pa.binary(), len(values), [None, pa.py_buffer(bounds), pa.py_buffer(made)])


_UUID_DIGITS = [place for place in range(36) if place not in (8, 13, 18, 23)]
_NIBBLE = np.zeros(256, np.uint8)
for _digit in "0123456789abcdefABCDEF":
    _NIBBLE[ord(_digit)] = int(_digit, 16)


def _numeric(values: pa.Array) -> pa.Array:
    """Groups of four digits around the decimal point; leading and trailing groups of zero are left out."""
    ends, data = arrays.ends_and_bytes(values)
    bounds: npt.NDArray[np.int64] = ends.astype(np.int64)
    starts, stops = bounds[:-1], bounds[1:]
    first = data[starts]
    signed = (first == ord("-")) | (first == ord("+"))
    points = np.full(len(starts), -1, np.int64)
    at = np.flatnonzero(data == ord("."))
    points[np.searchsorted(stops, at, side="right")] = at
    whole_end = np.where(points < 0, stops, points)
    scale = np.where(points < 0, 0, stops - points - 1)
    begin: npt.NDArray[np.int64] = starts + signed
    width = _whole_groups((whole_end - begin).max())
    whole = _groups(data, whole_end - width, begin, whole_end, width)
    fraction = _groups(data, whole_end + 1, whole_end + 1, stops, _whole_groups(scale.max()))
    digits = np.concatenate((whole, fraction), axis=1)
    return _numeric_bytes(digits, scale, width // 4, negative=first == ord("-"))


def _whole_groups(digits: int) -> int:
    """So many digits, rounded up to groups of four."""
    return int(digits + 3) // 4 * 4


def _groups(
    data: npt.NDArray[np.uint8],
    begin: npt.NDArray[np.int64],
    lower: npt.NDArray[np.int64],
    upper: npt.NDArray[np.int64],
    width: int,
) -> npt.NDArray[np.int16]:
    """``width`` digits from ``begin`` on in groups of four, shape (n, width / 4); outside of [lower, upper) are 0."""
    places = begin[:, None] + np.arange(width)
    inside = (places >= lower[:, None]) & (places < upper[:, None])
    digits = np.where(inside, data[np.clip(places, 0, len(data) - 1)] - np.uint8(ord("0")), 0).astype(np.int16)
    by_four = digits.reshape(len(begin), width // 4, 4)
    made: npt.NDArray[np.int16] = (by_four @ np.array([1000, 100, 10, 1], np.int16)).astype(np.int16)
    return made


def _numeric_bytes(
    digits: npt.NDArray[np.int16], scale: npt.NDArray[np.int64], before_point: int, *, negative: Mask
) -> pa.Array:
    """numeric_send's fields: number of groups, weight of the first, sign, scale, and the groups."""
    count = digits.shape[1]
    there = digits != 0
    some = there.any(axis=1)
    first = np.where(some, there.argmax(axis=1), 0) if count else np.zeros(len(digits), np.int64)
    last = np.where(some, count - 1 - there[:, ::-1].argmax(axis=1), -1) if count else first - 1
    fields = np.empty((len(digits), 4 + count), ">i2")
    fields[:, 0] = last - first + 1
    fields[:, 1] = np.where(some, before_point - 1 - first, 0)
    fields[:, 2] = np.where(negative & some, 0x4000, 0)
    fields[:, 3] = scale
    fields[:, 4:] = digits
    kept = np.ones(fields.shape, bool)
    place = np.arange(count)
    kept[:, 4:] = (place >= first[:, None]) & (place <= last[:, None])
    ends = np.concatenate(([0], np.cumsum(kept.sum(axis=1) * 2))).astype(np.int32)
    return pa.Array.from_buffers(
        pa.binary(), len(digits), [None, pa.py_buffer(ends), pa.py_buffer(fields[kept].tobytes())]
    )


_ENCODERS: dict[str, Callable[[pa.Array], pa.Array]] = {
    "numeric": _numeric,
    "uuid": _uuid,
    "bytea": _bytea,
    "jsonb": _jsonb,
}
