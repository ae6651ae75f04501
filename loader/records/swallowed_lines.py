"""How much of a file stray quotes have made values of, see `stray_quotes`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, slots=True)
class Swallowed:
    """So many ``records`` run over ``lines`` lines that look like records of their own; ``first``: the physical line
    (from 1) on which the first of them begins, 0 where there are none."""

    records: int = 0
    lines: int = 0
    first: int = 0

    def __add__(self, other: Swallowed) -> Swallowed:
        return Swallowed(self.records + other.records, self.lines + other.lines, self.first or other.first)

    def moved(self, lines: int) -> Self:
        """The same where so many lines come before."""
        return replace(self, first=self.first + lines) if self.records else self

    def notes(self) -> tuple[str, ...]:
        """What a reader of the report should know."""
        if not self.records:
            return ()
        return (
            f"{self.records:,} records run over {self.lines:,} lines that look like records of their own, the first of "
            f"them from line {self.first:,} on; COPY reads them so too, but a quote may be out of place",
        )


NONE_SWALLOWED = Swallowed()
