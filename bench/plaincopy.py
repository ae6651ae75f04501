r"""What a loader's spec says, in the words of ``psql \copy``; or which of it psql has no words for."""

from __future__ import annotations

import csv
import io
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loader.core.spec.model import CsvSpec, LoadSpec

UNPACK = {b"\x1f\x8b": "gzip -dc", b"\x28\xb5\x2f\xfd": "zstd -dc", b"BZh": "bzip2 -dc"}
"""The program that unpacks a file, by its first bytes."""

HEAD = 1 << 20
"""Bytes in which the header must end."""


class NoWordsError(Exception):
    r"""``\copy`` cannot load this file as the spec says; the message says why."""


@dataclass(frozen=True, slots=True)
class PlainCopy:
    r"""``\copy`` of ``file`` into a table that has these columns."""

    file: Path
    spec: LoadSpec
    table_columns: Sequence[str]

    def statement(self, table: str) -> str:
        """Raises NoWordsError."""
        if lacks := list(_lacking(self.spec)):
            raise NoWordsError(f"psql has no words for {', '.join(lacks)} in the spec")
        return rf"\copy {table}{self._columns()} from {self._source()} ({', '.join(_options(self.spec.csv))})"

    def _source(self) -> str:
        program = unpacker(self.file)
        if program is None:
            return _literal(str(self.file))
        if shutil.which(program.split()[0]) is None:
            raise NoWordsError(f"the file is compressed, and there is no {program.split()[0]} here")
        return f"program {_literal(f'{program} {shlex.quote(str(self.file))}')}"

    def _columns(self) -> str:
        """The table's columns in the order of the file's; psql can neither leave out a field nor take one twice."""
        if not self.spec.csv.header:
            return ""
        targets = {column.source or column.name: column.name for column in self.spec.columns}
        known = {name.strip().lower(): name for name in self.table_columns}
        columns = []
        for name in header(self.file, self.spec.csv):
            column = targets.get(name) or known.get(name.strip().lower())
            if column is None:
                raise NoWordsError(f'psql cannot leave out a field, and "{name}" has no column')
            columns.append(column)
        return f" ({', '.join(map(_name, columns))})"


def unpacker(file: Path) -> str | None:
    """The command that unpacks it, None for a plain file."""
    with file.open("rb") as stream:
        magic = stream.read(4)
    return next((program for first, program in UNPACK.items() if magic.startswith(first)), None)


def header(file: Path, dialect: CsvSpec) -> list[str]:
    """The first record's fields. Raises NoWordsError where they cannot be read."""
    command = unpacker(file)
    with file.open("rb") as stream:
        if command is None:
            head = stream.read(HEAD)
        else:
            with subprocess.Popen(command.split(), stdin=stream, stdout=subprocess.PIPE) as unpacked:
                assert unpacked.stdout is not None
                head = unpacked.stdout.read(HEAD)
                unpacked.kill()
    try:
        text = head.decode(dialect.encoding, "ignore").removeprefix("\ufeff")
    except LookupError as error:
        raise NoWordsError(f"the header cannot be read: {error}") from error
    quoting = {"quotechar": dialect.quote} if dialect.quote else {"quoting": csv.QUOTE_NONE}
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=dialect.delimiter, **quoting), [])


def _lacking(spec: LoadSpec) -> Iterator[str]:
    """Settings that ask for more than COPY's options."""
    dialect = spec.csv
    asked = {
        "delimiter": len(dialect.delimiter) != 1,
        "no quote": not dialect.quote,
        "header": dialect.header == "auto" or dialect.header_rows != 1,
        "skip_lines": dialect.skip_lines,
        "skip_footer": dialect.skip_footer,
        "comment": dialect.comment,
        "several texts for null": len(dialect.null) != 1,
        "ragged": dialect.ragged != "reject",
        "filter": spec.transform.filter,
        "python": spec.transform.python,
    }
    yield from (name for name, there in asked.items() if there)
    for column in spec.columns:
        more = {
            "transform": column.transform,
            "format": column.format,
            "timezone": column.timezone,
            "default": column.default,
            "value": column.value,
        }
        yield from (f"{name} of {column.name}" for name, there in more.items() if there)


def _options(dialect: CsvSpec) -> Iterator[str]:
    yield "format csv"
    yield f"header {'true' if dialect.header else 'false'}"
    yield f"delimiter {_literal(dialect.delimiter)}"
    yield f"quote {_literal(dialect.quote)}"
    yield f"escape {_literal(dialect.escape)}"
    yield f"null {_literal(dialect.null[0])}"
    yield f"encoding {_literal(dialect.encoding)}"


def _literal(text: str) -> str:
    """In quotes, as SQL and psql's own commands have them."""
    return "'" + text.replace("'", "''") + "'"


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
