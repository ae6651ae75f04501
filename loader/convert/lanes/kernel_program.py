"""Blocks for the compiled lane: which columns it knows, and what it leaves to the other lanes.

A *program* says what the kernel does with each record; it is packed here and read in ``module.c``. The kernel converts
a text only where PostgreSQL surely reads it as the same value. It returns the records that it is not sure of by
their places, and `express.split` hands them on as a block of their own.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from string import Formatter
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from loader.convert.lanes import kernel_zones as zone_tables
from loader.convert.lanes.kernel_steps import case_tables, packed_format, packed_steps, packed_text
from loader.core.pgtypes import Form
from loader.core.spec.datetimes import FIXED_ZONES, Zones, redefines_utc
from loader.core.spec.model import Step
from loader.postgres.load_column import LoadColumn
from loader.records.block import Block
from loader.records.dialect import Dialect
from loader.records.key_order import Run

# enum Kind in express.h
(
    _SMALLINT, _INTEGER, _BIGINT, _NUMERIC, _REAL, _DOUBLE, _BOOLEAN, _DATE, _TIMESTAMP, _TIMESTAMPTZ, _TIME, _UUID,
    _BYTEA, _TEXT, _JSON, _JSONB, _ENUM,
) = range(17)  # fmt: skip

_STRICT, _REQUIRED, _LOCAL, _KEY, _BOUNDED, _FILLED = (1 << bit for bit in range(6))
_FROM_CONSTANT, _FROM_RECORD_NUMBER = -1, -2

_KINDS: dict[Form, int] = {
    "int16": _SMALLINT,
    "int32": _INTEGER,
    "int64": _BIGINT,
    "float32": _REAL,
    "float64": _DOUBLE,
    "bool": _BOOLEAN,
    "date": _DATE,
    "timestamp": _TIMESTAMP,
    "timestamptz": _TIMESTAMPTZ,
    "time": _TIME,
    "decimal": _NUMERIC,
    "text": _TEXT,
}
_WIRES = {"numeric": _NUMERIC, "uuid": _UUID, "enum": _ENUM, "json": _JSON, "jsonb": _JSONB, "bytea": _BYTEA}

_KEY_DIGITS = 18
"""Digits of a numeric key that fit the 64 bits in which the kernel compares keys."""

SUSPICION = 8
"""Blocks that skip the kernel after one of which it left most records to other lanes: two looks are slower than one."""


_NO_WORK = (packed_steps(()) or b"") + packed_format(None)


@dataclass(frozen=True, slots=True)
class CompiledFilter:
    """``packed`` clauses; ``operands``: the columns that they look at."""

    packed: bytes
    operands: frozenset[str]


NO_FILTER = CompiledFilter(struct.pack("<I", 0), frozenset())


@dataclass(frozen=True, slots=True)
class Sure:
    """What the kernel made of a block: ``kept`` records as ``tuples`` of binary COPY, with the run of their keys, and
    how many others were ``filtered``.

    ``rest``: the records that it was not sure of, as a block whose records know where they come from; None where there
    are none.
    """

    tuples: bytes
    kept: int
    filtered: int
    keys: Run | None
    rest: Block | None


class Express:
    """The compiled lane of one load. Safe to share between threads: what they learn of zones, they may learn twice."""

    def __init__(
        self,
        kernel: ModuleType,
        columns: Sequence[_Column],
        fields: int,
        null: Sequence[str],
        *,
        filter: CompiledFilter,
        marks_filtered: bool,
        with_position: bool,
        zones: Zones = FIXED_ZONES,
        as_text: bool = False,
    ) -> None:
        self._kernel = kernel
        self._run_program = kernel.text if as_text else kernel.run
        self._columns = columns
        self._fields = fields
        self._null = null
        self._filter = filter
        self._marks_filtered = marks_filtered
        self._with_position = with_position
        self._key = sorted(
            (each for each in columns if each.key_place is not None), key=lambda each: each.key_place or 0
        )
        self._zones = zones
        self._zone_names = tuple(dict.fromkeys(each.zone for each in columns if each.zone is not None))
        self._years: frozenset[int] = frozenset()  # whose local times were met so far
        self._programs: dict[tuple[int, int | None, frozenset[int]], Any] = {}
        self._growth = 1.25  # bytes of tuples per byte of text, of the block before
        self._suspicion = 0

    def take(self, block: Block) -> Sure | None:
        """What the kernel makes of ``block``; None where it is not for the kernel."""
        if not (block.terminated and block.dialect.is_plain):
            return None
        if self._suspicion > 0:
            self._suspicion -= 1
            return None
        tuples, records, kept, filtered, odd, rising, first, last = self._made(block)
        if records != block.records:  # the splitter and the kernel differ: the splitter's word stands
            return None
        self._growth = len(tuples) / max(len(block.data), 1) * 1.03 + 0.01
        keys = (self._run(first, last) if kept else Run()) if rising and self._key else None
        if not odd:
            return Sure(tuples, kept, filtered, keys, None)
        places = np.frombuffer(odd, np.int64).reshape(-1, 3)
        if 2 * len(places) > block.records:
            self.give_way()
        return Sure(tuples, kept, filtered, keys, _picked(block, places))

    def give_way(self) -> None:
        """Leave the next blocks to the other lanes."""
        self._suspicion = SUSPICION

    def _made(self, block: Block) -> tuple[Any, ...]:
        """What the kernel returns, once its zones know the years of the block's local times."""
        expected = int(len(block.data) * self._growth)
        while True:
            known = self._years
            program = self._program(block.dialect, known)
            *made, years = self._run_program(program, block.data, block.record, expected)
            if years is None:
                return tuple(made)
            self._years |= zone_tables.met(years)

    def _program(self, dialect: Dialect, years: frozenset[int]) -> Any:
        name = (dialect.delimiter[0], dialect.quote, years)
        program = self._programs.get(name)
        if program is None:
            self._programs = {each: made for each, made in self._programs.items() if each[2] >= self._years}
            program = self._programs[name] = self._kernel.compile(self._packed(dialect, years))
        return program

    def _packed(self, dialect: Dialect, years: frozenset[int]) -> bytes:
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
        return b"".join(
            [
                head,
                *(packed_text(each.encode()) for each in self._null),
                zone_tables.packed(self._zone_names, years, self._zones),
                *(each.packed(self._zone_names) for each in self._columns),
                bytes((self._marks_filtered,)),
                *map(packed_text, case_tables({step.name for each in self._columns for step in each.steps})),
                *(each.work for each in self._columns),
                self._filter.packed,
            ]
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
    zone: str | None = None
    steps: tuple[Step, ...] = ()
    work: bytes = b""  # its steps, its format, and whether the filter looks at it

    def packed(self, zones: Sequence[str]) -> bytes:
        """``zones``: of the program; a column's is told by its place among them."""
        limit = self.limit if self.zone is None else zones.index(self.zone)
        head = struct.pack(
            "<BBiiiII", self.kind, self.flags, self.field, self.precision, self.scale, limit, self.key_place or 0
        )
        labels = struct.pack("<I", len(self.labels)) + b"".join(map(packed_text, self.labels))
        return head + packed_text(self.constant) + labels


def express_lane(
    kernel: ModuleType | None,
    columns: Sequence[LoadColumn],
    fields: int,
    null: Sequence[str],
    constants: Mapping[str, str],
    *,
    key: Sequence[str],
    required: Sequence[str],
    open: Container[str] = (),
    filter: CompiledFilter | None = NO_FILTER,
    with_position: bool,
    zones: Zones = FIXED_ZONES,
) -> Express | None:
    """The compiled lane for ``columns``; None where there is no kernel, or a column or the filter is not for it.

    ``key``: columns whose order is followed, as far as `LoadColumn.is_exact`. ``required``: columns that a NULL of
    makes a reject, beside those that are NOT NULL. ``zones``: where their local times are. ``open``: columns whose
    texts are put into the tuples as they are, for another lane to make values of; records that the filter leaves out
    are then put there as well, and marked.
    """
    if kernel is None or filter is None:
        return None
    known = [column for column in columns if column.name not in open]
    followed = {name: place for place, name in enumerate(key)} if _can_follow(known, key) else {}
    made = []
    for column in columns:
        if column.name in open:
            each = _open(column)
        else:
            each = _column(column, constants, key_place=followed.get(column.name), required=column.name in required)
        if each is None:
            return None
        made.append(replace(each, work=each.work + bytes((column.name in filter.operands,))))
    marks_filtered = len(known) < len(columns)
    return Express(
        kernel,
        made,
        fields,
        null,
        filter=filter,
        marks_filtered=marks_filtered,
        with_position=with_position,
        zones=zones,
    )


def is_known(column: LoadColumn, constants: Mapping[str, str]) -> bool:
    """Whether the kernel can make the column's values."""
    return _column(column, constants, key_place=None, required=False) is not None


def _open(column: LoadColumn) -> _Column | None:
    if column.field is None:
        return None
    return _Column(kind=_TEXT, flags=0, field=column.field, work=_NO_WORK)


def text_lane(
    kernel: ModuleType | None,
    columns: Sequence[LoadColumn],
    fields: int,
    null: Sequence[str],
    constants: Mapping[str, str],
    *,
    quote: str,
    required: Sequence[str],
    with_position: bool,
) -> Express | None:
    """The lane that makes records of a CSV (``text.c``), whose ``quote`` is the file's; None as for `express_lane`.

    Of the texts that mean ``null`` it writes the shortest.
    """
    if kernel is None:
        return None
    made = []
    for column in columns:
        field, constant = column.field, column.default
        if column.value is not None:
            field, text = _made(column.value, constants)
            constant = text.decode()
        if field is None:
            return None
        needed = _REQUIRED * (column.not_null or column.name in required) | _FILLED * (column.default is not None)
        doubled = (constant or "").replace(quote, quote * 2)
        made.append(
            _Column(
                kind=_TEXT,
                flags=needed,
                field=field,
                constant=f"{quote}{doubled}{quote}".encode(),
                work=_NO_WORK + bytes(1),
            )
        )
    return Express(
        kernel,
        made,
        fields,
        sorted(null, key=len),
        filter=NO_FILTER,
        marks_filtered=False,
        with_position=with_position,
        as_text=True,
    )


def unknown_columns(columns: Sequence[LoadColumn], constants: Mapping[str, str]) -> list[str]:
    """Names of the ``columns`` that are not for the kernel: by their type, their steps, or how their value is made."""
    return [each.name for each in columns if not is_known(each, constants)]


def _can_follow(columns: Sequence[LoadColumn], key: Sequence[str]) -> bool:
    exact = {column.name for column in columns if column.is_exact and column.type.precision <= _KEY_DIGITS}
    return bool(key) and exact.issuperset(key)


def _column(
    column: LoadColumn, constants: Mapping[str, str], *, key_place: int | None, required: bool
) -> _Column | None:
    """The kernel's column, or None."""
    type_ = column.type
    kind = _KINDS[type_.form] if type_.wire == "arrow" else _WIRES.get(type_.wire)
    work = _work(column)
    if kind is None or work is None or (kind == _TIMESTAMPTZ and redefines_utc(column.zone)):
        return None
    field, constant = column.field, (column.default or "").encode()
    if column.value is not None:
        field, constant = _made(column.value, constants)
        if field is None:
            return None
    assert field is not None
    zone = column.zone if kind == _TIMESTAMPTZ and column.pattern is None else None
    flags = (
        _STRICT * (column.pattern is not None)
        | _REQUIRED * (column.not_null or required)
        | _LOCAL * (zone is not None)
        | _KEY * (key_place is not None)
        | _BOUNDED * (type_.form == "decimal" or type_.max_length is not None)
        | _FILLED * (column.default is not None)
    )
    return _Column(
        kind=kind,
        flags=flags,
        field=field,
        precision=type_.precision,
        scale=type_.scale,
        limit=type_.max_length or 0,
        key_place=key_place,
        constant=constant,
        labels=tuple(label.encode() for label in type_.labels),
        zone=zone,
        steps=column.steps,
        work=work,
    )


def _work(column: LoadColumn) -> bytes | None:
    """The column's steps and format; None where they are not for the kernel."""
    if column.pattern is not None and (column.steps or column.format):
        return None
    local = column.format is not None and column.type.form == "timestamptz" and "z" not in column.format.names
    if local and not zone_tables.is_utc(column.zone):
        return None
    steps = packed_steps(column.steps) if column.value is None or not column.steps else None
    return None if steps is None else steps + packed_format(column.format)


def _made(value: str, constants: Mapping[str, str]) -> tuple[int | None, bytes]:
    """Where a ``value`` column's text comes from; None for a template that holds the record's number beside others."""
    pieces = list(Formatter().parse(value))
    if any(name == "record_number" for _, name, _, _ in pieces):
        return (_FROM_RECORD_NUMBER if value == "{record_number}" else None), b""
    text = "".join(literal + (constants[name] if name is not None else "") for literal, name, _, _ in pieces)
    return _FROM_CONSTANT, text.encode()


def _picked(block: Block, places: npt.NDArray[np.int64]) -> Block:
    """Records of ``block`` as a block of their own, given by where each is, begins and ends."""
    data = b"".join(block.data[start:end] + b"\n" for start, end in places[:, 1:].tolist())
    return replace(block, data=data, records=len(places), origin=(block, places[:, 0]), lines=None)
