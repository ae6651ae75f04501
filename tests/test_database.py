"""Connections: kept, replaced, refused in one sentence, and never a password shown."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from psycopg2.extensions import parse_dsn
from support.postgres import query

from loader.database import Database, SecretCredentials, redact, translate
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
