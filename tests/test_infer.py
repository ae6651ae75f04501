"""What a sample shows becomes types that lose nothing of it, and a spec that loads as it is printed."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.postgres import query
from support.s3 import S3, FaultProxy

import loader
from loader.convert import infer
from loader.convert.infer import PATTERNS, infer_spec, widened
from loader.core import arrays
from loader.core.spec.model import LoadSpec
from loader.sources.source import open_source

AUTO = {"delimiter": "auto", "header": "auto"}


def spec_of(path: Path | str, **given: object) -> LoadSpec:
    """The spec that is inferred, as it is after it was printed and read back."""
    with open_source(path) as source:
        spec = infer_spec(source, LoadSpec.from_dict({"csv": {**AUTO, **given}}, table="t"))
    assert LoadSpec.from_toml_text(spec.to_toml()) == spec
    return spec


def types_of(path: Path | str, **given: object) -> dict[str, str | None]:
    return {column.name: column.type for column in spec_of(path, **given).columns}


def type_of(tmp_path: Path, texts: Sequence[str]) -> str | None:
    path = tmp_path / "one.csv"
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([["n", "x"], *(["1", text] for text in texts)])
    return types_of(path, header=True, sniff=True)["x"]


@pytest.mark.parametrize(
    ("expected", "texts"),
    [
        ("bigint", ["0", "1", "-5", "999999999999999999"]),
        ("numeric", ["1", "1000000000000000000"]),  # over 18 digits
        ("numeric", ["1.50", "1.5"]),
        ("numeric", ["1", "2.5"]),
        ("double precision", ["1e5", "2.5"]),
        ("double precision", ["1.5E-7", "-3"]),
        ("numeric", ["1e5", "0.1234567890123456789"]),  # more digits than a double has
        ("text", ["007", "8"]),
        ("text", ["+5", "6"]),
        ("text", ["1,234", "5"]),
        ("text", ["1", "x"]),
        ("text", ["nan", "1"]),
        ("text", ["inf", "1.5"]),
        ("double precision", ["-0", "1"]),  # the only one that knows it
        ("text", [".5", "1.5"]),
        ("text", ["1 ", "2"]),
        ("text", ["0x10", "1"]),
        ("text", ["1_000", "1"]),
        ("boolean", ["true", "false"]),
        ("boolean", ["t", "f"]),
        ("text", ["f", "f"]),
        ("boolean", ["true", "true"]),
        ("bigint", ["0", "1"]),
        ("text", ["true", "1"]),
        ("boolean", ["yes", "no"]),
        ("boolean", ["Yes", "No", "No"]),
        ("text", ["yes", "yes"]),  # as likely a word
        ("text", ["yes", "false"]),
        ("date", ["02.02.2024", "03.02.2024"]),  # points are for days first
        ("date", ["31/05/2024", "01/05/2024"]),
        ("date", ["05/31/2024", "05/01/2024"]),
        ("text", ["31/05/2024", "05/31/2024"]),
        ("date", ["2024/1/31"]),
        ("date", ["5 Jan 2024", "31 Dec 2023"]),
        ("timestamp", ["31.12.2024 23:59", "01.01.2025 00:00"]),
        ("timestamp", ["12/31/2024 11:59 PM", "1/1/2025 1:00 AM"]),
        ("date", ["2024-02-29", "1999-12-31"]),
        ("text", ["2024-02-30", "2024-02-01"]),
        ("text", ["2023-02-29"]),
        ("text", ["0000-01-01"]),
        ("text", ["01/02/2024"]),  # day or month?
        ("timestamp", ["2024-01-05 10:00:00", "2024-01-05T10:00:00.5"]),
        ("text", ["2024-01-05 10:00:00", "2024-01-05"]),
        ("text", ["2024-01-05 25:00:00"]),
        ("timestamptz", ["2024-01-05 10:00:00+02", "2024-01-05T10:00:00Z"]),
        ("text", ["2024-01-05 10:00:00+02", "2024-01-05 10:00:00"]),
        ("uuid", ["0f8fad5b-d9cb-469f-a165-70867728950e"]),
        ("text", ["0F8FAD5B-D9CB-469F-A165-70867728950E"]),  # uuid would answer in small letters
        ("text", ["", ""]),
        ("bigint", ["", "1"]),
    ],
)
def test_a_type_is_inferred_that_holds_the_sample(tmp_path: Path, expected: str, texts: list[str]) -> None:
    assert type_of(tmp_path, texts) == expected


@pytest.mark.parametrize(
    ("was", "expected", "texts"),
    [
        ("bigint", "numeric", ["1.5"]),
        ("bigint", "numeric", ["12345678901234567890"]),
        ("bigint", "text", ["007"]),
        ("bigint", "text", ["1.5", "x"]),
        ("numeric", "text", ["007"]),
        ("double precision", "numeric", ["1.23456789012345678"]),
        ("date", "text", ["2024-01-05 10:00:00"]),  # a date as a timestamp would come back as another text
        ("timestamp", "text", ["2024-01-05 10:00:00+02"]),
        ("timestamptz", "text", ["2024-01-05 10:00:00"]),
        ("boolean", "text", ["1"]),
        ("uuid", "text", ["x"]),
    ],
)
def test_a_column_widens_to_what_holds_both(was: str, expected: str, texts: list[str]) -> None:
    assert widened(was, arrays.texts(texts)) == expected


@given(st.one_of(st.integers(), st.decimals(allow_nan=False, allow_infinity=False)).map(str))
def test_numbers_that_a_pattern_takes_keep_their_value(text: str) -> None:
    """A bigint its digits, a double precision all of its fifteen."""
    if re.search(PATTERNS["bigint"], text):
        assert str(int(text)) == text
    if re.search(PATTERNS["double precision"], text):
        digits = re.sub("[eE].*", "", text).lstrip("-").replace(".", "").lstrip("0")
        assert len(digits) <= 15


def test_an_empty_line_does_not_tell_how_many_columns_there_are(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\n1,Ann\n2,Bob\n")
    assert types_of(path) == {"column_1": "bigint", "column_2": "text"}


# --- a large object


def _large(at: int, odd: bytes) -> bytes:
    """4 MiB of records, among which is ``odd``, from byte ``at`` on or a little later."""
    record = b'1234567,"two\nlines, each",123\n'
    before, after = at // len(record) + 1, ((4 << 20) - at) // len(record)
    return b"n,text,x\n" + record * before + odd + b"\n" + record * after


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MiB a file would make the tests slow."""
    monkeypatch.setattr(infer, "LARGE", 1 << 20)
    monkeypatch.setattr(infer, "RANGE", 128 << 10)


