"""Which version of an object still has to have its effect."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.postgres import query
from support.s3 import FaultProxy, answer

import loader
from loader.core.errors import DatabaseUnavailableError, SourceUnavailableError
from loader.core.report import LoadReport
from loader.engine.job import Task
from loader.pipeline import How, load_one
from loader.postgres.database import Database
from loader.replays import replay
from loader.sources.s3 import s3_client

SPEC = loader.LoadSpec.from_dict({"table": "prices", "mode": "replace"})
ONE, TWO, THREE = (f"id,price\n1,{number}\n".encode() for number in (1, 2, 3))


@pytest.fixture
def database(dsn: str) -> Iterator[Database]:
    query(dsn, "CREATE TABLE prices (id int PRIMARY KEY, price int)")
    database = Database(dsn)
    yield database
    database.close()


def price(dsn: str) -> Any:
    return query(dsn, "SELECT price FROM prices")[0][0]


def load(database: Database, uri: str, version: str | None = None, sequencer: str | None = None) -> LoadReport:
    return load_one(uri, SPEC, database, How(sequencer=sequencer), version_id=version)


def test_a_late_event_changes_nothing(dsn: str, database: Database, s3: Any) -> None:
    """By the sequencers of their events, whatever their lengths; it is entered as superseded."""
    old, new = s3.put("a.csv", ONE), s3.put("a.csv", TWO)
    assert load(database, s3.uri("a.csv"), new, "0A").state == "loaded"
    late = load(database, s3.uri("a.csv"), old, "9")
    assert (late.state, late.notes) == (
        "skipped",
        ("a newer version of it was loaded before, by load 1: add --force to load this one anyway",),
    )
    assert price(dsn) == 2
    states = "SELECT state, sequencer FROM loader.loads ORDER BY load_id"
    assert query(dsn, states) == [("loaded", "0A"), ("superseded", "9")]
    assert load(database, s3.uri("a.csv"), old, "9").state == "skipped"


def test_sequencers_go_before_times(dsn: str, database: Database, s3: Any) -> None:
    """Two versions of one second are in their order."""
    first, second, third = (s3.put("a.csv", each) for each in (ONE, TWO, THREE))
    assert load(database, s3.uri("a.csv"), first, "0055AED6DCD90281E5").state == "loaded"
    assert load(database, s3.uri("a.csv"), third, "0055AED6DCD90281E7").state == "loaded"
    assert load(database, s3.uri("a.csv"), second, "0055AED6DCD90281E6").state == "skipped"
    assert price(dsn) == 3


@pytest.mark.parametrize(("older", "newer"), [("9", "0A"), ("0A", "9"), ("B0", "B"), ("B", "B0")])
def test_sequencers_of_two_lengths_say_nothing(dsn: str, database: Database, s3: Any, older: str, newer: str) -> None:
    """AWS's guide filled up the shorter one on the left in one edition and on the right in another: S3 is asked."""
    old, new = s3.put("a.csv", ONE), s3.put("a.csv", TWO)
    assert load(database, s3.uri("a.csv"), old, older).state == "loaded"
    assert load(database, s3.uri("a.csv"), new, newer).state == "loaded"
    query(dsn, "DELETE FROM loader.loads")
    assert load(database, s3.uri("a.csv"), new, newer).state == "loaded"
    assert load(database, s3.uri("a.csv"), old, older).state == "skipped"
    assert price(dsn) == 2


def test_a_sequencer_belongs_to_the_version_of_its_event(dsn: str, database: Database, s3: Any) -> None:
    """An event that names no version is of a time before there were any: it says nothing of the version that is there
    when it comes, late."""
    second, third = s3.put("a.csv", TWO), s3.put("a.csv", THREE)
    assert load(database, s3.uri("a.csv"), None, "01").state == "loaded"
    assert price(dsn) == 3
    assert load(database, s3.uri("a.csv"), second, "02").state == "skipped"
    assert load(database, s3.uri("a.csv"), third, "03").state == "skipped"
    assert price(dsn) == 3
    assert query(dsn, "SELECT state, sequencer FROM loader.loads ORDER BY 1") == [
        ("loaded", None),
        ("superseded", "02"),
    ]


