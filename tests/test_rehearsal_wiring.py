"""The template's own wiring in an emulator: an upload ends up in the table, a poison file in the dead-letter queue.

ministack plays S3, SQS, Secrets Manager and Lambda's event source mapping. Its functions have the Runtime API, and so
each of its sandboxes is a container of the image that ships. The values are those of the synthesized template; the
handler's pauses between deliveries are shortened (`support.hurried`), else a poison file takes minutes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from support import hurried
from support.docker import IMAGE, POSTGRES, as_lambda, labelled, lack, need, tell
from support.postgres import free_port, query
from support.secured import HOST, Secured, secured
from support.wiring import ROOT, Wiring, synthesized

pytestmark = pytest.mark.rehearsal

ACCOUNT, REGION = "000000000000", "eu-central-1"
BUCKET = "loader-incoming"
GOOD = 6
LOG = ROOT / "build" / "wiring.log"


@pytest.fixture(scope="module")
def wiring() -> Wiring:
    template = synthesized()
    if template is None and not (ROOT / "infra").exists():
        pytest.skip("this repository has no CDK app to take the wiring from")
    if template is None:
        lack("there is no template to take the wiring from: make synth")
    return Wiring.of(template)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    need(IMAGE, POSTGRES)
    with secured(tmp_path_factory.mktemp("database")) as server:
        yield server


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """ministack, in a virtual environment of its own: it wants another botocore than boto3 does."""
    given = os.environ.get("MINISTACK", str(ROOT / ".venv" / "ministack" / "bin" / "ministack"))
    if shutil.which(given) is None:
        lack("ministack is not installed: make rehearsal does it")
    folder = tmp_path_factory.mktemp("ministack")
    port = free_port()
    environment = {
        **os.environ,
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "MINISTACK_REGION": REGION,
        "TMPDIR": str(folder),
        "STATE_DIR": str(folder / "state"),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([given], env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            yield Cloud(f"http://127.0.0.1:{port}", process, folder / "log")
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
            LOG.parent.mkdir(exist_ok=True)
            shutil.copy(folder / "log", LOG)


class Cloud:
    """The emulator, once it answers."""

    def __init__(self, endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.endpoint = endpoint
        self.environment = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
        }
        wait_until(lambda: process.poll() is not None or self._answers(), 60, "ministack answers")
        assert process.poll() is None, log.read_text()[-2000:]

    def _answers(self) -> bool:
        try:
            self.client("sqs").list_queues()
        except Exception:
            return False
        return True

    def client(self, service: str) -> Any:
        named = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}
        return boto3.client(service, endpoint_url=self.endpoint, **named)


def wait_until(holds: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.25)


class Built:
    """The wiring, rebuilt in the emulator: what `Wiring` says, and nothing that it does not say."""

    def __init__(self, cloud: Cloud, wiring: Wiring, command: list[str], environment: Mapping[str, str]) -> None:
        self.sqs, self.s3 = cloud.client("sqs"), cloud.client("s3")
        self.dead = self.sqs.create_queue(QueueName="dead-letters")["QueueUrl"]
        redrive = {"deadLetterTargetArn": self._arn(self.dead), "maxReceiveCount": wiring.max_receive_count}
        attributes = {"VisibilityTimeout": str(wiring.visibility_timeout), "RedrivePolicy": json.dumps(redrive)}
        self.queue = self.sqs.create_queue(QueueName="incoming", Attributes=attributes)["QueueUrl"]
        self.s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        prefix = {"Key": {"FilterRules": [{"Name": "prefix", "Value": wiring.prefix}]}}
        told = {"QueueArn": self._arn(self.queue), "Events": list(wiring.events), "Filter": prefix}
        if wiring.versioned:
            self.s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        self.s3.put_bucket_notification_configuration(
            Bucket=BUCKET, NotificationConfiguration={"QueueConfigurations": [told]}
        )
        functions = cloud.client("lambda")
        functions.create_function(
            FunctionName="loader",
            Runtime="provided.al2023",
            Handler=wiring.handler,
            Role=f"arn:aws:iam::{ACCOUNT}:role/loader",
            Code={"ZipFile": bootstrap(command)},
            Timeout=wiring.timeout,
            MemorySize=wiring.memory,
            Environment={"Variables": {**wiring.environment, **environment}},
        )
        functions.get_waiter("function_active_v2").wait(FunctionName="loader")
        scaling = {"MaximumConcurrency": wiring.maximum_concurrency} if wiring.maximum_concurrency else {}
        functions.create_event_source_mapping(
            EventSourceArn=self._arn(self.queue),
            FunctionName="loader",
            BatchSize=wiring.batch_size,
            FunctionResponseTypes=list(wiring.response_types),
            **({"ScalingConfig": scaling} if scaling else {}),
        )

    def _arn(self, url: str) -> str:
        asked = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        arn: str = asked["Attributes"]["QueueArn"]
        return arn

    def upload(self, key: str, body: str) -> None:
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=body.encode())

    def waiting(self, url: str) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        told = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(told[name]) for name in names)


def bootstrap(command: list[str]) -> bytes:
    """A function's code: a program that takes events from the Runtime API, which is a container of the image."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        entry = zipfile.ZipInfo("bootstrap")
        entry.external_attr = 0o755 << 16
        archive.writestr(entry, f"#!/bin/sh\nexec {shlex.join(command)}\n")
    return packed.getvalue()


