"""Text → typed arrays, and which values did not convert.

`convert` is exact about what it takes: every text that it accepts means the same to PostgreSQL. Where Arrow's
own parser is laxer than PostgreSQL (hexadecimal that wraps, ``1e400``, the year 0, an hour without
minutes) a pattern stands before it; where it is stricter, the value is reported as not converted, never
guessed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from loader.convert import binary_values
from loader.core import arrays
from loader.core.arrays import mask
from loader.core.datetime_texts import FIRST_DAY
from loader.core.pgtypes import ColumnType
from loader.core.spec.datetimes import FIXED_ZONES, Zones, redefines_utc
from loader.core.vectors import Mask

Bytes = npt.NDArray[np.uint8]
Converted = tuple[pa.Array, Mask]
"""The typed array, NULL where a value did not convert, and the mask of those values, both of shape (n,)."""

# PostgreSQL's boolean: any unique prefix of these words, in any case (manual, 8.6)
TRUE_TEXTS = ("t", "tr", "tru", "true", "y", "ye", "yes", "on", "1")
FALSE_TEXTS = ("f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0")

_BLANKS = " \t\n\v\f\r"  # what isspace() is to PostgreSQL's input functions
_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_CLOCK = r"[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?"
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_OFFSET = r"(?:Z|[+-](?:0[0-9]|1[0-5])(?::?[0-5][0-9])?)"  # PostgreSQL refuses displacements of 16 hours and more

INTEGER = r"^[+-]?[0-9]+$"
FLOAT = rf"^[+-]?(?:{_NUMBER}|(?i:inf|infinity|nan))$"
DATE = rf"^{_DAY}$"
TIME = rf"^{_CLOCK}$"
TIMESTAMP = rf"^{_DAY}(?:[ T]{_CLOCK})?$"
TIMESTAMP_WITH_OFFSET = rf"^{_DAY}[ T]{_CLOCK}{_OFFSET}$"


def decode(values: pa.Array) -> Converted:
    """Binary → text: bytes that are not valid UTF-8 do not convert."""
    if not pa.types.is_binary(values.type):
        return values, np.zeros(len(values), bool)
    try:
        return values.cast(pa.string()), np.zeros(len(values), bool)
    except pa.ArrowInvalid:
        pass
    # value by value, as halving would cost an array for each where a hundred thousand are bad
    bad = np.fromiter((value is not None and not _is_text(value) for value in values.to_pylist()), bool, len(values))
    return pc.if_else(arrays.booleans(bad), arrays.null(values.type), values).cast(pa.string()), bad


def _is_text(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def has_nul(values: pa.Array) -> Mask:
    """Texts that hold a NUL, which PostgreSQL's text cannot."""
    if arrays.ends_and_bytes(values)[1].all():
        return np.zeros(len(values), bool)
    return mask(pc.match_substring(values, "\0"))


def convert(values: pa.Array, type_: ColumnType, zone: str = "UTC", zones: Zones = FIXED_ZONES) -> Converted:
    """Text → ``type_``. ``zone``, one of ``zones``, is where a timestamptz without an offset is."""
    if pa.types.is_string(type_.arrow):
        return values, ~binary_values.has_form(values, type_)
    if (at_once := _at_once(values, type_.arrow)) is not None:
        return at_once, np.zeros(len(values), bool)
    trimmed = pc.utf8_trim(values, characters=_BLANKS)
    if type_.form == "timestamptz":
        return _timestamptz(trimmed, zone, zones)
    return _CONVERTERS[type_.arrow.id](trimmed, type_.arrow)


def _at_once(values: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """All values as Arrow has them, where it takes every one and is surely right: the fast way."""
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind) or pa.types.is_boolean(kind):
        return None
    data = arrays.ends_and_bytes(values)[1]
    if may_mislead(kind, data):
        return None
    try:
        array = values.cast(kind)
    except pa.ArrowInvalid:
        return None
    return array if is_surely_right(array, data) else None


