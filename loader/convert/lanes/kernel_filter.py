"""A spec's ``filter`` as the kernel reads it, where it is comparisons of columns with constants: see ``filter.h``."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from loader.convert.lanes.kernel_program import NO_FILTER, CompiledFilter
from loader.convert.lanes.kernel_steps import packed_text
from loader.core.pgtypes import ColumnType
from loader.core.spec.datetimes import FIXED_ZONES, Zones
from loader.core.spec.filter import (
    Column,
    Comparison,
    Constant,
    In,
    IsNull,
    Junction,
    Node,
    Not,
    Number,
    Text,
    is_stored_otherwise,
    moment_beside,
    parse,
)
from loader.postgres.load_column import LoadColumn

# enum ClauseKind in filter.h
_WITHIN, _WITHIN_FLOATS, _BESIDE_TEXT, _IS_NULL, _TRUTH, _NOT, _AND, _OR = range(8)
_FALSE, _TRUE, _UNKNOWN = range(3)

CLAUSES = 64
"""Comparisons that are made one after the other for each record: with more, such as a long list, Arrow is faster."""

DIGITS = 18
"""Digits of a numeric that fit the 64 bits in which the kernel compares."""

_LEAST, _MOST = -(1 << 63), (1 << 63) - 1
_SINCE_1970 = {"date": 10_957, "timestamp": 946_684_800_000_000, "timestamptz": 946_684_800_000_000, "time": 0}
"""What PostgreSQL's days and microseconds since 2000 are less."""

_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_BELOW, _EQUAL, _ABOVE = 1, 2, 4
_SIDES = {"=": _EQUAL, "<>": _BELOW | _ABOVE, "<": _BELOW, "<=": _BELOW | _EQUAL, ">": _ABOVE, ">=": _ABOVE | _EQUAL}


class _NotForTheKernel(Exception):  # noqa: N818 - it is no error: another lane does it
    pass


EVERYTHING = CompiledFilter(struct.pack("<IBBIqqI", 1, _TRUTH, 0, 0, _TRUE, 0, 0), frozenset())
"""Keeps all records, and leaves those with what no filter can be shown, such as infinity, to the other lanes."""


def compile_filter(
    text: str | None, columns: Sequence[LoadColumn], *, zone: str, zones: Zones = FIXED_ZONES
) -> CompiledFilter | None:
    """The condition ``text``, which fits ``columns``; None where it is not for the kernel.

    ``zone``, ``zones``: see `loader.core.spec.filter.Condition.bind`.
    """
    if text is None:
        return NO_FILTER
    condition = parse(text)
    names = condition.columns
    order = [column for column in columns if column.name in names]
    try:
        clauses = _Compiler(order, zone, zones).clauses(condition.root)
    except _NotForTheKernel:
        return None
    if len(clauses) > CLAUSES:
        return None
    return CompiledFilter(struct.pack("<I", len(clauses)) + b"".join(clauses), names)


def _clause(
    kind: int, operand: int = 0, low: int = 0, high: int = 0, text: bytes = b"", *, negated: bool = False
) -> bytes:
    return struct.pack("<BBIqq", kind, negated, operand, low, high) + packed_text(text)


