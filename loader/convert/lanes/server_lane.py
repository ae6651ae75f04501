"""The text lane: PostgreSQL itself judges a record's texts, and makes the bytes of those that it takes.

A temporary table has the load's columns with the target's own types. Records are COPYed into it as text, so
the types' input functions read them, with their modifiers and domains, exactly as ``COPY`` into the target would,
on every version and for every type. What it takes is read back as the tuples of binary COPY, and goes on beside
those that the client made; or, where the load's records go as text, the lines that it took go on themselves. What it
refuses is told with its own words.

The first refusal of a batch is found by COPY's own report of the line; from PostgreSQL 16 on, ``pg_input_error_info``
then finds the others at once, else they are found one by one.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from io import BytesIO
from types import TracebackType
from typing import Any, Self

import numpy as np
import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.convert.rows import Doubtful
from loader.core import arrays
from loader.core.errors import DatabaseError
from loader.core.faults import is_servers
from loader.core.vectors import Mask, Numbers
from loader.postgres.database import Database, translate, without_internals
from loader.postgres.filter_sql import lane_name
from loader.postgres.load_column import LoadColumn
from loader.postgres.server_encoding import Repertoire
from loader.postgres.statements import HEADER, TRAILER, copy, execute
from loader.postgres.statements import rows as rows_of
from loader.postgres.tables import POSITION
from loader.postgres.time_zones import in_zone

_TABLE = sql.Identifier("pg_temp", "loader_lane")


UNREPRESENTABLE = "22P05"
"""SQLSTATE untranslatable_character (manual, appendix A)."""

ONE_BY_ONE = 1000
"""Rows that are copied at once where refusals are found one by one: each costs sending the rest of them again."""

CELLS = 100_000
"""Values that ``pg_input_error_info`` is asked about at once: as Python's texts and as SQL, they take 20 MB."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """PostgreSQL would not have the text of ``column`` (None where it named none) in row ``row`` of a batch."""

    row: int
    column: str | None
    sqlstate: str
    message: str


@dataclass(frozen=True, slots=True)
class Judged:
    """``kept``: the rows that PostgreSQL took, from 0, shape (k,); ``refusals``: the others. ``filtered``: how many it
    took that are not among ``kept`` because the filter leaves them out."""

    kept: Numbers
    refusals: tuple[Refusal, ...]
    filtered: int = 0


