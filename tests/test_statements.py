"""Statements put together of names: whatever a name holds, it is a name to PostgreSQL and nothing else."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg2 import sql
from support.postgres import query

import loader
import loader.records.reading.reader
from loader.cli import main
from loader.core.spec.model import LoadSpec
from loader.postgres.statements import execute, insert, rows, stream
from loader.records.splitter import split

PIECES = (
    *(
        "%",
        "%s",
        "%(x)s",
        "%%",
        "%b",
        "{}",
        "{0}",
        "{x}",
        '"',
        '""',
        "'",
        "\\",
        "\\n",
        "$1",
        ";--",
        "/*",
        "*/",
        ":x",
        "?",
    ),
    *(
        "select",
        "user",
        "table",
        "1st",
        " ",
        "\n",
        "\t",
        "\r",
        "a.b",
        "A",
        "é",
        "e\u0301",
        "😀",
        "\u202e",
        "\ufeff",
        ",",
    ),
    # names that the loader's own statements have in them
    *("s", "t", "r", "f", "last", "nth", "differs", "is_new", "place_ctid", "position", "loader_position", "c0", "c1"),
    *("loader_lane", "staging_1_1", "touched_1", "excluded", "new", "old", "ctid_", "load_id"),
)

texts = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join) | st.sampled_from(
    ["x" * 63, "%" * 63, '"' * 63, "é" * 31, "😀" * 15]
)
names = texts.filter(lambda text: 0 < len(text.encode()) <= 63 and bool(text.strip()) and not text.startswith("pg_"))


@dataclass(frozen=True)
class Names:
    """Names of everything that stands in a statement. ``columns``: the key's two, and two more."""

    schema: str
    table: str
    columns: tuple[str, ...]
    types: tuple[str, ...]  # by the table's own name, there is its row type
    constraints: tuple[str, ...]

    @property
    def target(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.table)}"


def distinct(count: int) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(names, min_size=count, max_size=count, unique_by=lambda name: name.strip().casefold()).map(tuple)


hostile = st.builds(
    Names,
    schema=names.filter(lambda name: name not in ("loader", "public")),
    table=names,
    columns=distinct(4),
    types=distinct(3),
    constraints=distinct(4),
).filter(lambda made: len({made.table, *made.types, *made.constraints}) == 8)
PERCENT = Names("100 %", "%s", ("%", "%(x)s", "Growth %", "%%"), ("%t", "%e", "%c"), ("%1", "%2", "%3", "%4"))
OWN = Names("s", "r", ("last", "t", "s", "differs"), ("text", "c0", "is_new"), ("t", "nth", "f", "last"))


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def run(dsn: str, template: str, *parts: str) -> list[tuple[Any, ...]]:
    """Run a statement in which ``{}`` stands for names; its rows, if it gives any."""
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql.SQL(template).format(*map(sql.SQL, parts)).as_string(connection))
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def make_table(dsn: str, made: Names) -> None:
    """A table with every kind of name in it. It refuses a 13, and keys that it has."""
    schema, (k, m, v, w) = quoted(made.schema), map(quoted, made.columns)
    domain, enum, pair = (f"{schema}.{quoted(each)}" for each in made.types)
    pkey, check, index, unique = map(quoted, made.constraints)
    run(dsn, "DROP SCHEMA IF EXISTS {} CASCADE", schema)
    run(dsn, "CREATE SCHEMA {}", schema)
    run(dsn, "CREATE DOMAIN {} AS text CHECK (value <> 'never')", domain)
    run(dsn, "CREATE TYPE {} AS ENUM ('%s', 'b')", enum)
    run(dsn, "CREATE TYPE {} AS ({} int, {} text)", pair, k, m)
    columns = f"{k} int, {m} {domain}, {v} {enum}, {w} {pair}, CONSTRAINT {pkey} PRIMARY KEY ({k}, {m})"
    run(dsn, "CREATE TABLE {} ({})", made.target, columns)
    run(dsn, "ALTER TABLE {} ADD CONSTRAINT {} CHECK ({} <> 13) NOT VALID", made.target, check, k)
    run(
        dsn,
        "ALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({}, {}) REFERENCES {}",
        made.target,
        unique,
        k,
        m,
        made.target,
    )
    run(dsn, "CREATE INDEX {} ON {} ({}) WHERE {} <> '%s'", index, made.target, v, v)


