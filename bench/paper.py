"""``python -m bench.paper``: on paper, a terabyte by many functions: the time, the cost, and which part binds.

By rates that were measured for one function, one core or one backend (see each), and multiplied. No terabyte was
loaded. What it cannot know: how far backends that write stand in each other's way, what a disk does to all of them, and
neighbours in the cloud. It prints the tables of docs/fleet.md; tests/test_paper.py holds that these are they.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

TERABYTE = 1e12
ROW = 126.5
"""Bytes of a row of TPC-H lineitem as CSV: 253 MB are 2,000,050 rows."""

READ = 75 * 2**20
"""Bytes a second that one function gets from S3, sustained (arXiv 2501.07771)."""

PARSE = ROW * 1e6 / 0.35
"""Bytes a second that one core reads, converts and sends: 0.35 s of CPU a million rows (docs/benchmarks.md)."""

COPY = ROW * 1e6 / 0.78
"""Bytes a second that one of the database's cores copies into UNLOGGED tables: 0.78 s of CPU a million rows (the
same). One backend is no faster either: ready-made binary COPY is 1,304,000 rows a second."""

MERGES = {"no key": 640e3, "a key, empty": 380e3, "a key, all differ": 160e3}
"""Rows a second that the one backend of a merge brings into such a table (`bench.merging`, 1.8 million rows, two rounds
on a shared machine: 640,545 to 646,143; 359,759 to 405,665; 155,883 to 179,741). More cores do not help it: a merge is
one transaction, and what writes in it is one process."""

FUNCTION_CORES, FUNCTION_GB = 2, 3538 / 1024
FUNCTION_SECONDS = 895
"""Of prod's functions; and what they have before they come to rest."""

# List prices of us-east-1, in dollars
GB_SECOND = 0.0000166667
TRANSITION = 0.025 / 1000
GET = 0.0004 / 1000
PART = 4 << 20
TASK_HOUR = 0.5 * 0.04048 + 1 * 0.004445
"""Fargate: half a core and 1 GB, as infra/fleet.py has it."""

SHARD = 4 << 30
"""Bytes (`loader.aws.fleet.steps.SHARD_BYTES`)."""


@dataclass(frozen=True, slots=True)
class Staging:
    """A terabyte into the staging tables by ``workers`` functions, with ``cores`` in the database's server."""

    workers: int
    cores: int

    @property
    def rates(self) -> dict[str, float]:
        """Bytes a second that each part would do if the others took no time."""
        return {
            "reading": self.workers * READ,
            "parsing": self.workers * FUNCTION_CORES * PARSE,
            "copying": min(self.workers * FUNCTION_CORES, self.cores) * COPY,
        }

    @property
    def binds(self) -> str:
        """The slowest of them."""
        return min(self.rates, key=lambda name: self.rates[name])

    @property
    def seconds(self) -> float:
        return TERABYTE / self.rates[self.binds]

    @property
    def dollars(self) -> float:
        """Functions are paid while they wait, for the database too. Four transitions a run of a shard."""
        runs = math.ceil(TERABYTE / SHARD)
        reads = TERABYTE / PART * GET
        return self.workers * self.seconds * FUNCTION_GB * GB_SECOND + 4 * runs * TRANSITION + reads


def merging(target: str) -> float:
    """Seconds for the merge of a terabyte into such a table."""
    return TERABYTE / ROW / MERGES[target]


def largest_in_a_function(target: str) -> float:
    """Bytes that a function has the time to merge."""
    return FUNCTION_SECONDS * MERGES[target] * ROW


def times() -> Iterator[str]:
    """The time for a terabyte by number of workers and size of the database, and what binds: the longest part."""
    merges = " | ".join(f"merged, {name}" for name in MERGES)
    yield f"| workers | database's cores | staged in | bound by | {merges} |"
    yield f"|--:|--:|--:|---|{'--:|' * len(MERGES)}"
    for cores in (2, 8, 32):
        for workers in (1, 4, 16, 64):
            staging = Staging(workers, cores)
            totals = " | ".join(_total(staging, target) for target in MERGES)
            yield f"| {workers} | {cores} | {_hours(staging.seconds)} | {staging.binds} | {totals} |"


def _total(staging: Staging, target: str) -> str:
    """In bold where the merge is the longer part."""
    told = _hours(staging.seconds + merging(target))
    return f"**{told}**" if merging(target) > staging.seconds else told


def costs() -> Iterator[str]:
    """What functions, S3's requests and the task cost for a terabyte, the database apart."""
    merges = " | ".join(f"the task, {name}" for name in MERGES)
    yield f"| workers | database's cores | staging | {merges} |"
    yield f"|--:|--:|--:|{'--:|' * len(MERGES)}"
    tasks = " | ".join(f"{merging(target) / 3600 * TASK_HOUR:.2f}" for target in MERGES)
    for workers, cores in ((1, 2), (4, 2), (16, 2), (16, 8), (64, 8), (64, 32)):
        yield f"| {workers} | {cores} | {Staging(workers, cores).dollars:.2f} | {tasks} |"


def limits() -> Iterator[str]:
    """How much a function has the time to merge."""
    yield "| target | rows a second | a terabyte's merge | a function merges at most |"
    yield "|---|--:|--:|--:|"
    for target, rate in MERGES.items():
        most = f"{rate * FUNCTION_SECONDS / 1e6:,.0f} million rows, {largest_in_a_function(target) / 1e9:.0f} GB"
        yield f"| {target} | {rate:,.0f} | {_hours(merging(target))} | {most} |"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


TABLES = (limits, times, costs)


def main() -> None:
    print("\n\n".join("\n".join(table()) for table in TABLES))


if __name__ == "__main__":
    main()
