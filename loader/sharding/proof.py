"""The proof that the shards of an object, together, are the object.

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
from dataclasses import asdict
from typing import Any

from loader.core.errors import LoaderError
from loader.records.key_order import rise_together
from loader.records.swallowed_lines import NONE_SWALLOWED, Swallowed
from loader.sharding.messages import Known, Part, Proof, ShardPlan, ShardReport, cut
from loader.sources import crc
from loader.sources.checksums import corrupted, differing

__all__ = ["Known", "Part", "Proof", "ShardPlan", "ShardReport", "cut", "prove"]

LASTING = ("changed", "failed")
"""Kinds of problems that a shard has wherever it begins: to load it again would lead to the same."""

SUMMED = ("records", "kept", "filtered", "short", "long", "rejected")


def prove(plan: ShardPlan, reports: Iterable[ShardReport]) -> Proof:
    """Judge the reports of all runs so far; any number of a shard, in any order.

    Raises SourceCorruptedError where the bytes that were read are not those of S3's checksum, or two runs of a shard
    that began alike found different things: then no report is worth anything. LoaderError where records are missing in
    one."""
    by_number: dict[int, list[ShardReport]] = {number: [] for number in range(len(plan.ranges))}
    once = {each.run: each for each in reports}
    for _, each in sorted(once.items()):
        if (each.load_id, each.attempt) == (plan.load_id, plan.attempt):
            by_number[each.number].append(each)
    chain = _Chain(plan)
    for number, runs in by_number.items():
        chain.add(number, runs)
    if chain.is_whole:
        _compare_checksums(plan, by_number)
        for run in chain.runs:
            _compare_tails(plan, by_number, run)
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
        swallowed=asdict(chain.swallowed) if chain.swallowed.records else None,
        rising=rise_together(run.keys for run in chain.runs),
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
        self.swallowed = NONE_SWALLOWED
        self.problem: dict[str, Any] | None = None

    @property
    def is_whole(self) -> bool:
        return len(self.parts) == len(self._plan.ranges) and self._place == self._plan.end

    def add(self, number: int, runs: Sequence[ShardReport]) -> None:
        """The next shard's runs."""
        lasting = next((run.problem for run in runs if run.problem and run.problem["kind"] in LASTING), None)
        if lasting is not None:
            self.problem = self.problem or self._placed(number, lasting)
            self._place = None
        elif self._place is None:
            self._add_unmet(number, runs)
        else:
            self.starts[number] = self._place
            self._add_met(number, self._place, runs)
        parities = {run.parity for run in runs if run.parity is not None}
        # what is given up takes its quotes along; but so it may seem to a run whose guess was wrong
        broken = any(run.broken for run in runs if run.inside in (None, self._inside))
        known = self._inside is not None and len(parities) == 1 and not broken
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
            self._check(number, ended)
            self.parts.append(Part(number, run.run, place, self._record, self._line))
            self.runs.append(run)
            self.swallowed += Swallowed(**(run.swallowed or {})).moved(self._line)
            self._record += run.records
            self._line += run.lines
            self._place = run.end
        elif met and met[-1].problem is not None:
            self.problem = self._placed(number, met[-1].problem)
            self._place = None
        else:
            self._load_again(number, {"start": place} if runs or place != self._plan.start else None)

    def _placed(self, number: int, problem: Mapping[str, Any]) -> dict[str, Any]:
        return {**problem, "number": number, "record": self._record, "line": self._line}

    def _check(self, number: int, runs: Sequence[ShardReport]) -> None:
        """Of runs that began alike, and right."""
        if len({(run.end, run.records, run.lines) for run in runs}) > 1:
            raise corrupted(self._plan.uri, f"shard {number} was read twice, and not the same was found")
        for run in runs:
            if run.records != run.kept + run.filtered + run.rejected:
                raise LoaderError(
                    f"{self._plan.uri}: the {run.records:,} records of shard {number} do not add up: {run.kept:,} "
                    f"kept, {run.filtered:,} filtered, {run.rejected:,} rejected; this is a defect of the loader"
                )

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
            raise corrupted(plan.uri, f"shard {number} was read twice, and the bytes were not the same")
        parts.append((found.pop(), past - first))
    if plan.checksum is None:
        return
    whole = crc.combine(plan.algorithm, parts)
    expected = crc.decoded(plan.checksum)
    if whole != expected:
        size = crc.SIZES[plan.algorithm]
        raise differing(plan.uri, plan.algorithm.upper(), *(each.to_bytes(size, "big") for each in (expected, whole)))


def _compare_tails(plan: ShardPlan, by_number: Mapping[int, Sequence[ShardReport]], run: ShardReport) -> None:
    """What a run read past its range is what its right neighbours read: theirs is compared with S3's checksum."""
    at, end = plan.ranges[run.number][1], (run.end or 0) + plan.mark
    if run.tail is None or end <= at:
        return
    parts: list[tuple[int, int]] = []
    for number in range(run.number + 1, len(plan.ranges)):
        first, past = plan.ranges[number]
        if first >= end:
            break
        runs = [each for each in by_number[number] if each.crc is not None]
        if end < past:
            runs = [each for each in runs if plan.lead_end(number, each.start) == end]
        sums = {each.crc if end >= past else each.lead for each in runs} - {None}
        if not sums:  # of a version that does not say
            return
        parts.append((sums.pop() or 0, min(past, end) - first))
    if crc.combine(plan.algorithm, parts) != run.tail:
        raise corrupted(plan.uri, f"what shard {run.number} and its neighbour both read was not the same")
