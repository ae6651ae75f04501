"""The small language of a spec's ``filter``: a condition over one record, in SQL's words and with SQL's meaning.

A text is parsed into a tree (`parse`, grammar in ``expression.lark``), the tree is bound to the columns of a
record batch (`Condition.bind`), which settles every type and gives what masks whole batches. Nothing is evaluated as
Python. A condition means what it means in SQL, over the values that the table stores. Where Arrow cannot tell that, of
one record or of all, PostgreSQL is asked, with the same condition written as SQL (`where`).

What holds, beside PostgreSQL's own rules:

- Logic is three-valued: a comparison with NULL is unknown, and a record is kept only if the condition is true.
- Arithmetic on whole numbers and decimals is exact, in up to 76 digits; a condition that might need more is
  refused when it is bound, so nothing ever overflows or wraps. A quotient of whole numbers is whole.
- Dividing by zero gives NULL where PostgreSQL stops, and a record for which it stops otherwise, such as at a floating
  number that is too large, is left out: one record must not fail all the others of its block.
- Text is ordered by code point, as with ``COLLATE "C"``. NaN equals itself and is greater than any number.
- A text in quotes is of the type that it stands beside; dates and times are in ISO 8601's form. ``json`` is text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache, reduce
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, cast

from loader.core.pgtypes import ColumnType
from loader.core.spec.datetimes import FIXED_ZONES, Zones
from loader.core.suggestions import nearest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    from lark import Lark, Token, UnexpectedInput

LENGTH_LIMIT = 10_000
"""Characters of a condition."""

DEPTH_LIMIT = 100
"""Levels of a condition's tree; Python's own limit of 1,000 frames is several times as far."""

NO_TYPES: Mapping[str, ColumnType] = {}


class NeedsServerError(Exception):
    """Only PostgreSQL can say of any record whether the condition is true for it."""


class Mask:
    """A condition that is bound to the columns of a record batch. May be shared between threads."""

    def __init__(self, decide: Run) -> None:
        self._decide = decide

    def __call__(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        """True for each record to keep, else false, of records of which all values are sure."""
        return self._keep(_Frame(batch))

    def judge(self, batch: pa.RecordBatch) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which records to keep, shape (n,), and which of them only PostgreSQL can judge."""
        import numpy as np

        from loader.core import arrays

        frame = _Frame(batch)
        keep = arrays.mask(self._keep(frame))
        unsure = np.zeros(batch.num_rows, bool)
        for each in frame.unsure:
            unsure |= arrays.mask(each)
        return keep & ~unsure, unsure

    def _keep(self, frame: _Frame) -> pa.BooleanArray:
        import pyarrow as pa

        mask = self._decide(frame)
        if isinstance(mask, pa.Scalar):
            mask = pa.repeat(mask, frame.batch.num_rows)
        return mask.fill_null(False)


