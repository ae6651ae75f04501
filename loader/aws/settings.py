"""What a function's environment says, and what of it outlives an invocation: connections, clients, specs."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from loader.aws import telemetry
from loader.core.errors import SetupError
from loader.core.process.cores import positive_text
from loader.postgres.database import Database, SecretCredentials
from loader.sources.source import s3_client
from loader.spec_store import Held, SpecShelf


@dataclass(frozen=True, slots=True)
class Settings:
    """``$LOADER_SPECS``: a folder shipped with the function (by default ``specs/`` in ``$LAMBDA_TASK_ROOT``) or
    ``s3://bucket/prefix/``. ``$LOADER_SECRET_ID``: the secret that says how to connect; else ``$LOADER_DSN``.
    ``$LOADER_REINVOKE``: not empty, a load that came to rest because time was up is carried on by an invocation that
    the function asks for itself; for events that come without a queue. ``$LOADER_WORKERS``: processes that share a
    large object, for a function with several cores. ``$LOADER_DEAD_LETTERS``: see `loader.aws.redelivery`.
    """

    database: Database
    s3: Any
    specs: SpecShelf
    reinvoke: bool = False
    workers: int = 1

    @staticmethod
    @lru_cache(maxsize=8)
    def client(service: str, region: str | None = None) -> Any:
        """A boto3 client, made when it is first wanted."""
        import boto3
        from botocore.config import Config

        config = Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 3})
        return boto3.client(service, region_name=region, config=config)

    @classmethod
    def from_environment(cls) -> Settings:
        """Raises SetupError where the environment does not say how to connect, or what it says makes no sense."""
        secret_id, dsn = os.environ.get("LOADER_SECRET_ID"), os.environ.get("LOADER_DSN")
        if not (secret_id or dsn):
            raise SetupError(
                "the environment has neither LOADER_SECRET_ID nor LOADER_DSN: there is no database to load into"
            )
        database = Database(SecretCredentials(secret_id) if secret_id else str(dsn))
        workers = positive_text(os.environ.get("LOADER_WORKERS") or "1", "LOADER_WORKERS")
        client = s3_client()
        shelf = SpecShelf(specs_place(), client, _tell_wrong)
        return cls(database, client, shelf, bool(os.environ.get("LOADER_REINVOKE")), workers)


def _tell_wrong(held: Held) -> None:
    assert held.error is not None
    telemetry.log("a spec is wrong", level="ERROR", spec=held.name, error=telemetry.one_line(held.error))


def specs_place() -> str:
    """The folder, or ``s3://bucket/prefix/``, that holds the specs."""
    return os.environ.get("LOADER_SPECS") or os.path.join(os.environ.get("LAMBDA_TASK_ROOT", "."), "specs")  # noqa: PTH118


_settings: Settings | None = None
_lock = threading.Lock()


def settings() -> Settings:
    """Those of this process, made when they are first wanted. Raises SetupError."""
    global _settings  # noqa: PLW0603 - a Lambda's memory between invocations is its modules' globals
    with _lock:
        if _settings is None:
            _settings = Settings.from_environment()
        return _settings


def forget() -> None:
    """Close what is kept: the next call of `settings` looks at the environment anew."""
    global _settings  # noqa: PLW0603 - see above
    with _lock:
        Settings.client.cache_clear()
        if _settings is not None:
            _settings.database.close()
            _settings.s3.close()
        _settings = None
