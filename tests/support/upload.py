"""Files made up for the fault harness, with what must become of them, by no code of the loader's."""

from __future__ import annotations

import gzip
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

Row = tuple[int, str]


@dataclass(frozen=True)
class Bad:
    """A record that must be rejected: its number, physical line, byte offset, and text."""

    record: int
    line: int
    offset: int
    raw: str


@dataclass(frozen=True)
class Upload:
    """A file. ``rows``: its good records, in their order; ``records``: how many it has in all. ``adds``: it is loaded
    beside what is there, whatever the mode, as rejects are that were repaired."""

    number: int
    body: bytes
    rows: tuple[Row, ...]
    bad: tuple[Bad, ...]
    records: int
    adds: bool = False


@dataclass
class _Text:
    """A CSV that is being written, and where it is."""

    pieces: list[str] = field(default_factory=lambda: ["id,v\n"])
    offset: int = 5
    line: int = 2
    records: int = 0

    def add(self, record: str) -> None:
        self.pieces.append(record + "\n")
        self.offset += len(record.encode()) + 1
        self.line += record.count("\n") + 1
        self.records += 1


REFUSED = "(id % 997 = 0)"
"""What the target of some trials does not take."""


def make_upload(rng: random.Random, number: int, *, refusing: bool) -> Upload:
    """A version with a few to some ten thousand records: keys that come again, quotes, line ends, bad ids.

    ``refusing``: the target has a CHECK against `REFUSED`.
    """
    text, rows, bad = _Text(), [], []
    count = rng.choice([0, 1, 500, 5_000, 15_000, 25_000, 25_000, 40_000])
    padding = "x" * rng.randint(10, 60)
    for _ in range(count):
        dice = rng.random()
        key = rng.randrange(1, count * 2)
        value = f"{number}-{key}-{padding}"
        if dice < 0.001:
            raw = f"no{key},{value}"
            bad.append(Bad(text.records + 1, text.line, text.offset, raw))
            text.add(raw)
            continue
        if dice < 0.01:
            value += rng.choice(['"quoted"', "two\nlines", "ü,ß", '"\n"'])
        raw = f"{key}," + ('"' + value.replace('"', '""') + '"' if dice < 0.02 else value)
        if refusing and key % 997 == 0:
            bad.append(Bad(text.records + 1, text.line, text.offset, raw))
        else:
            rows.append((key, value))
        text.add(raw)
    body = "".join(text.pieces).encode()
    if rng.random() < 0.2:
        body = gzip.compress(body, 1)
    return Upload(number, body, tuple(rows), tuple(bad), text.records)


def repaired(upload: Upload) -> Upload:
    """The rejects of a file as somebody repaired them, to be replayed."""
    lines = [each.raw.removeprefix("no") for each in upload.bad]
    rows = tuple((int(key), value) for key, value in (line.split(",", 1) for line in lines))
    body = "".join(f"{line}\n" for line in ["id,v", *lines]).encode()
    return Upload(upload.number, body, rows, (), len(rows), adds=True)


def table_after(effects: Sequence[Upload], mode: str, *, keyed: bool) -> list[Row]:
    """The rows that the table must have when these files have had their effect, one after the other; sorted."""
    rows: list[Row] = []
    for effect in effects:
        if mode == "replace" and not effect.adds:
            rows = []
        rows += effect.rows
    return sorted(dict(rows).items() if keyed else rows)  # the last record of a key wins


def digest(rows: list[Row]) -> tuple[int, str]:
    """As `DIGEST` makes it in the database."""
    listed = "\n".join(f"{key} {value}" for key, value in rows)
    return len(rows), sha256(listed.encode()).hexdigest()


DIGEST = """
    SELECT count(*), encode(sha256(convert_to(
               coalesce(string_agg(id || ' ' || v, E'\\n' ORDER BY id::bigint, v COLLATE "C"), ''), 'UTF8')), 'hex')
    FROM {}
"""

GLANCE = "SELECT count(*), coalesce(sum(id::bigint), 0), coalesce(sum(length(v)), 0) FROM {}"


def glance(rows: list[Row]) -> tuple[int, int, int]:
    """As `GLANCE` sees it: cheap enough for a reader that never stops looking."""
    return len(rows), sum(key for key, _ in rows), sum(len(value) for _, value in rows)
