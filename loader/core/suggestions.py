"""Names that somebody misspelt, and the nearest right ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import islice

from loader.core.display import shown

SHOWN = 20
"""Names that a message lists at most."""

_LENGTH = 100  # characters of a name that is compared with others: a header is input, and may have millions
_COMPARED = 10_000  # names; a comparison takes 2 µs and more


def listed(names: Sequence[str]) -> str:
    """``"a", "b", …``: the first of the names."""
    return ", ".join(map(shown, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``word`` was probably meant to be, whatever its case; None where none is near."""
    if len(word) > _LENGTH:
        return None
    folded = {each.casefold(): each for each in islice(known, _COMPARED) if len(each) <= _LENGTH * 2}
    near = get_close_matches(word.casefold(), folded, n=1)
    return folded[near[0]] if near else None


def did_you_mean(word: str, known: Iterable[str], *, otherwise: str = "there is") -> str:
    """``; did you mean "…"?`` with the nearest of ``known``, or, where none is near, what there is."""
    names = list(dict.fromkeys(known))
    near = nearest(word, names)
    if near is not None:
        return f"; did you mean {shown(near)}?"
    return f"; {otherwise} {listed(names)}" if names else ""
