"""Records as text that COPY reads, for types whose values only the server can make.

The server reads such a column's texts in any case, so its records are sent as text and never in binary form: some
types' binary input refuses what their binary output gives (``int2vector`` without elements, a ``timestamp(0)`` that was
rounded past the end of time), and some have none. There are two forms.

`CsvForm`: records are sent once, in the hope that none is refused. In a file of a plain dialect fields go as they
stand, quotes and all (``loader/kernel/text.c``); else the texts that Arrow found are spelled anew (`encode`). A text
that PostgreSQL refuses fails the whole COPY. So a COPY is of a few blocks; it is undone, and its records are put to the
text lane, which finds those that are refused (`segments`).

`JudgedForm`: the text lane judges each record first, and those that it takes go on as the lines that it took.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from psycopg2 import sql

from loader.columns import LoadColumn
from loader.fields import Dialect


@dataclass(frozen=True, slots=True)
class CsvForm:
    """``delimiter`` and ``quote``: one character each. ``null``: the unquoted text that means NULL. ``verbatim``: they
    are those of the file, so a field can go as it stands."""

    delimiter: str
    quote: str
    null: str
    verbatim: bool

    @property
    def options(self) -> sql.Composed:
        """The options of COPY's statement."""
        return sql.SQL("FORMAT csv, DELIMITER {}, QUOTE {}, NULL {}").format(
            sql.Literal(self.delimiter), sql.Literal(self.quote), sql.Literal(self.null)
        )


@dataclass(frozen=True, slots=True)
class JudgedForm:
    """COPY's text format, of records that PostgreSQL has taken already. It has no text that ends the data early, as
    ``\\.`` in CSV until PostgreSQL 17."""

    @property
    def options(self) -> sql.Composed:
        """The options of COPY's statement."""
        return sql.Composed([sql.SQL("FORMAT text")])


CopyForm = CsvForm | JudgedForm
"""The form of what goes to COPY, where it is not the binary one."""

JUDGED = JudgedForm()

_OWN = CsvForm(",", '"', "", verbatim=False)


@dataclass(frozen=True, slots=True)
class Lines:
    """Records of one block in such a form: ``data``, each ended by LF. ``rejected``: the places in the block of the
    records that are not among them because they were rejected."""

    data: bytes
    rejected: npt.NDArray[np.int64]


NO_PLACES = np.empty(0, np.int64)


def copy_form(
    columns: Sequence[LoadColumn], dialect: Dialect, null: Sequence[str], session_zone: str, *, judged: bool = False
) -> CopyForm | None:
    """The form in which records of these ``columns`` are to go; None where all go in binary form.

    They go as text where the server has to make a column. ``dialect`` and ``null`` are the file's. ``judged``: each
    record is to be judged first; else only where something is done to a text before it is read, or where COPY would
    not read every one as the text lane does.
    """
    if all(column.type.wire != "server" for column in columns):
        return None
    if judged or not all(_goes_as_it_is(column, session_zone) for column in columns):
        return JUDGED
    shortest = min(null, key=len)
    if not (dialect.is_plain and dialect.quote is not None and dialect.delimiter[0] < 128 and dialect.quote < 128):
        return _OWN
    delimiter, quote = dialect.delimiter.decode(), chr(dialect.quote)
    spoils = {delimiter, quote, "\r", "\n", "\\"}  # the last, of "\.", which ends the data until PostgreSQL 17
    if spoils & set(shortest):
        return _OWN
    return CsvForm(delimiter, quote, shortest, verbatim=True)


def _goes_as_it_is(column: LoadColumn, session_zone: str) -> bool:
    """Whether COPY stores of the file's text what the text lane makes of it, which also reads times in other zones than
    the session's."""
    if column.steps or column.format is not None or column.pattern is not None:
        return False
    return not (column.type.base_name.endswith("with time zone") and column.zone != session_zone)
