"""The image as it ships, under the limits of a Lambda function of 512 MB, from S3 into PostgreSQL over TLS.

``make rehearsal`` builds the image and runs these. What was measured is printed, and kept in build/rehearsal.log.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from support.clients import wait_for
from support.docker import IMAGE, POSTGRES, ImageRuntime, docker, labelled, need, tell
from support.postgres import query
from support.secured import HOST, PASSWORD, Secured, secured

from bench.objects import BUCKET, Objects, serving
from bench.rig import DDL, lineitem
from twin.cloud import Cloud

pytestmark = pytest.mark.rehearsal

MEMORY = 512
SCALE = float(os.environ.get("REHEARSAL_SCALE", "0.5"))
LIMIT = 500e6
"""Bytes that the image may have, unpacked."""

BUNDLE = "/etc/ssl/certs/rds-ca-bundle.pem"

Start = Callable[..., ImageRuntime]


@pytest.fixture(scope="module")
def image() -> str:
    need(IMAGE, POSTGRES)
    return IMAGE


@pytest.fixture(scope="module")
def database(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured(tmp_path_factory.mktemp("database")) as server:
        yield server


@pytest.fixture(scope="module")
def objects(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Objects]:
    """A bucket with specs, a file of several hundred megabytes and a few small ones."""
    folder = tmp_path_factory.mktemp("bucket")
    for name, source in {"lineitem": "scale-*/lineitem.csv", "small": "small/*.csv"}.items():
        (folder / "specs").mkdir(exist_ok=True)
        (folder / "specs" / f"{name}.toml").write_text(f'source = "{source}"\ntable = "public.{name}"\n')
    (folder / "small").mkdir()
    for number in range(12):
        rows = "".join(f"{row},text of row {row}\n" for row in range(number * 1000, number * 1000 + 1000))
        (folder / "small" / f"{number}.csv").write_text(f"a,b\n{rows}")
    lineitem(folder, SCALE)
    with serving(folder) as server:
        yield server


@pytest.fixture(scope="module")
def cloud(database: Secured) -> Iterator[Cloud]:
    """Secrets Manager, emulated; it has the loader's secret, and one that knows the server by its address alone."""
    with Cloud() as cloud:
        manager = cloud.client("secretsmanager")
        manager.create_secret(Name="loader", SecretString=database.secret)
        manager.create_secret(Name="by-address", SecretString=database.secret.replace(HOST, "127.0.0.1"))
        yield cloud


@pytest.fixture
def start(cloud: Cloud, objects: Objects, database: Secured) -> Iterator[Start]:
    """Makes functions of the image: ``trusting`` the database's CA or, if not, only those of RDS that it ships with."""
    environment = {
        **cloud.environment,
        "AWS_ENDPOINT_URL_S3": objects.environment["AWS_ENDPOINT_URL"],
        "LOADER_SECRET_ID": "loader",
        "LOADER_SPECS": f"s3://{BUCKET}/specs/",
    }
    with labelled() as label:

        def make(*, trusting: bool = True, **changes: str) -> ImageRuntime:
            files = {BUNDLE: database.authority} if trusting else {}
            return ImageRuntime(environment | changes, label=label, memory=MEMORY, files=files, hosts=(HOST,))

        yield make


NOTHING = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": BUCKET}


