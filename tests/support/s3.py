"""S3 for tests: an emulator that speaks the protocol, a bucket for each test, and a proxy that does harm.

`FaultProxy` stands between a reader and the emulator, and spoils answers as networks and busy stores do. What it
shall do is a list of `Fault`: each GET of an object takes the first of them that is meant for it.
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import socket
import struct
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import IO, Any, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import numpy as np
import pytest

# --- the emulator, and buckets in it


class S3:
    """A fresh bucket, and the few things that tests do with it."""

    def __init__(self, endpoint: str, *, versioned: bool) -> None:
        self.endpoint = endpoint
        self.bucket = f"test-{uuid.uuid4().hex}"
        self.client: Any = boto3.client("s3", endpoint_url=endpoint)  # past any proxy that a test sets up
        self.client.create_bucket(Bucket=self.bucket)
        if versioned:
            self.keep_versions()

    def keep_versions(self) -> None:
        """From now on."""
        self.client.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    def put(self, key: str, body: bytes) -> str | None:
        """Write an object; gives its version id, None in a bucket without versions."""
        version: str | None = self.client.put_object(Bucket=self.bucket, Key=key, Body=body).get("VersionId")
        return version

    def delete(self, key: str) -> None:
        """Delete an object; in a versioned bucket, mark it as deleted."""
        self.client.delete_object(Bucket=self.bucket, Key=key)

    def remove(self) -> None:
        """Delete the bucket with all that is in it: the emulator keeps it in memory."""
        for page in self.client.get_paginator("list_object_versions").paginate(Bucket=self.bucket):
            found = page.get("Versions", []) + page.get("DeleteMarkers", [])
            objects = [{"Key": each["Key"], "VersionId": each["VersionId"]} for each in found]
            if objects:
                self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": objects})
        self.client.delete_bucket(Bucket=self.bucket)
        self.client.close()


@contextmanager
def moto() -> Iterator[str]:
    """The endpoint of an emulated AWS on this machine."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    assert server._server is not None
    server._server.server_close()  # stop() leaves it listening


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An emulated AWS, started once."""
    with moto() as endpoint:
        yield endpoint


@pytest.fixture
def aws(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The emulator as the environment's AWS, whatever this machine is set up for; gives its endpoint."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return s3_server


@pytest.fixture
def s3(aws: str) -> Iterator[S3]:
    """A bucket that keeps versions."""
    bucket = S3(aws, versioned=True)
    yield bucket
    bucket.remove()


@pytest.fixture
def s3_unversioned(aws: str) -> Iterator[S3]:
    """A bucket that keeps none."""
    bucket = S3(aws, versioned=False)
    yield bucket
    bucket.remove()


# --- the proxy

_PIECE = 16 << 10  # bytes sent at once where there is a pace


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What becomes of one request for an object. Made by the functions below."""

    at: int | None = None  # only a GET whose range begins at this byte; None: whichever comes first
    method: str = "GET"
    before: Callable[[], object] | None = None  # called before the request is passed on
    status: int | None = None  # answered in the emulator's place, with `code`
    code: str = ""
    body: bytes | None = None  # of that answer, where it is not an error's
    query: str | None = None  # only a request that asks for this, see `Request`; None: for the object itself
    ignored: tuple[str, ...] = ()  # headers that are not passed on
    instead: Callable[[int, bytes], bytes] | None = None  # of an offset and the bytes from there on: what is sent
    lasting: bool = False  # for each request that it is meant for, and not for the first alone
    length: int | None = None  # bytes of the body that are sent, and then …
    then: Literal["close", "reset", "stall", "end"] = "end"  # "end": as if the object ended there

    touches: tuple[int, int] | None = None  # only a GET of bytes between these two, both included

    def applies(self, request: Request) -> bool:
        if self.query != request.query:
            return False
        if self.touches is not None and not request.overlaps(*self.touches):
            return False
        return self.method == request.method and self.at in (None, request.first)


def cut(after: int, *, at: int | None = None, reset: bool = False) -> Fault:
    """The connection is closed (or reset) after so many bytes of the body."""
    return Fault(at=at, length=after, then="reset" if reset else "close")


def stall(after: int, *, at: int | None = None) -> Fault:
    """Nothing more comes after so many bytes of the body; after -1, not even the answer's head."""
    return Fault(at=at, length=after, then="stall")


def truncate(after: int, *, at: int | None = None) -> Fault:
    """The body ends early, and its Content-Length agrees."""
    return Fault(at=at, length=after)


def answer(status: int, code: str, *, at: int | None = None, method: str = "GET", query: str | None = None) -> Fault:
    """S3's error of this status and code."""
    return Fault(at=at, status=status, code=code, method=method, query=query)


def attributes(body: bytes) -> Fault:
    """An answer to GetObjectAttributes."""
    return Fault(status=200, body=body, query="attributes")


def ignore(*headers: str, at: int | None = None) -> Fault:
    """The store does not know these headers of a request, as some do not know Range or If-Match."""
    return Fault(at=at, ignored=headers)


