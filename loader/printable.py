"""Text that is safe to show: in a log line, in an error message, on a terminal.

Names of objects, fields of events and keys of specs are other people's input. A control character can rewrite a
terminal's line, a bidirectional one can reorder what a reader sees, a zero-width one hides, half of a surrogate pair
cannot be written at all, and ten megabytes of any of it fill a log.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any

LIMIT = 200
"""Characters of somebody else's text that a message shows."""

_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})
"""Unicode's control, format (bidirectional and zero-width among them) and surrogate characters, code points without a
character, line and paragraph separators."""

_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
"""Characters of other categories that show nothing (Unicode, DerivedCoreProperties, Default_Ignorable_Code_Point)."""

_NOT_PLAIN = re.compile("[^ -~]")  # whatever needs a look


def printable(text: str, limit: int | None = LIMIT) -> str:
    """``text`` on one line, with every character that is not safe to show spelled as Python spells it in a string.

    A text of more than ``limit`` characters is cut and followed by its length: ``abc… (10,485,760 characters)``.
    """
    if limit is not None and len(text) > limit:
        return f"{_escaped(text[:limit], _as_python)}… ({len(text):,} characters)"
    return _escaped(text, _as_python)


def printable_lines(text: str) -> str:
    """The same of each line of a message that may have several, whole."""
    return "\n".join(_escaped(line, _as_python) for line in text.split("\n"))


def json_line(document: Any, default: Callable[[Any], Any] = str) -> str:
    """``document`` as JSON on one line: readable where that is safe, and escaped, as JSON allows, where it is not."""
    return _escaped(json.dumps(document, ensure_ascii=False, default=default), _as_json)


def _escaped(text: str, spell: Callable[[str], str]) -> str:
    return _NOT_PLAIN.sub(lambda found: spell(found[0]) if _is_unsafe(found[0]) else found[0], text)


def _is_unsafe(character: str) -> bool:
    return unicodedata.category(character) in _UNSAFE or character in _BLANK


def _as_python(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii") if ord(character) > 0xFF else repr(character)[1:-1]


def _as_json(character: str) -> str:
    return json.dumps(character)[1:-1]
