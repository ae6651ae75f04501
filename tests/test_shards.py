"""Many shards on a real PostgreSQL: the table, the counts and the rejects are those of one load, whatever happens."""

from __future__ import annotations

import base64
import functools
import gzip
import json
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_corpus
from support.clock import unhurried
from support.effort import effort
from support.postgres import fresh_database, query
from support.s3 import S3
from test_corpus import CASES, Case, Outcome

import loader
import loader.sharding.shard
from loader.core.deadline import Deadline
from loader.core.errors import RejectLimitError, ShapeError, SourceChangedError, SourceError
from loader.core.report import LoadReport
from loader.core.spec.model import LoadSpec
from loader.engine.attempts import How
from loader.postgres.database import Database
from loader.sharding.boundaries import Cutter, Shard
from loader.sharding.proof import Proof
from loader.sharding.shards import (
    ReplanError,
    ShardPlan,
    ShardReport,
    UnprovedError,
    finish,
    load_shard,
    plan_shards,
    prove,
)

RECORDS = 3000
SPEC: dict[str, Any] = {"table": "trips", "mode": "merge", "key": ["a"], "rejects": {"max_rows": 5000, "max_ratio": 1}}


def line(number: int) -> str:
    """Most are plain; some span lines, some are bad, some come twice, some break the file's quotes for a while."""
    if number % 100 == 17:
        return f'{number},"two\r\nlines, ""and"" quotes",{number}'
    if number % 150 == 99:
        return f"no number {number},bad,1"
    if number % 211 == 5:
        return f"{number - 3},again,{number}"
    if number in (700, 2100):
        return f'{number},stray "quote\nbut "no end,x'
    return f"{number},a text {number},{number * 3}"


TEXT = "a,b,c\n" + "\n".join(map(line, range(RECORDS))) + "\n"


@pytest.fixture
def trips(dsn: str) -> None:
    query(dsn, "CREATE TABLE trips (a int PRIMARY KEY, b text CHECK (b <> 'refused'), c bigint)")
    query(dsn, "INSERT INTO trips SELECT n, 'there before', 0 FROM generate_series(0, 6000, 7) n")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path, TEXT)


def written(folder: Path, text: str) -> Path:
    path = folder / "trips.csv"
    path.write_bytes(text.encode())
    return path


def plan_for(uri: Any, spec: Mapping[str, Any], database: Database, shards: int = 5, **rest: Any) -> ShardPlan:
    return plan_shards(str(uri), LoadSpec.from_dict(spec), database, shards=shards, **rest)


def load_all(plan: ShardPlan, database: Database, *, backwards: bool = True) -> tuple[list[ShardReport], Proof]:
    """Every shard, and again what the proof asks for."""
    assert plan.verdict == "split", plan.why
    numbers = range(len(plan.ranges))[:: -1 if backwards else 1]
    reports = [load_shard(plan, number, database, threads=1) for number in numbers]
    for _ in range(2 * len(plan.ranges) + 1):
        proof = prove(plan, reports)
        if proof.proved or proof.problem is not None:
            return reports, proof
        reports += [load_shard(plan, number, database, known=known, threads=1) for number, known in proof.again]
    raise AssertionError("the proof comes to no end")


def in_shards(uri: Any, spec: Mapping[str, Any], database: Database, shards: int = 5) -> LoadReport:
    """As those who drive it do. What is not to be split is loaded by one."""
    again: dict[str, Any] | None = None
    for _ in range(6):
        plan = plan_for(uri, spec, database, shards, again=again)
        if plan.verdict != "split":
            return loader.load(str(uri), spec, dsn=database.dsn)
        reports, _proof = load_all(plan, database)
        try:
            return finish(plan, reports, database)
        except ReplanError as error:
            again = error.again
    raise AssertionError("it is planned again and again")


def outcome(dsn: str, table: str = "trips") -> tuple[Any, ...]:
    """The table's rows, and the rejects and counts of the newest load."""
    newest = "(SELECT max(load_id) FROM loader.loads)"
    return (
        query(dsn, f"SELECT t::text FROM {table} t ORDER BY 1"),
        query(
            dsn,
            "SELECT record_number, line_number, byte_offset, column_name, reason, sqlstate, message, raw, raw_bytes,"
            f" raw_length FROM loader.rejects WHERE load_id = {newest} ORDER BY 1",
        ),
        query(
            dsn,
            "SELECT state, rows_read, rows_inserted, rows_updated, rows_unchanged, rows_duplicate, rows_filtered,"
            f" rows_rejected FROM loader.loads WHERE load_id = {newest}",
        ),
    )