def may_mislead(kind: pa.DataType, data: Bytes) -> bool:
    """Whether ``data`` holds what Arrow makes values of ``kind`` of that PostgreSQL would not."""
    if pa.types.is_integer(kind):
        return _may_hold_hexadecimal(data)
    return pa.types.is_decimal(kind) and _may_hold_odd_decimals(data)


def fits(values: pa.Array, type_: ColumnType) -> Mask:
    """Texts within the length of ``varchar(n)`` or ``char(n)``; blanks past it are cut off, as PostgreSQL does."""
    if not len(values):
        return np.ones(0, bool)
    ends, _ = arrays.ends_and_bytes(values)
    if np.diff(ends).max(initial=0) <= (type_.max_length or 0):  # in bytes: there is nothing to count
        return np.ones(len(values), bool)
    limit = arrays.integer(type_.max_length or 0, pa.int32())
    too_long = mask(pc.greater(pc.utf8_length(values), limit))
    if too_long.any():
        too_long = mask(pc.greater(pc.utf8_length(pc.utf8_rtrim(values, characters=" ")), limit))
    return ~too_long


def is_surely_right(values: pa.Array, data: Bytes) -> bool:
    """Whether what Arrow's CSV reader made of the column, in a block of the bytes ``data``, is what PostgreSQL would.

    A cheap look at the typed values; False sends the column the careful way, by its text.
    """
    kind = values.type
    if pa.types.is_floating(kind):
        return not _may_be_out_of_range(values, data)
    if pa.types.is_decimal(kind):
        return _within_precision(values)
    if pa.types.is_date(kind):
        return _after_year_zero(values)
    return True


def _may_hold_hexadecimal(view: Bytes) -> bool:
    """Whether ``0x`` stands anywhere: Arrow's integers take it, and wrap around where it is too long.

    Two comparisons a byte, vectorised: bytes.find takes five times as long where digits are common.
    """
    return bool(((view[:-1] == ord("0")) & (view[1:] | 0x20 == ord("x"))).any())


