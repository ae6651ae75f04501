"""What a spec may cost: how large it may be, how deep, and how its sizes are written.

A spec may come from a bucket or an event, so it is input. Its size is looked at before it is parsed, for Python's TOML
parser takes memory that grows with the square of a dotted key's parts (18.8 GB for 100,000 of them).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SPEC_LIMIT = 1 << 20
"""Bytes of a spec as TOML, and characters of all its texts and keys: room for 1,600 columns of 600 each."""

DEPTH_LIMIT = 8
"""Parts of a dotted key, and levels of a spec; the deepest there is, a pair of a column's map, is on the sixth."""

VALUES_LIMIT = 200_000
"""Values in a spec, its tables and lists counted too."""

TEXT_LIMIT = 10_000
"""Characters of one text of a spec, such as a filter."""

DIGITS_LIMIT = 1000
"""Digits of one number of a spec. PostgreSQL's numeric takes more, and so does a text in quotes."""

_DIGITS_BITS = 3322  # of the largest number of 1,000 digits: Python refuses to spell out one of more than 4,300

_TOKEN = re.compile(
    r"#[^\n]*+"
    r'|"""(?:[^"\\]++|\\.|"(?!""))*+(?:"{3,5}|\Z)'
    r"|'''(?:[^']++|'(?!''))*+(?:'{3,5}|\Z)"
    r'|(?P<part>"(?:[^"\\\n]++|\\.)*+"|\'[^\'\n]*+\'|[A-Za-z0-9_+-]++)'
    r"|(?P<dot>\.)|[ \t]++|.",
    re.DOTALL,
)


def toml_fault(text: str) -> str | None:
    """What keeps a TOML document from being parsed at a bounded cost; it may be wrong in other ways."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size > SPEC_LIMIT:
        return f"is {size:,} bytes long, and a spec may have {SPEC_LIMIT:,}"
    parts, dotted = 0, False
    for token in _TOKEN.finditer(text):
        if token["part"] is not None:
            parts, dotted = (parts + 1 if dotted else 1), False
        elif token["dot"] is not None:
            dotted = parts > 0
        elif not token[0].isspace() or token[0].startswith("\n"):
            parts, dotted = 0, False
        if parts > DEPTH_LIMIT:
            line = text.count("\n", 0, token.start()) + 1
            return f"line {line}: a dotted key of more than {DEPTH_LIMIT} parts"
    return None


def mapping_fault(mapping: Mapping[str, object]) -> str | None:
    """What makes a spec too large or too deep to be checked at a bounded cost. It may hold itself."""
    pending: list[tuple[object, int]] = [(mapping, 1)]
    values = characters = 0
    while pending:
        value, depth = pending.pop()
        values += 1
        if isinstance(value, str):
            characters += len(value)
        elif isinstance(value, Mapping | list | tuple):
            if depth > DEPTH_LIMIT:
                return f"is nested more than {DEPTH_LIMIT} levels deep"
            if values + len(pending) + len(value) > VALUES_LIMIT:
                return f"has more than {VALUES_LIMIT:,} values"
            if isinstance(value, Mapping):
                characters += sum(len(key) for key in value if isinstance(key, str))
                value = value.values()
            pending += [(each, depth + 1) for each in value]
        if characters > SPEC_LIMIT:
            return f"has texts of more than {SPEC_LIMIT:,} characters"
    return None


def is_long_number(value: object) -> bool:
    """Whether ``value`` is a whole number of too many digits to be spelt out."""
    return isinstance(value, int) and value.bit_length() > _DIGITS_BITS


_SIZE = re.compile(r"([0-9]{1,30}(?:_[0-9]{1,30})*)(?:\.([0-9]{1,9}))? ?([kmgtp]i?b|b|bytes)?", re.IGNORECASE)
_POWERS = "bkmgtp"

MOST = (1 << 63) - 1
"""Of anything that is counted: what a bigint holds."""


def read_size(text: str) -> int:
    """``"100 GB"`` → 100,000,000,000 bytes; ``"64 MiB"`` → 67,108,864. Raises ValueError, in words."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or (found[2] and not found[3]):
        raise ValueError('is not a size such as "100 GB", "64 MiB" or 1_000_000')
    unit = (found[3] or "b").lower()
    scale = (1024 if "i" in unit else 1000) ** _POWERS.index(unit[0])
    fraction = found[2] or ""
    size: int = int(found[1] + fraction) * scale // 10 ** len(fraction)
    if not 0 < size <= MOST:
        raise ValueError("is not from 1 byte to 9 EB")
    return size
