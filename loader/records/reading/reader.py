"""The reading half of the flow: an object's bytes → its header and its blocks."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from loader.core.errors import DecodeError
from loader.core.spec.limits import Limits
from loader.core.spec.model import CsvSpec
from loader.records.block import Block, Place, joined
from loader.records.dialect import Dialect
from loader.records.reading.preamble import read_preamble, without_footer
from loader.records.reading.sniffer import sniff
from loader.records.splitter import split
from loader.sources.decode import decompress, find_compression, find_encoding, gather, peek, transcode, without
from loader.sources.encoding_guess import HEAD as HEAD_OF_TEXT
from loader.sources.encoding_guess import find_charset
from loader.sources.foreign_formats import SAMPLE as SAMPLE_OF_FORMAT
from loader.sources.foreign_formats import check_format
from loader.sources.source import Source

SAMPLE = 512 << 10
"""Bytes of records that are a sample of a file. The blocks that hold them are held until they are loaded."""


UNPACKED = 8
"""Bytes of text, about, in a byte of a compressed object."""


def text_of(size: int, compression: str) -> int:
    """Bytes of text in an object of ``size`` bytes, about."""
    return size * (1 if compression == "none" else UNPACKED)


@dataclass(frozen=True, slots=True)
class Form:
    """How an object holds its text. ``mark``: bytes of the byte order mark before it."""

    compression: str
    encoding: str
    mark: int

    @property
    def plain(self) -> bool:
        """The text is what the object holds, byte for byte, but for a byte order mark."""
        return self.compression == "none" and self.encoding == "utf-8"

    def offset(self, place: Place) -> int | None:
        """Where in the object the text's ``place`` is; None where only decoding tells."""
        return place.offset + self.mark if self.plain else None


@dataclass(frozen=True, slots=True)
class Records:
    """``csv``: the dialect, with nothing left to sniff.

    ``begin``: where the first record begins. ``header`` is None where the file has none. ``first``: a sample of the
    first records, given-up lines left out, None where there are none; they are in ``blocks``, too.
    """

    form: Form
    csv: CsvSpec
    header: tuple[str, ...] | None
    begin: Place
    first: Block | None
    blocks: Iterator[Block]
    limits: Limits | None = None

    @property
    def dialect(self) -> Dialect:
        """By which the records are read."""
        return Dialect.of(self.csv) if self.first is None else self.first.dialect


def open_records(
    chunks: Iterator[bytes], csv: CsvSpec, *, name: str, fields: int | None = None, limits: Limits | None = None
) -> Records:
    """Decompress, transcode to UTF-8, take off header and footer, and split into blocks, of which the first are read.

    ``fields``: how many a record should have where no header says so; None where nobody knows. ``limits``: for how much
    text. Raises DecodeError, ShapeError or LimitError, also from ``blocks``; ForeignFormatError where it is no CSV at
    all.
    """
    compression, chunks = find_compression(chunks, csv.compression)
    if csv.compression not in ("auto", "none"):
        chunks = _checked_unpacked(chunks, csv, name)
    csv, unpacked = _with_encoding(decompress(chunks, compression, name=name), csv, name, compression)
    encoding, mark, encoded = find_encoding(unpacked, csv.encoding)
    sample, encoded = peek(encoded, SAMPLE_OF_FORMAT)
    has_header = bool(csv.header) and not csv.skip_lines and not csv.comment
    check_format(sample, name=name, encoding=encoding, has_header=has_header, compression=compression)
    form = Form(compression, encoding, mark)
    decoded = transcode(encoded, encoding, name=name)
    csv, text = sniff(gather(limits.watch(decoded, name) if limits else decoded), csv, name=name)
    preamble = read_preamble(
        text,
        _dialect(csv, form),
        name=name,
        skip_lines=csv.skip_lines,
        header=bool(csv.header),
        header_rows=csv.header_rows,
        trailing_delimiter=csv.trailing_delimiter,
    )
    width = fields if preamble.names is None else len(preamble.names)
    start = Place(offset=preamble.offset, line=preamble.line, fields=width)
    blocks = _split(preamble.rest, csv, form, start, name)
    begin: list[Block] = []
    while sum(len(each.data) for each in begin) < SAMPLE and (block := next(blocks, None)) is not None:
        begin.append(block)
    whole = [each for each in begin if each.terminated]
    return Records(form, csv, preamble.names, start, joined(whole) if whole else None, chain(begin, blocks), limits)