class _Compiler:
    """Makes clauses in postfix order. ``columns``: those of the condition, in the order of the load's."""

    def __init__(self, columns: Sequence[LoadColumn], zone: str, zones: Zones) -> None:
        self._columns = columns
        self._places = {column.name: place for place, column in enumerate(columns)}
        self._zone = zone
        self._zones = zones

    def clauses(self, node: Node) -> list[bytes]:
        match node:
            case Junction():
                return self._junction(_AND if node.word == "and" else _OR, node.operands)
            case Not():
                return [*self.clauses(node.operand), _clause(_NOT)]
            case IsNull(negated=True):
                return [*self.clauses(IsNull(node.value)), _clause(_NOT)]
            case In(value=Column() as column):
                return self._in(column, node.items)
        return [self._test(node)]

    def _test(self, node: Node) -> bytes:
        match node:
            case IsNull(value=Column() as column):
                return _clause(_IS_NULL, self._operand(column)[0])
            case Constant():
                return _clause(_TRUTH, low=_UNKNOWN if node.value is None else _TRUE if node.value else _FALSE)
            case Column():
                return self._compared(node, "=", Constant(True))
            case Comparison(left=Column() as column):
                return self._compared(column, node.operator, node.right)
            case Comparison(right=Column() as column):
                return self._compared(column, _TURNED.get(node.operator, node.operator), node.left)
        raise _NotForTheKernel

    def _junction(self, word: int, operands: Sequence[Node]) -> list[bytes]:
        first, *rest = operands
        return self.clauses(first) + [clause for each in rest for clause in (*self.clauses(each), _clause(word))]

    def _in(self, column: Column, items: Sequence[Node]) -> list[bytes]:
        if self._operand(column)[1].type.form == "float32" and len(items) > 1:  # they are rounded to its type
            raise _NotForTheKernel
        return self._junction(_OR, [Comparison("=", column, item) for item in items])

    def _operand(self, column: Column) -> tuple[int, LoadColumn]:
        place = self._places[column.name]
        found = self._columns[place]
        if found.type.wire not in ("arrow", "enum", "json") or found.type.precision > DIGITS:
            raise _NotForTheKernel
        if is_stored_otherwise(found.type):
            raise _NotForTheKernel
        return place, found

    def _compared(self, column: Column, operator: str, constant: Node) -> bytes:
        place, found = self._operand(column)
        form = found.type.form
        match constant:
            case Constant(value=None):
                return _clause(_TRUTH, low=_UNKNOWN)
            case Constant(value=bool() as truth):
                return _within(place, operator, Decimal(truth))
            case Number() if form in ("float32", "float64"):
                return _within_floats(place, operator, float(constant.value))
            case Number():
                return _within(place, operator, _scaled(constant.value, found.type.scale))
            case Text() if found.type.wire == "enum" and operator not in ("=", "<>"):
                raise _NotForTheKernel
            case Text() if form == "text":
                return _clause(_BESIDE_TEXT, place, _SIDES[operator], text=constant.value.encode())
            case Text():
                return _within(place, operator, Decimal(self._moment(constant, found.type)))
        raise _NotForTheKernel

    def _moment(self, text: Text, type_: ColumnType) -> int:
        return moment_beside(text, type_.arrow, zone=self._zone, zones=self._zones) - _SINCE_1970[type_.form]


def _scaled(value: Decimal, scale: int) -> Decimal:
    """``value`` in units of the last of ``scale`` digits, exactly."""
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)  # the grammar has no infinity
    return Decimal((sign, digits, exponent + scale))


def _within(place: int, operator: str, value: Decimal) -> bytes:
    """Whole numbers compared with ``value``, as those between two bounds."""
    if value.adjusted() > 30:  # beyond all of them, so that no power of it has to be computed
        value = Decimal((value.is_signed(), (1,), 30))
    floor, ceiling = (int(value.to_integral_value(rounding)) for rounding in (ROUND_FLOOR, ROUND_CEILING))
    low, high = {
        "=": (ceiling, floor),
        "<>": (ceiling, floor),
        "<": (_LEAST, ceiling - 1),
        "<=": (_LEAST, floor),
        ">": (floor + 1, _MOST),
        ">=": (ceiling, _MOST),
    }[operator]
    low, high = (low, high) if max(low, _LEAST) <= min(high, _MOST) else (1, 0)
    return _clause(_WITHIN, place, max(low, _LEAST), min(high, _MOST), negated=operator == "<>")


def _within_floats(place: int, operator: str, value: float) -> bytes:
    if not math.isfinite(value):
        raise _NotForTheKernel
    low, high = {
        "=": (value, value),
        "<>": (value, value),
        "<": (-math.inf, math.nextafter(value, -math.inf)),
        "<=": (-math.inf, value),
        ">": (math.nextafter(value, math.inf), math.inf),
        ">=": (value, math.inf),
    }[operator]
    bits = struct.unpack("<2q", struct.pack("<2d", low, high))
    return _clause(_WITHIN_FLOATS, place, *bits, negated=operator == "<>")
