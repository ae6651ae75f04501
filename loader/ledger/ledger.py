"""What was loaded, what is in progress, what was rejected: schema ``loader``.

A load takes its table's turn (a session's advisory lock, so it ends with its holder), looks whether the
object's version has had its effect already (see `versions`), enters itself as running, and is entered as loaded in the
very transaction that changes the target. Nothing here decides by a clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

import psycopg2
import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class
from psycopg2.extensions import encodings

from loader.core.deadline import Deadline, paused_by
from loader.core.errors import BusyError, DatabaseUnavailableError
from loader.core.report import REASONS, ROW_COUNTS, LoadReport, Reject
from loader.core.spec.model import CsvSpec, LoadSpec, plain_csv
from loader.postgres.catalog import BEHIND_VIEWS, LOCATED
from loader.postgres.database import end_overdue
from loader.postgres.pooler import refused
from loader.postgres.server_encoding import repertoire_of, server_encoding
from loader.postgres.statements import execute, insert, planned_rows, rows, stream
from loader.postgres.tables import Table

if TYPE_CHECKING:
    from loader.sources.source import Missing, Source

LedgerState = Literal["running", "paused", "sharded", "loaded", "superseded", "failed"]

SCHEMA_VERSION = 9
"""The newest of the files in ``schema/``, which bring the ledger from one version to the next."""

_MIGRATION_LOCK = 0x6C6F616465720001  # "loader" and a number: any constant of its own will do


def migrate(connection: Connection) -> None:
    """Create schema ``loader`` or bring it up to this version, and commit. Idempotent, safe to run at once.

    A ledger of a later version stays as it is: each migration keeps the processes of the version before running.
    """
    if _installed_version(connection) < SCHEMA_VERSION:
        execute(connection, "SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        for version in range(_installed_version(connection) + 1, SCHEMA_VERSION + 1):
            execute(connection, files("loader.ledger").joinpath("schema", f"{version}.sql").read_text("utf-8"))
            execute(connection, "INSERT INTO loader.schema_version (version) VALUES (%s)", (version,))
    connection.commit()


def _is_there(connection: Connection) -> bool:
    """Whether there is a ledger to read; an older one is brought up to date first."""
    installed = _installed_version(connection)
    if 0 < installed < SCHEMA_VERSION:
        migrate(connection)
    return installed > 0


def is_current(connection: Connection) -> bool:
    """Whether there is a ledger to read that has all that this version knows: of this version or of a later one."""
    return _installed_version(connection) >= SCHEMA_VERSION


def _installed_version(connection: Connection) -> int:
    # not to_regclass(): within a transaction it may remember that there was none before the lock was had
    exists = "SELECT FROM pg_tables WHERE schemaname = 'loader' AND tablename = 'schema_version'"
    if not rows(connection, exists):
        return 0
    version: int | None = rows(connection, "SELECT max(version) FROM loader.schema_version")[0][0]
    return version or 0


TURN_KEY = "hashtextextended('loader ' || %s, 0)"

_TURN_LOCK = """
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND (classid::bigint << 32 | objid::bigint) ="""
"""Sessions that hold or want the lock whose key comes next; with ``AND pid = pg_backend_pid()`` after it, this one."""


@contextmanager
def turn(
    connection: Connection, target: str, *, wait: float, deadline: Deadline, oid: int | None = None
) -> Iterator[float]:
    """Hold the turn of the table ``target``; gives the seconds that it took to get it.

    Loads into one table go one after the other, in the order in which they asked; with ``oid``, the table's, also those
    into tables and views that share rows with it. The locks are the session's: they outlive commits and rollbacks, and
    die with the connection. Raises BusyError (retryable) where one was not to be had for ``wait`` seconds, or when the
    deadline comes first, PausedError where the deadline was told to stop, and SetupError where a session of this load's
    shares its connection to the server with others.
    """
    began = time.monotonic()
    keys = _take_turn(connection, target, min(wait, deadline.left), deadline, oid)
    try:
        yield time.monotonic() - began
    finally:
        if not connection.closed:
            connection.rollback()
            rows(connection, "SELECT pg_advisory_unlock(key) FROM unnest(%s::bigint[]) AS key", (keys,))
            connection.commit()


_TARGET_NAME = """
    (CASE WHEN schema ~ '[."]' THEN '"' || replace(schema, '"', '""') || '"' ELSE schema END || '.' || name)"""
"""`tables.Table`'s name for messages and for the ledger, of columns ``schema`` and ``name``."""

