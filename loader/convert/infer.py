"""A sample of records → column types that lose nothing of what they show.

A type is inferred only where its value says all that every text of the sample says: leading zeros stay text,
decimals become ``numeric`` and not floats. Numbers in the file's own style (`sniff_style`) are numbers, and dates in a
format that the file decides (`infer_dates`) are dates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from loader.convert.infer_dates import Dated, dated
from loader.convert.parse import Parser
from loader.convert.steps import apply
from loader.convert.values import DATE, TIMESTAMP, TIMESTAMP_WITH_OFFSET, convert, decode
from loader.core.display import shown
from loader.core.errors import ShapeError
from loader.core.pgtypes import COLUMN_LIMIT, column_type
from loader.core.spec.limits import Limits
from loader.core.spec.model import ColumnSpec, CsvSpec, LoadSpec, Step
from loader.postgres.load_column import LoadColumn
from loader.records.block import Block, Place, delimiters, layout
from loader.records.header import names_to_ask_for, usable_names
from loader.records.reading.preamble import without_footer
from loader.records.reading.reader import Records, open_records
from loader.records.reading.sniffer import sniffed
from loader.records.splitter import Splitter
from loader.sources.source import Source

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
    ("boolean", r"^(?:true|false|TRUE|FALSE|True|False|t|f|yes|no|YES|NO|Yes|No)$"),
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


def _silent(_note: str) -> None:
    """For who does not want to know."""


def infer_spec(source: Source, spec: LoadSpec, *, note: Callable[[str], None] = _silent) -> LoadSpec:
    """``spec`` with the dialect of ``source`` and its columns, of its first block and a few spread-out ones.

    ``note`` is given a sentence on each thing that a reader should know. Raises SourceError, DecodeError or ShapeError.
    """
    records = open_records(source.chunks(), spec.csv, name=source.uri, limits=Limits.of(spec))
    spread = _spread(source, records)
    columns = infer_columns(records.first, records.header, records.csv, spread=spread, name=source.uri, note=note)
    for told in sniffed(spec.csv, records.csv):
        note(told)
    if records.header is not None:
        asked = zip(columns, names_to_ask_for(records.header[: len(columns)]), strict=True)
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
    csv: CsvSpec,
    *,
    spread: Iterable[Block] = (),
    name: str,
    note: Callable[[str], None] = _silent,
) -> tuple[ColumnSpec, ...]:
    """A column for each field, named by the header or ``column_1`` …, of the narrowest type that holds its sample.

    ``block``: the file's first, None where it has none. ``spread``: others that are to be looked at.
    """
    sampled = _samples(block, header, csv, spread=spread, name=name)
    return tuple(_column(each, texts, csv, note) for each, texts in sampled)


def open_days(block: Block | None, header: Sequence[str] | None, csv: CsvSpec, *, name: str) -> dict[int, str]:
    """Fields of whose days nothing in the file tells which number is the month: an example, and how it may be read."""
    found = {}
    for place, (_, texts) in enumerate(_samples(block, header, csv, name=name)):
        moments = dated(texts, csv.dates) if len(texts) else None
        if moments is not None and moments.format is None:
            found[place] = f"{shown(texts[0].as_py())} is a day by {' or '.join(moments.either)}"
    return found


def _samples(
    block: Block | None, header: Sequence[str] | None, csv: CsvSpec, *, spread: Iterable[Block] = (), name: str
) -> list[tuple[str, pa.StringArray]]:
    """The distinct texts of each field's sample, without NULLs, with the field's name."""
    names = _header_or_numbers(header, block, name)
    places = tuple(LoadColumn(str(place), column_type("text"), place) for place in range(len(names)))
    parser = Parser(places, len(names), csv.null, name=name)
    blocks = (each for each in chain([block], spread) if each is not None and each.terminated)
    rows = [parser.parse(each).batch.slice(0, SAMPLE_RECORDS) for each in blocks]
    named = names[: len(names) - csv.trailing_delimiter]
    return [(each, _distinct([batch.column(place) for batch in rows])) for place, each in enumerate(named)]


def _distinct(values: Sequence[pa.Array]) -> pa.StringArray:
    texts = pa.concat_arrays([pa.nulls(0, pa.string()), *(decode(each)[0].unique() for each in values)])
    return texts.drop_null().unique()


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


def _column(name: str, texts: pa.StringArray, csv: CsvSpec, note: Callable[[str], None]) -> ColumnSpec:
    if not len(texts):
        return ColumnSpec(name, "text")
    found = _narrowest(texts, csv)
    if found != "text":
        return ColumnSpec(name, found)
    moments = dated(texts, csv.dates)
    if moments is not None and moments.format is not None:
        return ColumnSpec(name, moments.type, format=moments.format)
    for told in _undecided(name, texts, moments):
        note(told)
    return ColumnSpec(name, "text")


def _undecided(name: str, texts: pa.Array, moments: Dated | None) -> Iterator[str]:
    """What a column would be if the file said how it is written."""
    example = shown(texts[0].as_py())
    if moments is not None and len(moments.either) > 1:
        formats = " or ".join(moments.either)
        yield f'the column "{name}" is text: {example} is a day by {formats}, and the file does not tell which'
    elif pc.all(pc.match_substring_regex(texts, _AMBIGUOUS)).as_py():
        yield f'the column "{name}" is text: nothing in the file tells whether the comma of {example} is a decimal one'


_AMBIGUOUS = r"^[+-]?[0-9]{1,3}(?:,[0-9]{3})?$"
"""Numbers to one reader and others to the next; whole numbers alone were found before."""

_NUMBERS = ("bigint", "numeric", "double precision")


def _narrowest(texts: pa.Array, csv: CsvSpec) -> str:
    numbers = texts
    if (csv.decimal, csv.thousands) != (".", ""):
        numbers = apply(Step("number", (csv.decimal, csv.thousands)), texts)
    found: str = next(
        (each for each, pattern in _LADDER if _holds(each, pattern, numbers if each in _NUMBERS else texts)), "text"
    )
    return "text" if found == "boolean" and not _is_boolean(set(texts.to_pylist())) else found


def _is_boolean(texts: set[str]) -> bool:
    """One letter alone is as likely a code, such as f for female; and yes alone as likely a word."""
    words = {text.lower() for text in texts}
    if words & {"yes", "no"}:
        return words == {"yes", "no"}
    return len(texts) > 1 or len(next(iter(texts))) > 1


def _holds(type_name: str, pattern: str, texts: pa.Array) -> bool:
    """Whether all texts have the pattern, and are values: 2024-02-30 looks like a date."""
    if not pc.all(pc.match_substring_regex(texts, pattern)).as_py():
        return False
    if type_name not in ("date", "timestamp", "timestamptz"):
        return True
    spelled = {"timestamp": "timestamp without time zone", "timestamptz": "timestamp with time zone"}
    return not convert(texts, column_type(spelled.get(type_name, type_name)))[1].any()
