"""Speed unspoilt: lineitem with odd values that PostgreSQL takes, and Arrow does not, against the clean file.

    python -m bench.odd [--scale 0.3] [--rounds 3]

Odd are dates in words, numbers with an exponent or one decimal too many, in turn. One file has one in every MiB
(the size of a block), one has one in every hundred records; each is also tried with values that PostgreSQL
refuses. All are loaded into the same table definition, in interleaved rounds. Exits with 1 where the rate is
under 0.8 of the clean file's for one in a block, or under half for one in a hundred.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

from bench.rig import fresh, lineitem, open_server, options, run_loader

TAKEN = ((10, b"Mar 13 1996"), (4, b"1.7e1"), (7, b"0.021"), (12, b"22 March 1996"))
REFUSED = ((10, b"1996-02-30"), (4, b"a lot"), (0, b"#REF!"), (12, b"soon"))
"""Columns, from 0, and what takes the place of their value."""

MIB = 1 << 20
FLOORS = {"one in a block": 0.8, "one in a hundred": 0.5}


def main() -> int:
    told = options(__doc__, scale=0.3)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-odd-")))
        server = stack.enter_context(open_server(folder))
        clean = lineitem(folder, told.scale)
        files = {"clean": clean}
        for name, values in (("taken", TAKEN), ("refused", REFUSED)):
            files[f"one in a block, {name}"] = _spoilt(clean, folder / f"block-{name}.csv", values, _once_a_block())
            files[f"one in a hundred, {name}"] = _spoilt(clean, folder / f"row-{name}.csv", values, _once_a_hundred())
        spec = folder / "spec.toml"
        spec.write_text('table = "lineitem"\n[rejects]\nmax_rows = 10000000\nmax_ratio = 1.0\n')
        seconds: dict[str, list[float]] = {name: [] for name in files}
        for _ in range(told.rounds):
            for name, file in files.items():
                taken = run_loader(server, file, fresh(server, "lineitem"), "--spec", str(spec))[0]
                seconds[name].append(taken)
        return _judge(seconds)


def _once_a_block() -> Callable[[int, int], bool]:
    reached = 0

    def due(_record: int, offset: int) -> bool:
        nonlocal reached
        if offset < reached:
            return False
        reached = offset + MIB
        return True

    return due


def _once_a_hundred() -> Callable[[int, int], bool]:
    return lambda record, _offset: record % 100 == 50


def _spoilt(clean: Path, target: Path, values: tuple[tuple[int, bytes], ...], due: Callable[[int, int], bool]) -> Path:
    """The clean file with one odd value in each record for which ``due`` (record, byte offset) says so."""
    turns = cycle(values)
    with clean.open("rb") as source, target.open("wb") as made:
        offset = made.write(next(source))
        for record, line in enumerate(source):
            written = line
            if due(record, offset):
                place, value = next(turns)
                fields = line.split(b",")
                fields[place] = value
                written = b",".join(fields)
            offset += made.write(written)
    return target


def _judge(seconds: dict[str, list[float]]) -> int:
    failed = False
    for name, taken in seconds.items():
        rate = statistics.median(clean / odd for clean, odd in zip(seconds["clean"], taken, strict=True))
        floor = FLOORS.get(name.split(",")[0], 0.0)
        failed |= rate < floor
        rounds = " ".join(f"{each:6.2f}" for each in taken)
        print(f"{name:26} {rounds} s   rate {rate:.2f} of the clean file's{f' (at least {floor})' if floor else ''}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
