"""Reads dataclasses from mappings that another version of this program may have written.

During a rollout processes of two versions share checkpoints, shard plans, reports and messages. A reader ignores keys
that it does not know and uses a field's default where a key is missing. Where the rest has no meaning without a key,
`StoredFormError` says so, and the caller begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from typing import Any, TypeVar

from loader.core.errors import LoaderError
from loader.core.report import LoadReport

T = TypeVar("T")


class StoredFormError(LoaderError):
    """What is stored was written in a form that this version of the program cannot read.

    Retryable: a process of the version that wrote it reads it.
    """

    retryable = True


def read_stored(kind: type[T], mapping: Any, *, what: str) -> T:
    """A ``kind`` from the keys of ``mapping`` that it has fields for; ``what`` is what messages call the mapping.

    Raises StoredFormError where it is no mapping, or lacks a key that has no default.
    """
    if not isinstance(mapping, Mapping):
        raise StoredFormError(f"{what}: is {type(mapping).__name__} and not a mapping, as another version may store it")
    known = fields(kind)  # type: ignore[arg-type]
    needed = [each.name for each in known if each.default is MISSING and each.default_factory is MISSING]
    missing = [name for name in needed if name not in mapping]
    if missing:
        raise StoredFormError(f'{what}: lacks "{missing[0]}"; another version of the loader may have written it')
    return kind(**{each.name: mapping[each.name] for each in known if each.name in mapping})


def unknown_counts(kind: type[Any], mapping: Mapping[str, Any]) -> list[str]:
    """Keys of ``mapping`` that ``kind`` has no field for and that count something: their meaning cannot be ignored."""
    known = {each.name for each in fields(kind)}
    return [name for name, value in mapping.items() if name not in known and value]


def read_report(mapping: Mapping[str, Any]) -> LoadReport:
    """The report of one source that `LoadReport.to_dict` gave, in this process or in one of another version."""
    made = read_stored(LoadReport, {**mapping, "loads": ()}, what="a load's report")
    return replace(made, notes=tuple(made.notes))
