"""What each stage alone can do: CPU seconds of one core for the whole file, one stage after the other."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import psycopg2

from bench.rig import DDL, Server
from loader.convert.binary_copy import encode
from loader.convert.parse import Parser
from loader.convert.transform import Transformer
from loader.core.spec.model import LoadSpec
from loader.engine.planning import make_plan
from loader.engine.spec_check import SpecServer
from loader.ledger.checkpoints import Found
from loader.postgres import catalog
from loader.postgres.database import Database
from loader.postgres.merging.staging import copy
from loader.postgres.merging.target import target_name
from loader.records.reading.reader import open_records
from loader.sources.source import open_source


def stage_rates(file: Path, server: Server) -> dict[str, float]:
    """CPU seconds, by stage: of this process, and of the server's for its COPY where its processes are in /proc."""
    server.execute("SET client_min_messages = warning", "DROP TABLE IF EXISTS stages", DDL.format("stages"))
    server.execute("ALTER TABLE stages SET UNLOGGED")
    connection = psycopg2.connect(server.dsn)
    try:
        return _measure(file, connection, Database(server.dsn), local=server.folder is not None)
    finally:
        connection.close()


def _measure(
    file: Path, connection: psycopg2.extensions.connection, database: Database, *, local: bool
) -> dict[str, float]:
    spec = LoadSpec.from_dict({"table": "stages"})
    table = catalog.describe(connection, *spec.table_name)
    spent: Counter[str] = Counter()
    with open_source(str(file)) as source:
        records = open_records(source.chunks(), spec.csv, name=source.uri)
        plan = make_plan(
            spec,
            records.header,
            records.first,
            table,
            spell_types=lambda wanted: catalog.spell_types(connection, wanted, table),
            column_types=lambda names: catalog.column_types(connection, names),
            name=source.uri,
            server=SpecServer(database, "UTC"),
            found=Found(),
            resumable=False,
        )
        parser = Parser(plan.reading, plan.fields, spec.csv.null, name=source.uri)
        transformer = Transformer(plan.reading, {})
        types = [column.type for column in plan.reading]
        names = [column.name for column in plan.columns]

        def tuples():
            blocks = iter(records.blocks)
            while True:
                began = time.thread_time()
                block = next(blocks, None)
                spent["read and split"] += time.thread_time() - began
                if block is None:
                    return
                began = time.thread_time()
                rows = parser.parse(block)
                spent["parse"] += time.thread_time() - began
                began = time.thread_time()
                rows = transformer.convert(rows)
                spent["check and transform"] += time.thread_time() - began
                began = time.thread_time()
                encoded = encode(rows, types, with_position=False)
                spent["encode"] += time.thread_time() - began
                yield encoded

        server_began = _backend_cpu(connection) if local else 0.0
        began = time.thread_time()
        copy(connection, target_name(table), names, tuples())
        spent["send"] = time.thread_time() - began - sum(spent.values())
        if local:
            spent["COPY, in the server"] = _backend_cpu(connection) - server_began
    connection.rollback()
    return {name: round(seconds, 3) for name, seconds in spent.items()}


def _backend_cpu(connection: psycopg2.extensions.connection) -> float:
    fields = Path(f"/proc/{connection.info.backend_pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
