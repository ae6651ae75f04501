"""Encoded blocks → COPY: straight, or in segments, each with its checkpoint.

A segment is a run of blocks that several streams copy side by side, each in transactions of its own. When all streams
have committed what they took of a segment, its checkpoint is saved. A stream does not wait for the others: what it
commits of the next segment meanwhile lies beyond the checkpoint, and whoever takes up the load there throws it away.
Streams begin a segment one after the other, so that of two transactions the later one never holds an earlier segment.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from queue import Queue
from typing import Protocol

from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.checkpoints import Checkpoint
from loader.database import Database
from loader.deadline import Deadline
from loader.errors import PausedError
from loader.records import Encoded, Place
from loader.staging import copy
from loader.tally import Books


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


TRIAL = 0.2
"""The share of an attempt's time after which its pace is judged."""


def straight(encoded: Iterator[Encoded], books: Books, deadline: Deadline, *, name: str, size: int) -> Iterator[bytes]:
    """The tuples for a COPY that cannot be continued. ``name`` and ``size`` (bytes) are the object's.

    Raises PausedError where somebody asks to stop, and NotStraightError where the deadline will come before the end.
    """
    began = deadline.left
    for each in encoded:
        if deadline.stopped:
            straight = "it was being copied straight into the table"
            raise PausedError(f"{name}: {deadline.reached}; {straight}, so {staged_so_far(0)}", handover=False)
        spent = began - deadline.left  # without a deadline no number at all, which is never greater than anything
        if spent > TRIAL * began and spent * (size / books.tally.bytes_read - 1) > deadline.left:
            raise NotStraightError("it would not be through in the time that an attempt has")
        books.enter(each)
        yield each.tuples


def staged_so_far(records: int) -> str:
    """What to say of a load that comes to rest with so many records staged."""
    if not records:
        return "nothing of it was staged, and the same call begins anew"
    return f"{records:,} records are staged, and the same call goes on from there"


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
    ) -> None:
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
            copied = copy(connection, staging.name, staging.written, iter(partial(self._take, segment), None))
            connection.commit()
            before = self.saved
            more = self._arrive(number, copied)
            if self.saved is not before:
                tell(self.saved)

    def stop(self) -> None:
        """Hand out no more."""
        self._stopped = True

    def _begin(self, connection: Connection, staging: Fillable) -> int:
        """Begin a transaction for the segment that is being handed out; gives that."""
        with self._lock:
            self._transactions[self._segment] = staging.begin(connection)
            return self._segment

    def _take(self, segment: int) -> bytes | None:
        """The next block's tuples; None where it is not of that segment, or there is none."""
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
            return encoded.tuples

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
