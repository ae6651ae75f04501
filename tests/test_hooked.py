"""What hooks give back is judged like what files hold: by the client where that is sure, else by PostgreSQL."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql
from support.copying import copy_one_by_one
from support.differential import KNOWN_TO_KERNEL, POOLS, TYPES_OF_OUR_OWN
from support.effort import LONG
from support.identity import HOOKS
from support.postgres import query

import loader

HEAD = """
import datetime as dt
import decimal
import uuid
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

"""


OBJECTS = """
    def objects(*values):
        return pd.Series(values, dtype=object, index=given.index)

"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "given_hooks").mkdir()
    (tmp_path / "given_hooks" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LOADER_HOOKS", "given_hooks")
    yield tmp_path / "given_hooks"
    for name in [name for name in sys.modules if name.startswith("given_hooks")]:
        del sys.modules[name]


def load(dsn: str, path: Path, hook: str | None, **spec: Any) -> loader.LoadReport:
    transform = {} if hook is None else {"transform": {"python": hook}}
    asked = {"table": "t", "mode": "append", "rejects": {"max_ratio": 1}, **transform, **spec}
    return loader.load(str(path), asked, dsn=dsn, force=True)


def rejects(dsn: str) -> list[tuple[Any, ...]]:
    """Of the last load: record, line, column, reason and raw text."""
    return query(
        dsn,
        "SELECT record_number, line_number, column_name, reason, raw FROM loader.rejects"
        " WHERE load_id = (SELECT max(load_id) FROM loader.loads) ORDER BY 1",
    )


# --- law: a hook that changes nothing changes nothing

TYPES = [name for name in POOLS if name != "some_text"]  # which is NOT NULL, and each record has one value
OF_THE_CLIENT = [
    *(name for name in KNOWN_TO_KERNEL if name != "bytea"),
    *("varchar", "char", "positive", "code", "cents", "timestamp(0)", "timestamptz(3)", "time(2)"),
]
OF_THE_SERVER = [name for name in TYPES if name not in OF_THE_CLIENT]

CANNOT_BE_SHOWN = {
    *("date", "timestamp", "timestamp(0)", "timestamptz", "timestamptz(3)"),  # infinities, years before 1
    *("time", "time(2)"),  # 24:00
    *("numeric(5,2)", "numeric(38,10)", "cents"),  # NaN
}


def sparse(types: Sequence[str]) -> tuple[str, list[bytes]]:
    """A table with a column of each type, and a record for each text of each one's pool, NULL in all others."""
    columns = ", ".join(["n int", *(f"c{at} {name}" for at, name in enumerate(types))])
    records = []
    for at, name in enumerate(types):
        for text in POOLS[name]:
            written = '"' + text.replace('"', '""') + '"'
            fields = [str(len(records) + 1), *[""] * at, written, *[""] * (len(types) - at - 1)]
            records.append(",".join(fields).encode())
    return f"({columns})", records


@pytest.mark.parametrize("types", [OF_THE_CLIENT, OF_THE_SERVER], ids=["client", "server"])
@pytest.mark.parametrize("server", ["embedded-18", *(["system-15", "embedded-17"] if LONG else [])], indirect=True)
def test_a_hook_that_changes_nothing_changes_nothing(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, types: list[str]
) -> None:
    """The rows are those of COPY to the letter, but for values that a hook cannot be shown, which are rejected."""
    monkeypatch.setenv("LOADER_HOOKS", "support")
    query(dsn, ";".join(TYPES_OF_OUR_OWN.values()))
    columns, records = sparse(types)
    path = tmp_path / "t.csv"
    path.write_bytes(b"".join(record + b"\n" for record in records))
    connection = psycopg2.connect(dsn)
    query(dsn, f"CREATE TABLE copied {columns}")
    refused = set(copy_one_by_one(connection, sql.Identifier("copied"), None, records))
    connection.commit()
    connection.close()
    copied = dict(query(dsn, "SELECT n, r::text FROM copied r"))
    for hook in (None, *HOOKS):
        query(dsn, f"DROP TABLE IF EXISTS t; CREATE TABLE t {columns}")
        load(dsn, path, hook, csv={"header": False})
        found = {number: reason for number, _, _, reason, _ in rejects(dsn)}
        unseen = {number for number, reason in found.items() if reason == "unrepresentable"} - refused
        assert found.keys() - unseen == refused - unseen, hook
        assert dict(query(dsn, "SELECT n, r::text FROM t r")) == {n: r for n, r in copied.items() if n not in unseen}
        odd = {_type_of(records[number - 1], types) for number in unseen}
        assert hook is not None or not unseen
        assert odd <= CANNOT_BE_SHOWN


def _type_of(record: bytes, types: Sequence[str]) -> str:
    fields = next(csv.reader(io.StringIO(record.decode())))
    return next(name for name, field in zip(types, fields[1:], strict=True) if field)


# --- values of other types than the column's

TAKEN = [
    # type, what the hook gives as an expression over pa, pd, np, its text in the table
    ("int", "pa.array([3.0])", "3"),
    ("int", "pa.array([3], pa.uint64())", "3"),
    ("int", "pa.array(['+7'])", "7"),
    ("int", "pa.array(['7'], pa.large_string())", "7"),
    ("int", "pa.array(['7'], pa.string_view())", "7"),
    ("int", "pa.array(['7']).dictionary_encode()", "7"),
    ("int", "pa.array([Decimal('3.00')])", "3"),
    ("int", "pa.array([None])", None),
    ("bigint", "pa.array([1e17])", "100000000000000000"),
    ("real", "pa.array([0.1])", "0.1"),
    ("real", "pa.array([float('nan')])", "NaN"),
    ("double precision", "pa.array([2**60])", "1.152921504606847e+18"),
    ("double precision", "pa.array([Decimal('1.5')])", "1.5"),
    ("double precision", "pa.array([float('-inf')], pa.float32())", "-Infinity"),
    ("numeric(5,2)", "pa.array([Decimal('1.005')])", "1.01"),
    ("numeric(5,2)", "pa.array([1.005])", "1.01"),
    ("numeric(5,2)", "pa.array([12])", "12.00"),
    ("numeric(5,2)", "pa.array([float('nan')])", "NaN"),
    ("numeric", "pa.array(['1e5'])", "100000"),
    ("numeric", "pa.array([123456789012.5])", "123456789012.5"),
    ("numeric", "pa.array([Decimal('1.50')])", "1.50"),
    ("numeric", "pa.array([0.1], pa.float32())", "0.1"),
    ("boolean", "pa.array([True])", "t"),
    ("boolean", "pa.array([1])", "t"),
    ("boolean", "pa.array(['off'])", "f"),
    ("text", "pa.array([5])", "5"),
    ("text", "pa.array([1.5])", "1.5"),
    ("text", "pa.array([True])", "true"),
    ("text", "pa.array([b'ab'])", "ab"),
    ("text", "pa.array([dt.date(2024, 1, 5)])", "2024-01-05"),
    ("varchar(3)", "pa.array(['abc  '])", "abc"),
    ("uuid", "pa.array(['{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'])", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("uuid", "pa.array([bytes(range(16))], pa.uuid())", "00010203-0405-0607-0809-0a0b0c0d0e0f"),
    ("bytea", "pa.array([bytes([0, 255])])", "\\x00ff"),
    ("date", "pa.array([dt.datetime(1969, 12, 31, 23, 59)])", "1969-12-31"),
    ("date", "pa.array([-800000], pa.int32()).cast(pa.date32())", "0222-09-04 BC"),
    ("date", "pa.array([3000000], pa.int32()).cast(pa.date32())", "10183-09-21"),
    ("date", "pa.array(['Jan 5 2024'])", "2024-01-05"),
    ("date", "pa.array([dt.date(2024, 1, 5)], pa.date64())", "2024-01-05"),
    ("timestamp", "pa.array([1], pa.timestamp('s', 'Europe/Berlin'))", "1970-01-01 01:00:01"),
    ("timestamp", "pa.array([1999], pa.timestamp('ns'))", "1970-01-01 00:00:00.000002"),
    ("timestamp", "pa.array([dt.date(2024, 1, 5)])", "2024-01-05 00:00:00"),
    ("timestamp", "pa.array([-63000000000000001], pa.timestamp('us'))", "0028-08-11 07:59:59.999999 BC"),
    ("timestamp", "pa.array([2**63 - 1], pa.timestamp('us'))", "294247-01-10 04:00:54.775807"),
    ("timestamptz", "pa.array([dt.datetime(2024, 7, 1, 12)])", "2024-07-01 12:00:00+02"),
    ("timestamptz", "pa.array([dt.date(2024, 1, 5)])", "2024-01-05 00:00:00+01"),
    ("timestamptz", "pa.array([1], pa.timestamp('ms', 'America/New_York'))", "1970-01-01 01:00:00.001+01"),
    ("time", "pa.array([1999], pa.time64('ns'))", "00:00:00.000002"),
    ("time", "pa.array([1], pa.time32('s'))", "00:00:01"),
    ("interval", "pa.array([1500], pa.duration('ms'))", "00:00:01.5"),
    ("interval", "pa.array([2000], pa.duration('ns'))", "00:00:00.000002"),
    ("interval", "pa.array([(14, 2, 3000)], pa.month_day_nano_interval())", "1 year 2 mons 2 days 00:00:00.000003"),
    ("int[]", "pa.array([[1, None]])", "{1,NULL}"),
    ("int[]", "pa.array([[[1, 2], [3, 4]]])", "{{1,2},{3,4}}"),
    ("int[]", "pa.array([[]], pa.list_(pa.null()))", "{}"),
    ("int[]", "pa.array([[1, 2]], pa.list_(pa.int64(), 2))", "{1,2}"),
    ("text[]", """pa.array([['a"b', '\\\\', 'NULL', '', None]])""", """{"a\\"b","\\\\","NULL","",NULL}"""),
    ("timestamptz[]", "pa.array([[dt.datetime(2024, 7, 1, 12)]])", '{"2024-07-01 12:00:00+02"}'),
    ("jsonb", "pa.array([{'a': [1, None], 'b': 'ü'}])", '{"a": [1, null], "b": "ü"}'),
    ("jsonb", "pa.array([[1, 2.5]])", "[1.0, 2.5]"),
    ("jsonb", "pa.array([{'a': Decimal('1.50'), 'b': dt.date(2024, 1, 5)}])", '{"a": 1.50, "b": "2024-01-05"}'),
    ("json", "pa.array([[('a', 1)]], pa.map_(pa.string(), pa.int64()))", '{"a": 1}'),
    ("jsonb[]", "pa.array([[{'a': 1}]])", '{"{\\"a\\": 1}"}'),
    ("mood", "pa.array(['ok'])", "ok"),
]

FRAMED = [
    ("int", "[3.0]", "3"),
    ("int", "[np.nan]", None),
    ("int", "pd.array([3], 'Int64')", "3"),
    ("int", "pd.array([None], 'Int64')", None),
    ("int", "objects(pd.NA)", None),
    ("int", "pd.Categorical([7])", "7"),
    ("text", "pd.Categorical(['a'])", "a"),
    ("text", "objects(Decimal('1.50'))", "1.50"),
    ("text", "objects(5)", "5"),
    ("text", "pd.array(['a'], 'string')", "a"),
    ("numeric", "objects(Decimal('1.50'))", "1.50"),
    ("numeric(5,2)", "[1.005]", "1.01"),
    ("double precision", "[np.inf]", "Infinity"),
    ("boolean", "objects(True)", "t"),
    ("boolean", "objects(None)", None),
    ("boolean", "pd.array([False], 'boolean')", "f"),
    ("boolean", "np.array([1])", "t"),
    ("date", "pd.to_datetime(['2024-01-05'])", "2024-01-05"),
    ("date", "objects(dt.date(2024, 1, 5))", "2024-01-05"),
    (
        "timestamp",
        "pd.to_datetime(['2024-01-05 10:20:30.123456']).astype('datetime64[us]')",
        "2024-01-05 10:20:30.123456",
    ),
    (
        "timestamp",
        "pd.to_datetime(['2024-01-05 10:20:30.123456']).astype('datetime64[ns]')",
        "2024-01-05 10:20:30.123456",
    ),
    ("timestamp", "pd.to_datetime([None])", None),
    ("timestamp", "objects(pd.NaT)", None),
    ("timestamp", "pd.to_datetime(['2024-07-01 12:00']).tz_localize('Asia/Tokyo')", "2024-07-01 12:00:00"),
    ("timestamptz", "pd.to_datetime(['2024-07-01 12:00']).tz_localize('Asia/Tokyo')", "2024-07-01 05:00:00+02"),
    (
        "timestamptz",
        "objects(pd.Timestamp('2024-07-01 12:00+09:00'))",
        "2024-07-01 05:00:00+02",
    ),
    (
        "timestamptz",
        "objects(dt.datetime(2024, 7, 1, 12))",
        "2024-07-01 12:00:00+02",
    ),
    ("time", "objects(dt.time(10, 20))", "10:20:00"),
    ("interval", "pd.to_timedelta(['1s'])", "00:00:01"),
    ("interval", "objects(dt.timedelta(days=1))", "24:00:00"),
    ("uuid", "objects(uuid.UUID(int=1))", "00000000-0000-0000-0000-000000000001"),
    ("bytea", "objects(bytes([1]))", "\\x01"),
    ("int[]", "objects([1, 2])", "{1,2}"),
    ("jsonb", "objects({'a': 1})", '{"a": 1}'),
]


@pytest.mark.parametrize(
    ("cases", "form"), [(TAKEN, "pa.record_batch({})"), (FRAMED, "pd.DataFrame({}, index=given.index)")]
)
def test_what_a_hook_gives_is_stored_as_the_same_value(
    dsn: str, tmp_path: Path, package: Path, cases: list[tuple[str, str, str | None]], form: str
) -> None:
    """Of whatever type it is, as long as it has a text that the column takes."""
    columns = ", ".join(f"c{at} {name}" for at, (name, _, _) in enumerate(cases))
    query(dsn, f"{TYPES_OF_OUR_OWN['mood']}; CREATE TABLE t ({columns})")
    query(
        dsn,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone = %L', current_database(), 'Europe/Berlin');"
        " END $$",
    )
    made = ", ".join(f"'c{at}': {code}" for at, (_, code, _) in enumerate(cases))
    given = "given: 'pandas.DataFrame'" if "DataFrame" in form else "given"
    (package / "other.py").write_text(
        f"{HEAD}\n\ndef made({given}):\n{OBJECTS}    return {form.format('{' + made + '}')}\n"
    )
    path = tmp_path / "t.csv"
    path.write_text(",".join(f"c{at}" for at in range(len(cases))) + "\n" + "," * (len(cases) - 1) + "\n")
    report = load(dsn, path, "other:made")
    assert query(dsn, "SELECT column_name, message FROM loader.rejects") == []
    assert report.rows_inserted == 1
    texts = ", ".join(f"CASE num_nulls(c{at}) WHEN 0 THEN format('%s', c{at}) END" for at in range(len(cases)))
    ((stored),) = query(_in_berlin(dsn), f"SELECT {texts} FROM t")
    assert [(*case[:2], text) for case, text in zip(cases, stored, strict=True)] == cases


def _in_berlin(dsn: str) -> str:
    return psycopg2.extensions.make_dsn(dsn, options="-c timezone=Europe/Berlin")


REFUSED = [
    ("smallint", "pa.array([40000])", "out_of_range"),
    ("int", "pa.array([3.5])", "invalid_value"),
    ("int", "pa.array([float('nan')])", "invalid_value"),
    ("int", "pa.array([2**40])", "out_of_range"),
    ("int", "pa.array([True])", "invalid_value"),
    ("int", "pa.array([''])", "invalid_value"),
    ("bigint", "pa.array([2**64 - 1], pa.uint64())", "out_of_range"),
    ("real", "pa.array([1e300])", "out_of_range"),
    ("real", "pa.array([1e-300])", "out_of_range"),
    ("numeric", "pa.array(['abc'])", "invalid_value"),
    ("numeric", "pa.array([''])", "invalid_value"),
    ("numeric", "pa.array(['$5.00'])", "invalid_value"),
    ("numeric(5,2)", "pa.array([Decimal('99999')])", "out_of_range"),
    ("numeric(5,2)", "pa.array(['x'])", "invalid_value"),
    ("boolean", "pa.array([2])", "invalid_value"),
    ("uuid", "pa.array(['x' * 36])", "invalid_value"),
    ("uuid", "pa.array([''])", "invalid_value"),
    ("mood", "pa.array(['angry'])", "invalid_value"),
    ("varchar(3)", "pa.array(['abcd'])", "value_too_long"),
    ("text", "pa.array(['a\\0b'])", "nul_byte"),
    ("text", "pa.array([bytes([255])])", "invalid_encoding"),
    ("date", "pa.array([2**31 - 1], pa.int32()).cast(pa.date32())", "out_of_range"),
    ("date", "pa.array(['x'])", "invalid_value"),
    ("timestamp", "pa.array([2**62], pa.timestamp('s'))", "out_of_range"),
    ("time", "pa.array([2 * 86_400_000_000], pa.time64('us'))", "invalid_value"),
    ("jsonb", "pa.array(['{'])", "invalid_value"),
    ("int[]", "pa.array([['x']])", "invalid_value"),
    ("positive", "pa.array([-1])", "check_violation"),
]


def test_a_bad_value_rejects_its_record_and_no_other(dsn: str, tmp_path: Path, package: Path) -> None:
    """With the record's own number, line and text, in a batch whose rows the hook gave back in another order."""
    size = len(REFUSED)
    columns = ", ".join(f"c{at} {name}" for at, (name, _, _) in enumerate(REFUSED))
    query(
        dsn, f"{TYPES_OF_OUR_OWN['mood']}; {TYPES_OF_OUR_OWN['positive']}; CREATE TABLE t (n int NOT NULL, {columns})"
    )
    alone = "\n".join(
        f"    made['c{at}'] = placed({code}, {at}, batch.num_rows)" for at, (_, code, _) in enumerate(REFUSED)
    )
    (package / "other.py").write_text(
        f"""{HEAD}

def placed(value, at, size):
    return pa.concat_arrays([pa.nulls(at, value.type), value, pa.nulls(size - at - 1, value.type)])


def made(batch):
    made = {{'n': batch['n']}}
{alone}
    made['loader_record'] = batch['loader_record']
    return pa.record_batch(made).take(pa.array(range(batch.num_rows - 1, -1, -1)))
"""
    )
    path = tmp_path / "t.csv"
    records = [f'"{number}\n",{"," * (size - 1)}'.replace("\n", "") for number in range(size + 1)]
    path.write_text("n," + ",".join(f"c{at}" for at in range(size)) + "\n" + "\n".join(records) + "\n")
    report = load(dsn, path, "other:made")
    assert rejects(dsn) == [
        (at + 1, at + 2, f"c{at}", reason, records[at]) for at, (_, _, reason) in enumerate(REFUSED)
    ]
    assert report.rows_inserted == 1
    assert query(dsn, "SELECT n FROM t") == [(size,)]


@pytest.mark.parametrize(
    ("type_name", "code", "message"),
    [
        ("int", "pa.array([[1]])", 'returned list<item: int64> for "c", which is integer'),
        ("jsonb", "pa.array([{'a': b'x'}])", 'returned struct<a: binary> for "c", which is jsonb'),
        ("text", "pa.array([{'a': 1}])", 'returned struct<a: int64> for "c", which is text'),
        ("inet", "pa.array([b'x'])", 'returned binary for "c", which is inet'),
    ],
)
def test_a_type_that_has_no_text_in_the_column_is_one_sentence(
    dsn: str, tmp_path: Path, package: Path, type_name: str, code: str, message: str
) -> None:
    """It names the file, the records, the hook and the column."""
    query(dsn, f"CREATE TABLE t (c {type_name})")
    (package / "other.py").write_text(f"{HEAD}\n\ndef made(batch):\n    return pa.record_batch({{'c': {code}}})\n")
    path = tmp_path / "t.csv"
    path.write_text('c\n""\n' if type_name == "text" else "c\n1\n")
    with pytest.raises(loader.TransformError) as raised:
        load(dsn, path, "other:made")
    assert str(raised.value) == f'{path}: records 1 to 1: the hook "other:made" {message}'


def test_what_a_hook_raises_names_the_file_and_the_records(dsn: str, tmp_path: Path, package: Path) -> None:
    """Those that it was given, and the error itself is the cause."""
    query(dsn, "CREATE TABLE t (c int)")
    (package / "other.py").write_text("def made(batch):\n    return batch.column('nosuch')\n")
    path = tmp_path / "t.csv"
    path.write_text("c\nx\n1\n2\n3\n")
    with pytest.raises(loader.TransformError) as raised:
        load(dsn, path, "other:made")
    assert str(raised.value).startswith(f'{path}: records 2 to 4: the hook "other:made" raised KeyError: ')
    causes = []
    cause: BaseException | None = raised.value
    while cause is not None:
        causes.append(type(cause))
        cause = cause.__cause__
    assert causes == [loader.TransformError, loader.TransformError, KeyError]


@pytest.mark.parametrize("form", ["arrow", "frame"])
def test_a_target_refuses_the_record_whose_row_it_is(dsn: str, tmp_path: Path, package: Path, form: str) -> None:
    """Wherever the hook put it: the reject is the record's, and the others are loaded."""
    query(dsn, "CREATE TABLE t (n int, c int CHECK (c < 9))")
    (package / "other.py").write_text(
        "import pyarrow as pa\n\n\ndef arrow(batch):\n    return batch.sort_by([('c', 'descending')])\n\n\n"
        "def frame(frame: 'pandas.DataFrame'):\n    return frame.sort_values('n', ascending=False)\n"
    )
    path = tmp_path / "t.csv"
    path.write_text("n,c\n1,9\n2,1\n3,2\n")
    report = load(dsn, path, f"other:{form}")
    assert report.rows_inserted == 2
    assert rejects(dsn) == [(1, 2, "c", "check_violation", "1,9")]
    assert query(dsn, "SELECT n, c FROM t ORDER BY 1") == [(2, 1), (3, 2)]


def test_a_frames_objects_of_mixed_types(dsn: str, tmp_path: Path, package: Path) -> None:
    """Each is the text that a file would hold for it; what is missing is NULL, and lone surrogates are rejected."""
    query(dsn, "CREATE TABLE t (n int, c text)")
    (package / "other.py").write_text(
        f"{HEAD}\n\ndef made(frame: 'pandas.DataFrame'):\n"
        "    values = [1, 'x', True, 2.5, Decimal('1.50'), None, pd.NA, pd.NaT, np.nan, 2**70, '\\ud800']\n"
        "    frame['c'] = pd.Series(values, dtype=object, index=frame.index)\n    return frame\n"
    )
    path = tmp_path / "t.csv"
    path.write_text("n,c\n" + "".join(f"{number},\n" for number in range(1, 12)))
    load(dsn, path, "other:made")
    assert [text for (text,) in query(dsn, "SELECT c FROM t ORDER BY n")] == [
        *("1", "x", "true", "2.5", "1.50"), *[None] * 4, str(2**70)
    ]  # fmt: skip
    assert rejects(dsn) == [(11, 12, "c", "invalid_encoding", "11,")]


def test_a_filter_sees_what_the_hook_made(dsn: str, tmp_path: Path, package: Path) -> None:
    """And a record that the hook spoilt is rejected, not filtered."""
    query(dsn, "CREATE TABLE t (a int, b numeric)")
    (package / "other.py").write_text(
        f"{HEAD}\n\ndef made(batch):\n"
        "    made = batch.set_column(0, 'a', pa.array(['1', 'x', '3', '4']))\n"
        "    return made.set_column(1, 'b', pa.array(['1e2', '2', 'y', '4']))\n"
    )
    path = tmp_path / "t.csv"
    path.write_text("a,b\n9,9\n9,9\n9,9\n9,9\n")
    report = load(dsn, path, "other:made", transform={"python": "other:made", "filter": "a < 4"})
    assert (report.rows_inserted, report.rows_filtered, report.rows_rejected) == (1, 1, 2)
    assert query(dsn, "SELECT a, b::text FROM t") == [(1, "100")]


def test_a_hook_can_leave_no_key_and_no_needed_value_empty(dsn: str, tmp_path: Path, package: Path) -> None:
    """NULLs that the hook made are rejected like the file's."""
    query(dsn, "CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL)")
    (package / "other.py").write_text(
        f"{HEAD}\n\ndef made(batch):\n"
        "    return pa.record_batch({'a': pa.array([None, 2, 3]), 'b': pa.array([1, None, 3])})\n"
    )
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,1\n2,2\n3,3\n")
    load(dsn, path, "other:made", mode="merge")
    assert [each[:4] for each in rejects(dsn)] == [(1, 2, "a", "null_value"), (2, 3, "b", "null_value")]
    assert query(dsn, "SELECT a, b FROM t") == [(3, 3)]