def test_a_version_is_compared_with_the_newest_and_not_with_the_last(dsn: str, database: Database, s3: Any) -> None:
    """An operator goes back to the first version; the late event of one between the two changes nothing."""
    versions = [s3.put("a.csv", each) for each in (ONE, TWO, THREE)]
    assert load(database, s3.uri("a.csv"), versions[0], "01").state == "loaded"
    assert load(database, s3.uri("a.csv"), versions[2], "03").state == "loaded"
    assert load_one(s3.uri("a.csv"), SPEC, database, How(force=True), version_id=versions[0]).state == "loaded"
    late = load(database, s3.uri("a.csv"), versions[1], "02")
    assert late.state == "skipped"
    assert late.notes == ("a newer version of it was loaded before, by load 2: add --force to load this one anyway",)
    assert price(dsn) == 1


def test_rejects_do_not_overwrite_a_newer_version(dsn: str, database: Database, s3: Any, tmp_path: Path) -> None:
    """Unless somebody insists."""
    spec = {"table": "prices", "mode": "merge", "rejects": {"max_ratio": 1.0}}
    loading = loader.LoadSpec.from_dict(spec)
    first = s3.put("a.csv", b"id,price\n1,1\n2,two\n")
    report = load_one(s3.uri("a.csv"), loading, database, version_id=first)
    s3.put("a.csv", b"id,price\n2,20\n")
    assert load_one(s3.uri("a.csv"), loading, database).state == "loaded"
    fixed = tmp_path / "fixed.csv"
    fixed.write_bytes(b"id,price\n2,2\n")
    assert report.load_id is not None
    refused = replay(report.load_id, database, source=str(fixed))
    assert refused.state == "skipped"
    assert refused.notes == (
        "these are rejects of load 1, and load 2 has loaded a newer version of that object since: "
        "add --force to load them over what that one has set",
    )
    assert query(dsn, "SELECT price FROM prices ORDER BY id") == [(1,), (20,)]
    forced = replay(report.load_id, database, how=How(force=True), source=str(fixed))
    assert forced.state == "loaded"
    assert query(dsn, "SELECT price FROM prices ORDER BY id") == [(1,), (2,)]


def test_a_newer_version_that_is_gone_is_newer_nevertheless(dsn: str, database: Database, s3: Any) -> None:
    """S3 does not list it any more, so it cannot tell; then the older one does not undo it."""
    old, new = s3.put("a.csv", ONE), s3.put("a.csv", TWO)
    assert load(database, s3.uri("a.csv"), new).state == "loaded"
    s3.client.delete_object(Bucket=s3.bucket, Key="a.csv", VersionId=new)
    assert load(database, s3.uri("a.csv"), old).state == "skipped"
    assert price(dsn) == 2


def test_without_sequencers_s3_is_asked(dsn: str, database: Database, s3: Any) -> None:
    """It lists versions in the order in which they were stored."""
    first, second, third = (s3.put("a.csv", each) for each in (ONE, TWO, THREE))
    assert load(database, s3.uri("a.csv"), second).state == "loaded"
    assert load(database, s3.uri("a.csv"), first).state == "skipped"
    assert load(database, s3.uri("a.csv"), third).state == "loaded"
    assert price(dsn) == 3


def put_within_one_second(s3: Any, *bodies: bytes) -> list[str]:
    """Version ids of versions that S3 says were stored at the same time."""
    while True:
        versions = [s3.put("a.csv", body) for body in bodies]
        heads = [s3.client.head_object(Bucket=s3.bucket, Key="a.csv", VersionId=each) for each in versions]
        if len({each["LastModified"] for each in heads}) == 1:
            return versions


def test_a_version_is_not_left_out_because_s3_is_busy(
    dsn: str, database: Database, s3: Any, fault_proxy: FaultProxy
) -> None:
    """Which of two is the newer has to be known: a newest version that is taken for a late one is lost for good."""
    old, new = put_within_one_second(s3, ONE, TWO)
    assert load(database, s3.uri("a.csv"), old).state == "loaded"

    def stay_busy() -> None:
        fault_proxy.faults.append(replace(answer(503, "SlowDown", method="HEAD"), lasting=True))

    busy = answer(503, "SlowDown", query="versions")
    fault_proxy.faults.append(replace(busy, before=stay_busy, lasting=True))
    with pytest.raises(SourceUnavailableError, match=r"a\.csv: S3 did not serve it"):
        load_one(s3.uri("a.csv"), SPEC, database, version_id=new, s3=s3_client(retries={"total_max_attempts": 1}))
    fault_proxy.faults.clear()
    assert load(database, s3.uri("a.csv"), new).state == "loaded"
    assert price(dsn) == 2


