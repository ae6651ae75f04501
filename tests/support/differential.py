"""Tables and CSV files for the differential test: what a file holds, and what COPY makes of it."""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psycopg2
import pytest
from hypothesis import strategies as st
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

import loader
from loader.postgres.database import Database
from support.copying import copy_one_by_one, output_of, rows
from support.postgres import encoded_database

TYPES_OF_OUR_OWN = {
    "mood": "CREATE TYPE mood AS ENUM ('sad', 'ok', 'very happy', 'a,b')",
    "positive": "CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
    "some_text": "CREATE DOMAIN some_text AS text NOT NULL",
    "code": "CREATE DOMAIN code AS varchar(3) CHECK (VALUE = upper(VALUE))",
    "cents": "CREATE DOMAIN cents AS numeric(6,2) CHECK (VALUE >= 0)",
    "point2": "CREATE TYPE point2 AS (x int, label text)",
}

_TYPES = {
    "integers": ["smallint", "int", "bigint", "oid", "positive"],
    "floats": ["real", "double precision"],
    "decimals": [
        "numeric",
        "numeric(5,2)",
        "numeric(38,10)",
        "numeric(50,10)",
        "numeric(3,-2)",
        "numeric(3,5)",
        "cents",
    ],
    "booleans": ["boolean"],
    "texts": ["text", "varchar", "varchar(3)", "char(3)", "char", "name", '"char"', "some_text", "code"],
    "dates": ["date", "timestamp", "timestamptz"],
    "timestamps": ["timestamp", "timestamp(0)", "timestamptz", "timestamptz(3)"],
    "times": ["time", "time(2)", "timetz", "interval"],
    "intervals": ["interval", "interval hour", "interval(1)"],
    "uuids": ["uuid"],
    "bytes": ["bytea"],
    "jsons": ["json", "jsonb"],
    "nets": ["inet", "cidr", "macaddr"],
    "bits": ["bit(3)", "varbit(4)"],
    "money": ["money"],
    "arrays": ["int[]", "text[]", "varchar(2)[]"],
    "ranges": ["int4range", "numrange", "int4multirange"],
    "moods": ["mood"],
    "rows": ["point2"],
    "shapes": ["point", "box"],
    "lexemes": ["tsvector", "tsquery"],
    "lsns": ["pg_lsn"],
}


def _pools() -> dict[str, list[str]]:
    texts = tomllib.loads(Path(__file__).with_name("values.toml").read_text("utf-8"))
    pools: dict[str, list[str]] = {}
    for name, types in _TYPES.items():
        for type_name in types:
            pools.setdefault(type_name, []).extend(texts[name])
    return pools


POOLS = _pools()
"""The types of the test, each with texts that are values of it, that nearly are, and that are not."""

_HOSTILE = st.text(alphabet="aB1ä🦆 ,;|\t\n\r\"'\\.{}()[]-+eE_:/\u00a0\x00\udcff", max_size=8)
"""Any text; U+DCFF stands for the byte FF, which no UTF-8 has."""

_SOUPS = {
    "0": st.text(alphabet="0123456789+-.eE_ x", max_size=12),
    "-": st.text(alphabet="0123456789-:/ TZ+.", min_size=4, max_size=20),
}


def _decimals(most_digits: int) -> st.SearchStrategy[str]:
    whole = st.text("0123456789", max_size=most_digits)
    return st.builds("{}{}.{}".format, st.sampled_from(["", "-", "+"]), whole, whole)


