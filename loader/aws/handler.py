"""The Lambda entry point: events in, loads made, failures told so that the event comes again.

Events: an S3 notification, the same wrapped in SQS messages (answered with partial batch failures), an
EventBridge "Object Created", a direct ``{"source": "s3://…", "spec": …}``, or ``{"ping": true}``. Environment: see
`loader.aws.settings`.

A load that comes to rest because time is up is *handed over* to another invocation. With a queue that is the message's
next delivery, made visible at once. It counts as a receive like any other: what a queue's ``maxReceiveCount`` has to
allow for, and what becomes of messages that fail, is in `loader.aws.redelivery`. Without a queue the function
may invoke itself; Lambda stops such a chain after some 16 rounds (Lambda developer guide, "Recursive loop detection"),
which the handovers stay below. Where neither is there, the error is raised, and Lambda's own two retries go on with it.

With ``$LOADER_STATE_MACHINE`` an object that is too large for one invocation is handed to many (`loader.aws.dispatch`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from loader.aws import telemetry
from loader.aws.batch import Asked, arrange
from loader.aws.dispatch import dispatch, opened
from loader.aws.events import Ignored, ObjectCreated, direct_of, is_direct, is_ping, is_sqs, told_by, with_token
from loader.aws.redelivery import RECEIVES, TURN_PATIENCE, Message, hidden_for, hide, is_permanent, put_aside, wait_of
from loader.aws.settings import settings
from loader.core.deadline import Deadline, paused_by
from loader.core.errors import BusyError, LoaderError, PausedError, UsageError
from loader.core.process.memory import keep_buffers, spare_imports
from loader.core.process.signals import run_stoppable
from loader.core.report import LoadReport
from loader.core.spec.model import LoadSpec
from loader.pipeline import How, load_one
from loader.sources.source import Source


@dataclass(frozen=True, slots=True)
class Invocation:
    """What a load has to know of the call that it is made in. ``message``: the queue's that asked for it, if any.
    ``busy``: tables, by their specs' names for them, whose turn another message of the same batch waited for in vain.
    """

    deadline: Deadline
    context: Any = None
    message: Message | None = None
    busy: set[tuple[str | None, str]] = field(default_factory=set)


def handler(event: Any, context: Any = None) -> dict[str, Any]:
    """Load what the event tells of, within the time that the function has.

    SQS: gives ``batchItemFailures``, so that only the messages that failed come again, among them those of loads that
    came to rest because time was up. Everything else gives ``loads``, a report each, and raises the first failure after
    all were tried, so that Lambda tries the event again; what was loaded by then is skipped. What asks for nothing,
    such as a deletion, is told in the log and as ``ignored``. SIGTERM brings what is under way to rest: it comes when
    Lambda takes a function down that has extensions, half a second before the end, and in containers elsewhere.
    ``{"ping": true}`` loads nothing and says whether everything that a load needs can be had (`loader.aws.health`).
    """
    telemetry.begin(context)
    if not isinstance(event, Mapping):
        raise UsageError(f"the event is no JSON object but {type(event).__name__}")
    if is_ping(event):
        from loader.aws.health import examine

        return examine(event)
    deadline = deadline_of(context)
    spare_imports()
    keep_buffers()
    return run_stoppable(lambda: _answer(event, Invocation(deadline, context)), deadline)


def _answer(event: Mapping[str, Any], invocation: Invocation) -> dict[str, Any]:
    if is_sqs(event):
        return _queued(event["Records"], invocation.deadline)
    if is_direct(event):
        return {"loads": [_direct(event, invocation)]}
    answer, failed = _load_all(told_by(event), invocation)
    if failed:
        raise failed[0]
    return answer


def deadline_of(context: Any) -> Deadline:
    """When the invocation has to come to rest, by Lambda's own clock: the context is asked each time."""
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    return Deadline() if remaining is None else Deadline(remaining() / 1000, clock=lambda: -remaining() / 1000)


def _queued(records: list[Any], deadline: Deadline) -> dict[str, Any]:
    """The messages of a batch one after the other, see `loader.aws.batch`. Those that failed are handed back, or put
    aside. A load that came to rest goes on with its message's next delivery.

    (Lambda developer guide, "Implementing partial batch responses": an answer without the right ids is none.) Raises
    UsageError for a message of SQS's that failed and has no id, so that its whole batch comes again.
    """
    here, left = arrange([Asked.by(record) for record in records])
    for asked in left:
        _leave(asked.message)
    busy: set[tuple[str | None, str]] = set()
    tried = [(asked, _handed_back(asked, Invocation(deadline, message=asked.message, busy=busy))) for asked in here]
    failed = [(asked, error) for asked, error in tried if error is not None]
    for asked, error in failed:
        if asked.queued and asked.message.id is None:
            raise UsageError(f"a message without an id failed, so all of its batch has to come again: {error}")
    ids = [asked.message.id for asked in (*left, *(asked for asked, _ in failed))]
    return {"batchItemFailures": [{"itemIdentifier": each} for each in ids if each is not None]}


