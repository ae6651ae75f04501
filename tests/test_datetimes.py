"""Formats are Python's, zones are PostgreSQL's."""

from __future__ import annotations

import datetime as dt
import zoneinfo

import numpy as np
import psycopg2
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from loader.datetimes import compile_format, localize

FORMATS = [
    "%d/%m/%Y %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f", "%m/%d/%y", "%d %b %Y", "%B %d, %Y %I:%M %p",
    "%a %d %b %Y", "%A, %d. %B %Y", "%Y%j", "%Y%m%d", "%H:%M:%S", "%H:%M", "%Y-%m-%dT%H:%M:%S%z", "%d.%m.%Y 100%%",
    "(%Y) [%m] {%d} ^$.*+?|\\",
]  # fmt: skip

moments = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999))
mangled = st.text("0123456789/-:. apmAPMJjanZ+", max_size=22)


def python_says(text: str, format: str) -> dt.datetime | None:
    """The one-value definition."""
    try:
        found = dt.datetime.strptime(text, format)
    except (ValueError, OverflowError):
        return None
    return found if "d" in format or "j" in format else found.replace(1970)


def parsed(texts: list[str | None], format: str) -> tuple[list[dt.datetime | None], list[bool]]:
    array, bad = compile_format(format).parse(pa.array(texts, pa.string()))
    return array.to_pylist(), bad.tolist()


@given(st.sampled_from(FORMATS), st.lists(moments, min_size=1, max_size=10))
@example("%d/%m/%Y %H:%M", [dt.datetime(2024, 2, 29), dt.datetime(1900, 2, 28), dt.datetime(2000, 12, 31)])
def test_what_python_writes_is_read_as_python_reads_it(format: str, values: list[dt.datetime]) -> None:
    """Every directive, over all years."""
    texts = [value.replace(tzinfo=dt.UTC).strftime(format.replace("%Y", f"{value.year:04}")) for value in values]
    expected = [python_says(text, format) for text in texts]
    assume(all(value is not None for value in expected))
    found, bad = parsed(list(texts), format)
    assert found == expected
    assert not any(bad)


@given(st.sampled_from(FORMATS), st.lists(st.one_of(st.none(), mangled), max_size=10))
@example("%d/%m/%Y %H:%M", ["31/02/2024 10:00", "29/02/2023 10:00", "5/1/2024 1:2", "05/01/2024 10:20xx", None, ""])
@example("%Y%j", ["2024366", "2023366", "2023000", "20231"])
@example("%m/%d/%y", ["01/05/68", "01/05/69", "13/01/20"])
@example("%H:%M", ["24:00", "23:60", "7:5"])
def test_what_python_refuses_is_bad(format: str, texts: list[str | None]) -> None:
    """A value is bad exactly if ``datetime.strptime`` raises; NULL is NULL and not bad."""
    found, bad = parsed(texts, format)
    expected = [None if text is None else python_says(text, format) for text in texts]
    # Python also takes an offset with seconds, a blank for any run of blanks, and the 366th day of any year, which
    # it makes the next year's first
    for text, ours, wrong, theirs in zip(texts, found, bad, expected, strict=True):
        if theirs is not None and wrong:
            assert "%z" in format or "%j" in format or text != text.strip() or "  " in str(text) or " " in format
        else:
            assert ours == theirs
        assert wrong == (text is not None and ours is None)


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("%Q", 'the directive "%Q"; there are'),
        ("%Y-%m-%", 'the directive "%"'),
        ("no directive", "has no directive"),
        ("%Y %Y", '"%Y" twice'),
        ("%Y %y", 'both "%Y" and "%y"'),
        ("%I:%M", '"%I" without "%p"'),
        ("%d.%m.", "a day or month, but no year"),
        ("%D %m", '"%m" twice'),
    ],
)
def test_a_format_that_makes_no_sense(format: str, message: str) -> None:
    """Is refused in one sentence, before anything is read."""
    with pytest.raises(ValueError, match=message):
        compile_format(format)


def test_shorthands() -> None:
    """%F %T and friends."""
    assert parsed(["2024-01-05 10:20:30"], "%F %T")[0] == [dt.datetime(2024, 1, 5, 10, 20, 30)]
    assert parsed(["01/05/24 10:20"], "%D %R")[0] == [dt.datetime(2024, 1, 5, 10, 20)]


def test_offsets_become_utc() -> None:
    """With and without a colon, and Z."""
    found, _ = parsed(["2024-01-05 10+0200", "2024-01-05 10-03:30", "2024-01-05 10Z"], "%Y-%m-%d %H%z")
    assert [value and value.isoformat() for value in found] == [
        "2024-01-05T08:00:00+00:00", "2024-01-05T13:30:00+00:00", "2024-01-05T10:00:00+00:00"
    ]  # fmt: skip


ZONES = [
    "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca", "Europe/Dublin",
    "Asia/Kathmandu", "America/Sao_Paulo", "Australia/Sydney", "UTC",
]  # fmt: skip


def postgresql_says(dsn: str, zone: str, texts: list[str]) -> list[int]:
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT set_config('timezone', %s, false)", (zone,))
        cursor.execute("SELECT (extract(epoch FROM t::timestamptz) * 1000000)::bigint FROM unnest(%s::text[])"
                       " WITH ORDINALITY AS u(t, n) ORDER BY n", (texts,))  # fmt: skip
        found = [each for (each,) in cursor.fetchall()]
    connection.close()
    return found


def ours(zone: str, texts: list[str]) -> list[int]:
    values = pa.array(np.array(texts, "datetime64[us]"))
    return localize(values, zone).cast(pa.int64()).to_pylist()


@pytest.mark.parametrize("zone", ZONES)
def test_every_change_of_the_clocks_is_read_as_postgresql_reads_it(dsn: str, zone: str) -> None:
    """Times that are skipped and times that come twice, every ten minutes around each change from 1970 to 2036."""
    texts, before = [], None
    day = dt.datetime(1970, 1, 1)
    while day.year < 2037:
        offset = day.replace(tzinfo=zoneinfo.ZoneInfo(zone)).utcoffset()
        if before not in (None, offset):
            texts += [(day + dt.timedelta(minutes=at)).isoformat() for at in range(-1500, 300, 10)]
        before = offset
        day += dt.timedelta(days=1)
    texts.append("2024-06-01")
    assert ours(zone, texts) == postgresql_says(dsn, zone, texts)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Sydney", "Asia/Kathmandu"]),
    values=st.lists(st.datetimes(dt.datetime(1950, 1, 1), dt.datetime(2370, 12, 31)), min_size=1, max_size=50),
)
def test_years_far_off_follow_the_same_rules(dsn: str, zone: str, values: list[dt.datetime]) -> None:
    """Also after 2037, where the system's zone tables end."""
    texts = [value.isoformat() for value in values]
    assert ours(zone, texts) == postgresql_says(dsn, zone, texts)


def test_offsets_as_zones() -> None:
    """East of Greenwich is plus, as in ISO 8601; NULL stays NULL."""
    values = pa.array([dt.datetime(2024, 1, 5, 12), None])
    assert [each and each.hour for each in localize(values, "+02:00").to_pylist()] == [10, None]
    assert [each and each.hour for each in localize(values, "-03").to_pylist()] == [15, None]
