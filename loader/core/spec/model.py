"""`LoadSpec`: everything a load is told, validated whole before anything is read, then frozen.

A spec may come from a bucket, so it is input, not code: nothing in it is evaluated, names are checked to be
names, and every mistake is found in one pass and told in one `SpecError`. Importing this module costs next to
nothing: what only some specs need (the filter's grammar, time zones) is imported where such a spec is read.
"""

from __future__ import annotations

import json
import os
import re
import string
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date, datetime, time
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from hashlib import sha256
from typing import Literal, cast, get_args

from loader.core.display import SHOWN, printable, to_toml
from loader.core.errors import SpecError
from loader.core.pgtypes import COLUMN_LIMIT, NAME_LIMIT, NEAREST
from loader.core.spec.bounds import DIGITS_LIMIT, MOST, TEXT_LIMIT, is_long_number, mapping_fault, read_size, toml_fault
from loader.core.spec.text import read_toml
from loader.core.stored import StoredFormError
from loader.core.suggestions import did_you_mean, nearest

Mode = Literal["append", "replace", "merge"]
Compression = Literal["auto", "none", "gzip", "zstd", "bz2"]
Unknown = Literal["ignore", "error", "add"]
Versions = Literal["snapshot", "delta"]
StepArguments = tuple[str | tuple[str, str], ...]

SEGMENT_MB = 32
"""MiB. Measured on lineitem (`bench.segments`): 4 to 64 take the same time within noise, so it is what may be read
again after a fault that counts."""

LISTED = 20
"""Problems of a spec that are told one by one."""

LIST_LIMIT = 10_000
"""Entries of a list, and pairs of a map."""

SOURCE_LIMIT = 2048
"""Characters of ``source``. A key of S3 has 1,024 bytes at most."""

STEPS_LIMIT = 32
"""Steps of one column's ``transform``: each goes over all its values."""

PLACEHOLDERS = ("bucket", "key", "version_id", "load_id", "record_number")
"""What a column's ``value`` may hold in braces."""


@dataclass(frozen=True, slots=True)
class CsvSpec:
    """``[csv]``: the dialect. Defaults are RFC 4180 as PostgreSQL's ``COPY … (FORMAT csv)`` reads it."""

    delimiter: str = ","  # one or several characters; "auto": see `sniff`
    quote: str = '"'  # "" for none
    escape: str = '"'  # the quote itself (doubled), or a character such as a backslash
    header: bool | Literal["auto"] = True
    skip_lines: int = 0  # physical lines before the header, or before the first record
    encoding: str = "utf-8"  # a codec's name; "auto": see `encoding_guess.find_charset`
    compression: Compression = "auto"
    null: tuple[str, ...] = ("",)
    ragged: Literal["reject", "pad"] = "reject"
    header_rows: int = 1  # records that the header takes; a column's name is what stands in them, joined by blanks
    skip_footer: int = 0  # physical lines at the end of the file
    comment: str = ""  # a record that begins with this text, outside quotes, is a comment
    skip_blank_lines: bool = False  # else each is a record, of one field
    trailing_delimiter: bool = False  # each record ends with a delimiter, after which there is no field
    decimal: str = "."  # one character, of numbers
    thousands: str = ""  # one character between groups of three digits, "" for none
    dates: Literal["", "dmy", "mdy"] = ""  # the order of day and month where a column's format is to be inferred
    sniff: bool = False  # find what is at its default here, as a load without a spec does


@dataclass(frozen=True, slots=True)
class RejectSpec:
    """``[rejects]``: above either limit the load fails and changes nothing."""

    max_rows: int = 1000
    max_ratio: float = 0.01


@dataclass(frozen=True, slots=True)
class LimitSpec:
    """``[limits]``: what a file may cost; a load that goes over either fails and changes nothing. A deployment may have
    lower ones, see `limits`."""

    max_bytes: int = 100 * 10**9  # of text, after decompression and in UTF-8
    max_rows: int = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Step:
    """One link of a column's ``transform`` chain: its name and its arguments.

    ``Step("strip")``, ``Step("null_if", ("-", "n/a"))``, ``Step("replace", ("a", "b"))``,
    ``Step("map", (("Y", "true"), ("N", "false")))``.
    """

    name: str
    args: StepArguments = ()


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """``[columns]``: one target column.

    ``type`` is PostgreSQL's name of the type, or None where the target's catalog is to say. ``source`` is
    the header's name for it (``from``), by default the column's own.
    """

    name: str
    type: str | None = None
    source: str | None = None
    format: str | None = None
    timezone: str | None = None
    transform: tuple[Step, ...] = ()
    default: str | None = None
    value: str | None = None


