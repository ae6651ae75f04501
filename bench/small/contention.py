"""Many files for one table, or for ten, and several functions at once: who waits, who gives up, what it costs.

Each function is the real handler under the real runtime client, and gets messages as the event source mapping of a
queue hands them out: one batch at a time to each function, again when the function has said so, and as often as it
takes.
"""

from __future__ import annotations

import heapq
import json
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from typing import Any
from urllib.parse import quote

import psycopg2
import psycopg2.errors

from bench.figures import table
from bench.function import HANDLER
from bench.objects import BUCKET, Objects
from bench.rig import Server
from bench.small.client import Load, copying
from bench.small.data import make_files, make_table
from bench.small.files import TABLE_ROWS
from twin.runtime import FunctionError, Runtime

HIDDEN = 30.0
"""Seconds until a message comes again of which the function did not say when."""

_ARN = "arn:aws:sqs:us-east-1:000000000000:uploads"


@dataclass(order=True, slots=True)
class Message:
    """``due``: when it is handed out, by the queue's clock. ``received``: how often it was."""

    due: float
    number: int
    key: str = field(compare=False)
    received: int = field(default=0, compare=False)

    @property
    def receipt(self) -> str:
        return f"{self.number}-{self.received}"


class Queue:
    """Messages, each handed to one taker at a time, the longest due first. ``clock`` gives seconds."""

    def __init__(self, keys: Sequence[str], clock: Any = time.monotonic) -> None:
        self._clock = clock
        now = clock()
        self._due = [Message(now, number, key) for number, key in enumerate(keys)]
        self._out = 0
        self._over = False
        self._changed = threading.Condition()

    def take(self, most: int = 1) -> list[Message]:
        """The next that are due, at most so many, after a wait for the first if need be; none when all are done."""
        with self._changed:
            while (self._due or self._out) and not self._over:
                left = self._due[0].due - self._clock() if self._due else None
                if left is not None and left <= 0:
                    return [*self._taken(most)]
                self._changed.wait(left)
            return []

    def _taken(self, most: int) -> Iterator[Message]:
        for _ in range(most):
            if not self._due or self._due[0].due > self._clock():
                return
            message = heapq.heappop(self._due)
            message.received += 1
            self._out += 1
            yield message

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Where the body fails, `take` gives nothing any more, and those that wait in it stop."""
        try:
            yield
        except BaseException:
            with self._changed:
                self._over = True
                self._changed.notify_all()
            raise

    def done(self) -> None:
        """A message that was taken is through."""
        with self._changed:
            self._out -= 1
            self._changed.notify_all()

    def hand_back(self, message: Message, seconds: float) -> None:
        """A message that was taken comes again, after so many seconds."""
        with self._changed:
            self._out -= 1
            message.due = self._clock() + seconds
            heapq.heappush(self._due, message)
            self._changed.notify_all()


@dataclass(slots=True)
class Outcome:
    """``waits``: seconds from when a file was there until it was loaded, of each. ``gave_up``: receives in which it was
    not. ``paid``: seconds of all invocations."""

    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)
    gave_up: int = 0
    received: int = 0
    paid: float = 0.0
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def note(self, messages: Sequence[Message], at: float, began: float, failed: Collection[int]) -> None:
        """An invocation has ended that began ``at``, of which the messages of the numbers ``failed`` come again; all
        were there when everything ``began``."""
        now = time.monotonic()
        with self._guard:
            self.paid += now - at
            self.gave_up += len(failed)
            self.received = max(self.received, *(message.received for message in messages))
            self.waits += [now - began for message in messages if message.number not in failed]

    def figures(self) -> tuple[str, ...]:
        """As `HEAD` names them, from the fifth on."""
        waits = sorted(self.waits)
        return (
            f"{len(waits) / self.seconds:.1f}",
            f"{waits[len(waits) // 2]:.1f}",
            f"{waits[-1]:.1f}",
            f"{self.gave_up}",
            f"{self.received}",
            f"{self.paid / len(waits) * 1000:.0f}",
        )


HEAD = (
    *("", "tables", "at once", "batch", "files/s", "median wait s", "longest wait s", "receives in vain"),
    *("most receives of a file", "ms paid a file"),
)


def measure(
    server: Server,
    objects: Objects,
    *,
    files: int,
    rows: int,
    tables: Sequence[int],
    functions: Sequence[int],
    batches: Sequence[int],
) -> None:
    """One run for each number of tables, of functions and of messages in a batch; beside it as many sessions of the
    floor."""
    objects.versioned = True
    lines = []
    for several, number, batch in product(tables, functions, (*batches, 0)):
        keys = _prepared(server, objects, files // several, rows, several)
        if batch:
            outcome = _by_functions(server, objects, keys, number, batch)
        else:
            outcome = _by_sessions(server, objects, keys, number)
        named = ("loader" if batch else "floor", str(several), str(number), str(batch or ""))
        lines.append((*named, *outcome.figures()))
        print(f"{named[0]:6} {several:2} tables, {number} at once, batch {named[3] or '-'}: {lines[-1][4]} files/s")
    print(table(HEAD, lines), flush=True)


def _prepared(server: Server, objects: Objects, files: int, rows: int, tables: int) -> list[str]:
    """So many tables as they are before, files for each, and nothing in the ledger. Gives the files' keys, now for
    this table, now for that."""
    server.forget_loads()
    keys = []
    for number in range(tables):
        name, table_rows = f"orders_{number}", TABLE_ROWS // tables
        make_table(server, name, rows=table_rows, keyed=True)
        made = make_files(objects.folder / name, files, rows, table_rows=table_rows)
        keys += [path.relative_to(objects.folder).as_posix() for path in made]
    server.checkpoint()
    return sorted(keys, key=lambda key: key.rpartition("/")[2])


def _by_functions(server: Server, objects: Objects, keys: Sequence[str], functions: int, batch: int) -> Outcome:
    specs = objects.folder / "specs"
    specs.mkdir(exist_ok=True)
    for name in {key.partition("/")[0] for key in keys}:
        told = f'source = "{name}/*.csv"\ntable = "{name}"\nmode = "merge"\nkey = ["id"]\n'
        (specs / f"{name}.toml").write_text(told)
    with ExitStack() as stack:
        hidden, endpoint = stack.enter_context(visibility())
        environment = {
            **objects.environment,
            "LOADER_DSN": server.dsn,
            "LOADER_SPECS": str(specs),
            "AWS_ENDPOINT_URL_SQS": endpoint,
        }
        running = [stack.enter_context(Runtime(HANDLER, environment)) for _ in range(functions)]
        outcome = drain(Queue(keys), running, objects, hidden, batch)
    loaded = int(server.ask("SELECT count(*) FROM loader.loads WHERE state = 'loaded'"))
    if loaded != len(keys):
        raise SystemExit(f"{loaded} of {len(keys)} files were loaded")
    return outcome


def _by_sessions(server: Server, objects: Objects, keys: Sequence[str], sessions: int) -> Outcome:
    """Nobody takes turns: rows that two merge at once are for PostgreSQL to keep apart. No two files have an order in
    common that is new, but they may have an old one; a deadlock is tried again."""
    messages, outcome, began = Queue(keys), Outcome(), time.monotonic()

    def work(_: int) -> None:
        with messages.taking(), ExitStack() as stack:
            loads: dict[str, Load] = {}
            while taken := messages.take():
                (message,) = taken
                name, at = message.key.partition("/")[0], time.monotonic()
                if name not in loads:
                    loads[name] = stack.enter_context(copying("merge", name, server.dsn))
                try:
                    loads[name](objects.folder / message.key)
                except psycopg2.errors.DeadlockDetected:
                    stack.close()
                    loads.clear()
                    outcome.note(taken, at, began, [message.number])
                    messages.hand_back(message, 0)
                else:
                    outcome.note(taken, at, began, [])
                    messages.done()

    with ThreadPoolExecutor(sessions) as pool:
        list(pool.map(work, range(sessions)))
    outcome.seconds = time.monotonic() - began
    return outcome


def drain(
    messages: Queue, functions: Sequence[Runtime], objects: Objects, hidden: dict[str, float], batch: int
) -> Outcome:
    """Hand out messages until all are through, up to ``batch`` at a time to each function."""
    outcome, began = Outcome(), time.monotonic()

    def work(function: Runtime) -> None:
        with messages.taking():
            empty(function)

    def empty(function: Runtime) -> None:
        while taken := messages.take(batch):
            at = time.monotonic()
            try:
                answer = function.invoke({"Records": [record_of(message, objects) for message in taken]})
                failed = {int(each["itemIdentifier"]) for each in answer["batchItemFailures"]}
            except FunctionError as error:
                print(f"{', '.join(message.key for message in taken)}: {error}", flush=True)
                failed = {message.number for message in taken}
            outcome.note(taken, at, began, failed)
            for message in taken:
                if message.number in failed:
                    messages.hand_back(message, hidden.pop(message.receipt, HIDDEN))
                else:
                    messages.done()

    with ThreadPoolExecutor(len(functions)) as pool:
        list(pool.map(work, functions))
    outcome.seconds = time.monotonic() - began
    return outcome


def record_of(message: Message, objects: Objects) -> dict[str, Any]:
    """A message as Lambda hands it to a function: S3's notification within SQS's (S3 User Guide, "Event message
    structure"; Lambda developer guide, "Using Lambda with Amazon SQS")."""
    path = objects.folder / message.key
    stored = {
        "key": quote(message.key),
        "size": path.stat().st_size,
        "versionId": objects.version(path),
        "sequencer": f"{message.number:018X}",
    }
    told = {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "eventTime": "2026-01-01T00:00:00.000Z",
        "s3": {"bucket": {"name": BUCKET}, "object": stored},
    }
    return {
        "messageId": str(message.number),
        "receiptHandle": message.receipt,
        "body": json.dumps({"Records": [told]}),
        "attributes": {"ApproximateReceiveCount": str(message.received)},
        "eventSource": "aws:sqs",
        "eventSourceARN": _ARN,
        "awsRegion": "us-east-1",
    }


@contextmanager
def visibility() -> Iterator[tuple[dict[str, float], str]]:
    """As much of SQS as a function asks for: ChangeMessageVisibility. Gives the seconds that were asked for, by the
    message's receipt, and the endpoint."""
    hidden: dict[str, float] = {}

    class Api(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            hidden[asked["ReceiptHandle"]] = float(asked["VisibilityTimeout"])
            self.send_response(200)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="bench-visibility")
    thread.start()
    try:
        yield hidden, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
