"""The floor: ``loader load`` of TPC-H lineitem against ``psql \\copy … csv`` of the same file.

    python -m bench.floor [--scale 1] [--rounds 3]

Both load the same local file into the same table definition on the same server, one after the other, in
interleaved rounds. Checked: the tables are equal row for row (their text output, by two 64-bit hashes summed
up), the loader's median wall time is under psql's, its peak resident memory is under 400 MB, and within 10 %
of that for a tenth of the file. Exits with 1 where one of these does not hold.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.rig import Server, fresh, lineitem, open_server, options, run_loader

PEAK_LIMIT = 400  # MB
PEAK_SPREAD = 0.10


def main() -> int:
    told = options(__doc__, scale=1.0)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-floor-")))
        server = stack.enter_context(open_server(folder))
        return _compare(server, lineitem(folder, told.scale), lineitem(folder, told.scale / 10), told.rounds)


def _run_psql(server: Server, file: Path, table: str) -> float:
    started = time.perf_counter()
    server.copy(table, file)
    return time.perf_counter() - started


def _compare(server: Server, file: Path, small: Path, rounds: int) -> int:
    print(f"{file.stat().st_size / 1e6:,.0f} MB, {rounds} interleaved rounds; seconds, and peak resident MB")
    psql, ours, peaks = [], [], []
    small_peak = run_loader(server, small, fresh(server, "small"))[1]
    for number in range(rounds):
        psql.append(_run_psql(server, file, fresh(server, "by_psql")))
        seconds, peak = run_loader(server, file, fresh(server, "by_loader"))
        ours.append(seconds)
        peaks.append(peak)
        print(f"  psql {psql[-1]:6.2f}   loader {ours[-1]:6.2f}   ratio {ours[-1] / psql[-1]:.2f}   peak {peak:.0f}")
        if number == 0 and server.digest("by_psql") != server.digest("by_loader"):
            print("FAILED: the tables differ")
            return 1
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, psql, strict=True))
    peak = statistics.median(peaks)
    checks = {
        "equal row for row": True,
        f"wall time {ratio:.2f} of psql's (under 1)": ratio < 1,
        f"peak {peak:.0f} MB (under {PEAK_LIMIT})": peak < PEAK_LIMIT,
        f"peak of a tenth of the file {small_peak:.0f} MB (within {PEAK_SPREAD:.0%})": abs(peak - small_peak)
        <= PEAK_SPREAD * peak,
    }
    for what, holds in checks.items():
        print(f"{'ok' if holds else 'FAILED'}: {what}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
