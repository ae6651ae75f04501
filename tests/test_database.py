"""Connections: kept, replaced, bounded, ended with their clients, refused in one sentence; never a password shown."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from psycopg2.extensions import make_dsn, parse_dsn
from support.clients import STUCK_COPY, client, wait_for
from support.clock import Clock
from support.own_server import OwnServer, Way, own_server
from support.postgres import query, run_alone

from loader.core.deadline import Deadline
from loader.core.errors import DatabaseError, DatabaseUnavailableError, TableError, UsageError
from loader.postgres import database as module
from loader.postgres.database import CLIENT_CHECK, Database, SecretCredentials, bound, end_overdue, redact, translate


def pid(connection: psycopg2.extensions.connection) -> int:
    return connection.info.backend_pid


def test_a_connection_is_kept_for_the_next(dsn: str) -> None:
    """What the body left open is rolled back."""
    database = Database(dsn)
    with database.session() as connection:
        first = pid(connection)
        connection.cursor().execute("CREATE TABLE t (a int)")
    with database.session() as connection:
        assert pid(connection) == first
        assert query(dsn, "SELECT to_regclass('t')") == [(None,)]
    database.close()


def test_sessions_at_once_have_connections_of_their_own(dsn: str) -> None:
    """Each thread its own."""
    database = Database(dsn)
    with database.session() as one, database.session() as other:
        assert pid(one) != pid(other)
    database.close()


def test_a_body_that_failed_gives_no_connection_back(dsn: str) -> None:
    """Its state is unknown; the next gets a new one."""
    database = Database(dsn)

    def fail() -> int:
        with database.session() as connection:
            used.append(pid(connection))
            raise KeyError("x")

    used: list[int] = []
    with pytest.raises(KeyError):
        fail()
    with database.session() as connection:
        assert pid(connection) not in used
    database.close()


def test_a_connection_that_died_while_it_was_idle_is_replaced(dsn: str) -> None:
    """However short the while was."""
    database = Database(dsn)
    with database.session() as connection:
        first = pid(connection)
    query(dsn, "SELECT pg_terminate_backend(%s, 5000)", first)
    with database.session() as connection:
        assert pid(connection) != first
        connection.cursor().execute("SELECT 1")
    database.close()


def test_a_connection_that_had_news_while_it_was_idle_is_kept(dsn: str) -> None:
    """What has come in need not be a goodbye: here a notice of a notification."""
    database = Database(dsn)
    with database.session() as connection:
        first = pid(connection)
        connection.cursor().execute("LISTEN news")
        connection.commit()
    query(dsn, "NOTIFY news")
    with database.session() as connection:
        assert pid(connection) == first
    database.close()


def test_a_session_speaks_utf_8_whatever_the_dsn_says(dsn: str) -> None:
    """All that is sent is in UTF-8, so nothing else may be announced."""
    database = Database(f"{dsn}&client_encoding=latin1")
    with database.session() as connection:
        assert connection.encoding == "UTF8"
    database.close()


def test_the_order_of_day_and_month_is_the_roles(dsn: str) -> None:
    """COPY would read its dates so, and so the loader must; what comes out is in ISO's form all the same."""
    name = parse_dsn(dsn)["dbname"]
    query(dsn, f"ALTER DATABASE {name} SET DateStyle = 'German, DMY'")
    database = Database(dsn)
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('DateStyle'), '02/01/2024'::date::text")
        assert cursor.fetchone() == ("ISO, DMY", "2024-01-02")
    database.close()


@pytest.mark.parametrize(
    ("dsn", "kind"),
    [
        ("postgresql://u:secret@127.0.0.1:1/x", DatabaseUnavailableError),
        ("host=127.0.0.1 port=1 user=u password='sec ret'", DatabaseUnavailableError),
    ],
)
def test_a_refusal_is_one_sentence_without_the_password(dsn: str, kind: type[Exception]) -> None:
    """It names host, port, database and user."""
    with (
        pytest.raises(kind, match=r"no connection to PostgreSQL .host=127.0.0.1 port=1") as caught,
        Database(dsn).session(),
    ):
        pass
    assert "sec" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "?" not in str(caught.value)


