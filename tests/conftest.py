"""Fixtures that all tests may use; what they are is in tests/support/."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings
from support.cluster import shared_folder
from support.postgres import database, dsn, pytest_generate_tests, server, servers
from support.s3 import aws, fault_proxy, s3, s3_server, s3_unversioned
from support.synthesis import synthesis, template

from loader.engine import small_load

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # what a shell runs in the background ignores Ctrl-C, and so would every process that a test starts to interrupt it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# a shared machine is slow at times: a time limit for one example would only make tests flaky
settings.register_profile("loader", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loader")


@pytest.fixture
def large_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every object goes the way of a large one, and leaves what that leaves."""
    monkeypatch.setenv(small_load.SETTING, "0")


def pytest_configure() -> None:
    """Before there are workers, which find it in their environment."""
    shared_folder()


__all__ = [
    "aws",
    "database",
    "dsn",
    "fault_proxy",
    "large_way",
    "pytest_generate_tests",
    "s3",
    "s3_server",
    "s3_unversioned",
    "server",
    "servers",
    "synthesis",
    "template",
]
