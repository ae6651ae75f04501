"""Files made fast: some thousand seeded records, written over and over until there are enough."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random

BLOCK = 8 << 20
"""Bytes of the distinct records at most: more than the processor's caches hold, so that no contender profits from
records that come again."""

Record = Callable[[Random], str]


def tiled(name: str, header: str, record: Record) -> Callable[[Path, int], Path]:
    """What makes the file ``name`` of so many rows in a folder. ``record``: one record, with its line end."""

    def make(folder: Path, rows: int) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        block = _distinct(record, rows)
        path = folder / f"{name}.csv"
        with path.open("wb") as file:
            file.write(f"{header}\n".encode())
            whole, rest = divmod(rows, len(block))
            text = b"".join(block)
            for _ in range(whole):
                file.write(text)
            file.writelines(islice(block, rest))
        return path

    return make


def _distinct(record: Record, rows: int) -> list[bytes]:
    """Up to ``rows`` records, and no more than a block's bytes; at least one."""
    chance, block, size = Random(13), [], 0
    while len(block) < max(rows, 1) and size < BLOCK:
        block.append(record(chance).encode())
        size += len(block[-1])
    return block
