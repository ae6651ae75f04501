"""Where a version of an object stands among those that had their effect on a table already.

Events of S3 come at least once and in no order. The rules:

- A version that was applied is not applied again.
- A version that was asked for by force is applied, once for each request (`ledger.Errand.token`), and nothing else is
  looked at.
- Where each version is a snapshot (`LoadSpec.each_version`), one that is older than any that was applied comes too
  late: it is superseded. What an operator forced since does not change that. The same holds where a newer version has
  replaced the whole table.
- Where each version is a delta, it is applied whatever the order, and the table is the same as if they had come in
  theirs: appended rows have no order, and of a merge, records whose keys a newer version has set stay out (`late`).
- Which of two versions is the newer, S3 says: by the sequencers of their events where these are of one length, by when
  they were stored, and within one second by the order in which it lists them.
- An object or file that keeps no versions is due when it differs from what was loaded under its name last, unless what
  it holds now was loaded since, under whatever name.
- Rejects of a version are no version themselves. They come too late when a newer version was merged since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.core.errors import SpecError
from loader.core.spec.model import LoadSpec
from loader.core.suggestions import listed
from loader.ledger.ledger import KEY, Errand, find_load, identity
from loader.postgres.catalog import describe
from loader.postgres.statements import planned_rows, rows
from loader.postgres.tables import Table
from loader.sources.source import Source


@dataclass(frozen=True, slots=True)
class Standing:
    """``due``: it has to be loaded. ``loaded``: it had its effect, by ``load_id``, as ``uri``. ``superseded``: by a
    newer version, which ``load_id`` loaded. ``follows``: where it is due a second time, the load since which it is:
    that of another version, or of anything else into a table that was dropped or created since; else 0. ``newer``:
    where it is due though newer versions were merged before, the loads of those; it must leave their keys alone."""

    verdict: Literal["due", "loaded", "superseded"]
    load_id: int = 0
    uri: str = ""
    follows: int = 0
    newer: tuple[Applied, ...] = ()


@dataclass(frozen=True, slots=True)
class Applied:
    """A load that took effect. ``applied``: loads into one table are numbered as they did."""

    load_id: int
    uri: str
    version: str
    sequencer: str | None
    last_modified: datetime
    applied: int
    mode: str


@dataclass(frozen=True, slots=True)
class _Lifetime:
    """What the ledger knows of the table's present life. Loads that were ``applied`` before ``since`` are not in it: a
    load found no table since then and created one, or a crash emptied it, or there is no table now. ``follows``: the
    load after which their versions are due again. It is another one for each life, so that the ledger's unique indexes
    stay what keeps a version from taking effect twice."""

    since: int = 0
    follows: int = 0


def find_standing(connection: Connection, errand: Errand, source: Source, table: Table) -> Standing:
    """What is to be done about the errand, by the ledger and by whether its ``table`` exists and has lost its rows.
    Needs the target's turn.

    A local file's version is its content, and hashing reads it whole: that is done only where a file of its size was
    loaded before.

    A load that took effect on a table that was dropped since vouches for nothing, so its version is due again. The
    order of versions outlives the table: one that is older than what was loaded stays superseded. The same goes for
    an UNLOGGED table whose rows a crash of the server threw away. A table that was dropped and created by hand looks
    like the one before, and the ledger still vouches for its loads.
    """
    if errand.forced:
        return _find_by_token(connection, errand, source)
    life = _lifetime(connection, errand, table)
    same = _same(connection, errand, source, life.since)
    if same is not None and same.applied >= life.since:
        last = None if errand.replay_of is not None or has_order(source) else _last(connection, errand, source)
        if last is not None and last.version != same.version and last.applied > same.applied:
            return Standing("due", follows=last.load_id)  # what was read just now is what the object holds now
        return Standing("loaded", same.load_id, same.uri)
    return _among_newer(connection, errand, source, life.since, follows=0 if same is None else life.follows)


_DUE = Standing("due")


def _find_by_token(connection: Connection, errand: Errand, source: Source) -> Standing:
    """A forced errand is due, whatever was loaded, unless its request took effect already. What the object holds now,
    the spec and the table do not matter: the request was for what they were then."""
    found = rows(
        connection,
        "SELECT load_id, source FROM loader.loads WHERE state = 'loaded' AND target = %s AND coalesce(bucket, '') = %s"
        " AND key = %s AND replay_of IS NOT DISTINCT FROM %s AND forced AND token = %s",
        (errand.target, source.bucket or "", source.key, errand.replay_of, errand.token),
    )
    return Standing("loaded", *found[0]) if found else _DUE


def _among_newer(connection: Connection, errand: Errand, source: Source, since: int, *, follows: int) -> Standing:
    """How an errand that was not done stands to newer versions that had their effect: one of them may supersede it.
    Else it is due, and must undo none, that is each load of them, for two loads of one version may have set other keys.
    What was applied before the table's present life, which began ``since``, has no keys there.

    S3 may have to be asked about each of them, so this looks no further than it has to.
    """
    if errand.replay_of is not None:
        if (newest := _newer_than_replayed(connection, errand.replay_of)) is not None:
            return Standing("superseded", newest.load_id, newest.uri)
        return Standing("due", follows=follows)

    def supersedes(other: Applied) -> bool:
        return errand.spec.each_version == "snapshot" or other.mode == "replace"

    def has_keys(other: Applied) -> bool:
        return errand.spec.mode == "merge" and other.applied >= since

    newer: list[Applied] = []
    for each in _others(connection, errand, source):
        if (supersedes(each) or has_keys(each)) and not _is_newer(errand, source, each):
            if supersedes(each):
                return Standing("superseded", each.load_id, each.uri)
            newer.append(each)
    return Standing("due", follows=follows, newer=tuple(sorted(newer, key=lambda each: each.applied)))


_APPLIED = "coalesce(applied, 0)"  # versions 1 and 2 did not number what they loaded

_COLUMNS = f"load_id, source, version, sequencer, last_modified, {_APPLIED} AS applied, mode"


_VOUCHED = "EXISTS (SELECT FROM loader.unlogged_loads u WHERE u.load_id = l.load_id)"
"""Whether no crash has emptied the UNLOGGED target since the load; see `ledger.finish`."""

_EMPTIES = "EXISTS (SELECT FROM pg_class WHERE oid = %(oid)s AND relkind = 'r' AND relpersistence = 'u')"
"""Whether a crash empties the target. A table that is logged by now keeps what it has."""


def _last_unlogged(which: str) -> str:
    """The query for the last load into an UNLOGGED target of those ``which`` are meant."""
    return (
        f"SELECT load_id, {_APPLIED} AS applied FROM loader.loads WHERE state = 'loaded' AND target = %(target)s"
        f" AND unlogged AND {which} ORDER BY 2 DESC, 1 DESC LIMIT 1"
    )


_LAST_LOST = f"""
    WITH RECURSIVE sought AS (
        SELECT 0::bigint AS lost, applied + 1 AS kept FROM ({_last_unlogged("true")}) newest WHERE {_EMPTIES}
        UNION ALL
        SELECT CASE WHEN vouched THEN lost ELSE middle END, CASE WHEN vouched THEN middle ELSE kept END
          FROM sought, LATERAL (SELECT (lost + kept) / 2 AS middle) halved, LATERAL (SELECT EXISTS (
               SELECT FROM ({_last_unlogged(f"{_APPLIED} <= middle")}) l WHERE {_VOUCHED}) AS vouched) looked
         WHERE kept - lost > 1)
    {_last_unlogged(f"{_APPLIED} <= (SELECT max(lost) FROM sought)")}"""
"""The last load whose rows a crash has thrown away. A crash takes all that were applied before it, so the loads are
lost up to some number, and from then on kept: that number is found by halves."""


def _lifetime(connection: Connection, errand: Errand, table: Table) -> _Lifetime:
    """See `_Lifetime`. A table that was not there is created in the transaction that enters the load, so the ledger
    always knows."""
    arms = [
        f"(SELECT load_id, {_APPLIED} AS applied, created AND %(oid)s::oid IS NOT NULL AND NOT (unlogged AND {_EMPTIES}"
        f" AND NOT {_VOUCHED}) FROM loader.loads l WHERE state = 'loaded' AND target = %(target)s AND {which}"
        " ORDER BY 2 DESC, 1 DESC LIMIT 1)"
        for which in ("created", "%(oid)s::oid IS NULL")  # each has an index
    ]
    arms.append(f"(SELECT load_id, applied, false FROM ({_LAST_LOST}) lost)")
    found = planned_rows(
        connection,
        f"{' UNION ALL '.join(arms)} ORDER BY 2 DESC, 1 DESC LIMIT 1",
        {"target": errand.target, "oid": table.oid},
    )
    if not found:
        return _Lifetime()
    load_id, applied, is_present = found[0]
    return _Lifetime(since=applied if is_present else applied + 1, follows=load_id)


def why_not_due(connection: Connection, errand: Errand, standing: Standing, source: Source, table: Table) -> str:
    """Why the errand is skipped, in one sentence that says how to load it anyway, and in what this call differs from
    the load by which the version took effect."""
    if standing.verdict == "superseded" and errand.replay_of is not None:
        return (
            f"these are rejects of load {errand.replay_of}, and load {standing.load_id} has loaded a newer version of "
            "that object since: add --force to load them over what that one has set"
        )
    if standing.verdict == "superseded":
        newer = f"a newer version of it was loaded before, by load {standing.load_id}"
        return f"{newer}: add --force to load this one anyway"
    if errand.forced:
        return (
            f"load {standing.load_id} did what this very request to load it by force asks for: the request came again; "
            "a new one loads it once more"
        )
    recorded = find_load(connection, standing.load_id)
    key = describe(connection, table.schema, table.name).primary_key
    differences = _differences(recorded["spec"], errand.spec, key) if recorded else []
    same = "" if standing.uri == source.uri else f", as {standing.uri}"
    if not differences:
        return f"this version was loaded already, by load {standing.load_id}{same}: add --force to load it again"
    before, now = (" and ".join(each) for each in zip(*differences, strict=True))
    return (
        f"this version was loaded by load {standing.load_id}{same}, with {before}; this call asks for {now}: "
        "add --force to load it again"
    )


_INCIDENTAL = ("mode", "key", "source", "table", "segment_mb", "rejects", "limits", "versions")
"""Settings that `_differences` words otherwise, or that do not change what a record becomes."""


def _differences(recorded: Mapping[str, Any], spec: LoadSpec, primary_key: tuple[str, ...]) -> list[tuple[str, str]]:
    """Where the ``recorded`` spec and ``spec`` differ: what that one asked for, and what this one does."""
    try:
        before = LoadSpec.from_dict(recorded, origin="ledger")
    except SpecError:  # of a later version of this program
        return []
    found = []
    if before.mode != spec.mode:
        found.append((f"mode {before.mode}", f"mode {spec.mode}"))
    keys = [each.key or (primary_key if each.mode == "merge" else ()) for each in (before, spec)]
    if keys[0] != keys[1]:
        found.append((_key(keys[0]), _key(keys[1])))
    old, new = before.to_dict(), spec.to_dict()
    others = [name for name in new if name not in _INCIDENTAL and json.dumps(old.get(name)) != json.dumps(new[name])]
    if others:
        named = ", ".join(others)
        found.append((f"other settings of {named}", "its own"))
    return found


def _key(names: Sequence[str]) -> str:
    return f"key {listed(names)}" if names else "no key"


def _same(connection: Connection, errand: Errand, source: Source, since: int) -> Applied | None:
    """The load that applied this very version last, if need be one from before ``since``.

    A local file's version is known by its content, whatever its name. Where the errand is a replay, those of other
    loads do not count, for they may well have had the same records to fix, nor do loads that rejected every record.
    """
    which = "state = 'loaded' AND target = %(target)s"
    which += (
        " AND bucket IS NULL AND size = %(size)s" if source.bucket is None else f" AND bucket = %(bucket)s AND {KEY}"
    )
    if errand.replay_of is not None:
        which += " AND rows_rejected < rows_read"
        which += " AND (replay_of IS NULL OR replay_of = %(replay_of)s OR load_id = %(replay_of)s)"
    asked = {**identity(errand), "size": source.size, "since": since}
    known = f"SELECT 1 FROM loader.loads WHERE {which} LIMIT 1"
    if source.version is None and not planned_rows(connection, known, asked):
        return None
    found = planned_rows(
        connection,
        f"SELECT {_COLUMNS} FROM loader.loads WHERE {which} AND version = %(version)s"
        f" ORDER BY {_APPLIED} >= %(since)s DESC, key = %(key)s DESC, applied DESC LIMIT 1",
        {**asked, "version": source.digest()},
    )
    return Applied(*found[0]) if found else None


def _last(connection: Connection, errand: Errand, source: Source) -> Applied | None:
    """The load that applied a version of this object last."""
    found = planned_rows(
        connection,
        f"SELECT {_COLUMNS} FROM loader.loads WHERE state = 'loaded' AND target = %(target)s"
        f" AND bucket IS NOT DISTINCT FROM %(bucket)s AND {KEY} ORDER BY applied DESC LIMIT 1",
        {"target": errand.target, "bucket": source.bucket, "key": source.key},
    )
    return Applied(*found[0]) if found else None


def _others(connection: Connection, errand: Errand, source: Source) -> list[Applied]:
    """The loads of other versions of this object that may be newer than it, the likeliest first.

    Those whose sequencers say that they are older are left out, and so are those that were stored before, where
    sequencers say nothing. None where versions have no order.
    """
    if not has_order(source):
        return []
    versions = (
        f"SELECT {_COLUMNS} FROM loader.loads WHERE state = 'loaded' AND target = %(target)s AND bucket = %(bucket)s"
        f" AND {KEY} AND version <> %(version)s AND replay_of IS NULL"
    )
    comparable, number = "length(sequencer) = length(%(sequencer)s::text)", 'upper(sequencer) COLLATE "C"'
    found = planned_rows(
        connection,
        f"({versions} AND {comparable} AND {number} > upper(%(sequencer)s) ORDER BY {number} DESC LIMIT %(limit)s)"
        f" UNION ALL ({versions} AND ({comparable}) IS NOT TRUE AND last_modified >= %(last_modified)s"
        " ORDER BY last_modified DESC LIMIT %(limit)s) ORDER BY last_modified DESC, applied DESC LIMIT %(limit)s",
        {
            "sequencer": errand.sequencer,
            "target": errand.target,
            "bucket": source.bucket,
            "key": source.key,
            "version": source.version,
            "last_modified": source.last_modified,
            "limit": OTHERS if errand.spec.each_version == "snapshot" else None,
        },
    )
    return [Applied(*each) for each in found]


OTHERS = 100
"""Versions of one object that are looked at where one that is newer is enough to know. More than one are needed only
where several were stored in one second."""


def _newer_than_replayed(connection: Connection, load_id: int) -> Applied | None:
    """The newest load of another version of the object that load ``load_id`` loaded, if it was applied after that, or
    before, and that load came late.

    Of one that was appended nothing is overwritten.
    """
    found = rows(
        connection,
        "SELECT l.load_id, l.source, l.version, l.sequencer, l.last_modified, coalesce(l.applied, 0), l.mode"
        " FROM loader.loads r JOIN loader.loads l ON l.target = r.target AND l.key = r.key"
        " AND hashtextextended(l.key, 0) = hashtextextended(r.key, 0) AND l.bucket IS NOT DISTINCT FROM r.bucket"
        " WHERE r.load_id = %s AND r.mode <> 'append'"
        " AND l.state = 'loaded' AND l.replay_of IS NULL AND l.version <> r.version"
        " AND (l.applied > r.applied OR l.load_id = ANY (r.overtaken_by))"
        " AND r.load_id <> ALL (coalesce(l.overtaken_by, '{}')) ORDER BY l.applied DESC LIMIT 1",
        (load_id,),
    )
    return Applied(*found[0]) if found else None


def has_order(source: Source) -> bool:
    """Versions with an id stay readable when they are old; of any other object there is only what it holds now."""
    return source.bucket is not None and not source.pin.startswith("etag:")


def _is_newer(errand: Errand, source: Source, other: Applied) -> bool:
    """Whether the version is newer than another one that was applied.

    Sequencers are hexadecimal numbers. How two of different lengths compare is not sure: one edition of AWS's guide
    fills up the shorter one on the left, another on the right (Amazon S3 User Guide, "Event message structure").
    LastModified counts whole seconds.
    """
    if errand.sequencer and other.sequencer and len(errand.sequencer) == len(other.sequencer):
        return errand.sequencer.upper() > other.sequencer.upper()
    if source.last_modified != other.last_modified:
        return source.last_modified > other.last_modified
    return source.is_newer_than(other.version) is True
