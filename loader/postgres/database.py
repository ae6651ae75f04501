"""Where connections come from, how long the server works for them, and what their errors mean.

Connections are kept between loads, so a warm Lambda does not pay for a new one; one that died while it was
idle is replaced. Passwords are neither shown nor logged by anything here.

No session outlives its use. What ends one whose client is gone or does not come back:

    the client was killed                       its socket closes; a statement under way ends within CLIENT_CHECK
    the client's machine or the network died    TCP's keepalives, on both sides, within SILENCE
    the client is frozen, between statements    idle_in_transaction_session_timeout, idle_session_timeout
    the client is frozen, in the middle of COPY `end_overdue`, by whoever waits for it: the server itself would wait on
    the server does not answer                  the client closes the connection, UNANSWERED after its time was up
"""

from __future__ import annotations

import copy
import json
import math
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any, Protocol

import psycopg2
import psycopg2.extensions
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.core.deadline import NEVER, Deadline
from loader.core.display import brief
from loader.core.errors import BusyError, DatabaseError, DatabaseUnavailableError, TableError, UsageError
from loader.core.faults import Fault, Nature, of_aws, of_libpq, of_silence, of_sqlstate
from loader.core.process.watcher import Watcher
from loader.postgres.pooler import refused, shares_backends
from loader.postgres.statements import execute, rows

SILENCE = 30
"""Seconds after which a peer that the network cannot reach counts as gone: not the kernel's two hours, and long enough
for a network that is mended by itself. Either side finds out by probes where it waits, and where it has sent something
by the lack of an acknowledgement."""

CONNECT_TIMEOUT = 10
"""Seconds to wait for a connection, where the DSN says nothing else and there is as much time."""

SETTINGS = {
    "application_name": "loader",
    "connect_timeout": CONNECT_TIMEOUT,
    "keepalives_idle": SILENCE // 3,
    "keepalives_interval": SILENCE // 6,
    "keepalives_count": 4,
    "tcp_user_timeout": SILENCE * 1000,
}
"""Libpq's parameters (PostgreSQL's manual, 34.1.2) where the DSN says nothing else. DateStyle is not among them:
psycopg2 sees to ISO output, and the order of day and month in input is the role's and the database's to say."""

ENCODING = {"client_encoding": "UTF8"}
"""What no DSN may change: everything that is sent, is sent in UTF-8."""

CLIENT_CHECK = 3
"""Seconds between the server's looks, in the middle of a statement, at whether its client is still there (manual,
section 19.3.2, client_connection_check_interval). Each costs one poll()."""

WATCHES = {
    "client_connection_check_interval": CLIENT_CHECK * 1000,
    "tcp_keepalives_idle": SILENCE // 3,
    "tcp_keepalives_interval": SILENCE // 6,
    "tcp_keepalives_count": 4,
    "tcp_user_timeout": SILENCE * 1000,
}
"""What the server is told once for each connection, by which it finds out that its client is gone; in each setting's
own unit. A role's stricter setting stays. Over a Unix socket those of TCP have no effect."""

GRACE = 10.0
"""Seconds after the time was up in which the client's process must have ended. If its session is there still, the
process is frozen, or cut off."""

LIMITS = {
    "statement_timeout": 2.0,  # a COPY that is told by its client that nothing more comes should get to its end
    "lock_timeout": 0.0,
    "idle_in_transaction_session_timeout": GRACE,
    "idle_session_timeout": GRACE,
}
"""What bounds a session that has a deadline: the time left and so many seconds. A role's stricter setting stays."""

LEAST = 2.0
"""Seconds that a statement has even where the time is up: what is left to do then is to enter that in the ledger."""

_WATCHER = Watcher()

UNANSWERED = 3.0
"""Seconds after the time was up in which the server's answer must have come: more than it takes to give up a statement,
less than `deadline.MARGIN`, so that there is time left to tell of it. As long is a kept connection given to answer."""

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
            raise _unread(self._secret_id, error) from error
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


