"""One object by the steps of the state machine, called as its definition says, on a real PostgreSQL and S3 protocol."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support.machine import Execution, StatesError
from support.postgres import query

import loader
from loader.aws import settings
from loader.aws.fleet import steps
from loader.aws.fleet.plan_store import StoredJson
from loader.core.deadline import NEVER
from loader.core.errors import DatabaseUnavailableError, UsageError
from loader.ledger import checkpoints, ledger
from loader.postgres.merging.staging import drop_tables
from loader.sharding import runs, shards
from loader.sharding.proof import ShardPlan

KEY = "incoming/lines.csv"
SPEC = """
source = "incoming/*.csv"
table = "public.lines"
[rejects]
max_rows = 50
"""
COLUMNS = '[columns]\nid = "bigint"\nnote = "text"\n'


@pytest.fixture(autouse=True)
def function(dsn: str, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cold function of a fleet, whose shards have 4,000 bytes at most."""
    (tmp_path / "specs").mkdir()
    tell(tmp_path, SPEC + COLUMNS)
    monkeypatch.setenv("LOADER_DSN", dsn)
    monkeypatch.setenv("LOADER_SPECS", str(tmp_path / "specs"))
    monkeypatch.setenv("LOADER_PLANS", f"s3://{s3.bucket}/fleet/")
    monkeypatch.setenv("LOADER_SHARD_BYTES", "4000")
    yield
    settings.forget()


def tell(folder: Path, spec: str) -> None:
    (folder / "specs" / "lines.toml").write_text(spec)


def body(records: int = 800, *, odd: str = "{n}") -> bytes:
    """Of 800 some 23,000 bytes: 8 shards. ``odd``: what the 200th from the end has for a number."""
    told = [f'{n if n != records - 200 else odd.format(n=n)},"note {n},\nof two lines"\n' for n in range(records)]
    return ("id,note\n" + "".join(told)).encode()


class Context:
    """Of an invocation that has so many seconds left."""

    aws_request_id = "request"

    def __init__(self, seconds: int) -> None:
        self._left = seconds * 1000

    def get_remaining_time_in_millis(self) -> int:
        return self._left


@contextmanager
def holding_turn(dsn: str) -> Iterator[None]:
    """Another load into the table is under way."""
    connection = psycopg2.connect(dsn)
    with closing(connection), ledger.turn(connection, "public.lines", wait=10, deadline=NEVER):
        yield


def execution(s3: Any, content: bytes, *, key: str = KEY, **more: Any) -> Execution:
    return Execution("load-1", {"source": s3.uri(key), "version_id": s3.put(key, content)}, **more)


TABLE = "SELECT count(*), md5(string_agg(t::text, '|' ORDER BY id)) FROM {} t"
REJECTS = (
    "SELECT record_number, line_number, byte_offset, column_name, reason, raw FROM loader.rejects"
    " JOIN loader.loads USING (load_id) WHERE target = '{}' ORDER BY 1"
)


def is_as_by_one(dsn: str, folder: Path, content: bytes, spec: dict[str, Any]) -> bool:
    """Whether the table and the rejects are those that one load gives."""
    path = folder / "lines.csv"
    path.write_bytes(content)
    loader.load(str(path), {"table": "public.one", "rejects": {"max_rows": 50}, **spec}, dsn=dsn)
    return all(
        query(dsn, statement.format("public.lines")) == query(dsn, statement.format("public.one"))
        for statement in (TABLE, REJECTS)
    )


DECLARED = {"columns": {"id": "bigint", "note": "text"}}


def state(dsn: str) -> tuple[Any, ...]:
    (found,) = query(dsn, "SELECT state, retryable, error FROM loader.loads")
    return found


