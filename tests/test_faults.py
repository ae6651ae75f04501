"""The table of faults: its laws, its decisions, and that real servers' errors are what it takes them for."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from botocore.retries import standard
from psycopg2 import errorcodes
from psycopg2.extensions import make_dsn, parse_dsn
from support.clients import wait_for
from support.own_server import OwnServer, own_server
from support.postgres import query, run_alone

from loader.core.errors import DatabaseError, DatabaseUnavailableError, TableError
from loader.core.faults import (
    AWS,
    FAULTS,
    HTTP,
    LIBPQ,
    LONGEST_PAUSE,
    OPENSSL,
    POSTGRESQL,
    Fault,
    Nature,
    backoff,
    is_servers,
    of_aws,
    of_libpq,
    of_silence,
    of_sqlstate,
)
from loader.core.report import _REASON_OF_STATE
from loader.postgres.database import Database, translate
from loader.postgres.merging.constraints import REFUSALS

SQLSTATES = {value for value in vars(errorcodes).values() if isinstance(value, str) and re.fullmatch(r"\w{5}", value)}
CLASSES = {each[:2] for each in SQLSTATES}


def of_source(source: str) -> list[Fault]:
    return [each for each in FAULTS if each.source == source]


# --- its laws


def test_every_code_stands_there_once() -> None:
    """Within its source; more than once only with different texts."""
    assert max(Counter((each.source, each.code, each.text) for each in FAULTS).values()) == 1


def test_every_code_is_one() -> None:
    """SQLSTATEs of PostgreSQL's own list or classes of them, statuses of HTTP or their first digits."""
    for each in of_source(POSTGRESQL):
        assert each.code in SQLSTATES | CLASSES, each
    for each in of_source(LIBPQ):
        assert each.code in SQLSTATES | {""}, each
    for each in of_source(HTTP):
        assert re.fullmatch(r"[345](\d\d)?", each.code), each
    for each in of_source(AWS):
        assert re.fullmatch(r"[A-Z][A-Za-z0-9.]+", each.code), each


def test_every_fault_can_be_met() -> None:
    """No row stands behind another that takes all of its cases."""
    for each in FAULTS:
        if each.text:
            continue
        if each.source == POSTGRESQL:
            assert of_sqlstate(each.code.ljust(5, "0")) == each or each.code.ljust(5, "0") in _codes()
        elif each.source == AWS:
            assert of_aws(each.code, 0) == each
        elif each.source == HTTP:
            assert of_aws("", int(each.code.ljust(3, "9"))) == each


def _codes() -> set[str]:
    return {each.code for each in of_source(POSTGRESQL)}


def test_a_code_within_a_class_says_something_else_than_the_class() -> None:
    """Either another nature, or at least what it means."""
    classes = {each.code: each for each in of_source(POSTGRESQL) if len(each.code) == 2}
    for each in of_source(POSTGRESQL):
        if len(each.code) == 5:
            assert each.code[:2] in classes, each
            assert (each.nature, each.meaning) != (classes[each.code[:2]].nature, classes[each.code[:2]].meaning)


def test_every_meaning_is_for_people() -> None:
    """A clause that fits behind a colon."""
    for each in FAULTS:
        assert re.fullmatch(r"[A-Za-z].*[^.]", each.meaning), each
        assert len(each.meaning) < 90


def test_every_fault_has_its_source() -> None:
    """The document where its codes are explained."""
    assert {each.source for each in FAULTS} == {POSTGRESQL, LIBPQ, AWS, HTTP, OPENSSL}


def test_what_records_are_rejected_for_is_permanent() -> None:
    """The lists that are about records do not contradict the table."""
    assert not [each for each in REFUSALS if of_sqlstate(each + "000").transient]
    assert not [each for each in _REASON_OF_STATE if of_sqlstate(each).transient]


def test_no_record_is_blamed_for_a_transient_fault() -> None:
    """The text lane never takes for a value's what is the server's."""
    for each in of_source(POSTGRESQL):
        if each.transient and not each.text:
            assert is_servers(each.code.ljust(5, "0"))
    assert not any(map(is_servers, ["22P02", "42P01", "XX000", "0A000", "23514", ""]))


