"""The links of a column's ``transform`` chain: text → text, all values at once.

Each keeps the number of values, and NULL stays NULL; only ``null_if`` makes NULLs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from loader import arrays
from loader.spec import Step

_BLANK = r"[\s\x{A0}\x{2007}\x{202F}]"
_CURRENCY = r"(?:\p{Sc}|[A-Z]{3})"
_AROUND = rf"(?:{_BLANK}|{_CURRENCY})*"
_GROUPS = r"[0-9]{1,3}(?:(?:,[0-9]{3})+|(?:'[0-9]{3})+|(?:\x{2019}[0-9]{3})+|(?:[ \x{A0}\x{202F}][0-9]{3})+)"
_AMOUNT = rf"(?:{_GROUPS}|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"

PLAIN_AMOUNT = rf"^{_AROUND}(?P<sign>[+-]?){_AROUND}(?P<amount>{_AMOUNT}){_AROUND}$"
ACCOUNTING_AMOUNT = rf"^{_AROUND}\({_AROUND}(?P<amount>{_AMOUNT}){_AROUND}\){_AROUND}$"


def apply_chain(steps: Sequence[Step], values: pa.StringArray) -> pa.StringArray:
    """The steps one after the other, shape (n,) → (n,)."""
    for step in steps:
        values = apply(step, values)
    return values


def apply(step: Step, values: pa.StringArray) -> pa.StringArray:
    """One step, shape (n,) → (n,). Raises KeyError for a step that there is not; a checked spec has none."""
    return _STEPS[step.name](step, values)


def _strip(_step: Step, values: pa.StringArray) -> pa.StringArray:
    """White space off both ends, as Python's ``str.strip`` has it."""
    return pc.utf8_trim(values, characters=_WHITE_SPACE)


# Arrow's utf8_trim_whitespace leaves U+001C to U+001F, which Python's str.isspace() has
_WHITE_SPACE = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())


def _lower(_step: Step, values: pa.StringArray) -> pa.StringArray:
    """Unicode's simple case mapping: one character for one."""
    return pc.utf8_lower(values)


def _upper(_step: Step, values: pa.StringArray) -> pa.StringArray:
    """Unicode's simple case mapping: one character for one, so ß stays ß."""
    return pc.utf8_upper(values)


def _strip_currency(_step: Step, values: pa.StringArray) -> pa.StringArray:
    """``$1,234.50``, ``1 234.50 EUR``, ``-€5`` or ``(1,234.50)`` → a plain number.

    Currency symbols, three-letter codes and blanks around the amount go, and separators of well-formed
    groups of three digits: comma, apostrophe or blank. A text that is not of that form is left as it is,
    and so is ``1.234,50``: whether that is a thousand is not for a loader to guess.
    """
    accounting = _extracted(values, ACCOUNTING_AMOUNT)
    plain = _extracted(values, PLAIN_AMOUNT)
    sign = pc.replace_substring(_group(plain, "sign"), "+", "")
    positive = pc.binary_join_element_wise(sign, _ungrouped(_group(plain, "amount")), arrays.text(""))
    negative = pc.binary_join_element_wise(arrays.text("-"), _ungrouped(_group(accounting, "amount")), arrays.text(""))
    return pc.coalesce(pc.coalesce(positive, negative), values)


def _extracted(values: pa.StringArray, pattern: str) -> pa.StructArray:
    return pc.extract_regex(values, pattern)


def _group(groups: pa.StructArray, name: str) -> pa.StringArray:
    """A named group, NULL where the pattern did not match."""
    texts = groups.field(groups.type.get_field_index(name))
    return pc.if_else(groups.is_valid(), texts, arrays.null(pa.string()))


def _ungrouped(amounts: pa.StringArray) -> pa.StringArray:
    return pc.replace_substring_regex(amounts, r"[^0-9.]", "")


def _null_if(step: Step, values: pa.StringArray) -> pa.StringArray:
    """The given texts become NULL."""
    return pc.if_else(pc.is_in(values, arrays.texts(_strings(step))), arrays.null(pa.string()), values)


def _replace(step: Step, values: pa.StringArray) -> pa.StringArray:
    """Each occurrence of one text becomes another."""
    old, new = _strings(step)
    return pc.replace_substring(values, pattern=old, replacement=new)


def _map(step: Step, values: pa.StringArray) -> pa.StringArray:
    """Whole values become others; those that are not named stay."""
    pairs = [pair for pair in step.args if isinstance(pair, tuple)]
    places = pc.index_in(values, arrays.texts([old for old, _ in pairs]))
    return pc.coalesce(arrays.texts([new for _, new in pairs]).take(places), values)


def _strings(step: Step) -> list[str]:
    return [argument for argument in step.args if isinstance(argument, str)]


_STEPS: dict[str, Callable[[Step, pa.StringArray], pa.StringArray]] = {
    "strip": _strip,
    "lower": _lower,
    "upper": _upper,
    "strip_currency": _strip_currency,
    "null_if": _null_if,
    "replace": _replace,
    "map": _map,
}
