"""Lambda's Runtime API on the loopback interface, and a function under its real runtime client.

The API is the one of the Lambda developer guide, "Lambda runtime API", 2018-06-01: the client asks for the next
invocation, which blocks until there is one, and posts the response or the error.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

_PREFIX = "/2018-06-01/runtime"
_ARN = "arn:aws:lambda:eu-central-1:000000000000:function:loader"


class FunctionError(Exception):
    """The function raised, timed out or died. ``kind`` is the name of the error's type, as Lambda gives it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


@dataclass
class _Invocation:
    event: bytes
    deadline: float  # seconds since 1970
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    answered: threading.Event = field(default_factory=threading.Event)
    response: Any = None
    error: Mapping[str, Any] | None = None

    def fail(self, kind: str, message: str) -> None:
        self.error = {"errorType": kind, "errorMessage": message}
        self.answered.set()


class Runtime:
    """One function's environment: invoked one event at a time, as Lambda does, and killed at its timeout.

    ``handler`` is ``module.function``; ``environment`` is added to this process's own; ``prefix`` goes before the
    command, for limits or a container. What the function prints is gathered in ``log``, line by line.
    """

    def __init__(
        self, handler: str, environment: Mapping[str, str], *, memory: int = 1769, prefix: tuple[str, ...] = ()
    ) -> None:
        self._handler = handler
        self._environment = dict(environment)
        self._memory = memory
        self._prefix = prefix
        self._waiting: queue.Queue[_Invocation | None] = queue.Queue()
        self._current: _Invocation | None = None
        self._turn = threading.Lock()
        self.log: list[str] = []

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _handler_for(self))
        self._serving = threading.Thread(target=self._server.serve_forever, name="twin-runtime-api")
        self._serving.start()
        self._process = subprocess.Popen(  # noqa: S603 - the command is this package's own
            [*self._prefix, sys.executable, "-m", "awslambdaric", self._handler],
            env={**os.environ, **self._function_environment(), **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reading = threading.Thread(target=self._read_log, name="twin-log")
        self._reading.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._reading.join()
        self._waiting.put(None)
        self._server.shutdown()
        self._serving.join()
        self._server.server_close()

    def invoke(self, event: Any, *, timeout: float = 900) -> Any:
        """The function's response to ``event``. Raises FunctionError.

        At ``timeout`` (seconds) the function is killed, as Lambda kills it: nothing of it runs any more.
        """
        invocation = _Invocation(json.dumps(event).encode(), time.time() + timeout)
        with self._turn:
            self._current = invocation
            self._waiting.put(invocation)
            if not invocation.answered.wait(timeout):
                self._process.kill()
                invocation.fail("Sandbox.Timedout", f"the task timed out after {timeout:g} seconds")
        if invocation.error is not None:
            raise FunctionError(
                str(invocation.error.get("errorType", "Unknown")), str(invocation.error.get("errorMessage", ""))
            )
        return invocation.response

    def _function_environment(self) -> dict[str, str]:
        return {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}",
            "AWS_LAMBDA_FUNCTION_NAME": "loader",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self._memory),
            "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/loader",
            "AWS_LAMBDA_LOG_STREAM_NAME": "twin",
            "_HANDLER": self._handler,
            "PYTHONUNBUFFERED": "1",
        }

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            self.log.extend(line.rstrip("\n") for line in lines)
        code = self._process.wait()
        if self._current is not None and not self._current.answered.is_set():
            self._current.fail("Runtime.ExitError", f"the runtime exited with {code}: {' '.join(self.log[-3:])}")

    def next_invocation(self) -> _Invocation | None:
        """Blocks until there is one; None when the runtime ends."""
        return self._waiting.get()

    def answer(self, id_: str, response: Any, error: Mapping[str, Any] | None) -> bool:
        """Enter a response or an error; False where nobody waits for it."""
        invocation = self._current
        if invocation is None or invocation.id != id_:
            return False
        invocation.response, invocation.error = response, error
        invocation.answered.set()
        return True

    def init_failed(self, error: Mapping[str, Any]) -> None:
        """The function could not be imported."""
        if self._current is not None:
            self._current.fail(str(error.get("errorType")), str(error.get("errorMessage")))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed resets its connection; anything else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler_for(runtime: Runtime) -> type[BaseHTTPRequestHandler]:
    class RuntimeApi(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path != f"{_PREFIX}/invocation/next":
                self._reply(404)
                return
            invocation = runtime.next_invocation()
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
                runtime.init_failed(body)
                self._reply(202)
            elif len(parts) == 3 and parts[0] == "invocation" and parts[2] in ("response", "error"):
                failed = parts[2] == "error"
                known = runtime.answer(parts[1], None if failed else body, body if failed else None)
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
