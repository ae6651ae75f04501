"""Look for texts that the kernel reads otherwise than COPY or Arrow's lane: ``python tests/fuzz_kernel.py SECONDS``.

Each round makes files of one type from generated and mutated texts, quoted or not: large ones, small ones that end at
each of their bytes, and small ones that are pushed by each number of bytes from 0 to 129, so that every field begins
and ends at every edge of the kernel's words of 64 bytes. Of the records that the kernel takes

- COPY has to take every one, as text, and what it gives back as binary COPY has to be the kernel's bytes, or, where
  bytes may differ (jsonb, char(n)), the two tables have to be equal;
- Arrow's lane must reject none, and has to make the same bytes of those that it is sure of.

What the kernel leaves has to be handed on as it stood in the file, and is not compared further: it is never wrong to
leave a record to the other lanes.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import date, timedelta
from io import BytesIO

import numpy as np
import psycopg2
from support.copying import records_of
from support.postgres import open_server

from loader.convert.binary_copy import encode
from loader.convert.lanes.kernel_program import Express, express_lane
from loader.convert.parse import Parser
from loader.convert.transform import Transformer
from loader.core.pgtypes import TypeFacts, column_type
from loader.core.spec.datetimes import Zones
from loader.kernel.compiled import compiled_kernel
from loader.postgres.database import Database
from loader.postgres.load_column import LoadColumn
from loader.postgres.statements import HEADER, TRAILER
from loader.postgres.time_zones import server_zones
from loader.records.block import Block
from loader.records.dialect import Dialect

FIELDS = 30_000
POOL = 6_000
PUSHED = 130
"""Bytes by which a file's fields are pushed: two words of 64, and two more."""
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Pacific/Apia",
)
MOODS = ("sad", "ok", "very happy", 'a"b', "ünï")

Make = Callable[[random.Random], str]


def _digits(dice: random.Random, most: int) -> str:
    return "".join(dice.choice("0123456789") for _ in range(dice.randint(1, most)))


def _integer(dice: random.Random) -> str:
    if dice.random() < 0.2:
        edge = dice.choice([2**15, 2**31, 2**63, 10**18, 10**19, 0])
        return str(dice.choice([1, -1]) * (edge + dice.randint(-2, 2)))
    return dice.choice(["", "", "", "-", "+"]) + _digits(dice, dice.choice([2, 5, 9, 20]))


def _nines(dice: random.Random) -> str:
    """What rounding makes a digit longer."""
    return f"{dice.choice(['', '-'])}{'9' * dice.randint(0, 30)}.{'9' * dice.randint(0, 14)}{dice.choice('4569')}"


def _numeric(dice: random.Random) -> str:
    if dice.random() < 0.1:
        return _nines(dice)
    text = dice.choice(["", "", "-", "+"]) + _digits(dice, dice.choice([1, 4, 13, 20, 70]))
    if dice.random() < 0.8:
        text += "." + (_digits(dice, dice.choice([2, 2, 5, 17, 70])) if dice.random() < 0.95 else "")
    if dice.random() < 0.1:
        text = text.replace("0", "9").replace("1", "9")
    if dice.random() < 0.02:
        text = dice.choice(["", "", "-", "+"]) + dice.choice(
            ["NaN", "nan", "inf", "Infinity", "INFINITY", "infi", "nan1"]
        )
    return text + (dice.choice(["e5", "E-3", "e"]) if dice.random() < 0.05 else "")


def _fraction(dice: random.Random) -> str:
    return "0." + _digits(dice, 6) if dice.random() < 0.8 else _nines(dice)


def _float(dice: random.Random) -> str:
    if dice.random() < 0.3:
        return repr(np.frombuffer(dice.randbytes(8), np.float64)[0].item())
    if dice.random() < 0.2:
        return repr(np.frombuffer(dice.randbytes(4), np.float32)[0].item())
    exponent = dice.choice(
        ["", "", f"e{dice.randint(-330, 330)}", f"E+{dice.randint(0, 40)}", f"e-{dice.randint(0, 50)}"]
    )
    return _numeric(dice).rstrip("eE") + exponent


