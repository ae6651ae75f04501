"""PostgreSQL for tests: servers that are started once, and a fresh database for each test."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from loader.postgres.database import Database
from support.cluster import MissingServerError, running

SERVERS = ("embedded-18", "embedded-17", "embedded-16", "container-18", "system-15")
DEFAULT = "embedded-18"


def query(dsn: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Run one statement and commit; its rows, if it gives any."""
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


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


def open_server(name: str) -> contextlib.AbstractContextManager[str]:
    """A server by its name: of a wheel, of the distribution, or in a container; skips where this machine has none."""
    return container() if name.startswith("container-") else _local(name)


@contextlib.contextmanager
def _local(name: str) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        try:
            dsn = stack.enter_context(running(name))
        except MissingServerError as error:
            pytest.skip(str(error))
        yield dsn


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
def dsn(request: pytest.FixtureRequest, server: str) -> Iterator[str]:
    """The DSN of a fresh database, which is dropped afterwards. The ledger is in it, as after a first load, unless the
    test is marked ``without_ledger``."""
    bare = request.node.get_closest_marker("without_ledger")
    with fresh_database(server, "template1" if bare else with_ledger(server)) as dsn:
        yield dsn


@pytest.fixture
def database(dsn: str) -> Iterator[Database]:
    """What connects to ``dsn``."""
    database = Database(dsn)
    yield database
    database.close()


@contextlib.contextmanager
def fresh_database(server: str, template: str = "template1") -> Iterator[str]:
    """The DSN of a new database, which is dropped afterwards. To copy files takes half of WAL_LOG's CPU."""
    name = f"t_{uuid.uuid4().hex}"
    run_alone(server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield of_database(server, name)
    run_alone(server, f"DROP DATABASE {name} WITH (FORCE)")


def of_database(server: str, name: str) -> str:
    """The DSN of another database of the same server."""
    head, separator, tail = server.partition("?")
    return f"{head.rpartition('/')[0]}/{name}{separator}{tail}"


@contextlib.contextmanager
def encoded_database(server: str, encoding: str) -> Iterator[str]:
    """The DSN of a database of that encoding, which is dropped afterwards. Sessions are in UTF-8."""
    name = f"encoded_{uuid.uuid4().hex}"
    create = f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
    run_alone(server, f"{create} STRATEGY file_copy")
    yield psycopg2.extensions.make_dsn(of_database(server, name), client_encoding="UTF8")
    run_alone(server, f"DROP DATABASE {name} WITH (FORCE)")


@functools.cache
def with_ledger(server: str) -> str:
    """A database of that server in which there is nothing but the ledger, to copy: that takes half as long as a first
    load's migration."""
    from loader.ledger import ledger

    name = "with_ledger"
    run_alone(server, f"CREATE DATABASE {name}")
    connection = psycopg2.connect(of_database(server, name))
    ledger.migrate(connection)
    connection.close()
    return name


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``every_postgres``: one test for each server."""
    if metafunc.definition.get_closest_marker("every_postgres") and "server" in metafunc.fixturenames:
        metafunc.parametrize("server", SERVERS, indirect=True)
