"""A spec's ``filter`` as SQL over a table of the load's columns: the same condition, for PostgreSQL to apply.

It is written anew from the parsed tree: words and operators are this module's own, names are those of the lane's table,
and texts are quoted literals. What `loader.core.spec.filter` says of the language holds here as well: text is compared
by ``COLLATE "C"``, arithmetic on exact numbers never overflows, and what is divided by zero is NULL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from psycopg2 import sql

from loader.core.pgtypes import ColumnType, plain_type
from loader.core.spec.filter import (
    Arithmetic,
    Column,
    Comparison,
    Constant,
    In,
    IsNull,
    Junction,
    Like,
    Negative,
    Node,
    Not,
    Number,
    Text,
)

Kind = Literal["whole", "exact", "real", "double", "null", "other"]
"""What a node is to arithmetic: a whole number, another exact one, a floating one, NULL, or no number."""

_COLLATED = ("text", "character varying", "character", "bpchar", "name")

_UNKNOWN = sql.SQL("NULL::boolean")


@dataclass(frozen=True, slots=True)
class Operand:
    """A column of the table that the condition is written over."""

    name: sql.Identifier
    type: ColumnType


def lane_name(place: int) -> sql.Identifier:
    """The name of a column of the text lane's table, by its place among the load's."""
    return sql.Identifier(f"c{place}")


def where(root: Node, columns: Mapping[str, Operand]) -> sql.Composable:
    """The condition over ``columns``, which has all that it names.

    Raises ValueError, in one sentence, where arithmetic is given what is no number to it.
    """
    return _Writer(columns).write(root)


class _Writer:
    def __init__(self, columns: Mapping[str, Operand]) -> None:
        self._columns = columns

    def write(self, node: Node) -> sql.Composable:
        match node:
            case Column():
                return self._column(node)
            case Number() | Text() | Constant():
                return _literal(node)
            case Negative():
                return self._negative(node)
            case Arithmetic():
                return self._arithmetic(node)
        return self._condition(node)

    def _condition(self, node: Node) -> sql.Composable:
        match node:
            case Comparison():
                return self._compare(node)
            case In():
                return self._in(node)
            case Like():
                return self._like(node)
            case IsNull():
                test = "({} IS NOT NULL)" if node.negated else "({} IS NULL)"
                return sql.SQL(test).format(self.write(node.value))
            case Not():
                return sql.SQL("(NOT {})").format(self.write(node.operand))
            case Junction():
                word = sql.SQL(f" {node.word.upper()} ")
                return sql.SQL("({})").format(word.join([self.write(operand) for operand in node.operands]))
        raise AssertionError(f"no rule writes {type(node).__name__}")

    # columns and texts

    def _column(self, node: Column) -> sql.Composable:
        operand = self._columns[node.name]
        kind = operand.type.base_name
        if kind == "json":  # which has no operators: it is the text that it is stored as
            return sql.SQL('({}::text COLLATE "C")').format(operand.name)
        if kind.removesuffix("[]").partition("(")[0] in _COLLATED:  # an array's texts are compared by its collation
            return sql.SQL('({} COLLATE "C")').format(operand.name)
        return operand.name

    def _like(self, node: Like) -> sql.Composable:
        if self._kind(node.value) == "null":
            return _UNKNOWN
        return sql.SQL("({} LIKE {})").format(self._beside(node.value), sql.Literal(node.pattern))

    # comparison

    def _compare(self, node: Comparison) -> sql.Composable:
        if "null" in (self._kind(node.left), self._kind(node.right)):
            return _UNKNOWN
        left = self._beside(node.left, node.right)
        return sql.SQL("({} {} {})").format(left, sql.SQL(node.operator), self.write(node.right))

    def _in(self, node: In) -> sql.Composable:
        if self._kind(node.value) == "null":
            return _UNKNOWN
        items = [sql.SQL("NULL") if self._kind(item) == "null" else self.write(item) for item in node.items]
        value = self._beside(node.value, *node.items)
        return sql.SQL("({} IN ({}))").format(value, sql.SQL(", ").join(items))

    def _beside(self, node: Node, *others: Node) -> sql.Composable:
        """A literal among literals is a text of the language's own order."""
        if isinstance(node, Text) and all(isinstance(other, Text) or self._kind(other) == "null" for other in others):
            return sql.SQL('({}::text COLLATE "C")').format(self.write(node))
        return self.write(node)

    # arithmetic

    def _kind(self, node: Node) -> Kind:
        match node:
            case Number():
                return "whole" if node.whole else "exact"
            case Constant(value=None):
                return "null"
            case Column():
                return number_kind(self._columns[node.name].type)
            case Negative():
                return self._kind(node.operand)
            case Arithmetic():
                kind = self._kind(node.first)
                for _, operand in node.rest:
                    kind = _joined(kind, self._kind(operand))
                return kind
        return "other"

    def _negative(self, node: Negative) -> sql.Composable:
        kind = self._kind(node.operand)
        if kind == "null":
            return _UNKNOWN
        return sql.SQL("(- {})").format(self._number(node.operand, kind))

    def _arithmetic(self, node: Arithmetic) -> sql.Composable:
        if self._kind(node) == "null":
            return _UNKNOWN
        kind = self._kind(node.first)
        made = self._number(node.first, kind)
        for sign, operand in node.rest:
            right = self._kind(operand)
            made = _operation(sign, made, kind, self._number(operand, right), right)
            kind = _joined(kind, right)
        return made

    def _number(self, node: Node, kind: Kind) -> sql.Composable:
        """An operand: an exact number as ``numeric``, so that no integer overflows."""
        if kind == "other":
            raise ValueError(f"{node} is no number, and arithmetic takes numbers")
        if kind in ("whole", "exact") and not isinstance(node, Negative | Arithmetic):
            return sql.SQL("{}::numeric").format(self.write(node))
        return self.write(node)


