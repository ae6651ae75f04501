"""One object by several processes: what one load gives, whatever becomes of them."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clients import wait_for
from support.clock import PATIENCE
from support.postgres import query

import loader
from loader import cli
from loader.pipeline import load

HOOKS = r"""
import os, pathlib, signal, sys, time

def _first(name):
    try:
        pathlib.Path(os.environ["MARKS"], name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

def die_once(batch):
    if 41_002 in batch.column("id").to_pylist() and _first("died"):
        os.kill(os.getpid(), signal.SIGKILL)
    return batch

def _answers_once(how):
    process = sys.modules["__main__"]._Process

    def answer(self, **message):
        if "report" in message and _first("answered"):
            how(self)
        else:
            write(self, **message)

    if process._answer.__name__ != "answer":
        write, process._answer = process._answer, answer

def _torn(process):
    process._answers.write(b'{"report": {"load_id": 1, "att')
    process._answers.flush()
    os.kill(os.getpid(), signal.SIGKILL)

def torn(batch):
    _answers_once(_torn)
    return batch

def _garbled(text):
    def write(process):
        process._answers.write(text)
        process._answers.flush()
        time.sleep(600)
    return write

def no_json(batch):
    _answers_once(_garbled(b"\xff{nothing\n"))
    return batch

def no_message(batch):
    _answers_once(_garbled(b'["report"]\n'))
    return batch

def no_report(batch):
    _answers_once(_garbled(b'{"report": {"kept": 5}}\n'))
    return batch

def no_place(batch):
    _answers_once(_garbled(b'{"at": [Infinity, null]}\n'))
    return batch

def later(batch):
    process = sys.modules["__main__"]._Process
    if process._answer.__name__ != "answer":
        write = process._answer

        def answer(self, **message):
            self._answers.write(b'{"of a later version": {"what": "not known"}}\n')
            message = {name: [*value, 7] if name == "at" else {**value, "later": 1} for name, value in message.items()}
            write(self, **message, later=1)

        process._answer = answer
    return batch

def die(batch):
    if 41_002 in batch.column("id").to_pylist():
        os.kill(os.getpid(), signal.SIGKILL)
    return batch

def loud(batch):
    print("{nothing that could be JSON", flush=True)
    return batch

def failing(batch):
    if 41_002 in batch.column("id").to_pylist():
        raise KeyError("of 41,002")
    return batch

def slow(batch):
    if batch.column("id")[0].as_py() > 20_000:
        pathlib.Path(os.environ["MARKS"], str(os.getpid())).touch()
        while not pathlib.Path(os.environ["MARKS"], "go on").exists():
            time.sleep(0.01)
    return batch
"""

SPEC: dict[str, Any] = {
    "table": "many",
    "mode": "merge",
    "key": ["id"],
    "columns": {"id": "bigint", "amount": "numeric(12,2)", "note": "text"},
    "rejects": {"max_rows": 1000},
}
ROWS = 60_000


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Shards of some hundred kilobytes, a package of hooks, and a folder for their marks."""
    monkeypatch.setattr("loader.sharding.workers.LEAST", 100_000)
    monkeypatch.setattr("loader.engine.attempts.available_cores", lambda: 3)
    monkeypatch.setattr("loader.sharding.workers.backoff", lambda _attempt: 0.05)
    for folder in ("worker_hooks", "marks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "worker_hooks" / "of.py").write_text(HOOKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LOADER_HOOKS", "worker_hooks")
    monkeypatch.setenv("MARKS", str(tmp_path / "marks"))
    yield tmp_path / "marks"
    for name in [name for name in sys.modules if name.startswith("worker_hooks")]:
        del sys.modules[name]


def text() -> str:
    """Records with line ends and quotes inside of quotes; some rejected, some twice."""
    notes = ["x", '"a, b"', '"two\nlines"', '"q ""q"""', '""', '"1,2,\n3,4,"']
    lines = ["id,amount,note"]
    for number in range(ROWS):
        amount = f"{number % 997}.{number % 100:02}" if number % 5003 else "much"
        lines.append(f"{number if number % 1000 else max(number - 7, 0)},{amount},{notes[number % len(notes)]}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "lines.csv"
    made.write_text(text())
    return made


TABLE = "SELECT count(*), md5(string_agg(t::text, '|' ORDER BY id)) FROM {} t"
REJECTS = (
    "SELECT record_number, line_number, byte_offset, column_name, reason, raw, raw_length FROM loader.rejects"
    " JOIN loader.loads USING (load_id) WHERE target = 'public.{}' ORDER BY 1"
)


def assert_as_one_load(dsn: str, path: Path, report: loader.LoadReport, **changes: Any) -> None:
    """What is in the table and among the rejects, the counts, and that nothing is left over."""
    one = load(str(path), {**SPEC, "table": "one", **changes}, dsn=dsn)
    for statement in (TABLE, REJECTS):
        assert query(dsn, statement.format("many")) == query(dsn, statement.format("one"))
    counts = ("rows_read", "rows_inserted", "rows_duplicate", "rows_rejected", "rejects_by_column")
    assert [getattr(report, name) for name in counts] == [getattr(one, name) for name in counts]
    assert left(dsn) == []


def left(dsn: str) -> list[tuple[Any, ...]]:
    """Tables of shards, and what vouches for them."""
    runs = "SELECT run::text FROM loader.shards UNION ALL SELECT record_number::text FROM loader.shard_rejects"
    return query(dsn, f"SELECT tablename::text FROM pg_tables WHERE tablename LIKE 'staging%%' UNION ALL {runs}")


def shards(dsn: str, load_id: int | None) -> dict[str, Any]:
    return query(dsn, "SELECT shards FROM loader.loads WHERE load_id = %s", load_id)[0][0]


def test_workers_load_what_one_process_does(dsn: str, path: Path) -> None:
    report = load(str(path), SPEC, dsn=dsn, workers=2)
    assert report.rows_rejected > 0
    assert report.rows_duplicate > 0
    told = shards(dsn, report.load_id)
    assert (told["shards"], told["proved"], told["guessed"]) == (8, 8, 7)
    assert report.notes[0].startswith("loaded in 8 shards by ")
    assert_as_one_load(dsn, path, report)
    assert load(str(path), SPEC, dsn=dsn, workers=2).state == "skipped"


def test_from_s3_and_told_how_far_they_are(dsn: str, s3: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment's S3, for a client cannot be handed to another process."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    s3.put("lines.csv", path.read_bytes())
    seen: list[loader.engine.counters.Progress] = []
    report = load(s3.uri("lines.csv"), SPEC, dsn=dsn, workers=3, progress=seen.append)
    assert_as_one_load(dsn, path, report)
    assert seen
    assert all(0 <= each.bytes_read <= each.size for each in seen)
    alone = load(s3.uri("lines.csv"), SPEC, dsn=dsn, workers=2, s3=s3.client, force=True)
    assert alone.notes[0] == "loaded by one worker: the S3 client that was given cannot be handed to other processes"


def test_a_worker_that_is_killed_costs_its_shard(dsn: str, path: Path, small: Path) -> None:
    hook = {"transform": {"python": "of:die_once"}}
    report = load(str(path), {**SPEC, **hook}, dsn=dsn, workers=2)
    assert (small / "died").exists()
    assert report.state == "loaded"
    assert_as_one_load(dsn, path, report)


@pytest.mark.parametrize("how", ["torn", "no_json", "no_message", "no_report", "no_place"])
def test_a_worker_whose_answer_cannot_be_read_counts_as_dead(dsn: str, path: Path, small: Path, how: str) -> None:
    """Killed in the middle of a line, or gone mad: its process is ended, and the shard is loaded again."""
    report = load(str(path), {**SPEC, "transform": {"python": f"of:{how}"}}, dsn=dsn, workers=2)
    assert (small / "answered").exists()
    assert (report.state, report.rows_read) == ("loaded", ROWS)
    told = shards(dsn, report.load_id)
    assert told["proved"] == told["shards"]


def test_a_worker_of_a_later_version_is_understood(dsn: str, path: Path) -> None:
    """One that was begun while the program was replaced: what it says besides is ignored."""
    report = load(str(path), {**SPEC, "transform": {"python": "of:later"}}, dsn=dsn, workers=2, progress=lambda _: None)
    assert_as_one_load(dsn, path, report)


def test_a_worker_that_cannot_be_begun(dsn: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For want of memory or processes: a sentence, and the same call may succeed later."""
    monkeypatch.setattr("loader.sharding.worker.sys.executable", str(path.with_name("nosuch")))
    with pytest.raises(loader.LoaderError, match="a worker process could not be started") as caught:
        load(str(path), SPEC, dsn=dsn, workers=2)
    assert caught.value.retryable
    assert query(dsn, "SELECT state, retryable FROM loader.loads") == [("failed", True)]


def test_a_shard_that_kills_every_worker_fails_the_load(dsn: str, path: Path) -> None:
    """After its attempts, with a reason in the ledger; what others have loaded is kept for another try."""
    with pytest.raises(loader.LoaderError, match=r"the worker for shard \d ended with -9") as caught:
        load(str(path), {**SPEC, "transform": {"python": "of:die"}}, dsn=dsn, workers=2)
    assert caught.value.retryable
    assert caught.value.report is not None
    assert caught.value.report.state == "failed"
    assert query(dsn, "SELECT state, retryable, error FROM loader.loads") == [("failed", True, str(caught.value))]
    assert left(dsn)


def test_a_hook_may_print(dsn: str, path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = load(str(path), {**SPEC, "transform": {"python": "of:loud"}}, dsn=dsn, workers=2)
    assert_as_one_load(dsn, path, report)
    assert "nothing that could be JSON" in capfd.readouterr().err


def test_a_hook_that_fails_fails_the_load(dsn: str, path: Path) -> None:
    """As it does in one process: it is the object's own fault, so nothing is kept."""
    with pytest.raises(loader.TransformError, match="of 41,002"):
        load(str(path), {**SPEC, "transform": {"python": "of:failing"}}, dsn=dsn, workers=2)
    assert query(dsn, "SELECT state, retryable FROM loader.loads") == [("failed", False)]
    assert query(dsn, "SELECT to_regclass('many')") == [(None,)]
    assert left(dsn) == []


@pytest.mark.parametrize("name", ["few.csv", "lines.csv.gz"])
def test_what_is_not_split_is_loaded_by_one(dsn: str, path: Path, name: str) -> None:
    """And the ledger says why."""
    if name == "few.csv":
        path.with_name(name).write_text("id,amount,note\n1,2,3\n")
    else:
        path.with_name(name).write_bytes(gzip.compress(path.read_bytes()))
    report = load(str(path.with_name(name)), SPEC, dsn=dsn, workers=2)
    reason = "are one shard" if name == "few.csv" else "compressed"
    assert any(note.startswith("loaded by one worker: ") and reason in note for note in report.notes)
    assert query(dsn, "SELECT notes[1] FROM loader.loads") == [(report.notes[0],)]


def test_a_type_that_was_inferred_too_narrow(dsn: str, tmp_path: Path) -> None:
    """A shard finds out; the object is planned again, and all is of the wider type."""
    path = tmp_path / "wide.csv"
    path.write_text("id,what\n" + "".join(f"{number},{number}\n" for number in range(40_000)) + "40000,no number\n")
    report = load(str(path), {"table": "many"}, dsn=dsn, workers=2)
    assert (report.rows_inserted, report.attempts) == (40_001, 2)
    assert query(dsn, "SELECT what FROM many WHERE id = 40000") == [("no number",)]
    assert left(dsn) == []


def test_a_table_that_refuses(dsn: str, path: Path) -> None:
    """At the merge: the load begins again with care, and the records are rejects, numbered as in the whole file."""
    for table in ("many", "one"):
        query(dsn, f"CREATE TABLE {table} (id bigint PRIMARY KEY, amount numeric(12,2), note text CHECK (id <> 41001))")
    report = load(str(path), SPEC, dsn=dsn, workers=2)
    assert report.rejects_by_reason["check_violation"] == 1
    assert_as_one_load(dsn, path, report)


SCRIPT = """
import sys
import loader.engine.attempts
import loader.sharding.workers
loader.engine.attempts.available_cores = lambda: 2
loader.sharding.workers.LEAST = 100_000
from loader.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def resting(dsn: str, path: Path, small: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[str]]]:
    """A command whose workers have loaded the first shards, and wait in the others; and the command."""
    spec = tmp_path / "spec.toml"
    spec.write_text(
        'table = "many"\nmode = "merge"\nkey = ["id"]\n[columns]\nid = "bigint"\namount = "numeric(12,2)"\n'
        'note = "text"\n[rejects]\nmax_rows = 1000\n[transform]\npython = "of:slow"\n'
    )
    command = [sys.executable, "-c", SCRIPT, "load", str(path), "--spec", str(spec), "--dsn", dsn, "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: through(dsn) >= 2 and len(workers(small)) == 2)
        yield process, command
    finally:
        (small / "go on").touch()
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def through(dsn: str) -> int:
    if query(dsn, "SELECT to_regclass('loader.shards')") == [(None,)]:
        return 0
    return int(query(dsn, "SELECT count(*) FROM loader.shards WHERE report IS NOT NULL")[0][0])


def workers(marks: Path) -> set[int]:
    """The processes that wait in a shard, and are still there."""
    pids = {int(mark.name) for mark in marks.iterdir() if mark.name.isdigit()}
    return {pid for pid in pids if alive(pid)}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_when_the_command_is_killed_its_workers_end(
    resting: tuple[subprocess.Popen[bytes], list[str]], dsn: str, path: Path, small: Path
) -> None:
    """At once; and the same command goes on with what they had loaded."""
    process, command = resting
    process.kill()
    process.wait()
    wait_for(lambda: not workers(small))
    before = query(dsn, "SELECT run FROM loader.shards WHERE report IS NOT NULL ORDER BY 1")
    (small / "go on").touch()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    ((load_id, state, attempts),) = query(dsn, "SELECT load_id, state, attempts FROM loader.loads")
    assert (state, attempts) == ("loaded", 1)
    told = shards(dsn, load_id)
    assert told["runs"] == told["shards"] + told["again"]
    assert len(before) >= 2
    report = loader.LoadReport("loaded", "", "", "", **counts(dsn, load_id))
    assert_as_one_load(dsn, path, report)


def counts(dsn: str, load_id: int) -> dict[str, Any]:
    names = ("rows_read", "rows_inserted", "rows_duplicate", "rows_rejected", "rejects_by_column")
    (found,) = query(dsn, f"SELECT {', '.join(names)} FROM loader.loads WHERE load_id = %s", load_id)
    return dict(zip(names, found, strict=True))


def test_a_signal_has_them_rest(resting: tuple[subprocess.Popen[bytes], list[str]], dsn: str, small: Path) -> None:
    """Ctrl-C: what is through stays, `loader status` tells it, and the exit code is a shell's."""
    process, command = resting
    process.send_signal(signal.SIGINT)
    (small / "go on").touch()
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert b"it was interrupted" in said
    assert query(dsn, "SELECT state, error FROM loader.loads") == [("sharded", None)]
    assert not workers(small)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert query(dsn, "SELECT state FROM loader.loads") == [("loaded",)]
    assert left(dsn) == []


def test_status_tells_how_far_shards_are(
    resting: tuple[subprocess.Popen[bytes], list[str]], dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status", "1", "--json", "--dsn", dsn]) == 0
    told = __import__("json").loads(capsys.readouterr().out)
    assert told["state"] == "sharded"
    assert told["shards"]["shards"] == 8
    assert 2 <= told["shards"]["loaded"] < 8
    assert told["shards"]["under_way"] == 2
    assert told["shards"]["slowest"]["records"] > 0
