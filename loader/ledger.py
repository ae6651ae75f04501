"""What was loaded, what is in progress, what was rejected: schema ``loader``.

A load takes its table's turn (a session's advisory lock, so it ends with its holder), looks whether the
object's version has had its effect already, enters itself as running, and is entered as loaded in the very
transaction that changes the target. Nothing here decides by a clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class
from psycopg2.extras import execute_values

from loader.catalog import rows
from loader.errors import DatabaseUnavailableError
from loader.report import ROW_COUNTS, LoadReport, Reject
from loader.spec import LoadSpec
from loader.tables import staging_name

if TYPE_CHECKING:
    from loader.source import Source

SCHEMA_VERSION = 1

_MIGRATION_LOCK = 0x6C6F616465720001  # "loader" and a number: any constant of its own will do


def migrate(connection: Connection) -> None:
    """Create schema ``loader`` or bring it up to this version, and commit. Idempotent, safe to run at once."""
    if _installed_version(connection) < SCHEMA_VERSION:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
            if _installed_version(connection) < SCHEMA_VERSION:
                cursor.execute(files("loader").joinpath("schema.sql").read_text("utf-8"))
                cursor.execute("INSERT INTO loader.schema_version (version) VALUES (%s)", (SCHEMA_VERSION,))
    connection.commit()


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


def find_loaded(connection: Connection, source: Source, target: str) -> tuple[int, str] | None:
    """The load that gave this version of the object its effect on ``target``: its id and source; None if none did.

    A local file's version is its content's hash, and hashing reads it whole: that is done only where a file
    of its size was loaded before.
    """
    same = "state = 'loaded' AND target = %s AND coalesce(bucket, '') = %s AND (%s OR key = %s)"
    identity = (target, source.bucket or "", source.bucket is None, source.key)
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


def begin(connection: Connection, source: Source, target: str, spec: LoadSpec, *, forced: bool) -> int:
    """Enter a load as running, commit, and give its id."""
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


def finish(connection: Connection, report: LoadReport) -> None:
    """Enter a load's outcome in the transaction that is open: for a success that of the merge."""
    counts = {name: getattr(report, name) for name in ("rows_read", *ROW_COUNTS, "bytes_read", "version", "error")}
    assignments = ", ".join(f"{name} = %({name})s" for name in counts)
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE loader.loads SET state = %(state)s, notes = %(notes)s, finished_at = clock_timestamp(),"
            f" {assignments} WHERE load_id = %(load_id)s",
            {**counts, "state": report.state, "notes": list(report.notes), "load_id": report.load_id},
        )


def keep_rejects(connection: Connection, load_id: int, rejects: Sequence[Reject]) -> None:
    """Enter rejected records in the transaction that is open."""
    values = [
        (
            load_id,
            each.record,
            each.line,
            each.offset,
            each.column,
            each.reason,
            _text(each.message),
            *_raw(each.raw),
        )
        for each in rejects
    ]
    with connection.cursor() as cursor:
        execute_values(
            cursor,
            "INSERT INTO loader.rejects (load_id, record_number, line_number, byte_offset, column_name,"
            " reason, message, raw, raw_bytes) VALUES %s",
            values,
            page_size=1000,
        )


def forget_rejects(connection: Connection, load_id: int) -> None:
    """Take the load's rejects out again, for it starts over."""
    rows(connection, "DELETE FROM loader.rejects WHERE load_id = %s RETURNING 1", (load_id,))


def _raw(raw: bytes) -> tuple[str, psycopg2.Binary | None]:
    text = raw.decode("utf-8", "backslashreplace").replace("\0", "\\x00")
    return text, None if text.encode() == raw else psycopg2.Binary(raw)


def _text(message: str) -> str:
    return message.replace("\0", "\\x00")


STATUS_COLUMNS = (
    "load_id", "state", "source", "version", "target", "mode", "forced", "rows_read", *ROW_COUNTS, "bytes_read",
    "notes", "error", "started_at", "finished_at",
)  # fmt: skip


def history(connection: Connection, load_id: int | None = None, *, limit: int = 50) -> list[dict[str, Any]]:
    """Loads, newest first, as mappings of `STATUS_COLUMNS`; with ``load_id`` that one alone."""
    if _installed_version(connection) == 0:
        return []
    found = rows(
        connection,
        f"SELECT {', '.join(STATUS_COLUMNS)} FROM loader.loads WHERE load_id = %s OR %s ORDER BY load_id DESC LIMIT %s",
        (load_id, load_id is None, limit),
    )
    return [dict(zip(STATUS_COLUMNS, each, strict=True)) for each in found]


REJECT_COLUMNS = ("record_number", "line_number", "byte_offset", "column_name", "reason", "message", "raw")


def rejects(connection: Connection, load_id: int) -> Iterator[dict[str, Any]]:
    """The rejected records of a load in the file's order, streamed, as mappings of `REJECT_COLUMNS`."""
    with connection.cursor(name="loader_rejects") as cursor:
        cursor.execute(
            f"SELECT {', '.join(REJECT_COLUMNS)} FROM loader.rejects WHERE load_id = %s ORDER BY record_number",
            (load_id,),
        )
        for each in cursor:
            yield dict(zip(REJECT_COLUMNS, each, strict=True))