def _may_hold_odd_decimals(view: Bytes) -> bool:
    """Whether there is an exponent or a run of 15 digits: there Arrow's decimals may wrap around (pyarrow 26).

    Of 15 digits in a row, eight fill an aligned word, so words are looked at and not runs.
    """
    if (_are_digits(view[: len(view) // 8 * 8]).view(np.uint64) == 0x0101010101010101).any():
        return True
    behind_number = view[:-1] - np.uint8(ord(".")) < 12  # and "/", which stands between
    behind_number &= view[1:] | 0x20 == ord("e")
    following = view[np.flatnonzero(behind_number[:-1]) + 2]
    return bool((_are_digits(following) | (following == ord("-")) | (following == ord("+"))).any())


def _are_digits(view: Bytes) -> Mask:
    digits: Mask = view - np.uint8(ord("0")) < 10
    return digits


def _within_precision(values: pa.Array) -> bool:
    """The CSV reader lets a number of more digits than the type has pass."""
    limit = 10**values.type.precision
    words = np.frombuffer(values.buffers()[1], np.int64).reshape(-1, 2)[values.offset : values.offset + len(values)]
    if limit < 1 << 63:
        low, high = words[:, 0], words[:, 1]
        fits = ((high == 0) & (low >= 0) & (low < limit)) | ((high == -1) & (low < 0) & (low > -limit))
        return bool((fits | ~arrays.mask(values.is_valid())).all()) if values.null_count else bool(fits.all())
    bounds = pc.min_max(values).as_py()
    return all(each is None or abs(each.scaleb(values.type.scale)) < limit for each in bounds.values())


def _may_be_out_of_range(values: pa.Array, view: Bytes) -> bool:
    """Whether a number overflowed, or one that is not 0 may have become 0: it has a negative exponent, or a run of more
    zeros than a word has twice (44 at least for ``real``), so that an aligned word is all zeros."""
    known = arrays.numbers(values.drop_null())
    if np.isinf(known).any():
        return True
    if not (known == 0).any():
        return False
    if ((view[:-1] | 0x20 == ord("e")) & (view[1:] == ord("-"))).any():
        return True
    return bool((view[: len(view) // 8 * 8].view(np.uint64) == _EIGHT_ZEROS).any())


_EIGHT_ZEROS = int.from_bytes(b"0" * 8, "little")


def _after_year_zero(values: pa.Array) -> bool:
    earliest = pc.min(values).cast(pa.int32()).as_py()
    return earliest is None or earliest >= FIRST_DAY


def _integer(values: pa.Array, kind: pa.DataType) -> Converted:
    return _shaped(values, INTEGER, lambda texts: _cast(pc.utf8_ltrim(texts, characters="+"), kind))


def _decimal(values: pa.Array, kind: pa.DataType) -> Converted:
    return _shaped(values, decimal_pattern(kind.precision, kind.scale), lambda texts: _cast(texts, kind))


def decimal_pattern(precision: int, scale: int) -> str:
    """Texts with no more digits than the type has: Arrow wraps around for many of the others, and says nothing."""
    fraction = rf"[0-9]{{1,{scale}}}" if scale else "0"
    whole = rf"[0-9]{{1,{precision - scale}}}" if precision > scale else "0"
    return rf"^[+-]?(?:{whole}(?:\.(?:{fraction})?)?|\.{fraction})$"


def _float(values: pa.Array, kind: pa.DataType) -> Converted:
    return _shaped(values, FLOAT, lambda texts: _float_in_range(pc.utf8_ltrim(texts, characters="+"), kind))


def _float_in_range(texts: pa.Array, kind: pa.DataType) -> Converted:
    """PostgreSQL refuses what overflows to infinity or underflows to zero (manual, 8.1.3)."""
    values, bad = _cast(texts, kind)
    zero = arrays.integer(0).cast(kind)
    overflowed = pc.and_(pc.is_inf(values), pc.match_substring_regex(texts, "[0-9]"))
    underflowed = pc.and_(pc.equal(values, zero), pc.match_substring_regex(texts, "^-?[0.]*[1-9]"))
    return _without(values, bad | mask(overflowed) | mask(underflowed))


def _boolean(values: pa.Array, _kind: pa.DataType) -> Converted:
    lowered = pc.utf8_lower(values)
    true = pc.is_in(lowered, arrays.texts(TRUE_TEXTS))
    false = pc.is_in(lowered, arrays.texts(FALSE_TEXTS))
    known = pc.or_(true, false)
    return pc.if_else(known, true, arrays.null(pa.bool_())), ~mask(known) & mask(values.is_valid())


def _date(values: pa.Array, kind: pa.DataType) -> Converted:
    there = arrays.mask(values.is_valid())
    days = there & (np.diff(arrays.ends_and_bytes(values)[0]) == len("2024-01-05"))
    days[days] = _are_days(values.filter(arrays.booleans(days)))
    texts = values if days.all() else pc.if_else(arrays.booleans(days), values, arrays.null(pa.string()))
    return texts.cast(kind), there & ~days


def _are_days(texts: pa.Array) -> Mask:
    """Which texts of ten bytes are days of the calendar, as `DATE` has them; Arrow would only say that not all are."""
    view = arrays.ends_and_bytes(texts)[1].reshape(-1, 10)
    digits = view.T[_DAY_DIGITS] - np.uint8(ord("0"))
    year, month, day = (number.astype(np.int16) for number in (digits[:4], digits[4:6], digits[6:]))
    years = year[0] * 1000 + year[1] * 100 + year[2] * 10 + year[3]
    months, days = month[0] * 10 + month[1], day[0] * 10 + day[1]
    leap = (years % 4 == 0) & ((years % 100 != 0) | (years % 400 == 0))
    last = _LAST_DAYS[np.clip(months, 0, 13)] + ((months == 2) & leap)
    shaped = (digits < 10).all(axis=0) & (view[:, 4] == ord("-")) & (view[:, 7] == ord("-"))
    real: Mask = shaped & (years > 0) & (days > 0) & (days <= last)
    return real


_DAY_DIGITS = [0, 1, 2, 3, 5, 6, 8, 9]


_LAST_DAYS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 0])


def _timestamp(values: pa.Array, kind: pa.DataType) -> Converted:
    return _shaped(values, TIMESTAMP, lambda texts: _moments(texts, kind))


def _timestamptz(values: pa.Array, zone: str, zones: Zones) -> Converted:
    kind = pa.timestamp("us", "UTC")
    has_offset = pc.match_substring_regex(values, TIMESTAMP_WITH_OFFSET)
    if redefines_utc(zone):
        has_offset = pc.and_not(has_offset, pc.ends_with(values, "Z"))
    if pc.all(has_offset, min_count=0).as_py():
        return _moments(values, kind)
    nothing = arrays.null(pa.string())
    with_offset, bad_offset = _moments(pc.if_else(has_offset, values, nothing), kind)
    local, bad_local = _timestamp(pc.if_else(has_offset, nothing, values), pa.timestamp("us"))
    return pc.coalesce(with_offset, zones.localize(local, zone)), bad_offset | bad_local


def _moments(texts: pa.Array, kind: pa.DataType) -> Converted:
    moments, bad = _cast(texts, kind)
    return _without(moments, bad | mask(pc.starts_with(texts, "0000")))


def _time(values: pa.Array, kind: pa.DataType) -> Converted:
    def clock(texts: pa.Array) -> Converted:
        dated = pc.binary_join_element_wise(arrays.text("1970-01-01"), texts, arrays.text(" "))
        moments, bad = _cast(dated, pa.timestamp("us"))
        return moments.cast(kind), bad

    return _shaped(values, TIME, clock)


_CONVERTERS: dict[int, Callable[[pa.Array, pa.DataType], Converted]] = {
    pa.int16().id: _integer,
    pa.int32().id: _integer,
    pa.int64().id: _integer,
    pa.float32().id: _float,
    pa.float64().id: _float,
    pa.decimal128(1, 0).id: _decimal,
    pa.bool_().id: _boolean,
    pa.date32().id: _date,
    pa.timestamp("us").id: _timestamp,
    pa.time64("us").id: _time,
}


def _shaped(values: pa.Array, pattern: str, then: Callable[[pa.Array], Converted]) -> Converted:
    """Convert the texts that have the shape of ``pattern``; the others are bad."""
    shaped = pc.match_substring_regex(values, pattern)
    if pc.all(shaped, min_count=0).as_py():
        return then(values)
    array, bad = then(pc.if_else(shaped, values, arrays.null(pa.string())))
    return array, bad | (~mask(shaped) & mask(values.is_valid()))


def _cast(values: pa.Array, kind: pa.DataType) -> Converted:
    return _each_half(values, lambda part: part.cast(kind), kind)


def _each_half(values: pa.Array, cast: Callable[[pa.Array], pa.Array], kind: pa.DataType) -> Converted:
    """Cast all at once; where that fails, halves by themselves, down to the values that Arrow refuses.

    Exact because Arrow itself is the judge, and cheap because the bad are few: k of n cost about k log n.
    """
    bad = np.zeros(len(values), bool)
    parts: list[pa.Array] = []
    pending = [(0, len(values))]
    while pending:
        start, stop = pending.pop()
        try:
            parts.append(cast(values.slice(start, stop - start)))
        except pa.ArrowInvalid:
            if stop - start == 1:
                bad[start] = True
                parts.append(pa.nulls(1, kind))
            else:
                middle = (start + stop) // 2
                pending += [(middle, stop), (start, middle)]
    return parts[0] if len(parts) == 1 else pa.concat_arrays(parts), bad


def _without(array: pa.Array, bad: Mask) -> Converted:
    """``array`` with NULL where ``bad``."""
    if not bad.any():
        return array, bad
    return pc.if_else(arrays.booleans(bad), arrays.null(array.type), array), bad
