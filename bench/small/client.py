"""A process that loads small files one after the other, warm: the loader, or what psycopg2 takes at least.

    python -m bench.small.client loader|floor append|merge TABLE DSN FOLDER WARM

``FOLDER``: of the files, below that of the bucket. When the first ``WARM`` of them are loaded, it prints a line, and
goes on when it gets one. In the end it prints what the rest took, as JSON: ``seconds`` of each, ``cpu`` of all.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2

from bench.objects import BUCKET
from bench.small.data import HEADER

Load = Callable[[Path], None]


@contextmanager
def loading(mode: str, table: str, dsn: str, bucket: Path) -> Iterator[Load]:
    """The loader, as a warm function has it: one `Database`, one client of S3, one spec."""
    from loader.core.spec.model import LoadSpec
    from loader.pipeline import How, load_one
    from loader.postgres.database import Database
    from loader.sources.source import s3_client

    database, client = Database(dsn), s3_client()
    spec = LoadSpec.from_dict({"table": table, "mode": mode, **({"key": ["id"]} if mode == "merge" else {})})

    def load(path: Path) -> None:
        load_one(f"s3://{BUCKET}/{path.relative_to(bucket)}", spec, database, How(threads=1), s3=client)

    try:
        yield load
    finally:
        database.close()


@contextmanager
def copying(mode: str, table: str, dsn: str) -> Iterator[Load]:
    """The floor: a session, a transaction a file; to merge, a temporary table that is kept, and ON CONFLICT."""
    connection = psycopg2.connect(dsn)
    cursor = connection.cursor()
    into = table if mode == "append" else "incoming"
    changes = ", ".join(f"{name} = excluded.{name}" for name in HEADER[1:])
    if mode == "merge":
        cursor.execute(f"CREATE TEMPORARY TABLE incoming (LIKE {table}) ON COMMIT DELETE ROWS")
        connection.commit()

    def load(path: Path) -> None:
        with path.open("rb") as file:
            cursor.copy_expert(f"COPY {into} FROM STDIN (FORMAT csv, HEADER)", file)
        if mode == "merge":
            cursor.execute(f"INSERT INTO {table} SELECT * FROM incoming ON CONFLICT (id) DO UPDATE SET {changes}")
        connection.commit()

    try:
        yield load
    finally:
        connection.close()


def main(*arguments: str) -> None:
    kind, mode, table, dsn, folder, warm = arguments
    files = sorted(Path(folder).glob("*.csv"))
    with copying(mode, table, dsn) if kind == "floor" else loading(mode, table, dsn, Path(folder).parent) as load:
        for path in files[: int(warm)]:
            load(path)
        print("ready", flush=True)
        sys.stdin.readline()
        seconds, cpu = [], time.process_time()
        for path in files[int(warm) :]:
            began = time.perf_counter()
            load(path)
            seconds.append(time.perf_counter() - began)
        print(json.dumps({"seconds": seconds, "cpu": time.process_time() - cpu}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
