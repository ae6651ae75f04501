"""A forced load takes effect once for each request, however often that comes and whatever becomes of its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import psycopg2.errors
import pytest
from support.lost_commit import Loses, losing_commit
from support.postgres import query

import loader
from loader.aws import settings
from loader.aws.handler import handler
from loader.core.deadline import Deadline
from loader.core.errors import UsageError
from loader.core.report import LoadReport
from loader.core.spec.model import LoadSpec
from loader.pipeline import How, load_one, note_unopened
from loader.postgres.database import Database
from loader.records import splitter
from loader.replays import replay
from loader.sharding import workers

SPEC = loader.LoadSpec.from_dict({"table": "t", "columns": {"id": "int", "text": "text"}})
ROWS = 20_000


@pytest.fixture
def path(dsn: str, tmp_path: Path) -> str:
    """A file that was loaded before."""
    path = tmp_path / "t.csv"
    path.write_text("id,text\n" + "".join(f"{number},{'x' * 40}\n" for number in range(ROWS)))
    assert loader.load(str(path), SPEC, dsn=dsn).rows_inserted == ROWS
    return str(path)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has several."""
    monkeypatch.setattr(workers, "LEAST", 200 << 10)


def force(dsn: str, source: str, **how: Any) -> LoadReport:
    database = Database(dsn)
    try:
        return load_one(source, SPEC, database, How(force=True, **how))
    finally:
        database.close()


def count(dsn: str) -> int:
    found: int = query(dsn, "SELECT count(*) FROM t")[0][0]
    return found


@pytest.mark.parametrize("loses", get_args(Loses))
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.usefixtures("small_shards")
def test_a_call_finds_what_it_has_committed(dsn: str, path: str, loses: Loses, number: int) -> None:
    """Its report is that of the load; nothing is loaded twice."""
    with losing_commit(dsn, loses) as proxy:
        report = force(proxy.dsn, path, workers=number)
        assert proxy.lost.is_set()
    assert (report.state, report.load_id, report.rows_inserted) == ("loaded", 2, ROWS)
    assert ("shards" in str(report.notes)) == (number == 2)
    assert count(dsn) == 2 * ROWS


@pytest.mark.usefixtures("small_shards")
def test_two_calls_both_take_effect(dsn: str, path: str) -> None:
    for number in (1, 2):
        assert force(dsn, path, workers=number).state == "loaded"
    assert count(dsn) == 3 * ROWS
    assert query(dsn, "SELECT count(DISTINCT token), count(token) FROM loader.loads") == [(2, 2)]


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.usefixtures("small_shards")
def test_a_request_that_comes_again_changes_nothing(dsn: str, path: str, number: int) -> None:
    """Whatever the file holds by then, and though its table was dropped since."""
    assert force(dsn, path, workers=number, token="a").state == "loaded"
    Path(path).write_text("id,text\n1,new\n")
    again = force(dsn, path, workers=number, token="a")
    assert (again.state, again.load_id) == ("skipped", 2)
    assert again.notes[-1] == (
        "load 2 did what this very request to load it by force asks for: the request came again; "
        "a new one loads it once more"
    )
    query(dsn, "DROP TABLE t")
    assert force(dsn, path, workers=number, token="a").state == "skipped"
    assert force(dsn, path, workers=number, token="b").rows_inserted == 1


def test_a_token_is_for_one_object(dsn: str, path: str, tmp_path: Path) -> None:
    """And of several that one call loads, each has its own."""
    (tmp_path / "u.csv").write_text("id,text\n1,x\n")
    for source in (path, str(tmp_path / "u.csv")):
        assert force(dsn, source, token="a").state == "loaded"
    assert loader.load(str(tmp_path / "*.csv"), SPEC, dsn=dsn, force=True).state == "loaded"
    assert query(dsn, "SELECT count(DISTINCT token) FROM loader.loads WHERE forced") == [(3,)]
    assert count(dsn) == 3 * ROWS + 2


