"""Look for values for which a law does not hold, for as long as told: ``python tests/fuzz_laws.py SECONDS``.

A law says that two ways to the same thing give the same: a load and COPY, for example. `LAWS` lists them all; each is
checked on each server, and on a database whose encoding is not UTF-8, for the same time. What is printed at the end are
the values that were compared. The first that breaks a law is printed with its seed, by which the round can be repeated
(``--law NAME --server NAME --seed N``); the exit code is then 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

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


def run(names: list[str], servers: list[str], seconds: float, seed: int) -> int:
    """Check each law on each server, in turn, for ``seconds`` in all; the exit code."""
    compared: Counter[str] = Counter()
    rounds: Counter[str] = Counter()
    with ExitStack() as stack:
        running = {}
        for name in servers:
            try:
                running[name] = stack.enter_context(open_server(name))
            except pytest.skip.Exception as reason:
                print(f"{name}: {reason}", file=sys.stderr)
        until = time.monotonic() + seconds
        while True:
            for server, dsn in running.items():
                for law in names:
                    if time.monotonic() > until:
                        return tell(compared, rounds)
                    try:
                        compared[f"{law} on {server}"] += LAWS[law](random.Random(seed), dsn)
                    except Exception as error:
                        print(f"--law {law} --server {server} --seed {seed}: {type(error).__name__}: {error}")
                        tell(compared, rounds)
                        return 1
                    rounds[f"{law} on {server}"] += 1
            seed += 1
            print(f"{compared.total():,} values equal", file=sys.stderr)


def tell(compared: Counter[str], rounds: Counter[str]) -> int:
    for name, count in sorted(compared.items()):
        print(f"{count:>12,} values in {rounds[name]:,} rounds: {name}")
    print(f"{compared.total():,} values compared by laws; none different but what is named above")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float, nargs="?", default=60)
    parser.add_argument("--law", action="append", choices=list(LAWS), help="only this one; may be repeated")
    parser.add_argument("--server", action="append", help=f"instead of {', '.join(SERVERS)}; may be repeated")
    parser.add_argument("--seed", type=int, default=None, help="of the first round")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    return run(options.law or list(LAWS), options.server or list(SERVERS), options.seconds, seed)


if __name__ == "__main__":
    sys.exit(main())
