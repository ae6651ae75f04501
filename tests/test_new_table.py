"""A table that the load creates is filled by several streams under another name, and renamed when it is full."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support import victim
from support.clock import PATIENCE
from support.own_server import own_server
from support.postgres import query
from support.victim import Death, Job

import loader
from loader.core.deadline import Deadline
from loader.core.report import LoadReport
from loader.engine import segments
from loader.engine.cleanup import clear_leftovers
from loader.engine.counters import Progress
from loader.pipeline import How, load_one
from loader.postgres.database import Database, without_internals
from loader.postgres.merging.new_table import NewTable
from loader.preview import preview

RECORDS = 40_000
SPEC: dict[str, Any] = {"table": "trips", "segment_mb": 1, "columns": {"a": "bigint", "b": "text"}}
KEYED: dict[str, Any] = {**SPEC, "mode": "merge", "key": ["a"]}
SCHEMA = "CREATE TABLE {} (a bigint, b text)"
RENAMED = "copied over 2 streams into a new table, which was renamed when it was full"


def line(number: int) -> str:
    if number % 10_000 == 17:
        return f'{number},"two\nlines and ""quotes"""'
    return f"{number},a text that makes the record longer than it would be by some fifty bytes {number}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Of four segments, and small enough that a load with a key takes the same way."""
    path = tmp_path / "trips.csv"
    path.write_text("a,b\n" + "\n".join(map(line, range(RECORDS))) + "\n", "utf-8")
    assert 3 << 20 < path.stat().st_size < 8 << 20
    return path


def load(database: Database, source: Path, spec: dict[str, Any] = SPEC, threads: int = 2, **how: Any) -> LoadReport:
    return load_one(str(source), loader.LoadSpec.from_dict(spec), database, How(threads=threads, **how))


def pause(database: Database, source: Path, spec: dict[str, Any], at: int) -> None:
    """Load until so many records were read, and come to rest."""
    deadline = Deadline()

    def stop(progress: Progress) -> None:
        if progress.rows >= at:
            deadline.stop("it was told to stop")

    with pytest.raises(loader.PausedError, match="records are staged"):
        load(database, source, spec, progress=stop, deadline=deadline)


def differences(dsn: str, file: Path, table: str = "trips") -> int:
    """Rows that the table and what COPY makes of the file do not have in common."""
    connection = psycopg2.connect(dsn)
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TEMP TABLE copied (LIKE {table})")
        cursor.copy_expert("COPY copied FROM STDIN (FORMAT csv, HEADER)", io.BytesIO(file.read_bytes()))
        both = f"(TABLE {table} EXCEPT ALL TABLE copied) UNION ALL (TABLE copied EXCEPT ALL TABLE {table})"
        cursor.execute(f"SELECT count(*) FROM ({both}) d")
        count: int = cursor.fetchall()[0][0]
    connection.close()
    return count


def leftovers(dsn: str) -> list[tuple[Any, ...]]:
    tables = query(dsn, "SELECT tablename FROM pg_tables WHERE tablename ~ 'staging_[0-9]'")
    return tables + query(dsn, "SELECT load_id FROM loader.checkpoints")


# --- which loads go this way


@pytest.mark.parametrize(
    ("spec", "threads", "plan"),
    [
        (SPEC, 2, RENAMED),
        ({**SPEC, "mode": "replace"}, 2, RENAMED),
        (KEYED, 2, f"{RENAMED}, and its key built afterwards"),
        (SPEC, 1, "copied straight into the new table"),  # nothing to gain, and nothing to lose yet
        ({**SPEC, "segment_mb": 32}, 2, "copied straight into the new table"),  # it is of one segment
    ],
)
def test_several_streams_where_there_are_several_segments(
    dsn: str, database: Database, file: Path, spec: dict[str, Any], threads: int, plan: str
) -> None:
    """The ledger says so, and the rows are those of the file."""
    report = load(database, file, spec, threads)
    assert (report.rows_read, report.rows_inserted) == (RECORDS, RECORDS)
    assert (report.plan or "").partition("; converted")[0] == plan
    assert query(dsn, "SELECT plan FROM loader.loads") == [(report.plan,)]
    assert differences(dsn, file) == 0
    assert leftovers(dsn) == []


