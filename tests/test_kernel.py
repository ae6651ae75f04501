"""The compiled lane makes of every file what the other lanes make of it, and leaves to them what it is not sure of."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path

import numpy as np
import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.postgres import query
from support.powers_of_five import header
from support.zones import MACHINE_ZONES

from loader.convert.binary_copy import encode
from loader.convert.lanes.kernel_program import Express, express_lane
from loader.convert.parse import Parser
from loader.convert.rows import run_of
from loader.convert.transform import Transformer
from loader.core.errors import UsageError
from loader.core.pgtypes import TypeFacts, column_type
from loader.kernel import compiled as kernel
from loader.postgres.load_column import LoadColumn
from loader.postgres.statements import HEADER, TRAILER
from loader.records.block import Block, Place
from loader.records.dialect import Dialect
from loader.records.splitter import Splitter

pytestmark = pytest.mark.skipif(not kernel.COMPILED, reason="the kernel is not compiled here")

REGULAR = Dialect(b",", ord('"'), ord('"'))


def columns_of(*types: str) -> list[LoadColumn]:
    return [LoadColumn(f"c{place}", column_type(name), place) for place, name in enumerate(types)]


def lane(
    columns: Sequence[LoadColumn], *, fields: int | None = None, key: Sequence[str] = (), position: bool = False
) -> Express:
    width = len(columns) if fields is None else fields
    made = express_lane(
        kernel.compiled_kernel(),
        columns,
        width,
        ("",),
        {"key": "k"},
        key=key,
        required=key,
        with_position=position,
        zones=MACHINE_ZONES,
    )
    assert made is not None
    return made


def block_of(data: bytes, *, dialect: Dialect = REGULAR, record: int = 1) -> Block:
    (block,) = whole(data, dialect, record)
    return block


def whole(data: bytes, dialect: Dialect, record: int) -> Iterator[Block]:
    splitter = Splitter(dialect, name="x.csv", start=Place(record=record, fields=None), block_size=1 << 20)
    yield from splitter.feed(data)
    yield from splitter.flush()


def by_arrow(columns: Sequence[LoadColumn], block: Block, *, position: bool = False) -> bytes:
    rows = Transformer(columns, {"key": "k"}, zones=MACHINE_ZONES).convert(
        Parser(columns, len(columns), ("",), name="x.csv").parse(block)
    )
    assert rows.doubtful is None
    assert not rows.rejects
    return encode(rows, [column.type for column in columns], with_position=position)


# --- tuples

TEXTS = {
    "smallint": ["0", "-32768", "32767", "+5", "007", "-0", " 1", "1 ", "\t1 "],
    "integer": ["2147483647", "-2147483648", "12345678", "123456789"],
    "bigint": ["9223372036854775807", "-9223372036854775808", "123456789012345678", "1234"],
    "numeric": [
        "0",
        "0.00",
        "-0.10",
        "123456789.5",
        "10000",
        "00012.3400",
        ".5",
        "5.",
        "12345678901234567890.123456789",
    ],
    "numeric(15,2)": ["1.5", "-99999.99", "0", "1234567890123.45"],
    "double precision": [
        "0.1",
        "-1e-5",
        "123456789012345678",
        "9007199254740993",
        "1.7976931348623157e308",
        "-0",
        "0.8444218515250481",
        "2.2250738585072014e-308",
        "9007199254740993e15",
        "1234567890.1234567890123",
        "NaN",
        "inf",
        "-Infinity",
    ],
    "real": ["0.1", "16777217", "3.4028234e38", "1e-10", "16777219e5", "0.30000001192", "nan", "+INF"],
    "boolean": ["t", "false", "YES", "off", "1", " t "],
    "date": ["2024-02-29", "0001-01-01", "9999-12-31", "1969-12-31", "2024-01-01 "],
    "timestamp without time zone": ["2024-02-29 23:59:59.999999", "2024-01-01T00:00", "1970-01-01"],
    "timestamp with time zone": ["2024-02-29 23:59:59.5+05:30", "2024-01-01T00:00:00Z", "2024-01-01 00:00:00-0800"],
    "time without time zone": ["00:00", "23:59:59.000001"],
    "uuid": ["00112233-4455-6677-8899-aabbccddeeff", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"],
    "text": ["a", "é€😀", "a b", "x" * 200],
    "character varying(3)": ["abc", "é€😀", ""],
    "json": ["{}", "[1]"],
    "jsonb": ["{}", "[1]"],
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("position", [False, True])
def test_it_makes_the_tuples_that_arrow_and_pgpq_make(name: str, position: bool) -> None:
    columns = columns_of(name, "integer")
    data = "".join(f"{text},{number}\n,{number}\n" for number, text in enumerate(TEXTS[name])).encode()
    block = block_of(data, record=70)
    sure = lane(columns, position=position).take(block)
    assert sure is not None
    assert sure.rest is None
    assert sure.kept == block.records
    assert sure.tuples == by_arrow(columns, block, position=position)


def test_the_powers_of_five_are_those_that_the_script_makes() -> None:
    made = (Path(kernel.__file__).parent / "powers_of_five.h").read_text("utf-8")
    assert made == header()


UNSURE = {
    "smallint": ["32768", " ", "1 2", "1_0", "0x1", "1.0", "--1", "+", "1e2"],
    "bigint": ["9223372036854775808", "00000000000000000000"],
    "numeric": ["1e5", "inf", ".", "1.2.3", "- 1", "1,5", "-", "1" * 70],
    "numeric(3,1)": ["100", "99.99"],
    "double precision": ["infinit", "-NaN", "1e400", "1e-400", "0x1p3", "1e", ".", "4e-320"],
    "real": ["1e39", "1e-46", "0." + "0" * 50 + "1"],
    "boolean": ["tr", "2", "t t"],
    "date": ["2023-02-29", "0000-01-01", "2024-1-1", "20240101", "Jan 1 2024"],
    "timestamp without time zone": ["2024-01-01 24:00", "2024-01-01 12", "2024-01-01 12:00z", "2024-01-01 1:00"],
    "timestamp with time zone": ["2024-01-01 12:00+16", "2024-01-01 12:00  UTC", "0001-01-01 00:00+01"],
    "time without time zone": ["24:00", "12:00:60", "12:00:00.1234567"],
    "uuid": [
        " 00112233-4455-6677-8899-aabbccddeeff",
        "{00112233-4455-6677-8899-aabbccddeeff}",
        "00112233445566778899aabbccddeeff",
    ],
    "text": ["\udcff", "\udced\udca0\udc80"],
    "character varying(3)": ["abcd", "abc "],
}


@pytest.mark.parametrize("name", UNSURE)
def test_it_leaves_what_it_is_not_sure_of_and_only_that(name: str) -> None:
    columns = columns_of(name, "integer")
    good = TEXTS.get(name, ["1.0"])[0]
    texts = [good, *(each for text in UNSURE[name] for each in (text, good))]
    data = "".join(f'"{text}",{number}\n' for number, text in enumerate(texts)).encode("utf-8", "surrogateescape")
    block = block_of(data)
    sure = lane(columns).take(block)
    assert sure is not None
    assert sure.rest is not None
    assert sure.kept == len(UNSURE[name]) + 1
    rest = sure.rest
    assert [rest.whence(index)[1] for index in range(rest.records)] == list(range(1, len(texts), 2))
    assert [rest.raw(index) for index in range(rest.records)] == [block.raw(place) for place in range(1, len(texts), 2)]


PIECES = [*"aé߿ࠀ퟿€\U00010000\U0010ffff", "b" * 30]
TAILS = [bytes([byte]) for byte in b"\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xed\xef\xf0\xf4\xf5\xff"]


@pytest.mark.parametrize("seed", range(20))
def test_it_takes_just_the_texts_that_are_utf_8(seed: int) -> None:
    dice = random.Random(seed)
    texts = []
    for _ in range(3000):
        text = "".join(dice.choices(PIECES, k=dice.randrange(6))).encode()
        if dice.random() < 0.02:
            at = dice.randrange(len(text) + 1)
            text = text[:at] + b"".join(dice.choices(TAILS, k=dice.randint(1, 4))) + text[at + dice.randrange(3) :]
        texts.append(text)
    sure = lane(columns_of("integer", "text")).take(block_of(b"".join(b"1,%s\n" % text for text in texts)))
    assert sure is not None
    odd = [place for place, text in enumerate(texts) if not is_utf_8(text)]
    assert odd
    assert sure.rest is not None
    assert sure.rest.origin[1].tolist() == odd


def is_utf_8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("before", range(70))
def test_texts_are_measured_in_characters_and_as_their_quotes_are_meant(before: int) -> None:
    columns = columns_of("character varying(7)", "jsonb")
    fields = ['"aé€😀""""b"', '"aé€😀""""bc"', '"a"""', '""""', '""', '"x\ny"', "éééééééé", "ééééééé"]
    records = [f'{field},"{{""k"": {"7" * before}1}}"\n' for field in fields]
    sure = lane(columns).take(block_of("".join(records).encode()))
    assert sure is not None
    assert sure.rest is not None
    assert sure.rest.origin[1].tolist() == [1, 6]
    kept = "".join([records[0], *records[2:6], records[7]])
    assert sure.tuples == by_arrow(columns, block_of(kept.encode()))


def test_a_number_is_read_with_its_quotes_as_they_are_meant() -> None:
    data = b'1,"5","a""b"\n2,"5""","a"\n3,"","a""b"\n4,""5"","a"\n'
    sure = lane(columns_of("integer", "integer", "text")).take(block_of(data))
    assert sure is not None
    assert sure.kept == 1
    seven = Dialect(b",", ord("7"), ord("7"))  # a quote may be a digit
    sure = lane(columns_of("integer", "text")).take(block_of(b"7177172,a\n72127,7b7\n", dialect=seven))
    assert sure is not None
    assert sure.kept == 1
    assert sure.rest is not None
    assert sure.rest.data == b"7177172,a\n"


