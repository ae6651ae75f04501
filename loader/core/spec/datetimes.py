"""Dates and times written in a declared format, and local times put in their zone; all values at once.

Arrow's own strptime is not used: it turns 31/02/2024 into the 2nd of March. A format means here what it means
to Python's ``datetime.strptime``. Texts are read from left to right, all at once, in numpy; where that fails, by a
pattern with a group for each directive, which is ten times as slow and can try one reading after another.

The offsets of a time zone come from the server (`Zones`), never from this machine's time zone data: the two are of
different versions, and PostgreSQL's is the one that counts.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from loader.core.errors import LoaderError
from loader.core.vectors import Mask, Numbers

if TYPE_CHECKING:
    import pyarrow as pa

Fields = dict[str, npt.NDArray[np.int32]]
"""What the directives of many texts say, as numbers, shape (n,) each, by the directive's letter."""

# --- formats

_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

_WORDS: dict[str, tuple[str, ...]] = {
    "p": ("am", "pm"),
    "b": tuple(name[:3] for name in _MONTHS),
    "B": _MONTHS,
    "a": tuple(name[:3] for name in _DAYS),
    "A": _DAYS,
}


def _in_any_case(text: str) -> str:
    """A pattern for ``text``: only ASCII's letters have two cases, RE2's ``(?i)`` would take ſ for s."""
    return "".join(f"[{c.upper()}{c.lower()}]" if c.isascii() and c.isalpha() else re.escape(c) for c in text)


# the patterns of Python's _strptime.py, with the digits of ASCII alone; what they take too much is checked later
_PATTERNS = {
    "Y": "[0-9]{4}",
    "y": "[0-9]{2}",
    "m": "1[0-2]|0[1-9]|[1-9]",
    "d": "3[01]|[12][0-9]|0[1-9]|[1-9]| [1-9]",
    "H": "2[0-3]|[01][0-9]|[0-9]",
    "I": "1[0-2]|0[1-9]|[1-9]",
    "M": "[0-5][0-9]|[0-9]",
    "S": "6[01]|[0-5][0-9]|[0-9]",
    "f": "[0-9]{1,6}",
    "j": "36[0-6]|3[0-5][0-9]|[12][0-9]{2}|0[1-9][0-9]|00[1-9]|[1-9][0-9]|0[1-9]|[1-9]",
    **{name: "|".join(map(_in_any_case, words)) for name, words in _WORDS.items()},
    "z": "[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?|Z",
}
_SHORTHANDS = {"T": "%H:%M:%S", "R": "%H:%M", "D": "%m/%d/%y", "F": "%Y-%m-%d", "e": "%d"}

_DIGITS = {
    "Y": (4, 4), "y": (2, 2), "m": (1, 2), "d": (1, 2), "H": (1, 2), "I": (1, 2), "M": (1, 2), "S": (1, 2),
    "j": (1, 3), "f": (1, 6),
}  # fmt: skip
"""How many digits a number has: from, to."""

_WHITE_SPACE = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())


@dataclass(frozen=True, slots=True)
class _Piece:
    """A directive by its letter, or, where that is empty, literal text; a run of white space is one blank."""

    directive: str
    literal: str = ""

    @property
    def pattern(self) -> str:
        if self.directive:
            return f"(?P<{self.directive}>{_PATTERNS[self.directive]})"
        return f"[{_WHITE_SPACE}]+" if self.literal == " " else _in_any_case(self.literal)


def compile_format(format: str) -> Format:
    """The format, understood.

    Directives: %Y %y %m %d %e %H %I %p %M %S %f %b %B %a %A %j %z, %T %R %D %F for the usual combinations, %%.
    As in Python's ``datetime.strptime``: names are English, in any case; %y is 1969 to 2068; numbers may lack
    their leading zero (so %-d is %d), a day may have a blank instead; ASCII's letters match in any case, a run of
    white space any other; the name of a weekday is not compared with the date.

    Unlike there: digits are ASCII's; %z is ``+HHMM``, ``+HH:MM``, ``+HH`` or ``Z``; the 366th day is one of leap
    years alone; a format that leaves the day or the hour open is refused.

    Raises ValueError, one sentence, for a format that is none.
    """
    pieces = tuple(_pieces(format))
    names = tuple(piece.directive for piece in pieces if piece.directive)
    for name in names:
        if name not in _PATTERNS:
            known = " ".join(f"%{each}" for each in (*_PATTERNS, *_SHORTHANDS))
            raise ValueError(f'the format "{format}" has the directive "%{name.strip("%")}"; there are {known} and %%')
    _check_together(format, names)
    return Format(format, "^" + "".join(piece.pattern for piece in pieces) + "$", names, pieces)


