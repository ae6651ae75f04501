"""Encoded blocks → COPY: straight, or in segments, each with its checkpoint.

A segment is a run of blocks that several streams copy side by side, each in transactions of its own. When all streams
have committed what they took of a segment, its checkpoint is saved. A stream does not wait for the others: what it
commits of the next segment meanwhile lies beyond the checkpoint, and whoever takes up the load there throws it away.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from queue import Queue

from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.checkpoints import Checkpoint
from loader.database import Database
from loader.deadline import Deadline
from loader.errors import PausedError
from loader.records import Encoded, Place
from loader.staging import Staging, copy
from loader.tally import Books


class NotStraightError(Exception):
    """This load cannot go straight into its target; the message says why, in words for the ledger."""


TRIAL = 0.2
"""The share of an attempt's time after which its pace is judged."""

LONG = 30.0
"""Seconds that a load may take to go straight: so much is lost when it dies. Its pace shows that after `SOON`."""

SOON = 2.0
"""Seconds after which a load's pace shows how long it will take; so much is lost where it turns out to be long."""


NOTHING_SAVED = (
    "it was being copied straight into the table, so nothing of it was staged, and the same call begins anew"
)
"""What to say of a straight load that comes to rest."""


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
                yield each.tuples
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


def copy_segments(segments: Segments, database: Database, staging: Staging) -> Generator[Checkpoint]:
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
        self._stopped = False

    def copy(self, number: int, connection: Connection, staging: Staging, tell: Callable[[Checkpoint], object]) -> None:
        """COPY blocks as stream ``number``, until there are none, and ``tell`` each checkpoint that this completes."""
        segment: int | None = 0
        while segment is not None:
            copied = copy(connection, staging.name, staging.written, iter(partial(self._take, segment), None))
            connection.commit()
            before = self.saved
            segment = self._arrive(number, copied)
            if self.saved is not before:
                tell(self.saved)

    def stop(self) -> None:
        """Hand out no more."""
        self._stopped = True

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

    def _arrive(self, number: int, copied: int) -> int | None:
        """A stream has committed all that it took so far; gives the segment that it is to go on with."""
        with self._lock:
            self.copied += copied
            self._committed[number] = self._segment
            held = min(self._committed) - 1
            if held in self._ends:
                self._books.keeper.flush()  # before the checkpoint that vouches for them
                self.saved = self._ends[held]
                self._save(self.saved)
                self._ends = {each: end for each, end in self._ends.items() if each > held}
            return None if self._stopped else self._segment