class TextLane:
    """A load's way to ask. Its sessions are opened when they are first needed, one for each thread that asks.

    ``session_zone`` is the zone of the sessions: where a column's own ``zone`` differs, its texts are read there.
    ``repertoire``: the characters that the database's encoding has, None where it has all. Texts with others are
    refused here, because such a character fails every statement that it is sent with.
    ``left``: how many more rejects the load may have. A batch with more refusals than that ends the load, so no more
    are looked for in it, and the rest of its records is neither kept nor refused.
    ``filter``: the spec's, as `where` writes it, over the lane's table.
    """

    def __init__(
        self,
        database: Database,
        columns: Sequence[LoadColumn],
        session_zone: str,
        left: Callable[[], int] = lambda: sys.maxsize,
        repertoire: Repertoire | None = None,
        *,
        filter: sql.Composable | None = None,
    ) -> None:
        self._database = database
        self._repertoire = repertoire
        self._left = left
        self._filter = filter
        self._columns = list(columns)
        self._zoned = [
            (place, column.zone)
            for place, column in enumerate(columns)
            if column.zone != session_zone and column.type.base_name.endswith("with time zone")
        ]
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._stack = ExitStack()

    def tuples(self, asked: Doubtful, positions: Numbers | None = None) -> tuple[bytes, Judged]:
        """The records as binary COPY tuples, followed by `POSITION` where ``positions`` are given."""
        with self._session() as connection:
            asked, judged = self._in_their_zones(connection, asked, _all(asked))
            judged = self._fill(connection, asked, judged, positions)
            judged = self._filtered(connection, judged, positions)
            if not len(judged.kept):
                connection.commit()  # a commit truncates the table, so rows that were taken back leave no bloat
                return b"", judged
            columns: list[sql.Composable] = [lane_name(place) for place in range(len(self._columns))]
            columns += [sql.Identifier(POSITION)] if positions is not None else []
            made = _copied_out(connection, columns)
            connection.commit()
        return made, judged

    def lines(self, asked: Doubtful, positions: Numbers | None = None) -> tuple[bytes, Judged]:
        """The records that PostgreSQL takes as lines of COPY's text format, which end with `POSITION` where
        ``positions`` are given."""
        with self._session() as connection:
            asked, judged = self._in_their_zones(connection, asked, _all(asked))
            judged = self._fill(connection, asked, judged)
            judged = self._filtered(connection, judged, None)
            connection.commit()
        return _Lines(asked.texts, positions, range(len(self._columns))).of(judged.kept), judged

    def _filtered(self, connection: Connection, judged: Judged, positions: Numbers | None) -> Judged:
        """Without the records for which the filter is not true. Where PostgreSQL stops at one, it is not."""
        if self._filter is None or not len(judged.kept):
            return judged
        _delete_unless(connection, self._filter)
        of_kept = judged.kept if positions is None else positions[judged.kept]
        left = rows_of(connection, sql.SQL("SELECT {} FROM {}").format(sql.Identifier(POSITION), _TABLE))
        kept = judged.kept[np.isin(of_kept, np.array(left, np.int64))]
        return replace(judged, kept=kept, filtered=len(judged.kept) - len(kept))

    def canonical(self, asked: Doubtful) -> tuple[pa.RecordBatch, Judged]:
        """The records that PostgreSQL takes, each value in PostgreSQL's own spelling (dates as ISO 8601)."""
        with self._session() as connection:
            asked, judged = self._in_their_zones(connection, asked, _all(asked))
            judged = self._fill(connection, asked, judged)
            spelled = [self._spelled(connection, place) for place in range(len(self._columns))]
            connection.commit()
        return pa.RecordBatch.from_arrays(spelled, asked.texts.schema.names), judged

    def _in_their_zones(self, connection: Connection, asked: Doubtful, judged: Judged) -> tuple[Doubtful, Judged]:
        """Times of columns with a zone of their own are read there, and spelled with their offset."""
        columns, names = list(asked.texts.columns), asked.texts.schema.names
        rows = asked.texts.num_rows
        for place, zone in self._zoned:
            if columns[place].null_count == rows:
                continue
            with in_zone(connection, zone):
                judged = self._fill(connection, asked, judged, places=[place])
                spelled = self._spelled(connection, place)
                connection.commit()
            places = np.full(rows, -1, np.int64)
            places[judged.kept] = np.arange(len(judged.kept))
            known = pc.if_else(arrays.booleans(places >= 0), arrays.integers(places), arrays.null(pa.int64()))
            columns[place] = spelled.take(known)
        return replace(asked, texts=pa.RecordBatch.from_arrays(columns, names)), judged

    def _spelled(self, connection: Connection, place: int) -> pa.Array:
        """The texts of a column; times with a zone in UTC, for PostgreSQL reads no offset of 16 hours or more."""
        if "with time zone" in self._columns[place].type.base_name:
            execute(connection, "SELECT set_config('timezone', 'UTC', true)")
        statement = sql.SQL("SELECT {}::text FROM {} ORDER BY {}").format(
            lane_name(place), _TABLE, sql.Identifier(POSITION)
        )
        return arrays.nullable_texts(value for (value,) in rows_of(connection, statement))

    def _fill(
        self,
        connection: Connection,
        asked: Doubtful,
        judged: Judged,
        positions: Numbers | None = None,
        *,
        places: Sequence[int] | None = None,
    ) -> Judged:
        """Put those of ``judged.kept`` into the table that it takes, with their ``positions`` or else their rows.

        ``places``: of those columns alone, by default of all.
        """
        places = range(len(self._columns)) if places is None else places
        judged = self._representable(connection, asked, judged)
        lines = _Lines(asked.texts, np.arange(asked.texts.num_rows) if positions is None else positions, places)
        kept: list[Numbers] = []
        refusals: list[Refusal] = []
        rows, first, size = judged.kept, True, len(judged.kept)
        while len(rows):
            part = rows[:size]
            refusal = self._copy_in(connection, lines, part) if first else self._try(connection, lines, part)
            if refusal is None:
                kept.append(part)
                rows = rows[size:]
                continue
            at, error = refusal
            if first:
                connection.rollback()  # the transaction holds nothing else yet, so it needs no savepoint
            refusals.append(self._refusal(int(rows[at]), error))
            if at:  # those before it were read without a fault
                before = rows[:at]
                if self._try(connection, lines, before) is not None:
                    raise DatabaseError("PostgreSQL took a value and then did not; this is a defect of the loader")
                kept.append(before)
            rows = rows[at + 1 :]
            if not first:
                size = ONE_BY_ONE
            elif len(refusals) <= self._left():
                first = False
                found = self._ask(connection, asked, rows, places, self._left() - len(refusals))
                refusals += found
                rows = np.setdiff1d(rows, np.array([each.row for each in found], np.int64))
            if len(refusals) > self._left():
                break
        chosen = np.concatenate(kept) if kept else np.empty(0, np.int64)
        return Judged(chosen, (*judged.refusals, *refusals))

    def lacks(self, values: pa.Array) -> Mask | None:
        """Which texts hold a character that the database's encoding lacks; None where there is none to be found."""
        found = self._lacked(values, self._database.session)
        return None if not found else np.array([not found.isdisjoint(each or "") for each in values.to_pylist()], bool)

    def _lacked(self, values: pa.Array, session: Callable[[], AbstractContextManager[Connection]]) -> set[str]:
        if self._repertoire is None:
            return set()
        data = arrays.ends_and_bytes(values)[1]
        return set() if (data < 128).all() else self._repertoire.lacked(data.tobytes().decode(), session)

    def _representable(self, connection: Connection, asked: Doubtful, judged: Judged) -> Judged:
        """Without the records that hold a character that the database's encoding lacks."""
        refusals: dict[int, Refusal] = {}
        for column, values in zip(self._columns, asked.texts.columns, strict=True):
            if not (lacked := self._lacked(values, lambda: nullcontext(connection))):
                continue
            assert self._repertoire is not None
            for row in np.setdiff1d(judged.kept, list(refusals)).tolist():
                text = values[row].as_py() or ""
                if not lacked.isdisjoint(text):
                    first = next(each for each in text if each in lacked)
                    refusals[row] = Refusal(row, column.name, UNREPRESENTABLE, self._repertoire.why(first))
        if not refusals:
            return judged
        kept = np.setdiff1d(judged.kept, list(refusals))
        return Judged(kept, (*judged.refusals, *refusals.values()))

    def _try(self, connection: Connection, lines: _Lines, rows: Numbers) -> tuple[int, psycopg2.Error] | None:
        """COPY the rows if it takes them all; else what it refused, and the table is as it was."""
        execute(connection, "SAVEPOINT loader_lane")
        refusal = self._copy_in(connection, lines, rows)
        execute(connection, f"{'RELEASE' if refusal is None else 'ROLLBACK TO'} SAVEPOINT loader_lane")
        return refusal

    def _copy_in(self, connection: Connection, lines: _Lines, rows: Numbers) -> tuple[int, psycopg2.Error] | None:
        """COPY the rows; None, or the first that is refused, its place among ``rows`` and the error."""
        try:
            copy(connection, lines.statement, BytesIO(lines.of(rows)), size=1 << 20)
        except psycopg2.Error as error:
            at = _line(error)
            if at is None or connection.closed:
                raise
            return at, error
        return None

    def _refusal(self, row: int, error: psycopg2.Error) -> Refusal:
        column = _COLUMN.search(error.diag.context or "")
        name = self._columns[int(column[1])].name if column and int(column[1]) < len(self._columns) else None
        return Refusal(row, name, error.pgcode or "", error.diag.message_primary or str(error))

    def _ask(
        self, connection: Connection, asked: Doubtful, rows: Numbers, places: Sequence[int], left: int
    ) -> list[Refusal]:
        """What ``pg_input_error_info`` refuses of the rows, in the columns at ``places``.

        Nothing where it is not to be had or has no answer.
        The rest is left out once more than ``left`` are found.
        """
        if connection.server_version < 160000:
            return []
        found: list[Refusal] = []
        step = max(1, CELLS // max(1, len(asked.suspects)))
        for at in range(0, len(rows), step):
            some = self._ask_some(connection, asked, rows[at : at + step], places)
            if some is None:
                break
            found += some
            if len(found) > left:
                break
        return found

    def _ask_some(
        self, connection: Connection, asked: Doubtful, rows: Numbers, places: Sequence[int]
    ) -> list[Refusal] | None:
        """None where there is no answer, and none to be expected for other rows."""
        chosen = asked.texts.take(arrays.integers(rows))
        questions, values = [], []
        for place in places:
            column = self._columns[place]
            if column.name not in asked.suspects or chosen.column(place).null_count == len(rows):
                continue
            questions.append(
                _QUESTION.format(column=sql.Literal(place), type=sql.Literal(column.type.name), texts=sql.Placeholder())
            )
            values.append(chosen.column(place).to_pylist())
        if not questions:
            return []  # no value of a suspect column among these
        execute(connection, "SAVEPOINT loader_lane")
        answers: list[tuple[Any, ...]] | None
        try:
            answers = rows_of(connection, sql.SQL(" UNION ALL ").join(questions), values)
        except psycopg2.Error:  # the input function of an extension's type that can only raise
            if connection.closed:
                raise
            answers = None
        execute(connection, "ROLLBACK TO SAVEPOINT loader_lane")
        if answers is None:
            return None
        found: dict[int, Refusal] = {}
        for place, number, sqlstate, message in sorted(answers, key=lambda each: (each[1], each[0])):
            row = int(rows[number - 1])
            found.setdefault(row, Refusal(row, self._columns[place].name, sqlstate, message))
        return list(found.values())

    @contextmanager
    def _session(self) -> Iterator[Connection]:
        """A session whose errors, where they name a column of the temporary table, name the user's instead."""
        try:
            with self._borrowed() as connection:
                yield connection
        except psycopg2.Error as error:
            names = {f"c{place}": column.name for place, column in enumerate(self._columns)}
            primary = error.diag.message_primary or ""
            if without_internals(primary, names=names) == primary:
                raise
            raise translate(error, "reading texts as values of the columns' types", names=names) from error

    @contextmanager
    def _borrowed(self) -> Iterator[Connection]:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            with self._lock:
                connection = self._stack.enter_context(self._database.session())
                self._stack.callback(_leave, connection)  # the session may serve others after this
            self._prepare(connection)
        yield connection
        with self._lock:
            self._idle.append(connection)

    def _prepare(self, connection: Connection) -> None:
        columns = [
            sql.SQL("{} {}").format(lane_name(place), sql.SQL(column.type.name))
            for place, column in enumerate(self._columns)
        ]
        columns.append(sql.SQL("{} bigint").format(sql.Identifier(POSITION)))
        execute(connection, "SET datestyle TO ISO")  # of the output; the order of day and month stays the role's
        execute(connection, "SET extra_float_digits TO 1")
        statement = sql.SQL("CREATE TEMPORARY TABLE loader_lane ({}) ON COMMIT DELETE ROWS")
        execute(connection, statement.format(sql.SQL(", ").join(columns)))
        connection.commit()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


_QUESTION = sql.SQL(
    "SELECT {column}, v.number, e.sql_error_code, e.message"
    " FROM unnest({texts}::text[]) WITH ORDINALITY AS v (text, number),"
    " LATERAL pg_input_error_info(v.text, {type}) AS e WHERE NOT pg_input_is_valid(v.text, {type})"
)

_EACH_BY_ITSELF = sql.SQL("""
    DECLARE
        place tid;
        is_kept boolean;
    BEGIN
        FOR place IN SELECT ctid FROM {table} LOOP
            BEGIN
                is_kept := (SELECT {filter} FROM {table} WHERE ctid = place);
            EXCEPTION WHEN data_exception THEN
                is_kept := FALSE;
            END;
            IF is_kept IS NOT TRUE THEN
                DELETE FROM {table} WHERE ctid = place;
            END IF;
        END LOOP;
    END""")
"""Deletes the records for which a filter is not true, and those at which it stops. PostgreSQL 18 takes 6 µs for a
record, and 13 for one at which it stops."""


def _delete_unless(connection: Connection, filter: sql.Composable) -> None:
    """Delete the records for which ``filter`` is not true: at once, or one by one where PostgreSQL stops at one."""
    execute(connection, "SAVEPOINT loader_filter")
    try:
        execute(connection, sql.SQL("DELETE FROM {} WHERE ({}) IS NOT TRUE").format(_TABLE, filter))
    except psycopg2.DataError:
        execute(connection, "ROLLBACK TO SAVEPOINT loader_filter")
        block = _EACH_BY_ITSELF.format(table=_TABLE, filter=filter)
        execute(connection, sql.SQL("DO {}").format(sql.Literal(block.as_string(connection))))


_LINE = re.compile(r"^COPY loader_lane[^0-9]*([0-9]+)", re.MULTILINE)  # whatever language the server speaks
_COLUMN = re.compile(r"^COPY loader_lane[^0-9]*[0-9]+.*?\bc([0-9]+)\b", re.MULTILINE)


def _line(error: psycopg2.Error) -> int | None:
    """The line, from 0, of the text that COPY was reading. Each record is one line of COPY's text format."""
    if is_servers(error.pgcode or ""):
        return None
    found = _LINE.search(error.diag.context or "")
    return int(found[1]) - 1 if found else None


def _all(asked: Doubtful) -> Judged:
    return Judged(np.arange(asked.texts.num_rows, dtype=np.int64), ())


FEW = 100
"""Records up to which lines are made one by one: for a block's one odd value, a tenth of the time."""


class _Lines:
    """Records as lines of COPY's text format (manual, COPY, "Text Format"), with their ``positions`` or without.

    ``places``: of those columns alone. ``statement``: COPYs lines with positions into the lane's table.
    """

    def __init__(self, texts: pa.RecordBatch, positions: Numbers | None, places: Sequence[int]) -> None:
        names = ", ".join([*(f"c{place}" for place in places), POSITION])
        self.statement = f"COPY pg_temp.loader_lane ({names}) FROM STDIN"
        numbers = [] if positions is None else [arrays.integers(positions).cast(pa.string())]
        columns = [texts.column(place) for place in places]
        if texts.num_rows <= FEW:
            self._lines = arrays.texts([_line_of(row) for row in _rows([*columns, *numbers])])
            return
        fields = [*map(_escaped, columns), *numbers]
        joined = pc.binary_join_element_wise(*fields, arrays.text("\t"))
        self._lines = pc.binary_join_element_wise(joined, arrays.text("\n"), arrays.text(""))

    def of(self, rows: Numbers) -> bytes:
        lines = self._lines if len(rows) == len(self._lines) else self._lines.take(arrays.integers(rows))
        return arrays.ends_and_bytes(lines)[1].tobytes()


def _rows(columns: Sequence[pa.Array]) -> Iterator[tuple[str | None, ...]]:
    return zip(*(column.to_pylist() for column in columns), strict=True)


def _line_of(row: Sequence[str | None]) -> str:
    return "\t".join(["\\N" if value is None else value.translate(_TRANSLATION) for value in row]) + "\n"


def _escaped(values: pa.Array) -> pa.Array:
    for character, escape in _ESCAPES:
        if pc.any(pc.match_substring(values, character)).as_py():
            values = pc.replace_substring(values, pattern=character, replacement=escape)
    return pc.fill_null(values, arrays.text("\\N"))


_ESCAPES = (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"))
_TRANSLATION = str.maketrans(dict(_ESCAPES))


def _copied_out(connection: Connection, columns: Sequence[sql.Composable]) -> bytes:
    """The tuples of the table's records, in their order, without COPY's header and trailer."""
    made = BytesIO()
    statement = sql.SQL("COPY (SELECT {} FROM {} ORDER BY {}) TO STDOUT (FORMAT binary)").format(
        sql.SQL(", ").join(columns), _TABLE, sql.Identifier(POSITION)
    )
    copy(connection, statement, made, size=1 << 20)
    return made.getvalue()[len(HEADER) : -len(TRAILER)]


def _leave(connection: Connection) -> None:
    if connection.closed:
        return
    connection.rollback()
    execute(connection, "DROP TABLE IF EXISTS pg_temp.loader_lane")
    for setting in ("datestyle", "extra_float_digits", "timezone"):
        execute(connection, f"RESET {setting}")
    connection.commit()
