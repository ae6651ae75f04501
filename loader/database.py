"""Where connections come from, and what their errors mean.

Connections are kept between loads, so a warm Lambda does not pay for a new one; one that died while it was
idle is replaced. Passwords are neither shown nor logged by anything here.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import psycopg2
import psycopg2.extensions
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.errors import DatabaseError, DatabaseUnavailableError, LoaderError, TableError, UsageError

SETTINGS = {
    "application_name": "loader",
    "connect_timeout": 10,  # seconds
    "client_encoding": "UTF8",
    "options": "-c DateStyle=ISO",
    # a peer that vanished is noticed within a minute and a half, not after the kernel's two hours
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 6,
}

IDLE_CHECK = 5.0
"""Seconds of idleness after which a kept connection is asked whether it is still alive: a frozen Lambda may come
back after minutes, and finding out costs one round trip."""

_AUTHENTICATION_FAILED = re.compile(r"authentication failed|no password supplied|28P01|28000")


class Credentials(Protocol):
    """Says how to connect, as keyword parameters of libpq."""

    def parameters(self) -> Mapping[str, Any]: ...

    def forget(self) -> bool:
        """The last parameters were refused; True if new ones may be had."""
        ...


class DsnCredentials:
    """A fixed connection string: a URI or ``key=value`` pairs."""

    def __init__(self, dsn: str) -> None:
        try:
            self._parameters = psycopg2.extensions.parse_dsn(dsn)
        except psycopg2.ProgrammingError as error:
            raise UsageError(f"the DSN {redact(dsn)!r} cannot be understood: it is no PostgreSQL URI") from error

    def parameters(self) -> Mapping[str, Any]:
        return self._parameters

    def forget(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"DsnCredentials({_shown(self._parameters)})"


class SecretCredentials:
    """A secret of AWS Secrets Manager, as RDS writes it: JSON with username, password, host, port and dbname.

    It is kept until PostgreSQL refuses it, as it does after a rotation; then it is fetched again, once.
    ``$PGSSLMODE``, ``$PGSSLROOTCERT``, ``$PGHOST``, ``$PGPORT`` and ``$PGDATABASE`` fill in what it leaves open.
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
            "sslmode": secret.get("sslmode") or os.environ.get("PGSSLMODE"),
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

            self._client = boto3.client("secretsmanager")
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
            if time.monotonic() - since < IDLE_CHECK or _is_alive(connection):
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
        connection: Connection = psycopg2.connect(**{**SETTINGS, **self._credentials.parameters()})
        return connection

    def _refused(self, error: psycopg2.OperationalError) -> DatabaseError:
        """Without libpq's text where that could hold the password; it never does, but a DSN may be odd."""
        password = str(self._credentials.parameters().get("password") or "")
        text = _sentence(str(error))
        shown = text.replace(password, "…") if password else text
        where = _shown(self._credentials.parameters())
        return DatabaseUnavailableError(f"no connection to PostgreSQL ({where}): {shown}", error.pgcode)

    def __repr__(self) -> str:
        return f"Database({self._credentials!r})"


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
    """The DSN without its password, for people to see."""
    without = re.sub(r"(?i)(password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)", r"\1…", dsn)
    return re.sub(r"(://[^:/@\s]*):[^@/\s]*@", r"\1:…@", without)


_RETRYABLE = {"40001", "40P01", "55P03", "53300", "57P01", "57P02", "57P03"}
"""Serialization failure, deadlock, lock not available, too many connections, shutdowns, cannot connect now."""


def translate(error: psycopg2.Error, doing: str) -> LoaderError:
    """psycopg2's error as this package's: ``doing`` names the object and what was done, then PostgreSQL's word."""
    code = error.pgcode
    primary = error.diag.message_primary
    detail = error.diag.message_detail
    told = f"{primary}: {detail}" if primary and detail else primary or str(error) or "the connection was lost"
    message = f"{doing}: {_sentence(told)}"
    if code is None and isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        return DatabaseUnavailableError(message)
    if code is not None and (code.startswith("08") or code in _RETRYABLE):
        return DatabaseUnavailableError(message, code)
    if code is not None and code.startswith("42"):
        return TableError(message, code)
    return DatabaseError(message, code)


def _sentence(text: str) -> str:
    return " ".join(text.split())
