"""What was loaded, what is in progress, what was rejected: schema ``loader``.

A load takes its table's turn (a session's advisory lock, so it ends with its holder), looks whether the
object's version has had its effect already, enters itself as running, and is entered as loaded in the very
transaction that changes the target. Nothing here decides by a clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class
from psycopg2.extensions import encodings
from psycopg2.extras import execute_values

from loader.catalog import rows
from loader.errors import DatabaseUnavailableError
from loader.report import REASONS, ROW_COUNTS, LoadReport, Reject
from loader.spec import CsvSpec, LoadSpec
from loader.tables import staging_name

if TYPE_CHECKING:
    from loader.source import Source

SCHEMA_VERSION = 3
"""The newest of the files in ``schema/``, which bring the ledger from one version to the next."""

_MIGRATION_LOCK = 0x6C6F616465720001  # "loader" and a number: any constant of its own will do


def migrate(connection: Connection) -> None:
    """Create schema ``loader`` or bring it up to this version, and commit. Idempotent, safe to run at once."""
    if _installed_version(connection) < SCHEMA_VERSION:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
            for version in range(_installed_version(connection) + 1, SCHEMA_VERSION + 1):
                cursor.execute(files("loader").joinpath("schema", f"{version}.sql").read_text("utf-8"))
                cursor.execute("INSERT INTO loader.schema_version (version) VALUES (%s)", (version,))
    connection.commit()


def _is_there(connection: Connection) -> bool:
    """Whether there is a ledger to read; an older one is brought up to date first."""
    installed = _installed_version(connection)
    if 0 < installed < SCHEMA_VERSION:
        migrate(connection)
    return installed > 0


def _installed_version(connection: Connection) -> int:
    # not to_regclass(): within a transaction it may remember that there was none before the lock was had
    exists = "SELECT FROM pg_tables WHERE schemaname = 'loader' AND tablename = 'schema_version'"
    if not rows(connection, exists):
        return 0
    version: int | None = rows(connection, "SELECT max(version) FROM loader.schema_version")[0][0]
    return version or 0


@contextmanager
def turn(connection: Connection, target: str, *, wait: float) -> Iterator[None]:
    """Hold the turn of the table ``target``; loads into one table go one after the other.

    The lock is the session's: it outlives commits and rollbacks, and dies with the connection. Raises
    DatabaseUnavailableError (retryable) after ``wait`` seconds.
    """
    key = "hashtextextended('loader ' || %s, 0)"
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, false)", (f"{int(wait * 1000)}ms",))
        try:
            cursor.execute(f"SELECT pg_advisory_lock({key})", (target,))
        except psycopg2.errors.LockNotAvailable as error:
            connection.rollback()
            raise DatabaseUnavailableError(
                f"{target}: another load has had its turn for {wait:g} seconds", "55P03"
            ) from error
        cursor.execute("RESET lock_timeout")
    connection.commit()
    try:
        yield
    finally:
        if not connection.closed:
            connection.rollback()
            rows(connection, f"SELECT pg_advisory_unlock({key})", (target,))
            connection.commit()


def clear_abandoned(connection: Connection, target: str) -> None:
    """Close the loads into ``target`` that died in mid-way, and drop their staging tables. Needs its turn."""
    abandoned = rows(
        connection,
        "UPDATE loader.loads SET state = 'failed', finished_at = clock_timestamp(),"
        " error = coalesce(error, 'its process ended before it did')"
        " WHERE target = %s AND state = 'running' RETURNING load_id",
        (target,),
    )
    with connection.cursor() as cursor:
        for (load_id,) in abandoned:
            name = sql.Identifier("loader", staging_name(load_id))
            cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
    connection.commit()


def find_loaded(
    connection: Connection, source: Source, target: str, *, replay_of: int | None = None
) -> tuple[int, str] | None:
    """The load that gave this version of the object its effect on ``target``: its id and source; None if none did.

    A local file's version is its content's hash, and hashing reads it whole: that is done only where a file
    of its size was loaded before. ``replay_of``: the object holds rejects of that load. Then replays of other
    loads do not count, because they may well have had the same records to mend, nor do loads that rejected
    every record.
    """
    same = "state = 'loaded' AND target = %s AND coalesce(bucket, '') = %s AND (%s OR key = %s)"
    identity: tuple[Any, ...] = (target, source.bucket or "", source.bucket is None, source.key)
    if replay_of is not None:
        same += " AND rows_rejected < rows_read AND (replay_of IS NULL OR replay_of = %s OR load_id = %s)"
        identity += (replay_of, replay_of)
    if source.version is None:
        same_size = f"SELECT 1 FROM loader.loads WHERE {same} AND size = %s LIMIT 1"
        if not rows(connection, same_size, (*identity, source.size)):
            return None
    found = rows(
        connection,
        f"SELECT load_id, source FROM loader.loads WHERE {same} AND version = %s ORDER BY load_id LIMIT 1",
        (*identity, source.digest()),
    )
    return (found[0][0], found[0][1]) if found else None


def begin(
    connection: Connection,
    source: Source,
    target: str,
    spec: LoadSpec,
    *,
    forced: bool,
    replay_of: int | None = None,
) -> int:
    """Enter a load as running, commit, and give its id. ``replay_of``: the load whose rejects these records are."""
    values = {
        "state": "running",
        "source": source.uri,
        "bucket": source.bucket,
        "key": source.key,
        "version": source.version,
        "size": source.size,
        "last_modified": source.last_modified,
        "target": target,
        "mode": spec.mode,
        "forced": forced,
        "spec": json.dumps(spec.to_dict()),
        "replay_of": replay_of,
    }
    load_id: int = _insert_load(connection, values)
    connection.commit()
    return load_id


def _insert_load(connection: Connection, values: Mapping[str, Any]) -> int:
    statement = sql.SQL("INSERT INTO loader.loads ({}) VALUES ({}) RETURNING load_id").format(
        sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(map(sql.Placeholder, values))
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, dict(values))
        row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def note_file(connection: Connection, load_id: int, header: Sequence[str] | None, csv: CsvSpec) -> None:
    """Enter how the file is really written, and commit: the rejects of a load that dies can be mended too.

    ``header``: its names as they stand in the file, None where it has none. ``csv``: the settings it is read by,
    with nothing left to sniff.
    """
    names = None if header is None else json.dumps(header)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE loader.loads SET header = %s, dialect = %s WHERE load_id = %s",
            (names, json.dumps(asdict(csv)), load_id),
        )
    connection.commit()


def finish(connection: Connection, report: LoadReport) -> None:
    """Enter a load's outcome in the transaction that is open: for a success that of the merge."""
    values = {name: getattr(report, name) for name in ("state", "rows_read", *ROW_COUNTS, "bytes_read", "version")}
    values |= {name: json.dumps(getattr(report, name)) for name in ("rejects_by_reason", "rejects_by_column")}
    spelt = _spelling(connection)
    values |= {"notes": [spelt(note) for note in report.notes], "error": report.error and spelt(report.error)}
    assignments = ", ".join(f"{name} = %({name})s" for name in values)
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE loader.loads SET {assignments}, finished_at = clock_timestamp() WHERE load_id = %(load_id)s",
            {**values, "load_id": report.load_id},
        )


