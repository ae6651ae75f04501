"""A sample of records → column types that lose nothing of what they show.

A type is inferred only where its text output gives back every text of the sample: leading zeros stay text,
decimals become ``numeric`` and not floats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from loader.blocks import Splitter
from loader.columns import LoadColumn
from loader.convert import DATE, TIMESTAMP, TIMESTAMP_WITH_OFFSET, convert, decode
from loader.errors import ShapeError
from loader.header import COLUMN_LIMIT, names_to_ask_for, usable_names
from loader.limits import Limits
from loader.margins import without_footer
from loader.parse import Parser
from loader.pgtypes import column_type
from loader.reading import Records, open_records
from loader.records import Block, Place, delimiters, layout
from loader.source import Source
from loader.spec import ColumnSpec, LoadSpec

SAMPLE_RECORDS = 20_000
"""Records of the first block that are looked at. It is read for the load anyway."""

LARGE = 64 << 20
"""Bytes from which on an object's other parts are looked at, too. A smaller one is soon loaded, and the load widens
what was inferred."""

RANGES = 4
RANGE = 1 << 20
"""Bytes of each of so many ranges of a large object: after a quarter, a half, three quarters, and at its end."""

_PIECE = 64 << 10  # bytes of a block there; what a range's end cuts off is at most as much

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


def infer_spec(source: Source, spec: LoadSpec) -> LoadSpec:
    """``spec`` with the dialect of ``source`` and its columns, of its first block and a few spread-out ones.

    Raises SourceError, DecodeError or ShapeError.
    """
    records = open_records(source.chunks(), spec.csv, name=source.uri, limits=Limits.of(spec))
    spread = _spread(source, records)
    columns = infer_columns(records.first, records.header, spec.csv.null, spread=spread, name=source.uri)
    if records.header is not None:
        asked = zip(columns, names_to_ask_for(records.header), strict=True)
        columns = tuple(replace(each, source=name if name != each.name else None) for each, name in asked)
    return replace(spec, csv=records.csv, columns=columns)


def _spread(source: Source, records: Records) -> Iterator[Block]:
    """Blocks from the rest of a large object, which need not be like its beginning.

    A range begins somewhere in a record, maybe in quotes. The splitter takes it for a file whose first record is
    broken, and finds what has the right shape; what has not, is left out.
    """
    first = records.first
    if first is None or not records.form.plain or source.size < LARGE:
        return
    fields = len(_header_or_numbers(records.header, first, source.uri))
    for number in range(1, RANGES + 1):
        last = number == RANGES
        start = source.size - RANGE if last else source.size * number // RANGES
        data = source.read_range(start, start + RANGE)
        line_end = data.find(b"\n") if b"\n" in data else data.find(b"\r")
        splitter = Splitter(first.dialect, name=source.uri, start=Place(fields=fields), block_size=_PIECE)
        text = [data[line_end + 1 :]]
        for chunk in without_footer(text, records.csv.skip_footer, name=source.uri) if last else text:
            yield from splitter.feed(chunk)
        if last:
            yield from splitter.flush()


def infer_columns(
    block: Block | None,
    header: Sequence[str] | None,
    null: Sequence[str],
    *,
    spread: Iterable[Block] = (),
    name: str,
) -> tuple[ColumnSpec, ...]:
    """A column for each field, named by the header or ``column_1`` …, of the narrowest type that holds its sample.

    ``block``: the file's first, None where it has none. ``spread``: others that are to be looked at.
    """
    names = _header_or_numbers(header, block, name)
    places = tuple(LoadColumn(str(place), column_type("text"), place) for place in range(len(names)))
    parser = Parser(places, len(names), null, name=name)
    blocks = (each for each in chain([block], spread) if each is not None and each.terminated)
    rows = [parser.parse(each).batch.slice(0, SAMPLE_RECORDS) for each in blocks]
    return tuple(
        ColumnSpec(each, _narrowest([batch.column(place) for batch in rows])) for place, each in enumerate(names)
    )


def _header_or_numbers(header: Sequence[str] | None, block: Block | None, name: str) -> tuple[str, ...]:
    """Without a header the first record that is no empty line tells how many fields there are. Raises ShapeError."""
    width = len(header) if header is not None else _width_of_first(block) if block is not None else 0
    if width > COLUMN_LIMIT:
        raise ShapeError(f"{name}: has {width:,} columns, and a table can have no more than {COLUMN_LIMIT:,}")
    return usable_names(header) if header is not None else tuple(f"column_{each + 1}" for each in range(width))


def _width_of_first(block: Block) -> int:
    records = (block.raw(index) for index in range(block.records))
    first = next(filter(None, records), b"")
    return len(delimiters(first, layout(first, block.dialect).quotes, block.dialect)) + 1


def _narrowest(values: Sequence[pa.Array]) -> str:
    texts = pa.concat_arrays([pa.nulls(0, pa.string()), *(decode(each)[0].unique() for each in values)])
    texts = texts.drop_null().unique()
    if not len(texts):
        return "text"
    found: str = next((type_name for type_name, pattern in _LADDER if _holds(type_name, pattern, texts)), "text")
    # one letter alone is as likely a code, such as f for female
    return "text" if found == "boolean" and len(texts) == 1 and len(texts[0].as_py()) == 1 else found


def _holds(type_name: str, pattern: str, texts: pa.Array) -> bool:
    """Whether all texts have the pattern, and are values: 2024-02-30 looks like a date."""
    if not pc.all(pc.match_substring_regex(texts, pattern)).as_py():
        return False
    if type_name not in ("date", "timestamp", "timestamptz"):
        return True
    spelled = {"timestamp": "timestamp without time zone", "timestamptz": "timestamp with time zone"}
    return not convert(texts, column_type(spelled.get(type_name, type_name)))[1].any()
