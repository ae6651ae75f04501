"""Time zones as the server has them: its data say what a local time means, and which zones there are.

This machine's time zone data are of another version than the server's, so a time of last winter may be an hour off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.core.spec.datetimes import YearOffsets, Zones, offsets_of_year, year_start
from loader.core.suggestions import nearest
from loader.core.vectors import Numbers
from loader.postgres.database import Database
from loader.postgres.statements import execute, rows

_DAY = 86_400
_SECOND = 1_000_000

_OFFSETS = """
    WITH RECURSIVE y AS (SELECT * FROM unnest(%s::int[], %s::bigint[], %s::bigint[]) AS u (year, since, until)),
    half AS (
        SELECT year, t AS before, t + 86400 AS after, extract(epoch FROM to_timestamp(t)::timestamp) - t AS "offset"
          FROM y, generate_series(since, until, 86400) AS t
         WHERE to_timestamp(t + 86400)::timestamp <> to_timestamp(t)::timestamp + interval '86400 s'
        UNION ALL
        SELECT year, CASE WHEN same THEN middle ELSE before END, CASE WHEN same THEN after ELSE middle END, "offset"
          FROM (SELECT *, (before + after) / 2 AS middle FROM half WHERE after - before > 1) AS m,
               LATERAL (SELECT extract(epoch FROM to_timestamp(middle)::timestamp) - middle = "offset" AS same) AS t)
    SELECT year, at, (extract(epoch FROM to_timestamp(at)::timestamp) - at)::int
      FROM (SELECT year, since AS at FROM y UNION ALL SELECT year, after FROM half WHERE after - before = 1) AS found
     ORDER BY 1, 2
"""
"""The offset of the session's zone two days before some years, and each change from then until two days after them, to
the second. No zone of the world has changed its offset twice in a day. PostgreSQL 18 takes 0.25 ms for a year, and 0.1
for each other one."""


def server_zones(database: Database, session_zone: str) -> Zones:
    """The zones of a server. ``session_zone`` is the zone of its sessions."""

    @contextmanager
    def session_in(zone: str) -> Iterator[Connection]:
        with database.session() as connection, in_zone(connection, None if zone == session_zone else zone):
            yield connection

    def find(zone: str, years: Sequence[int]) -> Mapping[int, YearOffsets]:
        with session_in(zone) as connection:
            return _offsets(connection, years)

    def ask(zone: str, local: Numbers) -> Numbers:
        with session_in(zone) as connection:
            return np.concatenate([_asked(connection, part) for part in _parts(local)])

    return Zones(find, ask)


_LOCAL = """
    SELECT t - (extract(epoch FROM (timestamp 'epoch' + t / 1000000 * interval '1 s'
                                    + t %% 1000000 * interval '1 us')::timestamptz) * 1000000)::bigint
      FROM unnest(%s::bigint[]) WITH ORDINALITY AS u (t, place) ORDER BY place
"""
"""The offsets that local times of the session's zone have."""

_AT_ONCE = 100_000
"""Local times that the server is asked about with one statement."""

_KNOWN = year_start(-4000), year_start(290_000)
"""Times before and after those are given to the server as these: it has none that are much further off."""


def _parts(local: Numbers) -> Iterator[Numbers]:
    for start in range(0, len(local), _AT_ONCE):
        yield local[start : start + _AT_ONCE]


def _asked(connection: Connection, local: Numbers) -> Numbers:
    """The offsets of local times of the session's zone, shape (n,), in microseconds."""
    within = np.clip(local, *_KNOWN).tolist()
    return np.array([offset for (offset,) in rows(connection, _LOCAL, (within,))], np.int64)


def _offsets(connection: Connection, years: Sequence[int]) -> dict[int, YearOffsets]:
    """The offsets of the session's zone."""
    # UTC and local time, before or after any change, are less than two days apart
    since = [year_start(year) // _SECOND - 2 * _DAY for year in years]
    until = [year_start(year + 1) // _SECOND + 2 * _DAY for year in years]
    found: dict[int, list[tuple[int, int]]] = {}
    execute(connection, "SET LOCAL jit TO off")  # to compile the query takes longer than to run it
    for year, moment, offset in rows(connection, _OFFSETS, (list(years), since, until)):
        found.setdefault(year, []).append((moment * _SECOND, offset * _SECOND))
    return {year: offsets_of_year(year, at_start, changes) for year, ((_, at_start), *changes) in found.items()}


@contextmanager
def in_zone(connection: Connection, zone: str | None) -> Iterator[None]:
    """The session's time zone is ``zone`` inside, and its own again after; None leaves it as it is.

    A bare offset is ISO 8601's, east of Greenwich. What is open is committed, before and after. Raises psycopg2.Error
    where the server has no such zone.
    """
    if zone is None:
        yield
        return
    if re.fullmatch(r"[+-][0-9:]+", zone):
        execute(connection, "SET TIME ZONE INTERVAL %s HOUR TO MINUTE", (zone,))
    else:
        execute(connection, "SELECT set_config('timezone', %s, false)", (zone,))
    connection.commit()  # what is rolled back inside must not take the setting with it
    yield
    execute(connection, "RESET timezone")
    connection.commit()


def zone_faults(connection: Connection, zones: Iterable[str]) -> dict[str, str]:
    """What is wrong with those ``zones`` that the server does not have."""
    faults: dict[str, str] = {}
    for zone in dict.fromkeys(zones):
        execute(connection, "SAVEPOINT loader_zone")
        try:
            execute(connection, "SELECT set_config('timezone', %s, true)", (zone,))
        except psycopg2.DataError:  # invalid_parameter_value
            faults[zone] = ""
        execute(connection, "ROLLBACK TO SAVEPOINT loader_zone")
        execute(connection, "RELEASE SAVEPOINT loader_zone")
    if faults:
        names = [name for (name,) in rows(connection, "SELECT name FROM pg_timezone_names ORDER BY 1")]
        faults = {zone: _unknown(zone, names) for zone in faults}
    return faults


def _unknown(zone: str, names: Sequence[str]) -> str:
    near = nearest(zone, names)
    return f'PostgreSQL has no time zone "{zone}"' + (f'; did you mean "{near}"?' if near is not None else "")
