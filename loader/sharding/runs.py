"""Runs of shards in the ledger: which were begun, what came of them, and their rejects until they can be placed.

Any number of runs of a shard may be under way at once. Each has a staging table and rejects of its own, by its number,
so none can spoil another's; which of them counts is for the proof to say. They are worth something only for the attempt
at the load to which they belong, and only as long as that attempt may still come to its end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.core.errors import DatabaseUnavailableError, LoaderError, SourceCorruptedError
from loader.core.report import Reject
from loader.core.stored import StoredFormError
from loader.engine.counters import RejectKeeper
from loader.ledger import ledger
from loader.ledger.ledger import Entry, Errand
from loader.postgres.statements import execute, rows
from loader.sharding.proof import Part, Proof, ShardPlan, ShardReport, prove

_OPEN = (
    "state = 'sharded' OR (state = 'running' AND shard_plan IS NOT NULL)"
    " OR (state = 'failed' AND retryable) OR (state = 'paused' AND retryable)"
)
"""Of the states of a load that has a shard plan, those from which it may come to its end. It is paused where time was
up before its merge was through."""


def open_plan(connection: Connection, load_id: int, plan: ShardPlan) -> None:
    """Enter that an attempt goes on by shards, and commit."""
    touched = execute(
        connection,
        "UPDATE loader.loads SET state = 'sharded', shard_plan = %s, seen_at = clock_timestamp()"
        " WHERE load_id = %s AND attempts = %s AND state = 'running'",
        (json.dumps(plan.to_dict()), load_id, plan.attempt),
    )
    if not touched:
        raise DatabaseUnavailableError(f"load {load_id}: another attempt at it has begun since")
    connection.commit()


def find_open_plan(connection: Connection, errand: Errand) -> ShardPlan | None:
    """The plan of the newest load of the same errand, if it is still open."""
    found = rows(
        connection,
        f"SELECT shard_plan FROM loader.loads WHERE {ledger.SAME} AND state <> 'loaded'"
        f" AND shard_plan IS NOT NULL AND attempts = (shard_plan ->> 'attempt')::int AND ({_OPEN})"
        " ORDER BY load_id DESC LIMIT 1",
        ledger.identity(errand),
    )
    with suppress(StoredFormError):  # of another version: the object is planned anew
        return ShardPlan.from_dict(found[0][0]) if found else None
    return None


def is_open(connection: Connection, target: str, bucket: str | None, key: str) -> bool:
    """Whether a version of the object is being loaded by shards, or may be taken up by them."""
    statement = (
        "SELECT 1 FROM loader.loads WHERE target = %(target)s AND bucket IS NOT DISTINCT FROM %(bucket)s"
        f" AND {ledger.KEY} AND state <> 'loaded' AND shard_plan IS NOT NULL AND ({_OPEN}) LIMIT 1"
    )
    return bool(rows(connection, statement, {"target": target, "bucket": bucket, "key": key}))


def take_up(connection: Connection, plan: ShardPlan, waited: float, *, follows: int = 0) -> Entry:
    """Enter that the shards are being merged, and commit. Needs the target's turn. ``follows``: see `Standing`.
    Raises LoaderError where this attempt has lost its claim."""
    found = rows(
        connection,
        "UPDATE loader.loads SET state = 'running', waited = waited + %s, error = NULL, retryable = false,"
        " finished_at = NULL, seen_at = clock_timestamp(), follows = %s"
        f" WHERE load_id = %s AND attempts = %s AND shard_plan IS NOT NULL AND ({_OPEN})"
        " RETURNING load_id, attempts, handovers, resumes, waited",
        (waited, follows, plan.load_id, plan.attempt),
    )
    connection.commit()
    if not found:
        raise _lost(connection, plan)
    return Entry(*found[0])


def begin(connection: Connection, plan: ShardPlan, number: int) -> int:
    """Enter a run of a shard, and commit; gives its number. Raises LoaderError as `take_up` does."""
    touched = execute(
        connection,
        "UPDATE loader.loads SET seen_at = clock_timestamp(), retryable = false, error = NULL, finished_at = NULL,"
        " state = CASE WHEN state IN ('failed', 'paused') THEN 'sharded' ELSE state END"
        f" WHERE load_id = %s AND attempts = %s AND shard_plan IS NOT NULL AND ({_OPEN})",
        (plan.load_id, plan.attempt),
    )
    if not touched:
        raise _lost(connection, plan)
    found = rows(
        connection,
        "INSERT INTO loader.shards (load_id, attempt, number) VALUES (%s, %s, %s) RETURNING run",
        (plan.load_id, plan.attempt, number),
    )
    connection.commit()
    return int(found[0][0])


def give_sign(connection: Connection, plan: ShardPlan, run: int) -> None:
    """Enter a sign of life, and commit. Raises LoaderError where nobody waits for this run any more."""
    alive = execute(
        connection,
        "UPDATE loader.loads SET seen_at = clock_timestamp() WHERE load_id = %s AND attempts = %s"
        " AND EXISTS (SELECT FROM loader.shards WHERE run = %s)",
        (plan.load_id, plan.attempt, run),
    )
    connection.commit()
    if not alive:
        raise _lost(connection, plan)


def end(connection: Connection, plan: ShardPlan, report: ShardReport) -> None:
    """Enter what came of a run, and commit."""
    alive = execute(
        connection,
        "UPDATE loader.shards SET report = %s, finished_at = clock_timestamp() WHERE run = %s",
        (json.dumps(report.to_dict()), report.run),
    )
    connection.commit()
    if not alive:
        raise _lost(connection, plan)


def reports(connection: Connection, plan: ShardPlan, number: int | None = None) -> list[ShardReport]:
    """Those of all runs that are through, oldest first; of one shard, where ``number`` is given."""
    found = rows(
        connection,
        "SELECT report FROM loader.shards WHERE load_id = %s AND attempt = %s AND report IS NOT NULL"
        " AND (%s::int IS NULL OR number = %s) ORDER BY run",
        (plan.load_id, plan.attempt, number, number),
    )
    told = []
    for (report,) in found:
        with suppress(StoredFormError):  # of another version: its shard is loaded again
            told.append(ShardReport.from_dict(report))
    return told


def discard(connection: Connection, plan: ShardPlan) -> None:
    """Forget what came of all runs, and commit: nobody knows which of them read damaged bytes, so all are loaded
    again."""
    execute(connection, "DELETE FROM loader.shards WHERE load_id = %s AND attempt = %s", (plan.load_id, plan.attempt))
    connection.commit()


def give_up(
    connection: Connection, plan: ShardPlan, why: str, *, retryable: bool = True, error_type: str | None = None
) -> None:
    """Enter that the shards are not being loaded any more, and commit. Does nothing where this attempt has lost its
    claim, or where somebody is merging just now. ``retryable``: what is staged is of use yet, to whoever goes on.
    ``error_type``: see `ledger.finish`."""
    turn = ledger.TURN_KEY.replace("%s", "target")
    execute(
        connection,
        "UPDATE loader.loads SET state = 'failed', retryable = %(retryable)s, error = %(why)s,"
        " last_error = %(why)s, error_type = %(error_type)s,"
        " finished_at = clock_timestamp(), seen_at = clock_timestamp()"
        f" WHERE load_id = %(load_id)s AND attempts = %(attempt)s AND shard_plan IS NOT NULL AND ({_OPEN})"
        f" AND CASE WHEN state = 'running' THEN pg_try_advisory_xact_lock({turn}) ELSE true END",
        {
            "why": ledger.spelling(connection)(why),
            "retryable": retryable,
            "error_type": error_type,
            "load_id": plan.load_id,
            "attempt": plan.attempt,
        },
    )
    connection.commit()


def note_handover(connection: Connection, plan: ShardPlan) -> int:
    """Enter that whoever loaded shards came to rest because its time was up, and commit; gives how often by now."""
    found = rows(
        connection,
        "UPDATE loader.loads SET handovers = handovers + 1, seen_at = clock_timestamp()"
        " WHERE load_id = %s AND attempts = %s RETURNING handovers",
        (plan.load_id, plan.attempt),
    )
    connection.commit()
    return int(found[0][0]) if found else 0


def count_rejects(connection: Connection, parts: Sequence[Part]) -> list[tuple[str, str | None, int]]:
    """How many rejects the shards have, by reason and column."""
    statement = "SELECT reason, column_name, count(*) FROM loader.shard_rejects WHERE run = ANY (%s) GROUP BY 1, 2"
    return [tuple(each) for each in rows(connection, statement, ([part.run for part in parts],))]


def place_rejects(connection: Connection, load_id: int, parts: Sequence[Part], limit: int) -> int:
    """Enter the rejects of shards as the whole object's, now that it is known what comes before each, and commit.

    The first ``limit`` of them, and one more; gives how many were entered.
    """
    ledger.forget_rejects(connection, load_id)
    entered = 0
    for part in parts:
        entered += execute(
            connection,
            "INSERT INTO loader.rejects (load_id, record_number, line_number, byte_offset, column_name, reason,"
            " sqlstate, message, raw, raw_bytes, raw_length) SELECT %s, record_number + %s, line_number + %s,"
            " byte_offset, column_name, reason, sqlstate, message, raw, raw_bytes, raw_length"
            " FROM loader.shard_rejects WHERE run = %s ORDER BY record_number LIMIT %s",
            (load_id, part.record, part.line, part.run, limit + 1 - entered),
        )
    connection.commit()
    return entered


def note_shards(connection: Connection, plan: ShardPlan, summary: Mapping[str, Any]) -> None:
    """Enter what there is to tell of the shards in the end, in the transaction that is open: with ``loading``, the
    seconds from the first run's beginning to the last one's end, and ``merging``, those since then."""
    spent = rows(
        connection,
        "SELECT round(extract(epoch FROM max(finished_at) - min(started_at)), 3)::float,"
        " round(extract(epoch FROM clock_timestamp() - max(finished_at)), 3)::float"
        " FROM loader.shards WHERE load_id = %s AND attempt = %s",
        (plan.load_id, plan.attempt),
    )
    told = {**summary, **dict(zip(("loading", "merging"), spent[0], strict=True))}
    execute(
        connection,
        "UPDATE loader.loads SET shards = %s, shard_plan = NULL WHERE load_id = %s",
        (json.dumps(told), plan.load_id),
    )


def summed_up(proof: Proof, shards: int, reports: Sequence[ShardReport]) -> dict[str, Any]:
    """What there is to tell of the shards: how many, how many are loaded and proved, by how many runs, how many of
    their beginnings were guessed, how many of the guesses were wrong, and which run took longest."""
    slowest = max(reports, key=lambda each: each.seconds, default=None)
    loaded = len({each.number for each in reports})
    return {
        "shards": shards,
        "loaded": loaded,
        "proved": len(proof.parts),
        "runs": len(reports),
        "again": len(reports) - loaded,
        "guessed": proof.guessed,
        "wrong": proof.wrong,
        "slowest": slowest and {"number": slowest.number, "seconds": slowest.seconds, "records": slowest.records},
    }


def find_summary(connection: Connection, load_id: int) -> dict[str, Any] | None:
    """The same of a load in the ledger, and while it is in progress, of what there is so far; None where there are no
    shards. ``under_way`` is then how many runs were begun and are not through, or died."""
    found = rows(connection, "SELECT shards, shard_plan FROM loader.loads WHERE load_id = %s", (load_id,))
    summary, told = found[0] if found else (None, None)
    if summary is not None or told is None:
        return dict(summary) if summary else None
    try:
        plan = ShardPlan.from_dict(told)
    except StoredFormError:
        return None
    through = reports(connection, plan)
    begun = "SELECT count(*) FROM loader.shards WHERE load_id = %s AND attempt = %s AND report IS NULL"
    under_way = rows(connection, begun, (load_id, plan.attempt))[0][0]
    try:
        proof = prove(plan, through)
    except SourceCorruptedError:  # whoever proves them next will have them loaded again
        proof = Proof(proved=False)
    return {**summed_up(proof, len(plan.ranges), through), "under_way": under_way}


class ShardRejects(RejectKeeper):
    """Keeps the rejects of one run of a shard; ``base``: what its record numbers are above those from 1 on."""

    run: int
    base: int

    def _keep(self, connection: Connection, rejects: Sequence[Reject]) -> None:
        own = [replace(each, record=each.record - self.base) for each in rejects]
        ledger.insert_rejects(connection, "loader.shard_rejects", "run", self.run, own)


def _lost(connection: Connection, plan: ShardPlan) -> LoaderError:
    found = rows(connection, "SELECT state, attempts FROM loader.loads WHERE load_id = %s", (plan.load_id,))
    state, attempts = found[0] if found else ("gone", plan.attempt)
    connection.rollback()
    why = f"attempt {attempts} has begun since" if attempts != plan.attempt else f"it is {state}"
    return LoaderError(f"load {plan.load_id}: the shards of attempt {plan.attempt} are of no use any more, for {why}")
