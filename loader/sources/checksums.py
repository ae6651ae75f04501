"""An object's own checksum, and the comparison of the bytes of a pass with it.

S3 keeps a checksum of the whole object (``ChecksumType`` FULL_OBJECT), or of each part of a multipart upload and a
checksum of those (COMPOSITE); see the Amazon S3 User Guide, "Checking object integrity". `ByteCheck` computes it over
the object's bytes as they are read, before decompression, and compares it before the last of them is handed on.

A load can be continued at a checkpoint, and then no single pass reads all bytes. So each pass also keeps a running CRC.
A checkpoint stores a `Seen`: where the next pass starts, the CRC of all bytes before that, and the CRCs that the next
pass must compute again at later offsets, up to the last byte that had been read when the checkpoint was made. Bytes
that were staged from one pass and proved by another are then known to be the same bytes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any, Self

from loader.core.errors import SourceCorruptedError
from loader.sources import crc

Mark = tuple[int, int]
"""An offset in the object, in bytes, and the running CRC of all bytes before it."""


@dataclass(frozen=True, slots=True)
class ObjectPart:
    """One part of a multipart upload. ``value``: S3's checksum of it, None where S3 gives its size only."""

    number: int  # from 1
    size: int  # bytes
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class Checksum:
    """What S3 keeps of an object. ``algorithm``: as `crc` names it. ``value``: of the whole object, or where there are
    ``parts``, of their checksums, one after the other."""

    algorithm: str
    value: bytes
    parts: tuple[ObjectPart, ...] = ()

    @property
    def combines(self) -> bool:
        """Whether it can be computed of pieces that are read in any order."""
        return not self.parts and self.algorithm in crc.COMBINING

    @property
    def knows_parts(self) -> bool:
        """Whether each part can be compared alone."""
        return bool(self.parts) and all(part.value is not None for part in self.parts)

    @property
    def borders(self) -> list[int]:
        """Where parts begin, and where the last one ends; empty where there are none."""
        return [] if not self.parts else list(accumulate((part.size for part in self.parts), initial=0))

    def within(self, first: int, past: int) -> Checksum | None:
        """That of the parts that make up the bytes from ``first`` up to ``past``; None where there are none such."""
        borders = self.borders
        if not self.knows_parts or first not in borders or past not in borders:
            return None
        parts = self.parts[borders.index(first) : borders.index(past)]
        return Checksum(self.algorithm, combined(self.algorithm, parts), parts) if parts else None


def combined(algorithm: str, parts: Iterable[ObjectPart]) -> bytes:
    """The checksum of the parts' checksums, as S3 makes it."""
    whole = crc.begin(algorithm)
    for part in parts:
        whole.update(part.value or b"")
    return whole.digest()


@dataclass(frozen=True, slots=True)
class NoChecksum:
    """There is nothing to compare with. ``why``: a sentence for the report; empty for a file, which never has one."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a pass has seen when a checkpoint is made; JSON can carry it.

    ``start``: where the next pass starts to read. ``marks``: what it has to compute again, by rising offsets.
    ``proved``: the whole object was read and compared.
    """

    algorithm: str
    start: Mark = (0, 0)
    marks: tuple[Mark, ...] = ()
    proved: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {
            "algorithm": self.algorithm,
            "start": list(self.start),
            "marks": [list(each) for each in self.marks],
            "proved": self.proved,
        }

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any] | None) -> Self | None:
        """None where there is none, as in a checkpoint of a version that did not write it."""
        if mapping is None or not crc.available(mapping["algorithm"]):
            return None
        offset, value = mapping["start"]
        marks = tuple((place, met) for place, met in mapping["marks"])
        return cls(mapping["algorithm"], (offset, value), marks, mapping["proved"])