def test_what_botocore_retries_is_transient() -> None:
    """The loader goes on where botocore gave up, and never calls permanent what that would have tried again."""
    codes = (
        standard.TransientRetryableChecker._TRANSIENT_ERROR_CODES
        + standard.ThrottledRetryableChecker._THROTTLED_ERROR_CODES
    )
    assert not [each for each in codes if not of_aws(each, 400).soon]
    statuses = standard.TransientRetryableChecker._TRANSIENT_STATUS_CODES
    assert not [each for each in [*statuses, 429] if not of_aws("", each).soon]


# --- its decisions


@pytest.mark.parametrize(
    ("nature", "codes"),
    [
        (Nature.LOST, "08000 08001 08003 08004 08006 08007 08P01 25006 25P03 25P04 40003 53300"),
        (Nature.LOST, "57000 57P01 57P02 57P03 57P05 57P99"),
        (Nature.AGAIN, "40000 40001 40P01 53000 53200 55P03 58000 58030 72000 HV00N"),
        (Nature.LATER, "53100"),
        (Nature.REFUSED, "0A000 22001 22P02 23502 23505 23514 25001 25P02 28000 28P01 3D000 3F000 40002 44000"),
        (Nature.REFUSED, "53400 54000 54001 55000 55006 57014 57P04 58P01 58P02 58P03 F0000 HV000 P0001"),
        (Nature.REFUSED, "XX000 XX001 XX002 99999 2D000 38000"),
        (Nature.TABLE, "42501 42601 42703 42804 42P01 42P07"),
    ],
)
def test_what_a_sqlstate_means(nature: Nature, codes: str) -> None:
    """One that nobody has heard of is permanent: a loop would be worse."""
    assert {code: of_sqlstate(code).nature for code in codes.split()} == dict.fromkeys(codes.split(), nature)


def test_only_some_of_what_is_transient_is_worth_trying_soon() -> None:
    """A full disk is not, nor has an object that changed been read before."""
    assert (of_sqlstate("53100").transient, of_sqlstate("53100").soon) == (True, False)
    assert (of_aws("PreconditionFailed", 412).transient, of_aws("PreconditionFailed", 412).soon) == (True, False)
    assert all(each.transient for each in FAULTS if each.soon)


@pytest.mark.parametrize(
    ("code", "status", "nature"),
    [
        ("SlowDown", 503, Nature.AGAIN),
        ("InternalError", 500, Nature.AGAIN),
        ("ServiceUnavailable", 503, Nature.AGAIN),
        ("RequestTimeout", 400, Nature.AGAIN),
        ("RequestTimeTooSkewed", 403, Nature.AGAIN),
        ("ThrottlingException", 400, Nature.AGAIN),
        ("BandwidthLimitExceeded", 400, Nature.AGAIN),
        ("KMS.ThrottlingException", 400, Nature.AGAIN),
        ("OfTomorrow", 503, Nature.AGAIN),
        ("429", 429, Nature.AGAIN),
        ("500", 500, Nature.AGAIN),
        ("599", 599, Nature.AGAIN),
        ("TemporaryRedirect", 307, Nature.AGAIN),
        ("NoSuchBucket", 404, Nature.MISSING),
        ("NoSuchKey", 404, Nature.MISSING),
        ("404", 404, Nature.MISSING),
        ("403", 403, Nature.MISSING),
        ("AccessDenied", 403, Nature.MISSING),
        ("MethodNotAllowed", 405, Nature.MISSING),
        ("PreconditionFailed", 412, Nature.CHANGED),
        ("InvalidRange", 416, Nature.CHANGED),
        ("InvalidObjectState", 403, Nature.REFUSED),
        ("PermanentRedirect", 301, Nature.REFUSED),
        ("301", 301, Nature.REFUSED),
        ("KMS.DisabledException", 400, Nature.REFUSED),
        ("ExpiredToken", 400, Nature.REFUSED),
        ("InvalidAccessKeyId", 403, Nature.REFUSED),
        ("SignatureDoesNotMatch", 403, Nature.REFUSED),
        ("NotImplemented", 501, Nature.REFUSED),
        ("400", 400, Nature.REFUSED),
        ("OfTomorrow", 400, Nature.REFUSED),
        ("", 0, Nature.REFUSED),
    ],
)
def test_what_an_answer_of_s3_means(code: str, status: int, nature: Nature) -> None:
    """Its code goes before its status; a HEAD has the status alone."""
    assert of_aws(code, status).nature is nature


