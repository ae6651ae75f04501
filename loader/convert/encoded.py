"""What became of the records of one block: COPY's bytes, rejects and counts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from loader.postgres.copy_forms import Lines
from loader.records.block import Block
from loader.records.key_order import Run
from loader.records.rejects import Rejects
from loader.records.swallowed_lines import NONE_SWALLOWED, Swallowed


@dataclass(frozen=True)
class Encoded:
    """What became of one block: ``kept`` records as the tuples of binary COPY, the others rejected or filtered.

    ``keys``: of the records that were kept; None where they do not rise, or nobody looked. ``swallowed``: what stray
    quotes have made values of. ``lines``: the kept records as text instead, with no ``tuples`` then.
    """

    block: Block
    tuples: bytes
    kept: int
    rejects: Rejects
    filtered: int
    short: int = 0
    long: int = 0
    keys: Run | None = None
    swallowed: Swallowed = NONE_SWALLOWED
    lines: Lines | None = None

    @property
    def sent(self) -> bytes:
        """What COPY is given."""
        return self.tuples if self.lines is None else self.lines.data

    def after(self, tuples: bytes, kept: int, keys: Run | None, block: Block, *, filtered: int = 0) -> Encoded:
        """With the tuples of ``kept`` other records of ``block`` before these, which were picked from it, and so many
        that were ``filtered``."""
        return replace(
            self,
            block=block,
            tuples=tuples + self.tuples if self.tuples else tuples,
            kept=kept + self.kept,
            filtered=filtered + self.filtered,
            keys=None if self.kept else keys,
        )
