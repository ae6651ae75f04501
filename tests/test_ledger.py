"""The ledger's schema: made, brought up to date, and the same for every encoding of a database."""

from __future__ import annotations

import json
import signal
import threading
import uuid
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from support.clients import STUCK_COPY, client, wait_for
from support.postgres import query, run_alone

import loader
from loader.core.deadline import Deadline
from loader.ledger import ledger

pytestmark = pytest.mark.without_ledger

VERSION_1 = Path(__file__).parent / "data" / "ledger_v1.sql"
SPEC = '{"table": "t", "csv": {"header": false}, "columns": {"zebra": "int", "a": "text"}}'


def migrate(dsn: str) -> None:
    connection = psycopg2.connect(dsn)
    ledger.migrate(connection)
    connection.close()


def shape(dsn: str) -> list[tuple[Any, ...]]:
    """Columns, indexes and constraints of schema ``loader``."""
    return query(
        dsn,
        "SELECT table_name || '.' || column_name, data_type || coalesce(column_default, '') || is_nullable"
        " FROM information_schema.columns WHERE table_schema = 'loader'"
        " UNION SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'loader'"
        " UNION SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'loader'::regnamespace ORDER BY 1",
    )


@pytest.fixture
def version_1(dsn: str) -> str:
    """The DSN of a database with a ledger of version 1, and a load with four rejects in it."""
    query(dsn, VERSION_1.read_text("utf-8"))
    query(dsn, "INSERT INTO loader.schema_version (version) VALUES (1)")
    query(
        dsn,
        "INSERT INTO loader.loads (state, source, key, version, size, last_modified, target, mode, forced, spec,"
        " rows_read, rows_inserted, rows_rejected)"
        " VALUES ('loaded', '/t.csv', '/t.csv', 'sha256:1', 9, now(), 'public.t', 'append', false, %s, 10, 6, 4)",
        SPEC,
    )
    for number, column, reason, raw, raw_bytes in [
        (1, "a", "invalid_value", "é", None),
        (2, None, "unterminated_quote", '"', None),
        (3, "a", "invalid_value", "\\xff", b"\xff"),
        (4, "b", "value_too_long", "x" * (1 << 20), None),
    ]:
        query(
            dsn,
            "INSERT INTO loader.rejects VALUES (1, %s, 1, 0, %s, %s, 'm', %s, %s)",
            number, column, reason, raw, raw_bytes,
        )  # fmt: skip
    return dsn


@pytest.mark.every_postgres
def test_a_ledger_of_version_1_is_brought_up_to_date_with_its_data(version_1: str) -> None:
    """What can be known afterwards is filled in: lengths, counts, and the code that has a new name."""
    migrate(version_1)
    assert query(version_1, "SELECT record_number, reason, raw_length, sqlstate FROM loader.rejects ORDER BY 1") == [
        (1, "invalid_value", 2, None),
        (2, "unbalanced_quote", 1, None),
        (3, "invalid_value", 1, None),
        (4, "value_too_long", None, None),
    ]
    columns = "rows_read, rejects_by_reason, rejects_by_column, header, dialect, replay_of, spec"
    assert query(version_1, f"SELECT {columns} FROM loader.loads") == [
        (
            10,
            {"invalid_value": 2, "unbalanced_quote": 1, "value_too_long": 1},
            {"a": {"invalid_value": 2}, "b": {"value_too_long": 1}},
            None,
            None,
            None,
            json.loads(SPEC),
        )
    ]


def test_a_migrated_ledger_is_shaped_like_a_new_one(version_1: str, dsn: str) -> None:
    """And migrating again changes nothing."""
    migrate(version_1)
    migrated = shape(version_1)
    query(dsn, "DROP SCHEMA loader CASCADE")
    for _ in range(2):
        migrate(dsn)
        assert shape(dsn) == migrated
    assert query(dsn, "SELECT version FROM loader.schema_version ORDER BY 1") == [
        (number + 1,) for number in range(ledger.SCHEMA_VERSION)
    ]


def test_version_1_is_as_it_was_released(dsn: str) -> None:
    """A step of the migration is never changed, or old ledgers and new ones would differ."""
    query(dsn, VERSION_1.read_text("utf-8"))
    released = shape(dsn)
    query(dsn, "DROP SCHEMA loader CASCADE")
    query(dsn, (files("loader.ledger") / "schema" / "1.sql").read_text("utf-8"))
    assert shape(dsn) == released


def test_every_step_of_the_migration_is_there() -> None:
    """Numbered from 1, and in ASCII: a statement, comments included, has to fit the database's encoding."""
    steps = {each.name: each.read_bytes() for each in (files("loader.ledger") / "schema").iterdir()}
    assert sorted(steps) == [f"{number + 1}.sql" for number in range(ledger.SCHEMA_VERSION)]
    assert all(text.isascii() for text in steps.values())


def test_many_may_migrate_at_once(version_1: str) -> None:
    """One does it and the others wait for it."""
    failed: list[BaseException] = []

    def one() -> None:
        try:
            migrate(version_1)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert query(version_1, "SELECT version FROM loader.schema_version ORDER BY 1") == [
        (number + 1,) for number in range(ledger.SCHEMA_VERSION)
    ]