def test_a_service_that_does_not_answer_may_do_so_later() -> None:
    """But its certificate will not become a good one."""
    assert of_silence("Connection reset by peer").soon
    assert not of_silence("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed").transient


AT = 'connection to server at "h" (10.0.0.1), port 5432 failed: '


@pytest.mark.parametrize(
    ("text", "code", "transient"),
    [
        (AT + 'FATAL:  password authentication failed for user "u"', "28P01", False),
        (AT + 'FATAL:  PAM authentication failed for user "u"', "28P01", False),
        (AT + "fe_sendauth: no password supplied", "28P01", False),
        (AT + 'FATAL:  role "u" is not permitted to log in', "28000", False),
        (AT + 'FATAL:  no pg_hba.conf entry for host "1.2.3.4", user "u", database "d", no encryption', "28000", False),
        (AT + 'FATAL:  database "d" does not exist', "3D000", False),
        (AT + 'FATAL:  permission denied for database "d"\nDETAIL:  User does not …', "42501", False),
        (AT + 'FATAL:  database "d" is not currently accepting connections', "55000", False),
        (AT + "SSL error: certificate verify failed", "", False),
        (AT + 'server certificate for "x" does not match host name "h"', "", False),
        (AT + 'root certificate file "/r.pem" does not exist', "", False),
        (AT + "server does not support SSL, but SSL was required", "", False),
        (AT + "SSL error: tlsv1 alert protocol version", "", False),
        ('invalid sslmode value: "verifyfull"', "", False),
        ('invalid integer value "x" for connection option "connect_timeout"', "", False),
        ('invalid port number: "99999"', "", False),
        (AT + "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?", "", True),
        (AT + "timeout expired", "", True),
        (AT + "Connection timed out", "", True),
        (AT + "SSL SYSCALL error: EOF detected", "", True),
        (AT + "SSL error: unexpected eof while reading", "", True),
        (AT + "server closed the connection unexpectedly", "", True),
        ('could not translate host name "h" to address: Name or service not known', "", True),
        (AT + "FATAL:  the database system is starting up", "57P03", True),
        (AT + "FATAL:  the database system is shutting down", "57P03", True),
        (AT + "FATAL:  the database system is in recovery mode", "57P03", True),
        (AT + "FATAL:  the database system is not yet accepting connections", "57P03", True),
        (AT + "FATAL:  sorry, too many clients already", "53300", True),
        (AT + "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", "53300", True),
        (AT + 'FATAL:  too many connections for role "u"', "53300", True),
        (AT + "session is read-only", "25006", True),
        (AT + "FATAL:  canceling authentication due to timeout", "57014", True),
        (AT + "etwas ganz anderes", "", True),
    ],
)
def test_what_a_failed_connection_means(text: str, code: str, transient: bool) -> None:
    """By libpq's text, for it keeps no SQLSTATE; one that nobody has heard of may be another language's."""
    fault = of_libpq(text)
    assert (fault.code, fault.transient) == (code, transient)
    assert not transient or fault.nature is Nature.LOST


def test_of_several_addresses_the_last_word_counts() -> None:
    """libpq goes on to the next where one cannot be reached, and no further where it is refused."""
    refused = 'connection to server at "h" (::1), port 5432 failed: Connection refused\n'
    wrong = AT + 'FATAL:  password authentication failed for user "u"\n'
    assert not of_libpq(refused + wrong).transient
    assert of_libpq(wrong + refused).transient


# --- pauses


