"""docs/fleet.md's tables are what bench.paper prints, and that is arithmetic of the rates that are told with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import paper
from bench.paper import MERGES, TABLES, Staging, largest_in_a_function, merging
from infra.sizes import SIZES
from loader.aws.fleet import steps

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "docs" / "fleet.md").read_text("utf-8")
MEASURED = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_the_guides_tables_are_what_it_prints(table: object) -> None:
    assert callable(table)
    assert "\n".join(table()) in GUIDE


def test_rates_are_those_of_the_benchmarks() -> None:
    """CPU of the client and of the server for a million rows, of the loader's row of the page."""
    (client, server) = re.findall(r"\| \*\*loader\*\* \| .* \| ([\d.]+) \| ([\d.]+) \| \d+ \|", MEASURED)[0]
    assert pytest.approx(paper.ROW * 1e6 / float(client)) == paper.PARSE
    assert pytest.approx(paper.ROW * 1e6 / float(server)) == paper.COPY


def test_the_functions_are_prods() -> None:
    assert SIZES["prod"].memory_mb / 1024 == paper.FUNCTION_GB
    assert SIZES["prod"].memory_mb // 1769 == paper.FUNCTION_CORES
    assert paper.SHARD == steps.SHARD_BYTES


def test_the_slowest_part_binds() -> None:
    """One function reads; many wait for the database; a larger one has them read again."""
    assert Staging(1, 2).binds == "reading"
    assert Staging(16, 2).binds == "copying"
    assert Staging(16, 32).binds == "reading"
    assert Staging(64, 8).seconds == Staging(32, 8).seconds
    assert Staging(4, 32).seconds == pytest.approx(Staging(1, 32).seconds / 4)


def test_waiting_is_paid_for() -> None:
    """More functions than the database bears cost more and save nothing; up to there they cost the same."""
    assert Staging(64, 8).dollars > 3 * Staging(16, 8).dollars
    assert Staging(4, 32).dollars == pytest.approx(Staging(1, 32).dollars, rel=0.01)


def test_a_merge_is_one_backends() -> None:
    for target, rate in MERGES.items():
        assert merging(target) == pytest.approx(1e12 / 126.5 / rate)
        assert largest_in_a_function(target) == pytest.approx(895 * rate * 126.5)


def test_what_is_expected_of_a_merge_is_less_than_was_measured() -> None:
    assert MERGES["no key"] > steps.SURE_APPEND_RATE
    assert min(rate for target, rate in MERGES.items() if target != "no key") >= steps.SURE_MERGE_RATE
