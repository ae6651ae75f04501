"""Transforms, formats and filters in the compiled lane: each makes what Arrow makes of them, or leaves it to Arrow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from support.postgres import query
from support.zones import MACHINE_ZONES

import loader
from loader.convert.binary_copy import encode
from loader.convert.lanes.express_lane import fast_lane
from loader.convert.lanes.hybrid_lane import Hybrid
from loader.convert.lanes.kernel_filter import compile_filter
from loader.convert.lanes.kernel_program import Express, Sure, express_lane
from loader.convert.parse import Parser
from loader.convert.rows import Rows
from loader.convert.steps import apply_chain
from loader.convert.transform import Transformer, schema_of
from loader.core.pgtypes import column_type
from loader.core.spec.datetimes import compile_format
from loader.core.spec.filter import parse
from loader.core.spec.model import Step
from loader.kernel import compiled as kernel
from loader.postgres.load_column import LoadColumn
from loader.records.block import Block, Place
from loader.records.dialect import Dialect
from loader.records.key_order import Run
from loader.records.splitter import Splitter

pytestmark = pytest.mark.skipif(not kernel.COMPILED, reason="the kernel is not compiled here")

REGULAR = Dialect(b",", ord('"'), ord('"'))


def lane(columns: Sequence[LoadColumn], condition: str | None = None, *, key: Sequence[str] = ()) -> Express | None:
    width = sum(column.value is None for column in columns)
    compiled = compile_filter(condition, columns, zone="Europe/Berlin", zones=MACHINE_ZONES)
    return express_lane(
        kernel.compiled_kernel(),
        columns,
        width,
        ("",),
        {},
        key=key,
        required=key,
        filter=compiled,
        with_position=False,
        zones=MACHINE_ZONES,
    )


def block_of(data: bytes) -> Block:
    splitter = Splitter(REGULAR, name="x.csv", start=Place(), block_size=1 << 24)
    (block,) = [*splitter.feed(data), *splitter.flush()]
    return block


def line(*texts: str | None) -> bytes:
    """A record of quoted fields, None unquoted and empty."""
    fields = ("" if text is None else '"' + text.replace('"', '""') + '"' for text in texts)
    return ",".join(fields).encode("utf-8", "surrogateescape") + b"\n"


def by_arrow(columns: Sequence[LoadColumn], block: Block, condition: str | None = None) -> Rows:
    bound = (
        None
        if condition is None
        else parse(condition).bind(schema_of(columns), zone="Europe/Berlin", zones=MACHINE_ZONES)
    )
    transformer = Transformer(columns, {}, filter=bound, zones=MACHINE_ZONES)
    width = sum(column.value is None for column in columns)
    rows = transformer.convert(Parser(columns, width, ("",), name="x.csv").parse(block))
    assert rows.doubtful is None
    assert not rows.rejects
    return transformer.finish(rows)


def compared(columns: Sequence[LoadColumn], lines: Sequence[bytes], condition: str | None = None) -> Sure:
    """What the kernel makes of the records, after it was found to be what Arrow makes of the same ones."""
    express = lane(columns, condition)
    assert express is not None
    sure = express.take(block_of(b"".join(lines)))
    assert sure is not None
    left = set() if sure.rest is None else set(sure.rest.origin[1].tolist())  # type: ignore[index]
    taken = [each for place, each in enumerate(lines) if place not in left]
    assert sure.kept + sure.filtered == len(taken)
    if taken:
        rows = by_arrow(columns, block_of(b"".join(taken)), condition)
        assert sure.filtered == rows.filtered
        assert sure.tuples == encode(rows, [column.type for column in columns], with_position=False)
    return sure


def left(sure: Sure) -> list[int]:
    """The places of the records that the kernel leaves to the other lanes."""
    return [] if sure.rest is None or sure.rest.origin is None else sure.rest.origin[1].tolist()


# --- steps

WORDS = ("a", "B", "n/a", "-", "", "ab", "ÄÖ", "ß", "b")
BLANKS = " \t\x1c\x1f\x85\xa0\u1680\u2003\u200a\u200b\u2028\u202f\u205f\u3000"
steps = st.one_of(
    st.sampled_from([Step("strip"), Step("lower"), Step("upper"), Step("strip_currency")]),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(lambda texts: Step("null_if", tuple(texts))),
    st.tuples(st.sampled_from(["a", "ab", "-", "é", " ", "aab"]), st.sampled_from(["", "b", "a"])).map(
        lambda pair: Step("replace", pair)
    ),
    st.dictionaries(
        st.sampled_from(WORDS), st.sampled_from(["x", "", "a long text of many characters", "é"]), min_size=1
    ).map(lambda pairs: Step("map", tuple(pairs.items()))),
)
chains = st.lists(steps, min_size=1, max_size=5).map(tuple)
amounts = st.builds(
    "{}{}{}{}{}{}".format,
    st.sampled_from(["", " ", "$", "US$", "USD ", "€ ", "£", "EURUSD", "X"]),
    st.sampled_from(["", "-", "+", "(", "- ", "-$", "( $"]),
    st.sampled_from(["", "1", "12", "123", "1234", "0", "01"]),
    st.sampled_from(["", ",234", ",234,567", "'234", " 234 567", "\u202f234", ",234'567", ",2345", ",23"]),
    st.sampled_from(["", ".", ".5", ".50", ",50", ".5.5"]),
    st.sampled_from(["", ")", " USD", "€)", "-", "%", ") ", "  "]),
)
texts = st.one_of(
    st.none(),
    st.sampled_from(WORDS),
    amounts,
    st.text(st.sampled_from("abABzZ@[`{-n/éßÄ€😀\"'," + BLANKS), max_size=12),
    st.text(st.sampled_from(BLANKS + "aé"), min_size=1, max_size=5),
    st.text(st.sampled_from("aAbB -"), min_size=20, max_size=90),
)


@given(chains, st.none() | st.sampled_from(["", "none", "é"]), st.lists(texts, max_size=30))
@settings(max_examples=400)
@example(
    (Step("lower"), Step("strip_currency"), Step("upper"), Step("strip_currency")), None, ["$ 1,000", "(1)", "usd 1"]
)
def test_steps_make_the_texts_that_arrow_makes(
    chain: tuple[Step, ...], default: str | None, values: list[str | None]
) -> None:
    columns = [
        LoadColumn("t", column_type("text"), 0, steps=chain, default=default),
        LoadColumn("v", column_type("character varying(9)"), 1, steps=chain),
        LoadColumn("n", column_type("integer"), 2),
    ]
    fitting = [value for value in values if len(after(chain, value) or "") <= 9]
    assume(fitting)
    compared(columns, [line(value, value, str(number)) for number, value in enumerate(fitting)])


def after(chain: Sequence[Step], value: str | None) -> str | None:
    made: str | None = apply_chain(chain, pa.array([value], pa.string()))[0].as_py()
    return made


def test_steps_on_ascii_are_all_done_by_the_kernel() -> None:
    chain = (
        Step("strip"),
        Step("lower"),
        Step("replace", ("x", "")),
        Step("null_if", ("-",)),
        Step("map", (("y", "yes"),)),
    )
    columns = [
        LoadColumn("t", column_type("text"), 0, steps=chain, default="none"),
        LoadColumn("n", column_type("numeric(9,2)"), 1, steps=(Step("strip_currency"),)),
    ]
    values = [" Ab ", "-", "Y", "xX", None, 'a""b', "\t" * 70 + "Z" * 70]
    sums = ["$1,234.50", " 5 ", "(7.5)", "-€3", "1 000 USD", "+4", "£9"]
    sure = compared(columns, [line(*pair) for pair in zip(values, sums, strict=True)])
    assert left(sure) == []


def test_a_strip_of_any_blanks_is_done_by_the_kernel() -> None:
    columns = [
        LoadColumn("t", column_type("text"), 0, steps=(Step("strip"),)),
        LoadColumn("n", column_type("integer"), 1),
    ]
    every = [chr(code) for code in range(1, 0x3100) if not 0xD800 <= code <= 0xDFFF]
    sure = compared(columns, [line(f"{each}x{each}", "1") for each in every])
    assert left(sure) == []


@pytest.mark.parametrize("name", ["lower", "upper"])
def test_letters_of_all_scripts_change_their_case_as_with_arrow(name: str) -> None:
    columns = [LoadColumn("t", column_type("text"), 0, steps=(Step(name),)), LoadColumn("n", column_type("integer"), 1)]
    every = [chr(code) for code in range(1, 0x20100) if not 0xD800 <= code <= 0xDFFF]
    sure = compared(columns, [line(f"a{each}Z{each}", "1") for each in every])
    made = apply_chain((Step(name),), pa.array(every, pa.string())).to_pylist()
    resized = {one for one, other in zip(every, made, strict=True) if len(one.encode()) != len(other.encode())}
    assert {every[place] for place in left(sure)} == resized | {each for each in every if each >= "\U00020000"} | {
        "\U00010000"
    }
    assert len(resized) < 100


def test_letters_that_change_their_size_and_signs_that_it_does_not_know_are_left() -> None:
    columns = [
        LoadColumn("t", column_type("text"), 0, steps=(Step("upper"),)),
        LoadColumn("n", column_type("text"), 1, steps=(Step("strip_currency"),)),
    ]
    sure = compared(
        columns, [line("a", "1"), line("ı", "1"), line("b", "₿ 5"), line("c", "1\xa0000"), line("d", "€ 1")]
    )
    assert left(sure) == [1, 2, 3]


def test_bytes_that_are_no_utf8_are_left_whatever_the_steps_make_of_them() -> None:
    columns = [LoadColumn("t", column_type("text"), 0, steps=(Step("replace", ("b", "")),))]
    express = lane(columns)
    assert express is not None
    sure = express.take(block_of(b"a\n\xc3b\xa9\nbb\n"))
    assert sure is not None
    assert left(sure) == [1]


@pytest.mark.parametrize(
    "step",
    [Step("replace", ("a", "bb")), Step("null_if", tuple(map(str, range(300)))), Step("map", (("a", "\0"),))],
    ids=lambda step: step.name,
)
def test_steps_that_the_kernel_does_not_know_are_for_arrow(step: Step) -> None:
    assert lane([LoadColumn("t", column_type("text"), 0, steps=(step,))]) is None


# --- formats

FORMATS = {
    "date": ["%Y-%m-%d", "%d/%m/%Y", "%m/%d/%y", "%d.%b.%Y", "%Y%m%d", "%Y-%j", "%d %B %Y", "%a %d %b %Y",
             "%A, %-d/%-m/%Y", "%Y-%m-%d %H:%M:%S", "%Y"],
    "timestamp without time zone": ["%Y-%m-%d %H:%M:%S", "%d/%m/%Y %I:%M %p", "%Y-%m-%dT%H:%M:%S.%f", "%Y%m%d%H%M%S",
                                    "%D %T", "%Y %H"],
    "timestamp with time zone": ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%d %b %Y %H:%M %z", "%z%Y%m%d"],
    "time without time zone": ["%H:%M", "%I:%M:%S %p", "%H%M%S.%f", "%T"],
}  # fmt: skip
CASES = [(name, format) for name, formats in FORMATS.items() for format in formats]
moments = st.one_of(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),
    st.datetimes(datetime(1960, 1, 1), datetime(2070, 1, 1)),
    st.sampled_from([datetime(2000, 2, 29), datetime(1900, 2, 28, 23, 59, 59, 999999), datetime(1969, 12, 31, 23)]),
)
zones = st.sampled_from(["", "Z", "+05:30", "-0800", "+02", "+2359"])


@st.composite
def written(draw: st.DrawFn, format: str) -> str:
    """A moment in a format, or something near to it."""
    moment = draw(moments)
    text = moment.strftime(format.replace("%z", "@").replace("%Y", f"{moment.year:04}")).replace("@", draw(zones))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(["", *"0123456789 :-/+ZaAP."])) + text[at + draw(st.integers(0, 1)) :]
    return draw(st.sampled_from([text, text, text.lower(), text.upper()]))


@pytest.mark.parametrize(("name", "format"), CASES)
@given(data=st.data())
@settings(max_examples=30)
def test_formats_are_read_as_arrow_reads_them(name: str, format: str, data: st.DataObject) -> None:
    column = LoadColumn("d", column_type(name), 0, format=compile_format(format))
    columns = [column, LoadColumn("n", column_type("integer"), 1)]
    found = data.draw(st.lists(written(format), min_size=1, max_size=20))
    assert column.format is not None
    _, bad = column.format.parse(pa.array(found, pa.string()))
    express = lane(columns)
    assert express is not None
    sure = express.take(block_of(b"".join(line(text, "1") for text in found)))
    assert sure is not None
    assert set(np.flatnonzero(bad).tolist()) <= set(left(sure))  # what the format refuses, the other lane rejects
    if not bad.all():
        compared(columns, [line(text, "1") for text, odd in zip(found, bad, strict=True) if not odd])


@pytest.mark.parametrize(("name", "format"), CASES)
def test_moments_as_they_are_usually_written_are_read_by_the_kernel(name: str, format: str) -> None:
    columns = [
        LoadColumn("d", column_type(name), 0, format=compile_format(format)),
        LoadColumn("n", column_type("integer"), 1),
    ]
    usual = [datetime(2024, 2, 29, 23, 59, 58, 123456), datetime(1995, 10, 5, 1, 2, 3)]
    lines = [line(each.strftime(format.replace("%z", "+02:00").replace("%-", "%")), "1") for each in usual]
    assert left(compared(columns, lines)) == []


def test_a_local_time_of_another_zone_and_an_inferred_type_are_for_arrow() -> None:
    format = compile_format("%Y-%m-%d %H:%M")
    assert lane([LoadColumn("d", column_type("timestamp with time zone"), 0, format=format, zone="Asia/Tokyo")]) is None
    assert lane([LoadColumn("d", column_type("date"), 0, steps=(Step("strip"),), pattern=".")]) is None


# --- filters

SCHEMA = {
    "i": "integer", "s": "smallint", "b": "bigint", "n": "numeric(9,2)", "f": "real", "g": "double precision",
    "t": "text", "d": "date", "p": "timestamp without time zone", "z": "timestamp with time zone",
    "c": "time without time zone", "y": "boolean",
}  # fmt: skip
WHOLE = ["0", "1", "-1", "7", "2147483647", "-2147483648", "32767", "9223372036854775807", "-9223372036854775808"]
VALUES: dict[str, list[str]] = {
    "i": WHOLE[:6], "s": ["0", "1", "-1", "7", "32767", "-32768"], "b": WHOLE,
    "n": ["0", "-0", "0.01", "-0.01", "1", "1.00", "1.5", "-1.5", "9999999.99", "-9999999.99", "10000", "0.10"],
    "f": ["0", "-0", "0.1", "1.5", "16777217", "-3e38", "1e-30"],
    "g": ["0", "-0", "0.1", "1.5", "9007199254740993", "-1e300"],
    "t": ["", "a", "ab", "b", "é", "z" * 40, 'q"'], "d": ["2024-01-31", "1999-12-31", "0001-01-01", "9999-12-31"],
    "p": ["2024-01-31 14:30:00", "1969-12-31 23:59:59.999999", "2024-01-31"],
    "z": ["2024-01-31 14:30:00+02:00", "2024-01-31 12:30:00Z"], "c": ["14:30:00", "00:00", "23:59:59.5"],
    "y": ["t", "f"],
}  # fmt: skip
NUMBERS = [*WHOLE, "1.5", "0.01", "0.015", "1.50", "1e3", "16777217", "9223372036854775808", "1e40", "0.1"]
CONSTANTS = {
    **dict.fromkeys("isbnfg", NUMBERS),
    "t": ["''", "'a'", "'ab'", "'É'", "'é'", "'q\"'", "'aa'"], "d": ["'2024-01-31'", "'1999-12-31'"],
    "p": ["'2024-01-31 14:30:00'", "'2024-01-31'", "'1969-12-31'"], "c": ["'14:30:00'", "'00:00'"],
    "z": ["'2024-01-31 13:30:00'", "'2024-01-31 12:30:00Z'"], "y": ["true", "false"],
}  # fmt: skip
OPERATORS = ["=", "<>", "<", "<=", ">", ">="]


@st.composite
def comparisons(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from([*SCHEMA]))
    constant = st.sampled_from([*CONSTANTS[name], *CONSTANTS[name], "null"])
    written = draw(st.sampled_from(["{0} {1} {2}", "{2} {1} {0}", "{0} between {2} and {3}", "{0} in ({2}, {3})",
                                    "{0} not in ({2}, {3})", "{0} is null", "{0} is not null"]))  # fmt: skip
    if name == "f" and " in " in written:
        written = "{0} in ({2})"
    return written.format(name, draw(st.sampled_from(OPERATORS)), draw(constant), draw(constant))


conditions = st.recursive(
    st.one_of(comparisons(), st.sampled_from(["y", "true", "null", "not y"])),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda parts: "({} {} {})".format(*parts)),
        inner.map("not ({})".format),
    ),
    max_leaves=6,
)
records = st.tuples(*(st.none() | st.sampled_from(VALUES[name]) for name in SCHEMA))
TYPED = [LoadColumn(name, column_type(type_), place) for place, (name, type_) in enumerate(SCHEMA.items())]


@given(conditions, st.lists(records, min_size=1, max_size=30))
@settings(max_examples=400)
def test_a_filter_keeps_what_the_condition_keeps(condition: str, values: list[tuple[str | None, ...]]) -> None:
    bind(condition)
    assert left(compared(TYPED, [line(*each) for each in values], condition)) == []


def bind(condition: str) -> None:
    try:
        parse(condition).bind(schema_of(TYPED), zone="Europe/Berlin", zones=MACHINE_ZONES)
    except ValueError:
        assume(False)  # such as a number out of the range of double precision


def test_a_numeric_that_the_server_will_round_is_left_before_the_filter_sees_it() -> None:
    express = lane([LoadColumn("n", column_type("numeric(9,2)"), 0)], "n > 1")
    assert express is not None
    sure = express.take(block_of(b"1.004\n2\n1.00\n0.5\n"))
    assert sure is not None
    assert left(sure) == [0]
    assert (sure.kept, sure.filtered) == (1, 2)


def test_keys_are_followed_through_the_records_that_are_kept_alone() -> None:
    columns = [LoadColumn("k", column_type("integer"), 0), LoadColumn("n", column_type("integer"), 1)]
    express = lane(columns, "n > 0", key=("k",))
    assert express is not None
    sure = express.take(block_of(b"1,1\n9,0\n2,1\n3,1\n0,0\n"))
    assert sure is not None
    assert sure.keys == Run((1,), (3,))
    nothing = express.take(block_of(b"5,0\n4,0\n"))
    assert nothing is not None
    assert (nothing.kept, nothing.filtered, nothing.keys) == (0, 2, Run())


@pytest.mark.parametrize(
    "condition",
    [
        "i + 1 > 2", "i < b", "t like 'a%'", "f in (0.1, 0.2)", "u = 'a'", "u is null", "w > 1",
        "i in (" + ", ".join(map(str, range(200))) + ")",
    ],
)  # fmt: skip
def test_a_condition_that_the_kernel_does_not_know_is_for_arrow(condition: str) -> None:
    columns = [*TYPED, LoadColumn("u", column_type("uuid"), 12), LoadColumn("w", column_type("numeric(20,2)"), 13)]
    assert compile_filter(condition, columns, zone="UTC") is None


# --- open columns

GROWN = (Step("replace", ("a", "bbb")),)
MIXED = [
    LoadColumn("i", column_type("integer"), 0),
    LoadColumn("t", column_type("character varying(6)"), 1, steps=GROWN, default="none", not_null=True),
    LoadColumn("n", column_type("numeric(9,2)"), 2),
    LoadColumn(
        "z", column_type("timestamp with time zone"), 3, format=compile_format("%Y-%m-%d"), zone="Europe/Berlin"
    ),
    LoadColumn("p", column_type("text"), 4),
    LoadColumn("b", column_type("boolean"), 5),
]
mixed = st.tuples(
    st.sampled_from(["1", "2", "-7", "x"]),
    st.sampled_from([None, "", "a", "b", "aa", "é", 'q"', "long text"]),
    st.sampled_from([None, "1", "2.50", "-3", "x"]),
    st.sampled_from([None, "2024-03-31", "1999-12-31", "2024-02-30", "x"]),
    st.sampled_from([None, "", "a text of some length, with more than thirty-two bytes in it", "é"]),
    st.sampled_from([None, "t", "f"]),
)


def hybrid(columns: Sequence[LoadColumn], condition: str | None, *, position: bool = False) -> Hybrid:
    made = fast_lane(
        kernel.compiled_kernel(), columns, len(columns), ("",), {},
        key=("i",), required=(), condition=condition, zone="Europe/Berlin", zones=MACHINE_ZONES, with_position=position,
    )  # fmt: skip
    assert isinstance(made, Hybrid)
    return made


@given(
    st.lists(mixed, min_size=1, max_size=30),
    st.sampled_from([None, "n > 1", "n * 2 > 1", "t like 'b%'", "b or n = 1"]),
    st.booleans(),
)
@settings(max_examples=300)
def test_open_columns_are_made_by_arrow_and_the_others_by_the_kernel(
    values: list[tuple[str | None, ...]], condition: str | None, position: bool
) -> None:
    lines = [line(*each) for each in values]
    block = block_of(b"".join(lines))
    sure = hybrid(MIXED, condition, position=position).take(block)
    assert sure is not None
    taken = np.delete(np.arange(len(lines)), left(sure))
    assert sure.kept + sure.filtered == len(taken)
    assert left(sure) == sorted(left(sure))
    if sure.rest is not None:
        assert [sure.rest.raw(each) for each in range(sure.rest.records)] == [block.raw(each) for each in left(sure)]
    if len(taken):
        picked = replace(block.pick(taken), regular=True)
        rows = by_arrow(MIXED, picked, condition)
        assert sure.tuples == encode(rows, [column.type for column in MIXED], with_position=position)
    certain = {place for place, each in enumerate(values) if _is_certain(each)}
    assert certain.isdisjoint(left(sure))


def _is_certain(values: tuple[str | None, ...]) -> bool:
    return not {"x", "2024-02-30", "long text"} & set(values)


def test_a_load_of_open_columns_alone_is_for_arrow() -> None:
    columns = [LoadColumn("t", column_type("text"), 0, steps=GROWN)]
    made = fast_lane(
        kernel.compiled_kernel(),
        columns,
        1,
        ("",),
        {},
        key=(),
        required=(),
        condition=None,
        zone="UTC",
        with_position=False,
    )
    assert made is None


def test_tuples_that_are_cut_off_or_do_not_fit_are_refused() -> None:
    compiled = kernel.compiled_kernel()
    assert compiled is not None
    tuples = b"\0\2" + b"\0\0\0\1x" + b"\xff\xff\xff\xff" + b"\0\2" + b"\0\0\0\0" + b"\0\0\0\2yz"
    made = (b"\0\1" + b"\0\0\0\3new") * 2
    (texts,), marks, places = compiled.texts(tuples, b"\0\1", 2)
    assert (texts[1], texts[2], marks) == (b"yz", b"\2", b"\0\0")
    assert compiled.assemble(tuples, made, places, b"\1\1").count(b"\0\0\0\3new") == 2
    assert compiled.assemble(tuples, made[:9], places, b"\0\1") == b"\0\2" + b"\0\0\0\0" + b"\0\0\0\3new"
    for cut in range(len(tuples)):
        with pytest.raises(ValueError, match="make no sense"):
            compiled.texts(tuples[:cut], b"\0\1", 2)
        with pytest.raises(ValueError, match="do not fit"):
            compiled.assemble(tuples[:cut], made, places, b"\1\1")
    for cut in range(len(made)):
        with pytest.raises(ValueError, match="do not fit"):
            compiled.assemble(tuples, made[:cut], places, b"\1\1")
    for wrong in (b"\0\1\0", b"\1"):
        with pytest.raises(ValueError, match="make no sense"):
            compiled.texts(tuples, wrong, 2)


# --- whole loads

COLUMNS = {
    "id": ["integer", {"type": "integer", "transform": [{"replace": ["x", "xx"]}]}],
    "t": ["text", {"type": "text", "transform": ["strip", "upper"]},
          {"type": "varchar(4)", "transform": ["strip"], "default": "x"},
          {"type": "varchar(4)", "transform": [{"replace": ["b", "bb"]}]}],
    "n": ["numeric(9,2)", {"type": "numeric(9,2)", "transform": ["strip_currency"]},
          {"type": "numeric(9,2)", "transform": ["strip", {"null_if": ["-"]}], "default": "0"}],
    "d": ["date", {"type": "date", "format": "%d/%m/%Y"},
          {"type": "date", "transform": ["strip"], "format": "%Y-%m-%d"},
          {"type": "timestamptz", "format": "%Y-%m-%d", "timezone": "America/New_York"}],
}  # fmt: skip
FIELDS = {
    "t": ["", " a", "b ", "é", "Éa", '" "', "long text", '"q""q"', "-"],
    "n": ["", "1", "$1,000.50", "(2)", "€5", "-", " 3 ", "1.005", "x", "NaN", "99999999", "1e2"],
    "d": ["", "2024-02-29", "29/02/2024", "1/2/2024", " 2024-01-01 ", "30/02/2024", "x", "infinity", "Jan 5 2024"],
}
FILTERS = [
    None,
    "n > 1",
    "n > 1 or d is null",
    "t <> 'B' and not n = 0",
    "d < '2024-02-01'",
    "id + 1 > 3",
    "t like 'A%'",
]
specs = st.tuples(
    st.fixed_dictionaries({name: st.sampled_from(known) for name, known in COLUMNS.items()}), st.sampled_from(FILTERS)
)
lines = st.tuples(*(st.sampled_from(FIELDS[name]) for name in FIELDS)).map(",".join)


@given(specs, st.lists(lines, min_size=1, max_size=40), st.sampled_from(["append", "merge"]))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_load_is_the_same_with_and_without_it(
    dsn: str, tmp_path: Path, spec: tuple[dict[str, object], str | None], found: list[str], mode: str
) -> None:
    columns, condition = spec
    file = tmp_path / "x.csv"
    file.write_text("id,t,n,d\n" + "".join(f"{number},{each}\n" for number, each in enumerate(found)))
    given = {"columns": columns, "mode": mode, "rejects": {"max_rows": 1000, "max_ratio": 1}}
    if mode == "merge":
        given["key"] = ["id"]
    if condition is not None:
        given["transform"] = {"filter": condition}
    results = []
    for setting in ("off", "on"):
        with mock.patch.dict(os.environ, LOADER_KERNEL=setting):
            report = loader.load(str(file), {**given, "table": f"by_{setting}"}, dsn=dsn, force=True).to_dict()
        rows = query(dsn, f"SELECT id, t, n::text, d::text FROM by_{setting} ORDER BY id")
        rejects = query(
            dsn,
            "SELECT record_number, line_number, byte_offset, column_name, reason, message, raw FROM loader.rejects"
            f" WHERE load_id = {report['load_id']} ORDER BY record_number",
        )
        query(dsn, f"DROP TABLE by_{setting}")
        results.append(({name: value for name, value in report.items() if name.startswith("rows")}, rows, rejects))
    assert results[0] == results[1]
