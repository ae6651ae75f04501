"""The command line, as processes of their own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support.clients import wait_for
from support.clock import PATIENCE
from support.commands import run
from support.postgres import query


@pytest.fixture
def trips(tmp_path: Path) -> Path:
    path = tmp_path / "Trip data.csv"
    path.write_text("id,fare\n1,1.50\n2,x\n3,2\n")
    return path


SPEC = """
table = "trips"
rejects = { max_ratio = 1.0 }
[columns]
id = "int"
fare = "numeric(8,2)"
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "trips.toml"
    path.write_text(SPEC)
    return str(path)


def test_load_says_what_became_of_the_records(dsn: str, trips: Path, spec: str) -> None:
    """On standard output; nothing on standard error; exit code 0, also the second time."""
    first = run("load", str(trips), "--spec", spec, "--dsn", dsn)
    assert (first.returncode, first.stderr) == (0, "")
    head, *rest = first.stdout.splitlines()
    assert head.startswith(f"{trips} → public.trips: loaded (load 1) in ")
    assert rest == [
        "  3 read = 2 inserted + 1 rejected",
        "    1 invalid_value (conversion): fare 1",
        "  see what was rejected with: loader rejects 1; mend it and load it with: loader replay 1 FILE",
    ]
    second = run("load", str(trips), "--spec", spec, LOADER_DSN=dsn)
    assert second.returncode == 0
    assert "skipped (load 1)" in second.stdout
    assert run("load", str(trips), "--spec", spec, "--dsn", dsn, "--force").stdout.count("loaded (load 2)") == 1


def test_json_is_one_report_and_nothing_else(dsn: str, trips: Path, spec: str) -> None:
    """Also where the load fails."""
    done = run("load", str(trips), "--spec", spec, "--dsn", dsn, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert {key: report[key] for key in ("state", "rows_read", "rows_inserted", "rows_rejected", "load_id")} == {
        "state": "loaded", "rows_read": 3, "rows_inserted": 2, "rows_rejected": 1, "load_id": 1
    }  # fmt: skip
    failed = run("load", str(trips), "--table", "trips", "--mode", "merge", "--force", "--dsn", dsn, "--json")
    assert failed.returncode == 1
    report = json.loads(failed.stdout)
    assert report["state"] == "failed"
    assert f"loader: {report['error']}\n" == failed.stderr


def test_several_sources_into_one_table(dsn: str, tmp_path: Path) -> None:
    """In the order in which they are named; the report adds them up."""
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text(f"v\n{name}\n")
    done = run("load", "b.csv", "a.csv", "--table", "letters", "--dsn", dsn, "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert report["rows_inserted"] == 2
    assert [Path(each["source"]).name for each in report["loads"]] == ["b.csv", "a.csv"]
    without = run("load", "b.csv", "a.csv", "--dsn", dsn, cwd=tmp_path)
    assert without.returncode == 2
    assert without.stderr == "loader: 2 sources, and no --table or --spec to say where they go\n"


def test_without_a_spec_the_table_is_named_after_the_file(dsn: str, trips: Path) -> None:
    """And its columns after the header, with types that lose nothing."""
    assert run("load", str(trips), "--dsn", dsn).returncode == 0
    assert query(dsn, "SELECT id, fare FROM trip_data ORDER BY id") == [(1, "1.50"), (2, "x"), (3, "2")]


def test_options_go_before_the_spec(dsn: str, trips: Path, spec: str) -> None:
    """Another table, another mode."""
    done = run("load", str(trips), "--spec", spec, "--table", "other", "--mode", "merge", "--key", "id", "--dsn", dsn)
    assert done.returncode == 0, done.stderr
    assert query(dsn, "SELECT count(*) FROM other") == [(2,)]


WRONG = """
table = "trips"
mod = "merge"
[csv]
delimeter = ";"
[columns]
fare = { type = "numeric(8,2)", transform = ["stripp"] }
"""


@pytest.mark.without_ledger
def test_a_spec_with_three_mistakes_names_all_three(dsn: str, tmp_path: Path, trips: Path) -> None:
    """With the nearest right names, exit code 2, and nothing touched."""
    (tmp_path / "wrong.toml").write_text(WRONG)
    done = run("load", str(trips), "--spec", str(tmp_path / "wrong.toml"), "--dsn", dsn)
    assert (done.returncode, done.stdout) == (2, "")
    assert "3 problems" in done.stderr
    for nearest in ('"mode"', '"delimiter"', '"strip"'):
        assert nearest in done.stderr
    assert query(dsn, "SELECT count(*) FROM pg_namespace WHERE nspname = 'loader'") == [(0,)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["load", "nosuch.csv", "--table", "t"], 1, "nosuch.csv"),
        (["load", "nosuch*.csv", "--table", "t"], 1, "nosuch*.csv"),
        (["load", ".", "--table", "t"], 1, "directory"),
        (["load", "empty.csv", "--table", "t"], 1, "the file is empty; a header was expected"),
        (["load", "good.csv", "--spec", "nosuch.toml"], 2, "nosuch.toml"),
        (["load", "s3:///x", "--table", "t"], 2, "s3:///x"),
        (["load", "good.csv", "--table", "a.b.c"], 2, "a.b.c"),
        (["status", "99"], 1, "there is no load 99"),
        (["rejects", "99"], 1, "there is no load 99"),
    ],
)
def test_bad_input_gets_one_sentence(dsn: str, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    """And the right exit code; no traceback."""
    (tmp_path / "good.csv").write_text("a\n1\n")
    (tmp_path / "empty.csv").touch()
    done = run(*arguments, cwd=tmp_path, LOADER_DSN=dsn)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert done.stderr.startswith("loader: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ("postgresql://x:secret@127.0.0.1:1/x", 1),
        ("postgresql://x:secret@nosuch.invalid/x", 1),
        ("host=127.0.0.1 port=1 password=secret", 1),
        ("mysql://x:secret@127.0.0.1/x", 2),
        ("postgresql://x:secret@127.0.0.1:port/x", 1),
    ],
)
def test_a_wrong_dsn_is_said_without_its_password(trips: Path, wrong: str, code: int) -> None:
    """One sentence, no traceback, no secret."""
    done = run("load", str(trips), "--dsn", wrong)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    "arguments", [[], ["nosuch"], ["load"], ["load", "x", "--mode", "upsert"], ["load", "x", "--workers", "0"]]
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    """With a usage line."""
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: loader" in done.stderr


