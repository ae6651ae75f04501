"""PgBouncer in front of a test's server; skips where it is not installed (Debian: ``apt-get install pgbouncer``)."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from support.clients import wait_for
from support.postgres import free_port

MODES = ("session", "transaction", "statement")


@dataclass(frozen=True)
class Pooled:
    """``dsn``: the database through the pooler. ``console``: PgBouncer's own database, for its commands."""

    dsn: str
    console: str


@contextlib.contextmanager
def pooled(dsn: str, mode: str, **settings: object) -> Iterator[Pooled]:
    """PgBouncer in front of the server of ``dsn``. ``settings`` go to its configuration."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("PgBouncer is not installed")
    server = parse_dsn(dsn)
    port = free_port()
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
            "admin_users": "postgres",
            "pool_mode": mode,
            **settings,
        }
        where = f"host={server['host']} port={server.get('port', 5432)}"
        lines = [
            "[databases]",
            f"* = {where}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in options.items()),
        ]
        (folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [found, "--quiet", folder / "pgbouncer.ini"], stdout=log, stderr=log, cwd="/", **_user(server["host"])
            )
        address = {"host": "127.0.0.1", "port": port, "user": "postgres"}
        through = Pooled(make_dsn(dbname=server["dbname"], **address), make_dsn(dbname="pgbouncer", **address))
        try:
            wait_for(lambda: process.poll() is not None or _answers(through.console))
            assert process.poll() is None, (folder / "log").read_text()
            yield through
        finally:
            process.kill()
            process.wait()


def command(pool: Pooled, text: str) -> list[dict[str, object]]:
    """The rows of a command of PgBouncer's console, such as SHOW SERVERS, by column."""
    connection = psycopg2.connect(pool.console)
    connection.autocommit = True  # the console knows no BEGIN
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(text)
        names = [each.name for each in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()] if names else []


def _answers(console: str) -> bool:
    try:
        psycopg2.connect(console).close()
    except psycopg2.OperationalError:
        return False
    return True


def _user(host: str) -> dict[str, str | int]:
    """PgBouncer does not run as root. The owner of the server's socket can reach it; by TCP, anybody can."""
    if os.geteuid() != 0:
        return {}
    owner = Path(host).owner() if host.startswith("/") else "nobody"
    return {"user": owner, "group": pwd.getpwnam(owner).pw_gid}
