"""Formats are Python's, zones are PostgreSQL's."""

from __future__ import annotations

import datetime as dt
import re
import subprocess
import sys
import zoneinfo
from functools import lru_cache
from typing import Any

import numpy as np
import psycopg2
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from loader.datetimes import compile_format, localize
from loader.errors import LoaderError

FORMATS = [
    "%d/%m/%Y %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f", "%m/%d/%y", "%d %b %Y", "%B %d, %Y %I:%M %p",
    "%a %d %b %Y", "%A, %d. %B %Y", "%Y%j", "%Y%m%d", "%Y%m%d%H%M%S", "%H:%M:%S", "%H:%M", "%Y-%m-%dT%H:%M:%S%z",
    "%d.%m.%Y 100%%", "(%Y) [%m] {%d} ^$.*+?|\\", "%I%p %d %B %y", "%f %Y", "%Y-%m-%d %H:%M:%S.%f%z", "%Y", "%M\t%H",
    "%b %d %H:%M:%S %Y", "%Yä%mß%dſ",
]  # fmt: skip

moments = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999))
offsets = st.integers(-1439, 1439).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
mangled = st.text("0123456789/-:., \tapmAPMJjanZ+ſ٣", max_size=22)

# dates, and times, of which a format may be put together in any order
DATES = ["Ymd", "ymd", "Ybd", "YBd", "Yj", "Yadm", "YAdb", "Y", "Ym", "yj", ""]
CLOCKS = ["HM", "HMS", "HMSf", "IMp", "IMSp", "H", "Hp", "Hz", "HMz", "f", ""]
SEPARATORS = ["/", "-", ":", " ", "  ", ".", "T", "%%", ", ", "at"]


@st.composite
def formats(draw: st.DrawFn) -> str:
    """Any mix of directives that go together."""
    letters = draw(st.permutations(draw(st.sampled_from(DATES)) + draw(st.sampled_from(CLOCKS))))
    assume(letters)
    return "".join(f"%{letter}{draw(st.sampled_from(SEPARATORS))}" for letter in letters)


@st.composite
def written(draw: st.DrawFn, format: str) -> str:
    """A text of the format, or one that nearly is."""
    moment = draw(moments).replace(tzinfo=draw(offsets))
    text = moment.strftime(format.replace("%Y", f"{moment.year:04}"))
    kinds = ["as it is", "short", "blank", "upper", "lower", "blanks", "cut", "put in", "put in", "changed", "changed"]
    kind = draw(st.sampled_from(kinds))
    at = draw(st.integers(0, len(text)))
    character = draw(st.sampled_from("0123456789 /-:T\tapſ٣Z+"))
    changes = {
        "short": lambda: re.sub(r"(?<![0-9])0(?=[0-9](?![0-9]))", "", text),
        "blank": lambda: re.sub(r"(?<![0-9])0(?=[0-9](?![0-9]))", " ", text),
        "upper": text.upper,
        "lower": text.lower,
        "blanks": lambda: text.replace(" ", " \t\xa0"),
        "cut": lambda: text[:at] + text[at + 1 :],
        "put in": lambda: text[:at] + character + text[at:],
        "changed": lambda: text[:at] + character + text[at + 1 :],
    }
    return str(changes[kind]()) if kind in changes else text


def python_says(text: str, format: str) -> dt.datetime | None:
    """The one-value definition: ``datetime.strptime``, but for what `compile_format` says it does otherwise."""
    if re.search("[^0-9]", "".join(c for c in text if c.isdecimal())):
        return None  # digits are ASCII's
    if format.endswith("%z"):
        if re.search(r"[+-]\d\d:?\d\d:?\d\d(\.\d*)?$", text):
            return None  # an offset with seconds
        text = re.sub(r"(?<=[+-]\d\d)$", "00", text)
    try:
        found = dt.datetime.strptime(text, format)
    except (ValueError, OverflowError):
        return None
    if "%j" in format and found.timetuple().tm_yday == 1 and "366" in text:
        return None  # the 366th day of a common year, which Python makes the next year's first
    return found if re.search("%[Yy]", format) else found.replace(1970)


def parsed(texts: list[str | None], format: str) -> tuple[list[dt.datetime | None], list[bool]]:
    """Moments and bad values of a slice of a larger array, as a block's column may be one."""
    array, bad = compile_format(format).parse(pa.array(["?", None, *texts, "2024"], pa.string())[2:-1])
    assert array.type == pa.timestamp("us", "UTC" if "%z" in format else None)
    since = dt.datetime(1970, 1, 1, tzinfo=dt.UTC if "%z" in format else None)
    found = [None if us is None else in_python(since, us) for us in array.cast(pa.int64()).to_pylist()]
    return found, bad.tolist()


