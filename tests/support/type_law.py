"""The law of types: what a load stores of a text is what COPY stores, for every type that a column can have.

A round takes some types, makes texts for each, and has COPY judge every text alone: whether it is taken, and what is
stored. Then a file of records that mix these texts is loaded into a table of these types, in one of several ways. Each
record with a text that COPY refuses has to be rejected, no other one may be, and all that is stored has to be COPY's,
to the letter of the text output.
"""

from __future__ import annotations

import functools
import io
import os
import random
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection

import loader
from loader.postgres.database import Database
from support.copying import rows
from support.every_type import Types, create_types, texts_of
from support.identity import HOOKS
from support.laws import BrokenLawError, database
from support.zones import any_zone, set_zone, times_with_words

TIMESTAMPTZ = 1184
"""Its oid."""

ZONED = ("timestamptz", "timestamptz(0)", "timestamptz(3)")

COLUMNS = 12
TEXTS = 150
RECORDS = 6000

CODECS = {"UTF8": "utf-8", "LATIN1": "latin-1"}

SETTINGS = (
    {},
    {"DateStyle": "German", "IntervalStyle": "iso_8601"},
    {"DateStyle": "SQL, DMY", "IntervalStyle": "sql_standard", "timezone": "America/St_Johns"},
    {"DateStyle": "Postgres, MDY", "IntervalStyle": "postgres_verbose", "bytea_output": "escape"},
    {"timezone": "Europe/Berlin", "extra_float_digits": "0", "xmloption": "document"},
)
"""Of the sessions, which read and write values by them."""


@dataclass(frozen=True)
class Column:
    """A column, and its texts as COPY judged them: those that it ``taken``, with what it stores of each in the text
    output (None: NULL), and those that it ``refused``, with why. A text of None is a field without quotes: NULL.
    ``spec``: what the spec says of the column, beside its type."""

    name: str
    type: str
    taken: Mapping[str | None, str | None]
    refused: Mapping[str | None, str]
    spec: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Way:
    """How a file is loaded. ``new``: into a table that the load creates. ``mode``: merge and replace go by way of a
    staging table. ``step``: a transform that changes nothing, but keeps texts from going to COPY as they stand.
    ``refusing``: the table refuses a record, so the load begins again with care. ``kernel``: `auto` or `off`.
    ``hook``: one that gives every batch back as it is, or none."""

    new: bool = False
    mode: str = "append"
    step: bool = False
    refusing: bool = False
    kernel: str = "auto"
    hook: str | None = None

    @classmethod
    def at_random(cls, dice: random.Random) -> Way:
        new = dice.random() < 0.3
        return cls(
            new=new,
            mode=dice.choice(["append", "append", "merge", "replace"]),
            step=dice.random() < 0.25,
            refusing=not new and dice.random() < 0.25,
            kernel=dice.choice(["auto", "auto", "off"]),
            hook=dice.choice([None, None, None, *HOOKS]),
        )


@dataclass
class Place:
    """A database with types of every kind, and a session in it that is COPY's."""

    dsn: str
    codec: str
    connection: Connection = field(init=False)
    database: Database = field(init=False)
    types: Types = field(init=False)
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.connection = psycopg2.connect(self.dsn)
        self.connection.set_client_encoding("UTF8")
        self.database = Database(self.dsn)
        self.folder = Path(tempfile.mkdtemp(prefix="loader-law-"))


@functools.cache
def _place(server: str, encoding: str, settings: int) -> Place:
    """One for each set of settings, in the same database."""
    dsn = database(server, "types", encoding)
    given = {"search_path": "d,public", **SETTINGS[settings]}
    options = " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in given.items())
    place = Place(psycopg2.extensions.make_dsn(dsn, options=options), CODECS[encoding])
    if not rows(place.connection, "SELECT FROM pg_namespace WHERE nspname = 'd'"):
        with place.connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA d")
        create_types(place.connection)
    place.types = Types(place.connection, place.codec)
    place.connection.commit()
    return place


