"""Names that somebody misspelt, and the nearest right ones."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

SHOWN = 20
"""Names that a message lists at most."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``word`` was probably meant to be, whatever its case; None where none is near."""
    folded = {each.casefold(): each for each in known}
    near = get_close_matches(word.casefold(), folded, n=1)
    return folded[near[0]] if near else None


def did_you_mean(word: str, known: Iterable[str], *, otherwise: str = "there is") -> str:
    """``; did you mean "…"?`` with the nearest of ``known``, or, where none is near, what there is."""
    names = list(dict.fromkeys(known))
    near = nearest(word, names)
    if near is not None:
        return f'; did you mean "{near}"?'
    shown = ", ".join(f'"{each}"' for each in names[:SHOWN])
    return f"; {otherwise} {shown}{', …' if len(names) > SHOWN else ''}" if names else ""
