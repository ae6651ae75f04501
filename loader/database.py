"""Where connections come from, and what their errors mean.

Connections are kept between loads, so a warm Lambda does not pay for a new one; one that died while it was
idle is replaced. Passwords are neither shown nor logged by anything here.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import psycopg2
import psycopg2.extensions
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.deadline import Deadline
from loader.errors import DatabaseError, DatabaseUnavailableError, TableError, UsageError

SETTINGS = {
    "application_name": "loader",
    "connect_timeout": 10,  # seconds
    # a peer that vanished is noticed within a minute and a half, not after the kernel's two hours
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 6,
}
"""Libpq's parameters (PostgreSQL's manual, 34.1.2) where the DSN says nothing else. DateStyle is not among them:
psycopg2 sees to ISO output, and the order of day and month in input is the role's and the database's to say."""

ENCODING = {"client_encoding": "UTF8"}
"""What no DSN may change: everything that is sent, is sent in UTF-8."""

IDLE_CHECK = 5.0
"""Seconds of idleness after which a kept connection is asked whether it is still alive, for one round trip: the other
side may have vanished without a word. Where it said goodbye, its socket tells at once and for nothing."""

_AUTHENTICATION_FAILED = re.compile(
    r'authentication failed|no password supplied|role ".*" (?:does not exist|is not permitted to log in)'
)
"""What libpq says where the SQLSTATE was 28P01 or 28000: of a connection that fails it keeps only the text."""

_TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")  # ever stricter


class Credentials(Protocol):
    """Says how to connect, as keyword parameters of libpq."""

    def parameters(self) -> Mapping[str, Any]: ...

    def forget(self) -> bool:
        """The last parameters were refused; True if new ones may be had."""
        ...


class DsnCredentials:
    """A fixed connection string: a URI or ``key=value`` pairs."""

    def __init__(self, dsn: str) -> None:
        parameters = _parsed(dsn)
        if parameters is None:
            raise UsageError(  # without the DSN or the cause: either could show a part of the password
                "the DSN cannot be understood: it must be postgresql://user:password@host:port/database, "
                "with the password's own @ / and % written as %40 %2F and %25"
            )
        self._parameters = parameters

    def parameters(self) -> Mapping[str, Any]:
        return self._parameters

    def forget(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"DsnCredentials({_shown(self._parameters)})"


class SecretCredentials:
    """A secret of AWS Secrets Manager, as RDS writes it: JSON with username, password, host, port and dbname.

    It is kept until PostgreSQL refuses it, as it does after a rotation; then it is fetched again, once.
    ``$PGHOST``, ``$PGPORT``, ``$PGDATABASE`` and ``$PGSSLROOTCERT`` fill in what it leaves open. Of its ``sslmode``
    and ``$PGSSLMODE`` the stricter holds.
    """

    def __init__(self, secret_id: str, *, client: Any = None) -> None:
        self._secret_id = secret_id
        self._client = client
        self._secret: Mapping[str, Any] | None = None

    def parameters(self) -> Mapping[str, Any]:
        if self._secret is None:
            self._secret = self._fetch()
        secret = self._secret
        named = {
            "user": secret.get("username"),
            "password": secret.get("password"),
            "host": secret.get("host") or os.environ.get("PGHOST"),
            "port": secret.get("port") or os.environ.get("PGPORT"),
            "dbname": secret.get("dbname") or os.environ.get("PGDATABASE"),
            "sslmode": _stricter(secret.get("sslmode"), os.environ.get("PGSSLMODE")),
            "sslrootcert": secret.get("sslrootcert") or os.environ.get("PGSSLROOTCERT"),
        }
        return {name: str(value) for name, value in named.items() if value}

    def forget(self) -> bool:
        self._secret = None
        return True

    def _fetch(self) -> Mapping[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        if self._client is None:
            import boto3
            from botocore.config import Config

            # a subnet without a way to the service is told within half a minute, not after botocore's five
            patience = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3})
            self._client = boto3.client("secretsmanager", config=patience)
        try:
            answer = self._client.get_secret_value(SecretId=self._secret_id)
        except (ClientError, BotoCoreError) as error:
            code = getattr(error, "response", {}).get("Error", {}).get("Code") or type(error).__name__
            raise DatabaseUnavailableError(f"secret {self._secret_id}: could not be read ({code})") from error
        try:
            secret = json.loads(answer["SecretString"])
            if not isinstance(secret, dict) or "username" not in secret:
                raise ValueError
        except (KeyError, ValueError):
            # without the cause: its message would show a part of the secret
            raise DatabaseError(f"secret {self._secret_id}: is not JSON with username and password") from None
        return secret

    def __repr__(self) -> str:
        return f"SecretCredentials({self._secret_id!r})"


class Database:
    """Connections to one database. Safe to share between threads."""

    def __init__(self, credentials: str | Credentials) -> None:
        self._credentials = DsnCredentials(credentials) if isinstance(credentials, str) else credentials
        self._idle: list[tuple[Connection, float]] = []
        self._lock = threading.Lock()

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """A connection for the body's own use; what it leaves open is rolled back, then it is kept for the next.

        Raises DatabaseUnavailableError or DatabaseError where none can be had.
        """
        connection = self._kept() or self._connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        try:
            connection.rollback()
        except psycopg2.Error:
            connection.close()
        else:
            with self._lock:
                self._idle.append((connection, time.monotonic()))

    def until(self, deadline: Deadline) -> Database:
        """A view of the same connections."""
        return self

    def close(self) -> None:
        """Close the connections that nobody is using."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def _kept(self) -> Connection | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection, since = self._idle.pop()
            if (_is_quiet(connection) and time.monotonic() - since < IDLE_CHECK) or _is_alive(connection):
                return connection
            connection.close()

    def _connect(self) -> Connection:
        try:
            return self._open()
        except psycopg2.OperationalError as error:
            if not (_AUTHENTICATION_FAILED.search(str(error)) and self._credentials.forget()):
                raise self._refused(error) from None
        try:
            return self._open()
        except psycopg2.OperationalError as error:
            raise self._refused(error) from None

    def _open(self) -> Connection:
        connection: Connection = psycopg2.connect(**{**SETTINGS, **self._credentials.parameters(), **ENCODING})
        return connection

    def _refused(self, error: psycopg2.OperationalError) -> DatabaseError:
        """Without libpq's text where that could hold the password; it never does, but a DSN may be odd."""
        password = str(self._credentials.parameters().get("password") or "")
        text = _sentence(re.sub(r"\s+Is the server running[^?]*\?", "", str(error)))
        shown = text.replace(password, "…") if password else text
        where = _shown(self._credentials.parameters())
        return DatabaseUnavailableError(f"no connection to PostgreSQL ({where}): {shown}", error.pgcode)

    def __repr__(self) -> str:
        return f"Database({self._credentials!r})"


