"""A filter means what the same condition means in SQL over the values that the table stores."""

from __future__ import annotations

import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, given, seed, settings
from support.filters import Case, FilterLaw, cases
from support.identity import HOOKS
from support.postgres import of_database, query, run_alone

import loader
from loader.core.errors import SpecError

EXAMPLES = int(os.environ.get("FILTER_EXAMPLES", "15"))
"""Tables and conditions that are tried; a long run has thousands."""


def test_a_load_with_a_filter_is_where_over_a_load_without(dsn: str, tmp_path: Path) -> None:
    """Random tables, values and conditions: NULL, NaN, infinities, rounding, blanks, with the kernel and without."""
    law = FilterLaw(dsn, tmp_path)

    @seed(3)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(cases())
    def check(case: Case) -> None:
        law.check(case)

    try:
        check()
    finally:
        law.close()


def kept(dsn: str, path: Path, type_: str, texts: list[str], condition: str) -> list[str]:
    """What is stored of the texts, in a column ``v``, by a load that keeps what the condition is true for."""
    query(dsn, f"DROP TABLE IF EXISTS t; CREATE TABLE t (v {type_})")
    path.write_text("v\n" + "".join(f'"{text}"\n' for text in texts))
    report = loader.load(str(path), {"table": "t", "transform": {"filter": condition}}, dsn=dsn, force=True)
    assert report.rows_read == report.rows_inserted + report.rows_filtered == len(texts)
    return [text for (text,) in query(dsn, "SELECT v::text FROM t ORDER BY 1")]


@pytest.mark.parametrize(
    ("type_", "texts", "condition", "expected"),
    [
        ("timestamp(0)", ["2024-01-31 11:59:59.6", "2024-01-31 12:00:00.4"], "v = '2024-01-31 12:00'", 2),
        ("char(4)", ["ab  ", "ab", "abc"], "v = 'ab'", 2),
        ("varchar(3)", ["abc  ", "abc", "ab "], "v = 'abc'", 2),
        ("bpchar", ["ab  ", "ab", "abc"], "v = 'ab'", 2),
        ("numeric", ["10", "9", "1e1"], "v >= 10", 2),
        ("uuid", ["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"], "v = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", 1),
        ("double precision", ["NaN", "1", "0"], "v / 0 > 1", 1),
        ("double precision", ["1e308", "1"], "v * 10 > 1", 1),
        ("numeric(9,2)", ["1.00", "2.00"], "v / 3 = 0.66666666666666666667", 1),
        ("timestamptz", ["0001-01-01 00:00+14", "infinity", "2024-01-01 00:00Z"], "v < '2000-01-01'", 1),
        ("int", ["1", "2"], "v = '1' or v in ('3', 4)", 1),
        ("boolean", ["t", "f"], "v = 'yes'", 1),
        ("double precision", ["NaN", "1"], "v = 'NaN'", 1),
        ("bytea", [r"\x6162", r"\x63"], "v like 'a%'", 1),
        ("real", ["0.1", "0.3"], "v in (0.1, null)", 1),
        ("real", ["0.1", "0.3"], "v in (0.1 + 0.0, 0.3)", 2),
        ("int", ["1", "2"], "null in (1, 2)", 0),
        ("int", ["1", "2"], "'a' < 'B' or 't' = true and 1 > 1", 0),
        ("pair", ["(1,x)", "(1,)", "(,)"], "v is not null", 1),
        ("pair", ["(1,x)", "(1,)", "(,)"], "not v is null", 2),
    ],
)
def test_a_filter_sees_what_is_stored(
    dsn: str, tmp_path: Path, type_: str, texts: list[str], condition: str, expected: int
) -> None:
    query(dsn, "CREATE TYPE pair AS (a int, b text)")
    assert len(kept(dsn, tmp_path / "v.csv", type_, texts, condition)) == expected


