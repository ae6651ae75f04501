"""Formats are Python's, zones are PostgreSQL's."""

from __future__ import annotations

import datetime as dt
import re
import subprocess
import sys

import pyarrow as pa
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support.zones import MACHINE_ZONES

from loader.core.spec.datetimes import FIXED_ZONES, compile_format

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
        "import sys; from loader.core.spec.datetimes import compile_format; "
        "compile_format('%F'); print('pyarrow' in sys.modules)"
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
    assert MACHINE_ZONES.localize(pa.nulls(2, pa.timestamp("us")), "Europe/Berlin").to_pylist() == [None, None]
    assert MACHINE_ZONES.localize(pa.nulls(0, pa.timestamp("us")), "Europe/Berlin").to_pylist() == []


def test_offsets_as_zones() -> None:
    """East of Greenwich is plus, as in ISO 8601; behind PostgreSQL's angle brackets it is minus; NULL stays NULL."""
    values = pa.array([dt.datetime(2024, 1, 5, 12), None])
    hours = {"+02:00": 10, "-03": 15, "+0530": 6, "<+02>-02": 10, "<-03>+03": 15, "UTC": 12}
    for zone, hour in hours.items():
        assert [each and each.hour for each in FIXED_ZONES.localize(values, zone).to_pylist()] == [hour, None]
