"""PostgreSQL's types, and how each travels.

A value travels in binary COPY. Its bytes are made here, by way of Arrow or of `wire`, where what the bytes mean
is certain. A column of any other type (arrays, ranges, intervals, composites, any extension's type) makes the whole
record go as text (`csv_form`), because the type's input function is the definition of what the text means.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

NAME_LIMIT = 63
"""Bytes of a name. PostgreSQL cuts off the rest of a longer one and says nothing (manual, 4.1.1)."""


COLUMN_LIMIT = 1600
"""Columns that a table can have (manual, appendix K)."""


_MAX_DECIMAL128_PRECISION = 38  # Arrow's limit for decimal128

Wire = Literal["arrow", "numeric", "uuid", "bytea", "enum", "json", "jsonb", "server"]
"""Who makes a value's bytes: Arrow's own type, one of the functions of `wire`, or the server."""

Form = Literal[
    "int16",
    "int32",
    "int64",
    "float32",
    "float64",
    "bool",
    "date",
    "timestamp",
    "timestamptz",
    "time",
    "decimal",
    "text",
]
"""What a value is on its way, whoever carries it: the type of a record batch's column, the converter of the kernel."""

_SIMPLE: dict[str, Form] = {
    "smallint": "int16",
    "integer": "int32",
    "bigint": "int64",
    "real": "float32",
    "double precision": "float64",
    "boolean": "bool",
    "date": "date",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
    "time without time zone": "time",
    "text": "text",
    "character varying": "text",
    "character": "text",
}

_WIRES: dict[str, Wire] = {
    "numeric": "numeric",
    "uuid": "uuid",
    "bytea": "bytea",
    "json": "json",
    "jsonb": "jsonb",
}

_MODIFIED = re.compile(r"^(?P<head>[a-z ]+?)\((?P<mods>-?\d+(?:,-?\d+)*)\)(?P<tail>[a-z ]*)$")


@dataclass(frozen=True, slots=True)
class TypeFacts:
    """What the catalog says of a type. ``base``: of a domain. ``labels``: of an enum. ``built_in``: it is PostgreSQL's
    own, and not one of the same name."""

    base: str | None = None
    labels: tuple[str, ...] = ()
    built_in: bool = True


@dataclass(frozen=True, slots=True)
class ColumnType:
    """One PostgreSQL type as a load sees it.

    ``name`` is PostgreSQL's own spelling (``format_type``), modifiers included; ``form`` is what a record batch
    holds, a decimal with its ``precision`` and ``scale``; ``max_length`` is the limit of ``varchar(n)`` and ``char(n)``
    in characters; ``labels`` are an enum's. ``rounded``: the server rounds it to the digits that the type has.
    ``hopeful``: the client sends what it cannot judge (JSON, a domain's CHECK, a time that is rounded past the end of
    time), so the server may refuse a whole stream for one value, and the load then begins again with that column
    ``judged``. ``base``: the name of the type under a domain. ``built_in``: it is PostgreSQL's own, so that its name
    means the same for ever and nobody drops it.
    """

    name: str
    form: Form = "text"
    wire: Wire = "arrow"
    precision: int = 0
    scale: int = 0
    max_length: int | None = None
    labels: tuple[str, ...] = ()
    rounded: bool = False
    hopeful: bool = False
    base: str | None = None
    built_in: bool = True

    @property
    def base_name(self) -> str:
        """The type's name, of a domain the one of the type under it."""
        return self.base or self.name

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type of a record batch's column. Imports pyarrow."""
        return _arrow_type(self.form, self.precision, self.scale)

    @property
    def judged(self) -> ColumnType:
        """The same type with the server as the judge of each value."""
        return ColumnType(self.name, "text", "server", labels=self.labels, built_in=self.built_in)


