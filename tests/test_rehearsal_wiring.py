"""The template's own wiring in an emulator: an upload ends up in the table, a poison file in the dead-letter queue.

ministack plays S3, SQS, Secrets Manager and Lambda's event source mapping. Its functions have the Runtime API, and so
each of its sandboxes is a container of the image that ships. The values are those of the synthesized template; the
handler's pauses between deliveries are shortened (`support.hurried`), else a poison file takes minutes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping

import pytest
from support import hurried
from support.cloud import ACCOUNT, REGION, Cloud, bootstrap, cloud, wait_until
from support.docker import IMAGE, POSTGRES, as_lambda, labelled, lack, need, tell
from support.postgres import query
from support.secured import HOST, Secured, secured
from support.wiring import ROOT, Wiring, synthesized

pytestmark = pytest.mark.rehearsal

BUCKET = "loader-incoming"
GOOD = 6
__all__ = ["cloud"]


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
    assert (key, state, attempts) == (poison, "failed", 1)  # later deliveries are answered from the ledger
    assert "1 of 1" in error
    assert query(database.dsn, "SELECT DISTINCT reason, raw FROM loader.rejects") == [("invalid_value", "no number,x")]