def test_two_sessions_fill_it(dsn: str, database: Database, file: Path, monkeypatch: Any) -> None:
    """Each has committed part of it before it has its name; before that, the target is not there."""
    both, sessions = threading.Barrier(2), set()
    begin, give_name = NewTable.begin, NewTable.give_name

    def beginning(self: NewTable, connection: Any) -> int:
        number = begin(self, connection)
        sessions.add(connection.info.backend_pid)
        return number

    def copying(self: segments.Segments, *arguments: Any) -> None:
        both.wait(PATIENCE)
        copy(self, *arguments)

    def naming(self: NewTable, connection: Any) -> None:
        assert query(dsn, "SELECT to_regclass('trips')::text, count(*) FROM loader_staging_1_1") == [(None, RECORDS)]
        give_name(self, connection)

    copy = segments.Segments.copy
    monkeypatch.setattr(segments.Segments, "copy", copying)
    monkeypatch.setattr(NewTable, "begin", beginning)
    monkeypatch.setattr(NewTable, "give_name", naming)
    load(database, file)
    assert len(sessions) == 2
    assert differences(dsn, file) == 0


def test_the_table_is_what_one_stream_would_have_made(dsn: str, database: Database, file: Path) -> None:
    """Its owner, default privileges, columns, constraints, types, and options, by the catalog."""
    query(dsn, "CREATE ROLE new_table_reader")
    query(dsn, "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO new_table_reader")
    try:
        load(database, file, KEYED, threads=1)
        one = _catalog(dsn)
        query(dsn, "DROP TABLE trips")
        load(database, file, KEYED, force=True)
        assert query(dsn, "SELECT plan FROM loader.loads ORDER BY load_id DESC LIMIT 1")[0][0].startswith(RENAMED)
        assert _catalog(dsn) == one
    finally:
        query(dsn, "DROP OWNED BY new_table_reader; DROP ROLE new_table_reader")


def _catalog(dsn: str) -> list[Any]:
    statements = [
        "SELECT relname, relnamespace::regnamespace::text, relowner, relpersistence, reloptions, relacl::text, relkind,"
        " obj_description(oid) FROM pg_class WHERE relname IN ('trips', 'trips_pkey') ORDER BY 1",
        "SELECT conname, contype, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'trips'::regclass"
        " ORDER BY 1",
        "SELECT attnum, attname, atttypid, atttypmod, attnotnull, attisdropped FROM pg_attribute"
        " WHERE attrelid = 'trips'::regclass ORDER BY 1",
        "SELECT typname FROM pg_type WHERE typname LIKE '%trips' ORDER BY 1",
    ]
    return [query(dsn, statement) for statement in statements]


def test_what_a_column_lacks_is_null(dsn: str, database: Database, file: Path) -> None:
    """A column of the spec that the file does not have is in the table all the same."""
    spec = {**SPEC, "columns": {**SPEC["columns"], "key": {"type": "text", "value": "{key}"}}}
    load(database, file, spec)
    assert query(dsn, "SELECT count(*), count(DISTINCT key) FROM trips") == [(RECORDS, 1)]


def test_a_key_that_comes_twice_goes_by_staging(dsn: str, database: Database, file: Path) -> None:
    """The last record with it wins, as ever."""
    with file.open("a") as more:
        more.write("5,the last\n")
    report = load(database, file, KEYED)
    assert (report.rows_read, report.rows_inserted, report.rows_duplicate) == (RECORDS + 1, RECORDS, 1)
    assert "renamed" not in (report.plan or "")
    assert query(dsn, "SELECT b FROM trips WHERE a = 5") == [("the last",)]
    assert leftovers(dsn) == []