def test_a_nul_byte_costs_the_records_beside_it_in_its_word_at_most() -> None:
    data = b"x" * 100 + b",1\na\0b,2\n" + b"y" * 100 + b",3\nz,4\n"
    sure = lane(columns_of("text", "integer")).take(block_of(data))
    assert sure is not None
    assert sure.rest is not None
    assert b"a\0b,2\n" in sure.rest.data
    assert sure.kept >= 1


def test_quotes_that_are_regular_are_taken_and_others_left() -> None:
    data = b'"a,b",1\n"say ""hi""",2\n"x\r\ny",3\na"b",4\n"a"b,5\n"",6\n,7\n'
    sure = lane(columns_of("text", "integer")).take(block_of(data))
    assert sure is not None
    assert sure.kept == 5
    assert b'say "hi"' in sure.tuples
    assert sure.rest is not None
    assert sure.rest.data == b'a"b",4\n"a"b,5\n'


@pytest.mark.parametrize("before", range(130))
def test_fields_that_end_at_the_edges_of_words_are_whole(before: int) -> None:
    columns = columns_of("text", "bigint", "text")
    data = b"".join(b'%s,%d,"%s"\r\n' % (b"x" * before, number, b'""' * number) for number in range(5))
    block = block_of(data)
    sure = lane(columns).take(block)
    assert sure is not None
    assert sure.rest is None
    assert sure.tuples == by_arrow(columns, block)


