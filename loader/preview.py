"""What a load would do, and by which statements, without doing it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.convert.plan import Plan
from loader.core.spec.model import LoadSpec
from loader.engine.attempts import PLAINLY
from loader.engine.job import Task
from loader.engine.routes import readying, sets_aside
from loader.ledger import ledger
from loader.ledger.ledger import Errand
from loader.ledger.versions import find_standing, has_order, why_not_due
from loader.postgres.copy_forms import CopyForm
from loader.postgres.database import Database, translated
from loader.postgres.merging.merge import Merge
from loader.postgres.merging.merge_sql import ALL
from loader.postgres.merging.new_table import NewTable
from loader.postgres.merging.staging import Staging, copying
from loader.postgres.merging.target import keying, target_name
from loader.postgres.statements import execute
from loader.postgres.tables import Table
from loader.records.dialect import Dialect
from loader.records.reading.reader import Head
from loader.records.reading.sniffer import sniffed
from loader.sources.source import Source, open_source


@dataclass(frozen=True, slots=True)
class Column:
    """``read_from``: what the file's header calls it, or its place from 1 on; None where the spec makes its value."""

    name: str
    type: str
    read_from: str | None


@dataclass(frozen=True, slots=True)
class Preview:
    """``versions``: what each version of the object holds, see `LoadSpec.each_version`; None where it keeps none.
    ``verdict``: what the ledger has to say. ``way``: how the rows get into the table. ``lane``: by what they are
    converted. ``statements``: in their order, with what decides about them in comments."""

    source: str
    version: str | None
    size: int
    table: str
    mode: str
    key: tuple[str, ...]
    versions: str | None
    verdict: str
    way: str
    lane: str
    columns: tuple[Column, ...]
    statements: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can carry."""
        return asdict(self)


def preview(uri: str, spec: LoadSpec, database: Database, *, s3: Any = None) -> Preview:
    """What `load_one` would do. Reads the head of the object and the catalog, in a transaction that cannot write.

    Raises LoaderError for whatever a load would find wrong before its first record.
    """
    with open_source(uri, client=s3) as source, translated(f"{uri}: planning"), database.session() as connection:
        execute(connection, "SET TRANSACTION READ ONLY")
        try:
            return _preview(source, spec, database, connection)
        finally:
            connection.rollback()


def _preview(source: Source, spec: LoadSpec, database: Database, connection: Connection) -> Preview:
    load = Task(source, spec, database, PLAINLY)
    table = load.target(connection)
    records = load.open_records(iter(Head(source)), table)
    plan = load.plan(connection, records, table, again=False)
    return Preview(
        source=source.uri,
        version=source.version,
        size=source.size,
        table=str(table),
        mode=spec.mode,
        key=plan.key,
        versions=spec.each_version if has_order(source) else None,
        verdict=_verdict(connection, source, spec, table),
        way=_way(plan, source.size),
        lane=load.lane(plan, records),
        columns=tuple(_column(each.name, each.type.name, each.field, records.header) for each in plan.columns),
        statements=tuple(
            each.as_string(connection)
            for each in _statements(connection, plan, source.size, load.form(plan, Dialect.of(records.csv)))
        ),
        notes=sniffed(spec.csv, records.csv) + plan.notes,
    )


def _column(name: str, type_name: str, field: int | None, header: tuple[str, ...] | None) -> Column:
    if field is None:
        return Column(name, type_name, None)
    return Column(name, type_name, f"field {field + 1}" if header is None else header[field])


def _verdict(connection: Connection, source: Source, spec: LoadSpec, table: Table) -> str:
    if not ledger.is_current(connection):
        return "due: there is no ledger yet, or one of an earlier version"
    errand = Errand(source, str(table), spec)
    standing = find_standing(connection, errand, source, table)
    if standing.verdict == "due":
        newer = ", ".join(str(each.load_id) for each in standing.newer)
        return f"due; it comes late, and leaves alone the keys that these loads have set: {newer}" if newer else "due"
    return f"nothing would be done: {why_not_due(connection, errand, standing, source, table)}"


def _way(plan: Plan, size: int) -> str:
    if plan.renamed:
        return "over several streams into a new table, in segments with checkpoints, then renamed in one transaction"
    if not plan.straight:
        return "by way of a staging table, in segments with checkpoints, then merged in one transaction"
    if sets_aside(plan.table, size):
        return "straight into the empty table, in one transaction, its indexes built afterwards if nobody uses it"
    return "straight into the table, in one transaction"


def _statements(connection: Connection, plan: Plan, size: int, form: CopyForm | None) -> Iterator[sql.Composable]:
    """Those of either way; placeholders stand for the load's number and attempt, which nobody knows yet."""
    target, names = target_name(plan.table), [column.name for column in plan.columns]
    new_key = [keying(plan.table, plan.key)] if plan.table.oid is None and plan.key else []
    if plan.renamed:
        new = NewTable(0, 1, plan.table, plan.columns, plan.absent, plan.key)
        yield from new.creating()
        yield copying(new.name, new.written, form=form)
        yield from new.naming()
        yield from new_key
        return
    if plan.straight:
        yield from readying(plan)
        if sets_aside(plan.table, size):
            yield sql.SQL("-- indexes are dropped, if nobody uses the table")
        yield copying(target, names, freeze=plan.table.oid is None, form=form)
        if sets_aside(plan.table, size):
            yield sql.SQL("-- and made again by their own definitions")
        yield from new_key
        return
    staging = Staging(0, 1, plan.columns)
    yield from staging.creating()
    yield copying(staging.name, staging.written, form=form)
    yield from readying(plan)
    yield from _merging(Merge(connection, staging, plan.table, plan.key, plan.spec.mode == "replace"))
    yield from new_key
    yield sql.SQL("DROP TABLE {}").format(staging.name)


def _merging(merge: Merge) -> Iterator[sql.Composable]:
    if merge.replace:
        yield merge.deleting()
    if "INSERT" in merge.table.rules:
        yield sql.SQL("-- rows are moved by COPY instead of INSERT, for the table has a rewrite rule")
    if not merge.key:
        yield merge.inserting(ALL, only_new=False)
        return
    yield sql.SQL(
        "-- of repeated keys the last record stays; then, as a sample of the staged rows advises, one or both of"
    )
    yield merge.updating(ALL)
    yield merge.inserting(ALL, only_new=True)
