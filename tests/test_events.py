"""What events say, and every way in which a field of theirs may make no sense."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.postgres import query

from loader.aws import settings
from loader.aws.events import Ignored, ObjectCreated, direct_of, event_of, objects_of, shown, told_by
from loader.aws.handler import handler
from loader.core.errors import LoaderError, UsageError

KEY = "incoming/2024/Köln + more (1).csv"
SPEC = 'source = "incoming/**"\ntable = "trips"\n[columns]\na = "int"\n'


def notification(bucket: str, key: str, version: str) -> dict[str, Any]:
    told = {
        "bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"},
        "object": {"key": quote_plus(key, safe="/"), "size": 4, "versionId": version, "sequencer": "0A1B2C"},
    }
    return {
        "Records": [
            {
                "eventVersion": "2.3",
                "eventSource": "aws:s3",
                "eventTime": "2026-11-27T02:44:50.000Z",
                "eventName": "ObjectCreated:Put",
                "s3": told,
            }
        ]
    }


def eventbridge(bucket: str, key: str, version: str) -> dict[str, Any]:
    stored = {"key": key, "size": 4, "version-id": version, "sequencer": "0A1B2C"}
    return {
        "source": "aws.s3",
        "detail-type": "Object Created",
        "time": "2026-11-27T02:44:50Z",
        "detail": {"bucket": {"name": bucket}, "object": stored},
    }


def queued(body: Any) -> dict[str, Any]:
    return {
        "Records": [
            {
                "messageId": "5fea7756",
                "receiptHandle": "AQEB",
                "body": json.dumps(body),
                "attributes": {"ApproximateReceiveCount": "1", "ApproximateFirstReceiveTimestamp": "1764210000000"},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:nosuch",
            }
        ]
    }


FIELDS = {
    "bucket": (("Records", 0, "s3", "bucket", "name"), ("detail", "bucket", "name")),
    "key": (("Records", 0, "s3", "object", "key"), ("detail", "object", "key")),
    "version": (("Records", 0, "s3", "object", "versionId"), ("detail", "object", "version-id")),
    "sequencer": (("Records", 0, "s3", "object", "sequencer"), ("detail", "object", "sequencer")),
    "size": (("Records", 0, "s3", "object", "size"), ("detail", "object", "size")),
    "time": (("Records", 0, "eventTime"), ("time",)),
    "name": (("Records", 0, "eventName"), ("detail-type",)),
    "object": (("Records", 0, "s3", "object"), ("detail", "object")),
    "whole": (("Records", 0, "s3"), ("detail",)),
}


def replaced(event: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    event = copy.deepcopy(event)
    inner = event
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return event


@pytest.mark.parametrize("value", [None, 5, True, [], {}, "", "\ud800", "a\0b", "x" * 5000, float("nan")])
@pytest.mark.parametrize("field", [name for name in FIELDS if name != "size"])
def test_a_field_of_another_kind_is_a_sentence(field: str, value: Any) -> None:
    """Of a notification and of EventBridge's event."""
    for event, path in zip((notification("b", "k", "v"), eventbridge("b", "k", "v")), FIELDS[field], strict=True):
        with pytest.raises(UsageError, match=r"^the event") as caught:
            list(objects_of(replaced(event, path, value)))
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", "abc"),
        ("size", -1),
        ("size", None),
        ("bucket", "b/incoming"),
        ("key", "%ED%A0%80"),
        ("key", "a%00b"),
        ("key", "%C3" * 1024),
        ("sequencer", "xyz"),
    ],
)
def test_a_field_that_makes_no_sense_is_a_sentence(field: str, value: Any) -> None:
    """A bucket's name must not reach into the key; what is no UTF-8 must not become another key."""
    with pytest.raises(UsageError, match=f"^the event's {field}"):
        list(objects_of(replaced(notification("b", "k", "v"), FIELDS[field][0], value)))


def test_a_key_may_have_1024_bytes_however_they_are_encoded() -> None:
    key = "ü" * 512
    assert [each.key for each in objects_of(notification("b", key, "v"))] == [key]


def test_what_may_be_missing() -> None:
    """Buckets without versions, older events, other stores."""
    event = notification("b", "k", "v")
    for name in ("size", "versionId", "sequencer"):
        del event["Records"][0]["s3"]["object"][name]
    del event["Records"][0]["eventTime"]
    assert list(told_by(event)) == [ObjectCreated("b", "k", None)]
    event["Records"][0]["eventName"] = "ObjectRemoved:Delete"
    assert list(told_by(event)) == [Ignored("ObjectRemoved:Delete", "s3://b/k", None)]


