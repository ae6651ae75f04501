"""The loader against COPY: tables over all types, and files of valid, nearly valid and hostile records.

COPY is given the records one by one. What it takes the loader must take, to the letter of the text output;
what it refuses must be rejected, and nothing else. `make fuzz` looks further; each counterexample that was ever found
is a case in tests/corpus/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.differential import KNOWN_TO_KERNEL, Arena, Dialect, Example, arena, check, check_hooked, examples
from support.effort import LONG, effort
from support.identity import HOOKS

from loader.kernel import compiled

EXAMPLES = effort(60, 500)


PLACES = ["embedded-18", "system-15", *(["embedded-17"] if LONG else [])]


@pytest.fixture(scope="module", params=PLACES)
def place(servers: Any, request: pytest.FixtureRequest) -> Iterator[Arena]:
    with arena(servers(request.param)) as made:
        yield made


@pytest.fixture(
    scope="module", params=["LATIN1", *(["EUC_JP", "WIN1252", "SQL_ASCII", "EUC_JIS_2004"] if LONG else [])]
)
def other_place(servers: Any, request: pytest.FixtureRequest) -> Iterator[Arena]:
    """A database of another encoding than UTF-8."""
    with arena(servers("embedded-18"), request.param) as made:
        yield made


EFFORT = settings(
    max_examples=EXAMPLES,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.without_kernel
@given(data=st.data())
@EFFORT
def test_the_loader_takes_what_copy_takes_and_rejects_what_copy_refuses(place: Arena, data: st.DataObject) -> None:
    """Equal rows in their text output, and the same records refused."""
    example = data.draw(examples(place.values), "example")
    loaded, copied = place.compare(example)
    check(loaded, copied)


@pytest.mark.without_kernel
@given(data=st.data())
@settings(EFFORT, max_examples=EXAMPLES // 3)
def test_so_it_does_in_a_database_of_another_encoding(other_place: Arena, data: st.DataObject) -> None:
    """A character that the database lacks is refused by both, with its record."""
    loaded, copied = other_place.compare(data.draw(examples(other_place.values), "example"))
    check(loaded, copied)


@pytest.mark.parametrize("place", ["embedded-18"], indirect=True)
@given(data=st.data())
@settings(EFFORT, max_examples=EXAMPLES // 3)
def test_a_hook_that_changes_nothing_changes_nothing(place: Arena, data: st.DataObject) -> None:
    """Nor do values that it cannot be shown become others."""
    example = data.draw(examples(place.values), "example")
    check_hooked(*place.with_hook_and_without(example, data.draw(st.sampled_from(HOOKS), "hook")))


@pytest.mark.skipif(not compiled.COMPILED, reason="the kernel is not compiled here")
@pytest.mark.parametrize("place", ["embedded-18"], indirect=True)
@given(data=st.data())
@settings(EFFORT, max_examples=EXAMPLES // 2)
def test_the_kernel_changes_nothing(place: Arena, data: st.DataObject) -> None:
    """The same rows, and the same rejects with their places, reasons, messages and raw texts."""
    example = data.draw(examples(place.values, types=KNOWN_TO_KERNEL), "example")
    with_kernel, without = place.with_kernel_and_without(example)
    assert with_kernel == without


@pytest.mark.skipif(not compiled.COMPILED, reason="the kernel is not compiled here")
@pytest.mark.parametrize("place", ["embedded-18"], indirect=True)
def test_the_kernel_has_its_part_in_that(place: Arena) -> None:
    """A table of the types that it knows, and a record that it leaves to the others."""
    columns = ("c0 int", "c1 text", "c2 timestamp")
    example = Example(columns, (b"1,a,2024-01-01 10:00", b"2,b,Jan 5 2024", b"x,c,", b"3,d"), Dialect())
    before = place.by_kernel
    with_kernel, without = place.with_kernel_and_without(example)
    assert place.by_kernel == before + 1
    assert with_kernel == without
    assert (len(with_kernel[0]), len(with_kernel[1])) == (2, 2)
