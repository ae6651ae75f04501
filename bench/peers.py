"""The others, each by its best documented settings, in a process of its own.

    python -m bench.peers NAME FILE DSN TABLE [KEY,KEY]

Appends the file to a table that is there; dlt and awswrangler merge by the key where one is given.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CHUNK = 100_000
"""Records of a chunk, for those that would read the whole file at once."""


_OWN = Path(".venv/peers/bin/python")

INTERPRETER = os.environ.get("BENCH_PEERS") or (str(_OWN) if _OWN.exists() else sys.executable)
"""The Python that has them; `make bench` gives them an environment of their own."""


@dataclass(frozen=True, slots=True)
class Peer:
    """``how``: by which of its ways, and why. ``needs``: what has to be installed. ``rows``: at most so many, for
    those that would take the whole time of the suite for more; they are compared by the row."""

    name: str
    how: str
    needs: str
    rows: int | None = None
    strays: bool = False  # it does not keep to the search path: it names a schema, or connects in a way of its own

    def unable(self, *, own: bool) -> str | None:
        """Why it does not run, if so. ``own``: whether the server is the benchmark's."""
        if self.strays and not own:
            return "it would not keep to the benchmark's schema on a user's own server"
        return self.missing()

    @functools.cache  # noqa: B019 - there are seven of them, for as long as the suite runs
    def missing(self) -> str | None:
        """Why it cannot run here, if so."""
        if self.needs.startswith("/"):
            return None if shutil.which(self.needs[1:]) else f"there is no {self.needs[1:]} on this machine"
        found = subprocess.run([INTERPRETER, "-c", f"import {self.needs}"], capture_output=True, check=False)
        return f"the package {self.needs} is not installed" if found.returncode else None


PEERS = (
    Peer("adbc", "adbc_ingest of pyarrow.csv batches: binary COPY, schema given", "adbc_driver_postgresql"),
    Peer("polars", "read_csv, write_database by its ADBC engine", "polars"),
    Peer("pgloader", "csv into a table, workers and batches as its manual advises", "/pgloader", 500_000, strays=True),
    Peer(
        "dlt", "pyarrow resource, csv loader files, COPY (its fastest way into PostgreSQL)", "dlt", 500_000, strays=True
    ),
    Peer("pandas", "read_csv in chunks, to_sql with a COPY callable, as its manual shows", "pandas", rows=500_000),
    Peer("pandas-multi", 'to_sql(method="multi"), as most people use it', "pandas", rows=100_000),
    Peer("awswrangler", "postgresql.to_sql in chunks of a thousand, as its manual shows", "awswrangler", 50_000, True),
)

UNAVAILABLE = {
    "DuckDB": "its postgres extension is fetched from DuckDB's own server, which cannot be reached here",
    "Sling": "its Python package fetches the program from GitHub, which cannot be reached here",
    "ingestr": "its Python package fetches the program from GitHub, which cannot be reached here",
    "aws_s3": "the extension exists on RDS alone",
}
"""Those that could not be tried where docs/benchmarks.md was made, and why."""


def _adbc(file: Path, dsn: str, table: str, _key: str) -> None:
    import adbc_driver_postgresql.dbapi as adbc
    import pyarrow.csv

    with adbc.connect(dsn) as connection, connection.cursor() as cursor:
        schema = connection.adbc_get_table_schema(table)
        types = {field.name: _csv_type(field.type) for field in schema}
        read = pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=True)
        cursor.adbc_ingest(table, pyarrow.csv.open_csv(file, convert_options=read), mode="append")
        connection.commit()


def _csv_type(kind: object) -> object:
    """ADBC shows numeric as an opaque string, and PostgreSQL's char(n) as one; decimals are what it can write."""
    import pyarrow as pa

    return pa.decimal128(15, 2) if "numeric" in str(kind) else kind if not _opaque(kind) else pa.string()


def _opaque(kind: object) -> bool:
    return "opaque" in str(kind) or "extension" in str(kind)


def _polars(file: Path, dsn: str, table: str, _key: str) -> None:
    import adbc_driver_postgresql.dbapi as adbc
    import polars
    import pyarrow

    with adbc.connect(dsn) as connection:
        columns = connection.adbc_get_table_schema(table)
    types = pyarrow.schema([(each.name, _csv_type(each.type)) for each in columns])
    frame = polars.read_csv(file, schema=polars.from_arrow(types.empty_table()).schema)
    frame.write_database(table, dsn, engine="adbc", if_table_exists="append")