_SHARED = f"""
    WITH RECURSIVE shared AS (
        SELECT %(oid)s::oid AS oid
         UNION
        SELECT next.oid FROM shared, LATERAL (
            SELECT inhparent AS oid FROM pg_inherits WHERE inhrelid = shared.oid
             UNION ALL SELECT b.oid FROM ({BEHIND_VIEWS}) AS b WHERE b.view = shared.oid) AS next)
    SELECT hashtextextended('loader rows of ' || c.oid, 0) FROM shared JOIN pg_class c USING (oid)
     WHERE c.relkind IN ('r', 'p') AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid) ORDER BY c.oid"""
"""Keys of the tables whose rows a load may write: for a partition or a child the topmost parents, for a view the tables
behind it, else the table itself. All loads take them in this one order, each after its target's own turn."""


_TURN_AT_ONCE = f"""
    WITH located AS MATERIALIZED ({LOCATED}),
    keys AS MATERIALIZED (
        SELECT {TURN_KEY.replace("%s", _TARGET_NAME)} || ARRAY({_SHARED.replace("%(oid)s", "located.oid")}) AS keys
          FROM located)
    SELECT schema, name, oid,
           oid IS NOT NULL AND (SELECT bool_and(pg_try_advisory_xact_lock(key)) FROM unnest(keys.keys) AS key)
      FROM located, keys"""


def turn_at_once(
    connection: Connection, name: tuple[str | None, str], *, wait: float, deadline: Deadline
) -> tuple[Table, float] | None:
    """Take the turn of the table that ``name`` means until the transaction that is open ends; gives where that is, and
    the seconds that it took. None where there is no such table.

    In one statement where nobody has the turn. Raises as `turn` does. The name may mean another table by the time that
    the turn is had.
    """
    ((schema, relname, oid, taken),) = planned_rows(connection, _TURN_AT_ONCE, {"schema": name[0], "name": name[1]})
    table = Table(schema, relname, oid=oid)
    if oid is None or taken:
        return None if oid is None else (table, 0.0)
    connection.rollback()  # what it has of the locks, it may not have while it waits: all take them in one order
    began = time.monotonic()
    _take_turn(connection, str(table), min(wait, deadline.left), deadline, oid, until_end=True)
    return table, time.monotonic() - began