def test_a_connection_that_failed_is_closed_at_once(dsn: str) -> None:
    """Not when somebody lets go of the error: the server would wait for a password until then."""
    query(dsn, "CREATE ROLE rotating LOGIN PASSWORD 'first'")
    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(DatabaseError), Database(make_dsn(dsn, user="rotating", passfile="/nowhere")).session():
        pass
    assert len(list(Path("/dev/fd").iterdir())) == before
    query(dsn, "DROP ROLE rotating")


@pytest.mark.parametrize(
    "dsn",
    [
        "mysql://u:hidden@h/x",
        "password=of hidden host=h",
        "postgresql://u:of@hidden@h/x",
        "postgresql://u:of/hidden@h/x",
        "postgresql://u:12/hidden@h/x",
        "postgresql://u:hidden@h/x?nosuch=1",
    ],
)
def test_a_dsn_that_is_none(dsn: str) -> None:
    """Is wrong usage; nothing of it is shown, since where the password ends is what cannot be told."""
    with pytest.raises(UsageError, match="the DSN cannot be understood") as caught:
        Database(dsn)
    assert "hidden" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert redact(dsn) == "…"


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://u:s%40cret@h:1/d?application_name=y", "postgresql://u:…@h:1/d?application_name=y"),
        ("postgresql://u@h/d?password=secret&port=1", "postgresql://u@h/d?password=…&port=1"),
        ("host=h password='se cret' user=u", "host=h password=… user=u"),
        (r"host=h password='se\' cret' user=u", "host=h password=… user=u"),
        (r"host=h password=se\ cret user=u", "host=h password=… user=u"),
        ("postgresql://u:a:b?c@h/d", "postgresql://u:…@h/d"),
        ("postgresql://u@/d?host=/tmp&sslpassword=secret", "postgresql://u@/d?host=/tmp&sslpassword=…"),
        ("postgresql://h/d", "postgresql://h/d"),
    ],
)
def test_a_dsn_is_shown_without_its_password(dsn: str, shown: str) -> None:
    """In all its forms."""
    assert redact(dsn) == shown


def test_nothing_shows_a_password() -> None:
    """Neither a database's nor its credentials' representation."""
    assert "secret" not in repr(Database("postgresql://u:secret@h/d"))


@pytest.mark.parametrize(
    ("statement", "kind", "retryable"),
    [
        ("SELECT * FROM nosuch", TableError, False),
        ("SELECT 1/0", DatabaseError, False),
        ("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$", DatabaseError, True),
        ("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$", DatabaseError, True),
        ("DO $$ BEGIN RAISE SQLSTATE '55P03'; END $$", DatabaseError, True),
        ("DO $$ BEGIN RAISE SQLSTATE '53300'; END $$", DatabaseUnavailableError, True),
        ("DO $$ BEGIN RAISE SQLSTATE '57P01'; END $$", DatabaseUnavailableError, True),
        ("DO $$ BEGIN RAISE SQLSTATE '08006'; END $$", DatabaseUnavailableError, True),
    ],
)
def test_errors_are_translated(dsn: str, statement: str, kind: type[DatabaseError], retryable: bool) -> None:
    """By their SQLSTATE, in one sentence that begins with what was being done."""
    with pytest.raises(psycopg2.Error) as caught:
        query(dsn, statement)
    error = translate(caught.value, "doing it")
    assert type(error) is kind
    assert (error.retryable, error.sqlstate) == (retryable, caught.value.pgcode)
    assert str(error).startswith("doing it: ")
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('relation "staging_7_1" does not exist', "the staging table does not exist"),
        ("permission denied for table staging_7_1_23", "permission denied for the staging table"),
        ('relation "loader.touched_7" already exists', "the staging table already exists"),
        ('relation "staging_2024_05" does not exist', 'relation "staging_2024_05" does not exist'),
        ('relation "nursing_staging_1_2" is full', 'relation "nursing_staging_1_2" is full'),
    ],
)
def test_the_loaders_own_tables_are_not_named(dsn: str, said: str, told: str) -> None:
    """Nobody who loads a file knows them. A name that the target has is the user's, whatever it looks like."""
    with pytest.raises(psycopg2.Error) as caught:
        query(dsn, f"DO $$ BEGIN RAISE EXCEPTION '{said}'; END $$")
    doing = "loading into public.staging_2024_05"
    assert str(translate(caught.value, doing)) == f"{doing}: {told}"


