"""The law of filters: what a load keeps is what ``WHERE`` keeps of a load without the filter."""

from __future__ import annotations

import functools
import os
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg2
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import loader
from support.laws import database

OWN_TYPES = (
    "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')",
    "CREATE DOMAIN code AS varchar(3)",
    "CREATE DOMAIN second AS timestamp(0)",
)

_INTEGERS = ["0", "-1", "7", "+5", " 12", "32767", "2_0"]
_NUMBERS = ["0", "-0", "1.5", "0.1", "-2.25", "1e1", "NaN", "3", "12345.675", "0.30000000000000004", "0.3"]
_FLOATS = [*_NUMBERS, "Infinity", "-inf", "1e300", "1e-300", "16777217"]
_TEXTS = ["", "a", "ab", "ab ", "abc ", "abc  ", "B", "é", "a%", " a"]
_MOMENTS = [
    "2024-01-31", "2024-01-31 12:00:00.4", "2024-01-31 12:00:00.5", "2024-01-31 11:59:59.999", "Jan 31 2024 12:00",
    "infinity", "-infinity", "0001-01-01", "0044-03-15 BC", "2024-02-01 00:00:00",
]  # fmt: skip
_CLOCKS = ["12:00", "12:00:00.04", "12:00:00.05", "11:59:59.99", "24:00", "00:00"]

VALUES: dict[str, list[str]] = {
    "smallint": _INTEGERS, "int": _INTEGERS, "bigint": [*_INTEGERS, "9007199254740993"],
    "numeric": _NUMBERS, "numeric(9,2)": _NUMBERS, "numeric(30,17)": _NUMBERS,
    "real": _NUMBERS[:-3], "double precision": _FLOATS,
    "text": _TEXTS, "varchar(3)": _TEXTS, "char(4)": _TEXTS, "bpchar": _TEXTS, "code": _TEXTS, "json": ["{}", "[1]"],
    "boolean": ["t", "no", "1"], "date": ["2024-01-31", "Jan 31 2024", "0001-01-01", "infinity", "0044-03-15 BC"],
    "timestamp": _MOMENTS, "timestamp(0)": _MOMENTS, "second": _MOMENTS, "timestamptz": _MOMENTS,
    "timestamptz(2)": _MOMENTS, "time": _CLOCKS, "time(1)": _CLOCKS,
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"],
    "mood": ["sad", "ok", "happy"], "jsonb": ['{"a":1}', '{"a": 1}', "1.0"],
    "interval": ["1 day", "24:00:00", "1 mon"], "inet": ["10.0.0.1", "10.0.0.0/8"], "int[]": ["{1,2}", "{}"],
}  # fmt: skip

_NUMERIC = ["0", "1.5", "0.1", "7", "-2.25", "10", "0.3", "12345.68", "1e40"]
_QUOTED_TEXTS = ["'a'", "'ab'", "'ab '", "'abc'", "'B'", "'é'", "''"]
_QUOTED_MOMENTS = ["'2024-01-31'", "'2024-01-31 12:00'", "'2024-01-31 12:00:01'", "'2024-01-31 12:00:00.4'"]
_QUOTED_CLOCKS = ["'12:00'", "'12:00:00.1'", "'12:00:00.05'", "'00:00'"]

CONSTANTS: dict[str, list[str]] = {
    **dict.fromkeys(["smallint", "int", "bigint", "numeric", "numeric(9,2)", "numeric(30,17)"], _NUMERIC),
    **dict.fromkeys(["real", "double precision"], _NUMERIC[:-1]),
    **dict.fromkeys(["text", "varchar(3)", "char(4)", "bpchar", "code"], _QUOTED_TEXTS),
    **dict.fromkeys(["timestamp", "timestamp(0)", "second", "timestamptz", "timestamptz(2)"], _QUOTED_MOMENTS),
    "boolean": ["true", "false"], "date": ["'2024-01-31'", "'0001-01-01'"],
    "time": _QUOTED_CLOCKS, "time(1)": _QUOTED_CLOCKS, "uuid": [f"'{each}'" for each in VALUES["uuid"]],
    "mood": ["'sad'", "'ok'"], "jsonb": ["'{\"a\": 1}'", "'1'"], "interval": ["'24 hours'", "'30 days'"],
    "inet": ["'10.0.0.1'"], "int[]": ["'{1,2}'"], "json": ["'{}'"],
}  # fmt: skip

_COLLATED = ("text", "varchar(3)", "char(4)", "bpchar", "code")
_COMPUTED = ("smallint", "int", "bigint", "numeric", "numeric(9,2)", "numeric(30,17)", "real", "double precision")
_OPERATORS = ["=", "<>", "<", "<=", ">", ">="]

