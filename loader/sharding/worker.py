"""One worker process: both ends of the pipe that it is told through which shards to load, and answers.

Lines of JSON on its standard input and output. The database's password comes that way too: a command line or an
environment could be looked at. What is said while one is at it:

    {"database": …, "plan": …, "threads": …}                 once, first
    {"number": …, "known": …, "left": …}    a shard, please    → {"at": [bytes, rows]} … and then
                                                                {"report": …} or {"error": …}
    {"stop": reason}                come to rest
    the end of the input            nobody waits any more: it ends at once, whatever it is at

``left``: the seconds of work that its starter has left, by the starter's clock; null where its time has no limit.
"""

from __future__ import annotations

import json
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any

from loader.core import errors
from loader.core.deadline import MARGIN, Deadline
from loader.core.errors import LoaderError, PausedError
from loader.core.process.memory import keep_buffers, spare_imports
from loader.core.process.standard_streams import standard_streams
from loader.core.stored import StoredFormError
from loader.engine.counters import Progress
from loader.postgres.database import Database
from loader.sharding.messages import Known, ShardPlan, ShardReport

TELLING = 0.2
"""Seconds between two lines about how far it is."""

PATIENCE = 10.0
"""Seconds that a worker has to end in, once it was told to."""

At = Callable[[int, int], object]
"""Is told, of the shard that is being loaded, how many bytes and how many records were read."""


class WorkerDiedError(LoaderError):
    """The process ended before it had answered."""

    retryable = True


# --- the end of whoever wants shards loaded


class Worker:
    """A process that loads shards of one plan, one at a time."""

    def __init__(self, plan: ShardPlan, database: Database, deadline: Deadline, *, threads: int) -> None:
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "loader.sharding.worker",
                ],  # -P: the folder that one happens to be in is no package
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # a hook may lie beside a script
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # a terminal's Ctrl-C is for whoever started this
            )
        except OSError as error:  # no more processes or memory
            raise WorkerDiedError(f"a worker process could not be started: {error}") from error
        self._lock = threading.Lock()  # of its input
        self._deadline = deadline
        self._send(database=database.parameters(), plan=plan.to_dict(), threads=threads)

    def load(self, number: int, known: Known | None, at: At) -> ShardReport:
        """As `shards.load_shard`. Raises WorkerDiedError where the process dies of it, or says what makes no sense."""
        left = self._deadline.left
        self._send(number=number, known=known and dict(known), left=None if math.isinf(left) else left)
        while True:
            answer = self._answer(number)
            if "report" in answer:
                try:
                    return ShardReport.from_dict(answer["report"])
                except StoredFormError as error:
                    raise self._garbled(number) from error
            if "error" in answer:
                raise _raised(answer["error"])
            if "at" in answer:  # what else there may be is a later version's
                at(*answer["at"][:2])

    def _answer(self, number: int) -> dict[str, Any]:
        """The next message. A process that dies in the middle of one leaves a part of a line behind."""
        line = self._stream(self._process.stdout).readline()
        if not line.endswith(b"\n"):
            raise WorkerDiedError(f"the worker for shard {number} ended with {self._reap()}")
        try:
            return _checked(json.loads(line))
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise self._garbled(number) from error

    def _garbled(self, number: int) -> WorkerDiedError:
        """Ends a process that cannot be understood: what it will say next cannot be trusted either."""
        self._process.kill()
        self._process.wait()
        return WorkerDiedError(f"the worker for shard {number} gave an answer that cannot be read")

    def _reap(self) -> int:
        """Wait for the process to end, and kill it where it does not; gives its exit code."""
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def abandon(self) -> None:
        """Have it end at once, whatever it is at; whoever waits for its answer gets WorkerDiedError."""
        with suppress(OSError), self._lock:
            self._stream(self._process.stdin).close()

    def stop(self, reason: str) -> None:
        """Have it come to rest; whoever waits for it is told so."""
        self._send(stop=reason)

    def close(self) -> None:
        """End it."""
        self.abandon()
        self._reap()
        self._stream(self._process.stdout).close()

    def _send(self, **message: Any) -> None:
        with self._lock, suppress(OSError, ValueError):  # it has died or is closed: that is seen where it is waited for
            stream = self._stream(self._process.stdin)
            stream.write(json.dumps(message).encode() + b"\n")
            stream.flush()

    def _stream(self, stream: IO[bytes] | None) -> IO[bytes]:
        assert stream is not None
        return stream