def damage(whole: bytes, damaged: bytes, *, lasting: bool = False) -> Fault:
    """Of ``whole``, the bytes of ``damaged`` arrive, which is as long: once, or each time that they differ."""
    assert len(whole) == len(damaged)
    differ = np.flatnonzero(np.frombuffer(whole, np.uint8) != np.frombuffer(damaged, np.uint8))
    return Fault(
        instead=lambda first, body: damaged[first : first + len(body)],
        touches=(int(differ[0]), int(differ[-1])),
        lasting=lasting,
    )


def call(before: Callable[[], object], *, at: int | None = None) -> Fault:
    """``before`` is called, such as to overwrite the object, and then the request passed on."""
    return Fault(at=at, before=before)


@dataclass(frozen=True)
class Request:
    """What a test may want to know of a request. ``key`` is "" where it is not about an object."""

    method: str
    key: str
    first: int | None  # of the range's bytes
    last: int | None
    version_id: str | None
    if_match: str | None
    query: str | None = None  # "attributes" of an object, or "versions" of a bucket

    def overlaps(self, first: int, last: int) -> bool:
        """Whether it asks for some of these bytes; without a range it asks for all."""
        return self.first is None or self.last is None or (self.first <= last and first <= self.last)


class FaultProxy:
    """An HTTP proxy in front of ``upstream`` that notes every request and applies ``faults`` in order.

    A fault is used once. Requests that none is meant for pass through.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self.pace: float | None = None  # bytes of bodies a second, of all connections together
        self._guard = threading.Lock()
        self._sending = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="fault-proxy")
        self._thread.start()

    @property
    def endpoint(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def ranges(self) -> list[tuple[int | None, int | None]]:
        """The first and last byte of each GET of an object, in the order in which they came."""
        return [(each.first, each.last) for each in self.requests if each.method == "GET" and each.key]

    def note(self, request: Request) -> Fault | None:
        """Enter the request; gives the fault that is meant for it."""
        with self._guard:
            self.requests.append(request)
            named = request.key or request.query
            meant = (number for number, each in enumerate(self.faults) if named and each.applies(request))
            number = next(meant, None)
            if number is None:
                return None
            return self.faults[number] if self.faults[number].lasting else self.faults.pop(number)

    def send(self, body: bytes, to: IO[bytes]) -> None:
        """Pass on a body, no faster than ``pace`` allows."""
        if self.pace is None:
            to.write(body)
            return
        for start in range(0, len(body), _PIECE):
            piece = body[start : start + _PIECE]
            with self._sending:
                self.closing.wait(len(piece) / self.pace)
            to.write(piece)

    def close(self) -> None:
        """End what is stalled, close all connections, and wait for the threads."""
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@pytest.fixture
def fault_proxy(aws: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy that the environment names as the endpoint of AWS."""
    with FaultProxy(aws) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close() then waits for them

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Wake the handlers that wait for a next request."""
        for connection in list(self._connections):
            with suppress(OSError):  # the client was first
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in mid-answer is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body go out in two writes; the second would wait for an ACK
    server: _Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = self._request()
        fault = self.server.proxy.note(request) or Fault()
        if fault.before is not None:
            fault.before()
        if fault.status is not None:
            body = _error_body(fault.code) if fault.body is None else fault.body
            self._answer(fault.status, _error_headers(), body, fault)
        else:
            status, headers, sent = self._forward(body, fault)
            if fault.instead is not None and status in (200, 206):
                sent = fault.instead(request.first or 0, sent)
            self._answer(status, headers, sent, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _request(self) -> Request:
        url = urlsplit(self.path)
        query = parse_qs(url.query, keep_blank_values=True)
        _, _, key = url.path.removeprefix("/").partition("/")
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        return Request(
            method=self.command,
            key=unquote(key),
            first=int(found[1]) if found else None,
            last=int(found[2]) if found else None,
            version_id=query.get("versionId", [None])[0],
            if_match=self.headers.get("If-Match"),
            query=next((each for each in ("attributes", "versions") if each in query), None),
        )

    def _forward(self, body: bytes, fault: Fault) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = self.server.proxy.upstream
        dropped = {"Connection", *fault.ignored}
        headers = {name: value for name, value in self.headers.items() if name not in dropped}
        connection = http.client.HTTPConnection(str(upstream.hostname), upstream.port)
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: Fault) -> None:
        sent = body if fault.length is None else body[: max(fault.length, 0)]
        if fault.length == -1:
            return self._break_off(fault)
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", self._length(headers, sent if fault.then == "end" else body))
        self.end_headers()
        if self.command != "HEAD":
            self.server.proxy.send(sent, self.wfile)
        return self._break_off(fault)

    def _length(self, headers: list[tuple[str, str]], body: bytes) -> str:
        told = {name.lower(): value for name, value in headers}.get("content-length", "0")
        return told if self.command == "HEAD" else str(len(body))

    def _break_off(self, fault: Fault) -> None:
        if fault.then == "end":
            return
        self.close_connection = True
        if fault.then == "stall":
            self.server.proxy.closing.wait()
        if fault.then == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: tests look at `FaultProxy.requests`."""


def _error_headers() -> list[tuple[str, str]]:
    return [("Content-Type", "application/xml")]


def _error_body(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>Made up for a test.</Message></Error>".encode()
