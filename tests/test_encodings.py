"""Databases whose encoding is not UTF-8: what a character that they lack costs is its record."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.effort import LONG
from support.postgres import encoded_database, query

import loader
from loader.pipeline import How, load_one
from loader.postgres.database import Database
from loader.sharding.shards import finish, load_shard, plan_shards

ENCODINGS = ("LATIN1", *(("EUC_JP", "WIN1252", "KOI8R", "EUC_JIS_2004", "EUC_TW") if LONG else ("EUC_JP", "WIN1252")))


@pytest.fixture(scope="module", params=["embedded-18", *(["system-15", "embedded-17"] if LONG else [])])
def server(servers: Any, request: pytest.FixtureRequest) -> str:
    dsn: str = servers(request.param)
    return dsn


@pytest.fixture(scope="module", params=ENCODINGS)
def database(server: str, request: pytest.FixtureRequest) -> Iterator[str]:
    with encoded_database(server, request.param) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def latin1(server: str) -> Iterator[str]:
    with encoded_database(server, "LATIN1") as dsn:
        yield dsn


ODD = "a€\U0001f986ä\u2003中йµÿ\u30a2ÐŠ☃"
"""Characters of which each encoding has some and lacks others."""


def load(dsn: str, path: Path, **spec: Any) -> loader.LoadReport:
    asked = {"table": "t", "mode": "append", "rejects": {"max_ratio": 1}, **spec}
    return loader.load(str(path), asked, dsn=dsn, force=True)


def rejects(dsn: str) -> list[tuple[Any, ...]]:
    return query(
        dsn,
        "SELECT record_number, line_number, column_name, reason, sqlstate FROM loader.rejects"
        " WHERE load_id = (SELECT max(load_id) FROM loader.loads) ORDER BY 1",
    )


def lacked(dsn: str, text: str) -> bool:
    """Whether COPY itself would refuse the text."""
    import psycopg2

    connection = psycopg2.connect(dsn, client_encoding="UTF8")
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT %s", (text,))
    except psycopg2.errors.UntranslatableCharacter:
        return True
    finally:
        connection.close()
    return False


WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    # what the table is, and the spec
    "straight": ("n int, a text, b varchar(9)", {}),
    "new": ("", {"columns": {"n": "int", "a": "text", "b": "varchar(9)"}}),
    "merged": ("n int PRIMARY KEY, a text, b varchar(9)", {"mode": "merge"}),
    "by a key that lacks it": ("n int, a text PRIMARY KEY, b varchar(9)", {"mode": "merge", "key": ["a"]}),
    "as text": ("n int, a text, b varchar(9), i interval DEFAULT '1 day'", {}),
    "by the server": (
        "n int, a text, b varchar(9), p point",
        {"columns": {"n": {}, "a": {}, "b": {}, "p": {"value": "1,2"}}},
    ),
    "spelt otherwise": ("n int, a text, b varchar(9)", {"columns": {"n": {}, "a": {"transform": ["strip"]}, "b": {}}}),
    "filtered": ("n int, a text, b varchar(9)", {"transform": {"filter": "n > 0"}}),
    "json": ("n int, a json, b varchar(9)", {}),
}


@pytest.mark.without_kernel
@pytest.mark.parametrize("way", WAYS)
def test_a_character_that_the_database_lacks_costs_its_record(database: str, tmp_path: Path, way: str) -> None:
    """Its column is named, and all other records are loaded, whichever way they go."""
    columns, spec = WAYS[way]
    query(database, "DROP TABLE IF EXISTS t" + (f"; CREATE TABLE t ({columns})" if columns else ""))
    path = tmp_path / "t.csv"
    texts = [*(each for each in ODD if way != "spelt otherwise" or not each.isspace()), "plain"]
    spelt = ['"""' + each + '"""' if way == "json" else each for each in texts]
    records = [f"{number},{text},ok" for number, text in enumerate(spelt, start=1)]
    records += [f"{len(texts) + 1},{spelt[-1].replace('plain', 'last')},€☃\U0001f986", f"{len(texts) + 2},{spelt[0]},"]
    if way == "by a key that lacks it":
        records.pop()
    path.write_text("n,a,b\n" + "\n".join(records) + "\n", "utf-8")
    report = load(database, path, **spec)
    bad = [number for number, text in enumerate(texts, start=1) if lacked(database, text)]
    expected = [(number, number + 1, "a", "unrepresentable", "22P05") for number in bad]
    expected.append((len(texts) + 1, len(texts) + 2, "b", "unrepresentable", "22P05"))
    assert rejects(database) == expected
    assert 0 < len(bad) < len(texts)
    assert report.rows_inserted == len(records) - len(expected)
    stored = dict(query(database, "SELECT n, btrim(a::text, '\"') FROM t"))
    everything = [*texts, "last", texts[0]]
    assert stored == {number: everything[number - 1] for number in stored}
    assert len(stored) == report.rows_inserted


def test_what_steps_and_hooks_make_is_looked_at_as_well(
    latin1: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step can make a character that the database lacks, or take one away; so can a hook."""
    query(latin1, "DROP TABLE IF EXISTS t; CREATE TABLE t (a text, b text)")
    path = tmp_path / "t.csv"
    path.write_text("a,b\nÿ,5 €\né,6 €\né,☃\n", "utf-8")
    steps = {"a": {"transform": ["upper"]}, "b": {"transform": [{"replace": ["€", "EUR"]}]}}
    load(latin1, path, columns=steps)
    assert query(latin1, "SELECT a, b FROM t") == [("É", "6 EUR")]
    assert [each[:3] for each in rejects(latin1)] == [(1, 2, "a"), (3, 4, "b")]
    (tmp_path / "encoded_hooks").mkdir()
    (tmp_path / "encoded_hooks" / "__init__.py").touch()
    (tmp_path / "encoded_hooks" / "h.py").write_text(
        "import pyarrow.compute as pc\n\n\ndef made(batch):\n"
        "    return batch.set_column(0, 'a', pc.replace_substring(batch['a'], 'x', '\u20ac'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LOADER_HOOKS", "encoded_hooks")
    path.write_text("a,b\nx,1\né,2\nx,☃\n", "utf-8")
    query(latin1, "TRUNCATE t")
    load(latin1, path, transform={"python": "h:made"})
    assert query(latin1, "SELECT a, b FROM t") == [("é", "2")]
    assert [each[:3] for each in rejects(latin1)] == [(1, 2, "a"), (3, 4, "a")]
    for name in [name for name in sys.modules if name.startswith("encoded_hooks")]:
        del sys.modules[name]


