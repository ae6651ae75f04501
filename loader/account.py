"""What there is to tell about a load, at any moment of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from loader.checkpoints import Counts
from loader.ledger import Entry
from loader.limits import Limits
from loader.merge import Counts as Merged
from loader.report import LoadReport, State
from loader.rising import Rising
from loader.source import Source
from loader.spec import LoadSpec
from loader.tally import Progress, RejectKeeper, Tally


class Account:
    """Everything that goes into a load's report, gathered by whoever comes to know it.

    ``staged``: records that are behind a checkpoint.
    """

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
        self.entry = Entry(0)  # 0: there is none in the ledger
        self.keeper: RejectKeeper | None = None
        self.notes: tuple[str, ...] = ()
        self.staged = 0
        self.limits = Limits.of(spec)
        self.restart()

    def restart(self) -> None:
        """The file is read from its beginning."""
        self.tally = Tally(self._source.size, self._progress, self._check_rows)
        self.staged = 0

    def _check_rows(self, rows: int) -> None:
        self.limits.check_rows(rows, self._source.uri)

    def resume(self, entry: Entry, counts: Counts) -> None:
        """The file is read from a checkpoint on; ``counts`` are of the records before it."""
        self.entry = entry
        self.tally.resume(counts)
        self.staged = counts.read

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
