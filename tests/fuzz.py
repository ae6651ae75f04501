"""Look for files that the loader and COPY read differently, for as long as told: ``python tests/fuzz.py SECONDS``.

Each file is loaded with the kernel and without it, and with hooks that change nothing: the rows and the rejects have to
be the same.

A counterexample is made as small as it can be and printed as a case of tests/corpus/; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from hypothesis import HealthCheck, given, seed, settings
from support.differential import KNOWN_TO_KERNEL, Arena, Example, arena, check, check_hooked, examples
from support.identity import HOOKS
from support.postgres import open_server

from loader.kernel import compiled

ROUND = 100


def fuzz(place: Arena, seconds: float) -> str | None:
    """The counterexample, as a case of the corpus; None where none was found."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        number = random.SystemRandom().randrange(2**63)
        if (found := _round(place, number)) is not None:
            print(f"seed {number}", file=sys.stderr)
            return found
        told = f"{place.records:,} records compared, {place.taken:,} of them taken"
        print(f"{told}; {place.by_kernel:,} files by the kernel", file=sys.stderr)
    return None


def _round(place: Arena, number: int) -> str | None:
    last: list[tuple[Example, str]] = []

    @seed(number)
    @given(example=examples(place.values) | examples(place.values, types=KNOWN_TO_KERNEL))
    @settings(max_examples=ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def compare(example: Example) -> None:
        try:
            loaded, copied = place.compare(example)
            check(loaded, copied)
            for hook in HOOKS:
                check_hooked(*place.with_hook_and_without(example, hook))
            if compiled.COMPILED:
                with_kernel, without = place.with_kernel_and_without(example)
                assert with_kernel == without, (with_kernel, without)
        except Exception as error:
            last.append((example, f"{type(error).__name__}: {error}"))
            raise

    try:
        compare()
    except Exception:
        example, message = last[-1]
        shown = "".join(f"# {line}\n" for line in message.splitlines()[:1])
        return shown + place.as_case(example)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float, nargs="?", default=600)
    parser.add_argument("--server", default="embedded-18", help="embedded-18, embedded-16 or system-15")
    parser.add_argument("--encoding", default="UTF8", help="of the database, such as LATIN1")
    options = parser.parse_args()
    with open_server(options.server) as server, arena(server, options.encoding) as place:
        found = fuzz(place, options.seconds)
    if found is not None:
        print(found)
    return found is not None


if __name__ == "__main__":
    sys.exit(main())
