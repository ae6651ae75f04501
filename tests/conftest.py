"""Fixtures that all tests may use; what they are is in tests/support/."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from support.postgres import dsn, pytest_generate_tests, server, servers

# a shared machine is slow at times: a time limit for one example would only make tests flaky
settings.register_profile("loader", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loader")

__all__ = ["dsn", "pytest_generate_tests", "server", "servers"]
