"""A small object in one transaction of one session: what it costs, where it dies, and what a warm session must not
believe any more. That it leaves what the way of large objects leaves is the law of `test_small_law`."""

from __future__ import annotations

import gzip
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import psycopg2
import pytest
from psycopg2.extensions import make_dsn
from support import victim
from support.both_ways import WAYS, Taken, load_each, make, watching
from support.clock import PATIENCE
from support.lost_commit import Loses, losing_commit
from support.postgres import query
from support.victim import Death, Job

import loader
from bench.small.proxy import proxied
from loader import cli
from loader.core.deadline import NEVER, Deadline
from loader.core.report import LoadReport
from loader.engine import small_load
from loader.ledger import ledger
from loader.pipeline import How, load_one
from loader.postgres import statements
from loader.postgres.database import Database
from loader.postgres.merging import session_staging
from loader.postgres.merging.merge import AT_ONCE, FEW, Merge

_numbers = itertools.count()


class Warm:
    """One `Database` whose session stays, and files for it. ``taken``: see `Taken`."""

    def __init__(self, dsn: str, folder: Path, taken: Taken) -> None:
        self.dsn, self.taken, self._folder = dsn, taken, folder
        self.database = Database(dsn)

    def file(self, text: str | bytes, name: str | None = None) -> Path:
        path = self._folder / (name or f"{next(_numbers)}.csv")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def load(self, text: str | bytes, *, small: bool | None = True, how: How | None = None, **spec: Any) -> LoadReport:
        """Load a file of that text. ``small``: whether that must go the way of small objects; None: either."""
        report = self.load_file(self.file(text), how=how, **spec)
        assert small is None or self.taken.each[-1] is small
        return report

    def load_file(self, path: Path, how: How | None = None, **spec: Any) -> LoadReport:
        parsed = loader.LoadSpec.from_dict({"table": "t", "mode": "merge", "rejects": {"max_ratio": 1}, **spec})
        return load_one(str(path), parsed, self.database, how or How())

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return query(self.dsn, statement, *parameters)

    @property
    def kept(self) -> dict[str, Any]:
        """What its one idle session keeps."""
        (session,) = self.database._kept
        return session.kept

    def table(self, name: str = "t") -> list[str]:
        return [text for (text,) in self.query(f"SELECT x::text FROM {name} x ORDER BY 1")]


@pytest.fixture
def warm(dsn: str, tmp_path: Path) -> Iterator[Warm]:
    with watching() as taken:
        warm = Warm(dsn, tmp_path, taken)
        yield warm
        warm.database.close()


# --- what it costs


@pytest.mark.parametrize("mode", ["merge", "append", "replace"])
def test_a_warm_load_costs_few_statements(warm: Warm, mode: str) -> None:
    warm.query("CREATE TABLE t (a bigint PRIMARY KEY, b text, n numeric(10,2), at timestamptz)")
    with proxied(warm.dsn) as proxy:
        warm.database = Database(proxy.dsn)
        for number in range(3):
            warm.load(f"a,b,n,at\n{number},x,1.5,2024-05-06 07:08:09+02\n", mode=mode)
        before = proxy.counts
        warm.load("a,b,n,at\n7,x,1.5,2024-05-06 07:08:09+02\n", mode=mode)
        cost = proxy.counts - before
        warm.database.close()
    assert cost.sessions == 0
    assert cost.commits <= 2
    assert cost.statements <= {"append": 10, "merge": 11, "replace": 12}[mode]
    assert cost.round_trips <= cost.statements + 1  # COPY takes two


def test_a_cold_load_takes_one_session(warm: Warm) -> None:
    warm.query("CREATE TABLE t (a bigint PRIMARY KEY, b text)")
    with proxied(warm.dsn) as proxy:
        warm.database = Database(proxy.dsn)
        warm.load("a,b\n1,x\n")
        assert proxy.counts.sessions == 1
        warm.database.close()


# --- what a warm session must not believe any more