_FLAGGED = re.compile(r"%(%|-?([TRDFe])|-([dmyHIMSj]))")
_PIECE = re.compile(r"(?P<percent>%%)|%(?P<directive>[^%]|$)|(?P<blanks>\s+)|(?P<literal>[^%\s])", re.DOTALL)


def _pieces(format: str) -> Iterator[_Piece]:
    plain = _FLAGGED.sub(lambda found: _SHORTHANDS.get(found[2] or "", f"%{found[3] or '%'}"), format)
    for found in _PIECE.finditer(plain):
        if found["directive"] is not None:
            yield _Piece(found["directive"] or "%")
        else:
            yield _Piece("", "%" if found["percent"] else " " if found["blanks"] else found["literal"])


_EITHER_OR = (*combinations("mbB", 2), *product("mdbB", "j"), ("Y", "y"), ("H", "I"))


def _check_together(format: str, names: Sequence[str]) -> None:
    """Each directive may be right by itself and still not go with another."""
    given = set(names)
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f'the format "{format}" has the directive "%{name}" twice')
    if not given - set("aApz"):
        raise ValueError(f'the format "{format}" has no directive for a date or a time')
    for either, other in _EITHER_OR:
        if {either, other} <= given:
            raise ValueError(f'the format "{format}" has both "%{either}" and "%{other}"')
    if "I" in given and "p" not in given:
        raise ValueError(f'the format "{format}" has "%I" without "%p": morning or evening?')
    if given & set("mdbBj") and not given & set("Yy"):
        raise ValueError(f'the format "{format}" has a day or month, but no year')
    if "d" in given and not given & set("mbB"):
        raise ValueError(f'the format "{format}" has a day, but no month (%m; %M is the minute)')


