"""Text of others, on a line of a log or a terminal."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.aws import telemetry
from loader.cli import main
from loader.core.display import printable, to_json
from loader.core.errors import LoaderError, SpecError, UsageError
from loader.core.spec.model import LoadSpec

ANY = st.text(st.characters(exclude_categories=()), max_size=50)  # halves of surrogate pairs, too
UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Köln 日本 😀 {}%", "Köln 日本 😀 {}%"),
        ("a\x1b[31mred\x07", "a\\x1b[31mred\\x07"),
        ("abc\u202efdp.csv", "abc\\u202efdp.csv"),
        ("in\u200bvisible\ufeff\u2066", "in\\u200bvisible\\ufeff\\u2066"),
        ("a\r\n\tb\x85\u2028", "a\\r\\n\\tb\\x85\\u2028"),
        ("half \ud800", "half \\ud800"),
        ("tag \U000e0041, filler \u3164", "tag \\U000e0041, filler \\u3164"),
    ],
)
def test_what_is_not_safe_is_spelled(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_long_text_is_cut_and_its_length_is_told() -> None:
    assert printable("x" * 10_485_760, 200) == "x" * 200 + "… (10,485,760 characters)"
    assert printable("x" * 200, 200) == "x" * 200


@given(ANY)
def test_nothing_unsafe_is_left(text: str) -> None:
    """And a line of JSON says the same as the JSON that it was made of."""
    assert not {unicodedata.category(character) for character in printable(text)} & UNSAFE
    line = to_json({"text": text, text: 1})
    assert not {unicodedata.category(character) for character in line} & UNSAFE
    assert json.loads(line) == {"text": text, text: 1}
    line.encode()


@given(ANY)
def test_an_error_can_be_shown(text: str) -> None:
    """Whatever it quotes; a message of several lines keeps them."""
    assert str(UsageError(text)) == printable(text)
    assert str(SpecError([text, "second"])).split("\n")[-1] == "  - second"
    str(LoaderError(text)).encode()


def test_a_huge_unknown_key_is_not_echoed_whole() -> None:
    """Of a spec."""
    with pytest.raises(SpecError) as caught:
        LoadSpec.from_dict({"table": "t", "k\u202e" * 250_000: 1})
    assert len(str(caught.value)) < 1000
    assert "…" in str(caught.value)
    assert "\u202e" not in str(caught.value)


def test_a_terminal_is_not_written_to_by_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a file that is not there, say."""
    assert main(["infer", str(tmp_path / "no\x1b[31m\u202e.csv")]) != 0
    err = capsys.readouterr().err
    assert "no\\x1b[31m\\u202e.csv" in err
    assert "\x1b" not in err


def test_a_line_of_the_log_is_safe(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of objects are in it as they are, and nothing of them acts on a terminal; errors are cut."""
    telemetry.log("ignored", source="s3://b/a\u202efdp\x7f\ud800ü.csv")
    telemetry.tell_failure(UsageError("x" * 10_000_000))
    first, second = capsys.readouterr().out.splitlines()
    assert "a\\u202efdp\\u007f\\ud800ü.csv" in first
    assert json.loads(first)["source"] == "s3://b/a\u202efdp\x7f\ud800ü.csv"
    assert len(second) < 10_000