Pair = tuple[str, str]
"""A condition as the loader is given it, and as PostgreSQL has to be asked: there a quotient by zero is an error."""


@st.composite
def _comparisons(draw: st.DrawFn, columns: Sequence[tuple[str, str]]) -> Pair:
    name, type_ = draw(st.sampled_from(columns))
    ours, theirs = name, name
    if type_ in _COLLATED:
        theirs = f'({name} COLLATE "C")'
    if type_ == "json":
        theirs = f"{name}::text"
    form = draw(
        st.sampled_from(["compare", "compare", "compare", "list", "between", "null", "like", "column", "sum", "ratio"])
    )
    constants = st.sampled_from(CONSTANTS[type_])
    operator = draw(st.sampled_from(["=", "<>"] if type_ == "json" else _OPERATORS))
    if form == "like" and type_ in _COLLATED:
        pattern = draw(st.sampled_from(["'a%'", "'ab'", "'ab %'", "'%b__'", "'_'"]))
        return f"{ours} like {pattern}", f"{theirs} like {pattern}"
    if form == "null":
        return f"{ours} is null", f"{theirs} is null"
    if form in ("column", "sum", "ratio") and type_ in _COMPUTED:
        other, _ = draw(st.sampled_from([each for each in columns if each[1] in _COMPUTED]))
        if form == "sum":
            ours = theirs = f"({ours} {draw(st.sampled_from('+-'))} {other})"
        elif form == "ratio":
            ours, theirs = f"({ours} / {other})", _ratio(ours, other)
        else:
            return (f"{ours} {operator} {other}",) * 2
    if form == "list":
        items = ", ".join(draw(st.lists(constants, min_size=1, max_size=3)))
        return f"{ours} in ({items})", f"{theirs} in ({items})"
    if form == "between":
        low, high = draw(constants), draw(constants)
        return f"{ours} between {low} and {high}", f"{theirs} between {low} and {high}"
    constant = draw(constants)
    return f"{ours} {operator} {constant}", f"{theirs} {operator} {constant}"


def _ratio(dividend: str, divisor: str) -> str:
    return f"CASE WHEN {divisor} = 0 AND {dividend}::text <> 'NaN' THEN NULL ELSE {dividend} / {divisor} END"


@dataclass(frozen=True)
class Case:
    columns: tuple[tuple[str, str], ...]
    records: tuple[tuple[str | None, ...], ...]
    condition: str
    where: str
    kernel: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    types = draw(st.lists(st.sampled_from([*VALUES]), min_size=1, max_size=4))
    columns = tuple((f"c{place}", type_) for place, type_ in enumerate(types))
    fields = st.tuples(*(st.none() | st.sampled_from(VALUES[type_]) for type_ in types))
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
        self._connection = psycopg2.connect(dsn)
        self._connection.autocommit = True
        for statement in OWN_TYPES:
            self._run(statement)
        self.compared = 0

    def check(self, case: Case) -> None:
        """Raises AssertionError where the law does not hold."""
        declared = ", ".join(f"{name} {type_}" for name, type_ in case.columns)
        for table in ("filtered", "whole"):
            self._run(f"DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (n int, {declared})")
        with self._path.open("w", newline="") as stream:
            for number, record in enumerate(case.records):
                texts = ("" if each is None else '"' + each.replace('"', '""') + '"' for each in record)
                stream.write(f"{number},{','.join(texts)}\n")
        report = self._load("filtered", case, {"filter": case.condition})
        self._load("whole", case, {})
        try:
            expected = self._run(f"SELECT w::text FROM whole w WHERE {case.where} ORDER BY n")
        except psycopg2.DataError:  # such as a sum out of range: here alone PostgreSQL says nothing of the others
            return
        assert self._run("SELECT f::text FROM filtered f ORDER BY n") == expected, case
        whole = self._run("SELECT count(*) FROM whole")[0][0]
        assert (report.rows_inserted, report.rows_filtered) == (len(expected), whole - len(expected)), case
        self.compared += len(case.records)

    def _load(self, table: str, case: Case, transform: dict[str, str]) -> loader.LoadReport:
        spec = {"table": table, "csv": {"header": False}, "rejects": {"max_rows": 1000, "max_ratio": 1.0}}
        with mock.patch.dict(os.environ, {"LOADER_KERNEL": "auto" if case.kernel else "off"}):
            return loader.load(str(self._path), {**spec, "mode": "append", "transform": transform}, dsn=self._dsn)

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
    @settings(max_examples=CASES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(cases())
    def compare(case: Case) -> None:
        law.check(case)

    compare()
    return law.compared - before


@functools.cache
def _law(dsn: str) -> FilterLaw:
    return FilterLaw(dsn, Path(tempfile.mkdtemp(prefix="loader-filters-")))
