"""``delimiter = "auto"`` and ``header = "auto"``: the dialect as the beginning of a file shows it.

**The delimiter.** A first line such as ``sep=;``, as Excel writes it, decides. Else the beginning of the file is
divided into records by each candidate, by COPY's rules of quoting, as a load would divide it. A candidate is as good
as it gives many records the same number of fields, many fields rather than few, and clean ones: a field with another
likely delimiter in it is not, unless it is a number such as ``1,50``. Characters that stand in texts, times and
names too (a colon, a blank) count half. Of equals the earlier candidate wins; a file of one column has a comma.

**The header.** Each column votes. Where its first text is a name and all below are values (numbers, dates, times,
booleans), the first record is a header; where the first is a value itself, it is not, except for years in a row
(1990, 1991, …), which are names as often. Where no column votes, all are of text: then the first record is a header
if its texts are there, differ, and none of them comes again in its column. An index, which has no gaps, may lack its
name; where it counts the records, as R and pandas write it, what lacks it is surely the header.

This is a guess by nature, so it is asked for, told in the report, and written out by ``infer``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice, pairwise

import numpy as np
import numpy.typing as npt

from loader.blocks import Splitter
from loader.fields import Dialect, Field, UnterminatedQuoteError, split_record
from loader.records import Block, delimiters
from loader.spec import CsvSpec

SAMPLE = 256 << 10
"""Bytes of the file's text that are looked at."""

WIDE_SAMPLE = 4 << 20
"""Bytes that are looked at where fewer do not hold two lines: a header alone may be as long."""

LIKELY = (",", ";", "\t", "|")
UNLIKELY = (":", " ", "^", "~")
DOUBLED = ("||", "::", "^^", "~~")

_PIECE = 16 << 10  # bytes of a block; what the sample cuts off is at most as much, and a block costs 0.1 ms
_ROWS = 1000  # records whose fields are looked at, of as many fields in all:
_CELLS = 50_000
_LONGEST = 64 << 10  # bytes of a record that are looked at
_GIVEN_UP = 500  # lines after unbalanced quotes
_ENOUGH = 0.75  # of the records, that must agree

_MONEY = rb"(?:[$%]|\xe2\x82\xac|\xc2\xa3)?"  # of the others, euro and pound
_NUMBER = rb"\(?[-+]?" + _MONEY + rb" ?(?:[0-9][0-9.,']*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})? ?" + _MONEY + rb"\)?"
_CLOCK = rb"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?(?: ?[AaPp][Mm])?(?:Z| ?[-+][0-9:]{2,6})?"
_DAY = rb"[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}"
_UUID = rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_VALUE = re.compile(
    rb"[ \t]*(?:"
    + rb"|".join((_NUMBER, _DAY + rb"(?:[ T]" + _CLOCK + rb")?", _CLOCK, _UUID, rb"(?i:true|false)"))
    + rb")[ \t]*"
)
_NOTHING = frozenset({b"", b"na", b"n/a", b"nan", b"null", b"none", b"nil", b"-", b"--", b"?", b".", b"\\n", b"#n/a"})
"""Texts that stand for no value, in small letters; they say nothing about a column."""

_YEAR = re.compile(rb"1[5-9][0-9]{2}|2[01][0-9]{2}")
_SEPARATOR = re.compile(rb"(\"?)sep=([^\r\n]{1,8}?)\1(\r\n|\n|\r|\Z)", re.IGNORECASE)
_LINE_END = re.compile(rb"\r\n|\n|\r")


def sniff(text: Iterator[bytes], csv: CsvSpec) -> tuple[CsvSpec, Iterator[bytes]]:
    """``csv`` with nothing left to find, and the ``text``, in UTF-8, with nothing taken off."""
    if csv.delimiter != "auto" and csv.header != "auto":
        return csv, text
    sample, text = _sample(text, csv.skip_lines)
    sample, csv = _without_separator_line(sample, csv)
    reading = _best(sample, csv) if csv.delimiter == "auto" else _Reading(sample, csv)
    header = _has_header(reading) if csv.header == "auto" else csv.header
    return replace(reading.csv, header=header), text


def sniffed(asked: CsvSpec, found: CsvSpec) -> tuple[str, ...]:
    """What a reader of the report should know of the dialect ``found``, in one sentence; none where all was given."""
    parts = []
    if asked.delimiter == "auto":
        parts.append(f"the delimiter {json.dumps(found.delimiter, ensure_ascii=False)}")
    if asked.header == "auto":
        parts.append("a header" if found.header else "that there is no header")
    if not parts:
        return ()
    return (f"{' and '.join(parts)} {'were' if len(parts) > 1 else 'was'} found by sniffing",)


# --- the sample


@dataclass(frozen=True, slots=True)
class _Sample:
    """The beginning of a file, without the lines to skip. ``whole``: nothing follows."""

    data: bytes
    whole: bool


