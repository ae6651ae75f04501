"""Rejected records: their codes, their counts, what is kept of them, and the file that they are written to."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any, get_args

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.commands import run
from support.postgres import query

import loader
from loader import replays
from loader.core.report import REASONS, Kind, LoadReport, summarize_rejects
from loader.core.spec.model import CsvSpec, LoadSpec
from loader.engine.counters import RejectKeeper
from loader.records.block import RAW_LIMIT
from loader.records.dialect import Dialect, split_record

REFERENCE = Path(__file__).parent.parent / "docs" / "reference" / "rejects.md"

EVERY = {"max_rows": 1_000_000, "max_ratio": 1}


def load(path: Path, dsn: str, **spec: Any) -> loader.LoadReport:
    return loader.load(str(path), {"table": "t", "rejects": EVERY, **spec}, dsn=dsn)


def exported(dsn: str, load_id: int = 1) -> tuple[bytes, list[str]]:
    """What `loader rejects` writes, and what it says of records that it leaves out."""
    out = io.BytesIO()
    connection = psycopg2.connect(dsn)
    try:
        left_out = list(replays.write_rejects(connection, replays.find_original(connection, load_id), out))
    finally:
        connection.close()
    return out.getvalue(), left_out


# --- codes


def test_the_reference_has_the_table_of_reasons() -> None:
    """Code by code, in the same order, with the same kind and the same words."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", REFERENCE.read_text("utf-8"), re.MULTILINE)
    assert rows == [(code, reason.kind, reason.meaning) for code, reason in REASONS.items()]
    assert {reason.kind for reason in REASONS.values()} == set(get_args(Kind))


# --- counts


@pytest.mark.parametrize("limits", [EVERY, {"max_rows": 4, "max_ratio": 1}])
def test_rejects_are_counted_by_reason_and_by_column(dsn: str, tmp_path: Path, limits: dict[str, Any]) -> None:
    """In the report and in the ledger; of a load that fails too."""
    query(dsn, "CREATE TABLE t (a int, b varchar(2))")
    path = tmp_path / "t.csv"
    path.write_text("a,b\nx,1\n1\n1,long\ny,long\n2,ok\nz,\n1,2,3\n")
    if limits is EVERY:
        report = load(path, dsn)
    else:
        with pytest.raises(loader.RejectLimitError) as caught:
            load(path, dsn, rejects=limits)
        assert caught.value.report is not None
        report = caught.value.report
    by_reason = {"too_few_fields": 1, "too_many_fields": 1, "invalid_value": 3, "value_too_long": 1}
    by_column = {"a": {"invalid_value": 3}, "b": {"value_too_long": 1}}
    assert (report.rejects_by_reason, report.rejects_by_column) == (by_reason, by_column)
    assert report.to_dict()["rejects_by_column"] == by_column
    assert json.loads(json.dumps(report.to_dict()))["rejects_by_reason"] == by_reason
    assert query(dsn, "SELECT rejects_by_reason, rejects_by_column FROM loader.loads") == [(by_reason, by_column)]
    assert query(dsn, "SELECT count(*) FROM loader.rejects") == [(min(6, limits["max_rows"] + 1),)]


def test_the_counts_of_several_loads_are_added_up() -> None:
    """Reason by reason, column by column."""
    first = LoadReport("loaded", "a", "t", "append", rejects_by_reason={"invalid_value": 2},
                       rejects_by_column={"x": {"invalid_value": 2}})  # fmt: skip
    second = LoadReport("loaded", "b", "t", "append", rejects_by_reason={"invalid_value": 1, "null_value": 1},
                        rejects_by_column={"x": {"null_value": 1}, "y": {"invalid_value": 1}})  # fmt: skip
    both = LoadReport.combine([first, second])
    assert both.rejects_by_reason == {"invalid_value": 3, "null_value": 1}
    assert both.rejects_by_column == {"x": {"invalid_value": 2, "null_value": 1}, "y": {"invalid_value": 1}}


def test_the_summary_says_the_most_frequent_first_and_how_much_it_leaves_unsaid() -> None:
    """In a few lines, however many reasons and columns there are."""
    columns = {f"c{number}": {"invalid_value": number} for number in range(1, 7)}
    assert summarize_rejects({"too_few_fields": 3, "invalid_value": 1021}, columns) == [
        "1,021 invalid_value (conversion): c6 6, c5 5, c4 4, c3 3, 2 other columns",
        "3 too_few_fields (shape)",
    ]
    many = {code: number + 1 for number, code in enumerate(REASONS)}
    lines = summarize_rejects(many, {}, lines=3)
    assert lines[0].startswith("17 refused (target)")
    assert lines[2] == f"{sum(many.values()) - 17 - 16} for 15 other reasons"
    assert summarize_rejects({"of_a_later_version": 1}, {}) == ["1 of_a_later_version"]


