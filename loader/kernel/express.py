"""Blocks for the compiled lane: which columns it knows, and what it leaves to the other lanes.

A *program* says what the kernel does with each record; it is packed here and read in ``module.c``. The kernel converts
a text only where PostgreSQL surely reads it as the same value. It returns the records that it is not sure of by
their places, and `express.split` hands them on as a block of their own.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from string import Formatter
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from loader.columns import LoadColumn
from loader.fields import Dialect
from loader.records import Block
from loader.rising import Run

# enum Kind in express.h
(
    _SMALLINT, _INTEGER, _BIGINT, _NUMERIC, _REAL, _DOUBLE, _BOOLEAN, _DATE, _TIMESTAMP, _TIMESTAMPTZ, _TIME, _UUID,
    _BYTEA, _TEXT, _JSON, _JSONB, _ENUM,
) = range(17)  # fmt: skip

_STRICT, _REQUIRED, _UTC, _KEY, _BOUNDED, _FILLED = (1 << bit for bit in range(6))
_FROM_CONSTANT, _FROM_RECORD_NUMBER = -1, -2

_KINDS: dict[pa.DataType, int] = {
    pa.int16(): _SMALLINT,
    pa.int32(): _INTEGER,
    pa.int64(): _BIGINT,
    pa.float32(): _REAL,
    pa.float64(): _DOUBLE,
    pa.bool_(): _BOOLEAN,
    pa.date32(): _DATE,
    pa.timestamp("us"): _TIMESTAMP,
    pa.timestamp("us", "UTC"): _TIMESTAMPTZ,
    pa.time64("us"): _TIME,
    pa.string(): _TEXT,
}
_WIRES = {"numeric": _NUMERIC, "uuid": _UUID, "enum": _ENUM, "json": _JSON, "jsonb": _JSONB}

_UTC_NAMES = frozenset({"UTC", "Etc/UTC", "Etc/UCT", "UCT", "GMT", "Etc/GMT", "Zulu", "Etc/Zulu", "Etc/Universal"})
"""Zones in which a local time is UTC and always was (IANA time zone database, files ``etcetera`` and ``backward``)."""

_KEY_DIGITS = 18
"""Digits of a numeric key that fit the 64 bits in which the kernel compares keys."""

SUSPICION = 8
"""Blocks that skip the kernel after one of which it left most records to other lanes: two looks are slower than one."""


@dataclass(frozen=True, slots=True)
class Sure:
    """What the kernel made of a block: ``kept`` records as ``tuples`` of binary COPY, with the run of their keys.

    ``rest``: the records that it was not sure of, as a block whose records know where they come from; None where there
    are none.
    """

    tuples: bytes
    kept: int
    keys: Run | None
    rest: Block | None


class Express:
    """The compiled lane of one load. Safe to share between threads."""

    def __init__(
        self, kernel: ModuleType, columns: Sequence[_Column], fields: int, null: Sequence[str], *, with_position: bool
    ) -> None:
        self._kernel = kernel
        self._columns = columns
        self._fields = fields
        self._null = null
        self._with_position = with_position
        self._key = sorted(
            (each for each in columns if each.key_place is not None), key=lambda each: each.key_place or 0
        )
        self._programs: dict[tuple[int, int | None], Any] = {}
        self._growth = 1.25  # bytes of tuples per byte of text, of the block before
        self._suspicion = 0

    def take(self, block: Block) -> Sure | None:
        """What the kernel makes of ``block``; None where it is not for the kernel."""
        if not (block.terminated and block.dialect.is_plain):
            return None
        if self._suspicion > 0:
            self._suspicion -= 1
            return None
        expected = int(len(block.data) * self._growth)
        made = self._kernel.run(self._program(block.dialect), block.data, block.record, expected)
        tuples, records, kept, odd, rising, first, last = made
        if records != block.records:  # the splitter and the kernel differ: the splitter's word stands
            return None
        self._growth = len(tuples) / max(len(block.data), 1) * 1.03 + 0.01
        if not odd:
            return Sure(tuples, kept, self._run(first, last) if rising and self._key else None, None)
        places = np.frombuffer(odd, np.int64).reshape(-1, 3)
        if 2 * len(places) > block.records:
            self._suspicion = SUSPICION
        keys = self._run(first, last) if rising and self._key and kept else None
        return Sure(tuples, kept, keys, _picked(block, places))

    def _program(self, dialect: Dialect) -> Any:
        name = (dialect.delimiter[0], dialect.quote)
        program = self._programs.get(name)
        if program is None:
            program = self._programs[name] = self._kernel.compile(self._packed(dialect))
        return program

    def _packed(self, dialect: Dialect) -> bytes:
        head = struct.pack(
            "<BBBBIIII",
            dialect.delimiter[0],
            dialect.quote or 0,
            dialect.quote is not None,
            self._with_position,
            self._fields,
            len(self._columns),
            len(self._null),
            len(self._key),
        )
        return head + b"".join(
            [*(_text(each.encode()) for each in self._null), *(each.packed() for each in self._columns)]
        )

    def _run(self, first: bytes, last: bytes) -> Run:
        return Run(self._key_of(first), self._key_of(last))

    def _key_of(self, packed: bytes) -> tuple[Any, ...]:
        """The key as `rising` has it: numbers, times as counts since 1970."""
        numbers = struct.unpack(f"={len(self._key)}q", packed)
        return tuple(
            number if each.kind != _NUMERIC else Decimal(number).scaleb(-each.scale)
            for each, number in zip(self._key, numbers, strict=True)
        )


@dataclass(frozen=True, slots=True)
class _Column:
    """``struct Column`` in express.h."""

    kind: int
    flags: int
    field: int
    precision: int = 0
    scale: int = 0
    limit: int = 0
    key_place: int | None = None
    constant: bytes = b""
    labels: tuple[bytes, ...] = ()

    def packed(self) -> bytes:
        head = struct.pack(
            "<BBiiiII", self.kind, self.flags, self.field, self.precision, self.scale, self.limit, self.key_place or 0
        )
        labels = struct.pack("<I", len(self.labels)) + b"".join(map(_text, self.labels))
        return head + _text(self.constant) + labels


def _text(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


def express_lane(
    kernel: ModuleType | None,
    columns: Sequence[LoadColumn],
    fields: int,
    null: Sequence[str],
    constants: Mapping[str, str],
    *,
    key: Sequence[str],
    required: Sequence[str],
    with_position: bool,
) -> Express | None:
    """The compiled lane for ``columns``; None where the kernel is missing or one of the columns is not for it.

    ``key``: columns whose order is followed, as far as `LoadColumn.is_exact`. ``required``: columns that a NULL of
    makes a reject, beside those that are NOT NULL.
    """
    if kernel is None:
        return None
    followed = {name: place for place, name in enumerate(key)} if _can_follow(columns, key) else {}
    made = []
    for column in columns:
        each = _column(column, constants, key_place=followed.get(column.name), required=column.name in required)
        if each is None:
            return None
        made.append(each)
    return Express(kernel, made, fields, null, with_position=with_position)


def unknown_columns(columns: Sequence[LoadColumn], constants: Mapping[str, str]) -> list[str]:
    """Names of the ``columns`` that are not for the kernel: by their type, their steps, or how their value is made."""
    return [each.name for each in columns if _column(each, constants, key_place=None, required=False) is None]


def _can_follow(columns: Sequence[LoadColumn], key: Sequence[str]) -> bool:
    exact = {
        column.name
        for column in columns
        if column.is_exact
        and not (pa.types.is_decimal(column.type.arrow) and column.type.arrow.precision > _KEY_DIGITS)
    }
    return bool(key) and exact.issuperset(key)


def _column(
    column: LoadColumn, constants: Mapping[str, str], *, key_place: int | None, required: bool
) -> _Column | None:
    """The kernel's column, or None."""
    type_ = column.type
    kind = _KINDS.get(type_.arrow) if type_.wire == "arrow" else _WIRES.get(type_.wire)
    decimal = type_.wire == "arrow" and pa.types.is_decimal(type_.arrow)
    if decimal:
        kind = _NUMERIC
    elif type_.name == "bytea":
        kind = _BYTEA
    if kind is None or column.steps or column.format is not None or type_.text_only:
        return None
    field, constant = column.field, (column.default or "").encode()
    if column.value is not None:
        field, constant = _made(column.value, constants)
        if field is None:
            return None
    assert field is not None
    flags = (
        _STRICT * (column.pattern is not None)
        | _REQUIRED * (column.not_null or required)
        | _UTC * (column.zone in _UTC_NAMES and column.pattern is None)
        | _KEY * (key_place is not None)
        | _BOUNDED * (decimal or type_.max_length is not None)
        | _FILLED * (column.default is not None)
    )
    return _Column(
        kind=kind,
        flags=flags,
        field=field,
        precision=type_.arrow.precision if decimal else 0,
        scale=type_.arrow.scale if decimal else 0,
        limit=type_.max_length or 0,
        key_place=key_place,
        constant=constant,
        labels=tuple(label.encode() for label in type_.labels),
    )


def _made(value: str, constants: Mapping[str, str]) -> tuple[int | None, bytes]:
    """Where a ``value`` column's text comes from; None for a template that holds the record's number beside others."""
    pieces = list(Formatter().parse(value))
    if any(name == "record_number" for _, name, _, _ in pieces):
        return (_FROM_RECORD_NUMBER if value == "{record_number}" else None), b""
    text = "".join(literal + (constants[name] if name is not None else "") for literal, name, _, _ in pieces)
    return _FROM_CONSTANT, text.encode()


def _picked(block: Block, places: npt.NDArray[np.int64]) -> Block:
    """Records of ``block`` as a block of their own."""
    data = b"".join(block.data[start:end] + b"\n" for start, end in places[:, 1:].tolist())
    return replace(block, data=data, records=len(places), origin=(block, places[:, 0]), lines=None)
