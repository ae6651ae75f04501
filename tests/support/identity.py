"""Hooks that change nothing, for ``$LOADER_HOOKS`` = ``support``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def arrow(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch


def frame(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


HOOKS = ("identity:arrow", "identity:frame")