@pytest.mark.parametrize(
    "at", [(1 << 20) + 999, (1 << 20) + 30_000, (2 << 20) + 999, (3 << 20) + 999, (4 << 20) - 70_000, (4 << 20) - 200]
)
def test_other_parts_of_a_large_file_are_looked_at(tmp_path: Path, small_ranges: None, at: int) -> None:
    """Wherever a range begins, be it in quotes."""
    path = tmp_path / "t.csv"
    path.write_bytes(_large(at, b'007,"x",1.500000000000000000'))
    assert types_of(path) == {"n": "text", "text": "text", "x": "numeric"}


@pytest.mark.parametrize("shift", range(0, 31, 3))
def test_a_range_that_begins_in_quotes_shows_no_record_that_is_none(
    tmp_path: Path, small_ranges: None, shift: int
) -> None:
    """The line inside quotes has two fields, not three, and the types stay what they are."""
    path = tmp_path / "t.csv"
    path.write_bytes(b"n,text,x" + b"x" * shift + b"\n" + b'1234567,"two\nlines, each",123\n' * 140_000)
    assert list(types_of(path).values()) == ["bigint", "text", "bigint"]


def test_no_more_of_a_large_object_is_read_than_it_takes(
    s3: S3, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infer, "LARGE", 16 << 20)
    s3.put("t.csv", b"n,x\n" + b"123,4.5\n" * (3 << 20))
    with open_source(s3.uri("t.csv"), part_size=1 << 20, prefetch=1) as source:
        spec = infer_spec(source, LoadSpec.from_dict({"csv": AUTO}, table="t"))
    assert [column.type for column in spec.columns] == ["bigint", "numeric"]
    read = sum(last - first + 1 for first, last in fault_proxy.ranges if first is not None and last is not None)
    assert read <= 8 << 20
    starts = sorted(first for first, _ in fault_proxy.ranges if first is not None)
    assert starts[-4:] == [source.size // 4, source.size // 2, source.size * 3 // 4, source.size - (1 << 20)]


def test_of_a_compressed_object_the_first_block_tells(tmp_path: Path, small_ranges: None) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(_large(3 << 20, b'x,"y",z'), 0))
    assert types_of(path) == {"n": "bigint", "text": "text", "x": "bigint"}


def test_a_footer_of_a_large_file_is_no_record(tmp_path: Path, small_ranges: None) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"n,x\n" + b"1,2\n" * (1 << 19) + b"total,many\n")
    assert list(types_of(path, skip_footer=1).values()) == ["bigint", "bigint"]
    assert list(types_of(path).values()) == ["text", "text"]


