"""``delimiter = "auto"`` and ``header = "auto"``: the dialect as the beginning of a file shows it.

The delimiter is the candidate by which, under COPY's rules of quoting, the records have the same number of
fields: nine in ten at least, the first among them, and more than one field. Of several the one with more fields
wins, then the earlier candidate. A first line ``sep=;``, as Excel writes it, decides. The first record is a
header unless one of its fields is empty, repeated, or a number, a date or a time; where the columns are all of
text it must not come again in its column either.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from loader.fields import Dialect, UnterminatedQuoteError, split_record
from loader.records import layout
from loader.spec import CsvSpec

SAMPLE = 256 << 10
"""Bytes of the file's text that are looked at."""

RECORDS = 200
"""Records of them at most."""

CANDIDATES = (",", ";", "\t", "|", ":", "^", "~", " ")

_ENOUGH = 0.9
_VALUE = re.compile(
    r"\s*(?:[-+]?[0-9][0-9.,' ]*(?:[eE][-+]?[0-9]+)?%?"
    r"|[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}(?:[ T].*)?"
    r"|[0-9]{1,2}:[0-9:.]+)\s*"
)


def sniff(text: Iterator[bytes], csv: CsvSpec) -> tuple[CsvSpec, Iterator[bytes]]:
    """The dialect with nothing left to find, and the text with nothing taken off."""
    if csv.delimiter != "auto" and csv.header != "auto":
        return csv, text
    taken: list[bytes] = []
    while sum(map(len, taken)) < SAMPLE and (chunk := next(text, None)) is not None:
        taken.append(chunk)
    sample = b"".join(taken)
    whole = len(sample) < SAMPLE
    if csv.delimiter == "auto":
        csv = _with_delimiter(sample, csv, whole=whole)
    if csv.header == "auto":
        csv = replace(csv, header=_has_header(_records(sample, csv, whole=whole)))
    return csv, chain([sample] if sample else [], text)


def _with_delimiter(sample: bytes, csv: CsvSpec, *, whole: bool) -> CsvSpec:
    if told := re.match(rb"sep=([^\r\n]+)\r?\n", _after_lines(sample, csv.skip_lines)):
        return replace(csv, delimiter=told[1].decode("utf-8", "replace"), skip_lines=csv.skip_lines + 1)
    found: list[tuple[int, str]] = []
    for candidate in CANDIDATES:
        doubled = candidate * 2
        for delimiter in (doubled, candidate) if _always_doubled(sample, candidate) else (candidate,):
            fields = _consistent(_records(sample, replace(csv, delimiter=delimiter), whole=whole))
            if fields > 1:
                found.append((fields, delimiter))
                break
    most = max((fields for fields, _ in found), default=0)
    return replace(csv, delimiter=next((each for fields, each in found if fields == most), ","))


def _always_doubled(sample: bytes, character: str) -> bool:
    return character * 2 in sample.decode("utf-8", "replace") and all(
        len(run) % 2 == 0 for run in re.findall(re.escape(character.encode()) + rb"+", sample)
    )


def _consistent(records: Sequence[list[str]]) -> int:
    """The number of fields that the records share, 0 where they share none."""
    if not records:
        return 0
    counts = Counter(len(record) for record in records)
    fields, times = counts.most_common(1)[0]
    return fields if times >= _ENOUGH * len(records) and len(records[0]) == fields else 0


def _records(sample: bytes, csv: CsvSpec, *, whole: bool) -> list[list[str]]:
    """The first records of the sample as texts, without comments and empty lines."""
    dialect = Dialect.of(csv)
    data = _after_lines(sample, csv.skip_lines)
    ends = layout(data, dialect, final=whole).ends.tolist()
    if whole and (not ends or ends[-1] < len(data)):
        ends.append(len(data))
    records: list[list[str]] = []
    start = 0
    for end in ends:
        record, start = data[start:end].rstrip(b"\r\n"), end
        if not record or (csv.comment and record.startswith(csv.comment.encode())):
            continue
        try:
            records.append([value.decode("utf-8", "replace") for value, _ in split_record(record, dialect)])
        except UnterminatedQuoteError:
            break
        if len(records) == RECORDS:
            break
    return records


def _after_lines(data: bytes, lines: int) -> bytes:
    for _ in range(lines):
        found = re.search(rb"\r\n|\n|\r", data)
        data = data[found.end() :] if found else b""
    return data


def _has_header(records: Sequence[list[str]]) -> bool:
    if not records:
        return True
    names, *others = records
    if any(not name.strip() or _VALUE.fullmatch(name) for name in names) or len(set(names)) < len(names):
        return False
    columns = [[record[place] for record in others if len(record) == len(names)] for place in range(len(names))]
    if any(values and all(_VALUE.fullmatch(value) for value in values if value) for values in columns):
        return True
    return not any(name in values for name, values in zip(names, columns, strict=True))
