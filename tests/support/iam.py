"""AWS's rules for policies, as far as infra/ uses them: who may do what, by statements alone.

(IAM user guide, "Policy evaluation logic" and "IAM JSON policy elements: Condition operators".) What is not covered
raises: a condition that nobody understands must not count as met.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

Context = Mapping[str, str]


def is_allowed(statements: Iterable[Mapping[str, Any]], action: str, resource: str, context: Context = {}) -> bool:  # noqa: B006
    """An explicit Deny goes before an Allow, and nothing is allowed that no statement allows."""
    met = [each["Effect"] for each in statements if applies(each, action, resource, context)]
    return "Allow" in met and "Deny" not in met


def is_denied(statements: Iterable[Mapping[str, Any]], action: str, resource: str, context: Context = {}) -> bool:  # noqa: B006
    """Explicitly."""
    return any(each["Effect"] == "Deny" and applies(each, action, resource, context) for each in statements)


def applies(statement: Mapping[str, Any], action: str, resource: str, context: Context) -> bool:
    unknown = statement.keys() - {"Sid", "Effect", "Action", "Resource", "Condition", "Principal"}
    if unknown:
        raise NotImplementedError(f"elements {unknown}")
    return (
        any(_like(action.lower(), each.lower()) for each in as_list(statement["Action"]))
        and any(_like(resource, each) for each in as_list(statement["Resource"]))
        and all(
            _met(operator, context.get(key), [str(each) for each in as_list(wanted)])
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
    )


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _met(operator: str, value: str | None, wanted: list[str]) -> bool:
    """``value``: of the condition's key in the request, None where it has none."""
    if operator == "Null":
        return wanted == [str(value is None).lower()]
    if operator in ("StringNotEquals",):
        return value is None or value not in wanted  # what negates is met where there is nothing
    if value is None:
        return False
    if operator == "StringEquals":
        return value in wanted
    if operator == "Bool":
        return value.lower() in wanted
    if operator in ("ArnEquals", "ArnLike", "StringLike"):  # the first two are the same (user guide)
        return any(_like(value, each) for each in wanted)
    if operator == "NumericLessThan":
        return any(float(value) < float(each) for each in wanted)
    raise NotImplementedError(f"operator {operator}")


def _like(value: str, pattern: str) -> bool:
    parts = (".*" if each == "*" else "." if each == "?" else re.escape(each) for each in re.split(r"([*?])", pattern))
    return re.fullmatch("".join(parts), value, re.DOTALL) is not None
