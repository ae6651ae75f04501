"""Block → record batch, by Arrow's CSV reader.

The reader is asked for the columns' own types. Where it cannot convert a value, or is laxer than PostgreSQL
about one, the whole block is read again as text, and `transform` converts it value by value: that is the
careful way, and rare. Records with the wrong number of fields are set aside here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv

from loader.columns import LoadColumn
from loader.convert import FALSE_TEXTS, TRUE_TEXTS, is_surely_right, may_hold_hexadecimal
from loader.errors import ShapeError
from loader.fields import UnterminatedQuoteError, join_record, split_record
from loader.records import Block, Rows, irregular_quotes, layout, reject
from loader.report import Reject


class Parser:
    """Parses blocks whose records have ``fields`` fields into the columns that are read from the file.

    Safe to share between threads: it holds no state between blocks. The batch has a column for each of
    ``columns`` that has a field, under its name, as ``read_as`` or, read the careful way, as binary text.
    """

    def __init__(self, columns: Sequence[LoadColumn], fields: int, null: Sequence[str], *, name: str) -> None:
        self._columns = [column for column in columns if column.field is not None]
        self._fields = fields
        self._null = list(null)
        self._name = name
        self._has_integers = any(pa.types.is_integer(column.read_as) for column in self._columns)

    def parse(self, block: Block) -> Rows:
        """The rows of ``block``. Never raises for what a record holds; such records are among the rejects."""
        if not block.terminated:
            return self._unterminated(block)
        data = block.data if block.regular else _respelled(block)
        if not data.endswith((b"\n", b"\r")):
            data += b"\n"  # at a bare end of file Arrow takes an empty field after a quoted one for quoted
        return self._typed(block, data) or self._read(block, data, as_text=True)

    def _typed(self, block: Block, data: bytes) -> Rows | None:
        if b"\0" in data or (self._has_integers and may_hold_hexadecimal(data)):
            return None
        try:
            rows = self._read(block, data, as_text=False)
        except pa.ArrowInvalid:
            return None
        return rows if all(is_surely_right(column, data) for column in rows.batch.columns) else None

    def _read(self, block: Block, data: bytes, *, as_text: bool) -> Rows:
        misshapen: list[tuple[int, int]] = []  # (record within the block, fields it has)

        def set_aside(row: pyarrow.csv.InvalidRow) -> str:
            misshapen.append((row.number - 1, row.actual_columns))
            return "skip"

        types = {str(column.field): pa.binary() if as_text else column.read_as for column in self._columns}
        quote = block.dialect.quote
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False,  # blocks are the unit of parallelism; this also numbers the invalid rows
                block_size=len(data) + 1,  # one piece, so one record batch
                column_names=[str(number) for number in range(self._fields)],
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=chr(block.dialect.delimiter),
                quote_char=chr(quote) if quote is not None else False,
                double_quote=True,
                escape_char=False,
                newlines_in_values=True,
                ignore_empty_lines=False,  # they are records too
                invalid_row_handler=set_aside,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                null_values=self._null,
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                true_values=_spellings(TRUE_TEXTS),
                false_values=_spellings(FALSE_TEXTS),
            ),
        )
        index = np.delete(np.arange(block.records), [each for each, _ in misshapen])
        if table.num_rows != len(index):
            raise ShapeError(
                f"{self._name}: {block.records} records were counted from byte {block.offset} on, "
                f"but {table.num_rows + len(misshapen)} were parsed; this is a defect of the loader, nothing was loaded"
            )
        arrays = [_whole(table.column(str(column.field)), types[str(column.field)]) for column in self._columns]
        batch = pa.RecordBatch.from_arrays(arrays, [column.name for column in self._columns])
        return self._without_empty_lines(Rows(block, batch, index), misshapen)

    def _without_empty_lines(self, rows: Rows, misshapen: list[tuple[int, int]]) -> Rows:
        """To COPY an empty line is a record of one field; Arrow makes a row of NULLs of it."""
        empty = rows.block.empty_lines() if self._fields > 1 else ()
        if len(empty):
            rows = rows.keep(~np.isin(rows.index, empty))
            misshapen = sorted([*misshapen, *((int(each), 1) for each in empty)])
        return replace(rows, rejects=tuple(self._misshapen(rows.block, index, has) for index, has in misshapen))

    def _misshapen(self, block: Block, index: int, fields: int) -> Reject:
        reason = "too_few_fields" if fields < self._fields else "too_many_fields"
        return reject(block, index, reason, f"{fields} fields where {self._fields} are expected")

    def _unterminated(self, block: Block) -> Rows:
        empty = pa.RecordBatch.from_arrays(
            [pa.nulls(0, column.read_as) for column in self._columns],
            [column.name for column in self._columns],
        )
        message = "a quote is opened and never closed; the record runs to the end of the file"
        return Rows(block, empty, np.empty(0, np.int64), (reject(block, 0, "unbalanced_quote", message),))


def _spellings(texts: Sequence[str]) -> list[str]:
    return [spelling for text in texts for spelling in dict.fromkeys((text, text.upper(), text.title()))]


def _whole(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.nulls(0, kind)])


def _respelled(block: Block) -> bytes:
    """The block with its irregularly quoted records in the spelling that Arrow reads as COPY does."""
    dialect = block.dialect
    odd = irregular_quotes(block.data, layout(block.data, dialect).quotes, dialect)
    if dialect.escape is not None and not dialect.doubled:
        escapes = np.flatnonzero(np.frombuffer(block.data, np.uint8) == dialect.escape)
        odd = np.concatenate((odd, escapes))
    pieces: list[bytes] = []
    copied = 0
    for index in np.unique(np.searchsorted(block.starts, odd, side="right") - 1):
        start, stop = int(block.starts[index]), int(block.starts[index + 1])
        try:
            respelled = join_record(split_record(block.raw(index), dialect), dialect)
        except UnterminatedQuoteError:
            raise AssertionError("a record of a terminated block has its quotes in pairs") from None
        pieces += [block.data[copied:start], respelled, b"\n"]
        copied = stop
    return b"".join([*pieces, block.data[copied:]])