def _boolean(dice: random.Random) -> str:
    word = dice.choice(["t", "f", "true", "false", "yes", "no", "on", "off", "1", "0", "y", "n", "tru", "of", "2"])
    return "".join(dice.choice([letter, letter.upper()]) for letter in word)


def _day(dice: random.Random) -> str:
    year = dice.choice([dice.randint(1, 9999), 2000, 1900, 2024, 1, 9999, 0])
    return f"{year:04}-{dice.randint(0, 13):02}-{dice.choice([dice.randint(1, 28), 29, 30, 31, 0, 32]):02}"


def _clock(dice: random.Random) -> str:
    text = f"{dice.randint(0, 24):02}:{dice.randint(0, 60):02}"
    if dice.random() < 0.9:
        text += f":{dice.randint(0, 60):02}"
        if dice.random() < 0.6:
            text += "." + _digits(dice, dice.choice([3, 6, 7]))
    return text


def _timestamp(dice: random.Random) -> str:
    return _day(dice) + (dice.choice([" ", " ", "T", "  ", "t"]) + _clock(dice) if dice.random() < 0.95 else "")


def _timestamptz(dice: random.Random) -> str:
    offset = f"{dice.choice('+-')}{dice.randint(0, 16):02}" + dice.choice(["", ":30", "45", ":60", "00"])
    return _timestamp(dice) + dice.choice(["", "Z", "z", offset, offset, offset, " " + offset, " UTC", "  UTC", "UTC"])


def _about_a_change(dice: random.Random) -> str:
    """Near two in the morning of a Sunday in spring or autumn, where clocks are changed."""
    day = date(dice.randint(1890, 2110), dice.choice([3, 4, 9, 10, 11]), 1) + timedelta(dice.randint(0, 40))
    day -= timedelta((day.weekday() + 1) % 7)
    return f"{day} {dice.randint(0, 4):02}:{dice.choice([0, 29, 30, 59]):02}:{dice.choice([0, 1, 59]):02}"


def _uuid(dice: random.Random) -> str:
    text = "".join(dice.choice("0123456789abcdefABCDEF") for _ in range(32))
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _bytea(dice: random.Random) -> str:
    return "\\x" + "".join(dice.choice("0123456789abcdefABCDEF") for _ in range(2 * dice.randint(0, 40)))


def _text(dice: random.Random) -> str:
    alphabet = dice.choice(["ab ", "aé€😀", " \"',;\\", "a\r\n\t", "\x01\x7fß"])
    return "".join(dice.choice(alphabet) for _ in range(dice.choice([0, 1, 3, 4, 31, 32, 33, 63, 64, 65, 130])))


def _json(dice: random.Random) -> str:
    text = dice.choice(['{{"a": {}}}', "[1, 2, {}]", '"{}"', "{}"]).format(dice.randint(0, 10**6))
    return text if dice.random() < 0.9 else text.replace("a", "ü")


def _mood(dice: random.Random) -> str:
    return dice.choice([*MOODS, "SAD", "ok ", ""])


@dataclass(frozen=True)
class Kind:
    """A type, how its texts are made, and the bytes that mutations put into them."""

    name: str
    make: Make
    alphabet: str
    strict: bool = False
    mutated: float = 0.3
    zone: str = "UTC"