STALE: dict[str, tuple[str, str, str]] = {
    "a column more": ("a,b\n1,x\n", "ALTER TABLE {s}.t ADD c int DEFAULT 7", "a,b,c\n2,x,\n3,y,8\n"),
    "a column less": ("a,b,c\n1,x,1\n", "ALTER TABLE {s}.t DROP c", "a,b\n2,x\n"),
    "another type": ("a,b\n1,x\n", "ALTER TABLE {s}.t ALTER b TYPE varchar(2)", "a,b\n2,x\n3,long\n"),
    "no key": ("a,b\n1,x\n", "ALTER TABLE {s}.t DROP CONSTRAINT t_pkey", "a,b\n2,x\n"),
    "another key": (
        "a,b\n1,x\n",
        "ALTER TABLE {s}.t DROP CONSTRAINT t_pkey; ALTER TABLE {s}.t ADD PRIMARY KEY (b)",
        "a,b\n2,x\n",
    ),
    "not null": ("a,b\n1,x\n", "ALTER TABLE {s}.t ALTER b SET NOT NULL", "a,b\n2,x\n3,\n"),
    "made again": ("a,b\n1,x\n", "DROP TABLE {s}.t; CREATE TABLE {s}.t (a int PRIMARY KEY, b text)", "a,b\n2,x\n"),
    "a trigger": (
        "a,b\n1,x\n",
        "CREATE FUNCTION {s}.f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;"
        "CREATE TRIGGER g BEFORE INSERT ON {s}.t FOR EACH ROW EXECUTE FUNCTION {s}.f()",
        "a,b\n2,x\n1,y\n",
    ),
    "a rule": (
        "a,b\n1,x\n",
        "CREATE RULE r AS ON UPDATE TO {s}.t DO INSTEAD NOTHING",
        "a,b\n2,x\n1,y\n",
    ),
    "a view": ("a,b\n1,x\n", "ALTER TABLE {s}.t RENAME TO u; CREATE VIEW {s}.t AS SELECT * FROM {s}.u", "a,b\n2,x\n"),
    "a label more": ("a,m\n1,p\n", "ALTER TYPE {s}.mood ADD VALUE 'q'", "a,m\n2,q\n"),
    "a label with another name": ("a,m\n1,p\n", "ALTER TYPE {s}.mood RENAME VALUE 'p' TO 'q'", "a,m\n2,q\n3,p\n"),
    "a stricter domain": (
        "a,d\n1,1\n",
        "ALTER DOMAIN {s}.dom ADD CHECK (VALUE < 5)",
        "a,d\n2,4\n3,6\n",
    ),
    "a laxer domain": ("a,d\n1,1\n2,-1\n", "ALTER DOMAIN {s}.dom DROP CONSTRAINT dom_check", "a,d\n3,-4\n"),
    "a domain of another type": (
        "a,d\n1,1\n",
        "DROP DOMAIN {s}.dom CASCADE; CREATE DOMAIN {s}.dom AS real; ALTER TABLE {s}.t ADD d {s}.dom",
        "a,d\n2,4\n",
    ),
    "an enum that became a domain": (
        "a,m\n1,p\n",
        "DROP TYPE {s}.mood CASCADE; CREATE DOMAIN {s}.mood AS bytea; ALTER TABLE {s}.t ADD m {s}.mood",
        "a,m\n2,p\n3,\\\\x70\n",
    ),
}


def test_a_warm_session_sees_what_has_changed(dsn: str, tmp_path: Path) -> None:
    """By either way the second load is one into the table as it is then."""
    database, wrong = Database(dsn), {}
    types = {"b": "text", "c": "int", "m": "{s}.mood", "d": "{s}.dom"}
    for what, (before, change, after) in STALE.items():
        names = before.partition("\n")[0].split(",")[1:]
        make(
            dsn,
            "CREATE TYPE {s}.mood AS ENUM ('p')",
            "CREATE DOMAIN {s}.dom AS int CHECK (VALUE > 0)",
            f"CREATE TABLE {{s}}.t (a int PRIMARY KEY{''.join(f', {name} {types[name]}' for name in names)})",
        )
        left = {}
        for number, text in enumerate([before, after]):
            if number:
                query(dsn, "; ".join(change.replace("{s}", name) for name in WAYS))
            path = tmp_path / f"{what} {number}.csv"
            path.write_text(f"{path.name}\n{text}")
            spec = {"mode": "merge", "key": ["a"], "rejects": {"max_ratio": 1}, "csv": {"skip_lines": 1}}
            left = load_each(database, path, spec, dsn)
        if left["small"] != left["large"]:
            wrong[what] = left
    database.close()
    assert not wrong


