"""``postgres:18`` as RDS is set up: TLS or nothing, and a user of the loader's own that may do what it needs.

TLS ends in front of the server (`support.tls.tls_front`): the image of that name may be one that was built without it.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from support.docker import POSTGRES, docker, labelled
from support.postgres import free_port
from support.tls import make_certificates, tls_front

HOST = "database.rehearsal"
"""What the server's certificate is for; containers know it as this machine."""

PASSWORD = "a password / with @ odd : characters"
OWNER_PASSWORD = "the master's, which the loader never sees"

_POSTGRES_USER = 999  # of the official image

_SETUP = f"""
    CREATE ROLE loader LOGIN PASSWORD '{PASSWORD}';
    GRANT CREATE ON DATABASE warehouse TO loader;
    GRANT USAGE, CREATE ON SCHEMA public TO loader;
"""

_RULES = """
    local all all               trust
    host  all all 127.0.0.1/32  scram-sha-256
"""


@dataclass(frozen=True, slots=True)
class Secured:
    """``folder`` holds ``ca.pem``. ``dsn``: the owner's, past TLS, for the test to look."""

    port: int
    tls_port: int
    folder: Path

    @property
    def dsn(self) -> str:
        return psycopg2.extensions.make_dsn(
            host="127.0.0.1", port=self.port, user="postgres", password=OWNER_PASSWORD, dbname="warehouse"
        )

    @property
    def secret(self) -> str:
        """The loader's, as RDS writes it."""
        known = {"engine": "postgres", "host": HOST, "port": self.tls_port, "dbname": "warehouse"}
        return json.dumps({**known, "username": "loader", "password": PASSWORD})

    @property
    def authority(self) -> Path:
        return self.folder / "ca.pem"


@contextlib.contextmanager
def secured(folder: Path) -> Iterator[Secured]:
    """The server, reached at 127.0.0.1 on a port of its own."""
    make_certificates(folder, HOST)
    port = free_port()
    with labelled() as label, tls_front(folder, port) as tls_port:
        server = Secured(port, tls_port, folder)
        container = docker(
            *("create", f"--label={label}", "--network=host", "--shm-size=256m"),
            *(f"--env=POSTGRES_PASSWORD={OWNER_PASSWORD}", "--env=POSTGRES_DB=warehouse", POSTGRES),
            *("-c", f"port={port}", "-c", "hba_file=/rules/pg_hba.conf"),
        )
        files = {
            "rules/pg_hba.conf": _RULES.encode(),
            "docker-entrypoint-initdb.d/loader.sql": _SETUP.encode(),
        }
        _copy_into(container, files)
        docker("start", container)
        _wait_for(server, container)
        yield server


def _copy_into(container: str, files: dict[str, bytes]) -> None:
    """As the server's user, which nobody has to be on this machine for that."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.uid, entry.gid = len(content), 0o600, _POSTGRES_USER, _POSTGRES_USER
            archive.addfile(entry, io.BytesIO(content))
    subprocess.run(["docker", "cp", "--archive", "-", f"{container}:/"], input=packed.getvalue(), check=True)


def _wait_for(server: Secured, container: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            psycopg2.connect(server.dsn).close()
            return
        except psycopg2.OperationalError as error:
            if time.monotonic() > end:
                told = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=False)
                raise RuntimeError(f"{error}\n{told.stdout[-2000:]}{told.stderr[-2000:]}") from error
            time.sleep(0.2)