def _sample(text: Iterator[bytes], skip_lines: int) -> tuple[_Sample, Iterator[bytes]]:
    taken: list[bytes] = []
    size = lines = 0
    while size < SAMPLE or (lines < skip_lines + 2 and size < WIDE_SAMPLE):
        chunk = next(text, None)
        if chunk is None:
            return _Sample(_after_lines(b"".join(taken), skip_lines), whole=True), iter(taken)
        taken.append(chunk)
        size += len(chunk)
        lines += chunk.count(b"\n") or chunk.count(b"\r")
    limit = SAMPLE if lines > skip_lines + 2 else WIDE_SAMPLE
    return _Sample(_after_lines(b"".join(taken)[:limit], skip_lines), whole=False), chain(taken, text)


def _after_lines(data: bytes, count: int) -> bytes:
    ends = (found.end() for found in _LINE_END.finditer(data))
    return data[next(islice(ends, count - 1, None), len(data)) :] if count else data


def _without_separator_line(sample: _Sample, csv: CsvSpec) -> tuple[_Sample, CsvSpec]:
    """Excel's line is no record, and what it names is the delimiter, if it is one that can be read by."""
    line = _SEPARATOR.match(sample.data)
    named = line[2].decode("utf-8", "replace") if line else ""
    if not named or "\ufffd" in named or (csv.quote and csv.quote in named) or csv.delimiter not in ("auto", named):
        return sample, csv
    return (
        _Sample(_after_lines(sample.data, 1), sample.whole),
        replace(csv, delimiter=named, skip_lines=csv.skip_lines + 1),
    )


class _Reading:
    """The sample's records as one dialect has them."""

    def __init__(self, sample: _Sample, csv: CsvSpec) -> None:
        self.csv = csv
        self._dialect = Dialect.of(csv)
        self._null = {null.encode() for null in csv.null}
        splitter = Splitter(self._dialect, name="", block_size=_PIECE)
        self._blocks = list(_until_broken(splitter.feed(sample.data)))
        # of a cut file, the last record says too little; unless it is the only one, such as a very long header
        if sample.whole or not self._blocks:
            self._blocks += _until_broken(splitter.flush())

    @cached_property
    def widths(self) -> npt.NDArray[np.intp]:
        """The number of fields of each record that is no empty line, shape (n,); 0 for a line that was given up."""
        widths = [np.empty(0, np.intp), *map(self._widths_of, self._blocks)]
        whole = np.concatenate(widths)
        return whole[: len(whole) - self.csv.skip_footer] if self.csv.skip_footer else whole

    def _widths_of(self, block: Block) -> npt.NDArray[np.intp]:
        if not block.terminated:
            return np.zeros(block.records, np.intp)
        places = delimiters(block.data, block.layout.quotes, self._dialect)
        widths = np.searchsorted(places, block.ends) - np.searchsorted(places, block.starts[:-1]) + 1
        return np.delete(widths, block.empty_lines())

    @cached_property
    def width(self) -> int:
        """The number of fields that most records have; of two that are as frequent, the greater one."""
        if not len(self.widths):
            return 0
        values, counts = np.unique(self.widths, return_counts=True)
        return int(values[len(values) - 1 - int(counts[::-1].argmax())])

    @cached_property
    def rows(self) -> list[list[Field]]:
        """The fields of the first records."""
        rows: list[list[Field]] = []
        cells = 0
        for width, record in zip(self.widths.tolist(), self._records(), strict=False):
            cells += width
            if len(rows) == _ROWS or (cells > _CELLS and rows):
                break
            try:
                rows.append(split_record(record[:_LONGEST], self._dialect))
            except UnterminatedQuoteError:  # where it was cut
                break
        return rows

    def _records(self) -> Iterator[bytes]:
        """The records that are no empty lines; b"" in place of a line that was given up."""
        for block in self._blocks:
            if not block.terminated:
                yield from [b""] * block.records
                continue
            empty = set(block.empty_lines().tolist())
            yield from (block.raw(index) for index in range(block.records) if index not in empty)

    def is_nothing(self, field: Field) -> bool:
        value, quoted = field
        return (not quoted and value in self._null) or value.strip().lower() in _NOTHING


def _until_broken(blocks: Iterator[Block]) -> Iterator[Block]:
    """The blocks up to where too many lines were given up: each costs ten times as much as a record, or more."""
    given_up = 0
    for block in blocks:
        yield block
        given_up += 0 if block.terminated else block.records
        if given_up > _GIVEN_UP:
            return


# --- the delimiter


def _best(sample: _Sample, csv: CsvSpec) -> _Reading:
    taken = (csv.quote, csv.escape, csv.comment)
    usable = [each for each in LIKELY + UNLIKELY + DOUBLED if each not in taken and each.encode() in sample.data]
    readings = {each: _Reading(sample, replace(csv, delimiter=each)) for each in usable}
    for doubled in DOUBLED:
        if doubled in readings and doubled[0] in readings:
            in_pairs = _stands_in_pairs(readings[doubled[0]], readings[doubled])
            del readings[doubled[0] if in_pairs else doubled]
    for worth in (_worth, _ragged_worth):
        worths = {each: worth(reading) for each, reading in readings.items()}
        best = max(worths, key=worths.__getitem__, default=",")
        if worths.get(best, 0) > 0:
            return readings[best]
    return _Reading(sample, replace(csv, delimiter=","))


