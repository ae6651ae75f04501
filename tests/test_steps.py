"""Each step's law: it is its one-value definition, applied to every value."""

from __future__ import annotations

import re
import sys
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loader.spec import Step
from loader.steps import apply, apply_chain

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
blanks = st.text(" \t\n\x1c\xa0\u2003\u3000ab", max_size=8)
columns = st.lists(st.one_of(st.none(), texts, blanks), max_size=20)

STEPS = [
    Step("strip"), Step("lower"), Step("upper"), Step("strip_currency"),
    Step("null_if", ("-", "n/a")), Step("replace", ("a", "bb")), Step("map", (("Y", "true"), ("N", "false"))),
]  # fmt: skip


def applied(step: Step, values: list[str | None]) -> list[str | None]:
    found: list[str | None] = apply(step, pa.array(values, pa.string())).to_pylist()
    return found


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
@given(columns)
@example([])
@example([None, None])
def test_the_number_of_values_stays_and_null_stays_null(step: Step, values: list[str | None]) -> None:
    """Whatever the column holds."""
    found = applied(step, values)
    assert len(found) == len(values)
    assert all(after is None for before, after in zip(values, found, strict=True) if before is None)


@pytest.mark.parametrize("step", [s for s in STEPS if s.name != "replace"], ids=lambda step: step.name)
@given(columns)
def test_once_is_enough(step: Step, values: list[str | None]) -> None:
    """Applied twice it is what it is applied once."""
    assert applied(step, applied(step, values)) == applied(step, values)


@given(columns)
def test_strip_is_pythons(values: list[str | None]) -> None:
    """``str.strip``, for every kind of white space."""
    assert applied(Step("strip"), values) == [value if value is None else value.strip() for value in values]


def test_strip_takes_off_every_white_space_there_is() -> None:
    """One after the other, over all of Unicode."""
    spaces = [chr(code) for code in range(1, sys.maxunicode) if chr(code).isspace()]
    assert applied(Step("strip"), [f"{space}x{space}" for space in spaces]) == ["x"] * len(spaces)


def one_for_one(character: str, mapped: str) -> str:
    """The simple case mapping: the full one where that is a single character, else the character itself."""
    return mapped if len(mapped) == 1 else character


# Python's tables of case and Arrow's are of different Unicode versions: compare what both have known for long
old = st.text(st.characters(max_codepoint=0x17F, exclude_characters="\0\u0130"), max_size=12)


@given(st.lists(old, max_size=20))
@example(["Straße", "ÄÖÜ", "ǆ", "ŉ"])
def test_lower_and_upper_map_one_character_to_one(values: list[str]) -> None:
    """ß stays ß; the length never changes."""
    lowered, uppered = applied(Step("lower"), values), applied(Step("upper"), values)
    assert lowered == ["".join(one_for_one(c, c.lower()) for c in value) for value in values]
    assert [len(value or "") for value in uppered] == [len(value) for value in values]
    plain = [value for value in values if all(len(c.upper()) == 1 for c in value)]
    assert applied(Step("upper"), plain) == [value.upper() for value in plain]


amounts = st.builds(
    "{}{}{}{}{}{}".format,
    st.sampled_from(["", "$", "€ ", "EUR ", "(", "($", "-", "-$", "$-", "+", "\xa0"]),
    st.sampled_from(["", "1", "12", "123", "1234", "0"]),
    st.sampled_from(["", ",234", ",234,567", "'234", ",23", " 234", "\u202f234", ",234'567", ".234,50"]),
    st.sampled_from(["", ".", ".5", ".50"]),
    st.sampled_from(["", ")", " USD", "€", "-", "%"]),
    st.sampled_from(["", " ", "x"]),
)


def plain_amount(value: str) -> str:
    """The one-value definition of strip_currency."""

    def around(text: str) -> str:
        while True:
            shorter = text.strip()
            if shorter and unicodedata.category(shorter[0]) == "Sc":
                shorter = shorter[1:]
            elif shorter and unicodedata.category(shorter[-1]) == "Sc":
                shorter = shorter[:-1]
            elif re.match("[A-Z]{3}", shorter):
                shorter = shorter[3:]
            elif re.search("[A-Z]{3}$", shorter):
                shorter = shorter[:-3]
            if shorter == text:
                return text
            text = shorter

    inner = around(value)
    sign = ""
    if inner.startswith("(") and inner.endswith(")"):
        sign, inner = "-", around(inner[1:-1])
    elif inner[:1] in ("-", "+") and inner:
        sign, inner = inner[0].replace("+", ""), around(inner[1:])
    groups = r"\d{1,3}(?:(,|'|’| |\xa0|\u202f)\d{3}(?:\1\d{3})*)"
    if re.fullmatch(rf"(?:{groups}|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+", inner, re.ASCII):
        return sign + re.sub("[^0-9.]", "", inner)
    return value


@given(st.lists(amounts, max_size=30))
@example(["$1,234.50", "(1,234.50)", "-€5", "$-5", "1 234.50 EUR", "12,34", "1.234,50", "", "USD", "()", "1,2345"])
def test_strip_currency_is_its_definition(values: list[str]) -> None:
    """Symbols, codes, groups and accounting's brackets; what is not of that form stays as it is."""
    assert applied(Step("strip_currency"), list(values)) == [plain_amount(value) for value in values]


@given(columns)
def test_null_if(values: list[str | None]) -> None:
    """The named texts become NULL, and no other."""
    assert applied(Step("null_if", ("a", "")), values) == [None if v in ("a", "") else v for v in values]


@given(columns, st.text(min_size=1, max_size=2), st.text(max_size=3))
@example(["a.c", "abc"], ".", "\\0")
def test_replace_is_literal(values: list[str | None], old: str, new: str) -> None:
    """No pattern, no back reference."""
    expected = [value if value is None else value.replace(old, new) for value in values]
    assert applied(Step("replace", (old, new)), values) == expected


@given(columns, st.dictionaries(texts, texts, max_size=5))
def test_map_changes_whole_values(values: list[str | None], pairs: dict[str, str]) -> None:
    """Those that are named; the others stay."""
    expected = [value if value is None else pairs.get(value, value) for value in values]
    assert applied(Step("map", tuple(pairs.items())), values) == expected


def test_a_chain_goes_from_left_to_right() -> None:
    """Each step takes what the one before gave."""
    chain = [Step("strip"), Step("upper"), Step("map", (("Y", "true"),)), Step("null_if", ("-",))]
    assert apply_chain(chain, pa.array([" y ", "-", None, "z"])).to_pylist() == ["true", None, None, "Z"]