def test_what_is_not_loaded_has_to_be_well_formed() -> None:
    columns = [LoadColumn("n", column_type("integer"), 1)]
    data = b'a,1,b\na"",2,b\n\xff,3,b\n"a""b",4,b\n'
    sure = lane(columns, fields=3).take(block_of(data))
    assert sure is not None
    assert sure.kept == 2
    assert sure.rest is not None
    assert sure.rest.records == 2


def test_constants_record_numbers_and_defaults() -> None:
    columns = [
        LoadColumn("name", column_type("text"), None, value="{key}!"),
        LoadColumn("number", column_type("bigint"), None, value="{record_number}"),
        LoadColumn("n", column_type("integer"), 0, default="-1"),
    ]
    block = block_of(b"5\n\n7\n", record=10)
    sure = lane(columns, fields=1).take(block)
    assert sure is not None
    assert sure.rest is None
    rows = Transformer(columns, {"key": "k"}, zones=MACHINE_ZONES).convert(
        Parser(columns, 1, ("",), name="x").parse(block)
    )
    assert sure.tuples == encode(rows, [column.type for column in columns], with_position=False)


@pytest.mark.parametrize(
    ("key", "lines"),
    [
        (("c0",), b"1,1,2024-01-01\n2,1,2024-01-01\n9,0,2024-01-01\n"),
        (("c0", "c1"), b"1,1.25,2024-01-01\n1,1.3,2024-01-01\n2,-5,2024-01-01\n"),
        (("c2", "c0"), b"5,1,2024-01-01\n6,1,2024-01-01\n0,1,2024-01-02\n"),
        (("c0",), b"1,1,2024-01-01\n1,1,2024-01-01\n"),
        (("c1", "c0"), b"1,1,2024-01-01\n2,0,2024-01-01\n"),
    ],
)
def test_keys_are_followed_as_arrow_follows_them(key: tuple[str, ...], lines: bytes) -> None:
    columns = columns_of("integer", "numeric(9,2)", "date")
    block = block_of(lines)
    sure = lane(columns, key=key).take(block)
    assert sure is not None
    batch = Parser(columns, 3, ("",), name="x").parse(block).batch
    assert sure.keys == run_of([batch.column(name) for name in key])