class ServerMask(Mask):
    """Of a condition that needs the server: no record is sure."""

    def __init__(self) -> None:
        pass

    def judge(self, batch: pa.RecordBatch) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        import numpy as np

        return np.zeros(batch.num_rows, bool), np.ones(batch.num_rows, bool)


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition: ``text`` as it was given, and the ``root`` of its tree."""

    text: str
    root: Node

    @property
    def columns(self) -> frozenset[str]:
        """The names of the columns that have to be there."""
        return frozenset(node.name for node in _nodes(self.root) if isinstance(node, Column))

    def check_names(self, known: Sequence[str]) -> None:
        """Raises ValueError, in one sentence, where the condition names a column that is not ``known``."""
        for node in _nodes(self.root):
            if isinstance(node, Column) and node.name not in known:
                raise ValueError(f"there is no column {node}{_hint(node.name, known)}")

    def bind(
        self,
        schema: pa.Schema,
        *,
        zone: str = "UTC",
        zones: Zones = FIXED_ZONES,
        types: Mapping[str, ColumnType] = NO_TYPES,
    ) -> Mask:
        """What says of a batch of ``schema`` which records to keep.

        ``zone``, one of ``zones``, is where a text without an offset is, when it stands beside a timestamp with time
        zone: the session's TimeZone, to PostgreSQL. ``types``: of columns in the database, where they are known.

        Raises ValueError, in one sentence, where the condition does not fit the schema, and NeedsServerError.
        """
        return Mask(_Binder(schema, zone, zones, types).truth(self.root))


def parse(text: str) -> Condition:
    """Parse a condition. Raises ValueError, in one sentence that says what stands where."""
    if len(text) > LENGTH_LIMIT:
        raise ValueError(f"the condition is {len(text):,} characters long, more than {LENGTH_LIMIT:,}")
    if not text.strip():
        raise ValueError("the condition is empty")
    from lark import UnexpectedInput

    try:
        return Condition(text, _parser().parse(text))  # type: ignore[arg-type]  # the builder makes nodes of the trees
    except UnexpectedInput as error:
        raise ValueError(_place(text, error)) from None


def _place(text: str, error: UnexpectedInput) -> str:
    start = error.pos_in_stream
    if start is None or start < 0 or not text[start:].strip() or getattr(error, "token", None) == "":
        return f"the condition breaks off after character {len(text.rstrip())}"
    if text[start] in "'\"" and text.find(text[start], start + 1) < 0:
        return f"the quote {text[start]} at character {start + 1} is never closed"
    found = re.match(r"[A-Za-z0-9_$.]+|'[^']*'|\"[^\"]*\"|[<>=!]+|.", text[start:], re.DOTALL)
    assert found is not None
    standing = _shortened(found[0])
    quoted = standing if standing[0] in "'\"" else f'"{standing}"'
    return f"{quoted} is not expected at character {start + 1}"


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"


# --- the tree


@dataclass(frozen=True)
class Node:
    """A part of a condition. ``str()`` gives it as it may be written, for messages."""

    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        depth = self.levels + max((part.depth for part in self.parts), default=0)
        if depth > DEPTH_LIMIT:
            raise ValueError(f"the condition is nested more than {DEPTH_LIMIT} levels deep")
        object.__setattr__(self, "depth", depth)

    @property
    def parts(self) -> tuple[Node, ...]:
        return ()

    @property
    def levels(self) -> int:
        """Of the tree, that the node itself takes."""
        return 1


@dataclass(frozen=True)
class Column(Node):
    name: str

    def __str__(self) -> str:
        return '"' + self.name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Number(Node):
    """``whole``: written as an integer, and small enough to be a bigint."""

    value: Decimal
    whole: bool

    def __str__(self) -> str:
        return _shortened(str(self.value))


@dataclass(frozen=True)
class Text(Node):
    value: str

    def __str__(self) -> str:
        return "'" + _shortened(self.value).replace("'", "''") + "'"


@dataclass(frozen=True)
class Constant(Node):
    """``true``, ``false`` and ``null``."""

    value: bool | None

    def __str__(self) -> str:
        return "null" if self.value is None else str(self.value).lower()


@dataclass(frozen=True)
class Negative(Node):
    operand: Node

    @property
    def parts(self) -> tuple[Node, ...]:
        return (self.operand,)

    def __str__(self) -> str:
        return f"-{self.operand}"


@dataclass(frozen=True)
class Arithmetic(Node):
    """``first``, then each operator with what follows it, from left to right."""

    first: Node
    rest: tuple[tuple[str, Node], ...]

    @property
    def parts(self) -> tuple[Node, ...]:
        return (self.first, *(operand for _, operand in self.rest))

    @property
    def levels(self) -> int:
        """Each operator works on the result of the one before."""
        return len(self.rest)

    def __str__(self) -> str:
        return _shortened("".join([f"({self.first}", *(f" {sign} {operand}" for sign, operand in self.rest), ")"]))


@dataclass(frozen=True)
class Comparison(Node):
    operator: str
    left: Node
    right: Node

    @property
    def parts(self) -> tuple[Node, ...]:
        return (self.left, self.right)

    def __str__(self) -> str:
        return _shortened(f"({self.left} {self.operator} {self.right})")


@dataclass(frozen=True)
class In(Node):
    value: Node
    items: tuple[Node, ...]

    @property
    def parts(self) -> tuple[Node, ...]:
        return (self.value, *self.items)

    def __str__(self) -> str:
        return f"({self.value} in …)"


@dataclass(frozen=True)
class Like(Node):
    value: Node
    pattern: str

    @property
    def parts(self) -> tuple[Node, ...]:
        return (self.value,)

    def __str__(self) -> str:
        return f"({self.value} like {Text(self.pattern)})"


@dataclass(frozen=True)
class IsNull(Node):
    """``negated``: ``is not null``, which a composite value with some fields NULL is no more than ``is null``."""

    value: Node
    negated: bool = False

    @property
    def parts(self) -> tuple[Node, ...]:
        return (self.value,)

    def __str__(self) -> str:
        return f"({self.value} is {'not ' * self.negated}null)"


@dataclass(frozen=True)
class Not(Node):
    operand: Node

    @property
    def parts(self) -> tuple[Node, ...]:
        return (self.operand,)

    def __str__(self) -> str:
        return f"(not {self.operand})"


@dataclass(frozen=True)
class Junction(Node):
    word: Literal["and", "or"]
    operands: tuple[Node, ...]

    @property
    def parts(self) -> tuple[Node, ...]:
        return self.operands

    def __str__(self) -> str:
        return "(" + _shortened(f" {self.word} ".join(map(str, self.operands))) + ")"


def _nodes(root: Node) -> Iterator[Node]:
    pending = [root]
    while pending:
        node = pending.pop()
        yield node
        pending += node.parts


@cache
def _parser() -> Lark:
    from lark import Lark, Transformer, v_args

    rules = {name: rule for name, rule in vars(_Builder).items() if not name.startswith("_")}
    builder = v_args(inline=True)(type("Builder", (Transformer,), rules))  # lark's base class, imported no earlier
    # LALR builds the nodes as it goes, so that neither parsing nor building recurses; the basic lexer keeps
    # keywords reserved wherever they stand
    return Lark(_grammar(), parser="lalr", lexer="basic", transformer=builder())


def _grammar() -> str:
    return files("loader.core.spec").joinpath("filter.lark").read_text("utf-8")


class _Builder:
    """A method for each rule of the grammar, which makes the node of its parts."""

    def either(self, *operands: Node) -> Node:
        return Junction("or", operands)

    def both(self, *operands: Node) -> Node:
        return Junction("and", operands)

    def negated(self, operand: Node) -> Node:
        return Not(operand)

    def is_null(self, value: Node) -> Node:
        return IsNull(value)

    def is_not_null(self, value: Node) -> Node:
        return IsNull(value, negated=True)

    def compared(self, left: Node, operator: Token, right: Node) -> Node:
        return Comparison({"==": "=", "!=": "<>"}.get(operator, str(operator)), left, right)

    def list(self, *items: Node) -> tuple[Node, ...]:
        return items

    def in_list(self, value: Node, items: tuple[Node, ...]) -> Node:
        return In(value, items)

    def not_in_list(self, value: Node, items: tuple[Node, ...]) -> Node:
        return Not(In(value, items))

    def between(self, value: Node, low: Node, high: Node) -> Node:
        return Junction("and", (Comparison(">=", value, low), Comparison("<=", value, high)))

    def not_between(self, value: Node, low: Node, high: Node) -> Node:
        return Not(self.between(value, low, high))

    def like(self, value: Node, pattern: Token) -> Node:
        like = Like(value, _unquoted(pattern))
        if re.fullmatch(r"(?:\\.|[^\\])*\\", like.pattern, re.DOTALL):
            raise ValueError(f"the pattern {Text(like.pattern)} ends with an escape character")
        return like

    def not_like(self, value: Node, pattern: Token) -> Node:
        return Not(self.like(value, pattern))

    def arithmetic(self, first: Node, *rest: Any) -> Node:
        return Arithmetic(first, tuple(zip(map(str, rest[::2]), rest[1::2], strict=True)))

    def signed(self, sign: Token, operand: Node) -> Node:
        if sign == "-" and isinstance(operand, Number):
            return Number(operand.value.copy_negate(), operand.whole)
        return Negative(operand) if sign == "-" else operand

    def number(self, text: Token) -> Node:
        value = Decimal(text)
        return Number(value, text.isdigit() and value < 1 << 63)

    def text(self, text: Token) -> Node:
        return Text(_unquoted(text))

    def column(self, name: Token) -> Node:
        return Column(str(name))

    def quoted_column(self, name: Token) -> Node:
        return Column(_unquoted(name))

    def true(self) -> Node:
        return Constant(True)

    def false(self) -> Node:
        return Constant(False)

    def null(self) -> Node:
        return Constant(None)


def _unquoted(text: str) -> str:
    return text[1:-1].replace(text[0] * 2, text[0])


# --- binding: every type settled, every node a function of a record batch


class _Frame:
    """A batch while a condition looks at it. ``unsure``: masks of the records that only PostgreSQL can judge."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch
        self.unsure: list[pa.BooleanArray] = []


