"""The Runtime API and the function under its real client; S3 to table through all of it."""

from __future__ import annotations

import json
import os
import select
import signal
import threading
from pathlib import Path

import pytest
from support.clock import PATIENCE
from support.postgres import query

from twin.cloud import Cloud
from twin.mapping import Mapping, is_through
from twin.runtime import FunctionError, Runtime

FUNCTION = """
import os, time

def echo(event, context):
    print("seen", event)
    return {"event": event, "left": context.get_remaining_time_in_millis()}

def fail(event, context):
    raise ValueError("no")

def sleep(event, context):
    time.sleep(3600)

def die(event, context):
    if event.get("die", True):
        os._exit(7)
    return "alive"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "function.py").write_text(FUNCTION)
    return {"LAMBDA_TASK_ROOT": str(tmp_path), "PYTHONPATH": str(tmp_path)}


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("twin-")]


def test_a_function_answers_its_events(environment: dict[str, str]) -> None:
    """One after the other, in one process, and knows the time it has left; nothing is left running."""
    with Runtime("function.echo", environment) as function:
        for number in range(3):
            answer = function.invoke({"number": number}, timeout=PATIENCE)
            assert answer["event"] == {"number": number}
            assert 0 < answer["left"] <= 1000 * PATIENCE
    assert any("seen {'number': 2}" in line for line in function.log)
    assert threads() == []


@pytest.mark.parametrize(
    ("name", "timeout", "kind"),
    [
        ("fail", 30, "ValueError"),
        ("sleep", 1, "Sandbox.Timedout"),
        ("die", 30, "Runtime.ExitError"),
        ("nosuch", 30, "Runtime.HandlerNotFound"),
    ],
)
def test_a_function_that_fails(environment: dict[str, str], name: str, timeout: float, kind: str) -> None:
    """Raises, times out, dies or does not exist: each is told as Lambda tells it."""
    with Runtime(f"function.{name}", environment) as function, pytest.raises(FunctionError) as caught:
        function.invoke({}, timeout=timeout)
    assert caught.value.kind == kind
    assert threads() == []


def test_a_function_that_died_is_started_again(environment: dict[str, str]) -> None:
    """For the next event, as Lambda does; whether it died over an event or while it had none."""
    with Runtime("function.die", environment) as function:
        with pytest.raises(FunctionError, match=r"Runtime\.ExitError: the runtime exited with 7"):
            function.invoke({}, timeout=PATIENCE)
        assert function.invoke({"die": False}, timeout=PATIENCE) == "alive"
        killed = os.pidfd_open(function.pid)
        os.kill(function.pid, signal.SIGKILL)
        assert select.select([killed], [], [], 30)[0]
        os.close(killed)
        function._sandbox._threads[1].join()  # it has been seen to be gone
        assert function.invoke({"die": False}, timeout=PATIENCE) == "alive"
    assert threads() == []


def test_a_function_that_cannot_be_imported(environment: dict[str, str]) -> None:
    """Says so to every event, however late that comes."""
    with Runtime("nosuch.module", environment) as function:
        function._sandbox._threads[1].join()  # the process has ended before there was any event
        for _ in range(2):
            with pytest.raises(FunctionError) as caught:
                function.invoke({}, timeout=PATIENCE)
            assert caught.value.kind == "Runtime.ImportModuleError"


def test_the_log_has_all_that_was_printed_before_the_answer(environment: dict[str, str]) -> None:
    """No line comes late: who reads it after the answer misses none."""
    with Runtime("function.echo", environment) as function:
        for number in range(50):
            function.invoke({"number": number}, timeout=PATIENCE)
            assert function.log[-1] == f"seen {{'number': {number}}}"
        kept = function.log
    assert function.log == kept


PICKY = """
def pick(event, context):
    (message,) = event["Records"]
    times = int(message["attributes"]["ApproximateReceiveCount"])
    if message["body"] == "raises":
        raise ValueError("no")
    failed = message["body"] == "never" or (message["body"] == "later" and times < 3)
    return {"batchItemFailures": [{"itemIdentifier": message["messageId"]}] if failed else []}
