"""The Arrow lane: blocks are parsed, transformed and encoded as record batches; the server judges what is in doubt.

It is imported when the first block needs it: pyarrow and pgpq take 34 MB and a tenth of a second, which a load need
not pay where the compiled kernel takes all of its blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from loader.convert.encoded import Encoded
from loader.convert.lanes.doubtful_rows import Judge
from loader.convert.lanes.server_lane import TextLane
from loader.convert.parse import Parser
from loader.convert.plan import Plan
from loader.convert.rows import Rows
from loader.convert.transform import Transformer
from loader.core.errors import TransformError
from loader.postgres.copy_forms import CopyForm
from loader.postgres.database import Database
from loader.postgres.server_encoding import Repertoire
from loader.records.block import Block


class ArrowLane:
    """Parses, transforms and encodes the blocks of one load. Safe to share between threads.

    ``name`` is the source's, for messages. ``constants`` stand for the placeholders of ``value`` columns. ``left``: how
    many more rejects the load may have. ``form``: records go in that form. ``repertoire``: the characters that the
    database has, None where it has all.
    """

    def __init__(
        self,
        plan: Plan,
        constants: Mapping[str, str],
        database: Database,
        left: Callable[[], int],
        form: CopyForm | None = None,
        *,
        name: str,
        repertoire: Repertoire | None = None,
    ) -> None:
        csv = plan.spec.csv
        where = plan.filter.where if plan.filter is not None else None
        self._name = name
        self._server = TextLane(database, plan.columns, plan.session_zone, left, repertoire, filter=where)
        self._parser = Parser(plan.reading, plan.fields, csv.null, name=name, pad=csv.ragged == "pad")
        mask = plan.filter.mask if plan.filter is not None else None
        self._transformer = Transformer(
            plan.reading, constants, key=plan.key, hook=plan.hook, filter=mask, zones=plan.zones
        )
        key = () if plan.straight else plan.key
        self._judge = Judge(
            self._server, plan.reading, key=key, with_position=not plan.straight, form=form, lacks=self._server.lacks
        )

    def convert(self, block: Block) -> Encoded:
        """The records of ``block`` as COPY's bytes. Raises WidenColumn, LoaderError and psycopg2.Error."""
        rows = self._transformer.convert(self._parser.parse(block))
        if self._transformer.hooks:
            rows = self._judge.withdraw(self._hooked(self._judge.show(rows)))
        rows = self._transformer.finish(rows)
        return self._judge.encode(rows)

    def _hooked(self, rows: Rows) -> Rows:
        """After the hook. Raises TransformError, which names the file and the records."""
        try:
            return self._transformer.hooked(rows)
        except TransformError as error:
            numbers = rows.block.numbers(rows.index)
            raise TransformError(f"{self._name}: records {numbers[0]:,} to {numbers[-1]:,}: {error}") from error

    def count_convertible(self, block: Block) -> int:
        """How many records of ``block`` convert, each to the type of its column; the server is not asked.

        Raises WidenColumn and LoaderError.
        """
        return int(self._transformer.convert(self._parser.parse(block)).batch.num_rows)

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)
