"""The rules that the policy tests judge by: AWS's own, as far as they are used here."""

from __future__ import annotations

from typing import Any

import pytest
from support.iam import is_allowed, is_denied


def allow(action: Any = "s3:GetObject", resource: Any = "arn:aws:s3:::b/*", **condition: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, "Condition": condition}


def test_nothing_is_allowed_that_no_statement_allows() -> None:
    assert not is_allowed([], "s3:GetObject", "arn:aws:s3:::b/k")
    assert not is_allowed([allow()], "s3:PutObject", "arn:aws:s3:::b/k")
    assert not is_allowed([allow()], "s3:GetObject", "arn:aws:s3:::c/k")
    assert is_allowed([allow()], "s3:GetObject", "arn:aws:s3:::b/k/of/several/parts")


def test_a_denial_goes_before_everything() -> None:
    denial = {"Effect": "Deny", "Action": "s3:*", "Resource": "*"}
    assert not is_allowed([allow(), denial], "s3:GetObject", "arn:aws:s3:::b/k")
    assert is_denied([allow(), denial], "s3:GetObject", "arn:aws:s3:::b/k")


def test_actions_have_no_case_but_resources_have() -> None:
    assert is_allowed([allow("S3:getobject")], "s3:GetObject", "arn:aws:s3:::b/k")
    assert not is_allowed([allow(resource="arn:aws:s3:::B/*")], "s3:GetObject", "arn:aws:s3:::b/k")


@pytest.mark.parametrize(
    ("pattern", "value", "matches"),
    [("a*c", "abbc", True), ("a?c", "abc", True), ("a?c", "ac", False), ("a[b]c", "abc", False), ("a.c", "abc", False)],
)
def test_only_stars_and_question_marks_are_wild(pattern: str, value: str, matches: bool) -> None:
    assert is_allowed([allow(resource=pattern)], "s3:GetObject", value) is matches


@pytest.mark.parametrize(
    ("condition", "value", "met"),
    [
        ({"StringEquals": {"k": ["a", "b"]}}, "b", True),
        ({"StringEquals": {"k": "a"}}, "A", False),
        ({"StringEquals": {"k": "a"}}, None, False),
        ({"StringNotEquals": {"k": "a"}}, "b", True),
        ({"StringNotEquals": {"k": "a"}}, None, True),
        ({"Null": {"k": "false"}, "StringNotEquals": {"k": "a"}}, None, False),
        ({"Null": {"k": "true"}}, None, True),
        ({"Bool": {"k": "false"}}, "false", True),
        ({"Bool": {"k": "false"}}, None, False),
        ({"ArnEquals": {"k": "arn:*:b"}}, "arn:a:b", True),
        ({"NumericLessThan": {"k": 1.2}}, "1.1", True),
        ({"NumericLessThan": {"k": 1.2}}, "1.2", False),
    ],
)
def test_conditions(condition: dict[str, Any], value: str | None, met: bool) -> None:
    """All have to be met. What is not in the request meets only what negates, and ``Null``."""
    context = {} if value is None else {"k": value}
    assert is_allowed([allow(**condition)], "s3:GetObject", "arn:aws:s3:::b/k", context) is met


def test_what_is_not_understood_is_an_error() -> None:
    """It must not count as met."""
    with pytest.raises(NotImplementedError):
        is_allowed(
            [allow(IpAddress={"aws:SourceIp": "10.0.0.0/8"})], "s3:GetObject", "arn:aws:s3:::b/k", {"aws:SourceIp": "1"}
        )
    with pytest.raises(NotImplementedError):
        is_allowed([{"Effect": "Allow", "NotAction": "s3:*", "Resource": "*"}], "s3:GetObject", "arn:aws:s3:::b/k")
