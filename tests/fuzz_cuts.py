"""Cut files made up at random, at places at random, for as long as told: ``python tests/fuzz_cuts.py SECONDS``.

Each file is loaded once as its shards guess, and once with every guess forced to be wrong; both must give what one
reader finds, and the proof must find every wrong guess. A counterexample is made smaller and printed as a `Case`; the
exit code is then 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import dataclass

from support.cutting import Case, at_random, check, shrunk

EVERY = 30.0
"""Seconds between two lines that say how far it is."""


@dataclass
class Tally:
    files: int = 0
    cuts: int = 0
    runs: int = 0
    guessed: int = 0
    missed: int = 0  # guesses that were wrong of themselves
    forced: int = 0
    wrong: int = 0  # those that were forced, and others in the same loads
    found: int = 0
    most_rounds: int = 0
    failed: int = 0  # files whose own error was found, in its place

    def add(self, case: Case, seed: int) -> None:
        self.files += 1
        for wrongly in (False, True):
            loaded = check(case, wrongly=wrongly, seed=seed)
            self.cuts += len(case.borders)
            self.runs += len(loaded.reports)
            self.most_rounds = max(self.most_rounds, loaded.rounds)
            self.failed += loaded.error is not None
            if loaded.error is not None:
                continue
            if wrongly:
                self.forced += len(loaded.forced)
                self.wrong += loaded.wrong
                self.found += loaded.proof.wrong
            else:
                self.guessed += loaded.proof.guessed
                self.missed += loaded.proof.wrong

    def __str__(self) -> str:
        return (
            f"{self.files:,} files, {self.cuts:,} cuts, {self.runs:,} runs of shards; {self.guessed:,} guesses, "
            f"{self.missed:,} of them wrong; {self.forced:,} forced to be wrong, {self.wrong:,} wrong with others, "
            f"{self.found:,} found; "
            f"{self.failed:,} loads failed as they must; {self.most_rounds} rounds at most"
        )


def fails(case: Case, seed: int) -> str | None:
    try:
        for wrongly in (False, True):
            check(case, wrongly=wrongly, seed=seed)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _counterexample(case: Case, seed: int, kind: str) -> str:
    small = shrunk(case, lambda each: (fails(each, seed) or "").startswith(kind))
    return f"# {fails(small, seed)}\n{small!r}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float, nargs="?", default=600)
    parser.add_argument("--seed", type=int, default=None, help="of the first file; the next one's is one more")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**48) if options.seed is None else options.seed
    tally, began = Tally(), time.monotonic()
    print(f"cuts from seed {seed} on", file=sys.stderr, flush=True)
    told = began
    while (now := time.monotonic()) - began < options.seconds:
        case = at_random(seed)
        try:
            tally.add(case, seed)
        except Exception as error:
            print(f"cuts, seed {seed}: {type(error).__name__}: {error}\n{tally}", file=sys.stderr)
            print(_counterexample(case, seed, type(error).__name__))
            return 1
        seed += 1
        if now - told > EVERY:
            told = now
            print(tally, file=sys.stderr, flush=True)
    print(f"up to seed {seed - 1}: {tally}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
