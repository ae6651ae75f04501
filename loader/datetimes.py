"""Dates and times written in a declared format, and local times put in their zone; all values at once.

Arrow's own strptime is not used: it turns 31/02/2024 into the 2nd of March. A format becomes a pattern with
a group for each directive; the groups become numbers, and their ranges are checked as Python's
``datetime.strptime`` checks them, which is what a format means here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]

_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

_DIRECTIVES = {
    "Y": r"[0-9]{4}",
    "y": r"[0-9]{2}",
    "m": r"1[0-2]|0?[1-9]",
    "d": r"3[01]|[12][0-9]|0?[1-9]",
    "H": r"2[0-3]|[01]?[0-9]",
    "I": r"1[0-2]|0?[1-9]",
    "M": r"[0-5]?[0-9]",
    "S": r"[0-5]?[0-9]",
    "f": r"[0-9]{1,6}",
    "j": r"36[0-6]|3[0-5][0-9]|[12][0-9]{2}|0[1-9][0-9]|00[1-9]|[1-9][0-9]|0[1-9]|[1-9]",
    "p": r"(?i:am|pm)",
    "b": "(?i:" + "|".join(name[:3] for name in _MONTHS) + ")",
    "B": "(?i:" + "|".join(_MONTHS) + ")",
    "a": "(?i:" + "|".join(name[:3] for name in _DAYS) + ")",
    "A": "(?i:" + "|".join(_DAYS) + ")",
    "z": r"[+-][0-9]{2}:?[0-5][0-9]|Z",
}
_SHORTHANDS = {"T": "%H:%M:%S", "R": "%H:%M", "D": "%m/%d/%y", "F": "%Y-%m-%d", "e": "%d"}

_MICROSECONDS = {"day": 86_400_000_000, "hour": 3_600_000_000, "minute": 60_000_000, "second": 1_000_000}
_DAYS_BEFORE_MONTH = np.array([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334])


def compile_format(format: str) -> Format:
    """The format, understood.

    Directives: %Y %y %m %d %e %H %I %p %M %S %f %b %B %a %A %j %z, %T %R %D %F for the usual combinations, %%.
    Names are English, in any case. %y is 1969 to 2068. Numbers may lack their leading zero. A year is
    needed wherever a day or month is.

    Raises ValueError, one sentence, for anything else.
    """
    expanded = re.sub(r"%%|%([TRDFe])", lambda m: m[0] if m[1] is None else _SHORTHANDS[m[1]], format)
    pattern, names, at = [], [], 0
    while at < len(expanded):
        character = expanded[at]
        at += 1
        if character != "%":
            pattern.append(re.escape(character))
            continue
        name = expanded[at : at + 1]
        at += 1
        if name == "%":
            pattern.append("%")
        elif name not in _DIRECTIVES:
            known = " ".join(f"%{each}" for each in (*_DIRECTIVES, *_SHORTHANDS))
            raise ValueError(f'the format "{format}" has the directive "%{name}"; there are {known} and %%')
        elif name in names:
            raise ValueError(f'the format "{format}" has the directive "%{name}" twice')
        else:
            names.append(name)
            pattern.append(f"(?P<{name}>{_DIRECTIVES[name]})")
    _check_together(format, set(names))
    return Format(format, "^" + "".join(pattern) + "$", tuple(names))


def _check_together(format: str, names: set[str]) -> None:
    if not names:
        raise ValueError(f'the format "{format}" has no directive')
    for either, other in (("Y", "y"), ("H", "I"), ("b", "B"), ("b", "m"), ("B", "m"), ("j", "m"), ("j", "d")):
        if {either, other} <= names:
            raise ValueError(f'the format "{format}" has both "%{either}" and "%{other}"')
    if "I" in names and "p" not in names:
        raise ValueError(f'the format "{format}" has "%I" without "%p": morning or evening?')
    if names & set("mdbBj") and not names & set("Yy"):
        raise ValueError(f'the format "{format}" has a day or month, but no year')


@dataclass(frozen=True)
class Format:
    """A compiled format. ``pattern`` has a named group for each of ``names``."""

    text: str
    pattern: str
    names: tuple[str, ...]

    def parse(self, values: pa.StringArray) -> tuple[pa.Array, Mask]:
        """Timestamps in microseconds, shape (n,), and which texts are none of this format.

        Local (naive) timestamps; UTC where the format has %z. Without a date the day is 1970-01-01. NULL stays
        NULL and is not bad.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        from loader import arrays

        groups = pc.extract_regex(values, self.pattern)
        found = arrays.mask(groups.is_valid())
        parts = _Parts(groups, found, self.names)
        bad = arrays.mask(values.is_valid()) & ~(found & parts.valid)
        kind = pa.timestamp("us", "UTC") if "z" in self.names else pa.timestamp("us")
        moments = arrays.integers(parts.microseconds)
        usable = arrays.booleans(found & parts.valid)
        return pc.if_else(usable, moments, arrays.null(pa.int64())).cast(kind), bad


