"""How messages show values and other people's texts: short, on one line, and with nothing that a terminal acts on.

A value comes from a file, so it may be megabytes long, hold control characters, or turn the direction of the line that
it stands in. Every message that quotes one does it by `shown`; a message that somebody else wrote (PostgreSQL, Arrow, a
hook) goes through `brief`; and a text that only has to be safe, such as an object's name, through `printable`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

SHOWN = 60
"""Characters of a value that a message shows, as they are written there."""

LONGEST = 400
"""Characters of a message that somebody else wrote. PostgreSQL's own are shorter, but for the values in them."""

_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL and C1: terminals act on them
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # Unicode's bidirectional controls (UAX 9, 2)
    "\u2028\u2029\ufeff\ud800-\udfff]"  # line ends to some, a mark, and what cannot be encoded
)
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str, *, lines: bool = False) -> str:
    """The text with control and bidirectional characters escaped as in Python's strings; ``lines``: but for LF."""
    if lines:
        return "\n".join(map(printable, text.split("\n")))
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    number = ord(character)
    return _NAMED.get(character) or (f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}")


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
    text = json.dumps(document, ensure_ascii=False, default=default)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
