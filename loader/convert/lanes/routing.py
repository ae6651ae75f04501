"""The lanes into staging: each record takes the fastest one that is sure of it.

The compiled kernel takes what it knows (`kernel.express`). The rest goes through Arrow (`arrow_lane`), and what Arrow
cannot judge goes to PostgreSQL as text (`lane`). The result is the same, whichever way a record went.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from loader.convert.column_mapping import WidenColumn
from loader.convert.encoded import Encoded
from loader.convert.lanes.express_lane import fast_lane
from loader.convert.lanes.kernel_program import Express, Sure, text_lane, unknown_columns
from loader.convert.plan import Plan
from loader.core.errors import LoaderError
from loader.core.suggestions import listed
from loader.kernel.compiled import compiled_kernel, kernel_state
from loader.postgres.copy_forms import JUDGED, NO_PLACES, CopyForm, CsvForm, Lines
from loader.postgres.database import Database
from loader.postgres.server_encoding import repertoire_of
from loader.records.block import Block
from loader.records.dialect import Dialect
from loader.records.rejects import NO_REJECTS
from loader.records.stray_quotes import find_swallowed

if TYPE_CHECKING:
    from loader.convert.lanes.arrow_lane import ArrowLane
    from loader.convert.lanes.hybrid_lane import Hybrid


class Lanes:
    """Converts the blocks of one load to COPY's bytes, on any thread. Its sessions with the server end with it.

    ``name`` is the source's, for messages. ``constants`` stand for the placeholders of ``value`` columns. ``left``: how
    many more rejects the load may have. ``form``: records go in that form; with `CsvForm`, what the server has to judge
    is not put to it before.
    """

    def __init__(
        self,
        plan: Plan,
        constants: Mapping[str, str],
        database: Database,
        left: Callable[[], int],
        form: CopyForm | None,
        *,
        name: str,
    ) -> None:
        self._plan = plan
        self._constants = constants
        self._database = database
        self._left = left
        self._name = name
        self._form = form
        self._repertoire = repertoire_of(plan.encoding)
        self._changes_case = any(step.name in ("upper", "lower") for column in plan.columns for step in column.steps)
        self._made = _made_characters(plan, constants) if self._repertoire is not None else frozenset()
        self._express = _fast(plan, constants, form)
        self._opened: ArrowLane | None = None
        self._judge: ArrowLane | None = None
        self._lock = threading.Lock()
        self._stack = ExitStack()

    def told(self, dialect: Dialect) -> str:
        """By what the records are converted, see `how_converted`."""
        return _how(self._plan, dialect, self._constants, self._form, lambda: self._express)

    def convert(self, block: Block) -> Encoded:
        """The records of ``block`` as COPY's bytes. Raises WidenColumn, LoaderError and psycopg2.Error."""
        sure = None if self._express is None or self._is_lacking(block) else self._express.take(block)
        if sure is None:
            encoded = self._arrow.convert(block)
        elif self._form is not None:
            encoded = _with_rest(block, sure, self._arrow.convert(sure.rest) if sure.rest is not None else None)
        elif sure.rest is None:
            encoded = Encoded(block, sure.tuples, sure.kept, NO_REJECTS, sure.filtered, keys=sure.keys)
        else:
            encoded = self._arrow.convert(sure.rest).after(
                sure.tuples, sure.kept, sure.keys, block, filtered=sure.filtered
            )
        return replace(encoded, swallowed=find_swallowed(block, self._plan.fields))

    def _is_lacking(self, block: Block) -> bool:
        """Whether the database's encoding may lack a character of what becomes of the block: then its texts are looked
        at one by one, which the kernel does not."""
        if self._repertoire is None or (block.data.isascii() and not self._made):
            return False
        text = block.data.decode("utf-8", "replace")
        met = set(text) | self._made
        if self._changes_case:
            met |= set("".join(met).upper() + "".join(met).lower())
        return bool(self._repertoire.lacked(met, self._database.session))

    def convert_again(self, block: Block) -> Encoded:
        """The same of a block of which PostgreSQL refused a record: as `JUDGED`, after each record was judged.

        Not by the kernel, which would hand on what it leaves by other places than the block's.
        """
        return self._judging.convert(block)

    @property
    def _judging(self) -> ArrowLane:
        """The Arrow lane that has each record judged, made when the first block needs it."""
        with self._lock:
            if self._judge is None:
                from loader.convert.lanes.arrow_lane import ArrowLane

                lane = ArrowLane(
                    self._plan,
                    self._constants,
                    self._database,
                    self._left,
                    JUDGED,
                    name=self._name,
                    repertoire=self._repertoire,
                )
                self._judge = self._stack.enter_context(lane)
            return self._judge

    def count_convertible(self, block: Block) -> int:
        """How many records of ``block`` convert, each to the type of its column; 0 where the block makes no sense. The
        server is not asked."""
        try:
            return self._arrow.count_convertible(block)
        except (WidenColumn, LoaderError, KeyError):
            return 0

    @property
    def _arrow(self) -> ArrowLane:
        """The Arrow lane, opened when the first block needs it."""
        with self._lock:
            if self._opened is None:
                from loader.convert.lanes.arrow_lane import ArrowLane

                lane = ArrowLane(
                    self._plan,
                    self._constants,
                    self._database,
                    self._left,
                    self._form,
                    name=self._name,
                    repertoire=self._repertoire,
                )
                self._opened = self._stack.enter_context(lane)
            return self._opened

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def _made_characters(plan: Plan, constants: Mapping[str, str]) -> frozenset[str]:
    """Characters beyond ASCII that the spec may put into values."""
    texts = list(constants.values())
    for column in plan.columns:
        arguments = (each for step in column.steps for argument in step.args for each in argument)
        texts += [column.default or "", column.value or "", *arguments]
    return frozenset(character for text in texts for character in text if not character.isascii())


