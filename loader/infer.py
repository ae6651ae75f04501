"""A sample of records → column types that lose nothing of what they show.

A type is inferred only where its text output gives back every text of the sample: leading zeros stay text,
decimals become ``numeric`` and not floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from loader.columns import LoadColumn
from loader.convert import DATE, TIMESTAMP, TIMESTAMP_WITH_OFFSET, convert, decode
from loader.errors import ShapeError
from loader.fields import split_record
from loader.header import COLUMN_LIMIT, usable_names
from loader.parse import Parser
from loader.pgtypes import column_type
from loader.reading import open_records
from loader.records import Block
from loader.source import Source
from loader.spec import ColumnSpec, LoadSpec

SAMPLE_RECORDS = 20_000
"""Records that are looked at. They come from the first block, so a sample costs no second read."""

_DECIMAL = r"(?:0|-?[1-9][0-9]*)(?:\.[0-9]+)?|-0\.0*[1-9][0-9]*"  # not -0, which numeric gives back as 0
_EXPONENT = r"[eE][+-]?[0-9]{1,2}"
_FIFTEEN_DIGITS = r"(?:(?:0|[1-9][0-9]{0,6})(?:\.[0-9]{1,8})?|[0-9]\.[0-9]{1,14}|[1-9][0-9]{0,14})"
_INSTANT = TIMESTAMP.replace(")?$", ")$")  # a day alone is a date, and would come back as more

# First match wins. Each pattern takes only texts that their type gives back with nothing lost: 007 is no number,
# bigint holds any 18 digits, double precision any 15 (manual, 8.1.3), numeric all.
_LADDER = (
    ("boolean", r"^(?:true|false|TRUE|FALSE|True|False|t|f)$"),
    ("bigint", r"^(?:0|-?[1-9][0-9]{0,17})$"),
    ("numeric", rf"^(?:{_DECIMAL})$"),
    ("double precision", rf"^-?{_FIFTEEN_DIGITS}(?:{_EXPONENT})?$"),
    ("numeric", rf"^(?:{_DECIMAL})(?:{_EXPONENT})?$"),
    ("date", DATE),
    ("timestamp", _INSTANT),
    ("timestamptz", TIMESTAMP_WITH_OFFSET),
    ("uuid", r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"),
)

PATTERNS: dict[str, str] = dict(_LADDER)
"""For each type that is inferred, the texts that a column of it may hold. A text that does not match widens the
column, though the type might take it: ``007`` would lose its zeros."""

_WIDER = {"bigint": ("numeric",), "double precision": ("numeric",)}
"""Types that hold all values of another with nothing lost."""


def widened(type_name: str, texts: pa.Array) -> str:
    """The narrowest wider type, for a column of an inferred type that does not hold these texts."""
    wider: str
    for wider in _WIDER.get(type_name, ()):
        if _holds(wider, PATTERNS[wider], texts):
            return wider
    return "text"


def infer_spec(source: Source, table: str) -> LoadSpec:
    """A spec for ``source``, of its first block alone."""
    plain = LoadSpec.from_dict({}, table=table)
    records = open_records(source.chunks(), plain.csv, name=source.uri)
    columns = infer_columns(records.first, records.header, plain.csv.null, name=source.uri)
    return replace(plain, columns=columns)


def infer_columns(
    block: Block | None, header: Sequence[str] | None, null: Sequence[str], *, name: str
) -> tuple[ColumnSpec, ...]:
    """A column for each field, named by the header or ``column_1`` …, of the narrowest type that holds its sample."""
    names = usable_names(header) if header is not None else _numbered(block)
    if len(names) > COLUMN_LIMIT:
        raise ShapeError(f"{name}: has {len(names):,} columns, and a table can have no more than {COLUMN_LIMIT:,}")
    places = tuple(LoadColumn(str(place), column_type("text"), place) for place in range(len(names)))
    if block is None or not block.terminated:
        return tuple(ColumnSpec(each, "text") for each in names)
    rows = Parser(places, len(names), null, name=name).parse(block).batch.slice(0, SAMPLE_RECORDS)
    return tuple(ColumnSpec(each, _narrowest(rows.column(place))) for place, each in enumerate(names))


def _numbered(block: Block | None) -> tuple[str, ...]:
    if block is None:
        return ()
    return tuple(f"column_{number + 1}" for number in range(len(split_record(block.raw(0), block.dialect))))


def _narrowest(values: pa.Array) -> str:
    texts, _ = decode(values)
    texts = texts.drop_null().unique()
    if not len(texts):
        return "text"
    return next((type_name for type_name, pattern in _LADDER if _holds(type_name, pattern, texts)), "text")


def _holds(type_name: str, pattern: str, texts: pa.Array) -> bool:
    """Whether all texts have the pattern, and are values: 2024-02-30 looks like a date."""
    if not pc.all(pc.match_substring_regex(texts, pattern)).as_py():
        return False
    if type_name not in ("date", "timestamp", "timestamptz"):
        return True
    spelled = {"timestamp": "timestamp without time zone", "timestamptz": "timestamp with time zone"}
    return not convert(texts, column_type(spelled.get(type_name, type_name)))[1].any()