def in_python(since: dt.datetime, microseconds: int) -> dt.datetime | None:
    try:
        return since + dt.timedelta(microseconds=microseconds)
    except OverflowError:  # an offset took it out of the years that Python has
        return dt.datetime.max


@given(st.data())
@settings(max_examples=300)
def test_a_format_is_what_it_is_to_python(data: st.DataObject) -> None:
    """Whatever the mix of directives, each text is read as ``datetime.strptime`` reads it, or refused as there."""
    format = data.draw(st.one_of(st.sampled_from(FORMATS), formats()))
    text = st.one_of(st.none(), mangled, written(format), written(format), written(format))
    texts = data.draw(st.lists(text, min_size=1, max_size=12))
    found, bad = parsed(texts, format)
    for each, ours, wrong in zip(texts, found, bad, strict=True):
        theirs = None if each is None else python_says(each, format)
        assert wrong == (each is not None and theirs is None), each
        assert ours == theirs or ours == dt.datetime.max, each


@given(st.sampled_from(FORMATS), st.lists(moments, min_size=1, max_size=10))
@example("%d/%m/%Y %H:%M", [dt.datetime(2024, 2, 29), dt.datetime(1900, 2, 28), dt.datetime(2000, 12, 31)])
def test_what_python_writes_is_read(format: str, values: list[dt.datetime]) -> None:
    """Over all years that Python has, and none of it is bad."""
    texts = [value.replace(tzinfo=dt.UTC).strftime(format.replace("%Y", f"{value.year:04}")) for value in values]
    found, bad = parsed(list(texts), format)
    assert found == [python_says(text, format) for text in texts]
    assert not any(bad)


@pytest.mark.parametrize(
    ("format", "bad"),
    [
        ("%d/%m/%Y", ["31/02/2024", "29/02/2023", "29/02/1900", "00/01/2024", "01/13/2024", "1/1/0000", "1/1/24"]),
        ("%d/%m/%Y", ["01/01/2024 ", " 01/01/2024x", "01-01-2024", "", "٠١/01/2024"]),
        ("%H:%M:%S", ["24:00:00", "23:60:00", "23:59:60", "23:59:61", "1:2", "-1:00:00"]),
        ("%I:%M %p", ["13:00 PM", "00:10 AM", "1:00", "1:00 XM"]),
        ("%Y%j", ["2023366", "2023000", "2024367"]),
        ("%d %b %Y", ["1 ſep 2024", "1 Sept 2024", "1 Mär 2024"]),
        ("%H:%M:%S.%f", ["1:2:3.", "1:2:3.1234567"]),
        ("%Y-%m-%d %H:%M%z", ["2024-01-01 00:00+24:00", "2024-01-01 00:00+02:60", "2024-01-01 00:00z"]),
    ],
)
def test_what_is_no_date_is_bad(format: str, bad: list[str]) -> None:
    """A day that there is not is never another day."""
    assert parsed([*bad, None], format) == ([None] * (len(bad) + 1), [True] * len(bad) + [False])


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("%Q", 'the directive "%Q"; there are'),
        ("%Y-%m-%", 'the directive "%"'),
        ("%Y %Z", 'the directive "%Z"'),
        ("no directive", "has no directive for a date or a time"),
        ("%A %p", "has no directive for a date or a time"),
        ("%Y %Y", '"%Y" twice'),
        ("%Y %y", 'both "%Y" and "%y"'),
        ("%Y %b %B", 'both "%b" and "%B"'),
        ("%j %b %Y", 'both "%b" and "%j"'),
        ("%I:%M", '"%I" without "%p"'),
        ("%d.%m.", "a day or month, but no year"),
        ("%d/%M/%Y", "a day, but no month"),
        ("%D %m", '"%m" twice'),
    ],
)
def test_a_format_that_makes_no_sense(format: str, message: str) -> None:
    """Is refused in one sentence, before anything is read."""
    with pytest.raises(ValueError, match=message) as refused:
        compile_format(format)
    assert str(refused.value).startswith(f'the format "{format}" has ')