NAMED = 3
"""Columns that a report names at most where the kernel does not know them."""


def how_converted(plan: Plan, dialect: Dialect, constants: Mapping[str, str], form: CopyForm | None) -> str:
    """By what the records of a load are converted, and if it is not the kernel, why; in words for people."""
    return _how(plan, dialect, constants, form, lambda: _fast(plan, constants, form))


def _how(
    plan: Plan, dialect: Dialect, constants: Mapping[str, str], form: CopyForm | None, lane: Callable[[], object]
) -> str:
    """See `how_converted`. ``lane``: gives the compiled one."""
    if isinstance(form, CsvForm):
        return "sent to PostgreSQL as text"
    if compiled_kernel() is None:
        return f"converted without the kernel ({kernel_state()})"
    if plan.hook is not None:
        return "converted without the kernel (the spec has a hook)"
    if plan.filter is not None and plan.filter.by_server:
        return "judged by PostgreSQL (the spec's filter needs it)"
    return _how_by_kernel(plan, dialect, constants, lane)


def _how_by_kernel(plan: Plan, dialect: Dialect, constants: Mapping[str, str], made: Callable[[], object]) -> str:
    """The same where the kernel is there, and may see the records."""
    if not dialect.is_plain:
        return "converted without the kernel (it does not know the file's dialect)"
    unknown = unknown_columns(plan.columns, constants)
    named = f"{listed(unknown[:NAMED])}{f' and {len(unknown) - NAMED} more' if len(unknown) > NAMED else ''}"
    lane = made()
    if lane is None:
        what = f"columns: {named}" if unknown else "the filter"
        return f"converted without the kernel (it does not know {what})"
    return "converted by the kernel" + (
        "" if isinstance(lane, Express) else f", with Arrow for {named or 'the filter'}"
    )


def _fast(plan: Plan, constants: Mapping[str, str], form: CopyForm | None) -> Express | Hybrid | None:
    """The compiled lane for records that go in that form."""
    if form is None:
        return _express(plan, constants)
    return _text(plan, constants, form) if isinstance(form, CsvForm) else None


def _express(plan: Plan, constants: Mapping[str, str]) -> Express | Hybrid | None:
    """The compiled lane; None where it is not there, or where a hook wants to see whole records."""
    if plan.hook is not None or (plan.filter is not None and plan.filter.by_server):
        return None
    return fast_lane(
        compiled_kernel(),
        plan.columns,
        plan.fields,
        plan.spec.csv.null,
        constants,
        key=() if plan.straight else plan.key,
        required=plan.key,
        condition=plan.spec.transform.filter,
        zone=plan.session_zone,
        zones=plan.zones,
        with_position=not plan.straight,
    )


def _text(plan: Plan, constants: Mapping[str, str], form: CsvForm) -> Express | None:
    """The compiled lane for records that go as they stand."""
    if not form.verbatim:
        return None
    return text_lane(
        compiled_kernel(),
        plan.columns,
        plan.fields,
        plan.spec.csv.null,
        constants,
        quote=form.quote,
        required=plan.key,
        with_position=not plan.straight,
    )


def _with_rest(block: Block, sure: Sure, rest: Encoded | None) -> Encoded:
    """What the kernel made of a block, and after it what Arrow made of the rest, as records of a CSV."""
    if sure.rest is None or rest is None:
        return Encoded(block, b"", sure.kept, NO_REJECTS, 0, lines=Lines(sure.tuples, NO_PLACES))
    assert rest.lines is not None
    assert sure.rest.origin is not None
    lines = Lines(sure.tuples + rest.lines.data, sure.rest.origin[1][rest.lines.rejected])
    return replace(rest, block=block, kept=sure.kept + rest.kept, lines=lines)
