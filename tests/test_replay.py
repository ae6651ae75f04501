"""Loading again after a mend."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support import commands
from support.clock import PATIENCE
from support.postgres import query

import loader
from loader.pipeline import How
from loader.postgres.database import Database
from loader.replays import find_original, replay, replay_source, write_rejects

EVERY = {"max_rows": 1000, "max_ratio": 1}
PRICES = "CREATE TABLE prices (id int PRIMARY KEY, price numeric(8,2), city text)"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prices.csv"


def load(path: Path, dsn: str, **spec: Any) -> loader.LoadReport:
    return loader.load(str(path), {"table": "prices", "rejects": EVERY, **spec}, dsn=dsn)


def again(dsn: str, load_id: int, source: Path | str | None = None, *, force: bool = False) -> loader.LoadReport:
    database = Database(dsn)
    try:
        return replay(load_id, database, source=None if source is None else str(source), how=How(force))
    finally:
        database.close()


def rejects_of(dsn: str, load_id: int) -> str:
    out = io.BytesIO()
    connection = psycopg2.connect(dsn)
    assert list(write_rejects(connection, find_original(connection, load_id), out)) == []
    connection.close()
    return out.getvalue().decode()


def prices(dsn: str) -> list[tuple[Any, ...]]:
    return query(dsn, "SELECT id, price::text, city FROM prices ORDER BY 1, 2")


def counts(report: loader.LoadReport) -> tuple[str, int, int, int]:
    return report.state, report.rows_read, report.rows_inserted, report.rows_rejected


@pytest.mark.every_postgres
@pytest.mark.parametrize("mode", ["append", "merge"])
def test_mended_rejects_are_loaded_with_the_spec_of_their_load(dsn: str, file: Path, tmp_path: Path, mode: str) -> None:
    """In the dialect, with the renamed and transformed columns of that load; as an entry of its own."""
    query(dsn, PRICES)
    file.write_text("Price;Nr;City\n1,5;1;köln\nx;2;trier\n3;drei;jena\n", "cp1252")
    first = load(
        file,
        dsn,
        mode=mode,
        csv={"delimiter": ";", "quote": "'", "encoding": "cp1252"},
        columns={
            "id": {"type": "int", "from": "Nr"},
            "price": {"type": "numeric(8,2)", "from": "Price", "transform": [{"replace": [",", "."]}]},
            "city": {"type": "text", "from": "City", "transform": ["upper"]},
        },
    )
    assert counts(first) == ("loaded", 3, 1, 2)
    text = rejects_of(dsn, 1)
    assert text == "Price;Nr;City\nx;2;trier\n3;drei;jena\n"
    mended = tmp_path / "mended.csv"
    mended.write_text(text.replace("x;", "2,5;").replace("drei", "3").replace("jena", "'jena; ü'"), "utf-8")
    second = again(dsn, 1, mended)
    assert (counts(second), second.replay_of, second.mode) == (("loaded", 2, 2, 0), 1, mode)
    assert prices(dsn) == [(1, "1.50", "KÖLN"), (2, "2.50", "TRIER"), (3, "3.00", "JENA; Ü")]
    assert query(dsn, "SELECT load_id, source, replay_of, state FROM loader.loads ORDER BY 1") == [
        (1, str(file), None, "loaded"),
        (2, str(mended), 1, "loaded"),
    ]
    assert query(dsn, "SELECT load_id, count(*) FROM loader.rejects GROUP BY 1") == [(1, 2)]


def test_a_file_without_a_header_is_replayed_without_one(dsn: str, file: Path, tmp_path: Path) -> None:
    """Its columns keep the order that the spec gave them; lines around the records are not looked for again."""
    query(dsn, "CREATE TABLE prices (id int, price numeric(8,2), city text)")
    file.write_text("preamble\n\nx;1.5;2\nulm;1.5;3\n")
    columns = {"city": "text", "price": "numeric(8,2)", "id": "int"}
    load(file, dsn, csv={"header": False, "skip_lines": 2, "delimiter": ";"}, columns=columns)
    file.write_text("preamble\n\nulm;1.5;drei\n")
    load(file, dsn, csv={"header": False, "skip_lines": 2, "delimiter": ";"}, columns=columns)
    assert rejects_of(dsn, 2) == "ulm;1.5;drei\n"
    mended = tmp_path / "mended.csv"
    mended.write_text("ulm;1.5;4\n")
    again(dsn, 2, mended)
    assert prices(dsn) == [(2, "1.50", "x"), (3, "1.50", "ulm"), (4, "1.50", "ulm")]


def test_the_same_mended_file_takes_effect_once(dsn: str, file: Path, tmp_path: Path) -> None:
    """By its content; force loads it again; other content is another matter."""
    query(dsn, "CREATE TABLE prices (id int, price numeric(8,2), city text)")
    file.write_text("id,price,city\n1,1,a\n2,x,b\n")
    load(file, dsn)
    mended = tmp_path / "mended.csv"
    mended.write_text("id,price,city\n2,2,b\n")
    assert again(dsn, 1, mended).state == "loaded"
    copied = tmp_path / "copy.csv"
    copied.write_bytes(mended.read_bytes())
    skipped = again(dsn, 1, copied)
    assert (skipped.state, skipped.load_id) == ("skipped", 2)
    assert skipped.notes == (
        "load 1 was replayed before, by load 2",
        f"this version was loaded already, by load 2, as {mended}: add --force to load it again",
    )
    assert again(dsn, 2, mended).state == "skipped"
    assert again(dsn, 1, file).state == "skipped"
    assert load(mended, dsn).state == "skipped"
    assert len(prices(dsn)) == 2
    assert again(dsn, 1, mended, force=True).state == "loaded"
    assert len(prices(dsn)) == 3


def test_equal_rejects_of_two_loads_are_two_replays(dsn: str, tmp_path: Path) -> None:
    """Every day's file may have the same bad record; none of them may be lost."""
    query(dsn, "CREATE TABLE prices (id int, price numeric(8,2), city text)")
    for day in "12":
        path = tmp_path / f"{day}.csv"
        path.write_text(f"id,price,city\n{day},1,a\n0,x,b\n")
        load(path, dsn)
    mended = tmp_path / "mended.csv"
    mended.write_text("id,price,city\n0,2,b\n")
    assert [again(dsn, load_id, mended).state for load_id in (1, 2, 1, 2)] == ["loaded", "loaded", "skipped", "skipped"]
    query(dsn, "ALTER TABLE prices ALTER price TYPE text")
    assert [again(dsn, load_id).state for load_id in (1, 2, 1, 2)] == ["loaded", "loaded", "skipped", "skipped"]
    assert [price for _, price, city in prices(dsn) if city == "b"] == ["2.00", "2.00", "x", "x"]


