"""The values that workers hand to each other: how an object is cut, what came of each shard, and what is proved.

JSON can carry all of them, and each version of the loader takes from it what it knows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any, Self

from loader.core.stored import StoredFormError, read_stored
from loader.sources import crc

Known = Mapping[str, Any]
"""What is known of a shard's beginning: ``{"start": offset}``, proved by the chain, or ``{"inside": bool}``, told by
the parities."""

OTHER_HEAD = "the beginning of the object was not read alike when the shards were planned"


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """How an object is cut, or why it is not. All values are such as JSON can carry.

    ``verdict``: "split", "single" (one worker is to load it; ``why`` says the reason) or "settled" (it had its effect
    already; ``report`` tells). ``ranges``: of the object's bytes, [from, to), one after the other from 0 to ``size``.
    ``mark``: bytes of its byte order mark; every other offset counts the text after that. ``start`` and ``line``: where
    the first record begins; ``end``: where the text ends, and the footer begins. ``fields``: of a record. ``digest``:
    of all that decides what staged rows look like. ``found``: see `checkpoints.Found`. ``checksum``: S3's, of all,
    where it combines; ``algorithm``: what ranges are summed with. ``head``: the CRC32 of the object's first `HEAD`
    bytes as the plan's maker read them, None where a version before this one made it. ``counts_quotes``: parities tell
    whether a cut is inside quotes. ``target``: the table's schema and name, None where a version before this one made
    the plan: then what the spec says."""

    verdict: str
    uri: str
    spec: dict[str, Any]
    load_id: int | None = None
    attempt: int = 0
    why: str = ""
    version_id: str | None = None
    pin: str = ""
    size: int = 0
    mark: int = 0
    start: int = 0
    line: int = 1
    end: int = 0
    fields: int = 0
    ranges: tuple[tuple[int, int], ...] = ()
    counts_quotes: bool = False
    target: tuple[str, str] | None = None
    algorithm: str = crc.PLAIN
    checksum: str | None = None
    head: int | None = None
    digest: str = ""
    found: dict[str, Any] = field(default_factory=dict)
    forced: bool = False
    token: str | None = None
    sequencer: str | None = None
    report: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ranges": [list(each) for each in self.ranges]}

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """The plan that `to_dict` gave, in this process or in one of another version. Raises StoredFormError."""
        made = read_stored(cls, mapping, what="a shard plan")
        try:
            ranges = tuple((int(first), int(past)) for first, past in made.ranges)
            return replace(made, ranges=ranges, target=made.target and (made.target[0], made.target[1]))
        except (IndexError, TypeError, ValueError) as error:
            raise StoredFormError("a shard plan: its ranges are not pairs of offsets, or its target is none") from error

    def text(self, number: int) -> tuple[int, int]:
        """The part of the text, [from, to), in which the shard's records begin; it may be empty."""
        first, past = self.ranges[number]
        return self._clip(first), self._clip(past)

    def lead_end(self, number: int, start: int | None) -> int:
        """Where in the object a run's ``lead`` ends: where its first record begins, or the text of its range ends."""
        first, past = self.ranges[number]
        stop = self.text(number)[1]
        return min(max((stop if start is None else min(start, stop)) + self.mark, first), past)

    def _clip(self, offset: int) -> int:
        return min(max(offset - self.mark, self.start), self.end)


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What came of one run of one shard. All values are such as JSON can carry.

    ``run``: which of all runs, and so whose part of the staging. ``known``: what it was told of its beginning;
    ``inside``: what it took its first byte for, None where it knew better. ``start``: where its first record begins,
    None where none was found; ``end``: where its right neighbour has to begin. ``lines``: physical lines between the
    two. ``keys``: see `key_order.Rising.bounds`. ``parity``: of the quotes in its part of the text; ``crc``: of its
    range of the object; ``lead``: of what of its range is before its first record; ``tail``: of what it read past its
    range up to ``end``, which is its right neighbours' to sum as well. ``problem``: why it came to no end, by ``kind``:
    "limit" (of rejects), "endless" (a record, at ``place``: offset, and number and line within the shard), "widen" (an
    inferred type), "careful" or "refused" (the database refused a record), "changed" (the table), "failed" (in the
    database, whatever it is sent), or an error's name; ``run`` is in it, too. ``swallowed``: as in `Swallowed`, its
    line counted within the shard.
    """

    load_id: int
    attempt: int
    number: int
    run: int
    known: dict[str, Any] | None = None
    inside: bool | None = None
    start: int | None = None
    end: int | None = None
    records: int = 0
    lines: int = 0
    kept: int = 0
    filtered: int = 0
    short: int = 0
    long: int = 0
    rejected: int = 0
    parity: int | None = None
    crc: int | None = None
    lead: int | None = None
    tail: int | None = None
    broken: bool = False
    keys: tuple[tuple[str, ...], ...] | None = None
    problem: dict[str, Any] | None = None
    bytes_read: int = 0
    seconds: float = 0.0
    swallowed: dict[str, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """The report that `to_dict` gave, in this process or in one of another version. Raises StoredFormError."""
        return read_stored(cls, mapping, what="a shard's report")


@dataclass(frozen=True, slots=True)
class Part:
    """A shard whose beginning and end are proved. ``run``: whose staging holds it, None where no record begins in it.
    ``record`` and ``line``: how many come before it in the whole object, lines before the first record among them."""

    number: int
    run: int | None
    start: int
    record: int
    line: int


@dataclass(frozen=True, slots=True)
class Proof:
    """``proved``: every shard is. ``again``: shards that have to be loaded (again), with what is known of their
    beginning. ``waiting``: that others have to be loaded first to be proved. ``problem``: of a shard that is proved to
    have begun right, so it is the object's own. ``parts``: those that are proved, from the left. ``guessed``,
    ``wrong``: how many beginnings were guesses, and how many of these the proof found to be wrong. ``rising``: keys
    rise over all those parts, so none comes twice. ``swallowed``: as in `Swallowed`, of all those parts.
    """

    proved: bool
    again: tuple[tuple[int, dict[str, Any] | None], ...] = ()
    waiting: tuple[int, ...] = ()
    parts: tuple[Part, ...] = ()
    problem: dict[str, Any] | None = None
    counts: dict[str, int] = field(default_factory=dict)
    guessed: int = 0
    wrong: int = 0
    rising: bool = False
    swallowed: dict[str, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def cut(
    size: int, *, shards: int | None = None, length: int | None = None, at: Sequence[int] = ()
) -> tuple[tuple[int, int], ...]:
    """Ranges of nearly the same length that tile ``size`` bytes: so many, or of ``length`` bytes at most.

    ``at``: the only places where it may be cut, rising from 0 to ``size``; then there may be fewer and longer ranges.
    """
    number = shards if shards is not None else -(-size // max(1, length or size))
    number = max(1, min(number, size))
    borders = [size * each // number for each in range(number + 1)]
    if at:
        borders = sorted({0, size, *(_nearest(at, each) for each in borders)})
    return tuple(pairwise(borders))


def _nearest(places: Sequence[int], wanted: int) -> int:
    after = min(bisect_left(places, wanted), len(places) - 1)
    return min(places[max(after - 1, 0) : after + 1], key=lambda place: abs(place - wanted))
