"""The whole flow, on real files and a real PostgreSQL."""

from __future__ import annotations

import csv
import io
import random
import threading
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.postgres import query

import loader
from loader.engine.counters import Progress
from loader.pipeline import load_one
from loader.postgres.database import Database
from loader.records.splitter import split

TRIPS = """CREATE TABLE trips (trip_id bigint PRIMARY KEY, city text, fare numeric(10,2), pickup timestamptz)"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trips.csv"


def load(path: Path, dsn: str, **spec: Any) -> loader.LoadReport:
    return loader.load(str(path), {"table": "trips", **spec}, dsn=dsn)


def counts(report: loader.LoadReport) -> dict[str, int]:
    """The counts that are not 0."""
    named = {name: value for name, value in report.to_dict().items() if name.startswith("rows_")}
    assert named["rows_read"] == sum(value for name, value in named.items() if name != "rows_read")
    return {name.removeprefix("rows_"): value for name, value in named.items() if value}


def leftovers(dsn: str) -> list[tuple[Any, ...]]:
    """Staging tables, and loads that are still running."""
    return query(dsn, "SELECT relname FROM pg_class WHERE relname LIKE 'staging%'") + query(
        dsn, "SELECT load_id FROM loader.loads WHERE state = 'running'"
    )


@pytest.mark.every_postgres
def test_append_into_a_table_that_is_there(dsn: str, file: Path) -> None:
    """Columns are matched by name, in any order; what the file lacks gets its default."""
    query(dsn, "CREATE TABLE trips (trip_id bigint, city text, seen boolean DEFAULT true, fare numeric(10,2))")
    file.write_text('fare,trip_id,city\n1.5,1,Köln\n,2,"a ""b"""\n')
    report = load(file, dsn)
    assert report.state == "loaded"
    assert counts(report) == {"read": 2, "inserted": 2}
    assert query(dsn, "SELECT trip_id, city, seen, fare::text FROM trips ORDER BY 1") == [
        (1, "Köln", True, "1.50"),
        (2, 'a "b"', True, None),
    ]
    assert leftovers(dsn) == []


@pytest.mark.every_postgres
def test_a_table_that_is_absent_is_created_from_what_the_file_shows(dsn: str, file: Path) -> None:
    """Nothing of the text is lost: leading zeros and decimals stay as they are."""
    file.write_text("id,zip,price,day,ok,at\n1,00123,1.50,2024-02-29,true,2024-01-05 10:20:30\n2,9,-3,,f,\n")
    report = load(file, dsn)
    assert counts(report) == {"read": 2, "inserted": 2}
    types = query(dsn, "SELECT string_agg(format_type(atttypid, atttypmod), ',' ORDER BY attnum) FROM pg_attribute"
                       " WHERE attrelid = 'trips'::regclass AND attnum > 0")  # fmt: skip
    assert types == [("bigint,text,numeric,date,boolean,timestamp without time zone",)]
    assert query(dsn, "SELECT t::text FROM trips t ORDER BY id") == [
        ('(1,00123,1.50,2024-02-29,t,"2024-01-05 10:20:30")',),
        ("(2,9,-3,,f,)",),
    ]


@pytest.mark.every_postgres
def test_merge_updates_inserts_and_leaves_alone(dsn: str, file: Path) -> None:
    """By the primary key; the last record of a repeated key wins; an unchanged row is not written."""
    query(dsn, TRIPS)
    query(dsn, "INSERT INTO trips VALUES (1, 'Köln', 1.50), (2, 'Bonn', 2), (3, 'Ulm', 3), (4, NULL, NULL)")
    before = dict(query(dsn, "SELECT trip_id, xmin::text FROM trips"))
    file.write_text("trip_id,city,fare\n5,first,1\n1,Köln,1.5\n2,Trier,2\n5,last,2\n4,,\n5,middle? no: last,9\n")
    report = load(file, dsn, mode="merge")
    assert counts(report) == {"read": 6, "inserted": 1, "updated": 1, "unchanged": 2, "duplicate": 2}
    assert query(dsn, "SELECT trip_id, city, fare::text FROM trips ORDER BY 1") == [
        (1, "Köln", "1.50"),
        (2, "Trier", "2.00"),
        (3, "Ulm", "3.00"),
        (4, None, None),
        (5, "middle? no: last", "9.00"),
    ]
    after = dict(query(dsn, "SELECT trip_id, xmin::text FROM trips"))
    assert [key for key in before if before[key] != after[key]] == [2]
    assert leftovers(dsn) == []


