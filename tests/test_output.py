"""Output that nobody reads, or that cannot be written: commands end quietly; loads go on, and their code is honest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.postgres import query


@contextmanager
def nobody() -> Iterator[int]:
    """The end of a pipe to write to, whose other end is closed."""
    read, write = os.pipe()
    os.close(read)
    try:
        yield write
    finally:
        os.close(write)


def run(*arguments: str, stdout: Any, stderr: Any = subprocess.PIPE, **environment: str) -> tuple[int, str]:
    """The exit code, and what was said on standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "loader", *arguments],
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )
    return done.returncode, (done.stderr or b"").decode()


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A file that fails and one that loads."""
    for name, text in (("bad", "id\nno number\n"), ("good", "id\n1\n")):
        (tmp_path / f"{name}.csv").write_text(text)
    (tmp_path / "t.toml").write_text('table = "t"\nrejects = { max_rows = 0 }\n[columns]\nid = "int"\n')
    return [str(tmp_path / "bad.csv"), str(tmp_path / "good.csv"), "--spec", str(tmp_path / "t.toml")]


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_loads_go_on_when_nobody_reads(dsn: str, files: list[str], options: list[str]) -> None:
    """``loader load bad.csv good.csv | true``: the second file is loaded, and the exit code tells of the first."""
    with nobody() as closed:
        code, said = run("load", *files, "--dsn", dsn, *options, stdout=closed)
    assert (code, said.count("\n")) == (1, 1)
    assert "bad.csv" in said
    assert query(dsn, "SELECT id FROM t") == [(1,)]
    with nobody() as closed:
        assert run("load", *files[1:], "--dsn", dsn, "--force", *options, stdout=closed) == (0, "")
    assert query(dsn, "SELECT count(*) FROM t") == [(2,)]


def test_nobody_reads_messages_either(dsn: str, files: list[str]) -> None:
    """``loader load … 2>&1 | true``"""
    with nobody() as closed:
        assert run("load", *files, "--dsn", dsn, stdout=closed, stderr=closed) == (1, "")
        assert run("load", "nosuch.csv", "--table", "t", "--dsn", dsn, stdout=closed, stderr=closed) == (1, "")
        assert run("load", stdout=closed, stderr=closed) == (2, "")
    assert query(dsn, "SELECT id FROM t") == [(1,)]


def test_commands_that_only_print_end_quietly(dsn: str, files: list[str]) -> None:
    """With 0, as long as they failed of nothing else: ``loader status | head``."""
    run("load", *files[1:], "--dsn", dsn, stdout=subprocess.DEVNULL)
    for command in (
        ["status", "--dsn", dsn],
        ["status", "1", "--json", "--dsn", dsn],
        ["rejects", "1", "--dsn", dsn],
        ["infer", files[1]],
        ["plan", *files[1:], "--dsn", dsn],
        ["--help"],
    ):
        with nobody() as closed:
            assert run(*command, stdout=closed) == (0, ""), command
    with nobody() as closed:
        assert run("status", "99", "--dsn", dsn, stdout=closed) == (1, "loader: there is no load 99\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
def test_a_full_disk_is_said(dsn: str, files: list[str]) -> None:
    """It does not fail a load, which is done; but a command that only prints has failed of it."""
    with Path("/dev/full").open("w") as full:
        code, said = run("load", *files[1:], "--dsn", dsn, stdout=full)
        assert (code, said) == (0, "loader: standard output cannot be written: No space left on device\n")
        code, said = run("status", "--dsn", dsn, stdout=full)
        assert (code, said) == (1, "loader: standard output cannot be written: No space left on device\n")


def test_a_closed_stream_is_no_error(dsn: str, files: list[str]) -> None:
    """``loader load … >&- 2>&-``: whatever is opened next takes those numbers, and nothing is printed into it."""
    command = [sys.executable, "-m", "loader", "load", *files, "--dsn", dsn]
    done = subprocess.run(["/bin/sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command], timeout=120, check=False)
    assert done.returncode == 1
    assert query(dsn, "SELECT id FROM t") == [(1,)]


def test_a_hook_prints_to_nobody(dsn: str, tmp_path: Path, files: list[str]) -> None:
    """What a hook says is no more than what the loader says."""
    (tmp_path / "loader_hooks").mkdir()
    (tmp_path / "loader_hooks" / "loud.py").write_text(
        "import sys\ndef say(batch):\n    print('x' * 100_000, flush=True)\n"
        "    print('x' * 100_000, file=sys.stderr, flush=True)\n    return batch\n"
    )
    spec = tmp_path / "loud.toml"
    spec.write_text('table = "t"\n[columns]\nid = "int"\n[transform]\npython = "loud:say"\n')
    with nobody() as closed:
        code, _ = run(
            "load", files[1], "--spec", str(spec), "--dsn", dsn, stdout=closed, stderr=closed, PYTHONPATH=str(tmp_path)
        )
    assert code == 0


def test_what_an_encoding_lacks_is_written_as_json_does(dsn: str, tmp_path: Path) -> None:
    """A load that had its effect does not fail of the arrow in its report, or of a file's name."""
    path = tmp_path / "caf\u00e9 \U0001f418.csv"
    path.write_text("id\n1\n")
    for options in ([], ["--json"]):
        command = [sys.executable, "-m", "loader", "load", str(path), "--table", "t", "--dsn", dsn, "--force", *options]
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        done = subprocess.run(command, capture_output=True, env=environment, timeout=120, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        if options:
            assert json.loads(done.stdout)["source"] == str(path)
        else:
            assert b"caf\\u00e9 \\ud83d\\udc18.csv \\u2192 public.t: loaded" in done.stdout


def test_a_file_whose_name_is_no_text(dsn: str, tmp_path: Path) -> None:
    """The ledger cannot hold it: one sentence, and the other files are loaded."""
    for name in (b"caf\xe9.csv", b"good.csv"):
        with open(os.fsencode(tmp_path) + b"/" + name, "w") as file:  # noqa: PTH123 - a name in bytes
            file.write("id\n1\n")
    code, said = run("load", f"{tmp_path}/*.csv", "--table", "t", "--dsn", dsn, stdout=subprocess.DEVNULL)
    assert code == 1
    assert "caf\\udce9.csv': the path is not valid UTF-8" in said
    assert "Traceback" not in said
