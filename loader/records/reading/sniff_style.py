"""How a file's people write numbers and days: ``1.343,64`` or ``1,234.50``, ``31/05/2024`` or ``05/31/2024``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from loader.records.reading.sniff_values import NOTHING

DateOrder = Literal["", "dmy", "mdy"]

PLAIN = (".", "")
STYLES = (
    PLAIN,
    (".", ","),
    (",", ""),
    (",", "."),
    (",", " "),
    (",", "\xa0"),
    (",", "\u202f"),
    (".", " "),
    (".", "'"),
    (".", "’"),
    (",", "'"),
)
"""Pairs of decimal and thousands separator, the usual ones first."""


@lru_cache(maxsize=64)
def number_pattern(decimal: str, thousands: str) -> str:
    """The texts that are numbers in that style, for Python and for RE2. Groups have three digits, all but the first."""
    groups = rf"[1-9][0-9]{{0,2}}(?:{re.escape(thousands)}[0-9]{{3}})+|" if thousands else ""
    return rf"^[+-]?(?:{groups}[0-9]+)(?:{re.escape(decimal)}[0-9]+)?(?:[eE][+-]?[0-9]{{1,3}})?$"


def number_style(columns: Sequence[Sequence[str]]) -> tuple[str, str]:
    """Decimal and thousands separator of the columns of numbers.

    They are the usual ones, by which ``1,234`` is a text, where that is 1234 to one reader and 1.234 to another and
    nothing else in the file tells.
    """
    found = [styles for styles in map(_styles, columns) if styles and len(styles) < len(STYLES)]
    if not found:
        return PLAIN
    fitting = {style: sum(style in styles for styles in found) for style in STYLES}
    best = max(STYLES, key=lambda style: fitting[style])
    rivals = [each for each in STYLES if each[0] != best[0] and fitting[each] == fitting[best]]
    return PLAIN if rivals else best


_NUMBERISH = re.compile(r"[-+]?[0-9][0-9.,'’ \xa0\u202f]*(?:[eE][-+]?[0-9]{1,3})?")


def _styles(texts: Sequence[str]) -> set[tuple[str, str]]:
    """The styles in which all texts of a column are numbers."""
    known = {text for text in texts if text.strip().lower() not in NOTHING}
    if not known or not all(_NUMBERISH.fullmatch(text) for text in known):
        return set()
    return {style for style in STYLES if all(re.match(number_pattern(*style), text) for text in known)}


_DAY = re.compile(r"([0-9]{1,2})([./-])([0-9]{1,2})\2[0-9]{4}(?:[ T][0-9].*)?")
_DAYS = re.compile(r"(?<![0-9./-])([0-9]{1,2})([./-])([0-9]{1,2})\2[0-9]{4}(?![0-9./-])")


def date_order(columns: Sequence[Sequence[str]], text: str) -> DateOrder:
    """Whether days stand before months in the file's dates. "" where it has none, or nothing tells.

    A number over 12 tells, in any column, or further on in the sample's ``text``. Points are for days first.
    """
    dated = [texts for texts in columns if _is_dated(texts)]
    if not dated:
        return ""
    parts = [found.groups() for found in _DAYS.finditer(text)]
    first, second = (any(int(part[at]) > 12 for part in parts) for at in (0, 2))
    if first != second:
        return "dmy" if first else "mdy"
    return "dmy" if not first and all("." in text for texts in dated for text in texts if text.strip()) else ""


def _is_dated(texts: Sequence[str]) -> bool:
    known = [text for text in texts if text.strip().lower() not in NOTHING]
    return bool(known) and all(_DAY.fullmatch(text.strip()) for text in known)
