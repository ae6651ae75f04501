"""Under which circumstances a part was measured: code, machine, server, versions."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.options import Options
from bench.rig import Server
from loader.kernel.compiled import kernel_state

PACKAGES = ("pyarrow", "pgpq", "psycopg2-binary", "numpy", "boto3")

ROOT = Path(__file__).resolve().parent.parent

PRESENTATION = ("report.py", "targets.py", "figures.py", "drawing.py", "parts.py")
"""Modules of the benchmark that decide how figures are shown, and none of the figures."""


def circumstances(server: Server, told: Options) -> dict[str, Any]:
    """All that two parts of one page must have in common, and what may differ: `parts.SAME` says which."""
    return {
        "at": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "code": code(),
        "machine": machine(),
        "python": platform.python_version(),
        "kernel": kernel_state(),
        "postgresql": server.ask("SHOW server_version"),
        "server": server.about,
        "cpu_from": server.host.cpu_from,
        "settings": dict(told.server.settings),
        "packages": {name: version(name) for name in PACKAGES},
        "rows": told.rows,
        "rounds": told.rounds,
    }


def commit() -> str:
    """The commit that is checked out, and whether files differ from it; "" outside a repository."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", "loader", "bench/*.py")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{head}, changed" if changed else head


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def code() -> str:
    """A digest of the loader's files, its compiled kernel, and of what measures: the state that figures belong to.

    A commit alone would not do: files may differ from it, and one that changes documents alone changes no figure.
    """
    files = [
        path for path in (ROOT / "loader").rglob("*") if path.suffix in (".py", ".c", ".h", ".so", ".sql", ".lark")
    ]
    files += [path for path in (ROOT / "bench").glob("*.py") if path.name not in PRESENTATION]
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(f"{path.relative_to(ROOT)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


def machine() -> str:
    """Cores, processor and memory; no name."""
    found = (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if "model name" in line)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {next(found, platform.machine())}, {memory:.0f} GB, {platform.system()}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text("utf-8").splitlines() if Path(path).exists() else []
