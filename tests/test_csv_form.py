"""Types that only the server reads go to it once, as text; what it refuses is found, and all is as by the text lane."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support.postgres import query

import loader
from loader.convert.lanes.copy_form import copy_form
from loader.convert.lanes.kernel_program import text_lane
from loader.convert.lanes.server_lane import TextLane
from loader.core.deadline import Deadline
from loader.core.pgtypes import column_type
from loader.core.report import LoadReport
from loader.engine.counters import Progress
from loader.engine.job import Task
from loader.kernel import compiled as kernel
from loader.pipeline import How, load_one
from loader.postgres.copy_forms import JUDGED, CsvForm
from loader.postgres.database import Database
from loader.postgres.load_column import LoadColumn
from loader.records.block import Block
from loader.records.dialect import Dialect, split_record

TYPES = {
    "n": "bigint",
    "numbers": "int[]",
    "span": "int4range",
    "net": "inet",
    "block": "cidr",
    "wait": "interval",
    "spot": "point",
    "words": "tsvector",
    "pair": "pair",
    "moods": "mood[]",
    "bits": "bit varying(8)",
    "note": "varchar(40)",
    "at": "timestamptz",
    "price": "numeric(10,2)",
}
ROWS = [
    '{0},"{{{0},2,NULL}}","[-1,{0})",10.0.0.1,10.1.0.0/16,"1 day 02:03:04","(1.5,-2)","a fat cat","({0},""x, y"")",'
    '"{{happy,sad}}",1011,"a note, with a comma",2024-02-29 12:00:00+05:30,12.345',
    '{0},{{}},empty,::1/64,fe80::/10,-1 mons +3 days,"(0,0)",'
    '"it\'\'s:1A","(,)",{{}},0,"two\nlines and ""quotes""",epoch,-0.005',
    "{0},,,,,,,,,,,,,",
    '{0},"{{""7""}}","(,5]",192.168.0.0/24,192.168.0.0/24,P1Y2M3DT4H5M6S,'
    '"(1e3, 2)","a","(1,)","{{sad}}",,"\\.",2024-01-01 00:00:00+00,1e2',
]
SCHEMA = "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TYPE pair AS (one int, two text);"


def text_of(records: int) -> str:
    rows = (ROWS[number % len(ROWS)].format(number) for number in range(records))
    return ",".join(TYPES) + "\n" + "\n".join(rows) + "\n"


@pytest.fixture(params=["auto", "off"])
def compiled(request: pytest.FixtureRequest, monkeypatch: Any) -> bool:
    """With the kernel where there is one, and without."""
    monkeypatch.setenv("LOADER_KERNEL", request.param)
    return kernel.COMPILED and request.param == "auto"


@pytest.fixture
def database(dsn: str) -> Iterator[Database]:
    query(dsn, SCHEMA)
    database = Database(dsn)
    yield database
    database.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "t.csv"


def create(dsn: str, table: str, key: str = "") -> None:
    query(dsn, f"CREATE TABLE {table} ({', '.join(f'{name} {type_}' for name, type_ in TYPES.items())}{key})")


def load(database: Database, file: Path, **spec: Any) -> LoadReport:
    how = How(threads=2, **spec.pop("how", {}))
    return load_one(str(file), loader.LoadSpec.from_dict({"table": "t", **spec}), database, how)


def copied(dsn: str, file: Path, table: str = "copied") -> list[Any]:
    """What COPY makes of the file."""
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY {table} FROM STDIN (FORMAT csv, HEADER)", io.BytesIO(file.read_bytes()))
    connection.close()
    return rows(dsn, table)


def rows(dsn: str, table: str = "t") -> list[Any]:
    return query(dsn, f"SELECT t::text FROM {table} t ORDER BY n, 1")


def rejects(dsn: str) -> list[Any]:
    columns = "record_number, line_number, byte_offset, column_name, reason, message, sqlstate, raw"
    newest = "load_id = (SELECT max(load_id) FROM loader.loads)"
    return query(dsn, f"SELECT {columns} FROM loader.rejects WHERE {newest} ORDER BY 1")


