"""What a file may cost: bytes of text and records, whatever way it takes, by the spec or the deployment."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from support.postgres import query

import loader
from loader.convert.infer import infer_spec
from loader.core.spec.bounds import read_size
from loader.core.spec.model import LimitSpec, LoadSpec
from loader.postgres.database import Database
from loader.preview import preview
from loader.sources.source import open_source

ROWS = 400_000
TEXT = b"a,b\n" + b"1,2\n" * ROWS


@pytest.fixture
def bomb(dsn: str, tmp_path: Path) -> Path:
    query(dsn, "CREATE TABLE t (a int, b int)")
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(TEXT))
    return path


def fails(dsn: str, path: Path, match: str, **spec: Any) -> loader.LoadReport:
    """Nothing of it is loaded, staged or to be tried again."""
    with pytest.raises(loader.LimitError, match=match) as caught:
        loader.load(str(path), {"table": "t", **spec}, dsn=dsn)
    assert not caught.value.retryable
    assert str(path) in str(caught.value)
    assert query(dsn, "SELECT count(*) FROM t") == [(0,)]
    assert query(dsn, "SELECT tablename FROM pg_tables WHERE tablename LIKE 'staging%%'") == []
    assert query(dsn, "SELECT state, retryable FROM loader.loads") == [("failed", False)]
    assert caught.value.report is not None
    return caught.value.report


@pytest.mark.parametrize("segment", [1, 32])
@pytest.mark.parametrize("limits", [{"max_bytes": "1 MB"}, {"max_rows": 300_000}])
def test_a_file_that_unpacks_to_more_than_it_may_loads_nothing(
    dsn: str, bomb: Path, limits: dict[str, Any], segment: int
) -> None:
    """Straight into the table, and by way of staging, in segments that were committed by then."""
    what = "longer than 1,000,000 bytes" if "max_bytes" in limits else "more than 300,000 records"
    limit = next(iter(limits))
    mode = {"mode": "merge", "key": ["a"]} if segment == 1 else {}
    fails(dsn, bomb, f"{what}, the limit; .* raise {limit} in the", limits=limits, segment_mb=segment, **mode)


def test_the_deployments_limit_holds_where_it_is_lower(dsn: str, bomb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADER_MAX_ROWS", "1000")
    monkeypatch.setenv("LOADER_MAX_BYTES", "1 TB")
    fails(dsn, bomb, r"more than 1,000 records, the limit; .* raise \$LOADER_MAX_ROWS")
    monkeypatch.setenv("LOADER_MAX_ROWS", "some")
    with pytest.raises(loader.UsageError, match=r"\$LOADER_MAX_ROWS is not a size"):
        loader.load(str(bomb), {"table": "t"}, dsn=dsn)


def test_a_file_at_its_limits_is_loaded(dsn: str, bomb: Path) -> None:
    limits = {"max_bytes": len(TEXT), "max_rows": ROWS}
    assert loader.load(str(bomb), {"table": "t", "limits": limits}, dsn=dsn).rows_inserted == ROWS


@pytest.mark.parametrize("workers", [1, 2])
def test_a_plain_file_that_is_too_large_is_not_read(dsn: str, tmp_path: Path, workers: int) -> None:
    """Its size says so before; `plan` says the same."""
    query(dsn, "CREATE TABLE t (a int, b int)")
    path = tmp_path / "large.csv"
    path.write_bytes(b"a,b\n" + b"1,2\n" * (20 << 20))
    spec = LoadSpec.from_dict({"table": "t", "limits": {"max_bytes": "16 MiB"}})
    with pytest.raises(loader.LimitError, match="longer than 16,777,216 bytes") as caught:
        loader.load(str(path), spec, dsn=dsn, workers=workers)
    assert caught.value.report is not None
    assert caught.value.report.bytes_read < 8 << 20
    database = Database(dsn)
    with pytest.raises(loader.LimitError):
        preview(str(path), spec, database)
    database.close()


def test_the_limit_of_records_is_that_of_all_shards_together(dsn: str, tmp_path: Path) -> None:
    query(dsn, "CREATE TABLE t (a int, b int)")
    path = tmp_path / "large.csv"
    path.write_bytes(b"a,b\n" + b"1,2\n" * (9 << 20))
    spec = {"table": "t", "limits": {"max_rows": 9 << 20}, "csv": {"header": True}}
    with pytest.raises(loader.LimitError, match="more than 9,437,183 records"):
        loader.load(str(path), {**spec, "limits": {"max_rows": (9 << 20) - 1}}, dsn=dsn, workers=2)
    assert query(dsn, "SELECT count(*) FROM t") == [(0,)]
    assert query(dsn, "SELECT tablename FROM pg_tables WHERE tablename LIKE 'staging%%'") == []


@pytest.mark.parametrize("text", [b"#\n" * (2 << 20), b"a,b\n" + b"#x\n" * (2 << 20)])
def test_text_of_which_no_record_comes_counts_too(dsn: str, tmp_path: Path, text: bytes) -> None:
    """A comment that runs on; lines to skip. Also for `infer`, which wants the beginning only."""
    path = tmp_path / "comments.csv.gz"
    path.write_bytes(gzip.compress(text))
    spec = LoadSpec.from_dict({"table": "t", "csv": {"comment": "#"}, "limits": {"max_bytes": "1 MB"}})
    query(dsn, "CREATE TABLE t (a int, b int)")
    with pytest.raises(loader.LimitError):
        loader.load(str(path), spec, dsn=dsn)
    with open_source(str(path)) as source, pytest.raises(loader.LimitError):
        infer_spec(source, spec)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("100 GB", 100 * 10**9),
        ("64 MiB", 64 << 20),
        ("1_000", 1000),
        ("1.5kB", 1500),
        ("7 bytes", 7),
        ("2tb", 2 * 10**12),
    ],
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert read_size(text) == size
    assert LoadSpec.from_dict({"table": "t", "limits": {"max_bytes": text}}).limits == LimitSpec(max_bytes=size)


@pytest.mark.parametrize("text", ["", "GB", "-1", "0", "1.5", "1e9", "100 XB", "9" * 40, "100 EB"])
def test_what_is_no_size_is_told(text: str) -> None:
    with pytest.raises(loader.SpecError, match=r"limits\.max_bytes"):
        LoadSpec.from_dict({"table": "t", "limits": {"max_bytes": text}})


def test_limits_survive_the_ledger_and_toml_and_older_processes_never_see_the_usual_ones() -> None:
    spec = LoadSpec.from_dict({"table": "t", "limits": {"max_bytes": "1 GB", "max_rows": 5}})
    assert LoadSpec.from_dict(spec.to_dict()) == LoadSpec.from_toml_text(spec.to_toml()) == spec
    assert "limits" not in LoadSpec("t").to_dict()