@pytest.fixture(scope="module")
def built(cloud: Cloud, wiring: Wiring, database: Secured) -> Iterator[Built]:
    cloud.client("secretsmanager").create_secret(Name="loader", SecretString=database.secret)
    environment = {
        **cloud.environment,
        "LOADER_SECRET_ID": "loader",
        "LOADER_SPECS": f"s3://{BUCKET}/specs/",
        "PYTHONPATH": "/var/task",
    }
    given = ["AWS_LAMBDA_RUNTIME_API", "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
    with labelled() as label:
        command = [
            "docker",
            *as_lambda(wiring.memory, label=label),
            *(f"--env={name}" for name in {*given, *wiring.environment, *environment}),
            f"--volume={database.authority}:/etc/ssl/certs/rds-ca-bundle.pem:ro",
            f"--volume={hurried.__file__}:/var/task/hurried.py:ro",
            f"--add-host={HOST}:127.0.0.1",
            IMAGE,
            "hurried.handler",
        ]
        yield Built(cloud, wiring, command, environment)


def test_uploads_reach_the_table_and_poison_the_dead_letter_queue(
    built: Built, wiring: Wiring, database: Secured
) -> None:
    """The good ones get through beside it; what is beyond the prefix is nobody's; the reason is in the ledger."""
    spec = f'source = "{wiring.prefix}*.csv"\ntable = "public.trips"\n[columns]\na = "int"\nb = "text"\n'
    built.upload("specs/trips.toml", spec)
    began = time.monotonic()
    poison = f"{wiring.prefix}poison ü+.csv"
    built.upload(poison, "a,b\nno number,x\n")
    for number in range(GOOD):
        rows = "".join(f"{row},{'x' * 20}\n" for row in range(number * 1000, number * 1000 + 1000))
        built.upload(f"{wiring.prefix}good {number}.csv", f"a,b\n{rows}")
    built.upload("elsewhere/trips.csv", "a,b\n-1,x\n")

    def loaded() -> bool:
        found = query(database.dsn, "SELECT to_regclass('public.trips') IS NOT NULL")
        return found == [(True,)] and query(database.dsn, "SELECT count(*) FROM trips") == [(GOOD * 1000,)]

    wait_until(loaded, 120, "every good file is in the table")
    through = time.monotonic() - began
    wait_until(lambda: built.waiting(built.dead) == 1, 240, "the poison file's message is a dead letter")
    dead = time.monotonic() - began
    tell(
        f"wiring: {GOOD} files of 1,000 rows through in {through:.1f} s, beside a poison file that was received"
        f" {wiring.max_receive_count} times, and a dead letter after {dead:.0f} s (its pauses shortened)"
    )
    wait_until(lambda: built.waiting(built.queue) == 0, 30, "the queue is empty")
    (letter,) = built.sqs.receive_message(QueueUrl=built.dead)["Messages"]
    (record,) = json.loads(letter["Body"])["Records"]
    assert record["s3"]["object"]["key"].startswith(wiring.prefix)
    assert "poison" in record["s3"]["object"]["key"]
    assert query(database.dsn, "SELECT count(*), count(DISTINCT a), min(a) FROM trips") == [(6000, 6000, 0)]
    ledger = "SELECT key, state, attempts, last_error FROM loader.loads ORDER BY key"
    *good, (key, state, attempts, error) = query(database.dsn, ledger)
    assert [(each[0], each[1]) for each in good] == [(f"{wiring.prefix}good {n}.csv", "loaded") for n in range(GOOD)]
    assert (key, state, attempts) == (poison, "failed", wiring.max_receive_count)
    assert "1 of 1" in error
    assert query(database.dsn, "SELECT DISTINCT reason, raw FROM loader.rejects") == [("invalid_value", "no number,x")]
