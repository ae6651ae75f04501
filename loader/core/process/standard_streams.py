"""Standard output and standard error of a command: what becomes of the command when they cannot be written to.

Whoever reads a command's output may stop early (``loader status | head``), and a disk that it is redirected to may be
full. A command that only prints ends then, as other Unix tools do. A load goes on, because what it does to the table
does not depend on who reads about it; what it would print is discarded, and its exit code says what became of it.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_GONE = (errno.EPIPE, errno.EIO, errno.ESHUTDOWN)
"""Errors of a pipe, a terminal or a socket at whose other end nobody reads any more."""


class OutputError(Exception):
    """Standard output cannot be written to. ``is_gone``: because nobody reads it any more."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output cannot be written: {error.strerror or error}")
        self.is_gone = error.errno in _GONE


class Output:
    """A standard stream that discards everything once it cannot be written to.

    ``goes_on``: whoever writes is not to know; else OutputError is raised.
    """

    def __init__(self, stream: Any, *, goes_on: bool) -> None:
        self._stream = stream
        self.goes_on = goes_on

    def write(self, data: Any) -> int:
        try:
            return int(self._stream.write(data))
        except OSError as error:
            self._discard(error)
            return len(data)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._discard(error)

    @property
    def buffer(self) -> Output:
        return Output(self._stream.buffer, goes_on=self.goes_on)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _discard(self, error: OSError) -> None:
        failure = OutputError(error)
        with suppress(OSError, ValueError):  # it has no file of its own, as in tests
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
        if not self.goes_on:
            raise failure from error
        if not failure.is_gone and sys.stderr is not self:
            print(f"loader: {failure}", file=sys.stderr, flush=True)


@contextmanager
def standard_streams(*, goes_on: bool = False) -> Iterator[Output]:
    """`sys.stdout` and `sys.stderr` are an `Output` while the body runs; gives that of standard output.

    ``goes_on`` is of standard output; messages on standard error never keep a command from going on. Characters that a
    stream's encoding lacks, and bytes of file names that are not text, are written as ``\\uXXXX``.
    """
    before = sys.stdout, sys.stderr
    with io.TextIOWrapper(io.FileIO(os.devnull, "w"), "utf-8") as nowhere:  # one may have been closed by the shell
        out, err = (stream or nowhere for stream in before)
        for stream in (out, err):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors=_ESCAPE)
        output = Output(out, goes_on=goes_on)
        sys.stdout, sys.stderr = output, Output(err, goes_on=True)
        try:
            yield output
        finally:
            sys.stdout, sys.stderr = before


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    units = (int.from_bytes(text[at : at + 2], "big") for at in range(0, len(text), 2))
    return "".join(f"\\u{unit:04x}" for unit in units), error.end  # as in JSON


_ESCAPE = "loader.escape"
codecs.register_error(_ESCAPE, _escaped)