@pytest.mark.every_postgres
def test_kept_rejects_are_loaded_as_they_are_after_the_table_was_mended(dsn: str, file: Path) -> None:
    """What is rejected again is a reject of the replay, and can be replayed in its turn; the old ones stay."""
    query(dsn, "CREATE TABLE prices (id int, price numeric(8,2), city varchar(3))")
    file.write_text('id,price,city\n1,1,a\n2,x,b\n3,3,"cco\nl"\n4,y,"co""ne"\n')
    load(file, dsn)
    nothing = again(dsn, 1)
    assert counts(nothing) == ("loaded", 3, 0, 3)
    query(dsn, "ALTER TABLE prices ALTER city TYPE text")
    some = again(dsn, 1)
    assert (counts(some), some.notes) == (("loaded", 3, 1, 2), ())
    assert again(dsn, 1).state == "skipped"
    query(dsn, "ALTER TABLE prices ALTER price TYPE text")
    rest = again(dsn, some.load_id or 0)
    assert (counts(rest), rest.source) == (("loaded", 2, 2, 0), "the rejects of load 3")
    assert prices(dsn) == [(1, "1.00", "a"), (2, "x", "b"), (3, "3.00", "cco\nl"), (4, "y", 'co"ne')]
    assert query(dsn, "SELECT load_id, count(*) FROM loader.rejects GROUP BY 1 ORDER BY 1") == [(1, 3), (2, 3), (3, 2)]