def _leave(message: Message) -> None:
    telemetry.log("the message is left to another invocation", state="left", message_id=message.id)
    hide(message, wait_of(message))


def _handed_back(asked: Asked, invocation: Invocation) -> Exception | None:
    """Load what the message asks for; gives why it is handed back. None where it is through, or was put aside."""
    message, error = asked.message, _failure_of(asked, invocation)
    if error is None or (is_permanent(error) and put_aside(message, error)):
        return None
    _tell_handed_back(message, error)
    if message.id is not None:
        hide(message, hidden_for(message, error))
    return error


def _failure_of(asked: Asked, invocation: Invocation) -> Exception | None:
    """Load what the message asks for; gives why it has to come again, or None. Of several, one that may pass."""
    deadline, fault = invocation.deadline, asked.fault
    if reached := deadline.reached:
        fault = paused_by(deadline, f"{reached}; this message was not begun")
    if fault is not None:
        telemetry.tell_failure(fault, message_id=asked.message.id)
        return fault
    try:
        _, failed = _load_all(asked.told, invocation)
    except Exception as defect:  # whatever it is, the others' turn must come, and this one's again
        failed = [defect]
    return next((each for each in failed if not is_permanent(each)), failed[0] if failed else None)


def _tell_handed_back(message: Message, error: Exception) -> None:
    what, state, level = "the message is handed back", "handed back", "WARNING"
    if isinstance(error, BusyError):
        what, state, level = "the message waits for its table's turn", "waiting", "INFO"
    facts = {"state": state, "message_id": message.id, "error": telemetry.one_line(error)}
    telemetry.log(what, level=level, **telemetry.load_of(error), **facts)


def _load_all(
    told: Iterable[ObjectCreated | Ignored | UsageError], invocation: Invocation
) -> tuple[dict[str, Any], list[Exception]]:
    """All are tried; gives the answer, and what failed. The log tells each."""
    reports: list[dict[str, Any]] = []
    ignored: list[dict[str, Any]] = []
    failed: list[Exception] = []
    for each in told:
        if isinstance(each, Ignored):
            ignored.append(each.to_dict())
            telemetry.log("ignored", **ignored[-1])
            continue
        try:
            if isinstance(each, UsageError):
                raise each
            reports.append(_load_created(each, invocation))
        except Exception as error:  # a defect in one must not keep the others from their turn
            failed.append(error)
            if not (isinstance(error, LoaderError) and error.report is not None):  # no load has told of it
                named = {"source": each.uri, "version": each.version_id} if isinstance(each, ObjectCreated) else {}
                telemetry.tell_failure(error, **named)
    return {"loads": reports, "ignored": ignored}, failed


def _load_created(created: ObjectCreated, invocation: Invocation) -> dict[str, Any]:
    spec = settings().specs.find(created.bucket, created.key)
    direct = {
        "source": created.uri,
        "version_id": created.version_id,
        "sequencer": created.sequencer,
        "time": created.time,
    }
    how = how_of(direct, invocation.deadline, invocation.message)
    if spec.table_name in invocation.busy:
        raise _waiting(spec, created)
    try:
        return _load_or_hand_over(spec, how, direct, invocation)
    except BusyError:
        if invocation.message is not None:
            invocation.busy.add(spec.table_name)
        raise


def _waiting(spec: LoadSpec, created: ObjectCreated) -> BusyError:
    """For a load whose table's turn was not to be had for one before it, of the same batch: it would only stand in line
    behind that one, and pay for it."""
    error = BusyError(f"{created.uri}: another load has the turn of {spec.table}, as was found just before")
    error.report = LoadReport.failed(created.uri, spec.table, spec.mode, error, version=created.version_id)
    return error


def _direct(event: Mapping[str, Any], invocation: Invocation) -> dict[str, Any]:
    given = with_token(direct_of(event), _request_of(invocation.context))
    how = how_of(given, invocation.deadline)
    handover: int = given.get("handover", 0)
    if handover > how.handovers:
        raise UsageError(f"{given['source']}: was handed over {handover} times, and {how.handovers} is the limit")
    return _load_or_hand_over(named_spec(given, given["source"]), how, given, invocation)


