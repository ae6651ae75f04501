"""One record's fields are COPY's fields."""

from __future__ import annotations

import io

import psycopg2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from loader.core.spec.model import CsvSpec
from loader.records.dialect import Dialect, UnterminatedQuoteError, join_record, split_record

PLAIN = Dialect.of(CsvSpec())
BACKSLASH = Dialect.of(CsvSpec(escape="\\"))

records = st.text(alphabet='ab,"\\ \né', max_size=20).map(str.encode)


def copied(connection: psycopg2.extensions.connection, record: bytes, escape: str) -> list[str | None] | None:
    """What COPY makes of the record in a table as wide as the record; None where it refuses."""
    dialect = PLAIN if escape == '"' else BACKSLASH
    width = len(split_record(record, dialect))
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TEMP TABLE t ({', '.join(f'c{number} text' for number in range(width))})")
        cursor.copy_expert(f"COPY t FROM STDIN (FORMAT csv, ESCAPE '{escape}')", io.BytesIO(record + b"\n"))
        cursor.execute("SELECT * FROM t")
        row = cursor.fetchone()
    connection.rollback()
    return None if row is None else list(row)


@pytest.mark.every_postgres
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(record=records, escape=st.sampled_from(['"', "\\"]))
@example(record=b'ab"c,d"e,"",', escape='"')
@example(record=b'"a\\"b\\\\",\\"x"', escape="\\")
@example(record=b'""""', escape='"')
def test_a_record_is_split_as_copy_splits_it(dsn: str, record: bytes, escape: str) -> None:
    """Values are COPY's, to the letter; an unquoted empty field is NULL and a quoted one is not."""
    dialect = PLAIN if escape == '"' else BACKSLASH
    try:
        fields = split_record(record, dialect)
    except UnterminatedQuoteError:
        return  # COPY would read on into the next record
    if (b"\n" in record and not quoted_newlines_only(record, dialect)) or record == b"\\.":
        return  # two records, or COPY's own end mark
    with psycopg2.connect(dsn) as connection:
        expected = copied(connection, record, escape)
    connection.close()
    assert [None if value == b"" and not quoted else value.decode() for value, quoted in fields] == expected


def quoted_newlines_only(record: bytes, dialect: Dialect) -> bool:
    """No prefix that ends at a newline is a whole record."""
    for at, byte in enumerate(record):
        if byte == 10:
            try:
                split_record(record[:at], dialect)
            except UnterminatedQuoteError:
                continue
            return False
    return True


@given(records)
def test_the_regular_spelling_means_the_same(record: bytes) -> None:
    """Splitting what was joined gives the same fields."""
    try:
        fields = split_record(record, BACKSLASH)
    except UnterminatedQuoteError:
        return
    if all(quoted or not set(value) & set(b'",\n') for value, quoted in fields):
        assert split_record(join_record(fields, PLAIN), PLAIN) == fields


def test_an_open_quote_is_an_error() -> None:
    """The record would run on."""
    with pytest.raises(UnterminatedQuoteError):
        split_record(b'a,"b', PLAIN)


@pytest.mark.parametrize(
    ("delimiter", "record", "fields"),
    [
        ("||", b"a|||b||", [b"a", b"|b", b""]),
        ("\t|", b'"a\t|b"\t|c\t', [b"a\t|b", b"c\t"]),
        ("§", "a§b".encode(), [b"a", b"b"]),
        ("~|~", b"a~|~|~b", [b"a", b"|~b"]),
    ],
)
def test_a_delimiter_of_several_bytes(delimiter: str, record: bytes, fields: list[bytes]) -> None:
    """Is found from the left, and not inside quotes."""
    assert [value for value, _ in split_record(record, Dialect.of(CsvSpec(delimiter=delimiter)))] == fields