def _take_turn(
    connection: Connection,
    target: str,
    patience: float,
    deadline: Deadline,
    oid: int | None = None,
    *,
    until_end: bool = False,
) -> list[int]:
    """Gives the keys of the locks that it took, for the session or ``until_end`` of the transaction, which stays
    open."""
    end_overdue(connection)  # a holder whose process is frozen may have it for ever
    with deadline.calling(connection.cancel):
        timeout = f"{max(1, int(patience * 1000))}ms"
        ((own, _, keys, held),) = rows(
            connection,
            "SELECT current_setting('lock_timeout'),"
            f" set_config('lock_timeout', %(timeout)s, true), {TURN_KEY.replace('%s', '%(target)s')}"
            f" || ARRAY({_SHARED}), EXISTS ({_TURN_LOCK} {TURN_KEY.replace('%s', '%(target)s')}"
            " AND pid = pg_backend_pid())",
            {"timeout": timeout, "target": target, "oid": oid},
        )
        if held:  # it would be had a second time, beside the load that has it on this connection
            connection.rollback()
            raise refused(f"{target}: what leads to its database")
        try:
            lock = "pg_advisory_xact_lock" if until_end else "pg_advisory_lock"
            execute(connection, f"SELECT {lock}(key) FROM unnest(%s::bigint[]) AS key", (keys,))
        except (psycopg2.errors.LockNotAvailable, psycopg2.errors.QueryCanceled) as error:
            connection.rollback()
            _give_back(connection, keys)
            if deadline.stopped:
                raise paused_by(deadline, f"{target}: {deadline.reached} while waiting for its turn") from error
            if isinstance(error, psycopg2.errors.QueryCanceled):
                ((limit,),) = rows(connection, "SHOW statement_timeout")
                why = f"waited for its turn as long as the role's statement_timeout lets it, {limit}; raise that"
                raise BusyError(f"{target}: {why}", error.pgcode) from error
            raise BusyError(
                f"{target}: another load has had its turn for {patience:g} seconds", error.pgcode
            ) from error
    if until_end:  # what follows waits for other locks, by the session's own measure
        execute(connection, "SELECT set_config('lock_timeout', %s, true)", (own,))
    else:
        connection.commit()
    return list(keys)


def _give_back(connection: Connection, keys: Sequence[int]) -> None:
    """Release those of the locks that the session has: a statement that failed keeps the ones that it had taken, and
    so does the session, which others will use."""
    held = f"EXISTS ({_TURN_LOCK} key AND pid = pg_backend_pid() AND granted)"
    rows(connection, f"SELECT pg_advisory_unlock(key) FROM unnest(%s::bigint[]) AS key WHERE {held}", (list(keys),))
    connection.commit()


# --- one load


@dataclass(frozen=True, slots=True)
class Errand:
    """What is asked for: one version of an object, into one table, by one spec.

    ``forced``: whatever was loaded before. ``replay_of``: the load whose rejects these records are. ``sequencer``: of
    the S3 event which told of the version, None where there was none. ``token``: of a forced one, which request it is:
    all attempts of one call have the same, and so has an event that is delivered again.
    """

    source: Source | Missing
    target: str
    spec: LoadSpec
    forced: bool = False
    replay_of: int | None = None
    sequencer: str | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A load's row as its present attempt found it; the counts are of all attempts, see `LoadReport`."""

    load_id: int
    attempts: int = 1
    handovers: int = 0
    resumes: int = 0
    waited: float = 0.0


def close_dead(connection: Connection, target: str) -> None:
    """Enter the failure of attempts at ``target`` that did not live to do it themselves, and commit. Needs its turn."""
    execute(
        connection,
        "UPDATE loader.loads SET state = 'failed', retryable = true, finished_at = clock_timestamp(),"
        " error = %(died)s, last_error = %(died)s WHERE target = %(target)s AND state = 'running'",
        {"died": "its process ended before it did", "target": target},
    )
    connection.commit()


def enter(
    connection: Connection, errand: Errand, *, follows: int = 0, waited: float = 0.0, goes_on: bool = True
) -> Entry:
    """Enter an attempt as running, and commit. Needs the target's turn.

    What did not have its effect yet goes on in its own row: the same version by the same spec. ``follows``: see
    `Standing`. ``waited``: seconds for the turn. ``goes_on``: it may go on with what another request to load the
    version by force has given up.
    """
    values = {**_begun(errand, follows, waited), "state": "running"}
    entry = _continue(connection, values, of_others=goes_on) or Entry(_insert(connection, values), waited=waited)
    connection.commit()
    return entry


def _begun(errand: Errand, follows: int, waited: float) -> dict[str, Any]:
    """What the ledger has of a load from its beginning on, by column."""
    source, spec = errand.source, errand.spec
    return {
        **identity(errand),
        "source": source.uri,
        "version": source.version,
        "size": source.size,
        "last_modified": source.last_modified,
        "mode": spec.mode,
        "spec": json.dumps(spec.to_dict()),
        "sequencer": errand.sequencer,
        "follows": follows,
        "waited": waited,
    }