def _literal(node: Number | Text | Constant) -> sql.Composable:
    if isinstance(node, Number):
        return sql.SQL("({})").format(sql.SQL(str(node.value)))
    if isinstance(node, Text):
        return sql.Literal(node.value)
    return _UNKNOWN if node.value is None else sql.SQL(str(node.value))


def number_kind(type_: ColumnType) -> Kind:
    """What values of the type are to arithmetic."""
    form = plain_type(type_).form
    if form in ("int16", "int32", "int64"):
        return "whole"
    if form == "decimal" or type_.base_name.partition("(")[0] == "numeric":
        return "exact"
    return "real" if form == "float32" else "double" if form == "float64" else "other"


def _joined(left: Kind, right: Kind) -> Kind:
    """What an operation on the two gives; ``real`` with anything but itself is ``double precision`` (manual, 10.2)."""
    kinds = {left, right}
    if "other" in kinds:
        return "other"
    if "null" in kinds:
        return "null"
    if kinds <= {"whole", "exact"}:
        return "whole" if kinds == {"whole"} else "exact"
    return "real" if kinds == {"real"} else "double"


def _operation(sign: str, left: sql.Composable, kind: Kind, right: sql.Composable, other: Kind) -> sql.Composable:
    if sign != "/":
        return sql.SQL("({} {} {})").format(left, sql.SQL(sign), right)
    if kind == other == "whole":
        return sql.SQL("div({}, nullif({}, 0))").format(left, right)
    if "real" in (kind, other) or "double" in (kind, other):
        left, right = (
            side if each in ("real", "double") else sql.SQL("{}::double precision").format(side)
            for side, each in ((left, kind), (right, other))
        )
    # NaN divided by zero is NaN; OFFSET keeps the planner from writing both out where they are used
    return sql.SQL(
        "(SELECT CASE WHEN y = 0 AND x <> 'NaN' THEN NULL ELSE x / y END FROM (SELECT {} AS x, {} AS y OFFSET 0) AS q)"
    ).format(left, right)
