"""What a load tells: `LoadReport`, and `Reject` for each record that was set aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

State = Literal["loaded", "skipped", "failed"]

ROW_COUNTS = (
    "rows_inserted",
    "rows_updated",
    "rows_unchanged",
    "rows_duplicate",
    "rows_filtered",
    "rows_rejected",
)

REASONS: dict[str, str] = {
    "too_few_fields": "the record has fewer fields than the header has columns",
    "too_many_fields": "the record has more fields than the header has columns",
    "unbalanced_quote": "a quote out of place makes one record of several lines; they were given up, line by line",
    "nul_byte": "PostgreSQL's text cannot hold the byte 0",
    "invalid_encoding": "the bytes are not valid in the file's encoding",
    "invalid_value": "the text is not a value of the column's type",
    "value_too_long": "the text is longer than the column's type allows",
    "null_value": "the column is NOT NULL and the record has no value for it",
    "null_key": "a key column is NULL: there is nothing to merge by",
}
"""Reason codes of rejects, and what they mean. Codes are stable: scripts may rely on them."""


@dataclass(frozen=True, slots=True)
class Reject:
    """One record that was set aside, and why.

    ``record`` counts from 1 at the first record after the header; ``line`` counts physical lines from 1 at
    the top of the file; ``offset`` is the first byte of the record, from 0, in the file's text after
    decompression and transcoding to UTF-8. ``raw`` is the record as it stood in the file, without its line
    end.
    """

    record: int
    line: int
    offset: int
    column: str | None
    reason: str
    message: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The outcome of a load. ``rows_read`` is always the sum of the six counts that follow it."""

    state: State
    source: str
    table: str
    mode: str
    load_id: int | None = None
    version: str | None = None
    rows_read: int = 0
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_unchanged: int = 0
    rows_duplicate: int = 0
    rows_filtered: int = 0
    rows_rejected: int = 0
    bytes_read: int = 0
    seconds: float = 0.0
    rejects_by_reason: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: str | None = None
    retryable: bool = False
    loads: tuple[LoadReport, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values that JSON can carry. ``loads`` is there only for several sources."""
        mapping = asdict(replace(self, loads=()))
        mapping["notes"] = list(self.notes)
        del mapping["loads"]
        if self.loads:
            mapping["loads"] = [each.to_dict() for each in self.loads]
        return mapping

    @classmethod
    def combine(cls, reports: Sequence[LoadReport]) -> LoadReport:
        """One report over several sources: counts added up, the worst state, each report in ``loads``."""
        if len(reports) == 1:
            return reports[0]
        summed = {f.name for f in fields(cls) if f.name.startswith("rows_")} | {"bytes_read", "seconds"}
        totals: dict[str, Any] = {name: sum(getattr(each, name) for each in reports) for name in summed}
        states = {each.state for each in reports}
        reasons: dict[str, int] = {}
        for each in reports:
            for code, count in each.rejects_by_reason.items():
                reasons[code] = reasons.get(code, 0) + count
        return cls(
            state="failed" if "failed" in states else "loaded" if "loaded" in states else "skipped",
            source=f"{len(reports)} sources",
            table=", ".join(dict.fromkeys(each.table for each in reports)),
            mode=", ".join(dict.fromkeys(each.mode for each in reports)),
            rejects_by_reason=reasons,
            error=next((each.error for each in reports if each.error), None),
            retryable=any(each.retryable for each in reports),
            loads=tuple(reports),
            **totals,
        )