def check(
    dice: random.Random,
    server: str,
    *,
    encoding: str = "UTF8",
    columns: int = COLUMNS,
    records: int = RECORDS,
    texts: int = TEXTS,
) -> int:
    """One round: compares ``records`` of so many ``columns``, made of ``texts`` different ones a column, and gives the
    number of values. Raises BrokenLawError."""
    place = _place(server, encoding, dice.randrange(len(SETTINGS)))
    chosen: list[Column] = []
    while len(chosen) < columns:
        called = f"c{len(chosen)}"
        if dice.random() < 0.1:
            column = zoned(place, called, dice, texts)
        else:
            name, oid = place.types.choose(dice)
            column = judged(place, called, name, texts_of(place.types, oid, dice, texts))
            if column is not None:
                place.types.learn(oid, filter(None, column.taken))
        if column is not None:
            chosen.append(defaulted(column, dice) if dice.random() < 0.2 else column)
    compare(place, chosen, Way.at_random(dice), dice, records)
    return columns * records


_OF_TODAY = re.compile("now|today|tomorrow|yesterday", re.IGNORECASE)
"""Another time in the load than it was to COPY."""


def zoned(place: Place, name: str, dice: random.Random, count: int) -> Column | None:
    """A column whose times are of a zone that the spec names."""
    zone = any_zone(place.connection, dice)
    some = [each for each in texts_of(place.types, TIMESTAMPTZ, dice, count // 2) if not _OF_TODAY.search(each)]
    column = judged(
        place, name, dice.choice(ZONED), [*some, *times_with_words(place.connection, dice, count // 2)], zone
    )
    return column and replace(column, spec={"timezone": zone})


def defaulted(column: Column, dice: random.Random) -> Column:
    """The column with one of its texts in the place of NULL.

    None of a domain: our domains judge the text of a value, and that of a default is written by other settings.
    """
    if re.search(r"\bd[0-9]+_", column.type):
        return column
    texts = sorted(text for text in column.taken if text is not None)
    if not texts:
        return column
    default = dice.choice(texts)
    taken = {**column.taken, None: column.taken[default]}
    refused = {text: why for text, why in column.refused.items() if text is not None}
    return replace(column, taken=taken, refused=refused, spec={**column.spec, "default": default})


def judged(place: Place, name: str, type_name: str, texts: Sequence[str], zone: str | None = None) -> Column | None:
    """The column with each text judged by COPY, in a time ``zone``; None where no table can have such a column."""
    with place.connection.cursor() as cursor:
        if zone is not None:
            set_zone(cursor, zone)
        try:
            cursor.execute(f"CREATE TEMP TABLE probe (n integer, c {type_name}) ON COMMIT DROP")
        except psycopg2.Error:
            place.connection.rollback()
            return None
        candidates: list[str | None] = [None, *texts]
        refused: dict[str | None, str] = {}
        left = list(enumerate(candidates))
        cursor.execute("SAVEPOINT judging")
        while left:
            try:
                cursor.copy_expert(
                    "COPY probe FROM STDIN (FORMAT csv)", io.BytesIO(_lines([(n, [text]) for n, text in left]))
                )
                break
            except psycopg2.Error as error:
                cursor.execute("ROLLBACK TO SAVEPOINT judging")
                at = _line(error, [text for _, text in left])
                refused[left[at][1]] = f"{error.pgcode} {error.diag.message_primary}"
                del left[at]
        if zone is not None:
            cursor.execute("SELECT set_config('timezone', reset_val, true) FROM pg_settings WHERE name = 'TimeZone'")
        taken = {candidates[int(n)]: value for n, value in _output(place.connection, "probe", ["n", "c"])}
    place.connection.rollback()
    return Column(name, type_name, taken, refused)


def _line(error: psycopg2.Error, texts: Sequence[str | None]) -> int:
    """The place of the text that COPY was reading: it names the line at which the record ends, and counts LF alone."""
    found = re.search(r"^COPY probe, line (\d+)", error.diag.context or "", re.MULTILINE)
    if found is None:
        raise error
    line, number = 0, int(found[1])
    for place, text in enumerate(texts):
        line += 1 + (text or "").count("\n")
        if number <= line:
            return place
    raise error


def _lines(records: Sequence[tuple[int, Sequence[str | None]]]) -> bytes:
    return "".join(f"{n},{','.join(map(_field, texts))}\n" for n, texts in records).encode()


def _field(text: str | None) -> str:
    return "" if text is None else '"' + text.replace('"', '""') + '"'


def _output(connection: Connection, table: str, names: Sequence[str]) -> list[list[str | None]]:
    """The table in the order of its first column: each value in its type's text output, NULL as None."""
    made = io.BytesIO()
    listed = ", ".join(names)
    with connection.cursor() as cursor:
        cursor.copy_expert(f"COPY (SELECT {listed} FROM {table} ORDER BY {names[0]}) TO STDOUT", made)
    lines = made.getvalue().decode().split("\n")[:-1]
    return [[None if value == "\\N" else value for value in line.split("\t")] for line in lines]


def compare(place: Place, columns: Sequence[Column], way: Way, dice: random.Random, count: int) -> None:
    """Load ``count`` records of the columns' texts, and look at what became of each. Raises BrokenLawError."""
    records = _records(columns, dice, count)
    bad = {n for n, texts in records if any(text in c.refused for c, text in zip(columns, texts, strict=True))}
    if way.refusing:
        bad.add(_REFUSED)
    try:
        stored, rejected = _load(place, columns, way, records)
    except loader.LoaderError as error:
        raise BrokenLawError(f"{way}: the load failed: {error}\n{_told(columns)}") from error
    if way.hook is not None or any("timezone" in column.spec for column in columns):  # the README names these values
        bad |= {n for n, why in rejected.items() if _DIFFERENT.search(why)}
    for n, texts in records:
        if (n in bad) != (n in rejected):
            raise BrokenLawError(_verdict(columns, way, texts, n, rejected.get(n)))
    kept = [(n, texts) for n, texts in records if n not in bad]
    for (n, texts), row in zip(kept, stored, strict=True):
        wanted = [str(n), *(column.taken[text] for column, text in zip(columns, texts, strict=True))]
        if row != wanted and not (way.hook is not None and any(map(_is_far, wanted))):
            place_ = next(at for at, pair in enumerate(zip(row, wanted, strict=True)) if pair[0] != pair[1])
            column = columns[place_ - 1]
            raise BrokenLawError(
                f"{way}, record {n}, {column.type} {dict(column.spec)}: of {texts[place_ - 1]!r}"
                f" COPY stores {wanted[place_]!r}, and the load {row[place_]!r}"
            )


_DIFFERENT = re.compile(
    "but it cannot be shown to the hook$|more than one (operator|function) named|time zone displacement out of range"
    '|timestamp out of range: "294277-01-01 00:00:00'
)


def _is_far(text: str | None) -> bool:
    """Whether it is a time whose offset has three digits, which PostgreSQL writes, and reads as hours and minutes."""
    return text is not None and re.search(r"[0-9]:[0-9]{2}[+-][0-9]{3}\b", text) is not None


MOST_REFUSED = 800
"""Records with a refused text: until PostgreSQL 15 each costs sending the rest again."""

_REFUSED = 7
"""The record that a table refuses which is to refuse one."""


def _records(columns: Sequence[Column], dice: random.Random, count: int) -> list[tuple[int, list[str | None]]]:
    """Numbered records of which each text is in one at least; of refused texts none has two."""
    good = [list(column.taken) for column in columns]
    odd = [(place, text) for place, column in enumerate(columns) for text in column.refused]
    odd = dice.sample(odd, min(len(odd), count // 4, MOST_REFUSED))
    made: list[list[str | None]] = []
    for at in range(count):
        made.append(
            [
                (texts[at] if at < len(texts) else dice.choice(texts)) if texts else next(iter(column.refused))
                for texts, column in zip(good, columns, strict=True)
            ]
        )
    for at, (place, text) in zip(dice.sample(range(count), len(odd)), odd, strict=True):
        made[at][place] = text
    return list(enumerate(made, start=1))


def _load(
    place: Place, columns: Sequence[Column], way: Way, records: Sequence[tuple[int, Sequence[str | None]]]
) -> tuple[list[list[str | None]], dict[int, str]]:
    """The table afterwards, and of each reject why."""
    declared = [("n", "integer"), *((column.name, column.type) for column in columns)]
    path = place.folder / "law.csv"
    header = ",".join(name for name, _ in declared)
    path.write_bytes(header.encode() + b"\n" + _lines(records))
    step: dict[str, Any] = {"transform": [{"null_if": "\x07no such text"}]} if way.step else {}
    spec: dict[str, Any] = {"table": "d.loaded", "mode": way.mode, "rejects": {"max_ratio": 1, "max_rows": 10**6}}
    told = {column.name: column.spec for column in columns}
    spec["columns"] = {
        name: {**({"type": kind} if way.new else {}), **step, **told.get(name, {})} for name, kind in declared
    }
    if way.mode != "append":
        spec["key"] = ["n"]
    if way.hook is not None:
        spec["transform"] = {"python": way.hook}
    try:
        _run(place, "DROP TABLE IF EXISTS d.loaded")
        if not way.new:
            listed = ", ".join(f"{name} {kind}" for name, kind in declared)
            _run(place, f"CREATE TABLE d.loaded ({listed}{f', CHECK (n <> {_REFUSED})' if way.refusing else ''})")
        with _setting("LOADER_KERNEL", way.kernel), _setting("LOADER_HOOKS", "support"):
            report = loader.load(str(path), spec, database=place.database, force=True)
        rejects = "SELECT record_number, reason || ': ' || message FROM loader.rejects WHERE load_id = %s"
        with place.connection.cursor() as cursor:
            cursor.execute(rejects, [report.load_id])
            rejected = dict(cursor.fetchall())
        if way.new:
            _same_types(place, columns)
        return _output(place.connection, "d.loaded", [name for name, _ in declared]), rejected
    finally:
        place.connection.rollback()
        _run(place, "DROP TABLE IF EXISTS d.loaded")
        _run(place, "TRUNCATE loader.rejects" if _has_ledger(place) else "SELECT")


def _same_types(place: Place, columns: Sequence[Column]) -> None:
    """The load's new table has the columns' very types, modifiers included."""
    found = dict(
        map(
            tuple,
            rows(
                place.connection,
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
                " WHERE attrelid = 'd.loaded'::regclass AND attnum > 0",
            ),
        )
    )
    with place.connection.cursor() as cursor:
        listed = ", ".join(f"{column.name} {column.type}" for column in columns)
        cursor.execute(f"CREATE TEMP TABLE declared ({listed}) ON COMMIT DROP")
        cursor.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = 'declared'::regclass AND attnum > 0"
        )
        for name, kind in cursor:
            if found[name] != kind:
                raise BrokenLawError(f"a new table's column of type {kind} is {found[name]}")


def _has_ledger(place: Place) -> bool:
    return bool(rows(place.connection, "SELECT to_regclass('loader.rejects') IS NOT NULL")[0][0])


def _run(place: Place, statement: str) -> None:
    with place.connection.cursor() as cursor:
        cursor.execute(statement)
    place.connection.commit()


@contextmanager
def _setting(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _told(columns: Sequence[Column]) -> str:
    return "columns: " + ", ".join(f"{column.name} {column.type} {dict(column.spec)}" for column in columns)


def _verdict(columns: Sequence[Column], way: Way, texts: Sequence[str | None], n: int, message: str | None) -> str:
    refused = [
        f"{column.type} of {text!r}: {column.refused[text]}"
        for column, text in zip(columns, texts, strict=True)
        if text in column.refused
    ]
    if refused:
        return f"{way}, record {n}: COPY refuses what the load took: {'; '.join(refused)}"
    taken = "; ".join(f"{column.type} of {text!r}" for column, text in zip(columns, texts, strict=True))
    told = {column.name: dict(column.spec) for column in columns if column.spec}
    return f"{way}, record {n}: COPY takes what the load rejected: {message}\n{taken}\n{told}"
