"""Everything about one load that is settled before its first record is read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from loader.convert.column_mapping import as_template, match_columns
from loader.convert.plan import Filter, Plan
from loader.core.display import shown
from loader.core.errors import ShapeError, SpecError
from loader.core.pgtypes import ColumnType
from loader.core.spec.datetimes import compile_format, is_offset
from loader.core.spec.model import ColumnSpec, LoadSpec
from loader.engine.spec_check import SpecServer
from loader.ledger.checkpoints import Found
from loader.postgres.load_column import LoadColumn
from loader.postgres.merging.merge import check_rules, merge_key
from loader.postgres.server_encoding import BY_OTHER_LENGTHS
from loader.postgres.tables import Table
from loader.records.block import Block

if TYPE_CHECKING:
    from loader.convert.hooks import Hook


SpellTypes = Callable[[list[tuple[str, str]]], Mapping[str, str]]
ColumnTypes = Callable[[list[str]], Mapping[str, ColumnType]]


def make_plan(
    spec: LoadSpec,
    header: tuple[str, ...] | None,
    first: Block | None,
    table: Table,
    *,
    spell_types: SpellTypes,
    column_types: ColumnTypes,
    name: str,
    server: SpecServer,
    found: Found,
    resumable: bool,
    large: bool = False,
    several: bool = False,
    encoding: str = "UTF8",
) -> Plan:
    """Settle the columns, the key, the way into the target, the hook and the filter.

    ``server``: asked what the spec's zones, defaults and filter mean. ``found``: what earlier attempts found out;
    ``resumable``: the load is to leave checkpoints behind.
    ``large``: it is so large that it would have to on its first attempt, too; ``several``: several streams would pay.
    ``encoding``: the database's.
    Raises SpecError, ShapeError or TableError; nothing has been read or changed then.
    """
    notes: tuple[str, ...] = ()
    guessed: tuple[ColumnSpec, ...] = ()
    undecided: list[str] = []
    new_table = not spec.columns and table.oid is None
    if new_table or (spec.unknown == "add" and header is not None) or (spec.csv.dates and not spec.columns):
        from loader.convert.infer import infer_columns

        guessed = infer_columns(first, header, spec.csv, name=name, note=undecided.append)
        guessed = tuple(_widened(each, found.widened) for each in guessed)
    types = spell_types([(each.name, each.type) for each in (*spec.columns, *guessed) if each.type is not None])
    match = match_columns(spec, header, table, types, inferred=guessed, name=name, session_zone=server.session_zone)
    if not spec.columns:
        match = replace(match, columns=_as_the_file_has_dates(match.columns, guessed))
    added = {column.name for column in match.added}
    new = added or ({column.name for column in match.columns} if table.oid is None and not spec.columns else set())
    inferred = {each.name: each.type or "text" for each in guessed if each.name in new}
    if inferred:
        told = (*_widening_notes(found.widened), *(undecided if new_table else ()))
        notes = ("types of columns were inferred from the first records", *told)
    counted = encoding in BY_OTHER_LENGTHS
    match = replace(match, columns=_travelling(match.columns, column_types, careful=found.careful, counted=counted))
    match = replace(match, columns=_to_be_proved(match.columns, inferred))
    may_go_straight = not (resumable or found.careful or found.staged or match.added)
    _check_formats(match.columns)
    _check_zones(spec, match.columns, server)
    spelled = _spelled_defaults(match.columns, server, found.defaults)
    match = replace(match, columns=tuple(_filled(each, spelled.get(each.name, each.default)) for each in match.columns))
    key = merge_key(spec, table, match.columns)
    check_rules(spec, table, key)
    renamed = _is_renamed(table, key, found, gains=several, resumable=resumable, large=large)
    return Plan(
        spec=spec,
        table=table,
        columns=match.columns,
        added=tuple(each for each in match.columns if each.name in added),
        absent=match.absent,
        fields=match.fields,
        key=key,
        reading=_reading(spec, match.columns),
        found=replace(found, defaults=spelled),
        session_zone=server.session_zone,
        zones=server.zones,
        inferred=inferred,
        # columns are added at the end, for nobody can read the table from then on until the load is through
        straight=renamed or (may_go_straight and _goes_straight(table, key, appends=spec.mode == "append")),
        guarded=may_go_straight and spec.mode == "merge" and _goes_straight(replace(table, empty=True), key),
        renamed=renamed,
        hook=_hook(spec),
        filter=_filter(spec, match.columns, server),
        notes=notes + match.notes,
        encoding=encoding,
    )


def check_delimiter(
    spec: LoadSpec, table: Table, header: tuple[str, ...] | None, first: Block | None, name: str
) -> None:
    """Raise ShapeError where the file has one column, which nobody names, and another delimiter would make several.

    ``table``: the one that it goes into, which may have that column.
    """
    if spec.columns or (header is not None and len(header) > 1) or (header is None and first is None):
        return
    names = [column.name for column in table.columns]
    if (header is None and len(names) == 1) or (header is not None and header[0] in names):
        return
    from loader.records.reading.sniffer import misread

    delimiter = misread(header, first.data if first is not None else b"", spec.csv)
    if delimiter:
        given, found = (json.dumps(each, ensure_ascii=False) for each in (spec.csv.delimiter, delimiter))
        what = f"one column, {shown(header[0])}" if header else "one column"
        raise ShapeError(
            f"{name}: has {what}, by the delimiter {given}, and several by {found}; "
            f"set delimiter = {found} in [csv], or --delimiter, or declare that column"
        )


def _widened(column: ColumnSpec, widened: Mapping[str, str]) -> ColumnSpec:
    return replace(column, type=widened[column.name], format=None) if column.name in widened else column


def _as_the_file_has_dates(columns: tuple[LoadColumn, ...], guessed: Sequence[ColumnSpec]) -> tuple[LoadColumn, ...]:
    """Columns of the table with the format that the file's dates are in: by its session's, the server may take another
    day for the month."""

    def with_format(column: LoadColumn) -> LoadColumn:
        format = guessed[column.field].format if guessed and column.field is not None else None
        if format is None or column.format is not None or column.type.form not in ("date", "timestamp", "timestamptz"):
            return column
        return replace(column, format=compile_format(format))

    return tuple(map(with_format, columns))


_LIKE_DAYS = re.compile(rb"[0-9]{1,2}[./-][0-9]{1,2}[./-][0-9]{4}")


def notes_on_days(
    columns: tuple[LoadColumn, ...], first: Block | None, header: Sequence[str] | None, spec: LoadSpec, name: str
) -> tuple[str, ...]:
    """That PostgreSQL decides about days of which the file does not tell which number is the month."""
    dated = [each for each in columns if each.type.form in ("date", "timestamp", "timestamptz") and each.format is None]
    if not dated or first is None or _LIKE_DAYS.search(first.data) is None:
        return ()
    from loader.convert.infer import open_days

    found = open_days(first, header, spec.csv, name=name)
    return tuple(
        f'column "{each.name}": {found[each.field]}, and the file does not tell which; PostgreSQL reads it by its '
        'DateStyle. Set dates = "dmy" or "mdy" in [csv] where that is not meant'
        for each in dated
        if each.field in found
    )


def _goes_straight(table: Table, key: tuple[str, ...], *, appends: bool = False) -> bool:
    if not table.plain or table.fills_in:
        return False
    return appends or ((table.oid is None or table.empty) and (not key or table.tells_apart(key)))


def _is_renamed(table: Table, key: tuple[str, ...], found: Found, *, gains: bool, resumable: bool, large: bool) -> bool:
    """Whether a table that the load creates is to be filled under another name.

    Where a key comes twice, which only its index can tell, the load begins again by way of a staging table. So one with
    a key must be of a size that is read again in some seconds, and its first attempt's way is its next one's, too.
    """
    if table.oid is not None or found.careful or found.staged:
        return False
    return gains and not large if key else gains or resumable


def _travelling(
    columns: tuple[LoadColumn, ...], column_types: ColumnTypes, *, careful: bool, counted: bool
) -> tuple[LoadColumn, ...]:
    """The columns with how their types travel. ``counted``: only the server can count a text's characters."""
    types = column_types([column.type.name for column in columns])

    def travelling(type_: ColumnType, *, formatted: bool) -> ColumnType:
        if not ((careful and type_.hopeful) or (counted and type_.max_length is not None)):
            return type_
        # what a format says is a value of the type's own form, which the server judges then
        return replace(type_, wire="server", hopeful=False) if formatted else type_.judged

    return tuple(
        replace(column, type=travelling(types[column.type.name], formatted=column.format is not None))
        for column in columns
    )


