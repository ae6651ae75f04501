"""Which characters a database's encoding has: PostgreSQL is asked about each one, once.

Everything is sent in UTF-8, and the server converts. A character that its encoding lacks fails the whole statement or
COPY, so records that hold one have to be found before. PostgreSQL's conversions are not those of Python's codecs, so
only the server can tell.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.postgres.statements import execute, rows

_HAVE_ALL = ("UTF8", "SQL_ASCII")  # the latter stores whatever bytes it is given

BY_OTHER_LENGTHS = ("SQL_ASCII", "EUC_JIS_2004")
"""Encodings in which a text may have another number of characters than in Unicode: of each byte the first makes one,
and of some pairs of characters the second does."""


def server_encoding(connection: Connection) -> str:
    """The database's encoding, by PostgreSQL's name."""
    return connection.info.parameter_status("server_encoding") or "UTF8"


def repertoire_of(encoding: str) -> Repertoire | None:
    """That of a database's ``encoding``; None where it has every character."""
    return None if encoding in _HAVE_ALL else Repertoire()


class Repertoire:
    """The characters of one database's encoding, as far as they were met. Safe to share between threads."""

    def __init__(self) -> None:
        self._had = set(map(chr, range(128)))
        self._lacked: dict[str, str] = {}
        self._lock = threading.Lock()

    def lacked(self, text: Iterable[str], session: Callable[[], AbstractContextManager[Connection]]) -> set[str]:
        """The characters of ``text`` that the encoding lacks. ``session`` is opened where there are new ones.

        Raises psycopg2.Error.
        """
        met = set(text)
        if new := met - self._had - self._lacked.keys():
            with self._lock, session() as connection:
                self._ask(connection, sorted(new))
        return met & self._lacked.keys()

    def why(self, character: str) -> str:
        """What PostgreSQL says of a character that it lacks."""
        return self._lacked[character]

    def _ask(self, connection: Connection, characters: list[str]) -> None:
        """All at once; where that fails, halves by themselves, down to single ones."""
        pending = [characters]
        while pending:
            part = pending.pop()
            error = _refusal(connection, "".join(part))
            if error is None:
                self._had.update(part)
            elif len(part) == 1:
                self._lacked[part[0]] = error
            else:
                pending += [part[len(part) // 2 :], part[: len(part) // 2]]


def _refusal(connection: Connection, text: str) -> str | None:
    """What PostgreSQL says of a text that it cannot convert; None of one that it can."""
    execute(connection, "SAVEPOINT loader_repertoire")
    try:
        rows(connection, "SELECT convert(%s, 'UTF8', getdatabaseencoding())", (psycopg2.Binary(text.encode()),))
    except errors.UntranslatableCharacter as error:
        execute(connection, "ROLLBACK TO SAVEPOINT loader_repertoire")
        return error.diag.message_primary or str(error)
    execute(connection, "RELEASE SAVEPOINT loader_repertoire")
    return None
