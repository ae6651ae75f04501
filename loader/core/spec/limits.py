"""What a file may cost: bytes of its text and records, by the spec and by the deployment, of which the lower one holds.

A few bytes of gzip may hold a terabyte of text, so the text is counted as it comes out, before anything else sees it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from loader.core.errors import LimitError, UsageError
from loader.core.spec.bounds import read_size
from loader.core.spec.model import LoadSpec

MAX_BYTES, MAX_ROWS = "LOADER_MAX_BYTES", "LOADER_MAX_ROWS"
"""The deployment's own limits, in its environment; none where they are not set."""


@dataclass(frozen=True, slots=True)
class Limit:
    """``most`` of something; ``raised_by``: what has to be changed for more."""

    most: int
    raised_by: str

    @classmethod
    def lower(cls, name: str, of_spec: int, variable: str) -> Self:
        told = os.environ.get(variable)
        if not told:
            return cls(of_spec, f"{name} in the [limits] of the spec")
        try:
            most = read_size(told)
        except ValueError as error:
            raise UsageError(f"${variable} {error}: {told[:60]!r}") from None
        return cls(most, f"${variable}") if most < of_spec else cls(of_spec, f"{name} in the [limits] of the spec")


@dataclass(frozen=True, slots=True)
class Limits:
    """``size``: bytes of text, after decompression and in UTF-8. ``rows``: records of the file."""

    size: Limit
    rows: Limit

    @classmethod
    def of(cls, spec: LoadSpec) -> Self:
        """Those of the spec, or of the deployment where that has lower ones. Raises UsageError."""
        limits = spec.limits
        return cls(
            Limit.lower("max_bytes", limits.max_bytes, MAX_BYTES), Limit.lower("max_rows", limits.max_rows, MAX_ROWS)
        )

    def check_size(self, size: int, name: str) -> None:
        """Raises LimitError where the text of the object ``name`` has more bytes than it may."""
        if size > self.size.most:
            raise _over(name, f"its text is longer than {self.size.most:,} bytes", self.size)

    def check_rows(self, rows: int, name: str) -> None:
        """Raises LimitError where the object ``name`` has more records than it may."""
        if rows > self.rows.most:
            raise _over(name, f"it has more than {self.rows.most:,} records", self.rows)

    def watch(self, text: Iterator[bytes], name: str, *, start: int = 0) -> Iterator[bytes]:
        """The text, which begins at byte ``start`` of the whole. Raises LimitError where it goes on too long."""
        size = start
        for chunk in text:
            size += len(chunk)
            self.check_size(size, name)
            yield chunk


def _over(name: str, what: str, limit: Limit) -> LimitError:
    return LimitError(f"{name}: {what}, the limit; nothing was loaded; to load it, raise {limit.raised_by}")