def test_a_name_that_means_another_table(warm: Warm) -> None:
    """It was hidden by one that is earlier in the search_path, and then moved there."""
    warm.query("CREATE SCHEMA front; CREATE TABLE public.t (a int PRIMARY KEY)")
    warm.database = Database(make_dsn(warm.dsn, options="-c search_path=front,public"))
    warm.load("a\n1\n")
    warm.query("CREATE TABLE front.t (a int PRIMARY KEY)")
    warm.load("a\n2\n")
    assert (warm.table("public.t"), warm.table("front.t")) == (["(1)"], ["(2)"])
    warm.query("DROP TABLE front.t; ALTER TABLE public.t SET SCHEMA front")
    warm.load("a\n3\n")
    assert warm.table("front.t") == ["(1)", "(3)"]
    assert warm.query("SELECT target FROM loader.loads ORDER BY load_id") == [("public.t",), ("front.t",), ("front.t",)]


def test_a_default_is_another_value_each_time(warm: Warm) -> None:
    warm.query("CREATE TABLE t (a int PRIMARY KEY, at timestamptz)")
    spec = {"columns": {"a": "int", "at": {"type": "timestamptz", "default": "now"}}}
    for number in range(3):
        warm.load(f"a,at\n{number},\n", **spec)
    assert warm.query("SELECT count(DISTINCT at) FROM t") == [(3,)]


def test_another_time_zone_of_the_session(warm: Warm) -> None:
    """A role has another one from its next session on."""
    warm.query("CREATE TABLE t (a int PRIMARY KEY, at timestamptz)")
    ((role, name),) = warm.query("SELECT current_user::text, current_database()::text")
    for number, zone in enumerate(["UTC", "Asia/Kathmandu", "America/St_Johns"]):
        warm.query(f"ALTER ROLE {role} IN DATABASE {name} SET TimeZone = '{zone}'")
        warm.database.close()
        warm.load(f"a,at\n{number},2024-01-01 12:00\n")
    found = warm.query("SELECT (at AT TIME ZONE 'UTC')::time::text FROM t ORDER BY a")
    assert found == [("12:00:00",), ("06:15:00",), ("15:30:00",)]


def test_the_ledger_is_dropped(warm: Warm) -> None:
    warm.query("CREATE TABLE t (a int PRIMARY KEY)")
    warm.load("a\n1\n")
    warm.query("DROP SCHEMA loader CASCADE")
    warm.load("a\n2\n", small=None)
    warm.load("a\n3\n")
    assert warm.table() == ["(1)", "(2)", "(3)"]
    assert warm.query("SELECT count(*) FROM loader.loads WHERE state = 'loaded'") == [(2,)]


@pytest.mark.parametrize("mode", ["merge", "append"])
@pytest.mark.parametrize("what", ["DISCARD ALL", "DEALLOCATE ALL", "DISCARD TEMP"])
def test_a_session_that_was_cleared(warm: Warm, what: str, mode: str) -> None:
    """As by a pooler between two clients: the load gets through, and the next one is small again."""
    warm.query("CREATE TABLE t (a int PRIMARY KEY)")
    warm.load("a\n1\n", mode=mode)
    (session,) = warm.database._kept
    session.autocommit = True
    with session.cursor() as cursor:
        cursor.execute(what)
    session.autocommit = False
    warm.load("a\n2\n", mode=mode, small=None)
    warm.load("a\n3\n", mode=mode)
    assert warm.table() == ["(1)", "(2)", "(3)"]


# --- what it leaves on the server


