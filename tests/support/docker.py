"""Docker for the rehearsals: whether it can be had, containers that end with their test, and what they took."""

from __future__ import annotations

import contextlib
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import pytest

from twin.runtime import Runtime

IMAGE = os.environ.get("IMAGE", "loader")
POSTGRES = "postgres:18"

REQUIRED = "REHEARSAL_REQUIRED"
"""Not empty in the environment: what would be skipped fails, because Docker is there."""

WHOLE_CORE = 1769
"""MB of memory for which Lambda gives a whole core (Lambda developer guide, "Configure Lambda function memory")."""

LABEL = "loader.rehearsal"


LOG = Path(__file__).parents[2] / "build" / "rehearsal.log"


def tell(line: str) -> None:
    """Print what was measured, and keep it in the rehearsal's log."""
    print(f"\n  {line}", end="", flush=True)
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("a") as log:
        log.write(f"{line}\n")


def docker(*arguments: str, check: bool = True) -> str:
    """What the command prints. Raises RuntimeError with what it says where it fails."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments[:2])}: {done.stderr.strip()}")
    return done.stdout.strip()


def need(*images: str) -> None:
    """Skip the test where there is no engine or an image is missing; where Docker is required, fail."""
    try:
        docker("version")
    except (RuntimeError, OSError) as reason:
        lack(f"no Docker engine answers: {reason}")
    for image in images:
        if not docker("images", "--quiet", image):
            lack(f"the Docker engine has no image {image}" + ("; make image" if image == IMAGE else ""))


def lack(reason: str) -> NoReturn:
    """The test cannot run."""
    if os.environ.get(REQUIRED):
        pytest.fail(f"{reason} ({REQUIRED} is set)")
    pytest.skip(reason)


@contextlib.contextmanager
def labelled() -> Iterator[str]:
    """A label for containers; those that have it are removed in the end, however it comes."""
    label = f"{LABEL}={uuid.uuid4().hex}"
    try:
        yield label
    finally:
        if found := docker("ps", "--all", "--quiet", "--filter", f"label={label}").split():
            docker("rm", "--force", "--volumes", *found, check=False)


def as_lambda(memory: int, *, label: str) -> list[str]:
    """Options of ``docker run`` that hold a container to what Lambda gives for so much memory (MB).

    No swap, its share of a core, a read-only root, 512 MB of /tmp, 1,024 processes and threads, a user that the image
    does not know, no privileges. Docker counts what is in /tmp as memory, Lambda does not. While a function starts,
    Lambda lets it have more of a core than this.
    """
    return [
        *("run", "--rm", f"--label={label}", "--network=host"),
        *(f"--memory={memory}m", f"--memory-swap={memory}m", f"--cpus={memory / WHOLE_CORE:.3f}"),
        *("--read-only", "--tmpfs=/tmp:rw,size=512m,mode=1777", "--pids-limit=1024"),
        *("--user=993:990", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    ]


class ImageRuntime(Runtime):
    """The image's function under a Runtime API. ``files``: what is laid over the image's own, by path."""

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        label: str,
        memory: int = 512,
        files: Mapping[str, Path] | None = None,
        hosts: Sequence[str] = (),
    ) -> None:
        self._label = f"{LABEL}.function={uuid.uuid4().hex}"
        own = {
            "AWS_LAMBDA_FUNCTION_NAME": "loader",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory),
            "AWS_LAMBDA_LOG_FORMAT": "JSON",
        }
        passed = [*environment, *own, "AWS_LAMBDA_RUNTIME_API"]
        options = [
            *as_lambda(memory, label=label),
            f"--label={self._label}",
            *(f"--env={name}" for name in passed),
            *(f"--volume={path}:{place}:ro" for place, path in (files or {}).items()),
            *(f"--add-host={name}:127.0.0.1" for name in hosts),
        ]
        super().__init__("", {**environment, **own}, memory=memory, command=("docker", *options, IMAGE))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if found := docker("ps", "--all", "--quiet", "--filter", f"label={self._label}").split():
            docker("rm", "--force", *found, check=False)
        super().__exit__(kind, error, trace)

    @property
    def container(self) -> str:
        return docker("ps", "--quiet", "--filter", f"label={self._label}")

    def peak(self) -> Peak:
        """What it took until now."""
        status = docker("exec", self.container, "cat", "/proc/1/status")
        (resident,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        charged = 0
        for path in ("/sys/fs/cgroup/memory.peak", "/sys/fs/cgroup/memory/memory.max_usage_in_bytes"):  # v2, v1
            if told := docker("exec", self.container, "cat", path, check=False):
                charged = int(told)
        return Peak(int(resident) * 1024, charged)


class Peak(tuple[int, int]):
    """Bytes that were resident in the function's process at most, and that its cgroup was charged for, with caches."""

    __slots__ = ()

    def __new__(cls, resident: int, charged: int) -> Peak:
        return super().__new__(cls, (resident, charged))

    @property
    def resident(self) -> int:
        return self[0]

    @property
    def charged(self) -> int:
        return self[1]
