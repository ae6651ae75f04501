"""A version of an object that comes late, where each version holds records of its own: it undoes nothing of newer ones.

Newer versions were merged before. Records of this one whose keys they have set must not be written, so that the table
becomes what it would be if the versions had come in their order. Which keys those are, the versions themselves say:
each is read once more, by the way on which it was loaded, into a staging table of its own.

That table is created, filled and dropped in the transaction of the merge, so that nothing of it is left, however the
attempt ends; another attempt reads the versions anew, so all of them and the merge have to fit into one invocation's
time. The target has the merge's lock by then: others read and write it, and DDL waits. Memory: as for the load itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
from psycopg2 import sql

from loader.convert.plan import Plan
from loader.core.errors import LoaderError
from loader.core.process.parallel import overlapped
from loader.core.spec.model import LoadSpec
from loader.core.suggestions import listed
from loader.engine.job import Task
from loader.ledger import ledger
from loader.ledger.checkpoints import Found
from loader.ledger.versions import Applied
from loader.postgres import catalog
from loader.postgres.merging.constraints import is_refusal
from loader.postgres.merging.merge import Merge
from loader.postgres.merging.merge_sql import Matching
from loader.postgres.merging.staging import Staging, copy
from loader.postgres.statements import execute
from loader.records.dialect import Dialect
from loader.records.reading.reader import Records
from loader.records.splitter import no_longer_than

_ONCE_MORE = Found(careful=True, staged="it is read once more")
"""How a version is read: into staging, and every value judged before it is sent, for nobody begins again with care."""

_RUN = 0
"""What stands for a shard's run in the name of the staging table; those have numbers from 1 on."""


@dataclass(frozen=True, slots=True)
class LateVersion:
    """``task``: to load it. ``newer``: the loads of newer versions that it must not undo."""

    task: Task
    newer: tuple[Applied, ...]

    def drop_overtaken(self, merge: Merge) -> int:
        """Delete from staging, in the transaction that is open and that holds the target, the records whose keys newer
        versions have set; gives how many.

        Raises LoaderError, which lasts, where a newer version cannot be read any more as it was; and what reading and
        PostgreSQL raise for a while.
        """
        return sum(self._drop_overtaken_by(each, merge) for each in self.newer)

    def _drop_overtaken_by(self, newer: Applied, merge: Merge) -> int:
        try:
            return self._read_and_drop(newer, merge)
        except LoaderError as error:
            if error.retryable:
                raise
            raise self._unreadable(newer, str(error)) from error
        except psycopg2.Error as error:
            if not is_refusal(error):
                raise
            raise self._unreadable(newer, f"PostgreSQL refused a record of it: {error.diag.message_primary}") from error

    def _read_and_drop(self, newer: Applied, merge: Merge) -> int:
        connection, own = merge.connection, merge.staging
        load = ledger.find_load(connection, newer.load_id) or {}
        if replays := ledger.find_replays(connection, newer.load_id):
            raise LoaderError(f"rejects of it were loaded since, by load {replays[-1]}, and cannot be read once more")
        spec = LoadSpec.from_stored(load["spec"], origin=f"load {newer.load_id}'s spec")
        spec = replace(spec, table=self.task.spec.table, mode="merge", key=merge.key, versions=None)
        with closing(self.task.source.other_version(newer.version)) as source:
            task = Task(source, spec, self.task.database, replace(self.task.how, progress=None))
            task.account.aim(merge.table)
            table = catalog.describe(connection, *task.account.target)
            records = task.open_records(task.account.read(), table)
            plan = task.plan(connection, records, table, _ONCE_MORE, again=True)
            _check_columns(own, plan)
            staging = Staging(own.load_id, own.attempt, plan.columns, _RUN)
            staging.create(connection, source.size)
            known = Matching(connection, staging, merge.table, merge.key)
            _fill(known, task, plan, records, newer.load_id)
        _drop_rejected(known, newer.load_id)
        if left_out := _left_out(known, load, task.account.tally.counts.filtered):
            _drop_left_out(known, merge, left_out)
        dropped = merge.drop_known(known)
        staging.drop(connection)
        return dropped

    def _unreadable(self, newer: Applied, why: str) -> LoaderError:
        return LoaderError(
            f"{self.task.source.uri}: this version came late, and the newer version {newer.version}, which load "
            f"{newer.load_id} has loaded, has to be read once more for it, to leave alone what that one has set; that "
            f'failed: {why}; add --force to load it over newer versions, or set versions = "snapshot" in the spec'
        )