def test_nothing_grows_and_nothing_is_held(warm: Warm) -> None:
    """Loads into tables of different forms: the catalog stays as it is, and a user's type can be dropped meanwhile."""
    warm.query(
        "CREATE TYPE mood AS ENUM ('p', 'q'); CREATE DOMAIN dom AS int;"
        "CREATE TABLE t (a bigint PRIMARY KEY, b text, i interval, r int[]);"
        "CREATE TABLE u (a text PRIMARY KEY, n numeric(8,2), at timestamptz);"
        'CREATE TABLE v (a int, j jsonb, c text COLLATE "C", UNIQUE (a, c));'
        "CREATE TABLE w (a int PRIMARY KEY, m mood, d dom)"
    )

    def load_all(first: int, past: int) -> None:
        for n in range(first, past):
            warm.load(f'a,b,i,r\n{n},x,1 day,"{{1,2}}"\n')
            warm.load(f"a,n,at\n{n},1.5,2024-01-01\n", table="u")
            warm.load(f'a,j,c\n{n},"[{n}]",x\n', table="v", key=["a", "c"])

    def size() -> list[tuple[Any, ...]]:
        return warm.query(
            "SELECT relname, pg_relation_size(oid), (SELECT count(*) FROM pg_class),"
            " (SELECT count(*) FROM pg_attribute) FROM pg_class WHERE relname = ANY (%s) ORDER BY 1",
            ["pg_class", "pg_attribute", "pg_type", "pg_depend"],
        )

    load_all(0, 2)
    before = size()
    load_all(2, 20)
    assert size() == before
    warm.load("a,m,d\n1,p,4\n", table="w")
    warm.query("DROP TABLE w; DROP TYPE mood; DROP DOMAIN dom")  # the session that loaded is still there
    assert warm.query("SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'") == [(3,)]


def test_more_forms_than_a_session_keeps(warm: Warm) -> None:
    many = session_staging.KEPT + 3
    for n in range(many):
        warm.query(f"CREATE TABLE t{n} (a int PRIMARY KEY, b{n} text)")
    for round_ in range(2):
        for n in range(many):
            warm.load(f"a,b{n}\n{round_},x\n", table=f"t{n}")
    assert [warm.table(f"t{n}") for n in range(many)] == [["(0,x)", "(1,x)"]] * many
    assert len(warm.kept["staging"]) == session_staging.KEPT


def test_a_role_that_may_not_have_temporary_tables(warm: Warm) -> None:
    ((name,),) = warm.query("SELECT current_database()::text")
    role = f"plain_{name}"
    warm.query(
        f"CREATE TABLE t (a int PRIMARY KEY); CREATE ROLE {role} LOGIN; REVOKE TEMP ON DATABASE {name} FROM PUBLIC;"
        f"GRANT ALL ON t TO {role}; GRANT ALL ON SCHEMA loader TO {role};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA loader TO {role}; GRANT ALL ON ALL SEQUENCES IN SCHEMA loader TO {role}"
    )
    warm.database = Database(make_dsn(warm.dsn, options=f"-c role={role}"))
    for n in range(2):
        warm.load(f"a\n{n}\n", small=False)
    warm.load("a\n2\n", mode="append")
    assert warm.table() == ["(0)", "(1)", "(2)"]
    warm.database.close()
    warm.query(f"DROP OWNED BY {role}; DROP ROLE {role}")


# --- where it dies

DEATHS = [
    "take the turn at once",
    "copy a small object",
    "merge at once",
    "enter as loaded",  # and about to commit
    "commit a small object",
]


def test_wherever_it_dies_the_next_call_loads_once(warm: Warm, tmp_path: Path) -> None:
    """Before its commit it leaves nothing at all, and after it everything."""
    warm.query("CREATE TABLE t (a int PRIMARY KEY, b text)")
    spec = {"table": "t", "mode": "merge", "rejects": {"max_ratio": 1}}
    for number, step in enumerate(DEATHS):
        path = warm.file(f"a,b\n0,{number}\n{number + 1},x\nbad,y\n")
        before = (warm.table(), loads(warm))
        process = victim.start(Job(str(path), warm.dsn, spec, {}, str(tmp_path / "told"), death=Death(step, "after")))
        process.join(PATIENCE)
        assert process.exitcode == -9, step
        committed = step == "commit a small object"
        assert committed or (warm.table(), loads(warm)) == before, step
        assert warm.load_file(path).state == ("skipped" if committed else "loaded"), step
        assert len(warm.table()) == number + 2, step
        assert loads(warm) == [*before[1], ("loaded", 3, 1, 1)], step
    assert warm.query("SELECT count(*) FROM loader.rejects") == [(len(DEATHS),)]
    assert (
        warm.query("SELECT tablename FROM pg_tables WHERE schemaname = 'loader' AND tablename LIKE 'staging%%'") == []
    )


