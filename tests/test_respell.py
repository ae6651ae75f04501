"""Odd spellings in Arrow's: the same records, the same fields, quoted or not as they were."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loader.core.spec.model import CsvSpec
from loader.records.block import Block, Place
from loader.records.dialect import Dialect, split_record
from loader.records.normalize import respell
from loader.records.splitter import split

BARS = Dialect.of(CsvSpec(delimiter="||"))
EVERY_BYTE = bytes(byte for byte in range(1, 128) if byte not in b'\n\r"|')


def block_of(data: bytes, dialect: Dialect) -> Block:
    (block,) = split([data], dialect, name="x.csv")
    return block


def regular(block: Block) -> Block:
    """The block as Arrow is to read it."""
    spelt = respell(block)
    return block_of(spelt.data, Dialect(bytes([spelt.delimiter]), spelt.quote, spelt.quote))


def test_a_regular_block_stays_as_it_is() -> None:
    """Its bytes are not even copied."""
    block = block_of(b'1,"a,""b"\r\n', Dialect.of(CsvSpec()))
    assert respell(block).data is block.data


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a||b|c||\n", b"a\x1fb|c\x1f\n"),
        (b"a|||b\n||||\n", b"a\x1f|b\n\x1f\x1f\n"),
        (b'"a||b"||"c"\r\n', b'"a||b"\x1f"c"\r\n'),
        (b'a|||"b"\n', b'a\x1f"|b"\n'),  # the third bar is the value's, so the quote is in its middle
        (b"a\x1f||b\n", b"a\x1f\x1eb\n"),
    ],
)
def test_a_long_delimiter_gives_way_to_a_free_byte(data: bytes, expected: bytes) -> None:
    """From the left, as it is read; not inside quotes."""
    assert respell(block_of(data, BARS)).data == expected


def test_a_byte_that_means_null_is_not_free() -> None:
    """A field of it must stay a field."""
    assert respell(block_of(b"a||b\n", BARS), null=("\x1f", "\x1e")).delimiter == 0x1D


@pytest.mark.parametrize("quote", ['"', ""])
def test_a_block_of_all_bytes_is_quoted_where_need_be(quote: str) -> None:
    """There is no byte left to delimit by; fields stay as they are."""
    dialect = Dialect.of(CsvSpec(delimiter="||", quote=quote, escape=quote))
    data = EVERY_BYTE + b"||||x\n\na||" + EVERY_BYTE + b"\n"
    block = block_of(data, dialect)
    again = regular(block)
    assert [[value for value, _ in split_record(again.raw(index), again.dialect)] for index in range(3)] == [
        [EVERY_BYTE, b"", b"x"],
        [b""],
        [b"a", EVERY_BYTE],
    ]
    assert split_record(again.raw(0), again.dialect)[1:] == [(b"", False), (b"x", False)]


tokens = st.sampled_from([*'ab,"\n\r\\|#', "||", '"\\""', '"||"', "é"])


@given(
    st.lists(tokens, max_size=40).map(lambda each: "".join(each).encode()),
    st.sampled_from([",", "||", "|a", "é", "é|é"]),
    st.sampled_from(['"', "\\"]),
    st.sampled_from(["", "#"]),
)
@example(b'a||"b"c\n#"\n"d||"||\n', "||", '"', "#")
def test_the_fields_stay_the_same(data: bytes, delimiter: str, escape: str, comment: str) -> None:
    """Their texts, and whether they were quoted; comments are gone, and as many records are left."""
    dialect = Dialect.of(CsvSpec(delimiter=delimiter, escape=escape, comment=comment))
    for block in split([data], dialect, name="x.csv", block_size=16, start=Place(fields=2)):
        if block.terminated:
            again = regular(block)
            assert again.regular
            assert again.records == block.records
            for index in range(block.records):
                assert split_record(again.raw(index), again.dialect) == split_record(block.raw(index), dialect)
