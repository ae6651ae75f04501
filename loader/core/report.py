"""What a load tells: `LoadReport`, and `Reject` for each record that was set aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

from loader.core.display import printable

State = Literal["loaded", "skipped", "failed"]

ROW_COUNTS = (
    "rows_inserted",
    "rows_updated",
    "rows_unchanged",
    "rows_duplicate",
    "rows_filtered",
    "rows_rejected",
)

Kind = Literal["shape", "conversion", "target"]


class Reason(NamedTuple):
    """Why records are rejected. ``kind`` tells whose fault it is: "shape", the file is broken there;
    "conversion", a value is none of its column's type; "target", the table's constraints refuse the record."""

    kind: Kind
    meaning: str


REASONS: dict[str, Reason] = {
    "too_few_fields": Reason("shape", "it has fewer fields than the file has columns"),
    "too_many_fields": Reason("shape", "it has more fields than the file has columns"),
    "unbalanced_quote": Reason(
        "shape", "a quote out of place makes one record of several lines; they were given up, line by line"
    ),
    "nul_byte": Reason("shape", "it holds the byte 0, which PostgreSQL's text cannot"),
    "invalid_encoding": Reason("shape", "its bytes are not valid in the file's encoding"),
    "invalid_value": Reason("conversion", "a text is not a value of its column's type"),
    "value_too_long": Reason("conversion", "a text is longer than its column's type allows"),
    "out_of_range": Reason("conversion", "a number, date or time is beyond what its column's type holds"),
    "unrepresentable": Reason(
        "conversion", "the database's encoding lacks a character, or a hook cannot be shown a value"
    ),
    "null_value": Reason("target", "a NOT NULL column has no value"),
    "null_key": Reason("target", "a key column has no value, so there is nothing to merge by"),
    "check_violation": Reason(
        "target", "a CHECK constraint of the table or of a domain is violated, or a trigger says so"
    ),
    "unique_violation": Reason("target", "a unique constraint or index has its values already"),
    "foreign_key_violation": Reason("target", "it refers to a row that is not there"),
    "exclusion_violation": Reason("target", "an exclusion constraint is violated"),
    "no_partition": Reason("target", "no partition of the table takes it"),
    "refused": Reason("target", "PostgreSQL refused it for another reason, such as a trigger's: see the message"),
}
"""The codes of rejects. They are stable: scripts may rely on them. docs/reference/rejects.md has the same table."""


_REASON_OF_STATE = {
    "22001": "value_too_long",
    "22003": "out_of_range",
    "22008": "out_of_range",
    "22021": "invalid_encoding",
    "22P05": "unrepresentable",
    "23502": "null_value",
    "23503": "foreign_key_violation",
    "23505": "unique_violation",
    "23514": "check_violation",
    "23P01": "exclusion_violation",
}


def reason_of(sqlstate: str, *, of_text: bool = False) -> str:
    """The reason code for a refusal of PostgreSQL's, by its SQLSTATE (manual, appendix A).

    A data exception (class 22) of no code of its own is an invalid value, and so is whatever an input function
    says ``of_text``: that of tsquery calls it a syntax error, that of regclass an undefined table.
    """
    return _REASON_OF_STATE.get(sqlstate, "invalid_value" if of_text or sqlstate.startswith("22") else "refused")


@dataclass(frozen=True, slots=True)
class Reject:
    """One record that was set aside, and why.

    ``record`` counts from 1 at the first record after the header; ``line`` counts physical lines from 1 at
    the top of the file; ``offset`` is the first byte of the record, from 0, in the file's text after
    decompression and transcoding to UTF-8. ``raw`` is the record in UTF-8, with bytes that could not be decoded
    as they stood in the file, without its line end, cut at `block.RAW_LIMIT` bytes; ``raw_length`` is the
    length in bytes of the same before it was cut. ``reason`` is a key
    of `REASONS`, ``sqlstate`` the code of PostgreSQL's refusal where it was PostgreSQL that refused (manual,
    appendix A).
    """

    record: int
    line: int
    offset: int
    column: str | None
    reason: str
    message: str
    raw: bytes
    raw_length: int
    sqlstate: str | None = None


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The outcome of a load. ``rows_read`` is always the sum of the six counts that follow it.

    ``rejects_by_reason`` counts rejects by code, ``rejects_by_column`` by column and code where one column is to
    blame. Of a load that failed, they are what was counted until it stopped: amid the file, where it went over a limit.
    ``rejects_entered``: how many of them ``loader.rejects`` holds. ``replay_of``: the load whose rejects these records
    were.

    ``bytes_read`` and ``seconds`` are those of this attempt. Of all attempts at the load together: ``attempts``,
    how many of them ``handovers`` (stopped because their time was up) and how many ``resumes`` (took up at a
    checkpoint), and seconds ``waited`` for the table's turn. ``plan``: by which way the rows got into the table, and
    why. ``superseded_by``: the load of a newer version, where that is why this one was skipped.
    """

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
    rejects_by_column: dict[str, dict[str, int]] = field(default_factory=dict)
    rejects_entered: int = 0
    replay_of: int | None = None
    attempts: int = 1
    handovers: int = 0
    resumes: int = 0
    waited: float = 0.0
    plan: str | None = None
    notes: tuple[str, ...] = ()
    error: str | None = None
    retryable: bool = False
    superseded_by: int | None = None
    loads: tuple[LoadReport, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", tuple(map(printable, self.notes)))
        object.__setattr__(self, "error", self.error and printable(self.error, lines=True))

    @classmethod
    def failed(cls, source: str, table: str, mode: str, error: Exception, **more: Any) -> LoadReport:
        """Of a load that ``error`` has ended, or kept from beginning. ``more``: whatever else is known of it."""
        retryable = getattr(error, "retryable", False)
        return cls("failed", source, table, mode, error=str(error), retryable=retryable, **more)

    @property
    def adds_up(self) -> bool:
        """Whether the six counts make up the records that were read, and none of them is negative."""
        counts: list[int] = [getattr(self, name) for name in ROW_COUNTS]
        return min(counts) >= 0 and self.rows_read == sum(counts)

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
        summed = {f.name for f in fields(cls) if f.name.startswith("rows_")}
        summed |= {"bytes_read", "seconds", "rejects_entered"}
        totals: dict[str, Any] = {name: sum(getattr(each, name) for each in reports) for name in summed}
        states = {each.state for each in reports}
        columns = dict.fromkeys(name for each in reports for name in each.rejects_by_column)
        return cls(
            state="failed" if "failed" in states else "loaded" if "loaded" in states else "skipped",
            source=f"{len(reports)} sources",
            table=", ".join(dict.fromkeys(each.table for each in reports)),
            mode=", ".join(dict.fromkeys(each.mode for each in reports)),
            rejects_by_reason=_added_up(each.rejects_by_reason for each in reports),
            rejects_by_column={
                name: _added_up(each.rejects_by_column.get(name, {}) for each in reports) for name in columns
            },
            error=next((each.error for each in reports if each.error), None),
            retryable=any(each.retryable for each in reports),
            loads=tuple(reports),
            **totals,
        )


def _added_up(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def summarize_rejects(
    by_reason: Mapping[str, int], by_column: Mapping[str, Mapping[str, int]], *, lines: int = 5
) -> list[str]:
    """What was rejected, in at most ``lines`` lines for people, the most frequent reason first.

    ``12 invalid_value (conversion): fare 10, id 2``, and in the last line how much is left unsaid.
    """
    codes = sorted(by_reason, key=lambda code: -by_reason[code])
    shown = codes if len(codes) <= lines else codes[: lines - 1]
    told = [_reason_line(code, by_reason[code], by_column) for code in shown]
    if rest := codes[len(shown) :]:
        told.append(f"{sum(by_reason[code] for code in rest):,} for {len(rest)} other reasons")
    return told


_COLUMNS_SHOWN = 4


def _reason_line(code: str, count: int, by_column: Mapping[str, Mapping[str, int]]) -> str:
    counts = {name: codes[code] for name, codes in by_column.items() if code in codes}
    blamed = sorted(counts.items(), key=lambda each: -each[1])
    names = [f"{name} {count:,}" for name, count in blamed[:_COLUMNS_SHOWN]]
    if len(blamed) > _COLUMNS_SHOWN:
        names.append(f"{len(blamed) - _COLUMNS_SHOWN} other columns")
    kind = f" ({REASONS[code].kind})" if code in REASONS else ""
    return f"{count:,} {code}{kind}" + (f": {', '.join(names)}" if names else "")