def _to_be_proved(columns: tuple[LoadColumn, ...], inferred: Mapping[str, str]) -> tuple[LoadColumn, ...]:
    """Columns of an inferred type with the pattern that their texts must have."""
    if not inferred:
        return columns
    from loader.convert.infer import PATTERNS

    def proved(column: LoadColumn) -> LoadColumn:
        pattern = PATTERNS.get(inferred.get(column.name, ""))
        return replace(column, pattern=column.format.pattern if pattern and column.format else pattern)

    return tuple(map(proved, columns))


def _widening_notes(widened: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(
        f'the column "{name}" is {type_name}, because a later record did not fit what the first ones showed'
        for name, type_name in widened.items()
    )


def _reading(spec: LoadSpec, columns: tuple[LoadColumn, ...]) -> tuple[LoadColumn, ...]:
    """Where one column needs the server, all records go to it; then only a hook or filter needs the others' types."""
    if spec.transform.filter or spec.transform.python or all(each.type.wire != "server" for each in columns):
        return columns
    return tuple(each if each.format else replace(each, type=each.type.judged) for each in columns)


_MOMENTS = ("date", "timestamp", "timestamptz", "time")


def _check_formats(columns: tuple[LoadColumn, ...]) -> None:
    """A format must say what its column's type holds, no less; what it says more would be dropped without a word."""
    problems = []
    for column in columns:
        if column.format is None:
            continue
        names, form = set(column.format.names), column.type.form
        if form not in _MOMENTS or (form == "time") == bool(names & {"Y", "y"}):
            problems.append(
                f'columns.{column.name}: the format "{column.format.text}" does not give a {column.type.name}'
            )
        elif "z" in names and form != "timestamptz":
            problems.append(
                f"columns.{column.name}: the format has an offset (%z), which {column.type.name} cannot hold"
            )
    if problems:
        raise SpecError(problems)


def _check_zones(spec: LoadSpec, columns: tuple[LoadColumn, ...], server: SpecServer) -> None:
    """Zones are the server's to know, and for timestamps."""
    declared = {each.name: each.timezone for each in spec.columns if each.timezone is not None}
    if not declared:
        return
    types = {column.name: column.type for column in columns}
    problems = [
        f"columns.{name}: a time zone is for timestamps, and the column is {types[name].name}"
        for name in declared
        if name in types and not types[name].base_name.startswith("timestamp")
    ]
    faults = server.zone_faults(zone for zone in declared.values() if not is_offset(zone))
    problems += [f"columns.{name}: {faults[zone]}" for name, zone in declared.items() if zone in faults]
    if problems:
        raise SpecError(problems)


def _spelled_defaults(columns: tuple[LoadColumn, ...], server: SpecServer, known: Mapping[str, str]) -> dict[str, str]:
    """Each default that the client does not understand in the server's spelling of the value that it is now, or that it
    was when it became ``known``; by column."""
    filled = [column for column in columns if column.default is not None and column.name not in known]
    if not filled:
        return dict(known)
    from loader.convert.transform import typed
    from loader.core.arrays import texts

    asked: list[LoadColumn] = []
    problems: list[str] = []
    for column in filled:
        _, bad = typed(column, texts([column.default or ""]), server.zones)
        if bad.any() and column.format is not None:  # a format is the client's to judge
            problems.append(f'columns.{column.name}: the default "{column.default}" is not a valid {column.type.name}')
        elif bad.any() or column.type.wire == "server" or _may_not_fit(column):
            asked.append(column)
    if problems:
        raise SpecError(problems)
    return {**known, **server.spell_defaults(asked)}


def _may_not_fit(column: LoadColumn) -> bool:
    """Whether the default may be longer than the column, or hold a character that the database's encoding lacks."""
    return column.type.max_length is not None or not (column.default or "").isascii()


def _filled(column: LoadColumn, default: str | None) -> LoadColumn:
    """With that default; where the file lacks the column, it is its value."""
    if column.value is None or default is None:
        return replace(column, default=default)
    return replace(column, default=None, value=as_template(default))


def _hook(spec: LoadSpec) -> Hook | None:
    if spec.transform.python is None:
        return None
    from loader.convert.hooks import find_hook

    return find_hook(spec.transform.python)


def _filter(spec: LoadSpec, columns: tuple[LoadColumn, ...], server: SpecServer) -> Filter | None:
    if spec.transform.filter is None:
        return None
    from loader.convert.transform import bind_filter
    from loader.core.spec import filter
    from loader.postgres.filter_sql import Operand, lane_name, where

    mask: filter.Mask
    try:
        condition = filter.parse(spec.transform.filter)
        try:
            mask = bind_filter(condition, columns, zone=server.session_zone, zones=server.zones)
            by_server = False
        except filter.NeedsServerError:
            mask, by_server = filter.ServerMask(), True
        condition.check_names([column.name for column in columns])
        operands = {column.name: Operand(lane_name(place), column.type) for place, column in enumerate(columns)}
        written = where(condition.root, operands)
    except ValueError as error:
        raise SpecError([f"transform.filter: {error}"]) from error
    server.check_filter(columns, written)
    return Filter(mask, written, by_server=by_server)
