"""S3, SQS and Secrets Manager on the loopback interface, emulated by moto's server."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

REGION = "eu-central-1"
_DEAD = "-dead"  # what the name of a dead-letter queue ends with
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "twin", "AWS_SECRET_ACCESS_KEY": "twin", "AWS_DEFAULT_REGION": REGION}


class Cloud:
    """A running emulator. ``environment`` holds the variables that point AWS's clients at it."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with warnings.catch_warnings(action="ignore"):
            from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        self._stack.callback(_stop, server)
        host, port = server.get_host_and_port()
        self.environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def client(self, service: str) -> Any:
        """A boto3 client of the emulator, closed with it."""
        import boto3

        client = boto3.client(
            service,
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            region_name=REGION,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )
        self._stack.callback(client.close)
        return client

    def queue(self, name: str, *, hidden: int = 30, receives: int | None = None) -> str:
        """A queue's URL. ``hidden``: seconds for which a message that was received is not received again.

        ``receives``: how often it may be received; then it goes to the queue of `dead_letters` (Amazon SQS developer
        guide, "Using dead-letter queues"), which is made beside.
        """
        sqs = self.client("sqs")
        attributes = {"VisibilityTimeout": str(hidden)}
        if receives is not None:
            dead = self.arn(sqs.create_queue(QueueName=f"{name}{_DEAD}")["QueueUrl"])
            attributes["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": dead, "maxReceiveCount": receives})
        url: str = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        return url

    def arn(self, queue_url: str) -> str:
        """The name of a queue all over AWS."""
        asked = self.client("sqs").get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
        arn: str = asked["Attributes"]["QueueArn"]
        return arn

    def dead_letters(self, queue_url: str) -> list[str]:
        """The bodies of the messages that were received too often."""
        found: list[str] = []
        while messages := self.client("sqs").receive_message(QueueUrl=f"{queue_url}{_DEAD}").get("Messages"):
            found += [each["Body"] for each in messages]
        return found

    def bucket_with_queue(self, bucket: str, *, hidden: int = 30, receives: int | None = None) -> str:
        """A versioned bucket whose uploads are told to an SQS queue; the queue's URL. The options are `queue`'s."""
        s3 = self.client("s3")
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        url = self.queue(f"{bucket}-uploads", hidden=hidden, receives=receives)
        told = {"QueueArn": self.arn(url), "Events": ["s3:ObjectCreated:*"]}
        s3.put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [told]}
        )
        return url

    def receive(self, queue_url: str, *, timeout: float = 30) -> dict[str, Any]:
        """The next message that tells of an upload, as the event that an SQS mapping hands to a function.

        It is deleted from the queue. Raises TimeoutError where none comes within ``timeout`` seconds.
        """
        sqs = self.client("sqs")
        deadline = time.monotonic() + timeout
        asked = {"QueueUrl": queue_url, "WaitTimeSeconds": 1, "MessageSystemAttributeNames": ["All"]}
        while time.monotonic() < deadline:
            for message in sqs.receive_message(**asked).get("Messages", []):
                sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
                if json.loads(message["Body"]).get("Event") != "s3:TestEvent":
                    return sqs_event(message, self.arn(queue_url))
        raise TimeoutError(f"no message came within {timeout:g} seconds")


def _stop(server: Any) -> None:
    server.stop()
    server._server.server_close()  # which stop() forgets


def sqs_event(message: Mapping[str, Any], arn: str) -> dict[str, Any]:
    """A message that was received, of the queue ``arn``, as Lambda's event source mapping hands it to a function.

    (Lambda developer guide, "Using Lambda with Amazon SQS".)
    """
    return {
        "Records": [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": message.get("Attributes", {}),
                "messageAttributes": {},
                "md5OfBody": message["MD5OfBody"],
                "eventSource": "aws:sqs",
                "eventSourceARN": arn,
                "awsRegion": arn.split(":")[3],
            }
        ]
    }