@pytest.fixture
def secrets(s3: Any) -> Any:
    import boto3

    client = boto3.client("secretsmanager")
    yield client
    client.close()


@pytest.fixture
def with_passwords(dsn: str) -> Iterator[str]:
    """A database whose role ``rotating`` needs a password."""
    query(dsn, "CREATE ROLE rotating LOGIN PASSWORD 'first'")
    yield dsn
    query(dsn, "DROP ROLE rotating")


def test_a_rotated_secret_is_fetched_again_once(with_passwords: str, secrets: Any) -> None:
    """After PostgreSQL refused the one that was kept; and a wrong one is an error, not a loop."""
    where = parse_dsn(with_passwords)

    def store(password: str) -> None:
        value = {**{k: where[k] for k in ("host", "dbname")}, "username": "rotating", "password": password}
        try:
            secrets.create_secret(Name="rotating", SecretString=json.dumps(value))
        except secrets.exceptions.ResourceExistsException:
            secrets.put_secret_value(SecretId="rotating", SecretString=json.dumps(value))

    store("first")
    database = Database(SecretCredentials("rotating"))
    with database.session() as connection:
        assert connection.info.user == "rotating"
    database.close()
    query(with_passwords, "ALTER ROLE rotating PASSWORD 'second'")
    store("second")
    with database.session() as connection:
        assert connection.info.user == "rotating"
    database.close()
    query(with_passwords, "ALTER ROLE rotating PASSWORD 'third'")
    with pytest.raises(DatabaseError, match="authentication failed") as caught, database.session():
        pass
    assert "second" not in str(caught.value)
    assert (caught.value.retryable, caught.value.sqlstate) == (False, "28P01")


@pytest.mark.parametrize("value", ["not json", '{"password": "hidden"}', "[]"])
def test_a_secret_of_another_form(secrets: Any, value: str) -> None:
    """Is an error that shows nothing of it."""
    secrets.create_secret(Name=f"odd-{abs(hash(value))}", SecretString=value)
    with (
        pytest.raises(DatabaseError, match="is not JSON with username and password") as caught,
        Database(SecretCredentials(f"odd-{abs(hash(value))}")).session(),
    ):
        pass
    assert "hidden" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_secret_that_is_not_there(secrets: Any) -> None:
    """Is named, with the service's code."""
    with (
        pytest.raises(DatabaseError, match=r"secret nosuch: could not be read .ResourceNotFoundException") as caught,
        Database(SecretCredentials("nosuch")).session(),
    ):
        pass
    assert not caught.value.retryable