IDENTITY = ("target", "bucket", "key", "pin", "fingerprint", "forced", "replay_of", "token")

KEY = "key = %(key)s AND hashtextextended(key, 0) = hashtextextended(%(key)s, 0)"
"""The condition of rows of ``loader.loads`` of one key, in the form that its indexes have."""

_PIN = "hashtextextended(coalesce(pin, ''), 0) = hashtextextended(coalesce(%(pin)s, ''), 0)"

_INDEXED = f"target = %(target)s AND {KEY} AND {_PIN}"  # no index knows DISTINCT

_EQUAL = {name: f"{name} IS NOT DISTINCT FROM %({name})s" for name in IDENTITY}

SAME = " AND ".join([_INDEXED, *_EQUAL.values()])
"""The condition of rows of ``loader.loads`` that are attempts at one errand, with the parameters of `identity`."""

_ALIKE = " AND ".join([_INDEXED, *(condition for name, condition in _EQUAL.items() if name != "token")])
"""The same of errands that ask for the same thing, by whatever request."""

_GIVEN_UP = "forced AND state IN ('paused', 'failed') AND shard_plan IS NULL"
"""Forced loads that another request may go on with, as the same command does after Ctrl-C. The request that had begun
such a load begins anew if it comes again. Shards may be under way though nobody holds the turn, so those stay."""


def identity(errand: Errand) -> dict[str, Any]:
    """What tells an errand from all others: which version of which object goes where, by which spec, and why.

    The same bytes under another key are another object, though their ETag, the ``pin``, is the same.
    """
    source = errand.source
    values = (
        errand.target,
        source.bucket,
        source.key,
        source.pin,
        errand.spec.fingerprint(),
        errand.forced,
        errand.replay_of,
        errand.token,
    )
    return dict(zip(IDENTITY, values, strict=True))


def _continue(connection: Connection, values: Mapping[str, Any], *, of_others: bool) -> Entry | None:
    whose = f"({_EQUAL['token']} OR {_GIVEN_UP})" if of_others else _EQUAL["token"]
    begun = (
        f"SELECT load_id FROM loader.loads WHERE {_ALIKE} AND state <> 'loaded' AND {whose}"
        f" ORDER BY {_EQUAL['token']} DESC, load_id DESC LIMIT 1"
    )
    found = rows(
        connection,
        "UPDATE loader.loads SET state = 'running', attempts = attempts + 1, waited = waited + %(waited)s,"
        " error = NULL, retryable = false, finished_at = NULL, seen_at = clock_timestamp(), version = %(version)s,"
        " size = %(size)s, last_modified = %(last_modified)s, follows = %(follows)s, token = %(token)s,"
        f" sequencer = coalesce(%(sequencer)s, sequencer) WHERE load_id = ({begun})"
        " RETURNING load_id, attempts, handovers, resumes, waited",
        dict(values),
    )
    return Entry(*found[0]) if found else None


def _insert(connection: Connection, values: Mapping[str, Any]) -> int:
    statement = sql.SQL("INSERT INTO loader.loads ({}) VALUES ({}) RETURNING load_id").format(
        sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(map(sql.Placeholder, values))
    )
    return int(rows(connection, statement, values)[0][0])


_ID = """
    SELECT CASE WHEN EXISTS (SELECT FROM loader.loads WHERE state = 'running' AND target = %(target)s)
                  OR EXISTS (SELECT FROM loader.loads WHERE <known>)
           THEN NULL ELSE nextval(pg_get_serial_sequence('loader.loads', 'load_id')) END"""
"""A load's id, unless one is running at the target, or one is ``known`` that stands in its way."""