def test_a_format_is_checked_without_pyarrow() -> None:
    """A spec is validated before anything heavy is imported."""
    code = (
        "import sys; from loader.datetimes import compile_format; compile_format('%F'); print('pyarrow' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_shorthands() -> None:
    """%F %T and friends, and numbers without their zero as strftime writes them."""
    assert parsed(["2024-01-05 10:20:30"], "%F %T")[0] == [dt.datetime(2024, 1, 5, 10, 20, 30)]
    assert parsed(["01/05/24 10:20"], "%D %R")[0] == [dt.datetime(2024, 1, 5, 10, 20)]
    assert parsed(["5.1.2024 9 Uhr", " 5.01.2024 09 Uhr"], "%e.%-m.%Y %-H Uhr")[0] == [dt.datetime(2024, 1, 5, 9)] * 2


def test_offsets_become_utc() -> None:
    """With and without a colon or minutes, and Z."""
    texts = ["2024-01-05 10+0200", "2024-01-05 10-03:30", "2024-01-05 10Z", "2024-01-05 10-08"]
    found, _ = parsed(list(texts), "%Y-%m-%d %H%z")
    assert [value and value.isoformat() for value in found] == [
        "2024-01-05T08:00:00+00:00", "2024-01-05T13:30:00+00:00", "2024-01-05T10:00:00+00:00",
        "2024-01-05T18:00:00+00:00",
    ]  # fmt: skip


def test_no_values_at_all() -> None:
    """Neither a column without rows nor one of NULLs alone has anything to say."""
    assert parsed([], "%F") == ([], [])
    assert parsed([None, None], "%F") == ([None, None], [False, False])
    assert localize(pa.nulls(2, pa.timestamp("us")), "Europe/Berlin").to_pylist() == [None, None]
    assert localize(pa.nulls(0, pa.timestamp("us")), "Europe/Berlin").to_pylist() == []


# Clocks that go by half an hour, back in summer, over a whole day, at midnight, by a lunar calendar; that stopped going
ZONES = [
    "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca", "Europe/Dublin",
    "Asia/Kathmandu", "America/Sao_Paulo", "Australia/Sydney", "Europe/Istanbul", "America/Mexico_City", "UTC",
]  # fmt: skip
# Names without a slash, such as CET, are links to different zones in different versions of the data
ALL_ZONES = sorted(name for name in zoneinfo.available_timezones() if "/" in name)


class Server:
    """What PostgreSQL makes of local times."""

    def __init__(self, dsn: str) -> None:
        self.connection = psycopg2.connect(dsn)
        self.connection.autocommit = True
        self.zones = {name for (name,) in self.rows("SELECT name FROM pg_timezone_names")}

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall()

    def reads(self, zone: str, values: list[dt.datetime]) -> list[int]:
        """Microseconds since 1970."""
        self.rows("SELECT set_config('timezone', %s, false)", zone)
        found = self.rows(
            "SELECT (extract(epoch FROM t::timestamptz) * 1000000)::bigint FROM unnest(%s::text[])"
            " WITH ORDINALITY AS u(t, n) ORDER BY n",
            [value.isoformat() for value in values],
        )
        return [each for (each,) in found]

    def has_our_data(self, zone: str, values: list[dt.datetime]) -> list[bool]:
        """Whether the server's time zone data are those of Python, around each value: every 15 minutes for 26 hours.

        They are of different versions, or built with another choice of what is kept of the years before 1970.
        """
        instants = [value + dt.timedelta(minutes=at) for value in values for at in range(-1560, 1561, 15)]
        self.rows("SELECT set_config('timezone', %s, false)", zone)
        shown = self.rows(
            "SELECT (t::timestamptz)::timestamp - (t::timestamptz AT TIME ZONE 'UTC')"
            " FROM unnest(%s::text[]) WITH ORDINALITY AS u(t, n) ORDER BY n",
            [f"{instant.isoformat()}+00" for instant in instants],
        )
        info = zoneinfo.ZoneInfo(zone)
        same = [
            theirs == instant.replace(tzinfo=dt.UTC).astimezone(info).utcoffset()
            for instant, (theirs,) in zip(instants, shown, strict=True)
        ]
        of_each = len(same) // len(values)
        return [all(same[at * of_each : (at + 1) * of_each]) for at in range(len(values))]


@pytest.fixture
def postgresql(dsn: str) -> Any:
    server = Server(dsn)
    yield server
    server.connection.close()


def ours(zone: str, values: list[dt.datetime]) -> list[int]:
    found: list[int] = localize(pa.array(np.array(values, "datetime64[us]")), zone).cast(pa.int64()).to_pylist()
    return found


@lru_cache(maxsize=1000)
def days_of_change(zone: str, first: int, last: int) -> list[dt.datetime]:
    """Days of the years from ``first`` to ``last`` before which the clocks were changed."""
    info = zoneinfo.ZoneInfo(zone)
    start = dt.datetime(first, 1, 1)
    days = [start + dt.timedelta(days=at) for at in range((dt.datetime(last, 12, 31) - start).days)]
    offsets = [day.replace(tzinfo=info).utcoffset() for day in days]
    return [day for day, before, after in zip(days[1:], offsets, offsets[1:], strict=False) if before != after]


def agree(postgresql: Server, zone: str, values: list[dt.datetime]) -> bool:
    """Whether both read those values alike for which both have the same data; there must be one such."""
    same = postgresql.has_our_data(zone, values)
    pairs = zip(same, ours(zone, values), postgresql.reads(zone, values), strict=True)
    assume(any(same))
    return all(our == theirs for known, our, theirs in pairs if known)


@pytest.mark.parametrize("zone", ZONES)
def test_every_change_of_the_clocks_is_read_as_postgresql_reads_it(postgresql: Server, zone: str) -> None:
    """Times that are skipped and times that come twice, every ten minutes around each change from 1970 to 2036."""
    days = days_of_change(zone, 1970, 2036) or [dt.datetime(2024, 6, 1)]
    known = [day for day, same in zip(days, postgresql.has_our_data(zone, days), strict=True) if same]
    assert known
    values = [day + dt.timedelta(minutes=at) for day in known for at in range(-1500, 300, 10)]
    assert ours(zone, values) == postgresql.reads(zone, values)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_zone_at_any_time_is_read_as_postgresql_reads_it(postgresql: Server, data: st.DataObject) -> None:
    """Local mean times of old, wars, summer times that were tried for a year; and near a change, to the second."""
    zone = data.draw(st.sampled_from([name for name in ALL_ZONES if name in postgresql.zones]))
    year = data.draw(st.integers(1900, 2037))
    anywhere = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2037, 12, 31))
    days = days_of_change(zone, max(1900, year - 10), min(2037, year + 10))
    seconds = st.integers(-180_000, 90_000).map(lambda at: dt.timedelta(seconds=at))
    near = st.builds(lambda day, at: day + at, st.sampled_from(days), seconds) if days else anywhere
    assert agree(postgresql, zone, data.draw(st.lists(st.one_of(anywhere, near), min_size=1, max_size=6)))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    values=st.lists(st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29)), min_size=1, max_size=4),
)
@example("America/Sao_Paulo", [dt.datetime(2040, 1, 15)])  # no summer time since 2019
@example("Europe/Berlin", [dt.datetime(9999, 12, 29), dt.datetime(2024, 3, 31, 2, 30), dt.datetime(1, 1, 3)])
@example("Africa/Casablanca", [dt.datetime(2037, 10, 4, 2), dt.datetime(2024, 3, 10, 2)])
def test_years_far_off_follow_the_same_rules(postgresql: Server, zone: str, values: list[dt.datetime]) -> None:
    """Also where the tables of changes end, and a rule is all there is."""
    assert agree(postgresql, zone, values)


