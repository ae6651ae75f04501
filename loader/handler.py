"""The Lambda entry point: events in, loads made, failures told so that the event comes again.

Events: an S3 notification, the same wrapped in SQS messages (answered with partial batch failures), an
EventBridge "Object Created", or a direct ``{"source": "s3://…", "spec": …}``. Environment: see `Settings`.

A load that comes to rest because time is up is *handed over* to another invocation. With a queue that is the message's
next delivery, made visible at once. It counts as a receive like any other: the queue's ``maxReceiveCount`` has to
allow for the handovers (`pipeline.How`) and for the attempts that may fail beside them. Without a queue the function
may invoke itself; Lambda stops such a chain after some 16 rounds (Lambda developer guide, "Recursive loop detection"),
which the handovers stay below. Where neither is there, the error is raised, and Lambda's own two retries go on with it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_plus

from loader.database import Database, SecretCredentials
from loader.deadline import Deadline
from loader.errors import LoaderError, PausedError, UsageError
from loader.faults import backoff
from loader.memory import keep_buffers
from loader.names import listed
from loader.pipeline import How, load_one
from loader.report import LoadReport
from loader.shelf import SpecShelf
from loader.signals import run_stoppable
from loader.source import s3_client
from loader.spec import LoadSpec

LONGEST_HIDDEN = 900.0
"""Seconds after which a message whose load failed for a reason that may pass comes again at the latest: Lambda's
longest run."""

LONGEST_LASTING = 60.0
"""The same where the reason lasts: a poison file is out of the way, in the dead-letter queue, within minutes."""


@dataclass(frozen=True, slots=True)
class ObjectCreated:
    """One object version that an event tells of. ``sequencer`` orders the events of one key."""

    bucket: str
    key: str
    version_id: str | None
    sequencer: str | None = None

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event that asks for nothing: a deletion, a test message, a tag."""

    event: str
    source: str | None = None
    version: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"state": "ignored", "event": self.event, "source": self.source, "version": self.version}


def handler(event: Any, context: Any = None) -> dict[str, Any]:
    """Load what the event tells of, within the time that the function has.

    SQS: gives ``batchItemFailures``, so that only the messages that failed come again, among them those of loads that
    came to rest because time was up. Everything else gives ``loads``, a report each, and raises the first failure after
    all were tried, so that Lambda tries the event again; what was loaded by then is skipped. What asks for nothing,
    such as a deletion, is told in the log and as ``ignored``. SIGTERM brings what is under way to rest: it comes when
    Lambda takes a function down that has extensions, half a second before the end, and in containers elsewhere.
    """
    if not isinstance(event, Mapping):
        raise UsageError(f"the event is no JSON object but {type(event).__name__}")
    deadline = _deadline(context)
    keep_buffers()
    return run_stoppable(lambda: _answer(event, context, deadline), deadline)


def _answer(event: Mapping[str, Any], context: Any, deadline: Deadline) -> dict[str, Any]:
    if _is_sqs(event):
        return _queued(event["Records"], deadline)
    if "source" in event and "detail" not in event:
        return {"loads": [_direct(event, context, deadline)]}
    return _load_all(event, context, deadline)


def _deadline(context: Any) -> Deadline:
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    return Deadline() if remaining is None else Deadline(remaining() / 1000)


def told_by(event: Mapping[str, Any]) -> Iterator[ObjectCreated | Ignored | UsageError]:
    """What an S3 notification or an EventBridge event tells, record by record.

    A record that is none of S3's is an error of its own and keeps no other from its turn.
    """
    if event.get("Event") == "s3:TestEvent":
        yield Ignored("s3:TestEvent")
        return
    records = [event] if "detail" in event else event.get("Records")
    if not isinstance(records, list):
        yield UsageError(f"the event is not one of S3's: {_shown(event)}")
        return
    for record in records:
        try:
            yield _of_eventbridge(record) if "detail" in event else _of_notification(record)
        except (KeyError, TypeError, AttributeError):
            yield UsageError(f"the event is not one of S3's: {_shown(record)}")
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
        raise UsageError(f"the record is not one of S3's: {_shown(record)}")
    name, stored = record["eventName"], record["s3"]["object"]
    created = ObjectCreated(
        record["s3"]["bucket"]["name"], unquote_plus(stored["key"]), stored.get("versionId"), stored.get("sequencer")
    )
    if name.startswith(("ObjectCreated:", "s3:ObjectCreated:")):
        return created
    return Ignored(name, created.uri, created.version_id)