def _unread(secret_id: str, error: Exception) -> DatabaseError:
    """That a secret could not be read. No answer may be one later, but no credentials or no region stay none."""
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        fault = of_aws(code, error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    else:
        code = type(error).__name__
        fault = of_silence(str(error)) if isinstance(error, ConnectionError | HTTPClientError) else of_aws("", 0)
    kind = DatabaseUnavailableError if fault.transient else DatabaseError
    return kind(f"secret {secret_id}: could not be read ({code})")


class Database:
    """Connections to one database. Safe to share between threads."""

    def __init__(self, credentials: str | Credentials) -> None:
        self._credentials = DsnCredentials(credentials) if isinstance(credentials, str) else credentials
        self._kept: list[_Session] = []
        self._lock = threading.Lock()
        self._keeps_sessions = threading.Event()  # the pooler in between, as was found out
        self._deadline = NEVER

    @classmethod
    def at(cls, parameters: Mapping[str, str]) -> Database:
        """The database that `parameters` of another one tell of, as in another process."""
        return cls(psycopg2.extensions.make_dsn(**parameters))

    def parameters(self) -> Mapping[str, Any]:
        """How to connect, the password among it: keyword parameters of libpq."""
        return self._credentials.parameters()

    def until(self, deadline: Deadline) -> Database:
        """The same database and connections, with sessions that are bounded by ``deadline``, on either side.

        The server gives up a statement, or a wait for a lock, when the time is up, as counted when the session
        begins (`bound` counts anew); its error is of SQLSTATE 57014 or 55P03. It ends a session of which it hears
        nothing more. Where it is the server that is not heard of any more, the connection is closed from here.
        """
        bounded = copy.copy(self)
        bounded._deadline = deadline
        return bounded

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """A connection for the body's own use; what it leaves open is rolled back, then it is kept for the next.

        It is not kept where the body raised anything but BusyError, nor where a statement failed in a way that says
        that the server or the way to it has changed. Raises DatabaseUnavailableError or DatabaseError where none can be
        had, and SetupError where a pooler shares its connections between clients.
        """
        connection = self._taken() or self._connect()
        try:
            with connection.watched(self._deadline.left):
                yield connection
                with suppress(psycopg2.Error):
                    connection.rollback()
        except BusyError:  # it waited in vain, and nothing is wrong with it
            with suppress(psycopg2.Error):
                connection.rollback()
            self._keep(connection)
            raise
        except BaseException:
            connection.close()
            raise
        self._keep(connection)

    def _keep(self, connection: _Session) -> None:
        if connection.is_lost or connection.closed:
            connection.close()
            return
        with self._lock:
            self._kept.append(connection)

    def close(self) -> None:
        """Close the connections that nobody is using."""
        with self._lock:
            idle = list(self._kept)
            self._kept.clear()  # the list is shared with others that `until` made
        for connection in idle:
            connection.close()

    def _taken(self) -> _Session | None:
        """A kept connection that answers, and whose server still takes writes if any does; None where there is none.

        After a failover it may lead to what is a standby now, while a new one finds the way to the new primary.
        """
        while True:
            with self._lock:
                if not self._kept:
                    return None
                connection = self._kept.pop()
            with suppress(psycopg2.Error), connection.watched(0):
                if connection.bound(self._deadline):
                    return connection
            connection.close()

    def _connect(self) -> _Session:
        try:
            return self._open()
        except psycopg2.Error as error:
            if not (of_libpq(str(error)).code.startswith("28") and self._credentials.forget()):
                raise self._refused(error) from None
        try:
            return self._open()
        except psycopg2.Error as error:
            raise self._refused(error) from None

    def _open(self) -> _Session:
        connection = self._bare()
        try:
            with connection.watched(self._deadline.left):
                self._set_up(connection)
                if self._deadline.left < math.inf:
                    connection.bound(self._deadline)
        except BaseException:
            connection.close()
            raise
        return connection

    def _bare(self) -> _Session:
        """A connection that has not set anything yet."""
        parameters = {**SETTINGS, **self._credentials.parameters(), **ENCODING}
        patience = {"connect_timeout": _connect_timeout(parameters["connect_timeout"], self._deadline.left)}
        connection: _Session = psycopg2.connect(
            **{**parameters, **patience}, connection_factory=_Session, cursor_factory=_Cursor
        )
        return connection

    def _set_up(self, connection: _Session) -> None:
        """Have the session its settings. Where a pooler is in between, nothing is set before it is sure that it gives
        each client a server connection of its own; raises SetupError where it does not."""
        named = connection.info.backend_pid
        backend = connection.set_watches(named)
        if backend == named:
            return
        self._check_pooler(connection)
        if connection.set_watches(backend) != backend:
            raise refused(_shown(self._credentials.parameters()))

    def _check_pooler(self, connection: _Session) -> None:
        """Raise SetupError where the pooler shares its connections between clients. Once it is known that it does not,
        it is not asked again."""
        if self._keeps_sessions.is_set():
            return
        with closing(self._bare()) as other, other.watched(self._deadline.left):
            if shares_backends(connection.backend, other.backend):
                raise refused(_shown(self._credentials.parameters()))
        self._keeps_sessions.set()

    def _refused(self, error: psycopg2.Error) -> DatabaseError:
        """Without libpq's text where that could hold the password; it never does, but a DSN may be odd."""
        password = str(self._credentials.parameters().get("password") or "")
        text = _sentence(str(error))
        shown = text.replace(password, "…") if password else text
        where = _shown(self._credentials.parameters())
        fault = of_sqlstate(error.pgcode) if error.pgcode else of_libpq(str(error))
        code = error.pgcode or fault.code or None
        return _made(fault, f"no connection to PostgreSQL ({where}): {fault.meaning}: {shown}", code)

    def __repr__(self) -> str:
        return f"Database({self._credentials!r})"


def _connect_timeout(asked: Any, left: float) -> Any:
    """Seconds, as libpq takes them: none are for ever, and of less than 2 it makes 2."""
    try:
        seconds = int(asked)
    except ValueError:
        return asked  # libpq says what is wrong with it
    least = min(seconds if seconds > 0 else math.inf, left)
    return asked if least in (seconds, math.inf) else max(2, int(least))


class _Session(Connection):
    """A connection that knows whether it can be used again, and since when an answer is overdue."""

    # no __init__: its frame would be part of the traceback of a connection that fails, and keep that open as long
    is_lost = False
    own_limits: Mapping[str, int] = {}  # the role's own `LIMITS`, in milliseconds; 0: none
    _asked: float | None = None  # when the statement began that is under way
    _kept: dict[str, Any] | None = None
    _name = ""  # the application's

    @property
    def kept(self) -> dict[str, Any]:
        """What is known of this session, or made in it, and of use to the next load on it."""
        if self._kept is None:
            self._kept = {}
        return self._kept

    @property
    def planned(self) -> set[str]:
        """Names of the statements that it has prepared, see `statements.planned_rows`."""
        names: set[str] = self.kept.setdefault("planned", set())
        return names

    def commit(self) -> None:
        with self.asking():
            super().commit()

    def rollback(self) -> None:
        with self.asking():
            super().rollback()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """The server is to answer what the body does."""
        self._asked = time.monotonic()
        try:
            yield
        except psycopg2.Error as error:
            self.is_lost = self.is_lost or _fault(error).nature is Nature.LOST
            raise
        finally:
            self._asked = None

    @contextmanager
    def watched(self, seconds: float) -> Iterator[None]:
        """Once so many seconds are over, a statement that is `UNANSWERED` for as long closes the connection.

        Whoever waits for it gets the error of a connection that was lost. Neither keepalives nor the server's own
        timeouts help where something in between, such as a proxy, holds the connection and passes nothing on.
        """
        if seconds == math.inf:
            yield
            return
        over = time.monotonic() + seconds
        with socket.socket(fileno=os.dup(self.fileno())) as line:
            look = partial(self._look, line, over)
            with _WATCHER.looking(look, seconds + UNANSWERED):
                yield

    def _look(self, line: socket.socket, over: float) -> float | None:
        """Close the ``line`` where an answer is overdue; gives the seconds until it may be."""
        asked = self._asked
        if asked is None:
            return UNANSWERED / 4
        overdue = time.monotonic() - max(asked, over) - UNANSWERED
        if overdue < 0:
            return max(-overdue, 0.1)
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)
        return None

    def backend(self) -> int:
        """The id of the server's process that answers now. A pooler has ids of its own for its clients."""
        found = self._at_once("SELECT pg_backend_pid()")
        return int(found[0][0])

    def set_watches(self, backend: int) -> int:
        """Tell the server `WATCHES`, and remember what the role's own `LIMITS` are; gives the id of the process that
        answered. Does nothing where that is another than ``backend``."""
        found = self._at_once(_OWN, backend, backend, list(LIMITS))
        if (answering := int(found[0][0])) != backend:
            return answering
        self.own_limits = {name: value for _, name, value in found}
        self._name = self.info.parameter_status("application_name") or ""
        try:
            self._at_once(_TIGHTEN, list(WATCHES), list(WATCHES.values()))
        except _NOT_HERE:  # a platform cannot do some of it, and says so only when it is told to
            for name, value in WATCHES.items():
                with suppress(*_NOT_HERE):
                    self._at_once(_TIGHTEN, [name], [value])
        return answering

    def bound(self, deadline: Deadline) -> bool:
        """Set `LIMITS` by ``deadline``, or back to the role's own, in one round trip; whether it takes writes."""
        values = [_limit(self.own_limits.get(name, 0), deadline.left, more) for name, more in LIMITS.items()]
        limits = ", ".join(f"set_config('{name}', %s, false)" for name in LIMITS)
        ends = None if deadline.left == math.inf else deadline.left + GRACE
        found = self._at_once(
            f"SELECT current_setting('transaction_read_only'), {limits}, {_NAMED}", *values, self._name[:30], ends
        )
        return bool(found[0][0] == "off")

    def _at_once(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of a statement that no rollback undoes."""
        self.autocommit = True
        try:
            return rows(self, statement, parameters)
        finally:
            if not self.closed:
                self.autocommit = False


def kept_by(connection: Connection) -> dict[str, Any]:
    """What a session of a `Database` keeps for the loads after this one; of any other connection, nothing is kept."""
    return connection.kept if isinstance(connection, _Session) else {}


class _Cursor(psycopg2.extensions.cursor):
    """A cursor whose `_Session` knows how its statements fare."""

    def execute(self, *arguments: Any, **options: Any) -> None:
        with self._session().asking():
            super().execute(*arguments, **options)

    def copy_expert(self, *arguments: Any, **options: Any) -> None:
        with self._session().asking():
            super().copy_expert(*arguments, **options)

    def _session(self) -> _Session:
        assert isinstance(self.connection, _Session)
        return self.connection


_OWN = """
    SELECT set_config('default_transaction_isolation', 'read committed', false) WHERE pg_backend_pid() = %s;
    SELECT set_config('synchronous_commit', 'on', false)
        WHERE pg_backend_pid() = %s AND current_setting('synchronous_commit') = 'off';
    SELECT pg_backend_pid(), name, setting::bigint FROM pg_settings WHERE name = ANY(%s)"""
"""What the session has of its own, whatever the role has: a merge has to see what was committed while it waited, and
a load that is said to be through has to outlive a crash of the server. Then the role's limits."""

_TIGHTEN = """
    SELECT set_config(s.name, v.value::text, false)
    FROM unnest(%s::text[], %s::bigint[]) AS v (name, value) JOIN pg_settings AS s USING (name)
    WHERE s.setting::bigint NOT BETWEEN 1 AND v.value"""

_NAMED = """set_config('application_name', %s || coalesce(to_char(
    clock_timestamp() AT TIME ZONE 'UTC' + %s * interval '1 second', '" until "YYYY-MM-DD HH24:MI:SS"Z"'
    ), ''), false)"""
"""When a session must have ended, by the server's clock, stands in its application's name, for `end_overdue` to see."""

_NOT_HERE = (psycopg2.DataError, psycopg2.ProgrammingError, psycopg2.NotSupportedError)


def _limit(own: int, left: float, more: float) -> str | None:
    """Milliseconds, as a setting's text; None: the role's ``own``."""
    if left == math.inf:
        return None
    value = math.ceil(min(max(left + more, LEAST) * 1000, 2**31 - 1))  # what a setting holds: 24 days
    return None if 0 < own <= value else str(value)


def bound(connection: Connection, deadline: Deadline) -> None:
    """Count anew, for the transaction that is open, how long its statements may take and wait for locks.

    A session's limits are counted from when it began, and hold for each statement; one that begins late would go on
    beyond the deadline. They hold again when the transaction ends.
    """
    if deadline.left == math.inf:
        return
    own = connection.own_limits if isinstance(connection, _Session) else {}
    names = [name for name in LIMITS if name in ("statement_timeout", "lock_timeout")]
    for name in names:
        value = _limit(own.get(name, 0), deadline.left, LIMITS[name])
        if value is not None:
            execute(connection, "SELECT set_config(%s, %s, true)", (name, value))


def end_overdue(connection: Connection) -> int:
    """End the sessions of this role in this database whose processes should have ended long ago; gives their number.

    Their client is frozen, and the server does not mind: it waits for the rest of a COPY without limit, and no timeout
    of its own ends that, nor, then, the transaction and its locks (seen with PostgreSQL 18). When they must have ended
    they said themselves, and by the server's clock. What such a session had not committed is undone, and a client
    that thaws finds its connection lost. Leaves the transaction open.
    """
    return len(rows(connection, _END_OVERDUE))


_END_OVERDUE = r"""
    SELECT pg_terminate_backend(pid)
    FROM (
        SELECT pid, substring(application_name FROM ' until (\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ)$') AS until
        FROM pg_stat_activity
        WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid() AND state <> 'idle'
    ) AS session
    WHERE until IS NOT NULL AND until::timestamptz < clock_timestamp()"""


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


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """psycopg2's errors as this package's, see `translate`."""
    try:
        yield
    except psycopg2.Error as error:
        raise translate(error, doing) from error


def translate(error: psycopg2.Error, doing: str, *, names: Mapping[str, str] | None = None) -> DatabaseError:
    """psycopg2's error as this package's: ``doing`` names the object and what was done, then PostgreSQL's word.

    Long values in it are cut. PostgreSQL's word is about the user's tables and columns: the loader's own tables are
    "the staging table" in it, and the loader's own columns are the user's, by ``names``.

    By `loader.core.faults`: DatabaseUnavailableError where the session is lost, TableError where the statement does not
    fit the tables, DatabaseError for all else, which may be retryable, too.
    """
    primary = error.diag.message_primary
    detail = error.diag.message_detail
    fault = _fault(error)
    told = f"{primary}: {detail}" if primary and detail else primary or str(error)
    if not primary and fault.nature is Nature.LOST:
        told = f"the connection was lost ({told.strip() or 'without a word'})"  # "invalid socket" alone says little
    return _made(fault, f"{doing}: {brief(without_internals(_sentence(told), doing, names or {}))}", error.pgcode)


def without_internals(text: str, doing: str = "", names: Mapping[str, str] | None = None) -> str:
    """A sentence of PostgreSQL's without the names of the loader's own tables and columns.

    A name that stands in ``doing`` is the user's, whatever it looks like. ``names``: the user's columns by their
    internal names.
    """

    def spoken(found: re.Match[str]) -> str:
        return found[0] if found["name"] in doing else "the staging table"

    for internal, name in (names or {}).items():
        text = text.replace(f'column "{internal}"', f'column "{name}"')  # elsewhere it may be a value
    return _INTERNAL.sub(spoken, text)


_INTERNAL = re.compile(
    r"""(?:(?:relation|table)[ ])?(?<!\w)"?(?:(?:loader|pg_temp(?:_\d+)?|\w+(?=\.loader_staging_))\.)?"""
    r"""(?P<name>staging_\d+_\d+(?:_\d+)?|loader_staging_\d+_\d+|touched_\d+|loader_lane)(?!\w)"?"""
)


def _fault(error: psycopg2.Error) -> Fault:
    """Without a SQLSTATE it is libpq that speaks: of a connection that broke. Or psycopg2, of a call that was wrong."""
    if error.pgcode is not None:
        return of_sqlstate(error.pgcode, str(error))
    broken = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
    if broken or type(error) is psycopg2.DatabaseError:
        return of_sqlstate("08006")
    return of_sqlstate("")


def _made(fault: Fault, message: str, code: str | None) -> DatabaseError:
    if fault.nature is Nature.LOST:
        return DatabaseUnavailableError(message, code)
    if fault.nature is Nature.TABLE:
        return TableError(message, code)
    error = DatabaseError(message, code)
    error.retryable = fault.transient
    return error


def _sentence(text: str) -> str:
    """In one line, without libpq's guesses at the reason."""
    return " ".join(_GUESSES.sub("", text).split())


_GUESSES = re.compile(
    r"\s+Is the server running[^?]*\?|\s+This probably means the server terminated abnormally[^.]*\.?"
)