def test_infer_prints_a_spec_that_loads(dsn: str, trips: Path, tmp_path: Path) -> None:
    """Ready to edit: it parses, and loading with it gives the same table as without."""
    done = run("infer", str(trips), "--table", "inferred")
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "inferred.toml").write_text(done.stdout)
    assert run("load", str(trips), "--spec", str(tmp_path / "inferred.toml"), "--dsn", dsn).returncode == 0
    assert query(dsn, "SELECT * FROM inferred ORDER BY id") == [(1, "1.50"), (2, "x"), (3, "2")]


def test_infer_finds_the_dialect_unless_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a;b\n1;2\n")
    assert 'delimiter = ";"' in run("infer", str(path)).stdout
    assert "header =" not in run("infer", str(path)).stdout
    assert '# the delimiter ";" and a header were found by sniffing' in run("infer", str(path)).stdout
    told = run("infer", str(path), "--delimiter", "\\t", "--no-header").stdout
    assert 'delimiter = "\\t"' in told
    assert "header = false" in told
    assert run("infer", str(path), "--delimiter", '"').returncode == 2


def test_status_and_rejects(dsn: str, trips: Path, spec: str) -> None:
    """History, newest first, one load, and what was rejected: as a file to mend, and with reasons as JSON lines."""
    run("load", str(trips), "--spec", spec, "--dsn", dsn)
    run("load", str(trips), "--table", "trips", "--mode", "merge", "--force", "--dsn", dsn)
    listed = run("status", "--dsn", dsn).stdout.splitlines()
    assert [line.split()[:2] for line in listed[1:] if not line.startswith("        ")] == [
        ["2", "failed"],
        ["1", "loaded"],
    ]
    assert any('needs a "key"' in line for line in listed)
    one: dict[str, Any] = json.loads(run("status", "1", "--json", "--dsn", dsn).stdout)
    assert (one["state"], one["rows_read"], one["target"]) == ("loaded", 3, "public.trips")
    assert [each["load_id"] for each in json.loads(run("status", "--json", "--dsn", dsn).stdout)] == [2, 1]
    assert "rows_rejected     1" in run("status", "1", "--dsn", dsn).stdout
    assert run("rejects", "1", "--dsn", dsn).stdout == "id,fare\n2,x\n"
    (line,) = run("rejects", "1", "--format", "jsonl", "--dsn", dsn).stdout.splitlines()
    assert json.loads(line) == {
        "record_number": 2, "line_number": 3, "byte_offset": 15, "column_name": "fare", "reason": "invalid_value",
        "kind": "conversion", "sqlstate": "22P02", "message": 'invalid input syntax for type numeric: "x"',
        "raw": "2,x", "raw_length": 3,
    }  # fmt: skip


