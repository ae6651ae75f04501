"""CSV objects from S3 into PostgreSQL: exactly once, in constant memory, at COPY speed.

    import loader
    report = loader.load("s3://bucket/trips.csv", "trips.toml", dsn="postgresql://…")

Names are resolved on first use, so that ``import loader`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loader.core.errors import (
        BusyError,
        DatabaseError,
        DatabaseUnavailableError,
        DecodeError,
        ForeignFormatError,
        LimitError,
        LoaderError,
        PausedError,
        RejectLimitError,
        SetupError,
        ShapeError,
        SourceChangedError,
        SourceCorruptedError,
        SourceError,
        SourceNotFoundError,
        SourceUnavailableError,
        SpecError,
        TableError,
        TransformError,
        UsageError,
    )
    from loader.core.report import LoadReport, Reject
    from loader.core.spec.model import LoadSpec
    from loader.pipeline import load
    from loader.spec_store import check_specs

_HOME = {
    "load": "loader.pipeline",
    "LoadSpec": "loader.core.spec.model",
    "LoadReport": "loader.core.report",
    "Reject": "loader.core.report",
    "check_specs": "loader.spec_store",
}

__all__ = [
    "BusyError",
    "DatabaseError",
    "DatabaseUnavailableError",
    "DecodeError",
    "ForeignFormatError",
    "LimitError",
    "LoadReport",
    "LoadSpec",
    "LoaderError",
    "PausedError",
    "Reject",
    "RejectLimitError",
    "SetupError",
    "ShapeError",
    "SourceChangedError",
    "SourceCorruptedError",
    "SourceError",
    "SourceNotFoundError",
    "SourceUnavailableError",
    "SpecError",
    "TableError",
    "TransformError",
    "UsageError",
    "check_specs",
    "load",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("csv-postgres-loader")
    if name not in __all__:
        raise AttributeError(f"module 'loader' has no attribute {name!r}")
    return getattr(import_module(_HOME.get(name, "loader.core.errors")), name)


def __dir__() -> list[str]:
    """What there is for callers: `help` and completion show it, though it is imported on first use."""
    return [*__all__, "__version__"]