def _of_eventbridge(event: Mapping[str, Any]) -> ObjectCreated | Ignored:
    """Keys are not encoded (S3 User Guide, "EventBridge event message structure")."""
    if event.get("source") != "aws.s3":
        raise UsageError(f"the event is not one of S3's: {_shown(event)}")
    stored = event["detail"]["object"]
    created = ObjectCreated(
        event["detail"]["bucket"]["name"], stored["key"], stored.get("version-id"), stored.get("sequencer")
    )
    if event.get("detail-type") == "Object Created":
        return created
    return Ignored(str(event.get("detail-type")), created.uri, created.version_id)


def _is_sqs(event: Mapping[str, Any]) -> bool:
    records = event.get("Records")
    return isinstance(records, list) and any(
        isinstance(each, Mapping) and each.get("eventSource") == "aws:sqs" for each in records
    )


def _queued(messages: list[Any], deadline: Deadline) -> dict[str, Any]:
    """Those that failed are handed back. A load that came to rest goes on with its message's next delivery.

    (Lambda developer guide, "Implementing partial batch responses": an answer without the right ids is none.)
    """
    failures = []
    for message in messages:
        try:
            if reached := deadline.reached:
                raise PausedError(f"{reached}; this message was not begun", handover=not deadline.stopped)
            body = json.loads(message["body"])
            if not isinstance(body, Mapping):
                raise UsageError(f"the message is no JSON object: {_shown(body)}")
            _load_all(body, None, deadline)
        except Exception as error:  # whatever it is, the others' turn must come, and this one's again
            name = message.get("messageId") if isinstance(message, Mapping) else None
            _log({"message": name, "state": "failed", "error": _one_line(error)})
            if name:
                failures.append({"itemIdentifier": name})
                _hide(message, _hidden_for(message, error))
    return {"batchItemFailures": failures}


def _hidden_for(message: Mapping[str, Any], error: Exception) -> int:
    """Seconds until the message comes again: none where its load is to go on, else the longer the more often it failed.

    What will fail again comes again soon, so that it is out of the way soon.
    """
    if isinstance(error, PausedError):
        return 0
    failed = int(message.get("attributes", {}).get("ApproximateReceiveCount", 1)) - 1
    if isinstance(error, LoaderError) and error.retryable:
        return int(backoff(failed, first=10.0, longest=LONGEST_HIDDEN))
    return int(backoff(failed, first=2.0, longest=LONGEST_LASTING))


def _hide(message: Mapping[str, Any], seconds: int) -> None:
    """Have SQS hand the message out again after so many seconds, not after its queue's visibility timeout.

    The queue's URL is made of its ARN. Where that is not permitted, the queue's own timeout holds. (SQS API Reference,
    ChangeMessageVisibility: the time counts from the call.)
    """
    arn, receipt = str(message.get("eventSourceARN", "")).split(":"), message.get("receiptHandle")
    if len(arn) != 6 or not receipt:
        return
    try:
        client = _state().client("sqs", arn[3])
        url = f"{client.meta.endpoint_url.rstrip('/')}/{arn[4]}/{arn[5]}"
        client.change_message_visibility(QueueUrl=url, ReceiptHandle=receipt, VisibilityTimeout=seconds)
    except Exception as error:  # it is a convenience: nothing is lost without it
        _log({"message": message.get("messageId"), "state": "not hidden", "error": _one_line(error)})


