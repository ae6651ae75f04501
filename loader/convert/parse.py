"""Block → record batch, by Arrow's CSV reader.

The reader is asked for the columns' own types. Where it cannot convert a value, or is laxer than PostgreSQL
about one, that column of the block is read again as text, and `transform` converts it value by value: that is
the careful way. Records with the wrong number of fields are set aside here.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from loader.convert.rows import Rows
from loader.convert.values import FALSE_TEXTS, TRUE_TEXTS, is_surely_right, may_mislead
from loader.core.errors import ShapeError
from loader.postgres.load_column import LoadColumn
from loader.records.block import Block, Positions, reject_each
from loader.records.normalize import Spelling, even, respell, well_shaped
from loader.records.rejects import RejectGroup, Rejects

SUSPICION = 8
"""Blocks for which a column is read as text after Arrow could not convert a value of it. To find out anew in each
block costs reading it twice; to read one column as text costs little."""

_BOM = "\ufeff".encode()  # of which Arrow takes one off every block, though in mid-file it is a character

# A handler of invalid rows would be told the text of each, which fails for what is not UTF-8.
_MISSHAPEN = "CSV parse error: "
_ACCUSED = re.compile(r"^In CSV column #(\d+):")


class Parser:
    """Parses blocks whose records have ``fields`` fields into the columns that are read from the file.

    ``pad``: records with too few fields are filled with NULL, and surplus fields dropped, instead of rejected.
    Safe to share between threads: what it remembers between blocks decides only how fast it is. The batch has a
    column for each of ``columns`` that has a field, under its name, as ``read_as`` or, read the careful way, as
    binary text.
    """

    def __init__(
        self, columns: Sequence[LoadColumn], fields: int, null: Sequence[str], *, name: str, pad: bool = False
    ) -> None:
        self._columns = [column for column in columns if column.field is not None]
        self._fields = fields
        self._null = list(null)
        self._name = name
        self._pad = pad
        self._misled = {
            kind: {place for place, each in enumerate(self._columns) if is_kind(each.read_as)}
            for kind, is_kind in ((pa.int64(), pa.types.is_integer), (pa.decimal128(1), pa.types.is_decimal))
        }
        self._place_of = {column.field: place for place, column in enumerate(self._columns)}
        self._every = set(range(len(self._columns)))
        self._suspicion = [0] * len(self._columns)  # blocks for which each column is still read as text
        self._lock = threading.Lock()  # of the suspicion

    def parse(self, block: Block) -> Rows:
        """The rows of ``block``. Never raises for what a record holds; such records are among the rejects."""
        if not block.terminated:
            return self._given_up(block)
        rows = self._parse(block)
        if self._pad and rows.rejects:
            evened = even(block, self._fields, min(self._null, key=len))
            rows = self._parse(evened.block)
            rows = replace(rows, block=block, short=evened.short, long=evened.long)
        return rows

    def _parse(self, block: Block) -> Rows:
        if self._fields > 1 and len(block.empty_lines()):  # Arrow would make a row of NULLs of each
            return self._parse_shaped(block)
        try:
            return self._convert(block, respell(block, self._null), np.arange(block.records))
        except pa.ArrowInvalid as error:
            if _MISSHAPEN not in str(error):
                raise
        return self._parse_shaped(block)

    def _parse_shaped(self, block: Block) -> Rows:
        """The rows of the records that have the right number of fields; the others are rejected."""
        shaped, gone, fields = well_shaped(block, self._fields)
        rejects = self._misshapen(block, gone, fields)
        text = respell(shaped, self._null)
        if not text.data:
            return self._nothing(block, rejects)
        return replace(self._convert(block, text, np.delete(np.arange(block.records), gone)), rejects=rejects)

    def _convert(self, block: Block, text: Spelling, index: npt.NDArray[np.int64]) -> Rows:
        """The records ``index`` of ``block``, whose ``text`` it is. Raises ArrowInvalid where one is misshapen."""
        text = _ended(text)
        view = np.frombuffer(text.data, np.uint8)
        careful = self._suspects(view)
        while True:
            try:
                rows = self._read(block, text, careful, index)
            except pa.ArrowInvalid as error:
                if _MISSHAPEN in str(error) or not (accused := self._accused(error) - careful):
                    raise
                careful |= accused
                continue
            odd = {
                place
                for place, column in enumerate(rows.batch.columns)
                if place not in careful and not is_surely_right(column, view)
            }
            if not odd:
                return rows
            careful |= odd

    def _suspects(self, data: npt.NDArray[np.uint8]) -> set[int]:
        """Columns to be read as text from the start: those that a block before had to, for a while."""
        if not data.all():  # a NUL
            return set(self._every)
        with self._lock:
            suspects = {place for place, blocks in enumerate(self._suspicion) if blocks}
            for place in suspects:
                self._suspicion[place] -= 1
        for kind, places in self._misled.items():
            if places - suspects and may_mislead(kind, data):
                suspects |= places
        return suspects

    def _accused(self, error: pa.ArrowInvalid) -> set[int]:
        """The column that Arrow could not convert, by its message; all where it names none."""
        named = _ACCUSED.search(str(error))
        place = self._place_of.get(int(named[1])) if named else None
        if place is None:
            return set(self._every)
        with self._lock:
            self._suspicion[place] = SUSPICION
        return {place}

    def _read(self, block: Block, text: Spelling, as_text: set[int], index: npt.NDArray[np.int64]) -> Rows:
        types = {
            str(column.field): pa.binary() if place in as_text else column.read_as
            for place, column in enumerate(self._columns)
        }
        table = pyarrow.csv.read_csv(
            pa.BufferReader(_BOM + text.data if text.data.startswith(_BOM) else text.data),
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False,  # blocks are the unit of parallelism
                block_size=len(text.data) + len(_BOM) + 1,  # one piece, so one record batch
                column_names=[str(number) for number in range(self._fields)],
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=chr(text.delimiter),
                quote_char=chr(text.quote) if text.quote is not None else False,
                double_quote=True,
                escape_char=False,
                newlines_in_values=True,
                ignore_empty_lines=False,  # they are records too
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                null_values=self._null,
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                true_values=_spellings(TRUE_TEXTS),
                false_values=_spellings(FALSE_TEXTS),
                check_utf8=not text.data.isascii(),  # to look at all at once costs a tenth of looking at each value
            ),
        )
        if (surplus := table.num_rows - len(index)) != 0:
            raise ShapeError(
                f"{self._name}: {block.records} records were counted from byte {block.offset} on, "
                f"but {block.records + surplus} were parsed; this is a defect of the loader, nothing was loaded"
            )
        arrays = [_whole(table.column(str(column.field)), types[str(column.field)]) for column in self._columns]
        batch = pa.RecordBatch.from_arrays(arrays, [column.name for column in self._columns])
        return Rows(block, batch, index)

    def _misshapen(self, block: Block, gone: Positions, fields: Positions) -> Rejects:
        """The records ``gone`` of the block, which have so many ``fields``."""

        def rejected(reason: str, which: npt.NDArray[np.bool_]) -> RejectGroup:
            found = fields[which]
            message = f"{{}} fields where {self._fields} are expected"
            return reject_each(block, gone[which], reason, lambda number: message.format(found[number]))

        few = fields < self._fields
        return Rejects([rejected("too_few_fields", few), rejected("too_many_fields", ~few)])

    def _nothing(self, block: Block, rejects: Rejects) -> Rows:
        """No rows of ``block``."""
        empty = pa.RecordBatch.from_arrays(
            [pa.nulls(0, column.read_as) for column in self._columns],
            [column.name for column in self._columns],
        )
        return Rows(block, empty, np.empty(0, np.int64), rejects)

    def _given_up(self, block: Block) -> Rows:
        message = "a quote in this line, or in one before it, is out of place: no records of the right shape come of it"
        given_up = reject_each(block, np.arange(block.records), "unbalanced_quote", lambda _number: message)
        return self._nothing(block, Rejects([given_up]))


def _ended(text: Spelling) -> Spelling:
    """With a line end, for at a bare end of file Arrow takes an empty field after a quoted one for quoted."""
    return text if text.data.endswith((b"\n", b"\r")) else replace(text, data=text.data + b"\n")


def _spellings(texts: Sequence[str]) -> list[str]:
    return [spelling for text in texts for spelling in dict.fromkeys((text, text.upper(), text.title()))]


def _whole(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.nulls(0, kind)])
