"""Parsing a block: rows, and the records that are none."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loader.convert.parse import Parser
from loader.convert.rows import Rows
from loader.convert.transform import Transformer
from loader.core.pgtypes import column_type
from loader.core.spec.model import CsvSpec
from loader.postgres.load_column import LoadColumn
from loader.records.block import Place
from loader.records.dialect import Dialect, split_record
from loader.records.splitter import split


def rows_of(
    data: bytes,
    types: str = "bigint|text",
    *,
    null: tuple[str, ...] = ("",),
    csv: CsvSpec | None = None,
    dialect: Dialect | None = None,
) -> Rows:
    """The only block of ``data``, parsed and transformed into columns a, b, … of ``types``."""
    columns = [LoadColumn(chr(97 + at), column_type(name), at) for at, name in enumerate(types.split("|"))]
    (block,) = split([data], dialect or Dialect.of(csv or CsvSpec()), name="x.csv")
    return Transformer(columns, {}).convert(Parser(columns, len(columns), null, name="x.csv").parse(block))


def values(rows: Rows) -> list[list[Any]]:
    return [list(row.values()) for row in rows.batch.to_pylist()]


def rejected(rows: Rows) -> list[tuple[int, int, int, str | None, str, bytes]]:
    return [(each.record, each.line, each.offset, each.column, each.reason, each.raw) for each in rows.rejects]


def test_typed_columns_come_typed() -> None:
    """Arrow's reader makes the column types itself; no second conversion is needed."""
    rows = rows_of(b"1,a\n-2,\n")
    assert rows.batch.schema.types == [pa.int64(), pa.string()]
    assert values(rows) == [[1, "a"], [-2, None]]


def test_only_an_unquoted_empty_field_is_null() -> None:
    """As COPY has it; NA is Namibia."""
    assert values(rows_of(b'1,\n2,""\n3,NA\n4,NULL\n')) == [[1, None], [2, ""], [3, "NA"], [4, "NULL"]]


def test_the_specs_null_texts_replace_the_empty_one() -> None:
    """With ``null = ["NA"]`` an empty text is a text."""
    assert values(rows_of(b'NA,\n2,NA\n3,"NA"\n', null=("NA",))) == [[None, ""], [2, None], [3, "NA"]]


def test_records_with_the_wrong_number_of_fields_are_set_aside() -> None:
    """Each with its place and its raw text; the others are rows."""
    rows = rows_of(b'1,a\n2\n\n3,"b\nb",c\r\n4,d\n')
    assert values(rows) == [[1, "a"], [4, "d"]]
    assert rows.index.tolist() == [0, 4]
    assert rejected(rows) == [
        (2, 2, 4, None, "too_few_fields", b"2"),
        (3, 3, 6, None, "too_few_fields", b""),
        (4, 4, 7, None, "too_many_fields", b'3,"b\nb",c'),
    ]


def test_an_empty_line_is_a_null_where_there_is_one_column() -> None:
    """As COPY has it."""
    assert values(rows_of(b"1\n\n3\n", "bigint")) == [[1], [None], [3]]


def test_a_value_that_does_not_convert_makes_its_record_doubtful_alone() -> None:
    """As text, whole, for the server to judge; its neighbours are rows."""
    rows = rows_of(b"1,a\nx,b\n3,c\ny,\n", "bigint|text")
    assert values(rows) == [[1, "a"], [3, "c"]]
    assert not rows.rejects
    assert rows.doubtful is not None
    assert rows.doubtful.index.tolist() == [1, 3]
    assert rows.doubtful.texts.to_pylist() == [{"a": "x", "b": "b"}, {"a": "y", "b": None}]


def test_nul_and_bytes_that_are_not_utf8_reject_their_records() -> None:
    """The rest of the block is loaded."""
    rows = rows_of(b"1,a\n2,b\0c\n3,\xff\n4,d\n")
    assert values(rows) == [[1, "a"], [4, "d"]]
    assert [(each.record, each.column, each.reason, each.raw) for each in rows.rejects] == [
        (2, "b", "nul_byte", b"2,b\0c"),
        (3, "b", "invalid_encoding", b"3,\xff"),
    ]


def test_a_text_over_its_length_is_rejected() -> None:
    """Blanks past the length are cut by PostgreSQL, anything else is refused."""
    rows = rows_of(b"1,abc\n2,abcd\n3,ab   \n", "bigint|character varying(3)")
    assert [each.reason for each in rows.rejects] == ["value_too_long"]


def test_an_open_quote_costs_its_own_line() -> None:
    """The next line has the right shape again."""
    columns = [LoadColumn("a", column_type("text"), 0)]
    blocks = list(split([b'x\n"open\nand on\n'], Dialect.of(CsvSpec()), name="x.csv"))
    parsed = [Parser(columns, 1, ("",), name="x.csv").parse(block) for block in blocks]
    assert [row.batch.num_rows for row in parsed] == [1, 0, 1]
    assert rejected(parsed[1]) == [(2, 2, 2, None, "unbalanced_quote", b'"open')]


def test_lines_that_a_stray_quote_cost_are_rejected() -> None:
    """One by one, each with its raw text; what follows them is rows again."""
    columns = [LoadColumn(name, column_type("text"), at) for at, name in enumerate("ab")]
    data = b'1,x\n2,"open\nand on\n3,y\n4,z\n'
    blocks = split([data], Dialect.of(CsvSpec()), name="x.csv", start=Place(fields=2))
    parsed = [Parser(columns, 2, ("",), name="x.csv").parse(block) for block in blocks]
    assert [row.batch.num_rows for row in parsed] == [1, 0, 2]
    assert rejected(parsed[1]) == [
        (2, 2, 4, None, "unbalanced_quote", b'2,"open'),
        (3, 3, 12, None, "unbalanced_quote", b"and on"),
    ]


