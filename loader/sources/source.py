"""What a load reads from: one version of an object in S3, or a local file, behind one interface.

This is the front of the room: the interface, and which transport serves which address. The transports are
`loader.sources.s3` and `loader.sources.files`; each has the same two functions, ``expand`` and ``open_source``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from types import TracebackType
from typing import Any, Protocol, Self

from loader.core.deadline import Deadline
from loader.core.errors import UsageError
from loader.core.process.memory import memory_limit
from loader.sources import files, folder_markers, standard_input
from loader.sources.checksums import Checksum, NoChecksum

PART_SIZE = 4 << 20
"""Bytes of one ranged GET. At 4 MiB, the wait for S3's first byte (25 ms) is a third of the time it takes; 8 MiB would
half the requests (0.05 of 0.10 dollars a terabyte) and take 50 MB more memory at the peak (252 MB against 200 MB)."""

SMALL = 200 << 20
"""Bytes of memory below which a process reads parts of `SMALL_PART` bytes: the interpreter and its libraries leave some
50 MB of Lambda's smallest function, which has 128. A request costs 1 ms of CPU, so four times as many are a tenth of a
load's."""

SMALL_PART = 1 << 20

PREFETCH = 3
"""GETs under way at once. 3 of 4 MiB, with S3's latency and 85 MB/s each, give 170 MB/s: twice what the network of a
function sustains, and more than a load takes."""

_S3 = "s3://"


class Source(Protocol):
    """One version of an object or file. Opening it asked for its size and version; `chunks` and `read_range` read it.

    ``uri`` is ``s3://bucket/key`` or the absolute path; ``bucket`` is None for a local file, and ``key`` is then
    the path; ``size`` is in bytes; ``last_modified`` is in UTC. ``version`` is S3's version id, or
    ``etag:…`` where the bucket keeps no versions, or ``sha256:…`` of a local file, None until that is known. ``pin``
    is what has to be the same for a load of it to be continued: the version, or of a local file what tells one
    state of it from another. ``deadline``, which may be set: when `chunks` stops waiting for bytes; by default never.
    """

    uri: str
    bucket: str | None
    key: str
    size: int
    last_modified: datetime
    version: str | None
    pin: str
    deadline: Deadline

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from ``start`` on, in order, up to ``stop`` or the end: exactly so many of them in all.

        Raises SourceChangedError when they would be of another version, SourceUnavailableError when S3 goes on
        breaking off, PausedError when the deadline comes while S3 is silent, and SourceError for whatever else keeps
        them from being read.
        """

    def read_range(self, start: int, stop: int) -> bytes:
        """The bytes from ``start`` up to ``stop``, which is within ``size``, and no others. Raises as `chunks` does."""

    def digest(self) -> str:
        """The version. Of a local file that was not read yet, this reads it. Raises SourceError."""

    def checksum(self) -> Checksum | NoChecksum:
        """S3's checksum of the object, or why there is none to compare its bytes with."""

    def is_newer_than(self, version_id: str) -> bool | None:
        """Whether this version of the object is newer than that one; None where nobody can tell. Raises SourceError
        where that may be found out later."""

    def other_version(self, version_id: str) -> Source:
        """Another version of the same object, read by the same client. Raises as `open_source` does, and SourceError
        where it keeps no versions."""

    def interrupt(self) -> None:
        """End what `chunks` has under way: whoever waits for it gets SourceError. It can be read again."""

    def close(self) -> None:
        """End what `chunks` has under way. A source that was not read has nothing under way."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Missing:
    """An object that could not be opened, with what is known of it nevertheless."""

    uri: str
    version: str | None
    size: None = None
    last_modified: None = None

    @property
    def bucket(self) -> str | None:
        return self.uri.removeprefix(_S3).partition("/")[0] if self.uri.startswith(_S3) else None

    @property
    def key(self) -> str:
        return self.uri.removeprefix(_S3).partition("/")[2] if self.uri.startswith(_S3) else self.uri

    @property
    def pin(self) -> str | None:
        return self.version


def expand(
    source: str | os.PathLike[str], *, client: Any = None, note: Callable[[str], None] | None = None
) -> list[str]:
    """The addresses that ``source`` stands for, in the order of their names.

    ``source`` is a path, a glob over paths, ``-`` for standard input, ``s3://bucket/key``, ``s3://bucket/prefix/``,
    ``s3://bucket`` or a glob over keys, such as ``s3://bucket/2024/*.csv``. ``*`` stays within one level, ``**`` goes
    through levels. What exists under exactly the given name is meant before its reading as a glob. Names are
    literal: nothing in them is URL-encoded.

    Of a prefix or glob, what stands for no data is left out, see `loader.sources.folder_markers`; ``note`` is called
    with a sentence that names it. Whether a plain name exists is left to `open_source`. Raises SourceNotFoundError
    where a glob or prefix stands for nothing, UsageError for an address that is none.
    """
    name = _address(source)
    if name == standard_input.SIGN:
        return [name]
    if not name.startswith(_S3):
        found, left_out = files.expand(name)
    else:
        from loader.sources import s3

        found, left_out = s3.expand(name, client=client)
    if note is not None:
        for sentence in folder_markers.told(left_out):
            note(f"{name}: {sentence}")
    return found


def open_source(
    uri: str | os.PathLike[str],
    *,
    version_id: str | None = None,
    client: Any = None,
    part_size: int | None = None,
    prefetch: int = PREFETCH,
    ahead: int = 0,
) -> Source:
    """Open the object or file ``uri``, in its latest version or in S3's ``version_id``.

    Asks for size and version (one HEAD, or stat); reads nothing yet. Of an object that is likely to have at most
    ``ahead`` bytes, S3 is asked for all at once instead (one GET). At most ``prefetch`` parts of ``part_size`` bytes
    (by default what fits the process's memory) are held beyond the one handed out. A ``client`` stays the caller's to
    close.
    Raises SourceNotFoundError, SourceUnavailableError or SourceError; UsageError for an address that is none.
    """
    name = _address(uri)
    if name == standard_input.SIGN:
        return standard_input.open_standard_input()
    if not name.startswith(_S3):
        return files.open_source(name)
    from loader.sources import s3

    part_size = part_size or fitting_part_size()
    return s3.open_source(
        name, version_id=version_id, client=client, part_size=part_size, prefetch=prefetch, ahead=ahead
    )


def fitting_part_size() -> int:
    """Bytes of one ranged GET, for the memory that this process may have."""
    limit = memory_limit()
    return SMALL_PART if limit is not None and limit < SMALL else PART_SIZE


def s3_client(**overrides: Any) -> Any:
    """A boto3 client as this package wants it; ``overrides`` are options of botocore's ``Config``.

    Endpoint, region and credentials are found as every AWS tool finds them (``AWS_ENDPOINT_URL`` included).
    Raises SourceError where what is found is no configuration.
    """
    from loader.sources import s3

    return s3.s3_client(**overrides)


def _address(source: str | os.PathLike[str]) -> str:
    name = os.fspath(source)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name) and not name.startswith(_S3):
        raise UsageError(f"{name}: only s3://bucket/key and local paths can be read")
    return name


def table_for(uri: str) -> str:
    """``…/Trip data.csv.gz`` → ``trip_data``. Raises UsageError where nothing is left of the name."""
    stem = PurePath(uri).name.split(".")[0].lower()
    name = re.sub(r"\W+", "_", stem).strip("_")
    if not name:
        raise UsageError(f"{uri}: gives no name for a table; give --table")
    return name
