"""Versions that come in another order than that in which they were stored: snapshots, and deltas."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from support.postgres import query
from support.s3 import FaultProxy, answer

import loader
from loader.core.errors import LoaderError, SpecError
from loader.core.report import LoadReport
from loader.core.spec.model import LoadSpec
from loader.engine.late_versions import LateVersion
from loader.pipeline import How, load_one
from loader.postgres.database import Database
from loader.replays import replay
from loader.sharding import workers

DELTA = {"table": "t", "mode": "merge", "versions": "delta"}
HEADER = b"id,text\n"


@pytest.fixture
def database(dsn: str, database: Database) -> Database:
    query(dsn, "CREATE TABLE t (id int PRIMARY KEY, text text)")
    return database


def load(database: Database, uri: str, version: str | None, spec: Mapping[str, Any] = DELTA, **how: Any) -> LoadReport:
    return load_one(uri, LoadSpec.from_dict(spec), database, How(**how), version_id=version)


def table(dsn: str) -> list[tuple[Any, ...]]:
    return query(dsn, "SELECT id, text FROM t ORDER BY 1, 2")


def put(s3: Any, *contents: bytes) -> list[str]:
    """Versions of one object; gives their ids."""
    return [s3.put("t.csv", HEADER + each) for each in contents]


def counts(report: LoadReport) -> tuple[int, ...]:
    assert report.adds_up
    names = ("read", "inserted", "updated", "unchanged", "duplicate", "rejected")
    return tuple(getattr(report, f"rows_{name}") for name in names)


# --- what versions hold


def test_versions_are_what_their_mode_stands_for() -> None:
    """To say so oneself changes nothing, not even for loads in progress."""
    for mode, usual in (("append", "delta"), ("merge", "snapshot"), ("replace", "snapshot")):
        spec = LoadSpec.from_dict({"table": "t", "mode": mode})
        told = LoadSpec.from_dict({"table": "t", "mode": mode, "versions": usual})
        assert (spec.each_version, told.fingerprint()) == (usual, spec.fingerprint())
    other = LoadSpec.from_dict(DELTA)
    assert other.each_version == "delta"
    assert other.fingerprint() != LoadSpec.from_dict({**DELTA, "versions": "snapshot"}).fingerprint()
    assert LoadSpec.from_toml_text(other.to_toml()) == LoadSpec.from_dict(other.to_dict()) == other


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"versions": "detla"}, 'versions: "detla" is not one of snapshot, delta; did you mean "delta"?'),
        ({"version": "delta"}, 'version: unknown key; did you mean "versions"?'),
        ({"versions": "delta", "mode": "replace"}, 'versions: "delta" does not go with mode "replace", by which each '),
    ],
)
def test_what_is_wrong_about_versions_is_said(given: dict[str, str], problem: str) -> None:
    with pytest.raises(SpecError, match=re.escape(problem)):
        LoadSpec.from_dict({"table": "t", **given})
    with pytest.raises(SpecError, match="does not go with"):
        LoadSpec.from_dict(DELTA, mode="replace")


# --- append


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0)])
def test_what_is_appended_has_no_order(dsn: str, database: Database, s3: Any, order: Sequence[int]) -> None:
    versions = put(s3, b"1,a\n", b"2,b\n", b"3,c\n")
    for each in order:
        assert load(database, s3.uri("t.csv"), versions[each], {"table": "t"}).state == "loaded"
    for each in range(3):
        assert load(database, s3.uri("t.csv"), versions[each], {"table": "t"}).state == "skipped"
    assert table(dsn) == [(1, "a"), (2, "b"), (3, "c")]


def test_what_s3_did_not_serve_is_appended_after_the_newer_version(
    dsn: str, database: Database, s3: Any, fault_proxy: FaultProxy
) -> None:
    """Though that was loaded meanwhile."""
    versions = put(s3, b"1,a\n", b"2,b\n")
    fault_proxy.faults += [answer(503, "SlowDown") for _ in range(20)]
    with pytest.raises(loader.SourceUnavailableError):
        load(database, s3.uri("t.csv"), versions[0], {"table": "t"})
    fault_proxy.faults.clear()
    for each in reversed(versions):
        assert load(database, s3.uri("t.csv"), each, {"table": "t"}).state == "loaded"
    assert table(dsn) == [(1, "a"), (2, "b")]


def test_appended_snapshots_keep_their_order(dsn: str, database: Database, s3: Any) -> None:
    """Where the spec says so."""
    spec = {"table": "t", "versions": "snapshot"}
    old, new = put(s3, b"1,a\n", b"2,b\n")
    assert load(database, s3.uri("t.csv"), new, spec).state == "loaded"
    late = load(database, s3.uri("t.csv"), old, spec)
    assert (late.state, late.superseded_by) == ("skipped", 1)
    assert table(dsn) == [(2, "b")]


def test_what_a_newer_version_has_replaced_is_not_appended(dsn: str, database: Database, s3: Any) -> None:
    """Order 1, 2 would have left nothing of it."""
    old, new = put(s3, b"1,a\n", b"2,b\n")
    assert load(database, s3.uri("t.csv"), new, {"table": "t", "mode": "replace"}).state == "loaded"
    assert load(database, s3.uri("t.csv"), old, {"table": "t"}).superseded_by == 1
    assert table(dsn) == [(2, "b")]


# --- merge

FIRST = b"1,one\n2,one\n3,one\n3,one again\n5,five\n6,one\n"
SECOND = b"2,two\n3,two\n4,two\n4,two again\n"
THIRD = b"4,three\n6,three\n7,three\n"
MERGED = [(0, "old"), (1, "one"), (2, "two"), (3, "two"), (4, "three"), (5, "five"), (6, "three"), (7, "three")]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_deltas_make_the_same_table_in_any_order(dsn: str, database: Database, s3: Any, order: Sequence[int]) -> None:
    """With keys that they share, with each other and with the table, and some that a file has twice."""
    query(dsn, "INSERT INTO t VALUES (0, 'old'), (5, 'old'), (2, 'old')")
    versions = put(s3, FIRST, SECOND, THIRD)
    for each in order:
        report = load(database, s3.uri("t.csv"), versions[each])
        assert report.state == "loaded"
        counts(report)
    assert table(dsn) == MERGED
    assert query(dsn, "SELECT tablename FROM pg_tables WHERE schemaname = 'loader' AND tablename ~ 'staging'") == []


def test_the_target_is_held_while_newer_versions_are_read(
    dsn: str, database: Database, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the merge's lock, taken first: a weaker one before it could wait for somebody who waits for this load."""
    old, new = put(s3, FIRST, SECOND)
    load(database, s3.uri("t.csv"), new)
    held: list[tuple[Any, ...]] = []
    plain = loader.engine.late_versions._fill

    def fill(*arguments: Any) -> None:
        held.extend(query(dsn, "SELECT mode FROM pg_locks WHERE relation = 't'::regclass"))
        plain(*arguments)

    monkeypatch.setattr("loader.engine.late_versions._fill", fill)
    load(database, s3.uri("t.csv"), old)
    assert held == [("RowExclusiveLock",)]