def test_a_date_beside_a_timestamp_with_time_zone(dsn: str, tmp_path: Path) -> None:
    """The day begins where the session is."""
    query(dsn, "CREATE TABLE t (day date, at timestamptz)")
    path = tmp_path / "t.csv"
    path.write_text("day,at\n2024-01-31,2024-01-31 00:00Z\n2024-01-31,2024-01-31 00:00+05\n")
    zoned = f"{dsn}{'&' if '?' in dsn else '?'}options=-ctimezone%3DAsia/Karachi"
    assert loader.load(str(path), {"table": "t", "transform": {"filter": "day = at"}}, dsn=zoned).rows_inserted == 1
    assert query(dsn, "SELECT at AT TIME ZONE 'UTC' FROM t") == [(datetime(2024, 1, 30, 19, 0),)]


def test_text_is_ordered_by_code_point_in_arrays_too(servers: Any, tmp_path: Path) -> None:
    """Whatever the database's own order is."""
    server = servers("system-15")
    run_alone(
        server,
        "CREATE DATABASE english TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en' LC_COLLATE 'C' LC_CTYPE 'C'",
    )
    dsn = of_database(server, "english")
    try:
        assert query(dsn, "SELECT 'a' < 'B'") == [(True,)]
        assert kept(dsn, tmp_path / "v.csv", "text", ["a", "B"], "v > 'Z'") == ["a"]
        for type_ in ("text[]", "varchar(2)[]"):
            assert kept(dsn, tmp_path / "v.csv", type_, ["{a}", "{B}"], "v > '{Z}'") == ["{a}"]
    finally:
        run_alone(server, "DROP DATABASE english WITH (FORCE)")


def test_a_decimal_becomes_a_double_as_postgresql_makes_it(dsn: str, tmp_path: Path) -> None:
    """Rounded correctly, which Arrow's own conversion is not."""
    query(dsn, "CREATE TABLE t (n numeric(38,17), d double precision)")
    rows = query(
        dsn,
        "SELECT n::text, n::double precision::text FROM (SELECT (random() * 1000)::numeric(38,17) + 3e-17 AS n"
        "  FROM generate_series(1, 2000)) AS r",
    )
    path = tmp_path / "n.csv"
    path.write_text("n,d\n" + "".join(f"{n},{d}\n" for n, d in rows))
    report = loader.load(str(path), {"table": "t", "transform": {"filter": "n = d"}}, dsn=dsn)
    assert (report.rows_inserted, report.rows_filtered) == (2000, 0)


def test_with_a_column_that_only_the_server_reads(dsn: str, tmp_path: Path) -> None:
    """A moment of the year 1 that is one of the year 0 in UTC is kept as well."""
    query(dsn, "CREATE TABLE t (at timestamptz, span interval)")
    path = tmp_path / "t.csv"
    path.write_text("at,span\n0001-01-01 00:00:00+14,1 day\n2024-01-01 00:00Z,2 days\n")
    spec = {"table": "t", "transform": {"filter": "span >= '1 day' and at is not null"}}
    assert loader.load(str(path), spec, dsn=dsn).rows_inserted == 2
    assert query(dsn, "SELECT count(*) FROM t WHERE at < '0001-01-01'") == [(1,)]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("v = 'nothing'", "invalid input value for enum mood"),
        ("v + 1 > 2", '"v" is text, and arithmetic takes numbers'),
        ("v like 'o%'", '"v" is an enum, and like takes text'),
        ("n like '1%'", '"n" is a number, and like takes text'),
        ("id like 'a%'", "operator does not exist: uuid ~~ unknown"),
        ("n = 'one'", 'invalid input syntax for type integer: "one"'),
        ("v > 1", "operator does not exist: mood > integer"),
    ],
)
def test_a_condition_that_makes_no_sense_to_postgresql(dsn: str, tmp_path: Path, condition: str, message: str) -> None:
    """It is the spec's fault, before anything is read."""
    query(dsn, "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE t (v mood, n int, id uuid)")
    path = tmp_path / "v.csv"
    path.write_text("v,n,id\n")
    with pytest.raises(SpecError, match=message):
        loader.load(str(path), {"table": "t", "transform": {"filter": condition}}, dsn=dsn)


