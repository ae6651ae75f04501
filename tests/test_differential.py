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
from support.differential import Arena, arena, check, examples
from support.effort import LONG, effort

EXAMPLES = effort(60, 500)


@pytest.fixture(scope="module", params=["embedded-18", "system-15", *(["embedded-17"] if LONG else [])])
def place(servers: Any, request: pytest.FixtureRequest) -> Iterator[Arena]:
    with arena(servers(request.param)) as made:
        yield made


@given(data=st.data())
@settings(
    max_examples=EXAMPLES,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
def test_the_loader_takes_what_copy_takes_and_rejects_what_copy_refuses(place: Arena, data: st.DataObject) -> None:
    """Equal rows in their text output, and the same records refused."""
    example = data.draw(examples(place.values), "example")
    loaded, copied = place.compare(example)
    check(loaded, copied)
