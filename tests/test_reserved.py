"""The schemas that no load may change: the ledger's, PostgreSQL's own."""

from __future__ import annotations

from typing import Any

import psycopg2
import pytest
from support.postgres import query

import loader
from loader.cli import main
from loader.core.errors import SpecError, TableError
from loader.core.spec.model import LoadSpec
from loader.postgres import catalog


@pytest.mark.parametrize(
    "table",
    [
        "loader.loads",
        '"loader".loads',
        'LOADER."loads"',
        "Loader.rejects",
        "pg_temp.t",
        "pg_temp_3.t",
        "PG_CATALOG.pg_class",
        '"pg_toast".t',
        "pg_anything.t",
        "information_schema.tables",
        '"Information_Schema".t',
    ],
)
def test_a_spec_must_not_name_them(table: str) -> None:
    with pytest.raises(SpecError, match=r"table: the schema .*; choose another schema"):
        LoadSpec.from_dict({"table": table})


@pytest.mark.parametrize(
    "table", ["loader", "pg_t", "public.loader", "loaders.t", '"my loader".t', "information_schema"]
)
def test_names_that_are_like_them_are_free(table: str) -> None:
    assert LoadSpec.from_dict({"table": table}).table == table


def test_the_command_line_must_not_either(dsn: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """By an option that wins over a spec."""
    (tmp_path / "a.csv").write_text("a\n1\n")
    assert main(["load", str(tmp_path / "a.csv"), "--table", "loader.loads", "--dsn", dsn]) == 2
    assert 'the schema "loader" holds the ledger' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "table"),
    [("loader, public", "loads"), ("loader", "new"), ("pg_catalog", "new"), ("information_schema, public", "tables")],
)
def test_a_search_path_must_not_lead_there(dsn: str, tmp_path: Any, path: str, table: str) -> None:
    """A name without a schema is found by the session, which may be set up in any way."""
    (tmp_path / "a.csv").write_text("a\n1\n")
    loader.load(str(tmp_path / "a.csv"), {"table": "public.a"}, dsn=dsn)
    before = query(dsn, "SELECT count(*) FROM loader.loads")
    ((name,),) = query(dsn, "SELECT current_database()")
    query(dsn, f'ALTER DATABASE "{name}" SET search_path = {path}')
    with pytest.raises(TableError, match=rf"\.{table}: the schema .*; choose another schema"):
        loader.load(str(tmp_path / "a.csv"), {"table": table}, dsn=dsn)
    assert query(dsn, "SELECT count(*) FROM loader.loads") == before


def test_a_temporary_table_is_not_found(dsn: str) -> None:
    """Its rows would be lost with the session."""
    connection = psycopg2.connect(dsn)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE t (a int)")
    with pytest.raises(TableError, match=r"pg_temp_\d+\.t: the schema"):
        catalog.describe(connection, None, "t")
    connection.close()
