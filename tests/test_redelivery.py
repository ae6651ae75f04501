"""Messages of a queue whose loads do not come through: when they come again, and when they are put aside."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import boto3
import psycopg2
import pytest
from psycopg2.extensions import parse_dsn
from support.postgres import query

from loader.aws import settings
from loader.aws.handler import handler, how_of
from loader.aws.redelivery import (
    DEAD_LETTERS,
    FIRST_WAIT,
    LONGEST_HIDDEN,
    RECEIVES,
    TURN_PATIENCE,
    WAITS,
    Message,
    hidden_for,
)
from loader.core.deadline import Deadline
from loader.core.errors import BusyError, PausedError, ShapeError, UsageError
from loader.core.spec.model import LoadSpec
from twin.cloud import sqs_event

SPEC = 'source = "incoming/**"\ntable = "trips"\n[columns]\na = "int"\n'
KEY = "incoming/a.csv"


class Context:
    """Of an invocation with time."""

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


class Queue:
    """A queue with a dead-letter queue behind it, and the handler as its only consumer."""

    def __init__(self, receives: int) -> None:
        self.sqs = boto3.client("sqs")
        self.dead = self.sqs.create_queue(QueueName="uploads-dead")["QueueUrl"]
        policy = {"deadLetterTargetArn": self._arn(self.dead), "maxReceiveCount": receives}
        attributes = {"VisibilityTimeout": "3600", "RedrivePolicy": json.dumps(policy)}
        self.url = self.sqs.create_queue(QueueName="uploads", Attributes=attributes)["QueueUrl"]
        self.arn = self._arn(self.url)

    def _arn(self, url: str) -> str:
        found = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        return str(found["Attributes"]["QueueArn"])

    def send(self, body: Any) -> None:
        self.sqs.send_message(QueueUrl=self.url, MessageBody=body if isinstance(body, str) else json.dumps(body))

    def deliver(self, **attributes: str) -> bool | None:
        """Hand the next message to the function, as its mapping does; whether it is through, None for none."""
        self._show_all()
        found = self.sqs.receive_message(QueueUrl=self.url, MessageSystemAttributeNames=["All"]).get("Messages", [])
        if not found:
            return None
        event = sqs_event(found[0], self.arn)
        event["Records"][0]["attributes"] |= attributes
        answer = handler(event, Context())
        through = answer == {"batchItemFailures": []}
        assert through or answer == {"batchItemFailures": [{"itemIdentifier": found[0]["MessageId"]}]}
        if through:
            self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=found[0]["ReceiptHandle"])
        return through

    def _messages(self) -> list[Any]:
        from moto.backends import get_backend

        messages: list[Any] = get_backend("sqs")["123456789012"]["us-east-1"].queues["uploads"]._messages
        return messages

    def _show_all(self) -> None:
        """Whatever the pauses are: they pass."""
        for each in self._messages():
            each.visible_at = 0

    @property
    def hidden(self) -> float:
        """Seconds until the one message comes again; SQS itself does not tell."""
        (message,) = self._messages()
        return float(message.visible_at / 1000 - time.time())

    def letters(self) -> list[dict[str, Any]]:
        """Take the dead letters: their bodies and attributes."""
        asked = {"QueueUrl": self.dead, "MaxNumberOfMessages": 10, "MessageAttributeNames": ["All"]}
        found = self.sqs.receive_message(**asked).get("Messages", [])
        for each in found:
            self.sqs.delete_message(QueueUrl=self.dead, ReceiptHandle=each["ReceiptHandle"])
        return [
            {"body": each["Body"]}
            | {name: value["StringValue"] for name, value in each.get("MessageAttributes", {}).items()}
            for each in found
        ]

    def close(self) -> None:
        for url in (self.url, self.dead):
            self.sqs.delete_queue(QueueUrl=url)
        self.sqs.close()


@pytest.fixture
def queue(dsn: str, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    """A queue, and a cold function with one spec; the dead-letter queue is not in its environment."""
    (tmp_path / "trips.toml").write_text(SPEC)
    monkeypatch.setenv("LOADER_DSN", dsn)
    monkeypatch.setenv("LOADER_SPECS", str(tmp_path))
    queue = Queue(receives=4)
    yield queue
    queue.close()
    settings.forget()


@pytest.fixture
def aside(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """The same, and the function knows the dead-letter queue."""
    monkeypatch.setenv(DEAD_LETTERS, queue.dead)
    return queue


def notification(s3: Any, text: bytes, key: str = KEY) -> dict[str, Any]:
    version = s3.put(key, text)
    told = {"bucket": {"name": s3.bucket}, "object": {"key": key, "versionId": version}}
    return {"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": told}]}


def loads(dsn: str) -> list[tuple[Any, ...]]:
    return query(dsn, "SELECT state, attempts FROM loader.loads ORDER BY load_id")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, capsys.readouterr().out.splitlines()) if "state" in line]


# --- what can only fail again


def test_a_poison_file_is_a_dead_letter_at_once(dsn: str, s3: Any, aside: Queue) -> None:
    """With the reason, the kind of error and the load's id; it was tried once."""
    event = notification(s3, b"nosuch\n1\n")
    aside.send(event)
    assert aside.deliver() is True
    assert aside.deliver() is None
    (letter,) = aside.letters()
    assert json.loads(letter["body"]) == event
    assert 'no column "a"' in letter["loader-reason"]
    assert (letter["loader-error"], letter["loader-load-id"]) == ("ShapeError", "1")
    assert loads(dsn) == [("failed", 1)]


