"""Local times as a server reads them, and time zones for tests that have no server."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import psycopg2
import pyarrow as pa
from psycopg2.extensions import connection as Connection

from loader.core.spec.datetimes import YearOffsets, Zones, offsets_of_year, year_start
from loader.postgres.database import Database
from loader.postgres.time_zones import server_zones
from support.laws import database

_HOUR = 3_600_000_000
_DAY = 24 * _HOUR
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _of_this_machine(zone: str, years: Sequence[int]) -> Mapping[int, YearOffsets]:
    info = ZoneInfo(zone)

    def offset_at(moment: int) -> int:
        known = max(moment, year_start(1) + 2 * _DAY)  # of what Python has times for
        offset = (_EPOCH + timedelta(microseconds=known)).astimezone(info).utcoffset()
        assert offset is not None
        return offset // timedelta(microseconds=1)

    def change_after(day: int) -> int:
        before, after = day, day + _DAY
        while after - before > 1_000_000:
            middle = (before + after) // 2_000_000 * 1_000_000
            before, after = (middle, after) if offset_at(middle) == offset_at(day) else (before, middle)
        return after

    made = {}
    for year in years:
        start, end = year_start(year) - 2 * _DAY, year_start(year + 1) + 2 * _DAY
        days = [day for day in range(start, end, _DAY) if offset_at(day) != offset_at(day + _DAY)]
        changes = [(moment, offset_at(moment)) for moment in map(change_after, days)]
        made[year] = offsets_of_year(year, offset_at(start), changes)
    return made


def _no_rule(zone: str, _local: object) -> npt.NDArray[np.int64]:
    raise AssertionError(f"{zone}: Python has no such zones")


MACHINE_ZONES = Zones(_of_this_machine, _no_rule)
"""The zones of Python's data, for tests in which both lanes have to agree, and no server is asked."""