def test_tls_is_asked_for_as_the_environment_says(secrets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """verify-full with its root certificate reaches libpq."""
    secrets.create_secret(
        Name="tls", SecretString=json.dumps({"username": "u", "password": "p", "host": "h", "port": 5432})
    )
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", "/etc/ssl/rds.pem")
    parameters = SecretCredentials("tls").parameters()
    assert (parameters["sslmode"], parameters["sslrootcert"]) == ("verify-full", "/etc/ssl/rds.pem")


@pytest.mark.parametrize(
    ("secret", "environment", "holds"),
    [
        ("require", "verify-full", "verify-full"),
        ("verify-full", "prefer", "verify-full"),
        ("verify-full", "verifyfull", "verifyfull"),
        (None, "require", "require"),
        (None, None, None),
    ],
)
def test_the_stricter_of_two_tls_modes_holds(
    secrets: Any, monkeypatch: pytest.MonkeyPatch, secret: str | None, environment: str | None, holds: str | None
) -> None:
    """Neither the secret nor the environment can weaken what the other asks for; a misspelt one is refused."""
    name = f"tls-{secret}-{environment}"
    secrets.create_secret(Name=name, SecretString=json.dumps({"username": "u", "password": "p", "sslmode": secret}))
    monkeypatch.delenv("PGSSLMODE", raising=False)
    if environment:
        monkeypatch.setenv("PGSSLMODE", environment)
    assert SecretCredentials(name).parameters().get("sslmode") == holds


def test_threads_share_a_database(dsn: str) -> None:
    """Many sessions at once, few connections afterwards."""
    database = Database(dsn)
    found: list[int] = []

    def work() -> None:
        for _ in range(20):
            with database.session() as connection, connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                found.extend(each for (each,) in cursor.fetchall())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 80
    assert 1 <= len(database._kept) <= 4
    database.close()
    assert not database._kept


# --- sessions that have a deadline


TIMEOUTS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout")


def shown(connection: Any, *names: str) -> list[float]:
    """Settings in their own units: milliseconds, seconds of keepalives, a count."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (list(names),))
        found = dict(cursor.fetchall())
    return [float(found[name]) for name in names]


def test_the_server_is_told_how_much_time_is_left(dsn: str) -> None:
    """For locks the time left, for all else a little more. A rollback does not undo it."""
    database = Database(dsn)
    with database.until(Deadline(65, margin=5, clock=Clock())).session() as connection:
        connection.rollback()
        assert shown(connection, *TIMEOUTS) == [62_000, 60_000, 70_000, 70_000]
    database.close()


def test_a_session_without_deadline_has_the_roles_own_limits(dsn: str) -> None:
    """Also on a connection that had others before, which is kept all the same."""
    run_alone(dsn, f"ALTER DATABASE {parse_dsn(dsn)['dbname']} SET lock_timeout = '7s'")
    database = Database(dsn)
    with database.until(Deadline(6)).session() as connection:
        first = pid(connection)
        assert shown(connection, "lock_timeout")[0] < 7_000
    with database.session() as connection:
        assert pid(connection) == first
        assert shown(connection, *TIMEOUTS) == [0, 7_000, 0, 0]
        assert connection.info.parameter_status("application_name") == "loader"
    database.close()


def test_a_roles_stricter_limit_stays(dsn: str) -> None:
    """The deadline bounds, it permits nothing."""
    run_alone(dsn, f"ALTER DATABASE {parse_dsn(dsn)['dbname']} SET statement_timeout = '7s'")
    database = Database(dsn)
    with database.until(Deadline(60)).session() as connection:
        assert shown(connection, "statement_timeout") == [7_000]
        bound(connection, Deadline(60))
        assert shown(connection, "statement_timeout") == [7_000]
    database.close()


def test_a_session_after_the_deadline_can_still_put_things_in_order(dsn: str) -> None:
    """No time left is not the setting 0, which would be no limit at all."""
    database = Database(dsn)
    with database.until(Deadline(0)).session() as connection:
        assert shown(connection, "statement_timeout", "lock_timeout") == [2_000, 2_000]
    database.close()


def test_time_is_counted_anew_for_a_transaction(dsn: str) -> None:
    """A statement that begins late has less; the session's own limits hold again after it."""
    database = Database(dsn)
    clock = Clock()
    deadline = Deadline(100, clock=clock)
    with database.until(deadline).session() as connection:
        clock.now = 75
        bound(connection, deadline)
        assert shown(connection, "lock_timeout") == [20_000]
        connection.commit()
        assert shown(connection, "lock_timeout") == [95_000]
        bound(connection, Deadline())
    database.close()


@pytest.mark.parametrize("statement", ["SELECT pg_sleep(3600)", "LOCK TABLE t"])
def test_the_server_gives_up_when_the_time_is_up(dsn: str, statement: str) -> None:
    """With a code by which the caller can tell; the connection is well."""
    query(dsn, "CREATE TABLE t (a int)")
    database = Database(dsn).until(Deadline(0))
    holder = psycopg2.connect(dsn)
    holder.cursor().execute("LOCK TABLE t")
    with database.session() as connection:
        with pytest.raises(psycopg2.Error) as caught, connection.cursor() as cursor:
            cursor.execute(statement)
        assert translate(caught.value, "loading").sqlstate in ("57014", "55P03")
    holder.close()
    assert len(database._kept) == 1
    database.close()


@pytest.mark.every_postgres
def test_the_server_looks_whether_its_client_is_there(dsn: str) -> None:
    """On every connection, with a deadline or without."""
    database = Database(dsn)
    with database.session() as connection:
        assert shown(connection, "client_connection_check_interval") == [CLIENT_CHECK * 1000]
    database.close()


def test_a_setting_that_the_server_cannot_have_is_done_without(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As client_connection_check_interval on some platforms; the others are set all the same."""
    monkeypatch.setattr(
        module, "WATCHES", {"temp_buffers": -5, "of_no_server": 1, "tcp_user_timeout": 1, "gin_fuzzy_search_limit": 9}
    )
    database = Database(dsn)
    with database.session() as connection:
        assert shown(connection, "gin_fuzzy_search_limit") == [9]
    database.close()


@pytest.mark.parametrize("code", ["25006", "08006", "57P01"])
def test_a_connection_that_told_of_a_lost_server_is_not_kept(dsn: str, code: str) -> None:
    """Even where the body went on regardless."""
    database = Database(dsn)
    with database.session() as connection:
        with suppress(psycopg2.Error), connection.cursor() as cursor:
            cursor.execute(f"DO $$ BEGIN RAISE SQLSTATE '{code}'; END $$")
        connection.rollback()
    assert not database._kept
    with database.session() as connection, suppress(psycopg2.Error), connection.cursor() as cursor:
        cursor.execute("SELECT 1/0")
    assert len(database._kept) == 1
    database.close()


# --- clients that die, freeze, or are cut off


def is_free(dsn: str, lock: int = 7) -> bool:
    return bool(query(dsn, "SELECT pg_try_advisory_lock(%s)", lock)[0][0])


@pytest.mark.every_postgres
def test_a_killed_clients_statement_ends_and_its_lock_is_free(dsn: str) -> None:
    """In the middle of a long statement, whose result nobody will ever want."""
    query(dsn, "CREATE TABLE t (a bigint)")
    body = """
        cursor.execute("SELECT pg_advisory_lock(7)")
        print("ready", flush=True)
        cursor.execute("INSERT INTO t SELECT sum(i) FROM generate_series(1, 1e6) AS a(i), generate_series(1, 1e6) AS b")
    """
    active = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'INSERT INTO t%%' AND state = 'active'"
    with client(dsn, body) as process:
        wait_for(lambda: query(dsn, active))
        assert not is_free(dsn)
        process.kill()
        wait_for(lambda: is_free(dsn))
        assert not query(dsn, active)


@pytest.mark.parametrize("end", ["", "connection.commit()"])
def test_a_frozen_clients_session_ends_when_its_time_is_up(dsn: str, end: str) -> None:
    """In an open transaction, or idle with a session's lock; a client that thaws finds its connection lost."""
    body = f"""
        cursor.execute("SELECT pg_advisory_lock(7)")
        {end}
        print("ready", flush=True)
        signal.sigwait({{signal.SIGUSR1}})
        try:
            cursor.execute("SELECT 1")
        except Exception as error:
            error = database.translate(error, "x")
            print(type(error).__name__, flush=True)
    """
    with client(dsn, body, left=1) as process:
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: is_free(dsn))
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGCONT)
        assert process.stdout is not None
        assert process.stdout.readline() == "DatabaseUnavailableError\n"


