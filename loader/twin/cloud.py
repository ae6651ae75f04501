"""S3, SQS and Secrets Manager on the loopback interface, emulated by moto's server."""

from __future__ import annotations

import json
import logging
import time
import warnings
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

REGION = "eu-central-1"
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

    def bucket_with_queue(self, bucket: str) -> str:
        """A versioned bucket whose uploads are told to an SQS queue; the queue's URL."""
        s3, sqs = self.client("s3"), self.client("sqs")
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        url: str = sqs.create_queue(QueueName=f"{bucket}-uploads")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        s3.put_bucket_notification_configuration(
            Bucket=bucket,
            NotificationConfiguration={"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]},
        )
        return url

    def receive(self, queue_url: str, *, timeout: float = 30) -> dict[str, Any]:
        """The next message that tells of an upload, as the event that an SQS mapping hands to a function.

        It is deleted from the queue. Raises TimeoutError where none comes within ``timeout`` seconds.
        """
        sqs = self.client("sqs")
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for message in sqs.receive_message(QueueUrl=queue_url, WaitTimeSeconds=1).get("Messages", []):
                sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
                if json.loads(message["Body"]).get("Event") != "s3:TestEvent":
                    return sqs_event(message["MessageId"], message["Body"])
        raise TimeoutError(f"no message came within {timeout:g} seconds")


def _stop(server: Any) -> None:
    server.stop()
    server._server.server_close()  # which stop() forgets


def sqs_event(message_id: str, body: str) -> dict[str, Any]:
    """One message as Lambda's event source mapping hands it over (Lambda developer guide, "Using Lambda with SQS")."""
    return {
        "Records": [
            {
                "messageId": message_id,
                "receiptHandle": "twin",
                "body": body,
                "attributes": {"ApproximateReceiveCount": "1"},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:{REGION}:000000000000:uploads",
                "awsRegion": REGION,
            }
        ]
    }