_FIRST_ID = _ID.replace("<known>", f"{SAME} AND state <> 'loaded'")
_NEW_ID = _ID.replace("<known>", f"target = %(target)s AND {KEY}")


def new_id(connection: Connection, errand: Errand) -> int | None:
    """The id for a load of an object of which the ledger knows nothing, so that it is due whatever else there is; as
    `first_id` gives it. None where it knows the key, and for a local file, which goes by its content."""
    if errand.source.bucket is None or errand.replay_of is not None:
        return None
    return _id(connection, _NEW_ID, errand)


def first_id(connection: Connection, errand: Errand) -> int | None:
    """The id for a load that is entered when it is through (`enter_loaded`); None where the ledger has an attempt at
    this errand already, or one at the target that did not live to say how it ended. Needs the target's turn."""
    return _id(connection, _FIRST_ID, errand)


def _id(connection: Connection, statement: str, errand: Errand) -> int | None:
    ((load_id,),) = planned_rows(connection, statement, identity(errand))
    return None if load_id is None else int(load_id)


def enter_loaded(
    connection: Connection,
    errand: Errand,
    report: LoadReport,
    *,
    header: Sequence[str] | None,
    csv: CsvSpec,
    follows: int,
    unlogged: bool,
) -> None:
    """Enter a load that took effect in the transaction that is open, with everything that `enter`, `note_file` and
    `finish` would. Needs the target's turn, until that transaction ends."""
    values = {
        **_begun(errand, follows, report.waited),
        **_outcome(connection, report),
        "load_id": report.load_id,
        "state": "loaded",
        "header": None if header is None else json.dumps(header),
        "dialect": json.dumps(plain_csv(csv)),
        "unlogged": unlogged,
    }
    names = ", ".join(values)
    given = ", ".join(f"%({name})s" for name in values)
    planned_rows(
        connection,
        f"INSERT INTO loader.loads ({names}, applied, finished_at, seen_at) OVERRIDING SYSTEM VALUE"
        f" VALUES ({given}, {_NEXT_APPLIED.replace('l.target', '%(target)s')}, clock_timestamp(), clock_timestamp())"
        " RETURNING load_id",
        values,
    )
    if unlogged:
        _note_unlogged(connection, report)


def claim(connection: Connection, load_id: int, attempt: int) -> None:
    """Keep others from beginning another attempt at the load, or ending it, until the transaction that is open ends.

    Raises DatabaseUnavailableError where that has happened: what this attempt would write belongs to no load any more.
    """
    statement = "SELECT FROM loader.loads WHERE load_id = %s AND attempts = %s AND state = 'running' FOR SHARE"
    if not execute(connection, statement, (load_id, attempt)):
        raise DatabaseUnavailableError(f"load {load_id}: another attempt at it has begun since")


def end_paused(connection: Connection, errand: Errand, load_id: int) -> list[int]:
    """Enter, in the transaction that is open, that attempts at the errand which came to rest have nothing to go on
    with, for ``load_id`` has loaded the version; gives their ids. Needs the target's turn."""
    found = rows(
        connection,
        "UPDATE loader.loads SET state = 'failed', retryable = false, error = %(why)s, last_error = %(why)s,"
        f" finished_at = clock_timestamp() WHERE {SAME} AND state = 'paused' AND shard_plan IS NULL RETURNING load_id",
        {**identity(errand), "why": f"load {load_id} has loaded this version meanwhile"},
    )
    return [each for (each,) in found]


def is_loaded(connection: Connection, load_id: int, token: str | None) -> bool:
    """Whether the load took effect, for the request of that ``token`` where it is a forced one."""
    statement = "SELECT 1 FROM loader.loads WHERE load_id = %s AND state = 'loaded' AND token IS NOT DISTINCT FROM %s"
    return bool(rows(connection, statement, (load_id, token)))


