"""Look for texts that the compiled kernel and COPY read differently: ``python tests/fuzz_kernel.py SECONDS``.

Each round makes files of one type from generated and mutated texts, quoted or not, with fields that end wherever the
kernel's words of 64 bytes do. What the kernel converts goes to PostgreSQL as its binary COPY, and the same records go
there as text; the two tables have to be equal, and COPY has to take every record. What the kernel leaves to the other
lanes is not compared: it is never wrong to leave a record to them.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from io import BytesIO

import numpy as np
import psycopg2
from support.postgres import open_server

from loader.columns import LoadColumn
from loader.fields import Dialect
from loader.kernel import compiled_kernel
from loader.kernel.express import Express, express_lane
from loader.pgtypes import TypeFacts, column_type
from loader.records import Block
from loader.statements import HEADER, TRAILER

RECORDS = 20_000
POOL = 3_000
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


def _numeric(dice: random.Random) -> str:
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
    Kind("numeric(4,4)", lambda dice: "0." + _digits(dice, 6), "0123456789.+-eE _N"),
    Kind("numeric(38,10)", _numeric, "0123456789.+-eE _N"),
    Kind("real", _float, "0123456789.+-eE naif"),
    Kind("double precision", _float, "0123456789.+-eE naif"),
    Kind("double precision", _float, "0123456789.+-eE naif", strict=True),
    Kind("boolean", _boolean, "tfyn10 "),
    Kind("date", _day, "0123456789-/ T"),
    Kind("timestamp without time zone", _timestamp, "0123456789-/: T.Z+"),
    Kind("timestamp(3) without time zone", _timestamp, "0123456789-/: T.Z+"),
    Kind("timestamp without time zone", _timestamptz, "0123456789-/: T.Z+", mutated=0.1),
    Kind("timestamp with time zone", _timestamptz, "0123456789-/: T.Z+"),
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


def column_of(kind: Kind, number: int) -> LoadColumn:
    facts = TypeFacts(labels=MOODS) if kind.name == "mood" else None
    pattern = ".*" if kind.strict else None
    return LoadColumn(f"v{number}", column_type(kind.name, facts), number + 1, pattern=pattern, zone=kind.zone)


def pool(kind: Kind, dice: random.Random) -> list[bytes]:
    """Fields as they stand in a file: generated, mutated, quoted, or broken."""
    made = []
    stray = dice.random() < 0.1  # quotes out of place, of which one moves all that follow
    for _ in range(POOL):
        text = kind.make(dice)
        if kind.mutated and dice.random() < 0.02:
            text = dice.choice(["", " ", "\t ", "\n"]) + text + dice.choice(["", " ", "  ", "\r\n", "\v\f", "\xa0"])
        while dice.random() < kind.mutated:
            at = dice.randint(0, len(text))
            text = (
                text[:at]
                + dice.choice(["", kind.alphabet[dice.randrange(len(kind.alphabet))]])
                + text[at + dice.randint(0, 1) :]
            )
        field = text.encode()
        if dice.random() < 0.02:
            field += dice.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"])
        runs_over = b"\r" in field or b"\n" in field
        if (
            runs_over
            or (any(byte in field for byte in b',"') and not (stray and dice.random() < 0.01))
            or dice.random() < 0.2
        ):
            field = b'"' + field.replace(b'"', b'""') + b'"'
        made.append(field)
    return made


def file_of(fields: Sequence[bytes], width: int, dice: random.Random) -> tuple[bytes, list[bytes]]:
    """A file of records, each with its number before it, and the records."""
    chosen = np.array([dice.randrange(len(fields)) for _ in range(RECORDS // width * width)]).reshape(-1, width)
    end = dice.choice([b"\n", b"\r\n"])
    lines = [
        b"%d," % number + b",".join([fields[each] for each in row]) for number, row in enumerate(chosen.tolist(), 1)
    ]
    return end.join(lines) + dice.choice([end, b""]), lines


class Comparison:
    """The two tables of one type, and how many fields were found equal in them."""

    def __init__(self, connection: psycopg2.extensions.connection) -> None:
        self._connection = connection
        self.fields: Counter[str] = Counter()
        self.left: Counter[str] = Counter()

    def round(self, kind: Kind, dice: random.Random) -> str | None:
        """What differs, in words; None where nothing does."""
        width = dice.choice([1, 1, 3, 12])
        columns = [LoadColumn("id", column_type("bigint"), 0), *(column_of(kind, number) for number in range(width))]
        lane = express_lane(compiled_kernel(), columns, width + 1, ("",), {}, key=(), required=(), with_position=False)
        assert lane is not None
        fields = pool(kind, dice)
        if width > 3:  # of many fields one is nearly always odd
            fields = self._sure(lane, kind, fields)
        data, lines = file_of(fields, width, dice)
        regular = Dialect(b",", ord('"'), ord('"'))
        block = Block(data, 0, 1, 1, len(lines), 1, True, True, regular)
        sure = lane.take(block)
        if sure is None:
            return None
        odd = set() if sure.rest is None else set(sure.rest.origin[1].tolist())
        kept = [line for number, line in enumerate(lines) if number not in odd]
        if len(kept) != sure.kept:
            return f"{kind.name}: {sure.kept} records were kept and {len(odd)} of {len(lines)} left"
        self.left[kind.name] += len(odd) * width
        self.fields[kind.name] += len(kept) * width
        return self._differ(kind, columns, sure.tuples, kept)

    def _sure(self, lane: Express, kind: Kind, fields: list[bytes]) -> list[bytes]:
        columns = [LoadColumn("id", column_type("bigint"), 0), column_of(kind, 0)]
        alone = express_lane(compiled_kernel(), columns, 2, ("",), {}, key=(), required=(), with_position=False)
        assert alone is not None
        regular = Dialect(b",", ord('"'), ord('"'))
        data = b"".join(b"1," + field + b"\n" for field in fields)
        sure = alone.take(Block(data, 0, 1, 1, len(fields), 1, True, True, regular))
        if sure is None or sure.rest is None:
            return fields
        odd = set(sure.rest.origin[1].tolist())
        return [field for number, field in enumerate(fields) if number not in odd] or fields

    def _differ(self, kind: Kind, columns: Sequence[LoadColumn], tuples: bytes, kept: Sequence[bytes]) -> str | None:
        with self._connection.cursor() as cursor:
            definitions = ", ".join(f"{column.name} {column.type.name}" for column in columns)
            cursor.execute("SELECT set_config('timezone', %s, true)", [kind.zone])
            cursor.execute(f"CREATE TEMP TABLE by_kernel ({definitions}) ON COMMIT DROP")
            cursor.execute(f"CREATE TEMP TABLE by_copy ({definitions}) ON COMMIT DROP")
            cursor.copy_expert("COPY by_kernel FROM STDIN (FORMAT binary)", BytesIO(HEADER + tuples + TRAILER))
            try:
                cursor.copy_expert(
                    "COPY by_copy FROM STDIN (FORMAT csv)", BytesIO(b"".join(line + b"\n" for line in kept))
                )
            except psycopg2.Error as error:
                self._connection.rollback()
                return f"{kind.name}: COPY refuses what the kernel took: {error}"
            names = [column.name for column in columns[1:]]
            same = " AND ".join(f"k.{name}::text IS NOT DISTINCT FROM c.{name}::text" for name in names)
            cursor.execute(
                f"SELECT k::text, c::text FROM by_kernel k FULL JOIN by_copy c USING (id) WHERE NOT ({same}) LIMIT 1"
            )
            found = cursor.fetchone()
        self._connection.rollback()
        return f"{kind.name}: the kernel made {found[0]!r} and COPY {found[1]!r}" if found else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float, nargs="?", default=60)
    parser.add_argument("--fields", type=int, default=None, help="stop after so many, whatever the time")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--server", default="embedded-18")
    options = parser.parse_args()
    if compiled_kernel() is None:
        sys.exit("there is no compiled kernel")
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    dice = random.Random(seed)
    until = time.monotonic() + options.seconds
    with open_server(options.server) as server:
        connection = psycopg2.connect(server)
        with connection.cursor() as cursor:
            labels = ", ".join(f"'{label}'" for label in MOODS)
            cursor.execute(f"CREATE TYPE mood AS ENUM ({labels})")
            cursor.execute("SET timezone TO 'UTC'; SET jit TO off")
        connection.commit()
        compared = Comparison(connection)
        while time.monotonic() < until and (options.fields is None or compared.fields.total() < options.fields):
            for kind in KINDS:
                if (found := compared.round(kind, dice)) is not None:
                    print(f"seed {seed}: {found}")
                    return 1
            print(
                f"{compared.fields.total():,} fields equal, {compared.left.total():,} left to other lanes",
                file=sys.stderr,
            )
        connection.close()
    for name, count in compared.fields.items():
        print(f"{count:>12,} equal, {compared.left[name]:>12,} left  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
