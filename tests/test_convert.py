"""Conversion: what is taken means the same to PostgreSQL, what is not is named exactly."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import psycopg2
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg2 import sql
from support.copying import copy_one_by_one, output_of
from support.postgres import query
from support.zones import MACHINE_ZONES
from test_encode import rows_of

import loader
from loader.convert.binary_copy import encode
from loader.convert.values import convert, decode, fits, has_nul
from loader.core.pgtypes import column_type
from loader.postgres.statements import HEADER, TRAILER

signs = st.sampled_from(["", "-", "+", " ", "--"])
digits = st.text("0123456789", max_size=22)
numbers = st.builds(
    lambda sign, whole, point, part, exponent, tail: sign + whole + point + part + exponent + tail,
    signs, digits, st.sampled_from(["", "."]), digits,
    st.sampled_from(["", "e5", "E-3", "e400", "e-400", "e+2", "e"]), st.sampled_from(["", " ", "\t", "x"]),
)  # fmt: skip
odd_numbers = st.sampled_from(
    [
        "0x1F",
        "0." + "0" * 45 + "7",
        "0xFFFFFFFFFFFFFFFF",
        "1_000",
        "Infinity",
        "-inf",
        "NaN",
        "+nan",
        "1e-46",
        "1e39",
        "0e-999",
        "",
        ".",
        "-0",
    ]
)
days = st.builds("{:04}-{:02}-{:02}".format, st.integers(0, 9999), st.integers(0, 13), st.integers(0, 32))
clocks = st.builds(
    "{:02}:{:02}{}{}".format,
    st.integers(0, 25), st.integers(0, 61),
    st.sampled_from(["", ":00", ":59", ":60", ":61"]), st.sampled_from(["", ".5", ".123456", ".1234567", "."]),
)  # fmt: skip
offsets = st.sampled_from(["", "Z", "+02", "-0330", "+05:45", "+15:59", "+16", "+23:59", " +02", "z", "+2", " UTC"])
moments = st.builds(
    "{}{}{}{}".format, days, st.sampled_from([" ", "T", "  ", ""]), st.one_of(clocks, st.just("10")), offsets
)
words = st.sampled_from(["t", "TRUE", "Yes", "on", "1", "0", "no", "of", "off", "o", "2", " f ", "falsee", "", "N"])
dates = st.one_of(days, moments, st.sampled_from(["infinity", "Jan 5 2024", "2024-1-5", "20240105", "10:20"]))

TYPES = {
    "smallint": st.one_of(numbers, odd_numbers),
    "integer": st.one_of(numbers, odd_numbers),
    "bigint": st.one_of(numbers, odd_numbers),
    "real": st.one_of(numbers, odd_numbers),
    "double precision": st.one_of(numbers, odd_numbers),
    "numeric(15,2)": st.one_of(numbers, odd_numbers),
    "numeric(38,10)": st.one_of(numbers, odd_numbers),
    "boolean": words,
    "date": dates,
    "timestamp without time zone": st.one_of(dates, moments),
    "timestamp with time zone": st.one_of(dates, moments),
    "time without time zone": st.one_of(clocks, moments, dates),
}


@pytest.mark.parametrize("name", TYPES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_what_is_taken_is_what_postgresql_reads(dsn: str, name: str, data: st.DataObject) -> None:
    """Every text that converts is one that PostgreSQL takes, and the value is the one that it would store."""
    texts = data.draw(st.lists(TYPES[name], min_size=1, max_size=40))
    array, bad = convert(pa.array(texts, pa.string()), column_type(name), "Europe/Berlin", MACHINE_ZONES)
    good = np.flatnonzero(~bad)
    batch = pa.RecordBatch.from_arrays(
        [array.take(pa.array(good)), pa.array([texts[at] for at in good], pa.string())], ["value", "source"]
    )
    connection = psycopg2.connect(dsn)
    with connection.cursor() as cursor:
        cursor.execute("SET timezone = 'Europe/Berlin'")
        cursor.execute(f"CREATE TEMP TABLE t (value {name}, source text)")
        payload = (
            HEADER + encode(rows_of(batch), [column_type(name), column_type("text")], with_position=False) + TRAILER
        )
        cursor.copy_expert("COPY t FROM STDIN (FORMAT binary)", io.BytesIO(payload))
        cursor.execute(f"SELECT source, value::text FROM t WHERE NOT pg_input_is_valid(source, '{name}')")
        assert cursor.fetchall() == []
        cursor.execute(f"SELECT source, value::text FROM t WHERE value::text IS DISTINCT FROM source::{name}::text")
        assert cursor.fetchall() == []
    connection.close()


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("bigint", ["1", "+1", " 12 ", "-9223372036854775808", "007"]),
        ("numeric(15,2)", ["1", "1.5", "-.5", "5.", "1.50"]),
        ("double precision", ["0.1", "1e308", "-Infinity", "nan", "+5"]),
        ("boolean", ["t", "yes", "ON", "0", "False"]),
        ("date", ["2024-02-29", "0001-01-01"]),
        ("timestamp without time zone", ["2024-01-05", "2024-01-05 10:20", "2024-01-05T10:20:30.123456"]),
        ("timestamp with time zone", ["2024-01-05 10:20:30Z", "2024-01-05 10:20", "2024-01-05T10:20:30.5+05:45"]),
        ("time without time zone", ["10:20", "10:20:30.5"]),
    ],
)
def test_usual_spellings_convert(name: str, texts: list[str]) -> None:
    """What files are full of is taken."""
    _, bad = convert(pa.array(texts), column_type(name))
    assert not bad.any()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bigint", "0xFFFFFFFFFFFFFFFF"),  # which Arrow reads as -1
        ("double precision", "1e400"),  # … as infinity
        ("real", "1e-46"),  # … as zero
        ("real", "0." + "0" * 50 + "1"),
        ("double precision", "-." + "0" * 399 + "1"),
        ("date", "0000-01-01"),  # … as a day before the year 1
        ("timestamp without time zone", "2024-01-05 10"),  # … as ten o'clock
        ("timestamp with time zone", "2024-01-05 10:20:30+23:59"),  # … as the day before
        ("timestamp with time zone", "0000-12-31 20:00:00-05"),  # … as a moment of the year 1
    ],
)
def test_where_arrow_is_laxer_than_postgresql(name: str, text: str) -> None:
    """The value does not convert; its neighbours do."""
    array, bad = convert(pa.array(["x", text, None]), column_type(name))
    assert bad.tolist() == [True, True, False]
    assert array.null_count == 3


def vanishing() -> list[str]:
    """Numbers without an exponent, from such as are well within a float's range to such as vanish, or overflow."""
    zeros = [0, 5, 14, 15, 30, *range(36, 48), 60, 300, *range(306, 310), *range(321, 326), 399, 1000]
    fractions = [
        f"{sign}{whole}.{'0' * each}{digits}"
        for sign, whole, digits in (
            ("", "0", "1"),
            ("-", "", "7"),
            ("+", "000", "70064923216240853546186479164495806564013097093825788587853"),
            ("", "0", "24703282292062327208"),
            ("", "0", "0"),
        )
        for each in zeros
    ]
    return fractions + [digits + "0" * each for digits in ("1", "-9") for each in (30, 37, 38, 39, 307, 308, 309, 400)]


