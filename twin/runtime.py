"""Lambda's Runtime API on the loopback interface, and a function under its real runtime client.

The API is the one of the Lambda developer guide, "Lambda runtime API", 2018-06-01: the client asks for the next
invocation, which blocks until there is one, and posts the response or the error.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import IO, Any, Self

_PREFIX = "/2018-06-01/runtime"
_ARN = "arn:aws:lambda:eu-central-1:000000000000:function:loader"


class FunctionError(Exception):
    """The function raised, timed out or died. ``kind`` is the name of the error's type, as Lambda gives it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class Runtime:
    """One function's environment: invoked one event at a time, as Lambda does, and killed at its timeout.

    ``handler`` is ``module.function``; ``environment`` is added to this process's own; ``prefix`` goes before the
    command, for limits; ``command`` stands in its place, for a container. A function that died is started again for
    the next event, as Lambda does.
    """

    def __init__(
        self,
        handler: str,
        environment: Mapping[str, str],
        *,
        memory: int = 1769,
        prefix: tuple[str, ...] = (),
        command: tuple[str, ...] = (),
    ) -> None:
        self._command = [*prefix, *(command or (sys.executable, "-m", "awslambdaric", handler))]
        self._environment = {
            **os.environ,
            "AWS_LAMBDA_FUNCTION_NAME": "loader",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory),
            "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/loader",
            "AWS_LAMBDA_LOG_STREAM_NAME": "twin",
            "_HANDLER": handler,
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        self._turn = threading.Lock()
        self._kept: list[str] = []

    def __enter__(self) -> Self:
        self._output = tempfile.TemporaryFile()
        try:
            self._sandbox = _Sandbox(self._command, self._environment, self._output)
        except BaseException:
            self._output.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sandbox.close()
        self._kept = self.log
        self._output.close()

    def invoke(self, event: Any, *, timeout: float = 900) -> Any:
        """The function's response to ``event``. Raises FunctionError.

        At ``timeout`` (seconds) the function is killed, as Lambda kills it: nothing of it runs any more.
        """
        with self._turn:
            if self._sandbox.ended:
                self._sandbox.close()
                self._sandbox = _Sandbox(self._command, self._environment, self._output)
            return self._sandbox.invoke(event, timeout)

    @property
    def pid(self) -> int:
        """The number of the function's process (of ``prefix``'s, where there is one)."""
        return self._sandbox.pid

    @property
    def log(self) -> list[str]:
        """The lines that the function printed, all of those before its last response included."""
        return self._kept if self._output.closed else _lines(self._output)


def _lines(output: IO[bytes]) -> list[str]:
    """What is in the file, without moving the place at which the function writes on: the two share it."""
    descriptor = output.fileno()
    text = os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode("utf-8", "replace")
    return text.removesuffix("\n").split("\n") if text else []


@dataclass
class _Invocation:
    event: bytes
    deadline: float  # seconds since 1970
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    answered: threading.Event = field(default_factory=threading.Event)
    response: Any = None
    error: FunctionError | None = None

    def answer(self, response: Any, error: FunctionError | None = None) -> None:
        """The first answer counts: a function that was told to have died cannot respond any more."""
        if not self.answered.is_set():
            self.response, self.error = response, error
            self.answered.set()