def loads(warm: Warm) -> list[tuple[Any, ...]]:
    return warm.query("SELECT state, rows_read, rows_rejected, attempts FROM loader.loads ORDER BY load_id")


@pytest.mark.parametrize("mode", ["merge", "append"])
@pytest.mark.parametrize("loses", get_args(Loses))
def test_a_call_finds_what_it_has_committed(warm: Warm, loses: Loses, mode: str) -> None:
    """Though the answer to its commit is lost: its report is that of the load, once."""
    warm.query("CREATE TABLE t (a int PRIMARY KEY)")
    with losing_commit(warm.dsn, loses) as proxy:
        warm.database = Database(proxy.dsn)
        report = warm.load("a\n1\n2\nno\n", mode=mode, small=loses == "what follows")
        warm.load("a\n3\n", mode=mode)
        assert proxy.lost.is_set()
        warm.database.close()
    assert (report.state, report.rows_read, report.rows_inserted, report.rows_rejected) == ("loaded", 3, 2, 1)
    assert warm.query("SELECT load_id, rows_inserted FROM loader.loads WHERE state = 'loaded' ORDER BY 1") == [
        (report.load_id, 2),
        (report.load_id + 1, 1),
    ]
    assert warm.table() == ["(1)", "(2)", "(3)"]


def test_a_commit_that_is_refused(warm: Warm) -> None:
    """By a constraint that is deferred: its record is rejected by the way of large objects. Where that does not get
    its turn, the report names no load, for the ledger has none."""
    warm.query("CREATE TABLE t (a int, UNIQUE (a) DEFERRABLE INITIALLY DEFERRED)")
    assert warm.load("a\n1\n1\n2\n", mode="append", small=False).rows_rejected == 1
    before, done = loads(warm), threading.Event()

    def hold() -> None:
        with turn(warm, "t"):
            done.wait(PATIENCE)

    def told(*_: object) -> None:
        pool.submit(hold)
        waiting(warm, 1)

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(loader.BusyError) as caught:
            warm.load("a\n2\n", mode="append", how=How(told=told, wait=0.01))
        done.set()
    assert caught.value.report is not None
    assert caught.value.report.load_id is None
    assert loads(warm) == before


# --- beside others


@contextmanager
def turn(warm: Warm, name: str) -> Iterator[None]:
    """Its turn is held, as by the way of large objects."""
    ((target, oid),) = warm.query("SELECT %s, %s::regclass::oid::bigint", f"public.{name}", name)
    connection = psycopg2.connect(warm.dsn)
    with ledger.turn(connection, target, wait=PATIENCE, deadline=NEVER, oid=oid):
        yield
    connection.close()


def waiting(warm: Warm, number: int) -> None:
    """Wait until so many sessions wait for a turn."""
    statement = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    while warm.query(statement) != [(number,)]:
        pass


def test_a_table_whose_turn_is_taken(warm: Warm) -> None:
    """Whoever cannot wait is told so, and the ledger has nothing of it."""
    warm.query("CREATE TABLE t (a int PRIMARY KEY)")
    with turn(warm, "t"), pytest.raises(loader.BusyError) as caught:
        warm.load("a\n1\n", how=How(wait=0.01))
    assert caught.value.retryable
    assert caught.value.report is not None
    assert (caught.value.report.state, caught.value.report.load_id) == ("failed", None)
    assert warm.query("SELECT * FROM loader.loads") == []
    warm.load("a\n1\n", how=How(wait=0.01))


def test_a_load_that_is_told_to_stop_while_it_waits(warm: Warm) -> None:
    warm.query("CREATE TABLE t (a int PRIMARY KEY)")
    deadline = Deadline()
    with turn(warm, "t"), ThreadPoolExecutor(1) as pool:
        load = pool.submit(warm.load, "a\n1\n", how=How(deadline=deadline))
        waiting(warm, 1)
        deadline.stop("it was told to stop")
        with pytest.raises(loader.PausedError, match="it was told to stop while waiting for its turn"):
            load.result()
    assert warm.query("SELECT * FROM loader.loads") == []


