"""What ten thousand small loads leave in PostgreSQL's catalog and in the ledger, with autovacuum as RDS sets it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figures import table
from bench.objects import Objects
from bench.rig import Server
from bench.small.data import make_files, make_table
from bench.small.files import TABLE, TABLE_ROWS, started

RDS = {
    "autovacuum_naptime": "15s",
    "autovacuum_vacuum_scale_factor": "0.1",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_limit": "200",
    "autovacuum_work_mem": "64MB",
    "autovacuum_max_workers": "3",
}
"""Of the default parameter group of RDS for PostgreSQL, where it differs from PostgreSQL's own defaults or depends on
the instance, for a small one (AWS Prescriptive Guidance, "Tuning PostgreSQL parameters in Amazon RDS and Amazon
Aurora"). Thresholds and the cost delay are PostgreSQL's."""

CATALOG = ("pg_class", "pg_attribute", "pg_type", "pg_depend", "pg_statistic", "pg_index")

PARTS = 4
"""Looks at the sizes, after as many loads each: what grows without bound grows from look to look."""


@dataclass(frozen=True, slots=True)
class Look:
    """At one relation: bytes with indexes and TOAST, rows that are dead by the statistics, and how often autovacuum
    has been there."""

    size: int
    dead: int
    vacuums: int


_LOOK = """
    SELECT json_object_agg(name, json_build_array(size, dead, vacuums)) FROM (
        SELECT CASE n.nspname WHEN 'pg_catalog' THEN '' ELSE n.nspname || '.' END
               || CASE WHEN c.relname ~ '^staging_' THEN 'staging' ELSE c.relname END AS name,
            sum(pg_total_relation_size(c.oid)) AS size, coalesce(sum(s.n_dead_tup), 0) AS dead,
            coalesce(sum(s.autovacuum_count), 0) AS vacuums
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
         WHERE c.relkind IN ('r', 'S') AND (n.nspname = 'loader' OR (n.nspname = 'pg_catalog' AND c.relname IN ({})))
         GROUP BY 1) each"""


def look(server: Server) -> dict[str, Look]:
    """By relation; staging tables together."""
    names = ", ".join(f"'{each}'" for each in CATALOG)
    return {name: Look(*found) for name, found in json.loads(server.ask(_LOOK.format(names))).items()}


def measure(server: Server, objects: Objects, *, loads: int, rows: int, mode: str, kinds: Sequence[str]) -> None:
    """Load, and look in between; for each of ``kinds`` a table."""
    for kind in kinds:
        make_table(server, TABLE, rows=TABLE_ROWS, keyed=mode == "merge")
        server.forget_loads()
        server.execute("VACUUM FULL", "VACUUM (ANALYZE)")  # the first leaves dead rows in the catalog
        looks = [look(server)]
        for part in range(PARTS):
            folder, files = objects.folder / f"churn-{part}", loads // PARTS
            make_files(folder, files, rows, table_rows=TABLE_ROWS, first=part * files)
            _load(server, objects, kind, mode, folder)
            shutil.rmtree(folder)
            looks.append(look(server))
            print(f"{kind}: {files * (part + 1):,} loads", flush=True)
        print(f"{kind}, {mode}, files of {rows:,} rows:", grown(looks, loads), sep="\n\n", end="\n\n")


def _load(server: Server, objects: Objects, kind: str, mode: str, folder: Path) -> None:
    command = [sys.executable, "-m", "bench.small.client", kind, mode, TABLE, server.dsn, str(folder), "0"]
    with started(command, objects.environment) as process:
        told, _ = process.communicate("go\n")
        if process.returncode:
            raise SystemExit(f"{kind}: the client exited with {process.returncode} after {told!r}")


def grown(looks: Sequence[Mapping[str, Look]], loads: int) -> str:
    """A table: kilobytes at each look, what the second half of the loads added for each of them, and dead rows."""
    shares = [f"after {loads * number // (len(looks) - 1):,}" for number in range(len(looks))]
    head = ("KB", *shares, "bytes a load, second half", "dead rows", "autovacuums")
    names = list(dict.fromkeys(name for each in looks for name in each))
    return table(head, [_row(name, looks, loads) for name in names])


_NOTHING = Look(0, 0, 0)


def _row(name: str, looks: Sequence[Mapping[str, Look]], loads: int) -> tuple[str, ...]:
    found = [each.get(name, _NOTHING) for each in looks]
    middle = (len(found) - 1) // 2
    half = loads * (len(found) - 1 - middle) / (len(found) - 1)
    return (
        name,
        *(f"{each.size / 1024:,.0f}" for each in found),
        f"{(found[-1].size - found[middle].size) / half:,.0f}",
        f"{found[-1].dead:,}",
        f"{found[-1].vacuums - found[0].vacuums:,}",
    )