def test_reading_an_older_ledger_brings_it_up_to_date(version_1: str) -> None:
    """``loader status`` works before the first load of the new version."""
    connection = psycopg2.connect(version_1)
    (load,) = ledger.history(connection)
    assert load["rejects_by_reason"]["invalid_value"] == 2
    assert [each["raw"][:1] for each in ledger.rejects(connection, 1)] == ["é", '"', "\\", "x"]
    assert [(each.data[:1], each.whole) for each in ledger.raw_rejects(connection, 1)] == [
        (b"\xc3", True), (b'"', True), (b"\xff", True), (b"x", False)
    ]  # fmt: skip
    connection.close()


def test_a_process_of_version_1_may_go_on_writing(version_1: str) -> None:
    """What it does not know of has defaults."""
    migrate(version_1)
    query(version_1, "INSERT INTO loader.loads (state, source, key, size, last_modified, target, mode, forced, spec)"
                     " VALUES ('running', 'x', 'x', 1, now(), 'public.t', 'merge', false, '{}')")  # fmt: skip
    query(version_1, "INSERT INTO loader.rejects (load_id, record_number, line_number, byte_offset, reason, message,"
                     " raw) VALUES (2, 1, 1, 0, 'nul_byte', 'm', 'r')")  # fmt: skip
    assert query(version_1, "SELECT raw_length FROM loader.rejects WHERE load_id = 2") == [(None,)]


def test_a_version_takes_effect_once_whatever_the_loader_believes(dsn: str) -> None:
    """And a replay once for each load whose rejects it holds; one of which nothing was loaded does not count."""
    migrate(dsn)
    statement = (
        "INSERT INTO loader.loads (state, source, key, version, size, last_modified, target, mode, forced, spec,"
        " replay_of, rows_read, rows_rejected, rows_inserted)"
        " VALUES ('loaded', 'x', 'x', 'v', 1, now(), 't', 'append', %s, '{}', %s, 2, %s, %s)"
    )
    for forced, replay_of, rejected, refused in [
        (False, None, 0, False), (False, None, 0, True), (True, None, 0, False),
        (False, 1, 2, False), (False, 1, 1, False), (False, 1, 0, True), (False, 1, 2, False), (False, 2, 0, False),
    ]:  # fmt: skip
        if refused:
            with pytest.raises(psycopg2.errors.UniqueViolation):
                query(dsn, statement, forced, replay_of, rejected, 2 - rejected)
        else:
            query(dsn, statement, forced, replay_of, rejected, 2 - rejected)


def test_a_database_whose_encoding_lacks_characters_keeps_every_reject(server: str, tmp_path: Path) -> None:
    """Spelt as text, and the bytes themselves beside it."""
    name = f"t_{uuid.uuid4().hex}"
    run_alone(server, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    head, separator, tail = server.partition("?")
    dsn = f"{head.rpartition('/')[0]}/{name}{separator}{tail}"
    try:
        query(dsn, "CREATE TABLE t (a int, b text)")
        path = tmp_path / "t.csv"
        path.write_text("a,b,€\n1,é,\nx €,é,\n", "utf-8")
        spec = {"table": "t", "rejects": {"max_ratio": 1}, "columns": {"a": "int", "b": "text"}}
        assert loader.load(str(path), spec, dsn=dsn).rows_rejected == 1
        assert [(raw, bytes(data)) for raw, data in query(dsn, "SELECT raw, raw_bytes FROM loader.rejects")] == [
            ("x \\u20ac,é,", "x €,é,".encode())
        ]
        assert query(dsn, "SELECT header FROM loader.loads") == [(["a", "b", "€"],)]
    finally:
        run_alone(server, f"DROP DATABASE {name} WITH (FORCE)")


def test_the_turn_of_a_frozen_process_ends_with_its_time(dsn: str) -> None:
    """In the middle of a COPY the server would wait for it for ever; whoever wants the turn next ends it."""
    query(dsn, "CREATE TABLE t (a int)")
    taking = f'cursor.execute("SELECT pg_advisory_lock({ledger.TURN_KEY.replace("%s", chr(39) + "t" + chr(39))})")'
    connection = psycopg2.connect(dsn)

    def takes_turn(wait: float) -> bool:
        with suppress(loader.DatabaseUnavailableError), ledger.turn(connection, "t", wait=wait, deadline=Deadline()):
            return True
        return False

    with client(dsn, taking + STUCK_COPY, left=3600) as process:
        process.send_signal(signal.SIGSTOP)
        assert not takes_turn(0.5)
        process.kill()
        wait_for(lambda: takes_turn(0.5))
    with client(dsn, taking + STUCK_COPY, left=1) as process:
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: takes_turn(0.5))
    connection.close()


def test_a_role_that_was_given_the_schema_needs_no_more(dsn: str) -> None:
    """It may create nothing else in the database."""
    role = f"given_{uuid.uuid4().hex}"
    query(dsn, f"CREATE ROLE {role} LOGIN; CREATE SCHEMA loader AUTHORIZATION {role}")
    try:
        connection = psycopg2.connect(dsn)
        with connection.cursor() as cursor:
            cursor.execute(f"SET ROLE {role}")
        ledger.migrate(connection)
        connection.close()
        assert query(dsn, "SELECT tableowner FROM pg_tables WHERE tablename = 'loads'") == [(role,)]
    finally:
        query(dsn, f"DROP OWNED BY {role}; DROP ROLE {role}")
