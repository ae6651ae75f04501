"""One record's fields, by COPY's rules and nobody else's.

Arrow reads regular CSV as COPY does, and fast. Where a quote stands in the middle of a field, or an escape
character is in use, the two differ; such records come through here: split as PostgreSQL splits them
(``CopyReadAttributesCSV``), then written again in the one spelling that both read alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from loader.core.spec.model import CsvSpec


@dataclass(frozen=True, slots=True)
class Dialect:
    """The bytes that structure a file, in UTF-8.

    ``delimiter`` is one or several bytes; ``quote`` and ``escape`` are single bytes, None for none. A record that
    begins with ``comment`` is none; empty where there are no comments. ``transcoded``: the file's own bytes were
    others, and what could not be decoded stands in its text as `decode` spells it. ``skips_blank``: an empty line is no
    record either.
    """

    delimiter: bytes
    quote: int | None
    escape: int | None
    comment: bytes = b""
    transcoded: bool = False
    skips_blank: bool = False

    @classmethod
    def of(cls, csv: CsvSpec, *, transcoded: bool = False) -> Dialect:
        quote = ord(csv.quote) if csv.quote else None
        escape = (ord(csv.escape) if csv.escape else quote) if quote else None
        return cls(csv.delimiter.encode(), quote, escape, csv.comment.encode(), transcoded, csv.skip_blank_lines)

    @property
    def doubled(self) -> bool:
        """A quote inside quotes is written twice."""
        return self.escape == self.quote

    @property
    def is_plain(self) -> bool:
        """One byte delimits, quotes are doubled if there are any, and there are no comments: RFC 4180 says it all."""
        return len(self.delimiter) == 1 and not self.leaves_out and (self.quote is None or self.doubled)

    @property
    def leaves_out(self) -> bool:
        """Whether there may be lines that are no records."""
        return bool(self.comment) or self.skips_blank

    def is_left_out(self, data: bytes, position: int) -> bool:
        """Whether the line that begins there, outside quotes, is no record: a comment or, if so asked, blank."""
        if self.comment and data.startswith(self.comment, position):
            return True
        return self.skips_blank and data[position : position + 1] in (b"\n", b"\r")


class UnterminatedQuoteError(ValueError):
    """A quoted section is still open where the record ends."""


Field = tuple[bytes, bool]  # the value, and whether any part of it was quoted (then it is never NULL)


def split_record(record: bytes, dialect: Dialect) -> list[Field]:
    """The fields of one record, given without its line end.

    Raises UnterminatedQuoteError.
    """
    outside, inside = _tokens(dialect)
    fields: list[Field] = []
    value: list[bytes] = []
    quoted = False
    at = 0
    while (found := outside.search(record, at)) is not None:
        value.append(record[at : found.start()])
        at = found.end()
        if found[0] == dialect.delimiter:
            fields.append((b"".join(value), quoted))
            value, quoted = [], False
        else:
            at = _unquote(record, at, inside, value)
            quoted = True
    value.append(record[at:])
    fields.append((b"".join(value), quoted))
    return fields


def _unquote(record: bytes, at: int, inside: re.Pattern[bytes], value: list[bytes]) -> int:
    """Add to ``value`` what stands between quotes from ``at`` on, and return the place past the closing one."""
    while (found := inside.search(record, at)) is not None:
        value.append(record[at : found.start()])
        at = found.end()
        if len(found[0]) == 1:
            return at
        value.append(found[0][1:])
    raise UnterminatedQuoteError("a quoted field is still open at its end")


@lru_cache(maxsize=16)
def _tokens(dialect: Dialect) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """What ends a run of plain bytes outside quotes, and inside them."""
    delimiter = re.escape(dialect.delimiter)
    if dialect.quote is None:
        return re.compile(delimiter), re.compile(rb"(?!)")
    quote, escape = (re.escape(bytes([byte])) for byte in (dialect.quote, dialect.escape or dialect.quote))
    return re.compile(delimiter + b"|" + quote), re.compile(escape + b"[" + escape + quote + b"]|" + quote)


def join_record(fields: list[Field], dialect: Dialect) -> bytes:
    """The record in regular spelling: a field is quoted as a whole or not at all, inner quotes are doubled."""
    quote = b"" if dialect.quote is None else bytes([dialect.quote])
    return dialect.delimiter.join(
        quote + value.replace(quote, quote * 2) + quote if quoted else value for value, quoted in fields
    )
