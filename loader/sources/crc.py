"""The checksums that S3 computes of objects, and the arithmetic that combines those of parts.

CRC32, SHA-1 and SHA-256 are Python's own. CRC32C and CRC64NVME come from awscrt, which has them in assembly. Measured
on one core, in GB/s: CRC64NVME 44, CRC32C 45, CRC32 3.1, SHA-1 1.8, SHA-256 1.7. awscrt takes 45 ms of CPU and 6 MB to
import, so it is imported only where an object has such a checksum.

A CRC is linear: that of two runs of bytes, one after the other, is that of the first, advanced by as many zero bytes as
the second has, XOR that of the second. To advance is to multiply by a matrix over GF(2), and by squaring it is done in
as many steps as the length has bits (Mark Adler's ``crc32_combine`` in zlib). awscrt has the same as functions; these
need no package, and prove a plan of 10,000 shards in less than a second. Hashes do not combine.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

_POLYNOMIALS = {"crc32": (32, 0xEDB88320), "crc32c": (32, 0x82F63B78), "crc64nvme": (64, 0x9A6C9329AC4BC9B5)}
"""Bits and reflected polynomial. All three begin with all bits set and end inverted, which the sum needs."""

COMBINING = tuple(_POLYNOMIALS)
"""Those of which the checksum of the whole follows from those of parts."""

SIZES = {"crc64nvme": 8, "crc32": 4, "crc32c": 4, "sha256": 32, "sha1": 20}
"""The algorithms that are known here, and bytes of their values."""

PLAIN = "crc32"
"""What bytes are summed with where there is no checksum to compare: zlib's."""

Bytes = bytes | memoryview


class Sum(Protocol):
    """A checksum in progress, with hashlib's interface."""

    def update(self, data: Bytes, /) -> None: ...

    def digest(self) -> bytes: ...


def available(algorithm: str) -> bool:
    """Whether this process can compute it. The CRCs that only awscrt has need that package to be installed."""
    return algorithm in SIZES and (algorithm == PLAIN or algorithm not in COMBINING or _has_awscrt())


def fastest() -> str:
    """The CRC that costs least here."""
    return "crc64nvme" if _has_awscrt() else PLAIN


@cache
def _has_awscrt() -> bool:
    return find_spec("awscrt") is not None


def updater(algorithm: str) -> Callable[[Bytes, int], int]:
    """The function that goes on with a CRC: the next bytes, and the checksum of those before, 0 of none."""
    if algorithm == PLAIN:
        return zlib.crc32
    function: Callable[[Bytes, int], int] = getattr(import_module("awscrt.checksums"), algorithm)
    return function


def begin(algorithm: str) -> Sum:
    """The checksum of no bytes, to go on with."""
    if algorithm in COMBINING:
        return _Crc(algorithm)
    return hashlib.new(algorithm, usedforsecurity=False)


class _Crc:
    def __init__(self, algorithm: str) -> None:
        self._update = updater(algorithm)
        self._size = SIZES[algorithm]
        self._value = 0

    def update(self, data: Bytes, /) -> None:
        self._value = self._update(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


def combine(algorithm: str, parts: Iterable[tuple[int, int]]) -> int:
    """The checksum of the whole, of the checksum and the length in bytes of each of its ``parts``, in order."""
    whole = 0
    for checksum, length in parts:
        whole = _advanced(algorithm, whole, length) ^ checksum
    return whole


def decoded(checksum: str) -> int:
    """S3's spelling: base64 of the bytes, the highest first."""
    return int.from_bytes(base64.b64decode(checksum), "big")


def spelt(checksum: bytes) -> str:
    """A checksum's bytes as S3 spells them."""
    return base64.b64encode(checksum).decode()


def _advanced(algorithm: str, checksum: int, length: int) -> int:
    """The checksum after ``length`` zero bytes, in the sense of the sum above."""
    for power in range(length.bit_length()):
        if length >> power & 1:
            checksum = _times(_zeros(algorithm, power), checksum)
    return checksum


@cache
def _zeros(algorithm: str, power: int) -> tuple[int, ...]:
    """The matrix that advances by 2 ** ``power`` zero bytes. Kept, for a plan of thousands of shards is proved more
    than once: without, each of its parts took 14 ms."""
    if power == 0:
        bits, polynomial = _POLYNOMIALS[algorithm]
        matrix = (polynomial, *(1 << bit for bit in range(bits - 1)))  # one zero bit
        for _ in range(3):
            matrix = _squared(matrix)
        return matrix
    return _squared(_zeros(algorithm, power - 1))


def _squared(matrix: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(_times(matrix, column) for column in matrix)


def _times(matrix: tuple[int, ...], vector: int) -> int:
    product = 0
    for column in matrix:
        if vector & 1:
            product ^= column
        vector >>= 1
    return product
