"""How far the staging table of a load can be trusted.

Checkpoint and staging table are both UNLOGGED: a crash of the server empties both, so there is never one without
the other. Records before a checkpoint's place are staged, rejected or filtered; whatever else the table holds was
written after it, and is thrown away before the load goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.core.stored import StoredFormError, read_stored, unknown_counts
from loader.ledger import ledger
from loader.ledger.ledger import Entry
from loader.postgres.statements import execute, rows
from loader.records.block import Place
from loader.records.swallowed_lines import NONE_SWALLOWED, Swallowed
from loader.sources.checksums import Seen


@dataclass(frozen=True, slots=True)
class Found:
    """What attempts found out, so that the next one need not find it again.

    ``careful``: the target refused a record. ``staged``: why it cannot go straight into its target, where that was
    tried. ``widened``: types, by column, of those that were inferred too narrow. ``defaults``: by column, in the
    server's spelling, so that "now" is one moment to all attempts and workers of a load.
    """

    careful: bool = False
    staged: str = ""
    widened: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counts:
    """Records so far: ``read``; of those ``kept`` (staged) and ``filtered``; ``short`` and ``long`` are mended ones;
    ``swallowed``: what stray quotes have made values of."""

    read: int = 0
    kept: int = 0
    filtered: int = 0
    short: int = 0
    long: int = 0
    swallowed: Swallowed = NONE_SWALLOWED

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.read + other.read,
            self.kept + other.kept,
            self.filtered + other.filtered,
            self.short + other.short,
            self.long + other.long,
            self.swallowed + other.swallowed,
        )


NOTHING = Counts()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """``plan``: a digest of all that decides what staged rows look like. ``place``: of the next record. ``complete``:
    there is none, the whole file is staged. ``seen``: of the object's bytes, where they are compared with a
    checksum. ``transaction``: the newest whose rows it vouches for, where rows have no positions (`new_table`)."""

    plan: str
    found: Found
    place: Place
    counts: Counts
    complete: bool = False
    seen: Seen | None = None
    transaction: int | None = None


_SEEN = "bytes"
"""Where `Checkpoint.seen` is kept beside what was found: a process of the version before, which does not know it, then
writes a checkpoint without it, and never one with that of another place."""

_TRANSACTION = "transaction"
"""Where `Checkpoint.transaction` is kept, for the same reason."""

_COLUMNS = "plan, found, byte_offset, record_number, line_number, fields, tally, complete, swallowed"


def find(connection: Connection, load_id: int) -> Checkpoint | None:
    """The load's newest checkpoint; None where there is none, or none that this version of the program understands.

    Keys that it does not know are ignored, apart from counts of records: those would be missing in the load's sum.
    """
    found = rows(connection, f"SELECT {_COLUMNS} FROM loader.checkpoints WHERE load_id = %s", (load_id,))
    if not found:
        return None
    plan, known, offset, record, line, width, tally, complete, swallowed = found[0]
    try:
        kept = read_stored(Counts, tally, what="a checkpoint's counts")
        beside = read_stored(Swallowed, swallowed or {}, what="a checkpoint's stray quotes")
        findings = read_stored(Found, known, what="a checkpoint's findings")
    except StoredFormError:
        return None
    if unknown_counts(Counts, tally):
        return None
    seen = Seen.from_dict(known.get(_SEEN))
    place = Place(offset, record, line, width)
    counts = replace(kept, swallowed=beside)
    return Checkpoint(plan, findings, place, counts, complete, seen, known.get(_TRANSACTION))


def save(connection: Connection, entry: Entry, checkpoint: Checkpoint) -> None:
    """Enter the newest checkpoint of an attempt, which is a sign of life as well, and commit.

    Raises DatabaseUnavailableError where another attempt at the load has begun since.
    """
    place = checkpoint.place
    tally = asdict(checkpoint.counts)
    swallowed = tally.pop("swallowed")  # in a column of its own: a process of an earlier version knows no such count
    beside = {_SEEN: checkpoint.seen and checkpoint.seen.to_dict(), _TRANSACTION: checkpoint.transaction}
    values: dict[str, Any] = {
        "load_id": entry.load_id,
        "plan": checkpoint.plan,
        "found": json.dumps({**asdict(checkpoint.found), **beside}),
        "byte_offset": place.offset,
        "record_number": place.record,
        "line_number": place.line,
        "fields": place.fields,
        "tally": json.dumps(tally),
        "swallowed": json.dumps(swallowed) if checkpoint.counts.swallowed.records else None,
        "complete": checkpoint.complete,
    }
    names, given = ", ".join(values), ", ".join(f"%({name})s" for name in values)
    changes = ", ".join(f"{name} = excluded.{name}" for name in values)
    ledger.claim(connection, entry.load_id, entry.attempts)
    execute(
        connection,
        f"INSERT INTO loader.checkpoints ({names}) VALUES ({given})"
        f" ON CONFLICT (load_id) DO UPDATE SET {changes}, taken_at = clock_timestamp()",
        values,
    )
    connection.commit()


def forget(connection: Connection, load_id: int) -> None:
    """Delete the load's checkpoint, or what vouches for its shards, in the transaction that is open."""
    execute(connection, "DELETE FROM loader.checkpoints WHERE load_id = %s", (load_id,))
    execute(connection, "DELETE FROM loader.shards WHERE load_id = %s", (load_id,))


def is_vouched_for(connection: Connection, load_id: int) -> bool:
    """Whether what is staged may be of use yet."""
    vouching = (
        "SELECT FROM loader.checkpoints WHERE load_id = %s"
        " UNION ALL SELECT FROM loader.shards WHERE load_id = %s LIMIT 1"
    )
    return bool(rows(connection, vouching, (load_id, load_id)))