Run = Callable[[_Frame], Any]
"""Gives an array of the batch's length, or a scalar where the value is the same for every record."""

EXACT_DIGITS = 76
"""Digits of Arrow's decimal256. What may need more is refused."""

_INT64_DIGITS = 18  # any number of so many digits is an int64
_INTEGER_DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}  # by bits

_KINDS = {
    "number": "a number",
    "text": "text",
    "truth": "a boolean",
    "date": "a date",
    "time": "a time",
    "timestamp": "a timestamp",
    "timestamptz": "a timestamp with time zone",
    "null": "null",
}
_WRITTEN_AS = {
    "date": "'2024-01-31'",
    "time": "'14:30:00'",
    "timestamp": "'2024-01-31 14:30:00'",
    "timestamptz": "'2024-01-31 14:30:00+02:00'",
}
_COMPARATORS = {
    "=": "equal",
    "<>": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}


@dataclass(frozen=True, slots=True)
class _Room:
    """What an exact number needs: its digits, those of them after the point, and whether SQL has it as an integer."""

    digits: int
    scale: int
    whole: bool

    @property
    def before_point(self) -> int:
        return self.digits - self.scale

    @classmethod
    def of_number(cls, number: Number) -> _Room:
        _, digits, exponent = number.value.as_tuple()
        assert isinstance(exponent, int)  # the grammar has no infinity
        scale = max(-exponent, 0)
        return cls(max(len(digits) + max(exponent, 0), scale), scale, number.whole)

    def with_scale(self, scale: int) -> _Room:
        """As many digits before the point, and ``scale`` after it."""
        return _Room(self.before_point + scale, scale, self.whole)

    def and_also(self, other: _Room) -> _Room:
        """The least that holds the numbers of both."""
        scale = max(self.scale, other.scale)
        return _Room(max(self.before_point, other.before_point) + scale, scale, self.whole and other.whole)


@dataclass(frozen=True, slots=True)
class _Bound:
    """A node with its types settled. ``room`` is an exact number's; a floating one, like all else, has none."""

    node: Node
    kind: str
    run: Run
    arrow: Any  # the pyarrow.DataType of what ``run`` gives
    room: _Room | None = None
    type: ColumnType | None = None  # of a column in the database, where that is known

    @property
    def is_constant(self) -> bool:
        return isinstance(self.node, Number | Text | Constant)

    @property
    def what(self) -> str:
        return _KINDS.get(self.kind, self.kind)


_NO_FRAME = cast(_Frame, None)
"""For what is the same for every record."""

_SHOWN = ("arrow", "enum", "json")
"""Whose values a record batch has as PostgreSQL compares them; a uuid or a numeric may be spelled in several ways."""