def test_a_character_that_is_not_loaded_costs_nothing(latin1: str, tmp_path: Path) -> None:
    """In a column of the file that the table has not."""
    query(latin1, "DROP TABLE IF EXISTS t; CREATE TABLE t (a text)")
    path = tmp_path / "t.csv"
    path.write_text("a,b€\nä,☃\n", "utf-8")
    report = load(latin1, path)
    assert (report.rows_inserted, report.rows_rejected) == (1, 0)


def test_a_constant_that_the_database_lacks_rejects_every_record(latin1: str, tmp_path: Path) -> None:
    """Also where the file itself is plain."""
    query(latin1, "DROP TABLE IF EXISTS t; CREATE TABLE t (a text, b text)")
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,\n2,x\n", "utf-8")
    load(latin1, path, columns={"a": {}, "b": {"value": "€"}})
    assert [each[:4] for each in rejects(latin1)] == [(1, 2, "b", "unrepresentable"), (2, 3, "b", "unrepresentable")]
    assert query(latin1, "SELECT a, b FROM t") == []


def test_a_database_that_stores_bytes_counts_them(server: str, tmp_path: Path) -> None:
    """In SQL_ASCII every character can be stored, and one of two bytes is two."""
    with encoded_database(server, "SQL_ASCII") as dsn:
        query(dsn, "CREATE TABLE t (a varchar(3), b text)")
        path = tmp_path / "t.csv"
        path.write_text("a,b\nä,☃\nää,x\nabc,ä\n", "utf-8")
        report = load(dsn, path)
        assert report.rows_inserted == 2
        assert [each[:4] for each in rejects(dsn)] == [(2, 3, "a", "value_too_long")]


