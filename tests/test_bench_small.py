"""The bench of small files: what it counts, whom it lets wait, and that its contenders do the same."""

from __future__ import annotations

import io
import struct
import threading
from pathlib import Path

import boto3
import psycopg2
import pytest
from support.postgres import query

from bench.hosts import Elsewhere
from bench.objects import serving
from bench.rig import Server
from bench.servers import _psql
from bench.small import contention
from bench.small.__main__ import parse
from bench.small.churn import Look, grown
from bench.small.contention import Queue, visibility
from bench.small.data import make_files, order_numbers
from bench.small.files import TABLE, WARM, Cost, run_client
from bench.small.proxy import Counts, Frontend, proxied


def of(dsn: str) -> Server:
    return Server(dsn, _psql(), Elsewhere())


# --- the proxy


def test_psycopg2s_own_statements_are_counted(dsn: str) -> None:
    """BEGIN and COMMIT are round trips like any other; a COPY has two."""
    rows = "".join(f"{number},{'x' * 50}\n" for number in range(20_000))
    query(dsn, "CREATE TABLE t (n int, a text)")
    with proxied(dsn, 0.002) as proxy:
        connection = psycopg2.connect(proxy.dsn)
        before = proxy.counts
        cursor = connection.cursor()
        cursor.copy_expert("COPY t FROM STDIN (FORMAT csv)", io.StringIO(rows))
        connection.commit()
        assert proxy.counts - before == Counts(sessions=0, statements=3, commits=1, round_trips=4)
        cursor.execute("SAVEPOINT s; SELECT 1")
        cursor.execute("ROLLBACK TO s")
        cursor.execute("SELECT string_agg(n || ',' || a || E'\\n', '' ORDER BY n) FROM t")
        assert cursor.fetchone() == (rows,)
        connection.rollback()
        assert proxy.counts - before == Counts(sessions=0, statements=8, commits=1, round_trips=9)
        connection.autocommit = True
        cursor.execute("SELECT 1")
        assert proxy.counts - before == Counts(sessions=0, statements=9, commits=2, round_trips=10)
        connection.close()
        assert proxy.counts.sessions == 1


def test_messages_are_counted_however_they_are_cut() -> None:
    def message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!I", 4 + len(body)) + body

    start = struct.pack("!II", 8, 80877103) + struct.pack("!II", 8, 196608)
    sent = start + b"".join(
        [
            message(b"Q", b"begin\0"),
            message(b"Q", b"COPY t FROM STDIN\0"),
            message(b"d", bytes(70_000)),
            message(b"c", b""),
            message(b"Q", b"COMMIT\0"),
            message(b"X", b""),
        ]
    )
    for step in (1, 7, 4096, len(sent)):
        counts = Counts()
        frontend = Frontend(counts, threading.Lock())
        for at in range(0, len(sent), step):
            frontend.feed(sent[at : at + step])
        assert counts == Counts(sessions=1, statements=3, commits=1, round_trips=6), step


# --- the files


def test_half_of_a_merge_is_new_and_no_order_is_new_twice() -> None:
    files = [order_numbers(number * 100, 100, 1000) for number in range(5)]
    assert all(len(set(each)) == 100 for each in files)
    assert all(sum(number < 1000 for number in each) == 50 for each in files)
    new = [number for each in files for number in each if number >= 1000]
    assert len(set(new)) == len(new)


def test_the_loader_and_the_floor_make_the_same_table(dsn: str, tmp_path: Path) -> None:
    """And no statement is missed: those of the floor are known."""
    make_files(tmp_path / "orders", WARM + 2, 10, table_rows=100_000)
    server = of(dsn)
    digests = set()
    with serving(tmp_path) as objects, proxied(dsn) as proxy:
        for kind in ("loader", "floor"):
            cost, counts = run_client(server, objects, kind, "merge", tmp_path / "orders", via=proxy)
            assert 0 < cost.wall <= cost.slowest
            assert cost.server_cpu is None
            digests.add(server.digest(TABLE))
    assert len(digests) == 1
    assert counts == Counts(sessions=1, statements=8, commits=2, round_trips=10)


def test_a_cost_is_of_one_file() -> None:
    assert Cost.of([0.1, 0.3], 0.1, 0.5) == Cost(wall=200, slowest=300, client_cpu=50, server_cpu=250)


# --- contention


def test_a_message_that_was_handed_back_comes_again_when_it_is_due() -> None:
    now = [100.0]
    messages = Queue(["a", "b"], clock=lambda: now[0])
    first, second = messages.take(10)
    assert (first.key, second.key) == ("a", "b")
    messages.hand_back(first, 15)
    messages.hand_back(second, 5)
    now[0] += 15
    assert messages.take() == [second]
    assert second.received == 2
    messages.done()
    assert messages.take(10) == [first]
    messages.done()
    assert messages.take() == []


def test_nobody_waits_for_what_a_worker_that_failed_had_taken() -> None:
    messages = Queue(["a", "b"])
    messages.take(2)
    with pytest.raises(KeyError), messages.taking():
        raise KeyError
    messages.done()
    assert messages.take() == []


def test_what_a_function_asks_of_its_queue_is_heard() -> None:
    with visibility() as (hidden, endpoint):
        client = boto3.client(
            "sqs", endpoint_url=endpoint, region_name="x", aws_access_key_id="x", aws_secret_access_key="x"
        )
        client.change_message_visibility(QueueUrl=f"{endpoint}/0/uploads", ReceiptHandle="7-1", VisibilityTimeout=15)
        client.close()
    assert hidden == {"7-1": 15.0}


def test_functions_empty_a_queue_together(dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run itself checks that every file was loaded. As many sessions of the floor do the same."""
    with serving(tmp_path) as objects:
        contention.measure(of(dsn), objects, files=4, rows=2, tables=(2,), functions=(2,), batches=(1, 10))
    told = capsys.readouterr().out
    assert "| loader | 2 | 2 | 1 | " in told
    assert "| loader | 2 | 2 | 10 | " in told
    assert "| floor | 2 | 2 |  | " in told
    ((orders, shipped),) = query(dsn, "SELECT count(*), count(*) FILTER (WHERE status = 'shipped') FROM orders_1")
    assert (orders, shipped) == (50_002, 4)


# --- churn


def test_growth_is_that_of_the_second_half() -> None:
    """What is new only grows from nothing; what autovacuum takes back stays."""
    looks = [
        {"pg_class": Look(102_400, 5, 1)},
        {"pg_class": Look(204_800, 9, 1)},
        {"pg_class": Look(204_800, 0, 2), "loader.staging": Look(8192, 0, 0)},
        {"pg_class": Look(204_800, 7, 3), "loader.staging": Look(16384, 1, 0)},
        {"pg_class": Look(204_800, 8, 4), "loader.staging": Look(24576, 2, 0)},
    ]
    assert grown(looks, 1000).splitlines()[2:] == [
        "| pg_class | 100 | 200 | 200 | 200 | 200 | 0 | 8 | 3 |",
        "| loader.staging | 0 | 0 | 8 | 16 | 24 | 33 | 2 | 0 |",
    ]


def test_each_part_has_defaults_of_its_own() -> None:
    assert parse(["churn"])[1].files == 10_000
    assert parse(["files"])[1].rows == (1, 100, 1000)
    part, told = parse(["contention", "--files", "8", "--tables", "1"])
    assert (part, told.files, told.tables, told.functions) == ("contention", 8, (1,), (1, 2, 4))
    assert told.batches == (1, 10)
    with pytest.raises(SystemExit):
        parse(["files", "--modes", "upsert"])