_ROUNDED = re.compile(r"^time(?:stamp)?\(([0-5])\)")


def _is_padded(type_: ColumnType) -> bool:
    return type_.base_name.partition("(")[0] in ("character", "bpchar")


def _unsure_values(type_: ColumnType) -> Callable[[Any], Any] | None:
    """Says of a column's values which are not what the table stores, NULL for NULL; None where all are.

    Times that PostgreSQL will round, and texts with blanks that it will cut off or does not compare.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if found := _ROUNDED.match(type_.base_name):
        unit = pa.scalar(10 ** (6 - int(found[1])), pa.int64())

        def is_rounded(values: Any) -> Any:
            counts = values.cast(pa.int64())
            return pc.not_equal(pc.multiply(pc.divide(counts, unit), unit), counts)

        return is_rounded
    if _is_padded(type_):
        return lambda values: pc.ends_with(values, " ")
    if type_.max_length is not None:
        limit = pa.scalar(type_.max_length, pa.int32())
        return lambda values: pc.greater(pc.utf8_length(values), limit)
    return None


def is_stored_otherwise(type_: ColumnType) -> bool:
    """Whether PostgreSQL rounds the type's times, or compares its texts by another rule than byte by byte."""
    return _ROUNDED.match(type_.base_name) is not None or _is_padded(type_)


def _is_fixed(item: _Bound) -> bool:
    """Whether it is the same for every record."""
    return not any(isinstance(each, Column) for each in _nodes(item.node))


def _is_for_server(one: _Bound, other: _Bound) -> bool:
    """Whether PostgreSQL compares the two and Arrow does not: a text in quotes is of the other's type, and times with
    and without a zone meet in the session's."""
    if isinstance(one.node, Text):
        return other.kind in ("number", "truth")
    return one.kind == "timestamptz" and other.kind in ("date", "timestamp")


