"""The documentation is true as far as a machine can tell: links, commands, settings, variables, columns."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from support.commands import run
from support.postgres import query

import loader
from loader.cli import _parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md"), *ROOT.glob("container/*.md")],
)
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(page.read_text("utf-8")) if found == language]


def section(page: Path, title: str) -> str:
    """What is under a heading, down to the next one of its level."""
    return re.split(r"^## ", page.read_text("utf-8").split(f"## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


# --- links


def prose(page: Path) -> str:
    return re.sub(r"`[^`\n]*`", lambda code: code[0].replace("[", "").replace("]", ""), FENCE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """Of the headings, as they are made where the repository is browsed and by the site alike; and explicit ones."""
    text = page.read_text("utf-8")
    plain = (re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.M))
    return {*plain, *re.findall(r'id="([^"]+)"', text)}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file or folder that is there and, where it is a page, to a heading of it."""
    for link in LINK.findall(prose(page)):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert {page for page in pages if not re.search(rf"[ :-] {re.escape(page)}$", navigation, re.M)} == set()


def test_files_that_pages_name_exist() -> None:
    for page in PAGES:
        if page.name != "CHANGELOG.md":
            for path in re.findall(
                r"`((?:loader|infra|bench|tests|container)/[\w/.-]+\.\w+)`", page.read_text("utf-8")
            ):
                assert (ROOT / path).exists(), f"{name(page)}: {path}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


# --- commands


def site_hooks() -> ModuleType:
    found = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_reference_has_every_command_and_option() -> None:
    """Command by command, the options that `--help` shows."""
    reference = "\n".join(site_hooks().command_reference(_parser()))
    sections = dict(re.findall(r"^### loader (.+?)\n(.*?)(?=^### |\Z)", reference, re.M | re.DOTALL))
    assert sections.keys() == {"load", "infer", "plan", "status", "rejects", "replay", "specs check", "local"}
    for command, body in sections.items():
        options = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", shown_help(command.split()))) - {"--help"}
        assert set(re.findall(r"^\| `(--[\w-]+)", body, re.MULTILINE)) == options, command