@pytest.mark.parametrize(
    ("type_", "default", "stored"),
    [
        ("date", "Jan 5 2024", "2024-01-05"),
        ("date", "infinity", "infinity"),
        ("timestamptz", "-infinity", "-infinity"),
        ("numeric", "1e3", "1000"),
        ("double precision", "inf", "Infinity"),
        ("interval", "1 day 24:00", "1 day 24:00:00"),
        ("int[]", "{1, 2}", "{1,2}"),
    ],
)
@pytest.mark.parametrize("header", ["a,b", "a"])
def test_a_default_is_what_postgresql_reads(
    dsn: str, tmp_path: Path, header: str, type_: str, default: str, stored: str
) -> None:
    """Where the field is empty, and where the file has no such field."""
    path = tmp_path / "t.csv"
    path.write_text(f"{header}\n1{',' * header.count(',')}\n")
    columns = {"a": "int", "b": {"type": type_, "default": default}}
    loader.load(str(path), {"table": "t", "columns": columns}, dsn=dsn)
    assert query(dsn, "SELECT b::text FROM t") == [(stored,)]


def test_today_is_the_day_of_the_load(dsn: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,\n")
    columns = {"a": "int", "b": {"type": "date", "default": "today"}}
    ((before,),) = query(dsn, "SELECT current_date")
    loader.load(str(path), {"table": "t", "columns": columns}, dsn=dsn)
    ((stored,),) = query(dsn, "SELECT b FROM t")
    ((after,),) = query(dsn, "SELECT current_date")
    assert before <= stored <= after


def test_a_default_is_one_value_for_all_workers_and_attempts(dsn: str, tmp_path: Path, monkeypatch: Any) -> None:
    """ "now" is when the load was planned."""
    monkeypatch.setattr("loader.sharding.workers.LEAST", 100_000)
    (tmp_path / "t.csv").write_text("a,b\n" + "1,\n" * 100_000)
    columns = {"a": "int", "b": {"type": "timestamptz", "default": "now"}}
    report = loader.load(str(tmp_path / "t.csv"), {"table": "t", "columns": columns}, dsn=dsn, workers=2)
    assert "shards" in str(report.notes)
    assert query(dsn, "SELECT count(b), count(DISTINCT b) FROM t") == [(100_000, 1)]


@pytest.mark.parametrize(
    ("type_", "default", "why"),
    [
        ("date", "tomorow", "invalid input syntax"),
        ("character varying(3)", "abcd", "value too long"),
        ("character(2)", "abc", "value too long"),
        ("character varying(2)[]", "{abc}", "value too long"),
        ("numeric(3,1)", "123", "numeric field overflow"),
        ("positive", "-1", "value for domain positive violates"),
    ],
)
@pytest.mark.parametrize("new", [True, False])
def test_a_default_that_postgresql_refuses_is_the_specs_fault(
    dsn: str, tmp_path: Path, type_: str, default: str, why: str, *, new: bool
) -> None:
    """And not that of each record that lacks the value."""
    query(dsn, "CREATE DOMAIN positive AS int CHECK (VALUE > 0)")
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,\n")
    if not new:
        query(dsn, f"CREATE TABLE t (a int, b {type_})")
    columns = {"a": "int", "b": {**({"type": type_} if new else {}), "default": default}}
    with pytest.raises(SpecError, match=re.escape(f'the default "{default}" is not a valid {type_}: {why}')):
        loader.load(str(path), {"table": "t", "columns": columns}, dsn=dsn)


def test_a_default_that_postgresql_cannot_spell_is_left_as_it_is(dsn: str, tmp_path: Path) -> None:
    """Operator 965 is "pg_catalog.^" to regoper's output, which its input does not know."""
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,\n")
    columns = {"a": "int", "b": {"type": "regoper", "default": "965"}}
    loader.load(str(path), {"table": "t", "columns": columns}, dsn=dsn)
    assert query(dsn, "SELECT b::oid FROM t") == [(965,)]


def test_a_domain_takes_a_format_like_the_type_under_it(dsn: str, tmp_path: Path) -> None:
    """And its CHECK rejects a record, not the load."""
    query(dsn, "CREATE DOMAIN day AS date CHECK (VALUE > '2000-01-01')")
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,05.01.2024\n2,05.01.1999\n3,x\n")
    columns = {"a": "int", "b": {"type": "day", "format": "%d.%m.%Y"}}
    spec = {"table": "t", "columns": columns, "rejects": {"max_rows": 5, "max_ratio": 1.0}}
    assert loader.load(str(path), spec, dsn=dsn).rows_rejected == 2
    assert query(dsn, "SELECT b::text FROM t") == [("2024-01-05",)]


def test_a_format_and_a_zone_are_for_times_alone(dsn: str, tmp_path: Path) -> None:
    """Of a domain that is only found when its type is known."""
    query(dsn, "CREATE DOMAIN small AS int")
    path = tmp_path / "t.csv"
    path.write_text("b\n1\n")
    for setting in ({"format": "%d.%m.%Y"}, {"timezone": "CET"}):
        with pytest.raises(SpecError, match=r"columns\.b"):
            loader.load(str(path), {"table": "t", "columns": {"b": {"type": "small", **setting}}}, dsn=dsn)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
@pytest.mark.parametrize("with_interval", [False, True], ids=["typed", "text"])
@pytest.mark.parametrize("hook", [None, *HOOKS])
def test_moments_at_the_ends_of_the_calendar(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str, hook: str | None, with_interval: bool
) -> None:
    """Where a zone moves them into the year 0 or 10000, with a format and without, seen by a filter and by a hook."""
    monkeypatch.setenv("LOADER_HOOKS", "support")
    texts = ["0001-01-01 00:00", "9999-12-31 23:59", "0001-01-01 00:00+14", "0000-12-31 20:00-05"]
    odd = [] if hook else ["0044-03-15 BC", "4714-11-24 00:00 BC", "4714-11-24 12:00 BC", "4714-11-23 12:00+00 BC"]
    others = ["", ""]
    path = tmp_path / "t.csv"
    lines = [f"{text},{text if at < 2 else ''},1 day" for at, text in enumerate([*texts, *odd, *others])]
    path.write_text("at,formatted,span\n" + "\n".join(lines) + "\n")
    query(dsn, f"CREATE TABLE t (at timestamptz, formatted timestamptz{', span interval' * with_interval})")
    columns = {
        "at": {"type": "timestamptz", "timezone": zone},
        "formatted": {"type": "timestamptz", "timezone": zone, "format": "%Y-%m-%d %H:%M"},
        **({"span": "interval"} if with_interval else {}),
    }
    transform = {"filter": "at is not null" + " and span > '2 hours'" * with_interval}
    transform |= {"python": hook} if hook else {}
    spec = {"table": "t", "columns": columns, "transform": transform, "rejects": {"max_ratio": 1.0}}
    report = loader.load(str(path), spec, dsn=dsn)

    expected = [each for each in (read_in(dsn, zone, text) for text in [*texts, *odd]) if each is not None]
    assert [at for (at,) in query(dsn, "SELECT extract(epoch FROM at) FROM t ORDER BY 1")] == sorted(expected)
    assert query(dsn, "SELECT at = formatted FROM t WHERE formatted IS NOT NULL") == [(True,), (True,)]
    assert (report.rows_filtered, report.rows_rejected) == (len(others), len(texts + odd) - len(expected))


def read_in(dsn: str, zone: str, text: str) -> Any:
    """The moment that PostgreSQL reads in a zone, in seconds since 1970; None where it refuses the text."""
    try:
        ((moment,),) = query(dsn, f"SET TIME ZONE '{zone}'; SELECT extract(epoch FROM %s::timestamptz)", text)
    except psycopg2.DataError:
        return None
    return moment