"""


def test_a_mapping_delivers_until_a_message_is_through(environment: dict[str, str], tmp_path: Path) -> None:
    """Those that the function names come again when they are visible again, those that it never takes end up dead."""
    (tmp_path / "function.py").write_text(PICKY)
    with Cloud() as cloud, Runtime("function.pick", environment) as function:
        url = cloud.queue("picky", hidden=1, receives=4)
        sqs = cloud.client("sqs")
        names = {sqs.send_message(QueueUrl=url, MessageBody=each)["MessageId"]: each for each in BODIES}
        deliveries = list(Mapping(cloud, url, function, timeout=PATIENCE).drain(within=PATIENCE))
        seen = [(names[each.message_id], each.received, each.error is None, each.deleted) for each in deliveries]
        assert sorted(seen) == [
            ("at once", 1, True, True),
            *(("later", received, True, received == 3) for received in (1, 2, 3)),
            *(("never", received, True, False) for received in (1, 2, 3, 4)),
            *(("raises", received, False, False) for received in (1, 2, 3, 4)),
        ]
        assert sorted(cloud.dead_letters(url)) == ["never", "raises"]


BODIES = ("at once", "later", "never", "raises")


@pytest.mark.parametrize(
    ("answer", "through"),
    [
        (None, True),
        ({}, True),
        ({"batchItemFailures": None}, True),
        ({"batchItemFailures": []}, True),
        ({"batchItemFailures": [{"itemIdentifier": "1"}]}, False),
        ({"batchItemFailures": [{"itemIdentifier": ""}]}, False),
        ({"batchItemFailures": [{"id": "1"}]}, False),
        ({"batchItemFailures": "1"}, False),
        ("done", False),
    ],
)
def test_what_an_answer_means(answer: object, through: bool) -> None:
    """As Lambda takes it."""
    assert is_through(answer) is through


def test_an_upload_ends_up_in_the_table_once(dsn: str, tmp_path: Path) -> None:
    """S3 tells SQS, the message goes through the Runtime API to the handler, and delivered again changes nothing."""
    (tmp_path / "trips.toml").write_text('source = "incoming/*.csv"\ntable = "trips"\n[columns]\na = "int"\n')
    with Cloud() as cloud:
        url = cloud.bucket_with_queue("uploads")
        environment = {**cloud.environment, "LOADER_DSN": dsn, "LOADER_SPECS": str(tmp_path)}
        with Runtime("loader.handler.handler", environment) as function:
            cloud.client("s3").put_object(Bucket="uploads", Key="incoming/a b+ü.csv", Body=b"a\n1\n2\n")
            event = cloud.receive(url)
            for _ in range(2):
                assert function.invoke(event, timeout=PATIENCE) == {"batchItemFailures": []}
    assert query(dsn, "SELECT a FROM trips ORDER BY a") == [(1,), (2,)]
    told = [json.loads(line)["message"] for line in function.log if line.startswith("{")]
    assert told == ["begun", "loaded", "skipped"]


def test_a_function_that_is_killed_loses_nothing(dsn: str, tmp_path: Path) -> None:
    """Killed in mid-load, the table is as it was; the same event again loads it, once."""
    (tmp_path / "trips.toml").write_text(
        'source = "*.csv"\ntable = "trips"\nmode = "merge"\nkey = ["a"]\n[columns]\na = "int"\n'
    )
    query(dsn, "CREATE TABLE trips (a int PRIMARY KEY); INSERT INTO trips VALUES (7)")  # so that it is staged
    with Cloud() as cloud:
        url = cloud.bucket_with_queue("killed")
        environment = {**cloud.environment, "LOADER_DSN": dsn, "LOADER_SPECS": str(tmp_path)}
        body = b"a\n" + b"\n".join(b"%d" % number for number in range(1_500_000))
        cloud.client("s3").put_object(Bucket="killed", Key="a.csv", Body=body)
        event = cloud.receive(url)
        with Runtime("loader.handler.handler", environment) as function:
            killer = threading.Thread(target=kill_when_staging, args=(dsn, function))
            killer.start()
            with pytest.raises(FunctionError, match="exited"):
                function.invoke(event, timeout=PATIENCE)
            killer.join()
        assert query(dsn, "SELECT a FROM trips") == [(7,)]
        with Runtime("loader.handler.handler", environment) as function:
            assert function.invoke(event, timeout=PATIENCE) == {"batchItemFailures": []}
    assert query(dsn, "SELECT count(*), max(a) FROM trips") == [(1_500_000, 1_499_999)]
    assert query(dsn, "SELECT state, attempts FROM loader.loads ORDER BY load_id") == [("loaded", 2)]
    assert query(dsn, "SELECT count(*) FROM pg_class WHERE relname LIKE 'staging%'") == [(0,)]


def kill_when_staging(dsn: str, function: Runtime) -> None:
    """SIGKILL as soon as rows arrive in a staging table."""
    while not query(dsn, "SELECT 1 FROM pg_class WHERE relname LIKE 'staging%' AND pg_relation_size(oid) > 0"):
        pass
    os.kill(function.pid, signal.SIGKILL)
