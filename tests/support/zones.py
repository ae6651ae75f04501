"""Local times as a server reads them, and time zones for tests that have no server."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import psycopg2
import pyarrow as pa
from psycopg2.extensions import connection as Connection

from loader.database import Database
from loader.datetimes import YearOffsets, Zones, offsets_of_year, year_start
from loader.zones import server_zones
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


MACHINE_ZONES = Zones(_of_this_machine)
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


TIMES = 20_000
"""Local times of one round."""


def check(dice: random.Random, server: str) -> int:
    """One round of the law, see `support.laws.Law`: times of one of the server's zones."""
    law = _law(database(server, "zones"))
    law.chance = dice
    zone = dice.choice(law.names)
    law.check(zone, law.times(zone, TIMES))
    return TIMES


@functools.cache
def _law(dsn: str) -> ZoneLaw:
    return ZoneLaw(dsn, seed=0)
