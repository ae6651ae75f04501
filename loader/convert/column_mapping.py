"""Which column of the file becomes which column of the table: the spec, the header and the catalog, matched.

Words only: the catalog's description of a table comes in as a `Table`, nothing here asks a database.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from loader.core.display import shown
from loader.core.errors import ShapeError, TableError
from loader.core.pgtypes import ColumnType, column_type
from loader.core.spec.datetimes import compile_format
from loader.core.spec.model import ColumnSpec, CsvSpec, LoadSpec, Step
from loader.core.suggestions import SHOWN, did_you_mean, listed
from loader.postgres.load_column import LoadColumn
from loader.postgres.tables import Table, TableColumn
from loader.records.header import Fields

if TYPE_CHECKING:
    import pyarrow as pa


class WidenColumn(Exception):  # noqa: N818 - it is no error, but the end of one attempt
    """The type inferred for a column does not hold these texts of it: the load has to begin again with a wider one."""

    def __init__(self, column: str, texts: pa.Array) -> None:
        super().__init__(column)
        self.column = column
        self.texts = texts


@dataclass(frozen=True, slots=True)
class Match:
    """How a file's fields and a table's columns go together.

    ``columns``: those that are loaded. ``fields``: how many a record must have. ``added``: those among ``columns``
    that the table has to be given first. ``absent``: declared columns that the file lacks; a new table has them
    too. ``notes``: what a reader of the report should know.
    """

    columns: tuple[LoadColumn, ...]
    fields: int
    added: tuple[LoadColumn, ...] = ()
    absent: tuple[LoadColumn, ...] = ()
    notes: tuple[str, ...] = ()


def match_columns(
    spec: LoadSpec,
    header: Sequence[str] | None,
    table: Table,
    types: Mapping[str, str],
    *,
    inferred: Sequence[ColumnSpec] = (),
    name: str,
    session_zone: str,
) -> Match:
    """Match the spec's columns, or else the table's, to the fields of the file ``name``.

    ``types`` maps type names to PostgreSQL's own spelling. ``inferred``: a column for each field of the file, for a
    table that is new or to be added to. Raises ShapeError where the file lacks a column that the load cannot do
    without, and TableError where the table does.
    """
    return _Matching(spec, header, table, types, inferred, name, session_zone).match()


def fields_by_position(spec: LoadSpec, table: Table) -> int | None:
    """How many fields a record of a file without a header must have; None where that is for the file to show."""
    if not spec.columns and table.oid is None:
        return None
    named = [column.value is None for column in spec.columns] or [not column.generated for column in table.columns]
    return sum(named) + spec.csv.trailing_delimiter


@dataclass
class _Matching:
    """The state of one `match_columns`, with its arguments."""

    spec: LoadSpec
    header: Sequence[str] | None
    table: Table
    types: Mapping[str, str]
    inferred: Sequence[ColumnSpec]
    name: str
    session_zone: str
    notes: list[str] = field(default_factory=list)

    def match(self) -> Match:
        if not self.spec.columns and self.table.oid is None:
            return self._new_table()
        if self.header is None:
            return self._by_position()
        return self._by_name(self.header)

    def _new_table(self) -> Match:
        """All fields, as inferred."""
        columns = tuple(self._column(each, place) for place, each in enumerate(self.inferred))
        names = tuple(column.name for column in columns)
        header = self.header[: len(names)] if self.header is not None else names
        if names != tuple(header):
            changed = [(old, new) for old, new in zip(header, names, strict=True) if old != new]
            renamed = ", ".join(f"{shown(old)} is {shown(new)}" for old, new in changed[:SHOWN])
            more = ", …" if len(changed) > SHOWN else ""
            self.notes.append(f"names of the header that a table cannot have: {renamed}{more}")
        return Match(columns, len(columns) + self.spec.csv.trailing_delimiter, notes=tuple(self.notes))

    def _by_position(self) -> Match:
        wanted = self.spec.columns or tuple(ColumnSpec(each) for each in self._writable())
        places = iter(range(len(wanted)))
        columns = tuple(self._column(each, None if each.value is not None else next(places)) for each in wanted)
        fields = sum(each.field is not None for each in columns) + self.spec.csv.trailing_delimiter
        return Match(columns, fields, notes=tuple(self.notes))

    def _by_name(self, header: Sequence[str]) -> Match:
        wanted = self.spec.columns or tuple(ColumnSpec(each) for each in self._writable())
        fields = Fields(header, [each.source or each.name for each in wanted], name=self.name)
        columns: list[LoadColumn] = []
        absent: list[ColumnSpec] = []
        for each in wanted:
            place = None if each.value is not None else fields.find(each.source or each.name)
            if place is None and each.value is None and each.default is None:
                absent.append(each)
            elif place is None and each.value is None:
                columns.append(self._column(_always_default(each), None))
                self.notes.append(f'the header has no column "{each.source or each.name}": its default was taken')
            else:
                columns.append(self._column(each, place))
        if not any(column.field is not None for column in columns):
            raise fields.missing(wanted[0].source or wanted[0].name, ", nor any other that is to be loaded")
        self._check_absent(absent, fields)
        used = {column.field for column in columns}
        last = len(header) - self.spec.csv.trailing_delimiter  # what follows is no field
        surplus = [place for place in range(last) if place not in used]
        added = self._surplus(header, surplus, [each.source or each.name for each in absent])
        return Match(
            (*columns, *added),
            len(header),
            added=tuple(added),
            absent=tuple(self._column(each, None) for each in absent) if self.table.oid is None else (),
            notes=(*fields.notes, *self.notes),
        )

    def _check_absent(self, absent: Sequence[ColumnSpec], fields: Fields) -> None:
        """Columns that the file lacks get the table's default or NULL, where they can."""
        for each in absent:
            stored = next((column for column in self.table.columns if column.name == each.name), None)
            if each.name in self.spec.key:
                raise fields.missing(each.source or each.name, ", which is of the key")
            if stored is not None and stored.not_null and not stored.has_default and not self.table.fills_in:
                raise fields.missing(each.source or each.name, f", and {self.table}.{each.name} is NOT NULL")
        if absent:
            names = [each.source or each.name for each in absent]
            self.notes.append(f"the header has no {listed(names)}: left to the table's defaults")

    def _surplus(self, header: Sequence[str], surplus: Sequence[int], absent: Sequence[str]) -> list[LoadColumn]:
        """What becomes of fields that no column takes, as ``unknown`` says: the columns to be added."""
        if not surplus:
            return []
        if self.spec.unknown == "add":
            there = {each.name for each in self.spec.columns} | {each.name for each in self.table.columns}
            clash = [place for place in surplus if self.inferred[place].name in there]  # it is made of something else
            if clash:
                self._leave_out(header, clash)
            added = [place for place in surplus if self.inferred[place].name not in there]
            return [self._column(self.inferred[place], place, added=True) for place in added]
        if self.spec.unknown == "error":
            near = did_you_mean(header[surplus[0]], absent or self._writable(), otherwise="it has")
            raise ShapeError(
                f"{self.name}: the header's column {shown(header[surplus[0]])} is not in {self.table}{near}"
            )
        self._leave_out(header, surplus)
        return []

    def _leave_out(self, header: Sequence[str], places: Sequence[int]) -> None:
        names = [header[place] for place in places[: SHOWN + 1]]
        self.notes.append(f"columns of the file that are not loaded: {listed(names)}")

    def _writable(self) -> list[str]:
        return [column.name for column in self.table.columns if not column.generated]

    def _column(self, column: ColumnSpec, place: int | None, *, added: bool = False) -> LoadColumn:
        declared = self.types[column.type] if column.type is not None else None
        stored = None if added else _stored(column, self.table)
        if stored is None and declared is None:
            raise TableError(f'{self.table}: does not exist yet, and columns.{column.name} in the spec has no "type"')
        if stored is not None and declared is not None and stored.type != declared:
            self.notes.append(f"{self.table}.{column.name} is {stored.type}; the spec's {declared} was not used")
        type_name = stored.type if stored is not None else declared
        assert type_name is not None
        is_key = self.table.oid is None and column.name in self.spec.key
        return LoadColumn(
            name=column.name,
            type=column_type(type_name),
            field=place,
            steps=(*column.transform, *_number_steps(self.spec.csv, column_type(type_name))),
            default=column.default,
            value=column.value,
            format=compile_format(column.format) if column.format else None,
            zone=column.timezone or self.session_zone,
            not_null=(stored.not_null and not self.table.fills_in) if stored is not None else is_key,
            collation=stored.collation if stored is not None else None,
        )


_NUMBERS = re.compile(r"(?:smallint|integer|bigint|real|double precision|numeric(?:\(.*\))?)")


def _number_steps(csv: CsvSpec, type_: ColumnType) -> tuple[Step, ...]:
    """What makes a plain number of the file's, for a column of numbers."""
    if (csv.decimal, csv.thousands) == (".", "") or not _NUMBERS.fullmatch(type_.name):
        return ()
    return (Step("number", (csv.decimal, csv.thousands)),)


def _always_default(column: ColumnSpec) -> ColumnSpec:
    """For a column that the file lacks: its default, as a ``value`` without placeholders beside it."""
    assert column.default is not None
    return replace(column, value=as_template(column.default), transform=())


def as_template(text: str) -> str:
    """A ``value`` that is always that text."""
    return text.replace("{", "{{").replace("}", "}}")


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
