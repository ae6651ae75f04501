"""An object that is written again and again, and the events that tell of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import md5
from typing import Literal

from support.s3 import S3
from support.upload import Upload

Sequencers = Literal["none", "counted", "mixed"]
"""Whether events have sequencers: none has; each has, and they are of one length; any has or has not, of any length."""


@dataclass(frozen=True, eq=False)
class Put:
    """One version of an object, the ``number``-th from 1 on. ``version``: as the ledger has it, S3's id or
    ``etag:…``; ``version_id``: what an event says of it, None where the bucket kept no versions then."""

    place: Place
    number: int
    upload: Upload
    version: str
    version_id: str | None
    sequencer: str | None

    def is_newer_than(self, other: Put) -> bool:
        """Of two of one object."""
        return self.place is other.place and self.number > other.number


@dataclass(eq=False)
class Place:
    """A key of a bucket, and what was put there, in its order. ``rng`` chooses the sequencers of its events.

    ``turns_versioned``: the bucket keeps versions from the second put on, whatever it did before.
    """

    s3: S3
    key: str
    versioned: bool
    rng: random.Random
    sequencers: Sequencers = "none"
    turns_versioned: bool = False
    puts: list[Put] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return self.s3.uri(self.key)

    def put(self, upload: Upload) -> Put:
        if self.puts and self.turns_versioned and not self.versioned:
            self.s3.keep_versions()
            self.versioned = True
        number = len(self.puts) + 1
        version_id = self.s3.put(self.key, upload.body)
        version = version_id or _etag(upload)
        made = Put(self, number, upload, version, version_id, self._sequencer(number))
        self.puts.append(made)
        return made

    def had(self, upload: Upload) -> bool:
        """Whether these bytes were here before."""
        return any(each.upload.body == upload.body for each in self.puts)

    def find(self, version: str) -> Put:
        """The put that the ledger means by a version."""
        return next(each for each in self.puts if each.version == version)

    def _sequencer(self, number: int) -> str | None:
        """Hexadecimal, greater from put to put wherever two are of one length."""
        if self.sequencers == "none" or (self.sequencers == "mixed" and self.rng.random() < 0.3):
            return None
        if self.sequencers == "counted":
            return f"{0x0055AED6DCD90280 + number:018X}"
        return f"{number:0{self.rng.choice([1, 2, 2, 17, 18])}X}"


def _etag(upload: Upload) -> str:
    return f"etag:{md5(upload.body).hexdigest()}"


def is_due(put: Put, before: Sequence[Put], *, late: bool) -> bool:
    """Whether a version takes effect after ``before``, other versions of its object that did. ``late``: also where one
    of them is newer."""
    numbers = {each.number for each in before}
    return put.number not in numbers and (late or put.number > max(numbers, default=0))
