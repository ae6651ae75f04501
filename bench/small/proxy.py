"""A network between a client and PostgreSQL: it takes its time, and counts what goes to and fro.

Each direction is a line that delays what goes in by half of the round trip and passes it on in its order. As on a real
line, any number of bytes may be under way: nothing waits for what was sent before to arrive.
"""

from __future__ import annotations

import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields

from psycopg2.extensions import parse_dsn

from bench.servers import as_uri

_CHUNK = 64 << 10

_UNDER_WAY = 1024
"""Chunks that a line holds at most: 64 MB, 500 ms of a network of a gigabit."""


@dataclass(slots=True)
class Counts:
    """What clients asked of the server. ``statements``: everything that is executed, BEGIN, COMMIT and ROLLBACK among
    it, which psycopg2 sends by itself; each text that is sent at once is one. ``commits``: those, and statements
    outside a transaction. ``round_trips``: how often a client had to wait for an answer."""

    sessions: int = 0
    statements: int = 0
    commits: int = 0
    round_trips: int = 0

    def __sub__(self, before: Counts) -> Counts:
        return Counts(*(getattr(self, each.name) - getattr(before, each.name) for each in fields(self)))

    def copy(self) -> Counts:
        return self - Counts()


class Frontend:
    """Reads what one client sends (manual, 54.7, "Message Formats"), and enters it in ``counts``."""

    _REQUESTS = (80877103, 80877104)  # SSLRequest, GSSENCRequest: the server answers with a byte
    _CANCEL = 80877102
    _WAITED_FOR = b"QSFcfp"  # query, sync, function call, the end of a COPY, a password

    def __init__(self, counts: Counts, guard: threading.Lock) -> None:
        self._counts = counts
        self._guard = guard
        self._begun = False
        self._in_transaction = False
        self._kept = b""
        self._skip = 0  # bytes of a message that are of no interest and still to come

    def feed(self, data: bytes) -> None:
        if self._skip >= len(data):
            self._skip -= len(data)
            return
        data, self._skip, self._kept = self._kept + data[self._skip :], 0, b""
        while data:
            size = self._size(data)
            if size is None or (len(data) < size and not self._is_bulk(data)):
                self._kept = data
                return
            self._note(data[:size])
            self._skip, data = max(0, size - len(data)), data[size:]

    def _size(self, data: bytes) -> int | None:
        """Bytes of the message that begins here; None where its length is not there yet."""
        at = 1 if self._begun else 0
        if len(data) < at + 4:
            return None
        return at + int(struct.unpack_from("!I", data, at)[0])

    def _is_bulk(self, data: bytes) -> bool:
        return self._begun and data[:1] == b"d"

    def _note(self, message: bytes) -> None:
        with self._guard:
            if not self._begun:
                self._note_start(struct.unpack_from("!I", message, 4)[0])
                return
            kind = message[:1]
            self._counts.round_trips += kind in self._WAITED_FOR
            if kind in (b"Q", b"E"):
                self._note_statement(message[5:].lstrip()[:20].decode("latin-1").upper() if kind == b"Q" else "")

    def _note_start(self, code: int) -> None:
        if code == self._CANCEL:
            return
        self._counts.round_trips += 1
        if code not in self._REQUESTS:
            self._counts.sessions += 1
            self._begun = True

    def _note_statement(self, text: str) -> None:
        self._counts.statements += 1
        word = "".join(character if character.isalpha() else " " for character in text).split(" ")[0]
        if word in ("BEGIN", "START"):
            self._in_transaction = True
        elif word in ("COMMIT", "END"):
            self._counts.commits += 1
            self._in_transaction = False
        elif word in ("ROLLBACK", "ABORT") and " TO " not in text:
            self._in_transaction = False
        elif not self._in_transaction:
            self._counts.commits += 1


class Proxy:
    """Listens on the loopback interface. ``dsn``: by which the server is reached through it. ``delay``: seconds of a
    round trip; it holds for sessions that begin from then on."""

    def __init__(self, dsn: str, delay: float = 0.0) -> None:
        self.delay = delay
        self._counts = Counts()
        self._guard = threading.Lock()
        self._server = parse_dsn(dsn)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="bench-proxy", daemon=True)]
        self._threads[0].start()

    @property
    def dsn(self) -> str:
        port = str(self._listening.getsockname()[1])
        plain = {"host": "127.0.0.1", "port": port, "sslmode": "disable", "gssencmode": "disable"}
        return as_uri({**self._server, **plain})

    @property
    def counts(self) -> Counts:
        """So far; of bytes that have come in, whether they have gone out or not."""
        with self._guard:
            return self._counts.copy()

    def close(self) -> None:
        """End all sessions."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = self._connect()
                self._sockets += [client, server]
                frontend = Frontend(self._counts, self._guard)
                for source, sink, note in ((client, server, frontend.feed), (server, client, None)):
                    if source.family != socket.AF_UNIX:
                        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    line: queue.Queue[tuple[float, bytes]] = queue.Queue(_UNDER_WAY)
                    for work in ((_take_in, source, line, self.delay / 2, note), (_give_out, line, sink)):
                        thread = threading.Thread(target=work[0], args=work[1:], name="bench-line", daemon=True)
                        self._threads.append(thread)
                        thread.start()

    def _connect(self) -> socket.socket:
        host, port = self._server.get("host") or "127.0.0.1", int(self._server.get("port") or 5432)
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        found = socket.socket(socket.AF_UNIX)
        found.connect(f"{host}/.s.PGSQL.{port}")
        return found


def _take_in(
    source: socket.socket, line: queue.Queue[tuple[float, bytes]], delay: float, note: Callable[[bytes], None] | None
) -> None:
    data = b"-"
    while data:
        try:
            data = source.recv(_CHUNK)
        except OSError:
            data = b""
        if note is not None and data:
            note(data)
        line.put((time.perf_counter() + delay, data))


def _give_out(line: queue.Queue[tuple[float, bytes]], sink: socket.socket) -> None:
    while True:
        due, data = line.get()
        if (left := due - time.perf_counter()) > 0:
            time.sleep(left)
        with suppress(OSError):  # whoever was to get it is gone; the line is emptied, so that its other end can end
            if data:
                sink.sendall(data)
            else:
                sink.shutdown(socket.SHUT_WR)
        if not data:
            return


@contextmanager
def proxied(dsn: str, delay: float = 0.0) -> Iterator[Proxy]:
    """A proxy before the server of ``dsn`` while the body runs. ``delay``: seconds of a round trip."""
    proxy = Proxy(dsn, delay)
    try:
        yield proxy
    finally:
        proxy.close()
