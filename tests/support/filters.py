"""The law of filters: what a load keeps is what ``WHERE`` keeps of a load without the filter."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg2
import psycopg2.extensions
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import loader
from support.laws import database
from support.postgres import run_alone

OWN_TYPES = (
    "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')",
    "CREATE DOMAIN code AS varchar(3)",
    "CREATE DOMAIN second AS timestamp(0)",
    "CREATE DOMAIN moment AS timestamptz",
    "CREATE DOMAIN filled AS int NOT NULL",
    "CREATE TYPE pair AS (a int, b text)",
    "CREATE DOMAIN couple AS pair",
)

_INTEGERS = ["0", "-1", "7", "+5", " 12", "32767", "2_0"]
_NUMBERS = ["0", "-0", "1.5", "0.1", "-2.25", "1e1", "NaN", "3", "12345.675", "0.30000000000000004", "0.3"]
_FLOATS = [*_NUMBERS, "Infinity", "-inf", "1e300", "1e-300", "16777217"]
_TEXTS = ["", "a", "ab", "ab ", "abc ", "abc  ", "B", "é", "a%", " a"]
_MOMENTS = [
    "2024-01-31", "2024-01-31 12:00:00.4", "2024-01-31 12:00:00.5", "2024-01-31 11:59:59.999", "Jan 31 2024 12:00",
    "infinity", "-infinity", "0001-01-01", "0044-03-15 BC", "2024-02-01 00:00:00",
]  # fmt: skip
_FORMATTED = ["31.01.2024 12:00", "01.01.0001 00:00", "31.12.9999 23:59", "31.12.0000 23:00", "30.02.2024 00:00"]
_PAIRS = ["(1,a)", "(1,)", "(,)", "(2,B)", '(1,"a ")', "(x,a)"]
_CLOCKS = ["12:00", "12:00:00.04", "12:00:00.05", "11:59:59.99", "24:00", "00:00"]

VALUES: dict[str, list[str]] = {
    "smallint": _INTEGERS, "int": _INTEGERS, "bigint": [*_INTEGERS, "9007199254740993"],
    "numeric": [*_NUMBERS, "-inf", "1e38", "1e-20", "1e70000"], "numeric(9,2)": _NUMBERS, "numeric(30,17)": _NUMBERS,
    "real": _NUMBERS[:-3], "double precision": _FLOATS,
    "text": _TEXTS, "varchar(3)": _TEXTS, "char(4)": _TEXTS, "bpchar": _TEXTS, "code": _TEXTS, "json": ["{}", "[1]"],
    "boolean": ["t", "no", "1"], "date": ["2024-01-31", "Jan 31 2024", "0001-01-01", "infinity", "0044-03-15 BC"],
    "timestamp": _MOMENTS, "timestamp(0)": _MOMENTS, "second": _MOMENTS, "timestamptz": _MOMENTS,
    "timestamptz(2)": _MOMENTS, "time": _CLOCKS, "time(1)": _CLOCKS,
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"],
    "mood": ["sad", "ok", "happy"], "jsonb": ['{"a":1}', '{"a": 1}', "1.0"],
    "interval": ["1 day", "24:00:00", "1 mon"], "inet": ["10.0.0.1", "10.0.0.0/8"], "int[]": ["{1,2}", "{}"],
    "moment": _MOMENTS, "filled": _INTEGERS, "pair": _PAIRS, "couple": _PAIRS, "pair[]": ["{}", '{"(1,a)"}', '{"(,)"}'],
    "text[]": ["{a}", "{B,NULL}", "{}"], "varchar(3)[]": ["{a}", "{B}"], "bytea": [r"\x6162", "a%", r"\x"],
}  # fmt: skip

_ZONES = ["America/New_York", "Asia/Kolkata", "+14:00"]
_ZONED = ("timestamptz", "timestamptz(2)", "moment")
_DATED = (*_ZONED, "timestamp", "timestamp(0)", "second")

_NUMERIC = ["0", "1.5", "0.1", "7", "-2.25", "10", "0.3", "12345.68", "1e40"]
_WHOLE, _EXACT, _FLOATING = [*_NUMERIC, "'7'"], [*_NUMERIC, "'1.50'"], [*_NUMERIC[:-1], "'NaN'", "'-0'"]
_QUOTED_ARRAYS = ["'{a}'", "'{Z}'"]
_QUOTED_TEXTS = ["'a'", "'ab'", "'ab '", "'abc'", "'B'", "'é'", "''"]
_QUOTED_MOMENTS = ["'2024-01-31'", "'2024-01-31 12:00'", "'2024-01-31 12:00:01'", "'2024-01-31 12:00:00.4'"]
_QUOTED_CLOCKS = ["'12:00'", "'12:00:00.1'", "'12:00:00.05'", "'00:00'"]

CONSTANTS: dict[str, list[str]] = {
    **dict.fromkeys(["smallint", "int", "bigint", "filled"], _WHOLE),
    **dict.fromkeys(["numeric", "numeric(9,2)", "numeric(30,17)"], _EXACT),
    **dict.fromkeys(["real", "double precision"], _FLOATING),
    **dict.fromkeys(["text", "varchar(3)", "char(4)", "bpchar", "code"], _QUOTED_TEXTS),
    **dict.fromkeys(_DATED, _QUOTED_MOMENTS),
    "pair[]": ["'{\"(1,a)\"}'"], **dict.fromkeys(["text[]", "varchar(3)[]"], _QUOTED_ARRAYS), "bytea": ["'a%'"],
    "boolean": ["true", "false", "'yes'"], "date": ["'2024-01-31'", "'0001-01-01'"],
    "time": _QUOTED_CLOCKS, "time(1)": _QUOTED_CLOCKS, "uuid": [f"'{each}'" for each in VALUES["uuid"]],
    "mood": ["'sad'", "'ok'"], "jsonb": ["'{\"a\": 1}'", "'1'"], "interval": ["'24 hours'", "'30 days'"],
    "inet": ["'10.0.0.1'"], "int[]": ["'{1,2}'"], "json": ["'{}'"],
}  # fmt: skip

_COLLATED = ("text", "varchar(3)", "char(4)", "bpchar", "code", "text[]", "varchar(3)[]")
_LIKED = ("text", "varchar(3)", "char(4)", "bpchar", "code", "bytea")
_COMPUTED = (
    *("smallint", "int", "bigint", "filled", "numeric", "numeric(9,2)", "numeric(30,17)", "real", "double precision"),
)
_OPERATORS = ["=", "<>", "<", "<=", ">", ">="]

Pair = tuple[str, str]
"""A condition as the loader is given it, and as PostgreSQL has to be asked: there a quotient by zero is an error."""


@dataclass(frozen=True)
class Field:
    """A column of a case. ``setting``: what its spec says beside the type."""

    name: str
    type: str
    setting: Mapping[str, str]

    @property
    def texts(self) -> list[str]:
        return _FORMATTED if "format" in self.setting else VALUES[self.type]


@st.composite
def _columns(draw: st.DrawFn) -> tuple[Field, ...]:
    found = []
    for place, type_ in enumerate(draw(st.lists(st.sampled_from([*VALUES]), min_size=1, max_size=4))):
        setting = {}
        if type_ in _ZONED and draw(st.booleans()):
            setting["timezone"] = draw(st.sampled_from(_ZONES))
        if type_ in _DATED and draw(st.integers(0, 2)) == 0:
            setting["format"] = "%d.%m.%Y %H:%M"
        found.append(Field(f"c{place}", type_, setting))
    return tuple(found)


@st.composite
def _comparisons(draw: st.DrawFn, columns: Sequence[Field]) -> Pair:
    column = draw(st.sampled_from(columns))
    type_ = column.type
    ours = theirs = column.name
    if type_ in _COLLATED:
        theirs = f'({ours} COLLATE "C")'
    if type_ == "json":
        theirs = f"{ours}::text"
    forms = [
        "compare",
        "compare",
        "compare",
        "list",
        "between",
        "null",
        "null",
        "like",
        "column",
        "sum",
        "ratio",
        "fixed",
    ]
    form = draw(st.sampled_from(forms))
    constants = st.sampled_from(CONSTANTS.get(type_, [column.name]))  # composites have none
    operator = draw(st.sampled_from(["=", "<>"] if type_ == "json" else _OPERATORS))
    if form == "fixed":
        return (draw(st.sampled_from(_FIXED)),) * 2
    if form == "like" and type_ in _LIKED:
        pattern = draw(st.sampled_from(["'a%'", "'ab'", "'ab %'", "'%b__'", "'_'"]))
        return f"{ours} like {pattern}", f"{theirs} like {pattern}"
    if form == "null":
        word = draw(st.sampled_from(["is null", "is not null"]))
        return f"{ours} {word}", f"{theirs} {word}"
    if form == "column" and type_ in _DATES:
        other = draw(st.sampled_from([each.name for each in columns if each.type in _DATES]))
        return (f"{ours} {operator} {other}",) * 2
    if form in ("column", "sum", "ratio") and type_ in _COMPUTED:
        other = draw(st.sampled_from([each.name for each in columns if each.type in _COMPUTED]))
        if form == "sum":
            sign = draw(st.sampled_from("+-*" if type_ in ("real", "double precision", "numeric") else "+-"))
            ours = theirs = f"({ours} {sign} {other})"
        elif form == "ratio":
            ours, theirs = f"({ours} / {other})", _ratio(ours, other)
        else:
            return (f"{ours} {operator} {other}",) * 2
    if form == "list":
        items = draw(st.lists(constants | st.just("null"), min_size=1, max_size=4))
        if type_ in _COMPUTED:
            others = [each.name for each in columns if each.type in _COMPUTED]
            items += draw(st.lists(st.sampled_from([*others, "0.1 + 0.2", "null + 1"]), max_size=1))
        word = draw(st.sampled_from(["in", "in", "not in"]))
        return f"{ours} {word} ({', '.join(items)})", f"{theirs} {word} ({', '.join(items)})"
    if form == "between":
        low, high = draw(constants), draw(constants)
        return f"{ours} between {low} and {high}", f"{theirs} between {low} and {high}"
    constant = draw(constants)
    return f"{ours} {operator} {constant}", f"{theirs} {operator} {constant}"


_DATES = ("date", *_DATED)

_FIXED = ["true", "null", "1 = 1.0", "1 + 1 > 2", "null in (1, 2)", "1 not in (2, null)", "'1' = 1", "0.1 + 0.2 = 0.3"]
"""Conditions on no column."""


def _ratio(dividend: str, divisor: str) -> str:
    return f"CASE WHEN {divisor} = 0 AND {dividend}::text <> 'NaN' THEN NULL ELSE {dividend} / {divisor} END"


@dataclass(frozen=True)
class Case:
    columns: tuple[Field, ...]
    records: tuple[tuple[str | None, ...], ...]
    condition: str
    where: str
    kernel: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    columns = draw(_columns())
    fields = st.tuples(*(st.none() | st.sampled_from(column.texts) for column in columns))
    records = tuple(draw(st.lists(fields, min_size=5, max_size=25)))
    one, other = draw(_comparisons(columns)), draw(_comparisons(columns))
    template = draw(st.sampled_from(["{0}", "{0}", "not ({0})", "({0}) and ({1})", "({0}) or ({1})"]))
    return Case(
        columns, records, template.format(one[0], other[0]), template.format(one[1], other[1]), draw(st.booleans())
    )


class FilterLaw:
    """Loads each case into the database of ``dsn``, with its filter and without it."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self._dsn = dsn
        self._path = folder / "records.csv"
        database = psycopg2.extensions.parse_dsn(dsn)["dbname"]
        run_alone(dsn, f"ALTER DATABASE {database} SET timezone TO 'Europe/Berlin'")
        self._connection = psycopg2.connect(dsn)
        self._connection.autocommit = True
        for statement in OWN_TYPES:
            self._run(statement)
        self.compared = 0

    def check(self, case: Case) -> None:
        """Raises AssertionError where the law does not hold."""
        declared = ", ".join(f"{column.name} {column.type}" for column in case.columns)
        for table in ("filtered", "whole"):
            self._run(f"DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (n int, {declared})")
        with self._path.open("w", newline="") as stream:
            for number, record in enumerate(case.records):
                texts = ("" if each is None else '"' + each.replace('"', '""') + '"' for each in record)
                stream.write(f"{number},{','.join(texts)}\n")
        report = self._load("filtered", case, {"filter": case.condition})
        whole = self._load("whole", case, {})
        expected = self._kept(case.where)
        assert self._run("SELECT f::text FROM filtered f ORDER BY n") == expected, case
        left_out = report.rows_filtered + report.rows_rejected
        assert (report.rows_inserted, left_out) == (len(expected), len(case.records) - len(expected)), case
        assert report.rows_rejected <= whole.rows_rejected, case  # what a filter leaves out is not judged any further
        self.compared += len(case.records)

    def _kept(self, where: str) -> list[tuple[Any, ...]]:
        """The rows for which the condition is true. Where PostgreSQL stops at one, such as at a sum that is out of
        range, it is not, and each is asked for by itself."""
        try:
            return self._run(f"SELECT w::text FROM whole w WHERE {where} ORDER BY n")
        except psycopg2.DataError:
            found = []
        for (number,) in self._run("SELECT n FROM whole ORDER BY n"):
            with contextlib.suppress(psycopg2.DataError):
                found += self._run(
                    f"SELECT w::text FROM (SELECT * FROM whole WHERE n = {number} OFFSET 0) w WHERE {where}"
                )
        return found

    def _load(self, table: str, case: Case, transform: dict[str, str]) -> loader.LoadReport:
        spec: dict[str, Any] = {"table": table, "csv": {"header": False}, "rejects": {"max_ratio": 1.0}}
        if any(column.setting for column in case.columns):
            declared = {column.name: {"type": column.type, **column.setting} for column in case.columns}
            spec["columns"] = {"n": "int", **declared}
        with mock.patch.dict(os.environ, {"LOADER_KERNEL": "auto" if case.kernel else "off"}):
            return loader.load(
                str(self._path), {**spec, "mode": "append", "transform": transform}, dsn=self._dsn, force=True
            )

    def _run(self, statement: str) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        self._connection.close()


CASES = 20
"""Cases of one round."""


def check(dice: random.Random, server: str) -> int:
    """One round of the law, see `support.laws.Law`: files, conditions and tables at random."""
    law = _law(database(server, "filters"))
    before = law.compared

    @seed(dice.randrange(2**32))
    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def compare(case: Case) -> None:
        law.check(case)

    compare()
    return law.compared - before


@functools.cache
def _law(dsn: str) -> FilterLaw:
    return FilterLaw(dsn, Path(tempfile.mkdtemp(prefix="loader-filters-")))
