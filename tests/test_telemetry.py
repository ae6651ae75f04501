"""The log and the metrics: every line is JSON and names its load; the end of a load carries its metrics."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.postgres import query

from loader.aws import settings, telemetry
from loader.aws.handler import handler

ALWAYS = {"timestamp", "level", "message", "service", "request_id", "load_id", "source", "version"}


class Context:
    aws_request_id = "5b3c"

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


@pytest.fixture(autouse=True)
def function(dsn: str, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LOADER_DSN", dsn)
    monkeypatch.setenv("LOADER_SPECS", str(tmp_path))
    (tmp_path / "trips.toml").write_text('source = "*.csv"\ntable = "trips"\n[columns]\na = "int"\n')
    yield
    settings.forget()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(set(line) >= ALWAYS for line in found)
    return found


def event(s3: Any, key: str, body: bytes, **more: Any) -> dict[str, Any]:
    return {"source": s3.uri(key), "version_id": s3.put(key, body), **more}


def metrics(line: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Name → value and unit, read by the rules of the format (CloudWatch user guide, "Embedded metric format")."""
    embedded = line["_aws"]
    assert isinstance(embedded["Timestamp"], int)
    (directive,) = embedded["CloudWatchMetrics"]
    assert (directive["Namespace"], directive["Dimensions"]) == ("Loader", [["service"]])
    assert line["service"] == "loader"
    found = {}
    for each in directive["Metrics"]:
        value = line[each["Name"]]
        found[each["Name"]] = (value[0] if isinstance(value, list) else value, each["Unit"])
    return found


def test_each_line_of_a_load_names_it(s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """From the row in the ledger on, which is where it gets its id."""
    asked = event(s3, "a.csv", b"a\n1\n2\n")
    (report,) = handler(asked, Context())["loads"]
    begun, loaded = lines(capsys)
    for line in (begun, loaded):
        assert line["load_id"] == report["load_id"]
        assert (line["source"], line["version"], line["request_id"]) == (asked["source"], asked["version_id"], "5b3c")
    assert (begun["message"], begun["attempt"], begun["table"]) == ("begun", 1, "public.trips")
    assert report.items() <= loaded.items()


def test_the_end_of_a_load_carries_its_metrics(s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The lag counts from the event's time."""
    stored = (datetime.now(UTC) - timedelta(seconds=100)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    (report,) = handler(event(s3, "a.csv", b"a\n1\nx\n" + b"2\n" * 998, time=stored), Context())["loads"]
    found = metrics(lines(capsys)[-1])
    assert {name: unit for name, (_, unit) in found.items()} | {"LoadsSuperseded": "Count"} == telemetry.UNITS
    values = {name: value for name, (value, _) in found.items()}
    assert (values["Loads"], values["LoadsFailed"], values["RowsRead"], values["RowsRejected"]) == (1, 0, 1000, 1)
    assert values["RowsPerSecond"] == pytest.approx(1000 / report["seconds"])
    assert (values["BytesRead"], values["Seconds"]) == (report["bytes_read"], report["seconds"])
    assert 100 <= values["Lag"] < 3600


def test_what_was_skipped_is_no_load(s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asked = event(s3, "a.csv", b"a\n1\n")
    handler(asked, Context())
    capsys.readouterr()
    handler(asked, Context())
    (line,) = lines(capsys)
    assert (line["state"], "_aws" in line) == ("skipped", False)


@pytest.mark.parametrize(("key", "body"), [("a.csv", b"nosuch\n1\n"), ("elsewhere.txt", b"a\n1\n")])
def test_what_failed_is_counted_once(s3: Any, capsys: pytest.CaptureFixture[str], key: str, body: bytes) -> None:
    """Whether there was a load to fail or no spec for it, though both the load's line and the message's tell of it."""
    record = {"bucket": {"name": s3.bucket}, "object": {"key": key, "versionId": s3.put(key, body)}}
    notification = {"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": record}]}
    message = {"messageId": "m", "eventSource": "aws:sqs", "body": json.dumps(notification)}
    assert handler({"Records": [message]}, Context()) == {"batchItemFailures": [{"itemIdentifier": "m"}]}
    found = lines(capsys)
    counted = [metrics(line)["LoadsFailed"] for line in found if "_aws" in line]
    assert counted == [(1, "Count")]
    assert [line["level"] for line in found if line.get("state") == "failed"] == ["ERROR"]
    assert (found[-1]["state"], found[-1]["message_id"]) == ("handed back", "m")
    assert found[-1]["load_id"] == found[-2]["load_id"]


@pytest.mark.usefixtures("large_way")
def test_a_retry_is_told(dsn: str, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A serialization failure passes: the attempt that failed is on record, and so is the pause."""
    query(dsn, "CREATE SEQUENCE tries")
    query(dsn, "CREATE TABLE trips (a int)")
    query(
        dsn,
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('tries') = 1 THEN"
        " RAISE 'not now' USING ERRCODE = '40001'; END IF; RETURN NULL; END $$",
    )
    query(dsn, "CREATE TRIGGER fail AFTER INSERT ON trips FOR EACH STATEMENT EXECUTE FUNCTION fail()")
    (report,) = handler(event(s3, "a.csv", b"a\n1\n"), Context())["loads"]
    told = [(line["message"], line["load_id"]) for line in lines(capsys)]
    assert told == [(each, report["load_id"]) for each in ("begun", "to be tried again", "begun", "loaded")]


def test_other_packages_lines_are_such_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """What a library or a hook warns of names the load that it happened in."""
    logger = logging.getLogger("some.library")
    handler_of_lines = telemetry.Lines()
    logger.addHandler(handler_of_lines)
    try:
        telemetry.begin(Context())
        with telemetry.about("s3://b/k", "v"):
            telemetry.tell_step("begun", {"load_id": 7})
            try:
                raise ValueError("odd")
            except ValueError:
                logger.exception("it is %s", "odd")
    finally:
        logger.removeHandler(handler_of_lines)
    _, line = lines(capsys)
    assert (line["level"], line["message"], line["logger"], line["error"]) == (
        "ERROR",
        "it is odd",
        "some.library",
        "ValueError: odd",
    )
    assert (line["load_id"], line["source"], line["version"]) == (7, "s3://b/k", "v")