def test_pauses_grow_and_are_bounded() -> None:
    """Doubled each time, a random share of that, and never beyond the longest."""
    for attempt, most in [(0, 0.5), (1, 1), (3, 4), (6, LONGEST_PAUSE), (10_000, LONGEST_PAUSE)]:
        pauses = [backoff(attempt) for _ in range(300)]
        assert 0 <= min(pauses) < most / 5
        assert most * 4 / 5 < max(pauses) <= most
    assert max(backoff(2, first=0.001) for _ in range(100)) <= 0.004
    assert max(backoff(20, longest=0.1) for _ in range(100)) <= 0.1


# --- real errors


def refusal(parameters: str, **changed: Any) -> DatabaseError:
    with pytest.raises(DatabaseError) as caught, Database(make_dsn(parameters, **changed)).session():
        pass
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_real_server_that_lets_nobody_in_is_a_permanent_fault(dsn: str) -> None:
    """Each of the ways in which it is somebody's to mend, and none of them worth a retry."""
    query(dsn, "CREATE ROLE rotating LOGIN PASSWORD 'first'")
    query(dsn, "CREATE ROLE closed NOLOGIN")
    query(dsn, "CREATE ROLE ordinary LOGIN")
    name = parse_dsn(dsn)["dbname"]
    run_alone(dsn, f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
    try:
        found = {
            "wrong password": refusal(dsn, user="rotating", password="second"),
            "no password": refusal(dsn, user="rotating", passfile="/nowhere"),
            "no such role": refusal(dsn, user="nobody"),
            "no login": refusal(dsn, user="closed"),
            "no such database": refusal(dsn, dbname="nosuch"),
            "no right": refusal(dsn, user="ordinary"),
            "no such sslmode": refusal(dsn, sslmode="odd"),
            "no such port": refusal(dsn, port="99999"),
        }
    finally:
        for role in ("rotating", "closed", "ordinary"):
            query(dsn, f"DROP ROLE {role}")
    assert {name: (type(error), error.retryable, error.sqlstate) for name, error in found.items()} == {
        "wrong password": (DatabaseError, False, "28P01"),
        "no password": (DatabaseError, False, "28P01"),
        "no such role": (DatabaseError, False, "28000"),
        "no login": (DatabaseError, False, "28000"),
        "no such database": (DatabaseError, False, "3D000"),
        "no right": (DatabaseError, False, "42501"),
        "no such sslmode": (DatabaseError, False, None),
        "no such port": (DatabaseError, False, None),
    }


def test_a_real_database_that_is_closed_to_all_is_a_permanent_fault(dsn: str, server: str) -> None:
    """Until somebody opens it."""
    name = parse_dsn(dsn)["dbname"]
    run_alone(server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    error = refusal(dsn)
    assert (error.retryable, error.sqlstate) == (False, "55000")


@pytest.fixture(scope="module")
def own() -> Any:
    with own_server() as server:
        yield server


def test_a_real_server_with_other_rules_is_a_permanent_fault(own: OwnServer) -> None:
    """Of pg_hba.conf, and of TLS."""
    rules = own.data / "pg_hba.conf"
    before = rules.read_text()
    query(own.dsn, "CREATE ROLE unwelcome LOGIN")
    rules.write_text("host all unwelcome 0.0.0.0/0 reject\n" + before)
    run_alone(own.dsn, "SELECT pg_reload_conf()")
    error = refusal(own.dsn, user="unwelcome")
    assert (type(error), error.retryable, error.sqlstate) == (DatabaseError, False, "28000")
    error = refusal(own.dsn, sslmode="require")
    assert (type(error), error.retryable, error.sqlstate) == (DatabaseError, False, None)
    error = refusal(own.dsn, sslmode="verify-full", sslrootcert="/no/such.pem")
    assert (type(error), error.retryable, error.sqlstate) == (DatabaseError, False, None)
    rules.write_text(before)


def test_what_is_no_postgresql_is_a_permanent_fault() -> None:
    """Such as a web server at its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1000)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        web = threading.Thread(target=answer)
        web.start()
        error = refusal(f"host=127.0.0.1 port={listener.getsockname()[1]} user=u dbname=d")
        web.join()
    assert (type(error), error.retryable) == (DatabaseError, False)


def test_real_transient_faults_of_connecting(dsn: str) -> None:
    """Nobody there, no such name, no socket."""
    for where in ({"host": "127.0.0.1", "port": "1"}, {"host": "nosuch.invalid"}, {"host": "/nowhere"}):
        error = refusal(dsn, **where)
        assert (type(error), error.retryable) == (DatabaseUnavailableError, True), error


def provoked(dsn: str, *statements: str) -> DatabaseError:
    """What the last of some statements of one session comes to."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        *before, last = statements
        for statement in before:
            cursor.execute(statement)
        with pytest.raises(psycopg2.Error) as caught:
            cursor.execute(last)
    return translate(caught.value, "x")


SORT = "SELECT count(*) FROM (SELECT i FROM generate_series(1, 100000) AS i ORDER BY -i) AS s"
WIDE = f"CREATE TABLE x ({', '.join(f'c{i} int' for i in range(1700))})"


@pytest.mark.parametrize(
    ("sqlstate", "kind", "retryable", "statements"),
    [
        ("57014", DatabaseError, False, ["SET statement_timeout = 10", "SELECT pg_sleep(3600)"]),
        ("25006", DatabaseUnavailableError, True, ["SET transaction_read_only = on", "CREATE TABLE x (a int)"]),
        (None, DatabaseUnavailableError, True, ["SELECT pg_terminate_backend(pg_backend_pid())"]),  # text alone
        ("3F000", DatabaseError, False, ["CREATE TABLE nosuch.x (a int)"]),
        ("42P01", TableError, False, ["SELECT * FROM nosuch"]),
        ("42501", TableError, False, ["SET ROLE pg_monitor", "CREATE TABLE pg_catalog.x (a int)"]),
        ("54011", DatabaseError, False, [WIDE]),
        ("53400", DatabaseError, False, ["SET temp_file_limit = 64", "SET work_mem = 64", SORT]),
        ("58P01", DatabaseError, False, ["LOAD 'nosuch'"]),
        ("22012", DatabaseError, False, ["SELECT 1/0"]),
        (
            "55006",
            DatabaseError,
            False,
            [
                "CREATE TABLE x (a int PRIMARY KEY, b int REFERENCES x DEFERRABLE INITIALLY DEFERRED)",
                "INSERT INTO x VALUES (1, 1)",
                "ALTER TABLE x ADD c int",
            ],
        ),
    ],
)
def test_a_real_refusal_is_what_the_table_says(
    own: OwnServer, sqlstate: str | None, kind: type[DatabaseError], retryable: bool, statements: list[str]
) -> None:
    """The same statements on the same server come to the same, where it is called permanent."""
    for _ in range(1 if retryable else 2):
        error = provoked(own.dsn, *statements)
        assert (error.sqlstate, type(error), error.retryable) == (sqlstate, kind, retryable)


@pytest.mark.parametrize(
    ("setting", "transaction"),
    [("idle_in_transaction_session_timeout", True), ("idle_session_timeout", False), ("transaction_timeout", True)],
)
def test_a_real_session_that_was_ended_for_its_idleness_is_lost(
    own: OwnServer, setting: str, transaction: bool
) -> None:
    """Codes 25P03, 57P05 and 25P04; libpq may find the connection closed before it reads them."""
    with closing(psycopg2.connect(own.dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SET {setting} = 50")
        connection.commit()
        if transaction:
            cursor.execute("SELECT 1")
        alive = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
        wait_for(lambda: not query(own.dsn, alive, connection.info.backend_pid))
        with pytest.raises(psycopg2.Error) as caught:
            cursor.execute("SELECT 1")
    error = translate(caught.value, "x")
    assert isinstance(error, DatabaseUnavailableError)
    assert error.sqlstate in (None, "25P03", "57P05", "25P04")


def in_conflict(dsn: str, one: list[str], other: list[str], then: str, *, commits: bool = True) -> DatabaseError:
    """What a session comes to that did ``one``, and after that waits with ``then`` for a session that did ``other``,
    and ``commits`` when it is waited for."""
    with closing(psycopg2.connect(dsn)) as first, closing(psycopg2.connect(dsn)) as second:
        for connection, statements in ((first, one), (second, other)):
            for statement in statements:
                connection.cursor().execute(statement)

        def release() -> None:
            wait_for(lambda: query(dsn, "SELECT 1 FROM pg_locks WHERE NOT granted"))
            second.commit()

        releasing = threading.Thread(target=release)
        if commits:
            releasing.start()
        try:
            with pytest.raises(psycopg2.Error) as caught:
                first.cursor().execute(then)
        finally:
            if commits:
                releasing.join()
    return translate(caught.value, "x")


def test_real_conflicts_with_others_are_transient(own: OwnServer) -> None:
    """A serialization failure, a lock not to be had, a catalog that changed: the other one is gone soon."""
    query(own.dsn, "CREATE TABLE t (a int)")
    query(own.dsn, "INSERT INTO t VALUES (1)")
    query(own.dsn, "CREATE ROLE somebody")
    errors = [
        in_conflict(
            own.dsn,
            ["SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT * FROM t"],
            ["UPDATE t SET a = 2"],
            then="UPDATE t SET a = 3",
        ),
        in_conflict(own.dsn, ["SET LOCAL lock_timeout = 50"], ["LOCK TABLE t"], then="LOCK TABLE t", commits=False),
        in_conflict(own.dsn, [], ["GRANT SELECT ON t TO somebody"], then="GRANT INSERT ON t TO somebody"),
    ]
    assert [(error.sqlstate, error.retryable) for error in errors] == [
        ("40001", True),
        ("55P03", True),
        ("XX000", True),
    ]


def test_a_real_deadlock_is_transient(own: OwnServer) -> None:
    """One of the two gets on; the other may try again."""
    query(own.dsn, "CREATE TABLE one (a int)")
    query(own.dsn, "CREATE TABLE two (a int)")
    found: list[DatabaseError] = []
    both = threading.Barrier(2)

    def lock(*tables: str) -> None:
        with closing(psycopg2.connect(own.dsn)) as connection, connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {tables[0]}")
            both.wait()
            try:
                cursor.execute(f"LOCK TABLE {tables[1]}")
            except psycopg2.Error as error:
                found.append(translate(error, "x"))

    other = threading.Thread(target=lock, args=("two", "one"))
    other.start()
    lock("one", "two")
    other.join()
    assert [(error.sqlstate, error.retryable) for error in found] == [("40P01", True)]


def test_a_real_server_without_room_for_locks_is_transient(own: OwnServer) -> None:
    """For those who ask for more, and for those who come: whoever has them will be done some time."""
    with closing(psycopg2.connect(own.dsn)) as connection, connection.cursor() as cursor:
        with pytest.raises(psycopg2.Error) as caught:
            cursor.execute("SELECT count(pg_advisory_lock(i)) FROM generate_series(1, 10000000) AS i")
        error = translate(caught.value, "x")
        assert (error.sqlstate, error.retryable) == ("53200", True)
        error = refusal(own.dsn)
        assert (type(error), error.retryable, error.sqlstate) == (DatabaseUnavailableError, True, "53200")
    own.restart()


def test_a_real_server_that_is_starting_is_transient(own: OwnServer) -> None:
    """And so is one that is stopping; found out by trying all the time."""
    query(own.dsn, "CREATE TABLE big AS SELECT generate_series(1, 300000) AS i")
    query(own.dsn, "CHECKPOINT")
    query(own.dsn, "INSERT INTO big SELECT * FROM big")
    own.kill()
    starting = threading.Thread(target=own.start)
    told: dict[str | None, DatabaseError] = {}

    def ask() -> None:
        try:
            with Database(own.dsn).session():
                pass
        except DatabaseError as error:
            told[error.sqlstate] = error

    ask()  # while nothing of it runs
    starting.start()
    while starting.is_alive():
        ask()
    starting.join()
    assert told
    assert {type(error) for error in told.values()} == {DatabaseUnavailableError}
    assert set(told) <= {None, "57P03"}
