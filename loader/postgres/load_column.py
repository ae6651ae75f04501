"""A column that a load writes, and how its values come about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loader.core.pgtypes import ColumnType, column_type
from loader.core.spec.datetimes import Format
from loader.core.spec.model import Step

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class LoadColumn:
    """One column that the load writes, and how its values come about.

    ``field``: its place in the file's records (from 0), None where ``value`` makes it. ``zone``: where its
    local times are. ``pattern``: of a type that was inferred, the texts that prove it right; see `infer`.
    ``collation``: see `TableColumn`; staged values are compared by it.
    """

    name: str
    type: ColumnType
    field: int | None
    steps: tuple[Step, ...] = ()
    default: str | None = None
    value: str | None = None
    format: Format | None = None
    zone: str = "UTC"
    not_null: bool = False
    pattern: str | None = None
    collation: str | None = None

    @property
    def read_as(self) -> pa.DataType:
        """The Arrow type that the CSV reader is asked for: text where something comes before the type's own parser.

        Timestamps are read as text because Arrow's reader takes an hour without minutes, which PostgreSQL refuses.
        """
        if self.steps or self.format or self.pattern or self.default is not None:
            return _TEXT.arrow
        if self.type.form in ("timestamp", "timestamptz"):
            return _TEXT.arrow
        return self.type.arrow

    @property
    def has_spellings(self) -> bool:
        """Whether values that are equal to PostgreSQL may differ in their text, such as 1.0 and 1.00 of ``numeric``."""
        if self.type.wire == "arrow":
            return self.type.form in ("float32", "float64") or self.collation is not None
        return self.type.wire not in ("uuid", "bytea", "enum")

    @property
    def is_exact(self) -> bool:
        """Whether two values are the same to PostgreSQL only where they are to Arrow, and in the same order to both.

        Not so texts, by their collation; floats, for NaN and -0; and times that the server rounds.
        """
        type_ = self.type
        if type_.wire != "arrow" or type_.rounded:
            return False
        return type_.form in ("int16", "int32", "int64", "decimal", "date", "timestamp", "timestamptz")


_TEXT = column_type("text")
