"""Names of a header: which field is meant, and what a new table's columns are called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.core.errors import ShapeError
from loader.core.pgtypes import NAME_LIMIT
from loader.records.header import Fields, usable_names


def find(header: list[str], name: str, *others: str) -> int | None:
    return Fields(header, [name, *others], name="x.csv").find(name)


@given(st.lists(st.text(alphabet="aA_ ü2\0", max_size=5) | st.text(max_size=70) | st.just("xmin"), max_size=12))
def test_every_field_gets_a_usable_name_of_its_own(header: list[str]) -> None:
    """None twice, none too long or empty; a name that is good and stands there once stays."""
    names = usable_names(header)
    assert len(set(names)) == len(names) == len(header)
    assert all(name and len(name.encode("utf-8", "surrogatepass")) <= NAME_LIMIT for name in names)
    for old, new in zip(header, names, strict=True):
        of_the_system = old in {"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}
        good = header.count(old) == 1 and old.strip() and len(old.encode()) <= NAME_LIMIT and not of_the_system
        assert not good or old == new


def test_the_names_that_are_made() -> None:
    """Numbers for repeated ones, places for empty ones, and none that is taken."""
    assert usable_names(["a", "a", "a_2", "", "ctid"]) == ("a", "a_3", "a_2", "column_4", "ctid_")


def test_case_and_blanks_are_forgiven_where_one_field_alone_can_be_meant() -> None:
    """The very name comes first."""
    assert find(["Trip ID", "fare"], "trip_id") == 0
    assert find(["TRIP", "trip"], "trip") == 1
    assert find(["TRIP", "Trip"], "trip") is None
    assert find(["Trip"], "trip", "TRIP") is None
    assert find(["trip", "Trip"], "Trip", "trip") == 1


def test_a_repeated_name_has_to_be_told_apart() -> None:
    """By its number."""
    with pytest.raises(ShapeError, match='has the column "a" 2 times; say which with from = "a_1"'):
        find(["a", "b", "a"], "a")
    assert find(["a", "b", "a"], "a_2") == 2
    assert find(["a", "", "b"], "column_2") == 1
