"""Commands of the loader, run as a user runs them but for the process, which takes half a second of CPU to start."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import IO
from unittest import mock

from loader.cli import main


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> CompletedProcess[str]:
    """``loader ARGUMENTS`` with those variables, in that folder: its exit code and what it wrote."""
    with (
        mock.patch.dict(os.environ, environment),
        contextlib.chdir(cwd or "."),
        _written_to("stdout") as out,
        _written_to("stderr") as errors,
    ):
        try:
            code = main(arguments)
        except SystemExit as usage:  # argparse
            code = int(usage.code or 0)
        return CompletedProcess(arguments, code, _read(out), _read(errors))


@contextlib.contextmanager
def _written_to(name: str) -> Iterator[IO[str]]:
    """A file that stands for a standard stream."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file, mock.patch.object(sys, name, file):
        yield file


def _read(file: IO[str]) -> str:
    file.flush()
    file.seek(0)
    return file.read()
