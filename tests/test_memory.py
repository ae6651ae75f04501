"""Memory is a matter of blocks in flight, not of the file, the record, or the table."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.effort import effort
from support.postgres import query

import loader
from loader.core.process.memory import memory_limit
from loader.kernel.compiled import compiled_kernel
from loader.sources.source import PART_SIZE, SMALL_PART, fitting_part_size

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


def peak(dsn: str, source: str, *options: str, code: int = 0) -> float:
    """MB that ``loader load`` has resident at its peak (proc(5), VmHWM)."""
    table = [] if "--spec" in options else ["--table", "t"]
    command = [sys.executable, "-c", MEASURED, "load", source, "--dsn", dsn, *table, "--force", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return int(done.stderr.splitlines()[-1]) / 1024


def write(path: Path, rows: int) -> Path:
    text = "some words, and a few more of them" * 2
    with path.open("w") as file:
        file.write("id,amount,day,words\n")
        for number in range(rows):
            file.write(f'{number},{number % 1000}.25,2024-01-{number % 28 + 1:02},"{text}"\n')
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.skipif(compiled_kernel() is None, reason="without the kernel a load imports Arrow")
def test_the_smallest_function_has_room(dsn: str, tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 128 MB, some have to be left to the interpreter's surroundings."""
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
    query(dsn, "CREATE TABLE t (id int, amount numeric(12,2), day date, words text)")
    s3.put("t.csv", write(tmp_path / "t.csv", 350_000).read_bytes())
    assert peak(dsn, s3.uri("t.csv")) <= 120


@pytest.mark.parametrize(
    ("function", "text", "limit"),
    [
        ("128", None, 128 << 20),
        (None, "268435456\n", 256 << 20),
        (None, "max\n", None),
        (None, f"{(1 << 63) - 4096}\n", None),  # what version 1 of control groups says of no limit
        (None, None, None),
    ],
)
def test_what_limits_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str | None, text: str | None, limit: int | None
) -> None:
    """Lambda's word, else that of the control group, as far as it can be read."""
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", raising=False)
    if function is not None:
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", function)
    if text is not None:
        (tmp_path / "memory.max").write_text(text)
    monkeypatch.setattr("loader.core.process.memory.LIMITS", (tmp_path / "none", tmp_path / "memory.max"))
    assert memory_limit() == limit
    assert fitting_part_size() == (SMALL_PART if limit == 128 << 20 else PART_SIZE)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(
    ("mode", "where"),
    [("merge", "s3"), *effort([], [("append", "s3"), ("append", "local"), ("merge", "local")])],
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


BOMBS = {
    "empty lines": b"\n" * (2 << 20),
    "misshapen": b"x,y,z\n" * (1 << 18),
    "odd numbers": b"x,y\n" * (1 << 18),
    "no text": b"\xff,\xff\n" * (1 << 18),
    "open quote": b'"' + b"a,b\n" * (1 << 18),
}


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("kind", BOMBS)
def test_the_peak_does_not_grow_with_the_rejects(dsn: str, tmp_path: Path, kind: str) -> None:
    """A megabyte of text that is bad throughout: a few bytes of gzip, and a hundred thousand rejects a block."""
    query(dsn, "CREATE TABLE t (a int, b int)")
    path = tmp_path / "bad.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 10_000 + BOMBS[kind]))
    spec = tmp_path / "spec.toml"
    spec.write_text('table = "t"\n')  # without one, empty lines are taken for what they are
    assert peak(dsn, str(path), "--spec", str(spec), code=1) < LIMIT
    counted, entered = query(dsn, "SELECT rejects_by_reason, rejects_entered FROM loader.loads")[0]
    assert sum(counted.values()) > 1000
    assert entered == 1001
    assert query(dsn, "SELECT count(*) FROM loader.rejects") == [(1001,)]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("ragged", ["reject", "pad"])
def test_the_peak_does_not_grow_with_the_columns_that_a_short_record_lacks(
    dsn: str, tmp_path: Path, ragged: str
) -> None:
    """An empty line becomes 1,000 values where records are padded, and 300 more that the spec gives."""
    fields = [f"c{number}" for number in range(1000)]
    extra = {f"d{number}": {"type": "text", "default": "x" * 100} for number in range(300)}
    path = tmp_path / "wide.csv"
    path.write_text(",".join(fields) + "\n" + "\n" * 10_000)
    spec = tmp_path / "spec.toml"
    columns = {**dict.fromkeys(fields, "int"), **extra}
    rejects = {"max_rows": 100_000, "max_ratio": 1.0}
    made = loader.LoadSpec.from_dict(
        {"table": "t", "csv": {"ragged": ragged}, "columns": columns, "rejects": rejects, "limits": {"max_rows": 4000}}
    )
    spec.write_text(made.to_toml())
    assert peak(dsn, str(path), "--spec", str(spec), code=1) < LIMIT


def test_a_load_that_is_over_its_limit_tells_what_was_counted_and_what_is_kept(dsn: str, tmp_path: Path) -> None:
    """In the error, in the report, and in the history, which is the first that somebody looks at."""
    query(dsn, "CREATE TABLE t (a int, b int)")
    path = tmp_path / "bad.csv"
    path.write_text("a,b\n" + "\n" * 5000)
    with pytest.raises(
        loader.RejectLimitError, match="5,000 were counted before the load stopped, and 1,001 of"
    ) as caught:
        loader.load(str(path), {"table": "t"}, dsn=dsn)
    report = caught.value.report
    assert report is not None
    assert (report.rejects_by_reason, report.rejects_entered) == ({"too_few_fields": 5000}, 1001)
    first = "SELECT min(record_number), max(record_number), count(*) FROM loader.rejects"
    assert query(dsn, first) == [(1, 1001, 1001)]
    command = [sys.executable, "-m", "loader", "status", "--dsn", dsn]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "5,000" in told.splitlines()[1]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_peak_does_not_grow_with_the_lines_that_are_sniffed(dsn: str, tmp_path: Path) -> None:
    """A megabyte holds a million empty ones."""
    query(dsn, "CREATE TABLE t (a int, b int)")
    path = tmp_path / "empty.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 10_000 + BOMBS["empty lines"]))
    assert peak(dsn, str(path)) < 1.6 * LIMIT  # 24 bytes for each line that is left out, in all blocks under way
    assert query(dsn, "SELECT rows_inserted, rows_rejected FROM loader.loads") == [(10_000, 0)]
