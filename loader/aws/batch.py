"""The messages that one invocation is given: which of them it loads, in what order, and which it leaves to others.

SQS hands out up to ten messages together, whatever they ask for. They are loaded one after the other, and none is done
with before all are, so a batch has to be arranged:

- Small objects come first, so that none waits for a large one.
- Of large objects as many are loaded as surely take no more than `BATCH_BYTES`, the smallest first, and at least one.
  The others go back to the queue before anything is loaded, for functions that are free.
- Versions of one object come in the order of their sequencers, so that none is superseded for no reason.
- A function that is killed answers nothing, and after the queue's visibility timeout its messages come again, most
  likely together. So messages that were received before come after those that were not, each time in another order:
  one that kills its function does not keep the same others from their turn again and again.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loader.aws.events import Ignored, ObjectCreated, event_of, told_by
from loader.aws.redelivery import Message
from loader.core.errors import UsageError
from loader.engine.small_load import SMALL

BATCH_BYTES = 256 << 20
"""Bytes of objects, as their events tell, that one batch loads: half a minute at `dispatch.RATE`, some five seconds as
measured. That is how long an idle function may have to wait for a file that another holds back."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A message and what it asks for, see `events.told_by`. ``fault``: why nobody can tell. ``queued``: whether it says
    itself that it is SQS's."""

    message: Message
    told: tuple[ObjectCreated | Ignored | UsageError, ...] = ()
    fault: Exception | None = None
    queued: bool = False

    @classmethod
    def by(cls, record: object) -> Asked:
        """What a record of the event asks for. Raises nothing: each message has to be answered for by itself."""
        message = Message.of(record)
        queued = isinstance(record, Mapping) and record.get("eventSource") == "aws:sqs"
        if message.fault is not None:
            return cls(message, fault=message.fault, queued=queued)
        try:
            return cls(message, tuple(told_by(event_of(message.body or ""))), queued=queued)
        except Exception as error:  # whatever it is, the others' turn must come
            return cls(message, fault=error, queued=queued)

    @property
    def created(self) -> tuple[ObjectCreated, ...]:
        return tuple(each for each in self.told if isinstance(each, ObjectCreated))

    @property
    def size(self) -> float:
        """Bytes of its objects, as far as their events tell."""
        return sum(each.size for each in self.created)


def arrange(batch: Sequence[Asked]) -> tuple[list[Asked], list[Asked]]:
    """Those to be loaded here, in order, and those to be handed back at once. A message without an id cannot be handed
    back."""
    versions: dict[object, list[Asked]] = {}
    for number, asked in enumerate(batch):
        first = next(iter(asked.created), None)
        versions.setdefault(number if first is None else (first.bucket, first.key), []).append(asked)
    ordered = [asked for each in sorted(versions.values(), key=_rank) for asked in sorted(each, key=_age)]
    fitting = _fitting(ordered)
    nameless = [asked for asked in ordered[fitting:] if asked.message.id is None]
    return ordered[:fitting] + nameless, [asked for asked in ordered[fitting:] if asked.message.id is not None]


def _fitting(ordered: Sequence[Asked]) -> int:
    """How many are loaded here: the first large object in any case, or small ones that go on coming would keep it from
    its turn for ever."""
    total, large = 0.0, 0
    for number, asked in enumerate(ordered):
        total += asked.size
        large += asked.size > SMALL
        if large > 1 and total > BATCH_BYTES:
            return number
    return len(ordered)


def _rank(versions: Sequence[Asked]) -> tuple[float, int]:
    """By which objects are ordered: those of one rank stay in the order in which they came."""
    size = sum(asked.size for asked in versions)
    again = max(_shuffled(asked.message) for asked in versions)
    return (size if size > SMALL else 0, again)


def _shuffled(message: Message) -> int:
    """0 for one that was never received before; for others a number that is another one each time."""
    return 0 if message.received == 1 else 1 + zlib.crc32(f"{message.id} {message.received}".encode())


def _age(asked: Asked) -> tuple[int, str]:
    """By which versions of one object are ordered: sequencers of one length are hexadecimal numbers."""
    sequencer = next((each.sequencer or "" for each in asked.created), "")
    return len(sequencer), sequencer.upper()
