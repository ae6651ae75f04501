"""Where a version of an object stands among those that had their effect on a table already.

Events of S3 come at least once and in no order. A version that was applied is not applied again, and one that is older
than what was applied last comes too late. Which of two versions is the newer, S3 says: by the sequencers of their
events, by when they were stored, and within one second by the order in which it lists them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.ledger import Errand
from loader.source import Source
from loader.statements import rows


@dataclass(frozen=True, slots=True)
class Standing:
    """``due``: it has to be loaded. ``loaded``: it had its effect, by ``load_id``, as ``uri``. ``superseded``: by a
    newer version, which ``load_id`` loaded. ``follows``: where it is due a second time, because the object came back to
    it, the load of the other version between; else 0."""

    verdict: Literal["due", "loaded", "superseded"]
    load_id: int = 0
    uri: str = ""
    follows: int = 0


@dataclass(frozen=True, slots=True)
class _Applied:
    load_id: int
    uri: str
    version: str
    sequencer: str | None
    last_modified: datetime


def find_standing(connection: Connection, errand: Errand, source: Source) -> Standing:
    """What is to be done about the errand, by the ledger. Needs the target's turn.

    A local file's version is its content, and hashing reads it whole: that is done only where a file of its size was
    loaded before. The rejects of a load that are loaded again are an errand of their own: see `_replayed`.
    """
    if errand.forced:
        return _DUE
    if errand.replay_of is not None:
        return _replayed(connection, errand, source)
    same, last = _same(connection, errand, source), _last(connection, errand, source)
    if same is not None:
        came_back = last is not None and last.load_id != same.load_id and same.uri == source.uri
        if came_back and not _has_order(source):  # what was read just now is what the object holds now
            return Standing("due", follows=last.load_id if last else 0)
        return Standing("loaded", same.load_id, same.uri)
    if last is not None and _has_order(source) and not _is_newer(errand, source, last):
        return Standing("superseded", last.load_id, last.uri)
    return _DUE


_DUE = Standing("due")


_COLUMNS = "load_id, source, version, sequencer, last_modified"


def _same(connection: Connection, errand: Errand, source: Source) -> _Applied | None:
    """The load that applied this very version last. A local file's is known by its content, whatever its name."""
    return _find(connection, errand, source, "", ())


def _replayed(connection: Connection, errand: Errand, source: Source) -> Standing:
    """Replays of other loads do not count, for they may well have had the same records to mend, nor do loads that
    rejected every record."""
    counts = "AND rows_rejected < rows_read AND (replay_of IS NULL OR replay_of = %s OR load_id = %s)"
    same = _find(connection, errand, source, counts, (errand.replay_of, errand.replay_of))
    return _DUE if same is None else Standing("loaded", same.load_id, same.uri)


def _find(
    connection: Connection, errand: Errand, source: Source, counts: str, parameters: tuple[Any, ...]
) -> _Applied | None:
    which = f"state = 'loaded' AND target = %s AND coalesce(bucket, '') = %s AND (%s OR key = %s) {counts}"
    identity = (errand.target, source.bucket or "", source.bucket is None, source.key, *parameters)
    if source.version is None:
        same_size = f"SELECT 1 FROM loader.loads WHERE {which} AND size = %s LIMIT 1"
        if not rows(connection, same_size, (*identity, source.size)):
            return None
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM loader.loads WHERE {which} AND version = %s "
        " ORDER BY key = %s DESC, applied DESC LIMIT 1",
        (*identity, source.digest(), source.key),
    )
    return _Applied(*found[0]) if found else None


def _last(connection: Connection, errand: Errand, source: Source) -> _Applied | None:
    """The load that applied a version of this object last."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM loader.loads WHERE state = 'loaded' AND target = %s AND coalesce(bucket, '') = %s"
        " AND key = %s ORDER BY applied DESC LIMIT 1",
        (errand.target, source.bucket or "", source.key),
    )
    return _Applied(*found[0]) if found else None


def _has_order(source: Source) -> bool:
    """Versions with an id stay readable when they are old; of any other object there is only what it holds now."""
    return source.bucket is not None and not source.pin.startswith("etag:")


def _is_newer(errand: Errand, source: Source, last: _Applied) -> bool:
    """Whether the version is newer than the one that was applied last.

    Sequencers are hexadecimal numbers of different lengths, of which the shorter is filled up with zeros on the left
    (Amazon S3 User Guide, "Event message structure"). LastModified counts whole seconds.
    """
    if errand.sequencer and last.sequencer:
        return _ordinal(errand.sequencer) > _ordinal(last.sequencer)
    if source.last_modified != last.last_modified:
        return source.last_modified > last.last_modified
    return source.is_newer_than(last.version) is True


def _ordinal(sequencer: str) -> str:
    return sequencer.lower().rjust(64, "0")