def leftovers(dsn: str) -> list[tuple[Any, ...]]:
    """What is in schema loader besides the ledger's own tables, and what vouches for parts that are gone."""
    tables = query(dsn, "SELECT tablename FROM pg_tables WHERE schemaname = 'loader' AND tablename ~ '[0-9]'")
    return tables + query(dsn, "SELECT run FROM loader.shards") + query(dsn, "SELECT run FROM loader.shard_rejects")


def one_load(dsn: str, uri: Any, spec: Mapping[str, Any], restore: str) -> tuple[Any, ...]:
    """What one load gives; then all is as it was before."""
    keep, *back = restore.split(";")
    query(dsn, keep)
    loader.load(str(uri), spec, dsn=dsn)
    found = outcome(dsn, spec["table"])
    for statement in back:
        query(dsn, statement)
    query(dsn, "TRUNCATE loader.loads CASCADE")
    return found


KEEP = "CREATE TABLE kept AS TABLE trips; TRUNCATE trips; INSERT INTO trips TABLE kept"


# --- as one load


@pytest.mark.without_kernel
@pytest.mark.parametrize("shards", [2, 7, 40])
@pytest.mark.parametrize("mode", ["append", "merge", "replace"])
def test_many_shards_are_as_one_load(
    dsn: str, database: Database, trips: None, file: Path, mode: str, shards: int
) -> None:
    """Table, counts, and each reject's record, line, byte, column, reason, text; nothing is left afterwards."""
    spec = {**SPEC, "mode": mode}
    if mode == "append":
        query(dsn, "ALTER TABLE trips DROP CONSTRAINT trips_pkey")
        del spec["key"]
    expected = one_load(dsn, file, spec, KEEP)
    assert len(expected[1]) > 20
    report = in_shards(file, spec, database, shards)
    assert outcome(dsn) == expected
    assert report.state == "loaded"
    assert any(f"loaded in {shards} shards" in note for note in report.notes)
    assert leftovers(dsn) == []
    ((summary,),) = query(dsn, "SELECT shards FROM loader.loads")
    assert (summary["shards"], summary["guessed"]) == (shards, shards - 1)


