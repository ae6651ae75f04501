"""How messages show values and other people's texts: short, on one line, and with nothing that a terminal acts on.

A value comes from a file, so it may be megabytes long, hold control characters, or turn the direction of the line that
it stands in. Every message that quotes one does it by `shown`; a message that somebody else wrote (PostgreSQL, Arrow, a
hook) goes through `brief`; and a text that only has to be safe, such as an object's name, through `printable`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable

SHOWN = 60
"""Characters of a value that a message shows, as they are written there."""

LONGEST = 400
"""Characters of a message that somebody else wrote. PostgreSQL's own are shorter, but for the values in them."""

_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})
"""Unicode's control, format (bidirectional and zero-width among them) and surrogate characters, code points without a
character, line and paragraph separators."""

_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
"""Characters of other categories that show nothing (Unicode, DerivedCoreProperties, Default_Ignorable_Code_Point)."""

_NOT_PLAIN = re.compile("[^ -~]")  # only these need a look


def printable(text: str, limit: int | None = None, *, lines: bool = False) -> str:
    """The text on one line, with what is not safe to show spelled as in Python's strings; ``lines``: LF stays.

    A text of more than ``limit`` characters is cut and followed by its length: ``abc… (10,485,760 characters)``.
    """
    if lines:
        return "\n".join(printable(line, limit) for line in text.split("\n"))
    if limit is not None and len(text) > limit:
        return f"{_escaped(text[:limit], _as_python)}… ({len(text):,} characters)"
    return _escaped(text, _as_python)


def _escaped(text: str, spell: Callable[[str], str]) -> str:
    return _NOT_PLAIN.sub(lambda found: spell(found[0]) if _is_unsafe(found[0]) else found[0], text)


def _is_unsafe(character: str) -> bool:
    return unicodedata.category(character) in _UNSAFE or character in _BLANK


def _as_python(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii") if ord(character) > 0xFF else repr(character)[1:-1]


def _as_json(character: str) -> str:
    return json.dumps(character)[1:-1]


def shown(value: str | bytes | None) -> str:
    """``"value"``, cut after `SHOWN` characters; NULL for None. Bytes that are not UTF-8 are shown as ``\\xNN``."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):  # a character has at most four
        value = value[: 4 * SHOWN + 4].decode("utf-8", "backslashreplace")
    return f'"{_cut(value)}"'


def _cut(text: str) -> str:
    """Its first characters, of an escape all or nothing, and ``…`` where more follow."""
    taken: list[str] = []
    room = SHOWN
    for character in text[: SHOWN + 1]:
        spelt = printable(character)
        room -= len(spelt)
        if room < 0:
            return "".join(taken) + "…"
        taken.append(spelt)
    return "".join(taken)


_LONG = (
    re.compile(rf'(?P<before>")(?P<value>[^"]{{{SHOWN + 1},}})(?P<after>")'),
    re.compile(rf"(?P<before>(?<!\w)')(?P<value>[^']{{{SHOWN + 1},}})(?P<after>'(?!\w))"),
    # a DETAIL of PostgreSQL's: "Key (a)=(…) already exists.", "Failing row contains (…)."
    re.compile(
        rf"(?P<before>\)=\(|contains \()(?P<value>.{{{SHOWN + 1},}}?)(?P<after>\)(?: already | is | conflicts |\.?$))"
    ),
)


def brief(message: str, values: Iterable[str] = ()) -> str:
    """A message that somebody else wrote, in one line: `curtailed`, and cut after `LONGEST` characters."""
    message = curtailed(message, values)
    return message if len(message) <= LONGEST else message[:LONGEST] + "…"


def curtailed(message: str, values: Iterable[str] = ()) -> str:
    """The message in one line with the values in it cut.

    ``values``: those that it may speak of. Others are found by the quotes or brackets that PostgreSQL puts around them.
    """
    for value in sorted(values, key=len, reverse=True):
        if len(value) > SHOWN and value in message:
            message = message.replace(value, value[:SHOWN] + "…")
    for pattern in _LONG:
        message = pattern.sub(lambda found: f"{found['before']}{found['value'][:SHOWN]}…{found['after']}", message)
    return printable(message)


def to_json(document: object, *, default: Callable[[object], object] | None = None) -> str:
    """The document as JSON in one line, characters as they are but for those that `printable` escapes."""
    return _escaped(json.dumps(document, ensure_ascii=False, default=default), _as_json)


def to_toml(text: str) -> str:
    """The text as a basic string of TOML, which has the escapes of JSON, but no surrogate pairs (TOML 1.0, String)."""
    return _escaped(json.dumps(text, ensure_ascii=False), _as_toml)


def _as_toml(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
