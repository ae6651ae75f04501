"""What MkDocs runs while it builds the site: writes the command line's reference, and unlinks source files.

Pages link to files of the repository, so that they work where the repository is browsed. The site holds only docs/;
there such a link becomes the file's name.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any

CLI_MARK = "<!-- commands -->"
_LINK_OUT = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?!guides/|reference/|[a-z-]+\.md)([^)#\s]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page's text as the site shows it."""
    if CLI_MARK in markdown:
        from loader.cli import _parser

        markdown = markdown.replace(CLI_MARK, "\n".join(command_reference(_parser())))
    return unlinked(markdown)


def unlinked(markdown: str) -> str:
    """Links to files outside docs/ as these files' names."""
    return _LINK_OUT.sub(lambda link: link[1] if "`" in link[1] else f"{link[1]} (`{link[2]}`)", markdown)


def command_reference(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Markdown for each command of the parser: its sentence, its usage, its arguments."""
    for name, command, sentence in _commands(parser):
        usage = " ".join(command.format_usage().removeprefix("usage: ").split())
        yield from (f"### {name}", "", f"{sentence[:1].upper()}{sentence[1:]}.", "", "```text", usage, "```", "")
        yield from _arguments(command)


def _commands(
    parser: argparse.ArgumentParser, sentence: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """The commands that can be run: the leaves of the tree of parsers."""
    choices = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    if not choices:
        yield parser.prog, parser, sentence
    for each in choices:
        sentences = {choice.dest: choice.help or "" for choice in each._choices_actions}
        for name, command in each.choices.items():
            yield from _commands(command, sentences[name])


def _arguments(command: argparse.ArgumentParser) -> Iterator[str]:
    yield from ("| argument | meaning |", "|---|---|")
    for action in command._actions:
        if not isinstance(action, argparse._HelpAction):
            yield f"| `{_written(action)}` | {_meaning(action)} |"
    yield ""


def _written(action: argparse.Action) -> str:
    """As a user types it."""
    value = (
        str(action.metavar or action.dest.upper()) if action.choices is None else "{" + ",".join(action.choices) + "}"
    )
    if not action.option_strings:
        return value.replace("|", "or")
    return ", ".join(action.option_strings) + ("" if action.nargs == 0 else f" {value}")


def _meaning(action: argparse.Action) -> str:
    meaning = (action.help or "").replace("|", "\\|")
    is_worth_telling = action.default not in (None, False, argparse.SUPPRESS) and "default" not in meaning
    return f"{meaning}; default: `{action.default}`".lstrip("; ") if is_worth_telling else meaning
