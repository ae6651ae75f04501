"""Texts of one column → the format that they are dates or times in, where the file decides it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loader.core.spec.datetimes import compile_format

if TYPE_CHECKING:
    import pyarrow as pa

_CLOCKS = (
    (r"[0-9]{1,2}:[0-9]{2}", "%H:%M"),
    (r"[0-9]{1,2}:[0-9]{2}:[0-9]{2}", "%H:%M:%S"),
    (r"[0-9]{1,2}:[0-9]{2}:[0-9]{2}\.[0-9]{1,6}", "%H:%M:%S.%f"),
    (r"[0-9]{1,2}:[0-9]{2} ?[AaPp][Mm]", "%I:%M %p"),
    (r"[0-9]{1,2}:[0-9]{2}:[0-9]{2} ?[AaPp][Mm]", "%I:%M:%S %p"),
)
_DAYS = (
    (r"[0-9]{1,2}([./-])[0-9]{1,2}[./-][0-9]{4}", ("%d{0}%m{0}%Y", "%m{0}%d{0}%Y")),
    (r"[0-9]{4}([./-])[0-9]{1,2}[./-][0-9]{1,2}", ("%Y{0}%m{0}%d",)),
    (r"[0-9]{1,2}([- ])[A-Za-z]{3}[- ][0-9]{4}", ("%d{0}%b{0}%Y",)),
    (r"[0-9]{1,2}([- ])[A-Za-z]{4,9}[- ][0-9]{4}", ("%d{0}%B{0}%Y",)),
    (r"[A-Za-z]{3}( )[0-9]{1,2}, [0-9]{4}", ("%b %d, %Y",)),
    (r"[A-Za-z]{4,9}( )[0-9]{1,2}, [0-9]{4}", ("%B %d, %Y",)),
)


@dataclass(frozen=True, slots=True)
class Dated:
    """``type``: date or timestamp. ``format``: None where two fit and nothing in the file says which, ``either``."""

    type: str
    format: str | None
    either: tuple[str, ...] = ()


def dated(texts: pa.StringArray, order: str) -> Dated | None:
    """The format of all ``texts``, distinct and without NULLs; None where there is none.

    ``order``: "dmy" or "mdy", what the file's dates say together; "" for nothing. Without it none is chosen: the next
    file goes into a table that is there, and its days would be read as the session has them.
    """
    formats, has_clock = _formats_like(texts[0].as_py())
    fitting = [each for each in formats if not compile_format(each).parse(texts)[1].any()]
    if not fitting:
        return None
    type_name = "timestamp" if has_clock else "date"
    if len(formats) == 1:
        return Dated(type_name, fitting[0])
    chosen = {"dmy": formats[0], "mdy": formats[1]}.get(order)
    return Dated(type_name, chosen if chosen in fitting else None, tuple(fitting))


def _formats_like(text: str) -> tuple[list[str], bool]:
    """The formats that a text's shape allows, and whether they have a time."""
    for pattern, formats in _DAYS:
        found = re.match(pattern, text)
        if found is None:
            continue
        days = [each.format(found[1]) for each in formats]
        rest = text[found.end() :]
        if not rest:
            return days, False
        clock = next((each for shape, each in _CLOCKS if re.fullmatch(f"[ T]{shape}", rest)), None)
        if clock is not None:
            clock = clock if " " in rest[1:] or "%p" not in clock else clock.replace(" %p", "%p")
            return [f"{day}{rest[0]}{clock}" for day in days], True
    return [], False