def _stands_in_pairs(single: _Reading, doubled: _Reading) -> bool:
    """Whether a character stands doubled in the first record, and mostly elsewhere: else fields are empty."""
    singles, pairs = (np.maximum(reading.widths - 1, 0) for reading in (single, doubled))
    if not len(singles) or not len(pairs) or singles[0] != 2 * pairs[0]:
        return False
    return bool(0 < _ENOUGH * singles.sum() <= 2 * pairs.sum())


def _worth(reading: _Reading) -> float:
    """How likely its delimiter is the file's, from 0 to 1."""
    widths, width = reading.widths, reading.width
    if width < 2:
        return 0.0
    agreeing = float((widths == width).mean())
    if agreeing < _ENOUGH:
        return 0.0
    first = 1.0 if widths[0] == width else 0.5  # the header, most often
    usual = 1.0 if reading.csv.delimiter in LIKELY or len(reading.csv.delimiter) > 1 else 0.5
    return agreeing * (1 - 1 / width) * first * usual * _cleanness(reading)


def _ragged_worth(reading: _Reading) -> float:
    """The same where records have all numbers of fields: nearly each must have the delimiter, and most the first."""
    widths = reading.widths
    if reading.csv.delimiter not in LIKELY or not len(widths) or (widths > 1).mean() < 0.9:
        return 0.0
    return float((widths <= widths[0]).mean()) * _cleanness(reading)


def _cleanness(reading: _Reading) -> float:
    """The mean over fields: 1 for a value, for nothing, and for what is quoted; a little less for a text; 0 for one
    with another likely delimiter in it. A comma before a blank is prose."""
    other = b"".join(each.encode() for each in LIKELY if each not in (reading.csv.delimiter, ","))
    pattern = rb"[" + re.escape(other) + rb"]"
    dirty = re.compile(pattern if reading.csv.delimiter == "," else pattern + rb"|,(?! )")
    total = cells = 0.0
    for row in reading.rows[:100]:
        cells += len(row)
        total += sum(_clean(field, dirty) for field in row)
    return total / cells if cells else 0.0


def _clean(field: Field, dirty: re.Pattern[bytes]) -> float:
    value, quoted = field
    if quoted or not value or _VALUE.fullmatch(value):
        return 1.0
    return 0.0 if dirty.search(value) else 0.9


# --- the header


def _has_header(reading: _Reading) -> bool:
    rows = reading.rows
    if not rows or not rows[0]:
        return True
    names, others = rows[0], rows[reading.csv.header_rows :]
    below = [[row[place] for row in others if len(row) == len(names)] for place in range(len(names))]
    if not names[0][0].strip() and _counts_records(below[0]):
        return True
    years = _years(names)
    votes: Counter[bool | None] = Counter(
        None if place in years else _vote(reading, name, values)
        for place, (name, values) in enumerate(zip(names, below, strict=True))
    )
    if votes[True] or votes[False]:
        return votes[True] >= votes[False]
    return _are_names(reading, names, below)


def _vote(reading: _Reading, name: Field, below: Sequence[Field]) -> bool | None:
    """Whether a column says that its first text is a name; None where it does not say."""
    if reading.is_nothing(name):
        return None
    if _VALUE.fullmatch(name[0]):
        return False
    known = [value for value in below if not reading.is_nothing(value)]
    values = sum(_VALUE.fullmatch(value) is not None for value, _ in known)
    return True if known and values >= 0.9 * len(known) else None


def _counts_records(values: Sequence[Field]) -> bool:
    """Whether they are 0, 1, 2 … or 1, 2, 3 …, as R and pandas write beside the records, mostly without a name."""
    first = next((int(value == b"1") for value, _ in values), 0)
    return len(values) > 1 and all(value == str(at).encode() for at, (value, _) in enumerate(values, start=first))


def _years(names: Sequence[Field]) -> set[int]:
    """The places of years that follow one another by the same step, three at least."""
    places = [place for place, (name, _) in enumerate(names) if _YEAR.fullmatch(name)]
    years = [int(names[place][0]) for place in places]
    steps = {later - earlier for earlier, later in pairwise(years)}
    return set(places) if len(years) > 2 and len(steps) == 1 and 0 not in steps else set()


def _are_names(reading: _Reading, names: Sequence[Field], below: Sequence[Sequence[Field]]) -> bool:
    texts = [name for name, _ in names]
    if all(reading.is_nothing(name) for name in names) or len(set(texts)) < len(texts):
        return False
    for name, values in zip(names, below, strict=True):
        if not name[0].strip():
            if any(reading.is_nothing(value) for value in values):
                return False  # unlike an index without a name, it has gaps
        elif any(value == name[0] for value, _ in values):
            return False
    return True
