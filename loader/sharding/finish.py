"""Shards that are loaded → the target: proved, merged in one transaction with the ledger, and cleared up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, groupby
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.convert.plan import Plan
from loader.core.errors import DatabaseError, LimitError, LoaderError, RejectLimitError, ShapeError, TransformError
from loader.core.report import LoadReport
from loader.core.stored import read_stored
from loader.engine.attempts import TargetMovedError, Undertaking, check_meant, plan_anew
from loader.engine.counters import RejectKeeper
from loader.engine.job import Task
from loader.engine.late_versions import overtaking
from loader.engine.routes import Ahead, Staged, TargetChangedError
from loader.ledger import ledger
from loader.ledger.checkpoints import Counts, Found
from loader.ledger.ledger import Entry, Errand
from loader.ledger.versions import Standing
from loader.postgres.database import translated
from loader.postgres.merging.constraints import is_refusal
from loader.postgres.merging.merge import Merge, Merged
from loader.postgres.merging.staging import Parts
from loader.records.block import Block, Place
from loader.records.reading.reader import Head, Records, find_records, take_up
from loader.records.splitter import EndlessRecordError
from loader.records.swallowed_lines import Swallowed
from loader.sharding import runs
from loader.sharding.boundaries import SHARD_BITS
from loader.sharding.messages import OTHER_HEAD
from loader.sharding.proof import Part, Proof, ShardPlan, ShardReport, prove
from loader.sources import crc
from loader.sources.checksums import corrupted
from loader.sources.decode import without


class UnprovedError(LoaderError):
    """Shards are missing. Once they are loaded, the same call succeeds."""

    retryable = True


class ReplanError(LoaderError):
    """The whole plan has to begin again: ``again`` is for the next `plan_shards`."""

    retryable = True

    def __init__(self, message: str, again: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.again = dict(again)


def replanned(plan: ShardPlan, proof: Proof) -> dict[str, Any] | None:
    """What the next `plan_shards` has to be told, where a shard found that the whole plan must begin again."""
    problem, found = proof.problem, plan.found
    if problem is None or problem["kind"] not in ("widen", "careful", "changed"):
        return None
    if problem["kind"] == "careful":
        found = {**found, "careful": True}
    elif problem["kind"] == "widen":
        found = {**found, "widened": {**found.get("widened", {}), problem["column"]: problem["type"]}}
    return {"after": plan.attempt, "found": found}


@dataclass(frozen=True)
class Sharded(Staged):
    """Merges what shards have staged. ``parts``: the proved ones. ``shards``: how the object was cut. ``sums``: the CRC
    of each range, as it was proved."""

    parts: tuple[Part, ...]
    shards: ShardPlan
    sums: Mapping[int, int]

    def recalled(self, positions: Sequence[int]) -> Iterator[tuple[Block, int]]:
        """As `Staged.recalled`, with the numbers of the whole object; only shards that hold some are read."""
        by_number = {part.number: part for part in self.parts}
        for number, own in groupby(positions, lambda position: position >> SHARD_BITS):
            part = by_number[number]
            place = Place(part.start, part.record + 1, part.line + 1, self.shards.fields)
            summed = self._summed(number)
            blocks = take_up(self.records, place, partial(self._from, number, summed), name=self.source.uri).blocks
            base = (number << SHARD_BITS) - part.record
            yield from find_records(blocks, [position - base for position in own])
            for _ in summed:  # to its end, where it is compared
                pass

    def _from(self, number: int, summed: Iterator[bytes], start: int) -> Iterator[bytes]:
        """The object's bytes from ``start`` on, of which the shard's range is ``summed``."""
        first, past = self.shards.ranges[number]
        # chain(): so that a reader that is done does not close what is summed
        return without(chain(summed, self.source.chunks(past)), start - first)

    def _summed(self, number: int) -> Iterator[bytes]:
        first, past = self.shards.ranges[number]
        update, value = crc.updater(self.shards.algorithm), 0
        for chunk in self.source.chunks(first, past):
            value = update(chunk, value)
            yield chunk
        if value != self.sums.get(number, value):
            raise corrupted(self.source.uri, f"shard {number} was read twice, and the bytes were not the same")


class Finishing(Undertaking):
    """Brings a load whose shards are loaded to its end."""

    rereads = False

    def __init__(self, load: Task, plan: ShardPlan, reports: Iterable[ShardReport] | None) -> None:
        super().__init__(load.source, load.spec, load.database, load.how, load.account)
        self._load = load
        self._plan = plan
        self._reports = None if reports is None else list(reports)
        self._sums: dict[int, int] = {}

    def run_all(self) -> LoadReport:
        doing = f"{self._plan.uri}: finishing load {self._plan.load_id}"
        with translated(doing), self._load.database.session() as connection:
            entry = ledger.find_load(connection, self._plan.load_id or 0)
            if entry is not None and entry["state"] == "loaded" and entry["attempts"] == self._plan.attempt:
                return self._loaded_after_all(connection)
        return self.run(self._attempt)

    def _enter(self, connection: Connection, errand: Errand, standing: Standing, waited: float) -> Entry:  # noqa: ARG002 - a base class has them
        return runs.take_up(connection, self._plan, waited, follows=standing.follows)

    @property
    def _name(self) -> tuple[str | None, str]:
        """That of the table for which the shards were planned: its turn is taken, whatever the spec's name means."""
        return self._plan.target or self._spec.table_name

    def _attempt(self, connection: Connection, _entry: Entry) -> LoadReport:
        """Merge what the shards have staged; for the target as it is, where it was changed since it was planned for."""
        changes = 0
        try:
            check_meant(connection, self._spec, self._account)
            while True:
                try:
                    return self._merge_proved(connection)
                except TargetChangedError:
                    changes += 1
                    plan_anew(connection, self._spec, self._account, changes=changes)
        except TargetMovedError as error:
            raise self._replan(str(error)) from error

    def _replan(self, why: str) -> ReplanError:
        return ReplanError(why, {"after": self._plan.attempt, "found": self._plan.found})

    def _merge_proved(self, connection: Connection) -> LoadReport:
        load, plan = self._load, self._plan
        vouched = {each.run: each for each in runs.reports(connection, plan)}
        given = vouched if self._reports is None else {each.run for each in self._reports}
        reports = [report for run, report in vouched.items() if run in given]
        connection.rollback()
        proof = prove(plan, reports)
        self._sums = {each.number: each.crc for each in reports if each.crc is not None}
        table = load.target(connection)
        front = Head(load.source)
        if plan.head is not None and front.crc != plan.head:
            raise self._replan(f"{plan.uri}: {OTHER_HEAD}")
        records = load.open_records(iter(front), table)
        found = read_stored(Found, plan.found, what="a shard plan's findings")
        whole = load.plan(connection, records, table, found, again=True)
        connection.rollback()
        if whole.digest != plan.digest:
            raise self._replan(f"{plan.uri}: the table {table} is not what it was when the shards were planned")
        self._check(connection, proof)
        try:
            return self._bring_home(connection, proof, whole, records, reports)
        except psycopg2.Error as error:
            if whole.found.careful or not is_refusal(error):
                raise
        connection.rollback()  # a deferred constraint is checked by the commit only
        careful = replace(whole, found=replace(whole.found, careful=True))
        try:
            return self._bring_home(connection, proof, careful, records, reports)
        except psycopg2.Error as error:
            if not is_refusal(error):
                raise
            again = {"after": plan.attempt, "found": asdict(careful.found)}
            raise ReplanError(f"{plan.uri}: the table {table} refused a record that was staged", again) from error

    def _bring_home(
        self,
        connection: Connection,
        proof: Proof,
        whole: Plan,
        records: Records,
        reports: Sequence[ShardReport],
    ) -> LoadReport:
        """Merge what the shards have staged, and enter the load as loaded."""
        load, plan, load_id = self._load, self._plan, self._plan.load_id or 0
        load.account.sum_up(_counts(proof), sum(each.bytes_read for each in reports), rising=proof.rising)
        with RejectKeeper(load.database, load_id, load.spec.rejects, plan.uri, attempt=plan.attempt) as keeper:
            self._take_over(connection, keeper, [part for part in proof.parts if part.run is not None])
            keeper.check()  # more than the limit in all, though in no shard alone
            counts = self._merge(connection, proof, whole, records, keeper)
            keeper.settle(proof.counts["records"])
        summary = runs.summed_up(proof, len(plan.ranges), reports)
        runs.note_shards(connection, plan, summary)
        return load.conclude(connection, records, whole, counts, notes=(_told(summary),))

    def _merge(
        self, connection: Connection, proof: Proof, whole: Plan, records: Records, keeper: RejectKeeper
    ) -> Merged:
        load, plan = self._load, self._plan
        held = tuple(part.run for part in proof.parts if part.run is not None)
        staging = Parts(plan.load_id or 0, plan.attempt, whole.columns, runs=held)
        staging.create(connection)
        merge = Merge(connection, staging, whole.table, whole.key, whole.spec.mode == "replace")
        way = Sharded(
            connection=connection,
            database=load.database,
            deadline=load.how.deadline,
            source=load.source,
            plan=whole,
            records=records,
            work=_nothing_to_do,
            again=_nothing_to_do,
            form=None,
            threads=load.threads,
            keeper=keeper,
            account=load.account,
            drop_overtaken=overtaking(load),
            parts=proof.parts,
            shards=plan,
            sums=self._sums,
        )
        return way.merge_staged(merge, Ahead(way, merge))

    def _take_over(
        self,
        connection: Connection,
        keeper: RejectKeeper,
        parts: Sequence[Part],
        failed: Sequence[Part] = (),
        counted: Iterable[tuple[str, str | None, int]] = (),
    ) -> None:
        """Count the rejects of the shards as the whole object's, and enter as many as are to be kept.

        ``failed`` is the shard that went over the limit; it entered some of those that it ``counted``.
        """
        load_id = self._plan.load_id or 0
        for reason, column, count in (*runs.count_rejects(connection, parts), *counted):
            keeper.count_in(reason, column, count)
        keeper.entered = runs.place_rejects(connection, load_id, [*parts, *failed], self._load.spec.rejects.max_rows)
        self._load.account.keeper = keeper

    def _check(self, connection: Connection, proof: Proof) -> None:
        """Raise what keeps the shards from being merged."""
        plan, problem = self._plan, proof.problem
        if proof.proved:
            return
        if problem is None:
            missing = ", ".join(str(number) for number, _ in proof.again[:8])
            raise UnprovedError(f"{plan.uri}: not every shard is loaded and proved; to be loaded (again): {missing}")
        if (again := replanned(plan, proof)) is not None:
            raise ReplanError(f"{plan.uri}: {problem['message']}; its shards have to be planned again", again)
        part = Part(problem["number"], problem["run"], 0, problem["record"], problem["line"])
        load, load_id = self._load, plan.load_id or 0
        with RejectKeeper(load.database, load_id, load.spec.rejects, plan.uri, attempt=plan.attempt) as keeper:
            parts = [each for each in proof.parts if each.run is not None]
            self._take_over(connection, keeper, parts, [part], problem.get("rejected", ()))
            if problem["kind"] == "limit":
                keeper.check()
        if problem["kind"] == "endless":
            offset, record, line = problem["place"]
            raise EndlessRecordError(plan.uri, Place(offset, record + problem["record"], line + problem["line"]))
        kinds: dict[str, type[LoaderError]] = {
            "limit": RejectLimitError,
            "LimitError": LimitError,
            "ShapeError": ShapeError,
            "TransformError": TransformError,
            "refused": DatabaseError,
            "failed": DatabaseError,
        }
        raise kinds.get(problem["kind"], LoaderError)(problem["message"])


def _nothing_to_do(_block: Any) -> Any:
    raise AssertionError("every block was worked on in its shard")


def _counts(proof: Proof) -> Counts:
    counts = proof.counts
    swallowed = Swallowed(**(proof.swallowed or {}))
    return Counts(counts["records"], counts["kept"], counts["filtered"], counts["short"], counts["long"], swallowed)


def _told(summary: Mapping[str, Any]) -> str:
    """The shards in a sentence, for the report."""
    guesses = f"{summary['guessed']} of their beginnings were guessed, {summary['wrong']} of these wrongly"
    return f"loaded in {summary['shards']} shards by {summary['runs']} runs; {guesses}"