# --- a spec that loads as it is


ODD = [
    ("plain", b"id,name\n1,Ann\n2,Bob\n"),
    ("semicolons", b"id;price\n1;1,50\n2;2,75\n"),
    ("two bars", b"id||name\n1||Ann\n2||Bob|\n"),
    ("tabs", b"id\tname\n1\tAnn\n2\tBob, too\n"),
    ("excel", "\ufeffsep=;\r\nid;näme\r\n1;Änn\r\n2;Bob\r\n".encode()),
    ("no header", b"1,Ann\n2,Bob\n"),
    ("utf-16", "id,name\n1,Änn\n2,Bob\n".encode("utf-16")),
    ("repeated", b"a,a,b,a\n1,2,3,4\n5,6,7,8\n"),
    ("repeated and taken", b"a,a,a_2,a_1\n1,2,3,4\n5,6,7,8\n"),
    ("empty", b"id,,\n1,2,3\n4,5,6\n"),
    ("an index", b'"","name"\n"1","Ann"\n"2","Bob"\n'),
    ("blank", b'id," ","  "\n1,2,3\n4,5,6\n'),
    ("column_2 is there", b"id,,column_2\n1,2,3\n4,5,6\n"),
    ("system's", b"xmin,ctid,oid\n1,2,3\n4,5,6\n"),
    ("quotes", b'"a ""b""","c\'d","e\\f"\n1,2,3\n4,5,6\n'),
    ("a newline", b'"a\nb","c\td"\n1,2\n3,4\n'),
    ("long", ("é" * 60 + "," + "é" * 61 + "\n1,2\n3,4\n").encode()),
    ("longest", f"{'x' * 63},{'x' * 64},{'x' * 65},{'x' * 66}\n1,2,3,4\n".encode()),
    ("case", b"Id,ID,id\n1,2,3\n4,5,6\n"),
    ("nearly alike", b"a b,a_b, a b,A B\n1,2,3,4\n5,6,7,8\n"),
    ("reserved", b"select,from,where,user\n1,2,3,4\n5,6,7,8\n"),
    ("sql", b'"x""; DROP TABLE t; --",{key},%s,$1\n1,2,3,4\n5,6,7,8\n'),
    ("emoji", "🙂,ﬁ,İ\n1,2,3\n4,5,6\n".encode()),
    ("carriage returns", b"id,name\r1,Ann\r2,Bob\r"),
    ("years", b"country,1990,1991,1992\nItaly,1,2,3\nPeru,4,5,6\n"),
    ("a header alone", b"id,name\n"),
    ("one column", b"name\nAnn\nBob\n"),
]


@pytest.mark.parametrize(("data"), [data for _, data in ODD], ids=[name for name, _ in ODD])
def test_what_infer_prints_loads_every_record_into_every_column(dsn: str, tmp_path: Path, data: bytes) -> None:
    """In the file's order, whatever its names are."""
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    spec = spec_of(path)
    report = loader.load(str(path), spec, dsn=dsn)
    assert report.rows_rejected == 0
    text = data.decode("utf-16" if data.startswith(b"\xff\xfe") else "utf-8-sig")
    text = re.sub("^sep=.*\r\n", "", text).replace("||", "\x1f")
    delimiter = "\x1f" if spec.csv.delimiter == "||" else spec.csv.delimiter
    records = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    expected = records[1:] if spec.csv.header else records
    names = ", ".join(f'"{column.name.replace(chr(34), chr(34) * 2)}"::text' for column in spec.columns)
    found = [list(row) for row in query(dsn, f"SELECT {names} FROM t")]
    assert found == expected


HEADERS = st.lists(
    st.one_of(
        st.sampled_from(["", " ", "a", "A", "a_1", "a_2", "a_1_", "column_1", "column_2", "x" * 62, "x" * 64, "ctid"]),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=70),
    ),
    min_size=2,
    max_size=7,
)


@given(header=HEADERS)
def test_every_column_of_any_header_is_asked_for_by_a_name_that_finds_it(header: list[str]) -> None:
    from loader.core.pgtypes import NAME_LIMIT
    from loader.records.header import Fields, names_to_ask_for, usable_names

    usable, asked = usable_names(header), names_to_ask_for(header)
    assert len(set(usable)) == len(header)
    assert all(0 < len(name.encode()) <= NAME_LIMIT and name.strip() for name in usable)
    fields = Fields(header, asked, name="t.csv")
    assert [fields.find(name) for name in asked] == list(range(len(header)))
    assert fields.notes == []
