"""A way to a server that loses the answer to the COMMIT by which a load takes effect.

Once, and the client sees a connection that broke; the server has committed.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from psycopg2.extensions import make_dsn, parse_dsn

Loses = Literal["the answer", "what follows"]
"""The answer to the COMMIT, or the connection after it: before the turn is given back."""

_ENTERS = re.compile(rb"UPDATE loader\.loads l SET .*state = 'loaded'|INSERT INTO loader\.loads .*'loaded'", re.DOTALL)


class LostCommit:
    """A proxy. ``dsn`` leads through it; ``lost``: whether it has happened."""

    def __init__(self, dsn: str, loses: Loses) -> None:
        told = parse_dsn(dsn)
        self._to, self._loses = told, loses
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.dsn = make_dsn(dsn, host="127.0.0.1", port=self._listener.getsockname()[1])
        self.lost = threading.Event()
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _connect(self) -> socket.socket:
        host, port = self._to["host"], int(self._to.get("port", 5432))
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _accept(self) -> None:
        while not self._closing.is_set():
            if select.select([self._listener], [], [], 0.05)[0]:
                client, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._pass_on, args=(client,)))
                self._threads[-1].start()

    def _pass_on(self, client: socket.socket) -> None:
        enters = committing = False
        with client, self._connect() as server, contextlib.suppress(OSError):
            while not self._closing.is_set():
                for ready in select.select([client, server], [], [], 0.05)[0]:
                    if not (data := ready.recv(1 << 16)):
                        return
                    if ready is client:
                        if committing:  # it was answered: this is what follows
                            self.lost.set()
                            return
                        enters = enters or _ENTERS.search(data) is not None
                        server.sendall(data)
                        committing = enters and b"COMMIT" in data and not self.lost.is_set()
                    elif committing and self._loses == "the answer":
                        self.lost.set()
                        return
                    else:
                        client.sendall(data)

    def close(self) -> None:
        self._closing.set()
        for each in self._threads:
            each.join()
        self._listener.close()


@contextmanager
def losing_commit(dsn: str, loses: Loses) -> Iterator[LostCommit]:
    """The server of ``dsn`` behind a proxy that does that."""
    proxy = LostCommit(dsn, loses)
    try:
        yield proxy
    finally:
        proxy.close()
