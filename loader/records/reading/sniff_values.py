"""Which kind of value a text is: what a column's texts have in common tells whether a dialect is the right one.

A kind is a shape and not a type of PostgreSQL: `infer` finds those, over more records and exactly.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

_MONEY = r"[$€£¥₹%]?"
_SIGN = r"[-+]?"
_GROUPS = r"(?:,[0-9]{3})+(?:\.[0-9]+)?|(?:\.[0-9]{3})+(?:,[0-9]+)?|(?:[ '’\xa0\u202f][0-9]{3})+(?:[.,][0-9]+)?"
_GROUPED = rf"[1-9][0-9]{{0,2}}(?:{_GROUPS})"
_PLAIN = r"(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][-+]?[0-9]{1,3})?"
NUMBER = rf"\(?{_SIGN}{_MONEY} ?{_SIGN}(?:{_GROUPED}|{_PLAIN}) ?{_MONEY}\)?"
_CLOCK = r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?(?: ?[AaPp]\.?[Mm]\.?)?(?:Z| ?[-+][0-9:]{2,6})?"
_MONTH = r"(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DAY = (
    r"(?:[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}|[0-9]{1,2}[-/.][0-9]{1,2}[-/.](?:[0-9]{4}|[0-9]{2})"
    rf"|[0-9]{{1,2}}[- ]{_MONTH}[- ,]+[0-9]{{2,4}}|{_MONTH} [0-9]{{1,2}},? [0-9]{{4}})"
)
_KINDS = re.compile(
    r"[ \t]*+(?:"
    rf"(?P<integer>{_SIGN}[0-9]+)"
    rf"|(?P<moment>{_DAY}(?:[T ]{_CLOCK})?)"
    rf"|(?P<time>{_CLOCK})"
    rf"|(?P<number>{NUMBER})"
    r"|(?P<boolean>(?i:true|false))"
    r"|(?P<uuid>[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})"
    r"|(?P<address>[\w.+-]+@[\w-]+(?:\.[\w-]+)+|(?:https?|ftp|s3)://[^\s\"|;]+|[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?::[0-9]+)?)"
    r")[ \t]*+"
)

NOTHING = frozenset(
    {"", "na", "n/a", "nan", "null", "none", "nil", "-", "--", "?", ".", "\\n", "#n/a", "unknown", "missing"}
)
"""Texts that stand for no value, in small letters; they say nothing about a column."""

TEXT = "text"


@lru_cache(maxsize=1 << 14)
def kind(text: str) -> str:
    """``integer``, ``number``, ``moment`` (a day, with its time or without), ``time``, ``boolean``, ``uuid``,
    ``address`` (of mail, the web, a machine), ``nothing`` or ``text``."""
    if len(text) > 64:
        return TEXT
    found = _KINDS.fullmatch(text)
    if found is not None:
        return found.lastgroup or TEXT
    return "nothing" if text.strip().lower() in NOTHING else TEXT


_FAMILY = {"integer": "number"}


def held_together(kinds: Iterable[str]) -> tuple[str, float]:
    """The kind that most texts of a column have, a whole number being a number, and the share of those that have it.

    Texts that stand for nothing are left out; ``("nothing", 1.0)`` where there are no others.
    """
    counts = Counter(_FAMILY.get(each, each) for each in kinds if each != "nothing")
    if not counts:
        return "nothing", 1.0
    found, times = counts.most_common(1)[0]
    return found, times / counts.total()
