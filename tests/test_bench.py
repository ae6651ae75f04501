"""The benchmark's arithmetic, and that the whole of it runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.limits import DOLLARS_PER_GB_SECOND, DOLLARS_PER_REQUEST, cost, priced
from bench.measure import Figure, ratio

ROOT = Path(__file__).parent.parent


def test_a_figure_is_the_median_and_its_spread() -> None:
    assert Figure.of([3.0, 1.0, 10.0]) == Figure(3.0, 1.0, 10.0)


def test_a_ratio_is_made_round_by_round() -> None:
    """What slowed a whole round slowed both, and cancels out."""
    assert ratio([1.0, 10.0], [2.0, 20.0]) == Figure(2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0], [2.0, 3.0])


def test_lambda_is_paid_by_memory_and_time() -> None:
    """A second of 1,024 MB is a GB-second; each request costs beside that."""
    assert cost(2.0, 1024) == pytest.approx(2 * DOLLARS_PER_GB_SECOND + DOLLARS_PER_REQUEST)
    assert cost(2.0, 512) == pytest.approx(DOLLARS_PER_GB_SECOND + DOLLARS_PER_REQUEST)


def test_prices_are_for_a_million_rows_and_a_terabyte() -> None:
    found = {"seconds": 10.0, "cold": 11.0, "peak": 150.0}
    limits = {"rows": 2_000_000, "bytes": 10**9, "sizes": {"512": {"x": found}, "256": {"x": {"failed": "no"}}}}
    good, bad = priced(limits, "x")
    assert bad == {"memory": 256, "failed": "no"}
    assert good["rate"] == 200_000
    assert good["gb_seconds"] == pytest.approx(2.5)
    assert good["terabyte"] == pytest.approx(cost(10.0, 512) * 1000)
    assert good["million"] == pytest.approx(cost(10.0, 512) / 2)


def test_the_suite_runs_and_makes_its_page(tmp_path: Path) -> None:
    """On a few rows: the tables are equal, every figure is there, and the plots are SVG."""
    command = [sys.executable, "-m", "bench", "--rows", "6000", "--rounds", "1", "--no-peers", "--no-limits"]
    where = ["--results", str(tmp_path / "results"), "--docs", str(tmp_path)]
    scenarios = ["--scenario", "staging,merge-same"]
    done = subprocess.run([*command, *where, *scenarios], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results" / "latest.json").read_text())
    assert all(found["equal"] and not found["failed"] for found in results["scenarios"].values())
    assert {"loader", r"psql \copy", "binary COPY, ready-made"} == set(results["scenarios"]["staging"]["runs"])
    run = results["scenarios"]["merge-same"]["runs"]["loader"][0]
    assert run["seconds"] > 0
    assert run["peak"] > 50
    page = (tmp_path / "benchmarks.md").read_text()
    for plot in re.findall(r"\((benchmarks/.*?\.svg)\)", page):
        assert (tmp_path / plot).read_text().startswith("<svg ")
    assert "its WAL, of that of the customary way" in page