def test_a_redrive_is_another_attempt(dsn: str, s3: Any, aside: Queue) -> None:
    """The table was made to fit meanwhile, or not: nobody knows before it was tried."""
    query(dsn, "CREATE TABLE trips (a int, b int NOT NULL)")
    aside.send(notification(s3, b"a\n1\n"))
    for attempts in (1, 2):
        assert aside.deliver() is True
        (letter,) = aside.letters()
        assert loads(dsn) == [("failed", attempts)]
        aside.send(letter["body"])
    query(dsn, "ALTER TABLE trips ALTER b DROP NOT NULL")
    assert aside.deliver() is True
    assert (aside.letters(), loads(dsn)) == ([], [("loaded", 3)])
    assert query(dsn, "SELECT a FROM trips") == [(1,)]


@pytest.mark.parametrize("body", ["no JSON", "[1]", "[" * 10_000, '{"hello": "world"}'])
def test_what_is_no_event_is_a_dead_letter_at_once(aside: Queue, body: str) -> None:
    aside.send(body)
    assert aside.deliver() is True
    (letter,) = aside.letters()
    assert letter["body"] == body
    assert letter["loader-error"] == "UsageError"


def test_a_wrong_spec_puts_only_its_own_files_aside(dsn: str, s3: Any, aside: Queue, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('source = "other/*"\ntable = "other"\nmod = "append"\n')
    aside.send(notification(s3, b"a\n1\n", key="other/a.csv"))
    aside.send(notification(s3, b"a\n1\n"))
    assert [aside.deliver(), aside.deliver(), aside.deliver()] == [True, True, None]
    (letter,) = aside.letters()
    assert letter["loader-error"] == "SpecError"
    assert "mod: unknown key" in letter["loader-reason"]
    assert query(dsn, "SELECT a FROM trips") == [(1,)]


def test_where_it_cannot_be_put_aside_it_is_handed_back(
    dsn: str, s3: Any, queue: Queue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is acknowledged that is not safe elsewhere."""
    monkeypatch.setenv(DEAD_LETTERS, queue.dead + "-nosuch")
    queue.send(notification(s3, b"nosuch\n1\n"))
    assert queue.deliver() is False
    assert [line["state"] for line in lines(capsys)] == ["failed", "not put aside", "handed back"]


def test_what_concerns_every_load_puts_no_message_aside(
    dsn: str, s3: Any, aside: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login that fails for the moment, or an environment: a bad deployment must not empty the queue."""
    aside.send(notification(s3, b"a\n1\n"))
    for name, value in (
        ("LOADER_DSN", "dbname=nosuch " + f"host={parse_dsn(dsn)['host']} user=postgres"),
        ("LOADER_DSN", ""),
        ("LOADER_WORKERS", "many"),
        ("LOADER_SPECS", str(tmp_path / "nosuch")),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            settings.forget()
            assert aside.deliver(ApproximateReceiveCount="1") is False
    settings.forget()
    assert aside.letters() == []


def test_what_failed_for_good_is_answered_from_the_ledger(
    dsn: str, s3: Any, queue: Queue, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the reason, the same each time, and nothing is staged; until the queue itself puts the message aside."""
    queue.send(notification(s3, b"a\n" + b"x\n" * 2000))
    delivered = [queue.deliver() for _ in range(5)]
    assert delivered == [False] * 4 + [None]
    assert loads(dsn) == [("failed", 1)]
    failed = [line for line in lines(capsys) if line["state"] == "failed"]
    assert len({line["error"] for line in failed}) == 1
    assert {line["load_id"] for line in failed} == {1}
    assert [line["bytes_read"] > 0 for line in failed] == [True, False, False, False]
    assert "answered from the ledger: load 1 failed" in failed[-1]["notes"][0]
    assert len(queue.letters()) == 1


def test_another_spec_is_another_attempt(dsn: str, s3: Any, queue: Queue, tmp_path: Path) -> None:
    """Nobody has to redrive what a corrected spec loads."""
    queue.send(notification(s3, b"a\nx\n"))
    assert [queue.deliver(), queue.deliver()] == [False, False]
    (tmp_path / "trips.toml").write_text(SPEC.replace("int", "text"))
    settings.forget()
    assert queue.deliver() is True
    assert loads(dsn) == [("failed", 1), ("loaded", 1)]


def test_whatever_a_spec_says_makes_it_another_but_for_its_source_and_segments() -> None:
    """So that a corrected spec is never answered with what the wrong one failed of."""
    given = {"table": "t", "source": "*", "mode": "merge", "key": ["a"]}
    spec = LoadSpec.from_dict(given)
    assert spec.to_dict().keys() | {"limits", "versions"} == {each.name for each in fields(LoadSpec)}
    assert LoadSpec.from_dict(given | {"source": "**", "segment_mb": 1}).fingerprint() == spec.fingerprint()
    for change in (
        {"table": "u"},
        {"mode": "replace"},
        {"key": ["b"]},
        {"csv": {"delimiter": ";"}},
        {"rejects": {"max_rows": 1001}},
        {"columns": {"a": "int"}},
        {"unknown": "error"},
        {"transform": {"filter": "a > 1"}},
        {"versions": "delta"},
    ):
        assert LoadSpec.from_dict(given | change).fingerprint() != spec.fingerprint()


def test_whoever_asks_by_hand_is_not_answered_from_the_ledger(dsn: str, s3: Any, queue: Queue) -> None:
    """A direct event, that is, and a second message, which nobody sends without a reason."""
    event = notification(s3, b"nosuch\n1\n")
    queue.send(event)
    assert [queue.deliver(), queue.deliver()] == [False, False]
    direct = {"source": s3.uri(KEY), "version_id": event["Records"][0]["s3"]["object"]["versionId"]}
    for attempts in (2, 3):
        with pytest.raises(ShapeError):
            handler(direct, Context())
        assert loads(dsn) == [("failed", attempts)]


def test_attempts_come_to_an_end(dsn: str, s3: Any, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a load whose process dies each time, say, however many receives there are for waiting."""
    query(dsn, "CREATE TABLE trips (a int, b int NOT NULL)")
    queue.send(notification(s3, b"a\n1\n"))
    assert queue.deliver() is False
    query(dsn, f"UPDATE loader.loads SET retryable = true, attempts = {RECEIVES}")
    query(dsn, "ALTER TABLE trips ALTER b DROP NOT NULL")
    monkeypatch.setenv(DEAD_LETTERS, queue.dead)
    assert queue.deliver(ApproximateReceiveCount=str(RECEIVES + 1)) is True
    (letter,) = queue.letters()
    assert f"was attempted {RECEIVES} times" in letter["loader-reason"]
    queue.send(letter["body"])
    assert queue.deliver() is True  # a redrive begins anew
    assert query(dsn, "SELECT a FROM trips") == [(1,)]


# --- waiting for a turn


@contextmanager
def held(dsn: str, table: str = "trips") -> Iterator[None]:
    """Another load has the turn of the table."""
    connection = psycopg2.connect(dsn)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtextextended('loader public.' || %s, 0))", (table,))
    try:
        yield
    finally:
        connection.close()


def test_a_load_that_waits_for_its_turn_is_handed_back(
    dsn: str, s3: Any, aside: Queue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is no failure: not in the ledger, not in the metrics; and its pauses grow."""
    monkeypatch.setattr("loader.aws.handler.TURN_PATIENCE", 0.1)
    query(dsn, "CREATE TABLE trips (a int)")
    aside.send(notification(s3, b"a\n1\n"))
    with held(dsn):
        for received in (1, 3, 9):
            assert aside.deliver(ApproximateReceiveCount=str(received)) is False
            assert FIRST_WAIT * 2**received / 4 - 2 < aside.hidden <= FIRST_WAIT * 2**received / 2
    told = lines(capsys)
    assert [(line["state"], line["level"]) for line in told] == [("waiting", "INFO")] * 3
    assert "another load has had its turn" in told[0]["error"]
    assert not any("LoadsFailed" in line for line in told)
    assert aside.deliver() is True
    assert (aside.letters(), loads(dsn)) == ([], [("loaded", 1)])


def test_waits_grow_and_leave_room_for_half_a_day() -> None:
    """Each is at least half of what it may be at most, so the receives for waiting last."""
    busy = BusyError("t")
    for _ in range(50):
        waits = [hidden_for(Message(received=each), busy) for each in range(1, WAITS + 1)]
        assert 1 <= waits[0] <= 3
        assert all(LONGEST_HIDDEN / 2 <= each <= LONGEST_HIDDEN for each in waits[9:])
        assert sum(waits) > 12 * 3600
        spread = {hidden_for(Message(received=WAITS), busy) for _ in range(100)}
        assert max(spread) - min(spread) > 200  # those that were handed back together do not come back together
    assert hidden_for(Message(received=9), PausedError("t", handover=True)) == 0


def test_without_a_queue_a_load_waits(queue: Queue) -> None:
    """For as long as the function may: nobody would ask again soon."""
    assert how_of({}, Deadline(60)).wait > 30
    assert how_of({}, Deadline(60), Message()).wait == TURN_PATIENCE
    assert how_of({}, Deadline(10), Message()).wait < 10


# --- messages that make no sense


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attributes", None),
        ("attributes", []),
        ("attributes", {"ApproximateReceiveCount": "abc"}),
        ("attributes", {"ApproximateReceiveCount": None}),
        ("attributes", {"ApproximateReceiveCount": "-1"}),
        ("attributes", {"ApproximateReceiveCount": "9" * 5000}),
        ("attributes", {"ApproximateFirstReceiveTimestamp": "soon"}),
        ("attributes", {"ApproximateFirstReceiveTimestamp": 1e300}),
        ("receiptHandle", 7),
        ("eventSourceARN", "arn"),
        ("eventSourceARN", {}),
        ("body", None),
        ("body", {"Records": []}),
    ],
)
def test_a_field_that_makes_no_sense_is_told_before_a_load(
    dsn: str, s3: Any, queue: Queue, capsys: pytest.CaptureFixture[str], field: str, value: Any
) -> None:
    """In a sentence; the message is handed back by its id, and the one beside it is loaded."""
    good = {"messageId": "good", "eventSource": "aws:sqs", "body": json.dumps(notification(s3, b"a\n2\n"))}
    bad = good | {"messageId": "bad", "body": json.dumps(notification(s3, b"a\n1\n", "incoming/b.csv"))}
    answer = handler({"Records": [bad | {field: value}, good]}, Context())
    assert answer == {"batchItemFailures": [{"itemIdentifier": "bad"}]}
    assert query(dsn, "SELECT a FROM trips") == [(2,)]
    failed = next(line for line in lines(capsys) if line["state"] == "failed")
    assert failed["error"].startswith("the message's ")


def test_a_message_without_an_id_that_failed_brings_its_batch_again(queue: Queue) -> None:
    """An answer could not name it, and SQS would take it for loaded."""
    for id_ in ({}, {"messageId": None}, {"messageId": ""}, {"messageId": 7}):
        with pytest.raises(UsageError, match="a message without an id failed"):
            handler({"Records": [{"eventSource": "aws:sqs", "body": "no JSON", **id_}]}, Context())
