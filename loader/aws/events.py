"""What an event says: which object versions were created, what asks for nothing, and what is no event of S3.

An event is input: every field that a load goes by is checked here, before the load, whatever it holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, overload
from urllib.parse import unquote_plus

from loader.core.display import SHOWN, printable
from loader.core.errors import UsageError
from loader.core.suggestions import listed
from loader.sources.folder_markers import is_marker


@dataclass(frozen=True, slots=True)
class ObjectCreated:
    """One object version that an event tells of. ``sequencer`` orders the events of one key; ``time`` is when it was
    stored, in ISO 8601, as far as the event tells; so is ``size``, in bytes, or 0."""

    bucket: str
    key: str
    version_id: str | None
    sequencer: str | None = None
    time: str | None = None
    size: float = 0

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
        except UsageError as error:
            yield error


def objects_of(event: Mapping[str, Any]) -> Iterator[ObjectCreated]:
    """The object versions that an event says were created. Raises UsageError for what is no event of S3."""
    for told in told_by(event):
        if isinstance(told, UsageError):
            raise told
        if isinstance(told, ObjectCreated):
            yield told


def _of_notification(record: object) -> ObjectCreated | Ignored:
    """Keys are encoded as in forms (S3 User Guide, "Event message structure")."""
    top = _Fields(record, record)
    if top.values.get("eventSource") != "aws:s3":
        raise top.strange()
    name, s3 = top.text("eventName", needed=True), top.inner("s3")
    stored = s3.inner("object")
    key = stored.text("key", needed=True, longest=3 * KEY_BYTES)  # a byte may be three characters: %C3
    try:
        decoded = unquote_plus(key or "", errors="strict")
    except UnicodeDecodeError as error:
        raise UsageError(f"the event's key {shown(key)} is not UTF-8, which S3's keys are") from error
    created = _created(s3, stored, decoded, stored.text("versionId"), top.text("eventTime"))
    if name.startswith(("ObjectCreated:", "s3:ObjectCreated:")):
        return _unless_marker(created, name, stored.values.get("size"))
    return Ignored(name, created.uri, created.version_id)


def _of_eventbridge(event: object) -> ObjectCreated | Ignored:
    """Keys are not encoded (S3 User Guide, "EventBridge event message structure")."""
    top = _Fields(event, event)
    if top.values.get("source") != "aws.s3":
        raise top.strange()
    name, detail = top.text("detail-type", needed=True), top.inner("detail")
    stored = detail.inner("object")
    key = stored.text("key", needed=True)
    created = _created(detail, stored, key, stored.text("version-id"), top.text("time"))
    if name == "Object Created":
        return _unless_marker(created, name, stored.values.get("size"))
    return Ignored(name, created.uri, created.version_id)


def _created(told: _Fields, stored: _Fields, key: str, version_id: str | None, time: str | None) -> ObjectCreated:
    bucket = told.inner("bucket").text("name", needed=True)
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"the event's bucket {shown(bucket)} is not the name of a bucket")
    if fault := _text_fault(key, KEY_BYTES):
        raise UsageError(f"the event's key {shown(key)} {fault}")
    size = stored.values.get("size", 0)
    if not isinstance(size, int | float) or isinstance(size, bool) or not size >= 0:
        raise UsageError(f"the event's size must be a number of bytes, not {shown(size)}")
    return ObjectCreated(bucket, key, version_id, _sequencer_of(stored.text("sequencer")), time, size)


def _sequencer_of(text: str | None) -> str | None:
    if text is not None and not _SEQUENCER.fullmatch(text):
        raise UsageError(f"the event's sequencer {shown(text)} is not a hexadecimal number")
    return text


# --- fields


KEY_BYTES = 1024
"""Of UTF-8, that S3 lets a key have (S3 User Guide, "Naming Amazon S3 objects")."""

_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")
_SEQUENCER = re.compile(r"[0-9A-Fa-f]{1,64}")


class _Fields:
    """An object of an event's JSON, of which anything may be missing or of another type. ``record``: for messages."""

    def __init__(self, values: object, record: object) -> None:
        self._record = record
        if not isinstance(values, Mapping):
            raise self.strange()
        self.values = values

    def strange(self) -> UsageError:
        return UsageError(f"the event is not one of S3's: {shown(self._record)}")

    def inner(self, name: str) -> _Fields:
        return _Fields(self.values.get(name), self._record)

    @overload
    def text(self, name: str, *, needed: Literal[True], longest: int = KEY_BYTES) -> str: ...

    @overload
    def text(self, name: str, *, longest: int = KEY_BYTES) -> str | None: ...

    def text(self, name: str, *, needed: bool = False, longest: int = KEY_BYTES) -> str | None:
        """A text of at most ``longest`` bytes; None where it is missing and not ``needed``."""
        if name not in self.values:
            if needed:
                raise self.strange()
            return None
        return text_of(self.values[name], name, longest)


