"""Which version of an object still has to have its effect."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.postgres import query

import loader
from loader.database import Database
from loader.pipeline import How, load_one
from loader.report import LoadReport

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
    assert (late.state, late.notes) == ("skipped", ("a newer version of it was loaded before, by load 1",))
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


def test_without_sequencers_s3_is_asked(dsn: str, database: Database, s3: Any) -> None:
    """It lists versions in the order in which they were stored."""
    first, second, third = (s3.put("a.csv", each) for each in (ONE, TWO, THREE))
    assert load(database, s3.uri("a.csv"), second).state == "loaded"
    assert load(database, s3.uri("a.csv"), first).state == "skipped"
    assert load(database, s3.uri("a.csv"), third).state == "loaded"
    assert price(dsn) == 3


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
