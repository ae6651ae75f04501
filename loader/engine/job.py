"""What is to be done with an object: its target, its plan, and the work on each block, by whoever does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.convert.column_mapping import fields_by_position
from loader.convert.lanes.copy_form import copy_form
from loader.convert.lanes.routing import Lanes, how_converted
from loader.convert.plan import Plan
from loader.core.errors import DatabaseError
from loader.core.process.cores import available_cores
from loader.core.report import ROW_COUNTS, LoadReport
from loader.core.spec.model import LoadSpec
from loader.engine.attempts import How
from loader.engine.planning import check_delimiter, make_plan, notes_on_days
from loader.engine.report_builder import Account
from loader.engine.spec_check import SpecServer
from loader.ledger import checkpoints, ledger
from loader.ledger.checkpoints import Found
from loader.postgres import catalog
from loader.postgres.copy_forms import CopyForm
from loader.postgres.database import Database
from loader.postgres.merging.merge import Merged
from loader.postgres.merging.staging import drop_tables
from loader.postgres.merging.target import is_empty
from loader.postgres.server_encoding import server_encoding
from loader.postgres.tables import Table
from loader.records.dialect import Dialect
from loader.records.reading.reader import Records, open_records, text_of
from loader.records.reading.sniffer import sniffed
from loader.sources.checksums import NoChecksum
from loader.sources.source import Source

STRAIGHT = 24
"""Segments that an object may have to go straight into the target: 768 MiB by default, some five seconds. A load that
dies loses so much; one that is asked to stop saves what it has (`saving`), and one that turns out to be slow is staged
(`segments.LONG`). Staging what need not be merged costs half as much again (`bench.segments`)."""

STRAIGHT_BYTES = 768 << 20
"""Bytes of text that an object may have to go straight into the target, however long its segments are. An object of one
segment has no checkpoint on the way in any case."""

NOTHING_FOUND = Found()


def is_large(size: int, segment: int, *, compression: str) -> bool:
    """Whether to read an object of ``size`` bytes once more would cost so much that there have to be checkpoints on the
    way, one each ``segment`` bytes of its text."""
    text = text_of(size, compression)
    return text > min(STRAIGHT * segment, max(segment, STRAIGHT_BYTES))


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
        self.threads = how.threads or max(1, available_cores() // how.workers)
        self.account = Account(source, spec, progress=how.progress, replay_of=how.replay_of)

    def open_records(self, chunks: Iterator[bytes], table: Table) -> Records:
        """The records that ``chunks`` hold, the bytes of the source. Raises LimitError before they are read where it is
        known by then that they are too many."""
        fields, name = fields_by_position(self.spec, table), self.source.uri
        records = open_records(chunks, self.spec.csv, name=name, fields=fields, limits=self.account.limits)
        if records.form.plain:
            self.account.limits.check_size(self.source.size - records.form.mark, name)
        return records

    def start_over(self, connection: Connection, load_id: int) -> None:
        """Forget what was read, staged and rejected so far."""
        connection.rollback()
        checkpoints.forget(connection, load_id)
        ledger.forget_rejects(connection, load_id)
        drop_tables(connection, load_id)
        connection.commit()
        self.account.restart()

    def conclude(
        self, connection: Connection, records: Records, plan: Plan, counts: Merged, *, notes: tuple[str, ...] = ()
    ) -> LoadReport:
        """Enter the load as loaded, in the transaction that filled the target, and commit."""
        account, report = self.account, self.summed_up(records, plan, counts, notes=notes)
        checkpoints.forget(connection, account.entry.load_id)
        ledger.note_newer(connection, account.entry.load_id, [each.load_id for each in account.newer])
        ledger.finish(connection, report, "loaded", created=plan.table.oid is None, unlogged=plan.table.unlogged)
        connection.commit()
        return report

    def summed_up(
        self, records: Records, plan: Plan, counts: Merged, *, notes: tuple[str, ...] = (), lane: str | None = None
    ) -> LoadReport:
        """The report of a load that is through but for its end in the ledger. ``lane``: what `lane` says, where that is
        known. Raises DatabaseError where the counts do not add up."""
        account = self.account
        account.confirm()
        self.source.digest()
        told = sniffed(self.spec.csv, records.csv) + plan.notes + account.tally.notes() + _notes(counts, plan.table)
        account.notes = self.how.notes + notes + told + _unchecked(self.source)
        course = "; ".join(filter(None, [counts.course, lane or self.lane(plan, records)]))
        report = account.report("loaded", replace(counts, course=course))
        if not report.adds_up:
            raise DatabaseError(
                f"{report.source}: {_sum_of(report)}; this is a defect of the loader, nothing was loaded"
            )
        return report

    def lanes(self, plan: Plan, load_id: int, left: Callable[[], int], form: CopyForm | None) -> Lanes:
        """The lanes that the records take into staging. ``left``: how many more rejects the load may have. ``form``:
        see `Lanes`."""
        return Lanes(plan, self.constants(load_id), self.database, left, form, name=self.source.uri)

    def form(self, plan: Plan, dialect: Dialect, *, judged: bool = False) -> CopyForm | None:
        """The form in which the records go to COPY; None where it is the binary one. ``judged``: see `copy_form`."""
        judged = judged or plan.hook is not None or plan.filter is not None or plan.found.careful
        return copy_form(plan.columns, dialect, self.spec.csv.null, plan.session_zone, judged=judged)

    def lane(self, plan: Plan, records: Records) -> str:
        """By what the records are converted, in words for people."""
        return how_converted(plan, records.dialect, self.constants(0), self.form(plan, records.dialect))

    def target(self, connection: Connection) -> Table:
        """The table that it goes into, as it is now."""
        table = catalog.describe(connection, *self.account.target)
        return replace(table, empty=table.oid is not None and is_empty(connection, table))

    def plan(
        self, connection: Connection, records: Records, table: Table, found: Found = NOTHING_FOUND, *, again: bool
    ) -> Plan:
        """What is to be done with ``records``. ``again``: an attempt at it ended early, so there are to be checkpoints.

        Raises SpecError, ShapeError or TableError; nothing has been read or changed then.
        """
        named: tuple[str, ...] = ()
        if table.oid is None:
            schema, exact = self.spec.table_name[0], self.spec.names_exactly
            named = catalog.check_new(connection, table, schema=schema, exact=exact)
        if self.spec.csv.delimiter != "auto":
            check_delimiter(self.spec, table, records.header, records.first, self.source.uri)
        text = text_of(self.source.size, records.form.compression)
        large = is_large(self.source.size, self.spec.segment_size, compression=records.form.compression)
        plan = make_plan(
            replace(self.spec, csv=records.csv),
            records.header,
            records.first,
            table,
            spell_types=lambda wanted: catalog.spell_types(connection, wanted, table),
            column_types=lambda names: catalog.column_types(connection, names),
            name=self.source.uri,
            server=SpecServer(self.database, catalog.session_zone(connection)),
            found=found,
            resumable=again or large,
            large=large,
            several=self.threads > 1 and text > self.spec.segment_size,
            encoding=server_encoding(connection),
        )
        notes = named + plan.notes
        if self.spec.csv.sniff and table.oid is not None and not self.spec.columns:
            notes += notes_on_days(plan.columns, records.first, records.header, plan.spec, self.source.uri)
        return replace(plan, notes=notes)

    def constants(self, load_id: int) -> dict[str, str]:
        """What stands for the placeholders of ``value`` columns."""
        asked = any("{version_id}" in (column.value or "") for column in self.spec.columns)
        return {
            "bucket": self.source.bucket or "",
            "key": self.source.key,
            "version_id": self.source.digest() if asked else "",
            "load_id": str(load_id),
        }


def _notes(counts: Merged, table: Table) -> tuple[str, ...]:
    told = (
        (counts.deleted, "rows of the table that the file does not have were deleted"),
        (counts.overtaken, "records have keys that newer versions set before (counted as duplicate)"),
        (counts.left_out, f"records were left out by {table.leaves_out} of {table} (counted as filtered)"),
    )
    return tuple(f"{count:,} {what}" for count, what in told if count)


def _sum_of(report: LoadReport) -> str:
    """The equation of a report that does not hold."""
    counts = ", ".join(f"{getattr(report, name):,} {name.removeprefix('rows_')}" for name in ROW_COUNTS)
    return f"{report.rows_read:,} records were read, but the counts do not add up: {counts}"


def _unchecked(source: Source) -> tuple[str, ...]:
    """That the bytes could not be compared, and why."""
    checksum = source.checksum()
    return (checksum.why,) if isinstance(checksum, NoChecksum) and checksum.why else ()