def shown_help(command: list[str]) -> str:
    parser = _parser()
    for word in command:
        (choices,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
        parser = choices.choices[word]
    return parser.format_help()


def test_the_page_of_commands_has_the_place_for_it() -> None:
    hooks = site_hooks()
    page = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")
    made = hooks.on_page_markdown(page)
    assert hooks.CLI_MARK not in made
    assert "### loader load" in made


def test_links_to_source_files_become_their_names_on_the_site() -> None:
    unlinked = site_hooks().unlinked
    assert unlinked("see [`loader/cli.py`](../loader/cli.py).") == "see `loader/cli.py`."
    assert unlinked("[the image](../../container/README.md#x)") == "the image (`container/README.md`)"
    assert unlinked("[lanes](../lanes.md)") == "[lanes](../lanes.md)"


def commands(page: Path) -> Iterator[list[str]]:
    for body in blocks(page, "sh"):
        for line in body.splitlines():
            found = re.match(r"(?:\.venv/bin/)?loader (?!=>)(.*)", line)
            if found:
                yield shlex.split(re.split(r" [>|] ", found[1])[0], comments=True)


def test_commands_of_every_page_are_commands() -> None:
    """Each parses: a command that was renamed is found here."""
    found = [(page, command) for page in PAGES for command in commands(page)]
    assert len(found) > 30
    for page, command in found:
        if command != ["--version"]:
            try:
                _parser().parse_args(command)
            except SystemExit:
                pytest.fail(f"{name(page)}: loader {shlex.join(command)}")


def test_targets_that_pages_name_are_made() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in PAGES:
        text = page.read_text("utf-8")
        lines = "\n".join(["", *blocks(page, "sh"), *re.findall(r"^ {4}(make .*)$", text, re.MULTILINE)])
        named = re.findall(r"`make ([a-z][a-z0-9-]*)", text) + re.findall(r"^make ([a-z][a-z0-9-]*)", lines, re.M)
        assert set(named) <= targets, name(page)


LOADER = re.compile(r"^loader (.+?)(?: > (\S+))?(?: +#.*)?$")


def carry_out(steps: str, folder: Path, **environment: str) -> str:
    """Run each command in turn, the shell's in a shell; what the loader printed."""
    printed, shell = "", ""
    for line in [*steps.splitlines(), "loader --version"]:
        command = LOADER.match(line)
        if command is None:
            shell += f"{line}\n"
            continue
        subprocess.run(["bash", "-eu", "-c", shell], cwd=folder, check=True)
        done, shell = run(*shlex.split(command[1]), cwd=folder, **environment), ""
        assert done.returncode == 0, done.stderr
        if command[2]:
            (folder / command[2]).write_text(done.stdout)
        printed += done.stdout
    return printed


@pytest.mark.without_ledger
@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "tutorial.md"], ids=name)
def test_the_first_steps_run_as_they_are_written(page: Path, dsn: str, tmp_path: Path) -> None:
    """Every command in turn, into one new database; what they print is what the page shows."""
    script = section(page, "Load a file") if page.name == "README.md" else page.read_text("utf-8")
    steps = "".join(body for language, body in FENCE.findall(script) if language == "sh")
    steps = re.sub(r"^(python3 -m venv|\. \.venv|pip install|loader local).*\n", "", steps, flags=re.MULTILINE)
    printed = carry_out(steps, tmp_path, LOADER_DSN=dsn)
    printed = re.sub(rf"(?:/private)?{re.escape(str(tmp_path))}/", "", printed)
    printed = re.sub(r"in [\d.]+ s", "in N s", printed)
    for shown in (body for language, body in FENCE.findall(script) if language == "console"):
        for line in re.sub(r"in [\d.]+ s", "in N s", shown).splitlines():
            if not re.match(r'embedded PostgreSQL|look inside|[{]| "sqlstate"', line):
                assert line in printed, f"{line!r} is not in\n{printed}"


# --- settings, variables, columns


def test_the_whole_spec_is_a_spec() -> None:
    (whole, *_) = blocks(ROOT / "docs" / "reference" / "spec.md", "toml")
    loader.LoadSpec.from_toml_text(whole)


def test_the_whole_spec_has_every_setting() -> None:
    """Each that a spec holds beside the defaults is in the example; so a new one is documented."""
    (whole, *_) = blocks(ROOT / "docs" / "reference" / "spec.md", "toml")
    shown = tomllib.loads(whole)
    for setting, value in loader.LoadSpec.from_dict({"table": "t"}).to_dict().items():
        assert setting in shown
        if isinstance(value, dict):
            assert value.keys() <= shown[setting].keys(), setting


@pytest.mark.parametrize("language", ["toml", "python"])
def test_examples_can_be_read(language: str) -> None:
    read = {"toml": tomllib.loads, "python": ast.parse}[language]
    examples = [(page, body) for page in PAGES for body in blocks(page, language)]
    assert examples
    for _, body in examples:
        read(body)


def test_every_variable_is_in_the_reference() -> None:
    """Each that the code reads, and no other."""
    page = (ROOT / "docs" / "reference" / "environment.md").read_text("utf-8")
    code = "".join(path.read_text("utf-8") for path in (ROOT / "loader").rglob("*.py"))
    read = set(re.findall(r'"(LOADER_[A-Z_]+)"', code)) | set(re.findall(r"\$(LOADER_[A-Z_]+)", code))
    assert set(re.findall(r"`(LOADER_[A-Z_]+)`", page)) == read


@pytest.mark.parametrize("table", ["loads", "rejects"])
def test_the_ledger_has_the_columns_of_the_reference(table: str, dsn: str) -> None:
    """In their order."""
    page = ROOT / "docs" / "reference" / "ledger.md"
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum"
    there = [row[0] for row in query(dsn, columns, f"loader.{table}")]
    assert re.findall(r"^\| `(\w+)` \|", section(page, f"loader.{table}").split("| state |")[0], re.MULTILINE) == there