def pause(dsn: str, source: str, **how: Any) -> None:
    """Begin to load it by force, and come to rest on the way."""
    deadline = Deadline()
    with pytest.raises(loader.PausedError):
        force(dsn, source, deadline=deadline, progress=lambda _: deadline.stop("it was told to stop"), **how)


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load is staged, in blocks and segments of which the file has several."""
    monkeypatch.setattr("loader.engine.job.STRAIGHT", 0)
    monkeypatch.setitem(splitter.split.__kwdefaults__, "block_size", 32 << 10)
    monkeypatch.setattr(LoadSpec, "segment_size", property(lambda _: 64 << 10))


@pytest.mark.usefixtures("staged")
@pytest.mark.parametrize("token", ["", "token = NULL,"])
def test_the_same_command_goes_on_with_what_was_stopped(dsn: str, path: str, token: str) -> None:
    """Though each call is a request of its own; and with what version 6 had begun."""
    pause(dsn, path)
    query(dsn, f"UPDATE loader.loads SET {token} waited = 0 WHERE load_id = 2")
    report = force(dsn, path)
    assert (report.state, report.load_id, report.attempts, report.resumes) == ("loaded", 2, 2, 1)
    assert count(dsn) == 2 * ROWS


@pytest.mark.usefixtures("staged")
def test_a_request_whose_load_another_one_finished_is_still_due(dsn: str, path: str) -> None:
    """Two were asked for. The first begins anew."""
    pause(dsn, path, token="a")
    assert force(dsn, path, token="b").load_id == 2
    first = force(dsn, path, token="a")
    assert (first.state, first.load_id, first.resumes) == ("loaded", 3, 0)
    assert [force(dsn, path, token=each).state for each in "ab"] == ["skipped"] * 2
    assert count(dsn) == 3 * ROWS


@pytest.mark.usefixtures("staged")
def test_a_replay_goes_on_for_the_request_that_began(dsn: str, path: str) -> None:
    pause(dsn, path, token="a")
    database = Database(dsn)
    assert replay(2, database).resumes == 1
    database.close()
    assert force(dsn, path, token="a").state == "skipped"
    assert count(dsn) == 2 * ROWS


def test_the_ledger_itself_refuses_a_second_effect(dsn: str, path: str) -> None:
    force(dsn, path, token="a")
    force(dsn, path, token="b")
    with pytest.raises(psycopg2.errors.UniqueViolation):
        query(dsn, "UPDATE loader.loads SET token = 'a' WHERE forced")


@pytest.mark.usefixtures("staged")
def test_what_cannot_be_opened_leaves_another_requests_load_alone(dsn: str, s3: Any) -> None:
    """It was stopped, and the same command goes on with it."""
    version = s3.put("t.csv", b"id,text\n" + b"1,x\n" * ROWS)
    database, deadline = Database(dsn), Deadline()
    how = How(force=True, token="a", deadline=deadline, progress=lambda _: deadline.stop("it was told to stop"))
    with pytest.raises(loader.PausedError):
        load_one(s3.uri("t.csv"), SPEC, database, how, s3=s3.client)
    report = LoadReport("failed", s3.uri("t.csv"), "t", "append", version=version, error="S3 says 403")
    note_unopened(database, SPEC, report, How(force=True, token="b"))
    assert query(dsn, "SELECT token, state FROM loader.loads ORDER BY 1") == [("a", "paused"), ("b", "failed")]
    database.close()


@pytest.mark.usefixtures("staged")
def test_what_was_stopped_ends_when_its_version_was_loaded_by_force(dsn: str, tmp_path: Path) -> None:
    """It has nothing to go on with, and is not waited for."""
    path = tmp_path / "new.csv"
    path.write_text("id,text\n" + "1,x\n" * ROWS)
    database, deadline = Database(dsn), Deadline()
    how = How(deadline=deadline, progress=lambda _: deadline.stop("it was told to stop"))
    with pytest.raises(loader.PausedError):
        load_one(str(path), SPEC, database, how)
    assert force(dsn, str(path)).load_id == 2
    assert load_one(str(path), SPEC, database).state == "skipped"
    ended = ("failed", "load 2 has loaded this version meanwhile")
    assert query(dsn, "SELECT state, error FROM loader.loads ORDER BY load_id") == [ended, ("loaded", None)]
    assert query(dsn, "SELECT FROM pg_class WHERE relname LIKE 'staging%'") == []
    database.close()


# --- events


class Context:
    def __init__(self, request: str) -> None:
        self.aws_request_id = request

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


@pytest.fixture
def invoke(dsn: str, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """The function, called directly for an object that was loaded before."""
    monkeypatch.setenv("LOADER_DSN", dsn)
    s3.put("t.csv", b"id,text\n1,x\n")
    asked = {"source": s3.uri("t.csv"), "spec": {"table": "t"}}
    assert handler(asked, Context("first"))["loads"][0]["state"] == "loaded"

    def call(request: str, **more: Any) -> dict[str, Any]:
        (report,) = handler({**asked, "force": True, **more}, Context(request))["loads"]
        return dict(report)

    yield call
    settings.forget()


def test_an_event_that_lambda_tries_again_takes_effect_once(
    dsn: str, s3: Any, invoke: Callable[..., dict[str, Any]]
) -> None:
    """Its request is the same then, though another version of the object may be the newest by now."""
    loaded, again = invoke("a"), invoke("a")
    assert (loaded["state"], again["state"], again["load_id"]) == ("loaded", "skipped", loaded["load_id"])
    s3.put("t.csv", b"id,text\n2,y\n")
    assert invoke("a")["state"] == "skipped"
    assert count(dsn) == 2
    assert invoke("b")["state"] == "loaded"
    assert count(dsn) == 3


def test_a_token_of_the_event_goes_before_the_request(dsn: str, invoke: Callable[..., dict[str, Any]]) -> None:
    assert [invoke(request, token="mine")["state"] for request in "ab"] == ["loaded", "skipped"]
    assert [invoke("a", token=token)["state"] for token in ("other", "mine")] == ["loaded", "skipped"]
    assert count(dsn) == 3


def test_a_token_is_for_one_request_whatever_version_it_names(
    dsn: str, s3: Any, invoke: Callable[..., dict[str, Any]]
) -> None:
    """The answer names the load that it stands for; a new wish needs a new token."""
    first = invoke("a", token="mine")
    version = s3.put("t.csv", b"id,text\n2,y\n")
    again = invoke("b", token="mine", version_id=version)
    assert (again["state"], again["load_id"]) == ("skipped", first["load_id"])
    assert invoke("b", token="another", version_id=version)["state"] == "loaded"
    assert query(dsn, "SELECT id, text FROM t ORDER BY id") == [(1, "x"), (1, "x"), (2, "y")]


def test_a_token_without_force_is_an_error(s3: Any) -> None:
    event = {"source": s3.uri("t.csv"), "spec": {"table": "t"}, "token": "mine"}
    with pytest.raises(UsageError, match='"force": true'):
        handler(event, Context("a"))