def is_settled(connection: Connection, errand: Errand) -> bool:
    """Whether the version had its effect on the target, or came too late for that."""
    statement = (
        f"SELECT 1 FROM loader.loads WHERE target = %(target)s AND bucket = %(bucket)s AND {KEY} AND pin = %(pin)s"
        " AND state IN ('loaded', 'superseded') LIMIT 1"
    )
    return bool(rows(connection, statement, identity(errand)))


@dataclass(frozen=True, slots=True)
class Failure:
    """What a load failed of: ``kind`` is the name of the error's class, ``error`` its message."""

    entry: Entry
    kind: str
    error: str


def find_failure(connection: Connection, errand: Errand, since: datetime) -> Failure | None:
    """What the same errand failed of last, if that was at ``since`` or later and would happen again."""
    found = rows(
        connection,
        "SELECT load_id, attempts, handovers, resumes, waited, error_type, error FROM loader.loads"
        f" WHERE load_id = (SELECT max(load_id) FROM loader.loads WHERE {SAME} AND state <> 'loaded')"
        " AND state = 'failed' AND NOT retryable AND error_type IS NOT NULL AND finished_at >= %(since)s",
        {**identity(errand), "since": since},
    )
    return Failure(Entry(*found[0][:5]), *found[0][5:]) if found else None


def note_resume(connection: Connection, entry: Entry) -> Entry:
    """Enter that this attempt takes up at a checkpoint, in the transaction that is open."""
    execute(connection, "UPDATE loader.loads SET resumes = resumes + 1 WHERE load_id = %s", (entry.load_id,))
    return replace(entry, resumes=entry.resumes + 1)


def note_file(connection: Connection, load_id: int, header: Sequence[str] | None, csv: CsvSpec) -> None:
    """Enter how the file is really written, and commit: the rejects of a load that dies can be mended too.

    ``header``: its names as they stand in the file, None where it has none. ``csv``: the settings it is read by,
    with nothing left to sniff.
    """
    names = None if header is None else json.dumps(header)
    execute(
        connection,
        "UPDATE loader.loads SET header = %s, dialect = %s WHERE load_id = %s",
        (names, json.dumps(plain_csv(csv)), load_id),
    )
    connection.commit()


def note_newer(connection: Connection, load_id: int, newer: Sequence[int]) -> None:
    """Enter, in the transaction that is open, which loads of newer versions this one, which came late, left alone."""
    if newer:
        execute(connection, "UPDATE loader.loads SET overtaken_by = %s WHERE load_id = %s", (list(newer), load_id))


def finish(
    connection: Connection,
    report: LoadReport,
    state: LedgerState,
    *,
    handover: bool = False,
    created: bool = False,
    unlogged: bool = False,
    error_type: str | None = None,
) -> None:
    """Enter an attempt's outcome in the transaction that is open: for a success that of the merge.

    ``handover``: it stopped because its time was up. ``created``: this transaction creates the table. ``unlogged``:
    a crash of the server empties the table, and with it a note of this load, by which the next one knows that
    the rows are there. ``error_type``: the class of the error that it failed with. Raises
    DatabaseUnavailableError where another attempt at the load has begun since: then this one has lost its turn, and its
    outcome is none. Raises SetupError for a success where it is not this connection to the server that has the turn.
    """
    values = {**_outcome(connection, report), "state": state, "handovers": report.handovers + handover}
    values |= {"created": created, "unlogged": unlogged, "error_type": error_type}
    assignments = ", ".join(f"{name} = %({name})s" for name in values)
    touched = execute(
        connection,
        f"UPDATE loader.loads l SET {assignments}, finished_at = clock_timestamp(), seen_at = clock_timestamp(),"
        f" last_error = coalesce(%(error)s, last_error),"
        f" applied = CASE WHEN %(state)s = 'loaded' THEN {_NEXT_APPLIED} ELSE applied END"
        " WHERE load_id = %(load_id)s AND attempts = %(attempts)s AND state = 'running'"
        f" AND (%(state)s <> 'loaded' OR EXISTS ({_TURN_LOCK} {TURN_KEY.replace('%s', 'l.target')}"
        " AND pid = pg_backend_pid()))",
        {**values, "load_id": report.load_id, "attempts": report.attempts},
    )
    if not touched:
        claim(connection, report.load_id or 0, report.attempts)
        raise refused(f"load {report.load_id}: has not the turn that it took, so what leads to its database")
    if unlogged:
        _note_unlogged(connection, report)


