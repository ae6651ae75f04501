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

from loader.convert.encoded import Encoded
from loader.core.callbacks import call
from loader.core.errors import DatabaseUnavailableError, LoaderError, RejectLimitError
from loader.core.report import Reject
from loader.core.spec.model import RejectSpec
from loader.ledger import ledger
from loader.ledger.checkpoints import NOTHING, Counts
from loader.postgres.database import Database
from loader.records.block import Place
from loader.records.key_order import Rising
from loader.records.reading.reader import Form
from loader.records.rejects import Rejects
from loader.sources.checksums import ByteCheck, Seen
from loader.sources.encoding_guess import suggest_encoding


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
    ``form``: how the object holds its text, once that is known. ``check_rows`` sees how many records there are after
    each block, and may raise.
    """

    check: ByteCheck | None = None
    form: Form | None = None

    def __init__(
        self,
        size: int,
        progress: Callable[[Progress], None] | None = None,
        check_rows: Callable[[int], object] = lambda _rows: None,
    ) -> None:
        self._size = size
        self._progress = progress
        self._check_rows = check_rows
        self.bytes_read = 0
        self.counts = NOTHING
        self.keys = Rising()

    def resume(self, counts: Counts) -> None:
        """Earlier attempts staged so many records; nobody remembers their keys."""
        self.counts = counts
        self.keys = Rising(so_far=False)

    def notes(self) -> tuple[str, ...]:
        """What was done to records to make them fit, and what is odd about them."""
        told = (
            (self.counts.short, "records had too few fields and were filled with NULL"),
            (self.counts.long, "records had too many fields, and the surplus ones were dropped"),
        )
        return tuple(f"{count:,} {what}" for count, what in told if count) + self.counts.swallowed.notes()

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
        """Count the records of one block. Raises CallbackError where the progress callback raises."""
        self.counts += Counts(
            encoded.block.records, encoded.kept, encoded.filtered, encoded.short, encoded.long, encoded.swallowed
        )
        self.keys.add(encoded.keys)
        self._check_rows(self.counts.read)
        if self._progress is not None:
            call("progress", self._progress, Progress(self.bytes_read, self._size, self.counts.read))

    def amend(self, more: Counts) -> None:
        """Count records as something else than they were counted before."""
        self.counts += more


_MISREAD = ("invalid_encoding", "nul_byte")
"""Reasons of rejects that may be the fault of a wrong encoding."""

SAMPLED, SAMPLED_BYTES = 100, 1000
"""Records, and bytes of each, that are looked at to suggest a better one."""


class RejectKeeper:
    """Counts rejects, enters them in the ledger in batches on a connection of its own, and watches the spec's limits.

    They are committed as they come, so memory does not grow with them, and those of a load that failed can be looked
    at. No more than ``max_rows`` are entered, and the one that goes over it: a load with more has failed, and the rest
    is counted only. It begins with those that earlier attempts entered.
    """

    BATCH_RECORDS = 500
    BATCH_BYTES = 4 << 20

    def __init__(
        self,
        database: Database,
        load_id: int,
        limits: RejectSpec,
        name: str,
        *,
        attempt: int = 1,
        encoding: str = "utf-8",
    ) -> None:
        self._database = database
        self._load_id = load_id
        self._attempt = attempt
        self._limits = limits
        self._name = name
        self._is_utf8 = encoding == "utf-8"
        self._misread: list[bytes] = []  # records that suggest another encoding
        self._stack = ExitStack()
        self._connection: Connection | None = None
        self._batch: list[Reject] = []
        self._batch_bytes = 0
        self.reasons: Counter[str] = Counter()
        self.columns: dict[str, Counter[str]] = {}  # by column, where one is to blame, then by reason
        self.entered = 0

    def resume(self, connection: Connection) -> None:
        """Count those that are in the ledger already."""
        for reason, column, count in ledger.count_rejects(connection, self._load_id):
            self.count_in(reason, column, count)
            self.entered += count
        if any(self.reasons[reason] for reason in _MISREAD):
            self._misread = ledger.sample_rejects(connection, self._load_id, _MISREAD, SAMPLED)

    def count_in(self, reason: str, column: str | None, count: int) -> None:
        """Count rejects that somebody else enters, or that are not to be entered."""
        self.reasons[reason] += count
        if column is not None:
            self.columns.setdefault(column, Counter())[reason] += count

    def counts(self) -> Counter[tuple[str, str | None]]:
        """How many there are, by reason and column."""
        blamed = Counter({(reason, name): n for name, own in self.columns.items() for reason, n in own.items()})
        counted: Counter[tuple[str, str | None]] = Counter(blamed)
        for reason, count in self.reasons.items():
            rest = count - sum(own[reason] for own in self.columns.values())
            if rest:
                counted[reason, None] = rest
        return counted

    @property
    def count(self) -> int:
        return self.reasons.total()

    @property
    def left(self) -> int:
        """How many more there may be."""
        return max(0, self._limits.max_rows - self.count)

    def add(self, rejects: Rejects) -> None:
        """Count ``rejects``, and enter as many as are to be kept. Raises RejectLimitError as `check` does."""
        for (reason, column), count in rejects.counts().items():
            self.count_in(reason, column, count)
        for each in rejects.first(self._limits.max_rows + 1 - self.entered):
            self._batch.append(each)
            self._batch_bytes += len(each.raw)
            self.entered += 1
            if each.reason in _MISREAD and len(self._misread) < SAMPLED:
                self._misread.append(each.raw[:SAMPLED_BYTES])
            if len(self._batch) >= self.BATCH_RECORDS or self._batch_bytes >= self.BATCH_BYTES:
                self.flush()
        self.check()

    def check(self) -> None:
        """Raises RejectLimitError where there are more rejects than ``max_rows``."""
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
        self._batch, self._batch_bytes = [], 0

    def _keep(self, connection: Connection, rejects: Sequence[Reject]) -> None:
        ledger.claim(connection, self._load_id, self._attempt)
        ledger.keep_rejects(connection, self._load_id, rejects)

    def _own_connection(self) -> Connection:
        if self._connection is None:
            self._connection = self._stack.enter_context(self._database.session())
        return self._connection

    def _too_many(self, what: str) -> RejectLimitError:
        self.flush()
        (reason, count), *_ = self.reasons.most_common(1)
        kept = f"{self.count:,} were counted before the load stopped, and {self.entered:,} of them are kept"
        return RejectLimitError(
            f'{self._name}: {what}, most of them for "{reason}" ({count:,}){self._hint()}; {kept}; nothing was loaded; '
            f"see them with: loader rejects {self._load_id}"
        )

    def _hint(self) -> str:
        """The encoding that the rejected records look like, where that is what most were rejected for."""
        misread = sum(self.reasons[reason] for reason in _MISREAD)
        return suggest_encoding(b"\n".join(self._misread)) if self._is_utf8 and 2 * misread >= self.count else ""

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
        """Enter the records of one block. Raises RejectLimitError or LimitError."""
        self.tally.add(encoded)
        self.keeper.add(encoded.rejects)
