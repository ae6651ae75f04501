"""PgBouncer in front of a test's server; skips where it is not installed (Debian: ``apt-get install pgbouncer``)."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from support.clock import PATIENCE
from support.own_server import lasting_port


@dataclass(frozen=True)
class Pooled:
    """``dsn``: the database through the pooler."""

    dsn: str


@contextlib.contextmanager
def pooled(dsn: str, mode: str, **settings: object) -> Iterator[Pooled]:
    """PgBouncer in front of the server of ``dsn``. ``settings`` go to its configuration."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("PgBouncer is not installed")
    server, port = parse_dsn(dsn), lasting_port()
    with tempfile.TemporaryDirectory(prefix="loader-pool-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        folder.chmod(0o755)
        (folder / "users").write_text('"postgres" ""\n')
        options = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": folder / "users",
            "pool_mode": mode,
            **settings,
        }
        lines = [
            "[databases]",
            f"* = host={server['host']} port={server['port']}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in options.items()),
        ]
        (folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
        user = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}  # it does not run as root
        with (folder / "log").open("w") as log:
            process = subprocess.Popen([found, "--quiet", folder / "pgbouncer.ini"], stdout=log, stderr=log, **user)
        try:
            _await(process, port, folder / "log")
            yield Pooled(make_dsn(host="127.0.0.1", port=port, user="postgres", dbname=server["dbname"]))
        finally:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.01)
    raise AssertionError("PgBouncer does not listen")