class _Sandbox:
    """One process of the function, and the API that it alone talks to."""

    def __init__(self, command: list[str], environment: Mapping[str, str], output: IO[bytes]) -> None:
        self._waiting: queue.Queue[_Invocation | None] = queue.Queue()
        self._current: _Invocation | None = None
        self._end: FunctionError | None = None
        self._lock = threading.Lock()  # of the two above: the process may end while an event is handed to it
        self._output = output
        self._server = _Server(("127.0.0.1", 0), _handler_for(self))
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the command is this package's own
                command,
                env={**environment, "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that what the command starts ends with it
            )
        except BaseException:
            self._server.server_close()
            raise
        self.pid = self._process.pid
        self._threads = [
            threading.Thread(target=self._server.serve_forever, name="twin-runtime-api"),
            threading.Thread(target=self._watch, name="twin-watch"),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def ended(self) -> bool:
        """Whether the process is no more, or will take no event."""
        return self._end is not None

    def invoke(self, event: Any, timeout: float) -> Any:
        invocation = _Invocation(json.dumps(event).encode(), time.time() + timeout)
        with self._lock:
            if self._end is not None:
                raise self._end
            self._current = invocation
            self._waiting.put(invocation)
        if not invocation.answered.wait(timeout):
            self._fail(FunctionError("Sandbox.Timedout", f"the task timed out after {timeout:g} seconds"))
            self._kill()
        if invocation.error is not None:
            raise invocation.error
        return invocation.response

    def close(self) -> None:
        """End the process and the API."""
        self._kill()
        self._waiting.put(None)
        self._server.shutdown()
        for thread in self._threads:
            thread.join()
        self._server.server_close()

    def _kill(self) -> None:
        if self._process.poll() is None:  # or the watch is just about to learn that it ended
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def _watch(self) -> None:
        code = self._process.wait()
        last = " ".join(_lines(self._output)[-3:])
        self._fail(FunctionError("Runtime.ExitError", f"the runtime exited with {code}: {last}"))

    def _fail(self, end: FunctionError) -> None:
        """The process is at its end, and with it the event that it was busy with. The first reason counts."""
        with self._lock:
            self._end = self._end or end
            if self._current is not None:
                self._current.answer(None, self._end)

    # --- what the API asks

    def next_invocation(self) -> _Invocation | None:
        """Blocks until there is one; None when the sandbox ends."""
        return self._waiting.get()

    def answer(self, id_: str, body: Any, *, failed: bool) -> bool:
        """Enter a response or an error; False where nobody waits for it."""
        with self._lock:
            invocation = self._current
            if invocation is None or invocation.id != id_:
                return False
            invocation.answer(None if failed else body, _told(body) if failed else None)
            return True

    def init_failed(self, body: Any) -> None:
        """The function could not be imported."""
        self._fail(_told(body))


def _told(body: Any) -> FunctionError:
    """An error as the runtime client tells it."""
    mapping = body if isinstance(body, dict) else {}
    return FunctionError(str(mapping.get("errorType", "Unknown")), str(mapping.get("errorMessage", "")))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed resets its connection; anything else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler_for(sandbox: _Sandbox) -> type[BaseHTTPRequestHandler]:
    class RuntimeApi(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else a small event waits 40 ms for the client's ACK of the head

        def do_GET(self) -> None:
            if self.path != f"{_PREFIX}/invocation/next":
                self._reply(404)
                return
            invocation = sandbox.next_invocation()
            if invocation is None:
                self.close_connection = True
                return
            self._reply(
                200,
                invocation.event,
                {
                    "Content-Type": "application/json",
                    "Lambda-Runtime-Aws-Request-Id": invocation.id,
                    "Lambda-Runtime-Deadline-Ms": str(int(invocation.deadline * 1000)),
                    "Lambda-Runtime-Invoked-Function-Arn": _ARN,
                    "Lambda-Runtime-Trace-Id": "Root=1-00000000-000000000000000000000000;Sampled=0",
                },
            )

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"null")
            parts = self.path.removeprefix(_PREFIX).strip("/").split("/")
            if parts == ["init", "error"]:
                sandbox.init_failed(body)
                self._reply(202)
            elif len(parts) == 3 and parts[0] == "invocation" and parts[2] in ("response", "error"):
                known = sandbox.answer(parts[1], body, failed=parts[2] == "error")
                self._reply(202 if known else 400)
            else:
                self._reply(404)

        def _reply(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent: what matters is in the function's own log."""

    return RuntimeApi