@dataclass(frozen=True, slots=True)
class TransformSpec:
    """``[transform]``: over whole records. ``filter`` is the text of a condition, ``python`` names a hook."""

    filter: str | None = None
    python: str | None = None


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """Everything a load is told. Make one with `from_toml` or `from_dict`; both check it whole."""

    table: str
    source: str | None = None
    mode: Mode = "append"
    key: tuple[str, ...] = ()
    csv: CsvSpec = field(default_factory=CsvSpec)
    rejects: RejectSpec = field(default_factory=RejectSpec)
    limits: LimitSpec = field(default_factory=LimitSpec)
    columns: tuple[ColumnSpec, ...] = ()
    unknown: Unknown = "ignore"  # columns of the file that the table does not have: add makes nullable ones
    segment_mb: int = SEGMENT_MB  # MiB of text after which what is staged is committed with a checkpoint
    transform: TransformSpec = field(default_factory=TransformSpec)
    versions: Versions | None = None  # see `each_version`; None where it is what the mode stands for by itself

    @property
    def each_version(self) -> Versions:
        """What a version of an object holds: "snapshot", all there is, so that it replaces the versions before it, and
        one that comes after a newer one is superseded; "delta", records of its own, so that each takes effect."""
        return self.versions or _usual_versions(self.mode)

    @property
    def segment_size(self) -> int:
        """Bytes of text that are staged between two checkpoints."""
        return self.segment_mb << 20

    @classmethod
    def from_dict(
        cls,
        mapping: Mapping[str, object],
        *,
        origin: str = "spec",
        table: str | None = None,
        mode: str | None = None,
        key: Sequence[str] | None = None,
    ) -> LoadSpec:
        """The spec that ``mapping`` holds, in the shape of the TOML file.

        ``table``, ``mode`` and ``key`` win over the mapping's own. ``origin`` is what messages call the spec.
        Raises SpecError with every problem found.
        """
        if not isinstance(mapping, Mapping):
            raise SpecError([f"must be a table of settings, not {_shown(mapping)}"], origin)
        overrides = {"table": table, "mode": mode, "key": key if key is None else list(key)}
        given = {name: value for name, value in overrides.items() if value is not None}
        mapping = {**mapping, **given}
        if fault := mapping_fault(mapping):
            raise SpecError([fault], origin)
        problems = _Problems()
        spec = _read_spec(_Section(mapping, _TOP, problems))
        if problems.found:
            raise SpecError(problems.found, origin, more=problems.more)
        return spec

    @classmethod
    def sniffed(
        cls,
        *,
        table: str,
        mode: str | None = None,
        key: Sequence[str] | None = None,
        delimiter: str | None = None,
        header: bool | None = None,
        encoding: str | None = None,
        null: str | Sequence[str] | None = None,
        unknown: str | None = None,
    ) -> LoadSpec:
        """The spec of a load without one: what is not given is found by the beginning of the file.

        Raises SpecError with every problem found.
        """
        given = {"delimiter": delimiter, "header": header, "encoding": encoding, "null": _listed(null)}
        mapping = {"csv": {"sniff": True, **_given(given)}, **_given({"unknown": unknown})}
        return cls.from_dict(mapping, origin="options", table=table, mode=mode, key=key)

    def with_options(
        self,
        *,
        delimiter: str | None = None,
        header: bool | None = None,
        encoding: str | None = None,
        null: str | Sequence[str] | None = None,
        unknown: str | None = None,
    ) -> LoadSpec:
        """The spec with what is given in place of its own word. Raises SpecError with every problem found."""
        given = _given({"delimiter": delimiter, "header": header, "encoding": encoding, "null": _listed(null)})
        if not given and unknown is None:
            return self
        mapping = self.to_dict()
        csv = {**plain_csv(self.csv), **given}
        return LoadSpec.from_dict({**mapping, "csv": csv, **_given({"unknown": unknown})}, origin="options")

    @classmethod
    def from_stored(cls, mapping: Mapping[str, object], *, origin: str) -> LoadSpec:
        """The spec that `to_dict` gave, in this process or in one of another version of the program.

        Settings that this version does not know are ignored where they say nothing (null, false, 0 or empty). Raises
        StoredFormError (retryable) for others, because they may decide what a file becomes, and SpecError as
        `from_dict` does.
        """
        told, unknown = _of_this_version(mapping) if isinstance(mapping, Mapping) else (mapping, [])
        if unknown:
            raise StoredFormError(
                f'{origin}: has the setting "{unknown[0]}", which this version of the loader does not know; '
                "a newer version stored it and can read it"
            )
        return cls.from_dict(told, origin=origin)

    @classmethod
    def from_toml(
        cls,
        path: str | os.PathLike[str],
        *,
        table: str | None = None,
        mode: str | None = None,
        key: Sequence[str] | None = None,
    ) -> LoadSpec:
        """The spec in the TOML file at ``path``, as `from_dict` reads it. Raises SpecError."""
        origin = os.fspath(path)
        return cls.from_toml_text(read_toml(path), origin=origin, table=table, mode=mode, key=key)

    @classmethod
    def from_toml_text(
        cls,
        text: str,
        *,
        origin: str = "spec",
        table: str | None = None,
        mode: str | None = None,
        key: Sequence[str] | None = None,
    ) -> LoadSpec:
        """The spec in a TOML document, as `from_dict` reads it. Raises SpecError."""
        if fault := toml_fault(text):
            raise SpecError([fault], origin)
        try:
            mapping = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # a plain ValueError: a number of more than 4,300 digits
            cause = "nested too deep" if isinstance(error, RecursionError) else _cut(str(error), 200)
            raise SpecError([f"not valid TOML: {cause}"], origin) from error
        return cls.from_dict(mapping, origin=origin, table=table, mode=mode, key=key)

    @property
    def table_name(self) -> tuple[str | None, str]:
        """The table's schema, None where the search path is to find it, and its name, both without quotes."""
        return split_table(self.table)

    @property
    def names_exactly(self) -> bool:
        """Whether the table's name is in quotes, so that its upper and lower case is meant."""
        return self.table.endswith('"')

    @property
    def source_bucket(self) -> str | None:
        """The bucket that ``source`` names, None where any will do."""
        return self._source_parts[0]

    @property
    def source_pattern(self) -> str:
        """The glob over keys that ``source`` holds, without a bucket; "" where there is no ``source``."""
        return self._source_parts[1]

    @property
    def _source_parts(self) -> tuple[str | None, str]:
        source = self.source or ""
        if not source.startswith("s3://"):
            return None, source
        bucket, _, pattern = source.removeprefix("s3://").partition("/")
        return bucket, pattern

    def matches(self, key: str) -> bool:
        """Whether ``source`` stands for the object key or path ``key``; never, where there is no ``source``.

        ``*``, ``?``, ``[…]`` and ``[!…]`` stay within one level of the path; ``**`` goes through levels, and
        ``**/`` also stands for none. Of an ``s3://`` address only the key is compared.
        """
        return self.source is not None and _glob_matches(self._source_parts[1], key)

    def to_dict(self) -> dict[str, object]:
        """The spec as plain values that JSON and TOML can carry, defaults included; `from_dict` reads it back."""
        mapping: dict[str, object] = {
            "source": self.source,
            "table": self.table,
            "mode": self.mode,
            "key": list(self.key),
            "csv": plain_csv(self.csv),
            "rejects": asdict(self.rejects),
            # a process of an earlier version, which does not know them, can read the spec of a load in progress
            "limits": asdict(self.limits) if self.limits != LimitSpec() else None,
            "unknown": self.unknown,
            "segment_mb": self.segment_mb,
            "columns": {column.name: _plain_column(column) for column in self.columns},
            "transform": _given(asdict(self.transform)),
            "versions": self.versions,
        }
        return _given(mapping)

    def to_toml(self) -> str:
        """The spec as a TOML document, without what the defaults say anyway; `from_toml_text` reads it back."""
        mapping = self.to_dict()
        mapping["csv"] = _other_than(self.csv, CsvSpec(escape=self.csv.quote))
        mapping["rejects"] = _other_than(self.rejects, RejectSpec())
        mapping["limits"] = _other_than(self.limits, LimitSpec())
        settings = {name: value for name, value in mapping.items() if not isinstance(value, dict)}
        for name in ("unknown", "segment_mb"):
            if getattr(self, name) == getattr(_DEFAULTS, name):
                del settings[name]
        lines = [_toml_line(name, value) for name, value in settings.items() if value != []]
        for name, value in mapping.items():
            if isinstance(value, dict) and value:
                lines += ["", f"[{name}]", *(_toml_line(inner, each) for inner, each in value.items())]
        return "\n".join(lines) + "\n"

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of all that decides what a file becomes: two specs that differ only in ``source`` or
        ``segment_mb`` have the same."""
        return _fingerprint(self, repr(self))


@lru_cache(maxsize=64)
def _fingerprint(spec: LoadSpec, _spelled: str) -> str:
    """``_spelled``: specs that are equal may be spelled differently, such as 1 and 1.0, and then differ in this."""
    # in the order of `to_dict`, not sorted: without a header, the order of the columns is their meaning
    decisive = replace(spec, source=None, segment_mb=SEGMENT_MB)
    canonical = json.dumps(decisive.to_dict(), separators=(",", ":"))
    return sha256(canonical.encode()).hexdigest()


# --- words: names of tables and types, globs, suggestions


_QUOTED = r'"(?:[^"\0]|"")+"'
_TABLE_PART = rf'(?:{_QUOTED}|[^".\s](?:[^".]*[^".\s])?)'
_TABLE = re.compile(rf"(?:(?P<schema>{_TABLE_PART})\.)?(?P<name>{_TABLE_PART})")


def split_table(text: str) -> tuple[str | None, str]:
    """``public."My Table"`` → ``("public", "My Table")``; a name without quotes is taken as it is written.

    Raises ValueError, in one sentence, for a text that is no such name.
    """
    match = _TABLE.fullmatch(text)
    if match is None:
        raise ValueError(f"{_shown(text)} is not a table's name; write name or schema.name, each in quotes if need be")
    schema, name = (_unquoted(part) if part else None for part in match.group("schema", "name"))
    assert name is not None
    for part in (schema, name):
        if part is not None and (fault := _name_fault(part)):
            raise ValueError(fault)
    return schema, name


def reserved_schema(schema: str | None) -> str | None:
    """Why no load may write into ``schema``, in any case of its letters; None where it may."""
    folded = (schema or "").lower()
    if folded == "loader":
        return 'the schema "loader" holds the ledger, which only the loader itself writes; choose another schema'
    if folded.startswith("pg_") or folded == "information_schema":
        return f"the schema {_shown(schema)} is PostgreSQL's own; choose another schema"
    return None


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _name_fault(name: str) -> str | None:
    """What keeps ``name`` from being the name of a table or a column."""
    if not name:
        return "a name must not be empty"
    if len(name.encode("utf-8", "surrogatepass")) > NAME_LIMIT:
        return f"the name {_shown(name)} is longer than PostgreSQL's {NAME_LIMIT} bytes"
    return _text_fault(name)


def _text_fault(text: str) -> str | None:
    """What keeps ``text`` from being a text of PostgreSQL's, or of TOML's."""
    if "\0" in text:
        return "must not hold a NUL character"
    if re.search("[\ud800-\udfff]", text):
        return "must not hold half of a surrogate pair"
    return None


# `Typename` of PostgreSQL's grammar, cut down to what a column can be declared as
_IDENTIFIER = rf"(?:[A-Za-z_][A-Za-z0-9_$]*|{_QUOTED})"
_MODIFIERS = r"(?: *\( *-?[0-9]{1,9}(?: *, *-?[0-9]{1,9})? *\))?"
_SPAN = (
    "year(?: +to +month)?|month|day(?: +to +(?:hour|minute|second))?"
    "|hour(?: +to +(?:minute|second))?|minute(?: +to +second)?|second"
)
_TYPE_FORMS = (
    "double +precision",
    rf"(?:national +)?(?:character|char)(?: +varying)?{_MODIFIERS}",
    rf"(?:nchar|bit) +varying{_MODIFIERS}",
    rf"(?:timestamp|time){_MODIFIERS} +with(?:out)? +time +zone",
    rf"interval +(?:{_SPAN}){_MODIFIERS}",
    rf"{_IDENTIFIER}(?:\.{_IDENTIFIER})?{_MODIFIERS}",
)
_ARRAY = r"(?: +array(?: *\[[0-9]{1,9}\])?|(?: *\[[0-9]{0,9}\])*)"
_TYPE = re.compile(rf"(?:{'|'.join(_TYPE_FORMS)}){_ARRAY}", re.ASCII | re.IGNORECASE)
_SERIAL = re.compile(r"(?:pg_catalog\.)?(?P<size>small|big)?serial(?P<bytes>[248])?(?![A-Za-z0-9_$.]).*", re.IGNORECASE)


def is_type_name(text: str) -> bool:
    """Whether ``text`` has the form of a type's name, and so can be nothing else: no statement, no expression.

    Whether there is such a type is for the database to say.
    """
    return _TYPE.fullmatch(text) is not None


def _type_fault(text: str) -> str | None:
    """What keeps ``text`` from being the name of a column's type, whatever the database holds."""
    if serial := _SERIAL.fullmatch(text):
        size = (serial["size"] or {"2": "small", "8": "big"}.get(serial["bytes"] or "", "")).lower()
        integer = {"small": "smallint", "big": "bigint"}.get(size, "integer")
        return (
            f'{_shown(text)} is a column with a sequence of its own, not a type; write "{integer}", or create the '
            f'table first, with "{integer} GENERATED BY DEFAULT AS IDENTITY", and leave the column out of the spec'
        )
    if is_type_name(text):
        return None
    if is_type_name(text.strip()):
        return f"{_shown(text)} has blanks around it; write {_shown(text.strip())}"
    return f'{_shown(text)} is not a type\'s name; write one as PostgreSQL does, such as "numeric(10,2)" or "text[]"'


