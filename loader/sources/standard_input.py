"""Standard input as a source: spooled to a file, because a load looks at its beginning first and may begin again."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from loader.core.errors import SourceError, UsageError
from loader.sources.files import FileSource

SIGN = "-"
"""What stands for it on the command line."""

NAME = "standard input"
"""What it is called in messages and in the ledger."""

LIMIT = 64 << 30
"""Bytes that are taken from it. They lie in the folder for temporary files, ``$TMPDIR``."""

_PIECE = 1 << 20


def open_standard_input() -> FileSource:
    """All that standard input holds, as one version by its content. A process reads it once, and keeps it to its end.

    Raises SourceError where it is over `LIMIT` bytes or the disk is full, UsageError where it is a terminal.
    """
    path, version = _spooled()
    return FileSource(str(path), name=NAME, version=version)


@lru_cache(maxsize=1)
def _spooled() -> tuple[Path, str]:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("standard input is a terminal; give it a file: cat trips.csv | loader load - --table trips")
    folder = Path(tempfile.mkdtemp(prefix="loader-input-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "input.csv"
    try:
        with path.open("wb") as out:
            return path, f"sha256:{spool(sys.stdin.buffer, out)}"
    except OSError as error:
        raise SourceError(f"{NAME}: cannot be kept in {folder}: {error.strerror}") from error


def spool(stream: BinaryIO, out: BinaryIO, limit: int = LIMIT) -> str:
    """Copy all of ``stream``, and give its SHA-256 in hexadecimal. Raises SourceError over ``limit`` bytes."""
    digest, size = sha256(), 0
    while piece := stream.read(_PIECE):
        size += len(piece)
        if size > limit:
            raise SourceError(f"{NAME}: holds more than {limit:,} bytes; write it to a file and load that")
        digest.update(piece)
        out.write(piece)
    return digest.hexdigest()
