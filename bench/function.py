"""The function under the limits of one of Lambda's sizes, in a container of the image or in a control group.

Lambda gives a function one vCPU for each 1,769 MB (Lambda's guide, "Configure Lambda function memory"), so both hold it
to so much memory, no swap, and that share of the cores that there are. It runs under its real runtime client and is
invoked through the Runtime API. While a function starts, Lambda lets it have more of a core than this: cold starts are
longer here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.rig import Server
from twin.runtime import Runtime

MB_PER_CORE = 1769

CGROUPS = Path("/sys/fs/cgroup")

HANDLER = "loader.handler.handler"


def cores(memory: int) -> float:
    """What Lambda gives with so many MB, up to the cores that there are."""
    return min(memory / MB_PER_CORE, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Started:
    """A function that can be invoked. ``peak``: the most that its process had resident until now, MB."""

    runtime: Runtime
    peak: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Limiter:
    """``how``, in words, it holds the function to its limits; ``start`` does so, for a size in MB and variables."""

    how: str
    start: Callable[[int, Mapping[str, str]], AbstractContextManager[Started]]


def limiter(server: Server, image: str, wanted: str) -> Limiter | str:
    """How the function can be limited here, or why it cannot be. ``wanted``: "image", "group", or "auto" for the image
    where an engine has one of this code, else a control group."""
    why_no_image = "it was not asked for" if wanted == "group" else image_fault(image)
    if why_no_image is None:
        told = "the image, by `docker run` with `--memory`, `--memory-swap` and `--cpus`"
        return Limiter(told, lambda memory, variables: in_image(image, server, memory, variables))
    why_no_group = "it was not asked for" if wanted == "image" else group_fault()
    if why_no_group is None:
        return Limiter(f"a control group (the image in a container: {why_no_image})", in_group)
    return f"the image in a container: {why_no_image}; a control group: {why_no_group}"


# --- the image in a container


def image_fault(image: str) -> str | None:
    """Why the image cannot run, if so: no engine, no image, or one that was made of other code."""
    try:
        found = _docker("images", "--quiet", image)
    except (RuntimeError, OSError):
        return "no Docker engine answers"
    if not found:
        return f"the Docker engine has no image {image}; make image"
    inside = _docker("run", "--rm", "--network=none", "--entrypoint=python", image, "-B", "-c", _SUMS)
    here = subprocess.run([sys.executable, "-c", _SUMS], check=True, capture_output=True, text=True).stdout
    theirs, ours = json.loads(inside), json.loads(here)
    if any(ours.get(name) != total for name, total in theirs.items()):
        return f"the image {image} was made of other code; make image"
    return None


_SUMS = """
import hashlib, importlib.util, json, pathlib
(root,) = map(pathlib.Path, importlib.util.find_spec("loader").submodule_search_locations)
sums = {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.py")}
print(json.dumps(sums))
"""
"""Prints a checksum of each Python file of the package."""


@contextlib.contextmanager
def in_image(image: str, server: Server, memory: int, variables: Mapping[str, str]) -> Iterator[Started]:
    """A container of the image, on this machine's network. A socket of the embedded server is shared with it."""
    name = f"loader-bench-{uuid.uuid4().hex[:12]}"
    passed = {**variables, "PGSSLMODE": "prefer", "PGSSLROOTCERT": ""}  # a DSN's own sslmode goes before it
    own = ("AWS_LAMBDA_RUNTIME_API", "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
    command = [
        *("docker", "run", "--rm", f"--name={name}", "--network=host"),
        *(f"--memory={memory}m", f"--memory-swap={memory}m", f"--cpus={cores(memory):.3f}"),
        *("--read-only", "--tmpfs=/tmp:rw,size=512m,mode=1777", "--pids-limit=1024"),
        *("--cap-drop=ALL", "--security-opt=no-new-privileges"),
        *_sharing(server),
        *(f"--env={each}" for each in (*passed, *own)),
        image,
    ]
    try:
        with Runtime(HANDLER, passed, memory=memory, command=tuple(command)) as runtime:
            yield Started(runtime, lambda: _resident(int(_docker("inspect", "--format={{.State.Pid}}", name))))
    finally:
        _docker("rm", "--force", name, check=False)


def _sharing(server: Server) -> list[str]:
    """The embedded server's socket is in a folder that only its user may enter."""
    if server.folder is None:
        return []
    owner = server.folder.stat()
    return [f"--volume={server.folder}:{server.folder}:ro", f"--user={owner.st_uid}:{owner.st_gid}"]


def _docker(*arguments: str, check: bool = True) -> str:
    """What the command prints. Raises RuntimeError where it fails."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments[:2])}: {done.stderr.strip()}")
    return done.stdout.strip()


# --- a control group


def group_fault() -> str | None:
    """Why there can be no control group, if so."""
    if os.geteuid() != 0:
        return "only root may make control groups"
    if (CGROUPS / "cgroup.controllers").exists():
        return None
    return None if (CGROUPS / "memory").is_dir() and (CGROUPS / "cpu").is_dir() else "there are no control groups here"


@contextlib.contextmanager
def in_group(memory: int, variables: Mapping[str, str]) -> Iterator[Started]:
    """A process of this environment in a control group."""
    own = {**variables, "OPENBLAS_NUM_THREADS": "1"}  # as the image has it
    with _group(memory) as prefix, Runtime(HANDLER, own, memory=memory, prefix=prefix) as runtime:
        yield Started(runtime, lambda: _resident(runtime.pid))


@contextlib.contextmanager
def _group(memory: int) -> Iterator[tuple[str, ...]]:
    """A control group of so many MB and its share of the cores; gives what to put before a command."""
    name = f"loader-bench-{os.getpid()}"
    quota = int(100_000 * cores(memory))
    if (CGROUPS / "cgroup.controllers").exists():
        folders = [CGROUPS / name]
        folders[0].mkdir()
        (folders[0] / "memory.max").write_text(str(memory << 20))
        (folders[0] / "memory.swap.max").write_text("0")
        (folders[0] / "cpu.max").write_text(f"{quota} 100000")
    else:
        folders = [CGROUPS / "memory" / name, CGROUPS / "cpu" / name]
        for folder in folders:
            folder.mkdir()
        (folders[0] / "memory.limit_in_bytes").write_text(str(memory << 20))
        with contextlib.suppress(OSError):  # no swap is counted here, and then there is none
            (folders[0] / "memory.memsw.limit_in_bytes").write_text(str(memory << 20))
        (folders[1] / "cpu.cfs_period_us").write_text("100000")
        (folders[1] / "cpu.cfs_quota_us").write_text(str(quota))
    enter = " && ".join(f"echo $$ > {folder}/cgroup.procs" for folder in folders)
    try:
        yield "/bin/sh", "-c", f'{enter} && exec "$@"', "sh"
    finally:
        for folder in folders:
            _remove(folder)


def _remove(folder: Path) -> None:
    """As soon as its processes have ended."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.05)


def _resident(pid: int) -> float:
    """The most that the process had resident, MB (proc(5), VmHWM)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