def _is_quiet(connection: Connection) -> bool:
    """Whether nothing has come in: a server that ends an idle connection sends a message and closes it."""
    if connection.closed:
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return not selector.select(timeout=0)


def _is_alive(connection: Connection) -> bool:
    with suppress(psycopg2.Error):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.rollback()
        return True
    return False


def _shown(parameters: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={parameters[name]}" for name in ("host", "port", "dbname", "user") if parameters.get(name))


def redact(dsn: str) -> str:
    """The DSN without its password, for people to see; nothing of one that cannot be understood."""
    if _parsed(dsn) is None:
        return "…"
    without = re.sub(r"(?i)(password\s*=\s*)('(?:[^'\\]|\\.)*'|(?:[^\s&\\]|\\.)+)", r"\1…", dsn)
    return re.sub(r"(://[^:/@\s]*):[^@/\s]*@", r"\1:…@", without)


def _parsed(dsn: str) -> dict[str, str] | None:
    """The DSN's parameters as libpq reads them; None where it cannot, or takes a part of a password for something else.

    It ends a URI's password at the first @ or /, so the rest of it would turn up as host, port or database.
    """
    try:
        parameters: dict[str, str] = psycopg2.extensions.parse_dsn(dsn)
    except (psycopg2.ProgrammingError, ValueError):
        return None
    torn_at = "@" in parameters.get("host", "")[1:]  # the first character may be one: an abstract socket
    torn_at_slash = "@" in parameters.get("dbname", "") and "user" not in parameters
    return None if torn_at or torn_at_slash else parameters


def _stricter(*modes: str | None) -> str | None:
    """The strictest of the given; one that libpq does not know goes before all, so that it is refused."""
    known = dict(zip(_TLS_MODES, range(len(_TLS_MODES)), strict=True))
    return max((mode for mode in modes if mode), key=lambda mode: known.get(mode, len(known)), default=None)


_LOST = {"53300", "57P01", "57P02", "57P03"}
"""Too many connections, shutdown by the administrator or after a crash, still starting."""

_TRY_AGAIN = {"40001", "40P01", "55P03"}
"""Serialization failure, deadlock, lock not available: the connection is well, and the same again may succeed."""


def translate(error: psycopg2.Error, doing: str) -> DatabaseError:
    """psycopg2's error as this package's: ``doing`` names the object and what was done, then PostgreSQL's word.

    By its SQLSTATE (PostgreSQL's manual, appendix A): class 08 and a server that stops, DatabaseUnavailableError;
    class 42, TableError; any other, DatabaseError.
    """
    code = error.pgcode
    primary = error.diag.message_primary
    detail = error.diag.message_detail
    told = f"{primary}: {detail}" if primary and detail else primary or str(error) or "the connection was lost"
    message = f"{doing}: {_sentence(told)}"
    if code is None and isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        return DatabaseUnavailableError(message)
    if code is not None and (code.startswith("08") or code in _LOST):
        return DatabaseUnavailableError(message, code)
    if code is not None and code.startswith("42"):
        return TableError(message, code)
    translated = DatabaseError(message, code)
    translated.retryable = code in _TRY_AGAIN
    return translated


def _sentence(text: str) -> str:
    return " ".join(text.split())
