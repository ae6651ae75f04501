"""Hostile files, each with what must come out: tests/corpus/*.toml, described in tests/corpus/README.md."""

from __future__ import annotations

import functools
import re
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from support.copying import columns_of, copy_one_by_one, in_order, output_of, records_of, rows
from support.effort import LONG
from support.postgres import encoded_database, fresh_database

import loader
import loader.records.reading.reader
from loader.records.splitter import split

CORPUS = Path(__file__).parent / "corpus"
SERVERS = ("embedded-18", "system-15", *(("embedded-17", "embedded-16") if LONG else ()))
"""15 has no ``pg_input_is_valid``, so that the loader goes another way there."""

BLOCK_SIZES = (1, 2, 3, 7, 64)
"""A file is cut by one of them, so that each has its share of the files; by all of them in `make test-long`."""
MOST_BLOCKS = 3000  # of one file, where blocks of a byte would only make the test slow

SETTINGS = {"timezone": "UTC", "lc_monetary": "C"}
"""Else a server takes them from the machine that it was made on."""

Row = list[str | None]


@dataclass(frozen=True)
class Case:
    """One file and what must come out of it. Which keys a case has, and what they mean, is told in the README."""

    name: str
    about: str
    csv: str = ""
    codec: str = "utf-8"
    csv_hex: str | None = None
    csv_parts: list[tuple[str, int]] = field(default_factory=list)
    file: str = "case.csv"
    ddl: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    postgres: int = 15
    needs: str | None = None
    rows: list[Any] | None = None
    select: str | None = None
    order_by: str | None = None
    columns: dict[str, str] | None = None
    rejects: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    copy: bool = False

    @classmethod
    def read(cls, path: Path) -> Case:
        mapping = tomllib.loads(path.read_text("utf-8"))
        # TOML has no null: [] stands for it
        found = mapping.pop("rows", None)
        table = None if found is None else [[None if value == [] else value for value in row] for row in found]
        return cls(path.stem, rows=table, **mapping)

    @property
    def data(self) -> bytes:
        if self.csv_hex is not None:
            return bytes.fromhex(self.csv_hex)
        text = "".join(part * times for part, times in self.csv_parts) if self.csv_parts else self.csv
        return text.encode(self.codec, "surrogatepass")


CASES = [Case.read(path) for path in sorted(CORPUS.glob("*.toml"))]
COPIED = [case for case in CASES if case.copy]


@dataclass(frozen=True)
class Outcome:
    """What came out: the table or None where there is none, its columns, the rejects, the report, and the error."""

    rows: list[Row] | None
    columns: dict[str, str]
    rejects: list[dict[str, Any]]
    report: loader.LoadReport
    error: str | None