def overtaking(task: Task) -> Callable[[Merge], int] | None:
    """`LateVersion.drop_overtaken` of what the task is to load, if that comes late."""
    newer = task.account.newer
    return LateVersion(task, newer).drop_overtaken if newer else None


def _check_columns(own: Staging, plan: Plan) -> None:
    """Raise LoaderError where the newer version lacks a column: there the late one's values would be the last ones, and
    its records cannot be left out as a whole."""
    lacking = sorted({each.name for each in own.columns} - {each.name for each in plan.columns})
    if lacking:
        raise LoaderError(f"it does not have all columns of this one; it lacks {listed(lacking)}")


def _fill(known: Matching, task: Task, plan: Plan, records: Records, load_id: int) -> None:
    """Stage what load ``load_id`` has read. What is rejected is left out, as it was then."""
    staging, tally, most = known.staging, task.account.tally, task.spec.rejects.max_rows
    tally.form = records.form
    form = task.form(plan, Dialect.of(records.csv), judged=True)

    def sent(encoded: Iterator[Any]) -> Iterator[bytes]:
        for each in encoded:
            tally.add(each)
            yield each.sent

    with (
        task.lanes(plan, load_id, lambda: most, form) as lanes,
        overlapped(
            no_longer_than(records.blocks, plan.block_records),
            lanes.convert,
            workers=task.threads,
            interrupt=task.source.interrupt,
        ) as encoded,
    ):
        copy(known.connection, staging.name, staging.written, sent(encoded), form=form)
    task.account.confirm()


def _drop_rejected(known: Matching, load_id: int) -> None:
    """Records that the table refused when the version was loaded did not set anything."""
    staging = known.staging
    statement = sql.SQL("DELETE FROM {} s USING loader.rejects r WHERE r.load_id = {} AND r.record_number = s.{}")
    position = sql.Identifier(staging.position)
    execute(known.connection, statement.format(staging.name, sql.Literal(load_id), position))


def _left_out(known: Matching, load: Mapping[str, Any], filtered: int) -> int:
    """How many of the staged records of ``load`` a trigger or row security left out of the table: these count as
    filtered, and so many more than the ``filtered`` ones were. Raises LoaderError where the sum does not come out."""
    kept = sum(load[f"rows_{name}"] for name in ("inserted", "updated", "unchanged", "duplicate"))
    left_out: int = load["rows_filtered"] - filtered
    found = known.count()
    if left_out < 0 or found != kept + left_out:
        raise LoaderError(f"it has {found:,} records by what it is read with now, and {kept:,} of it were loaded")
    return left_out


def _drop_left_out(known: Matching, merge: Merge, left_out: int) -> None:
    """Records of the newer version that a trigger or row security left out did not set anything.

    Which they are, no server says. Every other one made the table what it holds, so they are the records that it does
    not have as they are staged, if these are as many. Others may have changed the table since: then more are unlike,
    and what is known of the rest suffices where this version has none of their keys. Raises LoaderError where it has.
    """
    known.drop_repeated()
    shared = merge.count_known(known)
    unlike = known.drop_unlike()
    unsure = shared - merge.count_known(known)
    if unsure and unlike != left_out:
        cause = merge.table.leaves_out or "a trigger or row security that is gone by now"
        raise LoaderError(
            f"{cause} left out {left_out:,} of its records, and {merge.table} does not have its values for the keys of "
            f"{unsure:,} records of this one, so it cannot be told whether it has set them"
        )