class _Parts:
    """The directives of many texts as numbers, shape (n,) each; 0 or 1 stands in where a text did not match."""

    def __init__(self, groups: Any, found: Mask, names: tuple[str, ...]) -> None:
        self._groups = groups
        self._found = found
        self._names = names

    @cached_property
    def year(self) -> Numbers:
        if "y" in self._names:
            short = self._number("y", 70)
            return np.where(short < 69, 2000, 1900) + short
        return self._number("Y", 1970)

    @cached_property
    def month(self) -> Numbers:
        for name in ("b", "B"):
            if name in self._names:
                return self._named(name, [month[:3] if name == "b" else month for month in _MONTHS]) + 1
        return self._number("m", 1)

    @cached_property
    def day(self) -> Numbers:
        return self._number("d", 1)

    @cached_property
    def _leap(self) -> Mask:
        return np.asarray((self.year % 4 == 0) & ((self.year % 100 != 0) | (self.year % 400 == 0)), bool)

    @cached_property
    def valid(self) -> Mask:
        """Whether there is such a day, in the years 1 to 9999."""
        year_exists = (self.year >= 1) & (self.year <= 9999)
        if "j" in self._names:
            return np.asarray(year_exists & (self._number("j", 1) <= 365 + self._leap), bool)
        lengths = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])[self.month - 1]
        return np.asarray(year_exists & (self.day <= lengths + (self._leap & (self.month == 2))), bool)

    @cached_property
    def microseconds(self) -> Numbers:
        """Since 1970-01-01."""
        past = self.year - 1
        days = past * 365 + past // 4 - past // 100 + past // 400 - 719_162
        if "j" in self._names:
            days += self._number("j", 1) - 1
        else:
            days += _DAYS_BEFORE_MONTH[self.month - 1] + (self._leap & (self.month > 2)) + self.day - 1
        clock = (
            self._hour() * _MICROSECONDS["hour"]
            + self._number("M", 0) * _MICROSECONDS["minute"]
            + self._number("S", 0) * _MICROSECONDS["second"]
            + self._fraction()
            - self._offset()
        )
        return np.asarray(days * _MICROSECONDS["day"] + clock, np.int64)

    def _hour(self) -> Numbers:
        if "I" not in self._names:
            return self._number("H", 0)
        return self._number("I", 12) % 12 + 12 * self._named("p", ["am", "pm"])

    def _fraction(self) -> Numbers:
        """``%f``: 1 to 6 digits, counted from the left."""
        import pyarrow.compute as pc

        if "f" not in self._names:
            return np.zeros(len(self._found), np.int64)
        return self._as_numbers(pc.utf8_rpad(self._texts("f"), 6, "0"), 0)

    def _offset(self) -> Numbers:
        """``%z`` in microseconds east of UTC."""
        import pyarrow.compute as pc

        if "z" not in self._names:
            return np.zeros(len(self._found), np.int64)
        digits = pc.replace_substring(pc.replace_substring(self._texts("z"), "Z", "+0000"), ":", "")
        number = self._as_numbers(pc.utf8_ltrim(digits, characters="+"), 0)
        size = np.abs(number)
        return np.asarray(np.sign(number) * (size // 100 * 60 + size % 100) * _MICROSECONDS["minute"], np.int64)

    def _number(self, name: str, otherwise: int) -> Numbers:
        if name not in self._names:
            return np.full(len(self._found), otherwise, np.int64)
        return self._as_numbers(self._texts(name), otherwise)

    def _as_numbers(self, texts: Any, otherwise: int) -> Numbers:
        import pyarrow as pa
        import pyarrow.compute as pc

        from loader import arrays

        known = pc.if_else(arrays.booleans(self._found), texts, arrays.text("0"))
        return np.where(self._found, arrays.numbers(known.cast(pa.int64())), otherwise)

    def _named(self, name: str, known: list[str]) -> Numbers:
        import pyarrow as pa
        import pyarrow.compute as pc

        from loader import arrays

        places = pc.index_in(pc.utf8_lower(self._texts(name)), arrays.texts(known)).cast(pa.int64())
        return np.where(self._found, arrays.numbers(places), 0)

    def _texts(self, name: str) -> Any:
        return self._groups.field(self._groups.type.get_field_index(name))


_LAST_TABLED_YEAR = 2036
_CYCLE = range(2009, 2037)  # 28 years: every pair of leap year and weekday of its first day


def localize(values: pa.Array, zone: str) -> pa.Array:
    """Local times (timestamp[us], shape (n,)) of ``zone`` → UTC, as PostgreSQL reads a timestamptz without an offset.

    ``zone`` is an IANA name or an offset such as ``+02:00`` (east of Greenwich, as in ISO 8601). A time that the
    clocks skip is read with the offset before the change, one that they show twice with the later offset
    (``DetermineTimeZoneOffset`` in PostgreSQL's sources; compared with it for every change of ten zones).
    """
    import pyarrow as pa

    from loader import arrays

    local = arrays.numbers(values.cast(pa.int64()))
    offset = _fixed_offset(zone)
    if offset is not None:
        utc = local - offset
    else:
        tabled = _in_tabled_years(local)
        utc = local - (tabled - _to_utc(tabled, zone))
    return _like(values, utc)


def _to_utc(local: Numbers, zone: str) -> Numbers:
    import pyarrow as pa
    import pyarrow.compute as pc

    from loader import arrays

    moments = arrays.integers(local).cast(pa.timestamp("us"))
    first = pc.assume_timezone(moments, zone, ambiguous="latest", nonexistent="earliest")
    utc = arrays.numbers(first.cast(pa.int64()))
    shown = arrays.numbers(pc.local_timestamp(first).cast(pa.int64()))
    # where the clocks skip a time, "earliest" is the last moment before: take its offset
    return np.where(shown == local, utc, local - (shown - utc))


def _in_tabled_years(local: Numbers) -> Numbers:
    """Times after the last year that the system's zone tables hold, moved to a year with the same calendar.

    Those tables end in 2037, with a rule for what follows that Arrow does not read; PostgreSQL does.
    """
    late = local >= (np.datetime64(f"{_LAST_TABLED_YEAR + 1}-01-01", "us")).astype(np.int64)
    if not late.any():
        return local
    years = local[late].astype("datetime64[us]").astype("datetime64[Y]")
    calendars = {_calendar(year): year for year in _CYCLE}
    moved = local.copy()
    for year in np.unique(years):
        number = int(year.astype(np.int64)) + 1970
        twin = np.datetime64(f"{calendars[_calendar(number)]}-01-01", "us").astype(np.int64)
        in_year = np.zeros(len(local), bool)
        in_year[late] = years == year
        moved[in_year] += twin - year.astype("datetime64[us]").astype(np.int64)
    return moved


def _calendar(year: int) -> tuple[int, bool]:
    """Which of the 14 calendars a year has: the weekday of its first day, and whether it is a leap year."""
    past = year - 1
    first = (past * 365 + past // 4 - past // 100 + past // 400) % 7
    return first, year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _fixed_offset(zone: str) -> int | None:
    """An offset or UTC in microseconds, None for a named zone."""
    if zone in ("UTC", "Z", "GMT", "Etc/UTC"):
        return 0
    match = re.fullmatch(r"([+-])([0-9]{2})(?::?([0-5][0-9]))?", zone)
    if match is None:
        return None
    minutes = int(match[2]) * 60 + int(match[3] or 0)
    return (-1 if match[1] == "-" else 1) * minutes * _MICROSECONDS["minute"]


def _like(values: pa.Array, utc: Numbers) -> pa.Array:
    """The times as UTC timestamps, NULL where ``values`` is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from loader import arrays

    return pc.if_else(values.is_valid(), arrays.integers(utc), arrays.null(pa.int64())).cast(pa.timestamp("us", "UTC"))
