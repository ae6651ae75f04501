"""The form in which records of certain columns go to COPY: binary, or as text where the server has to make a value."""

from __future__ import annotations

from collections.abc import Sequence

from loader.postgres.copy_forms import JUDGED, CopyForm, CsvForm
from loader.postgres.load_column import LoadColumn
from loader.records.dialect import Dialect

_OWN = CsvForm(",", '"', "", verbatim=False)


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
