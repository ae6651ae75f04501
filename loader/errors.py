"""Everything that can go wrong, as a tree.

    LoaderError
     ├── UsageError                 a call or command line that cannot mean anything
     ├── SpecError                  the spec is wrong; lists every problem at once
     ├── SourceError                the object or file cannot be read
     │    ├── SourceNotFoundError      no such bucket, key or path, or no permission to see it
     │    ├── SourceChangedError       it changed while it was read     (retryable in S3)
     │    ├── SourceUnavailableError   S3 did not answer, after every retry            (retryable)
     │    ├── SourceCorruptedError     its bytes do not have the checksum that S3 keeps (retryable)
     │    └── DecodeError              damaged compression, or a codec that cannot go on after a bad byte
     ├── ShapeError                 the file is not the CSV that the spec describes
     ├── TransformError             a hook raised, or returned what it must not
     ├── RejectLimitError           more records were rejected than the spec allows
     ├── PausedError                its time was up, or it was told to stop; it can be continued (retryable)
     └── DatabaseError              PostgreSQL refused; carries its SQLSTATE
          ├── TableError               the target's columns or keys do not fit the spec
          └── DatabaseUnavailableError  no connection, or one that was lost             (retryable)

A message is one sentence that names the object first, then the record, column and value where there are any,
then the cause. ``retryable`` says whether the same call may succeed later with nothing changed by anybody.
``report`` is the failed load's report, once a load had begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from loader.report import LoadReport


class LoaderError(Exception):
    """Base of all errors that this package raises on purpose."""

    retryable: bool = False
    exit_code: ClassVar[int] = 1  # of the command line
    report: LoadReport | None = None


class UsageError(LoaderError):
    """A call or command line that cannot mean anything."""

    exit_code = 2


class SpecError(LoaderError):
    """The spec is wrong. ``problems`` holds one sentence for each mistake, in the spec's order."""

    exit_code = 2

    def __init__(self, problems: Sequence[str], origin: str = "spec") -> None:
        self.problems = tuple(problems)
        self.origin = origin
        super().__init__(self._text())

    def _text(self) -> str:
        if len(self.problems) == 1:
            return f"{self.origin}: {self.problems[0]}"
        listed = "".join(f"\n  - {problem}" for problem in self.problems)
        return f"{self.origin}: {len(self.problems)} problems{listed}"


class SourceError(LoaderError):
    """The object or file cannot be read."""


class SourceNotFoundError(SourceError):
    """No such bucket, key or path, or no permission to see it."""


class SourceChangedError(SourceError):
    """The object or file changed while it was read: what was read is not one version of it.

    Retryable of an object in S3: the same call reads the version that is there now. A local file that changes is still
    being written by its owner, and what a retry would read is no better.
    """


class SourceUnavailableError(SourceError):
    """S3 did not answer, or broke off, after every retry."""

    retryable = True


class SourceCorruptedError(SourceError):
    """The bytes that arrived are not those that S3 stores: their checksum is another. Nothing of them is kept."""

    retryable = True


class DecodeError(SourceError):
    """Damaged compression, or a bad byte after which the codec of the encoding cannot go on."""


class ShapeError(LoaderError):
    """The file is not the CSV that the spec describes: no header, an unknown column, a record without end."""


class TransformError(LoaderError):
    """A hook raised, or returned something else than as many rows of the same columns."""


class RejectLimitError(LoaderError):
    """More records were rejected than ``[rejects]`` allows. Nothing was changed."""


class PausedError(LoaderError):
    """The load came to rest before its end. The same call continues it at its last checkpoint.

    ``handover``: because its time was up, so somebody has to call again.
    """

    retryable = True

    def __init__(self, message: str, *, handover: bool) -> None:
        super().__init__(message)
        self.handover = handover


class DatabaseError(LoaderError):
    """PostgreSQL refused. ``sqlstate`` is its five-character code, or None."""

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class TableError(DatabaseError):
    """The target's columns or keys do not fit the spec."""


class DatabaseUnavailableError(DatabaseError):
    """No connection could be made, or one was lost."""

    retryable = True