@dataclass(frozen=True)
class Format:
    """A compiled format. ``pattern`` has a named group for each of ``names``; ``pieces`` are what it is made of."""

    text: str
    pattern: str
    names: tuple[str, ...]
    pieces: tuple[_Piece, ...]

    def parse(self, values: pa.StringArray) -> tuple[pa.Array, Mask]:
        """Timestamps in microseconds, shape (n,), and which texts are none of this format.

        Local (naive) timestamps; UTC where the format has %z. Without a date the day is 1970-01-01. NULL stays
        NULL and is not bad.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        from loader.core import arrays

        valid = arrays.mask(values.is_valid())
        moments, good = self._by_reading(values, valid)
        left = np.flatnonzero(valid & ~good)
        if len(left):
            moments[left], good[left] = self._by_pattern(values.take(arrays.integers(left)))
        made = arrays.integers(moments)
        if not good.all():
            made = pc.if_else(arrays.booleans(good), made, arrays.null(pa.int64()))
        return made.cast(pa.timestamp("us", "UTC" if "z" in self.names else None)), valid & ~good

    def _by_reading(self, values: pa.StringArray, valid: Mask) -> tuple[Numbers, Mask]:
        """Moments of the texts that can be read from left to right, and which those are.

        Each number takes all the digits it can. That is the pattern's first choice as well: where it leads to a
        moment that exists, the pattern would have found the same.
        """
        moments, good = np.zeros(len(values), np.int64), np.zeros(len(values), bool)
        if not len(values) or set(self.names) & set("BAz"):  # these have no length to go by
            return moments, good
        cursor = _Cursor(values, valid, reach=sum(_reach(piece) for piece in self.pieces))
        fields: Fields = {}
        for piece in self.pieces:
            if piece.directive:
                fields[piece.directive] = cursor.read(piece.directive)
            else:
                cursor.skip(piece.literal)
        rows = np.flatnonzero(cursor.done())
        if len(rows) < len(values):
            fields = {name: numbers[rows] for name, numbers in fields.items()}
        moments[rows], good[rows] = _moments(fields, len(rows))
        return moments, good

    def _by_pattern(self, values: pa.StringArray) -> tuple[Numbers, Mask]:
        """Moments of any texts of the format, none of them NULL, and which were such."""
        import pyarrow.compute as pc

        from loader.core import arrays

        groups = pc.extract_regex(values, self.pattern)
        found = np.flatnonzero(arrays.mask(groups.is_valid()))
        groups = groups.take(arrays.integers(found))
        fields = {name: _field_by_pattern(name, groups.field(groups.type.get_field_index(name))) for name in self.names}
        moments, good = np.zeros(len(values), np.int64), np.zeros(len(values), bool)
        moments[found], good[found] = _moments(fields, len(found))
        return moments, good


def _reach(piece: _Piece) -> int:
    """The most bytes that a piece without a pattern can take."""
    if piece.directive in _WORDS:
        return len(_WORDS[piece.directive][0])
    return _DIGITS[piece.directive][1] if piece.directive else len(piece.literal.encode())


class _Cursor:
    """A place in each of n texts, moved on over one piece of the format after the other."""

    def __init__(self, values: pa.StringArray, valid: Mask, *, reach: int) -> None:
        """``reach``: the most bytes that all the pieces can take."""
        _, ends_buffer, data = values.buffers()
        ends = np.frombuffer(ends_buffer, np.int32)[values.offset : values.offset + len(values) + 1]
        self._at = ends[:-1].astype(np.int64)
        self._ends = ends[1:]
        text = np.frombuffer(data or b"", np.uint8)[: ends[-1]]
        self._data = np.concatenate((text, np.zeros(reach + 1, np.uint8)))  # a cursor may run out of the last text
        self._readable = valid.copy()

    def done(self) -> Mask:
        """The texts that were of the format, and are read to their end."""
        return np.asarray(self._readable & (self._at == self._ends), bool)

    def skip(self, literal: str) -> None:
        """Over literal text."""
        for byte in literal.encode():
            self._readable &= self._data[self._at] == byte
            self._at += 1

    def read(self, name: str) -> npt.NDArray[np.int32]:
        """Over a directive; what it says as a number, shape (n,), anything where the text is not readable."""
        if name in _WORDS:
            return self._word(_WORDS[name])
        start = self._at.copy() if name == "f" else self._at
        number = self._number(*_DIGITS[name])
        return number * _MICROSECONDS[self._at - start] if name == "f" else number

    def _number(self, fewest: int, most: int) -> npt.NDArray[np.int32]:
        """A number of so many digits, and as many as there are."""
        number = np.zeros(len(self._at), np.int32)
        for place in range(most):
            digit = self._data[self._at] - np.uint8(ord("0"))  # wraps around: what is no digit is 10 or more
            is_digit = digit <= 9
            if place < fewest:
                self._readable &= is_digit
                self._at += 1
                number = number * 10 + digit
            else:
                is_digit &= self._at < self._ends  # a digit of the next text would only send this one the slow way
                self._at += is_digit
                number = np.where(is_digit, number * 10 + digit, number)
        return number

    def _word(self, words: Sequence[str]) -> npt.NDArray[np.int32]:
        """Which one of ``words``, all of a length, stands there in any case."""
        number = np.full(len(self._at), -1, np.int32)
        lowered = [self._data[self._at + place] | 0x20 for place in range(len(words[0]))]
        for which, word in enumerate(words):
            here = lowered[0] == ord(word[0])
            for column, letter in zip(lowered[1:], word[1:], strict=True):
                here &= column == ord(letter)
            number[here] = which
        self._readable &= number >= 0
        self._at += len(words[0])
        return number


_MICROSECONDS = 10 ** np.arange(6, -1, -1, dtype=np.int32)
"""What the last digit of a fraction of so many digits is worth."""


def _field_by_pattern(name: str, texts: pa.StringArray) -> npt.NDArray[np.int32]:
    """A group's texts, which its pattern has checked, as numbers; %f in microseconds, %z in minutes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from loader.core import arrays

    if name in _WORDS:
        places = pc.index_in(pc.ascii_lower(texts), arrays.texts(_WORDS[name]))
        return np.array(arrays.numbers(places), np.int32)
    if name == "z":
        return _offset_minutes(texts)
    digits = pc.utf8_rpad(texts, 6, "0") if name == "f" else pc.utf8_ltrim(texts, characters=" ")
    return np.array(arrays.numbers(digits.cast(pa.int32())), np.int32)