class ZoneLaw:
    """The law that the client puts local times in any of the server's zones as the server itself does."""

    def __init__(self, dsn: str, *, seed: int) -> None:
        self._database = Database(dsn)
        self._connection: Connection = psycopg2.connect(dsn)
        self._connection.autocommit = True
        self.chance = random.Random(seed)
        self._zones = server_zones(self._database, "UTC")
        self.names = [name for (name,) in self._rows("SELECT name FROM pg_timezone_names ORDER BY 1")]

    def check(self, zone: str, times: Sequence[int]) -> None:
        """``times``: local ones, in microseconds since 1970. Raises AssertionError."""
        ours = self._zones.localize(pa.array(times, pa.int64()).cast(pa.timestamp("us")), zone).cast(pa.int64())
        self._rows("SELECT set_config('timezone', %s, false)", zone)
        theirs = self._rows(
            "SELECT (extract(epoch FROM (timestamp '1970-01-01' + t / 1000000 * interval '1 s'"
            " + mod(t, 1000000) * interval '1 us')::timestamptz) * 1000000)::bigint"
            "  FROM unnest(%s::bigint[]) WITH ORDINALITY AS u (t, n) ORDER BY n",
            list(times),
        )
        pairs = zip(times, ours.to_pylist(), theirs, strict=True)
        wrong = [(str(np.datetime64(at, "us")), our, their) for at, our, (their,) in pairs if our != their]
        assert not wrong, f"{zone}: {wrong[:5]}"

    def times(self, zone: str, count: int, years: range = range(1900, 2101)) -> list[int]:
        """Local times at random of three of the ``years``, half of them near changes of the clocks."""
        if "," in zone:  # the server is asked about each time
            return [self.chance.randrange(year_start(years.start), year_start(years.stop)) for _ in range(count)]
        first = self.chance.choice(years)
        near = range(first, min(first + 3, years.stop))
        offsets = self._zones._table(zone, tuple(near))[0].tolist()
        end = year_start(near.stop)
        return [
            self.chance.choice(offsets) + self.chance.randrange(-3 * _HOUR, 3 * _HOUR) for _ in range(count // 2)
        ] + [self.chance.randrange(year_start(first), end) for _ in range(count - count // 2)]

    def _rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall()

    def close(self) -> None:
        self._connection.close()
        self._database.close()


# --- zones and times at random


def any_zone(connection: Connection, dice: random.Random) -> str:
    """A zone of the server's, by its name or by one of its abbreviations, an offset, or one in POSIX's spelling."""
    kind = dice.random()
    if kind < 0.5:
        return str(dice.choice(_names(connection)))
    if kind < 0.6:
        return f"{dice.choice('+-')}{dice.randrange(16):02}:{dice.choice(['00', '30', '45'])}"
    return posix_zone(dice)


def posix_zone(dice: random.Random) -> str:
    """``ABC-5:30``, or with a summer time, or with rules for it, by which the clocks may change twice on one day."""
    name, offset = dice.choice(["ABC", "<+05>", "UTC", "EST"]), f"{dice.choice(['', '+', '-'])}{dice.randrange(25)}"
    zone = f"{name}{offset}{dice.choice(['', '', ':30'])}"
    kind = dice.random()
    if kind < 0.4:
        return zone
    zone += dice.choice(["XYZ", "<+06>"]) + dice.choice(["", f"{dice.randrange(25)}"])
    if kind < 0.5:
        return zone
    start, end = ((dice.randint(1, 12), dice.randint(1, 5), dice.randrange(7)) for _ in "ab")
    end = start if dice.random() < 0.3 else end
    rules = [f"M{month}.{week}.{day}/{dice.randrange(24)}" for month, week, day in (start, end)]
    return ",".join([zone, *rules])


def set_zone(cursor: Any, zone: str) -> None:
    """As a spec's ``timezone`` has it, until the transaction ends: an offset counts eastwards."""
    if zone[0] in "+-":
        cursor.execute("SET LOCAL TIME ZONE INTERVAL %s HOUR TO MINUTE", [zone])
    else:
        cursor.execute("SELECT set_config('timezone', %s, true)", [zone])


_SPELLINGS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f", "%Y%m%d %H%M%S", "%b %d %Y %H:%M", "%d %B %Y %I:%M:%S %p")


def times_with_words(connection: Connection, dice: random.Random, count: int) -> list[str]:
    """Texts of times, some with a word for their zone behind them: UTC, an offset, an abbreviation, a name, POSIX's."""
    words = ["UTC", "utc", "Z", "z", "GMT", "+00", "-03:30", *_abbreviations(connection)]
    made = []
    for _ in range(count):
        at = datetime(1900, 1, 1) + timedelta(seconds=dice.randrange(200 * 365 * 86_400))
        word = dice.choice(["", "", dice.choice(words), any_zone(connection, dice)])
        made.append(f"{at.strftime(dice.choice(_SPELLINGS))}{dice.choice(['', ' '])}{word}")
    return made


_ASKED: dict[tuple[int, str], list[str]] = {}


def _names(connection: Connection) -> list[str]:
    return _told(connection, "SELECT name FROM pg_timezone_names ORDER BY 1")


def _abbreviations(connection: Connection) -> list[str]:
    return _told(connection, "SELECT abbrev FROM pg_timezone_abbrevs ORDER BY 1")


def _told(connection: Connection, statement: str) -> list[str]:
    """What the server says once and for all."""
    asked = (connection.info.server_version, statement)
    if asked not in _ASKED:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            _ASKED[asked] = [found for (found,) in cursor.fetchall()]
    return _ASKED[asked]


# --- the law


TIMES = 20_000
"""Local times of one round."""


def check(dice: random.Random, server: str) -> int:
    """One round of the law, see `support.laws.Law`: times of one of the server's zones."""
    law = _law(database(server, "zones"))
    law.chance = dice
    zone = dice.choice(law.names) if dice.random() < 0.8 else posix_zone(dice)
    law.check(zone, law.times(zone, TIMES))
    return TIMES


@functools.cache
def _law(dsn: str) -> ZoneLaw:
    return ZoneLaw(dsn, seed=0)
