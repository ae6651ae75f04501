"""Names that somebody misspelt, and the nearest right ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import islice

from loader.printable import printable

SHOWN = 20
"""Names that a message lists at most."""

LENGTH = 100
"""Characters of a name that a message shows. A header is input: its names may have millions."""

_COMPARED = 10_000  # names; a comparison takes 2 µs and more


def quoted(name: str) -> str:
    """``"name"``, cut to a length that can be read."""
    return f'"{printable(name[:LENGTH], None)}{"…" if len(name) > LENGTH else ""}"'


def listed(names: Sequence[str]) -> str:
    """``"a", "b", …``: the first of the names."""
    return ", ".join(map(quoted, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``word`` was probably meant to be, whatever its case; None where none is near."""
    if len(word) > LENGTH:
        return None
    folded = {each.casefold(): each for each in islice(known, _COMPARED) if len(each) <= LENGTH * 2}
    near = get_close_matches(word.casefold(), folded, n=1)
    return folded[near[0]] if near else None


def did_you_mean(word: str, known: Iterable[str], *, otherwise: str = "there is") -> str:
    """``; did you mean "…"?`` with the nearest of ``known``, or, where none is near, what there is."""
    names = list(dict.fromkeys(known))
    near = nearest(word, names)
    if near is not None:
        return f"; did you mean {quoted(near)}?"
    return f"; {otherwise} {listed(names)}" if names else ""