def test_a_record_that_would_swallow_the_next_is_left_out(dsn: str, file: Path) -> None:
    """And so is one that was cut; the report says so."""
    query(dsn, "CREATE TABLE prices (id int, price text, city varchar(3))")
    file.write_text(f'id,price,city\n1,1,cool\n2,{"x" * (1 << 20)},cool\n3,1,"open\n')
    load(file, dsn)
    query(dsn, "ALTER TABLE prices ALTER city TYPE text")
    report = again(dsn, 1)
    assert counts(report) == ("loaded", 1, 1, 0)
    assert report.notes == (
        f"{file}: record 2 (line 3) of 1,048,583 bytes was kept only up to 1,048,576 bytes: "
        "it is left out and has to be mended",
        f"{file}: record 3 (line 4) has an unbalanced quote: it is left out and has to be mended",
    )
    query(dsn, "DELETE FROM loader.rejects WHERE load_id = 1 AND record_number < 3")
    with pytest.raises(loader.LoaderError, match=r"none of its 1 rejects can be loaded as they are; .* unbalanced"):
        again(dsn, 1)


@pytest.mark.parametrize(
    ("key", "table", "mode"),
    [
        ([], PRICES, "merge"),
        (["id"], "CREATE TABLE prices (id int UNIQUE, price numeric(8,2), city text)", "merge"),
        ([], "CREATE TABLE prices (id int, price numeric(8,2), city text)", "append"),
        ([], PRICES.replace("id int PRIMARY KEY", "id int, nr serial PRIMARY KEY"), "append"),
    ],
)
def test_a_replay_never_deletes(dsn: str, file: Path, tmp_path: Path, key: list[str], table: str, mode: str) -> None:
    """Mode "replace" becomes "merge" where there is a key to merge by, and "append" where there is none."""
    query(dsn, table)
    file.write_text("id,price,city\n1,1,a\n2,x,b\n")
    load(file, dsn, mode="replace", **({"key": key} if key else {}))
    mended = tmp_path / "mended.csv"
    mended.write_text("id,price,city\n2,2,b\n")
    report = again(dsn, 1, mended)
    assert (report.mode, report.rows_inserted) == (mode, 1)
    assert report.notes[0:1] == (f'mode "replace" is replayed as "{mode}", so that the rows loaded before stay',)
    assert prices(dsn) == [(1, "1.00", "a"), (2, "2.00", "b")]


def test_columns_made_of_the_source_tell_of_the_first_one(dsn: str, file: Path, tmp_path: Path) -> None:
    """A replayed row says where it came from; only its load and its record's number are new."""
    file = file.with_name("{odd} }name{.csv")
    file.write_text("id\n1\nx\n")
    value = "{{{key}}} {bucket} {record_number} {load_id}"
    load(file, dsn, columns={"id": "int", "origin": {"type": "text", "value": value}})
    mended = tmp_path / "mended.csv"
    mended.write_text("id\ny\n2\n")
    again(dsn, 1, mended)
    mended.write_text("id\n3\n")
    again(dsn, 2, mended)
    assert query(dsn, "SELECT * FROM prices ORDER BY 1") == [
        (1, f"{{{file}}}  1 1"),
        (2, f"{{{file}}}  2 2"),
        (3, f"{{{file}}}  1 3"),
    ]


def test_rejects_of_an_object_of_s3(dsn: str, s3: Any) -> None:
    """The mended file may lie in S3 too."""
    query(dsn, PRICES)
    s3.put("in/prices.csv", b"id,price,city\n1,1,a\n2,x,b\n")
    loader.load(s3.uri("in/prices.csv"), {"table": "prices", "rejects": EVERY}, dsn=dsn)
    s3.put("mended/prices.csv", b"id,price,city\n2,2,b\n")
    report = again(dsn, 1, s3.uri("mended/prices.csv"))
    assert counts(report) == ("loaded", 1, 1, 0)
    assert again(dsn, 1, s3.uri("mended/prices.csv")).state == "skipped"