def upload(key: str) -> dict[str, Any]:
    """A message of the queue that tells of an object stored just now."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told = {"bucket": {"name": BUCKET}, "object": {"key": key, "sequencer": "0A"}}
    record = {"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "eventTime": now, "s3": told}
    return {"Records": [{"messageId": key, "eventSource": "aws:sqs", "body": json.dumps({"Records": [record]})}]}


def timed(function: ImageRuntime, event: Any, timeout: float = 60) -> tuple[Any, float]:
    began = time.perf_counter()
    answer = function.invoke(event, timeout=timeout)
    return answer, time.perf_counter() - began


def summaries(function: ImageRuntime) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in function.log if line.startswith("{")]
    return [line for line in lines if "rows_read" in line]


def failing(answer: Mapping[str, Any]) -> dict[str, str]:
    return {name: each["error"] for name, each in answer["checks"].items() if not each["ok"]}


def test_the_image_is_small_and_plain(image: str) -> None:
    """Below its limit, not root, without compilers, package caches, pip's settings or anybody's tests."""
    size = int(docker("image", "inspect", "--format", "{{.Size}}", image))
    tell(f"image: {size / 1e6:,.0f} MB unpacked")
    assert size <= LIMIT
    assert docker("image", "inspect", "--format", "{{.Config.User}}", image) not in ("", "root", "0")
    assert "PIP_" not in docker("image", "inspect", "--format", "{{.Config.Env}}", image)
    assert "PIP_INDEX" not in docker("history", "--no-trunc", image)
    left = "find /root/.cache /tmp /build /wheels /var/lib/apt/lists -type f 2>/dev/null"
    look = f"command -v gcc cc cargo rustc; {left}; find /opt/loader -type d -path '*/pandas/tests'; true"
    assert docker("run", "--rm", "--network=none", "--user=0", "--entrypoint=sh", image, "-c", look) == ""


def test_the_bill_of_materials_is_of_this_image(image: str) -> None:
    """Each locked package is in it, in the version that is installed."""
    inside = ("run", "--rm", "--network=none")
    told = json.loads(docker(*inside, "--entrypoint=cat", image, "/usr/share/doc/loader/bom.cdx.json"))
    assert told["bomFormat"] == "CycloneDX"
    listed = {(each["name"].replace("_", "-").lower(), each["version"]) for each in told["components"]}
    code = "from importlib.metadata import distributions as d; print(*(f'{x.name}=={x.version}' for x in d()))"
    installed = docker(*inside, "--entrypoint=python", image, "-c", code).split()
    assert len(installed) > 15
    assert {tuple(each.replace("_", "-").lower().split("==")) for each in installed} <= listed
    assert any(each["purl"].startswith("pkg:deb/debian/libc6@") for each in told["components"] if "purl" in each)


def test_cold_and_warm(start: Start) -> None:
    """From ``docker run`` to the first response, and what comes after."""
    cold = []
    for _ in range(3):
        began = time.perf_counter()
        with start() as function:
            answer = function.invoke(NOTHING, timeout=60)
            cold.append(time.perf_counter() - began)
        assert [each["event"] for each in answer["ignored"]] == ["s3:TestEvent"]
    tell(f"cold start, container start to first response: {spread(cold)}")
    began = time.perf_counter()
    with start() as function:
        assert function.invoke(upload("small/0.csv"), timeout=60) == {"batchItemFailures": []}
        tell(f"cold start with a first load of 1,000 rows: {time.perf_counter() - began:.1f} s")
        warm = []
        for number in range(1, 12):
            answer, seconds = timed(function, upload(f"small/{number}.csv"))
            assert answer == {"batchItemFailures": []}
            warm.append(seconds)
        nothing = [timed(function, NOTHING)[1] for _ in range(5)]
        loaded = summaries(function)
    tell(f"warm, a load of 1,000 rows: {spread(warm)}; an event that asks for nothing: {spread(nothing)}")
    assert [(line["state"], line["rows_inserted"]) for line in loaded] == [("loaded", 1000)] * 12
    assert max(cold) < 10  # Lambda's limit for what a function does before its first event


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s (of {len(seconds)}, {min(seconds):.2f} to {max(seconds):.2f})"


def test_a_large_file_in_512_mb(start: Start, objects: Objects, database: Secured) -> None:
    """Loaded whole, over TLS, by a user that owns nothing else; delivered again it is skipped."""
    query(database.dsn, DDL.format("lineitem"))
    query(database.dsn, "ALTER TABLE lineitem OWNER TO loader")
    key = f"scale-{SCALE:g}/lineitem.csv"
    size = (objects.folder / key).stat().st_size
    with start() as function:
        answer, seconds = timed(function, upload(key), timeout=900)
        assert answer == {"batchItemFailures": []}, function.log[-5:]
        peak = function.peak()
        again, skipped = timed(function, upload(key))
        assert again == {"batchItemFailures": []}
        wait_for(lambda: len(summaries(function)) == 2)  # the engine hands its log on when it comes to it
        first, second = summaries(function)
    assert (first["state"], second["state"]) == ("loaded", "skipped")
    assert first["rows_read"] == first["rows_inserted"] > 1_000_000 * SCALE
    with (objects.folder / key).open("rb") as file:
        records = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b"")) - 1
    assert query(database.dsn, "SELECT count(*) FROM lineitem") == [(records,)]
    assert first["bytes_read"] == size > 200e6 * min(1, SCALE / 0.5)
    assert first["RowsRead"] == [records]
    assert 0 <= first["Lag"][0] <= seconds + 1
    assert peak.resident < MEMORY << 20
    rate = first["rows_read"] / first["seconds"]
    tell(
        f"loaded {records:,} rows, {size / 1e6:,.0f} MB, over TLS in {first['seconds']:.1f} s ({seconds:.1f} s with the"
        f" cold start): {rate:,.0f} rows/s, {size / 1e6 / first['seconds']:.0f} MB/s"
    )
    tell(
        f"peak memory under {MEMORY} MB: {peak.resident / 2**20:.0f} MiB resident,"
        f" {peak.charged / 2**20:.0f} MiB charged to the container with its caches; skipped again in {skipped:.2f} s"
    )


def test_the_ping_in_the_image(start: Start) -> None:
    """All is well; the connection is TLS, whose certificate was verified against the host's name."""
    with start() as function:
        answer, seconds = timed(function, {"ping": True})
    assert answer["ok"], answer
    assert answer["checks"]["database"]["tls"].startswith("TLSv1.")
    assert answer["checks"]["imports"]["kernel"] == "compiled"
    assert answer["checks"]["specs"]["specs"] == ["lineitem", "small"]
    assert PASSWORD not in json.dumps([answer, function.log])
    tell(f"ping, cold: {seconds:.1f} s")


def test_a_database_that_is_another(start: Start) -> None:
    """By its certificate's name, or by an authority that is none of RDS's: it is not talked to."""
    with start(trusting=False) as function:
        found = failing(function.invoke({"ping": True}, timeout=60))
    assert set(found) == {"database"}
    assert "certificate verify failed" in found["database"]
    with start(LOADER_SECRET_ID="by-address") as function:
        found = failing(function.invoke({"ping": True}, timeout=60))
    assert set(found) == {"database"}
    assert 'does not match host name "127.0.0.1"' in found["database"]


def test_what_is_missing_is_named(start: Start) -> None:
    """Within seconds: a secret that is not there, an S3 that does not answer."""
    changes = {"LOADER_SECRET_ID": "nosuch", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}
    with start(**changes) as function:
        answer, seconds = timed(function, {"ping": True})
    assert set(failing(answer)) == {"secret", "database", "specs", "bucket"}
    assert seconds < 20
