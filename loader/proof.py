"""One object in shards: the plan, what came of each shard, and the proof that together they are the object.

A shard is a range of the object's bytes. It owns the records that begin in it, and reads on past its end to finish the
last. Whoever loads it does not know whether it begins inside quotes: that is a guess. **The chain** proves it: the
first shard begins where the records begin, and each other one must begin exactly where its left neighbour ended. What
follows such a place is what one reader of the whole file would have found from there on, so by induction each shard is
right, whatever the dialect; a guess that is not met by its neighbour is wrong, and its shard is loaded again.

**The parities** only save time. Where all that tells inside from outside is the number of quotes before, the state at
each cut is the XOR of the parities to its left, so all wrong guesses are known at once and are loaded again side by
side, and not one after the other. They prove nothing: what they told is met by the chain, or is loaded once more.

The rules are told with their reasons in docs/sharding.md. Nothing here reads anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, Self, TypeVar

from loader import crc
from loader.errors import SourceError

Known = Mapping[str, Any]
"""What is known of a shard's beginning: ``{"start": offset}``, proved by the chain, or ``{"inside": bool}``, told by
the parities."""

_T = TypeVar("_T")


def _made(kind: type[_T], mapping: Mapping[str, Any]) -> _T:
    """Of what JSON carries, that which this version knows."""
    return kind(**{each.name: mapping[each.name] for each in fields(kind) if each.name in mapping})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """How an object is cut, or why it is not. All values are such as JSON can carry.

    ``verdict``: "split", "single" (one worker is to load it; ``why`` says the reason) or "settled" (it had its effect
    already; ``report`` tells). ``ranges``: of the object's bytes, [from, to), one after the other from 0 to ``size``.
    ``mark``: bytes of its byte order mark; every other offset counts the text after that. ``start`` and ``line``: where
    the first record begins; ``end``: where the text ends, and the footer begins. ``fields``: of a record. ``digest``:
    of all that decides what staged rows look like. ``found``: see `checkpoints.Found`. ``checksum``: S3's, of all.
    ``counts_quotes``: parities tell whether a cut is inside quotes.
    """

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
    algorithm: str = crc.PLAIN
    checksum: str | None = None
    digest: str = ""
    found: dict[str, Any] = field(default_factory=dict)
    forced: bool = False
    sequencer: str | None = None
    report: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ranges": [list(each) for each in self.ranges]}

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        made = _made(cls, mapping)
        return replace(made, ranges=tuple((first, past) for first, past in made.ranges))

    def text(self, number: int) -> tuple[int, int]:
        """The part of the text, [from, to), in which the shard's records begin; it may be empty."""
        first, past = self.ranges[number]
        return self._clip(first), self._clip(past)

    def _clip(self, offset: int) -> int:
        return min(max(offset - self.mark, self.start), self.end)


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What came of one run of one shard. All values are such as JSON can carry.

    ``run``: which of all runs, and so whose part of the staging. ``known``: what it was told of its beginning;
    ``inside``: what it took its first byte for, None where it knew better. ``start``: where its first record begins,
    None where none was found; ``end``: where its right neighbour has to begin. ``lines``: physical lines between the
    two. ``parity``: of the quotes in its part of the text; ``crc``: of its range of the object. ``problem``: why it
    came to no end, by ``kind``: "limit" (of rejects), "widen" (an inferred type), "careful" (the database refused a
    record), "too long" (a record), "error".
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
    broken: bool = False
    problem: dict[str, Any] | None = None
    bytes_read: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        return _made(cls, mapping)


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
    ``wrong``: how many beginnings were guesses, and how many of these the proof found to be wrong.
    """

    proved: bool
    again: tuple[tuple[int, dict[str, Any] | None], ...] = ()
    waiting: tuple[int, ...] = ()
    parts: tuple[Part, ...] = ()
    problem: dict[str, Any] | None = None
    counts: dict[str, int] = field(default_factory=dict)
    guessed: int = 0
    wrong: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


SUMMED = ("records", "kept", "filtered", "short", "long", "rejected")


def cut(size: int, *, shards: int | None = None, length: int | None = None) -> tuple[tuple[int, int], ...]:
    """Ranges of nearly the same length that tile ``size`` bytes: so many, or of ``length`` bytes at most."""
    number = shards if shards is not None else -(-size // max(1, length or size))
    number = max(1, min(number, size))
    borders = [size * each // number for each in range(number + 1)]
    return tuple(pairwise(borders))


def prove(plan: ShardPlan, reports: Iterable[ShardReport]) -> Proof:
    """Judge the reports of all runs so far; any number of a shard, in any order.

    Raises SourceError where the bytes that were read are not those of S3's checksum.
    """
    by_number: dict[int, list[ShardReport]] = {number: [] for number in range(len(plan.ranges))}
    for each in sorted(reports, key=lambda report: report.run):
        if (each.load_id, each.attempt) == (plan.load_id, plan.attempt):
            by_number[each.number].append(each)
    chain = _Chain(plan)
    for number, runs in by_number.items():
        chain.add(number, runs)
    if chain.is_whole:
        _compare_checksums(plan, by_number)
    guesses = [each for runs in by_number.values() for each in runs if each.known is None and each.inside is not None]
    counts = {name: sum(getattr(run, name) for run in chain.runs) for name in SUMMED}
    return Proof(
        proved=chain.is_whole,
        again=tuple(chain.again),
        waiting=tuple(chain.waiting),
        parts=tuple(chain.parts),
        problem=chain.problem,
        counts=counts,
        guessed=len(guesses),
        wrong=sum(_is_wrong(guess, chain.starts.get(guess.number), plan.text(guess.number)[1]) for guess in guesses),
    )


def _is_wrong(guess: ShardReport, start: int | None, past: int) -> bool:
    """Whether a guess is known by now to be wrong; ``start`` is where the chain comes to its shard, if it does."""
    if start is None:
        return False
    return guess.start is not None if start >= past else guess.start != start


class _Chain:
    """Goes over the shards from the left. ``starts``: where each that was come to has to begin."""

    def __init__(self, plan: ShardPlan) -> None:
        self._plan = plan
        self._place: int | None = plan.start  # None: it is not known where the next one begins
        self._inside: bool | None = False if plan.counts_quotes else None  # at the next cut, by the parities
        self._record, self._line = 0, plan.line - 1
        self.starts: dict[int, int] = {}
        self.again: list[tuple[int, dict[str, Any] | None]] = []
        self.waiting: list[int] = []
        self.parts: list[Part] = []
        self.runs: list[ShardReport] = []
        self.problem: dict[str, Any] | None = None

    @property
    def is_whole(self) -> bool:
        return len(self.parts) == len(self._plan.ranges) and self._place == self._plan.end

    def add(self, number: int, runs: Sequence[ShardReport]) -> None:
        """The next shard's runs."""
        if self._place is None:
            self._add_unmet(number, runs)
        else:
            self.starts[number] = self._place
            self._add_met(number, self._place, runs)
        parities = {run.parity for run in runs if run.parity is not None}
        known = self._inside is not None and len(parities) == 1 and not any(run.broken for run in runs)
        self._inside = bool(self._inside) ^ bool(parities.pop()) if known else None

    def _add_met(self, number: int, place: int, runs: Sequence[ShardReport]) -> None:
        past = self._plan.text(number)[1]
        if place >= past:
            if any(run.crc is not None for run in runs):
                self.parts.append(Part(number, None, place, self._record, self._line))
            else:
                self._load_again(number, {"start": place})
            return
        met = [run for run in runs if run.start == place]
        ended = [run for run in met if run.problem is None and run.end is not None and run.end >= past]
        if ended:
            run = ended[-1]
            self.parts.append(Part(number, run.run, place, self._record, self._line))
            self.runs.append(run)
            self._record += run.records
            self._line += run.lines
            self._place = run.end
        elif met and met[-1].problem is not None:
            self.problem = {"number": number, "record": self._record, "line": self._line, **met[-1].problem}
            self._place = None
        else:
            self._load_again(number, {"start": place} if runs or place != self._plan.start else None)

    def _load_again(self, number: int, known: dict[str, Any] | None) -> None:
        self.again.append((number, known))
        self._place = None

    def _add_unmet(self, number: int, runs: Sequence[ShardReport]) -> None:
        """The chain does not reach it yet. What the parities tell is worth a run, but one only."""
        if not runs:
            self.again.append((number, None if self._inside is None else {"inside": self._inside}))
        elif self._inside is not None and not any(run.inside is self._inside or run.known for run in runs):
            self.again.append((number, {"inside": self._inside}))
        else:
            self.waiting.append(number)


def _compare_checksums(plan: ShardPlan, by_number: Mapping[int, Sequence[ShardReport]]) -> None:
    """All runs of a shard read the same bytes, and all shards together those that S3 has the checksum of."""
    parts = []
    for number, (first, past) in enumerate(plan.ranges):
        found = {run.crc for run in by_number[number] if run.crc is not None}
        if len(found) != 1:
            raise SourceError(f"{plan.uri}: shard {number} was read twice, and the bytes were not the same")
        parts.append((found.pop(), past - first))
    if plan.checksum is None:
        return
    whole = crc.combine(plan.algorithm, parts)
    if whole != crc.decoded(plan.checksum):
        raise SourceError(
            f"{plan.uri}: the bytes that were read have the {plan.algorithm} {whole:x}, and S3 says "
            f"{crc.decoded(plan.checksum):x}; nothing was loaded"
        )
