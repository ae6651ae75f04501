"""Records as the CSV that COPY reads, for types whose values only the server can make.

The server reads such a column's texts in any case, so its records are sent once, as text, in the hope that none is
refused. In a file of a plain dialect fields go as they stand, quotes and all (``loader/kernel/text.c``); else the texts
that Arrow found are spelled anew (`encode`). A text that PostgreSQL refuses fails the whole COPY. So a COPY is of a few
blocks; it is undone, and its records are put to the text lane, which finds those that are refused (`segments`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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


_OWN = CsvForm(",", '"', "", verbatim=False)


@dataclass(frozen=True, slots=True)
class Lines:
    """Records of one block in that form: ``data``, each ended by LF. ``rejected``: the places in the block of the
    records that are not among them because they were rejected."""

    data: bytes
    rejected: npt.NDArray[np.int64]


NO_PLACES = np.empty(0, np.int64)


def csv_form(columns: Sequence[LoadColumn], dialect: Dialect, null: Sequence[str], session_zone: str) -> CsvForm | None:
    """The form in which records of these ``columns`` are to go; None where all go in binary form.

    It is for loads with a column that the server has to make, as long as nothing is done to any text before it is read,
    and COPY reads every one as the text lane does. ``dialect`` and ``null`` are the file's.
    """
    if all(column.type.wire != "server" for column in columns):
        return None
    if not all(_goes_as_text(column, session_zone) for column in columns):
        return None
    shortest = min(null, key=len)
    if not (dialect.is_plain and dialect.quote is not None and dialect.delimiter[0] < 128 and dialect.quote < 128):
        return _OWN
    delimiter, quote = dialect.delimiter.decode(), chr(dialect.quote)
    spoils = {delimiter, quote, "\r", "\n", "\\"}  # the last, of "\.", which ends the data until PostgreSQL 17
    if spoils & set(shortest):
        return _OWN
    return CsvForm(delimiter, quote, shortest, verbatim=True)


def _goes_as_text(column: LoadColumn, session_zone: str) -> bool:
    """Whether COPY stores of a text what the text lane makes of it.

    The lane also reads times in other zones than the session's, finds times that rounding moves out of range, and
    spells types without a binary form.
    """
    type_ = column.type
    if column.steps or column.format is not None or column.pattern is not None or type_.text_only:
        return False
    zoned = type_.base_name.endswith("with time zone") and column.zone != session_zone
    return not (zoned or type_.base_name.startswith("timestamp("))