_AT_RANDOM: dict[str, st.SearchStrategy[str]] = {
    "smallint": st.integers(-(2**15), 2**15 - 1).map(str),
    "int": st.integers(-(2**31), 2**31 - 1).map(str),
    "bigint": st.integers(-(2**63), 2**63 - 1).map(str),
    "real": st.floats(width=32).map(repr) | _decimals(20),
    "double precision": st.floats().map(repr) | _decimals(25),
    "numeric": st.decimals().map(str) | _decimals(60),
    "numeric(5,2)": st.decimals(-1000, 1000, places=4).map(str) | _decimals(3),
    "numeric(38,10)": _decimals(30),
    "numeric(50,10)": _decimals(40),
    "text": st.text(max_size=20),
    "varchar(3)": st.text(max_size=4),
    "char(3)": st.text(max_size=4),
    "bytea": st.binary(max_size=10).map(lambda data: "\\x" + data.hex()),
    "date": st.dates().map(str) | st.dates().map(lambda day: f"{day:%d %b} {day.year:04}"),
    "timestamp": st.datetimes().map(str) | st.datetimes().map(lambda at: at.isoformat()),
    "timestamptz": st.datetimes(timezones=st.timezones()).map(str) | st.datetimes().map(str),
    "time": st.times().map(str),
    "interval": st.timedeltas().map(str),
    "uuid": st.uuids().map(str),
    "inet": st.ip_addresses().map(str),
}
"""Values of some types that no pool can list."""


def likely(type_name: str, values: Sequence[str]) -> st.SearchStrategy[str]:
    """Texts of which nearly all are values of the type: ``values``, or of some types any."""
    pool = st.sampled_from(values)
    return st.one_of(pool, _AT_RANDOM[type_name]) if type_name in _AT_RANDOM else pool


def wild(type_name: str) -> st.SearchStrategy[str]:
    """Texts of which most are no values: of the type's pool, mangled, numbers and dates at random, or any text."""
    pool = st.sampled_from(POOLS[type_name])
    mangled = st.builds(_mangle, pool, st.sampled_from(_MANGLINGS))
    whole = st.integers(-(10**6), 10**6).map(str)
    return st.one_of(pool, pool, mangled, whole, *_SOUPS.values(), _HOSTILE, st.just(""))


_MANGLINGS = (
    "upper",
    "lower",
    "before",
    "after",
    "tab",
    "without last",
    "without first",
    "doubled",
    "zero",
)


def _mangle(text: str, how: str) -> str:
    changed = {
        "upper": text.upper(),
        "lower": text.lower(),
        "before": " " + text,
        "after": text + " ",
        "tab": text + "\t",
        "without last": text[:-1],
        "without first": text[1:],
        "doubled": text * 2,
        "zero": "0" + text,
    }
    return changed[how]


@dataclass(frozen=True)
class Dialect:
    delimiter: str = ","
    quote: str = '"'
    escape: str = '"'
    null: str = ""
    newline: str = "\n"

    @property
    def options(self) -> str:
        given = {"DELIMITER": self.delimiter, "QUOTE": self.quote, "ESCAPE": self.escape, "NULL": self.null}
        return "".join(f", {key} E'{_in_sql(value)}'" for key, value in given.items())

    @property
    def spec(self) -> dict[str, object]:
        return {
            "delimiter": self.delimiter,
            "quote": self.quote,
            "escape": self.escape,
            "null": [self.null],
            "header": False,
        }


