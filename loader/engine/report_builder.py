"""What there is to tell about a load, at any moment of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from loader.core.deadline import Deadline
from loader.core.errors import PausedError, SourceChangedError, SourceUnavailableError
from loader.core.report import LoadReport, State
from loader.core.spec.limits import Limits
from loader.core.spec.model import LoadSpec
from loader.engine.counters import Progress, RejectKeeper, Tally
from loader.ledger.checkpoints import Counts
from loader.ledger.ledger import Entry
from loader.ledger.versions import Applied
from loader.postgres.merging.merge import Merged
from loader.postgres.tables import Table
from loader.records.key_order import Rising
from loader.sources.checksums import ByteCheck, Mark, NoChecksum, Seen
from loader.sources.decode import without
from loader.sources.source import Source

DOUBTED = 1 << 30
"""Bytes that are read at most to be sure of a failure: some five seconds, where a load of so many fails for good."""


class Account:
    """Everything that goes into a load's report, gathered by whoever comes to know it.

    ``target``: the table's schema, None where the search_path is to find it, and its name. ``staged``: records that are
    behind a checkpoint. ``expected``: what the next pass from the beginning has to meet, see `checksums.ByteCheck`.
    ``newer``: loads whose keys it must leave alone, see `versions.Standing`."""

    def __init__(
        self,
        source: Source,
        spec: LoadSpec,
        *,
        progress: Callable[[Progress], None] | None = None,
        replay_of: int | None = None,
    ) -> None:
        self._source = source
        self._spec = spec
        self._replay_of = replay_of
        self._began = time.monotonic()
        self._progress = progress
        self.table = ".".join(part for part in spec.table_name if part)
        self.target: tuple[str | None, str] = spec.table_name
        self.entry = Entry(0)  # 0: there is none in the ledger
        self.keeper: RejectKeeper | None = None
        self.notes: tuple[str, ...] = ()
        self.newer: tuple[Applied, ...] = ()
        self.staged = 0
        self.limits = Limits.of(spec)
        self.expected: tuple[Mark, ...] = ()
        self.restart()

    def aim(self, table: Table) -> None:
        """The load goes into this table, whatever else the spec's name for it comes to mean."""
        self.table = str(table)
        self.target = (table.schema, table.name)

    def restart(self) -> None:
        """The file is read from its beginning."""
        self.tally = Tally(self._source.size, self._progress, self._check_rows)
        self.staged = 0

    def _check_rows(self, rows: int) -> None:
        self.limits.check_rows(rows, self._source.uri)

    def can_resume(self, seen: Seen | None) -> bool:
        """Whether what a checkpoint has ``seen`` suffices to compare all bytes with the object's checksum in the
        end."""
        return seen is not None or isinstance(self._source.checksum(), NoChecksum)

    def resume(self, entry: Entry, counts: Counts, seen: Seen | None) -> None:
        """The file is read from a checkpoint on; ``counts`` and ``seen`` are of what is before it."""
        self.entry = entry
        self.tally.resume(counts)
        self.tally.check = self._new_check(seen)
        self.staged = counts.read

    def _new_check(self, seen: Seen | None = None) -> ByteCheck | None:
        checksum = self._source.checksum()
        if isinstance(checksum, NoChecksum):
            return None
        return ByteCheck(self._source.uri, self._source.size, checksum, earlier=seen, marks=self.expected)

    def read(self, start: int = 0) -> Iterator[bytes]:
        """The object's bytes from ``start`` on, counted, and compared with its checksum before the last is handed on.

        After `resume`, bytes before ``start`` may be read once more for that. Raises SourceCorruptedError.
        """
        if start == 0:
            self.tally.check = self.tally.check or self._new_check()
        check = self.tally.check
        if check is None:
            return self.tally.watch(self._source.chunks(start))
        return without(self.tally.watch(check.watch(self._source.chunks(check.at))), start - check.at)

    def read_again(self) -> Iterator[bytes]:
        """The bytes of an object that was read before; SourceCorruptedError where they are not the same."""
        check = self.tally.check
        return self._source.chunks() if check is None else check.again().watch(self._source.chunks())

    def expect_again(self) -> None:
        """What this pass found will be used by the next one, which must therefore read the same bytes."""
        self.expected = self.tally.check.marks if self.tally.check is not None else ()

    def confirm(self) -> None:
        """Read what was not read yet: nothing may be committed before all bytes are compared."""
        check = self.tally.check
        if check is not None and not check.proved:
            for _ in self.tally.watch(check.watch(self._source.chunks(check.at))):
                pass

    def doubt(self, deadline: Deadline) -> None:
        """Before a failure is said to be the file's own: raise SourceCorruptedError where the bytes are not the
        object's.

        The rest is read and compared, or where that is less, what was read so far is read once more.
        """
        check = self.tally.check or self._new_check()
        if check is None or check.proved:
            return
        read, rest = check.at, self._source.size - check.at
        again = 0 < read < rest
        if (read if again else rest) > DOUBTED:
            return
        chunks = self._source.chunks(0, read) if again else self._source.chunks(read)
        chunks = (check.again() if again else check).watch(chunks)
        with suppress(PausedError, SourceUnavailableError, SourceChangedError):  # then there is only what was read
            while not deadline.reached and next(chunks, None) is not None:
                pass

    def sum_up(self, counts: Counts, bytes_read: int, *, rising: bool) -> None:
        """Others have read the file, and these are the counts of all its records. ``rising``: so are its keys.

        Raises LimitError.
        """
        self._check_rows(counts.read)
        self.tally.resume(counts)
        self.tally.keys = Rising(so_far=rising)
        self.tally.bytes_read = bytes_read
        self.staged = counts.read

    def report(
        self, state: State, merged: Merged | None = None, *, error: str | None = None, retryable: bool = False
    ) -> LoadReport:
        """What there is to tell. Only a load that succeeded changed rows, so only then are there counts."""
        counted = self.tally.counts if merged is not None else Counts()
        rows = merged or Merged()
        entry, keeper = self.entry, self.keeper
        return LoadReport(
            state=state,
            source=self._source.uri,
            table=self.table,
            mode=self._spec.mode,
            load_id=entry.load_id or None,
            version=self._source.version,
            bytes_read=self.tally.bytes_read,
            seconds=round(time.monotonic() - self._began, 3),
            rejects_by_reason=dict(keeper.reasons) if keeper else {},
            rejects_by_column={name: dict(codes) for name, codes in keeper.columns.items()} if keeper else {},
            rejects_entered=keeper.entered if keeper else 0,
            replay_of=self._replay_of,
            attempts=entry.attempts,
            handovers=entry.handovers,
            resumes=entry.resumes,
            waited=round(entry.waited, 3),
            plan=rows.course or None,
            notes=self.notes,
            error=error,
            retryable=retryable,
            rows_read=counted.read,
            rows_inserted=rows.inserted,
            rows_updated=rows.updated,
            rows_unchanged=rows.unchanged,
            rows_duplicate=rows.duplicate,
            rows_filtered=counted.filtered + rows.left_out,
            rows_rejected=keeper.count if keeper and merged is not None else 0,
        )