def test_a_late_delta_says_what_it_left_alone(dsn: str, database: Database, s3: Any) -> None:
    """Records whose keys the newer version has set are duplicates; a second event changes nothing."""
    query(dsn, "INSERT INTO t VALUES (0, 'old'), (5, 'old')")
    old, new = put(s3, FIRST, SECOND)
    load(database, s3.uri("t.csv"), new)
    late = load(database, s3.uri("t.csv"), old)
    assert counts(late) == (6, 2, 1, 0, 3, 0)  # 1 and 6; 5; 2 and 3 twice
    assert "3 records have keys that newer versions set before (counted as duplicate)" in late.notes
    assert load(database, s3.uri("t.csv"), old).state == "skipped"
    assert query(dsn, "SELECT overtaken_by FROM loader.loads ORDER BY 1") == [([1],), (None,)]


@pytest.mark.usefixtures("large_way")
def test_s3_is_asked_once_about_each_version_of_one_second(
    dsn: str, database: Database, s3: Any, fault_proxy: FaultProxy
) -> None:
    """A delta has to know of each whether it is newer, a snapshot of one."""
    old, *newer = put(s3, FIRST, SECOND, THIRD)
    for each in newer:
        load(database, s3.uri("t.csv"), each)
    stored = s3.client.head_object(Bucket=s3.bucket, Key="t.csv", VersionId=old)["LastModified"]
    query(dsn, "UPDATE loader.loads SET last_modified = %s", stored)
    for spec, asked in (({**DELTA, "versions": "snapshot"}, 1), (DELTA, 2)):
        fault_proxy.requests.clear()
        load(database, s3.uri("t.csv"), old, spec)
        assert len([each for each in fault_proxy.requests if "versions" in (each.query or "")]) == asked