def test_a_large_load_with_a_key_goes_by_staging(dsn: str, database: Database, file: Path, monkeypatch: Any) -> None:
    """To find at its end that a key comes twice would cost all of it."""
    monkeypatch.setattr("loader.engine.job.STRAIGHT", 1)
    report = load(database, file, KEYED)
    assert "renamed" not in (report.plan or "")
    assert differences(dsn, file) == 0


def test_a_published_table_goes_by_staging(dsn: str, database: Database, file: Path) -> None:
    """Subscribers would get rows of a load that may never be complete."""
    query(dsn, "CREATE PUBLICATION everything FOR ALL TABLES")
    report = load(database, file)
    assert "renamed" not in (report.plan or "")
    assert differences(dsn, file) == 0
    assert leftovers(dsn) == []


# --- rejects and limits


def test_rejects_have_their_places(dsn: str, database: Database, file: Path) -> None:
    """As on any other way."""
    text = file.read_text().replace("30000,", "no number,", 1)
    file.write_text(text)
    report = load(database, file, {**SPEC, "rejects": {"max_rows": 10}})
    assert (report.rows_rejected, report.rows_inserted) == (1, RECORDS - 1)
    ((number, offset, raw),) = query(dsn, "SELECT record_number, byte_offset, raw FROM loader.rejects")
    assert (number, offset) == (30_001, text.encode().index(b"no number"))
    assert raw.startswith("no number,")


@pytest.mark.parametrize("limits", [{"rejects": {"max_rows": 0}}, {"limits": {"max_rows": 35_000}}])
def test_over_a_limit_nothing_is_left(dsn: str, database: Database, file: Path, limits: dict[str, Any]) -> None:
    """Neither the target nor what was to become of it."""
    file.write_text(file.read_text().replace("39000,", "no number,", 1))
    with pytest.raises(loader.LoaderError):
        load(database, file, {**SPEC, **limits})
    assert query(dsn, "SELECT to_regclass('trips')") == [(None,)]
    assert leftovers(dsn) == []


def test_what_the_new_table_refuses_is_rejected(dsn: str, database: Database, file: Path) -> None:
    """Of a domain's CHECK the server is the judge; the load begins again with care."""
    query(dsn, "CREATE DOMAIN small AS bigint CHECK (VALUE <> 30000)")
    spec = {**SPEC, "columns": {"a": "small", "b": "text"}, "rejects": {"max_rows": 10}}
    report = load(database, file, spec)
    assert (report.rows_rejected, report.rows_inserted) == (1, RECORDS - 1)
    assert query(dsn, "SELECT record_number FROM loader.rejects") == [(30_001,)]
    assert leftovers(dsn) == []


# --- others meanwhile


@pytest.mark.parametrize("step", ["create", "give_name"])
def test_a_table_that_somebody_else_creates_meanwhile_is_loaded_into(
    dsn: str, database: Database, file: Path, monkeypatch: Any, step: str
) -> None:
    """Its rows stay, and the load's come to them."""
    own = getattr(NewTable, step)

    def late(self: NewTable, connection: Any) -> None:
        if not query(dsn, "SELECT to_regclass('trips')")[0][0]:
            query(dsn, f"{SCHEMA.format('trips')}; INSERT INTO trips VALUES (-1, 'theirs')")
        own(self, connection)

    monkeypatch.setattr(NewTable, step, late)
    report = load(database, file)
    assert (report.state, report.rows_inserted) == ("loaded", RECORDS)
    assert query(dsn, "DELETE FROM trips WHERE a = -1 RETURNING b") == [("theirs",)]
    assert differences(dsn, file) == 0
    assert leftovers(dsn) == []


