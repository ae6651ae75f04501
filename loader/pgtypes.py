"""PostgreSQL's types, and how each travels: as an Arrow type through binary COPY, or as text that the server casts.

A type is carried in binary where Arrow holds every one of its values that Arrow's own parser accepts;
everything else (uuid, jsonb, unconstrained numeric, arrays, enums, domains, any extension's type) is
carried as text, because a cast by the server is the definition of what its text means.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa

_MAX_DECIMAL128_PRECISION = 38  # Arrow's limit for decimal128

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

_MODIFIED = re.compile(r"^(?P<head>[a-z ]+?)\((?P<mods>-?\d+(?:,-?\d+)*)\)(?P<tail>[a-z ]*)$")


@dataclass(frozen=True, slots=True)
class ColumnType:
    """One PostgreSQL type as a load sees it.

    ``name`` is PostgreSQL's own spelling (``format_type``), modifiers included; ``arrow`` is what a record
    batch holds; ``carried_as_text`` says that staging holds text which the server casts; ``max_length`` is
    the limit of ``varchar(n)`` and ``char(n)`` in characters.
    """

    name: str
    arrow: pa.DataType
    carried_as_text: bool = False
    max_length: int | None = None

    @property
    def staging_name(self) -> str:
        """The type of the staging column that receives it."""
        return "text" if self.carried_as_text else self.name


def column_type(name: str) -> ColumnType:
    """The column type for a name as ``format_type(oid, typmod)`` spells it, such as ``numeric(15,2)``."""
    base, modifiers = _split(name)
    if base == "numeric":
        return _numeric(name, modifiers)
    arrow = _SIMPLE.get(base)
    if arrow is None:
        return ColumnType(name, pa.string(), carried_as_text=True)
    is_limited_text = pa.types.is_string(arrow) and bool(modifiers)
    return ColumnType(name, arrow, max_length=modifiers[0] if is_limited_text else None)


def _numeric(name: str, modifiers: tuple[int, ...]) -> ColumnType:
    precision, scale = (*modifiers, 0)[:2] if modifiers else (0, 0)
    if 0 < precision <= _MAX_DECIMAL128_PRECISION and 0 <= scale <= precision:
        return ColumnType(name, pa.decimal128(precision, scale))
    return ColumnType(name, pa.string(), carried_as_text=True)


def _split(name: str) -> tuple[str, tuple[int, ...]]:
    """``timestamp(3) with time zone`` → ``("timestamp with time zone", (3,))``."""
    match = _MODIFIED.match(name)
    if match is None:
        return name, ()
    return match["head"] + match["tail"], tuple(int(each) for each in match["mods"].split(","))