def _with_encoding(
    chunks: Iterator[bytes], csv: CsvSpec, name: str, compression: str
) -> tuple[CsvSpec, Iterator[bytes]]:
    """``csv`` with an encoding, found where that is asked for, and the chunks with nothing taken off.

    Raises DecodeError where none is likely, ForeignFormatError where it is no CSV at all.
    """
    if csv.encoding != "auto":
        return csv, chunks
    head, chunks = peek(chunks, HEAD_OF_TEXT)
    by_mark, mark, _ = find_encoding(iter([head]), "utf-8")
    found = by_mark if mark else find_charset(head)
    if found is None:
        sample = head[:SAMPLE_OF_FORMAT]
        check_format(sample, name=name, encoding="latin-1", has_header=bool(csv.header), compression=compression)
        raise DecodeError(
            f"{name}: is not UTF-8, and does not look like Windows-1252; set encoding in [csv], or --encoding"
        )
    return replace(csv, encoding=found), chunks


def _checked_unpacked(chunks: Iterator[bytes], csv: CsvSpec, name: str) -> Iterator[bytes]:
    """The chunks, if they can be of the compression that the spec gives. Raises ForeignFormatError."""
    packed, chunks = peek(chunks, SAMPLE_OF_FORMAT)
    found, _ = find_compression(iter([packed]), "auto")
    if found != csv.compression:
        check_format(packed, name=name, encoding="utf-8", has_header=bool(csv.header))
    return chunks


def take_up(records: Records, place: Place, read: Callable[[int], Iterator[bytes]], *, name: str) -> Records:
    """The records from ``place`` on, without a second look at those before it. ``read``: the object's bytes from an
    offset on.

    Text that the object holds as it is, is read from there; of other text all before it is decoded and dropped.
    """
    form = records.form
    start = form.offset(place)
    if start is not None:
        text = read(start)
        text = records.limits.watch(text, name, start=place.offset) if records.limits else text
    else:
        encoded = without(decompress(read(0), form.compression, name=name), form.mark)
        text = transcode(encoded, form.encoding, name=name)
        text = without(records.limits.watch(text, name) if records.limits else text, place.offset)
    return replace(records, blocks=_split(gather(text), records.csv, form, place, name))


def _split(text: Iterator[bytes], csv: CsvSpec, form: Form, start: Place, name: str) -> Iterator[Block]:
    return split(without_footer(text, csv.skip_footer, name=name), _dialect(csv, form), name=name, start=start)


def _dialect(csv: CsvSpec, form: Form) -> Dialect:
    return Dialect.of(csv, transcoded=form.encoding != "utf-8")


HEAD = 1 << 20
"""Bytes of one read of a file's head, where what follows is not wanted."""


class Head:
    """The source's bytes for someone who will read only the first of them: nothing is fetched ahead. ``crc``: the CRC32
    of the first `HEAD` bytes."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._first = source.read_range(0, min(HEAD, source.size))
        self.crc = zlib.crc32(self._first)

    def __iter__(self) -> Iterator[bytes]:
        if self._first:
            yield self._first
        for start in range(HEAD, self._source.size, HEAD):
            yield self._source.read_range(start, min(start + HEAD, self._source.size))


def recall(
    chunks: Iterator[bytes], csv: CsvSpec, positions: Sequence[int], *, name: str, fields: int | None = None
) -> Iterator[tuple[Block, int]]:
    """The records at ``positions`` (see `binary_copy.positions`), rising: each one's block and place in it, from 0.

    Reads the object again, for splitting is cheaper than keeping what nearly never is asked for.
    """
    return find_records(open_records(chunks, csv, name=name, fields=fields).blocks, positions)


def find_records(blocks: Iterator[Block], positions: Sequence[int]) -> Iterator[tuple[Block, int]]:
    """The records of ``blocks`` at ``positions``, rising: each one's block and place in it, from 0."""
    wanted = iter(positions)
    position = next(wanted, None)
    for block in blocks:
        while position is not None and position < block.record + block.records:
            yield block, position - block.record
            position = next(wanted, None)
        if position is None:
            return
