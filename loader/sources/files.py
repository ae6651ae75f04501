"""Local files as sources: the same interface as an object in S3, and the same promise of one version.

A file has no version of its own, so its content's hash is taken, while it is read anyway.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from loader.core.deadline import NEVER
from loader.core.errors import SourceChangedError, SourceError, SourceNotFoundError
from loader.sources.checksums import NoChecksum
from loader.sources.folder_markers import is_left_out, told

CHUNK_SIZE = 1 << 20
"""Bytes of a chunk, and of the memory a file takes."""


def expand(pattern: str) -> tuple[list[str], list[str]]:
    """The absolute paths that ``pattern`` stands for, in order, and those left out, see `loader.sources.source.expand`.

    Raises SourceNotFoundError where a glob stands for no file.
    """
    if os.path.lexists(pattern) or not glob.has_magic(pattern):
        return [_absolute(pattern)], []
    pattern = re.sub(r"(?<![^/])(?:\*\*/)+", "**/", pattern)  # each repetition would go through all folders again
    matches = glob.glob(pattern, recursive=True)  # noqa: PTH207 - pathlib's glob takes no absolute pattern
    found = sorted({_absolute(path) for path in matches if not Path(path).is_dir()})
    left_out = [path for path in found if is_left_out(path, _size(path), _absolute(pattern))]
    if len(left_out) == len(found):
        raise SourceNotFoundError(". ".join((f"{pattern}: no file matches", *told(left_out))))
    return [path for path in found if path not in set(left_out)], left_out


def _size(path: str) -> int:
    """Bytes; what cannot be asked now is left for opening to tell."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return 1


def open_source(path: str) -> FileSource:
    """The file at ``path``, as it is now. Raises SourceNotFoundError or SourceError."""
    return FileSource(path)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _moment(seconds: float) -> datetime:
    """A file's time; the nearest that a datetime holds, for a file may have any."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return (datetime.max if seconds > 0 else datetime.min).replace(tzinfo=UTC)


class FileSource:
    """One state of a regular file, told by which file it is, its size and its time of change.

    ``name`` is what it goes by where its path is nobody's business, ``version`` what it is a version of where its
    content alone does not say. A change that alters neither size nor time, which the kernel counts in milliseconds,
    goes unseen. Raises SourceNotFoundError where there is no such file or no permission to read it, SourceError for
    what is no regular file.
    """

    def __init__(self, path: str, *, name: str | None = None, version: str | None = None) -> None:
        self._path = _absolute(path)
        self.uri = name or self._path
        self.bucket: str | None = None
        self.key = self.uri
        if not _is_text(self.uri):
            raise SourceError(f"{self.uri!a}: the path is not valid UTF-8, so the ledger cannot hold it; rename it")
        with self._clear_errors():
            found = Path(self._path).stat()
            self._refuse_irregular(found.st_mode)
            if not os.access(self._path, os.R_OK):
                raise PermissionError(None, "Permission denied")
        self.size = found.st_size
        self.last_modified = _moment(found.st_mtime)
        self.version = version if version or self.size else _version(sha256().hexdigest())
        self.deadline = NEVER  # a file does not keep anybody waiting
        self._state = _state(found)
        self.pin = version or ":".join(map(str, self._state))

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``stop``. Where that is all, ``version`` is known with the last chunk."""
        end = self.size if stop is None else stop
        # FileIO reads straight into the bytes it hands out: one copy, no buffer between
        with self._clear_errors(), FileIO(self._path) as file:
            self._check_unchanged(file)
            position = file.seek(start)
            digest = sha256() if start == 0 and end == self.size and self.version is None else None
            while position < end:
                chunk = file.read(min(CHUNK_SIZE, end - position))
                if not chunk:
                    raise self._changed()
                position += len(chunk)
                if digest is not None:
                    digest.update(chunk)
                if position == end:
                    self._check_unchanged(file)
                    self.version = _version(digest.hexdigest()) if digest is not None else self.version
                yield chunk

    def read_range(self, start: int, stop: int) -> bytes:
        """The bytes from ``start`` up to ``stop``."""
        with self._clear_errors(), FileIO(self._path) as file:
            self._check_unchanged(file)
            file.seek(start)
            data = file.read(stop - start)
            self._check_unchanged(file)
        if len(data) != stop - start:
            raise self._changed()
        return data

    def digest(self) -> str:
        """``sha256:`` and the content's hash in hexadecimal. Reads the file where that was not done yet."""
        if self.version is None:
            for _ in self.chunks():
                pass
        assert self.version is not None
        return self.version

    def checksum(self) -> NoChecksum:
        """There is none to compare with: its version is the hash of what was read."""
        return NoChecksum()

    def is_newer_than(self, version_id: str) -> bool | None:  # noqa: ARG002 - S3's objects have them
        """None: a file has no versions beside the one that it holds."""
        return None

    def other_version(self, version_id: str) -> FileSource:
        raise SourceError(f"{self.uri}: is a local file and keeps no version {version_id}")

    def interrupt(self) -> None:
        """Nothing has to be waited for."""

    def close(self) -> None:
        """Nothing is open but while `chunks` runs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse_irregular(self, mode: int) -> None:
        if stat.S_ISDIR(mode):
            raise SourceError(f'{self.uri}: is a directory; name its files, as in "{self.uri}/*.csv"')
        if not stat.S_ISREG(mode):
            # a pipe has no size, and cannot be read again to hash it or to resume
            raise SourceError(f"{self.uri}: is not a regular file")

    def _check_unchanged(self, file: FileIO) -> None:
        if _state(os.fstat(file.fileno())) != self._state:
            raise self._changed()

    def _changed(self) -> SourceChangedError:
        return SourceChangedError(f"{self.uri}: changed while it was being read")

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """The operating system's errors as this package's."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SourceNotFoundError(f"{self.uri}: no such file") from error
        except PermissionError as error:
            raise SourceNotFoundError(f"{self.uri}: no permission to read it") from error
        except (OSError, ValueError) as error:  # ValueError: a path that holds a NUL character
            cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise SourceError(f"{self.uri}: cannot be read: {cause}") from error


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - Path.absolute() leaves ".." standing


def _version(digest: str) -> str:
    return f"sha256:{digest}"


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
