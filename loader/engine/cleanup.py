"""Staging tables that nobody will come back to."""

from __future__ import annotations

from contextlib import suppress

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.ledger import checkpoints
from loader.ledger.ledger import TURN_KEY
from loader.postgres.merging.staging import drop_tables
from loader.postgres.statements import rows
from loader.postgres.tables import NEW_TABLE

KEPT_DAYS = 1
"""Days since its last sign of life that a load which can be continued is waited for. S3's event comes again within
hours: SQS hides a message for six times the function's 15 minutes, and hands it out five times. Whoever goes on with
shards later than that, as a redrive may, loads them again."""

_LEFT = f"""
    SELECT s.load_id, l.target
      FROM (SELECT substring(relname FROM '^staging_([0-9]+)(?:_[0-9]+){{0,2}}$')::bigint AS load_id
              FROM pg_class WHERE relkind = 'r' AND relname ~ '^staging_[0-9]' AND relnamespace = 'loader'::regnamespace
             UNION
            SELECT substring(relname FROM '^loader_staging_([0-9]+)_[0-9]+$')::bigint
              FROM pg_class WHERE relkind = 'r' AND relname ~ '^loader_staging_[0-9]+_[0-9]+$'
               AND obj_description(oid, 'pg_class') = '{NEW_TABLE}' AND pg_has_role(relowner, 'USAGE')) s
      LEFT JOIN loader.loads l USING (load_id) LEFT JOIN loader.checkpoints c USING (load_id)
     WHERE s.load_id IS NOT NULL
       AND (l.load_id IS NULL OR l.state IN ('loaded', 'superseded') OR (l.state = 'failed' AND NOT l.retryable)
            OR (l.state <> 'running' AND c.load_id IS NULL AND NOT EXISTS (
                   SELECT FROM loader.shards h WHERE h.load_id = l.load_id))
            OR greatest(l.seen_at, c.taken_at) < clock_timestamp() - interval '{KEPT_DAYS} days')
"""


def clear_leftovers(connection: Connection) -> None:
    """Drop the staging tables of loads that are finished or given up, and commit.

    Each under its target's turn, so none that is in use; what cannot be had at once, the next load sees to.
    """
    with suppress(psycopg2.Error):
        for load_id, target in rows(connection, _LEFT):
            _clear(connection, load_id, target or "")
    if not connection.closed:
        connection.rollback()


def _clear(connection: Connection, load_id: int, target: str) -> None:
    if not rows(connection, f"SELECT pg_try_advisory_lock({TURN_KEY})", (target,))[0][0]:
        return
    try:
        if any(left == load_id for left, _ in rows(connection, _LEFT)):  # still, now that nobody can take it up
            checkpoints.forget(connection, load_id)
            drop_tables(connection, load_id)
            connection.commit()
    finally:
        connection.rollback()
        rows(connection, f"SELECT pg_advisory_unlock({TURN_KEY})", (target,))
        connection.commit()