def test_status_of_a_database_without_loads(dsn: str) -> None:
    """Is an empty history, not an error, and creates nothing."""
    done = run("status", "--json", "--dsn", dsn)
    assert (done.returncode, done.stdout) == (0, "[]\n")


def test_the_reader_of_the_output_may_leave(dsn: str, trips: Path, spec: str) -> None:
    """``loader rejects 1 | head`` is no error."""
    run("load", str(trips), "--spec", spec, "--dsn", dsn)
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m loader rejects 1 --dsn "{dsn}" | true'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_progress_is_shown_on_a_terminal_alone(dsn: str, tmp_path: Path) -> None:
    """Bytes, rows a second and the remaining time, on standard error."""
    path = tmp_path / "long.csv"
    path.write_text("a\n" + "123456789\n" * 600_000)
    leader, follower = pty.openpty()
    termios.tcsetwinsize(leader, (24, 100))
    process = subprocess.Popen(
        [sys.executable, "-m", "loader", "load", str(path), "--dsn", dsn], stdout=subprocess.PIPE, stderr=follower
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # a terminal whose other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(leader)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert b"long.csv" in shown
    assert b"rows/s" in shown
    assert b"600,000 read = 600,000 inserted" in out
    assert b"rows/s" not in out


def test_an_interrupt_ends_it_cleanly(dsn: str, tmp_path: Path) -> None:
    """Ctrl-C: one line, exit code 130, and the table as it was."""
    query(dsn, "CREATE TABLE long (a bigint)")
    path = tmp_path / "long.csv"
    path.write_text("a\n" + "123456789\n" * 8_000_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "loader", "load", str(path), "--dsn", dsn], stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: query(dsn, "SELECT to_regclass('loader.loads') IS NOT NULL") == [(True,)])
    wait_for(lambda: query(dsn, "SELECT 1 FROM loader.loads"))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, len(errors.splitlines())) == (130, 1)
    assert f"loader: {path}: " in errors
    assert "it was interrupted" in errors
    assert query(dsn, "SELECT count(*) FROM long") == [(0,)]
    assert query(dsn, "SELECT state FROM loader.loads") == [("paused",)]


def test_status_tells_how_a_load_went(dsn: str, tmp_path: Path) -> None:
    """Attempts, resumes and the last error where there is something to tell; one whose process died is not running."""
    path = tmp_path / "trips.csv"
    path.write_text("a\n1\n")
    run("load", str(path), "--dsn", dsn)
    query(dsn, "INSERT INTO loader.loads (state, source, key, target, mode, forced, spec, attempts, handovers, resumes,"
               " waited, last_error) VALUES ('running', 'b.csv', 'b.csv', 'public.b', 'merge', false, '{}', 3, 2, 1, 7,"
               " 'its time is up')")  # fmt: skip
    lines = run("status", "--dsn", dsn).stdout.splitlines()
    assert lines[1].split()[:2] == ["2", "died"]
    assert [line.strip() for line in lines[2:4]] == ["3 attempts, 2 handovers, 1 resume, waited 7 s", "its time is up"]
    assert lines[4].split()[:2] == ["1", "loaded"]
    busy = psycopg2.connect(dsn)
    busy.cursor().execute("SELECT pg_advisory_lock(hashtextextended('loader public.b', 0))")
    load = json.loads(run("status", "2", "--dsn", dsn, "--json").stdout)
    assert (load["state"], load["attempts"], load["rows_staged"]) == ("running", 3, 0)
    busy.close()
