"""The reading half of the flow: an object's bytes → its header and its blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from loader.blocks import split
from loader.decode import decompress, find_compression, find_encoding, gather, transcode
from loader.fields import Dialect
from loader.margins import read_preamble, without_footer
from loader.records import Block, joined
from loader.sniff import sniff
from loader.spec import CsvSpec

SAMPLE = 512 << 10
"""Bytes of records that are a sample of a file. The blocks that hold them are held until they are loaded."""


@dataclass(frozen=True, slots=True)
class Records:
    """``csv``: the dialect, with nothing left to sniff.

    ``header`` is None where the file has none. ``first``: a sample of the first records, given-up lines
    left out, None where there are none; they are in ``blocks``, too. ``plain``: the text is what the object holds
    byte for byte, but for a byte order mark.
    """

    csv: CsvSpec
    header: tuple[str, ...] | None
    first: Block | None
    blocks: Iterator[Block]
    plain: bool


def open_records(chunks: Iterator[bytes], csv: CsvSpec, *, name: str, fields: int | None = None) -> Records:
    """Decompress, transcode to UTF-8, take off header and footer, and split into blocks, of which the first are read.

    ``fields``: how many a record should have where no header says so; None where nobody knows. Raises DecodeError or
    ShapeError, also from ``blocks``.
    """
    compression, chunks = find_compression(chunks, csv.compression)
    encoding, encoded = find_encoding(decompress(chunks, compression, name=name), csv.encoding)
    plain = compression == "none" and encoding == "utf-8"
    text = gather(transcode(encoded, encoding, name=name))
    csv, text = sniff(text, csv)
    dialect = Dialect.of(csv, transcoded=encoding != "utf-8")
    preamble = read_preamble(
        text,
        dialect,
        name=name,
        skip_lines=csv.skip_lines,
        header=bool(csv.header),
        header_rows=csv.header_rows,
    )
    blocks = split(
        without_footer(preamble.rest, csv.skip_footer, name=name),
        dialect,
        name=name,
        offset=preamble.offset,
        line=preamble.line,
        fields=fields if preamble.names is None else len(preamble.names),
    )
    begin: list[Block] = []
    while sum(len(each.data) for each in begin) < SAMPLE and (block := next(blocks, None)) is not None:
        begin.append(block)
    whole = [each for each in begin if each.terminated]
    return Records(csv, preamble.names, joined(whole) if whole else None, chain(begin, blocks), plain)


def recall(
    chunks: Iterator[bytes], csv: CsvSpec, positions: Sequence[int], *, name: str, fields: int | None = None
) -> Iterator[tuple[Block, int]]:
    """The records at ``positions`` (see `encode.positions`), rising: each one's block and place in it, from 0.

    Reads the object again, for splitting is cheaper than keeping what nearly never is asked for.
    """
    wanted = iter(positions)
    position = next(wanted, None)
    for block in open_records(chunks, csv, name=name, fields=fields).blocks:
        while position is not None and position < block.offset + len(block.data):
            yield block, position - block.offset
            position = next(wanted, None)
        if position is None:
            return