def test_merge_tells_values_apart_that_are_equal_but_not_the_same(dsn: str, file: Path) -> None:
    """``1.0`` becomes ``1.00`` in a numeric without scale, -0 becomes 0; the same text is left alone."""
    query(dsn, "CREATE TABLE trips (trip_id bigint PRIMARY KEY, a numeric, b float8, c jsonb)")
    query(dsn, """INSERT INTO trips VALUES (1, 1.0, '-0', '{"a": 1}'), (2, 1.0, '-0', '{"a": 1}')""")
    file.write_text('trip_id,a,b,c\n1,1.00,0,"{""a"":1}"\n2,1.0,-0,"{""a"": 1}"\n')
    assert counts(load(file, dsn, mode="merge")) == {"read": 2, "updated": 1, "unchanged": 1}
    assert query(dsn, "SELECT a::text, b::text FROM trips WHERE trip_id = 1") == [("1.00", "0")]


def test_merge_on_a_key_of_the_spec_creates_it(dsn: str, file: Path) -> None:
    """A table that the load creates has the key as its primary key."""
    file.write_text("a,b,c\n1,x,1\n1,y,2\n1,x,3\n")
    report = load(file, dsn, key=["a", "b"])
    assert counts(report) == {"read": 3, "inserted": 2, "duplicate": 1}
    assert query(dsn, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'trips'::regclass"
                      " AND contype = 'p'") == [("PRIMARY KEY (a, b)",)]  # fmt: skip
    assert query(dsn, "SELECT a, b, c FROM trips ORDER BY b") == [(1, "x", 3), (1, "y", 2)]


def test_a_record_without_its_key_is_rejected(dsn: str, file: Path) -> None:
    """There is nothing to merge it by."""
    query(dsn, "CREATE TABLE trips (trip_id bigint, city text)")
    file.write_text("trip_id,city\n1,a\n,b\n")
    report = load(file, dsn, key=["trip_id"], rejects={"max_ratio": 1})
    assert counts(report) == {"read": 2, "inserted": 1, "rejected": 1}
    assert report.rejects_by_reason == {"null_key": 1}


@pytest.mark.every_postgres
def test_replace_keeps_everything_but_the_rows(dsn: str, file: Path) -> None:
    """Grants, indexes, views and foreign keys to the table survive; rows that stay are not written."""
    query(dsn, TRIPS)
    query(dsn, "CREATE INDEX by_city ON trips (city)")
    query(dsn, "CREATE VIEW cities AS SELECT DISTINCT city FROM trips")
    query(dsn, "CREATE TABLE tips (trip_id bigint REFERENCES trips ON DELETE CASCADE, tip int)")
    query(dsn, "GRANT SELECT ON trips TO PUBLIC")
    query(dsn, "INSERT INTO trips VALUES (1, 'Köln', 1), (2, 'Bonn', 2), (3, 'Ulm', 3)")
    query(dsn, "INSERT INTO tips VALUES (1, 10), (2, 20), (3, 30)")
    relation = "SELECT oid, relacl::text FROM pg_class WHERE relname = 'trips'"
    before = query(dsn, relation)
    file.write_text("trip_id,city,fare,pickup\n1,Köln,1,\n2,Trier,2,\n4,Jena,4,\n")
    report = load(file, dsn, mode="replace")
    assert counts(report) == {"read": 3, "inserted": 1, "updated": 1, "unchanged": 1}
    assert report.notes == ("1 rows of the table that the file does not have were deleted",)
    assert query(dsn, relation) == before
    assert query(dsn, "SELECT * FROM cities ORDER BY 1") == [("Jena",), ("Köln",), ("Trier",)]
    assert query(dsn, "SELECT * FROM tips ORDER BY 1") == [(1, 10), (2, 20)]
    assert query(dsn, "SELECT count(*) FROM pg_indexes WHERE tablename = 'trips'") == [(2,)]


