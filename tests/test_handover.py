"""A file that one invocation has no time for: several carry it on, and the table is as by one go."""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clock import PATIENCE, Clock
from support.postgres import query
from support.s3 import FaultProxy, stall

import loader
from loader.core.deadline import Deadline
from loader.engine.counters import Progress
from loader.pipeline import How, load_one
from loader.postgres.database import Database
from twin.cloud import Cloud
from twin.mapping import Delivery, Mapping
from twin.runtime import Runtime

RECORDS = 300_000
BODY = "a,b\n" + "".join(f"{number},text of number {number}\n" for number in range(RECORDS))
SPEC = 'source = "*.csv"\ntable = "trips"\n{}\n[columns]\na = "int"\nb = "text"\n'
WAYS = {"append": 'mode = "append"', "merge": 'mode = "merge"\nkey = ["a"]'}

BLOCKS = 100
"""For so many an invocation has time; the file has about three times as many."""


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud() as cloud:
        yield cloud


def rehearse(cloud: Cloud, dsn: str, specs: Path) -> tuple[str, list[Delivery], list[dict[str, Any]]]:
    """The file through S3, a queue and the function. Gives the queue, the deliveries, and the function's log."""
    bucket = f"slow-{uuid.uuid4().hex}"
    url = cloud.bucket_with_queue(bucket, hidden=600, receives=20)
    cloud.client("s3").put_object(Bucket=bucket, Key="trips.csv", Body=BODY.encode())
    environment = {
        **cloud.environment,
        "LOADER_DSN": dsn,
        "LOADER_SPECS": str(specs),
        "BLOCKS": str(BLOCKS),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    with Runtime("support.small.handler", environment) as function:
        deliveries = list(Mapping(cloud, url, function, timeout=PATIENCE).drain(within=10 * PATIENCE))
    return url, deliveries, [json.loads(line) for line in function.log if line.startswith("{")]


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_a_file_is_carried_on_from_one_invocation_to_the_next(
    dsn: str, cloud: Cloud, tmp_path: Path, mode: str
) -> None:
    """None of which is killed; the message comes again at once each time, though its queue would hide it for long."""
    (tmp_path / "trips.toml").write_text(SPEC.format(WAYS[mode]))
    url, deliveries, log = rehearse(cloud, dsn, tmp_path)
    assert {each.error for each in deliveries} == {None}
    ((state, attempts, handovers, resumes, read, inserted),) = query(
        dsn, "SELECT state, attempts, handovers, resumes, rows_read, rows_inserted FROM loader.loads"
    )
    assert (state, read, inserted) == ("loaded", RECORDS, RECORDS)
    assert handovers == attempts - 1 >= 2
    assert resumes >= 2
    of_the_file = [each for each in deliveries if each.message_id == deliveries[-1].message_id]
    assert [(each.received, each.deleted) for each in of_the_file] == [
        (number, number == attempts) for number in range(1, attempts + 1)
    ]
    assert cloud.dead_letters(url) == []
    reports = [each for each in log if "rows_read" in each]
    assert [each["state"] for each in reports] == ["failed"] * handovers + ["loaded"]
    assert all("its time is" in each["error"] and each["retryable"] for each in reports[:-1])
    whole = "SELECT n AS a, 'text of number ' || n AS b FROM generate_series(0, %s) n"
    difference = f"((TABLE trips EXCEPT ALL {whole}) UNION ALL ({whole} EXCEPT ALL TABLE trips))"
    assert query(dsn, f"SELECT count(*) FROM {difference} d".replace("%s", str(RECORDS - 1))) == [(0,)]


class SilenceTakesTime(Clock):
    """Time that passes only while S3 is waited for, once a load has begun and no block of it is under way any more."""

    def __init__(self) -> None:
        super().__init__()
        self._looks: int | None = None

    def __call__(self) -> float:
        if self._looks is not None and sys._getframe(2).f_code.co_name == "_await":
            self._looks += 1
            if self._looks == 8:
                self.now += 1000
        return self.now

    def told(self, _progress: Progress) -> None:
        self._looks = 0


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_silence_of_s3_does_not_outlast_the_deadline(
    dsn: str, database: Database, s3: Any, fault_proxy: FaultProxy, mode: str
) -> None:
    """What came before it is staged, and not read again; straight into the table, there is nothing to keep."""
    query(dsn, "CREATE TABLE trips (a int PRIMARY KEY, b text)")
    if mode == "merge":  # some of them are there, so that they have to be matched
        query(dsn, "INSERT INTO trips SELECT generate_series(0, 299999, 100)")
    body = "a,b\n" + "".join(f"{number},{'x' * 50}\n" for number in range(300_000))
    s3.put("trips.csv", body.encode())
    clock = SilenceTakesTime()
    fault_proxy.faults = [stall(1 << 20, at=8 << 20)]  # in the second of three parts
    spec = loader.LoadSpec.from_dict({"table": "trips", "mode": mode, "segment_mb": 4})
    how = How(deadline=Deadline(1000.0, clock=clock), progress=clock.told)
    with pytest.raises(loader.PausedError) as caught:
        load_one(s3.uri("trips.csv"), spec, database, how)
    assert caught.value.handover
    if mode == "append":
        assert "its time is up while waiting for S3" in str(caught.value)
    else:
        assert "records are staged, and the same call goes on from there" in str(caught.value)
        ((offset,),) = query(dsn, "SELECT byte_offset FROM loader.checkpoints")
        assert 7 << 20 < offset <= 8 << 20
    fault_proxy.requests.clear()
    report = load_one(s3.uri("trips.csv"), spec, database)
    staged = mode == "merge"
    assert (report.state, report.resumes) == ("loaded", int(staged))
    assert (report.rows_inserted, report.rows_updated) == ((297_000, 3_000) if staged else (300_000, 0))
