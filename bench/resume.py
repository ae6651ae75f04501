r"""What a fault costs: a load of a 1 GB object that is killed at nine tenths, and taken up again.

    python -m bench.resume [--scale 1.31]

TPC-H lineitem from an S3-protocol server on this machine. The loader's process gets SIGKILL when it has read nine
tenths; then the same command runs again. Checked: the second run fetches no more than 15 % of the object again, and the
table is, row for row, the one that a load in one go gives. Exits with 1 where one of these does not hold.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.objects import BUCKET, Objects, serving
from bench.rig import Server, fresh, lineitem, open_server, options

KILLED_AT = 0.9
READ_AGAIN = 0.15


def main() -> int:
    told = options(__doc__, scale=1.31)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-resume-")))
        server = stack.enter_context(open_server(folder))
        file = lineitem(folder, told.scale)
        objects = stack.enter_context(serving(file.parent))
        return _compare(server, objects, file.name)


def _compare(server: Server, objects: Objects, key: str) -> int:
    size = (objects.folder / key).stat().st_size
    seconds, fetched = _load(server, objects, key, fresh(server, "in_one_go"))
    print(f"{size / 1e6:,.0f} MB in one go: {seconds:.1f} s, {fetched / 1e6:,.0f} MB fetched")
    table = fresh(server, "in_two")
    began, sent = time.perf_counter(), objects.sent
    process = _start(server, objects, key, table)
    while objects.sent - sent < KILLED_AT * size and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise SystemExit("it was through before it could be killed")
    read = objects.sent - sent
    print(f"killed after {time.perf_counter() - began:.1f} s, when {read / size:.1%} of it had been fetched")
    seconds, fetched = _load(server, objects, key, table)
    again = (read + fetched - size) / size
    print(f"taken up: {seconds:.1f} s, {fetched / 1e6:,.0f} MB fetched, so {again:.1%} of it was read again")
    checks = {
        f"no more than {READ_AGAIN:.0%} was read again: {again:.1%}": again <= READ_AGAIN,
        "equal row for row": server.digest("in_one_go") == server.digest("in_two"),
    }
    for what, holds in checks.items():
        print(f"{'ok' if holds else 'FAILED'}: {what}")
    return 0 if all(checks.values()) else 1


def _load(server: Server, objects: Objects, key: str, table: str) -> tuple[float, int]:
    """Seconds, and bytes that were fetched."""
    began, sent = time.perf_counter(), objects.sent
    if code := _start(server, objects, key, table).wait():
        raise SystemExit(f"loader load exited with {code}")
    return time.perf_counter() - began, objects.sent - sent


def _start(server: Server, objects: Objects, key: str, table: str) -> subprocess.Popen[bytes]:
    source = f"s3://{BUCKET}/{key}"
    command = [sys.executable, "-m", "loader", "load", source, "--table", table, "--dsn", server.dsn]
    return subprocess.Popen(command, env={**os.environ, **objects.environment}, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