@pytest.fixture(scope="module")
def database(servers: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """The DSN of one database for all cases of a server; each case has a schema of its own."""
    with fresh_database(servers(request.param)) as dsn:
        yield dsn


@contextmanager
def schema(database: str, case: Case) -> Iterator[tuple[Connection, str, str]]:
    """A schema of its own with the case's tables in it: a session there, its DSN, and the schema's name."""
    name = f"c{uuid.uuid4().hex[:12]}"
    settings = {"search_path": f"{name},public", **SETTINGS, **case.settings}
    options = " ".join("-c " + f"{key}={value}".replace(" ", "\\ ") for key, value in settings.items())
    dsn = psycopg2.extensions.make_dsn(database, options=options, client_encoding="UTF8")
    connection = psycopg2.connect(dsn)
    try:
        if connection.server_version // 10000 < case.postgres:
            pytest.skip(f"is about PostgreSQL {case.postgres} and later")
        with connection.cursor() as cursor:
            if case.needs:
                _require(connection, case.needs)
            cursor.execute(f"CREATE SCHEMA {name}")
            cursor.execute(case.ddl or "SELECT")
        connection.commit()
        yield connection, dsn, name
    finally:
        connection.rollback()
        with connection.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
        connection.commit()
        connection.close()


PROBES = {"xml": "SELECT '<a/>'::xml", "icu": "CREATE COLLATION pg_temp.probe (provider = icu, locale = 'und')"}
"""What a server may have been built without, and the statement that tells."""


def _require(connection: Connection, what: str) -> None:
    """Have an extension, or one of `PROBES`; skips where the server does not have it."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(PROBES.get(what, f"CREATE EXTENSION IF NOT EXISTS {what} SCHEMA public"))
        if what in PROBES:
            connection.rollback()
        else:
            connection.commit()
    except psycopg2.Error as error:
        connection.rollback()
        pytest.skip(f"this server has no {what}: {error.diag.message_primary}")


def run(connection: Connection, dsn: str, name: str, case: Case, folder: Path) -> Outcome:
    """Load the case's file; every difference between the report, the ledger and the table is found here."""
    path = folder / case.file
    path.write_bytes(case.data)
    spec = {"mode": "append", "rejects": {"max_rows": 1000, "max_ratio": 1}, **case.spec, "table": f"{name}.t"}
    error = None
    try:
        report = loader.load(str(path).replace("[", "[[]"), spec, dsn=dsn)
    except loader.LoaderError as failure:
        if failure.report is None:
            raise
        report, error = failure.report, str(failure)
    connection.rollback()
    table = sql.Identifier(name, "t")
    exists = rows(connection, sql.SQL("SELECT to_regclass({})").format(sql.Literal(f"{name}.t"))) != [[None]]
    found: list[Row] | None = None
    if exists and case.select:
        found = rows(connection, sql.SQL("SELECT {} FROM {}").format(sql.SQL(case.select), table))
    elif exists:
        found = output_of(connection, table, order_by=case.order_by)
    return Outcome(found, columns_of(connection, table) if exists else {}, _rejects(connection, report), report, error)


def _rejects(connection: Connection, report: loader.LoadReport) -> list[dict[str, Any]]:
    if report.load_id is None:
        return []
    names = ("record", "line", "offset", "column", "reason", "message", "raw")
    found = rows(
        connection,
        "SELECT record_number, line_number, byte_offset, column_name, reason, message, raw FROM loader.rejects"
        f" WHERE load_id = {report.load_id} ORDER BY record_number",
    )
    return [dict(zip(names, row, strict=True)) for row in found]


def check(case: Case, outcome: Outcome) -> None:
    """Hold what came out against what must."""
    if case.error is not None:
        assert outcome.error is not None, f"loaded, but must not be: {outcome.rows}"
        assert re.search(re.escape(case.error), outcome.error, re.IGNORECASE), outcome.error
        assert "\n" not in outcome.error, "a message is one sentence"
        assert outcome.report.state == "failed"
    else:
        assert outcome.error is None
        report = outcome.report
        counts = ("inserted", "updated", "unchanged", "duplicate", "filtered", "rejected")
        assert report.rows_read == sum(getattr(report, f"rows_{name}") for name in counts)
        assert report.rows_rejected == len(outcome.rejects) == sum(report.rejects_by_reason.values())
        assert [_as_asked(got, case.rejects, place) for place, got in enumerate(outcome.rejects)] == case.rejects
    if case.rows is not None:
        assert outcome.rows is not None, "there is no table"
        if case.order_by:
            assert outcome.rows == case.rows
        else:
            assert in_order(outcome.rows) == in_order(case.rows)
    elif not case.ddl:
        assert outcome.rows is None
    if case.columns is not None:
        assert outcome.columns == case.columns
    for name, count in case.counts.items():
        assert getattr(outcome.report, f"rows_{name}") == count, name
    for note in case.notes:
        assert any(note in each for each in outcome.report.notes), outcome.report.notes


def _as_asked(got: dict[str, Any], wanted: list[dict[str, Any]], place: int) -> dict[str, Any]:
    """Of a reject those keys that the case states at that place; ``message`` is a piece of the message."""
    keys = wanted[place] if place < len(wanted) else {"record": 0, "line": 0, "reason": ""}
    shown = {key: got[key] for key in keys}
    if "message" in keys and keys["message"] in got["message"]:
        shown["message"] = keys["message"]
    return shown


def copied(connection: Connection, name: str, case: Case) -> tuple[list[Row], list[int]]:
    """The table that COPY makes of the file, one record after another, and the records that it refuses."""
    csv = case.spec.get("csv", {})
    quote, delimiter = csv.get("quote", '"'), csv.get("delimiter", ",")
    escape = csv.get("escape", quote)
    null = csv.get("null", "")
    given = {
        "DELIMITER": delimiter,
        "QUOTE": quote,
        "ESCAPE": escape,
        "NULL": null if isinstance(null, str) else null[0],
    }
    options = "".join(f", {key} {sql.Literal(value).as_string(connection)}" for key, value in given.items())
    data = case.data.removeprefix(b"\xef\xbb\xbf")
    records = [record for _, record in records_of(data, quote=ord(quote), escape=ord(escape))]
    header = (
        [each.strip(quote) for each in records.pop(0).decode().split(delimiter)] if csv.get("header", True) else None
    )
    refused = copy_one_by_one(connection, sql.Identifier(name, "t"), header, records, options)
    return output_of(connection, sql.Identifier(name, "t")), sorted(refused)


@pytest.mark.without_kernel
@pytest.mark.parametrize(
    ("database", "case"),
    [(name, case) for name in SERVERS for case in (CASES if LONG or name == SERVERS[0] else CASES[::3])],
    indirect=["database"],
    ids=lambda each: each.name if isinstance(each, Case) else each,
)
def test_a_file_of_the_corpus_comes_out_as_its_case_says(database: str, case: Case, tmp_path: Path) -> None:
    """The rows, the rejects with their places and reasons, the types; or the one sentence why nothing came of it."""
    with schema(database, case) as (connection, dsn, name):
        check(case, run(connection, dsn, name, case, tmp_path))


@pytest.mark.parametrize(
    ("database", "case"),
    [(name, case) for name in SERVERS for case in (COPIED if LONG or name == SERVERS[0] else COPIED[::3])],
    indirect=["database"],
    ids=lambda each: each.name if isinstance(each, Case) else each,
)
def test_a_case_says_what_copy_does(database: str, case: Case) -> None:
    """COPY, given the same records one after another, makes the same table and refuses the same records."""
    with schema(database, case) as (connection, _, name):
        table, refused = copied(connection, name, case)
        assert refused == [reject["record"] for reject in case.rejects]
        assert in_order(table) == in_order(case.rows or [])


@pytest.mark.without_kernel
@pytest.mark.parametrize("database", SERVERS[:1], indirect=True)
@pytest.mark.parametrize("case", CASES if LONG else CASES[::2], ids=lambda case: case.name)
def test_how_a_file_is_cut_into_blocks_changes_nothing(
    database: str, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With blocks of 1, 2, 3, 7, 64 bytes the same rows and the same rejects come out."""
    for size in BLOCK_SIZES if LONG else [BLOCK_SIZES[CASES.index(case) % len(BLOCK_SIZES)]]:
        if len(case.data) // size > MOST_BLOCKS:
            continue
        monkeypatch.setattr(loader.records.reading.reader, "split", functools.partial(split, block_size=size))
        with schema(database, case) as (connection, dsn, name):
            check(case, run(connection, dsn, name, case, tmp_path))


@pytest.fixture(scope="module", params=["LATIN1", *(("EUC_JP", "WIN1252", "SQL_ASCII") if LONG else ())])
def other_database(servers: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """The DSN of a database of another encoding than UTF-8."""
    with encoded_database(servers(SERVERS[0]), request.param) as dsn:
        yield dsn


BEYOND_ASCII = [case for case in CASES if not (case.data.isascii() or case.error is not None)]
PLAIN = [case for case in CASES if case not in BEYOND_ASCII]


@pytest.mark.without_kernel
@pytest.mark.parametrize(
    "case", [*BEYOND_ASCII, *PLAIN] if LONG else [*BEYOND_ASCII[::2], *PLAIN[::8]], ids=lambda case: case.name
)
def test_a_file_comes_out_the_same_in_a_database_of_another_encoding(
    other_database: str, case: Case, tmp_path: Path
) -> None:
    """But for what is COPY's word, and records with characters that the database lacks: they are unrepresentable."""
    with schema(other_database, case) as (connection, dsn, name):
        outcome = run(connection, dsn, name, case, tmp_path)
        lacking = {each["record"] for each in outcome.rejects if each["reason"] == "unrepresentable"}
        if case.copy:
            with connection.cursor() as cursor:
                cursor.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(name, "t")))
            table, refused = copied(connection, name, case)
            assert [each["record"] for each in outcome.rejects] == refused
            assert in_order(outcome.rows or []) == in_order(table)
        elif not lacking:
            check(case, outcome)
        else:
            assert outcome.error is None
            others = [each for each in outcome.rejects if each["record"] not in lacking]
            wanted = [each for each in case.rejects if each["record"] not in lacking]
            assert [_as_asked(got, wanted, place) for place, got in enumerate(others)] == wanted


def test_the_corpus_is_large_and_every_case_says_what_it_is() -> None:
    """At least 150 files; one sentence each."""
    assert len(CASES) >= 150
    for case in CASES:
        assert re.fullmatch(r"[A-Z\W\d].*\.", case.about, re.DOTALL), case.name
        assert case.error is not None or case.rows is not None, case.name