def test_an_object_may_come_back_to_what_it_was(dsn: str, database: Database, s3_unversioned: Any) -> None:
    """Without versions its content is all there is to tell one upload from another; a repeated event loads nothing."""
    s3 = s3_unversioned
    for content, expected in [(ONE, "loaded"), (ONE, "skipped"), (TWO, "loaded"), (ONE, "loaded"), (ONE, "skipped")]:
        s3.put("a.csv", content)
        assert load(database, s3.uri("a.csv")).state == expected
    assert price(dsn) == 1
    assert query(dsn, "SELECT follows FROM loader.loads ORDER BY 1") == [(0,), (0,), (2,)]


def test_a_file_may_come_back_to_what_it_was(dsn: str, database: Database, tmp_path: Path) -> None:
    """But a copy of a file under another name is the same file."""
    path = tmp_path / "a.csv"
    for content, expected in [(ONE, "loaded"), (TWO, "loaded"), (ONE, "loaded"), (ONE, "skipped")]:
        path.write_bytes(content)
        assert load(database, str(path)).state == expected
    assert price(dsn) == 1
    copy = tmp_path / "b.csv"
    copy.write_bytes(TWO)
    assert load(database, str(copy)).state == "skipped"


def test_a_file_comes_back_to_what_another_one_holds(dsn: str, database: Database, tmp_path: Path) -> None:
    """What counts is what was loaded under its own name last."""
    other, path = tmp_path / "x.csv", tmp_path / "y.csv"
    other.write_bytes(ONE)
    assert load(database, str(other)).state == "loaded"
    for content, expected in [(ONE, "skipped"), (TWO, "loaded"), (ONE, "loaded"), (ONE, "skipped")]:
        path.write_bytes(content)
        assert load(database, str(path)).state == expected
    assert price(dsn) == 1