def test_an_object_is_loaded_once_by_many(dsn: str, s3: Any, tmp_path: Path) -> None:
    """Table and rejects are those of one load; another execution for the same version has nothing to do."""
    content = body(odd="none")
    first = execution(s3, content)
    assert first.run()["state"] == "loaded"
    assert first.states == ["Plan", "Planned", "Shards", "Prove", "Proved", "Finish", "Finished", "Done"]
    assert first.shards == [list(range(8))]
    assert Execution("load-2", first.load).run()["verdict"] == "done"
    assert is_as_by_one(dsn, tmp_path, content, DECLARED)
    assert query(dsn, "SELECT count(*) FROM loader.loads WHERE target = 'public.lines'") == [(1,)]


@pytest.mark.parametrize("key", [KEY, KEY + ".gz"])
def test_an_execution_that_forces_does_so_once(dsn: str, s3: Any, tmp_path: Path, key: str) -> None:
    """However often its steps are run, by many functions or by one; another execution forces once more."""
    tell(tmp_path, SPEC.replace("*.csv", "*") + COLUMNS)
    content = gzip.compress(body(), mtime=0) if key.endswith("gz") else body()
    made = execution(s3, content, key=key)
    made.run()
    load = {**made.load, "force": True}
    states = [Execution(name, load).run().get("state") for name in ("forced-1", "forced-1", "forced-2")]
    assert states == (["loaded", "skipped", "loaded"] if key.endswith("gz") else ["loaded", None, "loaded"])
    assert query(dsn, "SELECT token FROM loader.loads WHERE forced ORDER BY 1") == [("forced-1",), ("forced-2",)]
    assert query(dsn, "SELECT count(*) FROM lines") == [(3 * 800,)]


