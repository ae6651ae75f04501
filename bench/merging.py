r"""What a load in shards spends on staging and what on its merge: TPC-H lineitem into tables in every state.

    python -m bench.merging [--scale 0.5] [--rounds 3]

Rows a second of the staging, by one worker with one thread, and of `shards.finish`, which is one backend's work;
medians of interleaved rounds. `bench.paper` calculates with them.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.rig import Server, fresh, lineitem, open_server, options
from loader.core.spec.model import LoadSpec
from loader.postgres.database import Database
from loader.sharding.proof import prove
from loader.sharding.shards import finish, load_shard, plan_shards

KEY = ("l_orderkey", "l_linenumber")
FILL = "INSERT INTO {0} SELECT * FROM filled"
HALF = "DELETE FROM {0} WHERE l_orderkey % 2 = 0"
CHANGE = "UPDATE {0} SET l_comment = upper(l_comment)"

CASES: dict[str, tuple[bool, tuple[str, ...]]] = {
    "no key, empty": (False, ()),
    "no key, filled": (False, (FILL,)),
    "a key, empty": (True, ()),
    "a key, half there": (True, (FILL, HALF)),
    "a key, all there": (True, (FILL,)),
    "a key, all differ": (True, (FILL, CHANGE)),
}
"""Whether there is a key, and what is done with the table before."""


def main() -> int:
    told = options(__doc__, scale=0.5)
    staged: list[float] = []
    merged: dict[str, list[float]] = {name: [] for name in CASES}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-merging-")))
        server = stack.enter_context(open_server(folder, {"shared_buffers": "1GB", "max_wal_size": "8GB"}))
        file = lineitem(folder, told.scale)
        server.copy(fresh(server, "filled"), file)
        rows = int(server.ask("SELECT count(*) FROM filled"))
        for _ in range(told.rounds):
            for name, (keyed, before) in CASES.items():
                table = _prepared(server, keyed=keyed, before=before)
                seconds = _load(server.dsn, file, table, keyed=keyed)
                staged.append(rows / seconds[0])
                merged[name].append(rows / seconds[1])
                print(f"  {name:>18}: staged in {seconds[0]:6.2f} s, merged in {seconds[1]:6.2f} s", flush=True)
    print(f"{rows:,} rows, {told.rounds} rounds; rows a second")
    print(f"{'staged':>18}: {statistics.median(staged):9,.0f}")
    for name, each in merged.items():
        print(f"{name:>18}: {statistics.median(each):9,.0f}  ({min(each):,.0f} to {max(each):,.0f})")
    return 0


def _prepared(server: Server, *, keyed: bool, before: tuple[str, ...]) -> str:
    table = fresh(server, "target")
    if keyed:
        server.execute(f"ALTER TABLE {table} ADD PRIMARY KEY ({', '.join(KEY)})")
    server.execute(*(each.format(table) for each in before), f"VACUUM ANALYZE {table}", "CHECKPOINT")
    return table


def _load(dsn: str, file: Path, table: str, *, keyed: bool) -> tuple[float, float]:
    """Seconds of staging by one worker with one thread, and of the merge."""
    told = {"table": f"public.{table}", **({"mode": "merge", "key": list(KEY)} if keyed else {})}
    database = Database(dsn)
    try:
        plan = plan_shards(str(file), LoadSpec.from_dict(told), database, shards=4, force=True)
        reports = []
        staging = _timed(lambda: reports.extend(load_shard(plan, each, database, threads=1) for each in range(4)))
        if not prove(plan, reports).proved:
            raise SystemExit("the shards are not proved")
        return staging, _timed(lambda: finish(plan, reports, database))
    finally:
        database.close()


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
