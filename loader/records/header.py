"""A file's header: which field is meant by a name, and what names its fields can have in a new table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from loader.core.display import shown
from loader.core.errors import ShapeError
from loader.core.pgtypes import NAME_LIMIT
from loader.core.suggestions import did_you_mean, listed

_SUFFIX_LENGTH = 9  # bytes of the longest: a header has less than a hundred million names

_OF_THE_SYSTEM = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})  # manual, 5.6


def usable_names(header: Sequence[str]) -> tuple[str, ...]:
    """A name for each field, each its own and one that a table's column can have.

    A repeated name gets a number (``a``, ``a_2``) that makes no other name of the header, an empty one is its place
    (``column_3``, from 1), a longer one than `NAME_LIMIT` is cut where a character ends. A name that stands in the
    header once is left as it is.
    """
    counts = Counter(header)
    taken = {name for name in header if counts[name] == 1 and _is_usable(name)}
    numbers: Counter[str] = Counter()  # the last one given: to try them all again for each name takes the square
    names: list[str] = []
    for place, name in enumerate(header, start=1):
        if name in taken and counts[name] == 1:
            names.append(name)
            continue
        base = _cut(name.strip() or f"column_{place}", NAME_LIMIT)
        base = f"{base}_" if base in _OF_THE_SYSTEM else base
        made, stem = base, _cut(base, NAME_LIMIT - _SUFFIX_LENGTH)
        while made in taken or (made != name and counts[made]):
            numbers[stem] += 1
            suffix = f"_{numbers[stem] + 1}"
            made = _cut(base, NAME_LIMIT - len(suffix)) + suffix
        taken.add(made)
        names.append(made)
    return tuple(names)


def names_to_ask_for(header: Sequence[str]) -> tuple[str, ...]:
    """For each field a name by which `Fields` finds it, and no other.

    It is the field's own; where that is repeated or empty, the one that `usable_names` makes, but for the first
    of a repeated name, which is asked for as ``a_1``.
    """
    counts = Counter(header)
    usable = usable_names(header)
    taken = {*header, *usable}
    names: list[str] = []
    for name, made in zip(header, usable, strict=True):
        if counts[name] == 1 and name:
            names.append(name)
        elif made != name:
            names.append(made)
        else:
            first = f"{name}_1"
            while first in taken:
                first += "_"
            names.append(first)
    return tuple(names)


def _is_usable(name: str) -> bool:
    return bool(name.strip()) and len(name.encode()) <= NAME_LIMIT and name not in _OF_THE_SYSTEM


def _cut(name: str, size: int) -> str:
    return name.encode()[:size].decode("utf-8", "ignore")


class Fields:
    """The fields of a header, to be found by the names that are ``wanted``. ``name`` is the file's, for messages."""

    def __init__(self, header: Sequence[str], wanted: Sequence[str], *, name: str) -> None:
        self._header = header
        self._name = name
        self._counts = Counter(header)
        self._asked_for = names_to_ask_for(header)
        self._places = {made: place for place, made in enumerate(usable_names(header)) if self._counts[made] == 0}
        self._places |= {made: place for place, made in enumerate(self._asked_for)}
        self._folded: dict[str, list[int]] = {}
        meant = set(wanted)
        for place, each in enumerate(header):
            if each not in meant:  # a field that one name means exactly is not to be had by another
                self._folded.setdefault(_folded(each), []).append(place)
        self._wanted = Counter(_folded(each) for each in wanted)
        self.notes: list[str] = []

    def find(self, name: str) -> int | None:
        """The place of the field that ``name`` means, from 0; None where the header has none.

        The very name first; then the names that `usable_names` and `names_to_ask_for` give; then one that
        differs in case and blanks alone, if it is the only one. Raises ShapeError for a name that is repeated.
        """
        if self._counts[name] > 1:
            numbered = [made for made, each in zip(self._asked_for, self._header, strict=True) if each == name]
            raise ShapeError(
                f"{self._name}: the header has the column {shown(name)} {self._counts[name]} times; "
                f"say which with from = {listed(numbered)}"
            )
        if name in self._places:
            return self._places[name]
        places = self._folded.get(_folded(name), [])
        if len(places) != 1 or self._wanted[_folded(name)] != 1:
            return None
        self.notes.append(f"{shown(self._header[places[0]])} of the header was taken for {shown(name)}")
        return places[0]

    def missing(self, name: str, why: str = "") -> ShapeError:
        """The error that no field is meant by ``name``."""
        near = did_you_mean(name, self._header, otherwise="it has")
        return ShapeError(f"{self._name}: the header has no column {shown(name)}{why}{near}")


def _folded(name: str) -> str:
    return re.sub(r"[\s_]+", "_", name.strip().casefold())