def test_an_execution_that_comes_too_late_is_counted(
    dsn: str, s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As superseded, where each version is a snapshot."""
    tell(tmp_path, 'versions = "snapshot"' + SPEC + COLUMNS)
    late = execution(s3, body())
    Execution("load-2", {"source": s3.uri(KEY), "version_id": s3.put(KEY, body(400))}).run()
    capsys.readouterr()
    assert late.run()["verdict"] == "done"
    assert '"LoadsSuperseded": [1.0]' in capsys.readouterr().out
    assert query(dsn, "SELECT count(*) FROM lines") == [(400,)]


def test_what_cannot_be_split_is_loaded_by_one_function(dsn: str, s3: Any, tmp_path: Path) -> None:
    """And the ledger says why."""
    tell(tmp_path, SPEC.replace("*.csv", "*.csv.gz") + COLUMNS)
    made = execution(s3, gzip.compress(body(), mtime=0) + b"", key=KEY + ".gz")
    assert made.run()["state"] == "loaded"
    assert made.states == ["Plan", "Planned", "Whole", "Done"]
    ((notes,),) = query(dsn, "SELECT notes FROM loader.loads")
    assert notes[0] == "loaded by one worker: it is compressed (gzip), so it can be read from its beginning only"


def test_only_a_shard_whose_report_is_lost_is_loaded_again(dsn: str, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = execution(s3, body())
    load_shard, lost = shards.load_shard, []

    def losing(plan: ShardPlan, number: int, *args: Any, **more: Any) -> Any:
        report = load_shard(plan, number, *args, **more)
        if number == 3 and not lost:
            lost.append(query(dsn, "DELETE FROM loader.shards WHERE number = 3 RETURNING run"))
        return report

    monkeypatch.setattr(shards, "load_shard", losing)
    assert made.run()["state"] == "loaded"
    assert made.shards == [list(range(8)), [3]]
    assert query(dsn, "SELECT count(*), count(DISTINCT id) FROM lines") == [(800, 800)]


def test_a_type_that_was_inferred_too_narrow_begins_another_plan(
    dsn: str, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first MiB, which is the half of it."""
    tell(tmp_path, SPEC)
    monkeypatch.setenv("LOADER_SHARD_BYTES", "500000")
    content = body(60_000, odd="{n}.5")
    made = execution(s3, content)
    assert made.run()["state"] == "loaded"
    assert made.states.count("Plan") == 2
    assert is_as_by_one(dsn, tmp_path, content, {})
    assert query(dsn, "SELECT attempts FROM loader.loads WHERE target = 'public.lines'") == [(2,)]


@pytest.mark.parametrize("merging", ["Finish", "FinishAsTask"])
def test_what_the_table_refuses_is_rejected(
    dsn: str, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merging: str
) -> None:
    """As by one load, whoever merges, function or task."""
    if merging == "FinishAsTask":
        monkeypatch.setattr(steps, "MERGE_SECONDS", 0)
    for table in ("lines", "one"):
        query(dsn, f"CREATE TABLE public.{table} (id bigint CHECK (id <> 600), note text)")
    made = execution(s3, body())
    assert made.run()["state"] == "loaded"
    assert merging in made.states
    assert is_as_by_one(dsn, tmp_path, body(), DECLARED)
    assert query(dsn, "SELECT DISTINCT reason FROM loader.rejects") == [("check_violation",)]


def test_a_table_that_changed_meanwhile_begins_another_plan(dsn: str, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen by whoever merges: in a function, or as a task, whose exit code says nothing of it."""
    monkeypatch.setattr(steps, "MERGE_SECONDS", 0)
    query(dsn, "CREATE TABLE public.lines (id bigint, note text)")
    made = execution(s3, body())
    finish, changed = shards.finish, []

    def after_a_change(*args: Any, **more: Any) -> Any:
        if not changed:
            changed.append(query(dsn, "ALTER TABLE public.lines ALTER note TYPE varchar(200)"))
        return finish(*args, **more)

    monkeypatch.setattr(shards, "finish", after_a_change)
    assert made.run()["state"] == "loaded"
    assert made.states[5:9] == ["FinishAsTask", "Finish", "Finished", "Plan"]
    assert query(dsn, "SELECT count(*), count(DISTINCT id) FROM lines") == [(800, 800)]


def test_a_long_merge_is_the_tasks(dsn: str, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finish asks what became of it."""
    monkeypatch.setattr(steps, "SURE_APPEND_RATE", 1)
    made = execution(s3, body())
    assert made.run() == {"verdict": "done", "state": "loaded", "load_id": 1, "rows_read": 800}
    assert made.states[5:] == ["FinishAsTask", "Finish", "Finished", "Done"]


def test_a_merge_that_its_function_was_killed_in_is_the_tasks(dsn: str, s3: Any) -> None:
    made = execution(s3, body(), killed=["shard", "finish"])
    assert made.run()["state"] == "loaded"
    assert made.states[5:] == ["Finish", "FinishAsTask", "Finish", "Finished", "Done"]
    assert query(dsn, "SELECT count(*), count(DISTINCT id) FROM lines") == [(800, 800)]


def test_too_many_rejects_fail_as_in_one_load(dsn: str, s3: Any, tmp_path: Path) -> None:
    """For good: nothing of it is in the table, and a redrive finds the same."""
    tell(tmp_path, SPEC.replace("50", "0") + COLUMNS)
    made = execution(s3, body(odd="none"))
    with pytest.raises(StatesError, match="rejected") as raised:
        made.run()
    assert raised.value.name == "NotLoaded"
    assert made.states[-1] == "GiveUp"
    ended, retryable, error = state(dsn)
    assert (ended, retryable) == ("failed", False)
    assert "rejected" in error
    assert query(dsn, "SELECT to_regclass('public.lines')") == [(None,)]
    with pytest.raises(StatesError, match="rejected"):
        made.redrive()


@pytest.fixture
def broken(s3: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Execution, list[int]]:
    """An execution whose shards of these numbers find no database."""
    numbers, load_shard = [2, 5], shards.load_shard

    def failing(plan: ShardPlan, number: int, *args: Any, **more: Any) -> Any:
        if number in numbers:
            raise DatabaseUnavailableError("the server is away")
        return load_shard(plan, number, *args, **more)

    monkeypatch.setattr(shards, "load_shard", failing)
    made = execution(s3, body())
    with pytest.raises(StatesError, match="shard 5: the server is away"):
        made.run()
    return made, numbers


def test_a_redrive_loads_what_is_missing(dsn: str, broken: tuple[Execution, list[int]]) -> None:
    """What was staged is gone on with; the ledger told in between what it failed of."""
    made, numbers = broken
    ended, retryable, error = state(dsn)
    assert (ended, retryable) == ("failed", True)
    assert error.startswith("shard 5: the server is away (States.ExceedToleratedFailureThreshold")
    numbers.clear()
    assert made.redrive()["state"] == "loaded"
    assert made.shards == [list(range(8)), [2, 5]]
    assert query(dsn, "SELECT state, attempts, error FROM loader.loads") == [("loaded", 1, None)]
    assert query(dsn, "SELECT count(*), count(DISTINCT id) FROM lines") == [(800, 800)]


def test_a_redrive_that_fails_too_ends_there(broken: tuple[Execution, list[int]]) -> None:
    """And the next one goes on from it."""
    made, numbers = broken
    for _ in range(2):
        with pytest.raises(StatesError, match="shard 5: the server is away"):
            made.redrive()
    assert made.states.count("GiveUp") == 1 + 2 * 2
    del numbers[0]
    with pytest.raises(StatesError, match="shard 5"):
        made.redrive()
    assert made.shards == [list(range(8)), [2, 5], [2, 5], [2, 5]]
    numbers.clear()
    assert made.redrive()["state"] == "loaded"
    assert made.shards[-1] == [5]


def test_a_redrive_after_the_staging_was_cleared_loads_all_again(dsn: str, broken: tuple[Execution, list[int]]) -> None:
    """A week later, say: `loader.engine.cleanup` drops what nobody goes on with, and what vouched for it with it."""
    made, numbers = broken
    connection = psycopg2.connect(dsn)
    checkpoints.forget(connection, 1)
    drop_tables(connection, 1)
    connection.commit()
    connection.close()
    numbers.clear()
    assert made.redrive()["state"] == "loaded"
    assert made.shards == [list(range(8)), list(range(8))]
    assert query(dsn, "SELECT count(*), count(DISTINCT id) FROM lines") == [(800, 800)]


def test_a_redrive_after_a_crash_of_the_server_loads_all_again(dsn: str, broken: tuple[Execution, list[int]]) -> None:
    """A crash empties UNLOGGED tables, the staging and what vouches for it alike."""
    made, numbers = broken
    for (name,) in query(dsn, "SELECT relname FROM pg_class WHERE relpersistence = 'u' AND relkind = 'r'"):
        query(dsn, f'TRUNCATE loader."{name}" CASCADE')
    numbers.clear()
    assert made.redrive()["state"] == "loaded"
    assert made.shards == [list(range(8)), list(range(8))]
    assert query(dsn, "SELECT count(*), count(DISTINCT id) FROM lines") == [(800, 800)]


@pytest.fixture
def plan(dsn: str, s3: Any) -> ShardPlan:
    """Of a load that goes on by shards, of which none is loaded."""
    made = execution(s3, body())
    told = steps.handler({"step": "plan", "execution": made.name, "load": made.load, "workers": 4})
    read = StoredJson.of(told["plan"]).read()
    return ShardPlan.from_dict(read)


def test_a_shard_whose_time_is_up_is_called_again(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a name that the machine knows."""
    tell(tmp_path, "segment_mb = 1" + SPEC + COLUMNS)
    monkeypatch.setenv("LOADER_SHARD_BYTES", "2000000")
    made = execution(s3, body(200_000))
    plan = steps.handler({"step": "plan", "execution": made.name, "load": made.load, "workers": 1})

    with pytest.raises(steps.TimeUp, match="its time is up; the same call begins it anew"):
        steps.handler({"step": "shard", "plan": plan["plan"], "shard": {"number": 1, "known": None}}, Context(4))


def test_a_table_whose_turn_another_load_has_is_busy(
    dsn: str, s3: Any, plan: ShardPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For hours perhaps, so the machine waits, and not the function, which is paid for it."""
    monkeypatch.setattr(steps, "BUSY_WAIT", 0.2)
    other = execution(s3, body(900), key="incoming/other.csv")
    with holding_turn(dsn), pytest.raises(steps.Busy, match="another load has had its turn"):
        steps.handler({"step": "plan", "execution": "load-2", "load": other.load, "workers": 4}, Context(60))
    assert (
        steps.handler({"step": "plan", "execution": "load-2", "load": other.load, "workers": 4})["verdict"] == "split"
    )


def test_shards_are_whole_rounds_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """None larger than asked: a last round with one shard would have the others wait for it."""
    monkeypatch.setenv("LOADER_SHARD_BYTES", "100")
    assert [steps.shards_for(size, 4) for size in (1, 400, 401, 800, 801)] == [4, 4, 8, 8, 12]
    monkeypatch.delenv("LOADER_SHARD_BYTES")
    assert steps.shards_for(10**12, 16) == 240
    assert steps.shards_for(10**12, 4) == 236


def test_what_is_no_step_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a function without a place for plans."""
    for event in ({}, {"step": "dance"}, [], None):
        with pytest.raises(UsageError, match="no step"):
            steps.handler(event)
    monkeypatch.setenv("LOADER_PLANS", "somewhere")
    with pytest.raises(UsageError, match="LOADER_PLANS"):
        StoredJson.of_plan("load-1")


def test_the_tasks_command_line(s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """0 when it is merged, once more too; 1 where it cannot be; 2 for what makes no sense."""
    made = execution(s3, body())
    plan = steps.handler({"step": "plan", "execution": made.name, "load": made.load, "workers": 4})["plan"]
    assert steps.main(["finish", plan["bucket"], plan["key"]]) == 1
    assert "not every shard is loaded" in capsys.readouterr().err
    assert made.run()["state"] == "loaded"
    assert steps.main(["finish", plan["bucket"], plan["key"]]) == 0
    assert steps.main(["finish", plan["bucket"], "fleet/no/plan.json"]) == 1
    assert steps.main(["dance"]) == 2


# --- giving up, in the ledger


def give_up(dsn: str, plan: ShardPlan) -> None:
    connection = psycopg2.connect(dsn)
    runs.give_up(connection, plan, "for \0 all that")
    connection.close()


def test_what_is_given_up_can_be_gone_on_with(dsn: str, plan: ShardPlan) -> None:
    """A text that PostgreSQL could not hold is spelt; whoever loads a shard after all makes the load alive again."""
    give_up(dsn, plan)
    assert state(dsn) == ("failed", True, "for \\x00 all that")
    shards.load_shard(plan, 0, settings.settings().database)
    assert state(dsn) == ("sharded", False, None)


def test_who_has_lost_the_claim_gives_nothing_up(dsn: str, plan: ShardPlan) -> None:
    """Another attempt at the load has begun, or it is loaded."""
    for change in ("attempts = attempts + 1", "attempts = attempts - 1, state = 'loaded'"):
        query(dsn, f"UPDATE loader.loads SET {change}")
        before = state(dsn)
        give_up(dsn, plan)
        assert state(dsn) == before


def test_a_merge_that_is_under_way_is_not_given_up(dsn: str, plan: ShardPlan) -> None:
    """Another execution's, or the task's: it holds the table's turn. One that died does not."""
    query(dsn, "UPDATE loader.loads SET state = 'running'")
    with holding_turn(dsn):
        give_up(dsn, plan)
        assert state(dsn)[0] == "running"
    give_up(dsn, plan)
    assert state(dsn)[0] == "failed"