def test_a_client_that_is_frozen_in_the_middle_of_copy_is_ended_by_others(dsn: str) -> None:
    """When its time is up, and no other whose time is not; no timeout of the server's own does it."""
    query(dsn, "CREATE TABLE t (a int)")
    body = 'cursor.execute("SELECT pg_advisory_lock({})")' + STUCK_COPY

    def ended() -> int:
        connection = psycopg2.connect(dsn)
        count = end_overdue(connection)
        connection.close()
        return count

    with client(dsn, body.format(7), left=1) as overdue, client(dsn, body.format(8), left=3600) as other:
        for process in (overdue, other):
            process.send_signal(signal.SIGSTOP)
        wait_for(ended)
        wait_for(lambda: is_free(dsn, 7))
        assert not is_free(dsn, 8)
        assert ended() == 0


def test_sessions_without_deadline_are_nobodys_to_end(dsn: str) -> None:
    """Nor is one that has time left, or is kept and idle."""
    database = Database(dsn)
    with database.session() as one, database.until(Deadline(60)).session() as other:
        for each in (one, other):
            each.cursor().execute("SELECT 1")
        connection = psycopg2.connect(dsn)
        assert end_overdue(connection) == 0
        connection.close()
    database.close()


# --- servers that fall silent, stop, crash, and change their role


