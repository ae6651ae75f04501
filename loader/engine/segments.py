"""Encoded blocks → COPY: straight, or in segments, each with its checkpoint.

A segment is a run of blocks that several streams copy side by side, each in transactions of its own. When all streams
have committed what they took of a segment, its checkpoint is saved. A stream does not wait for the others: what it
commits of the next segment meanwhile lies beyond the checkpoint, and whoever takes up the load there throws it away.
Streams begin a segment one after the other, so that of two transactions the later one never holds an earlier segment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from queue import Queue
from typing import Protocol

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.convert.encoded import Encoded
from loader.core.deadline import Deadline
from loader.core.errors import PausedError
from loader.core.faults import is_servers
from loader.engine.counters import Books
from loader.ledger.checkpoints import Checkpoint, Counts
from loader.postgres.copy_forms import JUDGED, CopyForm, CsvForm
from loader.postgres.database import Database
from loader.postgres.merging.staging import copy
from loader.records.block import Block, Place


class NotStraightError(Exception):
    """This load cannot go straight into its target; the message says why, in words for the ledger."""


class Fillable(Protocol):
    """A table that several streams fill: ``written`` are the columns that COPY writes."""

    @property
    def name(self) -> sql.Identifier: ...

    @property
    def written(self) -> tuple[str, ...]: ...

    def begin(self, connection: Connection) -> int | None:
        """Begin a transaction that writes into it; gives its number if that tells its rows from those of others."""


GROUP = 8 << 20
"""Bytes of text of a COPY that PostgreSQL may refuse, about: they are kept until it has ended, and all of their records
are judged where it is refused. To commit costs some tenths of a millisecond, and a mebibyte some ten to copy."""

TRIAL = 0.2
"""The share of an attempt's time after which its pace is judged."""

LONG = 30.0
"""Seconds that a load may take to go straight: so much is lost when it dies. Its pace shows that after `SOON`."""

SOON = 2.0
"""Seconds after which a load's pace shows how long it will take; so much is lost where it turns out to be long."""


class Unbroken:
    """Hands blocks out to one COPY, which cannot be continued.

    ``name`` and ``size`` (bytes) are the object's. A load of more than one ``segment`` (bytes of text) has to be done
    in `LONG` seconds. ``saves``: what was copied is saved when somebody asks to stop. Then the blocks just end
    where the file can be taken up again, at ``after``, and ``stopped`` says so.
    """

    def __init__(
        self,
        encoded: Iterator[Encoded],
        books: Books,
        deadline: Deadline,
        *,
        name: str,
        size: int,
        segment: int,
        saves: bool,
    ) -> None:
        self.after: Place | None = None
        self.stopped = False
        self._encoded = encoded
        self._books = books
        self._deadline = deadline
        self._name = name
        self._size = size
        self._segment = segment
        self._saves = saves
        self._budget = deadline.left
        self._began = time.monotonic()

    def tuples(self) -> Iterator[bytes]:
        """The blocks' tuples.

        Raises NotStraightError where the deadline will come before the end, or the end after `LONG`; and PausedError
        where somebody asks to stop and nothing can be saved.
        """
        try:
            for each in self._encoded:
                if self._deadline.stopped and self._rests():
                    return
                self._judge_pace()
                self._books.enter(each)
                self.after = each.block.after
                yield each.sent
        except PausedError:  # the source waits for bytes that may never come
            if not (self._deadline.stopped and self._rests()):
                raise

    def paused(self, so_far: str) -> PausedError:
        """What to raise when it has come to rest."""
        return PausedError(f"{self._name}: {self._deadline.reached}; {so_far}", handover=False)

    def _rests(self) -> bool:
        """Whether it can come to rest here."""
        if not self._saves or not self._books.tally.counts.read:
            raise self.paused(NOTHING_SAVED)
        self.stopped = self.after is not None
        return self.stopped

    def _judge_pace(self) -> None:
        rest = self._size / max(self._books.tally.bytes_read, 1) - 1
        spent = self._budget - self._deadline.left  # without a deadline no number at all, which is never greater
        if spent > TRIAL * self._budget and spent * rest > self._deadline.left:
            raise NotStraightError("it would not be through in the time that an attempt has")
        passed = time.monotonic() - self._began
        if self._size > self._segment and passed > SOON and passed * (1 + rest) > LONG:
            raise NotStraightError("it takes so long that an interruption would cost much")


