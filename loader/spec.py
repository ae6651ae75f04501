"""`LoadSpec`: everything a load is told, validated whole before anything is read, then frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["append", "replace", "merge"]


@dataclass(frozen=True, slots=True)
class CsvSpec:
    """``[csv]``: the dialect. Defaults are RFC 4180 as PostgreSQL's ``COPY … (FORMAT csv)`` reads it."""

    delimiter: str = ","
    quote: str = '"'  # "" for none
    escape: str = '"'  # the quote itself (doubled), or a character such as a backslash
    header: bool = True
    skip_lines: int = 0
    encoding: str = "utf-8"
    compression: Literal["auto", "none", "gzip", "zstd", "bz2"] = "auto"
    null: tuple[str, ...] = ("",)
    ragged: Literal["reject", "pad"] = "reject"


@dataclass(frozen=True, slots=True)
class RejectSpec:
    """``[rejects]``: above either limit the load fails and changes nothing."""

    max_rows: int = 1000
    max_ratio: float = 0.01


@dataclass(frozen=True, slots=True)
class Step:
    """One link of a column's ``transform`` chain: its name and its arguments.

    ``Step("strip")``, ``Step("null_if", ("-", "n/a"))``, ``Step("replace", ("a", "b"))``,
    ``Step("map", (("Y", "true"), ("N", "false")))``.
    """

    name: str
    args: tuple[str | tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """``[columns]``: one target column.

    ``type`` is PostgreSQL's name of the type, or None where the target's catalog is to say. ``source`` is
    the header's name for it (``from``), by default the column's own.
    """

    name: str
    type: str | None = None
    source: str | None = None
    format: str | None = None
    timezone: str | None = None
    transform: tuple[Step, ...] = ()
    default: str | None = None
    value: str | None = None


@dataclass(frozen=True, slots=True)
class TransformSpec:
    """``[transform]``: over whole records. ``filter`` is the text of a condition, ``python`` names a hook."""

    filter: str | None = None
    python: str | None = None


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """Everything a load is told. Make one with `from_toml` or `from_dict`; both check it whole."""

    table: str
    source: str | None = None
    mode: Mode = "append"
    key: tuple[str, ...] = ()
    csv: CsvSpec = field(default_factory=CsvSpec)
    rejects: RejectSpec = field(default_factory=RejectSpec)
    columns: tuple[ColumnSpec, ...] = ()
    transform: TransformSpec = field(default_factory=TransformSpec)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, object], *, origin: str = "spec") -> LoadSpec:
        raise NotImplementedError

    @classmethod
    def from_toml(cls, path: str) -> LoadSpec:
        raise NotImplementedError
