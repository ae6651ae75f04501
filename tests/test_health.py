"""The ping: what a function's surroundings lack is named, within seconds."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import psycopg2.extensions
import pytest
from support.postgres import query

from loader.aws import settings
from loader.aws.handler import handler
from loader.core.errors import UsageError
from loader.kernel.compiled import kernel_state

PASSWORD = "s3cret-and-never-shown"
NAMES = {"imports", "specs", "secret", "database", "bucket"}


@pytest.fixture(autouse=True)
def function(dsn: str, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A function that lacks nothing: a spec, a secret, a database, a bucket."""
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "trips.toml").write_text('source = "*.csv"\ntable = "trips"\n')
    manager = boto3.client("secretsmanager")
    named = psycopg2.extensions.parse_dsn(dsn)
    known = {"username": named["user"], "password": PASSWORD, "host": named["host"], "dbname": named["dbname"]}
    known |= {"port": named["port"]} if "port" in named else {}
    manager.create_secret(Name="loader", SecretString=json.dumps(known))
    monkeypatch.delenv("LOADER_DSN", raising=False)
    monkeypatch.setenv("LOADER_SECRET_ID", "loader")
    monkeypatch.setenv("LOADER_SPECS", str(tmp_path / "specs"))
    monkeypatch.setenv("LOADER_BUCKET", s3.bucket)
    yield
    manager.delete_secret(SecretId="loader", ForceDeleteWithoutRecovery=True)
    manager.close()
    settings.forget()


def ping(**more: Any) -> dict[str, Any]:
    answer = handler({"ping": True, **more})
    assert set(answer["checks"]) == NAMES
    assert answer["ok"] == all(each["ok"] for each in answer["checks"].values())
    assert PASSWORD not in json.dumps(answer)
    return answer


def failing(answer: dict[str, Any]) -> dict[str, str]:
    return {name: each["error"] for name, each in answer["checks"].items() if not each["ok"]}


@pytest.mark.without_ledger
def test_a_function_that_lacks_nothing(dsn: str, s3: Any) -> None:
    """And the database is as it was: nothing was made there."""
    answer = ping()
    assert answer["ok"], answer
    assert answer["checks"]["imports"]["kernel"] == kernel_state()
    assert answer["checks"]["specs"]["specs"] == ["trips"]
    assert answer["checks"]["bucket"]["bucket"] == s3.bucket
    assert query(dsn, "SELECT to_regclass('loader.loads') IS NULL") == [(True,)]


def test_a_kernel_that_is_asked_for_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named before a file comes."""
    monkeypatch.setattr("loader.kernel.compiled._compiled", None)
    monkeypatch.setenv("LOADER_KERNEL", "on")
    found = failing(ping())
    assert set(found) == {"imports"}
    assert "built without a C compiler" in found["imports"]


def test_a_spec_that_is_none(tmp_path: Path) -> None:
    """It is found before a file comes for it."""
    (tmp_path / "specs" / "other.toml").write_text('table = "t"\nmod = "append"\n')
    found = failing(ping())
    assert set(found) == {"specs"}
    assert "other.toml: mod: unknown key" in found["specs"]
    (tmp_path / "specs" / "below").mkdir()
    (tmp_path / "specs" / "below" / "third.toml").write_text("table =")
    found = failing(ping())
    assert found["specs"].startswith("2 of 3 specs are wrong: below/third: ")
    assert "other.toml: mod: unknown key" in found["specs"]


def test_a_folder_without_specs(tmp_path: Path) -> None:
    (tmp_path / "specs" / "trips.toml").unlink()
    assert set(failing(ping())) == {"specs"}


def test_a_secret_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is not tried then, and says why."""
    monkeypatch.setenv("LOADER_SECRET_ID", "nosuch")
    found = failing(ping())
    assert "ResourceNotFoundException" in found["secret"]
    assert found["database"] == "nobody says how to connect: see the secret"
    assert set(found) == {"secret", "database"}


def test_a_database_that_refuses() -> None:
    """That says who refused, and never by which password."""
    boto3.client("secretsmanager").put_secret_value(
        SecretId="loader",
        SecretString=json.dumps({"username": "u", "password": PASSWORD, "host": "127.0.0.1", "port": 1}),
    )
    found = failing(ping())
    assert set(found) == {"database"}
    assert "127.0.0.1" in found["database"]


@contextmanager
def silent() -> Iterator[int]:
    """A port that takes connections and answers nothing: what a lost packet looks like from within."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            try:
                while True:
                    kept.append(server.accept()[0])
            except OSError:
                pass

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for each in kept:
                each.close()


def test_silence_is_told_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever it is that does not answer; the others are heard nevertheless."""
    with silent() as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        found = failing(ping())
    assert set(found) == {"secret", "database", "bucket"}


def test_a_silent_database_is_told_in_seconds() -> None:
    """By libpq's own time-out, before the check's."""
    with silent() as port:
        known = {"username": "u", "password": PASSWORD, "host": "127.0.0.1", "port": port}
        boto3.client("secretsmanager").put_secret_value(SecretId="loader", SecretString=json.dumps(known))
        found = failing(ping())
    assert set(found) == {"database"}
    assert "timeout" in found["database"]


def test_a_role_that_may_not_have_a_ledger(dsn: str) -> None:
    """It could load nothing."""
    query(dsn, "DROP ROLE IF EXISTS powerless")
    query(dsn, f"CREATE ROLE powerless LOGIN PASSWORD '{PASSWORD}'")
    try:
        named = psycopg2.extensions.parse_dsn(dsn)
        known = {"username": "powerless", "password": PASSWORD, "host": named["host"], "dbname": named["dbname"]}
        known |= {"port": named["port"]} if "port" in named else {}
        boto3.client("secretsmanager").put_secret_value(SecretId="loader", SecretString=json.dumps(known))
        assert failing(ping()) == {"database": "the role has no schema loader of its own and may not create one"}
    finally:
        query(dsn, "DROP ROLE powerless")


@pytest.mark.parametrize("name", ["nosuch-bucket", None])
def test_a_bucket_that_is_not_there(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    """Named by the ping, by the environment, or by nobody."""
    monkeypatch.delenv("LOADER_BUCKET")
    found = failing(ping(bucket=name) if name else ping())
    assert set(found) == {"bucket"}
    assert ("NoSuchBucket" if name else "LOADER_BUCKET") in found["bucket"]


@pytest.mark.parametrize("event", [{"ping": 1}, {"ping": False}, {"ping": True, "source": "s3://b/k"}])
def test_a_ping_is_nothing_else(event: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="a ping is"):
        handler(event)