@pytest.mark.without_kernel
@pytest.mark.parametrize("case", effort(CASES[::4], CASES), ids=lambda case: case.name)
def test_a_file_of_the_corpus_comes_out_the_same(
    database_of_corpus: str, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its case says, in two shards or five; what is not to be split is for the tests of one load."""
    if len(case.data) > 100_000:
        pytest.skip("is about large fields; shards of any size are cut in other tests")
    shards = 2 + 3 * (CASES.index(case) % 2)
    with test_corpus.schema(database_of_corpus, case) as (connection, dsn, name):
        database = Database(dsn)
        monkeypatch.setattr(loader, "load", lambda uri, spec, dsn: _split_only(uri, spec, database, shards))
        try:
            outcome = test_corpus.run(connection, dsn, name, case, tmp_path)
        except _SingleError:
            return
        finally:
            database.close()
        test_corpus.check(case, outcome)
        assert isinstance(outcome, Outcome)


@pytest.fixture(scope="module")
def database_of_corpus(servers: Any) -> Iterator[str]:
    with fresh_database(servers("embedded-18")) as dsn:
        yield dsn


class _SingleError(Exception):
    """It is not to be split."""


def _split_only(uri: str, spec: Mapping[str, Any], database: Database, shards: int) -> LoadReport:
    again: dict[str, Any] | None = None
    while True:
        plan = plan_for(uri, spec, database, shards, again=again)
        if plan.verdict != "split":
            raise _SingleError(plan.why)
        try:
            # from a table's serial, rows get their numbers in the order in which their shards were begun
            return finish(plan, load_all(plan, database, backwards=False)[0], database)
        except ReplanError as error:
            again = error.again


def test_nearly_all_of_the_corpus_is_split() -> None:
    """Else the test above would say nothing: text that is UTF-8 and not compressed is split."""
    plain = [case for case in CASES if case.codec == "utf-8" and case.csv_hex is None]
    assert len(plain) > 250


@pytest.mark.parametrize("shards", [2, 9])
def test_a_file_that_is_right_both_ways_loads_right(dsn: str, database: Database, tmp_path: Path, shards: int) -> None:
    """Each two lines are a regular record of four fields, whether the first is taken to begin in quotes or not."""
    path = written(tmp_path, "a,b,c,d\n" + "".join(f'",",{number},"\n' for number in range(2000)))
    query(dsn, "CREATE TABLE twofold (a text, b int, c text, d text)")
    spec = {"table": "twofold", "mode": "append"}
    report = in_shards(path, spec, database, shards)
    assert report.rows_inserted == 1000
    rows = query(dsn, "SELECT * FROM twofold ORDER BY b")
    assert rows == [(",", 2 * number, "\n", f",{2 * number + 1},") for number in range(1000)]


def test_every_guess_may_be_wrong(
    dsn: str, database: Database, trips: None, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each shard is made to begin amid something; nothing of that is merged, and every wrong guess is counted."""
    expected = one_load(dsn, file, SPEC, KEEP)
    guess = Cutter._guess
    monkeypatch.setattr(
        Cutter,
        "_guess",
        lambda self, told: guess(self, told) if told is not None else (self._shard.stop - 1, True),
    )
    plan = plan_for(file, SPEC, database, 6)
    reports, proof = load_all(plan, database)
    assert (proof.guessed, proof.wrong) == (5, 5)
    finish(plan, reports, database)
    assert outcome(dsn) == expected
    assert leftovers(dsn) == []


# --- what the whole object has to know


def test_a_type_that_one_shard_finds_too_narrow_is_planned_again(dsn: str, database: Database, tmp_path: Path) -> None:
    """The last records have another type than the first ones: the table's columns are those of one load."""
    path = written(tmp_path, "a,b\n" + "".join(f"{n},{n}\n" for n in range(40_000)) + "40000,12.5\n40001,text\n")
    spec = {"table": "made", "mode": "append"}
    plan = plan_for(path, spec, database, 4)
    reports, _ = load_all(plan, database)
    with pytest.raises(ReplanError, match="has to be"):
        finish(plan, reports, database)
    report = in_shards(path, spec, database, 4)
    assert report.rows_inserted == 40_002
    assert query(dsn, "SELECT b FROM made WHERE a = 40001") == [("text",)]
    assert leftovers(dsn) == []


@pytest.mark.parametrize("reason", ["check", "deferred"])
def test_what_the_target_refuses_is_rejected_by_record(
    dsn: str, database: Database, trips: None, tmp_path: Path, reason: str
) -> None:
    """At the merge, or at the commit: the one record, with its number and place in the whole object."""
    text = "a,b,c\n" + "".join(f"{n},{'refused' if n in (400, 900) else 'fine'},1\n" for n in range(1000))
    if reason == "deferred":
        query(dsn, "CREATE TABLE ones (c bigint PRIMARY KEY); INSERT INTO ones VALUES (0), (1)")
        query(dsn, "ALTER TABLE trips ADD FOREIGN KEY (c) REFERENCES ones DEFERRABLE INITIALLY DEFERRED NOT VALID")
        text = text.replace("refused", "fine").replace("400,fine,1", "400,fine,2").replace("900,fine,1", "900,fine,2")
    path = written(tmp_path, text)
    spec = {**SPEC, "mode": "replace"}
    expected = one_load(dsn, path, spec, KEEP)
    assert [each[0] for each in expected[1]] == [401, 901]
    in_shards(path, spec, database)
    assert outcome(dsn) == expected
    assert leftovers(dsn) == []


def test_the_limit_of_rejects_is_that_of_the_whole(dsn: str, database: Database, trips: None, file: Path) -> None:
    """No shard alone has more than 20; the table stays as it was, the rejects can be looked at, and nothing is left."""
    before = query(dsn, "SELECT * FROM trips ORDER BY 1")
    spec = {**SPEC, "rejects": {"max_rows": 20}}
    plan = plan_for(file, spec, database, 4)
    reports, proof = load_all(plan, database)
    assert proof.proved
    assert max(each.rejected for each in reports) <= 20 < proof.counts["rejected"]
    with pytest.raises(RejectLimitError, match="more than 20 records were rejected"):
        finish(plan, reports, database)
    assert query(dsn, "SELECT * FROM trips ORDER BY 1") == before
    assert query(dsn, "SELECT state FROM loader.loads") == [("failed",)]
    assert query(dsn, "SELECT count(*) >= 20 FROM loader.rejects") == [(True,)]
    assert leftovers(dsn) == []


def test_a_limit_that_one_shard_is_over_ends_the_load(
    dsn: str, database: Database, trips: None, tmp_path: Path
) -> None:
    """Its rejects have their place in the whole object by then."""
    path = written(tmp_path, "a,b,c\n" + "1,x,1\n" * 300 + "bad,x,1\n" * 100)
    plan = plan_for(path, {**SPEC, "rejects": {"max_rows": 5}}, database, 3)
    reports, proof = load_all(plan, database)
    assert proof.problem is not None
    with pytest.raises(RejectLimitError):
        finish(plan, reports, database)
    rejects = query(dsn, "SELECT record_number, line_number, byte_offset FROM loader.rejects ORDER BY 1 LIMIT 1")
    assert rejects == [(301, 302, 6 + 1800)]
    assert leftovers(dsn) == []


def test_the_error_of_a_record_without_end_is_that_of_one_load(
    dsn: str, database: Database, trips: None, tmp_path: Path
) -> None:
    """Its number and line are those in the object, not those in a shard."""
    path = written(tmp_path, "a,b,c\n" + "1,x,1\n" * 250_000 + '2,"' + "x" * (17 << 20) + "\n" + "3,y,1\n" * 10)
    with pytest.raises(ShapeError) as one:
        loader.load(str(path), SPEC, dsn=dsn)
    query(dsn, "TRUNCATE loader.loads CASCADE")
    plan = plan_for(path, SPEC, database, 3)
    reports, _ = load_all(plan, database)
    with pytest.raises(ShapeError) as many:
        finish(plan, reports, database)
    assert str(many.value) == str(one.value)
    assert "record 250001 (line 250002, byte 1500006)" in str(many.value)


def test_a_table_that_changes_meanwhile_is_planned_again(dsn: str, database: Database, trips: None, file: Path) -> None:
    """Before a shard, or before the end: what is staged by then would not fit."""
    plan = plan_for(file, SPEC, database, 3)
    load_shard(plan, 0, database)
    query(dsn, "ALTER TABLE trips ALTER c TYPE numeric")
    reports, proof = load_all(plan, database)
    assert proof.problem is not None
    assert proof.problem["kind"] == "changed"
    with pytest.raises(ReplanError):
        finish(plan, reports, database)
    expected = one_load(dsn, file, SPEC, KEEP)
    in_shards(file, SPEC, database, 3)
    assert outcome(dsn) == expected
    assert leftovers(dsn) == []


def test_what_fails_whatever_is_sent_is_the_loads_own_failure(
    dsn: str, database: Database, trips: None, file: Path
) -> None:
    """Such as tables that may not be made: no worker's error that somebody has to find, but the ledger's."""
    plan = plan_for(file, SPEC, database, 3)
    query(
        dsn,
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE EXCEPTION 'no tables today'; END$$;"
        " CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION refuse()",
    )
    reports, proof = load_all(plan, database)
    assert not proof.proved
    with pytest.raises(loader.DatabaseError, match="no tables today"):
        finish(plan, reports, database)
    assert query(dsn, "SELECT state, retryable FROM loader.loads") == [("failed", False)]
    assert leftovers(dsn) == []


# --- what is not split


@pytest.mark.parametrize(
    ("data", "more", "why"),
    [
        (gzip.compress(TEXT.encode(), mtime=0), {}, "compressed"),
        (TEXT.encode("utf-16"), {}, "utf-16"),
        (TEXT.encode(), {"columns": {"n": {"value": "{record_number}"}}}, "record's number"),
        (b"a,b,c\n", {}, "how many fields"),
        (b"", {}, "cannot be read"),
        ((",".join(f"c{n}" for n in range(1600)) + "\n" + "1" + "," * 1599 + "\n").encode(), {}, "1,600 columns"),
    ],
)
def test_what_cannot_be_split_is_for_one(
    dsn: str, database: Database, tmp_path: Path, data: bytes, more: dict[str, Any], why: str
) -> None:
    """The plan says why; nothing was entered in the ledger."""
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    plan = plan_for(path, {"table": "t", "mode": "append", **more}, database)
    assert plan.verdict == "single"
    assert why in plan.why
    assert query(dsn, "SELECT count(*) FROM loader.loads") == [(0,)]


def test_what_is_one_shard_is_for_one(database: Database, trips: None, file: Path) -> None:
    """By the default size of a shard, too."""
    plan = plan_shards(str(file), LoadSpec.from_dict(SPEC), database)
    assert (plan.verdict, "one shard" in plan.why) == ("single", True)
    assert plan_shards(str(file), LoadSpec.from_dict(SPEC), database, size=20_000).verdict == "split"


# --- once, whatever happens


def test_a_plan_that_is_asked_for_again_is_the_same(database: Database, trips: None, file: Path) -> None:
    """So an event that comes twice begins nothing twice; and JSON carries it, and the reports, and back."""
    plan = plan_for(file, SPEC, database)
    assert plan_for(file, SPEC, database, 9) == plan
    assert ShardPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    report = load_shard(plan, 1, database)
    assert ShardReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_a_shard_that_is_loaded_twice_at_once_counts_once(
    dsn: str, database: Database, trips: None, file: Path
) -> None:
    """Each run has a part of the staging for itself; one of them is merged."""
    expected = one_load(dsn, file, SPEC, KEEP)
    plan = plan_for(file, SPEC, database, 3)
    start, reports = threading.Barrier(6), []

    def work(number: int) -> None:
        start.wait()
        reports.append(load_shard(plan, number, database, threads=1))

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1, 2) * 2]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(reports) == 6
    proof = prove(plan, reports)
    while not proof.proved:
        reports += [load_shard(plan, number, database, known=known) for number, known in proof.again]
        proof = prove(plan, reports)
    report = finish(plan, reports * 2, database)
    assert outcome(dsn) == expected
    assert report.bytes_read == sum(each.bytes_read for each in reports)
    assert leftovers(dsn) == []