def test_a_snapshot_that_is_merged_late_is_superseded(dsn: str, database: Database, s3: Any) -> None:
    """Which is what a merge does by itself."""
    old, new = put(s3, FIRST, SECOND)
    spec = {"table": "t", "mode": "merge"}
    load(database, s3.uri("t.csv"), new, spec)
    late = load(database, s3.uri("t.csv"), old, spec)
    assert (late.state, late.superseded_by) == ("skipped", 1)
    assert table(dsn) == [(2, "two"), (3, "two"), (4, "two again")]


def big(first: int, past: int, text: str) -> bytes:
    return b"".join(b"%d,%s\n" % (number, text.encode() * 20) for number in range(first, past))


@pytest.mark.parametrize("number", [1, 2])
def test_a_late_delta_of_many_records(
    dsn: str, database: Database, s3: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Also by several workers, into a table that had none of them: nothing goes straight into it, or ahead."""
    monkeypatch.setattr(workers, "LEAST", 100 << 10)
    monkeypatch.setattr("loader.pipeline.TRIAL_FROM", 0)
    old, new = put(s3, big(0, 20_000, "a"), big(15_000, 30_000, "b"))
    load(database, s3.uri("t.csv"), new, workers=number)
    late = load(database, s3.uri("t.csv"), old, workers=number)
    assert ("shards" in str(late.notes)) == (number == 2)
    assert counts(late) == (20_000, 15_000, 0, 0, 5_000, 0)
    found = query(dsn, "SELECT left(text, 1), count(*), min(id), max(id) FROM t GROUP BY 1 ORDER BY 1")
    assert found == [("a", 15_000, 0, 14_999), ("b", 15_000, 15_000, 29_999)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("check", ["id <> 2 OR text <> 'two'", "id <> 1"])
def test_what_a_version_was_refused_sets_no_key(
    dsn: str, database: Database, s3: Any, order: Sequence[int], check: str
) -> None:
    """Neither what is no value of its column, nor what the table refuses, of either version."""
    query(dsn, f"ALTER TABLE t ADD CHECK ({check})")
    spec = {**DELTA, "rejects": {"max_ratio": 1}}
    versions = put(s3, FIRST + b"x,bad\n", SECOND + b"bad,5\n")
    rejected = [load(database, s3.uri("t.csv"), versions[each], spec).rows_rejected for each in order]
    assert min(rejected) >= 1
    expected = {1: "one", 2: "two", 3: "two", 4: "two again", 5: "five", 6: "one"}
    expected |= {2: "one"} if "text" in check else {}
    removed = {"id <> 1": 1}.get(check)
    assert table(dsn) == [each for each in expected.items() if each[0] != removed]


def leave_out(dsn: str, condition: str) -> None:
    """A trigger keeps records out of the table, and says nothing."""
    query(
        dsn,
        "CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        " CREATE TRIGGER leave_out BEFORE INSERT OR UPDATE ON t FOR EACH ROW"
        f" WHEN ({condition}) EXECUTE FUNCTION leave_out()",
    )


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("known", [(), (2,)])
def test_what_a_trigger_left_out_of_the_newer_version_sets_no_key(
    dsn: str, database: Database, s3: Any, order: Sequence[int], known: Sequence[int]
) -> None:
    """Neither where the table has no row of the key, nor where its row stays as it was."""
    query(dsn, "INSERT INTO t SELECT unnest(%s::int[]), 'old'", list(known))
    leave_out(dsn, "new.id = 2 AND new.text = 'two'")
    versions = put(s3, FIRST, SECOND)
    for each in order:
        counts(load(database, s3.uri("t.csv"), versions[each]))
    assert table(dsn) == [(1, "one"), (2, "one"), (3, "two"), (4, "two again"), (5, "five"), (6, "one")]


def test_where_the_table_does_not_show_what_was_left_out_the_late_one_fails(
    dsn: str, database: Database, s3: Any
) -> None:
    """As others have changed it since. A version that has none of the keys in doubt is loaded."""
    leave_out(dsn, "new.id = 2 AND new.text = 'two'")
    old, older, new = put(s3, FIRST, b"4,old\n7,old\n", SECOND)
    load(database, s3.uri("t.csv"), new)
    query(dsn, "UPDATE t SET text = 'of another' WHERE id = 3")
    assert (
        "a trigger left out 1 of its records, and public.t does not have its values for the keys of 3 records of this "
        "one, so it cannot be told whether it has set them; add --force"
    ) in refused(database, s3.uri("t.csv"), old)
    assert load(database, s3.uri("t.csv"), older).state == "loaded"
    assert table(dsn) == [(3, "of another"), (4, "two again"), (7, "old")]


def test_a_late_delta_is_read_as_the_newer_version_was(dsn: str, database: Database, s3: Any) -> None:
    """By the spec of that load: its transforms, its filter, and its columns."""
    query(dsn, "ALTER TABLE t ADD COLUMN more text")
    new_spec = {
        **DELTA,
        "csv": {"delimiter": ";"},
        "columns": {"id": "int", "text": {"type": "text", "transform": ["upper"]}},
        "transform": {"filter": "id <> 3"},
    }
    old = s3.put("t.csv", HEADER + FIRST)
    new = s3.put("t.csv", b"id;text\n2;two\n3;two\n")
    load(database, s3.uri("t.csv"), new, new_spec)
    load(database, s3.uri("t.csv"), old)
    assert table(dsn) == [(1, "one"), (2, "TWO"), (3, "one again"), (5, "five"), (6, "one")]


def test_of_a_table_that_was_dropped_since_nothing_is_left_alone(dsn: str, database: Database, s3: Any) -> None:
    """What the newer version had set is gone with it; and comes back with its own event."""
    spec = {**DELTA, "key": ["id"], "columns": {"id": "int", "text": "text"}}
    old, new = put(s3, FIRST, SECOND)
    load(database, s3.uri("t.csv"), new, spec)
    query(dsn, "DROP TABLE t")
    load(database, s3.uri("t.csv"), old, spec)
    assert table(dsn) == [(1, "one"), (2, "one"), (3, "one again"), (5, "five"), (6, "one")]
    load(database, s3.uri("t.csv"), new, spec)
    assert table(dsn) == [(1, "one"), (2, "two"), (3, "two"), (4, "two again"), (5, "five"), (6, "one")]


# --- where the newer version cannot be read


def refused(database: Database, uri: str, old: str) -> str:
    with pytest.raises(LoaderError) as caught:
        load(database, uri, old)
    assert not caught.value.retryable
    assert 'add --force to load it over newer versions, or set versions = "snapshot" in the spec' in str(caught.value)
    return str(caught.value)


def test_where_the_newer_version_is_gone_the_late_one_fails(dsn: str, database: Database, s3: Any) -> None:
    """For good, and says what can be done. By force it is loaded over the newer one."""
    old, new = put(s3, FIRST, SECOND)
    load(database, s3.uri("t.csv"), new)
    s3.client.delete_object(Bucket=s3.bucket, Key="t.csv", VersionId=new)
    message = refused(database, s3.uri("t.csv"), old)
    assert f"the newer version {new}, which load 1 has loaded, has to be read once more" in message
    assert table(dsn) == [(2, "two"), (3, "two"), (4, "two again")]
    states = "SELECT state, retryable FROM loader.loads ORDER BY load_id"
    assert query(dsn, states) == [("loaded", False), ("failed", False)]
    assert load(database, s3.uri("t.csv"), old, force=True).state == "loaded"
    assert table(dsn)[2] == (3, "one again")


def test_what_passes_is_waited_for(dsn: str, database: Database, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The load fails for now, with what it has staged, and goes on later."""
    old, new = put(s3, FIRST, SECOND)
    load(database, s3.uri("t.csv"), new)
    with monkeypatch.context() as busy:
        busy.setattr(LateVersion, "_read_and_drop", _raising(loader.SourceUnavailableError("S3 is busy")))
        with pytest.raises(loader.SourceUnavailableError):
            load(database, s3.uri("t.csv"), old)
    assert load(database, s3.uri("t.csv"), old).resumes == 1
    assert table(dsn)[0] == (1, "one")


def _raising(error: Exception) -> Any:
    def fail(*_: Any) -> int:
        raise error

    return fail


def test_where_rejects_of_the_newer_version_were_replayed_the_late_one_fails(
    dsn: str, database: Database, s3: Any, tmp_path: Path
) -> None:
    """For they may have set keys that no version has."""
    spec = {**DELTA, "rejects": {"max_ratio": 1}}
    old, new = put(s3, FIRST, SECOND + b"x,bad\n")
    load(database, s3.uri("t.csv"), new, spec)
    fixed = tmp_path / "fixed.csv"
    fixed.write_bytes(HEADER + b"1,fixed\n")
    assert replay(1, database, source=str(fixed)).state == "loaded"
    assert "rejects of it were loaded since, by load 2" in refused(database, s3.uri("t.csv"), old)


def test_where_the_newer_version_gives_other_records_now_the_late_one_fails(
    dsn: str, database: Database, s3: Any
) -> None:
    """As after a hook was changed: what it had set is not known any more."""
    old, new = put(s3, FIRST, SECOND)
    load(database, s3.uri("t.csv"), new)
    query(dsn, "UPDATE loader.loads SET rows_read = 5, rows_inserted = rows_inserted + 1")
    assert "it has 4 records by what it is read with now, and 5 of it" in refused(database, s3.uri("t.csv"), old)


def test_rejects_of_a_late_delta_do_not_overwrite_the_newer_version(
    dsn: str, database: Database, s3: Any, tmp_path: Path
) -> None:
    """Though they are loaded after it."""
    spec = {**DELTA, "rejects": {"max_ratio": 1}}
    old, new = put(s3, FIRST + b"4,four,4\n", SECOND)
    load(database, s3.uri("t.csv"), new, spec)
    late = load(database, s3.uri("t.csv"), old, spec)
    fixed = tmp_path / "fixed.csv"
    fixed.write_bytes(HEADER + b"4,four\n")
    assert replay(late.load_id or 0, database, source=str(fixed)).superseded_by == 1
    assert (4, "two again") in table(dsn)


def test_rejects_of_the_newer_version_are_replayed_after_a_late_delta(
    dsn: str, database: Database, s3: Any, tmp_path: Path
) -> None:
    """What was applied later is not newer."""
    older, newer = put(s3, b"1,old\n7,old\n", b"1,new\nx,new\n")
    rejecting = {**DELTA, "rejects": {"max_ratio": 1.0}}
    first = load(database, s3.uri("t.csv"), newer, rejecting)
    assert load(database, s3.uri("t.csv"), older, rejecting).state == "loaded"
    assert first.load_id is not None
    fixed = tmp_path / "fixed.csv"
    fixed.write_bytes(HEADER + b"7,new\n")
    assert replay(first.load_id, database, source=str(fixed)).state == "loaded"
    assert table(dsn) == [(1, "new"), (7, "new")]


def test_a_late_delta_leaves_alone_what_any_load_of_a_newer_version_has_set(
    dsn: str, database: Database, s3: Any
) -> None:
    older, newer = put(s3, b"1,old\n3,old\n", b"1,new\n2,new\n")
    load(database, s3.uri("t.csv"), newer)
    load(database, s3.uri("t.csv"), newer, {**DELTA, "transform": {"filter": "id = 2"}}, force=True)
    assert load(database, s3.uri("t.csv"), older).state == "loaded"
    assert table(dsn) == [(1, "new"), (2, "new"), (3, "old")]


def test_a_late_delta_with_a_column_that_the_newer_version_lacks_fails(dsn: str, database: Database, s3: Any) -> None:
    """In order, the older version's values would stand in that column."""
    query(dsn, "ALTER TABLE t ADD COLUMN other text")
    older = s3.put("t.csv", b"id,text,other\n1,a,A\n")
    newer = s3.put("t.csv", b"id,text\n1,b\n")
    load(database, s3.uri("t.csv"), newer)
    with pytest.raises(LoaderError, match='it lacks "other"; add --force') as failed:
        load(database, s3.uri("t.csv"), older)
    assert not failed.value.retryable
    assert table(dsn) == [(1, "b")]
