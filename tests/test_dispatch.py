"""Who loads an object: this function, or a state machine's; and that nothing is started twice."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from support.postgres import query
from support.s3 import FaultProxy
from test_handler import SPEC, notification, queued

from loader.aws import settings
from loader.aws.dispatch import RATE, Dispatch, name_of, opened
from loader.aws.handler import handler
from loader.core.deadline import Deadline
from loader.core.errors import UsageError
from loader.sources.source import open_source

KEY = "incoming/large.csv"
BODY = b"a\n" + b"1\n" * 5000


class Context:
    """Of an invocation that has 15 seconds left, ten of them for work."""

    aws_request_id = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return 15_000


@pytest.fixture
def machine(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A state machine in the emulator, whose executions go on for ever, and the function told of it.

    At the rate that is set, the object of these tests takes 100 s."""
    client = boto3.client("stepfunctions", endpoint_url=s3.endpoint)
    definition = {"StartAt": "A", "States": {"A": {"Type": "Wait", "Seconds": 1000, "End": True}}}
    made = client.create_state_machine(
        name=f"fleet-{s3.bucket}", definition=json.dumps(definition), roleArn="arn:aws:iam::123456789012:role/fleet"
    )
    monkeypatch.setenv("LOADER_STATE_MACHINE", made["stateMachineArn"])
    monkeypatch.setenv("LOADER_RATE", "0.0001")
    yield Machine(client, made["stateMachineArn"])
    client.close()


class Machine:
    def __init__(self, client: Any, arn: str) -> None:
        self._client, self.arn = client, arn

    def executions(self) -> list[dict[str, Any]]:
        """The inputs of all that were started."""
        found = self._client.list_executions(stateMachineArn=self.arn)["executions"]
        told = [self._client.describe_execution(executionArn=each["executionArn"]) for each in found]
        return [json.loads(each["input"]) for each in told]