def test_undecodable_bytes_are_told_as_they_were() -> None:
    """In the raw text of the reject, where the file's own encoding was another; a UTF-8 file's text is untouched."""
    csv = CsvSpec(encoding="cp1252")
    spelt = "2,a\udc81\n".encode("utf-8", "surrogatepass")
    rows = rows_of(b"1,b\n" + spelt, dialect=Dialect.of(csv, transcoded=True))
    assert rejected(rows) == [(2, 2, 4, "b", "invalid_encoding", b"2,a\x81")]
    assert rejected(rows_of(spelt))[0][-1] == spelt[:-1]


@pytest.mark.parametrize(
    ("data", "csv", "expected"),
    [
        (b'1,ab"c,d"e\n', CsvSpec(), "abc,de"),
        (b'1,"a" b\n', CsvSpec(), "a b"),
        (b'1,""x\n', CsvSpec(), "x"),
        (b'1,"a\\"b\\\\"\n', CsvSpec(escape="\\"), 'a"b\\'),
        (b'1,a\\b\n', CsvSpec(escape="\\"), "a\\b"),
        (b'1,5" pipe, 6" pipe\n', CsvSpec(), "5 pipe, 6 pipe"),
        (b"1,'a,b'\n", CsvSpec(quote="'", escape="'"), "a,b"),
    ],
)  # fmt: skip
def test_odd_quoting_is_read_as_copy_reads_it(data: bytes, csv: CsvSpec, expected: str) -> None:
    """Where Arrow alone would read it differently."""
    assert values(rows_of(data, csv=csv)) == [[1, expected]]


def test_without_a_quote_character_quotes_are_text() -> None:
    """And never join lines."""
    assert values(rows_of(b'1,"a\n2,b"\n', csv=CsvSpec(quote="", escape=""))) == [[1, '"a'], [2, 'b"']]


def test_ragged_records_are_made_even_where_asked() -> None:
    """Filled with NULL, or cut; an empty line is a record of one field."""
    columns = [LoadColumn(name, column_type("text"), at) for at, name in enumerate("abc")]
    data = b'1,x\n2,"y\nq",z,more\n\n3\n4,"a,b",c\n5,,,"x,"\n'
    (block,) = split([data], Dialect.of(CsvSpec()), name="x.csv", start=Place(fields=3))
    rows = Parser(columns, 3, ("",), name="x.csv", pad=True).parse(block)
    texts = [column.cast(pa.string()).to_pylist() for column in rows.batch.columns]
    assert [list(row) for row in zip(*texts, strict=True)] == [
        ["1", "x", None],
        ["2", "y\nq", "z"],
        [None, None, None],
        ["3", None, None],
        ["4", "a,b", "c"],
        ["5", None, None],
    ]
    assert (rows.short, rows.long) == (3, 2)
    assert rejected(rows) == []


DIALECTS = [
    Dialect.of(CsvSpec()),
    Dialect.of(CsvSpec(escape="\\")),
    Dialect.of(CsvSpec(delimiter="||", comment="#")),
    Dialect.of(CsvSpec(delimiter="a|", escape="\\")),
    Dialect.of(CsvSpec(delimiter="§", quote="", escape="")),
    Dialect.of(CsvSpec(delimiter=" ", quote="'", escape="'", comment="b")),
]
csv_texts = st.lists(st.sampled_from([*"ab,\"' \n\r\\|#§", "||", "a|", "a||b\n", "a,b\n"]), max_size=50).map(
    lambda each: "".join(each).encode()
)


@given(csv_texts, st.sampled_from(DIALECTS))
@example(b'a|||"b"\n"||"||""\n', DIALECTS[2])
@example(b'#||"\na||b\n#\n"a"||\n\n#"', DIALECTS[2])
@example(b'"\\""a|x"\\\\"y\n', DIALECTS[3])
def test_every_record_is_a_row_or_a_reject(data: bytes, dialect: Dialect) -> None:
    """With the fields that COPY's rules give it, and none is lost, wherever quotes and line ends stand."""
    columns = [LoadColumn(name, column_type("text"), at) for at, name in enumerate("ab")]
    for block in split([data], dialect, name="x.csv", start=Place(fields=2)):
        rows = Parser(columns, 2, ("",), name="x.csv").parse(block)
        found: dict[int, list[str | None]] = dict(zip(rows.index.tolist(), values(rows), strict=True))
        gone = {each.record - block.record for each in rows.rejects}
        assert sorted([*found, *gone]) == list(range(block.records))
        for index in range(block.records) if block.terminated else ():
            fields = split_record(block.raw(index), dialect)
            expected = [None if not value and not quoted else value.decode() for value, quoted in fields]
            assert found.get(index, expected) == expected
            assert (index in gone) == (len(fields) != 2)
        assert block.terminated or not found


def test_threads_share_what_a_parser_remembers() -> None:
    """Each block has an odd value in another column, so threads enter new columns while others look at all of them."""
    width, threads = 60, 4
    columns = [LoadColumn(f"c{at}", column_type("bigint"), at) for at in range(width)]
    odd_at = [",".join("x" if at == odd else "1" for at in range(width)) + "\n" for odd in range(width)]
    blocks = [next(split([line.encode()], Dialect.of(CsvSpec()), name="x.csv")) for line in odd_at]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(8):
            parser = Parser(columns, width, ("",), name="x.csv")
            with ThreadPoolExecutor(threads) as pool:
                assert sum(rows.batch.num_rows for rows in pool.map(parser.parse, blocks)) == width
    finally:
        sys.setswitchinterval(interval)
