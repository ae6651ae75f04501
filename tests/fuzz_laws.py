"""Look for what breaks two laws, for as long as told: ``python tests/fuzz_laws.py SECONDS``.

Zones: the client puts local times in any of the server's zones as the server does. Filters: a load with a filter keeps
what ``WHERE`` keeps of a load without it.

A counterexample is printed, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings
from support.filters import Case, FilterLaw, cases
from support.postgres import open_server, run_alone
from support.zones import ZoneLaw

ROUND = 50


def fuzz_zones(dsn: str, until: float, number: int) -> int:
    """How many times were compared. Raises AssertionError."""
    law, compared = ZoneLaw(dsn, seed=number), 0
    while time.monotonic() < until:
        zone = law.chance.choice(law.names)
        times = law.times(zone, 2_000)
        law.check(zone, times)
        compared += len(times)
    law.close()
    return compared


def fuzz_filters(dsn: str, until: float, number: int) -> int:
    """How many records were compared. Raises AssertionError."""
    with tempfile.TemporaryDirectory() as folder:
        law = FilterLaw(dsn, Path(folder))
        while time.monotonic() < until:
            number += 1

            @seed(number)
            @settings(max_examples=ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(cases())
            def check(case: Case) -> None:
                law.check(case)

            check()
        law.close()
        return law.compared


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float, nargs="?", default=600)
    parser.add_argument("--server", default="embedded-18", help="embedded-18, embedded-17 or system-15")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    number = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    laws: dict[str, Callable[[str, float, int], int]] = {"times": fuzz_zones, "records": fuzz_filters}
    with open_server(options.server) as server:
        run_alone(server, "CREATE DATABASE laws")
        for what, law in laws.items():
            dsn = server.replace("/postgres?", "/laws?")
            try:
                compared = law(dsn, time.monotonic() + options.seconds / len(laws), number)
            except AssertionError as error:
                print(f"seed {number}: {error}")
                return 1
            print(f"{compared:,} {what} compared", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
