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

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from psycopg2 import sql


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


@dataclass(frozen=True, slots=True)
class Lines:
    """Records of one block in such a form: ``data``, each ended by LF. ``rejected``: the places in the block of the
    records that are not among them because they were rejected."""

    data: bytes
    rejected: npt.NDArray[np.int64]


NO_PLACES = np.empty(0, np.int64)