def _load_all(event: Mapping[str, Any], context: Any, deadline: Deadline) -> dict[str, Any]:
    """All are tried. Raises the first failure; the log tells each."""
    reports: list[dict[str, Any]] = []
    ignored: list[dict[str, Any]] = []
    failed: list[Exception] = []
    for each in told_by(event):
        if isinstance(each, Ignored):
            ignored.append(each.to_dict())
            _log(ignored[-1])
            continue
        try:
            if isinstance(each, UsageError):
                raise each
            reports.append(_load_created(each, context, deadline))
        except Exception as error:  # a defect in one must not keep the others from their turn
            failed.append(error)
            if not (isinstance(error, LoaderError) and error.report is not None):  # no load has told of it
                named = {"source": each.uri, "version": each.version_id} if isinstance(each, ObjectCreated) else {}
                _log({"state": "failed", **named, "error": _one_line(error)})
    if failed:
        raise failed[0]
    return {"loads": reports, "ignored": ignored}


def _load_created(created: ObjectCreated, context: Any, deadline: Deadline) -> dict[str, Any]:
    spec = _state().specs.find(created.bucket, created.key)
    how = How(deadline=deadline, wait=_patience(deadline), sequencer=created.sequencer)
    direct = {"source": created.uri, "version_id": created.version_id, "sequencer": created.sequencer}
    return _load_or_hand_over(spec, how, direct, context)


_DIRECT: dict[str, type[Any]] = {
    "source": str, "spec": object, "force": bool, "version_id": str, "sequencer": str, "handover": int
}  # fmt: skip
"""What a direct event may have. ``handover``: which of the invocations it is that the function asked for itself."""

_KINDS = {bool: "true or false", int: "a whole number", str: "a text"}


def _direct(event: Mapping[str, Any], context: Any, deadline: Deadline) -> dict[str, Any]:
    given = {name: value for name, value in event.items() if value is not None}
    unknown = set(given) - set(_DIRECT)
    if unknown:
        raise UsageError(f'the event has the unknown key "{min(unknown)}"; there are {listed(list(_DIRECT))}')
    source = given.get("source")
    if not isinstance(source, str) or not source.startswith("s3://"):
        raise UsageError(f"the event's source {_shown(source)} is no s3:// URI")
    for name, value in given.items():
        kind = _DIRECT[name]
        if not isinstance(value, kind) or (kind is int and (isinstance(value, bool) or value < 0)):
            raise UsageError(f"the event's {name} must be {_KINDS[kind]}, not {_shown(value)}")
    how = How(
        force=given.get("force", False),
        deadline=deadline,
        wait=_patience(deadline),
        sequencer=given.get("sequencer"),
    )
    handover: int = given.get("handover", 0)
    if handover > how.handovers:
        raise UsageError(f"{source}: was handed over {handover} times, and {how.handovers} is the limit")
    return _load_or_hand_over(_named_spec(given, source), how, given, context)


def _named_spec(event: Mapping[str, Any], source: str) -> LoadSpec:
    """The spec that a direct event holds or names, else the one whose ``source`` matches."""
    specs, given = _state().specs, event.get("spec")
    if isinstance(given, Mapping):
        return LoadSpec.from_dict(given, origin="the event's spec")
    if given is None:
        bucket, _, key = source.removeprefix("s3://").partition("/")
        return specs.find(bucket, key)
    return specs.named(str(given))


