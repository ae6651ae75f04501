"""A filter means what the same condition means in SQL over the values that the table stores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from support.filters import Case, FilterLaw, cases
from support.postgres import query

import loader
from loader.errors import SpecError

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
    report = loader.load(str(path), {"table": "t", "transform": {"filter": condition}}, dsn=dsn)
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
    ],
)
def test_a_filter_sees_what_is_stored(
    dsn: str, tmp_path: Path, type_: str, texts: list[str], condition: str, expected: int
) -> None:
    assert len(kept(dsn, tmp_path / "v.csv", type_, texts, condition)) == expected


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
        ("v > 1", "operator does not exist: mood > integer"),
    ],
)
def test_a_condition_that_makes_no_sense_to_postgresql(dsn: str, tmp_path: Path, condition: str, message: str) -> None:
    """It is the spec's fault, before anything is read."""
    query(dsn, "CREATE TYPE mood AS ENUM ('sad', 'ok')")
    with pytest.raises(SpecError, match=message):
        kept(dsn, tmp_path / "v.csv", "mood", ["ok"], condition)


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


def test_a_default_that_postgresql_refuses_is_the_specs_fault(dsn: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,\n")
    columns = {"a": "int", "b": {"type": "date", "default": "tomorow"}}
    with pytest.raises(SpecError, match='the default "tomorow" is not a valid date: invalid input syntax'):
        loader.load(str(path), {"table": "t", "columns": columns}, dsn=dsn)


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