def text_of(value: object, name: str, longest: int = KEY_BYTES) -> str:
    """``value``, if it is a text that S3 and PostgreSQL can take. Raises UsageError, which calls it ``name``."""
    if not isinstance(value, str):
        raise UsageError(f"the event's {name} must be a text, not {shown(value)}")
    if fault := _text_fault(value, longest):
        raise UsageError(f"the event's {name} {shown(value)} {fault}")
    return value


def _text_fault(text: str, longest: int) -> str | None:
    if not text:
        return "must not be empty"
    if "\0" in text:
        return "has a NUL character, which PostgreSQL does not store"
    if len(text) > longest or len(text.encode("utf-8", "surrogatepass")) > longest:
        return f"is longer than {longest:,} bytes"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "has half of a surrogate pair, which is no character"
    return None


# --- what kind of event it is


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
    "source": str, "spec": object, "force": bool, "token": str, "version_id": str, "sequencer": str, "time": str,
    "handover": int,
}  # fmt: skip
"""What a direct event may have. ``token``: of one with ``force``, which request it is: with the same it takes effect
once, however often it comes. ``time``: when the object was stored. ``handover``: which of the invocations it is that
the function asked for itself."""

_KINDS = {bool: "true or false", int: "a whole number", str: "a text"}


def direct_of(event: object) -> dict[str, Any]:
    """What a direct event holds, without what is null. Raises UsageError for one that is none."""
    if not isinstance(event, Mapping):
        raise UsageError(f"the event is no JSON object: {shown(event)}")
    given = {str(name): value for name, value in event.items() if value is not None}
    unknown = set(given) - set(_DIRECT)
    if unknown:
        name = printable(min(unknown), SHOWN)
        raise UsageError(f'the event has the unknown key "{name}"; there are {listed(list(_DIRECT))}')
    source = given.get("source")
    if not isinstance(source, str) or not source.startswith("s3://"):
        raise UsageError(f"the event's source {shown(source)} is no s3:// URI")
    for name, value in given.items():
        kind = _DIRECT[name]
        if not isinstance(value, kind) or (kind is int and (isinstance(value, bool) or not 0 <= value < 1_000_000)):
            raise UsageError(f"the event's {name} must be {_KINDS[kind]}, not {shown(value)}")
        if isinstance(value, str):
            text_of(value, name, 2 * KEY_BYTES)
    if "token" in given and not given.get("force"):
        raise UsageError('the event has a token, which tells requests with "force": true apart, and no such force')
    _sequencer_of(given.get("sequencer"))
    if not isinstance(given.get("spec", ""), str | Mapping):
        raise UsageError(f"the event's spec must be a spec or the name of one, not {shown(given['spec'])}")
    return given


def with_token(direct: Mapping[str, Any], token: str) -> dict[str, Any]:
    """The direct event, if it is one that forces, with that ``token`` where it has none of its own."""
    return {"token": token, **direct} if direct.get("force") else dict(direct)


def event_of(body: str) -> Mapping[str, Any]:
    """The event in a message's body. Raises UsageError for what is no JSON object."""
    try:
        event = json.loads(body)
    except RecursionError as error:
        raise UsageError("the message is nested too deep to be an event") from error
    except ValueError as error:
        raise UsageError(f"the message is not JSON: {shown(body)}") from error
    if not isinstance(event, Mapping):
        raise UsageError(f"the message is no JSON object: {shown(event)}")
    return event


def shown(value: object) -> str:
    """A value for people: as JSON, cut where it is long, and safe to show."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=lambda odd: type(odd).__name__)
    except (TypeError, ValueError, RecursionError):  # it is nested too deep, or was never JSON
        text = type(value).__name__
    return printable(text, SHOWN)