def write(path: Path, header: Sequence[str], records: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([header, *records])
    path.write_text(text.getvalue(), newline="")
    return str(path)


def records(numbers: Sequence[int], text: str = "b", *, width: int = 0) -> list[tuple[Any, ...]]:
    return [(number, f"{number:0{width}}", text, f"({number},%s)") for number in numbers]


def table_of(dsn: str, made: Names) -> list[tuple[Any, ...]]:
    k, m, v, w = map(quoted, made.columns)
    return run(dsn, "SELECT {}, {}::text, {}::text, {}::text FROM {} ORDER BY 1, 2", k, m, v, w, made.target)


THRESHOLDS = (
    # by way of staging, compared or updated, segment by segment, indexes set aside
    {
        "loader.postgres.merging.merge.FEW": 0,
        "loader.engine.job.STRAIGHT": -1,
        "loader.engine.routes.ASIDE_FROM": 0,
        "loader.pipeline.TRIAL_FROM": 0,
    },
    {
        "loader.postgres.merging.merge.FEW": 10_000,
        "loader.engine.job.STRAIGHT": 24,
        "loader.engine.routes.ASIDE_FROM": 1 << 40,
    },
)


@pytest.fixture(params=range(len(THRESHOLDS)))
def thresholds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files on either side of everything that decides which statements are run."""
    for name, value in THRESHOLDS[request.param].items():
        monkeypatch.setattr(name, value)
    monkeypatch.setattr(LoadSpec, "segment_size", 500)
    monkeypatch.setattr(loader.records.reading.reader, "split", functools.partial(split, block_size=400))


ran = settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@ran
@given(hostile)
@example(PERCENT)
@example(OWN)
def test_every_mode_and_way(dsn: str, tmp_path: Path, thresholds: None, made: Names) -> None:
    """Append, merge, replace with and without a key, a new table, refusals: the table is what the records say."""
    some, more = list(range(14, 43)), list(range(33, 73))

    def load(numbers: Sequence[int], mode: str, text: str = "b", **spec: Any) -> loader.LoadReport:
        path = write(tmp_path / "f.csv", made.columns, records(numbers, text))
        return loader.load(path, {"table": made.target, "mode": mode, **spec}, dsn=dsn, force=True)

    key = {"key": list(made.columns[:2])}
    make_table(dsn, made)
    assert load(some, "append").rows_inserted == 29
    assert load(more, "merge", "%s").rows_updated == 10
    assert load([*range(100, 160), 100], "merge", **key).rows_duplicate == 1
    assert load(more, "replace", "%s", **key).rows_unchanged == 40
    assert load(some, "replace").rows_read == 29
    assert table_of(dsn, made) == records(some)
    rejects = {"rejects": {"max_ratio": 1}}
    assert load([13, 14, 15, 200], "merge", **rejects).rows_rejected == 1
    assert load([13, 14, 300, 301, 300], "append", **rejects).rows_rejected == 3
    assert {number for number, *_ in table_of(dsn, made)} == {*some, 200, 300, 301}
    run(dsn, "DROP TABLE {}", made.target)
    kinds = ("int", *(f"{quoted(made.schema)}.{quoted(each)}" for each in made.types))
    columns = dict(zip(made.columns, kinds, strict=True))
    assert load([1, 2, 3, 2], "merge", columns=columns, **key).rows_duplicate == 1
    assert table_of(dsn, made) == records([1, 2, 3])
    assert (
        query(dsn, "SELECT tablename FROM pg_tables WHERE tablename ~ 'staging|touched' AND schemaname = 'loader'")
        == []
    )


@ran
@given(hostile)
@example(PERCENT)
@example(OWN)
def test_indexes_set_aside_come_back(dsn: str, tmp_path: Path, made: Names) -> None:
    """With their own names, and those of their constraints."""
    schema, (k, m, v, w) = quoted(made.schema), map(quoted, made.columns)
    pkey, unique, index, partial = map(quoted, made.constraints)
    run(dsn, "DROP SCHEMA IF EXISTS {} CASCADE", schema)
    run(dsn, "CREATE SCHEMA {}", schema)
    run(dsn, "CREATE TABLE {} ({} int, {} int, {} text, {} text)", made.target, k, m, v, w)
    run(dsn, "ALTER TABLE {} ADD CONSTRAINT {} PRIMARY KEY ({}, {})", made.target, pkey, k, m)
    run(dsn, "CREATE UNIQUE INDEX {} ON {} ({}, {})", index, made.target, m, k)
    run(dsn, "ALTER TABLE {} ADD CONSTRAINT {} UNIQUE ({}, {})", made.target, unique, v, k)
    run(dsn, "CREATE INDEX {} ON {} (lower({})) WHERE {} LIKE '%%s'", partial, made.target, v, w)
    indexes = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = %s ORDER BY 1"
    before = query(dsn, indexes, made.schema)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loader.engine.routes.ASIDE_FROM", 0)
        path = write(tmp_path / "f.csv", made.columns, [(n, n, f"{n}%", "%s") for n in range(9)])
        report = loader.load(path, {"table": made.target}, dsn=dsn, force=True)
    assert "its indexes built afterwards" in (report.plan or "")
    assert query(dsn, indexes, made.schema) == before
    assert len(before) == 4


@pytest.mark.parametrize("made", [PERCENT, OWN])
def test_every_command(dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], made: Names) -> None:
    """infer, plan, load, status, rejects and replay of names that look like placeholders, or like the loader's own."""
    run(dsn, "CREATE SCHEMA {}", quoted(made.schema))
    path = write(tmp_path / "f.csv", made.columns, [(n, n, "x" if n == 5 else n, "%s") for n in range(1, 9)])
    spec = tmp_path / "s.toml"

    def loader_says(*arguments: str) -> str:
        assert main([*arguments, "--dsn", dsn] if arguments[0] != "infer" else arguments) == 0
        return capsys.readouterr().out

    text = loader_says("infer", path, "--table", made.target)
    spec.write_text(text.replace('= "text"', '= "int"', 1) + "[rejects]\nmax_ratio = 1\n")
    key = ",".join(made.columns[:2])
    assert quoted(made.columns[2]) in loader_says("plan", path, "--spec", str(spec), "--mode", "merge", "--key", key)
    assert "7 inserted + 1 rejected" in loader_says("load", path, "--spec", str(spec), "--mode", "merge", "--key", key)
    assert f"{made.schema}.{made.table}" in loader_says("status")
    rejects = loader_says("rejects", "1")
    mended = tmp_path / "mended.csv"
    mended.write_text(rejects.replace('"x"', '"5"'))
    assert "1 inserted" in loader_says("replay", "1", str(mended))
    k, v = (quoted(made.columns[each]) for each in (0, 2))
    assert run(dsn, "SELECT {}, {} FROM {} ORDER BY 1", k, v, made.target) == [(n, n) for n in range(1, 9)]


@pytest.mark.parametrize("made", [PERCENT, OWN])
def test_shards(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Names) -> None:
    """Two processes stage, one merges; a record that the table refuses is found by halves."""
    monkeypatch.setattr("loader.sharding.workers.LEAST", 20_000)
    make_table(dsn, made)
    path = write(tmp_path / "f.csv", made.columns, records(range(14, 2000)))
    spec = {"table": made.target, "mode": "merge", "rejects": {"max_ratio": 1}}
    report = loader.load(path, spec, dsn=dsn, workers=2)
    assert report.notes[0].startswith("loaded in ")
    assert report.rows_inserted == 1986
    path = write(tmp_path / "g.csv", made.columns, records(range(12, 2000), "%s"))
    assert loader.load(path, spec, dsn=dsn, workers=2).rows_updated == 1986
    assert [number for number, *_ in table_of(dsn, made)] == [12, *range(14, 2000)]


def test_two_tables_never_have_the_same_name_in_the_ledger(dsn: str, tmp_path: Path) -> None:
    """``"a.b".c`` is not ``a."b.c"``: what was loaded into the one is not skipped for the other."""
    path = write(tmp_path / "f.csv", ["x"], [[1]])
    for schema in ("a.b", "a"):
        run(dsn, "CREATE SCHEMA {}", quoted(schema))
    assert loader.load(path, {"table": '"a.b".c'}, dsn=dsn).state == "loaded"
    assert loader.load(path, {"table": 'a."b.c"'}, dsn=dsn).state == "loaded"
    assert query(dsn, "SELECT target FROM loader.loads ORDER BY 1") == [('"a.b".c',), ("a.b.c",)]


def test_a_parameter_stands_only_where_a_placeholder_does(dsn: str) -> None:
    """Whatever else has a % in it: a name, a literal, a piece of SQL."""
    connection = psycopg2.connect(dsn)
    name = sql.Identifier('%s "%(x)s"')
    assert execute(connection, sql.SQL("CREATE TEMPORARY TABLE {} ({} text)").format(name, name)) == -1
    statement = sql.SQL("INSERT INTO {} SELECT {} || {} || '%s %%'").format(name, sql.Literal("%d"), sql.Placeholder())
    assert execute(connection, statement, ["%"]) == 1
    assert rows(connection, sql.SQL("SELECT {} FROM {}").format(name, name)) == [("%d%%s %%",)]
    assert rows(connection, "SELECT '%s %%'") == [("%s %%",)]
    named = sql.SQL("SELECT {} FROM {} WHERE {} LIKE {}").format(name, name, name, sql.Placeholder("like"))
    assert list(stream(connection, named, {"like": "%d%"}, name="c", fetched=1)) == [("%d%%s %%",)]
    with pytest.raises((TypeError, psycopg2.Error)):  # never a value where none was meant to be
        execute(connection, sql.SQL("SELECT {}, %s").format(sql.Literal(1)), [2])
    connection.rollback()
    insert(connection, "CREATE TEMPORARY TABLE p (a int, b text); INSERT INTO p VALUES %s", [(1, "%s"), (2, "%")])
    assert rows(connection, "SELECT b FROM p WHERE a = %s", [1]) == [("%s",)]
    connection.close()
