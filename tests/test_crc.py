"""The checksum of the whole is that of its parts, whichever they are."""

from __future__ import annotations

import base64
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.sources import crc

CHECK = {"crc32": 0xCBF43926, "crc32c": 0xE3069283, "crc64nvme": 0xAE8B14860A799888}
"""Of b"123456789", by which CRCs are known: the catalogue of parametrised CRC algorithms, reveng.sourceforge.io."""

BITS = {"crc32": 32, "crc32c": 32, "crc64nvme": 64}
POLYNOMIALS = {"crc32": 0xEDB88320, "crc32c": 0x82F63B78, "crc64nvme": 0x9A6C9329AC4BC9B5}


def by_hand(algorithm: str, data: bytes) -> int:
    """Bit by bit, by the definition."""
    ones = (1 << BITS[algorithm]) - 1
    value = ones
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (POLYNOMIALS[algorithm] if value & 1 else 0)
    return value ^ ones


def parts_of(data: bytes, borders: list[int]) -> list[bytes]:
    places = [0, *sorted(min(each, len(data)) for each in borders), len(data)]
    return [data[first:past] for first, past in pairwise(places)]


@pytest.mark.parametrize("algorithm", CHECK)
def test_the_definition_gives_the_known_values(algorithm: str) -> None:
    """So that what follows is held against the right thing."""
    assert by_hand(algorithm, b"123456789") == CHECK[algorithm]


@pytest.mark.parametrize("algorithm", CHECK)
@given(data=st.binary(max_size=80), borders=st.lists(st.integers(0, 80), max_size=6))
def test_parts_combine_to_the_whole(algorithm: str, data: bytes, borders: list[int]) -> None:
    """Wherever they are cut, and where some are empty, or all."""
    parts = parts_of(data, borders)
    summed = [(by_hand(algorithm, part), len(part)) for part in parts]
    assert crc.combine(algorithm, summed) == by_hand(algorithm, data)


@given(st.binary(max_size=5000), st.lists(st.integers(0, 5000), max_size=9))
def test_parts_combine_to_what_zlib_says(data: bytes, borders: list[int]) -> None:
    """Each part summed in pieces, as it is read."""
    update = crc.updater("crc32")
    summed = []
    for part in parts_of(data, borders):
        value = 0
        for at in range(0, len(part), 700):
            value = update(part[at : at + 700], value)
        summed.append((value, len(part)))
    assert crc.combine("crc32", summed) == zlib.crc32(data)


@pytest.mark.parametrize("algorithm", CHECK)
def test_order_and_length_of_parts_count(algorithm: str) -> None:
    """A part that is missing, moved, or of another length gives another sum."""
    parts = [(by_hand(algorithm, part), len(part)) for part in (b"1234", b"567", b"89")]
    assert crc.combine(algorithm, parts) == CHECK[algorithm]
    (one, length), *rest = parts
    for wrong in ([*rest, parts[0]], rest, [(one, length), (rest[0][0], 4), rest[1]], [(one ^ 1, length), *rest]):
        assert crc.combine(algorithm, wrong) != CHECK[algorithm]


@pytest.mark.parametrize("algorithm", CHECK)
def test_terabytes_take_no_time(algorithm: str) -> None:
    """Thousands of parts of gigabytes, which nobody has to read: the sum of one block of zeros, and of many."""
    crc._zeros.cache_clear()
    halves = [(0x1234, 1 << 30)] * 2
    pair = crc.combine(algorithm, halves)
    assert crc.combine(algorithm, [(pair, 2 << 30)] * 512) == crc.combine(algorithm, [(0x1234, 1 << 30)] * 1024)
    assert crc._zeros.cache_info().misses == 32  # one for each power of two, however many parts there are


@pytest.mark.parametrize("algorithm", CHECK)
def test_awscrt_computes_what_combines(algorithm: str) -> None:
    """It is the only one that has all three."""
    assert crc.available(algorithm)
    update = crc.updater(algorithm)
    assert update(b"123456789", 0) == CHECK[algorithm]
    assert update(b"6789", update(b"12345", 0)) == CHECK[algorithm]
    parts = [(update(part, 0), len(part)) for part in (b"a" * 100_000, b"", b"\0" * 4096, b"b")]
    assert crc.combine(algorithm, parts) == update(b"a" * 100_000 + b"\0" * 4096 + b"b", 0)


def test_what_cannot_be_computed_is_not_available() -> None:
    """Then the bytes are not compared, and the report says so."""
    assert crc.available("crc32")
    assert not crc.available("md5")


def test_s3_spells_a_checksum_in_base64() -> None:
    """The highest byte first, as its manual has it."""
    assert crc.decoded("y/Q5Jg==") == CHECK["crc32"]
    for algorithm, value in CHECK.items():
        spelt = base64.b64encode(value.to_bytes(BITS[algorithm] // 8, "big")).decode()
        assert crc.decoded(spelt) == value
