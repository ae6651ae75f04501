"""Each step's law: it is its one-value definition, applied to every value."""

from __future__ import annotations

import re
import sys
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loader.convert.steps import apply, apply_chain
from loader.core.spec.model import Step

CHARACTERS = [chr(code) for code in range(1, sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
cased = st.text("aAßẞſıİiǆǅǄŉΐᾳΣςσ\u0308\U00010400", max_size=8)
blanks = st.text(" \t\n\x1c\xa0\u2003\u3000\u200bab", max_size=8)
amounts = st.builds(
    "{}{}{}{}{}{}{}".format,
    st.sampled_from(["", " ", "\xa0", "$", "€ ", "US$", "EUR ", "EURUSD", "eur "]),
    st.sampled_from(["", "-", "+", "(", "- ", "-$", "−"]),
    st.sampled_from(["", "1", "12", "123", "1234", "0", "٣"]),
    st.sampled_from(["", ",234", ",234,567", "'234", "’234", ",23", " 234 567", "\u202f234", ",234'567", ",2345"]),
    st.sampled_from(["", ".", ".5", ".50", ",50", ".5.5"]),
    st.sampled_from(["", ")", " USD", "€)", "-", "%"]),
    st.sampled_from(["", " ", "x", " CHF"]),
)
columns = st.lists(st.one_of(st.none(), texts, cased, blanks, amounts), max_size=20)

STEPS = [
    Step("strip"), Step("lower"), Step("upper"), Step("strip_currency"),
    Step("null_if", ("-", "n/a")), Step("replace", ("a", "bb")), Step("map", (("Y", "true"), ("N", "false"))),
]  # fmt: skip


def applied(step: Step, values: list[str | None]) -> list[str | None]:
    """The step on a slice of a larger array, as a block's column may be one."""
    array = pa.array(["before", None, *values, "after"], pa.string())[2:-1]
    made = apply(step, array)
    made.validate(full=True)
    found: list[str | None] = made.to_pylist()
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


def test_strip_takes_off_white_space_and_nothing_else() -> None:
    """One after the other, over all of Unicode."""
    expected = [f"{each}x{each}".strip() for each in CHARACTERS]
    assert applied(Step("strip"), [f"{each}x{each}" for each in CHARACTERS]) == expected


def simple_lower(character: str) -> str:
    """The simple mapping: the full one, where that is a single character; İ is the only other that has one."""
    lowered = character.lower()
    return lowered if len(lowered) == 1 else {"İ": "i"}.get(character, character)


def simple_upper(character: str) -> str:
    """The simple mapping: the full one, where that is a single character; else the title case, where that is (ᾳ)."""
    mapped = (character.upper(), character.title(), character)
    return next(each for each in mapped if len(each) == 1)


@pytest.mark.parametrize(("name", "definition"), [("lower", simple_lower), ("upper", simple_upper)])
def test_case_is_unicodes_simple_mapping_for_every_character(name: str, definition: object) -> None:
    """That Python's version of Unicode knows, and its counterpart too: Arrow's version may be newer."""
    assert callable(definition)
    found = applied(Step(name), list(CHARACTERS))
    compared = [
        (each, made, definition(each))
        for each, made in zip(CHARACTERS, found, strict=True)
        if made and "Cn" not in (unicodedata.category(each), *map(unicodedata.category, made))
    ]
    assert [triple for triple in compared if triple[1] != triple[2]] == []


@given(st.lists(cased, max_size=20))
@example(["Straße", "ß", "ẞ", "ÄÖÜ", "ǆ", "ŉ", "", "ßß"])
def test_lower_and_upper_map_one_character_to_one(values: list[str]) -> None:
    """Each by itself: ß stays ß, the length never changes."""
    assert applied(Step("lower"), list(values)) == ["".join(map(simple_lower, value)) for value in values]
    assert applied(Step("upper"), list(values)) == ["".join(map(simple_upper, value)) for value in values]


def after_currency(text: str) -> str:
    """What follows white space and one currency, if there is one."""
    return re.sub(r"^(?:[A-Z]{3}|[A-Z]{0,2}¤)", "", text.translate(SYMBOLS).lstrip()).lstrip()


def before_currency(text: str) -> str:
    return re.sub(r"(?:[A-Z]{3}|[A-Z]{0,2}¤)$", "", text.translate(SYMBOLS).rstrip()).rstrip()


SYMBOLS = {ord(each): "¤" for each in CHARACTERS if unicodedata.category(each) == "Sc"}


def plain_amount(value: str) -> str:
    """The one-value definition of strip_currency."""
    inner, sign = after_currency(before_currency(value)), ""
    if inner.startswith("(") and inner.endswith(")"):
        sign, inner = "-", after_currency(before_currency(inner[1:-1]))
    elif inner[:1] in ("-", "+"):
        sign, inner = inner[:1].replace("+", ""), after_currency(inner[1:])
    whole, point, fraction = inner.partition(".")
    separators = set(re.sub("[0-9]", "", whole))
    if separators and len(separators) == 1 and separators <= set(",'’ \xa0\u202f"):
        first, *groups = whole.split(separators.pop())
        well_formed = first[:1] not in ("", "0") and len(first) <= 3 and all(len(group) == 3 for group in groups)
    else:
        well_formed = not separators and bool(whole or fraction)
    if well_formed and re.fullmatch("[0-9]*", fraction):
        return sign + re.sub("[^0-9]", "", whole) + point + fraction
    return value


@settings(max_examples=300)
@given(st.lists(amounts, max_size=30))
@example(["$1,234.50", "(1,234.50)", "-€5", "$-5", "1 234.50 EUR", "12,34", "1.234,50", "", "USD", "()", "1,2345"])
@example(["1,234,567", "1,234'567", "$", "-", ".", "(.5)", "US$ 5", "5.", "+$5", "$5 USD", "($5) USD", "1,234,56"])
def test_strip_currency_is_its_definition(values: list[str]) -> None:
    """Symbols, codes, groups and accounting's brackets; what is not of that form stays as it is."""
    assert applied(Step("strip_currency"), list(values)) == [plain_amount(value) for value in values]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("$1,234.50", "1234.50"), ("(1,234.50)", "-1234.50"), ("-$5", "-5"), ("$-5", "-5"),
        ("CHF 1’234’567.00", "1234567.00"),
        ("1\u202f234\xa0€", "1234"), ("US$ 12", "12"), ("EUR5", "5"), ("+7", "7"), ("٣ kr", "٣ kr"),
    ],
)  # fmt: skip
def test_strip_currency_makes_a_plain_number(text: str, number: str) -> None:
    """Of every usual way to write an amount."""
    assert applied(Step("strip_currency"), [text]) == [number]


@pytest.mark.parametrize(
    "text", ["1.234,50", "0,123", "12,34", "1,2345", "1,234'567", "5-", "5%", "--5", "-(5)", "(5", "ABCDEF 5", "eur 5"]
)
def test_strip_currency_does_not_guess(text: str) -> None:
    """What may mean something else is left for the column's type to refuse."""
    assert applied(Step("strip_currency"), [text, "$5"]) == [text, "5"]


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
