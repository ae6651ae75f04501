"""The text lane: whatever COPY takes arrives as COPY would store it, whatever it refuses is told in its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import psycopg2
import pyarrow as pa
import pytest
from psycopg2 import sql
from support.postgres import query

import loader
import loader.convert.lanes.server_lane as lane_module
from loader.convert.lanes.server_lane import FEW, TextLane
from loader.convert.rows import Doubtful
from loader.core.errors import DatabaseError
from loader.core.pgtypes import column_type
from loader.postgres.database import Database
from loader.postgres.load_column import LoadColumn
from loader.postgres.statements import HEADER, TRAILER, execute

pytestmark = [pytest.mark.every_postgres, pytest.mark.without_kernel]


def columns_of(types: Sequence[str], zone: str = "UTC") -> list[LoadColumn]:
    return [LoadColumn(f"column {at}", column_type(name).judged, at, zone=zone) for at, name in enumerate(types)]


def asked(rows: Sequence[Sequence[str | None]], columns: Sequence[LoadColumn]) -> Doubtful:
    names = [column.name for column in columns]
    arrays = [pa.array(values, pa.string()) for values in zip(*rows, strict=True)]
    return Doubtful(pa.RecordBatch.from_arrays(arrays, names), np.arange(len(rows)), frozenset(names))


def through(dsn: str, types: Sequence[str], rows: Sequence[Sequence[str | None]]) -> tuple[list[Any], list[Any]]:
    """What arrives in a table of ``types``, as text, and the refusals as (row, column, SQLSTATE)."""
    columns = columns_of(types)
    database = Database(dsn)
    with TextLane(database, columns, "UTC") as lane:
        tuples, judged = lane.tuples(asked(rows, columns))
    database.close()
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TEMP TABLE t ({', '.join(f'c{at} {name}' for at, name in enumerate(types))})")
        copy_binary(cursor, tuples)
        cursor.execute(f"SELECT {', '.join(f'c{at}::text' for at in range(len(types)))} FROM t")
        arrived = cursor.fetchall()
    assert len(judged.kept) == len(arrived)
    assert len(judged.kept) + len(judged.refusals) == len(rows)
    return arrived, [(each.row, each.column, each.sqlstate) for each in judged.refusals]


def copy_binary(cursor: Any, tuples: bytes) -> None:
    import io

    cursor.copy_expert("COPY t FROM STDIN (FORMAT binary)", io.BytesIO(HEADER + tuples + TRAILER))


def test_spellings_that_only_postgresql_reads(dsn: str) -> None:
    """Dates in words, booleans as words, numbers with exponents, infinities, 24:00."""
    arrived, refusals = through(
        dsn,
        ["date", "boolean", "numeric(6,2)", "timestamp", "time"],
        [
            ["Jan 5 2024", "yes", "1e3", "infinity", "24:00:00"],
            ["0044-03-15 BC", "of", "1.005", "2024-01-05 23:59:60", "allballs"],
            [None, None, "NaN", "epoch", None],
        ],
    )
    assert refusals == []
    assert arrived == [
        ("2024-01-05", "true", "1000.00", "infinity", "24:00:00"),
        ("0044-03-15 BC", "false", "1.01", "2024-01-06 00:00:00", "00:00:00"),
        (None, None, "NaN", "1970-01-01 00:00:00", None),
    ]


def test_each_refused_record_is_told_and_the_others_arrive_in_order(dsn: str) -> None:
    """However many they are, and wherever they stand."""
    rows = [[str(number), "x" if number % 3 else "not a date"] for number in range(50)]
    arrived, refusals = through(dsn, ["int", "text"], [[number, None] for number, _ in rows])
    assert len(arrived) == 50
    rows = [[number, "2024-01-01" if text == "x" else text] for number, text in rows]
    arrived, refusals = through(dsn, ["int", "date"], rows)
    assert [each for each, _ in arrived] == [str(number) for number in range(50) if number % 3]
    assert sorted(refusals) == [(number, "column 1", "22007") for number in range(0, 50, 3)]


def test_the_first_bad_column_of_a_record_is_named(dsn: str) -> None:
    """As COPY reads from left to right."""
    _, refusals = through(
        dsn, ["int", "date", "varchar(3)"], [["x", "y", "long"], ["1", "y", "long"], ["1", None, "long"]]
    )
    assert refusals == [(0, "column 0", "22P02"), (1, "column 1", "22007"), (2, "column 2", "22001")]


@pytest.mark.parametrize("count", [1, FEW, FEW + 1, 500])
def test_every_character_arrives(dsn: str, count: int) -> None:
    """Tabs, newlines, backslashes and what COPY's text format makes of them; few records and many go different ways."""
    odd = ["\\", "\\N", "\t", "a\nb", "\r\n", "\\.", "", " ", "ü€😀", "\\t\t\\\\", "'\"", "\x01\x7f"]
    rows = [[odd[number % len(odd)], None] for number in range(count)]
    arrived, refusals = through(dsn, ["text", "text"], rows)
    assert refusals == []
    assert [list(each) for each in arrived] == rows


def test_modifiers_are_those_of_the_input_function(dsn: str) -> None:
    """A cast would cut off or pad in silence, and read 5 as seconds; COPY does not."""
    arrived, refusals = through(
        dsn,
        ["varchar(3)", "bit(3)", "interval hour", "char(3)"],
        [["abc ", "101", "5", "a"], ["abcd", "101", "5", "a"], ["abc", "1010", "5", "a"]],
    )
    assert arrived == [("abc", "101", "05:00:00", "a")]
    assert refusals == [(1, "column 0", "22001"), (2, "column 1", "22026")]