def staged_so_far(records: int) -> str:
    """What to say of a load that comes to rest with so many records staged."""
    if not records:
        return "nothing of it was staged, and the same call begins anew"
    return f"{records:,} records are staged, and the same call goes on from there"


NOTHING_SAVED = f"it was being copied straight into the table, so {staged_so_far(0)}"
"""What to say of a straight load that comes to rest."""


def copy_segments(segments: Segments, database: Database, staging: Fillable) -> Generator[Checkpoint]:
    """COPY all segments into ``staging``; gives checkpoints as they are saved, though not every one to a slow taker.

    The last is complete unless the deadline came first. Raises what the stages before, the books, PostgreSQL or saving
    a checkpoint raise. Whoever stops taking checkpoints, stops the COPY.
    """
    errors: list[BaseException] = []
    news: Queue[Checkpoint | None] = Queue()

    def stream(number: int) -> None:
        try:
            with database.session() as connection:
                segments.copy(number, connection, staging, news.put)
        except BaseException as error:
            errors.append(error)
            segments.stop()
        finally:
            news.put(None)

    threads = [threading.Thread(target=stream, args=(each,), name="loader-copy") for each in range(segments.streams)]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:  # each says None in the end
            while (checkpoint := news.get()) is not None:
                yield checkpoint
    finally:
        segments.stop()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


