"""Everything that can go wrong, as a tree.

    LoaderError
     ├── UsageError                 a call or command line that cannot mean anything
     │    └── SetupError               the environment is wrong: it concerns every load, not this one
     ├── SpecError                  the spec is wrong; lists every problem at once
     ├── SourceError                the object or file cannot be read
     │    ├── SourceNotFoundError      no such bucket, key or path, or no permission to see it
     │    ├── SourceChangedError       it changed while it was read     (retryable in S3)
     │    ├── SourceUnavailableError   S3 did not answer, after every retry            (retryable)
     │    ├── SourceCorruptedError     its bytes do not have the checksum that S3 keeps (retryable)
     │    └── DecodeError              damaged compression, or a codec that cannot go on after a bad byte
     ├── ShapeError                 the file is not the CSV that the spec describes
     │    └── ForeignFormatError       it is a file of another format: a workbook, an archive, a web page
     ├── TransformError             a hook raised, or returned what it must not
     ├── LimitError                 the file has more bytes or records than [limits] or the deployment allows
     ├── RejectLimitError           more records were rejected than the spec allows
     ├── PausedError                its time was up, or it was told to stop; it can be continued (retryable)
     └── DatabaseError              PostgreSQL refused; carries its SQLSTATE
          ├── TableError               the target's columns or keys do not fit the spec
          └── DatabaseUnavailableError  no connection, or one that was lost             (retryable)
               └── BusyError                another load has the table's turn           (retryable)

A message is one sentence that names the object first, then the record, column and value where there are any,
then the cause. ``retryable`` says whether the same call may succeed later with nothing changed by anybody.
``report`` is the failed load's report, once a load had begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from loader.core.display import curtailed, printable

if TYPE_CHECKING:
    from loader.core.report import LoadReport


class LoaderError(Exception):
    """Base of all errors that this package raises on purpose. Control characters of a message are escaped."""

    retryable: bool = False
    exit_code: ClassVar[int] = 1  # of the command line
    report: LoadReport | None = None

    def __init__(self, message: str = "", *, lines: bool = False) -> None:
        super().__init__(printable(message, lines=lines))


class UsageError(LoaderError):
    """A call or command line that cannot mean anything."""

    exit_code = 2


class SetupError(UsageError):
    """The environment is wrong, such as a variable that is not set. It concerns every load, not the one at hand."""


class SpecError(LoaderError):
    """The spec is wrong. ``problems`` holds one sentence for each mistake, in the spec's order, up to a limit, and
    ``more`` is how many there are beside them."""

    exit_code = 2

    def __init__(self, problems: Sequence[str], origin: str = "spec", *, more: int = 0) -> None:
        self.problems = tuple(map(curtailed, problems))
        self.origin = origin
        self.more = more
        super().__init__(self._text(), lines=True)

    def _text(self) -> str:
        if len(self.problems) == 1:
            return f"{self.origin}: {self.problems[0]}"
        listed = "".join(f"\n  - {problem}" for problem in self.problems)
        rest = f"\n  … and {self.more:,} more" if self.more else ""
        return f"{self.origin}: {len(self.problems) + self.more:,} problems{listed}{rest}"


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


class ForeignFormatError(ShapeError):
    """The file is of another format than CSV: a workbook, an archive, an image, a web page."""


class TransformError(LoaderError):
    """A hook raised, or returned something else than as many rows of the same columns, or values without a text."""


class LimitError(LoaderError):
    """The file has more bytes of text, or more records, than ``[limits]`` or the deployment allows."""


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


class BusyError(DatabaseUnavailableError):
    """Another load has the table's turn, and kept it for as long as this one was to wait."""


def recalled(kind: str, message: str) -> LoaderError | None:
    """The error of the class named ``kind`` that failed a load earlier, from its message; None for no such class."""
    pending: list[type[LoaderError]] = [LoaderError]
    while pending:
        each = pending.pop()
        if each.__name__ == kind:
            error = each.__new__(each)
            Exception.__init__(error, message)
            if isinstance(error, SpecError):
                error.problems, error.origin = (message,), ""
            if isinstance(error, DatabaseError):
                error.sqlstate = None
            return error
        pending += each.__subclasses__()
    return None
