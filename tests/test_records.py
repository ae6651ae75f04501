"""Records on their way: what is told about their bytes."""

from __future__ import annotations

import pytest

from loader.core.spec.model import CsvSpec
from loader.records.block import as_in_file, first_invalid_byte
from loader.records.dialect import Dialect


@pytest.mark.parametrize(
    ("raw", "place"), [(b"", None), ("é€😀".encode(), None), (b"a\xff", 1), (b"a\xc3", 1), (b"\xed\xb2\x81", 0)]
)
def test_the_first_invalid_byte(raw: bytes, place: int | None) -> None:
    """None where all of it is UTF-8."""
    assert first_invalid_byte(raw) == place


@pytest.mark.parametrize("byte", range(256))
def test_undecodable_bytes_are_found_again(byte: int) -> None:
    """Each as it stood in the file, whatever its value."""
    spelt = f"é{chr(0xDC00 + byte)}x".encode("utf-8", "surrogatepass")
    assert as_in_file(spelt, Dialect.of(CsvSpec(), transcoded=True)) == "é".encode() + bytes([byte]) + b"x"
    assert as_in_file(spelt, Dialect.of(CsvSpec())) == spelt
