r"""What checkpoints cost: TPC-H lineitem appended straight, and by way of segments of several sizes.

    python -m bench.segments [--scale 0.5] [--rounds 3]

Seconds of one ``loader load`` process, and the ratio to ``psql \copy`` of the same file in the same round; medians of
interleaved rounds. The straight way has no checkpoints: it begins again from the first byte after a fault.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.rig import Server, fresh, lineitem, open_server, options, run_loader

SEGMENTS = {"straight": 1 << 20, "256 MiB": 256, "64 MiB": 64, "16 MiB": 16, "4 MiB": 4}


def main() -> int:
    told = options(__doc__, scale=0.5)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-segments-")))
        server = stack.enter_context(open_server(folder))
        file = lineitem(folder, told.scale)
        ratios: dict[str, list[float]] = {name: [] for name in SEGMENTS}
        for _ in range(told.rounds):
            started = time.perf_counter()
            server.copy(fresh(server, "by_psql"), file)
            psql = time.perf_counter() - started
            for name, size in SEGMENTS.items():
                seconds = _run(server, folder, file, size)
                ratios[name].append(seconds / psql)
                print(f"  psql {psql:6.2f}   {name:>8} {seconds:6.2f}   ratio {seconds / psql:.2f}", flush=True)
    for name, each in ratios.items():
        print(f"{name:>8}: {statistics.median(each):.2f} of psql's time")
    return 0


def _run(server: Server, folder: Path, file: Path, size: int) -> float:
    spec = folder / "spec.toml"
    spec.write_text(f'table = "by_loader"\nsegment_mb = {size}\n', "utf-8")
    return run_loader(server, file, fresh(server, "by_loader"), "--spec", str(spec))[0]


if __name__ == "__main__":
    sys.exit(main())
