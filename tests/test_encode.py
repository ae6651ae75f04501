"""What is encoded is what PostgreSQL reads back."""

from __future__ import annotations

import io

import numpy as np
import psycopg2
import pyarrow as pa
import pytest

from loader.convert.binary_copy import encode
from loader.convert.rows import Rows
from loader.core.pgtypes import ColumnType
from loader.core.spec.model import CsvSpec
from loader.postgres.statements import HEADER, TRAILER
from loader.records.block import Block
from loader.records.dialect import Dialect


def types_of(batch: pa.RecordBatch) -> list[ColumnType]:
    """Types that travel just as Arrow has them."""
    return [ColumnType("any") for _ in batch.schema.types]


def rows_of(batch: pa.RecordBatch, first: int = 1) -> Rows:
    count = batch.num_rows
    block = Block(b"x\n" * count, 0, first, 1, count, 2, regular=True, terminated=True, dialect=Dialect.of(CsvSpec()))
    return Rows(block, batch, np.arange(count))


def read_back(dsn: str, definition: str, payload: bytes) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TEMP TABLE t ({definition})")
        cursor.copy_expert("COPY t FROM STDIN (FORMAT binary)", io.BytesIO(HEADER + payload + TRAILER))
        cursor.execute("SELECT t::text FROM t")
        found = cursor.fetchall()
    connection.close()
    return found


# SELECT 1::int8, 'é'::text, NULL::bool in binary COPY
GOLDEN = bytes.fromhex("0003 00000008 0000000000000001 00000002 c3a9 ffffffff".replace(" ", ""))


def test_a_row_is_encoded_as_the_manual_says() -> None:
    """Field count, then each field's length and bytes; -1 is NULL's length."""
    batch = pa.record_batch({"a": pa.array([1], pa.int64()), "b": ["é"], "c": pa.array([None], pa.bool_())})
    assert encode(rows_of(batch), types_of(batch), with_position=False) == GOLDEN


@pytest.mark.parametrize("count", [0, 1, 3, 5_000, 200_000])
def test_batches_of_every_size_come_whole(dsn: str, count: int) -> None:
    """pgpq keeps small batches back until its end is written; not a row may stay behind."""
    batch = pa.record_batch({"a": pa.array(range(count), pa.int64())})
    encoded = encode(rows_of(batch), types_of(batch), with_position=False)
    assert len(encoded) == count * 14
    assert len(read_back(dsn, "a bigint", encoded)) == count


def test_positions_rise_with_the_file() -> None:
    """They are the numbers of the records."""
    batch = pa.record_batch({"a": pa.array([7, 8], pa.int64())})
    encoded = encode(rows_of(batch, first=1000), types_of(batch), with_position=True)
    assert [encoded[at : at + 8] for at in (18, 44)] == [(1000).to_bytes(8), (1001).to_bytes(8)]


@pytest.mark.every_postgres
def test_every_binary_type_arrives_as_it_is(dsn: str) -> None:
    """Each Arrow type that a load uses, at its extremes, against PostgreSQL's text output."""
    from datetime import UTC, date, datetime, time
    from decimal import Decimal

    columns = {
        "smallint": pa.array([-32768, 32767, None], pa.int16()),
        "integer": pa.array([-(2**31), 2**31 - 1, None], pa.int32()),
        "bigint": pa.array([-(2**63), 2**63 - 1, None], pa.int64()),
        "real": pa.array([1.5, float("-inf"), None], pa.float32()),
        "double precision": pa.array([0.1, float("nan"), None], pa.float64()),
        "numeric(12,2)": pa.array([Decimal("-1234567890.10"), Decimal("0.05"), None], pa.decimal128(12, 2)),
        "numeric(38,0)": pa.array([Decimal(10) ** 37, Decimal(-1), None], pa.decimal128(38, 0)),
        "boolean": pa.array([True, False, None]),
        "date": pa.array([date(1, 1, 1), date(9999, 12, 31), None]),
        "timestamp": pa.array([datetime(1, 1, 1), datetime(2024, 2, 29, 23, 59, 59, 999999), None], pa.timestamp("us")),
        "timestamptz": pa.array([datetime(1970, 1, 1, tzinfo=UTC)] * 2 + [None], pa.timestamp("us", "UTC")),
        "time": pa.array([time(0, 0), time(23, 59, 59, 999999), None], pa.time64("us")),
        "text": pa.array(["", "a\tb\né", None]),
    }
    batch = pa.RecordBatch.from_arrays(list(columns.values()), [f"c{number}" for number in range(len(columns))])
    definition = ", ".join(f"c{number} {name}" for number, name in enumerate(columns))
    first, second, third = (
        row for (row,) in read_back(dsn, definition, encode(rows_of(batch), types_of(batch), with_position=False))
    )
    assert str(first).startswith(
        "(-32768,-2147483648,-9223372036854775808,1.5,0.1,-1234567890.10,10000000000000000000000000000000000000,t,"
        '0001-01-01,"0001-01-01 00:00:00","1970-01-01 '
    )
    assert str(first).endswith(',00:00:00,"")')
    assert str(second).startswith(
        "(32767,2147483647,9223372036854775807,-Infinity,NaN,0.05,-1,f,9999-12-31,"
        '"2024-02-29 23:59:59.999999","1970-01-01 '
    )
    assert str(second).endswith(',23:59:59.999999,"a\tb\né")')
    assert third == "(" + "," * (len(columns) - 1) + ")"
