r"""What the ledger's statements read where it holds millions of loads.

    python -m bench.ledger [--loads 10000000] [--most 250]

Fills ``loader.loads`` with that many loads of many objects into many tables: half of them into one table, a tenth of
them versions of one object. Then it loads, merges, replays, loads by shards and asks for the history. Each statement
that names ``loader.loads`` runs under ``EXPLAIN (ANALYZE, BUFFERS)`` first, and is undone. The table says of each what
it read at most. Exits with 1 where one scans the whole table, or looks at more than ``--most`` rows of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import psycopg2

import loader.postgres.database
from bench.objects import BUCKET, Objects, serving
from bench.rig import open_server
from loader.core.errors import LoaderError, RejectLimitError
from loader.core.spec.model import LoadSpec
from loader.ledger import ledger
from loader.pipeline import How, load_one
from loader.postgres.database import Database
from loader.postgres.statements import execute, rows
from loader.replays import replay
from loader.sharding import runs
from loader.sharding.shards import finish, load_shard, plan_shards

LOADS, MOST = 10_000_000, 250

EVENTS = "events"
"""The table that half of the loads went into."""

SCRATCH = "scratch"
"""An UNLOGGED table that an eighth of the loads went into; a crash has thrown away the first half of these."""

LATEST = "latest.csv"
"""The object of which a tenth of the loads are versions."""

# --- a ledger of many loads

_FILL = f"""
    INSERT INTO loader.loads (state, source, bucket, key, version, pin, size, last_modified, target, mode, forced, spec,
        fingerprint, header, dialect, rows_read, rows_inserted, bytes_read, sequencer, applied, created, replay_of,
        retryable, unlogged, error, last_error, error_type, plan, started_at, finished_at, seen_at)
    SELECT state, CASE WHEN local THEN key ELSE 's3://{BUCKET}/' || key END, CASE WHEN NOT local THEN '{BUCKET}' END,
        key, version, version, size, at, target, 'merge', n %% 101 = 0, spec::json, md5(target),
        '["n", "a"]', '{{"delimiter": ",", "quote": "\\"", "encoding": "utf-8"}}', 100, 100, size,
        CASE WHEN NOT local AND n %% 7 <> 0 THEN upper(lpad(to_hex(n), 18, '0')) END,
        CASE WHEN state = 'loaded' THEN n END, n <= 3, CASE WHEN n %% 97 = 0 THEN n - 1 END,
        n %% 46 = 1, n %% 8 = 3, failure, failure, CASE WHEN state = 'failed' THEN 'RejectLimitError' END,
        'staged: it is merged', at, at, at
    FROM (SELECT n, timestamptz '2026-01-01' + n * interval '2 seconds' AS at, n %% 20 IN (5, 6) AS local,
            CASE n %% 23 WHEN 1 THEN 'failed' WHEN 2 THEN 'superseded' ELSE 'loaded' END AS state,
            CASE WHEN n %% 23 = 1 THEN 'more records were rejected than may be' END AS failure,
            CASE WHEN n %% 2 = 0 THEN 'public.{EVENTS}' WHEN n %% 8 = 3 THEN 'public.{SCRATCH}'
                 ELSE 'public.table_' || n %% 401 END AS target,
            CASE WHEN n %% 10 = 0 THEN '{LATEST}' WHEN n %% 20 IN (5, 6) THEN '/data/' || n || '.csv'
                 ELSE 'incoming/' || n || '.csv' END AS key,
            CASE WHEN n %% 20 IN (5, 6) THEN 'sha256:' || md5(n::text) || md5(n::text) ELSE md5(n::text) END AS version,
            CASE WHEN n %% 3 = 0 THEN 4096 ELSE 1000 + n %% 9973 END AS size,
            '{{"table": "{EVENTS}", "mode": "merge", "key": ["n"], "columns": {{"n": "bigint", "a": "text"}}}}' AS spec
          FROM generate_series(%s, %s) n) made"""

_STEP = 500_000
"""Loads that are entered in one transaction."""


def fill(connection: Any, loads: int) -> None:
    """Enter so many loads, as from the first second of 2026 on, and have PostgreSQL look at them. Indexes are made
    afterwards, so that it takes minutes and not hours."""
    indexes = rows(
        connection,
        "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
        " WHERE indrelid = 'loader.loads'::regclass AND NOT indisprimary",
    )
    for name, _ in indexes:
        execute(connection, f"DROP INDEX {name}")
    for first in range(1, loads + 1, _STEP):
        execute(connection, _FILL, (first, min(first + _STEP - 1, loads)))
        connection.commit()
    for _, definition in indexes:
        execute(connection, definition)
    kept = "SELECT load_id FROM loader.loads WHERE state = 'loaded' AND unlogged AND applied > %s"
    execute(connection, f"INSERT INTO loader.unlogged_loads {kept}", (loads // 2,))
    connection.commit()
    connection.autocommit = True
    execute(connection, "VACUUM (ANALYZE) loader.loads, loader.unlogged_loads")
    connection.autocommit = False


# --- what statements read


@dataclass(frozen=True, slots=True)
class Reading:
    """What one statement read. ``doing``: in which use of the ledger. ``looked_at``: rows of ``loader.loads``, whether
    they were wanted or not. ``buffers``: pages, of all tables and indexes. ``whole``: it scans a whole table
    that may be large."""

    doing: str
    statement: str
    looked_at: int
    buffers: int
    milliseconds: float
    whole: bool
    scans: tuple[str, ...]


_LARGE = ("loads", "unlogged_loads", "pg_class")
"""Tables that grow with the loads, or with what else is in the database."""


@dataclass(slots=True)
class Watch:
    """``doing``: what is going on; ``readings``: of all statements so far."""

    doing: str = ""
    readings: list[Reading] = field(default_factory=list)

    def note(self, statement: str, told: Mapping[str, Any]) -> None:
        scans = [
            each for each in _nodes(told["Plan"]) if each.get("Relation Name") == "loads" and "Scan" in _kind(each)
        ]
        self.readings.append(
            Reading(
                self.doing,
                statement,
                round(sum(map(_looked_at, scans))),
                told["Plan"].get("Shared Hit Blocks", 0) + told["Plan"].get("Shared Read Blocks", 0),
                told["Execution Time"],
                any(_kind(each) == "Seq Scan" and each["Relation Name"] in _LARGE for each in _nodes(told["Plan"])),
                tuple(each.get("Index Name", _kind(each)) for each in _nodes(told["Plan"]) if "Scan" in _kind(each)),
            )
        )


def _kind(node: Mapping[str, Any]) -> str:
    return str(node["Node Type"])


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from _nodes(each)


def _looked_at(scan: Mapping[str, Any]) -> float:
    """Rows that a scan took from the table. What PostgreSQL tells is the mean of its loops."""
    found = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    return float(sum(scan.get(each, 0) for each in found) * scan["Actual Loops"])


@contextlib.contextmanager
def watching() -> Iterator[Watch]:
    """Every statement that names ``loader.loads``, of all sessions that are opened by `Database` in the body, is
    explained before it runs; what that did is undone."""
    watch = Watch()
    plain = loader.postgres.database._Cursor

    class Explaining(plain):  # type: ignore[misc, valid-type]
        def execute(self, statement: Any, parameters: Any = None) -> None:
            text = self.mogrify(statement, parameters).decode()
            if self.name is None and not self.connection.autocommit and _is_about_loads(text):
                self._explain(text)
            super().execute(statement, parameters)

        def _explain(self, text: str) -> None:
            super().execute("SAVEPOINT explained")
            with contextlib.suppress(psycopg2.IntegrityError):
                super().execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}")
                watch.note(text, self.fetchone()[0][0])
            super().execute("ROLLBACK TO SAVEPOINT explained")
            super().execute("RELEASE SAVEPOINT explained")

    loader.postgres.database._Cursor = Explaining  # type: ignore[misc]
    try:
        yield watch
    finally:
        loader.postgres.database._Cursor = plain  # type: ignore[misc]


def _is_about_loads(text: str) -> bool:
    return re.match(r"\s*(SELECT|WITH|\(|INSERT|UPDATE|DELETE)", text) is not None and "loader.loads" in text


# --- every use that is made of a ledger

_SPEC = LoadSpec.from_dict(
    {
        "table": EVENTS,
        "mode": "merge",
        "key": ["n"],
        "columns": {"n": "bigint", "a": "text"},
        "rejects": {"max_rows": 10, "max_ratio": 1.0},
    }
)

_BAD = 20
"""Records that make a load fail."""

_LATE_BY = 20
"""Versions by which a late one is late. All that are newer are read where it is later, which is rare."""


TABLES = f"""
    CREATE TABLE {EVENTS} (n bigint PRIMARY KEY, a text);
    CREATE UNLOGGED TABLE {SCRATCH} (n bigint PRIMARY KEY, a text)"""


class Uses:
    """What processes do with a ledger, on `EVENTS` and `SCRATCH`: see `TABLES`."""

    def __init__(self, database: Database, objects: Objects, loads: int) -> None:
        self._database = database
        self._before = loads - _LATE_BY * 10
        self._objects = objects
        self._made = 0
        known = objects.environment
        self._s3 = boto3.client(
            "s3",
            endpoint_url=known["AWS_ENDPOINT_URL"],
            aws_access_key_id=known["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"],
            region_name=known["AWS_DEFAULT_REGION"],
        )

    def every(self) -> Mapping[str, Callable[[], object]]:
        """By what each is; in this order."""
        return {
            "a new object": lambda: self._load(self._object("new.csv")),
            "a new version": lambda: self._load(self._object(LATEST)),
            "the same event again": lambda: self._load(self._objects.folder / LATEST),
            "a late version": self._late,
            "an UNLOGGED table": lambda: self._load(self._object("scratch.csv"), replace(_SPEC, table=SCRATCH)),
            "by force": lambda: self._load(self._objects.folder / LATEST, force=True),
            "without versions": self._unversioned,
            "an object that is missing": self._missing,
            "a file": self._file,
            "a failure, and again": self._failing,
            "rejects, and their replay": self._replayed,
            "shards": self._sharded,
            "status": self._status,
        }

    def _object(self, key: str, *, bad: int = 0, records: int = 3) -> Path:
        """A new version of an object, with records that no two versions share."""
        self._made += 1
        path = self._objects.folder / key
        lines = [f"{self._made * 1_000_000 + number},a text" for number in range(records)]
        lines += [f"bad {self._made},a text"] * bad
        path.write_text("n,a\n" + "\n".join(lines) + "\n")
        return path

    def _load(self, path: Path, spec: LoadSpec = _SPEC, *, sequencer: str | None = None, **how: Any) -> Any:
        at = path.stat().st_mtime
        sequencer = sequencer or f"{int(at * 1e6):018X}"
        version = self._objects.version(path) if self._objects.versioned else None
        told = How(sequencer=sequencer if version else None, **how)
        return load_one(f"s3://{BUCKET}/{path.name}", spec, self._database, told, version_id=version, s3=self._s3)

    def _late(self) -> None:
        """Older than the last versions that were loaded: by its sequencer, then by when it was stored."""
        path = self._object(LATEST)
        os.utime(path, (1, datetime(2026, 1, 1, tzinfo=UTC).timestamp() + 2 * self._before))
        for sequencer in (f"{self._before:018X}", "A"):
            if self._load(path, sequencer=sequencer).state != "skipped":
                raise SystemExit("a late version was loaded")

    def _unversioned(self) -> None:
        self._objects.versioned = False
        path = self._object("unversioned.csv")
        self._load(path)
        self._load(path)
        self._objects.versioned = True

    def _missing(self) -> None:
        with contextlib.suppress(LoaderError):
            load_one(f"s3://{BUCKET}/missing.csv", _SPEC, self._database, How(), version_id="1", s3=self._s3)

    def _file(self) -> None:
        path = self._object("file.csv")
        for _ in range(2):
            load_one(str(path), _SPEC, self._database, How())

    def _failing(self) -> None:
        path = self._object("bad.csv", bad=_BAD)
        for _ in range(2):
            with contextlib.suppress(RejectLimitError):
                self._load(path, failed_since=datetime(2026, 1, 1, tzinfo=UTC))

    def _replayed(self) -> None:
        report = self._load(self._object("rejects.csv", bad=2))
        replay(report.load_id, self._database)
        replay(report.load_id, self._database)

    def _sharded(self) -> None:
        path = self._object("sharded.csv", records=1000)
        version = self._objects.version(path)
        told: dict[str, Any] = {"s3": self._s3, "version_id": version, "sequencer": f"{2**70:018X}"}
        uri = f"s3://{BUCKET}/{path.name}"
        plan = plan_shards(uri, _SPEC, self._database, shards=2, **told)
        plan = plan_shards(uri, _SPEC, self._database, shards=2, **told)
        reports = [load_shard(plan, each, self._database, s3=self._s3) for each in range(len(plan.ranges))]
        with self._database.session() as connection:
            runs.find_summary(connection, plan.load_id or 0)
        finish(plan, reports, self._database, s3=self._s3)

    def _status(self) -> None:
        with self._database.session() as connection:
            ledger.history(connection)
            found = ledger.find_newest(connection, BUCKET, "new.csv")
            assert found is not None
            ledger.find_load(connection, found["load_id"])
            ledger.find_replays(connection, found["load_id"])
            list(ledger.rejects(connection, found["load_id"]))


def read(database: Database, objects: Objects, loads: int) -> list[Reading]:
    """Make every use of the ledger in ``database``, which has so many loads, and give what its statements read."""
    objects.versioned = True
    with watching() as watch:
        for name, use in Uses(database, objects, loads).every().items():
            watch.doing = name
            use()
    return watch.readings


# --- the report


def worst(readings: list[Reading]) -> list[Reading]:
    """Of each statement, whatever its values, the one that looked at the most rows, then read the most pages; those
    that read the most first."""
    found: dict[str, Reading] = {}
    for each in readings:
        before = found.setdefault(shape(each.statement), each)
        if (each.looked_at, each.buffers) > (before.looked_at, before.buffers):
            found[shape(each.statement)] = each
    return sorted(found.values(), key=lambda each: (-each.looked_at, -each.buffers))


def shape(statement: str) -> str:
    """A statement without its values."""
    values = re.compile(r"E?'(?:[^'\\]|''|\\.)*'(?:::\w+)?|\b\d+(?:\.\d+)?\b|\b(?:NULL|true|false)\b")
    return " ".join(values.sub("?", statement).split())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=int, default=LOADS)
    parser.add_argument("--most", type=int, default=MOST, help="rows that a statement may look at (default: 250)")
    told = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-ledger-")))
        server = stack.enter_context(open_server(folder, {"shared_buffers": "1GB", "max_wal_size": "8GB"}))
        bucket = folder / "bucket"
        bucket.mkdir()
        objects = stack.enter_context(serving(bucket))
        server.execute(TABLES)
        _fill(server.dsn, told.loads)
        print(server.ask(_SIZES))
        database = Database(server.dsn)
        stack.callback(database.close)
        return _tell(read(database, objects, told.loads), told.most)


_SIZES = """
    SELECT string_agg(pg_size_pretty(pg_relation_size(oid)) || ' ' || relname, ', ' ORDER BY pg_relation_size(oid) DESC)
      FROM pg_class WHERE oid = 'loader.loads'::regclass
        OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'loader.loads'::regclass)"""


def _fill(dsn: str, loads: int) -> None:
    began = time.perf_counter()
    connection = psycopg2.connect(dsn)
    try:
        ledger.migrate(connection)
        fill(connection, loads)
    finally:
        connection.close()
    print(f"{loads:,} loads in the ledger, after {time.perf_counter() - began:.0f} s", flush=True)


def _tell(readings: list[Reading], most: int) -> int:
    print(f"{'rows':>7} {'pages':>7} {'ms':>8}  {'in':26} statement, and its scans")
    for each in worst(readings):
        print(
            f"{each.looked_at:7,} {each.buffers:7,} {each.milliseconds:8.2f}  {each.doing:26} "
            f"{shape(each.statement)[:110]}\n{'':52}{', '.join(each.scans) or '-'}"
        )
    bad = [each for each in readings if each.whole or each.looked_at > most]
    for each in bad:
        print(f"FAILED: {each.doing}: {json.dumps(each.statement)[:2000]}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
