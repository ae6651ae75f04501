"""``loader plan``: what a load would do, and by which statements; it changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support.postgres import query

import loader
from loader.cli import main
from loader.kernel.compiled import compiled_kernel


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text("id,Name\n1,a\n2,b\n")
    return path


SPEC = """mode = "merge"
key = ["id"]
[columns]
id = "int"
name = { type = "varchar(5)", from = "Name" }
origin = { type = "text", value = "{key}" }
"""


def plan(capsys: Any, *arguments: str) -> dict[str, Any]:
    assert main(["plan", *arguments, "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def everything(dsn: str) -> list[Any]:
    """All that a load could have left behind."""
    return query(
        dsn, "SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace ORDER BY 1, 2"
    )


def test_of_a_new_table(dsn: str, file: Path, tmp_path: Path, capsys: Any) -> None:
    """The columns, where each comes from, and the statements."""
    spec = tmp_path / "spec.toml"
    spec.write_text(SPEC)
    before = everything(dsn)
    told = plan(capsys, str(file), "--spec", str(spec), "--table", "t", "--dsn", dsn)
    assert everything(dsn) == before
    assert told["verdict"].startswith("due")
    assert [(each["name"], each["type"], each["read_from"]) for each in told["columns"]] == [
        ("id", "integer", "id"),
        ("name", "character varying(5)", "Name"),
        ("origin", "text", None),
    ]
    assert [each.split(" (")[0] for each in told["statements"]] == [
        'CREATE TABLE "public"."t"',
        'COPY "public"."t"',
        'ALTER TABLE "public"."t" ADD PRIMARY KEY',
    ]


@pytest.mark.parametrize("mode", ["merge", "replace"])
def test_its_statements_are_real(dsn: str, file: Path, capsys: Any, mode: str) -> None:
    """PostgreSQL runs them all, one after the other; and a load takes the very way that was told."""
    query(dsn, "CREATE TABLE t (id int PRIMARY KEY, \"Name\" text); INSERT INTO t VALUES (1, 'old')")
    loader.load(str(file), {"table": "other"}, dsn=dsn)  # there is a ledger
    told = plan(capsys, str(file), "--table", "t", "--mode", mode, "--dsn", dsn)
    assert told["verdict"] == "due"
    assert told["way"].startswith("by way of a staging table")
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        for statement in told["statements"]:
            if not statement.startswith(("COPY", "--")):
                cursor.execute(statement)
        connection.rollback()
    connection.close()
    loader.load(str(file), table="t", mode=mode, dsn=dsn)
    told = plan(capsys, str(file), "--table", "t", "--mode", mode, "--dsn", dsn)
    assert (
        told["verdict"]
        == "nothing would be done: this version was loaded already, by load 2: add --force to load it again"
    )


@pytest.mark.without_ledger
@pytest.mark.skipif(compiled_kernel() is None, reason="there is no kernel")
def test_for_people(dsn: str, file: Path, capsys: Any) -> None:
    """One screen, and the statements can be read as SQL."""
    query(dsn, 'CREATE TABLE t (id int, "Name" text)')
    assert main(["plan", str(file), "--table", "t", "--dsn", dsn]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{file} → public.t: append, 16 bytes",
        "  due: there is no ledger yet, or one of an earlier version",
        "  straight into the table, in one transaction",
        "  converted by the kernel",
        "    id integer ← id",
        "    Name text ← Name",
        '  note: the delimiter "," and a header were found by sniffing',
        'COPY "public"."t" ("id", "Name") FROM STDIN (FORMAT binary);',
    ]


def test_what_a_load_would_find_wrong(dsn: str, file: Path, capsys: Any) -> None:
    """It says so in the same sentence, and nothing was read but the head of the file."""
    query(dsn, "CREATE TABLE t (id int, other text NOT NULL)")
    assert main(["plan", str(file), "--table", "t", "--dsn", dsn]) == 1
    planned = capsys.readouterr().err
    assert main(["load", str(file), "--table", "t", "--dsn", dsn]) == 1
    assert capsys.readouterr().err == planned