def judge_all(monkeypatch: Any) -> None:
    """The text lane for every record, as for loads that do more to their texts."""
    monkeypatch.setattr(Task, "form", lambda *_: JUDGED)


# --- nobody is refused


@pytest.mark.every_postgres
@pytest.mark.parametrize("mode", ["append", "merge", "replace"])
def test_all_arrives_as_copy_stores_it(
    dsn: str, database: Database, file: Path, compiled: bool, mode: str, monkeypatch: Any
) -> None:
    """And the text lane is not asked."""
    monkeypatch.setattr(TextLane, "tuples", None)
    file.write_text(text_of(3000), "utf-8")
    create(dsn, "copied")
    create(dsn, "t", ", PRIMARY KEY (n)" if mode == "merge" else "")
    if mode == "merge":
        query(dsn, "INSERT INTO t (n) VALUES (-1), (5)")
    report = load(database, file, mode=mode)
    assert (report.rows_read, report.rows_rejected) == (3000, 0)
    query(dsn, "DELETE FROM t WHERE n = -1")
    assert rows(dsn) == copied(dsn, file)


def test_into_a_new_table_over_several_streams(
    dsn: str, database: Database, file: Path, compiled: bool, monkeypatch: Any
) -> None:
    """Groups of blocks are committed one by one."""
    monkeypatch.setattr(TextLane, "tuples", None)
    monkeypatch.setattr("loader.engine.segments.GROUP", 1)
    file.write_text(text_of(30_000), "utf-8")
    create(dsn, "copied")
    report = load(database, file, columns=TYPES, segment_mb=1)
    assert "renamed" in (report.plan or "")
    assert rows(dsn) == copied(dsn, file)


@pytest.mark.parametrize(
    ("text", "spec", "expected"),
    [
        ("a;n\r\n'{1,2}';1\r\n;2\r\n", {"csv": {"delimiter": ";", "quote": "'"}}, [("{1,2}", 1), (None, 2)]),
        ("x,n,a,y\n1,2,{3},4\n", {}, [("{3}", 2)]),
        ("n,a\n1,-\n2,NULL\n3,{}\n", {"csv": {"null": ["NULL", "-"]}}, [(None, 1), (None, 2), ("{}", 3)]),
        ("n,a\n1,\"\"\n", {"csv": {"null": ["NULL"]}, "rejects": {"max_ratio": 1}}, []),
        ("n|a\n1|{1,2}\n", {"csv": {"delimiter": "|"}}, [("{1,2}", 1)]),
        ("n||a\n1||{1,2}\n", {"csv": {"delimiter": "||"}}, [("{1,2}", 1)]),
        ("n\ta\n1\t{1,2}\n", {"csv": {"delimiter": "\t", "quote": ""}}, [("{1,2}", 1)]),
        ("n,a\n1,{1}\n# no\n2,{2}\n", {"csv": {"comment": "#"}}, [("{1}", 1), ("{2}", 2)]),
        ("n,a\n1\n2,{2},x\n3,{3}\n", {"csv": {"ragged": "pad"}}, [(None, 1), ("{2}", 2), ("{3}", 3)]),
        ('n,a\n1,"{1}" \n2,{"2"}\n', {}, [("{1}", 1), ("{2}", 2)]),  # quotes in odd places
        ("n,a\n1,{1}\n2,{2}", {}, [("{1}", 1), ("{2}", 2)]),
    ],
)  # fmt: skip
def test_dialects(
    dsn: str,
    database: Database,
    file: Path,
    compiled: bool,
    text: str,
    spec: dict[str, Any],
    expected: list[Any],
) -> None:
    """Whatever the fields are delimited and quoted by, and whatever means NULL."""
    query(dsn, "CREATE TABLE t (a int[], n int)")
    file.write_bytes(text.encode())
    load(database, file, **spec)
    assert query(dsn, "SELECT a::text, n FROM t ORDER BY n") == expected


