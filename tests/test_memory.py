"""Memory is a matter of blocks in flight, not of the file, the record, or the table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.effort import effort
from support.postgres import query

MEASURED = """
import re, sys
from pathlib import Path
from loader.cli import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1], file=sys.stderr)
sys.exit(code)
"""

LIMIT = 220
"""MB that a process may have resident at its peak: a function of 256 MB has to do."""

SPREAD = 0.15
"""Of the peak, by which one of a file three times as large may differ; the smaller one fills all there is to fill."""


def peak(dsn: str, source: str, *options: str) -> float:
    """MB that ``loader load`` has resident at its peak (proc(5), VmHWM)."""
    command = [sys.executable, "-c", MEASURED, "load", source, "--dsn", dsn, "--table", "t", "--force", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stderr.splitlines()[-1]) / 1024


def write(path: Path, rows: int) -> Path:
    text = "some words, and a few more of them" * 2
    with path.open("w") as file:
        file.write("id,amount,day,words\n")
        for number in range(rows):
            file.write(f'{number},{number % 1000}.25,2024-01-{number % 28 + 1:02},"{text}"\n')
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(
    ("mode", "where"),
    [("append", "s3"), ("merge", "local"), *effort([], [("append", "local"), ("merge", "s3")])],
)
def test_the_peak_does_not_grow_with_the_file(dsn: str, tmp_path: Path, s3: Any, mode: str, where: str) -> None:
    """Straight or staged, from a disk or from S3; it stays under what the smallest function has."""
    query(dsn, "CREATE TABLE t (id int PRIMARY KEY, amount numeric(12,2), day date, words text)")
    peaks = []
    for rows in (350_000, 1_100_000):
        path = write(tmp_path / f"{rows}.csv", rows)
        query(dsn, "TRUNCATE t")
        if mode == "merge":
            query(dsn, f"INSERT INTO t SELECT generate_series(0, {rows}, 100)")
        source = str(path)
        if where == "s3":
            s3.put(path.name, path.read_bytes())
            source = s3.uri(path.name)
        peaks.append(peak(dsn, source, "--mode", mode))
        assert query(dsn, "SELECT count(*) FROM t WHERE words IS NOT NULL") == [(rows,)]
    assert peaks[1] < LIMIT
    assert peaks[1] < peaks[0] * (1 + SPREAD)
