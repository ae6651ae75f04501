"""Look for values for which a law does not hold: ``python tests/fuzz_laws.py SECONDS``, or ``--values N``.

A law says that two ways to the same thing give the same: a load and COPY, for example. `LAWS` lists them all; each is
checked on each server, and on a database whose encoding is not UTF-8, the same number of times. What is printed at the
end are the values that were compared. The first that breaks a law is printed with its seed, by which the round can be
repeated (``--law NAME --server NAME --seed N``); the exit code is then 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from math import inf
from multiprocessing import get_context

import pytest
from support import filters, type_law, zones
from support.laws import Law
from support.postgres import open_server

LAWS: Mapping[str, Law] = {
    "types": type_law.check,
    "types-latin1": partial(type_law.check, encoding="LATIN1"),
    "filters": filters.check,
    "zones": zones.check,
}

SERVERS = ("embedded-18", "embedded-17", "system-15")


@dataclass(frozen=True)
class Search:
    """What is checked, from which ``seed`` on, and for how long: until so many ``seconds`` or ``values`` are over."""

    laws: Sequence[str]
    servers: Sequence[str]
    seed: int
    seconds: float
    values: int

    def shares(self, count: int) -> list[Search]:
        """Of so many processes, each with seeds of its own."""
        return [
            replace(self, seed=self.seed + number * 1_000_000, values=self.values // count) for number in range(count)
        ]


@dataclass
class Found:
    """By law and server: the values that were ``compared``, and in how many ``rounds``. ``broken``: the first law."""

    compared: Counter[str] = field(default_factory=Counter)
    rounds: Counter[str] = field(default_factory=Counter)
    broken: str | None = None


def look(search: Search) -> Found:
    """Check each law on each server, in turn."""
    found, until, seed = Found(), time.monotonic() + search.seconds, search.seed
    with ExitStack() as stack:
        running = {}
        for name in search.servers:
            try:
                running[name] = stack.enter_context(open_server(name))
            except pytest.skip.Exception as reason:
                print(f"{name}: {reason}", file=sys.stderr)
        while time.monotonic() < until and found.compared.total() < search.values:
            for server, law in product(running, search.laws):
                try:
                    found.compared[f"{law} on {server}"] += LAWS[law](random.Random(seed), running[server])
                except Exception as error:
                    found.broken = f"--law {law} --server {server} --seed {seed}: {type(error).__name__}: {error}"
                    return found
                found.rounds[f"{law} on {server}"] += 1
            seed += 1
            print(f"{found.compared.total():,} values equal", file=sys.stderr)
    return found


def tell(found: Sequence[Found]) -> int:
    """The exit code."""
    compared = sum((each.compared for each in found), Counter[str]())
    rounds = sum((each.rounds for each in found), Counter[str]())
    broken = [each.broken for each in found if each.broken is not None]
    print(*broken, sep="\n", end="\n" if broken else "")
    for name, count in sorted(compared.items()):
        print(f"{count:>12,} values in {rounds[name]:,} rounds: {name}")
    print(f"{compared.total():,} values compared by laws; none different but what is named above")
    return 1 if broken else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float, nargs="?", default=None)
    parser.add_argument("--values", type=int, help="stop when so many were compared")
    parser.add_argument("--law", action="append", choices=list(LAWS), help="only this one; may be repeated")
    parser.add_argument("--server", action="append", help=f"instead of {', '.join(SERVERS)}; may be repeated")
    parser.add_argument("--seed", type=int, default=None, help="of the first round")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with servers of its own")
    options = parser.parse_args()
    search = Search(
        laws=options.law or list(LAWS),
        servers=options.server or list(SERVERS),
        seed=options.seed if options.seed is not None else random.SystemRandom().randrange(2**31),
        seconds=options.seconds or (60 if options.values is None else inf),
        values=options.values or sys.maxsize,
    )
    if options.jobs == 1:
        return tell([look(search)])
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        return tell(list(pool.map(look, search.shares(options.jobs))))


if __name__ == "__main__":
    sys.exit(main())
