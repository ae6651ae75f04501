"""The Lambda handler: every kind of event, each object once."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, unquote

import boto3
import psycopg2
import pytest
from support.clients import wait_for
from support.clock import Invocation, by_blocks
from support.postgres import query

from loader.aws import settings
from loader.aws.events import ObjectCreated, objects_of
from loader.aws.handler import handler
from loader.core.deadline import MARGIN
from loader.core.errors import LoaderError, PausedError, ShapeError, UsageError
from loader.records.splitter import split

SPEC = """
source = "incoming/**/*.csv"
table = "trips"
[columns]
a = "int"
"""


class Context:
    """What Lambda hands to a function, as far as it is used."""

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


@pytest.fixture(autouse=True)
def function(dsn: str, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cold function whose environment knows the database and a folder with one spec."""
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "trips.toml").write_text(SPEC)
    monkeypatch.setenv("LOADER_DSN", dsn)
    monkeypatch.setenv("LOADER_SPECS", str(tmp_path / "specs"))
    yield
    settings.forget()


def notification(*objects: tuple[str, str, str | None], name: str = "ObjectCreated:Put") -> dict[str, Any]:
    """An S3 event of version 2.3 (S3 User Guide, "Event message structure")."""
    return {
        "Records": [
            {
                "eventVersion": "2.3",
                "eventSource": "aws:s3",
                "eventName": name,
                "s3": {
                    "bucket": {"name": bucket},
                    "object": {"key": quote_plus(key, safe="/"), "size": 1, "sequencer": "0A1B2C"}
                    | ({"versionId": version} if version else {}),
                },
            }
            for bucket, key, version in objects
        ]
    }


def queued(*bodies: Any) -> dict[str, Any]:
    return {
        "Records": [
            {
                "messageId": str(number),
                "eventSource": "aws:sqs",
                "body": body if isinstance(body, str) else json.dumps(body),
            }
            for number, body in enumerate(bodies)
        ]
    }


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The lines of the log that tell what became of something."""
    return [line for line in map(json.loads, capsys.readouterr().out.splitlines()) if "state" in line]


def rows(dsn: str) -> list[int]:
    return [each for (each,) in query(dsn, "SELECT a FROM trips ORDER BY a")]


KEY = "incoming/2024/Köln + more (1).csv"


def test_a_notification_loads_its_object_once(dsn: str, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Its key comes encoded; delivered again it is skipped; each load is one JSON line of the log."""
    event = notification((s3.bucket, KEY, s3.put(KEY, b"a\n1\n")))
    (report,) = handler(event, Context())["loads"]
    assert (report["state"], report["source"], report["rows_inserted"]) == ("loaded", s3.uri(KEY), 1)
    assert handler(event, Context())["loads"][0]["state"] == "skipped"
    assert rows(dsn) == [1]
    loaded, skipped = logged(capsys)
    assert (loaded["state"], skipped["state"]) == ("loaded", "skipped")
    assert loaded["load_id"] == skipped["load_id"] == report["load_id"]


def test_the_version_of_the_event_is_loaded_not_the_newest(dsn: str, s3: Any) -> None:
    """So a late event never loads another version than its own."""
    first = s3.put(KEY, b"a\n1\n")
    s3.put(KEY, b"a\n2\n")
    handler(notification((s3.bucket, KEY, first)), Context())
    assert rows(dsn) == [1]


def test_several_records_are_all_tried(dsn: str, s3: Any) -> None:
    """The first failure is raised after the others had their turn, so that Lambda tries the event again."""
    for name, text in {"a": b"a\n1\n", "b": b"", "c": b"a\n3\n"}.items():
        s3.put(f"incoming/{name}.csv", text)
    event = notification(*((s3.bucket, f"incoming/{name}.csv", None) for name in "abc"))
    with pytest.raises(ShapeError, match=r"incoming/b\.csv: the file is empty"):
        handler(event, Context())
    assert rows(dsn) == [1, 3]