def test_replace_without_a_key(dsn: str, file: Path) -> None:
    """All rows go, all records come; columns that the file does not have get their default."""
    query(dsn, "CREATE TABLE trips (a int, b text DEFAULT 'new')")
    query(dsn, "INSERT INTO trips VALUES (1, 'old'), (1, 'old')")
    file.write_text("a\n7\n7\n")
    assert counts(load(file, dsn, mode="replace")) == {"read": 2, "inserted": 2}
    assert query(dsn, "SELECT * FROM trips") == [(7, "new"), (7, "new")]


def test_replace_that_would_take_a_row_others_need_changes_nothing(dsn: str, file: Path) -> None:
    """PostgreSQL's refusal ends the load, and the ledger has its reason."""
    query(dsn, TRIPS)
    query(dsn, "CREATE TABLE tips (trip_id bigint REFERENCES trips)")
    query(dsn, "INSERT INTO trips VALUES (1), (2)")
    query(dsn, "INSERT INTO tips VALUES (2)")
    file.write_text("trip_id,city,fare,pickup\n1,x,,\n")
    with pytest.raises(loader.DatabaseError, match="violates foreign key constraint") as caught:
        load(file, dsn, mode="replace")
    assert caught.value.sqlstate == "23503"
    assert query(dsn, "SELECT trip_id, city FROM trips ORDER BY 1") == [(1, None), (2, None)]
    assert query(dsn, "SELECT state, error LIKE '%foreign key%' FROM loader.loads") == [("failed", True)]
    assert leftovers(dsn) == []


def test_the_same_version_again_is_skipped(dsn: str, file: Path) -> None:
    """A file's version is its content; changed content is a new version; force loads it again."""
    query(dsn, "CREATE TABLE trips (a int)")
    file.write_text("a\n1\n")
    first = load(file, dsn)
    again = load(file, dsn)
    assert (again.state, again.load_id, counts(again)) == ("skipped", first.load_id, {})
    assert again.notes == (f"this version was loaded already, by load {first.load_id}: add --force to load it again",)
    file.write_text("a\n2\n")
    assert load(file, dsn).state == "loaded"
    assert loader.load(str(file), {"table": "trips"}, dsn=dsn, force=True).state == "loaded"
    assert query(dsn, "SELECT a FROM trips ORDER BY 1") == [(1,), (2,), (2,)]
    assert load(file, dsn, table="other").state == "loaded"