_NEXT_APPLIED = """
    (SELECT coalesce(max(coalesce(o.applied, 0)), 0) + 1 FROM loader.loads o
      WHERE o.state = 'loaded' AND o.target = l.target)"""


def _outcome(connection: Connection, report: LoadReport) -> dict[str, Any]:
    """What the ledger has of an attempt from its end on, by column."""
    told = ("rows_read", *ROW_COUNTS, "bytes_read", "version", "retryable", "plan", "rejects_entered")
    values = {name: getattr(report, name) for name in told}
    values |= {name: json.dumps(getattr(report, name)) for name in ("rejects_by_reason", "rejects_by_column")}
    spelt = spelling(connection)
    return values | {"notes": [spelt(note) for note in report.notes], "error": report.error and spelt(report.error)}


def _note_unlogged(connection: Connection, report: LoadReport) -> None:
    statement = "INSERT INTO loader.unlogged_loads (load_id) VALUES (%s) ON CONFLICT DO NOTHING"
    execute(connection, statement, (report.load_id,))


def keep_rejects(connection: Connection, load_id: int, rejects: Sequence[Reject]) -> None:
    """Enter rejected records in the transaction that is open; what is entered already, stays."""
    insert_rejects(connection, "loader.rejects", "load_id", load_id, rejects)


