"""When a message whose load did not come through is handed out again by its queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loader import telemetry
from loader.errors import LoaderError, PausedError
from loader.faults import backoff
from loader.settings import settings

LONGEST_HIDDEN = 900.0
"""Seconds after which a message whose load failed for a reason that may pass comes again at the latest: Lambda's
longest run."""

LONGEST_LASTING = 60.0
"""The same where the reason lasts: a poison file is out of the way, in the dead-letter queue, within minutes."""


def hidden_for(message: Mapping[str, Any], error: Exception) -> int:
    """Seconds until the message comes again: none where its load is to go on, else the longer the more often it failed.

    What will fail again comes again soon, so that it is out of the way soon.
    """
    if isinstance(error, PausedError):
        return 0
    failed = int(message.get("attributes", {}).get("ApproximateReceiveCount", 1)) - 1
    if isinstance(error, LoaderError) and error.retryable:
        return int(backoff(failed, first=10.0, longest=LONGEST_HIDDEN))
    return int(backoff(failed, first=2.0, longest=LONGEST_LASTING))


def hide(message: Mapping[str, Any], seconds: int) -> None:
    """Have SQS hand the message out again after so many seconds, not after its queue's visibility timeout.

    The queue's URL is made of its ARN. Where that is not permitted, the queue's own timeout holds. (SQS API Reference,
    ChangeMessageVisibility: the time counts from the call.)
    """
    arn, receipt = str(message.get("eventSourceARN", "")).split(":"), message.get("receiptHandle")
    if len(arn) != 6 or not receipt:
        return
    try:
        client = settings().client("sqs", arn[3])
        url = f"{client.meta.endpoint_url.rstrip('/')}/{arn[4]}/{arn[5]}"
        client.change_message_visibility(QueueUrl=url, ReceiptHandle=receipt, VisibilityTimeout=seconds)
    except Exception as error:  # it is a convenience: nothing is lost without it
        telemetry.log(
            "the message could not be hidden",
            level="WARNING",
            state="not hidden",
            message_id=message.get("messageId"),
            error=telemetry.one_line(error),
        )
