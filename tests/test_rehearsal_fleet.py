"""One object by many functions, end to end: the template's state machine in an emulator, over the real runtime client.

ministack runs the definition of the synthesized template, with its Distributed Map; each of its functions is a process
of awslambdaric. What it cannot play, tests/test_fleet.py does: redrives, and the task of Fargate's. Where there are
versions, ministack ignores ``Range``, so the object is pinned by its ETag here.

``FLEET_MB``: the object's size; ``make fleet`` makes it 1000.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support import frail
from support.cloud import ACCOUNT, REGION, Cloud, bootstrap, cloud, wait_until
from support.docker import tell
from support.postgres import query
from support.synthesis import Synthesis, Template
from support.wiring import ROOT

import loader

pytestmark = pytest.mark.rehearsal
__all__ = ["cloud"]

BUCKET = "loader-incoming"
MB = int(os.environ.get("FLEET_MB", "48"))
SHARDS = 16
KEY = "incoming/big/lines.csv"

SPEC = """
source = "incoming/big/*.csv"
table = "public.lines"
mode = "merge"
key = ["id"]
[rejects]
max_rows = 100000
[columns]
id = "bigint"
amount = "numeric(12,2)"
day = "date"
note = "text"
"""


def lines(megabytes: int) -> Iterator[bytes]:
    """A header and records: some with line ends, quotes and commas in quotes, some that are none, some twice."""
    rng = random.Random(7)
    notes = ["plain", '"a, b"', '"two\nlines"', '"a ""quoted"" word"', '"\n\n"', '""', '"1,2.50,2024-01-01,\nx"']
    yield b"id,amount,day,note\n"
    made, number = 0, 0
    while made < megabytes * 1_000_000:
        block = []
        for _ in range(5000):
            number += 1
            known = number if number % 1000 else number - 7  # one that was there already
            amount = f"{number % 99991}.{number % 100:02}" if number % 5003 else "much"  # one that is rejected
            day = f"2024-{number % 12 + 1:02}-{number % 28 + 1:02}"
            note = notes[number % len(notes)] if number % 3 else "x" * rng.randrange(40, 120)
            block.append(f"{known},{amount},{day},{note}\n")
        text = "".join(block).encode()
        made += len(text)
        yield text


@pytest.fixture(scope="module")
def template(synthesis: Synthesis) -> Template:
    return synthesis.templates["fleet"]


class Rebuilt:
    """The template's two functions and its state machine, in the emulator."""

    def __init__(self, cloud: Cloud, template: Template, dsn: str, marks: Path, shard: int) -> None:
        self.s3, self.functions, self.machines = (cloud.client(name) for name in ("s3", "lambda", "stepfunctions"))
        self.s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        self.machine = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:fleet"
        self.environment = {
            **cloud.environment,
            "LOADER_DSN": dsn,
            "LOADER_SPECS": f"s3://{BUCKET}/specs/",
            "LOADER_PLANS": f"s3://{BUCKET}/fleet/",
            "LOADER_SHARD_BYTES": str(shard),
            "LOADER_STATE_MACHINE": self.machine,
            "LOADER_RATE": "0.001",
            "FRAIL": str(marks),
            "PYTHONPATH": f"{ROOT}:{Path(frail.__file__).parent}",
        }
        self._make("load", template.one("Lambda::Function", "LoadFunction"), "loader.handler.handler")
        fleet = self._make("fleet", template.one("Lambda::Function", "FleetFunction"), "frail.handler")
        properties = template.one("StepFunctions::StateMachine")
        text = json.dumps(properties["Definition"])
        for name in properties["DefinitionSubstitutions"]:
            text = text.replace(f"${{{name}}}", fleet if name == "Function" else f"no {name} here")
        self.machines.create_state_machine(
            name="fleet", definition=text, roleArn=f"arn:aws:iam::{ACCOUNT}:role/fleet", type="STANDARD"
        )

    def _make(self, name: str, properties: Mapping[str, Any], handler: str) -> str:
        (told,) = properties["ImageConfig"]["Command"]
        assert handler.rpartition(".")[2] == told.rpartition(".")[2]
        made = self.functions.create_function(
            FunctionName=name,
            Runtime="provided.al2023",
            Handler=handler,
            Role=f"arn:aws:iam::{ACCOUNT}:role/{name}",
            Code={"ZipFile": bootstrap([sys.executable, "-m", "awslambdaric", handler])},
            Timeout=properties["Timeout"],
            MemorySize=properties["MemorySize"],
            Environment={"Variables": self.environment},
        )
        self.functions.get_waiter("function_active_v2").wait(FunctionName=name)
        arn: str = made["FunctionArn"]
        return arn

    def upload(self, key: str, path: Path) -> None:
        with path.open("rb") as body:
            self.s3.put_object(Bucket=BUCKET, Key=key, Body=body)

    def tell(self, key: str) -> dict[str, Any]:
        """Invoke the function that takes uploads with S3's event; gives what it answers for the one object."""
        record = {
            "eventSource": "aws:s3",
            "eventName": "ObjectCreated:Put",
            "eventTime": "2026-01-01T00:00:00.000Z",
            "s3": {"bucket": {"name": BUCKET}, "object": {"key": key, "sequencer": "0A1B2C"}},
        }
        answer = self.functions.invoke(FunctionName="load", Payload=json.dumps({"Records": [record]}).encode())
        payload = json.loads(answer["Payload"].read())
        assert "FunctionError" not in answer, payload
        (told,) = payload["loads"]
        assert isinstance(told, dict)
        return told

    def wait(self, arn: str, seconds: float) -> dict[str, Any]:
        """How the execution ended."""
        wait_until(lambda: self._execution(arn)["status"] != "RUNNING", seconds, f"{arn} has ended")
        return self._execution(arn)

    def _execution(self, arn: str) -> dict[str, Any]:
        found: dict[str, Any] = self.machines.describe_execution(executionArn=arn)
        return found

    def states(self, arn: str) -> list[str]:
        events = self.machines.get_execution_history(executionArn=arn, maxResults=1000)["events"]
        return [each["stateEnteredEventDetails"]["name"] for each in events if "stateEnteredEventDetails" in each]

    def map_runs(self, arn: str) -> list[dict[str, Any]]:
        found = self.machines.list_map_runs(executionArn=arn)["mapRuns"]
        return [self.machines.describe_map_run(mapRunArn=each["mapRunArn"]) for each in found]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The object, as a file."""
    path = tmp_path_factory.mktemp("object") / "lines.csv"
    with path.open("wb") as file:
        file.writelines(lines(MB))
    return path


@pytest.fixture
def rebuilt(cloud: Cloud, template: Template, dsn: str, tmp_path: Path, path: Path) -> Rebuilt:
    """With shards of such a size that there are 16."""
    (tmp_path / "marks").mkdir()
    return Rebuilt(cloud, template, dsn, tmp_path / "marks", -(-path.stat().st_size // SHARDS))


TABLE = "SELECT count(*), count(DISTINCT id), sum(hashtextextended(t::text, 0)::numeric) FROM {} t"
REJECTS = (
    "SELECT record_number, line_number, byte_offset, column_name, reason, raw FROM loader.rejects"
    " JOIN loader.loads USING (load_id) WHERE target = '{}' ORDER BY 1"
)
COUNTS = "rows_read, rows_inserted, rows_updated, rows_unchanged, rows_duplicate, rows_filtered, rows_rejected"
LEDGER = "SELECT state, " + COUNTS + " FROM loader.loads WHERE target = '{}'"


def test_many_functions_load_what_one_does(rebuilt: Rebuilt, dsn: str, path: Path, tmp_path: Path) -> None:
    """Two of them killed, the event told three times: the table, rejects and counts that one load gives, once."""
    rebuilt.s3.put_object(Bucket=BUCKET, Key="specs/lines.toml", Body=SPEC.encode())
    rebuilt.upload(KEY, path)
    began = time.monotonic()
    first, second = rebuilt.tell(KEY), rebuilt.tell(KEY)
    assert first["state"] == second["state"] == "dispatched"
    assert first["execution"] == second["execution"]
    ended = rebuilt.wait(first["execution"], 600)
    seconds = time.monotonic() - began
    assert ended["status"] == "SUCCEEDED", ended
    assert {mark.name for mark in (tmp_path / "marks").iterdir()} == {str(frail.BEFORE), str(frail.AFTER)}
    states = rebuilt.states(first["execution"])
    assert states[:4] == ["Plan", "Planned", "Shards", "Prove"]
    assert states[-3:] == ["Finish", "Finished", "Done"]
    assert rebuilt.map_runs(first["execution"])[0]["itemCounts"]["total"] == SHARDS
    assert rebuilt.tell(KEY)["execution"] == first["execution"]

    loads = query(dsn, "SELECT count(*) FROM loader.loads")
    one = loader.load(path, {**_spec(), "table": "public.one"}, dsn=dsn)
    for statement in (TABLE, REJECTS, LEDGER):
        many = query(dsn, statement.format("public.lines"))
        assert many == query(dsn, statement.format("public.one")), statement
    assert one.rows_rejected > 0
    assert one.rows_duplicate > 0
    assert loads == [(1,)]
    assert query(dsn, "SELECT tablename FROM pg_tables WHERE schemaname = 'loader' AND tablename LIKE 'staging%'") == []
    size, alone = path.stat().st_size / 1e6, one.seconds
    tell(
        f"fleet: {size:,.0f} MB in {SHARDS} shards, two functions killed, the event told three times: {seconds:.1f} s"
        f" (one load of the file: {alone:.1f} s); {one.rows_read:,} records, {one.rows_rejected:,} rejects and"
        f" {one.rows_duplicate:,} duplicates, as one load has them"
    )


def _spec() -> dict[str, Any]:
    import tomllib

    spec = tomllib.loads(SPEC)
    spec.pop("source")
    return spec