def test_an_inferred_column_holds_only_texts_that_come_back_as_they_were() -> None:
    columns = [LoadColumn("n", column_type("bigint"), 0, pattern="^…$")]
    sure = lane(columns).take(block_of(b"1\n007\n-0\n+5\n-7\n" + b"9" * 19 + b"\n"))
    assert sure is not None
    assert sure.kept == 2


@pytest.mark.parametrize(
    "column",
    [
        LoadColumn("c", column_type("integer[]", TypeFacts()), 0),
        LoadColumn("c", column_type("interval"), 0),
        LoadColumn("c", column_type("numeric(50,10)"), 0),
        LoadColumn("c", column_type("text"), None, value="{key}-{record_number}"),
    ],
)
def test_a_column_that_it_does_not_know_is_for_the_other_lanes(column: LoadColumn) -> None:
    made = express_lane(
        kernel.compiled_kernel(), [column], 1, ("",), {"key": "k"}, key=(), required=(), with_position=False
    )
    assert made is None


def test_a_numeric_may_be_nan(dsn: str) -> None:
    sure = lane(columns_of("numeric", "numeric(5,2)")).take(block_of(b"NaN,nan\n1,NAN\n"))
    assert sure is not None
    assert sure.kept == 2
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE by_kernel (n numeric, m numeric(5,2)) ON COMMIT DROP")
        cursor.copy_expert("COPY by_kernel FROM STDIN (FORMAT binary)", BytesIO(HEADER + sure.tuples + TRAILER))
        cursor.execute("SELECT array_agg(k::text ORDER BY ctid) FROM by_kernel k")
        assert cursor.fetchone() == (["(NaN,NaN)", "(1,NaN)"],)


def test_offsets_are_read_as_postgresql_reads_them(dsn: str) -> None:
    offsets = ["Z", "+02", "-0330", "+05:45", " +02", " -0330", " +05:45", " UTC"]
    texts = [f"2024-02-29 23:30:00{offset}" for offset in offsets]
    for name in ("timestamp with time zone", "timestamp without time zone"):
        sure = lane(columns_of(name)).take(block_of("".join(f"{text}\n" for text in texts).encode()))
        assert sure is not None
        assert sure.kept == len(texts)
        with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE TEMP TABLE by_kernel (t {name}) ON COMMIT DROP")
            cursor.copy_expert("COPY by_kernel FROM STDIN (FORMAT binary)", BytesIO(HEADER + sure.tuples + TRAILER))
            cursor.execute(f"SELECT array_agg(t ORDER BY ctid) = %s::text[]::{name}[] FROM by_kernel", [texts])
            assert cursor.fetchone() == (True,)


# --- local times

CHANGES = {
    "Europe/Berlin": [
        "2024-03-31 02:00",
        "2024-10-27 02:00",
        "1945-05-24 02:00",
        "1893-04-01 00:00",
        "2450-03-27 02:00",
    ],
    "America/New_York": ["2024-03-10 02:00", "2024-11-03 01:00", "2006-04-02 02:00", "2040-11-04 01:00"],
    "Asia/Kolkata": ["1945-10-15 00:00", "2024-06-01 00:00"],
    "Australia/Lord_Howe": ["2024-04-07 01:30", "2024-10-06 02:00"],
    "Africa/Casablanca": ["2024-03-10 02:00", "2024-04-14 02:00", "2030-01-01 00:00"],
    "Pacific/Apia": ["2011-12-30 00:00", "2011-12-31 00:00"],
    "America/Toronto": ["2026-12-31 23:59", "2027-01-01 00:00"],
    "+05:30": ["2024-03-31 02:00"],
}


@pytest.mark.parametrize("zone", CHANGES)
def test_local_times_are_put_in_their_zone_as_postgresql_puts_them(zone: str, dsn: str) -> None:
    middles = [datetime.fromisoformat(text) for text in CHANGES[zone]]
    texts = [str(middle + timedelta(minutes=step)) for middle in middles for step in range(-300, 300, 10)]
    column = LoadColumn("t", column_type("timestamp with time zone"), 0, zone=zone)
    sure = lane([column]).take(block_of("".join(f"{text}\n" for text in texts).encode()))
    assert sure is not None
    odd = set() if sure.rest is None else set(sure.rest.data.decode().split("\n"))
    assert len(odd) < len(texts) * 2 / 3
    kept = [text for text in texts if text not in odd]
    assert sure.kept == len(kept)
    shown = zone if "/" in zone else f"<{zone}>-{zone[1:]}"
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT set_config('timezone', %s, true)", [shown])
        cursor.execute("CREATE TEMP TABLE by_kernel (t timestamptz) ON COMMIT DROP")
        cursor.copy_expert("COPY by_kernel FROM STDIN (FORMAT binary)", BytesIO(HEADER + sure.tuples + TRAILER))
        cursor.execute("SELECT array_agg(t ORDER BY ctid) = %s::timestamptz[] FROM by_kernel", [kept])
        assert cursor.fetchone() == (True,)


