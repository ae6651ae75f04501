"""Bytes of binary COPY against what PostgreSQL makes of the same text."""

from __future__ import annotations

import io

import numpy as np
import psycopg2
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loader.convert import binary_values
from loader.convert.binary_copy import encode
from loader.convert.rows import Rows
from loader.core.pgtypes import ColumnType, TypeFacts, column_type
from loader.postgres.statements import HEADER, TRAILER
from loader.records.block import Block

DIGITS = st.text("0019", max_size=20)
NUMBERS = st.builds(
    lambda sign, whole, point, fraction: sign + whole + point + (fraction if point else ""),
    st.sampled_from(["", "-", "+"]),
    DIGITS,
    st.sampled_from(["", "."]),
    DIGITS,
)
ODD_NUMBERS = st.sampled_from(["1e3", "NaN", "infinity", " 1", "1 ", "0x1F", "1_000", "", ".", "-", "1.2.3", "9" * 21])
UUIDS = st.uuids().map(str)
ODD_UUIDS = st.sampled_from(
    ["{00000000-0000-0000-0000-000000000002}", "0000000000000000000000000000000A", "ABCDEF", "", "x" * 36]
)
MOOD = ColumnType("mood", "text", "enum", labels=("sad", "o'k", "ü"))

TYPES = {
    "numeric": (column_type("numeric"), NUMBERS | ODD_NUMBERS),
    "uuid": (column_type("uuid"), UUIDS | UUIDS.map(str.upper) | ODD_UUIDS),
    "mood": (MOOD, st.sampled_from(["sad", "o'k", "ü", "Sad", "", "happy"])),
    "json": (column_type("json"), st.sampled_from(['{"a": 1}', "5", '"x"', "null", " [1, 2] "])),
    "jsonb": (column_type("jsonb"), st.sampled_from(['{"a": 1, "a": 2}', "5", '"x"', "null", " [1, 2] "])),
}


@pytest.mark.parametrize("name", TYPES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_what_is_encoded_is_what_postgresql_reads(dsn: str, name: str, data: st.DataObject) -> None:
    """Every text of the right form is one that PostgreSQL takes, and its bytes are the value that it would store."""
    type_, texts = TYPES[name]
    given_texts = data.draw(st.lists(texts | st.none(), min_size=1, max_size=40))
    array = pa.array(given_texts, pa.string())
    known = array.filter(pa.array(binary_values.has_form(array, type_)))
    batch = pa.RecordBatch.from_arrays([known, known], ["value", "source"])
    block = Block(b"", 0, 1, 1, len(known), 0, True, True, None)  # type: ignore[arg-type]
    rows = Rows(block, batch, np.arange(len(known)))
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TYPE pg_temp.mood AS ENUM ('sad', 'o''k', 'ü')")
        cursor.execute(f"CREATE TEMP TABLE t (value {'pg_temp.' if name == 'mood' else ''}{name}, source text)")
        payload = HEADER + encode(rows, [type_, column_type("text")], with_position=False) + TRAILER
        cursor.copy_expert("COPY t FROM STDIN (FORMAT binary)", io.BytesIO(payload))
        cast = f"source::{'pg_temp.' if name == 'mood' else ''}{name}::text"
        cursor.execute(f"SELECT source, value::text FROM t WHERE value::text IS DISTINCT FROM {cast}")
        assert cursor.fetchall() == []
        cursor.execute("SELECT count(*) FROM t")
        assert cursor.fetchone() == (len(known),)


def test_usual_spellings_have_a_form() -> None:
    """They are not sent the long way."""
    assert binary_values.has_form(pa.array(["1", "-1.50", "+.5", "5.", None, "0"]), column_type("numeric")).all()
    assert binary_values.has_form(pa.array(["00000000-0000-0000-0000-00000000000A", None]), column_type("uuid")).all()
    assert binary_values.has_form(pa.array(["sad", None, "Sad"]), MOOD).tolist() == [True, True, False]


def test_a_domain_travels_as_the_type_under_it() -> None:
    """In the hope that its constraints hold; its values go one by one to the server where they did not."""
    domain = column_type("price", TypeFacts(base="numeric(10,2)"), column_type("numeric(10,2)"))
    assert (domain.name, domain.arrow, domain.hopeful) == ("price", pa.decimal128(10, 2), True)
    assert (domain.judged.wire, domain.judged.hopeful, domain.judged.name) == ("server", False, "price")
