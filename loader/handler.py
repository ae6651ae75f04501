"""The Lambda entry point: events in, loads made, failures told so that the event comes again.

Events: an S3 notification, the same wrapped in SQS messages (answered with partial batch failures), an
EventBridge "Object Created", or a direct ``{"source": "s3://…", "spec": …}``. Environment: see `Settings`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from loader.database import Database, SecretCredentials
from loader.errors import LoaderError, UsageError
from loader.pipeline import How, load_one
from loader.shelf import SpecShelf
from loader.source import s3_client
from loader.spec import LoadSpec

DEADLINE_MARGIN = 5.0
"""Seconds before the function's end at which waiting for a table's turn is given up, so that there is an answer."""


@dataclass(frozen=True, slots=True)
class ObjectCreated:
    """One object version that an event tells of."""

    bucket: str
    key: str
    version_id: str | None

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def handler(event: Any, context: Any = None) -> dict[str, Any]:
    """Load what the event tells of.

    SQS: gives ``batchItemFailures``, so that only the messages that failed come again. Everything else gives
    ``loads``, a report each, and raises the first failure after all were tried, so that Lambda tries the
    event again; what was loaded by then is skipped.
    """
    if not isinstance(event, Mapping):
        raise UsageError(f"the event is no JSON object but {type(event).__name__}")
    if _is_sqs(event):
        return _queued(event["Records"], context)
    if "source" in event and "detail" not in event:
        return {"loads": [_direct(event, context)]}
    return {"loads": _load_all(list(objects_of(event)), context)}


def objects_of(event: Mapping[str, Any]) -> Iterator[ObjectCreated]:
    """The object versions that an S3 notification or an EventBridge event says were created.

    Test messages and other events of S3, such as deletions, tell of none. Raises UsageError for what is no
    event of S3.
    """
    if event.get("Event") == "s3:TestEvent":
        return
    try:
        if "detail" in event:
            yield from _of_eventbridge(event)
        else:
            for record in event["Records"]:
                yield from _of_notification(record)
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"the event is not one of S3's: {_shown(event)}") from error


def _of_notification(record: Mapping[str, Any]) -> Iterator[ObjectCreated]:
    """Keys are encoded as in forms (S3 User Guide, "Event message structure")."""
    if record.get("eventSource") != "aws:s3":
        raise UsageError(f"the record is not one of S3's: {_shown(record)}")
    if record["eventName"].startswith(("ObjectCreated:", "s3:ObjectCreated:")):
        stored = record["s3"]["object"]
        yield ObjectCreated(record["s3"]["bucket"]["name"], unquote_plus(stored["key"]), stored.get("versionId"))


def _of_eventbridge(event: Mapping[str, Any]) -> Iterator[ObjectCreated]:
    """Keys are not encoded."""
    if event.get("source") != "aws.s3":
        raise UsageError(f"the event is not one of S3's: {_shown(event)}")
    if event.get("detail-type") == "Object Created":
        stored = event["detail"]["object"]
        yield ObjectCreated(event["detail"]["bucket"]["name"], stored["key"], stored.get("version-id"))


def _is_sqs(event: Mapping[str, Any]) -> bool:
    records = event.get("Records")
    return isinstance(records, list) and any(
        isinstance(each, Mapping) and each.get("eventSource") == "aws:sqs" for each in records
    )


def _queued(messages: list[Mapping[str, Any]], context: Any) -> dict[str, Any]:
    failures = []
    for message in messages:
        try:
            body = json.loads(message["body"])
            if not isinstance(body, Mapping):
                raise UsageError(f"the message is no JSON object: {_shown(body)}")
            _load_all(list(objects_of(body)), context)
        except Exception as error:  # whatever it is, the others' turn must come, and this one's again
            _log({"message": message.get("messageId"), "state": "failed", "error": _one_line(error)})
            failures.append({"itemIdentifier": message["messageId"]})
    return {"batchItemFailures": failures}


def _load_all(objects: list[ObjectCreated], context: Any) -> list[dict[str, Any]]:
    """All are tried. Raises the first failure; the log tells each."""
    reports: list[dict[str, Any]] = []
    failed: list[Exception] = []
    for each in objects:
        try:
            spec = _state().specs.find(each.bucket, each.key)
            reports.append(_load(each.uri, spec, context, version_id=each.version_id))
        except Exception as error:  # a defect in one must not keep the others from their turn
            failed.append(error)
            if not (isinstance(error, LoaderError) and error.report is not None):  # no load has told of it
                _log({"state": "failed", "source": each.uri, "version": each.version_id, "error": _one_line(error)})
    if failed:
        raise failed[0]
    return reports


def _direct(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    unknown = set(event) - {"source", "spec", "force"}
    if unknown:
        raise UsageError(f'the event has the unknown key "{min(unknown)}"; there are source, spec and force')
    source, given, force = event["source"], event.get("spec"), event.get("force", False)
    if not isinstance(source, str) or not source.startswith("s3://"):
        raise UsageError(f"the event's source {_shown(source)} is no s3:// URI")
    if not isinstance(force, bool):
        raise UsageError(f"the event's force must be true or false, not {_shown(force)}")
    specs = _state().specs
    if isinstance(given, Mapping):
        spec = LoadSpec.from_dict(given, origin="the event's spec")
    elif given is None:
        bucket, _, key = source.removeprefix("s3://").partition("/")
        spec = specs.find(bucket, key)
    else:
        spec = specs.named(str(given))
    return _load(source, spec, context, force=force)


def _load(
    uri: str, spec: LoadSpec, context: Any, *, version_id: str | None = None, force: bool = False
) -> dict[str, Any]:
    """One load, told in one line of the log, whatever becomes of it."""
    state = _state()
    try:
        how = How(force=force, wait=_patience(context))
        report = load_one(uri, spec, state.database, how, s3=state.s3, version_id=version_id)
    except LoaderError as error:
        if error.report is not None:
            _log(error.report.to_dict())
        raise
    _log(report.to_dict())
    return report.to_dict()


def _patience(context: Any) -> float:
    """Seconds to wait for a table's turn: what the function has left, less a margin."""
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    return max(remaining() / 1000 - DEADLINE_MARGIN, 1.0) if remaining is not None else 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What outlives an invocation: connections, the S3 client, the specs.

    ``$LOADER_SPECS``: a folder shipped with the function (by default ``specs/`` in ``$LAMBDA_TASK_ROOT``) or
    ``s3://bucket/prefix/``. ``$LOADER_SECRET_ID``: the secret that says how to connect; else ``$LOADER_DSN``.
    """

    database: Database
    s3: Any
    specs: SpecShelf

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
        return cls(database, client, SpecShelf(shelf, client))


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