def keep_rejects(connection: Connection, load_id: int, rejects: Sequence[Reject]) -> None:
    """Enter rejected records in the transaction that is open."""
    spelt = _spelling(connection)
    values = [
        (
            load_id,
            each.record,
            each.line,
            each.offset,
            each.column,
            each.reason,
            each.sqlstate,
            spelt(each.message),
            *_raw(each.raw, spelt),
            each.raw_length,
        )
        for each in rejects
    ]
    with connection.cursor() as cursor:
        execute_values(
            cursor,
            "INSERT INTO loader.rejects (load_id, record_number, line_number, byte_offset, column_name,"
            " reason, sqlstate, message, raw, raw_bytes, raw_length) VALUES %s",
            values,
            page_size=1000,
        )


def forget_rejects(connection: Connection, load_id: int) -> None:
    """Delete the rejects of a load that starts over, in the transaction that is open."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM loader.rejects WHERE load_id = %s", (load_id,))


def _raw(raw: bytes, spelt: Callable[[str], str]) -> tuple[str, psycopg2.Binary | None]:
    text = spelt(raw.decode("utf-8", "backslashreplace"))
    return text, None if text.encode() == raw else psycopg2.Binary(raw)


def _spelling(connection: Connection) -> Callable[[str], str]:
    """How texts from files are spelt so that any database can store them: NUL, and whatever characters its
    encoding lacks, as Python writes them in strings."""
    codec = encodings.get(connection.info.parameter_status("server_encoding") or "UTF8", "ascii")

    def spelt(text: str) -> str:
        text = text.replace("\0", "\\x00")
        return text if codec == "utf_8" else text.encode(codec, "backslashreplace").decode(codec)

    return spelt


# --- reading it


STATUS_COLUMNS = (
    "load_id", "state", "source", "version", "target", "mode", "forced", "replay_of", "rows_read", *ROW_COUNTS,
    "rejects_by_reason", "rejects_by_column", "bytes_read", "notes", "error", "started_at", "finished_at",
)  # fmt: skip

FILE_COLUMNS = ("bucket", "key", "header", "dialect", "spec")
"""What there is to know of one load beyond its status: how its file was written, and what it was told."""


def history(connection: Connection, *, limit: int = 50) -> list[dict[str, Any]]:
    """Loads, newest first, as mappings of `STATUS_COLUMNS`."""
    return _loads(connection, STATUS_COLUMNS, "true ORDER BY load_id DESC LIMIT %s", limit)


def find_load(connection: Connection, load_id: int) -> dict[str, Any] | None:
    """One load as a mapping of `STATUS_COLUMNS` and `FILE_COLUMNS`; None where there is none of that id."""
    return next(iter(_loads(connection, STATUS_COLUMNS + FILE_COLUMNS, "load_id = %s", load_id)), None)


def find_newest(connection: Connection, bucket: str | None, key: str) -> dict[str, Any] | None:
    """The newest load of an object or file, replays apart, as `find_load` gives it."""
    of_it = "coalesce(bucket, '') = %s AND key = %s AND replay_of IS NULL ORDER BY load_id DESC LIMIT 1"
    return next(iter(_loads(connection, STATUS_COLUMNS + FILE_COLUMNS, of_it, bucket or "", key)), None)


def find_replays(connection: Connection, load_id: int) -> list[int]:
    """The replays of a load that loaded anything, oldest first."""
    of_it = "replay_of = %s AND state = 'loaded' AND rows_rejected < rows_read ORDER BY load_id"
    return [each["load_id"] for each in _loads(connection, ("load_id",), of_it, load_id)]


def _loads(connection: Connection, columns: Sequence[str], which: str, *parameters: Any) -> list[dict[str, Any]]:
    if not _is_there(connection):
        return []
    found = rows(connection, f"SELECT {', '.join(columns)} FROM loader.loads WHERE {which}", parameters)
    return [dict(zip(columns, each, strict=True)) for each in found]


REJECT_COLUMNS = (
    "record_number", "line_number", "byte_offset", "column_name", "reason", "sqlstate", "message", "raw", "raw_length"
)  # fmt: skip

_FETCHED = 16
"""Rejects fetched at once: each may be 1 MiB, and psycopg2's 2,000 of those would be two gigabytes."""