def test_a_shard_that_was_stopped_begins_anew(
    dsn: str, database: Database, trips: None, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the stopped run has staged is of no effect, and gone in the end."""
    monkeypatch.setattr(
        loader.sharding.shard, "Shard", functools.partial(Shard, block_size=4096)
    )  # so there is a half-way
    expected = one_load(dsn, file, SPEC, KEEP)
    plan = plan_for(file, SPEC, database, 3)
    deadline = Deadline()
    with pytest.raises(loader.PausedError):
        load_shard(plan, 1, database, deadline=deadline, progress=lambda _: deadline.stop("it was told to stop"))
    assert len(leftovers(dsn)) >= 2
    reports, _ = load_all(plan, database)
    finish(plan, reports, database)
    assert outcome(dsn) == expected
    assert leftovers(dsn) == []


@pytest.mark.parametrize("again", ["finish", "plan"])
def test_a_merge_for_which_no_time_was_left_keeps_what_is_staged(
    dsn: str, database: Database, trips: None, file: Path, again: str
) -> None:
    """Whether the same call comes again, or the object is planned anew: no shard is loaded twice."""
    expected = one_load(dsn, file, SPEC, KEEP)
    plan = plan_for(file, SPEC, database, 3)
    load_all(plan, database)
    with unhurried(), pytest.raises(loader.PausedError, match="all of it is staged") as caught:
        finish(plan, None, database, how=How(deadline=Deadline(0)))
    assert caught.value.handover
    assert query(dsn, "SELECT state FROM loader.loads WHERE load_id = %s", plan.load_id) == [("paused",)]
    runs = query(dsn, "SELECT count(*) FROM loader.shards")
    if again == "plan":
        assert plan_for(file, SPEC, database, 3) == plan
        load_shard(plan, 1, database)
        assert query(dsn, "SELECT count(*) FROM loader.shards") == runs
    assert finish(plan, None, database).attempts == plan.attempt
    assert outcome(dsn) == expected
    assert leftovers(dsn) == []


def test_a_shard_that_is_missing_keeps_all_from_being_merged(
    dsn: str, database: Database, trips: None, file: Path
) -> None:
    """Once it is loaded, the same call succeeds; and the call after that tells the same, and changes nothing."""
    before = query(dsn, "SELECT * FROM trips ORDER BY 1")
    plan = plan_for(file, SPEC, database, 3)
    load_shard(plan, 0, database)
    with pytest.raises(UnprovedError, match=r"to be loaded \(again\): 1, 2") as caught:
        finish(plan, None, database)
    assert caught.value.retryable
    assert query(dsn, "SELECT * FROM trips ORDER BY 1") == before
    load_all(plan, database)
    first = finish(plan, None, database)
    found = outcome(dsn)
    assert first.rows_inserted > 0
    second = finish(plan, None, database)
    assert second.rows_inserted == first.rows_inserted
    assert outcome(dsn) == found
    assert plan_for(file, SPEC, database).verdict == "settled"


def test_a_shard_of_a_load_that_is_over_is_refused(database: Database, trips: None, file: Path) -> None:
    """A worker that wakes up a week later leaves nothing behind."""
    plan = plan_for(file, SPEC, database, 3)
    reports, _ = load_all(plan, database)
    finish(plan, reports, database)
    with pytest.raises(loader.LoaderError, match="of no use any more") as caught:
        load_shard(plan, 1, database)
    assert not caught.value.retryable


def test_a_report_that_no_run_vouches_for_is_none(database: Database, trips: None, file: Path) -> None:
    """What a caller hands in is held against the ledger: the staging of a made-up run does not exist."""
    plan = plan_for(file, SPEC, database, 2)
    reports, proof = load_all(plan, database)
    assert proof.proved
    with pytest.raises(UnprovedError):
        finish(plan, [reports[0], replace(reports[1], run=999)], database)


# --- of S3


@pytest.mark.parametrize("shards", [4])
def test_an_object_of_s3_is_as_one_load(dsn: str, database: Database, trips: None, s3: S3, shards: int) -> None:
    """Its version is pinned; a newer one that comes meanwhile is another load's."""
    s3.put("trips.csv", TEXT.encode())
    expected = one_load(dsn, s3.uri("trips.csv"), SPEC, KEEP)
    plan = plan_for(s3.uri("trips.csv"), SPEC, database, shards)
    s3.put("trips.csv", b"a,b,c\n1,newer,1\n")
    reports, _ = load_all(plan, database)
    finish(plan, reports, database)
    assert outcome(dsn) == expected


def test_an_object_that_changed_is_not_spliced(database: Database, trips: None, s3_unversioned: S3) -> None:
    """Where the bucket keeps no versions, every shard and the end look whether it is still the same."""
    bucket = s3_unversioned
    bucket.put("trips.csv", TEXT.encode())
    plan = plan_for(bucket.uri("trips.csv"), SPEC, database, 3)
    report = load_shard(plan, 0, database)
    bucket.put("trips.csv", TEXT.replace("text", "next").encode())
    with pytest.raises(SourceChangedError):
        load_shard(plan, 1, database)
    with pytest.raises(SourceChangedError):
        finish(plan, [report], database)


def test_the_same_bytes_at_two_keys_are_two_objects(
    dsn: str, database: Database, trips: None, s3_unversioned: S3
) -> None:
    """Without versions both have the same ETag. A plan that is open for the one is nothing to the other."""
    query(dsn, "CREATE TABLE sink (a int, b text, c bigint)")
    spec = {**SPEC, "mode": "append", "key": [], "table": "sink"}
    plans = []
    for key in ("first.csv", "second.csv"):
        s3_unversioned.put(key, TEXT.encode())
        plans.append(plan_for(s3_unversioned.uri(key), spec, database, 3))
    assert plans[0].load_id != plans[1].load_id
    assert plan_for(s3_unversioned.uri("first.csv"), spec, database, 3) == plans[0]
    counts = [finish(plan, load_all(plan, database)[0], database).rows_inserted for plan in plans]
    assert counts[0] == counts[1] > 0
    assert query(dsn, "SELECT count(*) FROM sink") == [(sum(counts),)]


def test_a_newer_version_that_was_loaded_meanwhile_wins(dsn: str, database: Database, trips: None, s3: S3) -> None:
    """The shards come too late then: the load is superseded, and nothing of them is left."""
    s3.put("trips.csv", TEXT.encode())
    plan = plan_for(s3.uri("trips.csv"), SPEC, database, 3)
    reports, _ = load_all(plan, database)
    s3.put("trips.csv", b"a,b,c\n1,newer,1\n")
    loader.load(s3.uri("trips.csv"), SPEC, dsn=dsn)
    found = query(dsn, "SELECT * FROM trips ORDER BY 1")
    report = finish(plan, reports, database)
    assert report.state == "skipped"
    assert query(dsn, "SELECT * FROM trips ORDER BY 1") == found
    assert query(dsn, "SELECT state FROM loader.loads ORDER BY load_id DESC LIMIT 2") == [("loaded",), ("superseded",)]
    assert leftovers(dsn) == []


def test_the_checksum_of_s3_is_met(dsn: str, database: Database, trips: None, s3: S3) -> None:
    """The CRCs of the shards combine to that of the object; bytes of which it is not the sum are refused."""
    data = TEXT.encode()
    spelt = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    s3.client.put_object(Bucket=s3.bucket, Key="x.csv", Body=data, ChecksumCRC32=spelt)
    head = s3.client.head_object(Bucket=s3.bucket, Key="x.csv", ChecksumMode="ENABLED")
    plan = plan_for(s3.uri("x.csv"), SPEC, database, 3)
    if head.get("ChecksumType") == "FULL_OBJECT":
        assert (plan.algorithm, plan.checksum) == ("crc32", spelt)
    plan = replace(plan, algorithm="crc32", checksum=spelt)
    reports, proof = load_all(plan, database)
    assert proof.proved
    wrong = replace(plan, checksum=base64.b64encode(b"\0\0\0\1").decode())
    with pytest.raises(SourceError, match="nothing was loaded"):
        finish(wrong, reports, database)
    assert query(dsn, "SELECT count(*) FROM trips WHERE b <> 'there before'") == [(0,)]


def test_each_byte_is_read_about_once(dsn: str, database: Database, trips: None, s3: S3) -> None:
    """Besides the head of the object, which every worker looks at, and what finishes a shard's last record."""
    s3.put("trips.csv", ("a,b,c\n" + "".join(f"{n},{'x' * 80},1\n" for n in range(60_000))).encode())
    plan = plan_for(s3.uri("trips.csv"), {**SPEC, "mode": "replace"}, database, 3)
    reports, proof = load_all(plan, database)
    assert proof.proved
    for report in reports:
        first, past = plan.ranges[report.number]
        assert past - first <= report.bytes_read <= past - first + (1 << 20) + 2 * (64 << 10)


def test_a_dropped_table_is_filled_again(dsn: str, database: Database, file: Path) -> None:
    """Also where another load created it between the plan and its end: then that load's file is not due again."""
    spec = {**SPEC, "table": "fresh", "mode": "append", "key": [], "columns": dict.fromkeys("abc", "text")}
    assert in_shards(file, spec, database).state == "loaded"
    before = outcome(dsn, "fresh")
    assert plan_for(file, spec, database).verdict == "settled"
    query(dsn, "DROP TABLE fresh")
    assert in_shards(file, spec, database).state == "loaded"
    assert outcome(dsn, "fresh") == before
    query(dsn, "DROP TABLE fresh")
    other = file.with_name("other.csv")
    other.write_text("a,b,c\n1,2,3\n")
    plan = plan_for(file, spec, database)
    reports, _proof = load_all(plan, database)
    assert loader.load(str(other), spec, dsn=dsn).state == "loaded"
    finish(plan, reports, database)
    assert query(dsn, "SELECT created, follows FROM loader.loads ORDER BY applied") == [
        (True, 0),
        (True, 1),
        (True, 0),
        (False, 4),
    ]
    assert loader.load(str(other), spec, dsn=dsn).state == "skipped"
    assert plan_for(file, spec, database).verdict == "settled"