KINDS = (
    Kind("smallint", _integer, "0123456789+- _x"),
    Kind("integer", _integer, "0123456789+- _x"),
    Kind("bigint", _integer, "0123456789+- _x"),
    Kind("bigint", _integer, "0123456789+- _x", strict=True),
    Kind("numeric", _numeric, "0123456789.+-eE _N"),
    Kind("numeric", _numeric, "0123456789.+-eE _N", strict=True),
    Kind("numeric(15,2)", _numeric, "0123456789.+-eE _N"),
    Kind("numeric(4,4)", _fraction, "0123456789.+-eE _N"),
    Kind("numeric(38,10)", _numeric, "0123456789.+-eE _N"),
    Kind("real", _float, "0123456789.+-eE naif"),
    Kind("double precision", _float, "0123456789.+-eE naif"),
    Kind("double precision", _float, "0123456789.+-eE naif", strict=True),
    Kind("boolean", _boolean, "tfyn10 "),
    Kind("date", _day, "0123456789-/ T", mutated=0.1),
    Kind("timestamp without time zone", _timestamp, "0123456789-/: T.Z+", mutated=0.1),
    Kind("timestamp(3) without time zone", _timestamp, "0123456789-/: T.Z+", mutated=0.1),
    Kind("timestamp without time zone", _timestamptz, "0123456789-/: T.Z+", mutated=0.1),
    Kind("timestamp with time zone", _timestamptz, "0123456789-/: T.Z+", mutated=0.1),
    *(
        Kind("timestamp with time zone", make, "0123456789-/: T.Z+", mutated=0.05, zone=zone)
        for make in (_timestamptz, _about_a_change)
        for zone in ZONES
    ),
    Kind("time without time zone", _clock, "0123456789: ."),
    Kind("uuid", _uuid, "0123456789abcdefABCDEFg-{}"),
    Kind("bytea", _bytea, "0123456789abcdefABCDEFgx\\ "),
    Kind("text", _text, 'a"é\r\n\0,'),
    Kind("character varying(32)", _text, 'a"é\r\n\0, '),
    Kind("character(5)", _text, 'a"é\r\n\0, '),
    Kind("json", _json, "a", mutated=0.0),
    Kind("jsonb", _json, "a", mutated=0.0),
    Kind("mood", _mood, "a "),
)


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True)
class Form:
    """How a file is written."""

    delimiter: bytes = b","
    quote: bytes = b'"'
    null: bytes = b""
    end: bytes = b"\n"

    @property
    def dialect(self) -> Dialect:
        return Dialect(self.delimiter, ord(self.quote), ord(self.quote))

    @property
    def options(self) -> str:
        given = {"DELIMITER": self.delimiter, "QUOTE": self.quote, "NULL": self.null}
        return "".join(f", {name} {literal(text.decode())}" for name, text in given.items())

    def quoted(self, field: bytes) -> bytes:
        return self.quote + field.replace(self.quote, 2 * self.quote) + self.quote


def form_of(dice: random.Random) -> Form:
    if dice.random() < 0.6:
        return Form(end=dice.choice([b"\n", b"\r\n"]))
    return Form(
        delimiter=dice.choice([b",", b";", b"|", b"\t"]),
        quote=dice.choice([b'"', b"'"]),
        null=dice.choice([b"", b"NULL", b"\\N", b"0"]),
        end=dice.choice([b"\n", b"\r\n", b"\r"]),
    )


def column_of(kind: Kind, number: int) -> LoadColumn:
    facts = TypeFacts(labels=MOODS) if kind.name == "mood" else None
    pattern = ".*" if kind.strict else None
    return LoadColumn(f"v{number}", column_type(kind.name, facts), number + 1, pattern=pattern, zone=kind.zone)


def columns_of(kind: Kind, width: int) -> list[LoadColumn]:
    """A text, by which the others are pushed, and ``width`` columns of the kind."""
    return [LoadColumn("pad", column_type("text"), 0), *(column_of(kind, number) for number in range(width))]


def pool(kind: Kind, form: Form, dice: random.Random, size: int) -> list[bytes]:
    """Fields as they stand in a file: generated, mutated, quoted, or broken."""
    made = []
    stray = dice.random() < 0.1  # quotes out of place, of which one moves all that follow
    special = (form.delimiter, form.quote)
    for _ in range(size):
        text = kind.make(dice)
        if kind.mutated and dice.random() < 0.02:
            text = dice.choice(["", " ", "\t ", "\n"]) + text + dice.choice(["", " ", "  ", "\r\n", "\v\f", "\xa0"])
        while dice.random() < kind.mutated:
            at = dice.randint(0, len(text))
            put = dice.choice(["", kind.alphabet[dice.randrange(len(kind.alphabet))]])
            text = text[:at] + put + text[at + dice.randint(0, 1) :]
        field = text.encode()
        chance = dice.random()
        if chance < 0.02:
            field += dice.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"])
        elif chance < 0.04:
            made.append(form.null)
            continue
        runs_over = b"\r" in field or b"\n" in field
        breaks = any(byte in field for byte in special) and not (stray and dice.random() < 0.01)
        field = form.quoted(field) if runs_over or breaks or dice.random() < 0.2 else field
        made.append(irregular(field, form, dice) if chance > 0.98 and kind.mutated and not runs_over else field)
    return made