class _Binder:
    def __init__(self, schema: pa.Schema, zone: str, zones: Zones, types: Mapping[str, ColumnType]) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        self._pa, self._pc = pa, pc
        self._schema = schema
        self._zone = zone
        self._zones = zones
        self._types = types
        self._unknown = pa.scalar(None, pa.bool_())

    def truth(self, node: Node) -> Run:
        """``node`` as a condition. Raises ValueError where it is anything else."""
        bound = self._bind(node)
        if bound.kind not in ("truth", "null"):
            raise ValueError(f"{node} is {bound.what}, not a condition")
        return bound.run

    def _bind(self, node: Node) -> _Bound:
        match node:
            case Column():
                return self._column(node)
            case Number() | Text() | Constant():
                return self._literal(node)
            case Negative():
                return self._negative(node)
            case Arithmetic():
                return self._arithmetic(node)
            case _:
                return _Bound(node, "truth", self._condition(node), self._pa.bool_())

    def _condition(self, node: Node) -> Run:
        match node:
            case Comparison():
                return self._compare(node, self._bind(node.left), self._bind(node.right))
            case In():
                return self._in(self._bind(node.value), [self._bind(item) for item in node.items])
            case Like():
                return self._like(node, self._bind(node.value))
            case IsNull():
                function = self._pc.is_valid if node.negated else self._pc.is_null
                return self._apply(function, self._nullable(node.value))
            case Not():
                return self._apply(self._pc.invert, self.truth(node.operand))
            case Junction():
                combine = self._pc.and_kleene if node.word == "and" else self._pc.or_kleene
                return self._reduce(combine, [self.truth(operand) for operand in node.operands])
        raise AssertionError(f"no rule binds {type(node).__name__}")

    def _apply(self, function: Callable[..., Any], *operands: Run) -> Run:
        return lambda frame: function(*(operand(frame) for operand in operands))

    def _reduce(self, function: Callable[[Any, Any], Any], operands: Sequence[Run]) -> Run:
        return lambda frame: reduce(function, (operand(frame) for operand in operands))

    # columns and constants

    def _column(self, node: Column) -> _Bound:
        index = self._index(node)
        arrow, type_ = self._schema.field(index).type, self._types.get(node.name)
        run: Run = lambda frame: frame.batch.column(index)  # noqa: E731
        if type_ is not None:
            if type_.wire not in _SHOWN:
                raise NeedsServerError
            if (is_unsure := _unsure_values(type_)) is not None:
                run = self._noting(run, is_unsure)
        return _Bound(node, self._kind(arrow), run, arrow, self._room(arrow), type_)

    def _index(self, node: Column) -> int:
        index: int = self._schema.get_field_index(node.name)
        if index < 0:
            raise ValueError(f"there is no column {node}{_hint(node.name, self._schema.names)}")
        return index

    def _nullable(self, node: Node) -> Run:
        """Values of which nothing is asked but whether they are there."""
        if not isinstance(node, Column):
            return self._bind(node).run
        index, type_ = self._index(node), self._types.get(node.name)
        if type_ is not None and type_.wire == "server":  # a row of NULLs is NULL
            raise NeedsServerError
        return lambda frame: frame.batch.column(index)

    def _noting(self, run: Run, is_unsure: Callable[[Any], Any]) -> Run:
        """The values of ``run``, with a note of the records of which they are not what the table stores."""

        def noting(frame: _Frame) -> Any:
            values = run(frame)
            frame.unsure.append(is_unsure(values))
            return values

        return noting

    def _kind(self, arrow: Any) -> str:
        types = self._pa.types
        if types.is_timestamp(arrow):
            return "timestamp" if arrow.tz is None else "timestamptz"
        kinds = {
            "number": types.is_integer(arrow) or types.is_floating(arrow) or types.is_decimal(arrow),
            "text": types.is_string(arrow) or types.is_large_string(arrow),
            "truth": types.is_boolean(arrow),
            "date": types.is_date(arrow),
            "time": types.is_time(arrow),
        }
        return next((kind for kind, fits in kinds.items() if fits), f"of type {arrow}")

    def _room(self, arrow: Any) -> _Room | None:
        if self._pa.types.is_int64(arrow):
            return _Room(19, 0, True)
        if self._pa.types.is_integer(arrow):
            return _Room(_INTEGER_DIGITS[arrow.bit_width], 0, True)
        return _Room(arrow.precision, arrow.scale, False) if self._pa.types.is_decimal(arrow) else None

    def _constant(self, node: Node, kind: str, value: object, arrow: Any, room: _Room | None = None) -> _Bound:
        scalar = self._pa.scalar(value, arrow)
        return _Bound(node, kind, lambda _frame: scalar, arrow, room)

    def _literal(self, node: Number | Text | Constant) -> _Bound:
        if isinstance(node, Number):
            return self._number(node)
        if isinstance(node, Text):
            return self._constant(node, "text", node.value, self._pa.string())
        return self._constant(node, "null" if node.value is None else "truth", node.value, self._pa.bool_())

    def _number(self, node: Number) -> _Bound:
        room = _Room.of_number(node)
        if node.whole:
            return self._constant(node, "number", int(node.value), self._pa.int64(), room)
        if room.digits > EXACT_DIGITS:  # good for a floating column only; beside an exact one its room is refused
            return self._constant(node, "number", float(node.value), self._pa.float64(), room)
        return self._constant(node, "number", node.value, self._decimal(node, room), room)

    def _decimal(self, node: Node, room: _Room) -> Any:
        if room.digits > EXACT_DIGITS:
            raise ValueError(f"{node} may need more than {EXACT_DIGITS} digits")
        decimal = self._pa.decimal128 if room.digits <= 38 else self._pa.decimal256
        return decimal(room.digits, room.scale)

    def _cast(self, bound: _Bound, arrow: Any) -> Run:
        """The values of ``bound`` as ``arrow``, which holds them all; a number as it was written is cast once."""
        pa, pc = self._pa, self._pc
        if bound.arrow == arrow:
            return bound.run
        if isinstance(bound.node, Number):
            scalar = pa.scalar(bound.node.value, arrow)
            return lambda _frame: scalar
        if pa.types.is_integer(bound.arrow) and pa.types.is_decimal(arrow):
            # Arrow demands room for any integer of the type; these are known to need less
            widest = pa.decimal128(max(_INTEGER_DIGITS.values()), 0)
            return lambda frame: pc.cast(pc.cast(bound.run(frame), widest), arrow, safe=False)
        if pa.types.is_decimal(bound.arrow) and pa.types.is_floating(arrow):  # whose own cast does not round correctly
            return lambda frame: pc.cast(pc.cast(bound.run(frame), pa.string()), arrow)
        return lambda frame: pc.cast(bound.run(frame), arrow, safe=False)

    def _as_double(self, bound: _Bound) -> Run:
        if isinstance(bound.node, Number):
            value = float(bound.node.value)
            if value in (float("inf"), float("-inf")) or (bound.node.value and not value):
                raise ValueError(f"{bound.node} is out of the range of double precision")
            return self._constant(bound.node, "number", value, self._pa.float64()).run
        return self._cast(bound, self._pa.float64())

    # arithmetic

    def _computable(self, node: Node) -> _Bound:
        bound = self._bind(node)
        if bound.kind not in ("number", "null"):
            raise ValueError(f"{node} is {bound.what}, and arithmetic takes numbers")
        return bound

    def _negative(self, node: Negative) -> _Bound:
        operand = self._computable(node.operand)
        if operand.kind == "null":
            return operand
        if operand.room is None:
            return replace(operand, node=node, run=self._apply(self._pc.negate, operand.run))
        return self._exact(node, self._pc.negate, operand.room, [(operand, operand.room)])

    def _arithmetic(self, node: Arithmetic) -> _Bound:
        result = self._computable(node.first)
        for sign, operand in node.rest:
            result = self._operate(node, sign, result, self._computable(operand))
        return result

    def _operate(self, node: Node, sign: str, left: _Bound, right: _Bound) -> _Bound:
        if "null" in (left.kind, right.kind):
            return self._constant(Constant(None), "null", None, self._pa.bool_())
        if left.room is None or right.room is None:
            if self._pa.types.is_float32(left.arrow) and self._pa.types.is_float32(right.arrow):
                raise NeedsServerError  # which computes in single precision
            return self._double(node, sign, left, right)
        if sign == "/":
            return self._quotient(node, left, right, left.room, right.room)
        if sign == "*":
            digits, scale = left.room.digits + right.room.digits + 1, left.room.scale + right.room.scale
            room = _Room(digits, scale, left.room.whole and right.room.whole)
            return self._exact(node, self._function(sign), room, [(left, left.room), (right, right.room)])
        each = left.room.and_also(right.room)
        room = _Room(each.digits + 1, each.scale, each.whole)
        return self._exact(node, self._function(sign), room, [(left, each), (right, each)])

    def _function(self, sign: str) -> Callable[..., Any]:
        pc = self._pc
        functions: dict[str, Callable[..., Any]]
        functions = {"+": pc.add, "-": pc.subtract, "*": pc.multiply, "/": self._divide}
        return functions[sign]

    def _divide(self, dividend: Any, divisor: Any) -> Any:
        """Arrow stops at a zero, or makes an infinity of it; here it makes NULL, but of NaN."""
        pc, pa = self._pc, self._pa
        zero = pc.equal(divisor, pa.scalar(0, divisor.type))
        if pa.types.is_floating(dividend.type):
            zero = pc.and_(zero, pc.invert(pc.is_nan(dividend)))
        return pc.divide(dividend, pc.if_else(zero, pa.scalar(None, divisor.type), divisor))

    def _double(self, node: Node, sign: str, left: _Bound, right: _Bound) -> _Bound:
        """Where a result is out of range, PostgreSQL stops: that is for it to say."""
        pc, function = self._pc, self._function(sign)
        run_left, run_right = self._as_double(left), self._as_double(right)
        zero = self._pa.scalar(0.0)

        def run(frame: _Frame) -> Any:
            one, other = run_left(frame), run_right(frame)
            made = function(one, other)
            overflows = pc.and_(pc.is_inf(made), pc.and_(pc.is_finite(one), pc.is_finite(other)))
            unsure = overflows
            if sign in "*/":
                lost = pc.and_(pc.equal(made, zero), pc.and_(pc.not_equal(one, zero), pc.is_finite(other)))
                unsure = pc.or_(unsure, pc.and_(lost, pc.not_equal(other, zero)))
            if isinstance(unsure, self._pa.Scalar):
                unsure = self._pa.repeat(unsure, frame.batch.num_rows)
            frame.unsure.append(unsure)
            return made

        return _Bound(node, "number", run, self._pa.float64())

    def _exact(
        self, node: Node, function: Callable[..., Any], room: _Room, operands: Sequence[tuple[_Bound, _Room]]
    ) -> _Bound:
        """``function`` of the operands, each in its room, which gives ``room``: in int64 where that is sure to do."""
        if room.whole and room.digits <= _INT64_DIGITS:
            int64 = self._pa.int64()
            runs = [self._cast(operand, int64) for operand, _ in operands]
            return _Bound(node, "number", self._apply(function, *runs), int64, room)
        arrow = self._decimal(node, room)
        decimal = self._pa.decimal128 if arrow.bit_width == 128 else self._pa.decimal256  # Arrow mixes no widths
        runs = [self._cast(operand, decimal(each.digits, each.scale)) for operand, each in operands]
        return _Bound(node, "number", self._apply(function, *runs), arrow, room)

    def _quotient(self, node: Node, left: _Bound, right: _Bound, dividend: _Room, divisor: _Room) -> _Bound:
        """Arrow gives a quotient max(4, s1 + p2 - s2 + 1) digits after the point, and cuts off the rest."""
        whole = dividend.whole and divisor.whole
        if whole and max(dividend.digits, divisor.digits) <= _INT64_DIGITS:
            return self._exact(node, self._divide, dividend, [(left, dividend), (right, divisor)])
        if not whole:
            raise NeedsServerError  # the number of its digits follows from the values
        dividend = dividend.with_scale(max(dividend.scale, -divisor.before_point - 1))
        made_scale = max(4, dividend.scale + divisor.before_point + 1)
        made = _Room(dividend.before_point + divisor.scale + made_scale, made_scale, False)
        quotient = self._exact(node, self._divide, made, [(left, dividend), (right, divisor)])
        room = replace(made.with_scale(0), whole=True)
        arrow = self._decimal(node, room)
        return _Bound(node, "number", self._cast(quotient, arrow), arrow, room)

    # comparison

    def _compare(self, node: Comparison, left: _Bound, right: _Bound) -> Run:
        if "null" in (left.kind, right.kind):
            return lambda _frame: self._unknown
        self._check_texts(node.operator, left, right)
        left, right = self._comparable(left, right, node)
        function = getattr(self._pc, _COMPARATORS[node.operator])
        if self._pa.types.is_floating(left.arrow):
            function = self._float_comparator(node.operator)
        return self._apply(function, left.run, right.run)

    def _check_texts(self, operator: str, left: _Bound, right: _Bound) -> None:
        """Raises NeedsServerError where PostgreSQL compares texts by another rule than Arrow."""
        for one, other in ((left, right), (right, left)):
            if one.type is None:
                continue
            if one.type.wire == "enum" and (operator not in ("=", "<>") or not isinstance(other.node, Text)):
                raise NeedsServerError  # its order is its labels'
            if _is_padded(one.type) and not (isinstance(other.node, Text) and not other.node.value.endswith(" ")):
                raise NeedsServerError  # blanks at the end count or do not, as the other side has it

    def _comparable(self, left: _Bound, right: _Bound, node: Node) -> tuple[_Bound, _Bound]:
        """Both sides as types that Arrow compares and that lose nothing."""
        if isinstance(left.node, Text) and right.kind in _WRITTEN_AS:
            left = self._moment(left.node, right)
        elif isinstance(right.node, Text) and left.kind in _WRITTEN_AS:
            right = self._moment(right.node, left)
        kinds = {left.kind, right.kind}
        if kinds == {"number"}:
            return self._comparable_numbers(left, right, node)
        if _is_for_server(left, right) or _is_for_server(right, left):
            raise NeedsServerError
        if kinds != {"date", "timestamp"} and (len(kinds) == 2 or left.kind not in _KINDS):
            raise ValueError(f"{left.node} ({left.what}) cannot be compared with {right.node} ({right.what})")
        return left, right

    def _comparable_numbers(self, left: _Bound, right: _Bound, node: Node) -> tuple[_Bound, _Bound]:
        is_integer = self._pa.types.is_integer
        if left.room is None or right.room is None:
            double = self._pa.float64()
            left, right = (replace(each, run=self._as_double(each), arrow=double) for each in (left, right))
            return left, right
        if is_integer(left.arrow) and is_integer(right.arrow):
            return self._narrowed(left, right.arrow), self._narrowed(right, left.arrow)
        arrow = self._decimal(node, left.room.and_also(right.room))
        left, right = (replace(each, run=self._cast(each, arrow), arrow=arrow) for each in (left, right))
        return left, right

    def _narrowed(self, number: _Bound, arrow: Any) -> _Bound:
        """A constant as ``arrow`` where that can hold it, so that no column has to be widened for it."""
        bits = arrow.bit_width - 1
        if not isinstance(number.node, Number) or not -(1 << bits) <= number.node.value < 1 << bits:
            return number
        return self._constant(number.node, "number", int(number.node.value), arrow, number.room)

    def _float_comparator(self, operator: str) -> Callable[[Any, Any], Any]:
        """PostgreSQL's order of floating numbers: NaN equals NaN and is greater than all else (manual, 8.1.3)."""
        pc = self._pc

        def equal(a: Any, b: Any) -> Any:
            return pc.or_(pc.equal(a, b), pc.and_(pc.is_nan(a), pc.is_nan(b)))

        def less(a: Any, b: Any) -> Any:
            return pc.or_(pc.less(a, b), pc.and_(pc.invert(pc.is_nan(a)), pc.is_nan(b)))

        return {
            "=": equal,
            "<>": lambda a, b: pc.invert(equal(a, b)),
            "<": less,
            "<=": lambda a, b: pc.invert(less(b, a)),
            ">": lambda a, b: less(b, a),
            ">=": lambda a, b: pc.invert(less(a, b)),
        }[operator]

    def _moment(self, node: Text, beside: _Bound) -> _Bound:
        """A text as a constant of the date or time type of the column that it stands beside."""
        pa, kind = self._pa, beside.kind
        try:
            value = _read_moment(node.value, kind)
        except ValueError:
            raise ValueError(
                f"{beside.node} is {beside.what}, and {node} is none; write it like {_WRITTEN_AS[kind]}"
            ) from None
        if kind == "timestamptz":
            value = self._in_utc(node, value)
        arrow = {"date": pa.date32(), "time": pa.time64("us"), "timestamp": pa.timestamp("us")}
        return self._constant(node, kind, value, arrow.get(kind) or pa.timestamp("us", beside.arrow.tz))

    def _in_utc(self, node: Text, moment: Any) -> datetime:
        try:
            if moment.tzinfo is None:
                local = (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1)
                return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self._zones.utc(local, self._zone))
            return cast(datetime, moment.astimezone(UTC))
        except OverflowError:
            raise ValueError(f"{node} is out of the range of timestamps") from None

    # in, like

    def _in(self, value: _Bound, items: Sequence[_Bound]) -> Run:
        """``in`` is ``=`` with each item, joined by ``or``; the constants among them are looked up all at once.

        Several items without a column are one array to PostgreSQL, whose type they share with the value: beside a real
        they are of that type, while a single one is compared as double precision (manual, 10.5).
        """
        if value.kind == "null":
            return lambda _frame: self._unknown
        constants: list[Any] = []
        found: list[Run] = []
        if self._pa.types.is_float32(value.arrow) and sum(map(_is_fixed, items)) > 1:
            items = [self._as_real(item) if _is_fixed(item) else item for item in items]
        for item in items:
            equality = Comparison("=", value.node, item.node)
            if item.kind == "null":
                found.append(item.run)
                continue
            self._check_texts("=", value, item)
            left, right = self._comparable(value, item, equality)
            same = left.arrow == right.arrow == value.arrow and not self._pa.types.is_floating(value.arrow)
            if right.is_constant and same:
                constants.append(right.run(_NO_FRAME))
            else:
                found.append(self._compare(equality, value, item))
        if constants:
            found.append(self._among(value, self._pa.array(constants, value.arrow)))
        return self._reduce(self._pc.or_kleene, found)

    def _as_real(self, item: _Bound) -> _Bound:
        """A number as it was written, rounded to what real has."""
        if item.kind == "null":
            return item
        if not isinstance(item.node, Number):
            raise NeedsServerError
        rounded = self._pa.scalar(str(item.node.value)).cast(self._pa.float32()).as_py()
        if rounded in (float("inf"), float("-inf")) or (item.node.value and not rounded):
            raise ValueError(f"{item.node} is out of the range of real")
        return replace(item, node=replace(item.node, value=Decimal(rounded)))

    def _among(self, value: _Bound, constants: Any) -> Run:
        pc = self._pc

        def among(frame: _Frame) -> Any:
            values = value.run(frame)
            return pc.if_else(pc.is_valid(values), pc.is_in(values, value_set=constants), self._unknown)

        return among

    def _like(self, node: Like, value: _Bound) -> Run:
        if value.kind == "null":
            return value.run
        if value.kind != "text" or (value.type is not None and value.type.wire == "enum"):
            what = value.what if value.kind != "text" else "an enum"
            raise ValueError(f"{node.value} is {what}, and like takes text")
        if value.type is not None and _is_padded(value.type):
            raise NeedsServerError  # to which the blanks at the end of the stored value count
        pc, pieces = self._pc, _like_pieces(node.pattern)
        if max(map(pieces.count, _WILDCARDS)) > LIKE_RUNS:
            return lambda frame: self._like_each(value.run(frame), pieces)
        pattern = _like_regex(pieces)
        return lambda frame: pc.match_substring_regex(value.run(frame), pattern)

    def _like_each(self, values: Any, pieces: Sequence[str]) -> Any:
        """Text by text: RE2 takes seconds for a hundred texts where the pattern has a thousand wildcards."""
        matches = _like_matcher(pieces)
        if isinstance(values, self._pa.Scalar):
            text = values.as_py()
            return self._pa.scalar(None if text is None else matches(text), self._pa.bool_())
        found = [None if text is None else matches(text) for text in values.to_pylist()]
        return self._pa.array(found, self._pa.bool_(), from_pandas=False)


