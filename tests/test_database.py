"""Connections: kept, replaced, refused in one sentence, and never a password shown."""

from __future__ import annotations

import json
import threading
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from psycopg2.extensions import parse_dsn
from support.postgres import query

from loader.database import IDLE_CHECK, Database, SecretCredentials, redact, translate
from loader.errors import DatabaseError, DatabaseUnavailableError, TableError, UsageError


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
    """After a while of idleness it is asked before it is used."""
    database = Database(dsn)
    with database.session() as connection:
        first = pid(connection)
    query(dsn, "SELECT pg_terminate_backend(%s, 5000)", first)
    database._idle = [(kept, since - IDLE_CHECK - 1) for kept, since in database._idle]
    with database.session() as connection:
        assert pid(connection) != first
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


def test_a_dsn_that_is_none() -> None:
    """Is wrong usage, and is not shown whole."""
    with pytest.raises(UsageError, match="cannot be understood") as caught:
        Database("mysql://u:secret@h/x")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://u:s%40cret@h:1/d?x=y", "postgresql://u:…@h:1/d?x=y"),
        ("postgresql://u@h/d?password=secret&x=y", "postgresql://u@h/d?password=…&x=y"),
        ("host=h password='se cret' user=u", "host=h password=… user=u"),
        ("postgresql://h/d", "postgresql://h/d"),
    ],
)
def test_a_dsn_is_shown_without_its_password(dsn: str, shown: str) -> None:
    """In all its forms."""
    assert redact(dsn) == shown


def test_nothing_shows_a_password(dsn: str) -> None:
    """Neither a database's nor its credentials' representation."""
    assert "secret" not in repr(Database("postgresql://u:secret@h/d"))


@pytest.mark.parametrize(
    ("statement", "kind", "retryable"),
    [
        ("SELECT * FROM nosuch", TableError, False),
        ("SELECT 1/0", DatabaseError, False),
        ("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$", DatabaseUnavailableError, True),
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


@pytest.fixture
def secrets(s3: Any) -> Any:
    import boto3

    client = boto3.client("secretsmanager")
    yield client
    client.close()


@pytest.fixture
def with_passwords(servers: Any) -> Any:
    """A server that asks for passwords over TCP: the container; skips where there is none."""
    return servers("container-18")


def test_a_rotated_secret_is_fetched_again_once(with_passwords: str, secrets: Any) -> None:
    """After PostgreSQL refused the one that was kept; and a wrong one is an error, not a loop."""
    where = parse_dsn(with_passwords)
    query(with_passwords, "DROP ROLE IF EXISTS rotating")
    query(with_passwords, "CREATE ROLE rotating LOGIN PASSWORD 'first'")

    def store(password: str) -> None:
        value = {**{k: where[k] for k in ("host", "port", "dbname")}, "username": "rotating", "password": password}
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
    with pytest.raises(DatabaseUnavailableError, match="authentication failed") as caught, database.session():
        pass
    assert "second" not in str(caught.value)


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
        pytest.raises(DatabaseUnavailableError, match=r"secret nosuch: could not be read .ResourceNotFoundException"),
        Database(SecretCredentials("nosuch")).session(),
    ):
        pass


def test_tls_is_asked_for_as_the_environment_says(secrets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """verify-full with its root certificate reaches libpq."""
    secrets.create_secret(
        Name="tls", SecretString=json.dumps({"username": "u", "password": "p", "host": "h", "port": 5432})
    )
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", "/etc/ssl/rds.pem")
    parameters = SecretCredentials("tls").parameters()
    assert (parameters["sslmode"], parameters["sslrootcert"]) == ("verify-full", "/etc/ssl/rds.pem")


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
    assert 1 <= len(database._idle) <= 4
    database.close()
    assert not database._idle