class ByteCheck:
    """Compares the bytes of one pass over an object with its checksum. ``earlier``: where an earlier pass got to.

    ``at``: how many bytes were read, those of earlier passes included. ``proved``: all of them, and they are the
    object's. Raises SourceCorruptedError where they are not."""

    def __init__(
        self, uri: str, size: int, checksum: Checksum, *, earlier: Seen | None = None, marks: Sequence[Mark] = ()
    ) -> None:
        self._uri = uri
        self._size = size
        self._checksum = checksum
        earlier = earlier or Seen(checksum.algorithm if checksum.combines else crc.fastest(), marks=tuple(marks))
        self._algorithm = earlier.algorithm
        self._update = crc.updater(earlier.algorithm)
        self._at = earlier.start
        self._marks = deque(each for each in earlier.marks if each[0] > self.at)
        self._restarts = deque([earlier.start])  # where a later pass may start
        self._sum = crc.begin(checksum.algorithm) if not checksum.combines else None  # of the object or of a part
        self._whole = crc.begin(checksum.algorithm) if checksum.parts else None  # of the parts' sums
        self._part, self._part_end = 0, 0
        self._lock = threading.Lock()  # a checkpoint is made on another thread than the one that reads
        self.proved = earlier.proved
        if checksum.parts and not self.proved:
            self._skip_parts()
        if self.at == size and not self.proved:
            self._compare()

    @property
    def at(self) -> int:
        return self._at[0]

    @property
    def marks(self) -> tuple[Mark, ...]:
        """What another pass that starts over has to meet, so that what this one found is known to be the object's."""
        return tuple(sorted({*self._marks, self._at}))

    def watch(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The chunks that follow ``at``, each compared before it is handed on."""
        for chunk in chunks:
            self._take(chunk)
            yield chunk

    def seen(self, offset: int | None) -> Seen:
        """For a checkpoint after which reading goes on at ``offset``; None: from the beginning, as of compressed
        objects.

        May be called on another thread than the one that reads.
        """
        with self._lock:
            while offset is not None and len(self._restarts) > 1 and self._restarts[1][0] <= offset:
                self._restarts.popleft()
            start = (0, 0) if offset is None else self._restarts[0]
            return Seen(self._algorithm, start, self.marks)

    def seen_all(self) -> Seen:
        """For the checkpoint after which nothing is read any more."""
        return Seen(self._algorithm, self._at, proved=True) if self.proved else self.seen(None)

    def again(self) -> ByteCheck:
        """For another pass from the beginning, which has to find what this one found."""
        return ByteCheck(self._uri, self._size, self._checksum, earlier=Seen(self._algorithm, marks=self.marks))

    def _skip_parts(self) -> None:
        """Parts before ``at`` were compared by an earlier pass, which only goes on at the beginning of one."""
        for part in self._checksum.parts:
            if self._part_end + part.size > self.at:
                break
            assert part.value is not None
            assert self._whole is not None
            self._part_end += part.size
            self._whole.update(part.value)
            self._part += 1
        if self._part < len(self._checksum.parts):
            self._part_end += self._checksum.parts[self._part].size

    def _take(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        with self._lock:
            while rest:
                rest = rest[self._add(rest) :]
            if self._checksum.combines:
                self._restarts.append(self._at)
        if self.at == self._size:
            self._compare()

    def _add(self, data: memoryview) -> int:
        """Sum the bytes up to the next place where something is compared, and compare it; gives how many they are."""
        at, value = self._at
        border = min([len(data), *(place - at for place, _ in islice(self._marks, 1))])
        if self._whole is not None:
            border = min(border, self._part_end - at)
        piece = data[:border]
        value = self._update(piece, value)
        if self._sum is not None:
            self._sum.update(piece)
        at += border
        self._at = at, value
        while self._marks and self._marks[0][0] == at:
            if self._marks.popleft()[1] != value:
                raise corrupted(self._uri, f"its first {at:,} bytes were read twice and were not the same")
        if self._whole is not None and at == self._part_end:
            self._end_part()
        return border

    def _end_part(self) -> None:
        assert self._sum is not None
        assert self._whole is not None
        part, found = self._checksum.parts[self._part], self._sum.digest()
        if part.value is not None and found != part.value:
            raise differing(self._uri, f"{self._name} of part {part.number}", part.value, found)
        self._whole.update(found)
        self._sum = crc.begin(self._checksum.algorithm)
        self._part += 1
        if self._part < len(self._checksum.parts):
            self._part_end += self._checksum.parts[self._part].size
        if self._checksum.knows_parts:
            self._restarts.append(self._at)

    def _compare(self) -> None:
        expected = self._checksum.value
        if self._whole is not None:
            found = self._whole.digest()
        elif self._sum is not None:
            found = self._sum.digest()
        else:
            found = self._at[1].to_bytes(len(expected), "big")
        if found != expected:
            parts = f" of the checksums of {len(self._checksum.parts)} parts" if self._checksum.parts else ""
            raise differing(self._uri, f"{self._name}{parts}", expected, found)
        self.proved = True

    @property
    def _name(self) -> str:
        return self._checksum.algorithm.upper()


def differing(uri: str, what: str, expected: bytes, found: bytes) -> SourceCorruptedError:
    """The error of bytes whose checksum is not S3's. ``what``: which checksum. Spelt as S3's console does."""
    told = f"the bytes that arrived have the {what} {crc.spelt(found)}, and S3 says {crc.spelt(expected)}"
    return corrupted(uri, told)


def corrupted(uri: str, what: str) -> SourceCorruptedError:
    """The error of bytes that are not the object's. ``what``: how that shows."""
    return SourceCorruptedError(f"{uri}: {what}; nothing was loaded, and it is read again from its beginning")
