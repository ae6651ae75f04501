"""Record batch → binary COPY, by pgpq. No I/O happens here.

The format is in PostgreSQL's manual, under COPY, "Binary Format". Encoded batches carry neither header nor
trailer, so they can be sent in any order, over any number of streams, between `HEADER` and `TRAILER`.
"""

from __future__ import annotations

import pyarrow as pa
from pgpq import ArrowToPostgresBinaryEncoder

from loader.arrays import integers
from loader.records import POSITION, Rows

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # signature, flags, length of the header's extension
TRAILER = b"\xff\xff"


def encode(rows: Rows, *, with_position: bool) -> bytes:
    """The rows as binary COPY tuples; ``with_position`` adds the bigint column `POSITION`.

    A position is the block's byte offset plus the record's number within it. A record is at least a byte
    long, so positions rise through the whole file, whoever encodes which block.
    """
    batch = rows.batch
    if with_position:
        position = integers(rows.index + rows.block.offset)
        batch = pa.RecordBatch.from_arrays([*batch.columns, position], [*batch.schema.names, POSITION])
    if not batch.num_rows:
        return b""
    encoder = ArrowToPostgresBinaryEncoder(batch.schema)
    encoder.write_header()  # which the encoder insists on; the stream has its own
    # below about a megabyte pgpq gives nothing for a batch and keeps it for the end
    encoded: bytes = encoder.write_batch(batch)
    rest: bytes = encoder.finish().removesuffix(TRAILER)
    return encoded + rest if encoded and rest else encoded or rest
