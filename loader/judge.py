"""The two lanes of a block: what the client is sure of goes straight into COPY's form, the rest by the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from loader import arrays
from loader.columns import LoadColumn
from loader.convert import convert
from loader.csv_form import NO_PLACES, CsvForm, Lines
from loader.encode import encode, positions, spelled
from loader.lane import Judged, Refusal, TextLane
from loader.records import Block, Encoded, reject_each
from loader.rejects import RejectGroup, Rejects
from loader.report import reason_of
from loader.rows import Doubtful, Rows, run_of
from loader.values import brief, shown
from loader.wire import has_form


class Judge:
    """Settles the doubtful records of blocks, and encodes all. Safe to share between threads.

    ``key``: columns whose values are followed, see `rising`.
    ``form``: records go in that form, and nobody is asked before.
    ``lacks``: which texts hold a character that the database's encoding lacks, see `TextLane.lacks`.
    ``by_server``: there is a column whose values only the server can make the bytes of, so all records go its way.
    """

    def __init__(
        self,
        lane: TextLane,
        columns: Sequence[LoadColumn],
        *,
        key: Sequence[str],
        with_position: bool,
        form: CsvForm | None = None,
        lacks: Callable[[pa.Array], npt.NDArray[np.bool_] | None] = lambda _values: None,
    ) -> None:
        self._form = form
        self._lacks = lacks
        self._lane = lane
        self._columns = columns
        self._types = [column.type for column in columns]
        self._with_position = with_position
        exact = {column.name for column in columns if column.is_exact}
        self._key = key if exact.issuperset(key) else ()
        self._by_server = any(type_.wire == "server" for type_ in self._types)

    def encode(self, rows: Rows) -> Encoded:
        """The rows as binary COPY tuples, the doubtful ones as the server made them."""
        if self._by_server:
            rows = _all_doubtful(rows)
            if self._form is not None:
                return self._as_text(rows, self._form)
        else:
            rows = self._unrepresentable(rows)
        tuples = encode(rows, self._types, with_position=self._with_position)
        kept, rejects = rows.batch.num_rows, rows.rejects
        if rows.doubtful is not None:
            asked = rows.doubtful
            at = positions(rows.block, asked.index) if self._with_position else None
            judged_tuples, judged = self._lane.tuples(asked, at)
            tuples += judged_tuples
            kept += len(judged.kept)
            rejects += _refused(rows.block, asked, judged)
        keys = run_of([rows.batch.column(name) for name in self._key]) if self._key and rows.doubtful is None else None
        return Encoded(rows.block, tuples, kept, rejects, rows.filtered, rows.short, rows.long, keys)

    def _unrepresentable(self, rows: Rows) -> Rows:
        """With the records doubtful that hold a character that the database's encoding lacks: the server says which."""
        asked: npt.NDArray[np.bool_] = np.zeros(len(rows.index), bool)
        for type_, values in zip(self._types, rows.batch.columns, strict=True):
            if type_.form == "text" and (lacking := self._lacks(values)) is not None:
                asked |= lacking
        return _doubtful(rows, asked, ()) if asked.any() else rows

    def _as_text(self, rows: Rows, form: CsvForm) -> Encoded:
        """All records as CSV."""
        asked, data, kept = rows.doubtful, b"", 0
        if asked is not None:
            at = positions(rows.block, asked.index) if self._with_position else None
            data, kept = spelled(asked.texts, at, form), len(asked.index)
        index = [group.index for group in rows.rejects.groups]
        rejected = np.concatenate(index) if index else NO_PLACES
        lines = Lines(data, rejected)
        return Encoded(rows.block, b"", kept, rows.rejects, rows.filtered, rows.short, rows.long, lines=lines)

    def show(self, rows: Rows) -> Rows:
        """The doubtful records that the server takes, as typed rows among the others, for a hook or filter to see."""
        if rows.doubtful is None:
            return rows
        asked = rows.doubtful
        texts, judged = self._lane.canonical(asked)
        typed, unseen = [], np.zeros(texts.num_rows, bool)
        rejects = _refused(rows.block, asked, judged)
        index = asked.index[judged.kept]
        for column, type_, values in zip(self._columns, self._types, texts.columns, strict=True):
            if type_.form == "text":  # any text can be shown, also one that `withdraw` sends to the server again
                typed.append(values)
                continue
            array, bad = convert(values, type_)
            typed.append(array)
            rejects += Rejects([_unshown(rows.block, index, np.flatnonzero(bad & ~unseen), values, column)])
            unseen |= bad
        batch = pa.RecordBatch.from_arrays(typed, schema=rows.batch.schema)
        seen = batch.filter(arrays.booleans(~unseen))
        batch, index = _in_order((rows.batch, rows.index), (seen, index[~unseen]))
        return replace(rows, batch=batch, index=index, rejects=rows.rejects + rejects, doubtful=None)

    def withdraw(self, rows: Rows) -> Rows:
        """With those of the rows that were shown doubtful again of which only the server can make the bytes."""
        asked: npt.NDArray[np.bool_] = np.zeros(len(rows.index), bool)
        suspects = []
        for column, type_, values in zip(self._columns, self._types, rows.batch.columns, strict=True):
            if not (known := has_form(values, type_)).all():
                asked |= ~known
                suspects.append(column.name)
        return _doubtful(rows, asked, suspects) if suspects else rows