def test_those_that_wait_load_in_their_order(warm: Warm) -> None:
    """And what they may do then is not bounded by how long they would have waited."""
    warm.query(
        "CREATE TABLE t (a int PRIMARY KEY, b text); CREATE TABLE seen (what text);"
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN INSERT INTO seen VALUES (current_setting('lock_timeout')); RETURN NULL; END$$;"
        "CREATE TRIGGER g AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()"
    )
    loads: list[Future[LoadReport]] = []
    with ThreadPoolExecutor(3) as pool:
        with turn(warm, "t"):
            for number in range(3):
                loads.append(pool.submit(warm.load, f"a,b\n1,{number}\n", small=None))
                waiting(warm, number + 1)
        reports = [each.result() for each in loads]
    assert all(warm.taken.each)
    assert [each.waited > 0 for each in reports] == [True] * 3
    assert warm.table() == ["(1,2)"]
    assert warm.query("SELECT rows_inserted, rows_updated FROM loader.loads ORDER BY applied") == [
        (1, 0),
        (0, 1),
        (0, 1),
    ]
    assert warm.query("SELECT DISTINCT what FROM seen") == [("0",)]


@pytest.mark.parametrize(("held", "wanted"), [("t", "t1"), ("t1", "t"), ("t1", "t2"), ("behind", "t1")])
def test_what_shares_rows_shares_turns(warm: Warm, held: str, wanted: str) -> None:
    warm.query(
        "CREATE TABLE t (a int PRIMARY KEY) PARTITION BY RANGE (a);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (5);"
        "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (5) TO (9);"
        "CREATE VIEW behind AS SELECT * FROM t"
    )
    row = "a\n7\n" if wanted == "t2" else "a\n1\n"
    with turn(warm, held), pytest.raises(loader.BusyError):
        warm.load(row, table=wanted, how=How(wait=0.01))
    warm.load(row, table=wanted)
    with psycopg2.connect(warm.dsn) as connection:
        assert ledger.turn_at_once(connection, (None, held), wait=1, deadline=NEVER)
        with pytest.raises(loader.BusyError):
            warm.load("a\n8\n" if wanted == "t2" else "a\n2\n", table=wanted, how=How(wait=0.01))
    connection.close()


def test_the_same_event_twice_at_once(warm: Warm) -> None:
    """One loads, whichever, and the other one finds that. It is beside loads of the other way, too."""
    warm.query("CREATE TABLE t (a int PRIMARY KEY, b text)")
    with ThreadPoolExecutor(4) as pool:
        for number in range(8):
            path = warm.file(f"a,b\n0,{number}\n{number + 1},x\n")
            hows = [{}, {}, {}, {"unknown": "add"}]  # which is no way of small objects
            begin = threading.Barrier(4)

            def load(how: dict[str, Any], path: Path = path, begin: threading.Barrier = begin) -> LoadReport:
                begin.wait()
                return warm.load_file(path, **how)

            states = sorted(each.state for each in pool.map(load, hows))
            assert states == ["loaded", "skipped", "skipped", "skipped"]
    assert len(warm.table()) == 9
    assert warm.query("SELECT count(*), count(DISTINCT applied), max(applied) FROM loader.loads") == [(8, 8, 8)]


def test_many_sessions_write_one_table_one_after_another(warm: Warm) -> None:
    """What the table has in the end is what the load wrote that the ledger numbers last."""
    warm.query("CREATE TABLE t (a int PRIMARY KEY, b text)")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: warm.load(f"a,b\n0,{n}\n{n + 1},x\n", small=None), range(24)))
    found = warm.query("SELECT key, rows_inserted, rows_updated FROM loader.loads ORDER BY applied")
    assert [each[1:] for each in found] == [(2, 0)] + [(1, 1)] * 23
    last = Path(found[-1][0]).read_text().split("\n")[1]
    assert warm.table()[0] == f"({last})"


# --- what is not plain


def test_a_callback_that_raises(warm: Warm) -> None:
    """It is its own error that is raised, and nothing was done: there is no attempt that the ledger could have."""
    warm.query("CREATE TABLE t (a int PRIMARY KEY)")
    path = warm.file("a\n1\n")

    def raising(*_: object) -> None:
        raise psycopg2.errors.UniqueViolation("that looks like the table's")

    for how in (How(progress=raising), How(told=raising)):
        with pytest.raises(psycopg2.errors.UniqueViolation, match="that looks like"):
            warm.load_file(path, how)
        assert (warm.table(), loads(warm)) == ([], [])
    assert warm.load_file(path).state == "loaded"


