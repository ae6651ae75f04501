"""A PostgreSQL of a test's own, which may be stopped, killed, made a standby; and a way to it that falls silent."""

from __future__ import annotations

import contextlib
import random
import select
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from support.cluster import UNSAFE, Cluster
from support.postgres import DEFAULT


def lasting_port() -> int:
    """A port that stays free while its server is down.

    One of those that the kernel gives to clients would not: who connects to it again and again in vain, is given it
    himself in the end, and connected to himself.
    """
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port := random.randrange(15_000, 32_000)))
            return port


class OwnServer(Cluster):
    """A server that is reached by TCP."""

    def __init__(self, folder: Path, name: str = DEFAULT) -> None:
        self.port = lasting_port()
        self.dsn = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        where = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": str(folder)}
        super().__init__(name, folder, UNSAFE | where)
        self.start()

    def restart(self) -> None:
        self.stop()
        self.start()

    def become_standby(self) -> None:
        """It only reads from now on, as the old primary after a failover."""
        self.stop()
        signal = self.data / "standby.signal"
        signal.touch()
        shutil.chown(signal, self.data.owner())
        self.start()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.stop("immediate")


@contextlib.contextmanager
def own_server(name: str = DEFAULT) -> Iterator[OwnServer]:
    with tempfile.TemporaryDirectory(prefix="loader-own-", ignore_cleanup_errors=True) as folder:
        server = OwnServer(Path(folder), name)
        try:
            yield server
        finally:
            server.close()


class Way:
    """A TCP proxy to a server. `fall_silent`: it holds its connections, takes new ones, and passes nothing on."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._silent = threading.Event()
        self._speaking = threading.Condition()  # of the next
        self._connections = 0  # that pass on what comes
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def fall_silent(self) -> None:
        """Returns when nothing passes any more."""
        self._silent.set()
        with self._speaking:
            self._speaking.wait_for(lambda: self._connections == 0)

    def speak(self) -> None:
        """Pass on again what comes from now on; connections that were silent stay so."""
        self._silent.clear()

    def _accept(self) -> None:
        while not self._closing.is_set():
            if select.select([self._listener], [], [], 0.05)[0]:
                client, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._pass_on, args=(client,)))
                self._threads[-1].start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._to) as server:
            with self._counted():
                other = {client: server, server: client}
                while not (self._closing.is_set() or self._silent.is_set()):
                    for ready in select.select(list(other), [], [], 0.02)[0]:
                        if self._silent.is_set():
                            break
                        with contextlib.suppress(OSError):
                            if not (data := ready.recv(1 << 16)):
                                return
                            other[ready].sendall(data)
            while not self._closing.wait(0.05):  # silent: both ends stay open
                pass

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._speaking:
            self._connections += 1
        try:
            yield
        finally:
            with self._speaking:
                self._connections -= 1
                self._speaking.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()