@pytest.mark.usefixtures("large_way")
def test_what_cannot_be_replayed_says_so(dsn: str, file: Path, tmp_path: Path) -> None:
    """A load that is not there, that failed, that rejected nothing, whose table is another now; a file that is not."""
    query(dsn, PRICES)
    with pytest.raises(loader.LoaderError, match="there is no load 1"):
        again(dsn, 1)
    file.write_text("id,price,city\n1,x,a\n")
    with pytest.raises(loader.RejectLimitError):
        load(file, dsn, rejects={"max_rows": 0})
    with pytest.raises(loader.LoaderError, match="load 1 is not through and changed nothing; go on with it with"):
        again(dsn, 1, file)
    file.write_text("id,price,city\n1,1,a\n")
    load(file, dsn)
    with pytest.raises(loader.LoaderError, match="load 2: it has no rejects"):
        again(dsn, 2)
    with pytest.raises(loader.SourceNotFoundError, match="no such file") as caught:
        again(dsn, 2, tmp_path / "nosuch.csv")
    assert caught.value.report is not None
    assert (caught.value.report.state, caught.value.report.replay_of) == ("failed", 2)
    ((name,),) = query(dsn, "SELECT current_database()")
    query(dsn, "CREATE SCHEMA other CREATE TABLE prices (id int)")
    query(dsn, f"ALTER DATABASE {name} SET search_path = other, public")
    with pytest.raises(loader.TableError, match=r'load 2 went into public\.prices, but "prices" is now other\.prices'):
        again(dsn, 2, file)


@pytest.mark.usefixtures("large_way")
def test_a_load_that_failed_is_tried_again(dsn: str, file: Path) -> None:
    """With its spec, in its own row, when what stood in its way was mended; and once it is through, its rejects are."""
    query(dsn, PRICES)
    query(dsn, "ALTER TABLE prices ADD CHECK (price < 5)")
    file.write_text("id,price,city\n1,9,a\n2,x,b\n")
    with pytest.raises(loader.RejectLimitError):
        load(file, dsn, rejects={"max_rows": 1, "max_ratio": 1})
    with pytest.raises(loader.RejectLimitError):
        again(dsn, 1)
    query(dsn, "ALTER TABLE prices DROP CONSTRAINT prices_price_check")
    report = again(dsn, 1)
    assert (report.state, report.load_id, report.attempts, report.rows_rejected) == ("loaded", 1, 3, 1)
    assert query(dsn, "SELECT state, attempts, error, last_error IS NULL FROM loader.loads") == [
        ("loaded", 3, None, False)
    ]
    assert (again(dsn, 1).replay_of, again(dsn, 1).rows_rejected) == (1, 1)


def test_the_limit_on_rejected_records_holds_for_a_replay(dsn: str, file: Path, tmp_path: Path) -> None:
    """Their number, not their share: they are the bad ones."""
    query(dsn, PRICES)
    file.write_text("id,price,city\n" + "".join(f"{n},1,a\n" for n in range(98)) + "98,x,a\n99,x,a\n")
    load(file, dsn, rejects={"max_rows": 2, "max_ratio": 0.02})
    mended = tmp_path / "mended.csv"
    mended.write_text("id,price,city\n98,1,a\n99,x,a\n")
    assert counts(again(dsn, 1, mended)) == ("loaded", 2, 1, 1)
    mended.write_text("id,price,city\n" + "99,x,a\n" * 3)
    with pytest.raises(loader.RejectLimitError, match="more than 2 records") as caught:
        again(dsn, 1, mended)
    assert caught.value.report is not None
    assert caught.value.report.replay_of == 1
    assert query(dsn, "SELECT load_id, state, replay_of FROM loader.loads ORDER BY 1 DESC LIMIT 1") == [
        (3, "failed", 1)
    ]