def _request_of(context: Any) -> str:
    """What stays the same when Lambda itself tries an event again (Lambda developer guide, "Asynchronous invocation
    error handling": with the same request id)."""
    return getattr(context, "aws_request_id", None) or uuid4().hex


def how_of(direct: Mapping[str, Any], deadline: Deadline, message: Message | None = None) -> How:
    """How to go about what the event ``direct`` asks for, which ``message`` of a queue brought, if any.

    Only a queue asks for the same again and again by itself, so only its messages are answered from the ledger.
    """
    return How(
        force=direct.get("force", False),
        token=direct.get("token"),
        workers=settings().workers,
        deadline=deadline,
        wait=_patience(deadline) if message is None else min(TURN_PATIENCE, _patience(deadline)),
        sequencer=direct.get("sequencer"),
        told=telemetry.tell_step,
        failed_since=None if message is None else message.first,
        attempts=RECEIVES if message and message.received > RECEIVES else None,
    )


def named_spec(event: Mapping[str, Any], source: str) -> LoadSpec:
    """The spec that a direct event holds or names, else the one whose ``source`` matches."""
    specs, given = settings().specs, event.get("spec")
    if isinstance(given, Mapping):
        return LoadSpec.from_dict(given, origin="the event's spec")
    if given is None:
        bucket, _, key = source.removeprefix("s3://").partition("/")
        return specs.find(bucket, key)
    return specs.named(str(given))


def _load_or_hand_over(spec: LoadSpec, how: How, direct: Mapping[str, Any], invocation: Invocation) -> dict[str, Any]:
    """One load, summed up in one line of the log, whatever becomes of it.

    Where time is up, another invocation is asked for with the event ``direct``, if the function may do that.
    """
    uri, version = direct["source"], direct.get("version_id")
    with telemetry.about(uri, version), opened(direct, settings().s3) as source:
        if source is not None and (dispatched := dispatch(direct, source, how.deadline, settings().client)) is not None:
            telemetry.log("dispatched", **dispatched)
            return dispatched
        try:
            report = _load(spec, how, uri, version, source)
        except LoaderError as error:
            if error.report is None or (invocation.message and isinstance(error, BusyError)):
                raise
            told = error.report
            telemetry.tell_report(told, error=error)
            paused = isinstance(error, PausedError) and error.handover
            if paused and _call_again(direct, told.handovers, invocation.context):
                return told.to_dict()
            raise
        telemetry.tell_report(report, stored=direct.get("time"))
        return report.to_dict()


def _load(spec: LoadSpec, how: How, uri: str, version_id: str | None, source: Source | None) -> LoadReport:
    """Load it, unless there is no time for anything. ``source``: where it is open already. Raises LoaderError."""
    if reached := how.deadline.reached:
        paused = paused_by(how.deadline, f"{uri}: {reached}; it was not begun")
        paused.report = LoadReport.failed(uri, spec.table, spec.mode, paused, version=version_id)
        raise paused
    s3 = settings().s3 if how.workers == 1 else None  # each worker makes its own
    return load_one(uri, spec, settings().database, how, s3=s3, version_id=version_id, source=source)


def _call_again(direct: Mapping[str, Any], handovers: int, context: Any) -> bool:
    """Ask Lambda for another invocation of this very function; False where it may not, or cannot be asked.

    ``handovers``: how many there were, by the ledger. The event counts them too, in case that the ledger is lost:
    whichever comes to its limit first (`How`) ends it.
    """
    arn = getattr(context, "invoked_function_arn", None)
    if not (settings().reinvoke and arn):
        return False
    event = {**direct, "handover": max(direct.get("handover", 0) + 1, handovers)}
    body = json.dumps({name: value for name, value in event.items() if value is not None})
    try:
        settings().client("lambda").invoke(FunctionName=arn, InvocationType="Event", Payload=body.encode())
    except Exception as error:  # then what is raised has Lambda retry the event that it has
        why = {"state": "not handed over", "error": telemetry.one_line(error)}
        telemetry.log("nobody took the handover", level="WARNING", **why)
        return False
    return True


def _patience(deadline: Deadline) -> float:
    """Seconds to wait for a table's turn: what the function has left."""
    return max(deadline.left, 1.0) if deadline.left < math.inf else 60.0
