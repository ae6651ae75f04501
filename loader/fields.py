"""One record's fields, by COPY's rules and nobody else's.

Arrow reads regular CSV as COPY does, and fast. Where a quote stands in the middle of a field, or an escape
character is in use, the two differ; such records come through here: split as PostgreSQL splits them
(``CopyReadAttributesCSV``), then written again in the one spelling that both read alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from loader.spec import CsvSpec


@dataclass(frozen=True, slots=True)
class Dialect:
    """The bytes that structure a file, each a single byte; ``quote`` and ``escape`` are None for none."""

    delimiter: int
    quote: int | None
    escape: int | None

    @classmethod
    def of(cls, csv: CsvSpec) -> Dialect:
        quote = ord(csv.quote) if csv.quote else None
        return cls(ord(csv.delimiter), quote, (ord(csv.escape) if csv.escape else quote) if quote else None)

    @property
    def doubled(self) -> bool:
        """A quote inside quotes is written twice."""
        return self.escape == self.quote


class UnterminatedQuoteError(ValueError):
    """A quoted section is still open where the record ends."""


Field = tuple[bytes, bool]  # the value, and whether any part of it was quoted (then it is never NULL)


def split_record(record: bytes, dialect: Dialect) -> list[Field]:
    """The fields of one record, given without its line end.

    Raises UnterminatedQuoteError.
    """
    fields: list[Field] = []
    value = bytearray()
    quoted = inside = False
    at, end = 0, len(record)
    while at < end:
        byte = record[at]
        if inside:
            following = record[at + 1] if at + 1 < end else None
            if byte == dialect.escape and following is not None and following in (dialect.escape, dialect.quote):
                value.append(following)
                at += 1
            elif byte == dialect.quote:
                inside = False
            else:
                value.append(byte)
        elif byte == dialect.delimiter:
            fields.append((bytes(value), quoted))
            value.clear()
            quoted = False
        elif byte == dialect.quote:
            inside = quoted = True
        else:
            value.append(byte)
        at += 1
    if inside:
        raise UnterminatedQuoteError("a quoted field is still open at its end")
    fields.append((bytes(value), quoted))
    return fields


def join_record(fields: list[Field], dialect: Dialect) -> bytes:
    """The record in regular spelling: a field is quoted as a whole or not at all, inner quotes are doubled."""
    quote = b"" if dialect.quote is None else bytes([dialect.quote])
    return bytes([dialect.delimiter]).join(
        quote + value.replace(quote, quote * 2) + quote if quoted else value for value, quoted in fields
    )
