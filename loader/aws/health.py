"""``{"ping": true}``: whether everything that a load needs can be had, and which of it cannot.

Each check has a short deadline of its own, so that what is usually a silent time-out (a subnet without a way to Secrets
Manager, a security group that lets nobody through to the database) has a name, within seconds::

    {"ok": false, "checks": {"secret": {"ok": false, "seconds": 4.0, "error": "no answer within 4 seconds"}, …}}

No check writes anything. What an answer says of the database is what libpq says, never a password.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from loader.aws import telemetry
from loader.aws.settings import specs_place
from loader.core.errors import LoaderError, TableError, UsageError
from loader.kernel.compiled import kernel_state
from loader.postgres.database import Credentials, Database, DsnCredentials, SecretCredentials
from loader.postgres.statements import rows
from loader.sources.s3 import split_uri
from loader.sources.source import s3_client
from loader.spec_store import SpecShelf

LIMITS = {"imports": 8.0, "specs": 6.0, "secret": 5.0, "database": 6.0, "bucket": 6.0}
"""Seconds that each check has. All run side by side, but for the database, which waits for the secret; so the answer
comes within 11 seconds, and usually in one."""

PACKAGES = ("pyarrow.csv", "pyarrow.compute", "numpy", "pandas", "pgpq", "psycopg2", "boto3", "lark", "tzdata")
PACKAGES_OF_THE_FUNCTION = ("aws_lambda_powertools.metrics",)

_QUICKLY = {"connect_timeout": 2, "read_timeout": 2, "retries": {"mode": "standard", "total_max_attempts": 1}}

_FACTS = """
    SELECT current_setting('server_version'), current_setting('transaction_read_only') = 'on',
           has_database_privilege(current_database(), 'CREATE'),
           EXISTS (SELECT FROM pg_namespace WHERE nspname = 'loader' AND has_schema_privilege(oid, 'CREATE'))
"""


def examine(event: Mapping[str, Any]) -> dict[str, Any]:
    """Run all checks. The event may name the ``bucket`` to look into. Raises UsageError where it is no ping.

    ``ok`` is whether all are; ``checks`` has for each ``ok``, ``seconds``, and ``error`` or what there is to say.
    """
    if event["ping"] is not True or not isinstance(event.get("bucket", ""), str) or set(event) - {"ping", "bucket"}:
        raise UsageError('a ping is {"ping": true}, and may name a bucket: {"ping": true, "bucket": "name"}')
    secret = Check("secret", _secret)
    checks = [
        Check("imports", _imports),
        Check("specs", _specs),
        secret,
        Check("database", lambda: _database(secret)),
        Check("bucket", lambda: _bucket(event.get("bucket"))),
    ]
    results = {each.name: each.result() for each in checks}
    answer = {"ok": all(each["ok"] for each in results.values()), "checks": results}
    telemetry.log("ping", level="INFO" if answer["ok"] else "ERROR", **answer)
    return answer


class Check:
    """One check in a thread of its own, which is left behind when its time is up: it cannot be called back."""

    def __init__(self, name: str, look: Callable[[], dict[str, Any]]) -> None:
        self.name = name
        self._look = look
        self._found: dict[str, Any] = {}
        self._done = threading.Event()
        self._began = time.monotonic()
        threading.Thread(target=self._run, name=f"loader-health-{name}", daemon=True).start()

    def _run(self) -> None:
        try:
            found = {"ok": True, **self._look()}
        except LoaderError as error:
            found = {"ok": False, "error": telemetry.one_line(error)}
        except Exception as error:  # a defect of one check is no reason to keep quiet about the others
            found = {"ok": False, "error": telemetry.one_line(error)}
        self._found = {**found, "seconds": round(time.monotonic() - self._began, 3)}
        self._done.set()

    def result(self) -> dict[str, Any]:
        """What was found, when it is; or that it was not in time."""
        limit = LIMITS[self.name] + (LIMITS["secret"] if self.name == "database" else 0.0)
        if self._done.wait(max(0.0, self._began + limit - time.monotonic())):
            return self._found
        return {"ok": False, "error": f"no answer within {limit:g} seconds", "seconds": limit}


def _imports() -> dict[str, Any]:
    packages = PACKAGES + (PACKAGES_OF_THE_FUNCTION if "AWS_LAMBDA_RUNTIME_API" in os.environ else ())
    missing = []
    for name in packages:
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing.append(f"{name} ({error})")
    if missing:
        raise UsageError(f"cannot be imported: {', '.join(missing)}")
    return {"kernel": kernel_state()}


def _specs() -> dict[str, Any]:
    """All of them are read, so that one that is wrong is found before a file comes for it."""
    place = specs_place()
    client = s3_client(**_QUICKLY) if place.startswith("s3://") else None
    held = SpecShelf(place, client).all()
    if not held:
        raise UsageError(f"there is no spec in {place}")
    wrong = [f"{each.name}: {each.error}" for each in held if each.error is not None]
    if wrong:
        raise UsageError(f"{len(wrong)} of {len(held)} specs are wrong: {'; '.join(wrong)}")
    return {"place": place, "specs": [each.name for each in held]}


def _secret() -> dict[str, Any]:
    credentials = _credentials()
    credentials.parameters()
    return {"secret": os.environ.get("LOADER_SECRET_ID") or "LOADER_DSN"}


def _database(secret: Check) -> dict[str, Any]:
    if not secret.result()["ok"]:
        raise UsageError("nobody says how to connect: see the secret")
    database = Database(Hurried(_credentials()))
    try:
        with database.session() as connection:
            row = rows(connection, _FACTS)[0]
            tls = connection.info.ssl_attribute("protocol") if connection.info.ssl_in_use else None
    finally:
        database.close()
    version, read_only, may_create, has_ledger = row
    if read_only:
        raise TableError("the server takes no writes: it is a standby")
    if not (may_create or has_ledger):
        raise TableError("the role has no schema loader of its own and may not create one")
    return {"server": version, "tls": tls}


def _bucket(named: str | None) -> dict[str, Any]:
    """Whether objects can be listed, which takes a way to S3, credentials and permission."""
    bucket = named or os.environ.get("LOADER_BUCKET")
    if not bucket and specs_place().startswith("s3://"):
        bucket, _ = split_uri(specs_place())
    if not bucket:
        raise UsageError("nobody says which bucket to look into: LOADER_BUCKET, or the ping itself")
    client = s3_client(**_QUICKLY)
    try:
        client.list_objects_v2(Bucket=bucket, MaxKeys=1)
    finally:
        client.close()
    return {"bucket": bucket}


class Hurried:
    """Credentials that wait two seconds for a connection, not as long as a load would."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def parameters(self) -> Mapping[str, Any]:
        return {**self._credentials.parameters(), "connect_timeout": 2}

    def forget(self) -> bool:
        return False  # the secret was read a moment ago

    def __repr__(self) -> str:
        return repr(self._credentials)


def _credentials() -> Credentials:
    if secret_id := os.environ.get("LOADER_SECRET_ID"):
        import boto3
        from botocore.config import Config

        return SecretCredentials(secret_id, client=boto3.client("secretsmanager", config=Config(**_QUICKLY)))
    if dsn := os.environ.get("LOADER_DSN"):
        return DsnCredentials(dsn)
    raise UsageError("the environment has neither LOADER_SECRET_ID nor LOADER_DSN")