def test_values_decades_apart_have_the_offsets_of_their_years() -> None:
    """Whatever lies between them: 9999-12-31 is a usual way to write "never"."""
    values = [dt.datetime(9999, 12, 31), dt.datetime(1940, 7, 1), dt.datetime(2024, 7, 1), dt.datetime(1, 1, 1)]
    assert ours("Europe/Moscow", values) == [each for value in values for each in ours("Europe/Moscow", [value])]


def test_offsets_as_zones() -> None:
    """East of Greenwich is plus, as in ISO 8601; behind PostgreSQL's angle brackets it is minus; NULL stays NULL."""
    values = pa.array([dt.datetime(2024, 1, 5, 12), None])
    hours = {"+02:00": 10, "-03": 15, "+0530": 6, "<+02>-02": 10, "<-03>+03": 15, "UTC": 12}
    for zone, hour in hours.items():
        assert [each and each.hour for each in localize(values, zone).to_pylist()] == [hour, None]


def test_an_offset_that_postgresql_shows_is_read_as_it_means_it(postgresql: Server) -> None:
    """``SET timezone = 2`` is shown as ``<+02>-02``."""
    postgresql.rows("SELECT set_config('timezone', '2', false)")
    ((shown,),) = postgresql.rows("SHOW timezone")
    values = [dt.datetime(2024, 1, 5, 12)]
    assert ours(shown, values) == postgresql.reads("2", values)


def test_a_zone_that_there_is_not() -> None:
    """Is named."""
    with pytest.raises(LoaderError, match='time zone "Europe/Berln": is not in the time zone data of this machine'):
        localize(pa.array([dt.datetime(2024, 1, 5)]), "Europe/Berln")
