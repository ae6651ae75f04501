"""A small object loaded in one transaction leaves what the way of large objects would leave, to the letter."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import make_dsn
from support.both_ways import load_each, make, records, watching
from support.effort import LONG, effort
from support.identity import HOOKS
from support.postgres import query

from loader.postgres.database import Database

Fields = dict[str, list[str]]

NUMBERS = ["1", "2", "3", "4", "5", " 3", "+4", "05"]
TEXTS = ["a", "A", "b", "B", "ä", '""', "", '"x,\ny"']
NUMERICS = ["1.0", "1.00", "2", "-0", "NaN", "1e2", "", "bad"]
FLOATS = ["0", "-0", "1.5", "1.50", "NaN", "inf", ""]


@dataclass(frozen=True)
class Shape:
    """Tables of one kind: what makes one, the texts that its columns are given, and its keys for the spec."""

    name: str
    ddl: tuple[str, ...]
    fields: Fields
    key: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("append", "merge", "replace")
    columns: str = "t.*"


AB: Fields = {"a": NUMBERS, "b": TEXTS, "n": NUMERICS}
KEYS = [*NUMBERS, "", "no"]

SHAPES = [
    Shape("plain", ("CREATE TABLE {s}.t (a bigint PRIMARY KEY, b text, n numeric)",), {**AB, "a": KEYS}),
    Shape("key alone", ("CREATE TABLE {s}.t (a bigint PRIMARY KEY)",), {"a": KEYS}),
    Shape(
        "collated",
        ('CREATE COLLATION {s}.c FROM "C"', "CREATE TABLE {s}.t (b text COLLATE {s}.c PRIMARY KEY, n numeric)"),
        {"b": TEXTS, "n": NUMERICS},
    ),
    Shape("numeric key", ("CREATE TABLE {s}.t (n numeric PRIMARY KEY, f float8)",), {"n": NUMERICS, "f": FLOATS}),
    Shape(
        "composite",
        ("CREATE TABLE {s}.t (a int, b text, f float8, j jsonb, UNIQUE (a, b))",),
        {"a": KEYS, "b": TEXTS, "f": FLOATS, "j": ["1", "1.0", '"{""a"": 1}"', "{"]},
        ("a", "b"),
    ),
    Shape(
        "nulls not distinct",
        ("CREATE TABLE {s}.t (a int, b text, UNIQUE NULLS NOT DISTINCT (a))",),
        {"a": KEYS, "b": TEXTS},
        ("a",),
    ),
    Shape("no index", ("CREATE TABLE {s}.t (a bigint, b text, n numeric)",), AB, ("a",)),
    Shape(
        "trigger",
        (
            "CREATE TABLE {s}.t (a bigint PRIMARY KEY, b text, n numeric)",
            "CREATE FUNCTION {s}.f() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN IF NEW.a % 2 = 0 THEN RETURN NULL; END IF; NEW.b := coalesce(NEW.b, 'was null');"
            " RETURN NEW; END$$",
            "CREATE TRIGGER g BEFORE INSERT OR UPDATE ON {s}.t FOR EACH ROW EXECUTE FUNCTION {s}.f()",
        ),
        AB,
    ),
    Shape(
        "partitions",
        (
            "CREATE TABLE {s}.t (a int, b text, n numeric, PRIMARY KEY (a)) PARTITION BY RANGE (a)",
            "CREATE TABLE {s}.t1 PARTITION OF {s}.t FOR VALUES FROM (0) TO (3)",
            "CREATE TABLE {s}.t2 PARTITION OF {s}.t FOR VALUES FROM (3) TO (5)",
        ),
        AB,
    ),
    Shape(
        "moves between partitions",
        (
            "CREATE TABLE {s}.t (a int, p int, b text) PARTITION BY LIST (p)",
            "CREATE TABLE {s}.t1 PARTITION OF {s}.t FOR VALUES IN (1, 2)",
            "CREATE TABLE {s}.t2 PARTITION OF {s}.t DEFAULT",
        ),
        {"a": NUMBERS, "p": NUMBERS, "b": TEXTS},
        ("a",),
    ),
    Shape(
        "identity",
        ("CREATE TABLE {s}.t (a int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, b text, w text DEFAULT 'w')",),
        {"a": KEYS, "b": TEXTS},
    ),
    Shape(
        "identity that the file lacks",
        ("CREATE TABLE {s}.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, b text UNIQUE, n numeric DEFAULT 7)",),
        {"b": TEXTS},
        ("b",),
        columns="b, n",  # a transaction that is rolled back has used up numbers
    ),
    Shape(
        "generated",
        ("CREATE TABLE {s}.t (a int PRIMARY KEY, n numeric, d numeric GENERATED ALWAYS AS (n * 2) STORED)",),
        {"a": KEYS, "n": NUMERICS},
    ),
    Shape(
        "deferred",
        ("CREATE TABLE {s}.t (a int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED)",),
        {"a": NUMBERS, "u": [*NUMBERS, ""]},
    ),
    Shape("unlogged", ("CREATE UNLOGGED TABLE {s}.t (a int PRIMARY KEY, b text)",), {"a": KEYS, "b": TEXTS}),
    Shape(
        "refusing",
        (
            "CREATE TABLE {s}.o (o int PRIMARY KEY)",
            "INSERT INTO {s}.o VALUES (1), (2), (3)",
            "CREATE TABLE {s}.t (a int PRIMARY KEY CHECK (a <> 5), u int UNIQUE, o int NOT NULL REFERENCES {s}.o)",
        ),
        {"a": NUMBERS, "u": [*NUMBERS, ""], "o": ["1", "2", "3", "3", "2", "9", ""]},
    ),
    Shape(
        "referenced",
        (
            "CREATE TABLE {s}.t (a int PRIMARY KEY, b text)",
            "CREATE TABLE {s}.o (a int REFERENCES {s}.t ON DELETE CASCADE)",
        ),
        {"a": NUMBERS, "b": TEXTS},
    ),
    Shape(
        "user's types",
        (
            "CREATE TYPE {s}.mood AS ENUM ('a', 'b', 'A')",
            "CREATE DOMAIN {s}.even AS int CHECK (VALUE % 2 = 0)",
            "CREATE TABLE {s}.t (a {s}.even PRIMARY KEY, b {s}.mood, i interval, r int[])",
        ),
        {
            "a": ["2", "4", "6", "2", "4", "1"],
            "b": ["a", "b", "A", "", "z"],
            "i": ["1 day", "24:00", "P1D", "", "no"],
            "r": ["{1}", '"{1,2}"', "{", "", "{NULL}"],
        },
    ),
    Shape(
        "secured",
        (
            "CREATE TABLE {s}.t (a int PRIMARY KEY, b text)",
            "ALTER TABLE {s}.t ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE {s}.t FORCE ROW LEVEL SECURITY",
            "CREATE POLICY p ON {s}.t USING (a <> 4) WITH CHECK (a <> 3)",
            "GRANT ALL ON SCHEMA {s} TO clerk; GRANT ALL ON {s}.t TO clerk; ALTER TABLE {s}.t OWNER TO clerk",
        ),
        {"a": NUMBERS, "b": TEXTS},
    ),
]

ICU = Shape(
    "collated without case",
    (
        "CREATE COLLATION {s}.ci (provider = icu, locale = 'und-u-ks-level1', deterministic = false)",
        "CREATE TABLE {s}.t (b text COLLATE {s}.ci PRIMARY KEY, n numeric)",
    ),
    {"b": TEXTS, "n": NUMERICS},
)
"""Not every server is built with ICU."""


@dataclass(frozen=True)
class Case:
    """Files that are loaded one after the other."""

    shape: Shape
    files: tuple[tuple[dict[str, Any], str], ...]


@st.composite
def cases(draw: st.DrawFn, shapes: list[Shape]) -> Case:
    shape = draw(st.sampled_from(shapes))
    files = []
    for _ in range(2):
        names = draw(st.permutations(list(shape.fields)))
        row = st.tuples(*(st.sampled_from(shape.fields[name]) for name in names))
        rows = draw(st.lists(row, max_size=9))
        spec: dict[str, Any] = {
            "mode": draw(st.sampled_from(shape.modes)),
            "rejects": {"max_ratio": draw(st.sampled_from([1.0, 1.0, 1.0, 0.2]))},
        }
        if spec["mode"] != "append" and shape.key:
            spec["key"] = list(shape.key)
        if "a" in names and draw(st.integers(0, 5)) == 0:
            spec["transform"] = {"filter": "a <> 2"}
        if draw(st.integers(0, 7)) == 0:
            spec["transform"] = {**spec.get("transform", {}), "python": HOOKS[0]}
        text = records(rows, names)
        if rows and draw(st.integers(0, 9)) == 0:
            text += "1\n"  # too few fields, in most of the shapes
        files.append((spec, text))
    return Case(shape, tuple(files))


_numbers = itertools.count()


@pytest.fixture
def clerk(dsn: str) -> Iterator[str]:
    """A role to which row security applies, and which may load."""
    name = f"clerk_{uuid.uuid4().hex}"
    query(dsn, f"CREATE ROLE {name} LOGIN")
    for what in ("SCHEMA loader", "ALL TABLES IN SCHEMA loader", "ALL SEQUENCES IN SCHEMA loader"):
        query(dsn, f"GRANT ALL ON {what} TO {name}")
    yield name
    query(dsn, f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.parametrize("server", ["embedded-18", "system-15"], indirect=True)
def test_both_ways_leave_the_same(
    dsn: str, clerk: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOADER_HOOKS", "support")
    newest = request.node.callspec.params["server"] == "embedded-18"
    plain, secured = (Database(each) for each in (dsn, make_dsn(dsn, options=f"-c role={clerk}")))
    every = []

    @settings(
        max_examples=effort(40, 500) if newest else effort(20, 200),
        derandomize=not LONG,  # so that the share of small loads below is no matter of chance
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(SHAPES if newest else [*SHAPES, ICU]))
    def law(case: Case) -> None:
        make(dsn, *(each.replace("clerk", clerk) for each in case.shape.ddl))
        database = secured if case.shape.name == "secured" else plain
        with watching() as taken:
            for spec, text in case.files:
                path = tmp_path / f"{next(_numbers)}.csv"
                path.write_text(f"{path.name}\n{text}", "utf-8")  # no two have the same content
                told = {**spec, "csv": {"skip_lines": 1}}
                left = load_each(database, path, told, dsn, columns=case.shape.columns)
                assert left["small"] == left["large"]
        every.extend(taken.each[::2])

    law()
    for each in (plain, secured):
        each.close()
    assert 3 * sum(every) > len(every)  # else there would be little to compare
