"""A spec is input: whatever it holds, checking it takes a bounded time and memory, and ends in a sentence or two.

What would be seconds or gigabytes without a bound is told by its sentence, not by a clock.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from loader.core.errors import SpecError
from loader.core.spec.bounds import SPEC_LIMIT, toml_fault
from loader.core.spec.model import LISTED, LoadSpec, _glob_matches

HEAD = 'table = "t"\n'


def told(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        LoadSpec.from_toml_text(HEAD + text)
    assert len(str(caught.value)) < 10_000
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        ".".join("a" * 100_000) + " = 1",
        "[" + ".".join("a" * 100_000) + "]",
        "x = {" + " . ".join(["'a'"] * 50_000) + " = 1}",
        '"' + '"."'.join("a" * 100_000) + '" = 1',
        '# a comment\nb = \'\'\'\nx.y\'\'\'\nc = """"q"""""\n' + ".".join("abcdefghi") + "=1",
    ],
)
def test_a_key_of_many_parts_is_refused_before_it_is_parsed(text: str) -> None:
    """Python's parser takes memory by the square of their number."""
    assert "a dotted key of more than 8 parts" in told(text)


def test_dots_in_texts_comments_and_numbers_are_no_keys() -> None:
    dotted = ".".join("abcdefghijkl")
    text = f"{HEAD}# {dotted}\nsource = \"{dotted}\" # {dotted}\n[columns]\na = {{ default = '{dotted}' }}\n"
    assert toml_fault(text) is None
    assert LoadSpec.from_toml_text(text).source == dotted
    assert (
        toml_fault(
            f'a = """\n{dotted}"\n{dotted} \\""" """\nb = \'\'\'{dotted}\'\'\'\nc = [1.5, 2024-01-01T00:00:00.5]'
        )
        is None
    )


def test_a_spec_has_a_size(tmp_path: Path) -> None:
    """Looked at before it is read, parsed or checked."""
    assert "1,048,576" in told("#" * SPEC_LIMIT)
    path = tmp_path / "spec.toml"
    path.write_text(HEAD + "#" * SPEC_LIMIT)
    with pytest.raises(SpecError, match="longer than 1,048,576 bytes"):
        LoadSpec.from_toml(path)
    with pytest.raises(SpecError, match="more than 1,048,576 characters"):
        LoadSpec.from_dict({"table": "t", "source": "x" * (SPEC_LIMIT + 1)})


def test_nesting_ends_in_a_sentence() -> None:
    """Of a document, and of a mapping from an event, even one that holds itself."""
    assert "nested too deep" in told("x = " + "[" * 100_000)
    deep: dict[str, Any] = {"table": "t"}
    deep["columns"] = deep
    with pytest.raises(SpecError, match="nested more than 8 levels deep"):
        LoadSpec.from_dict(deep)
    with pytest.raises(SpecError, match="more than 200,000 values"):
        LoadSpec.from_dict({"table": "t", "key": [None] * 10**6})


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 10_000, "-" + "9" * 1500])
@pytest.mark.parametrize(
    "where",
    [
        "segment_mb = {}",
        "[rejects]\nmax_rows = {}",
        "[rejects]\nmax_ratio = {}",
        "[limits]\nmax_bytes = {}",
        "[columns]\na = {}",
        "[columns]\na = {{ default = {} }}",
        "[columns]\na = {{ value = {} }}",
        "[columns]\na = {{ transform = [{{ map = {{ x = {} }} }}] }}",
        "source = {}",
        "key = [{}]",
    ],
)
def test_a_number_of_too_many_digits_is_a_problem_like_any_other(where: str, number: str) -> None:
    assert told(where.format(number))


def test_numbers_of_a_mapping_are_judged_too() -> None:
    """They need not have come through a parser. Nor need keys be texts."""
    huge = 10**5000
    columns = {"a": {"default": huge}, "b": {"transform": [{"map": {huge: "x"}}]}, huge: "int"}
    with pytest.raises(SpecError) as caught:
        LoadSpec.from_dict(
            {"table": "t", "columns": columns, "segment_mb": huge, huge: 1, "csv": {"skip_lines": -huge}}
        )
    assert caught.value.problems
    with pytest.raises(SpecError):
        LoadSpec.from_dict({"table": "t", "limits": {"max_rows": float("inf"), "max_bytes": datetime.max}})


def test_columns_keys_pairs_and_steps_are_bounded() -> None:
    many = {f"c{number}": "int" for number in range(20_000)}
    with pytest.raises(SpecError, match="columns: are 20,000, and a table of PostgreSQL's can have 1,600"):
        LoadSpec.from_dict({"table": "t", "columns": many, "key": list(many)[:9000]})
    with pytest.raises(SpecError, match="key: has 20,000 entries, and may have 10,000"):
        LoadSpec.from_dict({"table": "t", "key": list(many)})
    with pytest.raises(SpecError, match="map: has 20,000 pairs, and may have 10,000"):
        LoadSpec.from_dict({"table": "t", "columns": {"a": {"transform": [{"map": many}]}}})
    with pytest.raises(SpecError, match="transform: has 5,000 steps, and may have 32"):
        LoadSpec.from_dict({"table": "t", "columns": {"a": {"transform": ["strip"] * 5000}}})
    with pytest.raises(SpecError, match="source: is 6,000 characters long, and may have 2,048"):
        LoadSpec.from_dict({"table": "t", "source": "**/" * 2000})


@pytest.mark.parametrize(
    "mapping",
    [
        {f"k{number}": 1 for number in range(100_000)},
        {"csv": {f"k{number}": 1 for number in range(100_000)}},
        {"columns": {f"c{number}": {"timezone": "Europe/Berlim", "tipe": "int"} for number in range(1600)}},
        {"columns": {f"c{number}": {"transform": ["stripp"] * 30} for number in range(1600)}},
    ],
)
def test_of_very_many_problems_some_are_told_and_the_rest_are_counted(mapping: dict[str, Any]) -> None:
    """Only those that are told cost a search for what was meant."""
    with pytest.raises(SpecError) as caught:
        LoadSpec.from_dict({"table": "t", **mapping})
    error = caught.value
    assert len(error.problems) == LISTED
    assert error.more > 1000
    assert str(error).endswith(f"… and {error.more:,} more")


def test_what_is_told_of_a_value_is_short() -> None:
    """And of a key."""
    long = "x" * 9000
    mapping = {
        "table": "t",
        "mode": long,
        long: 1,
        "csv": {"encoding": long, long: 1},
        "columns": {"a": {"type": long}},
    }
    with pytest.raises(SpecError) as caught:
        LoadSpec.from_dict(mapping)
    assert "x" * 61 not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("**/" * 600 + "x", "a/" * 500 + "x", True),
        ("**/*/" * 400 + "x", "a/" * 500 + "y", False),
        ("*a" * 1000, "a" * 1000, True),
        ("*?" * 1000 + "b", "a" * 1000, False),
        ("**/**/a.csv", "a.csv", True),
        ("x/**/**/a.csv", "x/y/z/a.csv", True),
        ("x**/a", "xy/a", True),
        ("x**/**/a", "xy/a", True),
        ("[ab]*/**", "a1/b/c", True),
    ],
)
def test_globs_with_very_many_wildcards_match_as_few_do(pattern: str, key: str, matches: bool) -> None:
    assert _glob_matches(pattern, key) is matches