@pytest.fixture(autouse=True)
def function(dsn: str, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cold function whose environment knows the database and a folder with one spec."""
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "trips.toml").write_text(SPEC)
    monkeypatch.setenv("LOADER_DSN", dsn)
    monkeypatch.setenv("LOADER_SPECS", str(tmp_path / "specs"))
    monkeypatch.delenv("LOADER_STATE_MACHINE", raising=False)
    yield
    settings.forget()


def test_a_large_object_is_left_to_the_machine_once(s3: Any, machine: Machine) -> None:
    """However often its event comes; the answer says so, and nothing is loaded here."""
    event = notification((s3.bucket, KEY, version := s3.put(KEY, BODY)))
    (first,), (again,) = handler(event, Context())["loads"], handler(event, Context())["loads"]
    event["Records"][0]["s3"]["object"]["sequencer"] = "0A1B2D"
    (other,) = handler(event, Context())["loads"]
    assert (first["state"], first["already"]) == ("dispatched", False)
    assert (other["state"], other["already"]) == ("dispatched", True)
    assert first["execution"] == again["execution"] == other["execution"]
    (load,) = machine.executions()
    assert load == {"source": s3.uri(KEY), "version_id": version, "sequencer": "0A1B2C"}


def test_a_queued_message_is_done_with(dsn: str, s3: Any, machine: Machine) -> None:
    """The machine has it now; to hand it back would begin it once more."""
    event = queued(notification((s3.bucket, KEY, s3.put(KEY, BODY))))
    assert handler(event, Context()) == {"batchItemFailures": []}
    assert len(machine.executions()) == 1
    assert query(dsn, "SELECT to_regclass('public.trips')") == [(None,)]


def test_a_small_object_is_loaded_here(dsn: str, s3: Any, machine: Machine, fault_proxy: FaultProxy) -> None:
    """And opened once: that the machine could have it costs no request more."""
    query(dsn, "CREATE TABLE trips (a int)")
    event = notification((s3.bucket, KEY, s3.put(KEY, b"a\n1\n")))
    assert handler(event, Context())["loads"][0]["state"] == "loaded"
    assert machine.executions() == []
    assert query(dsn, "SELECT a FROM trips") == [(1,)]
    assert [(each.method, each.key) for each in fault_proxy.requests] == [("GET", KEY)]


def test_without_a_machine_everything_is_loaded_here(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADER_RATE", "0.0001")
    event = notification((s3.bucket, KEY, s3.put(KEY, BODY)))
    assert handler(event, Context())["loads"][0]["state"] == "loaded"


def test_another_version_is_another_execution(s3: Any, machine: Machine) -> None:
    for body in (BODY, BODY + b"2\n"):
        handler(notification((s3.bucket, KEY, s3.put(KEY, body))), Context())
    assert len({load["version_id"] for load in machine.executions()}) == 2


def test_an_event_without_a_version_means_the_one_that_is_there(s3: Any, machine: Machine) -> None:
    """It is pinned, for by the time of the plan there may be a newer one."""
    version = s3.put(KEY, BODY)
    handler({"source": s3.uri(KEY)}, Context())
    assert machine.executions() == [{"source": s3.uri(KEY), "version_id": version}]


def test_what_cannot_be_looked_at_fails_here(s3: Any, machine: Machine) -> None:
    """With the words, and the row of the ledger, that it has without a machine."""
    with pytest.raises(Exception, match=r"incoming/nowhere\.csv"):
        handler(notification((s3.bucket, "incoming/nowhere.csv", None)), Context())
    assert machine.executions() == []


def test_what_step_functions_refuses_is_raised(s3: Any, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the event comes again."""
    monkeypatch.setenv("LOADER_STATE_MACHINE", machine.arn + "-gone")
    event = notification((s3.bucket, KEY, s3.put(KEY, BODY)))
    with pytest.raises(Exception, match="StateMachineDoesNotExist"):
        handler(event, Context())
    (failure,) = handler(queued(event), Context())["batchItemFailures"]
    assert failure == {"itemIdentifier": "0"}


def test_names_are_of_versions_specs_and_forced_requests(s3: Any) -> None:
    """And such as Step Functions takes, with its logs: 80 letters, digits and dashes."""
    s3.put(KEY, b"a\n1\n")
    with open_source(s3.uri(KEY), client=s3.client) as source:
        plain = name_of(source, {"source": source.uri})
        assert name_of(source, {"source": source.uri, "time": "now", "sequencer": "7"}) == plain
        others = {
            name_of(source, {"spec": {"table": "t"}}),
            name_of(source, {"force": True, "token": "first"}),
            name_of(source, {"force": True, "token": "second"}),
        }
    assert len(others | {plain}) == 4
    assert plain.replace("-", "").isalnum()
    assert len(plain) <= 80


def test_an_object_without_versions_may_come_back_to_what_it_was(s3_unversioned: Any) -> None:
    """Its name then is another one, and for as long as nothing is stored anew it stays the same."""
    names = []
    for body in (b"a\n1\n", b"a\n2\n", b"a\n1\n"):
        s3_unversioned.put(KEY, body)
        for _ in range(2):
            with open_source(s3_unversioned.uri(KEY), client=s3_unversioned.client) as source:
                names.append(name_of(source, {"source": source.uri}))
        time.sleep(1.1)  # S3 tells by the second when an object was stored
    assert names[0::2] == names[1::2]
    assert len(set(names)) == 3


def test_the_rate_decides_and_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default 8.95 GB are what a function with 900 s loads itself."""
    monkeypatch.setenv("LOADER_STATE_MACHINE", "arn")
    monkeypatch.delenv("LOADER_RATE", raising=False)
    how = Dispatch.from_environment()
    assert how == Dispatch("arn", RATE)
    assert not how.is_for_many(8_900_000_000, Deadline(900))
    assert how.is_for_many(9_000_000_000, Deadline(900))
    assert not how.is_for_many(10**15, Deadline())
    monkeypatch.setenv("LOADER_RATE", "40")
    assert Dispatch.from_environment() == Dispatch("arn", 40.0)
    for wrong in ("fast", "0", "-1", "nan"):
        monkeypatch.setenv("LOADER_RATE", wrong)
        with pytest.raises(UsageError, match="LOADER_RATE"):
            Dispatch.from_environment()


def test_without_a_machine_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the object."""
    monkeypatch.delenv("LOADER_STATE_MACHINE", raising=False)
    with opened({"source": "s3://nowhere/a.csv"}, None) as source:
        assert source is None