_DATED = frozenset({"date", "timestamp", "timestamp without time zone", "timestamptz", "timestamp with time zone"})
_CLOCKED = frozenset({"time", "time without time zone"})


_ZONE_LENGTH = 255
"""Characters of a time zone's name to PostgreSQL (TZ_STRLEN_MAX)."""


def _is_built_in(base: str) -> bool:
    return base in _DATED | _CLOCKED | _UNDATED or base.endswith(("]", "with time zone"))


_WORDS = """
    bigint bit bytea char character float inet interval json jsonb name oid real smallint timetz uuid varchar xml
"""
_UNDATED = frozenset([*NEAREST, *_WORDS.split(), "character varying", "double precision"]) - _DATED
"""Names of types that are neither date nor time, or of none."""


def _base_type(type_name: str) -> str:
    """``pg_catalog.TIMESTAMP(3) with time zone`` → ``timestamp with time zone``, and ``"date"`` → ``date``."""
    words = re.sub(r"\(.*?\)", " ", type_name.lower().replace('"', "").removeprefix("pg_catalog.")).split()
    return " ".join(words)


_GLOB = re.compile(r"(?:(?<![^/])(?:\*\*/)+)|\*\*+|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
_NO_LEVEL = "maybe none"  # a token that takes no character: what ``**/`` matches may be missing


@lru_cache(maxsize=64)
def _glob_tokens(pattern: str) -> tuple[str, ...]:
    tokens: list[str] = []
    for piece in _GLOB.findall(pattern):
        if piece.endswith("**/"):  # several in a row stand for what one does
            tokens += [_NO_LEVEL, "**", "/"]
        else:
            tokens.append("**" if piece.startswith("**") else piece)
    return tuple(tokens)


def _glob_matches(pattern: str, text: str) -> bool:
    """Follow every way to match at once, so that no pattern takes more than its length times the text's.

    The places in the pattern that are come to are the bits of one number, so a character of the text takes a few
    operations for all of them.
    """
    tokens = _glob_tokens(pattern)
    stars = _bits(tokens, lambda token: token in ("*", "**"))
    no_level = _bits(tokens, lambda token: token == _NO_LEVEL)
    takers: dict[str, int] = {}

    def reachable(places: int) -> int:
        """``places`` and those that can be had from them without a character."""
        while (more := places | (places & (stars | no_level)) << 1 | (places & no_level) << 3) != places:
            places = more
        return places

    places = reachable(1)
    for character in text:
        if character not in takers:
            takers[character] = _bits(tokens, partial(_takes, character=character))
        taking = places & takers[character]
        places = reachable((taking & ~stars) << 1 | (taking & stars))
    return bool(places >> len(tokens) & 1)


def _bits(tokens: Sequence[str], chosen: Callable[[str], bool]) -> int:
    return int("".join("1" if chosen(token) else "0" for token in reversed(tokens)) or "0", 2)


def _takes(taker: str, character: str) -> bool:
    if taker == "**":
        return True
    if taker in ("*", "?") or len(taker) > 1:
        return character != "/" and taker != _NO_LEVEL and fnmatchcase(character, taker)
    return taker == character


# --- checking


class _Problems:
    """The first problems of a spec, and how many ``more`` there are: to tell each of a million costs too much."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.more = 0

    @property
    def full(self) -> bool:
        return len(self.found) >= LISTED

    def add(self, problem: str) -> None:
        if self.full:
            self.more += 1
        else:
            self.found.append(problem)


class _Section:
    """One table of the spec while it is checked: what is wrong in it is noted under its dotted path.

    The readers give the value of a key, or the default where it is absent or wrong.
    """

    def __init__(
        self, values: Mapping[str, object], known: Collection[str], problems: _Problems, path: str = ""
    ) -> None:
        self.values = values
        self.problems = problems
        self.path = path
        for key in values:
            if key not in known:
                self.note(key, f"unknown key{self.hint(key, known)}")

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def note(self, key: str, problem: str) -> None:
        self.problems.add(f"{self.path}{_shown_key(key)}: {problem}")

    def hint(self, word: object, known: Iterable[str]) -> str:
        """`did_you_mean`, as long as somebody will read it."""
        return "" if self.problems.full or not isinstance(word, str) else did_you_mean(word, known)

    def nearest(self, word: str, known: Callable[[], Iterable[str]]) -> str:
        """As `hint`, but silent where nothing is near: ``known`` is in the message already, or too long for it."""
        near = None if self.problems.full else nearest(word, known())
        return f'; did you mean "{near}"?' if near is not None else ""

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if key not in self.values:
            return None
        if not isinstance(value, str):
            self.note(key, f"must be a string, not {_shown(value)}")
            return None
        if fault := _text_fault(value) or _length_fault(value):
            self.note(key, fault)
            return None
        return value

    def word(self, key: str) -> str | None:
        """A text that must not be empty."""
        value = self.text(key)
        if value == "":
            self.note(key, "must not be empty")
            return None
        return value

    def scalar(self, key: str) -> str | None:
        """A text, or a number, boolean, date or time as PostgreSQL writes it."""
        value = self.values.get(key)
        if is_long_number(value):
            self.note(key, f"is a number of more than {DIGITS_LIMIT:,} digits")
            return None
        plain = _plain_text(value)
        return self.text(key) if plain is None else plain

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if isinstance(value, bool):
            return value
        self.note(key, f"must be true or false, not {_shown(value)}")
        return default

    def count(self, key: str, default: int) -> int:
        value = self.values.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST:
            return value
        large = ", and no larger than PostgreSQL's bigint" if isinstance(value, int) and value > MOST else ""
        self.note(key, f"must be a whole number, 0 or more{large}, not {_shown(value)}")
        return default

    def size(self, key: str, default: int, *, unit: bool) -> int:
        """A whole number above 0; with ``unit`` also a text such as "100 GB"."""
        value = self.values.get(key, default)
        if isinstance(value, str) and unit:
            try:
                return read_size(value)
            except ValueError as error:
                self.note(key, f"{_shown(value)} {error}")
                return default
        size = self.count(key, default)
        if size == 0:
            self.note(key, "must be 1 or more")
        return size or default

    def ratio(self, key: str, default: float) -> float:
        value = self.values.get(key, default)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
            return float(value)
        self.note(key, f"must be a number from 0 to 1, not {_shown(value)}")
        return default

    def choice(self, key: str, default: str, allowed: Sequence[str]) -> str:
        value = self.text(key)
        if value is None or value in allowed:
            return default if value is None else value
        self.note(key, f"{_shown(value)} is not one of {', '.join(allowed)}{self.nearest(value, lambda: allowed)}")
        return default

    def texts(self, key: str, what: str, *, or_one: bool = False) -> tuple[str, ...] | None:
        """A list of strings; with ``or_one`` a string stands for a list of one."""
        value = self.values.get(key)
        if key not in self.values:
            return None
        given = [value] if or_one and isinstance(value, str) else value
        if not isinstance(given, list | tuple):
            self.note(key, f"must be a list of {what}, not {_shown(value)}")
            return None
        if odd := [each for each in given if not isinstance(each, str)]:
            self.note(key, f"must be a list of {what}, and {_shown(odd[0])} is not a string")
            return None
        if len(given) > LIST_LIMIT:
            self.note(key, f"has {len(given):,} entries, and may have {LIST_LIMIT:,}")
            return None
        if fault := next(filter(None, (_text_fault(each) or _length_fault(each) for each in given)), None):
            self.note(key, fault)
            return None
        return tuple(given)

    def section(self, key: str, known: Collection[str]) -> _Section:
        value = self.values.get(key, {})
        if not isinstance(value, Mapping):
            self.note(key, f"must be a table, not {_shown(value)}")
            value = {}
        return _Section(value, known, self.problems, f"{self.path}{_shown_key(key)}.")


_CSV_DEFAULT = CsvSpec()
_REJECT_DEFAULT = RejectSpec()
_DEFAULTS = LoadSpec(table="")

_TOP = tuple(each.name for each in fields(LoadSpec))
_CSV = tuple(each.name for each in fields(CsvSpec))
_REJECTS = tuple(each.name for each in fields(RejectSpec))
_LIMITS = tuple(each.name for each in fields(LimitSpec))
_TRANSFORM = tuple(each.name for each in fields(TransformSpec))
_COLUMN = ("type", "from", "format", "timezone", "transform", "default", "value")


def _of_this_version(mapping: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """A stored spec without settings that are unknown and say nothing, and the paths of unknown ones that do."""
    unknown: list[str] = []

    def known_alone(values: object, known: Sequence[str], path: str = "") -> object:
        if not isinstance(values, Mapping):
            return values
        unknown.extend(f"{path}{name}" for name in values if name not in known and _says_something(values[name]))
        return {name: values[name] for name in values if name in known}

    told = cast(dict[str, object], known_alone(mapping, _TOP))
    for name, known in (("csv", _CSV), ("rejects", _REJECTS), ("transform", _TRANSFORM)):
        if name in told:
            told[name] = known_alone(told[name], known, f"{name}.")
    if isinstance(columns := told.get("columns"), Mapping):
        told["columns"] = {name: known_alone(columns[name], _COLUMN, f"columns.{name}.") for name in columns}
    return told, unknown


def _says_something(value: object) -> bool:
    return any(map(_says_something, value.values())) if isinstance(value, Mapping) else bool(value)


def _read_spec(top: _Section) -> LoadSpec:
    declared = _declared(top)
    source = _read_source(top)
    table = _read_table(top)
    mode, key = _read_mode(top, declared)
    versions = _read_versions(top, mode)
    csv = _read_csv(top.section("csv", _CSV))
    rejects = top.section("rejects", _REJECTS)
    return LoadSpec(
        table=table,
        source=source,
        mode=mode,
        key=key,
        csv=csv,
        rejects=RejectSpec(
            rejects.count("max_rows", _REJECT_DEFAULT.max_rows), rejects.ratio("max_ratio", _REJECT_DEFAULT.max_ratio)
        ),
        limits=_read_limits(top.section("limits", _LIMITS)),
        columns=_read_columns(top, header=bool(csv.header)),
        unknown=cast(Unknown, top.choice("unknown", "ignore", get_args(Unknown))),
        segment_mb=_read_segment(top),
        transform=_read_transform(top.section("transform", _TRANSFORM), declared),
        versions=versions,
    )


def _read_segment(top: _Section) -> int:
    size = top.count("segment_mb", SEGMENT_MB)
    if size == 0:
        top.note("segment_mb", "must be 1 or more")
    return size


def _read_limits(section: _Section) -> LimitSpec:
    usual = LimitSpec()
    return LimitSpec(
        max_bytes=section.size("max_bytes", usual.max_bytes, unit=True),
        max_rows=section.size("max_rows", usual.max_rows, unit=False),
    )


def _declared(top: _Section) -> tuple[str, ...]:
    """The names of the columns that the spec declares, whatever else is wrong with them."""
    columns = top.values.get("columns")
    return tuple(name for name in columns if isinstance(name, str)) if isinstance(columns, Mapping) else ()


def _read_source(top: _Section) -> str | None:
    source = top.word("source")
    if source is not None and len(source) > SOURCE_LIMIT:
        top.note("source", f"is {len(source):,} characters long, and may have {SOURCE_LIMIT:,}")
        return None
    if source is not None and source.startswith("s3://"):
        bucket, _, pattern = source.removeprefix("s3://").partition("/")
        if not re.fullmatch(r"[A-Za-z0-9._-]+", bucket) or not pattern:
            top.note("source", f"{_shown(source)} is not of the form s3://bucket/pattern, with a bucket's plain name")
    return source


def _read_table(top: _Section) -> str:
    if "table" not in top:
        top.note("table", "is missing: name the table to load into")
        return ""
    table = top.word("table")
    if table is None:
        return ""
    try:
        fault = reserved_schema(split_table(table)[0])
    except ValueError as error:
        fault = str(error)
    if fault:
        top.note("table", fault)
    return table


def _read_mode(top: _Section, declared: Sequence[str]) -> tuple[Mode, tuple[str, ...]]:
    key = top.texts("key", "column names") or ()
    mode = cast(Mode, top.choice("mode", "merge" if key else "append", get_args(Mode)))
    if key and mode == "append":
        top.note("key", 'mode "append" ignores keys; give mode = "merge", or leave the key out')
    known = frozenset(declared)
    for name, times in Counter(key).items():
        if times > 1:
            top.note("key", f"{_shown(name)} stands {times} times")
    for name in dict.fromkeys(key):
        if fault := _name_fault(name):
            top.note("key", fault)
        elif declared and name not in known:
            top.note("key", f"{_shown(name)} is not among the declared columns{top.hint(name, declared)}")
    return mode, key


def _usual_versions(mode: Mode) -> Versions:
    """What versions of an object hold unless the spec says otherwise.

    What is appended is added to what is there. A file that is put again under its name and merged or replaced nearly
    always says the whole again, corrected; and to skip its late older version undoes nothing, while to merge that as a
    delta brings back records that the newer version has dropped.
    """
    return "delta" if mode == "append" else "snapshot"


def _read_versions(top: _Section, mode: Mode) -> Versions | None:
    usual = _usual_versions(mode)
    versions = cast(Versions, top.choice("versions", usual, get_args(Versions)))
    if mode == "replace" and versions == "delta":
        top.note(
            "versions",
            '"delta" does not go with mode "replace", by which each version is the whole table and takes out what '
            'earlier ones have brought; leave it out, or give mode "append" or "merge"',
        )
    return None if versions == usual else versions  # so that both ways to say it are the same spec


# --- the dialect


def _read_csv(section: _Section) -> CsvSpec:
    sniffs = section.flag("sniff", False)
    delimiter = _read_delimiter(section, "auto" if sniffs else _CSV_DEFAULT.delimiter)
    quote = _read_character(section, "quote", _CSV_DEFAULT.quote)
    escape = _read_character(section, "escape", quote)  # as with COPY, the quote unless given
    known = "" if delimiter == "auto" else delimiter
    ragged, null, decimal = _read_ragged(section), _read_null(section, known, quote), _read_decimal(section)
    if ragged == "pad" and not null:
        section.note("ragged", '"pad" fills records with NULL, and null = [] says that no text means NULL')
    if quote and quote in known:
        section.note("delimiter", f"must not hold the quote {_shown(quote)}")
    if escape and not quote:
        section.note("escape", "does nothing without a quote, because only quoted fields have escapes")
    return CsvSpec(
        delimiter=delimiter,
        quote=quote,
        escape=escape,
        header=_read_header(section, "auto" if sniffs else _CSV_DEFAULT.header),
        header_rows=_read_header_rows(section),
        skip_lines=section.count("skip_lines", _CSV_DEFAULT.skip_lines),
        skip_footer=section.count("skip_footer", _CSV_DEFAULT.skip_footer),
        comment=_read_comment(section, quote),
        encoding=_read_encoding(section, "auto" if sniffs else _CSV_DEFAULT.encoding),
        compression=cast(Compression, section.choice("compression", _CSV_DEFAULT.compression, get_args(Compression))),
        null=null,
        ragged=ragged,
        skip_blank_lines=section.flag("skip_blank_lines", _CSV_DEFAULT.skip_blank_lines),
        trailing_delimiter=section.flag("trailing_delimiter", _CSV_DEFAULT.trailing_delimiter),
        decimal=decimal,
        thousands=_read_thousands(section, decimal),
        dates=cast(Literal["", "dmy", "mdy"], section.choice("dates", _CSV_DEFAULT.dates, ("", "dmy", "mdy"))),
        sniff=sniffs,
    )


def _read_separator(section: _Section, key: str, default: str) -> str:
    """One character that no plain number has, but a point."""
    text = section.text(key)
    if not text or text == default:
        return default
    if len(text) > 1 or text.isalnum() or text in "+-" or _has_line_end(text):
        section.note(key, f"must be one character that is no letter, digit or sign, not {_shown(text)}")
        return default
    return text


def _read_decimal(section: _Section) -> str:
    if section.values.get("decimal") == "":
        section.note("decimal", "must not be empty")
    return _read_separator(section, "decimal", _CSV_DEFAULT.decimal)


def _read_thousands(section: _Section, decimal: str) -> str:
    thousands = _read_separator(section, "thousands", _CSV_DEFAULT.thousands)
    if thousands == decimal:
        section.note("thousands", f"must not be the decimal separator {_shown(decimal)}")
        return ""
    return thousands


def _read_delimiter(section: _Section, default: str) -> str:
    delimiter = section.word("delimiter")
    if delimiter is None:
        return default
    if _has_line_end(delimiter):
        section.note("delimiter", "must not hold a line end")
        return _CSV_DEFAULT.delimiter
    return delimiter


def _read_header(section: _Section, default: bool | Literal["auto"]) -> bool | Literal["auto"]:
    if section.values.get("header", default) == "auto":
        return "auto"
    return section.flag("header", bool(_CSV_DEFAULT.header))


def _read_header_rows(section: _Section) -> int:
    rows = section.count("header_rows", _CSV_DEFAULT.header_rows)
    if rows < 1:
        section.note("header_rows", "must be at least 1; a file without a header has header = false")
    elif rows > 1 and section.values.get("header") is False:
        section.note("header_rows", "says how many records the header has, and header = false says that there is none")
    return rows


def _read_comment(section: _Section, quote: str) -> str:
    comment = section.text("comment") or ""
    if _has_line_end(comment):
        section.note("comment", "must not hold a line end")
    elif quote and comment.startswith(quote):
        section.note("comment", f"must not begin with the quote {_shown(quote)}")
    return comment


def _read_character(section: _Section, key: str, default: str) -> str:
    """One character, or "" for none."""
    character = section.text(key)
    return character if character == "" else _one_byte(section, key, character or default, default)


def _one_byte(section: _Section, key: str, character: str, default: str) -> str:
    """COPY takes single bytes only, and a byte of its own is what splits records at memory speed."""
    if character == default:
        return character
    if _has_line_end(character):
        section.note(key, "must not hold a line end")
    elif len(character) > 1 or not character.isascii():
        section.note(key, f"must be one ASCII character, not {_shown(character)}")
    else:
        return character
    return default


def _has_line_end(text: str) -> bool:
    return "\n" in text or "\r" in text


def _read_null(section: _Section, delimiter: str, quote: str) -> tuple[str, ...]:
    null = section.texts("null", "strings", or_one=True)
    if null is None:
        return _CSV_DEFAULT.null
    for text in null:
        if _has_line_end(text) or any(each and each in text for each in (delimiter, quote)):
            section.note("null", f"{_shown(text)} can never be an unquoted field of this file")
    return null


def _read_encoding(section: _Section, default: str) -> str:
    encoding = section.word("encoding")
    if encoding is None or encoding == "auto":
        return default if encoding is None else encoding
    try:
        "".encode(encoding)
    except LookupError as error:
        section.note("encoding", _encoding_problem(section, encoding, error))
    except ValueError:
        section.note("encoding", f"{_shown(encoding)} is not an encoding that texts can be read in")
    return encoding


def _encoding_problem(section: _Section, encoding: str, error: LookupError) -> str:
    from encodings.aliases import aliases

    if "not a text encoding" in str(error):
        return f"{_shown(encoding)} is not an encoding of text"
    names = {name.replace("_", "-") for pair in aliases.items() for name in pair}
    return f"unknown codec {_shown(encoding)}{section.nearest(encoding, lambda: sorted(names))}"


def _read_ragged(section: _Section) -> Literal["reject", "pad"]:
    return cast(Literal["reject", "pad"], section.choice("ragged", _CSV_DEFAULT.ragged, ("reject", "pad")))


# --- columns


def _read_columns(top: _Section, *, header: bool) -> tuple[ColumnSpec, ...]:
    names = top.values.get("columns")
    known = dict.fromkeys(names) if isinstance(names, Mapping) else {}
    columns = top.section("columns", known)
    if len(known) > COLUMN_LIMIT:
        top.note("columns", f"are {len(known):,}, and a table of PostgreSQL's can have {COLUMN_LIMIT:,}")
        return ()
    return tuple(_read_column(columns, name, header=header) for name in known)


def _read_column(columns: _Section, name: str, *, header: bool) -> ColumnSpec:
    if not isinstance(name, str) or (fault := _name_fault(name)):
        columns.note(name, "a column's name must be a string" if not isinstance(name, str) else str(fault))
        return ColumnSpec(_shown_key(name))
    if isinstance(columns.values[name], str):
        return ColumnSpec(name, _read_type(columns, name))
    if not isinstance(columns.values[name], Mapping):
        columns.note(
            name, f'must be a type\'s name or a table such as {{ type = "text" }}, not {_shown(columns.values[name])}'
        )
        return ColumnSpec(name)
    section = columns.section(name, _COLUMN)
    column = ColumnSpec(
        name,
        type=_read_type(section, "type"),
        source=section.word("from"),
        format=_read_format(section),
        timezone=_read_timezone(section),
        transform=_read_steps(section),
        default=section.scalar("default"),
        value=_read_value(section),
    )
    _check_together(section, column, header=header)
    return column


def _read_type(section: _Section, key: str) -> str | None:
    type_name = section.word(key)
    if type_name is not None and (fault := _type_fault(type_name)):
        section.note(key, fault)
        return None
    return type_name


def _check_together(section: _Section, column: ColumnSpec, *, header: bool) -> None:
    """What each key says may be right by itself and still not go with another."""
    if "value" in section:
        for key in ("from", "format", "transform", "default"):
            if key in section:
                section.note(key, '"value" makes this column, so nothing is read for it; take one of the two out')
    elif "from" in section and not header:
        section.note("from", "without a header columns go by their position; take it out")
    if column.type is None:
        return
    base = _base_type(column.type)
    if not _is_built_in(base):  # a domain, maybe, of which the database knows what it is
        return
    if "format" in section and base not in _DATED | _CLOCKED:
        section.note("format", f"is for dates and times, and the column is {column.type}")
    if "timezone" in section and base not in _DATED - {"date"}:
        section.note("timezone", f"is for timestamps, and the column is {column.type}")


def _read_format(section: _Section) -> str | None:
    text = section.word("format")
    if text is None:
        return None
    from loader.core.spec.datetimes import compile_format

    try:
        compile_format(text)
    except ValueError as error:
        section.note("format", str(error))
    return text


def _read_timezone(section: _Section) -> str | None:
    zone = section.word("timezone")
    if zone is None:
        return None
    if zone.startswith(("+", "-")) and not re.fullmatch(r"[+-](?:0[0-9]|1[0-5]):[0-5][0-9]", zone):
        section.note("timezone", f"{_shown(zone)} is no offset such as +05:30")
    elif not zone.strip() or "\0" in zone or len(zone) > _ZONE_LENGTH:
        section.note("timezone", f"{_shown(zone)} is no name of a time zone")
    return zone


def _read_value(section: _Section) -> str | None:
    value = section.scalar("value")
    if value is None:
        return None
    try:
        parsed = list(string.Formatter().parse(value))
    except ValueError:
        section.note("value", f"{_shown(value)} has a brace without its partner; a brace itself is written twice")
        return value
    for _, name, spec, conversion in parsed:
        if name is not None and (name not in PLACEHOLDERS or spec or conversion):
            whole = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            section.note("value", f"unknown placeholder {{{_cut(whole)}}}{section.hint(name, PLACEHOLDERS)}")
    return value


_PLAIN_STEPS = ("strip", "lower", "upper", "strip_currency")
_STEPS_WITH_ARGUMENTS = {
    "null_if": '{ null_if = ["-", "n/a"] }',
    "replace": '{ replace = ["old", "new"] }',
    "map": '{ map = { Y = "true", N = "false" } }',
}
_STEPS = (*_PLAIN_STEPS, *_STEPS_WITH_ARGUMENTS)


def _read_steps(section: _Section) -> tuple[Step, ...]:
    given = section.values.get("transform", ())
    steps = [given] if isinstance(given, str) else given
    if not isinstance(steps, list | tuple):
        section.note("transform", f'must be a list of steps such as ["strip", "upper"], not {_shown(given)}')
        return ()
    if len(steps) > STEPS_LIMIT:
        section.note("transform", f"has {len(steps):,} steps, and may have {STEPS_LIMIT}")
        return ()
    read = (_read_step(section, step) for step in steps)
    return tuple(step for step in read if step is not None)


def _read_step(section: _Section, step: object) -> Step | None:
    if isinstance(step, str):
        return _read_plain_step(section, step)
    if not isinstance(step, Mapping) or len(step) != 1:
        section.note(
            "transform", f'a step is a string or a table of one key such as {{ null_if = "-" }}, not {_shown(step)}'
        )
        return None
    (name,) = step
    if name not in _STEPS_WITH_ARGUMENTS:
        hint = f'; write it as "{name}"' if name in _PLAIN_STEPS else section.hint(name, _STEPS)
        section.note("transform", f"{_shown(name)} is not a step with arguments{hint}")
        return None
    arguments = _Section(step, (name,), section.problems, f"{section.path}transform.")
    made = _ARGUMENTS[name](arguments)
    return Step(name, made) if made else None


def _read_plain_step(section: _Section, name: str) -> Step | None:
    if name in _PLAIN_STEPS:
        return Step(name)
    if name in _STEPS_WITH_ARGUMENTS:
        section.note("transform", f"{_shown(name)} needs arguments; write it as {_STEPS_WITH_ARGUMENTS[name]}")
    else:
        section.note("transform", f"unknown step {_shown(name)}{section.hint(name, _STEPS)}")
    return None


def _null_if(section: _Section) -> StepArguments:
    texts = section.texts("null_if", "strings", or_one=True)
    if texts == ():
        section.note("null_if", "must name a text at least")
    return texts or ()


def _replace(section: _Section) -> StepArguments:
    texts = section.texts("replace", "two strings, the old text and the new")
    if texts is None or (len(texts) == 2 and texts[0]):
        return texts or ()
    section.note("replace", "must be two strings, the old text and the new, and the old one not empty")
    return ()


def _map(section: _Section) -> StepArguments:
    given = section.values["map"]
    if not isinstance(given, Mapping) or not given:
        section.note("map", f"must be a table of texts and what they become, not {_shown(given)}")
        return ()
    if len(given) > LIST_LIMIT:
        section.note("map", f"has {len(given):,} pairs, and may have {LIST_LIMIT:,}")
        return ()
    pairs = _Section(given, given, section.problems, f"{section.path}map.")
    if long := next((old for old in given if is_long_number(old)), None):
        pairs.note(long, f"is a number of more than {DIGITS_LIMIT:,} digits")
        return ()
    made = [(str(old), pairs.scalar(old)) for old in given]
    return tuple((old, new) for old, new in made if new is not None)


_ARGUMENTS: dict[str, Callable[[_Section], StepArguments]] = {"null_if": _null_if, "replace": _replace, "map": _map}


# --- whole records


def _read_transform(section: _Section, declared: Sequence[str]) -> TransformSpec:
    return TransformSpec(filter=_read_filter(section, declared), python=_read_python(section))


def _read_filter(section: _Section, declared: Sequence[str]) -> str | None:
    text = section.word("filter")
    if text is None:
        return None
    from loader.core.spec import filter as expression

    try:
        condition = expression.parse(text)
    except ValueError as error:
        section.note("filter", str(error))
        return text
    for name in sorted(condition.columns - set(declared)) if declared else ():
        section.note("filter", f"no column {_shown(name)} is declared{section.hint(name, declared)}")
    return text


def _read_python(section: _Section) -> str | None:
    hook = section.word("python")
    if hook is not None and not re.fullmatch("[A-Za-z][A-Za-z0-9_]*:[A-Za-z][A-Za-z0-9_]*", hook):
        section.note("python", f'{_shown(hook)} is not of the form module:function, such as "trips:clean"')
    return hook


# --- values, in messages and back to plain ones


def _cut(text: str, length: int = SHOWN) -> str:
    return text if len(text) <= length else text[:length] + "…"


def _shown_key(key: object) -> str:
    return _toml_key(printable(_cut(key))) if isinstance(key, str) else _shown(key)


def _length_fault(text: str) -> str | None:
    """What keeps a text from being one of a spec's."""
    return None if len(text) <= TEXT_LIMIT else f"is {len(text):,} characters long, and may have {TEXT_LIMIT:,}"


def _shown(value: object) -> str:
    """``value`` as a message shows it: in TOML's words, cut to a length that can be read."""
    if isinstance(value, str):
        return _toml_value(_cut(value))
    if isinstance(value, Mapping):
        return "a table" if value else "an empty table"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if is_long_number(value):
        return "a number of too many digits"
    return _cut(_plain_text(value) or ("nothing" if value is None else type(value).__name__))


def _plain_text(value: object) -> str | None:
    """A number, boolean, date or time as PostgreSQL writes it; None for anything else."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat(" ")
    return value.isoformat() if isinstance(value, date | time) else None


def _listed(null: str | Sequence[str] | None) -> list[str] | None:
    return None if null is None else [null] if isinstance(null, str) else list(null)


def _given(mapping: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in mapping.items() if value is not None}


_Plain = CsvSpec | RejectSpec | LimitSpec


def _other_than(section: _Plain, usual: _Plain) -> dict[str, object]:
    """The settings of ``section`` that differ from those of ``usual``."""
    given, assumed = asdict(section), asdict(usual)
    return {name: value for name, value in given.items() if value != assumed[name]}


_LATER = ("skip_blank_lines", "trailing_delimiter", "decimal", "thousands", "dates", "sniff")
"""Settings of ``[csv]`` that earlier versions do not know."""


def plain_csv(csv: CsvSpec) -> dict[str, object]:
    """The dialect as plain values; settings that earlier versions do not know only where they say something, so that a
    process of such a version can read a load in progress."""
    usual = CsvSpec()
    left_out = {name for name in _LATER if getattr(csv, name) == getattr(usual, name)}
    mapping: dict[str, object] = {**asdict(csv), "null": list(csv.null)}
    return {name: value for name, value in mapping.items() if name not in left_out}


def _plain_column(column: ColumnSpec) -> str | dict[str, object]:
    settings = _given(
        {
            "type": column.type,
            "from": column.source,
            "format": column.format,
            "timezone": column.timezone,
            "transform": [_plain_step(step) for step in column.transform] or None,
            "default": column.default,
            "value": column.value,
        }
    )
    return column.type if column.type is not None and len(settings) == 1 else settings


def _plain_step(step: Step) -> str | dict[str, object]:
    if not step.args:
        return step.name
    pairs = {each[0]: each[1] for each in step.args if not isinstance(each, str)}
    return {step.name: pairs or list(step.args)}


def _toml_line(name: str, value: object) -> str:
    return f"{_toml_key(name)} = {_toml_value(value)}"


def _toml_key(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else _toml_value(name)


def _toml_value(value: object) -> str:
    if isinstance(value, str):
        if re.fullmatch(r"""[^']*["\\][^']*""", value) and printable(value) == value:
            return f"'{value}'"  # a literal string: nothing to escape
        return to_toml(value)
    if isinstance(value, Mapping):
        inner = ", ".join(_toml_line(name, each) for name, each in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    return str(value).lower()