def _all_doubtful(rows: Rows) -> Rows:
    """Every record for the server, in the file's order."""
    return _doubtful(rows, np.ones(len(rows.index), bool), rows.batch.schema.names)


def _doubtful(rows: Rows, asked: npt.NDArray[np.bool_], suspects: Sequence[str]) -> Rows:
    """The records ``asked`` for the server as well, beside those that are doubtful, in the file's order."""
    names = rows.batch.schema.names
    chosen = rows.batch if asked.all() else rows.batch.filter(arrays.booleans(asked))
    made = Doubtful.of(chosen.columns, names, rows.index[asked], suspects=suspects)
    if rows.doubtful is not None:
        texts, index = _in_order((made.texts, made.index), (rows.doubtful.texts, rows.doubtful.index))
        made = Doubtful(texts, index, made.suspects | rows.doubtful.suspects)
    rest = replace(rows, batch=rows.batch.slice(0, 0), index=rows.index[:0]) if asked.all() else rows.keep(~asked)
    return replace(rest, doubtful=made if len(made.index) else None)


def _in_order(
    one: tuple[pa.RecordBatch, npt.NDArray[np.int64]], other: tuple[pa.RecordBatch, npt.NDArray[np.int64]]
) -> tuple[pa.RecordBatch, npt.NDArray[np.int64]]:
    """Two batches, each with its records' places in the block, as one in the file's order."""
    index = np.concatenate((one[1], other[1]))
    order = np.argsort(index, kind="stable")
    return pa.concat_batches([one[0], other[0]]).take(arrays.integers(order)), index[order]


def _refused(block: Block, asked: Doubtful, judged: Judged) -> Rejects:
    grouped: dict[tuple[str, str | None], list[Refusal]] = {}
    for each in judged.refusals:
        grouped.setdefault((each.sqlstate, each.column), []).append(each)
    return Rejects(_refused_alike(block, asked, refusals) for refusals in grouped.values())


def _refused_alike(block: Block, asked: Doubtful, refusals: Sequence[Refusal]) -> RejectGroup:
    """Those of one column and SQLSTATE."""
    column, sqlstate = refusals[0].column, refusals[0].sqlstate
    index = asked.index[[each.row for each in refusals]]
    reason = reason_of(sqlstate, of_text=True)
    return reject_each(
        block, index, reason, lambda number: _message(refusals[number], asked), column, sqlstate=sqlstate
    )


def _unshown(
    block: Block, index: npt.NDArray[np.int64], bad: npt.NDArray[np.int64], values: pa.Array, column: LoadColumn
) -> RejectGroup:
    def message(number: int) -> str:
        value = shown(values[int(bad[number])].as_py())
        return f"PostgreSQL takes {value}, but it cannot be shown to the filter or the hook"

    return reject_each(block, index[bad], "unrepresentable", message, column.name)


def _message(refusal: Refusal, asked: Doubtful) -> str:
    """PostgreSQL's sentence, with the value where that does not show it."""
    value = asked.texts.column(refusal.column)[refusal.row].as_py() if refusal.column is not None else None
    if value is None:
        return refusal.message
    message = brief(refusal.message, [value])
    return message if f'"{value}"' in refusal.message else f"{message}: {shown(value)}"