def test_two_loads_of_one_file_at_once(dsn: str, file: Path) -> None:
    """Loads into one table take turns, so one loads it and the others find it loaded."""
    query(dsn, "CREATE TABLE trips (a int)")
    file.write_text("a\n" + "1\n" * 1000)
    reports: list[loader.LoadReport] = []
    threads = [threading.Thread(target=lambda: reports.append(load(file, dsn))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(report.state for report in reports) == ["loaded", "skipped", "skipped", "skipped"]
    assert query(dsn, "SELECT count(*) FROM trips") == [(1000,)]


def test_a_load_waits_only_so_long_for_its_turn(dsn: str, file: Path) -> None:
    """Then it fails with an error that may be retried, and has changed nothing."""
    file.write_text("a\n1\n")
    query(dsn, "CREATE TABLE trips (a int)")
    with psycopg2.connect(dsn) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtextextended('loader public.trips', 0))")
        with pytest.raises(loader.DatabaseUnavailableError, match="another load has had its turn") as caught:
            loader.load(str(file), {"table": "trips"}, dsn=dsn, wait=0.1)
    holder.close()
    assert caught.value.retryable
    assert load(file, dsn).state == "loaded"


def test_a_load_that_died_is_cleared_by_the_next(dsn: str, file: Path) -> None:
    """Its entry is closed and its staging table dropped; nobody has to."""
    query(dsn, "CREATE TABLE trips (a int)")
    file.write_text("a\n1\n")
    load(file, dsn)
    query(dsn, "INSERT INTO loader.loads (state, source, key, size, last_modified, target, mode, forced, spec)"
               " VALUES ('running', 'x', 'x', 1, now(), 'public.trips', 'merge', false, '{}')")  # fmt: skip
    query(dsn, "CREATE UNLOGGED TABLE loader.staging_2 (a int)")
    file.write_text("a\n2\n")
    load(file, dsn)
    assert leftovers(dsn) == []
    assert query(dsn, "SELECT state, error FROM loader.loads WHERE load_id = 2") == [
        ("failed", "its process ended before it did")
    ]


BAD = b'a,b\n1,x\n2\nz,"q\nq"\n3,y\xff\n4,w\0\n5,\xc3\xa9,more\n6,last\n'


@pytest.mark.every_postgres
@pytest.mark.parametrize("mode", ["append", "merge"])
def test_bad_records_are_kept_and_the_rest_is_loaded(dsn: str, file: Path, mode: str) -> None:
    """With their place, reason and raw text, in the ledger."""
    query(dsn, "CREATE TABLE trips (a int PRIMARY KEY, b text)")
    file.write_bytes(BAD)
    report = load(file, dsn, mode=mode, rejects={"max_ratio": 1})
    assert counts(report) == {"read": 7, "inserted": 2, "rejected": 5}
    assert query(dsn, "SELECT * FROM trips ORDER BY 1") == [(1, "x"), (6, "last")]
    kept = query(dsn, "SELECT record_number, line_number, byte_offset, column_name, reason, raw, raw_bytes"
                      " FROM loader.rejects ORDER BY 1")  # fmt: skip
    assert [(*each[:6], each[6] and bytes(each[6])) for each in kept] == [
        (2, 3, 8, None, "too_few_fields", "2", None),
        (3, 4, 10, "a", "invalid_value", 'z,"q\nq"', None),
        (4, 6, 18, "b", "invalid_encoding", "3,y\\xff", b"3,y\xff"),
        (5, 7, 23, "b", "nul_byte", "4,w\\x00", b"4,w\0"),
        (6, 8, 28, None, "too_many_fields", "5,é,more", None),
    ]
    assert BAD[10:17] == b'z,"q\nq"'


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_rows": 4, "max_ratio": 1}, r"more than 4 records were rejected \(max_rows\)"),
        ({"max_ratio": 0.5}, r"5 of 7 records were rejected, 71.43%, over the limit of 50.00% \(max_ratio\)"),
    ],
)
@pytest.mark.parametrize("mode", ["append", "merge"])
def test_too_many_rejects_fail_the_load(dsn: str, file: Path, mode: str, limits: dict[str, Any], message: str) -> None:
    """Nothing is changed, and the rejects can be looked at."""
    query(dsn, "CREATE TABLE trips (a int PRIMARY KEY, b text)")
    file.write_bytes(BAD)
    with pytest.raises(loader.RejectLimitError, match=message) as caught:
        load(file, dsn, mode=mode, rejects=limits)
    assert caught.value.report is not None
    assert caught.value.report.state == "failed"
    assert query(dsn, "SELECT count(*) FROM trips") == [(0,)]
    assert query(dsn, "SELECT count(*) FROM loader.rejects") == [(5,)]
    assert leftovers(dsn) == []


def test_rejects_do_not_gather_in_memory(dsn: str, file: Path) -> None:
    """They go to the ledger in batches: far more of them than a batch are all there in the end."""
    query(dsn, "CREATE TABLE trips (a int)")
    file.write_text("a\n" + "x\n1\n" * 3000)
    report = load(file, dsn, rejects={"max_rows": 10_000, "max_ratio": 1})
    assert counts(report) == {"read": 6000, "inserted": 3000, "rejected": 3000}
    assert query(dsn, "SELECT count(*), max(record_number) FROM loader.rejects") == [(3000, 5999)]


