"""PostgreSQL's types, and how each travels.

A value travels in binary COPY. Its bytes are made here, by way of Arrow or of `wire`, where what the bytes mean
is certain; of everything else (arrays, ranges, intervals, composites, any extension's type) the server itself
makes them out of the text, in `lane`, because its input function is the definition of what the text means.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa

_MAX_DECIMAL128_PRECISION = 38  # Arrow's limit for decimal128

Wire = Literal["arrow", "numeric", "uuid", "enum", "json", "jsonb", "server"]
"""Who makes a value's bytes: Arrow's own type, one of the functions of `wire`, or the server."""

_SIMPLE: dict[str, pa.DataType] = {
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp without time zone": pa.timestamp("us"),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
    "time without time zone": pa.time64("us"),
    "text": pa.string(),
    "character varying": pa.string(),
    "character": pa.string(),
}

_WIRES: dict[str, Wire] = {"numeric": "numeric", "uuid": "uuid", "json": "json", "jsonb": "jsonb"}

_UNSOUND = ("tsquery",)
"""Types whose binary input refuses a value that their binary output gives: that of no words at all."""

_MODIFIED = re.compile(r"^(?P<head>[a-z ]+?)\((?P<mods>-?\d+(?:,-?\d+)*)\)(?P<tail>[a-z ]*)$")


@dataclass(frozen=True, slots=True)
class TypeFacts:
    """What the catalog says of a type. ``base``: of a domain. ``labels``: of an enum. ``binary``: it has that form."""

    base: str | None = None
    labels: tuple[str, ...] = ()
    binary: bool = True


@dataclass(frozen=True, slots=True)
class ColumnType:
    """One PostgreSQL type as a load sees it.

    ``name`` is PostgreSQL's own spelling (``format_type``), modifiers included; ``arrow`` is what a record
    batch holds; ``max_length`` is the limit of ``varchar(n)`` and ``char(n)`` in characters; ``labels`` are an
    enum's. ``hopeful``: the client sends what it cannot judge (JSON, a domain's CHECK), so the server may refuse
    a whole stream for one value, and the load then begins again with that column ``judged``. ``text_only``:
    the type has no binary form, so staging holds text, which the merge casts.
    """

    name: str
    arrow: pa.DataType
    wire: Wire = "arrow"
    max_length: int | None = None
    labels: tuple[str, ...] = ()
    hopeful: bool = False
    text_only: bool = False

    @property
    def staging_name(self) -> str:
        """The type of the staging column that receives it."""
        return "text" if self.text_only else self.name

    @property
    def judged(self) -> ColumnType:
        """The same type with the server as the judge of each value."""
        return replace(self, arrow=pa.string(), wire="server", max_length=None, hopeful=False)


def column_type(name: str, facts: TypeFacts | None = None, base: ColumnType | None = None) -> ColumnType:
    """The column type for a name as ``format_type(oid, typmod)`` spells it, such as ``numeric(15,2)``.

    ``base`` is the type under a domain: its values are a domain's too, as far as its constraints allow.
    """
    if base is not None:
        return replace(base, name=name, hopeful=True)
    if (facts is not None and not facts.binary) or name.startswith(_UNSOUND):
        return ColumnType(name, pa.string(), "server", text_only=True)
    if facts is not None and facts.labels:
        return ColumnType(name, pa.string(), "enum", labels=facts.labels)
    return _built_in(name)


def _built_in(name: str) -> ColumnType:
    kind, modifiers = _split(name)
    if kind == "numeric" and modifiers:
        return _decimal(name, modifiers)
    if wire := _WIRES.get(kind):
        return ColumnType(name, pa.string(), wire, hopeful=wire in ("json", "jsonb"))
    arrow = _SIMPLE.get(kind)
    if arrow is None:
        return ColumnType(name, pa.string(), "server")
    is_limited_text = pa.types.is_string(arrow) and bool(modifiers)
    return ColumnType(name, arrow, max_length=modifiers[0] if is_limited_text else None)


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
        return ColumnType(name, pa.decimal128(precision, scale))
    return ColumnType(name, pa.string(), "server")


def _split(name: str) -> tuple[str, tuple[int, ...]]:
    """``timestamp(3) with time zone`` → ``("timestamp with time zone", (3,))``."""
    match = _MODIFIED.match(name)
    if match is None:
        return name, ()
    return match["head"] + match["tail"], tuple(int(each) for each in match["mods"].split(","))