def test_a_column_with_a_zone_of_its_own_is_read_there(dsn: str) -> None:
    """Others are read in the session's; a bare offset is east of Greenwich."""
    columns = [
        LoadColumn("here", column_type("timestamp with time zone").judged, 0, zone="UTC"),
        LoadColumn("berlin", column_type("timestamp with time zone").judged, 1, zone="Europe/Berlin"),
        LoadColumn("east", column_type("timestamp with time zone").judged, 2, zone="+02:00"),
    ]
    database = Database(dsn)
    with TextLane(database, columns, "UTC") as lane:
        spelled, judged = lane.canonical(
            asked([["Jan 5 2024 12:00"] * 3, ["x", None, None], [None, "x", None], [None, None, None]], columns)
        )
    database.close()
    assert [list(row.values()) for row in spelled.to_pylist()] == [
        ["2024-01-05 12:00:00+00", "2024-01-05 11:00:00+00", "2024-01-05 10:00:00+00"],
        [None, None, None],
    ]
    assert judged.kept.tolist() == [0, 3]
    assert sorted((each.row, each.column) for each in judged.refusals) == [(1, "here"), (2, "berlin")]


def test_a_column_with_a_zone_stands_beside_a_domain_that_is_not_null(dsn: str) -> None:
    """Which is not read where the zone's times are."""
    query(dsn, "CREATE DOMAIN filled AS int NOT NULL")
    columns = [
        LoadColumn("number", column_type("filled").judged, 0),
        LoadColumn("at", column_type("timestamp with time zone").judged, 1, zone="Asia/Tokyo"),
    ]
    database = Database(dsn)
    with TextLane(database, columns, "UTC") as lane:
        rows = [["1", "Jan 5 2024 12:00"], [None, None], ["3", "x"], ["4", None]]
        spelled, judged = lane.canonical(asked(rows, columns))
    database.close()
    assert spelled.column("at").to_pylist() == ["2024-01-05 03:00:00+00", None]
    assert judged.kept.tolist() == [0, 3]
    assert sorted((each.row, each.column) for each in judged.refusals) == [(1, "number"), (2, "at")]


def test_a_session_that_was_asked_serves_others_unchanged(dsn: str) -> None:
    """No table and no setting stays behind, so two loads in one process can ask."""
    columns = columns_of(["date"])
    database = Database(dsn)
    for _ in range(2):
        with TextLane(database, columns, "UTC") as lane:
            assert len(lane.tuples(asked([["Jan 5 2024"]], columns))[1].kept) == 1
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_class WHERE relname = 'loader_lane'")
        assert cursor.fetchone() == (0,)
    database.close()


def test_a_session_is_given_back_in_its_own_zone(dsn: str) -> None:
    """Also where PostgreSQL stopped while it read a column in the column's zone."""
    query(
        dsn, "CREATE FUNCTION stop(timestamptz) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RAISE SQLSTATE ''58000''; END'"
    )
    query(dsn, "CREATE DOMAIN odd AS timestamptz CHECK (stop(VALUE))")
    odd = column_type("odd", base=column_type("timestamp with time zone"))
    columns = [LoadColumn("at", odd, 0, zone="Asia/Tokyo")]
    database = Database(dsn)
    with TextLane(database, columns, "UTC") as lane, pytest.raises(psycopg2.Error, match="58000"):
        lane.canonical(asked([["2024-01-05 12:00"]], columns))
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('timezone') = reset_val FROM pg_settings WHERE name = 'TimeZone'")
        assert cursor.fetchone() == (True,)
    database.close()


def test_however_many_records_a_filter_stops_at_they_are_left_out_by_few_statements(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = columns_of(["double precision"])
    rows = [["1e308" if number % 2 else str(number)] for number in range(400)]
    statements: list[object] = []
    monkeypatch.setattr(lane_module, "execute", lambda *each: (statements.append(each[1]), execute(*each))[1])
    database = Database(dsn)
    with TextLane(database, columns, "UTC", filter=sql.SQL("c0 * 10 > '100' OR c0 = 6")) as lane:
        _, judged = lane.tuples(asked(rows, columns), np.arange(400) + 1000)
    database.close()
    assert judged.kept.tolist() == [6, *range(12, 400, 2)]
    assert (judged.filtered, judged.refusals) == (400 - len(judged.kept), ())
    assert len(statements) < 20


def test_errors_name_the_users_columns(dsn: str) -> None:
    """Never those of the temporary table, nor the table itself."""
    columns = columns_of(["integer", "record"])
    database = Database(dsn)
    with TextLane(database, columns, "UTC") as lane, pytest.raises(DatabaseError) as raised:
        lane.tuples(asked([["1", "2"]], columns))
    assert str(raised.value).endswith('column "column 1" has pseudo-type record')
    database.close()


def test_a_type_without_a_binary_form_goes_as_text(dsn: str, tmp_path: Any) -> None:
    """aclitem has neither send nor receive function."""
    query(dsn, "CREATE TABLE t (a aclitem, b aclitem[])")
    file = tmp_path / "t.csv"
    file.write_text('a,b\n=r/pg_monitor,"{=r/pg_monitor}"\nnot one,\n')
    spec = {"table": "t", "rejects": {"max_ratio": 1.0}}
    report = loader.load(str(file), spec, dsn=dsn)
    assert (report.rows_inserted, report.rows_rejected) == (1, 1)
    assert query(dsn, "SELECT a::text, b::text FROM t") == [("=r/pg_monitor", "{=r/pg_monitor}")]