def moment_beside(text: Text, kind: pa.DataType, *, zone: str, zones: Zones) -> int:
    """What a text in quotes is beside a column of the date or time type ``kind``: days or microseconds since 1970, or
    of the day. ``zone``, ``zones``: as for `Condition.bind`. Raises ValueError where it is none."""
    import pyarrow as pa

    binder = _Binder(pa.schema([("it", kind)]), zone, zones, NO_TYPES)
    value: int = binder._moment(text, binder._bind(Column("it"))).run(_NO_FRAME).value
    return value


def _hint(name: str, known: Sequence[str]) -> str:
    near = nearest(name, known)
    return f"; did you mean {Column(near)}?" if near is not None else ""


LIKE_RUNS = 16
"""Wildcards of a ``like`` pattern, of each kind, up to which it is a regular expression for RE2. With more of them RE2
leaves its fast way, and takes the pattern's length times the text's."""

_WILDCARDS = ("%", "_")


def _like_pieces(pattern: str) -> list[str]:
    """A ``like`` pattern as its wildcards and single characters, escaped ones as a backslash and the character.

    Wildcards next to each other are put in one order, with one ``%`` for several: ``%_%`` takes what ``_%`` takes.
    """
    pieces: list[str] = []
    for wild, literal in re.findall(r"([%_]+)|(\\.|.)", pattern, re.DOTALL):
        pieces += ["_"] * wild.count("_") + ["%"] * ("%" in wild)
        if literal:
            pieces.append(literal if len(literal) > 1 else f"\\{literal}")
    return pieces