def _in_sql(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''").replace("\t", "\\t")


DIALECTS = (
    Dialect(),
    Dialect(newline="\r\n"),
    Dialect(delimiter=";", quote="'", escape="'", null="NA"),
    Dialect(delimiter="\t", escape="\\", null="\\N"),
    Dialect(delimiter="|", newline="\r\n", null="NULL"),
)


@dataclass(frozen=True)
class Example:
    """A table's columns, as written in CREATE TABLE, and a file's records, as they stand in it, without line ends."""

    columns: tuple[str, ...]
    records: tuple[bytes, ...]
    dialect: Dialect

    def create(self, name: str) -> str:
        return f"CREATE TABLE {name} ({', '.join(self.columns)})"

    @property
    def data(self) -> bytes:
        end = self.dialect.newline.encode()
        return b"".join(record + end for record in self.records)


_STYLES = ("as needed", "as needed", "as needed", "quoted", "in part", "bare")


def _written(text: str, style: str, dialect: Dialect) -> str:
    """The field; ``bare`` may hold delimiters and so be several. Line ends and quotes are always within quotes."""
    quote, escape = dialect.quote, dialect.escape
    special = quote in text or "\n" in text or "\r" in text
    if style == "bare" and not special:
        return text
    if style == "as needed" and not special and dialect.delimiter not in text:
        return text
    if style == "in part" and len(text) > 1 and not special and dialect.delimiter not in text:
        return text[:1] + quote + _escaped(text[1:], quote, escape) + quote
    return quote + _escaped(text, quote, escape) + quote


def _escaped(text: str, quote: str, escape: str) -> str:
    return (
        text.replace(escape, escape * 2).replace(quote, escape + quote)
        if escape != quote
        else text.replace(quote, quote * 2)
    )


_CONSTRAINTS = ("", "", "", "", "NOT NULL", "CHECK (length({name}::text) < 12)", "CHECK ({name} IS NOT NULL)", "UNIQUE")
_UNIQUE_TYPES = frozenset({"int", "bigint", "text", "numeric", "date", "timestamptz", "double precision", "mood"})


KNOWN_TO_KERNEL = tuple(
    name
    for name in POOLS
    if name in {"smallint", "int", "bigint", "real", "double precision", "numeric", "numeric(5,2)", "numeric(38,10)"}
    or name in {"text", "varchar(3)", "char(3)", "bytea", "boolean", "uuid", "json", "jsonb", "mood"}
    or name in {"date", "timestamp", "timestamptz", "time"}
)
"""Of a table of these alone the kernel takes whole records."""


@st.composite
def columns(draw: st.DrawFn, types: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Type and constraint of one to six columns."""
    made = []
    for place in range(draw(st.integers(1, 6))):
        type_name = draw(st.sampled_from(types))
        constraint = draw(st.sampled_from(_CONSTRAINTS)).format(name=f"c{place}")
        if constraint == "UNIQUE" and type_name not in _UNIQUE_TYPES:
            constraint = ""
        made.append((type_name, constraint))
    return tuple(made)


def _is_lasting(fields: Sequence[str]) -> bool:
    """Whether no field is a time that is another one a moment later."""
    return not any(text.strip(" \t'\"").lower() == "now" for text in fields)


@st.composite
def examples(
    draw: st.DrawFn, values: Mapping[str, Sequence[str]], *, most_records: int = 50, types: Sequence[str] = ()
) -> Example:
    """A table and a file for it; most of its records are of ``values``, the texts that each type takes, or nearly.

    ``types``: of the columns; by default any of `POOLS`."""
    table = draw(columns(types or list(POOLS)))
    dialect = draw(st.sampled_from(DIALECTS))

    def field(text: st.SearchStrategy[str], styles: Sequence[str] = _STYLES) -> st.SearchStrategy[str]:
        return st.builds(_written, text, st.sampled_from(styles), st.just(dialect))

    good = [field(likely(type_name, values[type_name]), _STYLES[:-1]) for type_name, _ in table]
    fields = [good] * (2 + len(good))
    for place, (type_name, _) in enumerate(table):
        fields.append([*good[:place], field(wild(type_name)), *good[place + 1 :]])
    bad = [field(wild(type_name)) for type_name, _ in table]
    fields += [bad, good[:-1], [*good, st.just("x")], [*bad, *bad[:1]], bad[:-1]]
    record = st.one_of(*(st.tuples(*each) for each in fields))
    least = draw(st.sampled_from([0, 1, most_records // 2]))
    made = draw(st.lists(record.filter(_is_lasting), min_size=least, max_size=most_records))
    declared = tuple(f"c{place} {name} {constraint}".strip() for place, (name, constraint) in enumerate(table))
    return Example(declared, tuple(_joined(each, dialect) for each in made), dialect)


def _joined(fields: Sequence[str], dialect: Dialect) -> bytes:
    record = dialect.delimiter.join(fields).encode("utf-8", "surrogateescape")
    return (
        dialect.quote.encode() + record + dialect.quote.encode() if record == b"\\." else record
    )  # ends a COPY up to 17


@dataclass(frozen=True)
class Result:
    """The rows in PostgreSQL's text output, sorted, and the numbers of the records that were not taken."""

    rows: list[str]
    refused: list[int]
    reasons: dict[int, str]


def check(loaded: Result, copied: Result) -> None:
    """Raise AssertionError where the two differ.

    A record that COPY refuses, of several lines and with quotes in the middle of fields, the loader gives up line by
    line: from there on their numbers are not the same, and only what came before is compared.
    """
    lost = [number for number, reason in loaded.reasons.items() if reason.startswith("unbalanced_quote")]
    if not lost:
        assert loaded.refused == copied.refused, (loaded.reasons, copied.reasons)
        assert loaded.rows == copied.rows
        return
    first = min(lost)
    assert [each for each in loaded.refused if each <= first] == [each for each in copied.refused if each <= first]


def check_hooked(hooked: Result, plain: Result) -> None:
    """Raise AssertionError where a hook that changes nothing changed something: where it made a reject or a row that is
    not there without it, but for records with a value that it cannot be shown."""
    unseen = {
        number
        for number, reason in hooked.reasons.items()
        if reason.startswith("unrepresentable") and number not in plain.reasons
    }
    if not unseen:
        assert hooked.refused == plain.refused, (hooked.reasons, plain.reasons)
        assert hooked.rows == plain.rows
    # without an unseen record, another one may be the first of its key
    assert len(hooked.rows) + len(hooked.refused) == len(plain.rows) + len(plain.refused)
    assert not set(hooked.rows) - set(plain.rows) or any("unique" in reason for reason in plain.reasons.values())


_REJECT = "record_number, line_number, byte_offset, column_name, reason, sqlstate, message, raw"


NOTHING: Mapping[str, str] = MappingProxyType({})


class Arena:
    """A database where examples are loaded twice, by the loader and by COPY, and compared."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn = psycopg2.extensions.make_dsn(dsn, options="-c search_path=d,public -c timezone=Europe/Berlin")
        self.connection: Connection = psycopg2.connect(self.dsn)
        self.database = Database(self.dsn)
        self.path = folder / "example.csv"
        with self.connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA d")
            for statement in TYPES_OF_OUR_OWN.values():
                cursor.execute(statement)
        self.connection.commit()
        self.values = {type_name: self._values(type_name) for type_name in POOLS}
        self.records = self.taken = self.by_kernel = 0

    def _values(self, type_name: str) -> list[str]:
        """Those of the type's pool that this server takes, and the empty text, which is NULL."""
        texts = POOLS[type_name]
        records = [_written(text, "quoted", Dialect()).encode() for text in texts]
        with self.connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLE d.probe (c {type_name})")
        refused = copy_one_by_one(self.connection, sql.Identifier("d", "probe"), None, records)
        self.connection.rollback()
        return [text for number, text in enumerate(texts, start=1) if number not in refused] + [""]

    def close(self) -> None:
        self.connection.close()
        self.database.close()

    def compare(self, example: Example) -> tuple[Result, Result]:
        """What the loader made of it, and what COPY did. Raises the loader's error where it would load nothing."""
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(example.create("d.loaded") + ";" + example.create("d.copied"))
            self.connection.commit()
            copied = self._copied(example)
            self.connection.commit()
            self.records += len(example.records)
            self.taken += len(copied.rows)
            return self._loaded(example), copied
        finally:
            self.connection.rollback()
            with self.connection.cursor() as cursor:
                cursor.execute("DROP TABLE IF EXISTS d.loaded, d.copied")
            self.connection.commit()

    def with_kernel_and_without(self, example: Example) -> list[tuple[list[str], list[list[Any]]]]:
        """The table and the rejects, whole, as the loader makes them with the kernel, and without it."""
        made = []
        for setting in ("on", "off"):
            try:
                with self.connection.cursor() as cursor:
                    cursor.execute(example.create("d.loaded"))
                self.connection.commit()
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv("LOADER_KERNEL", setting)
                    report = self._load(example)
                rejects = (
                    f"SELECT {_REJECT} FROM loader.rejects WHERE load_id = {report.load_id} ORDER BY record_number"
                )
                made.append((self._rows("d.loaded"), rows(self.connection, rejects)))
                self.records += len(example.records)
                self.by_kernel += (report.plan or "").endswith("converted by the kernel")
            finally:
                self.connection.rollback()
                with self.connection.cursor() as cursor:
                    cursor.execute("DROP TABLE IF EXISTS d.loaded")
                self.connection.commit()
        return made

    def with_hook_and_without(self, example: Example, hook: str) -> tuple[Result, Result]:
        """What the loader makes of it with the ``hook`` of tests/support, and without one."""
        made = []
        for asked in ({"python": hook}, {}):
            try:
                with self.connection.cursor() as cursor:
                    cursor.execute(example.create("d.loaded"))
                self.connection.commit()
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv("LOADER_HOOKS", "support")
                    made.append(self._loaded(example, asked))
                self.records += len(example.records)
            finally:
                self.connection.rollback()
                with self.connection.cursor() as cursor:
                    cursor.execute("DROP TABLE IF EXISTS d.loaded")
                self.connection.commit()
        return made[0], made[1]

    def _copied(self, example: Example) -> Result:
        table = sql.Identifier("d", "copied")
        refused = copy_one_by_one(self.connection, table, None, example.records, example.dialect.options)
        reasons = {number: f"{error.pgcode} {error.diag.message_primary}" for number, error in refused.items()}
        return Result(self._rows("d.copied"), sorted(refused), reasons)

    def _loaded(self, example: Example, transform: Mapping[str, str] = NOTHING) -> Result:
        report = self._load(example, transform)
        found = rows(
            self.connection,
            "SELECT record_number, reason || ': ' || message FROM loader.rejects"
            f" WHERE load_id = {report.load_id} ORDER BY 1",
        )
        return Result(self._rows("d.loaded"), [number for number, _ in found], dict(map(tuple, found)))

    def _load(self, example: Example, transform: Mapping[str, str] = NOTHING) -> loader.LoadReport:
        self.path.write_bytes(example.data)
        spec = {"table": "d.loaded", "mode": "append", "csv": example.dialect.spec, "rejects": {"max_ratio": 1}}
        spec["transform"] = dict(transform)
        return loader.load(str(self.path), spec, database=self.database, force=True)

    def _rows(self, name: str) -> list[str]:
        alias = name.partition(".")[2]
        return sorted(text for (text,) in rows(self.connection, f"SELECT {alias}::text FROM {name}"))

    def as_case(self, example: Example) -> str:
        """The example as a case of the corpus, with what COPY makes of it."""
        statements = [
            statement
            for name, statement in TYPES_OF_OUR_OWN.items()
            if any(f" {name}" in each for each in example.columns)
        ]
        with self.connection.cursor() as cursor:
            cursor.execute(example.create("d.copied"))
        copied = self._copied(example)
        table = output_of(self.connection, sql.Identifier("d", "copied"))
        self.connection.rollback()
        return _toml(example, ";\n".join([*statements, example.create("t")]), table, copied)


def _toml(example: Example, ddl: str, table: list[list[str | None]], copied: Result) -> str:
    lines = ['about = "…"', f"csv_hex = {_basic(example.data.hex())}", f"ddl = {_basic(ddl)}"]
    lines += ['settings = { timezone = "Europe/Berlin" }', "rows = ["]
    lines += [f"  [{', '.join('[]' if value is None else _basic(value) for value in row)}]," for row in table]
    lines += ["]", "rejects = ["]
    line = 1
    for number, record in enumerate(example.records, start=1):
        if number in copied.reasons:
            lines.append(f'  {{ record = {number}, line = {line}, reason = "?" }},  # {copied.reasons[number]!r}')
        line += 1 + record.count(b"\n") + record.replace(b"\r\n", b"").count(b"\r")
    lines += ["]", "copy = true", "", "[spec.csv]"]
    lines += [f"{key} = {_toml_value(value)}" for key, value in example.dialect.spec.items()]
    return "\n".join(lines) + "\n"


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(_basic, value))}]" if isinstance(value, list) else _basic(str(value))


def _basic(text: str) -> str:
    shown = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in shown) + '"'


@contextmanager
def arena(server: str, encoding: str = "UTF8") -> Iterator[Arena]:
    """A database of its own on ``server``, of that encoding, dropped afterwards."""
    with tempfile.TemporaryDirectory() as folder, encoded_database(server, encoding) as dsn:
        made = Arena(dsn, Path(folder))
        try:
            yield made
        finally:
            made.close()
