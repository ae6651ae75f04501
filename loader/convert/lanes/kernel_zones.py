"""Time zones for the compiled lane: the offsets of local times, as far as they are sure, year by year.

A year's offsets take the server a quarter of a millisecond to find, so it is only asked for those of years in which the
kernel met a local time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from loader.core.spec.datetimes import SURE_YEARS, Zones

_UTC_NAMES = frozenset({"UTC", "Etc/UTC", "Etc/UCT", "UCT", "GMT", "Etc/GMT", "Zulu", "Etc/Zulu", "Etc/Universal"})
"""Zones in which a local time is UTC and always was (IANA time zone database, files ``etcetera`` and ``backward``)."""

_UNSURE = -(1 << 63)


def is_utc(zone: str) -> bool:
    """Whether local times in ``zone`` are UTC and always were."""
    return zone in _UTC_NAMES


def packed(names: Sequence[str], years: Iterable[int], zones: Zones) -> bytes:
    """``struct Zone`` in express.h of each zone, knowing ``years``."""
    known = sorted(years)
    return struct.pack("<I", len(names)) + b"".join(_packed(name, known, zones) for name in names)


def _packed(zone: str, years: Sequence[int], zones: Zones) -> bytes:
    if zone in _UTC_NAMES:
        return struct.pack("<Bq", True, 0)
    zones.learn(zone, {year for each in years for year in (each - 1, each, each + 1)})
    found = [(year, zones.sure_offsets(zone, year)) for year in years]
    head = struct.pack("<BII", False, sum(len(shifts) for _, shifts in found), len(found))
    return head + b"".join(
        struct.pack("<II", year - SURE_YEARS.start, len(shifts))
        + b"".join(struct.pack("<qq", since, _UNSURE if offset is None else offset) for since, offset in shifts)
        for year, shifts in found
    )


def met(years: bytes) -> frozenset[int]:
    """The years that the kernel returns as bits."""
    words = struct.unpack(f"={len(years) // 8}Q", years)
    bits = sum(word << 64 * place for place, word in enumerate(words))
    return frozenset(year for place, year in enumerate(SURE_YEARS) if bits >> place & 1)
