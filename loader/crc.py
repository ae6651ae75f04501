"""Checksums of parts of an object → that of the whole, without reading anything again.

A CRC is linear: that of two runs of bytes, one after the other, is that of the first, advanced by as many zero bytes as
the second has, XOR that of the second. To advance is to multiply by a matrix over GF(2), and by squaring it is done in
as many steps as the length has bits (Mark Adler's ``crc32_combine`` in zlib). S3 keeps one checksum over all bytes of
an object, ``ChecksumType`` FULL_OBJECT, in these very CRCs (Amazon S3 User Guide, "Checking object integrity").
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from importlib.util import find_spec

_POLYNOMIALS = {"crc32": (32, 0xEDB88320), "crc32c": (32, 0x82F63B78), "crc64nvme": (64, 0x9A6C9329AC4BC9B5)}
"""Bits and reflected polynomial. All three begin with all bits set and end inverted, which the sum needs."""

PLAIN = "crc32"
"""What bytes are summed with where nobody has a checksum to compare: zlib's."""


def available(algorithm: str) -> bool:
    """Whether this process can compute it: of zlib there is one, awscrt, which is not required, has all."""
    return algorithm == PLAIN or (algorithm in _POLYNOMIALS and find_spec("awscrt") is not None)


def updater(algorithm: str) -> Callable[[bytes, int], int]:
    """The function that goes on with a checksum: the next bytes, and the checksum of those before, 0 of none."""
    if algorithm == PLAIN:
        return zlib.crc32
    function: Callable[[bytes, int], int] = getattr(import_module("awscrt.checksums"), algorithm)
    return function


def combine(algorithm: str, parts: Iterable[tuple[int, int]]) -> int:
    """The checksum of the whole, of the checksum and the length in bytes of each of its ``parts``, in order."""
    whole = 0
    for checksum, length in parts:
        whole = _advanced(algorithm, whole, length) ^ checksum
    return whole


def decoded(checksum: str) -> int:
    """S3's spelling: base64 of the bytes, the highest first."""
    return int.from_bytes(base64.b64decode(checksum), "big")


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
