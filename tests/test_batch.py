"""Messages that a function is given together: their order, what they share, and that none pays for another."""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import PATIENCE
from support.postgres import query
from support.s3 import FaultProxy
from test_redelivery import Context, held

from loader.aws import settings
from loader.aws.batch import BATCH_BYTES, Asked, arrange
from loader.aws.handler import handler
from loader.aws.redelivery import RECEIVES, TURN_PATIENCE, WAITS, Message, wait_of
from loader.engine.small_load import SMALL
from twin.runtime import FunctionError, Runtime

TABLES = ("trips", "rides")


@pytest.fixture
def function(dsn: str, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cold function with a spec for each of two tables, which exist."""
    for table in TABLES:
        (tmp_path / f"{table}.toml").write_text(f'source = "{table}/*"\ntable = "{table}"\n')
        query(dsn, f"CREATE TABLE {table} (a int)")
    monkeypatch.setenv("LOADER_DSN", dsn)
    monkeypatch.setenv("LOADER_SPECS", str(tmp_path))
    yield
    settings.forget()


def message(
    id_: str, bucket: str, key: str, version: str | None, *, received: int = 1, **stored: Any
) -> dict[str, Any]:
    """A message of SQS about an object that was created."""
    stored = {"key": key, "versionId": version, **stored}
    told = {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": bucket}, "object": {name: each for name, each in stored.items() if each is not None}},
    }
    return {
        "messageId": id_,
        "eventSource": "aws:sqs",
        "body": json.dumps({"Records": [told]}),
        "attributes": {"ApproximateReceiveCount": str(received)},
    }


def put(s3: Any, id_: str, key: str, text: bytes, **stored: Any) -> dict[str, Any]:
    return message(id_, s3.bucket, key, s3.put(key, text), size=len(text), **stored)


def deliver(*messages: dict[str, Any]) -> list[str]:
    """The ids of those that come again."""
    return [each["itemIdentifier"] for each in handler({"Records": list(messages)}, Context())["batchItemFailures"]]


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.usefixtures("function")
def test_a_batch_of_ten(dsn: str, s3: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One is bad, three are for a table whose turn another load has: those four come again, and the turn is waited for
    once. The others are loaded, each by itself."""
    monkeypatch.setattr("loader.aws.handler.TURN_PATIENCE", 0.1)
    messages = [put(s3, f"trip-{number}", f"trips/{number}.csv", b"a\n%d\n" % number) for number in range(6)]
    messages[2:2] = [put(s3, f"ride-{number}", f"rides/{number}.csv", b"a\n1\n") for number in range(3)]
    messages.insert(1, put(s3, "bad", "trips/bad.csv", b"a\nx\n"))
    with held(dsn, "rides"):
        assert deliver(*messages) == ["bad", "ride-0", "ride-1", "ride-2"]
    assert query(dsn, "SELECT a FROM trips ORDER BY a") == [(number,) for number in range(6)]
    assert query(dsn, "SELECT key, state FROM loader.loads ORDER BY load_id") == [
        ("trips/0.csv", "loaded"),
        ("trips/bad.csv", "failed"),
        *((f"trips/{number}.csv", "loaded") for number in range(1, 6)),
    ]
    lines = told(capsys)
    waiting = [line for line in lines if line.get("state") == "waiting"]
    assert ["0.1 seconds" in line["error"] for line in waiting] == [True, False, False]
    assert [line["source"] for line in waiting] == [s3.uri(f"rides/{number}.csv") for number in range(3)]
    assert sum(line.get("LoadsFailed") == [1.0] for line in lines) == 1
    assert deliver(*messages[3:6]) == []  # the turn is free


@pytest.mark.usefixtures("function")
def test_a_batch_is_loaded_on_the_session_of_the_one_before(dsn: str, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Message by message; to wait for a turn in vain costs no session, either."""
    monkeypatch.setattr("loader.aws.handler.TURN_PATIENCE", 0.1)
    batches = [[put(s3, table, f"{table}/{each}.csv", b"a\n1\n") for table in TABLES] for each in range(2)]
    sessions = (
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'loader %' AND datname = current_database()"
    )
    assert deliver(*batches[0]) == []
    ((first,),) = query(dsn, sessions)
    with held(dsn, "trips"):
        assert deliver(*batches[1]) == ["trips"]
    assert query(dsn, sessions) == [(first,)]


@pytest.mark.usefixtures("function")
def test_a_small_object_costs_one_request(dsn: str, s3: Any, fault_proxy: FaultProxy) -> None:
    """A GET, however many come together or one after the other; specs of a bucket are read once."""
    settings.forget()
    specs = s3.uri("specs/")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOADER_SPECS", specs)
        for table in TABLES:
            s3.put(f"specs/{table}.toml", f'source = "{table}/*"\ntable = "{table}"\n'.encode())
        assert deliver(put(s3, "first", "trips/first.csv", b"a\n1\n")) == []
        fault_proxy.requests.clear()
        for each in range(2):
            batch = [put(s3, f"{each}-{table}", f"{table}/{each}.csv", b"a\n1\n") for table in TABLES]
            assert deliver(*batch) == []
        asked = [(each.method, each.key) for each in fault_proxy.requests]
        keys = [f"{table}/{each}.csv" for each in range(2) for table in TABLES]
        assert asked == [("GET", key) for key in keys]
        settings.forget()


@pytest.mark.usefixtures("function")
def test_versions_of_one_object_come_in_their_order(dsn: str, s3: Any) -> None:
    """By their sequencers, whatever the queue makes of it, so that none of these snapshots is superseded."""
    sequencers = ["0A", "0B", "0C", "1A"]
    versions = [
        put(s3, each, "trips/a.csv", b"a\n%d\n" % number, sequencer=each) for number, each in enumerate(sequencers)
    ]
    assert deliver(*(versions[number] for number in (2, 0, 3, 1))) == []
    assert query(dsn, "SELECT sequencer, state FROM loader.loads ORDER BY load_id") == [
        (each, "loaded") for each in sequencers
    ]


@pytest.mark.usefixtures("function")
def test_a_load_whose_message_came_too_often_is_counted(
    dsn: str, s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """However small it is: had it ended its process each time, nobody would know how often."""
    query(dsn, "CREATE TABLE fares (a int PRIMARY KEY)")
    (tmp_path / "fares.toml").write_text('source = "fares/*"\ntable = "fares"\nmode = "merge"\n')
    new, often = (put(s3, str(each), f"fares/{each}.csv", b"a\n1\n", received=each) for each in (1, RECEIVES + 1))
    assert deliver(often, new) == []
    plans = [line["plan"] for line in told(capsys) if line["message"] == "loaded"]
    assert ["the object is small" in plan for plan in plans] == [True, False]


def asked(id_: str, size: float, key: str | None = None, sequencer: str | None = None, received: int = 1) -> Asked:
    return Asked.by(message(id_, "b", key or id_, None, size=size, sequencer=sequencer, received=received))


def ids(arranged: Sequence[Asked]) -> list[str | None]:
    return [each.message.id for each in arranged]


def test_small_objects_do_not_wait_for_large_ones() -> None:
    """And of large ones a batch keeps no more than it loads soon; the others are free for idle functions."""
    large = 200 << 20
    here, left = arrange(
        [asked("c", large), asked("b", large + 1), asked("x", SMALL), asked("a", 2**33), asked("y", 1)]
    )
    assert (ids(here), ids(left)) == (["x", "y", "c"], ["b", "a"])
    nameless = message("", "b", "k", None, size=2**34)
    del nameless["messageId"]
    here, left = arrange([asked("a", 2**33), Asked.by(nameless), asked("b", 2**33)])
    assert (ids(here), ids(left)) == (["a", None], ["b"])  # it cannot be handed back


@pytest.mark.usefixtures("function")
def test_what_is_left_to_others_is_handed_back_first(dsn: str, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is loaded, that is; and it is no failure."""
    large, larger = (put(s3, str(size), f"trips/{size}.csv", b"a\n1\n") for size in (2**40, 2**41))
    for each, size in ((large, 2**40), (larger, 2**41)):  # as their events tell
        each["body"] = each["body"].replace('"size": 4', f'"size": {size}')
    assert deliver(larger, large, put(s3, "small", "trips/small.csv", b"a\n2\n")) == [str(2**41)]
    assert query(dsn, "SELECT a FROM trips ORDER BY a") == [(1,), (2,)]
    left, begun, *_ = told(capsys)
    assert (left["state"], left["message_id"], begun["message"]) == ("left", str(2**41), "begun")
    assert deliver(larger) == []


def test_who_comes_again_comes_in_another_order() -> None:
    """After those that come for the first time. So one whose load kills the function each time keeps each of the nine
    beside it from its turn a few times, and none for ever."""
    names = [f"m{number}" for number in range(10)]
    first = [ids(arrange([asked(name, 1, received=received) for name in names])[0]) for received in range(1, 20)]
    assert first[0] == names
    for victim in names[1:]:
        assert any(order.index(victim) < order.index("m0") for order in first[1:9])
    here, _ = arrange([asked("again", 1, received=2), asked("new", 1)])
    assert ids(here) == ["new", "again"]


messages = st.lists(
    st.builds(
        asked,
        st.text("abc", min_size=1, max_size=2),
        st.sampled_from([0, 1, SMALL, SMALL + 1, BATCH_BYTES, 2**40]),
        st.sampled_from("xyz"),
        st.sampled_from([None, "0A", "0B", "0C"]),
        st.integers(1, 200),
    ),
    min_size=1,
    max_size=10,
)


@given(messages)
def test_every_message_is_answered_for(batch: list[Asked]) -> None:
    """Once; all small ones are loaded, and of large ones at least one; no version is loaded before an older one."""
    here, left = arrange(batch)
    assert sorted(map(id, here + left)) == sorted(map(id, batch))
    assert any(each.size > SMALL for each in here) or not any(each.size > SMALL for each in batch)
    for key in "xyz":
        order = [each.created[0].sequencer or "" for each in here + left if each.created[0].key == key]
        assert order == sorted(order)


def test_one_that_kills_its_function_keeps_nobody_from_his_turn(dsn: str, s3: Any, tmp_path: Path) -> None:
    """The real function, which dies of it and answers nothing: what was loaded is loaded once, and what was behind it
    is as soon as it comes before it."""
    (tmp_path / "specs").mkdir()
    (tmp_path / "killing").mkdir()
    (tmp_path / "killing" / "hook.py").write_text("import os\ndef die(batch):\n    os._exit(9)\n")
    query(dsn, "CREATE TABLE trips (a int)")
    for name, hook in {"trips": "", "killer": '[transform]\npython = "hook:die"\n'}.items():
        (tmp_path / "specs" / f"{name}.toml").write_text(f'source = "{name}/*"\ntable = "trips"\n{hook}')
    environment = {"LOADER_DSN": dsn, "LOADER_SPECS": str(tmp_path / "specs"), "LOADER_HOOKS": "killing"}
    keys = ["trips/1.csv", "killer/2.csv", "trips/3.csv"]
    batch = [put(s3, key, key, b"a\n%d\n" % number) for number, key in enumerate(keys)]
    with Runtime("loader.handler.handler", environment | {"PYTHONPATH": str(tmp_path)}) as function:
        for received in range(1, 9):
            for each in batch:
                each["attributes"]["ApproximateReceiveCount"] = str(received)
            with pytest.raises(FunctionError, match="exited with 9"):
                function.invoke({"Records": batch}, timeout=PATIENCE)
            assert query(dsn, "SELECT a FROM trips ORDER BY a") in ([(0,)], [(0,), (2,)])
            if len(query(dsn, "SELECT a FROM trips")) == 2:
                return
    pytest.fail("the one behind the killer was never loaded")


# --- nobody starves


def played(arriving: Sequence[tuple[float, float]], *, functions: int) -> tuple[list[int], float]:
    """Loads into one table, each by when its message comes and the seconds that it takes, played with a clock of its
    own: functions take the messages that are due, turns go in the order in which they were asked for, and who does not
    get his in time goes back. Gives the receives of each message, and the seconds that were paid for waiting."""
    due = [(at, number) for number, (at, _) in enumerate(arriving)]
    free = [0.0] * functions
    receives = [0] * len(arriving)
    turn = paid = 0.0  # when the last who waits will have had his turn
    heapq.heapify(due)
    while due:
        (at, number), idle = heapq.heappop(due), heapq.heappop(free)
        now = max(at, idle)
        receives[number] += 1
        waited = max(0.0, turn - now)
        if waited <= TURN_PATIENCE:
            turn = now + waited + arriving[number][1]
            heapq.heappush(free, turn)
        else:
            heapq.heappush(free, now + TURN_PATIENCE)
            later = wait_of(Message(received=receives[number]))
            heapq.heappush(due, (now + TURN_PATIENCE + later, number))
        paid += min(waited, TURN_PATIENCE)
    return receives, paid


def test_small_loads_get_their_turn_the_first_time() -> None:
    """However many there are: among them a turn never takes as long as anybody waits."""
    receives, paid = played([(0, 0.02)] * 1000, functions=10)
    assert set(receives) == {1}
    assert paid <= 1000 * 9 * 0.02 + 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_nobody_starves_behind_large_loads(seed: int) -> None:
    """Neither those that were there first, nor those that come while the table is taken for nine tenths of the time:
    nobody needs half of the receives that there are for waiting, and what is paid for it is little."""
    random.seed(seed)
    backlog = [(0.0, 0.02)] * 200 + [(0.0, 300.0)] * 20
    stream = [(2.0 * number, 0.02) for number in range(2000)] + [(66.0 * number, 60.0) for number in range(60)]
    for arriving in (backlog, stream):
        receives, paid = played(arriving, functions=4)
        assert max(receives) <= WAITS / 2
        assert paid / len(arriving) < 3 * TURN_PATIENCE
