"""Lambda's event source mapping of a queue: messages in, invocations out, and what becomes of a message afterwards.

By the Lambda developer guide, "Using Lambda with Amazon SQS" and "Handling errors for an SQS event source", for batches
of one message and partial batch responses: a message is deleted unless the function failed, or named it among the
``batchItemFailures``. Then it is received again when its visibility timeout is over, or when the function says, and
goes to the dead-letter queue after as many receives as its queue allows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from twin.cloud import Cloud, sqs_event
from twin.runtime import FunctionError, Runtime


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message handed to the function once.

    ``received``: how often it was received by then; ``seconds``: how long the function took; ``error``: what it raised
    or died of; ``deleted``: whether the message is through, or comes again.
    """

    message_id: str
    received: int
    seconds: float
    error: FunctionError | None
    deleted: bool


class Mapping:
    """Hands the messages of a queue to ``function``, which is killed ``timeout`` seconds after it was given one."""

    def __init__(self, cloud: Cloud, queue_url: str, function: Runtime, *, timeout: float) -> None:
        self._sqs = cloud.client("sqs")
        self._url = queue_url
        self._arn = cloud.arn(queue_url)
        self._function = function
        self._timeout = timeout

    def drain(self, *, within: float) -> Iterator[Delivery]:
        """Deliver until the queue is empty. Raises TimeoutError where it is not after ``within`` seconds."""
        end = time.monotonic() + within
        while self._waiting():
            if time.monotonic() > end:
                raise TimeoutError(f"there are messages in the queue still, after {within:g} seconds")
            yield from self.deliver(wait=1)

    def deliver(self, *, wait: int = 20) -> Iterator[Delivery]:
        """Deliver the next message, if one is to be had within ``wait`` seconds (whole ones, up to 20)."""
        asked = {"QueueUrl": self._url, "WaitTimeSeconds": wait, "MaxNumberOfMessages": 1}
        for message in self._sqs.receive_message(**asked, MessageSystemAttributeNames=["All"]).get("Messages", []):
            yield self._deliver(message)

    def _deliver(self, message: dict[str, Any]) -> Delivery:
        began = time.monotonic()
        answer, error = None, None
        try:
            answer = self._function.invoke(sqs_event(message, self._arn), timeout=self._timeout)
        except FunctionError as failed:
            error = failed
        seconds = time.monotonic() - began
        done = error is None and is_through(answer)
        if done:
            self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        received = int(message["Attributes"]["ApproximateReceiveCount"])
        return Delivery(message["MessageId"], received, seconds, error, done)

    def _waiting(self) -> int:
        """Messages of the queue, those that are hidden at the moment included."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        told = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=names)["Attributes"]
        return sum(int(told[name]) for name in names)


def is_through(answer: Any) -> bool:
    """Whether the function's answer says that a batch of one message is done with.

    Nothing, an empty object, and failures that are null or none mean success; an answer of another form fails the
    batch, as does an item whose id is missing, empty or null (Lambda developer guide, "Handling errors for an SQS event
    source", "Success and failure conditions").
    """
    if answer is None:
        return True
    if not isinstance(answer, dict):
        return False
    failures = answer.get("batchItemFailures")
    return failures is None or failures == []