@pytest.mark.parametrize("body", ["", "no JSON", "[1]", "null", "[" * 100_000, '{"a":' * 100_000, "1" * 5000])
def test_a_body_that_is_no_event(body: str) -> None:
    with pytest.raises(UsageError, match=r"^the message ") as caught:
        event_of(body)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k\u202e" * 5_000_000: 1}, r'unknown key "k.u202e.*\(10,000,000 characters\)'),
        ({"spec": 7}, "spec must be a spec or the name of one, not 7"),
        ({"version_id": "\ud800"}, "version_id .* has half of a surrogate pair"),
        ({"sequencer": "z"}, "is not a hexadecimal number"),
        ({"source": "s3://b/a\0"}, "source .* has a NUL character"),
        ({"handover": 10**5000}, "handover must be a whole number"),
    ],
)
def test_a_direct_event_that_makes_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        direct_of({"source": "s3://b/k", **changes})
    assert len(str(caught.value)) < 1000


def test_any_value_can_be_shown() -> None:
    """Nested however deep, long, or of no kind that JSON has."""
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "list"
    assert shown({b"k": 1}) == "dict"
    assert shown("x" * 10_000_000).endswith("… (10,000,002 characters)")
    assert shown("a\u202eb") == '"a\\u202eb"'


# --- any event at all, through the handler

JUNK = st.sampled_from(
    [
        None,
        "",
        0,
        -1,
        True,
        1e308,
        [],
        {},
        [[]],
        "abc",
        "\ud800",
        "\0",
        "x" * 3000,
        "s3://b/k",
        "%ED%A0%80",
        10**30,
        "9",
    ]
) | st.text(st.characters(exclude_categories=()), max_size=5)


@pytest.fixture
def function(dsn: str, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """A function with one spec; gives every kind of event that tells of its one object."""
    (tmp_path / "trips.toml").write_text(SPEC)
    monkeypatch.setenv("LOADER_DSN", dsn)
    monkeypatch.setenv("LOADER_SPECS", str(tmp_path))
    version = s3.put(KEY, b"a\n1\n")
    told = notification(s3.bucket, KEY, version), eventbridge(s3.bucket, KEY, version)
    direct = {"source": s3.uri(KEY), "version_id": version, "sequencer": "0A1B2C", "time": "2026-11-27T02:44:50Z"}
    yield [*told, queued(told[0]), queued(told[1]), direct]
    settings.forget()


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inner:
        yield from paths(each, (*path, name))


def changed(data: st.DataObject, event: Any) -> Any:
    """The event with one field gone, or of another kind; where it is a message, perhaps one of its body."""
    path = data.draw(st.sampled_from(list(paths(event))))
    if path[-1] == "body" and data.draw(st.booleans()):
        inner = event["Records"][0]["body"]
        return replaced(event, path, json.dumps(changed(data, json.loads(inner))))
    if data.draw(st.integers(0, 4)):
        return replaced(event, path, data.draw(JUNK))
    event = copy.deepcopy(event)
    inner = event
    for step in path[:-1]:
        inner = inner[step]
    del inner[path[-1]]
    return event


def test_no_event_is_loaded_twice_or_ends_in_a_bare_exception(dsn: str, function: list[dict[str, Any]]) -> None:
    """Whatever one or two fields of it are; and a queue's answer names no message but those that it was given."""

    @hypothesis_settings(max_examples=80, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(function))
        for _ in range(data.draw(st.integers(1, 2))):
            event = changed(data, event) if list(paths(event)) else event
        try:
            answer = handler(event)
        except LoaderError as error:
            str(error).encode()
        else:
            json.dumps(answer)
            given_ids = [each.get("messageId") for each in event.get("Records", []) if isinstance(each, dict)]
            for failure in answer.get("batchItemFailures", []):
                assert failure["itemIdentifier"]
                assert failure["itemIdentifier"] in given_ids
        if query(dsn, "SELECT to_regclass('trips') IS NOT NULL") == [(True,)]:
            assert query(dsn, "SELECT a FROM trips") == [(1,)]

    check()
    handler(function[0])
    assert query(dsn, "SELECT a FROM trips") == [(1,)]