def test_values_that_the_spec_makes(dsn: str, database: Database, file: Path, compiled: bool) -> None:
    """Constants, numbers of records and defaults, with quotes in them."""
    query(dsn, "CREATE TABLE t (n int, a text[], k text, r bigint, d text[])")
    file.write_text('n,a,d\n1,{x},\n2,"{""y""}",{z}\n')
    columns = {
        "n": "int",
        "a": "text[]",
        "k": {"type": "text", "value": 'say "{load_id}", twice'},
        "r": {"type": "bigint", "value": "{record_number}"},
        "d": {"type": "text[]", "default": '{"q,"}'},
    }
    load(database, file, columns=columns)
    assert query(dsn, "SELECT n, a::text, k, r, d::text FROM t ORDER BY 1") == [
        (1, "{x}", 'say "1", twice', 1, '{"q,"}'),
        (2, "{y}", 'say "1", twice', 2, "{z}"),
    ]


@pytest.mark.every_postgres
def test_a_record_that_looks_like_the_end_of_the_data(dsn: str, database: Database, file: Path, compiled: bool) -> None:
    """Until PostgreSQL 17 COPY ends at a line of backslash and point."""
    query(dsn, "CREATE DOMAIN word AS tsvector; CREATE TABLE t (w word)")
    file.write_text('w\na\n\\.\nb\n"\\."\n')
    load(database, file)
    assert query(dsn, "SELECT w::text FROM t ORDER BY 1") == query(
        dsn, r"SELECT v::tsvector::text FROM unnest(ARRAY['a', '\.', 'b', '\.']) v ORDER BY 1"
    )


# --- somebody is