def test_a_source_is_loaded_again_as_it_was_last(dsn: str, file: Path) -> None:
    """With the spec that the ledger has, whether that load failed or not; what was loaded already only by force."""
    query(dsn, "CREATE TABLE prices (id int, price numeric(8,2), city text)")
    database = Database(dsn)
    with pytest.raises(loader.SourceNotFoundError):
        replay_source(str(file), database)
    file.write_text("x;1;ulm\n2;2;bonn\n")
    with pytest.raises(loader.LoaderError, match="the ledger has no load of it"):
        replay_source(str(file), database)
    columns = {"id": "int", "price": "numeric(8,2)", "city": "text"}
    with pytest.raises(loader.RejectLimitError):
        load(file, dsn, csv={"header": False, "delimiter": ";"}, rejects={"max_rows": 0}, columns=columns)
    file.write_text("1;1;ulm\n2;2;bonn\n")
    report = replay_source(str(file), database)
    assert (counts(report), report.replay_of) == (("loaded", 2, 2, 0), None)
    assert replay_source(str(file), database).state == "skipped"
    assert replay_source(str(file), database, how=How(force=True)).rows_inserted == 2
    database.close()


def test_what_an_early_ledger_did_not_keep_is_not_guessed(dsn: str, file: Path) -> None:
    """Version 1 had neither headers nor dialects, and lost the order of a spec's columns."""
    file.write_text("x,1\n1,1\n")
    load(file, dsn, csv={"header": False}, columns={"id": "int", "b": "int"})
    query(dsn, "UPDATE loader.loads SET dialect = NULL")
    with pytest.raises(loader.LoaderError, match="the ledger does not have its file's header and dialect"):
        again(dsn, 1)
    database = Database(dsn)
    with pytest.raises(loader.LoaderError, match="may not have the right order of its columns"):
        replay_source(str(file), database)
    database.close()


def run(*arguments: str, dsn: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return commands.run(*arguments, "--dsn", dsn, cwd=cwd)


def piped(text: str, *arguments: str, dsn: str) -> subprocess.CompletedProcess[str]:
    """With the text on standard input."""
    command = [sys.executable, "-m", "loader", *arguments, "--dsn", dsn]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, input=text)


def test_the_command_line_mends_and_replays(dsn: str, file: Path, tmp_path: Path) -> None:
    """From the hint of ``loader load`` to the whole table, through a pipe too."""
    query(dsn, PRICES)
    file.write_text("id,price,city\n1,1,a\n2,x,b\n3,y,c\n")
    (tmp_path / "spec.toml").write_text('table = "prices"\nrejects = { max_ratio = 1 }\n')
    told = run("load", str(file), "--spec", str(tmp_path / "spec.toml"), dsn=dsn).stdout
    assert "loader rejects 1; mend it and load it with: loader replay 1 FILE" in told
    (tmp_path / "mended.csv").write_text(run("rejects", "1", dsn=dsn).stdout.replace(",x,", ",2,"))
    done = run("replay", "1", "mended.csv", dsn=dsn, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 read = 1 inserted + 1 rejected\n    1 invalid_value (conversion): price 1\n" in done.stdout
    mended = run("rejects", "2", dsn=dsn).stdout.replace(",y,", ",3,")
    report = json.loads(piped(mended, "replay", "2", "-", "--json", dsn=dsn).stdout)
    assert (report["state"], report["source"], report["replay_of"], report["rows_inserted"]) == (
        "loaded", "standard input", 2, 1
    )  # fmt: skip
    assert json.loads(piped(mended, "replay", "2", "-", "--json", dsn=dsn).stdout)["state"] == "skipped"
    assert prices(dsn) == [(1, "1.00", "a"), (2, "2.00", "b"), (3, "3.00", "c")]
    missing = run("replay", "99", "--json", dsn=dsn)
    report = json.loads(missing.stdout)
    assert (missing.returncode, report["state"], report["error"]) == (1, "failed", "there is no load 99")
    assert run("replay", str(file), dsn=dsn).stdout.endswith(
        "loaded already, by load 1: add --force to load it again\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["replay", "99"], 1, "there is no load 99"),
        (["replay", "nosuch.csv"], 1, "nosuch.csv: no such file"),
        (["replay", "a.csv", "b.csv"], 2, "a.csv: is not a load's id, so the second argument, b.csv, is one too many"),
    ],
)
def test_bad_usage_gets_one_sentence(dsn: str, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    """And the right exit code; no traceback."""
    done = run(*arguments, dsn=dsn, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert done.stderr.startswith("loader: ")
    assert done.stderr.count("\n") == 1