def test_times_that_the_clocks_skip_or_show_twice_are_left() -> None:
    texts = ["2024-03-31 01:59:59", "2024-03-31 02:00", "2024-03-31 02:59:59", "2024-03-31 03:00"]
    texts += ["2024-10-27 01:59:59", "2024-10-27 02:00", "2024-10-27 02:59:59", "2024-10-27 03:00", "1800-01-01"]
    column = LoadColumn("t", column_type("timestamp with time zone"), 0, zone="Europe/Berlin")
    sure = lane([column]).take(block_of("\n".join(texts).encode()))
    assert sure is not None
    assert sure.rest is not None
    assert sure.rest.data.decode().split() == " ".join([*texts[1:3], *texts[5:7], texts[8]]).split()


# --- splitting


@given(
    data=st.lists(st.sampled_from([b"a", b",", b'"', b'""', b"\n", b"\r\n", b"\r", b"xyz" * 20]), max_size=60).map(
        b"".join
    ),
    size=st.integers(1, 300),
)
def test_it_splits_as_numpy_does(data: bytes, size: int) -> None:
    def blocks(*, compiled: bool) -> list[Block]:
        splitter = Splitter(REGULAR, name="x.csv", start=Place(fields=2), block_size=size, record_limit=1 << 20)
        if not compiled:
            splitter._kernel = None
        return [*splitter.feed(data), *splitter.flush()]

    made = blocks(compiled=True)
    assert [replace(each, most_lines=None) for each in made] == blocks(compiled=False)
    for each in made:
        if each.most_lines is not None:
            first = np.searchsorted(each.layout.line_ends, each.starts[: each.records], side="right")
            last = np.searchsorted(each.layout.line_ends, each.ends, side="left")
            assert each.most_lines == (last - first + 1).max()


# --- switched on and off


def test_it_can_be_switched_off_and_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADER_KERNEL", "off")
    assert kernel.compiled_kernel() is None
    monkeypatch.setenv("LOADER_KERNEL", "on")
    assert kernel.compiled_kernel() is not None
    monkeypatch.setenv("LOADER_KERNEL", "fast")
    with pytest.raises(UsageError, match='LOADER_KERNEL is "fast"; it has to be "auto", "on" or "off"'):
        kernel.compiled_kernel()


def test_without_it_a_load_is_the_same(dsn: str, tmp_path) -> None:
    file = tmp_path / "x.csv"
    lines = [f'{number},"t{number}",{number}.5,2024-01-{number % 28 + 1:02}' for number in range(5000)]
    lines[100] = "100,x,not a number,2024-01-01"
    lines[200] = '200,"x""y",1e3,Jan 5 2024'
    lines[300] = "300"
    file.write_text("id,t,n,d\n" + "\n".join(lines))
    spec = {"columns": {"id": "int", "t": "text", "n": "numeric(9,2)", "d": "date"}, "mode": "merge", "key": ["id"]}
    reports = {}
    for setting in ("off", "on"):
        environment = {**os.environ, "LOADER_KERNEL": setting}
        own = {**spec, "table": setting}
        program = f"import loader; print(loader.load({str(file)!r}, {own!r}, dsn={dsn!r}).to_dict())"
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        reports[setting] = eval(done.stdout)
    counts = [{name: value for name, value in each.items() if name.startswith("r")} for each in reports.values()]
    assert counts[0] == counts[1]
    assert counts[0]["rows_rejected"] == 2
    (same,) = query(dsn, 'SELECT count(*) FROM "off" a JOIN "on" b USING (id) WHERE a::text = b::text')[0]
    assert same == 4998
    rejected = "SELECT array_agg((record_number, line_number, byte_offset, reason, message, raw)::text ORDER BY 1)"
    found = query(dsn, f"{rejected} FROM loader.rejects GROUP BY load_id")
    assert found[0] == found[1]


def test_the_record_numbers_of_picked_records_are_those_of_the_file() -> None:
    block = block_of(b"1\nx\n2\ny\n", record=7)
    sure = lane(columns_of("integer")).take(block)
    assert sure is not None
    assert sure.rest is not None
    assert sure.rest.numbers(np.arange(2)).tolist() == [8, 10]


def test_the_package_says_whether_it_is_compiled() -> None:
    assert kernel.kernel_state() in ("compiled", "not compiled", "compiled, switched off by LOADER_KERNEL")