@pytest.mark.parametrize(
    ("text", "spec", "kind", "message"),
    [
        (b"", {}, loader.ShapeError, "the file is empty; a header was expected"),
        (
            b"a,bb\n1,2\n",
            {"unknown": "error"},
            loader.ShapeError,
            'the header\'s column "bb" is not in public.trips; did you mean "b"?',
        ),
        (b"a,a\n1,2\n", {}, loader.ShapeError, 'the header has the column "a" 2 times'),
        (b"a\n1\n", {"columns": {"b": {"from": "B"}}}, loader.ShapeError, 'the header has no column "B"'),
        (b"a\n1\n", {"columns": {"x": {"from": "a"}}}, loader.TableError, 'public.trips has no column "x"'),
        (b"a\n1\n", {"columns": {"a": {"type": "int", "default": "x"}}}, loader.SpecError, '"x" is not a valid'),
        (b"a\n1\n", {"columns": {"a": "nosuchtype"}}, loader.TableError, 'type "nosuchtype" does not exist'),
        (b"a\n1\n", {"mode": "merge"}, loader.TableError, 'has no primary key, so mode "merge" needs a "key"'),
        (b"a\n1\n", {"transform": {"filter": "nope = 1"}}, loader.SpecError, "nope"),
        (b"a\n1\n", {"transform": {"python": "nosuch:function"}}, loader.SpecError, "there is no module"),
        (b"a\n1\n", {"table": "pg_class"}, loader.LoaderError, "a"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_says_so_in_one_sentence(
    dsn: str, file: Path, text: bytes, spec: dict[str, Any], kind: type[Exception], message: str
) -> None:
    """It changes nothing, and the ledger has the sentence too."""
    query(dsn, "CREATE TABLE trips (a int, b text)")
    file.write_bytes(text)
    with pytest.raises(kind) as caught:
        load(file, dsn, **spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert query(dsn, "SELECT count(*) FROM trips") == [(0,)]
    assert query(dsn, "SELECT state, error FROM loader.loads") in ([("failed", str(caught.value))], [])
    assert leftovers(dsn) == []


def test_a_header_alone_loads_nothing(dsn: str, file: Path) -> None:
    """It is a file with no records, and no error."""
    query(dsn, "CREATE TABLE trips (a int)")
    file.write_text("a\n")
    assert counts(load(file, dsn)) == {}
    assert load(file, dsn).state == "skipped"


def test_without_a_header_columns_go_by_position(dsn: str, file: Path) -> None:
    """The table's, in their order, or the spec's."""
    query(dsn, "CREATE TABLE trips (a int, b text, c int GENERATED ALWAYS AS (a * 2) STORED)")
    file.write_text("1,x\n2,y\n")
    assert counts(load(file, dsn, csv={"header": False})) == {"read": 2, "inserted": 2}
    file.write_text("z,9\n")
    load(file, dsn, csv={"header": False}, columns={"b": "text", "a": "int"})
    assert query(dsn, "SELECT a, b, c FROM trips ORDER BY 1") == [(1, "x", 2), (2, "y", 4), (9, "z", 18)]


def test_every_part_of_a_column_at_once(dsn: str, file: Path) -> None:
    """Renamed, transformed, defaulted, made up, formatted, zoned; filtered by what came of it."""
    file.write_text(
        "Trip,Fare ($),Pickup time,vendor\n"
        '1,"$1,234.50",31/03/2024 12:00, acme \n'
        "2,(5.00),01/01/2024 00:30,\n"
        "3,$0.99,02/01/2024 00:30,-\n"
    )
    report = load(
        file,
        dsn,
        mode="append",
        columns={
            "trip_id": {"type": "bigint", "from": "Trip"},
            "fare": {"type": "numeric(10,2)", "from": "Fare ($)", "transform": ["strip", "strip_currency"]},
            "pickup": {
                "type": "timestamptz", "from": "Pickup time", "format": "%d/%m/%Y %H:%M", "timezone": "Europe/Berlin"
            },
            "vendor": {"type": "text", "transform": ["strip", "upper", {"null_if": "-"}], "default": "UNKNOWN"},
            "origin": {"type": "text", "value": "{{{key}}} #{record_number} of load {load_id}"},
        },
        transform={"filter": "fare >= 0"},
    )  # fmt: skip
    assert counts(report) == {"read": 3, "inserted": 2, "filtered": 1}
    assert query(dsn, "SELECT trip_id, fare::text, (pickup AT TIME ZONE 'UTC')::text, vendor, origin FROM trips") == [
        (1, "1234.50", "2024-03-31 10:00:00", "ACME", f"{{{file}}} #1 of load {report.load_id}"),
        (3, "0.99", "2024-01-01 23:30:00", "UNKNOWN", f"{{{file}}} #3 of load {report.load_id}"),
    ]


def test_types_that_arrow_cannot_carry_are_cast_by_the_server(dsn: str, file: Path) -> None:
    """They arrive as PostgreSQL reads their text."""
    query(dsn, "CREATE TYPE mood AS ENUM ('sad', 'ok')")
    query(dsn, "CREATE TABLE trips (a uuid, b jsonb, c int[], d mood, e inet, f numeric, g interval, h int4range)")
    row = '{"x": 1}', "{1,2}", "ok", "10.0.0.1", "1.500", "1 day", "[1,5)"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows(["abcdefgh", ("0f8fad5b-d9cb-469f-a165-70867728950e", *row), [""] * 8])
    assert counts(load(file, dsn)) == {"read": 2, "inserted": 2}
    assert query(dsn, "SELECT t::text FROM trips t WHERE a IS NOT NULL") == [
        ('(0f8fad5b-d9cb-469f-a165-70867728950e,"{""x"": 1}","{1,2}",ok,10.0.0.1,1.500,"1 day","[1,5)")',)
    ]


def test_a_timestamp_without_a_zone_is_in_the_sessions(dsn: str, file: Path) -> None:
    """As COPY has it."""
    query(dsn, "CREATE TABLE trips (a timestamptz)")
    ((name,),) = query(dsn, "SELECT current_database()")
    query(dsn, f"ALTER DATABASE {name} SET timezone = 'Asia/Kathmandu'")
    file.write_text("a\n2024-01-05 12:00:00\n2024-01-05 12:00:00+00\n")
    load(file, dsn)
    assert query(dsn, "SELECT (a AT TIME ZONE 'UTC')::text FROM trips ORDER BY 1") == [
        ("2024-01-05 06:15:00",),
        ("2024-01-05 12:00:00",),
    ]


def test_a_session_zone_that_is_an_offset_is_posixs(dsn: str, file: Path) -> None:
    """``SET timezone = '+02:00'`` means west of Greenwich to PostgreSQL; COPY follows it, so do we."""
    query(dsn, "CREATE TABLE trips (a timestamptz)")
    ((name,),) = query(dsn, "SELECT current_database()")
    query(dsn, f"ALTER DATABASE {name} SET timezone = '+02:00'")
    file.write_text("a\n2024-01-05 12:00:00\n")
    load(file, dsn)
    assert query(dsn, "SELECT a = '2024-01-05 12:00:00'::timestamptz FROM trips") == [(True,)]


@pytest.mark.parametrize(
    ("type_", "format", "message"),
    [
        ("date", "%d.%m.%Y %z", "an offset (%z), which date cannot hold"),
        ("timestamp", "%Y-%m-%dT%H:%M%z", "which timestamp without time zone cannot hold"),
        ("timestamp", "%H:%M", "does not give a timestamp without time zone"),
        ("time", "%d.%m.%Y", "does not give a time without time zone"),
    ],
)
def test_a_format_that_does_not_fit_its_type(dsn: str, file: Path, type_: str, format: str, message: str) -> None:
    """Is refused: what it lacks would be made up, what it has too much of would be dropped."""
    file.write_text("a\n1\n")
    with pytest.raises(loader.SpecError) as caught:
        load(file, dsn, columns={"a": {"type": type_, "format": format}})
    assert message in str(caught.value)


def test_hostile_names_stay_names(dsn: str, tmp_path: Path) -> None:
    """Of tables, columns and files: quoted wherever they meet SQL."""
    column = 'x"; DROP TABLE loader.loads; --'
    path = tmp_path / "it's; %s $(x) .csv"
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([[column, "%(a)s"], ["1", "'; SELECT 1"]])
    query(dsn, 'CREATE TABLE "we""ird; --" ("x""; DROP TABLE loader.loads; --" int PRIMARY KEY, "%(a)s" text)')
    report = loader.load(str(path), {"table": '"we""ird; --"', "mode": "merge"}, dsn=dsn)
    assert counts(report) == {"read": 1, "inserted": 1}
    assert query(dsn, 'SELECT * FROM "we""ird; --"') == [(1, "'; SELECT 1")]


def test_several_files_are_several_loads(dsn: str, tmp_path: Path) -> None:
    """In name order; one that fails does not stop the others, and the report has them all."""
    query(dsn, "CREATE TABLE trips (a int)")
    for name, text in {"b.csv": "a\n2\n", "a.csv": "a\n1\n", "c.csv": "", "d.csv": "a\n4\n"}.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(loader.ShapeError, match=r"c\.csv: the file is empty") as caught:
        loader.load(str(tmp_path / "*.csv"), {"table": "trips"}, dsn=dsn)
    report = caught.value.report
    assert report is not None
    assert report.state == "failed"
    assert [each.state for each in report.loads] == ["loaded", "loaded", "failed", "loaded"]
    assert report.rows_inserted == 3
    assert query(dsn, "SELECT a FROM trips ORDER BY 1") == [(1,), (2,), (4,)]


def test_an_object_of_s3_is_loaded_from_its_version(dsn: str, s3: Any) -> None:
    """A key's next version is another load; the first one's late event changes nothing."""
    query(dsn, "CREATE TABLE trips (a int, b text)")
    key = "in coming/ü+1.csv"
    first = s3.put(key, b"a,b\n1,x\n")
    report = loader.load(s3.uri(key), {"table": "trips"}, dsn=dsn)
    assert (report.version, report.bytes_read) == (first, 8)
    assert loader.load(s3.uri(key), {"table": "trips"}, dsn=dsn).state == "skipped"
    second = s3.put(key, b"a,b\n2,y\n")
    assert loader.load(s3.uri(key), {"table": "trips"}, dsn=dsn).version == second
    late = load_one(s3.uri(key), loader.LoadSpec(table="trips"), database := Database(dsn), version_id=first)
    database.close()
    assert late.state == "skipped"
    assert query(dsn, "SELECT * FROM trips ORDER BY 1") == [(1, "x"), (2, "y")]


def test_progress_is_told(dsn: str, file: Path) -> None:
    """Bytes of the file and records, block by block, up to the end."""
    file.write_text("a\n" + "123456789\n" * 400_000)
    seen: list[Progress] = []
    loader.load(str(file), {"table": "trips"}, dsn=dsn, progress=seen.append)
    assert len(seen) >= 3
    assert [each.rows for each in seen] == sorted(each.rows for each in seen)
    assert seen[-1] == Progress(4_000_002, 4_000_002, 400_000)


@pytest.mark.usefixtures("large_way")
def test_an_interrupt_changes_nothing(dsn: str, file: Path) -> None:
    """Whatever ends a load, the target is as it was and the ledger says so."""
    query(dsn, "CREATE TABLE trips (a int PRIMARY KEY)")
    file.write_text("a\n" + "\n".join(map(str, range(600_000))))

    def interrupt(progress: Progress) -> None:
        if progress.rows > 100_000:
            raise KeyboardInterrupt

    for mode in ("append", "merge"):
        with pytest.raises(KeyboardInterrupt):
            loader.load(str(file), {"table": "trips", "mode": mode}, dsn=dsn, progress=interrupt)
    assert query(dsn, "SELECT count(*) FROM trips") == [(0,)]
    assert query(dsn, "SELECT state, error FROM loader.loads") == [("failed", "KeyboardInterrupt")] * 2
    assert leftovers(dsn) == []
    assert not [each for each in threading.enumerate() if each.name.startswith("loader-")]


def test_a_connection_that_is_lost_again_and_again_fails_the_load(dsn: str, file: Path) -> None:
    """The error says that it may succeed later, and then it does."""
    query(dsn, "CREATE TABLE trips (a int)")
    file.write_text("a\n" + "1\n" * 2_000_000)

    def kill(progress: Progress) -> None:
        query(dsn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                   " WHERE datname = current_database() AND pid <> pg_backend_pid()")  # fmt: skip

    with pytest.raises(loader.DatabaseUnavailableError) as caught:
        loader.load(str(file), {"table": "trips"}, dsn=dsn, progress=kill)
    assert caught.value.retryable
    assert caught.value.report is not None
    assert caught.value.report.attempts == 5
    assert query(dsn, "SELECT count(*) FROM trips") == [(0,)]
    assert load(file, dsn).rows_inserted == 2_000_000
    assert leftovers(dsn) == []


def copies(dsn: str, path: Path) -> bool:
    """COPY the file into ``theirs``; False where COPY refuses it."""
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor, path.open("rb") as source:
            cursor.copy_expert("COPY theirs FROM STDIN (FORMAT csv)", source)
    except psycopg2.Error:
        return False
    finally:
        connection.close()
    return True


texts = st.one_of(st.none(), st.text(alphabet='ab,"\\ \n\r\té', max_size=8))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    table=st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), texts, texts), min_size=1, max_size=20),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    end=st.sampled_from(["\n", "\r\n"]),
    size=st.integers(1, 64),
)
def test_what_copy_would_store_is_stored(
    dsn: str, tmp_path: Path, table: list[tuple[Any, ...]], quoting: int, end: str, size: int
) -> None:
    """The same file through COPY and through the loader, in blocks of any size, gives the same table."""
    out = io.StringIO(newline="")
    csv.writer(out, quoting=quoting, lineterminator=end).writerows(  # type: ignore[arg-type]
        ["" if value is None else value for value in row] for row in table
    )
    path = tmp_path / f"{random.getrandbits(64)}.csv"
    path.write_bytes(out.getvalue().encode())
    query(dsn, "DROP TABLE IF EXISTS ours, theirs")
    query(dsn, "CREATE TABLE ours (a bigint, b text, c text)")
    query(dsn, "CREATE TABLE theirs (a bigint, b text, c text)")
    assume(copies(dsn, path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loader.records.reading.reader.split", partial(split, block_size=size))
        loader.load(str(path), {"table": "ours", "csv": {"header": False}}, dsn=dsn, force=True)
    everything = "SELECT t::text FROM {} t ORDER BY 1"
    assert query(dsn, everything.format("ours")) == query(dsn, everything.format("theirs"))


ODD_FILE = (
    '// exported by "legacy\r\n'
    "Nummer§|§Ort§|§Preis\r\n"
    "§|§§|§EUR\r\n"
    '1§|§"Köln §|§ Deutz"§|§1.50\r\n'
    '// "\r\n'
    '2§|§ein 3" Rohr 5" lang§|§2\r\n'
    '3§|§"offen§|§3\r\n'
    "4§|§Bonn\x81§|§4\r\n"
    '5§|§"zwei\r\nZeilen"§|§\r\n'
    "Summe§|§11,50\r\n"
    "Ende"
)


@pytest.mark.parametrize("block_size", [1, 7, 1 << 20])
def test_an_odd_dialect_from_end_to_end(dsn: str, file: Path, monkeypatch: pytest.MonkeyPatch, block_size: int) -> None:
    """A long delimiter, comments, a header of two rows, a footer, stray quotes and a byte that is none, at once."""
    monkeypatch.setattr(loader.records.reading.reader, "split", partial(split, block_size=block_size))
    file.write_bytes(ODD_FILE.encode("latin-1"))
    dialect = {"delimiter": "§|§", "encoding": "cp1252", "comment": "//", "header_rows": 2, "skip_footer": 2}
    report = load(file, dsn, csv=dialect, rejects={"max_ratio": 1})
    assert counts(report) == {"read": 5, "inserted": 3, "rejected": 2}
    assert query(dsn, 'SELECT "Nummer", "Ort", "Preis EUR"::text FROM trips ORDER BY 1') == [
        (1, "Köln §|§ Deutz", "1.50"),
        (2, "ein 3 Rohr 5 lang", "2"),
        (5, "zwei\r\nZeilen", None),
    ]
    assert query(dsn, "SELECT record_number, line_number, reason, raw FROM loader.rejects ORDER BY 1") == [
        (3, 7, "unbalanced_quote", '3§|§"offen§|§3'),
        (4, 8, "invalid_encoding", "4§|§Bonn\\x81§|§4"),
    ]
