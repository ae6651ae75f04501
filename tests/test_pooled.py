"""Through PgBouncer: session mode is as good as the server; any other is refused before anything is changed."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from support import victim
from support.clients import wait_for
from support.pooled import Pooled, command, pooled
from support.postgres import query
from support.victim import Death, Job

import loader
from loader.aws import settings
from loader.aws.handler import handler
from loader.cli import main
from loader.core.deadline import NEVER, Deadline
from loader.core.errors import DatabaseError, LoaderError, SetupError
from loader.core.report import LoadReport
from loader.ledger import ledger
from loader.ledger.ledger import Errand
from loader.postgres import pooler
from loader.postgres.database import Database
from loader.postgres.statements import execute, rows
from loader.sources.source import Missing

KEYS = 20_000
SPEC = {"table": "trips", "mode": "merge", "key": ["a"], "columns": {"a": "int", "b": "int"}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "trips.csv"
    path.write_text("a,b\n" + "".join(f"{key},{key}\n" for key in range(KEYS)))
    return path


def merges_at_once(pool: Pooled, folder: Path, number: int) -> list[LoadReport | LoaderError]:
    """What became of so many merges of the same keys, begun at once."""
    begin = threading.Barrier(number)

    def merge(name: int) -> LoadReport | LoaderError:
        file = folder / f"{name}.csv"
        file.write_text("a,b\n" + "".join(f"{key},{name}\n" for key in range(KEYS)))
        begin.wait()
        try:
            return loader.load(str(file), SPEC, dsn=pool.dsn)
        except LoaderError as error:
            return error

    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(merge, range(number)))


def left_behind(dsn: str, pool: Pooled) -> dict[str, Any]:
    """What other clients of the pool would find: locks, and settings of its connections that are not the server's."""
    settings = (
        "SELECT name, setting FROM pg_settings WHERE source = 'session' AND name NOT IN"
        " ('application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings')"
    )  # those are each client's own: PgBouncer sets them before it hands a connection to another
    client = psycopg2.connect(pool.dsn)
    client.autocommit = True  # in statement mode there is no BEGIN
    with closing(client), client.cursor() as cursor:
        cursor.execute(settings)
        locks = query(dsn, "SELECT pid, objid FROM pg_locks WHERE locktype = 'advisory'")
        return {"locks": locks, "settings": cursor.fetchall()}


@pytest.mark.parametrize(("mode", "size"), [("transaction", 20), ("transaction", 1), ("statement", 1)])
def test_merges_at_once_through_shared_connections_are_refused(dsn: str, tmp_path: Path, mode: str, size: int) -> None:
    """Each in one sentence, and nothing is changed. Before, two of them loaded at once and the keys were doubled."""
    query(dsn, "CREATE TABLE trips (a int, b int)")
    with pooled(dsn, mode, default_pool_size=size) as pool:
        for outcome in merges_at_once(pool, tmp_path, 4):
            assert isinstance(outcome, SetupError)
            assert "a pool that shares its connections between clients" in str(outcome)
            assert "pool_mode = session" in str(outcome)
            assert not outcome.retryable
        assert left_behind(dsn, pool) == {"locks": [], "settings": []}
    assert query(dsn, "SELECT count(*) FROM trips") == [(0,)]
    assert query(dsn, "SELECT count(*) FROM loader.loads") == [(0,)]


