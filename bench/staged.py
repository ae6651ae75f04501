"""A load up to its merge: an object staged by two streams of one process, proved, and left.

    python -m bench.staged SOURCE DSN TABLE ROWS

Each stream has a connection and a thread of its own. Exits with 1 where not all of the rows were staged. The staging
tables stay: `Server.forget_loads` drops them.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from loader.core.spec.model import LoadSpec
from loader.postgres.database import Database
from loader.sharding.messages import ShardPlan, ShardReport
from loader.sharding.proof import prove
from loader.sharding.shards import load_shard, plan_shards

STREAMS = 2


def main() -> int:
    source, dsn, table, rows = sys.argv[1:]
    plan = plan_shards(source, LoadSpec.from_dict({"table": table}), Database(dsn), shards=STREAMS, force=True)
    if plan.verdict != "split":
        raise SystemExit(f"it is not split: {plan.verdict}")
    with ThreadPoolExecutor(STREAMS) as threads:
        reports = list(threads.map(lambda number: _stage(plan, number, dsn), range(STREAMS)))
    proof = prove(plan, reports)
    if not proof.proved:
        raise SystemExit("the shards are not proved")
    staged = sum(report.kept for report in reports)
    return int(staged != int(rows))


def _stage(plan: ShardPlan, number: int, dsn: str) -> ShardReport:
    database = Database(dsn)
    try:
        return load_shard(plan, number, database, threads=1)
    finally:
        database.close()


if __name__ == "__main__":
    sys.exit(main())