def _like_regex(pieces: Sequence[str]) -> str:
    """The regular expression, to RE2, of a ``like`` pattern. Arrow's own match_like reads ``%\\\\`` wrongly."""
    wild = {"%": ".*", "_": "."}
    return rf"(?s)\A{''.join(wild.get(piece) or re.escape(piece[-1]) for piece in pieces)}\z"


def _like_matcher(pieces: Sequence[str]) -> Callable[[str], bool]:
    """The same as a function that never goes back: what stands between two ``%`` is taken where it comes first."""
    runs: list[list[str]] = [[]]
    for piece in pieces:
        if piece == "%":
            runs.append([])
        else:
            runs[-1].append(piece)
    fixed = [
        re.compile("".join("." if each == "_" else re.escape(each[-1]) for each in run), re.DOTALL) for run in runs
    ]
    first, last, between = fixed[0], fixed[-1], fixed[1:-1]
    size = len(runs[-1])

    def matches(text: str) -> bool:
        if len(runs) == 1:
            return first.fullmatch(text) is not None
        found = first.match(text)
        for run in between:
            if found is None:
                return False
            found = run.search(text, found.end())
        return found is not None and len(text) - size >= found.end() and last.match(text, len(text) - size) is not None

    return matches


_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?"
_OFFSET = r"(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)"
_MOMENTS: dict[str, tuple[str, Callable[[str], date | datetime | time]]] = {
    "date": (_DAY, date.fromisoformat),
    "time": (_CLOCK, time.fromisoformat),
    "timestamp": (f"{_DAY}(?:[ T]{_CLOCK})?", datetime.fromisoformat),
    "timestamptz": (f"{_DAY}(?:[ T]{_CLOCK}{_OFFSET}?)?", datetime.fromisoformat),
}


def _read_moment(text: str, kind: str) -> date | datetime | time:
    """Raises ValueError where ``text`` is not of the ISO form, or no such day or time exists."""
    shape, read = _MOMENTS[kind]
    if not re.fullmatch(shape, text):
        raise ValueError(text)
    return read(text)