@pytest.fixture(scope="module")
def shared() -> Iterator[OwnServer]:
    """A server for tests that leave it as it was, and running."""
    with own_server() as server:
        yield server


@pytest.fixture
def own() -> Iterator[OwnServer]:
    """A server that a test may make something else of."""
    with own_server() as server:
        yield server


@pytest.fixture
def way(shared: OwnServer) -> Iterator[Way]:
    with Way("127.0.0.1", shared.port) as way:
        yield way


def through(way: Way) -> Database:
    return Database(f"postgresql://postgres@127.0.0.1:{way.port}/postgres")


def test_both_ends_of_a_tcp_connection_look_for_each_other(shared: OwnServer) -> None:
    """Within half a minute, not after the kernel's two hours."""
    database = Database(shared.dsn)
    names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")
    with database.session() as connection, socket.socket(fileno=connection.fileno()) as line:
        try:
            assert shown(connection, *names) == [10, 5, 4, 30_000]
            kept = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT]
            assert [line.getsockopt(socket.IPPROTO_TCP, each) for each in kept] == [10, 5, 4, 30_000]
        finally:
            line.detach()
    database.close()


@pytest.mark.parametrize("doing", ["execute", "commit", "copy"])
def test_a_server_that_falls_silent_is_given_up_when_the_time_is_up(way: Way, doing: str) -> None:
    """What is in between keeps the connection, so neither keepalives nor the server's timeouts help."""
    database = through(way).until(Deadline(1, margin=0))

    class Endless:
        def read(self, size: int) -> bytes:
            return b"1\n" * (size // 2)

    def do(connection: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("CREATE TEMPORARY TABLE t (a int)")
        way.fall_silent()
        if doing == "execute":
            cursor.execute("SELECT 1")
        elif doing == "commit":
            connection.commit()
        else:
            cursor.copy_expert("COPY t FROM STDIN", Endless())

    with pytest.raises(psycopg2.Error) as caught, database.session() as connection:
        do(connection)
    assert isinstance(translate(caught.value, "x"), DatabaseUnavailableError)
    assert not module._WATCHER._due  # nothing of it is looked at any more


def test_a_session_that_is_used_after_the_deadline_is_left_alone(way: Way) -> None:
    """As long as the server answers."""
    with through(way).until(Deadline(0, margin=0)).session() as connection:
        for _ in range(10):
            connection.cursor().execute("SELECT pg_sleep(0.5)")


def test_a_kept_connection_that_fell_silent_is_replaced(way: Way) -> None:
    """Whatever the deadline."""
    database = through(way)
    with database.session() as connection:
        first = pid(connection)
    way.fall_silent()
    way.speak()
    with database.session() as connection:
        assert pid(connection) != first
    database.close()


def test_a_connection_that_is_not_answered_is_given_up_when_the_time_is_up(dsn: str) -> None:
    """It does not get the hour that it may have otherwise."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = Database(f"host=127.0.0.1 port={listener.getsockname()[1]} user=u dbname=d connect_timeout=3600")
        with pytest.raises(DatabaseUnavailableError, match="timeout expired"), nobody.until(Deadline(1)).session():
            pass


def test_connections_of_a_server_that_was_restarted_are_replaced(shared: OwnServer) -> None:
    """Without anybody noticing."""
    database = Database(shared.dsn)
    with database.session() as one, database.session() as other:
        gone = {pid(one), pid(other)}
    shared.restart()
    with database.session() as one, database.session() as other:
        assert not gone & {pid(one), pid(other)}
    database.close()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_server_that_goes_away_is_a_transient_fault(shared: OwnServer, end: str) -> None:
    """In the middle of a statement, and for connections that come before it is up again."""
    database = Database(shared.dsn)

    def end_it() -> None:
        wait_for(lambda: query(shared.dsn, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
        getattr(shared, end)()

    ending = threading.Thread(target=end_it)
    ending.start()
    with pytest.raises(psycopg2.Error) as caught, database.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(3600)")
    ending.join()
    assert translate(caught.value, "loading").retryable
    with pytest.raises(DatabaseUnavailableError, match=r"no connection .*: nobody answers there: "), database.session():
        pass
    shared.start()
    with database.session() as connection:
        connection.cursor().execute("SELECT 1")
    database.close()


def test_a_failover_is_a_transient_fault(own: OwnServer) -> None:
    """The old primary, now a standby, refuses writes; kept connections are replaced, and the new primary takes them."""
    query(own.dsn, "CREATE TABLE t (a int)")
    own.become_standby()
    database = Database(own.dsn)

    def write() -> int:
        with database.session() as connection:
            number = pid(connection)
            connection.cursor().execute("INSERT INTO t VALUES (1)")
            connection.commit()
        return number

    with pytest.raises(psycopg2.Error) as caught:
        write()
    error = translate(caught.value, "loading")
    assert (type(error), error.sqlstate, error.retryable) == (DatabaseUnavailableError, "25006", True)
    with database.session() as connection:
        reader = pid(connection)
        assert query(own.dsn, "SELECT count(*) FROM t") == [(0,)]
    own.promote()
    assert write() != 0
    run_alone(own.dsn, "ALTER SYSTEM SET default_transaction_read_only = on")
    run_alone(own.dsn, "SELECT pg_reload_conf()")
    wait_for(lambda: query(own.dsn, "SHOW default_transaction_read_only") == [("on",)])
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        write()
    assert reader
    database.close()


def test_a_kept_connection_to_what_is_read_only_now_is_replaced(dsn: str) -> None:
    """A new one may find the way to the new primary. One that is new is used as it is: one may read there."""
    database = Database(dsn)
    with database.session() as connection:
        first = pid(connection)
        connection.cursor().execute("SET default_transaction_read_only = on")
        connection.commit()
    with database.session() as connection:
        assert pid(connection) != first
    database.close()


def test_a_server_without_a_connection_to_spare_is_a_transient_fault(own: OwnServer) -> None:
    """Said in one clear sentence; so is a role that has all it may have."""
    own.options |= {"max_connections": "5", "superuser_reserved_connections": "2"}
    own.restart()
    query(own.dsn, "CREATE ROLE ordinary LOGIN")
    query(own.dsn, "CREATE ROLE limited LOGIN CONNECTION LIMIT 0")

    def refused(user: str) -> DatabaseError:
        with pytest.raises(DatabaseError) as caught, Database(make_dsn(own.dsn, user=user)).session():
            pass
        return caught.value

    taken = [psycopg2.connect(own.dsn) for _ in range(3)]
    errors = [refused("limited"), refused("ordinary")]
    taken += [psycopg2.connect(own.dsn) for _ in range(2)]
    errors.append(refused("postgres"))
    for error in errors:
        assert (type(error), error.sqlstate, error.retryable) == (DatabaseUnavailableError, "53300", True)
        assert ": all connections that the server allows are taken: " in str(error)
    for connection in taken:
        connection.close()
