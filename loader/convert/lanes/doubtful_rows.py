"""The two lanes of a block: what the client is sure of goes straight into COPY's form, the server judges the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from loader.convert.binary_copy import encode, positions, spelled
from loader.convert.binary_values import has_form
from loader.convert.encoded import Encoded
from loader.convert.lanes.server_lane import Judged, Refusal, TextLane
from loader.convert.rows import Doubtful, Rows, in_order, run_of
from loader.convert.values import convert
from loader.core import arrays
from loader.core.display import brief, shown
from loader.core.report import reason_of
from loader.postgres.copy_forms import NO_PLACES, CopyForm, CsvForm, Lines
from loader.postgres.load_column import LoadColumn
from loader.records.block import Block, reject_each
from loader.records.rejects import RejectGroup, Rejects


class Judge:
    """Settles the doubtful records of blocks, and encodes all. Safe to share between threads.

    ``key``: columns whose values are followed, see `key_order`.
    ``form``: all records go in that form, because there is a column whose values only the server can make the bytes of;
    where it is `CsvForm`, nobody is asked before. Else they go as the tuples of binary COPY.
    ``lacks``: which texts hold a character that the database's encoding lacks, see `TextLane.lacks`.
    """

    def __init__(
        self,
        lane: TextLane,
        columns: Sequence[LoadColumn],
        *,
        key: Sequence[str],
        with_position: bool,
        form: CopyForm | None = None,
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

    def encode(self, rows: Rows) -> Encoded:
        """The rows as COPY is to be given them, the doubtful ones as the server takes them."""
        if self._form is not None:
            return self._as_text(rows.doubt(np.ones(len(rows.index), bool)), self._form)
        rows = self._unrepresentable(rows)
        tuples = encode(rows, self._types, with_position=self._with_position)
        kept, filtered, rejects = rows.batch.num_rows, rows.filtered, rows.rejects
        if rows.doubtful is not None:
            asked = rows.doubtful
            at = positions(rows.block, asked.index) if self._with_position else None
            judged_tuples, judged = self._lane.tuples(asked, at)
            tuples += judged_tuples
            kept += len(judged.kept)
            filtered += judged.filtered
            rejects += _refused(rows.block, asked, judged)
        keys = run_of([rows.batch.column(name) for name in self._key]) if self._key and rows.doubtful is None else None
        return Encoded(rows.block, tuples, kept, rejects, filtered, rows.short, rows.long, keys)

    def _unrepresentable(self, rows: Rows) -> Rows:
        """With the records doubtful that hold a character that the database's encoding lacks: the server says which."""
        asked: npt.NDArray[np.bool_] = np.zeros(len(rows.index), bool)
        for type_, values in zip(self._types, rows.batch.columns, strict=True):
            if type_.form == "text" and (lacking := self._lacks(values)) is not None:
                asked |= lacking
        return rows.doubt(asked, ())

    def _as_text(self, rows: Rows, form: CopyForm) -> Encoded:
        """All records as text."""
        asked, data, kept, filtered, rejects = rows.doubtful, b"", 0, rows.filtered, rows.rejects
        if asked is not None:
            at = positions(rows.block, asked.index) if self._with_position else None
            if isinstance(form, CsvForm):
                data, kept = spelled(asked.texts, at, form), len(asked.index)
            else:
                data, judged = self._lane.lines(asked, at)
                kept = len(judged.kept)
                filtered += judged.filtered
                rejects += _refused(rows.block, asked, judged)
        index = [group.index for group in rejects.groups]
        lines = Lines(data, np.concatenate(index) if index else NO_PLACES)
        return Encoded(rows.block, b"", kept, rejects, filtered, rows.short, rows.long, lines=lines)

    def show(self, rows: Rows) -> Rows:
        """The doubtful records that the server takes, as typed rows among the others, for a hook to see."""
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
        batch, index = in_order((rows.batch, rows.index), (seen, index[~unseen]))
        return replace(rows, batch=batch, index=index, rejects=rows.rejects + rejects, doubtful=None)

    def withdraw(self, rows: Rows) -> Rows:
        """With those of the rows that were shown doubtful again of which only the server can make the bytes."""
        asked: npt.NDArray[np.bool_] = np.zeros(len(rows.index), bool)
        suspects = []
        for column, type_, values in zip(self._columns, self._types, rows.batch.columns, strict=True):
            if not (known := has_form(values, type_)).all():
                asked |= ~known
                suspects.append(column.name)
        return rows.doubt(asked, suspects)


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
        return f"PostgreSQL takes {value}, but it cannot be shown to the hook"

    return reject_each(block, index[bad], "unrepresentable", message, column.name)


def _message(refusal: Refusal, asked: Doubtful) -> str:
    """PostgreSQL's sentence, with the value where that does not show it."""
    value = asked.texts.column(refusal.column)[refusal.row].as_py() if refusal.column is not None else None
    if value is None:
        return refusal.message
    message = brief(refusal.message, [value])
    return message if f'"{value}"' in refusal.message else f"{message}: {shown(value)}"