class Segments:
    """Hands blocks out to ``streams`` COPY streams, and calls ``save`` for each segment that all have committed.

    ``start``: the checkpoint at which the blocks begin; ``saved`` is the last one since. ``size``: bytes of text of a
    segment, which ends with the block that reaches it, or with the first after which the file can be taken up again.
    ``form``: of the records that are copied, where it is not the binary one. Where none was judged before, a stream
    commits every `GROUP` bytes, and blocks of which PostgreSQL refuses a record are made ``again``, each record judged.
    """

    def __init__(
        self,
        encoded: Iterator[Encoded],
        books: Books,
        deadline: Deadline,
        start: Checkpoint,
        save: Callable[[Checkpoint], None],
        *,
        size: int,
        streams: int,
        form: CopyForm | None = None,
        again: Callable[[Block], Encoded] | None = None,
    ) -> None:
        self._form = form
        self._again = again
        self.saved = start
        self.streams = streams
        self.copied = 0  # rows
        self._encoded = encoded
        self._books = books
        self._deadline = deadline
        self._save = save
        self._size = size
        self._lock = threading.Lock()
        self._segment = 0  # the one that is being handed out
        self._bytes = 0  # of its text, so far
        self._after: Place | None = start.place  # where the file can be taken up again, if it can
        self._ends: dict[int, Checkpoint] = {}
        self._committed = [0] * streams  # segments, by stream
        self._transactions = {-1: start.transaction}  # the newest of each segment, where they are numbered
        self._stopped = False

    def copy(
        self, number: int, connection: Connection, staging: Fillable, tell: Callable[[Checkpoint], object]
    ) -> None:
        """COPY blocks as stream ``number``, until there are none, and ``tell`` each checkpoint that this completes."""
        more = True
        while more:
            segment = self._begin(connection, staging)
            if isinstance(self._form, CsvForm):
                copied = self._copy_group(connection, staging, segment, self._form)
            else:
                copied = copy(connection, staging.name, staging.written, self._sent(segment), form=self._form)
            connection.commit()
            before = self.saved
            more = self._arrive(number, copied)
            if self.saved is not before:
                tell(self.saved)

    def _sent(self, segment: int) -> Iterator[bytes]:
        return (each.sent for each in iter(partial(self._take, segment), None))

    def _copy_group(self, connection: Connection, staging: Fillable, segment: int, form: CsvForm) -> int:
        """COPY some blocks as they are, or judged where PostgreSQL refuses a record of theirs; gives the rows."""
        taken: list[Encoded] = []

        def lines() -> Iterator[bytes]:
            while sum(len(each.block.data) for each in taken) < GROUP and (encoded := self._take(segment)) is not None:
                lines, sent = encoded.lines, encoded.sent
                assert lines is not None
                taken.append(replace(encoded, lines=replace(lines, data=b"")))  # what was sent is not kept
                yield sent

        try:
            copied = copy(connection, staging.name, staging.written, lines(), form=form)
        except psycopg2.Error as error:
            if connection.closed or is_servers(error.pgcode or ""):
                raise
        else:
            if copied == sum(each.kept for each in taken):
                return copied
        connection.rollback()
        self._begin_again(connection, staging, segment)
        judged = (self._judged(each, segment) for each in taken)
        return copy(connection, staging.name, staging.written, judged, form=JUDGED)

    def _judged(self, hoped: Encoded, segment: int) -> bytes:
        """What COPY is given of a block with each record judged, and its books put right."""
        assert self._again is not None
        assert hoped.lines is not None
        made = self._again(hoped.block)
        refused = made.rejects.without(hoped.lines.rejected)
        with self._lock:
            fewer = Counts(kept=made.kept - hoped.kept)
            self._books.tally.amend(fewer)
            for each in self._ends:
                if each >= segment:
                    self._ends[each] = replace(self._ends[each], counts=self._ends[each].counts + fewer)
            self._books.keeper.add(refused)
        return made.sent

    def _begin_again(self, connection: Connection, staging: Fillable, segment: int) -> None:
        """Begin a transaction for blocks of a ``segment`` whose own was rolled back.

        It is later than those of segments that have begun meanwhile, so its rows belong to the last of these, and the
        checkpoints before that one's are not saved.
        """
        with self._lock:
            transaction = staging.begin(connection)
            if transaction is None:
                return
            last = max(self._ends, default=segment) if self._stopped else self._segment
            self._ends = {each: end for each, end in self._ends.items() if not segment <= each < last}
            self._transactions[last] = transaction

    def stop(self) -> None:
        """Hand out no more."""
        self._stopped = True

    def _begin(self, connection: Connection, staging: Fillable) -> int:
        """Begin a transaction for the segment that is being handed out; gives that."""
        with self._lock:
            self._transactions[self._segment] = staging.begin(connection)
            return self._segment

    def _take(self, segment: int) -> Encoded | None:
        """The next block; None where it is not of that segment, or there is none."""
        with self._lock:
            if self._stopped or segment < self._segment:
                return None
            try:
                encoded = next(self._encoded, None)
                if encoded is None:
                    self._end(None)
                    return None
                self._books.enter(encoded)
            except PausedError:  # the source waits for bytes that may never come
                self._rest()
                self._stopped = True
                return None
            except BaseException:
                self._stopped = True
                raise
            self._bytes += len(encoded.block.data)
            self._after = encoded.block.after
            if self._deadline.reached:
                self._rest()
            elif self._after is not None and self._bytes >= self._size:
                self._end(self._after)
            return encoded

    def _rest(self) -> None:
        """The deadline was reached: come to rest where the file can be taken up again, be it at the next block."""
        if self._after is not None:
            self._end(self._after)
            self._stopped = True

    def _end(self, after: Place | None) -> None:
        """The segment ends; ``after`` it there is another, or where that is None, nothing."""
        counts = self._books.tally.counts
        place = after or Place(record=counts.read + 1)
        self._ends[self._segment] = replace(
            self.saved, place=place, counts=counts, complete=after is None, seen=self._books.tally.seen(after)
        )
        self._segment += 1
        self._bytes = 0
        self._stopped = self._stopped or after is None

    def _arrive(self, number: int, copied: int) -> bool:
        """A stream has committed all that it took so far; whether it is to go on."""
        with self._lock:
            self.copied += copied
            self._committed[number] = self._segment
            held = min(self._committed) - 1
            if held in self._ends:
                self._books.keeper.flush()  # before the checkpoint that vouches for them
                newest = max(each for each in self._transactions if each <= held)
                self.saved = replace(self._ends[held], transaction=self._transactions[newest])
                self._save(self.saved)
                self._ends = {each: end for each, end in self._ends.items() if each > held}
                self._transactions = {n: each for n, each in self._transactions.items() if n >= newest}
            return not self._stopped
