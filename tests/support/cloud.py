"""ministack, an emulator of AWS's services in one process, for what is wired in an infra template."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from support.docker import lack
from support.postgres import free_port
from support.wiring import ROOT

ACCOUNT, REGION = "000000000000", "eu-central-1"
LOG = ROOT / "build" / "wiring.log"


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


def bootstrap(command: list[str]) -> bytes:
    """A function's code: a program that takes events from the Runtime API, as it is."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        entry = zipfile.ZipInfo("bootstrap")
        entry.external_attr = 0o755 << 16
        archive.writestr(entry, f"#!/bin/sh\nexec {shlex.join(command)}\n")
    return packed.getvalue()
