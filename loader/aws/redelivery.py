"""What becomes of a queue's message whose load did not come through: it is shown again, or put aside.

A message comes again after a pause that depends on why: at once where its load is to go on, later where it waits for
its table's turn, later each time where the reason may pass. What can only fail again is sent to the dead-letter queue
at once, with the reason, where `DEAD_LETTERS` names that queue; else it comes again soon, and is answered from the
ledger (`Message.first`).

SQS counts every receive and does not give one back (SQS developer guide, "Configuring dead-letter queues"), so the
queue's ``maxReceiveCount`` has to allow for `RECEIVES` and for `WAITS`. Attempts that failed, or ended with their
process, are counted by the ledger: a load that has had as many as `RECEIVES` is not tried again by a message that came
as often.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from loader.aws import telemetry
from loader.aws.events import shown
from loader.aws.settings import settings
from loader.core.display import printable
from loader.core.errors import BusyError, LoaderError, PausedError, SetupError, SpecError, UsageError
from loader.core.faults import backoff
from loader.engine.attempts import HANDOVERS

RECEIVES = HANDOVERS + 5
"""Receives of a message that are for its load: its handovers, and five attempts that may fail beside them."""

WAITS = 100
"""Receives beside those in which a message may find that another load has its table's turn, or another file that of the
function: some 17 hours of them, and no less than 11, for the pauses between them grow to `LONGEST_HIDDEN`."""

TURN_PATIENCE = 5.0
"""Seconds that a function which a queue feeds waits for a table's turn. It is paid for by the second, and the queue
waits for nothing. Turns go in the order in which they were asked for, and small loads take some ten milliseconds each,
so among them a load has its turn long before; who waits longer waits for a large one."""

FIRST_WAIT = 3.0
"""Seconds, at most, after which a message that has to wait comes again for the first time; then twice as long each
time, up to `LONGEST_HIDDEN`."""

LONGEST_HIDDEN = 900.0
"""Seconds after which a message whose load failed for a reason that may pass comes again at the latest: Lambda's
longest run."""

LONGEST_LASTING = 60.0
"""The same where the reason lasts, and there is no `DEAD_LETTERS`: a poison file is put aside within minutes."""

DEAD_LETTERS = "LOADER_DEAD_LETTERS"
"""In the environment: the URL of the queue behind the queue, to which `put_aside` sends."""

_ARN = re.compile(r"arn:[a-z0-9-]+:sqs:([a-z0-9-]+):([0-9]+):([A-Za-z0-9_.-]{1,80})")


@dataclass(frozen=True, slots=True)
class Message:
    """A message as Lambda hands it to a function. What is missing in it is None; ``fault``: what makes no sense.

    ``region``, ``account`` and ``queue``: of the queue, by its ARN. ``received``: how often it was, this time
    included. ``first``: when it was received for the first time; a redrive makes a new message of it, so a load that
    failed after that was asked for by this message, and nobody has changed anything for it since.
    """

    id: str | None = None
    body: str | None = None
    receipt: str | None = None
    region: str = ""
    account: str = ""
    queue: str | None = None
    received: int = 1
    first: datetime | None = None
    fault: UsageError | None = None

    @classmethod
    def of(cls, record: object) -> Message:
        """Raises nothing: a message that makes no sense has to be handed back by its id, too."""
        if not isinstance(record, Mapping):
            return cls(fault=UsageError(f"the record is no message of SQS: {shown(record)}"))
        read: dict[str, Any] = {}
        faults = []
        for name, take in (
            ("messageId", _id_of),
            ("body", _body_of),
            ("receiptHandle", _receipt_of),
            ("eventSourceARN", _queue_of),
            ("attributes", _attributes_of),
        ):
            if name in record or name == "body":
                try:
                    read |= take(record.get(name))
                except UsageError as error:
                    faults.append(error)
        return cls(**read, fault=faults[0] if faults else None)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"the message's {name} must be a text, not {shown(value)}")
    return value


def _id_of(value: object) -> dict[str, Any]:
    return {"id": _text("messageId", value)}


def _body_of(value: object) -> dict[str, Any]:
    return {"body": _text("body", value)}


def _receipt_of(value: object) -> dict[str, Any]:
    return {"receipt": _text("receiptHandle", value)}


def _queue_of(value: object) -> dict[str, Any]:
    found = _ARN.fullmatch(_text("eventSourceARN", value))
    if found is None:
        raise UsageError(f"the message's eventSourceARN {shown(value)} is not a queue's")
    return {"region": found[1], "account": found[2], "queue": found[3]}


def _attributes_of(value: object) -> dict[str, Any]:
    """(SQS API Reference, ReceiveMessage: numbers come as texts, times in milliseconds since 1970.)"""
    if not isinstance(value, Mapping):
        raise UsageError(f"the message's attributes must be an object, not {shown(value)}")
    read: dict[str, Any] = {}
    if (received := _number(value, "ApproximateReceiveCount", digits=6)) is not None:
        read["received"] = max(1, received)
    if (first := _number(value, "ApproximateFirstReceiveTimestamp", digits=13)) is not None:
        read["first"] = datetime.fromtimestamp(first / 1000, UTC)
    return read


def _number(attributes: Mapping[str, Any], name: str, *, digits: int) -> int | None:
    if name not in attributes:
        return None
    value = attributes[name]
    if not isinstance(value, str) or not re.fullmatch(rf"[0-9]{{1,{digits}}}", value):
        raise UsageError(f"the message's {name} must be a number, not {shown(value)}")
    return int(value)


# --- again


def hidden_for(message: Message, error: Exception) -> int:
    """Seconds until the message comes again: none where its load is to go on, else the longer the more often it came.

    What will fail again comes again soon, so that it is out of the way soon.
    """
    if isinstance(error, PausedError):
        return 0
    before = message.received - 1
    if isinstance(error, BusyError):
        return wait_of(message)
    if isinstance(error, LoaderError) and error.retryable:
        return int(backoff(before, first=10.0, longest=LONGEST_HIDDEN))
    return int(backoff(before, first=2.0, longest=LONGEST_LASTING))


def wait_of(message: Message) -> int:
    """Seconds until a message comes again that has to wait: the longer the more often it came, and never less than half
    of what it may be, for each wait is one of `WAITS`."""
    longest = min(FIRST_WAIT * 2 ** min(message.received - 1, 32), LONGEST_HIDDEN)
    return int(longest / 2 + backoff(0, first=longest / 2, longest=longest))


def hide(message: Message, seconds: int) -> None:
    """Have SQS hand the message out again after so many seconds, not after its queue's visibility timeout.

    The queue's URL is made of its ARN. Where that is not permitted, the queue's own timeout holds. (SQS API Reference,
    ChangeMessageVisibility: the time counts from the call.)
    """
    if not (message.queue and message.receipt):
        return
    try:
        client = settings().client("sqs", message.region)
        url = f"{client.meta.endpoint_url.rstrip('/')}/{message.account}/{message.queue}"
        client.change_message_visibility(QueueUrl=url, ReceiptHandle=message.receipt, VisibilityTimeout=seconds)
    except Exception as error:  # it is a convenience: nothing is lost without it
        telemetry.log(
            "the message could not be hidden",
            level="WARNING",
            state="not hidden",
            message_id=message.id,
            error=telemetry.one_line(error),
        )


# --- aside


def is_permanent(error: Exception) -> bool:
    """Whether the same message can only fail of the same again.

    That is so of a load which the ledger says to have failed for good, and of a message or a spec that makes no sense.
    It is not so of what concerns every load, such as a password that is being rotated, rights or an environment: else
    one bad deployment would empty the queue. Nor of a defect, which may be of the moment.
    """
    if not isinstance(error, LoaderError) or error.retryable or isinstance(error, SetupError):
        return False
    if error.report is not None:
        return error.report.load_id is not None
    return isinstance(error, UsageError | SpecError)


def put_aside(message: Message, error: Exception) -> bool:
    """Send the message to the dead-letter queue with what it failed of, so that it can be acknowledged.

    False where there is no such queue in the environment, or it does not take the message: then the message has to be
    handed back. It is sent first and acknowledged then, so a function that dies in between sends it twice, of which
    the second load is skipped, or fails as the first.
    """
    url = os.environ.get(DEAD_LETTERS)
    if not url or not message.body:
        return False
    told = telemetry.load_of(error)
    reason = printable(" ".join(str(error).split()), 1000)
    attributes = {"loader-reason": reason, "loader-error": type(error).__name__, "loader-message-id": message.id}
    if told.get("load_id"):
        attributes["loader-load-id"] = str(told["load_id"])
    try:
        settings().client("sqs", message.region or None).send_message(
            QueueUrl=url,
            MessageBody=message.body,
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value} for name, value in attributes.items() if value
            },
        )
    except Exception as refused:  # the queue hands it out again, and puts it aside itself in the end
        why = {"state": "not put aside", "message_id": message.id, "error": telemetry.one_line(refused)}
        telemetry.log("the message could not be put aside", level="WARNING", **why)
        return False
    telemetry.log(
        "the message is put aside", level="ERROR", **told, state="put aside", message_id=message.id, error=reason
    )
    return True
