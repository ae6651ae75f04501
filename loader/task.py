"""What is to be done with an object: its target, its plan, and the work on each block, by whoever does it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader import catalog, checkpoints, ledger
from loader.account import Account
from loader.checkpoints import Found
from loader.checksums import NoChecksum
from loader.database import Database
from loader.judge import Judge
from loader.lane import TextLane
from loader.merge import Counts
from loader.parse import Parser
from loader.plan import Plan, make_plan
from loader.reading import Records
from loader.records import Block, Encoded
from loader.report import LoadReport
from loader.sniff import sniffed
from loader.source import Source
from loader.spec import LoadSpec
from loader.staging import drop_tables
from loader.tables import Table
from loader.target import is_empty
from loader.transform import Transformer
from loader.undertaking import How

STRAIGHT = 24
"""Segments that an object may have to go straight into the target: 768 MiB by default, some ten seconds. To begin again
costs little then, and staging what need not be merged costs half as much again (`bench.segments`)."""

NOTHING_FOUND = Found()

UNPACKED = 8
"""Bytes of text, about, in a byte of a compressed object."""


class Task:
    """What a load, or a shard of one, has to do: a version of an object, a spec, a database, and what follows of them.

    ``account``: what was read and entered so far. ``threads``: that parse.
    """

    def __init__(self, source: Source, spec: LoadSpec, database: Database, how: How) -> None:
        source.deadline = how.deadline
        self.source = source
        self.spec = spec
        self.database = database.until(how.deadline)
        self.how = how
        self.threads = how.threads or max(1, len(os.sched_getaffinity(0)) // how.workers)
        self.account = Account(source, spec, progress=how.progress, replay_of=how.replay_of)

    def start_over(self, connection: Connection, load_id: int) -> None:
        """Forget what was read, staged and rejected so far."""
        connection.rollback()
        checkpoints.forget(connection, load_id)
        ledger.forget_rejects(connection, load_id)
        drop_tables(connection, load_id)
        connection.commit()
        self.account.restart()

    def conclude(
        self, connection: Connection, records: Records, plan: Plan, counts: Counts, *, notes: tuple[str, ...] = ()
    ) -> LoadReport:
        """Enter the load as loaded, in the transaction that filled the target, and commit."""
        account = self.account
        account.confirm()
        self.source.digest()
        told = sniffed(self.spec.csv, records.csv) + plan.notes + account.tally.notes() + _notes(counts)
        account.notes = self.how.notes + notes + told + _unchecked(self.source)
        report = account.report("loaded", counts)
        checkpoints.forget(connection, account.entry.load_id)
        ledger.finish(connection, report, "loaded")
        connection.commit()
        return report

    def work(self, plan: Plan, lane: TextLane, load_id: int) -> Callable[[Block], Encoded]:
        """What is done with each block, on any thread: parse, transform, encode."""
        parser = Parser(
            plan.reading, plan.fields, self.spec.csv.null, name=self.source.uri, pad=self.spec.csv.ragged == "pad"
        )
        constants = self.constants(load_id)
        transformer = Transformer(plan.reading, constants, key=plan.key, hook=plan.hook, filter=plan.filter)
        judge = Judge(lane, plan.reading, key=() if plan.straight else plan.key, with_position=not plan.straight)

        def work(block: Block) -> Encoded:
            rows = transformer.convert(parser.parse(block))
            if transformer.looks:
                rows = transformer.finish(judge.show(rows))
            return judge.encode(rows)

        return work

    def target(self, connection: Connection) -> Table:
        """The table that it goes into, as it is now."""
        table = catalog.describe(connection, *self.spec.table_name)
        return replace(table, empty=table.oid is not None and is_empty(connection, table))

    def plan(
        self, connection: Connection, records: Records, table: Table, found: Found = NOTHING_FOUND, *, again: bool
    ) -> Plan:
        """What is to be done with ``records``. ``again``: an attempt at it ended early, so there are to be checkpoints.

        Raises SpecError, ShapeError or TableError; nothing has been read or changed then.
        """
        return make_plan(
            self.spec,
            records.header,
            records.first,
            table,
            spell_types=lambda names: catalog.spell_types(connection, names),
            column_types=lambda names: catalog.column_types(connection, names),
            name=self.source.uri,
            session_zone=catalog.session_zone(connection),
            found=found,
            resumable=again or self._is_large(records),
        )

    def _is_large(self, records: Records) -> bool:
        """Whether to begin again would cost so much that there have to be checkpoints on the way."""
        text = self.source.size * (1 if records.form.compression == "none" else UNPACKED)
        return text > STRAIGHT * self.spec.segment_size

    def constants(self, load_id: int) -> dict[str, str]:
        """What stands for the placeholders of ``value`` columns."""
        asked = any("{version_id}" in (column.value or "") for column in self.spec.columns)
        return {
            "bucket": self.source.bucket or "",
            "key": self.source.key,
            "version_id": self.source.digest() if asked else "",
            "load_id": str(load_id),
        }


def _unchecked(source: Source) -> tuple[str, ...]:
    """That the bytes could not be compared, and why."""
    checksum = source.checksum()
    return (checksum.why,) if isinstance(checksum, NoChecksum) and checksum.why else ()


def _notes(counts: Counts) -> tuple[str, ...]:
    return (f"{counts.deleted:,} rows of the table that the file does not have were deleted",) if counts.deleted else ()