def test_each_failure_is_logged(s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the first is raised, so the log has to tell of the others: of a file that fails, a key without a spec."""
    s3.put("incoming/empty.csv", b"")
    keys = ("elsewhere.csv", "incoming/empty.csv", "nowhere.csv")
    with pytest.raises(UsageError, match=r"elsewhere\.csv: no spec"):
        handler(notification(*((s3.bucket, key, None) for key in keys)), Context())
    lines = logged(capsys)
    assert [(each["state"], each["source"]) for each in lines] == [("failed", s3.uri(key)) for key in keys]
    assert all(s3.uri(key) in each["error"] for key, each in zip(keys, lines, strict=True))


def test_queued_messages_fail_one_by_one(dsn: str, s3: Any) -> None:
    """Only those that failed come again: the poison file, the garbage, the key without a spec."""
    s3.put("incoming/good.csv", b"a\n1\n")
    s3.put("incoming/poison.csv", b"nosuch\n1\n")
    s3.put("elsewhere.csv", b"a\n1\n")
    answer = handler(
        queued(
            notification((s3.bucket, "incoming/poison.csv", None)),
            notification((s3.bucket, "incoming/good.csv", None)),
            "not json",
            "[1]",
            {"Event": "s3:TestEvent", "Bucket": s3.bucket},
            notification((s3.bucket, "elsewhere.csv", None)),
            notification((s3.bucket, "incoming/gone.csv", None), name="ObjectRemoved:Delete"),
        ),
        Context(),
    )
    assert answer == {"batchItemFailures": [{"itemIdentifier": number} for number in ("0", "2", "3", "5")]}
    assert rows(dsn) == [1]


def test_eventbridge_keys_are_not_encoded(dsn: str, s3: Any) -> None:
    """A plus is a plus there."""
    version = s3.put(KEY, b"a\n1\n")
    event = {
        "source": "aws.s3",
        "detail-type": "Object Created",
        "detail": {"bucket": {"name": s3.bucket}, "object": {"key": KEY, "version-id": version, "size": 4}},
    }
    assert handler(event, Context())["loads"][0]["state"] == "loaded"
    deleted = handler({**event, "detail-type": "Object Deleted"}, Context())
    ignored = {"state": "ignored", "event": "Object Deleted", "source": s3.uri(KEY), "version": version}
    assert deleted == {"loads": [], "ignored": [ignored]}
    assert handler(queued(event, {**event, "detail-type": "Object Deleted"}), Context()) == {"batchItemFailures": []}


def test_direct_events(dsn: str, s3: Any) -> None:
    """With the spec itself, its name, or none where a key finds it; and by force."""
    s3.put("incoming/a.csv", b"a\n1\n")
    uri = s3.uri("incoming/a.csv")
    assert handler({"source": uri, "spec": {"table": "trips"}}, None)["loads"][0]["state"] == "loaded"
    assert handler({"source": uri, "spec": "trips"}, None)["loads"][0]["state"] == "skipped"
    assert handler({"source": uri, "spec": "trips.toml", "force": True}, None)["loads"][0]["state"] == "loaded"
    assert handler({"source": uri}, None)["loads"][0]["state"] == "skipped"
    assert rows(dsn) == [1, 1]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"source": "/etc/passwd", "spec": "trips"}, "is no s3:// URI"),
        ({"source": "s3://b/k", "spec": "../../etc/passwd"}, 'there is no spec "../../etc/passwd"'),
        ({"source": "s3://b/k", "sepc": "trips"}, 'unknown key "sepc"'),
        ({"source": "s3://b/k", "spec": "trips", "force": "false"}, 'force must be true or false, not "false"'),
        ({"source": "s3://b/k", "spec": "trips", "version_id": 7}, "version_id must be a text, not 7"),
        ({"source": "s3://b/k", "spec": "trips", "handover": True}, "handover must be a whole number, not true"),
        ({"source": "s3://b/k", "spec": "trips", "handover": -1}, "handover must be a whole number, not -1"),
        ({"source": "s3://b/k", "spec": "trips", "handover": 13}, "s3://b/k: was handed over 13 times, and 12 is the"),
        ({"source": "s3://b/k.csv"}, "no spec in .* matches it"),
        ({"hello": "world"}, "not one of S3's"),
        ({"Records": [{"eventSource": "aws:sns"}]}, "not one of S3's"),
        ({"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put"}]}, "not one of S3's"),
        ([1, 2], "no JSON object"),
    ],
)
def test_an_event_that_is_none(event: Any, message: str) -> None:
    """One sentence, and no file of the function can be read through it."""
    with pytest.raises(UsageError, match=message):
        handler(event, None)


def test_the_test_message_and_deletions_are_no_ops(capsys: pytest.CaptureFixture[str]) -> None:
    """S3 sends one when the notification is set up; deletions undo nothing. Both are on record: told in the answer, and
    in one line of the log each."""
    test = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"}
    others = (
        "ObjectRemoved:DeleteMarkerCreated",
        "ObjectRestore:Completed",
        "ObjectTagging:Put",
        "Replication:Done",
    )
    events = [test, *(notification(("b", "k", "v"), name=name) for name in others)]
    expected = [{"state": "ignored", "event": "s3:TestEvent", "source": None, "version": None}] + [
        {"state": "ignored", "event": name, "source": "s3://b/k", "version": "v"} for name in others
    ]
    assert [handler(event, None) for event in events] == [{"loads": [], "ignored": [each]} for each in expected]
    assert [{name: line[name] for name in expected[0]} for line in logged(capsys)] == expected
    assert handler(queued(*events), None) == {"batchItemFailures": []}
    assert [{name: line[name] for name in expected[0]} for line in logged(capsys)] == expected


@pytest.mark.parametrize("name", ["a+b c.csv", "100%25 %2B.csv", "ü/日本 ☃.csv", "what?#&=*[x].csv", "a%20b++.csv"])
def test_keys_of_any_characters(dsn: str, s3: Any, name: str) -> None:
    """In whichever way they come."""
    key = f"incoming/{name}"
    version = s3.put(key, b"a\n1\n")
    stored = {"bucket": {"name": s3.bucket}, "object": {"key": key, "version-id": version}}
    events = [
        notification((s3.bucket, key, version)),
        {"source": "aws.s3", "detail-type": "Object Created", "detail": stored},
        {"source": s3.uri(key), "version_id": version},
    ]
    reports = [handler(event, Context())["loads"][0] for event in events]
    assert [(each["state"], each["source"]) for each in reports] == [
        (state, s3.uri(key)) for state in ("loaded", "skipped", "skipped")
    ]
    assert rows(dsn) == [1]


def test_a_record_that_is_none_of_s3s_keeps_no_other_from_its_turn(dsn: str, s3: Any) -> None:
    """It fails the event; the object beside it is loaded all the same."""
    event = notification((s3.bucket, KEY, s3.put(KEY, b"a\n1\n")))
    for strange in ({"eventSource": "aws:sns"}, {"eventSource": "aws:s3"}, 7):
        with pytest.raises(UsageError, match="not one of S3's"):
            handler({"Records": [strange, *event["Records"]]}, Context())
        assert rows(dsn) == [1]


def test_an_event_that_comes_late_changes_nothing(
    dsn: str, s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its sequencer says so, whether it comes in a notification or by way of EventBridge; the log and a metric tell."""
    (tmp_path / "specs" / "trips.toml").write_text('versions = "snapshot"' + SPEC)
    first, second = s3.put(KEY, b"a\n1\n"), s3.put(KEY, b"a\n2\n")
    event = notification((s3.bucket, KEY, second))
    assert handler(event, Context())["loads"][0]["state"] == "loaded"
    stored = {"key": KEY, "version-id": first, "sequencer": "9"}
    late = {
        "source": "aws.s3",
        "detail-type": "Object Created",
        "detail": {"bucket": {"name": s3.bucket}, "object": stored},
    }
    (report,) = handler(late, Context())["loads"]
    assert (report["state"], report["notes"]) == (
        "skipped",
        ["a newer version of it was loaded before, by load 1: add --force to load this one anyway"],
    )
    assert report["superseded_by"] == 1
    assert rows(dsn) == [2]
    told = logged(capsys)[-1]
    assert (told["level"], told["state"], told["LoadsSuperseded"]) == ("WARNING", "skipped", [1.0])


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Invocation]]:
    """Contexts of invocations that have time for 20 blocks; `BIG` has about three times as many."""
    monkeypatch.setitem(split.__kwdefaults__, "block_size", 32 << 10)
    with by_blocks(10) as clock:
        yield lambda: Invocation(200, clock)