def test_files_that_are_hardly_files(warm: Warm) -> None:
    """Of an empty one the ledger has the failure, as of any other that is no CSV."""
    warm.query("CREATE TABLE t (a int PRIMARY KEY, b text)")
    with pytest.raises(loader.ShapeError, match="the file is empty"):
        warm.load("")
    assert loads(warm) == [("failed", 0, 0, 1)]
    for number, text in enumerate(["a,b\n", "a,b", "b,a"]):
        assert warm.load(text).rows_read == 0, number
    assert warm.load("", csv={"header": False}).rows_read == 0


def test_an_object_that_swells(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is too large after all, which is known only when it is read."""
    monkeypatch.setenv(small_load.SETTING, "20000")
    warm.query("CREATE TABLE t (a int PRIMARY KEY, b text)")
    text = "a,b\n" + "".join(f"{n},{'x' * 100}\n" for n in range(2000))
    body = gzip.compress(text.encode())
    assert len(body) < 20000
    for number, mode in enumerate(["append", "merge"]):
        body += gzip.compress(b"") * number  # other bytes of the same text
        report = warm.load(body, small=False, mode=mode)
        assert (report.rows_read, report.bytes_read, report.rows_rejected) == (2000, len(body), 0)
    assert len(warm.table()) == 2000


@pytest.mark.parametrize("number", [499, 500, 501])
def test_more_rejects_than_are_kept_in_memory(warm: Warm, number: int) -> None:
    warm.query("CREATE TABLE t (a int PRIMARY KEY)")
    report = warm.load("a\n1\n" + "no\n" * number, small=number < 500)
    assert (report.rows_rejected, report.rows_inserted, report.bytes_read) == (number, 1, 4 + 3 * number)
    assert warm.query("SELECT count(*), min(line_number), max(byte_offset) FROM loader.rejects") == [
        (number, 3, 4 + 3 * (number - 1))
    ]


def test_keys_that_come_again_are_found_by_hashing(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    """No index finds them: a join by nested loops looks at every pair, which takes minutes for 60,000 records."""
    asked = []
    real = Merge.drop_repeated

    def drop_repeated(merge: Merge) -> int:
        asked.append(statements.rows(merge.connection, "SHOW enable_hashjoin")[0][0])
        return real(merge)

    monkeypatch.setattr(Merge, "drop_repeated", drop_repeated)
    warm.query("CREATE TABLE t (a int PRIMARY KEY, b int)")
    for number, count in enumerate([10, FEW + 10]):  # few rows, and so many that the course is chosen by what they are
        report = warm.load("a,b\n" + "".join(f"{n % (count // 2)},{number}\n" for n in range(count)))
        assert report.rows_duplicate == count // 2
        assert (report.plan or "").startswith(AT_ONCE) is (count < FEW)
    assert asked == ["on", "on"]


# --- the setting


@pytest.mark.parametrize(
    ("value", "size", "small"), [("0", 1, False), ("30", 30, True), ("29", 30, False), ("", 30, True)]
)
def test_how_large_a_small_object_is(
    warm: Warm, monkeypatch: pytest.MonkeyPatch, value: str, size: int, small: bool
) -> None:
    monkeypatch.setenv(small_load.SETTING, value)
    warm.query("CREATE TABLE t (a text)")
    warm.load("a\n" + "x" * (size - 3) + "\n", mode="append", small=small)


@pytest.mark.parametrize("value", ["many", "-1", "1e6", "4 MiB", "\u0663", "67108865", "9" * 5000])
def test_a_setting_that_is_no_number(warm: Warm, monkeypatch: pytest.MonkeyPatch, value: str, capsys: Any) -> None:
    monkeypatch.setenv(small_load.SETTING, value)
    warm.query("CREATE TABLE t (a text)")
    path = warm.file("a\nx\n")
    assert cli.main(["load", str(path), "--table", "t", "--dsn", warm.dsn]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    rule = "it must be a number of bytes, 0 for no small objects, at most 67108864"
    assert told == [f"loader: ${small_load.SETTING} is {value!r}; {rule}"]
    assert warm.table() == []