def test_of_two_at_once_one_loads(dsn: str, database: Database, s3: Any) -> None:
    """The database decides, by whose turn it is; the other waits and finds that it was done."""
    version = s3.put("a.csv", ONE)
    reports: list[LoadReport] = []
    threads = [
        threading.Thread(target=lambda: reports.append(load(database, s3.uri("a.csv"), version, "1"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.state for each in reports) == ["loaded", "skipped", "skipped", "skipped"]
    assert query(dsn, "SELECT count(*) FROM loader.loads") == [(1,)]


def test_an_object_that_is_not_there_is_on_record(dsn: str, database: Database, s3: Any) -> None:
    """With its reason, each attempt counted; and it can be there later."""
    for attempts in (1, 2):
        with pytest.raises(loader.SourceNotFoundError) as caught:
            load(database, s3.uri("none.csv"))
        assert caught.value.report is not None
        columns = "state, source, attempts, error, size"
        assert query(dsn, f"SELECT {columns} FROM loader.loads") == [
            ("failed", s3.uri("none.csv"), attempts, str(caught.value), None)
        ]
    s3.put("none.csv", ONE)
    assert load(database, s3.uri("none.csv")).state == "loaded"


# --- a table that was dropped since


APPEND = loader.LoadSpec.from_dict({"table": "drops", "versions": "snapshot"})


def append(database: Database, uri: str, version: str | None = None, **how: Any) -> LoadReport:
    return load_one(uri, APPEND, database, How(**how), version_id=version)


def drops(dsn: str) -> list[Any]:
    return query(dsn, "SELECT price FROM drops ORDER BY 1")


def files_of(folder: Path) -> list[str]:
    """Two files, of which both have to be in the table again after it was dropped."""
    for name, content in (("a.csv", ONE), ("b.csv", TWO)):
        (folder / name).write_bytes(content)
    return [str(folder / "a.csv"), str(folder / "b.csv")]


def test_what_was_loaded_into_a_dropped_table_is_loaded_again(dsn: str, database: Database, tmp_path: Path) -> None:
    """All of it, and not only the first: the load that creates the table anew does not vouch for the others."""
    paths = files_of(tmp_path)
    for _ in range(3):
        for expected in ("loaded", "skipped"):
            assert [append(database, each).state for each in paths] == [expected] * 2
        assert drops(dsn) == [(1,), (2,)]
        query(dsn, "DROP TABLE drops")
    created = "SELECT created, follows FROM loader.loads ORDER BY load_id"
    assert query(dsn, created) == [(True, 0), (False, 0), (True, 2), (False, 3), (True, 4), (False, 5)]


def test_a_copy_of_a_file_counts_in_the_new_table_too(dsn: str, database: Database, tmp_path: Path) -> None:
    """Content is what a local file is known by, so the original is not loaded beside its copy."""
    original, copy = tmp_path / "a.csv", tmp_path / "copy.csv"
    original.write_bytes(ONE)
    copy.write_bytes(ONE)
    assert append(database, str(original)).state == "loaded"
    for first, second in [(copy, original), (original, copy), (copy, original)]:
        query(dsn, "DROP TABLE drops")
        assert [append(database, str(each)).state for each in (first, second)] == ["loaded", "skipped"]
        assert drops(dsn) == [(1,)]


def test_of_two_at_once_one_creates_the_table_anew(dsn: str, database: Database, s3: Any) -> None:
    """The turn decides; the other one finds what was done."""
    version = s3.put("a.csv", ONE)
    append(database, s3.uri("a.csv"), version)
    query(dsn, "DROP TABLE drops")
    reports: list[LoadReport] = []
    threads = [
        threading.Thread(target=lambda: reports.append(append(database, s3.uri("a.csv"), version))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.state for each in reports) == ["loaded", "skipped", "skipped", "skipped"]
    assert drops(dsn) == [(1,)]


def test_an_older_version_stays_superseded_when_the_table_is_gone(dsn: str, database: Database, s3: Any) -> None:
    """Its late event does not create the table with what was replaced; the newest version does, whenever it comes."""
    old, new = s3.put("a.csv", ONE), s3.put("a.csv", TWO)
    for version, sequencer in ((old, "1"), (new, "2")):
        assert append(database, s3.uri("a.csv"), version, sequencer=sequencer).state == "loaded"
    query(dsn, "DROP TABLE drops")
    late = append(database, s3.uri("a.csv"), old, sequencer="1")
    assert late.notes == ("a newer version of it was loaded before, by load 2: add --force to load this one anyway",)
    assert append(database, s3.uri("a.csv"), new, sequencer="2").state == "loaded"
    assert append(database, s3.uri("a.csv"), old, sequencer="1").state == "skipped"
    assert drops(dsn) == [(2,)]


def test_a_newer_version_creates_the_table_anew(dsn: str, database: Database, s3: Any) -> None:
    """And what came before it stays superseded."""
    old, new = s3.put("a.csv", ONE), s3.put("a.csv", TWO)
    assert append(database, s3.uri("a.csv"), old, sequencer="1").state == "loaded"
    query(dsn, "DROP TABLE drops")
    assert append(database, s3.uri("a.csv"), new, sequencer="2").state == "loaded"
    assert append(database, s3.uri("a.csv"), old, sequencer="1").state == "skipped"
    assert append(database, s3.uri("a.csv"), new, sequencer="2").state == "skipped"
    assert drops(dsn) == [(2,)]


def test_an_object_may_come_back_in_the_new_table(dsn: str, database: Database, s3_unversioned: Any) -> None:
    """Without versions, too: what the object holds now is what is due."""
    s3 = s3_unversioned
    for content in (ONE, TWO):
        s3.put("a.csv", content)
        assert append(database, s3.uri("a.csv")).state == "loaded"
    query(dsn, "DROP TABLE drops")
    for content, expected in [(TWO, "loaded"), (TWO, "skipped"), (ONE, "loaded"), (TWO, "loaded"), (TWO, "skipped")]:
        s3.put("a.csv", content)
        assert append(database, s3.uri("a.csv")).state == expected
    assert drops(dsn) == [(1,), (2,), (2,)]


def test_a_table_created_by_hand_is_vouched_for(dsn: str, database: Database, tmp_path: Path) -> None:
    """It cannot be told from a table that was emptied, or restored from a dump; --force loads into it."""
    path = files_of(tmp_path)[0]
    append(database, path)
    query(dsn, "DROP TABLE drops")
    query(dsn, "CREATE TABLE drops (id int, price int)")
    skipped = append(database, path)
    assert skipped.notes == ("this version was loaded already, by load 1: add --force to load it again",)
    assert append(database, path, force=True).state == "loaded"


def test_a_load_that_created_its_table_by_force_vouches_for_itself(
    dsn: str, database: Database, tmp_path: Path
) -> None:
    """And for nothing before it."""
    paths = files_of(tmp_path)
    for each in paths:
        append(database, each)
    query(dsn, "DROP TABLE drops")
    assert append(database, paths[0], force=True).state == "loaded"
    assert [append(database, each).state for each in paths] == ["skipped", "loaded"]
    assert drops(dsn) == [(1,), (2,)]


def test_rejects_can_be_replayed_into_a_new_table(dsn: str, database: Database, tmp_path: Path) -> None:
    """What was replayed into the table before is not in this one."""
    path, fixed = tmp_path / "a.csv", tmp_path / "fixed.csv"
    path.write_bytes(b"id,price\n1,1\n2,two\n")
    fixed.write_bytes(b"id,price\n2,2\n")
    spec = {"table": "drops", "columns": {"id": "int", "price": "int"}, "rejects": {"max_ratio": 1.0}}
    first = load_one(str(path), loader.LoadSpec.from_dict(spec), database)
    assert first.load_id is not None
    for expected in ("loaded", "skipped"):
        assert replay(first.load_id, database, source=str(fixed)).state == expected
    query(dsn, "DROP TABLE drops")
    for expected in ("loaded", "skipped"):
        assert replay(first.load_id, database, source=str(fixed)).state == expected
    assert drops(dsn) == [(2,)]


@pytest.mark.parametrize("force", [False, True])
def test_a_commit_in_doubt_is_found_in_the_ledger(
    dsn: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, force: bool
) -> None:
    """Also when the table was dropped before the load could ask, and when it was forced: it is not loaded again."""
    path = files_of(tmp_path)[0]
    append(database, path)
    query(dsn, "DROP TABLE drops")
    conclude = Task.conclude
    concluded: list[LoadReport] = []

    def lose_the_answer(self: Task, *arguments: Any, **options: Any) -> LoadReport:
        concluded.append(conclude(self, *arguments, **options))
        query(dsn, "DROP TABLE drops")
        raise DatabaseUnavailableError("the answer to COMMIT was lost")

    monkeypatch.setattr(Task, "conclude", lose_the_answer)
    report = append(database, path, force=force)
    assert (report.state, report.load_id, report.rows_inserted) == ("loaded", 2, 1)
    assert len(concluded) == 1
    assert query(dsn, "SELECT to_regclass('drops')") == [(None,)]


# --- what a skip says


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"mode": "replace"}, "with mode append; this call asks for mode replace"),
        ({"mode": "merge", "key": ["id"]}, 'with mode append and no key; this call asks for mode merge and key "id"'),
        ({"csv": {"null": ["-"]}}, "with other settings of csv; this call asks for its own"),
        ({"columns": {"id": "int"}}, "with other settings of columns; this call asks for its own"),
    ],
)
def test_a_skip_says_how_the_call_differs(
    database: Database, tmp_path: Path, change: dict[str, Any], difference: str
) -> None:
    """From the load by which the version took effect."""
    path = files_of(tmp_path)[0]
    append(database, path)
    report = load_one(path, loader.LoadSpec.from_dict({"table": "drops", **change}), database)
    assert report.state == "skipped"
    assert report.notes == (f"this version was loaded by load 1, {difference}: add --force to load it again",)


@pytest.mark.parametrize("change", [{"table": "public.drops"}, {"source": "*.csv"}, {"rejects": {"max_rows": 5}}])
def test_a_skip_says_nothing_of_what_changes_no_row(database: Database, tmp_path: Path, change: dict[str, Any]) -> None:
    """The same table by its whole name, for one."""
    path = files_of(tmp_path)[0]
    append(database, path)
    report = load_one(path, loader.LoadSpec.from_dict({"table": "drops", **change}), database)
    assert report.notes == ("this version was loaded already, by load 1: add --force to load it again",)