def test_a_load_that_starts_over_forgets_its_rejects(dsn: str, tmp_path: Path) -> None:
    """Those that the first attempt had entered are there once, beside those of the target."""
    path = tmp_path / "t.csv"
    bad = RejectKeeper.BATCH_RECORDS + 10
    path.write_text("a\n" + "x\n" * bad + "1\n1\n")
    query(dsn, "CREATE TABLE t (a int PRIMARY KEY)")
    report = load(path, dsn, rejects={"max_rows": 10_000, "max_ratio": 1})
    assert report.rejects_by_reason == {"invalid_value": bad, "unique_violation": 1}
    assert query(dsn, "SELECT reason, count(*), min(sqlstate) FROM loader.rejects GROUP BY 1 ORDER BY 1") == [
        ("invalid_value", bad, "22P02"),
        ("unique_violation", 1, "23505"),
    ]


@pytest.mark.parametrize("bad", ["1,2,3", "x,"])
@pytest.mark.parametrize("mode", ["append", "merge"])
def test_too_many_rejects_end_the_load_while_its_file_is_still_being_read(
    dsn: str, tmp_path: Path, mode: str, bad: str
) -> None:
    """A file that is hopeless costs what its first blocks cost."""
    query(dsn, "CREATE TABLE t (a int PRIMARY KEY, b text)")
    path = tmp_path / "t.csv"
    with path.open("w") as out:
        out.write("a,b\n" + f"{bad}\n" * 2000)
        out.writelines(f"{number},{'x' * 40}\n" for number in range(1_000_000))
    with pytest.raises(loader.RejectLimitError, match="more than 1,000 records") as caught:
        loader.load(str(path), {"table": "t", "mode": mode}, dsn=dsn)
    assert caught.value.report is not None
    assert caught.value.report.bytes_read < path.stat().st_size / 2
    assert query(dsn, "SELECT count(*) FROM t") == [(0,)]


# --- what is kept


def test_of_a_long_record_the_beginning_is_kept_and_its_length(dsn: str, tmp_path: Path) -> None:
    """In bytes; also where the cut goes through a character."""
    query(dsn, "CREATE TABLE t (a int, b text)")
    path = tmp_path / "t.csv"
    long = "x," + "é" * RAW_LIMIT
    path.write_text(f"a,b\n{long}\nx,short\n", "utf-8")
    load(path, dsn)
    assert query(dsn, "SELECT raw_length, length(coalesce(raw_bytes, convert_to(raw, 'UTF8')))"
                      " FROM loader.rejects ORDER BY record_number") == [
        (2 * RAW_LIMIT + 2, RAW_LIMIT), (7, 7)
    ]  # fmt: skip
    text, left_out = exported(dsn)
    assert text == b"a,b\nx,short\n"
    assert left_out == [
        f"{path}: record 1 (line 2) of {2 * RAW_LIMIT + 2:,} bytes was kept only up to 1,048,576 bytes; "
        "take it from the source"
    ]
    done = run("rejects", "1", "--dsn", dsn)
    assert (done.stdout, done.stderr) == ("a,b\nx,short\n", f"loader: {left_out[0]}\n")


@pytest.mark.parametrize(
    ("encoding", "record"),
    [("shift_jis", b"x,\x82"), ("cp1252", b"x,\x81\x8d"), ("utf-8", b"x,\xff"), ("euc_jp", b"x,\xa4\xa2\xff")],
)
def test_a_record_that_cannot_be_decoded_is_whole(dsn: str, tmp_path: Path, encoding: str, record: bytes) -> None:
    """Its length is that of what is kept of it, so it is exported."""
    query(dsn, "CREATE TABLE t (a int, b text)")
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n" + record + b"\n")
    load(path, dsn, csv={"encoding": encoding})
    kept = record.replace(b"\xa4\xa2", "あ".encode())
    assert query(dsn, "SELECT raw_length FROM loader.rejects") == [(len(kept),)]
    assert exported(dsn) == (b"a,b\n" + kept + b"\n", [])


# --- the file that they are written to


