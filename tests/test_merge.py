"""Every course of a merge leaves the same table behind, and the counts say what it did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extras import execute_values
from support.postgres import query

import loader
from loader.core.pgtypes import column_type
from loader.ledger import ledger
from loader.pipeline import How, load_one
from loader.postgres import catalog
from loader.postgres.database import Database
from loader.postgres.load_column import LoadColumn
from loader.postgres.merging.merge import Course, Merge
from loader.postgres.merging.staging import RANGES, Staging, pages_per_range

COLUMNS = tuple(
    LoadColumn(name, column_type(kind), number)
    for number, (name, kind) in enumerate(
        [("k", "integer"), ("l", "bigint"), ("v", "text"), ("n", "numeric(6,2)"), ("f", "double precision")]
    )
)
KEY = ("k", "l")

keys = st.tuples(st.integers(-3, 8), st.integers(0, 2))
values = st.tuples(
    st.sampled_from([None, "", "a", "A", "a "]),
    st.sampled_from([None, "1", "1.00", "2.5"]),
    st.sampled_from([None, "0", "-0", "NaN", "1.5"]),
)


@pytest.fixture
def connection(dsn: str) -> Iterator[Any]:
    connection = psycopg2.connect(dsn)
    ledger.migrate(connection)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (k int, l bigint, v text, n numeric(6,2), f float8, PRIMARY KEY (k, l))")
    connection.commit()
    yield connection
    connection.close()


def staged(connection: Any, there: dict[Any, Any], file: list[Any]) -> Merge:
    """A merge of ``file`` into a table that has the rows ``there``, in the transaction that is open."""
    staging = Staging(7, 1, COLUMNS)
    staging.create(connection)
    with connection.cursor() as cursor:
        execute_values(cursor, "INSERT INTO t VALUES %s", [(*key, *rest) for key, rest in there.items()] or [(99,) * 5])
        rows = [(*key, *rest, number + 1) for number, (key, rest) in enumerate(file)]
        execute_values(cursor, f"INSERT INTO {staging.name.as_string(connection)} VALUES %s", rows)
    return Merge(connection, staging, catalog.describe(connection, "public", "t"), KEY)


def outcome(connection: Any, there: dict[Any, Any], file: list[Any], course: Course) -> Any:
    try:
        made = staged(connection, there, file)
        made._prepare()
        duplicate = made.drop_repeated()
        left = made.count()
        written = made._follow(course, left)
        table = catalog.rows(connection, "SELECT t::text FROM t ORDER BY 1")
        assert left == written.inserted + written.updated + written.unchanged
        return table, duplicate, left, written.updated, written.inserted
    finally:
        connection.rollback()


def expected(there: dict[Any, Any], file: list[Any]) -> tuple[int, int]:
    """Keys that come again, and keys that are new."""
    keys = [key for key, _ in file]
    return len(keys) - len(set(keys)), len(set(keys) - set(there))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(keys, values, min_size=1), st.lists(st.tuples(keys, values), min_size=1))
def test_every_course_leaves_the_same_table(connection: Any, there: dict[Any, Any], file: list[Any]) -> None:
    """And tells the same counts; where no key matches, plain insertion does so too."""
    simplest = outcome(connection, there, file, Course.UPDATE_FIRST)
    assert (simplest[1], simplest[4]) == expected(there, file)
    apart = not {key for key, _ in file} & set(there)
    for course in [Course.COMPARE, *([Course.INSERT] if apart else [])]:
        assert outcome(connection, there, file, course) == simplest


ROWS = 30_000


def write(path: Path, rows: range, text: str = "as before") -> str:
    path.write_text("k,v\n" + "".join(f"{number},{text} {number}\n" for number in rows))
    return str(path)


@pytest.mark.usefixtures("large_way")
@pytest.mark.parametrize(
    ("rows", "text", "plan", "counts"),
    [
        (range(ROWS), "as before", "compared first", (0, 0, ROWS)),
        (range(ROWS), "changed", "updated what differs", (0, ROWS, 0)),
        (range(ROWS, 3 * ROWS), "new", "none was there", (2 * ROWS, 0, 0)),
        (range(-1, 4 * ROWS), "as before", "updated what differs", (3 * ROWS + 1, 0, ROWS)),
        (range(-5, ROWS - 5), "as before", "compared first", (5, 0, ROWS - 5)),
    ],
)
def test_the_shortest_course_is_taken(
    dsn: str, tmp_path: Path, rows: range, text: str, plan: str, counts: tuple[int, int, int]
) -> None:
    """By what a sample shows; the report and the ledger tell which it was, and why."""
    query(dsn, "CREATE TABLE t (k int PRIMARY KEY, v text)")
    query(dsn, f"INSERT INTO t SELECT k, 'as before ' || k FROM generate_series(0, {ROWS} - 1) k")
    report = loader.load(write(tmp_path / "f.csv", rows, text), {"table": "t", "mode": "merge"}, dsn=dsn)
    assert plan in (report.plan or "")
    assert (report.rows_inserted, report.rows_updated, report.rows_unchanged) == counts
    assert query(dsn, "SELECT plan FROM loader.loads") == [(report.plan,)]
    loaded = f"SELECT count(*) FROM t WHERE k BETWEEN {rows[0]} AND {rows[-1]} AND v = '{text} ' || k"
    assert query(dsn, loaded) == [(len(rows),)]
    assert query(dsn, "SELECT count(*) FROM t") == [(len({*rows, *range(ROWS)}),)]
    assert query(dsn, "SELECT tablename FROM pg_tables WHERE tablename ~ 'staging|touched'") == []


def test_what_a_trigger_makes_of_a_row_is_no_change(dsn: str, tmp_path: Path) -> None:
    """New rows are inserted last, when nothing is compared any more."""
    query(dsn, "CREATE TABLE t (k int PRIMARY KEY, v text)")
    query(dsn, "INSERT INTO t VALUES (0, 'as before 0')")
    query(dsn, "CREATE FUNCTION f() RETURNS trigger AS 'BEGIN NEW.v := upper(NEW.v); RETURN NEW; END' LANGUAGE plpgsql")
    query(dsn, "CREATE TRIGGER f BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()")
    report = loader.load(write(tmp_path / "f.csv", range(-1, ROWS)), {"table": "t", "mode": "merge"}, dsn=dsn)
    assert report.rows_inserted == ROWS
    assert query(dsn, "SELECT count(*) FROM t WHERE v = upper(v)") == [(ROWS,)]


@pytest.mark.parametrize("unique", [True, False])
def test_in_a_table_that_is_replaced_the_last_record_of_a_key_wins(dsn: str, tmp_path: Path, unique: bool) -> None:
    """Also where the table has a column that the file lacks: no row keeps a value of it."""
    key = " PRIMARY KEY" if unique else ""
    query(dsn, f"CREATE TABLE t (id int{key}, v text, seen text DEFAULT 'new'); INSERT INTO t VALUES (1, 'a', 'old')")
    path = tmp_path / "t.csv"
    path.write_text("id,v\n1,b\n2,c\n1,d\n")
    report = loader.load(str(path), {"table": "t", "mode": "replace", "key": ["id"]}, dsn=dsn)
    assert (report.rows_inserted, report.rows_duplicate, report.rows_rejected) == (2, 1, 0)
    assert query(dsn, "SELECT * FROM t ORDER BY 1") == [(1, "d", "new"), (2, "c", "new")]


def test_values_that_have_no_collation(dsn: str, tmp_path: Path) -> None:
    """Enums and uuids travel as texts, and are compared as what they are."""
    query(dsn, "CREATE TYPE mood AS ENUM ('sad', 'glad')")
    query(dsn, "CREATE DOMAIN felt AS mood")
    query(dsn, "CREATE TABLE t (k int PRIMARY KEY, m mood, f felt, u uuid)")
    query(dsn, "INSERT INTO t VALUES (1, 'sad', 'sad', gen_random_uuid()), (2, 'glad', NULL, NULL)")
    path = tmp_path / "f.csv"
    path.write_text("k,m,f,u\n1,glad,glad,00000000-0000-0000-0000-000000000001\n2,glad,,\n")
    report = loader.load(str(path), {"table": "t", "mode": "merge"}, dsn=dsn)
    assert (report.rows_updated, report.rows_unchanged) == (1, 1)
    changed = ("glad", "glad", "00000000-0000-0000-0000-000000000001")
    assert query(dsn, "SELECT m::text, f::text, u::text FROM t WHERE k = 1") == [changed]


class TestAhead:
    """Segments are inserted while later ones are copied, where their rows need not be matched."""

    SPEC: ClassVar[dict[str, Any]] = {"table": "t", "mode": "merge", "segment_mb": 1}
    ROWS = 150_000
    AHEAD = "inserted segment by segment, while later ones were copied; "

    @pytest.fixture(autouse=True)
    def table(self, dsn: str) -> None:
        query(dsn, "CREATE TABLE t (k int PRIMARY KEY, v text)")
        query(dsn, "INSERT INTO t VALUES (-7, 'x'), (1000000, 'y')")

    def load(self, dsn: str, path: Path, lines: list[str]) -> loader.LoadReport:
        path.write_text("k,v\n" + "".join(f"{line}\n" for line in lines))
        spec = loader.LoadSpec.from_dict({**self.SPEC, "key": ["k"]})
        database = Database(dsn)
        try:  # over one stream, a segment has been told of before the next is copied
            return load_one(str(path), spec, database, How(threads=1))
        finally:
            database.close()

    def lines(self, text: str = "some text") -> list[str]:
        return [f"{number},{text} {number}" for number in range(self.ROWS)]

    @pytest.mark.usefixtures("large_way")
    def test_where_keys_rise_in_a_range_that_is_free(self, dsn: str, tmp_path: Path) -> None:
        report = self.load(dsn, tmp_path / "f.csv", self.lines())
        assert (report.plan or "").startswith(self.AHEAD)
        assert report.rows_inserted == self.ROWS
        assert query(dsn, "SELECT count(*), count(DISTINCT k) FROM t") == [(self.ROWS + 2, self.ROWS + 2)]

    def test_not_when_a_key_comes_again(self, dsn: str, tmp_path: Path) -> None:
        """Its last record wins, though an earlier one was in the table already."""
        report = self.load(dsn, tmp_path / "f.csv", [*self.lines(), "5,the last"])
        assert (report.rows_inserted, report.rows_duplicate) == (self.ROWS, 1)
        assert query(dsn, "SELECT v FROM t WHERE k = 5") == [("the last",)]

    def test_not_when_a_later_segment_meets_a_row(self, dsn: str, tmp_path: Path) -> None:
        query(dsn, f"INSERT INTO t VALUES ({self.ROWS - 10}, 'was there')")
        report = self.load(dsn, tmp_path / "f.csv", self.lines())
        assert (report.rows_inserted, report.rows_updated) == (self.ROWS - 1, 1)
        assert query(dsn, "SELECT count(*) FROM t WHERE v ~ 'some text'") == [(self.ROWS,)]

    def test_a_new_table_gets_its_key_in_the_end(self, dsn: str, tmp_path: Path, monkeypatch: Any) -> None:
        """Staged because it is large; in whatever order the keys come."""
        monkeypatch.setattr("loader.engine.job.STRAIGHT", 1)
        query(dsn, "DROP TABLE t")
        report = self.load(dsn, tmp_path / "f.csv", self.lines()[::-1])
        assert (report.plan or "").startswith(self.AHEAD)
        assert report.rows_inserted == self.ROWS
        assert query(dsn, "SELECT indexdef FROM pg_indexes WHERE tablename = 't'") == [
            ("CREATE UNIQUE INDEX t_pkey ON public.t USING btree (k)",)
        ]

    def test_a_new_table_whose_key_comes_again(self, dsn: str, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr("loader.engine.job.STRAIGHT", 1)
        query(dsn, "DROP TABLE t")
        report = self.load(dsn, tmp_path / "f.csv", [*self.lines(), "5,the last"])
        assert (report.rows_inserted, report.rows_duplicate) == (self.ROWS, 1)
        assert query(dsn, "SELECT v FROM t WHERE k = 5") == [("the last",)]


@pytest.mark.usefixtures("large_way")
@pytest.mark.parametrize("repeated", [True, False])
def test_a_guess_that_was_wrong_costs_time_only(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repeated: bool
) -> None:
    """A sample did not show the one key that is there, or the one that comes twice."""
    monkeypatch.setattr("loader.postgres.merging.merge_sql.SAMPLE", 1)
    query(dsn, "CREATE TABLE t (k int PRIMARY KEY, v text)")
    query(dsn, "INSERT INTO t VALUES (-1, 'x'), (17, 'y')" if not repeated else "INSERT INTO t VALUES (-1, 'x')")
    path = Path(write(tmp_path / "f.csv", range(ROWS)))
    with path.open("a") as stream:
        stream.write("17,the last\n" if repeated else "")
    report = loader.load(str(path), {"table": "t", "mode": "merge"}, dsn=dsn)
    counts = report.rows_inserted, report.rows_updated, report.rows_duplicate
    assert counts == ((ROWS, 0, 1) if repeated else (ROWS - 1, 1, 0))
    assert "a key was there already, though of" in (report.plan or "")
    assert query(dsn, "SELECT v FROM t WHERE k = 17") == [("the last" if repeated else "as before 17",)]


@pytest.mark.parametrize("text", [0, 1 << 20, 200 << 20, 1 << 30, 10 << 30, 100 << 30])
def test_the_ranges_that_may_be_summarized_hold_twice_the_text(text: int) -> None:
    """What is beyond them is looked at whole; `make rehearsal` loads a file whose rows would be missed (see RANGES)."""
    assert pages_per_range(text) * RANGES * 8192 >= 2 * text
    assert pages_per_range(text) in {32 * 2**power for power in range(20)}
