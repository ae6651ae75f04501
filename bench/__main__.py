"""The loader against everything that does its job today, in one run on one server: see README.md.

Every round runs each contender once, one after the other, so that what disturbs one disturbs the others too; figures
are medians, ratios are made round by round.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

from bench import parts, report
from bench.options import Options, parse
from bench.ownfile import measure_own
from bench.suite import run_parts


def main() -> int:
    told = parse()
    if told.publish:
        publish(told, parts.kept(told.build))
    elif told.own is not None:
        measure_own(told, told.own)
    else:
        _run(told)
    return 0


def _run(told: Options) -> None:
    """Run the parts. All of the suite is kept and published; of less, the page goes to the build folder."""
    found: dict[str, Any] = {}
    for name, part in run_parts(told):
        found[parts.key(name, part)] = part
        if told.keep or told.full:
            parts.keep(told.build, parts.key(name, part), part)
    if told.full:
        publish(told, found)
    else:
        page = report.write(parts.composed(found), told.build, told.build)
        print(f"a part of the suite: {page}; what is published stays as it is", flush=True)


def publish(told: Options, found: dict[str, Any]) -> None:
    """Write the page and its results. Raises RefusedError where the parts do not belong together."""
    parts.check(found, incomplete=told.incomplete)
    print(f"published: {report.write(parts.composed(found), told.results, told.docs)}", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was made is removed
    sys.exit(main())