def test_lengths_are_those_of_the_databases_characters(server: str, tmp_path: Path) -> None:
    """JIS X 0213 has one character for some pairs of Unicode's."""
    with encoded_database(server, "EUC_JIS_2004") as dsn:
        query(dsn, "CREATE TABLE t (a varchar(1), b text)")
        path = tmp_path / "t.csv"
        path.write_text("a,b\nか\u309a,1\nかか,2\nか,☃\n", "utf-8")
        report = load(dsn, path)
        assert report.rows_inserted == 2
        assert [each[:4] for each in rejects(dsn)] == [(2, 3, "a", "value_too_long")]


def test_escapes_of_json_are_the_servers(latin1: str, tmp_path: Path) -> None:
    """Where jsonb would have to make a character of one that the database lacks, it refuses the record."""
    query(latin1, "DROP TABLE IF EXISTS t; CREATE TABLE t (n int, a jsonb)")
    path = tmp_path / "t.csv"
    path.write_text('n,a\n1,"""\\u00e4"""\n2,"""\\u20ac"""\n3,"""€"""\n4,"""ä"""\n', "utf-8")
    load(latin1, path)
    assert [each[:4] for each in rejects(latin1)] == [(2, 3, "a", "unrepresentable"), (3, 4, "a", "unrepresentable")]
    assert query(latin1, "SELECT n, a #>> '{}' FROM t ORDER BY 1") == [(1, "ä"), (4, "ä")]


@pytest.mark.parametrize("way", ["renamed", "staged", "sharded", "by workers"])
def test_a_large_load_goes_on_past_what_the_database_lacks(latin1: str, tmp_path: Path, way: str) -> None:
    """In segments, over several streams, and by shards: each record is rejected once, at its own place."""
    query(latin1, "DROP TABLE IF EXISTS t")
    if way != "renamed":
        query(latin1, "CREATE TABLE t (n int PRIMARY KEY, a text)")
    path = tmp_path / "t.csv"
    count = 30_000
    lines = [
        f"{number},{'€' if number % 9_000 == 5 else 'ä'} a text that makes the record longer" for number in range(count)
    ]
    path.write_text("n,a\n" + "\n".join(lines) + "\n", "utf-8")
    spec: dict[str, Any] = {
        "table": "t",
        "segment_mb": 1,
        "columns": {"n": "int", "a": "text"},
        "rejects": {"max_ratio": 1},
    }
    spec |= {} if way == "renamed" else {"mode": "merge", "key": ["n"]}
    database = Database(latin1)
    if way == "sharded":
        plan = plan_shards(str(path), loader.LoadSpec.from_dict(spec), database, shards=3, force=True)
        assert plan.verdict == "split", plan.why
        report = finish(plan, [load_shard(plan, number, database, threads=1) for number in range(3)], database)
    else:
        how = How(threads=2, workers=2 if way == "by workers" else 1, force=True)
        report = load_one(str(path), loader.LoadSpec.from_dict(spec), database, how)
    database.close()
    assert way != "renamed" or "renamed" in (report.plan or "")
    assert (report.rows_inserted, report.rows_rejected) == (count - 4, 4)
    expected = [(number + 1, number + 2, "a", "unrepresentable") for number in range(5, count, 9_000)]
    assert [each[:4] for each in rejects(latin1)] == expected
    assert query(latin1, "SELECT count(*) FROM t WHERE a LIKE 'ä %'") == [(count - 4,)]


@pytest.mark.parametrize("type_", ["text", "varchar(20)", "text[]"])
def test_a_default_that_the_encoding_lacks_is_the_specs_fault(latin1: str, tmp_path: Path, type_: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,\n")
    for default, fits in (("{Ähre}", True), ("{日本}", False)):
        query(latin1, "DROP TABLE IF EXISTS t")
        columns = {"a": "int", "b": {"type": type_, "default": default}}
        if fits:
            assert load(latin1, path, columns=columns).rows_inserted == 1
        else:
            with pytest.raises(loader.SpecError, match=r'the default "{日本}" is not a valid .*no equivalent'):
                load(latin1, path, columns=columns)
