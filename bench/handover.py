r"""Handovers: a file that takes five minutes, under a limit of sixty seconds.

    python -m bench.handover [--scale 1] [--seconds 300] [--limit 60]

TPC-H lineitem from an S3-protocol server whose connections are held to such a pace that reading it takes so many
seconds. The function runs under Lambda's Runtime API and is killed at the limit; its event waits in an SQS queue that
hides a message for an hour, and is deleted only when the function says so. Checked: nobody had to be killed, and the
table is, row for row, the one that a load in one go gives. Exits with 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.objects import BUCKET, Objects, serving
from bench.rig import Server, fresh, lineitem, open_server
from loader.sources.source import PREFETCH
from twin.cloud import Cloud, sqs_event
from twin.runtime import FunctionError, Runtime

DELIVERIES = 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="TPC-H scale factor; 1 is 6,001,215 rows, 766 MB")
    parser.add_argument("--seconds", type=float, default=300, help="that reading the file takes")
    parser.add_argument("--limit", type=float, default=60, help="seconds after which the function is killed")
    told = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-handover-")))
        server = stack.enter_context(open_server(folder))
        file = lineitem(folder, told.scale)
        server.copy(fresh(server, "in_one_go"), file)
        objects = stack.enter_context(serving(file.parent))
        cloud = stack.enter_context(Cloud())
        objects.pace = file.stat().st_size / told.seconds / PREFETCH
        environment = {
            **cloud.environment,
            **objects.environment,
            "AWS_ENDPOINT_URL_SQS": cloud.environment["AWS_ENDPOINT_URL"],
            "LOADER_DSN": server.dsn,
            "LOADER_SPECS": str(_specs(folder)),
        }
        print(
            f"{file.stat().st_size / 1e6:,.0f} MB, paced to {told.seconds:g} s; a limit of {told.limit:g} s", flush=True
        )
        fresh(server, "handed_over")
        with Runtime("loader.handler.handler", environment) as function:
            return _deliver(server, objects, cloud, function, key=file.name, limit=told.limit)


def _specs(folder: Path) -> Path:
    specs = folder / "specs"
    specs.mkdir()
    (specs / "lineitem.toml").write_text('source = "*.csv"\ntable = "handed_over"\n', "utf-8")
    return specs


def _deliver(server: Server, objects: Objects, cloud: Cloud, function: Runtime, *, key: str, limit: float) -> int:
    """Receive, invoke, and delete what succeeded, as an event source mapping does."""
    sqs = cloud.client("sqs")
    url = sqs.create_queue(QueueName="uploads", Attributes={"VisibilityTimeout": "3600"})["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sqs.send_message(QueueUrl=url, MessageBody=json.dumps(_notification(key)))
    began, killed, done = time.perf_counter(), 0, False
    for delivery in range(1, DELIVERIES + 1):
        messages = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20).get("Messages")
        if not messages:
            print("FAILED: the message did not come again")
            return 1
        event = sqs_event(messages[0]["MessageId"], messages[0]["Body"])
        event["Records"][0] |= {"receiptHandle": messages[0]["ReceiptHandle"], "eventSourceARN": arn}
        started, sent = time.perf_counter(), objects.sent
        try:
            done = function.invoke(event, timeout=limit) == {"batchItemFailures": []}
        except FunctionError as error:
            killed += 1
            print(f"  {error}")
        read = (objects.sent - sent) / 1e6
        print(f"  invocation {delivery}: {time.perf_counter() - started:.1f} s, {read:.0f} MB read", flush=True)
        if done:
            break
    report = json.loads(next(line for line in reversed(function.log) if '"attempts"' in line))
    told = f"{report['attempts']} attempts, {report['handovers']} handovers, {report['resumes']} resumes"
    print(f"{report['state']} after {time.perf_counter() - began:.0f} s: {report['rows_inserted']:,} rows, {told}")
    checks = {
        "loaded by handovers": done and report["handovers"] > 0,
        "no invocation ran into the limit": killed == 0,
        "equal row for row": server.digest("in_one_go") == server.digest("handed_over"),
    }
    for what, holds in checks.items():
        print(f"{'ok' if holds else 'FAILED'}: {what}")
    return 0 if all(checks.values()) else 1


def _notification(key: str) -> dict[str, Any]:
    stored = {"bucket": {"name": BUCKET}, "object": {"key": key, "sequencer": "01"}}
    return {"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": stored}]}


if __name__ == "__main__":
    sys.exit(main())
