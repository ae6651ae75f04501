"""Record batch → COPY's bytes: binary by pgpq and `wire`, or the records of a CSV. No I/O happens here.

The format is in PostgreSQL's manual, under COPY, "Binary Format". Encoded batches carry neither header nor
trailer, so they can be sent in any order, over any number of streams, between `statements.HEADER` and `TRAILER`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pgpq import ArrowToPostgresBinaryEncoder

from loader.convert.binary_values import to_wire
from loader.convert.rows import Rows
from loader.core import arrays
from loader.core.pgtypes import ColumnType
from loader.postgres.copy_forms import CsvForm
from loader.postgres.statements import TRAILER
from loader.postgres.tables import POSITION
from loader.records.block import Block


def encode(rows: Rows, types: Sequence[ColumnType], *, with_position: bool) -> bytes:
    """The rows as binary COPY tuples; ``with_position`` adds the bigint column `POSITION`."""
    batch = rows.batch
    if not batch.num_rows:
        return b""
    columns = [to_wire(column, type_) for column, type_ in zip(batch.columns, types, strict=True)]
    names = batch.schema.names
    if with_position:
        columns, names = [*columns, arrays.integers(positions(rows.block, rows.index))], [*names, POSITION]
    batch = pa.RecordBatch.from_arrays(columns, names)
    encoder = ArrowToPostgresBinaryEncoder(batch.schema)
    encoder.write_header()  # which the encoder insists on; the stream has its own
    # below about a megabyte pgpq gives nothing for a batch and keeps it for the end
    encoded: bytes = encoder.write_batch(batch)
    rest: bytes = encoder.finish().removesuffix(TRAILER)
    return encoded + rest if encoded and rest else encoded or rest


def positions(block: Block, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The values of `POSITION`: the numbers of the records in the file, however it was cut into blocks."""
    return block.numbers(index)


def spelled(texts: pa.RecordBatch, positions: npt.NDArray[np.int64] | None, form: CsvForm) -> bytes:
    """Texts in that form, each in quotes, followed by their ``positions`` where they are given."""
    if not texts.num_rows:
        return b""
    quote = arrays.text(form.quote)
    fields = [_quoted(values, quote, form) for values in texts.columns]
    if positions is not None:
        fields.append(arrays.integers(positions).cast(pa.string()))
    joined = pc.binary_join_element_wise(*fields, arrays.text(form.delimiter))
    lines = pc.binary_join_element_wise(joined, arrays.text("\n"), arrays.text(""))
    return arrays.ends_and_bytes(lines)[1].tobytes()


def _quoted(values: pa.Array, quote: pa.StringScalar, form: CsvForm) -> pa.Array:
    if pc.any(pc.match_substring(values, form.quote)).as_py():
        values = pc.replace_substring(values, pattern=form.quote, replacement=form.quote * 2)
    return pc.fill_null(pc.binary_join_element_wise(quote, values, quote, arrays.text("")), arrays.text(form.null))