def insert_rejects(connection: Connection, table: str, owner: str, owner_id: int, rejects: Sequence[Reject]) -> None:
    """The same into any ``table`` of that form, whose rows belong to ``owner_id`` by their column ``owner``."""
    spelt = spelling(connection)
    values = [
        (
            owner_id,
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
    insert(
        connection,
        f"INSERT INTO {table} ({owner}, record_number, line_number, byte_offset, column_name,"
        " reason, sqlstate, message, raw, raw_bytes, raw_length) VALUES %s"
        " ON CONFLICT DO NOTHING",
        values,
    )


def forget_rejects(connection: Connection, load_id: int, *, record: int = 1) -> None:
    """Delete the rejects of a load that is read again from ``record`` on, in the transaction that is open."""
    execute(connection, "DELETE FROM loader.rejects WHERE load_id = %s AND record_number >= %s", (load_id, record))


def count_rejects(connection: Connection, load_id: int) -> list[tuple[str, str | None, int]]:
    """How many records of a load are rejected, by reason and column."""
    statement = "SELECT reason, column_name, count(*) FROM loader.rejects WHERE load_id = %s GROUP BY 1, 2"
    return [(reason, column, count) for reason, column, count in rows(connection, statement, (load_id,))]


def _raw(raw: bytes, spelt: Callable[[str], str]) -> tuple[str, psycopg2.Binary | None]:
    text = spelt(raw.decode("utf-8", "backslashreplace"))
    return text, None if text.encode() == raw else psycopg2.Binary(raw)


def spelling(connection: Connection) -> Callable[[str], str]:
    """How texts from files are spelt so that any database can store them: NUL, and whatever characters its
    encoding lacks, as Python writes them in strings."""
    encoding = server_encoding(connection)
    codec, repertoire = encodings.get(encoding, "ascii"), repertoire_of(encoding)

    def spelt(text: str) -> str:
        text = text.replace("\0", "\\x00")
        if codec == "utf_8":
            return text
        text = text.encode(codec, "backslashreplace").decode(codec)
        lacked = repertoire.lacked(text, lambda: nullcontext(connection)) if repertoire is not None else ()
        return text.translate({ord(each): each.encode("ascii", "backslashreplace").decode() for each in lacked})

    return spelt


# --- reading it


STATUS_COLUMNS = (
    "load_id", "state", "source", "version", "target", "mode", "forced", "replay_of", "rows_read", *ROW_COUNTS,
    "rejects_by_reason", "rejects_by_column", "rejects_entered", "bytes_read", "plan", "notes", "error", "started_at",
    "finished_at", "attempts", "handovers", "resumes", "waited", "retryable", "last_error", "seen_at",
)  # fmt: skip

FILE_COLUMNS = ("bucket", "key", "header", "dialect", "spec", "sequencer", "token", "overtaken_by")
"""What there is to know of one load beyond its status: how its file was written, and what it was told."""


def history(connection: Connection, *, limit: int = 50) -> list[dict[str, Any]]:
    """Loads, newest first, as mappings of `STATUS_COLUMNS`."""
    return _loads(connection, STATUS_COLUMNS, "true ORDER BY load_id DESC LIMIT %(limit)s", limit=limit)


def find_load(connection: Connection, load_id: int) -> dict[str, Any] | None:
    """One load as a mapping of `STATUS_COLUMNS` and `FILE_COLUMNS`; None where there is none of that id."""
    return next(iter(_loads(connection, STATUS_COLUMNS + FILE_COLUMNS, "load_id = %(id)s", id=load_id)), None)


def find_newest(connection: Connection, bucket: str | None, key: str) -> dict[str, Any] | None:
    """The newest load of an object or file, replays apart, as `find_load` gives it."""
    of_it = f"bucket IS NOT DISTINCT FROM %(bucket)s AND {KEY} AND replay_of IS NULL ORDER BY load_id DESC LIMIT 1"
    return next(iter(_loads(connection, STATUS_COLUMNS + FILE_COLUMNS, of_it, bucket=bucket, key=key)), None)


def find_replays(connection: Connection, load_id: int) -> list[int]:
    """The replays of a load that loaded anything, oldest first."""
    of_it = "replay_of = %(id)s AND state = 'loaded' AND rows_rejected < rows_read ORDER BY load_id"
    return [each["load_id"] for each in _loads(connection, ("load_id",), of_it, id=load_id)]


_STATE = f"""
    CASE WHEN state <> 'running' OR EXISTS ({_TURN_LOCK} {TURN_KEY.replace("%s", "l.target")})
    THEN state ELSE 'died' END"""
"""A load is running as long as somebody holds its table's turn; "died" stands in no table, it is what can be seen."""


def _loads(connection: Connection, columns: Sequence[str], which: str, **parameters: Any) -> list[dict[str, Any]]:
    if not _is_there(connection):
        return []
    wanted = ", ".join(_STATE if name == "state" else name for name in columns)
    found = rows(connection, f"SELECT {wanted} FROM loader.loads l WHERE {which}", parameters)
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


def sample_rejects(connection: Connection, load_id: int, reasons: Sequence[str], limit: int) -> list[bytes]:
    """The first bytes of at most ``limit`` records of a load that were rejected for one of ``reasons``."""
    statement = (
        "SELECT left(raw, 1000), substring(raw_bytes FOR 1000) FROM loader.rejects"
        " WHERE load_id = %s AND reason = ANY (%s) ORDER BY record_number LIMIT %s"
    )
    found = rows(connection, statement, (load_id, list(reasons), limit))
    return [text.encode() if data is None else bytes(data) for text, data in found]


def _stream_rejects(connection: Connection, columns: str, load_id: int) -> Iterator[tuple[Any, ...]]:
    statement = f"SELECT {columns} FROM loader.rejects WHERE load_id = %s ORDER BY record_number"
    return stream(connection, statement, (load_id,), name="loader_rejects", fetched=_FETCHED)