BIG = b"a\n" + b"\n".join(b"%d" % number for number in range(300_000)) + b"\n"
STAGED = 'segment_mb = 1\nmode = "merge"\nkey = ["a"]\n'


def staged(dsn: str, tmp_path: Path) -> None:
    """The table holds some records of `BIG` already, so they have to be matched."""
    query(dsn, "CREATE TABLE trips (a bigint PRIMARY KEY)")
    query(dsn, "INSERT INTO trips SELECT generate_series(0, 299999, 100)")
    path = tmp_path / "specs" / "trips.toml"
    path.write_text(STAGED + path.read_text())


@pytest.mark.usefixtures("large_way")
def test_a_load_goes_on_with_the_next_delivery(
    dsn: str, s3: Any, tmp_path: Path, hurried: Callable[[], Invocation]
) -> None:
    """Its message is handed back, and visible again at once; others that were not begun are, too."""
    staged(dsn, tmp_path)
    sqs = boto3.client("sqs")
    url = sqs.create_queue(QueueName="uploads", Attributes={"VisibilityTimeout": "3600"})["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sqs.send_message(QueueUrl=url, MessageBody=json.dumps(notification((s3.bucket, KEY, s3.put(KEY, BIG)))))
    for delivery in range(1, 40):
        (message,) = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
        record = {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": {"ApproximateReceiveCount": str(delivery)},
            "eventSource": "aws:sqs",
            "eventSourceARN": arn,
        }
        context = hurried() if delivery < 4 else Context()
        if handler({"Records": [record]}, context) == {"batchItemFailures": []}:
            break
    assert delivery == 4
    columns = "state, attempts, handovers, resumes > 0, rows_inserted"
    assert query(dsn, f"SELECT {columns} FROM loader.loads") == [("loaded", delivery, delivery - 1, True, 297_000)]
    assert query(dsn, "SELECT count(*) FROM trips") == [(300_000,)]
    sqs.delete_queue(QueueUrl=url)


def test_workers_share_an_object_and_its_handovers(
    dsn: str, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they have loaded when the time is up, the next invocation need not load."""

    class UntilLoaded(Context):
        """There is time until so many shards are loaded."""

        def __init__(self, shards: int) -> None:
            self._shards = shards

        def get_remaining_time_in_millis(self) -> int:
            return int(MARGIN * 1000) + (600_000 if len(loaded()) < self._shards else 0)

    def loaded() -> set[int]:
        """The runs of shards that are through."""
        if query(dsn, "SELECT to_regclass('loader.shards')") == [(None,)]:
            return set()
        return {run for (run,) in query(dsn, "SELECT run FROM loader.shards WHERE report IS NOT NULL")}

    monkeypatch.setenv("LOADER_WORKERS", "2")
    monkeypatch.setattr("loader.sharding.workers.LEAST", 1 << 18)
    staged(dsn, tmp_path)
    event = queued(notification((s3.bucket, KEY, s3.put(KEY, BIG))))
    before: set[int] = set()
    for number in (1, 8):  # after the last there is no time to merge
        assert handler(event, UntilLoaded(number)) == {"batchItemFailures": [{"itemIdentifier": "0"}]}
        assert before <= loaded()
        before = loaded()
    assert len(before) == 8
    assert handler(event, Context()) == {"batchItemFailures": []}
    columns = "state, attempts, handovers, rows_inserted, (shards->>'shards')::int, (shards->>'proved')::int"
    assert query(dsn, f"SELECT {columns} FROM loader.loads") == [("loaded", 1, 2, 297_000, 8, 8)]
    assert query(dsn, "SELECT count(*) FROM trips") == [(300_000,)]
    monkeypatch.setenv("LOADER_WORKERS", "both")
    settings.forget()
    with pytest.raises(UsageError, match="LOADER_WORKERS is 'both'"):
        handler(notification((s3.bucket, KEY, None)), Context())


@pytest.mark.without_ledger
def test_messages_for_which_no_time_is_left_are_handed_back(dsn: str, s3: Any) -> None:
    """Unstarted, so they are no failures in the ledger."""

    class Late(Context):
        def get_remaining_time_in_millis(self) -> int:
            return int(MARGIN * 1000)

    event = queued(*(notification((s3.bucket, KEY, s3.put(KEY, b"a\n1\n"))) for _ in range(2)))
    assert handler(event, Late()) == {"batchItemFailures": [{"itemIdentifier": "0"}, {"itemIdentifier": "1"}]}
    assert query(dsn, "SELECT to_regclass('loader.loads') IS NULL") == [(True,)]
    with pytest.raises(PausedError, match="its time is up; it was not begun"):
        handler(json.loads(event["Records"][0]["body"]), Late())


def test_a_message_that_is_none_of_the_queues_costs_no_other_its_turn(dsn: str, s3: Any) -> None:
    """It has no id to be handed back by."""
    event = queued(notification((s3.bucket, KEY, s3.put(KEY, b"a\n1\n"))))
    for strange in (7, {}, {"eventSource": "aws:s3"}):
        assert handler({"Records": [strange, *event["Records"]]}, Context()) == {"batchItemFailures": []}
    assert rows(dsn) == [1]


class Queue:
    """A queue, and the handler as its only consumer."""

    def __init__(self, name: str) -> None:
        self.sqs = boto3.client("sqs")
        self.url = self.sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "3600"})["QueueUrl"]
        names = ["QueueArn"]
        self.arn = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]["QueueArn"]

    def deliver(self, event: Any, *, received: int, changes: dict[str, Any] | None = None) -> float:
        """Send the event, hand its message to the handler, which must hand it back; seconds until it is due again."""
        self.sqs.send_message(QueueUrl=self.url, MessageBody=json.dumps(event))
        (message,) = self.sqs.receive_message(QueueUrl=self.url, WaitTimeSeconds=5)["Messages"]
        record = {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": {"ApproximateReceiveCount": str(received)},
            "eventSource": "aws:sqs",
            "eventSourceARN": self.arn,
        }
        answer = handler({"Records": [record | (changes or {})]}, Context())
        assert answer == {"batchItemFailures": [{"itemIdentifier": message["MessageId"]}]}
        hidden = self._hidden_for(message["MessageId"])
        self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        return hidden

    def _hidden_for(self, message_id: str) -> float:
        """As the emulator has it: SQS itself does not tell."""
        from moto.backends import get_backend

        queues = get_backend("sqs")["123456789012"]["us-east-1"].queues
        (message,) = (each for each in queues[self.url.rpartition("/")[2]]._messages if each.id == message_id)
        return float(message.visible_at / 1000 - time.time())


@pytest.fixture
def uploads(aws: str) -> Iterator[Queue]:
    queue = Queue("failures")
    yield queue
    queue.sqs.delete_queue(QueueUrl=queue.url)


def longest(queue: Queue, event: Any, *, received: int) -> float:
    """Of several pauses, which are random."""
    return max(queue.deliver(event, received=received) for _ in range(12))


def test_a_poison_file_comes_again_soon(dsn: str, s3: Any, uploads: Queue) -> None:
    """However often it came: within minutes it is where somebody looks. Its reason is in the ledger."""
    event = notification((s3.bucket, KEY, s3.put(KEY, b"nosuch\n1\n")))
    assert longest(uploads, event, received=1) <= 2
    assert 10 < longest(uploads, event, received=17) <= 60
    ((state, retryable, error),) = query(dsn, "SELECT state, retryable, last_error FROM loader.loads")
    assert (state, retryable) == ("failed", False)
    assert 'no column "a"' in error


def test_what_may_pass_is_given_time(s3: Any, uploads: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The more the more often it failed, up to a quarter of an hour: here nobody answers for the database."""
    monkeypatch.setenv("LOADER_DSN", "host=127.0.0.1 port=1")
    event = notification((s3.bucket, KEY, s3.put(KEY, b"a\n1\n")))
    assert longest(uploads, event, received=1) <= 10
    assert 100 < longest(uploads, event, received=17) <= 900


def test_where_a_message_cannot_be_hidden_its_queue_decides(
    s3: Any, uploads: Queue, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is told, and the message handed back as ever."""
    gone = {"eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:nosuch"}
    assert uploads.deliver({"hello": "world"}, received=1, changes=gone) > 3500
    assert [line["state"] for line in logged(capsys)] == ["failed", "handed back", "not hidden"]


@contextmanager
def reinvoking(endpoint: str) -> Iterator[None]:
    """A function that may call itself, and finds Lambda there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_LAMBDA", endpoint)
        patch.setenv("LOADER_REINVOKE", "1")
        settings.forget()
        yield
    settings.forget()


@pytest.mark.usefixtures("large_way")
def test_without_a_queue_the_function_calls_itself(
    dsn: str, s3: Any, tmp_path: Path, hurried: Callable[[], Invocation]
) -> None:
    """Where it is told that it may; with an event that names the version, and says how often that was."""
    staged(dsn, tmp_path)
    event = notification((s3.bucket, KEY, version := s3.put(KEY, BIG)))
    with pytest.raises(PausedError):
        handler(event, hurried())
    asked: list[dict[str, Any]] = []
    with lambda_service(asked) as endpoint, reinvoking(endpoint):
        (report,) = handler(event, hurried())["loads"]
    assert (report["state"], report["retryable"], report["handovers"]) == ("failed", True, 2)
    assert "its time is" in report["error"]
    assert "staged, and the same call goes on from there" in report["error"]
    assert asked == [{"source": s3.uri(KEY), "version_id": version, "sequencer": "0A1B2C", "handover": 2}]
    (done,) = handler(asked[0], Context())["loads"]
    assert (done["state"], done["attempts"], done["rows_inserted"]) == ("loaded", 3, 297_000)


def test_what_it_was_told_it_tells_itself(dsn: str, s3: Any, hurried: Callable[[], Invocation]) -> None:
    """By force, and with the spec in the event: the load goes on in its row, and is loaded once more just once."""
    spec = {"table": "trips", "segment_mb": 1, "mode": "merge", "key": ["a"]}
    s3.put(KEY, BIG)
    event = {"source": s3.uri(KEY), "spec": spec}
    assert handler(event, Context())["loads"][0]["state"] == "loaded"
    asked: list[dict[str, Any]] = []
    with lambda_service(asked) as endpoint, reinvoking(endpoint):
        handler({**event, "force": True, "handover": 4}, hurried())
    assert asked == [{**event, "force": True, "token": "request", "handover": 5}]
    assert handler(asked[0], Context())["loads"][0]["state"] == "loaded"
    assert query(dsn, "SELECT forced, state, attempts FROM loader.loads ORDER BY load_id") == [
        (False, "loaded", 1),
        (True, "loaded", 2),
    ]


@pytest.mark.usefixtures("large_way")
def test_where_nobody_takes_the_call_the_error_is_raised(
    dsn: str, s3: Any, capsys: pytest.CaptureFixture[str], hurried: Callable[[], Invocation]
) -> None:
    """So that Lambda's own retries go on with the load."""
    query(dsn, "CREATE TABLE trips (a bigint); INSERT INTO trips VALUES (7)")  # so that it is staged
    event = {"source": s3.uri(KEY), "spec": {"table": "trips", "segment_mb": 1, "mode": "replace"}}
    s3.put(KEY, BIG)
    with reinvoking("http://127.0.0.1:1"), pytest.raises(PausedError):
        handler(event, hurried())
    assert [line["state"] for line in logged(capsys)] == ["failed", "not handed over"]


def test_sigterm_brings_a_load_to_rest(dsn: str, s3: Any) -> None:
    """Even while it waits for its turn in PostgreSQL."""

    def terminate_when_it_waits() -> None:
        wait_for(lambda: query(dsn, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        os.kill(os.getpid(), signal.SIGTERM)

    s3.put(KEY, b"a\n1\n")
    query(dsn, "CREATE TABLE trips (a int)")
    connection = psycopg2.connect(dsn)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtextextended('loader public.trips', 0))")
    killer = threading.Thread(target=terminate_when_it_waits)
    killer.start()
    with pytest.raises(PausedError, match="it was told to stop while waiting for its turn"):
        handler({"source": s3.uri(KEY)}, Context())
    killer.join()
    connection.close()
    assert handler({"source": s3.uri(KEY)}, Context())["loads"][0]["state"] == "loaded"


@contextmanager
def lambda_service(asked: list[dict[str, Any]]) -> Iterator[str]:
    """Lambda's Invoke, as far as it is asked for here: asynchronously, by ARN (Lambda API Reference, Invoke)."""

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert unquote(self.path) == f"/2015-03-31/functions/{Invocation.invoked_function_arn}/invocations"
            assert self.headers["X-Amz-Invocation-Type"] == "Event"
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    with HTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("version", ["2.0", "2.1", "2.3", "2.9"])
def test_any_event_of_version_2_is_read(version: str) -> None:
    """Minor versions only add fields."""
    event = notification(("b", "a+b c.csv", "v"))
    event["Records"][0]["eventVersion"] = version
    assert list(objects_of(event)) == [ObjectCreated("b", "a+b c.csv", "v", "0A1B2C", size=1)]


def test_specs_of_a_bucket(dsn: str, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may live under a prefix; two that match one key are an error that names both."""
    s3.put("specs/trips.toml", SPEC.encode())
    s3.put("incoming/a.csv", b"a\n1\n")
    monkeypatch.setenv("LOADER_SPECS", s3.uri("specs/"))
    event = notification((s3.bucket, "incoming/a.csv", None))
    assert handler(event, Context())["loads"][0]["state"] == "loaded"
    s3.put("specs/other.toml", SPEC.encode())
    settings.settings().specs._read_at -= 61  # type: ignore[operator] - a minute passes
    with pytest.raises(UsageError, match="several specs match it: other, trips"):
        handler(event, Context())


def test_one_connection_serves_many_invocations(dsn: str, s3: Any) -> None:
    """And one that died while the function was frozen is replaced."""
    event = notification((s3.bucket, KEY, s3.put(KEY, b"a\n1\n")))
    handler(event, Context())
    pids = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'loader %' AND datname = current_database()"
    before = query(dsn, pids)
    assert len(before) == 1
    handler(event, Context())
    assert query(dsn, pids) == before
    query(dsn, f"SELECT pg_terminate_backend(pid, 5000) FROM ({pids}) AS loaders")
    assert handler(event, Context())["loads"][0]["state"] == "skipped"


def test_without_a_database_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a stack trace about None."""
    monkeypatch.delenv("LOADER_DSN")
    with pytest.raises(UsageError, match="neither LOADER_SECRET_ID nor LOADER_DSN"):
        handler({"source": "s3://b/k", "spec": {"table": "t"}}, None)


def test_an_error_of_an_event_is_one_sentence(s3: Any) -> None:
    """For objects that are gone, too."""
    with pytest.raises(LoaderError, match=r"incoming/nosuch\.csv") as caught:
        handler(notification((s3.bucket, "incoming/nosuch.csv", None)), Context())
    assert "\n" not in str(caught.value)