@pytest.mark.parametrize("kind", ["real", "double precision", "shade", "real[]"])
def test_numbers_that_vanish_are_refused_as_by_copy(dsn: str, tmp_path: Path, kind: str) -> None:
    """Whatever the block holds beside them: no exponent need give them away. Denormal numbers are taken."""
    texts = vanishing()
    value = "{},{{{}}}" if kind.endswith("[]") else "{},{}"
    records = [value.format(number, text) for number, text in enumerate(texts)]
    connection = psycopg2.connect(dsn)
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DOMAIN shade AS real; CREATE TABLE t (n int, f {kind}); CREATE TABLE u (LIKE t)")
    connection.commit()
    refused = copy_one_by_one(connection, sql.Identifier("u"), None, [each.encode() for each in records])
    connection.commit()
    path = tmp_path / "t.csv"
    path.write_text("n,f\n" + "\n".join(records) + "\n")
    loader.load(str(path), {"table": "t", "mode": "append", "rejects": {"max_rows": 1000, "max_ratio": 1}}, dsn=dsn)
    assert output_of(connection, sql.Identifier("t"), order_by="n") == output_of(
        connection, sql.Identifier("u"), order_by="n"
    )
    numbers = "SELECT record_number, sqlstate, reason FROM loader.rejects ORDER BY 1"
    expected = [(number, error.pgcode, "out_of_range") for number, error in sorted(refused.items())]
    assert query(dsn, numbers) == expected
    assert len(texts) > len(refused) > 20
    connection.close()


@given(st.lists(st.binary(max_size=6), max_size=30))
def test_bytes_that_are_not_utf8_are_named(values: list[bytes]) -> None:
    """Exactly those that Python's decoder refuses; the others keep every character."""

    def valid(value: bytes) -> bool:
        try:
            value.decode()
        except UnicodeDecodeError:
            return False
        return True

    texts, bad = decode(pa.array(values, pa.binary()))
    assert bad.tolist() == [not valid(value) for value in values]
    assert texts.to_pylist() == [value.decode() if valid(value) else None for value in values]


@given(st.lists(st.one_of(st.none(), st.text("a\0é", max_size=4)), max_size=20))
def test_nul_is_found_wherever_it_stands(values: list[str | None]) -> None:
    """In a text's beginning, middle and end."""
    expected = [value is not None and "\0" in value for value in values]
    assert has_nul(pa.array(values, pa.string())).tolist() == expected


@given(st.lists(st.text("aé 😀", max_size=8), max_size=20))
@example(["abc  ", "abcd", "    ", "😀😀😀"])
def test_length_is_counted_in_characters(values: list[str]) -> None:
    """Blanks beyond the limit do not count, as varchar(n) and char(n) have it."""
    expected = [len(value) <= 3 or not value[3:].strip(" ") for value in values]
    assert fits(pa.array(values, pa.string()), column_type("character varying(3)")).tolist() == expected
