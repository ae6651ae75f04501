"""A column's ``transform`` chain and its ``format`` as the kernel reads them: see ``steps.h`` and ``formats.h``."""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from loader.core.spec.datetimes import Format
from loader.core.spec.model import Step

# enum StepKind in steps.h
_KINDS = {
    name: kind for kind, name in enumerate(("strip", "lower", "upper", "strip_currency", "null_if", "replace", "map"))
}

TEXTS = 64
"""Texts that a step may name. The kernel compares a value with one after the other, so many are faster by Arrow."""


def packed_text(text: bytes) -> bytes:
    """A text with its length before it."""
    return struct.pack("<I", len(text)) + text


def packed_steps(steps: Sequence[Step]) -> bytes | None:
    """The steps, or None where one of them is not for the kernel."""
    packed = [_packed_step(step) for step in steps]
    known = [each for each in packed if each is not None]
    return struct.pack("<I", len(known)) + b"".join(known) if len(known) == len(packed) else None


def _packed_step(step: Step) -> bytes | None:
    texts = [
        text.encode() for argument in step.args for text in ((argument,) if isinstance(argument, str) else argument)
    ]
    if step.name not in _KINDS or len(texts) > TEXTS or any(b"\0" in text for text in texts):
        return None
    if step.name == "replace" and (not texts[0] or len(texts[1]) > len(texts[0])):  # the kernel makes no text longer
        return None
    return struct.pack("<BI", _KINDS[step.name], len(texts)) + b"".join(map(packed_text, texts))


def case_tables(steps: Container[str]) -> Iterator[bytes]:
    """What ``lower`` and ``upper`` make of letters beyond ASCII, each empty where it is not among ``steps``."""
    for name in ("lower", "upper"):
        yield _case_table(name) if name in steps else b""


_TABLED = 0x20000
"""The planes of Unicode that have letters of two cases."""


@cache
def _case_table(name: str) -> bytes:
    """For each character below U+20000 the lower two bytes of what Arrow makes of it.

    0 where that has another number of bytes in UTF-8.
    """
    from loader.convert.steps import apply
    from loader.core import arrays

    codes = np.arange(_TABLED, dtype="<u4")
    codes[0], codes[0xD800:0xE000] = ord("x"), ord("x")  # which are no characters of texts
    (made,) = apply(Step(name), arrays.texts([codes.tobytes().decode("utf-32-le")])).to_pylist()
    mapped: npt.NDArray[np.uint32] = np.frombuffer(made.encode("utf-32-le"), "<u4")
    same = (_bytes(codes) == _bytes(mapped)) & (mapped < _TABLED)
    return np.where(same, mapped, 0).astype("<u2").tobytes()


def _bytes(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """How many bytes characters have in UTF-8."""
    return np.searchsorted([0x80, 0x800, 0x10000], codes, side="right")


def packed_format(format: Format | None) -> bytes:
    """The pieces of a format; nothing where there is none."""
    if format is None:
        return packed_text(b"")
    pieces = [
        (piece.directive.encode() + b"\0",) if piece.directive else _literal(piece.literal) for piece in format.pieces
    ]
    return packed_text(b"".join(pair for piece in pieces for pair in piece))


def _literal(text: str) -> tuple[bytes, ...]:
    return tuple(bytes((0, byte)) for byte in text.encode())