def _load_or_hand_over(spec: LoadSpec, how: How, direct: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """One load, told in one line of the log, whatever becomes of it.

    Where time is up, another invocation is asked for with the event ``direct``, if the function may do that.
    """
    try:
        report = _load(spec, how, direct["source"], direct.get("version_id"))
    except LoaderError as error:
        if error.report is None:
            raise
        _log(error.report.to_dict())
        if isinstance(error, PausedError) and error.handover and _call_again(direct, error.report.handovers, context):
            return error.report.to_dict()
        raise
    _log(report.to_dict())
    return report.to_dict()


def _load(spec: LoadSpec, how: How, uri: str, version_id: str | None) -> LoadReport:
    """Load it, unless there is no time for anything. Raises LoaderError."""
    if reached := how.deadline.reached:
        paused = PausedError(f"{uri}: {reached}; it was not begun", handover=not how.deadline.stopped)
        paused.report = LoadReport(
            "failed", uri, spec.table, spec.mode, version=version_id, error=str(paused), retryable=True
        )
        raise paused
    return load_one(uri, spec, _state().database, how, s3=_state().s3, version_id=version_id)


def _call_again(direct: Mapping[str, Any], handovers: int, context: Any) -> bool:
    """Ask Lambda for another invocation of this very function; False where it may not, or cannot be asked.

    ``handovers``: how many there were, by the ledger. The event counts them too, in case that the ledger is lost:
    whichever comes to its limit first (`How`) ends it.
    """
    arn = getattr(context, "invoked_function_arn", None)
    if not (_state().reinvoke and arn):
        return False
    event = {**direct, "handover": max(direct.get("handover", 0) + 1, handovers)}
    body = json.dumps({name: value for name, value in event.items() if value is not None})
    try:
        _state().client("lambda").invoke(FunctionName=arn, InvocationType="Event", Payload=body.encode())
    except Exception as error:  # then what is raised has Lambda retry the event that it has
        _log({"source": direct["source"], "state": "not handed over", "error": _one_line(error)})
        return False
    return True


def _patience(deadline: Deadline) -> float:
    """Seconds to wait for a table's turn: what the function has left."""
    return max(deadline.left, 1.0) if deadline.left < math.inf else 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What outlives an invocation: connections, the S3 client, the specs.

    ``$LOADER_SPECS``: a folder shipped with the function (by default ``specs/`` in ``$LAMBDA_TASK_ROOT``) or
    ``s3://bucket/prefix/``. ``$LOADER_SECRET_ID``: the secret that says how to connect; else ``$LOADER_DSN``.
    ``$LOADER_REINVOKE``: not empty, a load that came to rest because time was up is carried on by an invocation that
    the function asks for itself; for events that come without a queue.
    """

    database: Database
    s3: Any
    specs: SpecShelf
    reinvoke: bool = False

    @staticmethod
    @lru_cache(maxsize=8)
    def client(service: str, region: str | None = None) -> Any:
        """A boto3 client, made when it is first wanted."""
        import boto3
        from botocore.config import Config

        config = Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 3})
        return boto3.client(service, region_name=region, config=config)

    @classmethod
    def from_environment(cls) -> Settings:
        """Raises UsageError where the environment does not say how to connect."""
        secret_id, dsn = os.environ.get("LOADER_SECRET_ID"), os.environ.get("LOADER_DSN")
        if not (secret_id or dsn):
            raise UsageError(
                "the environment has neither LOADER_SECRET_ID nor LOADER_DSN: there is no database to load into"
            )
        database = Database(SecretCredentials(secret_id) if secret_id else str(dsn))
        client = s3_client()
        shelf = os.environ.get("LOADER_SPECS") or os.path.join(os.environ.get("LAMBDA_TASK_ROOT", "."), "specs")  # noqa: PTH118
        return cls(database, client, SpecShelf(shelf, client), bool(os.environ.get("LOADER_REINVOKE")))


_settings: Settings | None = None
_settings_lock = threading.Lock()


def _state() -> Settings:
    global _settings  # noqa: PLW0603 - a Lambda's memory between invocations is its module's globals
    with _settings_lock:
        if _settings is None:
            _settings = Settings.from_environment()
        return _settings


def _log(entry: Mapping[str, Any]) -> None:
    """One line of JSON on standard output, where Lambda's log is."""
    print(json.dumps(entry, ensure_ascii=False, default=str), file=sys.stdout, flush=True)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, LoaderError) else f"{type(error).__name__}: {text}"


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 200 else text[:200] + "…"
