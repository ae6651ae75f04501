"""numpy and Python values ↔ Arrow arrays, without pandas.

``pyarrow.array``, ``pyarrow.scalar`` and ``Array.to_numpy`` import pandas where it is installed, if only to
ask whether their argument is one of its objects: 0.3 s and 50 MB of a small Lambda (pyarrow 26). Arrow's
own buffers need no such question, and copy nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def integers(values: npt.NDArray[np.integer[Any]] | Sequence[int], kind: pa.DataType | None = None) -> pa.Array:
    """An array of ``kind`` (int64 by default), shape (n,)."""
    kind = kind or pa.int64()
    buffer = np.ascontiguousarray(values, dtype=f"i{kind.bit_width // 8}")
    return pa.Array.from_buffers(kind, len(buffer), [None, pa.py_buffer(buffer)])


def booleans(values: npt.NDArray[np.bool_]) -> pa.BooleanArray:
    """A Boolean array, shape (n,)."""
    bits = np.packbits(values, bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(bits)])


def texts(values: Sequence[str]) -> pa.StringArray:
    """A string array, shape (n,), without NULLs."""
    encoded = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))


def nullable_texts(values: Iterable[str | None]) -> pa.StringArray:
    """A string array, shape (n,); None becomes NULL."""
    listed = list(values)
    known = booleans(np.array([value is not None for value in listed], bool))
    return pc.if_else(known, texts([value or "" for value in listed]), null(pa.string()))


def text(value: str) -> pa.StringScalar:
    """One string."""
    return texts([value])[0]


def integer(value: int, kind: pa.DataType | None = None) -> pa.Scalar:
    """One number of ``kind``, int64 by default."""
    return integers([value], kind)[0]


def null(kind: pa.DataType) -> pa.Scalar:
    """One NULL of ``kind``."""
    return pa.nulls(1, kind)[0]


def repeated(value: str, count: int) -> pa.StringArray:
    """``count`` times the same string."""
    return texts([value]).take(integers(np.zeros(count, np.int64)))


def mask(values: pa.BooleanArray) -> npt.NDArray[np.bool_]:
    """A Boolean array as numpy's, shape (n,), NULL as False."""
    return numbers(pc.fill_null(values, FALSE).cast(pa.uint8())).astype(bool)


def numbers(values: pa.Array) -> npt.NDArray[Any]:
    """A view of an array of fixed-width numbers, shape (n,); what stands at a NULL is undefined."""
    kind = values.type.to_pandas_dtype()
    whole = np.frombuffer(values.buffers()[1], kind) if len(values) else np.empty(0, kind)
    return whole[values.offset : values.offset + len(values)]


def ends_and_bytes(values: pa.Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Where the texts of a string array end, from 0 on, shape (n + 1,), and a view of their UTF-8."""
    _, ends_buffer, data = values.buffers()
    ends = np.frombuffer(ends_buffer, np.int32)[values.offset : values.offset + len(values) + 1]
    return ends - ends[0], np.frombuffer(data or b"", np.uint8)[ends[0] : ends[-1]]


TRUE = booleans(np.ones(1, bool))[0]
FALSE = booleans(np.zeros(1, bool))[0]