def _pgloader(file: Path, dsn: str, table: str, _key: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".load") as command:
        command.write(
            f"LOAD CSV FROM '{file}' INTO {dsn}{'&' if '?' in dsn else '?'}tablename={table}\n"
            "WITH skip header = 1, fields optionally enclosed by '\"', fields escaped by double-quote,\n"
            "     fields terminated by ',', batch rows = 50000, batch size = 50MB, prefetch rows = 100000;\n"
        )
        command.flush()
        subprocess.run(["pgloader", "--quiet", "--on-error-stop", command.name], check=True)


def _dlt(file: Path, dsn: str, table: str, key: str) -> None:
    os.environ |= {"RUNTIME__DLTHUB_TELEMETRY": "false", "DESTINATION__POSTGRES__LOADER_FILE_FORMAT": "csv"}
    import dlt
    import pyarrow.csv

    def batches():
        yield from pyarrow.csv.open_csv(file)

    disposition = "merge" if key else "append"
    resource = dlt.resource(
        batches, name=table, write_disposition=disposition, primary_key=key.split(",") if key else None
    )
    with tempfile.TemporaryDirectory() as folder:
        pipeline = dlt.pipeline(
            "bench",
            destination=dlt.destinations.postgres(_with_password(dsn)),
            dataset_name="dlt_bench",
            pipelines_dir=folder,
        )
        pipeline.run(resource, loader_file_format="csv")


def _with_password(dsn: str) -> str:
    """dlt insists on one, though the server does not."""
    from psycopg2.extensions import parse_dsn

    given = {"host": "", "port": "5432", "password": "none", **parse_dsn(dsn)}
    socket = given["host"].startswith("/")
    place = (
        f"localhost/{given['dbname']}?host={given['host']}"
        if socket
        else (f"{given['host']}:{given['port']}/{given['dbname']}")
    )
    return f"postgresql://{given['user']}:{given['password']}@{place}"


def _engine(dsn: str):
    from sqlalchemy import create_engine

    return create_engine("postgresql+psycopg2://", creator=lambda: _connect(dsn))


def _connect(dsn: str):
    import psycopg2

    return psycopg2.connect(dsn)


def _copied(table, connection, keys, records) -> None:
    """The callable of pandas' manual, "Insertion method"."""
    import csv
    from io import StringIO

    buffer = StringIO()
    csv.writer(buffer).writerows(records)
    buffer.seek(0)
    names = ", ".join(f'"{key}"' for key in keys)
    with connection.connection.cursor() as cursor:
        cursor.copy_expert(f"COPY {table.name} ({names}) FROM STDIN WITH CSV", buffer)


def _pandas(file: Path, dsn: str, table: str, _key: str, method: object = _copied) -> None:
    import pandas

    engine = _engine(dsn)
    size = CHUNK if method is _copied else 1000
    with engine.begin() as connection:
        for chunk in pandas.read_csv(file, chunksize=size, dtype_backend="pyarrow", engine="c"):
            chunk.to_sql(table, connection, if_exists="append", index=False, method=method)


def _pandas_multi(file: Path, dsn: str, table: str, key: str) -> None:
    _pandas(file, dsn, table, key, "multi")


def _awswrangler(file: Path, dsn: str, table: str, _key: str) -> None:
    import awswrangler
    import pandas
    import pg8000
    from psycopg2.extensions import parse_dsn

    given = {"port": "5432", "password": "postgres", **parse_dsn(dsn)}
    socket = f"{given['host']}/.s.PGSQL.{given['port']}"
    where = {"unix_sock": socket} if given["host"].startswith("/") else {"host": given["host"], "port": given["port"]}
    connection = pg8000.connect(user=given["user"], database=given["dbname"], password=given["password"], **where)
    for chunk in pandas.read_csv(file, chunksize=CHUNK):
        awswrangler.postgresql.to_sql(chunk, connection, table, "public", mode="append", chunksize=1000)
    connection.close()


RUN: dict[str, Callable[[Path, str, str, str], None]] = {
    "adbc": _adbc,
    "polars": _polars,
    "pgloader": _pgloader,
    "dlt": _dlt,
    "pandas": _pandas,
    "pandas-multi": _pandas_multi,
    "awswrangler": _awswrangler,
}


if __name__ == "__main__":
    name, path, address, target, *keys = sys.argv[1:]
    RUN[name](Path(path), address, target, *(keys or [""]))
