"""What the catalog says of types and of names that are to be given: PostgreSQL's own word, or a sentence that helps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support.postgres import query

import loader
from loader.cli import main
from loader.postgres import catalog
from loader.postgres.tables import Table

NEW = Table("public", "t")

SPELLED = {
    "float(24)": "real",
    "float(25)": "double precision",
    "FLOAT": "double precision",
    "integer array": "integer[]",
    "Integer ARRAY [4]": "integer[]",
    "integer[3]": "integer[]",
    "int4[][]": "integer[]",
    "numeric(5,2)[]": "numeric(5,2)[]",
    "character varying(20)": "character varying(20)",
    "national character(3)": "character(3)",
    "nchar varying (3)": "character varying(3)",
    "char": "character(1)",
    '"char"': '"char"',
    "bit": "bit(1)",
    "bit varying(5)": "bit varying(5)",
    "dec( 5 , -2 )": "numeric(5,-2)",
    "timestamp(3)  with  time  zone": "timestamp(3) with time zone",
    "timestamp(2)[]": "timestamp(2) without time zone[]",
    "time with time zone": "time with time zone",
    "interval day to second": "interval day to second",
    "interval day to second(3)": "interval day to second(3)",
    "interval(3)": "interval(3)",
    "double   precision": "double precision",
    "PG_CATALOG.INT4": "integer",
    'public."d (3)"': '"d (3)"',
    '"100 %"."Mood %s"[]': '"100 %"."Mood %s"[]',
    "pair": "pair",
}


@pytest.fixture
def connection(dsn: str) -> Iterator[Any]:
    query(dsn, "CREATE DOMAIN \"d (3)\" AS text NOT NULL CHECK (value <> 'x')")
    query(dsn, 'CREATE SCHEMA "100 %"')
    query(dsn, 'CREATE TYPE "100 %"."Mood %s" AS ENUM (\'%s\')')
    query(dsn, "CREATE TYPE pair AS (a int, b text)")
    connection = psycopg2.connect(dsn)
    yield connection
    connection.close()


@pytest.mark.every_postgres
def test_types_are_spelled_as_the_table_will_have_them(connection: Any) -> None:
    """With every modifier, and none that a name only seems to have."""
    assert catalog.spell_types(connection, [("a", name) for name in SPELLED], NEW) == SPELLED
    for name, spelled in SPELLED.items():
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE TEMPORARY TABLE made (a {name})")
            cursor.execute(
                "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attname = 'a'"
                " AND attrelid = 'made'::regclass"
            )
            assert cursor.fetchone() == (spelled,)
        connection.rollback()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("integr", 'columns.b: type "integr" does not exist; did you mean "integer"?'),
        ("datetime", 'type "datetime" does not exist; did you mean "timestamp"?'),
        ("nvarchar(20)", 'type "nvarchar(20)" does not exist; did you mean "varchar"?'),
        ("String[]", 'type "String[]" does not exist; did you mean "text"?'),
        ("pare", 'type "pare" does not exist; did you mean "pair"?'),
        ('"100 %"."mood %s"', 'does not exist; did you mean \'"100 %"."Mood %s"\'?'),
        ("nosuch.pair", 'type "nosuch.pair" does not exist; did you mean "pair"?'),
        ("void", 'no column can have the type "void": void is a pseudo-type'),
        ("cstring[]", "cstring[] is a pseudo-type"),
        ("float(54)", "precision for type float must be less than 54 bits"),
        ("varchar(0)", "length for type varchar must be at least 1"),
        ("int(5)", 'no column can have the type "int(5)": syntax error at or near "("; did you mean "integer"?'),
        ("table", "syntax error"),
        ("int); DROP TABLE x; --", "is not a type's name"),
    ],
)
def test_what_no_column_can_be_is_told_in_a_sentence(connection: Any, name: str, told: str) -> None:
    """It names the column and the nearest type, and the transaction goes on."""
    with pytest.raises(loader.TableError) as raised:
        catalog.spell_types(connection, [("a", "int"), ("b", name)], NEW)
    assert told in str(raised.value)
    assert "columns.a" not in str(raised.value)
    assert str(raised.value).startswith("public.t: columns.b: ")
    assert catalog.rows(connection, "SELECT 1") == [(1,)]


def test_load_and_plan_say_the_same(dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f.csv").write_text("a\n1\n")
    (tmp_path / "s.toml").write_text('table = "t"\n[columns]\na = "integr"\n')
    arguments = [str(tmp_path / "f.csv"), "--spec", str(tmp_path / "s.toml"), "--dsn", dsn]
    for command in ("load", "plan"):
        assert main([command, *arguments]) == 1
        assert capsys.readouterr().err.endswith(
            'public.t: columns.a: type "integr" does not exist; did you mean "integer"?\n'
        )


@pytest.mark.parametrize("name", ["serial", "SERIAL4", "bigserial", "smallserial", "serial8[]", "pg_catalog.serial"])
def test_serial_is_refused_with_advice(name: str) -> None:
    with pytest.raises(loader.SpecError, match="GENERATED BY DEFAULT AS IDENTITY") as raised:
        loader.LoadSpec.from_dict({"table": "t", "columns": {"id": name}})
    integer = "bigint" if "big" in name or "8" in name else "smallint" if "small" in name else "integer"
    assert f'write "{integer}"' in str(raised.value)


# --- names of new tables


def load(dsn: str, tmp_path: Path, table: str, **spec: Any) -> loader.LoadReport:
    (tmp_path / "f.csv").write_text("a\n1\n")
    return loader.load(str(tmp_path / "f.csv"), {"table": table, **spec}, dsn=dsn)


@pytest.mark.parametrize(
    ("table", "note"),
    [
        ("bigX", 'the name of the new table is case-sensitive: in SQL write public."bigX"'),
        ("Growth %", 'is case-sensitive: in SQL write public."Growth %"'),
        ("order", 'the name of the new table needs quotes: in SQL write public."order"'),
    ],
)
def test_a_new_table_that_sql_has_to_quote_is_noted(dsn: str, tmp_path: Path, table: str, note: str) -> None:
    assert note in load(dsn, tmp_path, table).notes[0]
    (tmp_path / "g.csv").write_text("a\n2\n")
    assert loader.load(str(tmp_path / "g.csv"), {"table": table}, dsn=dsn).notes == ()  # it is not new any more


def test_a_name_that_needs_no_quotes_has_no_note(dsn: str, tmp_path: Path) -> None:
    assert not [note for note in load(dsn, tmp_path, "big_x").notes if "SQL" in note]


@pytest.mark.parametrize(("there", "asked"), [("bigx", "bigX"), ('"bigX"', "bigx"), ("bigx", "Public.bigx")])
def test_a_second_table_that_differs_in_case_is_not_made(dsn: str, tmp_path: Path, there: str, asked: str) -> None:
    """Unless its name is in quotes, which says that the case is meant."""
    query(dsn, f"CREATE TABLE {there} (a int)")
    with pytest.raises(loader.TableError) as raised:
        load(dsn, tmp_path, asked)
    assert f"does not exist, but public.{there} does" in str(raised.value)
    assert query(dsn, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(1,)]
    if "." not in asked:
        assert "for a second table put its name in quotes" in str(raised.value)
        assert load(dsn, tmp_path, f'"{asked}"').state == "loaded"


def test_a_schema_that_does_not_exist_is_told_before_anything_is_read(dsn: str, tmp_path: Path) -> None:
    query(dsn, "CREATE SCHEMA sales")
    with pytest.raises(loader.TableError, match=r'sale.t: there is no schema "sale"; did you mean "sales"\?'):
        load(dsn, tmp_path, "sale.t")


@pytest.mark.parametrize(
    ("made", "told"), [(False, "does not exist yet, so it has no primary key"), (True, "t: has no")]
)
def test_a_merge_without_a_key_says_how_to_name_one(dsn: str, tmp_path: Path, made: bool, told: str) -> None:
    if made:
        query(dsn, "CREATE TABLE t (a int)")
    with pytest.raises(loader.TableError) as raised:
        load(dsn, tmp_path, "t", mode="merge")
    assert told in str(raised.value)
    assert 'key = ["a"] in the spec, or --key' in str(raised.value)
