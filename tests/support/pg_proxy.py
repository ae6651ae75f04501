"""A proxy before PostgreSQL that loses a COMMIT or the answer to it, resets, closes and stalls.

It understands just enough of the protocol (PostgreSQL's manual, "Message Formats"): where a message begins, a Query
that commits, and the CommandComplete that says so. What it shall do is a list of `Break`: each is used once.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

_SSL, _GSS = 80877103, 80877104
"""What a client asks before it begins a session."""

_ENTERS = re.compile(rb"(?:UPDATE|INSERT INTO) loader\.loads .*'loaded'", re.DOTALL)
"""What enters a load as loaded."""

_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR


@dataclass
class Break:
    """What becomes of one connection.

    ``at``: "request": a COMMIT does not arrive; "answer": it arrives, takes effect, and the answer is lost; "bytes":
    when so many bytes have passed in either direction, of all connections. ``nth``: of the COMMITs. ``decisive``: only
    those of transactions that enter a load as loaded are counted. ``stall``: seconds in which nothing passes, before
    what comes ``then``.
    """

    at: Literal["request", "answer", "bytes"]
    nth: int = 1
    decisive: bool = False
    after: int = 0
    stall: float = 0.0
    then: Literal["close", "reset", "pass"] = "close"

    def is_due(self, at: str, size: int, *, decisive: bool) -> bool:
        """Whether a COMMIT, its answer, or a message of ``size`` bytes is what it waits for."""
        if self.at == "bytes":
            self.after -= size
            return self.after < 0
        if at != self.at or (self.decisive and not decisive):
            return False
        self.nth -= 1
        return self.nth == 0


@dataclass
class _Messages:
    """The whole messages of what came in pieces. Those of a client begin with one that has no type."""

    typed: bool
    held: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> Iterator[bytes]:
        self.held += data
        while (length := self._length()) is not None and length <= len(self.held):
            message = bytes(self.held[:length])
            del self.held[:length]
            if not self.typed:
                self.typed = struct.unpack("!I", message[4:8])[0] not in (_SSL, _GSS)
            yield message

    def _length(self) -> int | None:
        start = int(self.typed)
        if len(self.held) < start + 4:
            return None
        return start + int(struct.unpack_from("!I", self.held, start)[0])


@dataclass
class _End:
    """One end of a connection: ``out`` is what it has not taken yet."""

    socket: socket.socket
    messages: _Messages
    out: bytearray = field(default_factory=bytearray)


class _BrokenError(Exception):
    """The connection is over."""


class PgProxy:
    """A TCP proxy to a server or pooler on this machine, which applies ``breaks``; ``struck``: how often which did."""

    def __init__(self, port: int) -> None:
        self.breaks: list[Break] = []
        self.struck: Counter[str] = Counter()
        self._to = ("127.0.0.1", port)
        self._guard = threading.Lock()
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, name="pg-proxy")]
        self._threads[0].start()

    def due(self, at: str, size: int, *, decisive: bool) -> Break | None:
        """The break that is meant for what passes just now."""
        with self._guard:
            for each in self.breaks:
                if each.is_due(at, size, decisive=decisive):
                    self.breaks.remove(each)
                    self.struck[each.at] += 1
                    return each
        return None

    def _accept(self) -> None:
        while not self._closing.is_set():
            if select.select([self._listener], [], [], 0.05)[0]:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(client,), name="pg-proxy-connection")
                self._threads = [each for each in self._threads if each.is_alive()] + [thread]
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._to) as server:
            connection = _Connection(self, client, server, self._closing)
            with contextlib.suppress(_BrokenError):
                connection.run()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for thread in list(self._threads):
            thread.join()
        self._listener.close()


class _Connection:
    """A client's connection, and the one to the server that belongs to it."""

    def __init__(self, proxy: PgProxy, client: socket.socket, server: socket.socket, closing: threading.Event) -> None:
        self._proxy = proxy
        self._closing = closing
        self._client = _End(client, _Messages(typed=False))
        self._server = _End(server, _Messages(typed=True))
        self._decisive = False  # the transaction that is open enters a load as loaded
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def run(self) -> None:
        """Pass on until either end has gone, or the connection is broken."""
        ends = {end.socket.fileno(): end for end in (self._client, self._server)}
        others = dict(zip(ends, reversed(ends.values()), strict=True))
        poll = select.poll()
        while not self._closing.is_set():
            for number, end in ends.items():
                wanted = 0 if others[number].out else select.POLLIN  # no faster than the other one takes it
                poll.register(number, wanted | (select.POLLOUT if end.out else 0) | select.POLLRDHUP)
            for number, event in poll.poll(50):
                if event & select.POLLOUT:
                    self._flush(ends[number])
                if event & select.POLLIN:
                    self._take(ends[number], others[number])
                elif event & _GONE:
                    self._flush(others[number])  # what it said last
                    return

    def _flush(self, end: _End) -> None:
        with contextlib.suppress(BlockingIOError):
            del end.out[: end.socket.send(end.out)]

    def _take(self, end: _End, other: _End) -> None:
        if not (data := end.socket.recv(1 << 18)):
            raise _BrokenError
        for message in end.messages.feed(data):
            if end is self._client and not end.messages.typed:
                self._client.out += b"N"  # neither TLS nor GSSAPI here
                continue
            fate = self._proxy.due(self._event(end, message), len(message), decisive=self._decisive)
            if fate is not None:
                self._meet(fate)
            other.out += message
        self._flush(other)

    def _event(self, end: _End, message: bytes) -> str:
        if end is self._client:
            if message[:1] == b"Q" and message[5:].strip(b"\0 ;").upper() == b"COMMIT":
                return "request"
            if message[:1] == b"Q" and _ENTERS.search(message):
                self._decisive = True
        elif message[:1] == b"C" and message[5:] in (b"COMMIT\0", b"ROLLBACK\0"):
            return "answer" if message[5:] == b"COMMIT\0" else ""
        elif message[:1] == b"Z" and message[5:6] == b"I":
            self._decisive = False
        return ""

    def _meet(self, fate: Break) -> None:
        self._closing.wait(fate.stall)
        if fate.then == "pass":
            return
        if fate.then == "reset":
            for end in (self._client, self._server):
                end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _BrokenError