@pytest.mark.without_ledger
def test_the_command_says_so_before_it_makes_a_ledger(dsn: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2: it is the address that is wrong."""
    with pooled(dsn, "transaction") as pool:
        assert main(["load", str(file), "--table", "trips", "--dsn", pool.dsn]) == 2
    told = capsys.readouterr().err
    assert "host=127.0.0.1" in told
    assert "connect to PostgreSQL itself, or to a pool with pool_mode = session" in told
    assert query(dsn, "SELECT to_regnamespace('loader')") == [(None,)]


@pytest.mark.parametrize("in_turn", [0, 1])
def test_a_busy_pool_is_found_out(dsn: str, in_turn: int) -> None:
    """Whichever connections others take meanwhile, and in whatever order the pool gives them out."""
    with pooled(dsn, "transaction", default_pool_size=3, server_round_robin=in_turn) as pool, ExitStack() as stack:
        done = threading.Event()
        stack.callback(done.set)

        def keep_busy() -> None:
            with closing(psycopg2.connect(pool.dsn)) as client:
                while not done.is_set():
                    with client, client.cursor() as cursor:
                        cursor.execute("SELECT count(*) FROM generate_series(1, 300)")

        threads = [threading.Thread(target=keep_busy) for _ in range(4)]
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        stack.callback(done.set)
        for _ in range(20):
            with pytest.raises(SetupError), Database(pool.dsn).session():
                pass


def asking(choose: Callable[[], int]) -> bool:
    return pooler.shares_backends(choose, choose)


def test_how_sure_it_is() -> None:
    """The worst there is: two connections, and others that leave either of them to chance."""
    chance = random.Random(1)
    assert all(asking(lambda: chance.randrange(2)) for _ in range(20_000))
    for size in range(1, 6):
        turns = iter(range(1000))
        assert asking(lambda size=size, turns=turns: next(turns) % size)  # type: ignore[misc]
    assert not pooler.shares_backends(lambda: 1, lambda: 2)


# --- what is left where a pool was not found out


@pytest.fixture
def undetected(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if chance had hidden that the pool shares its connections."""
    monkeypatch.setattr(pooler, "ROUNDS", 0)


@pytest.mark.usefixtures("undetected")
def test_a_turn_is_not_had_twice_on_one_connection(dsn: str) -> None:
    """An advisory lock would be: whoever has it gets it again at once."""
    with pooled(dsn, "transaction", default_pool_size=1) as pool, ExitStack() as stack:
        one, other = (stack.enter_context(Database(pool.dsn).session()) for _ in range(2))
        with (
            ledger.turn(one, "public.trips", wait=1, deadline=NEVER),
            pytest.raises(SetupError, match="a pool that shares its connections"),
            ledger.turn(other, "public.trips", wait=1, deadline=NEVER),
        ):
            pass


@pytest.mark.usefixtures("undetected")
def test_no_load_is_entered_as_loaded_on_a_connection_without_the_turn(dsn: str) -> None:
    """The transaction that merges runs on whichever connection is free; the lock stays where it was taken."""
    with pooled(dsn, "transaction") as pool, ExitStack() as stack:
        one = stack.enter_context(Database(pool.dsn).session())
        with ledger.turn(one, "public.trips", wait=1, deadline=NEVER):
            entry = ledger.enter(one, Errand(Missing("x.csv", None), "public.trips", loader.LoadSpec.from_dict(SPEC)))
            report = LoadReport("loaded", "x.csv", "trips", "merge", load_id=entry.load_id)
            ledger.finish(one, report, "loaded")  # on the connection with the turn it may
            ((turns_backend,),) = rows(one, "SELECT pg_backend_pid()")
            one.rollback()
            with closing(psycopg2.connect(pool.dsn)) as stranger:
                assert rows(stranger, "SELECT pg_backend_pid()") == [(turns_backend,)]  # the transaction stays open
                with pytest.raises(SetupError, match="has not the turn that it took"):
                    ledger.finish(one, report, "loaded")
                one.rollback()
        assert query(dsn, "SELECT state FROM loader.loads") == [("running",)]


# --- session mode


@pytest.fixture
def pool(dsn: str) -> Iterator[Pooled]:
    with pooled(dsn, "session") as pool:
        yield pool


def test_merges_at_once_in_session_mode_take_turns(dsn: str, pool: Pooled, tmp_path: Path) -> None:
    """As without a pool, and what a session has set goes with it."""
    query(dsn, "CREATE TABLE trips (a int, b int)")
    outcomes = merges_at_once(pool, tmp_path, 4)
    assert [outcome.state for outcome in outcomes if isinstance(outcome, LoadReport)] == ["loaded"] * 4
    assert query(dsn, "SELECT count(*), count(DISTINCT a) FROM trips") == [(KEYS, KEYS)]
    assert left_behind(dsn, pool) == {"locks": [], "settings": []}


def test_workers_load_in_session_mode(dsn: str, pool: Pooled, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process with sessions of its own."""
    monkeypatch.setattr("loader.sharding.workers.LEAST", 50_000)
    monkeypatch.setattr("loader.engine.attempts.available_cores", lambda: 3)
    report = loader.load(str(file), {**SPEC, "segment_mb": 1}, dsn=pool.dsn, workers=2)
    assert report.rows_inserted == KEYS
    assert "by one worker" not in " ".join(report.notes)
    assert query(dsn, "SELECT count(*), sum(b) FROM trips") == [(KEYS, KEYS * (KEYS - 1) // 2)]


@pytest.mark.parametrize("step", ["copy a segment", "merge"])
def test_a_client_of_a_pool_that_is_killed_leaves_no_lock(
    dsn: str, pool: Pooled, file: Path, tmp_path: Path, step: str
) -> None:
    """PgBouncer ends or resets its session, the load is seen to have died, and the same call goes on."""
    query(dsn, "CREATE TABLE trips (a int PRIMARY KEY, b int)")
    query(dsn, "INSERT INTO trips VALUES (1, 0)")  # so it is merged

    def job(death: Death | None) -> Job:
        return Job(str(file), pool.dsn, SPEC, {}, str(tmp_path / "told"), death=death, small=False)

    process = victim.start(job(Death(step, "after")))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    wait_for(lambda: query(dsn, "SELECT pid FROM pg_locks WHERE locktype = 'advisory'") == [])
    with Database(pool.dsn).session() as connection:
        assert [each["state"] for each in ledger.history(connection)] == ["died"]
    process = victim.start(job(None))
    process.join()
    assert process.exitcode == victim.DONE
    assert query(dsn, "SELECT count(*), sum(b) FROM trips") == [(KEYS, KEYS * (KEYS - 1) // 2)]


def test_a_statement_is_called_back_through_a_pool(dsn: str, pool: Pooled) -> None:
    """PgBouncer passes the request on to the connection that the client has."""
    deadline = Deadline()

    def stop_when_it_runs() -> None:
        running = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(600)'"
        wait_for(lambda: query(dsn, running))
        deadline.stop("it was told to stop")

    with Database(pool.dsn).session() as connection, deadline.calling(connection.cancel):
        thread = threading.Thread(target=stop_when_it_runs)
        thread.start()
        with pytest.raises(psycopg2.errors.QueryCanceled):
            execute(connection, "SELECT pg_sleep(600)")
        thread.join()
        connection.rollback()


def test_the_pool_is_asked_once(pool: Pooled) -> None:
    """Not for every session: that would take a second server connection each time."""
    with ExitStack() as stack:
        database = Database(pool.dsn)
        stack.callback(database.close)
        for _ in range(3):
            stack.enter_context(database.session())
        used = [each for each in command(pool, "SHOW SERVERS") if each["state"] == "active"]
        assert len(used) == 3
        assert len(command(pool, "SHOW SERVERS")) == 3  # the probe's own connection was given on


def test_a_pool_that_resets_nothing_is_found_out_by_the_lock_that_it_keeps(dsn: str) -> None:
    """A client that died left its lock on the connection; without a word, the table would be shut for good."""
    with pooled(dsn, "session", server_reset_query="", default_pool_size=2) as pool:
        with closing(psycopg2.connect(pool.dsn)) as killed:
            rows(killed, f"SELECT pg_advisory_lock({ledger.TURN_KEY})", ("public.trips",))
            killed.commit()
        with (
            Database(pool.dsn).session() as connection,
            pytest.raises(SetupError, match="without server_reset_query"),
            ledger.turn(connection, "public.trips", wait=1, deadline=NEVER),
        ):
            pass


def test_a_parameter_that_the_pool_does_not_know(pool: Pooled) -> None:
    """The sentence says what to do."""
    database = Database(f"{pool.dsn} options='-c work_mem=64MB'")
    with pytest.raises(
        DatabaseError, match=r"leave it out, or add it to ignore_startup_parameters: .*unsupported startup parameter"
    ) as caught:
        database.session().__enter__()
    assert not caught.value.retryable


def test_a_parameter_that_the_pool_is_told_to_ignore(dsn: str) -> None:
    """Then it has no effect, so the role has to have it."""
    with (
        pooled(dsn, "session", ignore_startup_parameters="options") as pool,
        Database(f"{pool.dsn} options='-c work_mem=64MB'").session() as connection,
    ):
        assert rows(connection, "SHOW work_mem") == [("4MB",)]


class Context:
    """What Lambda hands to a function, as far as it is used."""

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_function_through_a_pool(dsn: str, s3: Any, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """With its sessions bounded by the time left, and kept between calls. A pool that shares its connections is the
    deployment's fault and not the file's: the message comes again, and is not put aside."""
    s3.put("trips.csv", b"a,b\n1,2\n")
    event = {"source": s3.uri("trips.csv"), "spec": SPEC}
    with pooled(dsn, mode) as pool:
        monkeypatch.setenv("LOADER_DSN", pool.dsn)
        try:
            if mode == "session":
                assert [handler(event, Context())["loads"][0]["state"] for _ in range(2)] == ["loaded", "skipped"]
            else:
                with pytest.raises(SetupError, match="pool_mode = session"):
                    handler(event, Context())
        finally:
            settings.settings().database.close()
            settings.forget()
