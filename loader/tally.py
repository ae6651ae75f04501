"""A load's books while it runs: what was read and kept, and the rejects, which go to the ledger as they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader import ledger
from loader.checkpoints import NOTHING, Counts
from loader.checksums import ByteCheck, Seen
from loader.database import Database
from loader.errors import DatabaseUnavailableError, LoaderError, RejectLimitError
from loader.reading import Form
from loader.records import Encoded, Place
from loader.report import Reject
from loader.rising import Rising
from loader.spec import RejectSpec


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a load is: bytes of the object that were read, of how many, and records behind them."""

    bytes_read: int
    size: int
    rows: int


class Tally:
    """Counts bytes as they are read and records as they are handed to COPY.

    ``counts``: with the records that earlier attempts staged. ``bytes_read`` are those of this attempt. ``keys``: of
    all records so far. ``check`` compares the bytes that are read with the object's checksum, where there is one;
    ``form``: how the object holds its text, once that is known.
    """

    check: ByteCheck | None = None
    form: Form | None = None

    def __init__(self, size: int, progress: Callable[[Progress], None] | None = None) -> None:
        self._size = size
        self._progress = progress
        self.bytes_read = 0
        self.counts = NOTHING
        self.keys = Rising()

    def resume(self, counts: Counts) -> None:
        """Earlier attempts staged so many records; nobody remembers their keys."""
        self.counts = counts
        self.keys = Rising(so_far=False)

    def notes(self) -> tuple[str, ...]:
        """What was done to records to make them fit."""
        told = (
            (self.counts.short, "records had too few fields and were filled with NULL"),
            (self.counts.long, "records had too many fields, and the surplus ones were dropped"),
        )
        return tuple(f"{count:,} {what}" for count, what in told if count)

    def watch(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The chunks, counted."""
        for chunk in chunks:
            self.bytes_read += len(chunk)
            yield chunk

    def seen(self, after: Place | None) -> Seen | None:
        """What a checkpoint has to keep of the bytes read so far; ``after``: where reading goes on, None: nowhere."""
        if self.check is None or self.form is None:
            return None
        return self.check.seen_all() if after is None else self.check.seen(self.form.offset(after))

    def add(self, encoded: Encoded) -> None:
        """Count the records of one block."""
        self.counts += Counts(encoded.block.records, encoded.kept, encoded.filtered, encoded.short, encoded.long)
        self.keys.add(encoded.keys)
        if self._progress is not None:
            self._progress(Progress(self.bytes_read, self._size, self.counts.read))


class RejectKeeper:
    """Enters rejects in the ledger in batches, on a connection of its own, and watches the spec's limits.

    They are committed as they come: memory does not grow with them, and those of a load that failed can
    be looked at. It begins with those that earlier attempts entered.
    """

    BATCH_RECORDS = 500
    BATCH_BYTES = 4 << 20

    def __init__(self, database: Database, load_id: int, limits: RejectSpec, name: str) -> None:
        self._database = database
        self._load_id = load_id
        self._limits = limits
        self._name = name
        self._stack = ExitStack()
        self._connection: Connection | None = None
        self._batch: list[Reject] = []
        self.reasons: Counter[str] = Counter()
        self.columns: dict[str, Counter[str]] = {}  # by column, where one is to blame, then by reason

    def resume(self, connection: Connection) -> None:
        """Count those that are in the ledger already."""
        for reason, column, count in ledger.count_rejects(connection, self._load_id):
            self._count(reason, column, count)

    @property
    def count(self) -> int:
        return self.reasons.total()

    @property
    def left(self) -> int:
        """How many more there may be."""
        return max(0, self._limits.max_rows - self.count)

    def add(self, rejects: Sequence[Reject]) -> None:
        """Keep ``rejects``. Raises RejectLimitError as soon as there are more than ``max_rows``."""
        self._batch += rejects
        for each in rejects:
            self._count(each.reason, each.column, 1)
        if len(self._batch) >= self.BATCH_RECORDS or sum(len(each.raw) for each in self._batch) >= self.BATCH_BYTES:
            self.flush()
        if self.count > self._limits.max_rows:
            raise self._too_many(f"more than {self._limits.max_rows:,} records were rejected (max_rows)")

    def settle(self, read: int) -> None:
        """All ``read`` records were seen. Raises RejectLimitError where too large a share was rejected."""
        self.flush()
        if read and self.count / read > self._limits.max_ratio:
            share = f"{self.count:,} of {read:,} records were rejected, {self.count / read:.2%}"
            raise self._too_many(f"{share}, over the limit of {self._limits.max_ratio:.2%} (max_ratio)")

    def flush(self) -> None:
        """Enter what is waiting, and commit."""
        if not self._batch:
            return
        connection = self._own_connection()
        self._keep(connection, self._batch)
        connection.commit()
        self._batch = []

    def _keep(self, connection: Connection, rejects: Sequence[Reject]) -> None:
        ledger.keep_rejects(connection, self._load_id, rejects)

    def _count(self, reason: str, column: str | None, count: int) -> None:
        self.reasons[reason] += count
        if column is not None:
            self.columns.setdefault(column, Counter())[reason] += count

    def _own_connection(self) -> Connection:
        if self._connection is None:
            self._connection = self._stack.enter_context(self._database.session())
        return self._connection

    def _too_many(self, what: str) -> RejectLimitError:
        self.flush()
        (reason, count), *_ = self.reasons.most_common(1)
        return RejectLimitError(
            f'{self._name}: {what}, most of them for "{reason}" ({count:,}); nothing was loaded; '
            f"see them with: loader rejects {self._load_id}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gone = isinstance(error, DatabaseUnavailableError | psycopg2.OperationalError)
        if isinstance(error, Exception) and not gone:  # those of a load that failed can be looked at too
            with suppress(psycopg2.Error, LoaderError):
                self.flush()
        self._stack.__exit__(kind, error, trace)


@dataclass(frozen=True, slots=True)
class Books:
    """Where every record of a load is entered: as read, and as kept, filtered or rejected."""

    tally: Tally
    keeper: RejectKeeper

    def enter(self, encoded: Encoded) -> None:
        """Enter the records of one block. Raises RejectLimitError."""
        self.tally.add(encoded)
        self.keeper.add(encoded.rejects)