def test_the_table_is_one_loads_at_a_time(dsn: str, database: Database, file: Path, tmp_path: Path) -> None:
    """Another load into the table that is not there yet waits for its turn, and appends."""
    other = tmp_path / "other.csv"
    other.write_text("a,b\n-1,other\n")
    reports: list[LoadReport] = []
    second = threading.Thread(target=lambda: reports.append(load(database, other)))

    def begin(progress: Progress) -> None:
        if not second.ident:
            second.start()

    reports.append(load(database, file, progress=begin))
    second.join(PATIENCE)
    assert [each.state for each in reports] == ["loaded", "loaded"]
    assert query(dsn, "SELECT count(*) FROM trips") == [(RECORDS + 1,)]


# --- dying and going on


@pytest.mark.parametrize("spec", [SPEC, KEYED], ids=["append", "keyed"])
def test_what_is_there_is_not_copied_again(dsn: str, database: Database, file: Path, spec: dict[str, Any]) -> None:
    """And what was committed beyond the checkpoint is not there twice."""
    pause(database, file, spec, RECORDS // 2)
    assert query(dsn, "SELECT to_regclass('trips')") == [(None,)]
    ((staged,),) = query(dsn, "SELECT record_number - 1 FROM loader.checkpoints")
    assert query(dsn, "SELECT count(*) >= %s FROM loader_staging_1_1", staged) == [(True,)]
    query(dsn, "INSERT INTO loader_staging_1_1 VALUES (-1, 'beyond the checkpoint')")
    report = load(database, file, spec)
    assert (report.attempts, report.resumes, report.rows_inserted) == (2, 1, RECORDS)
    assert report.bytes_read < 0.8 * file.stat().st_size
    assert differences(dsn, file) == 0
    assert leftovers(dsn) == []


@pytest.mark.parametrize("change", ["rows", "table", "comment"])
def test_what_is_not_what_it_was_begins_anew(dsn: str, database: Database, file: Path, change: str) -> None:
    """Rows are missing, all of it was dropped, or nobody knows whose it is."""
    pause(database, file, SPEC, RECORDS // 2)
    statements = {
        "rows": "DELETE FROM loader_staging_1_1 WHERE a = 5",
        "table": "DROP TABLE loader_staging_1_1",
        "comment": "COMMENT ON TABLE loader_staging_1_1 IS 'mine'",
    }
    query(dsn, statements[change])
    report = load(database, file)
    assert (report.state, report.resumes, report.rows_inserted) == ("loaded", 0, RECORDS)
    assert differences(dsn, file) == 0
    assert leftovers(dsn) == ([("loader_staging_1_1",)] if change == "comment" else [])


KILLS = [
    Death("create the new table", "before"),
    Death("create the new table", "after"),
    Death("copy a segment", "before", 3),
    Death("copy a segment", "after", 4),
    Death("save a checkpoint", "before", 2),
    Death("save a checkpoint", "after", 3),
    Death("give it its name", "before"),
    Death("give it its name", "after"),
    Death("finish", "after"),
    Death("clear leftovers", "before"),
]


@pytest.mark.parametrize("death", KILLS, ids=lambda death: f"{death.when} {death.step} {death.nth}")
@pytest.mark.parametrize("spec", [SPEC, KEYED], ids=["append", "keyed"])
def test_wherever_it_dies_the_next_call_goes_on(
    dsn: str, database: Database, file: Path, tmp_path: Path, spec: dict[str, Any], death: Death
) -> None:
    """Until the target is there with all rows it is not there; then nothing is left of how it was made."""
    job = Job(str(file), dsn, spec, {}, str(tmp_path / "told"), straight=50, death=death)
    process = victim.start(job)
    process.join(PATIENCE)
    assert process.exitcode == -9
    if death.step != "clear leftovers":
        assert query(dsn, "SELECT to_regclass('trips')") == [(None,)]
    process = victim.start(Job(str(file), dsn, spec, {}, str(tmp_path / "told"), straight=50))
    process.join(PATIENCE)
    assert process.exitcode == victim.DONE, (tmp_path / "told").read_text()
    assert differences(dsn, file) == 0
    assert leftovers(dsn) == []
    ((plan, resumes),) = query(dsn, "SELECT plan, resumes FROM loader.loads")
    assert plan.startswith(RENAMED)
    if death.step == "give it its name":
        assert resumes == 1


def test_dying_in_the_take_over_is_taken_over_again(dsn: str, database: Database, file: Path, tmp_path: Path) -> None:
    """The table has the name of an attempt that did nothing with it."""
    pause(database, file, SPEC, RECORDS // 2)
    for when in ("before", "after"):
        death = Death("take over the new table", when)  # type: ignore[arg-type]
        process = victim.start(Job(str(file), dsn, SPEC, {}, str(tmp_path / "told"), straight=50, death=death))
        process.join(PATIENCE)
        assert process.exitcode == -9
    report = load(database, file)
    assert (report.attempts, report.rows_inserted) == (4, RECORDS)
    assert report.resumes >= 1
    assert differences(dsn, file) == 0
    assert leftovers(dsn) == []


def test_a_session_of_an_earlier_attempt_is_ended(dsn: str, database: Database, file: Path) -> None:
    """It cannot bring its rows in any more."""
    pause(database, file, SPEC, RECORDS // 2)
    zombie = psycopg2.connect(dsn)
    with zombie.cursor() as cursor:
        cursor.execute("INSERT INTO loader_staging_1_1 VALUES (-1, 'late')")
    assert load(database, file).resumes == 1
    with pytest.raises(psycopg2.OperationalError):
        zombie.commit()
    assert differences(dsn, file) == 0


def test_after_a_crash_of_the_server_it_begins_anew(file: Path) -> None:
    """The checkpoint is gone, and what it vouched for is not trusted, though it is still there."""
    with own_server() as server:
        database = Database(server.dsn)
        pause(database, file, SPEC, RECORDS // 2)
        server.kill()
        server.start()
        report = load(database, file)
        assert (report.resumes, report.rows_inserted) == (0, RECORDS)
        assert differences(server.dsn, file) == 0
        assert leftovers(server.dsn) == []
        database.close()


# --- what nobody comes back to


def test_what_is_given_up_is_dropped_and_what_is_anothers_is_not(dsn: str, database: Database, file: Path) -> None:
    """A table of such a name without the loader's comment is somebody's own."""
    pause(database, file, SPEC, RECORDS // 2)
    query(dsn, "CREATE TABLE loader_staging_1_7 (mine int); CREATE TABLE loader_staging_99_1 (mine int)")
    with database.session() as connection:
        clear_leftovers(connection)
        assert len(query(dsn, "SELECT tablename FROM pg_tables WHERE tablename LIKE 'loader_staging_%%'")) == 3
        query(dsn, "UPDATE loader.loads SET state = 'failed', retryable = false")
        clear_leftovers(connection)
    names = query(dsn, "SELECT tablename FROM pg_tables WHERE tablename LIKE 'loader_staging_%%' ORDER BY 1")
    assert names == [("loader_staging_1_7",), ("loader_staging_99_1",)]


@pytest.mark.parametrize("name", ['"loader_staging_3_1"', '"public.loader_staging_3_1"', '"my.loader_staging_3_1"'])
def test_messages_do_not_name_it(name: str) -> None:
    """It is nothing that a user has."""
    assert without_internals(f"relation {name} does not exist") == "the staging table does not exist"


def test_its_plan_is_real(dsn: str, database: Database, file: Path, monkeypatch: Any) -> None:
    """`loader plan` tells the way, and PostgreSQL runs its statements."""
    monkeypatch.setattr("loader.engine.job.available_cores", lambda: 2)
    told = preview(str(file), loader.LoadSpec.from_dict(KEYED), database)
    assert told.way == (
        "over several streams into a new table, in segments with checkpoints, then renamed in one transaction"
    )
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        for statement in told.statements:
            if not statement.startswith("COPY"):
                cursor.execute(statement)
        cursor.execute("SELECT count(*) FROM pg_index WHERE indrelid = 'trips'::regclass AND indisprimary")
        assert cursor.fetchall() == [(1,)]
        connection.rollback()
    connection.close()