def spoiled(records: int) -> str:
    """Bad values at the beginning, in the middle, twice in one record, and at the end, and records of a bad shape."""
    lines = text_of(records).replace("two\nlines", "two lines").split("\n")
    for number in (0, 17, records // 2, records - 1):
        fields = lines[number + 1].split(",", 1)
        lines[number + 1] = f'{fields[0]},"{{not a number}}",{",".join("x" * 12)}'
    lines[25] = "too,few"
    lines[30] = "no number" + ",x" * 13
    lines[33] += ",too many"
    lines[40] = "39" + "," * 10 + ",a note that is longer than forty characters may be,,"
    return "\n".join(lines)


@pytest.mark.every_postgres
@pytest.mark.parametrize("mode", ["append", "merge"])
@pytest.mark.parametrize("segment", [32, 1])
def test_rejects_are_those_of_the_text_lane(
    dsn: str, database: Database, file: Path, compiled: bool, mode: str, segment: int, monkeypatch: Any
) -> None:
    """Each with its place, and the rows beside them arrive."""
    monkeypatch.setattr("loader.engine.segments.GROUP", 2)
    monkeypatch.setattr("loader.engine.job.STRAIGHT", 1)
    file.write_text(spoiled(20_000), "utf-8")
    key = ", PRIMARY KEY (n)" if mode == "merge" else ""
    spec = {"mode": mode, "segment_mb": segment, "rejects": {"max_ratio": 1}}
    create(dsn, "t", key)
    report = load(database, file, **spec)
    found, kept = rejects(dsn), rows(dsn)
    assert len(found) == report.rows_rejected == 8
    judge_all(monkeypatch)
    query(dsn, "TRUNCATE t")
    again = load(database, file, **spec, how={"force": True})
    assert (rejects(dsn), rows(dsn)) == (found, kept)
    assert (again.rows_inserted, again.rows_rejected) == (report.rows_inserted, report.rows_rejected)


def test_a_new_table_without_what_is_refused(
    dsn: str, database: Database, file: Path, compiled: bool, monkeypatch: Any
) -> None:
    """It goes on over its streams, and comes to the same after a stop."""
    monkeypatch.setattr("loader.engine.segments.GROUP", 1)
    file.write_text(spoiled(60_000), "utf-8")
    spec: dict[str, Any] = {"columns": TYPES, "segment_mb": 1, "rejects": {"max_ratio": 1}}
    deadline = Deadline()

    def stop(progress: Progress) -> None:
        if progress.rows > 45_000:
            deadline.stop("it was told to stop")

    with pytest.raises(loader.PausedError, match="records are staged"):
        load(database, file, **spec, how={"deadline": deadline, "progress": stop})
    ((staged, kept),) = query(dsn, "SELECT record_number - 1, (tally ->> 'kept')::int FROM loader.checkpoints")
    assert 0 < kept < staged
    report = load(database, file, **spec)
    assert (report.resumes, report.rows_rejected, report.rows_inserted) == (1, 8, 59_992)
    assert "renamed" in (report.plan or "")
    found, kept = rejects(dsn), rows(dsn)
    judge_all(monkeypatch)
    query(dsn, "DROP TABLE t")
    load(database, file, **spec, how={"force": True})
    assert (rejects(dsn), rows(dsn)) == (found, kept)


def test_over_the_limit_nothing_changes(dsn: str, database: Database, file: Path, compiled: bool) -> None:
    """As many as the limit and one more are kept."""
    query(dsn, "CREATE TABLE t (n int, a int[])")
    file.write_text("n,a\n" + "".join(f"{n},{'{}' if n % 7 else 'x'}\n" for n in range(1000)))
    with pytest.raises(loader.RejectLimitError, match="max_rows"):
        load(database, file, rejects={"max_rows": 10})
    assert query(dsn, "SELECT count(*) FROM t") == [(0,)]
    assert query(dsn, "SELECT record_number FROM loader.rejects ORDER BY 1") == [(1 + 7 * n,) for n in range(11)]


@pytest.mark.parametrize("bad", [b"\xff", b"\0"])
def test_bytes_that_are_no_text(dsn: str, database: Database, file: Path, compiled: bool, bad: bytes) -> None:
    """They cost their record, on any lane."""
    query(dsn, "CREATE TABLE t (n int, a text[])")
    file.write_bytes(b"n,a\n1,{a}\n2,{" + bad + b"}\n3,{c}\n")
    report = load(database, file, rejects={"max_ratio": 1})
    assert report.rows_rejected == 1
    assert query(dsn, "SELECT n FROM t ORDER BY 1") == [(1,), (3,)]


def test_a_constraint_of_the_table_is_not_blamed_on_a_text(
    dsn: str, database: Database, file: Path, compiled: bool
) -> None:
    """A record that the target refuses is found as ever."""
    query(dsn, "CREATE TABLE t (n int NOT NULL, a int[] CHECK (a <> '{2}'))")
    file.write_text("n,a\n1,{1}\n2,{2}\n,{3}\n4,{4}\n")
    report = load(database, file, rejects={"max_ratio": 1})
    assert report.rows_rejected == 2
    assert [(each[0], each[3]) for each in rejects(dsn)] == [(2, "a"), (3, "n")]
    assert query(dsn, "SELECT n FROM t ORDER BY 1") == [(1,), (4,)]


# --- which loads


def column(name: str, **more: Any) -> LoadColumn:
    return LoadColumn("c", column_type(name), 0, **more)


@pytest.mark.parametrize(
    ("columns", "zone", "goes"),
    [
        ([column("integer[]")], "UTC", "unjudged"),
        ([column("integer"), column("text"), column("bytea")], "UTC", "binary"),  # the client makes them
        ([column("integer[]"), column("timestamp(0) without time zone")], "UTC", "unjudged"),
        ([column("integer[]"), column("timestamp with time zone")], "UTC", "unjudged"),
        ([column("integer[]"), column("timestamp with time zone")], "Asia/Kolkata", "judged"),
        ([column("integer[]"), column("tsquery")], "UTC", "unjudged"),
        ([column("integer[]", pattern="x")], "UTC", "judged"),
    ],
)
def test_which_loads_go_as_text(columns: list[LoadColumn], zone: str, goes: str) -> None:
    """Those with a type that only PostgreSQL reads; unjudged where COPY makes of each text what the text lane makes."""
    form = copy_form(columns, Dialect(b",", 34, 34), ("",), zone)
    assert {None: "binary", JUDGED: "judged"}.get(form, "unjudged") == goes
    judged = copy_form(columns, Dialect(b",", 34, 34), ("",), zone, judged=True)
    assert judged == (None if goes == "binary" else JUDGED)


@pytest.mark.parametrize(
    ("dialect", "null", "verbatim"),
    [
        (Dialect(b",", 34, 34), ("",), True),
        (Dialect(b",", 34, 34), ("NULL", "-"), True),
        (Dialect(b",", 34, 34), ("\\N",), False),
        (Dialect(b",", 34, 34), ('a"b',), False),
        (Dialect(b",", 34, 92), ("",), False),
        (Dialect(b",", None, None), ("",), False),
        (Dialect(b"||", 34, 34), ("",), False),
        (Dialect(b",", 34, 34, b"#"), ("",), False),
    ],
)
def test_which_files_go_as_they_stand(dialect: Dialect, null: tuple[str, ...], verbatim: bool) -> None:
    """Those whose dialect COPY has."""
    form = copy_form([column("integer[]")], dialect, null, "UTC")
    assert isinstance(form, CsvForm)
    assert form.verbatim == verbatim


# --- the kernel


@pytest.mark.skipif(not kernel.COMPILED, reason="the kernel is not compiled here")
@pytest.mark.parametrize("seed", range(20))
def test_what_the_kernel_writes_has_the_fields_that_it_read(seed: int) -> None:
    """Of records at random; those that it leaves out are none that are plain."""
    dice = random.Random(seed)
    dialect = Dialect(b",", 34, 34)
    columns = [LoadColumn(name, column_type("text"), field) for name, field in (("a", 2), ("b", 0), ("c", 0))]
    lane = text_lane(
        kernel.compiled_kernel(), columns, 3, ("", "NA"), {}, quote='"', required=["c"], with_position=True
    )
    assert lane is not None
    pieces = [
        "",
        "",
        "x",
        "NA",
        ",",
        '"',
        '""',
        '"a,b"',
        '"\n"',
        "é",
        "\\.",
        "a long text of more than sixty-four bytes, " * 2,
    ]
    for _ in range(200):
        records = ["".join(dice.choices(pieces, k=dice.randrange(1, 9))) for _ in range(dice.randrange(1, 9))]
        records += [",".join(dice.choices(['"q"', "p", "NA", '"two\r\nlines"'], k=3))]
        data = "".join(record + dice.choice(["\n", "\r\n"]) for record in records).encode()
        block = Block(data, 0, 5, 1, 0, 1, True, True, dialect)
        lane._suspicion = 0
        made = lane.take(_counted(block))
        if made is None:
            continue  # quotes that are still open count other records than the layout
        odd = set() if made.rest is None else set(made.rest.origin[1].tolist())  # type: ignore[index]
        kept = [number for number in range(block.layout.ends.size) if number not in odd]
        lines = Block(made.tuples, 0, 1, 1, len(kept), 1, True, True, dialect)
        assert len(lines.layout.ends) == made.kept == len(kept)
        for place, number in enumerate(kept):
            read, written = split_record(_counted(block).raw(number), dialect), split_record(lines.raw(place), dialect)
            null = {(b"", False), (b"NA", False)}
            expected = [(b"", False) if read[at] in null else read[at] for at in (2, 0, 0)]
            assert written == [*expected, (str(number + 5).encode(), False)]
            assert read[0] not in null
            assert len(read) == 3


def _counted(block: Block) -> Block:
    from dataclasses import replace

    return replace(block, records=len(block.layout.ends))