def irregular(field: bytes, form: Form, dice: random.Random) -> bytes:
    """The field with two more quotes somewhere."""
    for _ in range(2):
        at = dice.randint(0, len(field))
        field = field[:at] + form.quote + field[at:]
    return field


@dataclass(frozen=True)
class File:
    """One file, and its records without their line ends."""

    data: bytes
    records: list[bytes]

    @classmethod
    def read(cls, data: bytes, form: Form) -> File:
        """With the records as COPY's manual tells them apart, byte by byte."""
        quote = ord(form.quote)
        return cls(data, [record for _, record in records_of(data, quote=quote, escape=quote)])

    def block(self, form: Form) -> Block:
        return Block(self.data, 0, 1, 1, len(self.records), 1, True, True, form.dialect)


def file_of(fields: Sequence[bytes], width: int, form: Form, dice: random.Random, *, size: int, pad: bytes) -> File:
    """``size`` fields in records of ``width``, each after its number or, the first of them, after ``pad``."""
    chosen = dice.choices(fields, k=size // width * width)
    rows = range(0, len(chosen), width)
    records = [form.delimiter.join([b"%d" % at, *chosen[at : at + width]]) for at in rows]
    if pad:
        records[0] = pad + records[0]
    data = form.end.join(records) + dice.choice([form.end, b""])
    stray = any(record.count(form.quote) % 2 for record in records)  # then a record goes on in the next line
    return File.read(data, form) if stray else File(data, records)


def large(fields: Sequence[bytes], width: int, form: Form, dice: random.Random) -> list[File]:
    return [file_of(fields, width, form, dice, size=FIELDS, pad=b"")]


def ending_anywhere(fields: Sequence[bytes], width: int, form: Form, dice: random.Random) -> list[File]:
    """A small file up to each of its bytes."""
    whole = file_of(fields, width, form, dice, size=6 * width, pad=b"").data[:400]
    return [File.read(whole[:end], form) for end in range(1, len(whole) + 1)]


def pushed(fields: Sequence[bytes], width: int, form: Form, dice: random.Random) -> list[File]:
    """A small file after so many bytes, from none on."""
    return [file_of(fields, width, form, dice, size=6 * width, pad=b"x" * pad) for pad in range(PUSHED)]


SHAPES = (large, large, large, ending_anywhere, pushed)


@dataclass(frozen=True)
class Taken:
    """What the kernel took of some files: ``records`` as ``tuples``. How many records it ``left``, and whole blocks."""

    tuples: bytes
    records: list[bytes]
    left: int
    blocks_left: int


class Found(Exception):
    """Something that the kernel does otherwise."""


class Comparison:
    """What the kernel takes, put to COPY and to Arrow's lane; and how many fields were found equal, by type."""

    def __init__(self, connection: psycopg2.extensions.connection, zones: Zones) -> None:
        self._connection = connection
        self._zones = zones
        self.fields: Counter[str] = Counter()
        self.with_arrow: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        self.texts: Counter[str] = Counter()
        self.blocks = self.blocks_left = 0

    def round(self, kind: Kind, dice: random.Random) -> None:
        """Raises Found where something differs."""
        width = dice.choice([1, 1, 3, 12])
        form, shape = form_of(dice), dice.choice(SHAPES)
        if shape is ending_anywhere and column_of(kind, 0).type.hopeful:  # half a JSON text is taken, and refused later
            shape = pushed
        fields = pool(kind, form, dice, POOL if shape is large else POOL // 10)
        self.texts[kind.name] += len(fields)
        if width > 3:  # of many fields one is nearly always odd
            fields = sure_of(kind, form, fields, self._zones) or fields
        columns = columns_of(kind, width)
        files = shape(fields, width, form, dice)
        taken = self._take(kind, form, columns, files)
        self.left[kind.name] += taken.left * width
        self.blocks += len(files)
        self.blocks_left += taken.blocks_left
        if not taken.records:
            return
        self._with_copy(kind, form, columns, taken)
        self.fields[kind.name] += len(taken.records) * width
        self.with_arrow[kind.name] += width * self._with_arrow(kind, form, columns, taken)

    def _take(self, kind: Kind, form: Form, columns: Sequence[LoadColumn], files: Sequence[File]) -> Taken:
        lane = lane_of(columns, form, self._zones)
        tuples: list[bytes] = []
        records: list[bytes] = []
        left = blocks_left = 0
        for file in files:
            lane._suspicion = 0
            block = file.block(form)
            sure = lane.take(block)
            if sure is None:  # a stray quote, so that the records are others
                blocks_left += 1
                continue
            odd = [] if sure.rest is None else sure.rest.origin[1].tolist()
            if sure.kept + len(odd) != len(file.records):
                raise Found(f"{kind.name}: kept {sure.kept} and left {len(odd)} of {len(file.records)} records")
            if sure.rest is not None and sure.rest.data != b"".join(file.records[each] + b"\n" for each in odd):
                raise Found(f"{kind.name}: what is left is not as it stood in {file.data!r}")
            tuples.append(sure.tuples)
            places = set(odd)
            records += [record for number, record in enumerate(file.records) if number not in places]
            left += len(odd)
        return Taken(b"".join(tuples), records, left, blocks_left)

    def _with_copy(self, kind: Kind, form: Form, columns: Sequence[LoadColumn], taken: Taken) -> None:
        definitions = ", ".join(f"{column.name} {column.type.name}" for column in columns)
        made = BytesIO()
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT set_config('timezone', %s, true)", [kind.zone])
            cursor.execute(f"CREATE TEMP TABLE by_copy ({definitions}) ON COMMIT DROP")
            text = BytesIO(b"".join([record + b"\n" for record in taken.records]))
            try:
                cursor.copy_expert(f"COPY by_copy FROM STDIN (FORMAT csv{form.options})", text)
            except psycopg2.Error as error:
                raise Found(f"{kind.name}: COPY refuses what the kernel took: {error}") from error
            cursor.copy_expert("COPY by_copy TO STDOUT (FORMAT binary)", made)
            if made.getbuffer()[len(HEADER) : -len(TRAILER)] != taken.tuples:
                self._in_tables(kind, columns, taken, definitions)
        self._connection.rollback()

    def _in_tables(self, kind: Kind, columns: Sequence[LoadColumn], taken: Taken, definitions: str) -> None:
        names = [column.name for column in columns]
        same = " AND ".join(f"format('%s', k.{name}) = format('%s', c.{name})" for name in names)
        same += "".join(f" AND (k.{name} IS NULL) = (c.{name} IS NULL)" for name in names)
        numbered = "(SELECT row_number() OVER () AS row_number, * FROM {})"
        with self._connection.cursor() as cursor:
            cursor.execute(f"CREATE TEMP TABLE by_kernel ({definitions}) ON COMMIT DROP")
            try:
                made = BytesIO(HEADER + taken.tuples + TRAILER)
                cursor.copy_expert("COPY by_kernel FROM STDIN (FORMAT binary)", made)
            except psycopg2.Error as error:
                raise Found(f"{kind.name}: PostgreSQL refuses the kernel's tuples: {error}") from error
            cursor.execute(
                f"SELECT k::text, c::text FROM {numbered.format('by_kernel')} k"
                f" FULL JOIN {numbered.format('by_copy')} c USING (row_number) WHERE ({same}) IS NOT TRUE LIMIT 1"
            )
            if found := cursor.fetchone():
                raise Found(f"{kind.name}: the kernel made {found[0]!r} and COPY {found[1]!r}")

    def _with_arrow(self, kind: Kind, form: Form, columns: Sequence[LoadColumn], taken: Taken) -> int:
        """How many records Arrow's lane is sure of, too; none where it leaves the type to COPY."""
        if any(column.type.wire == "server" for column in columns):
            return 0
        lines = [record + b"\n" for record in taken.records]
        block = File(b"".join(lines), taken.records).block(form)
        rows = Transformer(columns, {}, zones=self._zones).convert(
            Parser(columns, len(columns), (form.null.decode(),), name="fuzz").parse(block)
        )
        if rows.rejects:
            raise Found(f"{kind.name}: Arrow's lane rejects what the kernel took: {rows.rejects}")
        tuples = taken.tuples
        if len(rows.index) < len(lines):
            chosen = [taken.records[each] for each in rows.index.tolist()]
            again = self._take(kind, form, columns, [File(b"".join(each + b"\n" for each in chosen), chosen)])
            if again.left:
                raise Found(f"{kind.name}: the kernel took records, and left them in other company")
            tuples = again.tuples
        made = encode(rows, [column.type for column in columns], with_position=False)
        if made != tuples:
            at = next(place for place, (one, other) in enumerate(zip(made, tuples, strict=False)) if one != other)
            near = slice(max(at - 60, 0), at + 20)
            raise Found(f"{kind.name}: Arrow's lane makes …{made[near]!r}…, the kernel …{tuples[near]!r}…")
        return len(rows.index)


def lane_of(columns: Sequence[LoadColumn], form: Form, zones: Zones) -> Express:
    null = (form.null.decode(),)
    made = express_lane(
        compiled_kernel(), columns, len(columns), null, {}, key=(), required=(), with_position=False, zones=zones
    )
    assert made is not None
    return made


def sure_of(kind: Kind, form: Form, fields: list[bytes], zones: Zones) -> list[bytes]:
    """The fields that the kernel takes when each is alone in its record."""
    lines = [b"1" + form.delimiter + field for field in fields]
    sure = lane_of(columns_of(kind, 1), form, zones).take(File(form.end.join(lines), lines).block(form))
    if sure is None or sure.rest is None:
        return fields
    odd = set(sure.rest.origin[1].tolist())
    return [field for number, field in enumerate(fields) if number not in odd]


def connect(server: str) -> psycopg2.extensions.connection:
    connection = psycopg2.connect(server)
    with connection.cursor() as cursor:
        labels = ", ".join(f"'{label}'" for label in MOODS)
        cursor.execute(f"CREATE TYPE mood AS ENUM ({labels})")
        cursor.execute("SET timezone TO 'UTC'; SET jit TO off")
    connection.commit()
    return connection


def tell(compared: Comparison) -> None:
    for name, count in compared.fields.items():
        print(
            f"{count:>12,} equal  {compared.with_arrow[name]:>12,} of them with Arrow's, too"
            f"  {compared.left[name]:>12,} left  {compared.texts[name]:>11,} texts  {name}"
        )
    print(
        f"{compared.fields.total():,} fields of {len(compared.fields)} types in {compared.blocks:,} blocks equal to"
        f" COPY's, {compared.with_arrow.total():,} of them to Arrow's; {compared.left.total():,} left to other lanes,"
        f" {compared.blocks_left:,} blocks not taken; none different"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float, nargs="?", default=60)
    parser.add_argument("--fields", type=int, default=0, help="go on until so many are compared, whatever the time")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--server", default="embedded-18")
    options = parser.parse_args()
    if compiled_kernel() is None:
        sys.exit("there is no compiled kernel")
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    dice = random.Random(seed)
    until = time.monotonic() + options.seconds
    with open_server(options.server) as server, closing(connect(server)) as connection, suppress(KeyboardInterrupt):
        compared = Comparison(connection, server_zones(Database(server), "UTC"))
        while compared.fields.total() < options.fields or (not options.fields and time.monotonic() < until):
            for kind in KINDS:
                try:
                    compared.round(kind, dice)
                except Found as found:
                    print(f"seed {seed}: {found}")
                    return 1
            print(f"{compared.fields.total():,} fields equal", file=sys.stderr)
    tell(compared)
    return 0


if __name__ == "__main__":
    sys.exit(main())