def _offset_minutes(texts: pa.StringArray) -> npt.NDArray[np.int32]:
    import pyarrow as pa
    import pyarrow.compute as pc

    from loader.core import arrays

    bare = pc.replace_substring(pc.replace_substring(texts, "Z", "+"), ":", "")
    padded = pc.utf8_rpad(bare, 5, "0")
    number = arrays.numbers(pc.utf8_slice_codeunits(padded, 1, 5).cast(pa.int32()))
    minutes = number // 100 * 60 + number % 100
    return np.asarray(np.where(arrays.mask(pc.starts_with(padded, "-")), -minutes, minutes), np.int32)


@lru_cache(maxsize=1)
def _month_starts() -> npt.NDArray[np.int32]:
    """Days since 1970-01-01 on which the months of the years 0 to 9999 start, and the one after."""
    months = np.arange("0000-01", "10000-02", dtype="datetime64[M]")
    return np.asarray(months.astype("datetime64[D]"), np.int32)


def _moments(fields: Fields, count: int) -> tuple[Numbers, Mask]:
    """Microseconds since 1970-01-01, in UTC where there is an offset, and which days and times exist."""
    nothing = np.zeros(count, np.int32)
    days, exists = _days(fields, nothing)
    hour, minute, second = (fields.get(name, nothing) for name in "HMS")
    if "I" in fields:
        hour = fields["I"] % 12 + 12 * fields["p"]
        exists &= (fields["I"] >= 1) & (fields["I"] <= 12)
    exists &= (hour <= 23) & (minute <= 59) & (second <= 59)
    seconds = (hour * 60 + minute - fields.get("z", nothing)) * 60 + second
    microseconds = (days.astype(np.int64) * 86_400 + seconds) * 1_000_000 + fields.get("f", nothing)
    return np.asarray(microseconds, np.int64), exists


def _days(fields: Fields, nothing: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int32], Mask]:
    """Days since 1970-01-01, and which of them exist."""
    starts = _month_starts()
    year = _year(fields, nothing)
    exists = year >= 1
    if "j" in fields:
        day = fields["j"]
        start, end = starts[year * 12], starts[year * 12 + 12]
    else:
        day = fields.get("d", nothing + 1)
        month = _month(fields, nothing)
        exists &= (month >= 0) & (month <= 11)
        place = year * 12 + np.where(exists, month, 0)
        start, end = starts[place], starts[place + 1]
    return start + day - 1, exists & (day >= 1) & (day <= end - start)