def rejects(connection: Connection, load_id: int) -> Iterator[dict[str, Any]]:
    """The rejected records of a load in the file's order, streamed, as mappings of `REJECT_COLUMNS` and ``kind``."""
    for each in _stream_rejects(connection, ", ".join(REJECT_COLUMNS), load_id):
        record = dict(zip(REJECT_COLUMNS, each, strict=True))
        reason = REASONS.get(record["reason"])  # None: of a later version
        yield {**record, "kind": reason and reason.kind}


@dataclass(frozen=True, slots=True)
class Raw:
    """A rejected record as it stood in the file: ``record`` is its number, ``data`` its bytes, in UTF-8 where they
    were valid. ``whole``: all of them are there; ``length``: how many there were, None where that is not known."""

    record: int
    line: int
    reason: str
    data: bytes
    length: int | None

    @property
    def whole(self) -> bool:
        return self.length == len(self.data)


def raw_rejects(connection: Connection, load_id: int) -> Iterator[Raw]:
    """The rejected records of a load as they stood in the file, in its order, streamed."""
    columns = "record_number, line_number, reason, raw, raw_bytes, raw_length"
    for record, line, reason, text, data, length in _stream_rejects(connection, columns, load_id):
        yield Raw(record, line, reason, text.encode() if data is None else bytes(data), length)


def _stream_rejects(connection: Connection, columns: str, load_id: int) -> Iterator[tuple[Any, ...]]:
    with connection.cursor(name="loader_rejects") as cursor:
        cursor.itersize = _FETCHED
        cursor.execute(
            f"SELECT {columns} FROM loader.rejects WHERE load_id = %s ORDER BY record_number",
            (load_id,),
        )
        yield from cursor
