"""Which column of the file becomes which column of the table: the spec, the header and the catalog, matched.

Words only: the catalog's description of a table comes in as a `Table`, nothing here asks a database.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from loader.datetimes import Format, compile_format
from loader.errors import ShapeError, TableError
from loader.names import did_you_mean
from loader.pgtypes import ColumnType, column_type
from loader.spec import ColumnSpec, LoadSpec, Step
from loader.tables import Table, TableColumn


@dataclass(frozen=True, slots=True)
class LoadColumn:
    """One column that the load writes, and how its values come about.

    ``field``: its place in the file's records (from 0), None where ``value`` makes it. ``zone``: where its
    local times are. ``pattern``: of a type that was inferred, the texts that prove it right; see `infer`.
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

    @property
    def read_as(self) -> pa.DataType:
        """The Arrow type that the CSV reader is asked for: text where something comes before the type's own parser.

        Timestamps are read as text because Arrow's reader takes an hour without minutes, which PostgreSQL refuses.
        """
        if self.steps or self.format or self.pattern or pa.types.is_timestamp(self.type.arrow):
            return pa.string()
        return self.type.arrow


@dataclass(frozen=True, slots=True)
class Match:
    """The columns of a load, how many fields a record must have, and what a reader of the report should know."""

    columns: tuple[LoadColumn, ...]
    fields: int
    notes: tuple[str, ...] = ()


def match_columns(
    spec: LoadSpec,
    header: Sequence[str] | None,
    table: Table,
    types: Mapping[str, str],
    *,
    name: str,
    session_zone: str,
) -> Match:
    """Match the spec's columns, or else the table's, to the fields of the file ``name``.

    ``types`` maps the spec's type names to PostgreSQL's own spelling. Raises ShapeError where the file lacks
    a column and TableError where the table does.
    """
    wanted = spec.columns or _from_table(header, table, name)
    places = _places(wanted, header, name)
    notes: list[str] = []
    columns = tuple(
        _load_column(column, place, table=table, types=types, session_zone=session_zone, key=spec.key, notes=notes)
        for column, place in zip(wanted, places, strict=True)
    )
    fields = len(header) if header is not None else sum(place is not None for place in places)
    return Match(columns, fields, tuple(notes))


def _from_table(header: Sequence[str] | None, table: Table, name: str) -> tuple[ColumnSpec, ...]:
    """Without ``[columns]``: each column of the header must be one of the table's; without a header, all in order."""
    writable = [column.name for column in table.columns if not column.generated]
    if header is None:
        return tuple(ColumnSpec(column) for column in writable)
    for column in header:
        if column not in writable:
            raise ShapeError(
                f'{name}: the header\'s column "{column}" is not in {table}'
                + did_you_mean(column, writable, otherwise="it has")
            )
    return tuple(ColumnSpec(column) for column in header)


def _places(wanted: Sequence[ColumnSpec], header: Sequence[str] | None, name: str) -> list[int | None]:
    if header is None:
        from_file = iter(range(len(wanted)))
        return [None if column.value is not None else next(from_file) for column in wanted]
    counts = Counter(header)
    return [None if column.value is not None else _place(column, header, counts, name) for column in wanted]


def _place(column: ColumnSpec, header: Sequence[str], counts: Counter[str], name: str) -> int:
    source = column.source or column.name
    if counts[source] == 1:
        return header.index(source)
    if counts[source] > 1:
        raise ShapeError(f'{name}: the header has the column "{source}" {counts[source]} times')
    raise ShapeError(f'{name}: the header has no column "{source}"{did_you_mean(source, header, otherwise="it has")}')


def _load_column(
    column: ColumnSpec,
    place: int | None,
    *,
    table: Table,
    types: Mapping[str, str],
    session_zone: str,
    key: Sequence[str],
    notes: list[str],
) -> LoadColumn:
    declared = types[column.type] if column.type is not None else None
    stored = _stored(column, table)
    if stored is None and declared is None:
        raise TableError(f'{table}: does not exist yet, and columns.{column.name} in the spec has no "type"')
    if stored is not None and declared is not None and stored.type != declared:
        notes.append(f"{table}.{column.name} is {stored.type}; the spec's {declared} was not used")
    type_name = stored.type if stored is not None else declared
    assert type_name is not None
    return LoadColumn(
        name=column.name,
        type=column_type(type_name),
        field=place,
        steps=column.transform,
        default=column.default,
        value=column.value,
        format=compile_format(column.format) if column.format else None,
        zone=column.timezone or session_zone,
        not_null=(stored.not_null and not table.fills_in) if stored is not None else column.name in key,
    )


def _stored(column: ColumnSpec, table: Table) -> TableColumn | None:
    if table.oid is None:
        return None
    for stored in table.columns:
        if stored.name == column.name:
            if stored.generated:
                raise TableError(f"{table}.{column.name} is generated by PostgreSQL: take it out of the spec")
            return stored
    names = [stored.name for stored in table.columns]
    raise TableError(f'{table} has no column "{column.name}"{did_you_mean(column.name, names, otherwise="it has")}')