@pytest.mark.parametrize(
    ("text", "dialect", "expected"),
    [
        (b'a,b\n1,x\nq,"two\nlines"\n2\n\n', {}, b'a,b\nq,"two\nlines"\n2\n\n'),
        (b"a;b\r\nq;'it''s'\r\n1;2\r\n", {"delimiter": ";", "quote": "'"}, b"a;b\nq;'it''s'\n"),
        (b'a\tb\rq\t"x\\"y"\r', {"delimiter": "\t", "escape": "\\"}, b'a\tb\nq\t"x\\"y"\n'),
        (b"q,1\n", {"header": False}, b"q,1\n"),
        (b'nonsense\nmore\n"a"," b"\nq,1\n', {"skip_lines": 2}, b'a, b\nq,1\n'),
        (b'"a","b ""x"", y",c\nq,1,2\n', {}, b'a,"b ""x"", y",c\nq,1,2\n'),
        (b'"a","b \\"x\\\\\\" y",c\nq,1,2\n', {"escape": "\\"}, b'a,"b \\"x\\\\\\" y",c\nq,1,2\n'),
        (b'"a","two\nlines",c\nq,1,2\n', {}, b'a,"two\nlines",c\nq,1,2\n'),
        ("a,é\nq,ü\n".encode("cp1252"), {"encoding": "cp1252"}, "a,é\nq,ü\n".encode()),
        ("a,é\nq,ü\n".encode("utf-16"), {}, "a,é\nq,ü\n".encode()),
        (b"a,b\n1,\xff\n2,x\0y\n", {}, b"a,b\n1,\xff\n2,x\0y\n"),
        (b'a,b"c"\nq,b"c\n"\n', {"quote": ""}, b'a,b"c"\nq,b"c\n"\n'),
    ],
)  # fmt: skip
def test_rejects_are_written_as_their_file_had_them(
    dsn: str, tmp_path: Path, text: bytes, dialect: dict[str, Any], expected: bytes
) -> None:
    """With its header and in its dialect, in UTF-8, in its order, each record as it stood."""
    path = tmp_path / "t.csv"
    path.write_bytes(text)
    columns = {"a": "int", "z": "text"} if dialect.get("header") is False else {"a": "int", "z": {"value": "1"}}
    query(dsn, "CREATE TABLE t (a int, z text, b text)")
    if b"1,\xff" in text:
        columns = {"a": "int", "b": "text"}
    load(path, dsn, csv=dialect, columns=columns)
    assert exported(dsn) == (expected, [])


names = st.lists(st.text(st.characters(codec="utf-8"), max_size=6), min_size=1, max_size=4)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    names=names,
    delimiter=st.sampled_from(",;\t|"),
    quote=st.sampled_from("\"'"),
    escape=st.sampled_from(["", "\\"]),
    comment=st.sampled_from(["", "#", "a"]),
)
def test_a_header_is_written_as_it_will_be_read(
    names: list[str], delimiter: str, quote: str, escape: str, comment: str
) -> None:
    """Whatever its names hold: delimiters, quotes, escapes, line ends, the mark of a comment."""
    dialect = CsvSpec(delimiter=delimiter, quote=quote, escape=escape or quote, comment=comment)
    out = io.BytesIO()
    replays._write_header(replays.Original(1, "loaded", "s", "t", tuple(names), dialect, LoadSpec("t"), {}), out)
    line = out.getvalue()
    assert not (comment and line.startswith(comment.encode()))
    fields = split_record(line.removesuffix(b"\n"), Dialect.of(dialect))
    assert [value.decode() for value, _ in fields] == names


def test_a_load_without_rejects_has_a_file_of_its_header(dsn: str, tmp_path: Path) -> None:
    """And one that failed before its header was read has none; it says so."""
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n")
    load(path, dsn)
    assert exported(dsn) == (b"a,b\n", [])
    (tmp_path / "empty.csv").touch()
    with pytest.raises(loader.ShapeError):
        load(tmp_path / "empty.csv", dsn)
    with pytest.raises(loader.LoaderError, match="load 2: the ledger does not have its file's header"):
        exported(dsn, 2)
    with pytest.raises(loader.LoaderError, match="there is no load 3"):
        exported(dsn, 3)


def test_status_shows_how_the_file_was_read_and_what_was_rejected(dsn: str, tmp_path: Path) -> None:
    """One load's whole entry."""
    path = tmp_path / "t.csv"
    path.write_text("a;b\nx;2\n")
    query(dsn, "CREATE TABLE t (a int, b int)")
    load(path, dsn, csv={"delimiter": ";"})
    told = run("status", "1", "--dsn", dsn).stdout
    assert 'rejects_by_column {"a": {"invalid_value": 1}}\n' in told
    assert 'header            ["a", "b"]\n' in told
    entry = json.loads(run("status", "1", "--dsn", dsn, "--json").stdout)
    assert (entry["dialect"]["delimiter"], entry["header"], entry["rejects_by_reason"]) == (
        ";",
        ["a", "b"],
        {"invalid_value": 1},
    )