def _checked(answer: Any) -> dict[str, Any]:
    """``answer``, if it has the form of a message. Raises TypeError or ValueError where it has not."""
    if not isinstance(answer, dict):
        raise TypeError(f"{type(answer).__name__} is no message")
    for name in ("report", "error"):
        if name in answer and not isinstance(answer[name], dict):
            raise TypeError(f"{name} is no mapping")
    if "at" in answer:
        read, records, *_ = answer["at"]
        int(read), int(records)
    return answer


def _raised(told: Mapping[str, Any]) -> LoaderError:
    """The error of which a worker told, of its kind as far as that matters to callers."""
    kind, message = getattr(errors, str(told.get("kind")), None), str(told.get("message"))
    error: LoaderError
    if not (isinstance(kind, type) and issubclass(kind, LoaderError)) or issubclass(kind, errors.SpecError):
        error = LoaderError(message)  # of a later version, or made of more than a message
    elif kind is PausedError:
        error = PausedError(message, handover=bool(told.get("handover")))
    elif issubclass(kind, errors.DatabaseError):
        error = kind(message, told.get("sqlstate"))
    else:
        error = kind(message)
    error.retryable = bool(told.get("retryable"))
    return error


# --- the process's own end


def _told(error: LoaderError) -> dict[str, Any]:
    return {
        "kind": type(error).__name__,
        "message": str(error),
        "retryable": error.retryable,
        "handover": getattr(error, "handover", False),
        "sqlstate": getattr(error, "sqlstate", None),
    }


class _Process:
    """Takes requests until there are no more."""

    def __init__(self, requests: IO[bytes], answers: IO[bytes]) -> None:
        self._requests = requests
        self._answers = answers
        begin = json.loads(requests.readline())
        self._plan = ShardPlan.from_dict(begin["plan"])
        self._database = Database.at(begin["database"])
        self._threads: int | None = begin.get("threads")
        self._deadline = Deadline()  # of the shard that was asked for last
        self._waiting: queue.SimpleQueue[tuple[int, Known | None, Deadline]] = queue.SimpleQueue()
        self._next = 0.0

    def run(self) -> None:
        threading.Thread(target=self._listen, name="loader-listen", daemon=True).start()
        while True:
            self._load(*self._waiting.get())

    def _listen(self) -> None:
        for line in self._requests:
            request = json.loads(line)
            if "stop" in request:
                self._deadline.stop(request["stop"])
            elif "number" in request:  # what else there may be is a later version's
                left = request.get("left")
                if not self._deadline.stopped:  # else whatever comes after it has to come to rest as well
                    self._deadline = Deadline() if left is None else Deadline(left + MARGIN)
                self._waiting.put((request["number"], request.get("known"), self._deadline))
        os._exit(0)  # what it has not told of, nobody will make use of

    def _load(self, number: int, known: Known | None, deadline: Deadline) -> None:
        from loader.sharding.shards import load_shard

        try:
            report = load_shard(
                self._plan,
                number,
                self._database,
                known=known,
                deadline=deadline,
                threads=self._threads,
                progress=self._tell,
            )
        except LoaderError as error:
            self._answer(error=_told(error))
        else:
            self._answer(report=report.to_dict())

    def _tell(self, progress: Progress) -> None:
        if self._next <= (now := time.monotonic()):
            self._next = now + TELLING
            self._answer(at=[progress.bytes_read, progress.rows])

    def _answer(self, **message: Any) -> None:
        self._answers.write(json.dumps(message).encode() + b"\n")
        self._answers.flush()


def main() -> None:
    """Load shards until the input ends. What else would be printed, a hook's output say, goes to standard error."""
    spare_imports()
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        keep_buffers()
        with standard_streams(goes_on=True):
            _Process(sys.stdin.buffer, answers).run()


if __name__ == "__main__":
    main()
