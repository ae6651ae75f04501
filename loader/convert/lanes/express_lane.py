"""The fastest lane that a load's records can take: the compiled kernel, alone or with Arrow for some of the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from loader.convert.lanes.kernel_program import NO_FILTER, CompiledFilter, Express, express_lane, unknown_columns
from loader.core.spec.datetimes import FIXED_ZONES, Zones
from loader.postgres.load_column import LoadColumn

if TYPE_CHECKING:
    from loader.convert.lanes.hybrid_lane import Hybrid
    from loader.core.spec.filter import Condition

SHARE = 2
"""One column in so many may be open. With more of them the two ways together are no faster than Arrow's alone."""


@dataclass(frozen=True, slots=True)
class _Filtering:
    """What the kernel filters by, and the condition that Arrow has to apply to what the kernel keeps."""

    compiled: CompiledFilter
    by_arrow: Condition | None = None


def fast_lane(
    kernel: ModuleType | None,
    columns: Sequence[LoadColumn],
    fields: int,
    null: Sequence[str],
    constants: Mapping[str, str],
    *,
    key: Sequence[str],
    required: Sequence[str],
    condition: str | None,
    zone: str,
    with_position: bool,
    zones: Zones = FIXED_ZONES,
) -> Express | Hybrid | None:
    """The compiled lane for ``columns`` and the filter ``condition``, with as few open columns as can be.

    None where there is no kernel, or too little for it to do. ``zone``, ``zones``: see
    `loader.core.spec.filter.Condition.bind`; the other arguments are those of `express_lane`.
    """
    if kernel is None:
        return None
    opened = set(unknown_columns(columns, constants))
    filtering = _filtering(condition, columns, opened, zone=zone, zones=zones)
    if filtering.by_arrow is not None:
        if not filtering.by_arrow.columns:  # of constants alone: Arrow would see no record of it
            return None
        opened |= filtering.by_arrow.columns
    open = [column for column in columns if column.name in opened]
    if SHARE * len(open) > len(columns) or any(each.field is None or each.type.wire == "server" for each in open):
        return None
    express = express_lane(
        kernel,
        columns,
        fields,
        null,
        constants,
        key=key,
        required=required,
        open=opened,
        filter=filtering.compiled,
        with_position=with_position,
        zones=zones,
    )
    if express is None or not open:
        return express
    from loader.convert.lanes.hybrid_lane import Hybrid
    from loader.convert.transform import Transformer, bind_filter
    from loader.core.spec.filter import NeedsServerError

    try:
        bound = None if filtering.by_arrow is None else bind_filter(filtering.by_arrow, open, zone=zone, zones=zones)
    except NeedsServerError:
        return None
    mask = bytes(column.name in opened for column in columns) + bytes(with_position)
    return Hybrid(express, kernel, mask, open, Transformer(open, constants, key=required, filter=bound, zones=zones))


def _filtering(
    condition: str | None, columns: Sequence[LoadColumn], opened: set[str], *, zone: str, zones: Zones
) -> _Filtering:
    if condition is None:
        return _Filtering(NO_FILTER)
    from loader.convert.lanes.kernel_filter import EVERYTHING, compile_filter
    from loader.core.spec.filter import parse

    compiled = compile_filter(condition, columns, zone=zone, zones=zones)
    if compiled is None or compiled.operands & opened:
        return _Filtering(EVERYTHING, parse(condition))
    return _Filtering(compiled)