def _year(fields: Fields, nothing: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    if "y" in fields:
        return np.where(fields["y"] < 69, 2000, 1900).astype(np.int32) + fields["y"]
    return fields.get("Y", nothing + 1970)


def _month(fields: Fields, nothing: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Counted from 0."""
    if "m" in fields:
        return fields["m"] - 1
    return fields.get("b", fields.get("B", nothing))


# --- zones

_TABLED_YEARS = range(1800, 2500)
"""The years that the kernel's tables have. After them all is as 400 years earlier, on the same calendar."""

SURE_YEARS = range(_TABLED_YEARS.start + 1, _TABLED_YEARS.stop - 1)
"""Years that `Zones.sure_offsets` knows."""

YearOffsets = tuple[tuple[int, int], ...]
"""How long after the start of a year, by local time, which offset begins to hold; both in microseconds, offsets east of
Greenwich. The first one holds at the year's start."""

FindOffsets = Callable[[str, Sequence[int]], Mapping[int, YearOffsets]]
"""Finds the offsets of a zone in some years."""

AskOffsets = Callable[[str, Numbers], Numbers]
"""Gives the offset of each of some local times of a zone, shape (n,), in microseconds."""

TABLES = 64
"""Tables of offsets that are kept, each of a zone and the years of one batch of values."""


class Zones:
    """The offsets of time zones, each year of a zone found once, by ``find``. Safe to share between threads.

    A zone is an offset such as ``+02:00`` (east of Greenwich, as in ISO 8601), an offset as PostgreSQL shows it,
    ``<+02>-02``, UTC, or any other zone that ``find`` knows. Nobody is asked about offsets and UTC. Of a zone that is a
    rule of its own (`_is_rule`), which may change the clocks any number of times, ``ask`` is asked about each time.
    """

    def __init__(self, find: FindOffsets, ask: AskOffsets) -> None:
        self._find, self._ask = find, ask
        self._years: dict[tuple[str, int], YearOffsets] = {}
        self._tables: dict[tuple[str, tuple[int, ...]], tuple[Numbers, Numbers]] = {}
        self._lock = threading.Lock()

    def localize(self, values: pa.Array, zone: str) -> pa.Array:
        """Local times (timestamp[us], shape (n,)) of ``zone`` → UTC, as PostgreSQL reads a timestamptz without offset.

        A time that the clocks skip is read with the offset before the change, one that they show twice with the later
        offset: each offset holds from the moment on at which, by itself, it began (``DetermineTimeZoneOffset`` in
        PostgreSQL's sources).
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        from loader.core import arrays

        instants = values.cast(pa.int64())
        local: Numbers = arrays.numbers(pc.fill_null(instants, arrays.integer(0)) if values.null_count else instants)
        utc = arrays.integers(local - self._offsets(local, zone))
        if values.null_count:
            utc = pc.if_else(values.is_valid(), utc, arrays.null(pa.int64()))
        return utc.cast(pa.timestamp("us", "UTC"))

    def utc(self, local: int, zone: str) -> int:
        """One local time → UTC, both in microseconds since 1970."""
        offset = self._offsets(np.array([local], np.int64), zone)
        return local - int(np.broadcast_to(offset, 1)[0])

    def sure_offsets(self, zone: str, year: int) -> tuple[tuple[int, int | None], ...]:
        """From which local times of ``year`` on which offset holds, in order, both in microseconds, times since 1970.

        The first one is the year's start. The offset is None for times that the clocks skip or show twice. ``year`` is
        one of `SURE_YEARS`.
        """
        start, end = year_start(year), year_start(year + 1)
        if (fixed := _fixed_offset(zone)) is not None:
            return ((start, fixed),)
        if _is_rule(zone):
            return ((start, None),)
        since, offsets = (each.tolist() for each in self._table(zone, (year - 1, year, year + 1)))
        found: list[tuple[int, int | None]] = [(since[0], offsets[0])]
        for moment, before, after in zip(since[1:], offsets, offsets[1:], strict=False):
            if before == after:
                continue
            first, past = sorted((moment, moment + before - after))  # skipped before the change, shown twice after it
            if first <= found[-1][0]:  # two changes at once
                return ((start, None),)
            found += [(first, None), (past, after)]
        at_start = [offset for moment, offset in found if moment <= start][-1]
        return ((start, at_start), *(each for each in found if start < each[0] < end))

    def learn(self, zone: str, years: Iterable[int]) -> None:
        """Find the offsets of all ``years`` that are not known yet at once."""
        if _fixed_offset(zone) is not None or _is_rule(zone):
            return
        with self._lock:
            missing = sorted(year for year in set(map(_twin, years)) if (zone, year) not in self._years)
            if missing:
                found = self._find(zone, missing)
                self._years |= {(zone, year): offsets for year, offsets in found.items()}

    def _year(self, zone: str, year: int) -> YearOffsets:
        self.learn(zone, [year])
        return self._years.get((zone, _twin(year)), ((0, _fixed_offset(zone) or 0),))

    def _offsets(self, local: Numbers, zone: str) -> Numbers | int:
        """The offsets in microseconds, shape (n,), that local times have; one number where it is always the same."""
        fixed = _fixed_offset(zone)
        if fixed is not None or not len(local):
            return fixed or 0
        if _is_rule(zone):
            distinct, places = np.unique(local, return_inverse=True)
            return self._ask(zone, distinct)[places]
        since, offsets = self._table(zone, _years(local))
        return offsets[np.searchsorted(since, local, side="right") - 1]

    def _table(self, zone: str, years: tuple[int, ...]) -> tuple[Numbers, Numbers]:
        """From which local times on, in order, which offset holds in ``years``, all in microseconds."""
        known = self._tables.get((zone, years))
        if known is not None:
            return known
        self.learn(zone, years)
        since: list[int] = []
        offsets: list[int] = []
        for year in years:
            for after, offset in self._year(zone, year):
                since.append(year_start(year) + after)
                offsets.append(offset)
        table = np.array(since, np.int64), np.array(offsets, np.int64)
        if len(self._tables) >= TABLES:
            self._tables = {}
        self._tables[zone, years] = table
        return table


def _nobody(zone: str, _asked: object) -> Any:
    raise LoaderError(f'time zone "{zone}": there is no server to ask for its offsets; this is a defect of the loader')


FIXED_ZONES = Zones(_nobody, _nobody)
"""Knows only UTC and offsets."""

_FIXED = re.compile(r"(?:(?P<shown><[^>]*>))?(?P<sign>[+-])(?P<hours>[0-9]{2})(?::?(?P<minutes>[0-5][0-9]))?")


def _fixed_offset(zone: str) -> int | None:
    """An offset or UTC in microseconds east of Greenwich, None for a named zone."""
    if zone in ("UTC", "GMT", "Etc/UTC"):
        return 0
    found = _FIXED.fullmatch(zone)
    if found is None:
        return None
    size = (int(found["hours"]) * 60 + int(found["minutes"] or 0)) * 60_000_000
    # behind a name in angle brackets the sign is POSIX's, which counts westwards
    return size if (found["sign"] == "+") == (found["shown"] is None) else -size


def _is_rule(zone: str) -> bool:
    """Whether the zone is POSIX's, with rules for its summer: ``EST5EDT,M3.2.0,M11.1.0``."""
    return "," in zone


def redefines_utc(zone: str) -> bool:
    """Whether "Z" or "UTC" in a text may be another offset than 0 where the session is in ``zone``: one in POSIX's
    spelling names its own abbreviations, and PostgreSQL 18 looks for them there first."""
    return not is_offset(zone) and re.search("(?<![A-Z])(Z|UTC)(?![A-Z])", zone.upper()) is not None


def is_offset(zone: str) -> bool:
    """Whether the zone is UTC or an offset, which nobody has to be asked about."""
    return _fixed_offset(zone) is not None


def _years(local: Numbers) -> tuple[int, ...]:
    """Years that occur, in order; where they are few decades, all between the first and the last."""
    first, last = (int(_year_of(np.array([moment]))[0]) for moment in (local.min(), local.max()))
    if last - first <= 60:
        return tuple(range(first, last + 1))
    return tuple((np.flatnonzero(np.bincount(_year_of(local) - first)) + first).tolist())


def _year_of(local: Numbers) -> Numbers:
    return local.astype("datetime64[us]").astype("datetime64[Y]").astype(np.int64) + 1970


def year_start(year: int) -> int:
    """Microseconds from 1970 to the start of a year, by the same clock."""
    return int(np.datetime64(year - 1970, "Y").astype("datetime64[us]").astype(np.int64))


def _twin(year: int) -> int:
    """The year of the table that has the same calendar and the same rules; an earlier one is its own."""
    last_cycle = _TABLED_YEARS.stop - 400
    return year if year < _TABLED_YEARS.stop else last_cycle + (year - last_cycle) % 400


def offsets_of_year(year: int, at_start: int, changes: Iterable[tuple[int, int]]) -> YearOffsets:
    """`YearOffsets` of a year from the offset two days before it, and the moments (UTC, since 1970) of its changes from
    then until two days after it with the offset that each brings, all in microseconds."""
    start, end = year_start(year), year_start(year + 1)
    later = []
    for moment, offset in changes:
        if moment + offset <= start:
            at_start = offset
        elif moment + offset < end:
            later.append((moment + offset - start, offset))
    return ((0, at_start), *later)
