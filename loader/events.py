"""What an event says: which object versions were created, what asks for nothing, and what is no event of S3."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from loader.errors import UsageError
from loader.markers import is_marker
from loader.names import listed


@dataclass(frozen=True, slots=True)
class ObjectCreated:
    """One object version that an event tells of. ``sequencer`` orders the events of one key; ``time`` is when it was
    stored, in ISO 8601, as far as the event tells."""

    bucket: str
    key: str
    version_id: str | None
    sequencer: str | None = None
    time: str | None = None

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event that asks for nothing: a deletion, a test message, a tag, or, by ``why``, an object without data."""

    event: str
    source: str | None = None
    version: str | None = None
    why: str | None = None

    def to_dict(self) -> dict[str, Any]:
        told = {"state": "ignored", "event": self.event, "source": self.source, "version": self.version}
        return {**told, "why": self.why} if self.why else told


def told_by(event: Mapping[str, Any]) -> Iterator[ObjectCreated | Ignored | UsageError]:
    """What an S3 notification or an EventBridge event tells, record by record.

    A record that is none of S3's is an error of its own and keeps no other from its turn.
    """
    if event.get("Event") == "s3:TestEvent":
        yield Ignored("s3:TestEvent")
        return
    records = [event] if "detail" in event else event.get("Records")
    if not isinstance(records, list):
        yield UsageError(f"the event is not one of S3's: {shown(event)}")
        return
    for record in records:
        try:
            yield _of_eventbridge(record) if "detail" in event else _of_notification(record)
        except (KeyError, TypeError, AttributeError):
            yield UsageError(f"the event is not one of S3's: {shown(record)}")
        except UsageError as error:
            yield error


def objects_of(event: Mapping[str, Any]) -> Iterator[ObjectCreated]:
    """The object versions that an event says were created. Raises UsageError for what is no event of S3."""
    for told in told_by(event):
        if isinstance(told, UsageError):
            raise told
        if isinstance(told, ObjectCreated):
            yield told


def _of_notification(record: Mapping[str, Any]) -> ObjectCreated | Ignored:
    """Keys are encoded as in forms (S3 User Guide, "Event message structure")."""
    if record.get("eventSource") != "aws:s3":
        raise UsageError(f"the record is not one of S3's: {shown(record)}")
    name, stored = record["eventName"], record["s3"]["object"]
    created = ObjectCreated(
        record["s3"]["bucket"]["name"],
        unquote_plus(stored["key"]),
        stored.get("versionId"),
        stored.get("sequencer"),
        record.get("eventTime"),
    )
    if name.startswith(("ObjectCreated:", "s3:ObjectCreated:")):
        return _unless_marker(created, name, stored.get("size"))
    return Ignored(name, created.uri, created.version_id)


def _of_eventbridge(event: Mapping[str, Any]) -> ObjectCreated | Ignored:
    """Keys are not encoded (S3 User Guide, "EventBridge event message structure")."""
    if event.get("source") != "aws.s3":
        raise UsageError(f"the event is not one of S3's: {shown(event)}")
    stored = event["detail"]["object"]
    created = ObjectCreated(
        event["detail"]["bucket"]["name"],
        stored["key"],
        stored.get("version-id"),
        stored.get("sequencer"),
        event.get("time"),
    )
    if event.get("detail-type") == "Object Created":
        return _unless_marker(created, "Object Created", stored.get("size"))
    return Ignored(str(event.get("detail-type")), created.uri, created.version_id)


def _unless_marker(created: ObjectCreated, event: str, size: int | None) -> ObjectCreated | Ignored:
    """A folder of the console, a ``_SUCCESS`` and the like ask for no load. An empty data file does: it fails, for a
    failed export looks the same."""
    if not is_marker(created.key, size):
        return created
    return Ignored(event, created.uri, created.version_id, "it stands for no data")


def is_sqs(event: Mapping[str, Any]) -> bool:
    records = event.get("Records")
    return isinstance(records, list) and any(
        isinstance(each, Mapping) and each.get("eventSource") == "aws:sqs" for each in records
    )


def is_ping(event: Mapping[str, Any]) -> bool:
    """Whether it asks for a look at the function's health, and for no load."""
    return "ping" in event


def is_direct(event: Mapping[str, Any]) -> bool:
    return "source" in event and "detail" not in event


_DIRECT: dict[str, type[Any]] = {
    "source": str, "spec": object, "force": bool, "version_id": str, "sequencer": str, "time": str, "handover": int
}  # fmt: skip
"""What a direct event may have. ``time``: when the object was stored. ``handover``: which of the invocations it is that
the function asked for itself."""

_KINDS = {bool: "true or false", int: "a whole number", str: "a text"}


def direct_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """What a direct event holds, without what is null. Raises UsageError for one that is none."""
    given = {name: value for name, value in event.items() if value is not None}
    unknown = set(given) - set(_DIRECT)
    if unknown:
        raise UsageError(f'the event has the unknown key "{min(unknown)}"; there are {listed(list(_DIRECT))}')
    source = given.get("source")
    if not isinstance(source, str) or not source.startswith("s3://"):
        raise UsageError(f"the event's source {shown(source)} is no s3:// URI")
    for name, value in given.items():
        kind = _DIRECT[name]
        if not isinstance(value, kind) or (kind is int and (isinstance(value, bool) or value < 0)):
            raise UsageError(f"the event's {name} must be {_KINDS[kind]}, not {shown(value)}")
    return given


def shown(value: object) -> str:
    """A value for people, as JSON, cut where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 200 else text[:200] + "…"