def column_type(name: str, facts: TypeFacts | None = None, base: ColumnType | None = None) -> ColumnType:
    """The column type for a name as ``format_type(oid, typmod)`` spells it, such as ``numeric(15,2)``.

    ``base`` is the type under a domain: its values are a domain's too, as far as its constraints allow.
    """
    if base is not None:
        return replace(base, name=name, hopeful=True, base=base.base_name, built_in=False)
    if facts is not None and facts.labels:
        return ColumnType(name, "text", "enum", labels=facts.labels, built_in=False)
    if facts is not None and not facts.built_in:
        return ColumnType(name, "text", "server", built_in=False)
    return _built_in(name)


def _built_in(name: str) -> ColumnType:
    kind, modifiers = _split(name)
    if kind == "numeric" and modifiers:
        return _decimal(name, modifiers)
    if wire := _WIRES.get(kind):
        return ColumnType(name, "text", wire, hopeful=wire in ("json", "jsonb"))
    form = _SIMPLE.get(kind)
    if form is None:
        return ColumnType(name, "text", "server")
    if form == "text":
        return ColumnType(name, form, max_length=modifiers[0] if modifiers else None)
    rounded = form in ("timestamp", "timestamptz") and bool(modifiers)
    return ColumnType(name, form, rounded=rounded, hopeful=rounded)


def plain_type(type_: ColumnType) -> ColumnType:
    """The built-in type that it is or that is under it, whoever judges its values; of any other type itself."""
    return _built_in(type_.base_name) if type_.wire == "server" else type_


def base_name(name: str) -> str:
    """A type's name as people write it, without its modifiers and array bounds: ``VARCHAR (5)[]`` → ``varchar``."""
    return " ".join(re.sub(r"\(.*?\)|\[.*?\]", " ", name).lower().removeprefix("pg_catalog.").split())


NEAREST = {
    "bool": "boolean",
    "int": "integer",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "decimal": "numeric",
    "integer": "integer",
    "boolean": "boolean",
    "numeric": "numeric",
    "text": "text",
    "varchar": "varchar",
    "timestamp": "timestamp",
    "timestamptz": "timestamptz",
    # what other systems and languages call them
    "binary": "bytea",
    "blob": "bytea",
    "bytes": "bytea",
    "clob": "text",
    "datetime": "timestamp",
    "datetime2": "timestamp",
    "double": "double precision",
    "float32": "real",
    "float64": "double precision",
    "guid": "uuid",
    "int16": "smallint",
    "int32": "integer",
    "int64": "bigint",
    "long": "bigint",
    "longtext": "text",
    "mediumint": "integer",
    "mediumtext": "text",
    "number": "numeric",
    "nvarchar": "varchar",
    "object": "jsonb",
    "short": "smallint",
    "str": "text",
    "string": "text",
    "tinyint": "smallint",
    "tinytext": "text",
    "uniqueidentifier": "uuid",
    "varbinary": "bytea",
    "varchar2": "varchar",
}
"""What to write instead of a name that PostgreSQL does not have, and short names that a misspelt one may be near to."""


def _decimal(name: str, modifiers: tuple[int, ...]) -> ColumnType:
    precision, scale = (*modifiers, 0)[:2]
    if precision <= _MAX_DECIMAL128_PRECISION and 0 <= scale <= precision:
        return ColumnType(name, "decimal", precision=precision, scale=scale)
    return ColumnType(name, "text", "server")


@cache
def _arrow_type(form: Form, precision: int, scale: int) -> pa.DataType:
    import pyarrow as pa

    if form == "decimal":
        return pa.decimal128(precision, scale)
    return {
        "int16": pa.int16(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float32": pa.float32(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us"),
        "timestamptz": pa.timestamp("us", "UTC"),
        "time": pa.time64("us"),
        "text": pa.string(),
    }[form]


def _split(name: str) -> tuple[str, tuple[int, ...]]:
    """``timestamp(3) with time zone`` → ``("timestamp with time zone", (3,))``."""
    match = _MODIFIED.match(name)
    if match is None:
        return name, ()
    return match["head"] + match["tail"], tuple(int(each) for each in match["mods"].split(","))
