"""Dates and times as texts that PostgreSQL reads as the very value, whatever the year.

Arrow writes the years 1 to 9999 as PostgreSQL reads them; the others are written here.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from loader.core import arrays

A_DAY = 86_400_000_000
"""In microseconds."""

FIRST_DAY, LAST_DAY = -719_162, 2_932_896
"""0001-01-01 and 9999-12-31, in days since 1970."""


def moment_texts(values: pa.Array) -> pa.Array:
    """The texts of dates or timestamps of any unit, shape (n,) → (n,); one with a time zone is written in UTC."""
    kind = values.type
    zoned = pa.types.is_timestamp(kind) and kind.tz is not None
    if zoned:
        values = values.cast(pa.timestamp(kind.unit, "UTC"))
    known = arrays.mask(values.is_valid())
    days, clocks, a_second = _days(values)
    odd = np.flatnonzero(known & ((days < FIRST_DAY) | (days > LAST_DAY))).tolist()
    texts = values.cast(pa.string())
    if not odd:
        return texts
    listed = texts.to_pylist()
    for place in odd:
        clock = "" if a_second is None else _clock_text(Fraction(int(clocks[place]), a_second), zoned=zoned)
        listed[place] = _odd_moment(int(days[place]), clock)
    return arrays.nullable_texts(listed)


_PER_SECOND = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}


def _days(values: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int | None]:
    """The days since 1970 of dates and times, and of the latter the time past midnight, and how many make a second."""
    kind = values.type
    if pa.types.is_date32(kind):
        days: npt.NDArray[np.int64] = arrays.numbers(values.cast(pa.int32())).astype(np.int64)
        return days, days, None
    a_second = _PER_SECOND["ms" if pa.types.is_date64(kind) else kind.unit]
    days, rest = np.divmod(arrays.numbers(values.cast(pa.int64())), 86_400 * a_second)
    return days, rest, a_second


def _clock_text(clock: Fraction, *, zoned: bool) -> str:
    minutes, seconds = divmod(clock, 60)
    offset = "+00" if zoned else ""
    return f" {minutes // 60:02}:{minutes % 60:02}:{int(seconds):02}.{int(seconds % 1 * 10**9):09}{offset}"


def _odd_moment(days: int, clock: str) -> str:
    """A date before the year 1 or after 9999, with its clock."""
    month = np.datetime64(days, "D").astype("datetime64[M]")
    count = int(month.astype(np.int64))
    year = 1970 + count // 12
    day = days - int(month.astype("datetime64[D]").astype(np.int64)) + 1
    return f"{year if year > 0 else 1 - year:04}-{count % 12 + 1:02}-{day:02}{clock}{'' if year > 0 else ' BC'}"
