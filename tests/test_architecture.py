"""docs/architecture.md says of each sentence of the drawing where it is built and which test holds it: it is so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROW = re.compile(r"^\| (?!sentence|---)(.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def rows() -> list[tuple[str, list[str], list[str]]]:
    """Sentence, files, tests."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    return [
        (said, re.findall("`(.+?)`", where), re.findall("`(.+?)`", tests)) for said, where, tests in ROW.findall(text)
    ]


def there_are_tests() -> set[str]:
    """Every test function, whose docstring or body is more than nothing."""
    found = set()
    for path in (ROOT / "tests").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(isinstance(each, ast.Assert) for each in ast.walk(node)):
                found.add(node.name)
    return found


def test_every_sentence_is_built_and_held() -> None:
    """By files that are there, and by tests that are there and assert something."""
    there = there_are_tests()
    assert len(rows()) >= 30
    for said, files, tests in rows():
        assert files, said
        assert tests, said
        assert all((ROOT / name).exists() for name in files), said
        assert set(tests) <= there, (said, set(tests) - there)


def test_every_part_is_in_the_table() -> None:
    """A new file of infra/ is there for a reason that somebody can read."""
    named = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    plumbing = {"__init__", "app", "synth"}
    parts = {path.stem for path in (ROOT / "infra").glob("*.py")} - plumbing
    assert {part for part in parts if f"{part}.py" not in named} == set()
