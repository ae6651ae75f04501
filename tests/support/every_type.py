"""Every type that a column of a database can have, and texts that are values of each, nearly are, or are not."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date

import psycopg2
from psycopg2.extensions import connection as Connection

from support.copying import rows
from support.differential import POOLS

EXTENSIONS = ("hstore", "citext", "ltree", "cube", "isn", "seg", "intarray", "lo", "earthdistance", "pg_trgm", "vector")
"""Those that bring types; a server need not have them."""

KEPT = 400
LONGEST = 60
"""Good texts of a type that are kept, and characters of one: what is made of them is not to grow without end."""

MODIFIED = {
    "character varying": ("(1)", "(3)", "(200)"),
    "character": ("(1)", "(3)", "(40)"),
    "bit": ("(1)", "(3)", "(17)"),
    "bit varying": ("(1)", "(4)", "(40)"),
    "numeric": ("(5,2)", "(38,10)", "(50,10)", "(3,-2)", "(3,5)", "(1000)", "(18,0)", "(4,4)", "(39,2)"),
    "time without time zone": ("(0)", "(2)", "(6)"),
    "time with time zone": ("(0)", "(3)"),
    "timestamp without time zone": ("(0)", "(2)", "(6)"),
    "timestamp with time zone": ("(0)", "(3)"),
    "interval": (
        "(0)",
        "(2)",
        " year",
        " month",
        " day",
        " hour",
        " minute",
        " second",
        " second(1)",
        " year to month",
        " day to hour",
        " day to second(3)",
        " hour to minute",
        " minute to second",
    ),
    "vector": ("(3)",),
}
"""Modifiers of the types that take some."""


def modified(name: str, modifiers: str) -> str:
    """``("time with time zone", "(3)")`` → ``time(3) with time zone``."""
    head, tail = (name.split(" ", 1)[0], name[len(name.split(" ", 1)[0]) :]) if name.startswith("time") else (name, "")
    return f"{head}{modifiers}{tail}"


_OF_OUR_OWN = (
    "CREATE TYPE mood AS ENUM ('sad', 'ok', 'very happy', 'a,b', 'ünï')",
    "CREATE DOMAIN moody AS mood CHECK (VALUE <> 'sad')",
    "CREATE DOMAIN given AS text NOT NULL",
    "CREATE DOMAIN brief AS text CHECK (length(VALUE) < 6)",
    "CREATE DOMAIN briefer AS brief CHECK (VALUE <> 'ab')",
    "CREATE DOMAIN positive AS integer CHECK (VALUE > 0)",
    "CREATE DOMAIN inverse AS numeric CHECK (1 / VALUE < 3)",
    "CREATE DOMAIN ordered AS integer[] CHECK (VALUE[1] < VALUE[2])",
    "CREATE DOMAIN long_ago AS timestamp(0) CHECK (VALUE < '2000-01-01')",
    "CREATE TYPE text_range AS RANGE (subtype = text)",
    "CREATE TYPE float_range AS RANGE (subtype = float8, subtype_diff = float8mi)",
    "CREATE TYPE time_range AS RANGE (subtype = time)",
    "CREATE TYPE inet_range AS RANGE (subtype = inet)",
    "CREATE TYPE interval_range AS RANGE (subtype = interval)",
    "CREATE TYPE uuid_range AS RANGE (subtype = uuid)",
    "CREATE TYPE pair AS (x integer, label text)",
    "CREATE TYPE mixed AS (a timestamp(0), b varchar(3)[], c numeric(5,2), d positive, e pair, f int4range)",
    "CREATE TYPE lonely AS (a interval hour)",
    "CREATE TYPE nothing AS ()",
    "CREATE DOMAIN good_pair AS pair CHECK ((VALUE).x > 0)",
    "CREATE TYPE \"Odd \"\"name\"\"\" AS ENUM ('x', '', 'y z')",
    "CREATE DOMAIN uuid_too AS uuid",
    "CREATE TYPE shadow AS ENUM ('numeric')",
    "CREATE DOMAIN int_domain_range AS int4range CHECK (NOT isempty(VALUE))",
    "CREATE DOMAIN words AS tsvector",
)


def create_types(connection: Connection) -> None:
    """Extensions as far as the server has them, and types of our own: a domain over each base type, its array and each
    of its modifiers, some with a CHECK. Commits."""
    with connection.cursor() as cursor:
        for extension in EXTENSIONS:
            _try(connection, f"CREATE EXTENSION {extension} SCHEMA public CASCADE")
        for statement in _OF_OUR_OWN:
            _try(connection, statement)
        names = [name for (name,) in rows(connection, _BASES)]
        for number, name in enumerate(names):
            spelled = [name, f"{name}[]", *(modified(name, each) for each in MODIFIED.get(name, ()))]
            for place, each in enumerate(spelled):
                # the text of a floating-point number depends on the session's extra_float_digits
                checked = (number + place) % 3 == 0 and name not in ("real", "double precision")
                check = " CHECK (VALUE::text !~ '[13]$')" if checked else ""
                _try(connection, f"CREATE DOMAIN d{number}_{place} AS {each}{check}")
        cursor.execute("ANALYZE pg_type")
    connection.commit()


def _try(connection: Connection, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT creating")
        try:
            cursor.execute(statement)
        except psycopg2.Error:  # this server lacks it, or the type cannot do that
            cursor.execute("ROLLBACK TO SAVEPOINT creating")


_BASES = """SELECT format_type(oid, NULL) FROM pg_type WHERE typtype = 'b' AND typisdefined AND typcategory <> 'A'
             AND typname !~ '^_' ORDER BY oid"""

_TYPES = """
    SELECT t.oid, format_type(t.oid, NULL), t.typtype::text, t.typcategory::text, t.typlen, t.typdelim::text,
           CASE WHEN t.typcategory = 'A' AND t.typlen = -1 THEN t.typelem ELSE 0 END, t.typbasetype,
           coalesce(r.rngsubtype, m.rngtypid, 0),
           ARRAY(SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0
                    AND NOT a.attisdropped ORDER BY a.attnum),
           ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid)
      FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid LEFT JOIN pg_range r ON r.rngtypid = t.oid
           LEFT JOIN pg_range m ON m.rngmultitypid = t.oid
     WHERE t.typtype <> 'p' AND t.typisdefined AND t.typnamespace <> 'pg_toast'::regnamespace
     ORDER BY t.oid
"""


@dataclass(frozen=True)
class Type:
    """A type of the catalog. ``element`` of an array, ``base`` of a domain, ``sub`` of a range or multirange and
    ``parts`` of a composite are oids, 0 or () where it is none."""

    oid: int
    name: str
    kind: str
    category: str
    size: int
    delimiter: str
    element: int
    base: int
    sub: int
    parts: tuple[int, ...]
    labels: tuple[str, ...]


@dataclass
class Types:
    """The types of a database, and texts for each. ``codec``: Python's name of its encoding. ``good``: texts that are
    known to be values of a type, of which arrays, ranges and rows are made."""

    connection: Connection
    codec: str = "utf-8"
    known: dict[int, Type] = field(default_factory=dict)
    columns: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    good: dict[int, list[str]] = field(default_factory=dict)
    _outputs: dict[int, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for oid, name, kind, category, size, delimiter, element, base, sub, parts, labels in rows(
            self.connection, _TYPES
        ):
            made = Type(oid, name, kind, category, size, delimiter, element, base, sub, tuple(parts), tuple(labels))
            self.known[oid] = made
            self._add(_group(made), name, oid)
            for each in MODIFIED.get(name, ()):
                self._add("modified", modified(name, each), oid)
                self._add("modified", f"{modified(name, each)}[]", oid, array=True)

    def _add(self, group: str, name: str, oid: int, *, array: bool = False) -> None:
        self.columns.setdefault(group, []).append((name, -oid if array else oid))

    def choose(self, dice: random.Random) -> tuple[str, int]:
        """A column's type as it is declared, and what `text` takes for it."""
        groups = [*(group for group in self.columns if group != "catalog"), "modified", "base", "domain"]
        group = "catalog" if dice.random() < 0.02 else dice.choice(groups)
        return dice.choice(self.columns[group])

    def learn(self, oid: int, taken: Iterable[str]) -> None:
        """Note some of the texts that are values of the type."""
        known = self.good.setdefault(oid, [])
        known += [text for text in taken if len(text) < LONGEST][: KEPT - len(known)]

    def text(self, oid: int, dice: random.Random) -> str:
        """A text for the type ``oid``, or for its array where that is negative: most are values of it."""
        chance = dice.random()
        if chance < 0.7:
            return self.value(oid, dice)
        if chance < 0.92:
            return self._mutated(self.value(oid, dice), dice)
        if chance < 0.96:
            return self.value(dice.choice(list(self.known)), dice)
        return "".join(dice.choice(_ANY + _MORE) for _ in range(dice.randint(0, 12)))

    def value(self, oid: int, dice: random.Random, depth: int = 0) -> str:
        """A text that is a value of the type, or nearly."""
        if depth > 4:
            return ""
        if oid < 0:
            return self._array(-oid, ",", dice, depth)
        if (good := self.good.get(oid)) and dice.random() < 0.7:
            return dice.choice(good)
        type_ = self.known.get(oid)
        if type_ is None:  # a pseudo-type, of a catalog's column
            return ""
        if type_.labels:
            return dice.choice(type_.labels)
        if type_.base:
            return self.value(type_.base, dice, depth)
        if type_.element:
            element = self.known.get(type_.element)
            return self._array(type_.element, element.delimiter if element else ",", dice, depth)
        if type_.kind == "r":
            return self._range(type_.sub, dice, depth)
        if type_.kind == "m":
            return "{" + ",".join(self.value(type_.sub, dice, depth + 1) for _ in range(dice.randint(0, 3))) + "}"
        if type_.kind == "c":
            return "(" + ",".join(self._part(each, dice, depth) for each in type_.parts) + ")"
        return self._base(type_, dice)

    def _base(self, type_: Type, dice: random.Random) -> str:
        name = type_.name.rpartition(".")[2].strip('"')
        makers: list[Callable[[], str]] = []
        if pool := POOLS.get(name) or POOLS.get(_POOL_OF.get(name, "")):
            makers.append(lambda: dice.choice(pool))
        if outputs := self._from_bytes(type_, dice):
            makers.append(lambda: dice.choice(outputs))
        if make := MAKERS.get(name) or MAKERS.get(_MAKER_OF.get(type_.category, "")):
            makers += [lambda: make(dice)] * 2
        if not makers:
            makers = [lambda: dice.choice(_WORDS)]
        return dice.choice(makers)()

    def _from_bytes(self, type_: Type, dice: random.Random) -> list[str]:
        """What PostgreSQL writes for values of random bytes, of a type that takes them."""
        if type_.oid not in self._outputs:
            self._outputs[type_.oid] = (
                [] if not 0 < type_.size <= 64 else _outputs(self.connection, type_.name, type_.size, dice)
            )
        return self._outputs[type_.oid]

    def _array(self, element: int, delimiter: str, dice: random.Random, depth: int) -> str:
        def one() -> str:
            if dice.random() < 0.1:
                return dice.choice(["NULL", "null"])
            return _in_array(self.value(element, dice, depth + 1), delimiter, dice)

        def level(most: int) -> str:
            return "{" + delimiter.join(one() for _ in range(dice.randint(0, most))) + "}"

        shape = dice.random()
        if shape < 0.75:
            return level(4)
        if shape < 0.9:
            size = dice.randint(1, 2)
            return "{" + delimiter.join("{" + delimiter.join(one() for _ in range(size)) + "}" for _ in range(2)) + "}"
        return f"[{dice.randint(-1, 1)}:{dice.randint(0, 2)}]={level(2)}"

    def _range(self, sub: int, dice: random.Random, depth: int) -> str:
        if dice.random() < 0.1:
            return dice.choice(["empty", " EMPTY "])
        bounds = [self.value(sub, dice, depth + 1) for _ in range(2)]
        if dice.random() < 0.8:
            bounds.sort(key=_order)
        low, high = ("" if dice.random() < 0.1 else _in_range(each, dice) for each in bounds)
        return f"{dice.choice('[(')}{low},{high}{dice.choice(')]')}"

    def _part(self, oid: int, dice: random.Random, depth: int) -> str:
        if dice.random() < 0.15:
            return ""
        text = self.value(oid, dice, depth + 1)
        if text and not set(text) & set('(),"\\ \t\n\r') and dice.random() < 0.7:
            return text
        return '"' + text.replace("\\", "\\\\").replace('"', '""') + '"'

    def _mutated(self, text: str, dice: random.Random) -> str:
        how = dice.randrange(9)
        at = dice.randint(0, len(text))
        if how == 0:
            return text[:at] + text[at + 1 :]
        if how == 1:
            return text[:at] + dice.choice(_ANY + _MORE) + text[at:]
        if how == 2:
            return text[:at] + dice.choice("0123456789") + text[at + 1 :]
        if how == 3:
            return dice.choice([text.upper(), text.lower(), text.title(), text.swapcase()])
        if how == 4:
            blank = dice.choice([" ", "  ", "\t", "\n", "\v", "\f", "\r\n"])
            return dice.choice([blank + text, text + blank, text.replace(" ", blank), text.replace(",", blank + ",")])
        if how == 5:
            return text[:at] + text[at:] * 2
        if how == 6:
            return text.replace("-", "/").replace(":", ".") if dice.random() < 0.5 else text.replace(" ", "T")
        if how == 7:
            return dice.choice(["-", "+", "0", "00", "$", "x", "'"]) + text
        return text + dice.choice(
            ["0", " BC", " AD", "+02", "Z", " UTC", "e5", "e-5", ".", ".5", "}", ")", "%", "::int"]
        )


def _group(type_: Type) -> str:
    if type_.kind == "c" and type_.oid < 16384:
        return "catalog"
    if type_.element:
        return "array"
    return {"b": "base", "d": "domain", "r": "range", "m": "multirange", "c": "composite", "e": "enum"}[type_.kind]


_MORE = "äß€🦆"
_ANY = "aB1 ,;|\t\n\r\"'\\.{}()[]-+eE_:/0123456789\u00a0"
_WORDS = ("", "a", "ab", "abc", "A b", "0", "1", "-1", "NULL", "x'y", 'q"q', "back\\slash", "1.5", "2024-01-05", " ")

_POOL_OF = {
    "integer": "int",
    "bigint": "bigint",
    "regproc": "int",
    "character varying": "varchar",
    "character": "char(3)",
    "bpchar": "char(3)",
    "citext": "text",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
    "time without time zone": "time",
    "time with time zone": "timetz",
    "bit": "bit(3)",
    "bit varying": "varbit(4)",
    "macaddr8": "macaddr",
    "cid": "oid",
    "xid": "oid",
    "xid8": "bigint",
    "cube": "point",
    "seg": "double precision",
}
_MAKER_OF = {"N": "bigint", "D": "timestamp", "T": "interval", "S": "text", "B": "boolean", "V": "bits"}


def _integer(dice: random.Random) -> str:
    if dice.random() < 0.4:
        edge = dice.choice([2**15, 2**16, 2**31, 2**32, 2**63, 2**64, 0, 10**9, 10**18])
        return str(dice.choice([1, -1]) * (edge + dice.randint(-2, 2)))
    return dice.choice(["", "", "-", "+"]) + str(dice.randrange(10 ** dice.randint(1, 20)))


def _decimal(dice: random.Random) -> str:
    if dice.random() < 0.1:
        return dice.choice(["NaN", "Infinity", "-Infinity", "inf", "-inf", "infinitY", "+nan"])
    whole = str(dice.randrange(10 ** dice.choice([1, 2, 3, 5, 17, 39, 60])))
    text = dice.choice(["", "", "-", "+"]) + whole
    if dice.random() < 0.7:
        text += "." + "".join(dice.choice("0000123456789999") for _ in range(dice.choice([0, 1, 2, 3, 9, 20, 45])))
    if dice.random() < 0.3:
        text += dice.choice("eE") + str(dice.choice([dice.randint(-5, 5), dice.randint(-400, 400)]))
    return text


def _float(dice: random.Random) -> str:
    chance = dice.random()
    if chance < 0.3:
        return repr(struct.unpack("d", dice.randbytes(8))[0])
    if chance < 0.5:
        return repr(struct.unpack("f", dice.randbytes(4))[0])
    if chance < 0.7:  # around the smallest and the largest, written with and without an exponent
        zeros = dice.choice([30, 36, 37, 38, 44, 45, 46, 300, 306, 308, 322, 323, 324, 330])
        digits = str(dice.randrange(1, 10 ** dice.randint(1, 18)))
        return dice.choice(["", "-"]) + dice.choice(
            [f"0.{'0' * zeros}{digits}", f"{digits}e-{zeros}", f".{digits}E-{zeros}"]
        )
    return _decimal(dice)


def _day(dice: random.Random) -> str:
    year = dice.choice(
        [dice.randint(1, 9999), dice.randint(1900, 2100), 1, 0, 4713, 4714, 294276, 294277, 5874897, 9999, 10000]
    )
    month, day = dice.randint(1, 12), dice.choice([dice.randint(1, 28), 29, 30, 31])
    shape = dice.random()
    if shape < 0.6:
        text = f"{year:04}-{month:02}-{day:02}"
    elif shape < 0.7:
        text = f"{month}/{day}/{year:04}"
    elif shape < 0.8:
        text = f"{day:02}.{month:02}.{year:04}"
    elif shape < 0.9:
        text = f"{date(2024, month, 1):%b} {day}, {year:04}"
    else:
        text = dice.choice(
            [f"{year:04}{month:02}{day:02}", f"J{dice.randint(0, 3_000_000)}", f"{year:04}.{dice.randint(1, 366):03}"]
        )
    return text + (" BC" if dice.random() < 0.05 else "")


def _clock(dice: random.Random) -> str:
    if dice.random() < 0.15:  # what rounding carries over
        return "23:59:59." + "9" * dice.randint(0, 8) + dice.choice(["", "4", "5"])
    text = f"{dice.choice([dice.randint(0, 23), 24, 25]):02}:{dice.choice([dice.randint(0, 59), 60]):02}"
    if dice.random() < 0.8:
        text += f":{dice.choice([dice.randint(0, 59), 60, 61]):02}"
        if dice.random() < 0.6:
            text += "." + "".join(dice.choice("0123456789") for _ in range(dice.randint(0, 8)))
    return text + dice.choice([""] * 6 + [" PM", " am"])


def _offset(dice: random.Random) -> str:
    sign, hours = dice.choice("+-"), dice.choice([dice.randint(0, 14), 15, 16])
    return dice.choice(
        [
            "Z",
            f"{sign}{hours:02}",
            f"{sign}{hours:02}:30",
            f" {sign}{hours:02}45",
            " UTC",
            " EST",
            " Europe/Berlin",
            f"{sign}01:02:03",
        ]
    )


def _timestamp(dice: random.Random) -> str:
    if dice.random() < 0.05:
        return dice.choice(["infinity", "-infinity", "epoch", "294276-12-31 23:59:59.9999999", "4713-01-01 BC"])
    if dice.random() < 0.1:
        return f"294276-12-31 {_clock(dice)}"
    day = _day(dice)
    if dice.random() < 0.1:
        return day
    ends = " BC" if day.endswith(" BC") else ""
    text = day.removesuffix(" BC") + dice.choice([" ", " ", "T"]) + _clock(dice)
    return text + (_offset(dice) if dice.random() < 0.3 else "") + ends


def _interval(dice: random.Random) -> str:
    number = dice.choice([dice.randint(-100, 100), dice.randint(-(2**31), 2**31), 2**31 - 1, 178000000])
    unit = dice.choice(
        [
            "years",
            "months",
            "mons",
            "days",
            "hours",
            "minutes",
            "mins",
            "seconds",
            "secs",
            "ms",
            "us",
            "weeks",
            "decades",
            "centuries",
        ]
    )
    return dice.choice(
        [
            f"{number} {unit}",
            f"{number}.{dice.randint(0, 999)} {unit} {dice.randint(-50, 50)} days",
            f"P{dice.randint(0, 99)}Y{dice.randint(0, 13)}M{dice.randint(0, 40)}DT{dice.randint(0, 30)}H7.5S",
            f"{dice.randint(-9, 9)}-{dice.randint(0, 13)}",
            f"{dice.randint(-9, 9)} {_clock(dice)}",
            _clock(dice),
            f"@ {number} {unit} ago",
            str(number),
            dice.choice(["infinity", "-infinity", "0", "1 mon -1 day", "-1-2 +3 -4:05:06"]),
        ]
    )


def _text(dice: random.Random) -> str:
    return "".join(dice.choice("abcABC 019'\"\\{},\t") for _ in range(dice.choice([0, 1, 2, 3, 4, 5, 63, 64])))


def _hex(dice: random.Random, size: int) -> str:
    return dice.randbytes(size).hex()


def _uuid(dice: random.Random) -> str:
    text = _hex(dice, 16)
    dashed = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
    return dice.choice(
        [dashed, dashed.upper(), text, "{" + dashed + "}", "-".join(text[i : i + 4] for i in range(0, 32, 4))]
    )


def _net(dice: random.Random) -> str:
    if dice.random() < 0.3:
        return ":".join(_hex(dice, 2) for _ in range(8)) + dice.choice(["", f"/{dice.randint(0, 129)}"])
    octets = ".".join(
        str(dice.randint(0, 256 if dice.random() < 0.1 else 255)) for _ in range(dice.choice([4, 4, 4, 2, 1]))
    )
    return octets + dice.choice(["", f"/{dice.randint(0, 33)}"])


def _json(dice: random.Random, depth: int = 0) -> str:
    chance = dice.random()
    if depth < 3 and chance < 0.3:
        return (
            "{"
            + ", ".join(f'"{dice.choice("abk")}": {_json(dice, depth + 1)}' for _ in range(dice.randint(0, 3)))
            + "}"
        )
    if depth < 3 and chance < 0.5:
        return "[" + ",".join(_json(dice, depth + 1) for _ in range(dice.randint(0, 3))) + "]"
    return dice.choice(
        [_decimal(dice), "null", "true", "false", '"x"', '"\\u00e4"', '"\\ud83e\\udd86"', '"a\\nb"', "-0", "1e131072"]
    )


def _coordinate(dice: random.Random) -> str:
    return dice.choice([str(dice.randint(-9, 9)), _float(dice)])


def _point(dice: random.Random) -> str:
    return f"({_coordinate(dice)},{_coordinate(dice)})"


def _points(least: int, most: int, opened: str, closed: str) -> Callable[[random.Random], str]:
    return lambda dice: opened + ",".join(_point(dice) for _ in range(dice.randint(least, most))) + closed


def _vector(dice: random.Random, most: int) -> str:
    return " ".join(str(dice.randint(-1, most)) for _ in range(dice.randint(0, 5)))


def _lexemes(dice: random.Random) -> str:
    words = ["fat", "'a b'", "cat:3", "rat:1A,2B", "''''", "x:*", "d\\ d"]
    return " ".join(dice.choice(words) for _ in range(dice.randint(0, 4)))


def _query(dice: random.Random, depth: int = 0) -> str:
    if depth > 2 or dice.random() < 0.4:
        return dice.choice(["fat", "'a b'", "cat:AB", "rat:*", "", "!x", "( y )"])
    return f"{_query(dice, depth + 1)} {dice.choice(['&', '|', '<->', '<2>'])} {_query(dice, depth + 1)}"


MAKERS: dict[str, Callable[[random.Random], str]] = {
    "smallint": _integer,
    "integer": _integer,
    "bigint": _integer,
    "oid": _integer,
    "numeric": _decimal,
    "real": _float,
    "double precision": _float,
    "money": lambda dice: dice.choice(["", "$", "-$", "($"]) + _decimal(dice),
    "boolean": lambda dice: dice.choice(["t", "f", "true", "FALSE", "yes", "No", "on", "of", "1", "0", "y", "tr", "2"]),
    "date": _day,
    "timestamp": _timestamp,
    "timestamp without time zone": _timestamp,
    "timestamp with time zone": _timestamp,
    "time without time zone": lambda dice: _clock(dice) + (_offset(dice) if dice.random() < 0.1 else ""),
    "time with time zone": lambda dice: _clock(dice) + (_offset(dice) if dice.random() < 0.8 else ""),
    "interval": _interval,
    "text": _text,
    "uuid": _uuid,
    "bytea": lambda dice: "\\x" + _hex(dice, dice.randint(0, 9)),
    "inet": _net,
    "cidr": _net,
    "macaddr": lambda dice: ":".join(_hex(dice, 1) for _ in range(6)),
    "macaddr8": lambda dice: ":".join(_hex(dice, 1) for _ in range(dice.choice([6, 8]))),
    "json": _json,
    "jsonb": _json,
    "bits": lambda dice: (
        dice.choice(["", "", "B", "x"]) + "".join(dice.choice("01") for _ in range(dice.choice([0, 1, 3, 4, 17, 6])))
    ),
    "point": _point,
    "lseg": _points(2, 2, "[", "]"),
    "box": _points(2, 2, "", ""),
    "path": _points(0, 3, "[", "]"),
    "polygon": _points(0, 3, "(", ")"),
    "line": lambda dice: "{" + ",".join(_coordinate(dice) for _ in range(3)) + "}",
    "circle": lambda dice: f"<{_point(dice)},{_coordinate(dice)}>",
    "int2vector": lambda dice: _vector(dice, 40000),
    "oidvector": lambda dice: _vector(dice, 2**32),
    "tid": lambda dice: f"({dice.randint(0, 2**32)},{dice.randint(0, 70000)})",
    "pg_lsn": lambda dice: f"{dice.randrange(2**33):X}/{dice.randrange(2**33):X}",
    "pg_snapshot": lambda dice: (
        f"{dice.randint(1, 9)}:{dice.randint(1, 20)}:{dice.choice(['', '10', '10,12', '12,10'])}"
    ),
    "txid_snapshot": lambda dice: f"{dice.randint(1, 9)}:{dice.randint(1, 20)}:{dice.choice(['', '10', '10,12'])}",
    "tsvector": _lexemes,
    "tsquery": _query,
    "jsonpath": lambda dice: dice.choice(
        ["$", "$.a", "strict $.a[*] ? (@ > 1)", "$.a.type()", "lax $[0 to last]", "$.**", "x"]
    ),
    "xml": lambda dice: dice.choice(["<a/>", "<a>b</a>", "text", "<?xml version='1.0'?><a/>", "<a", ""]),
    "aclitem": lambda dice: dice.choice(
        ["postgres=r/postgres", "=r*w/postgres", "nobody=r/postgres", "postgres=r", "x"]
    ),
    "refcursor": _text,
    "regclass": lambda dice: dice.choice(["pg_class", "1259", "pg_catalog.pg_type", "-", "no_such", "0", '"pg_class"']),
    "regtype": lambda dice: dice.choice(["int", "23", "timestamp(3)", "-", "no_such", "text[]", "99999"]),
    "regproc": lambda dice: dice.choice(["now", "-", "0", "1299", "no_such", "abs"]),
    "regprocedure": lambda dice: dice.choice(["now()", "abs(int)", "-", "0", "no_such()", "1299"]),
    "regoper": lambda dice: dice.choice(["-", "0", "!~~", "96", "=", "pg_catalog.||/"]),
    "regoperator": lambda dice: dice.choice(["+(int,int)", "0", "96", "-(none,int)", "=(x,y)"]),
    "regconfig": lambda dice: dice.choice(["english", "simple", "-", "0", "no_such", "3748"]),
    "regdictionary": lambda dice: dice.choice(["simple", "-", "0", "no_such", "english_stem"]),
    "regrole": lambda dice: dice.choice(["postgres", "10", "-", "no_such", "pg_monitor"]),
    "regnamespace": lambda dice: dice.choice(["public", "pg_catalog", "11", "-", "no_such"]),
    "regcollation": lambda dice: dice.choice(['"C"', "100", "-", "no_such", '"POSIX"']),
    "hstore": lambda dice: ", ".join(
        dice.choice(["a=>1", "b=>NULL", 'c=>"x y"', "d=>", "a"]) for _ in range(dice.randint(0, 3))
    ),
    "ltree": lambda dice: ".".join(dice.choice(["a", "Top", "b_1", ""]) for _ in range(dice.randint(0, 3))),
    "lquery": lambda dice: ".".join(
        dice.choice(["a", "*", "*{1,2}", "!b", "c|d", ""]) for _ in range(dice.randint(0, 3))
    ),
    "ltxtquery": lambda dice: dice.choice(["a & b", "a | !b", "", "(a)", "a &", "Europe*@"]),
    "cube": lambda dice: dice.choice([_point(dice), f"{_point(dice)},{_point(dice)}", _coordinate(dice), "()"]),
    "seg": lambda dice: dice.choice(
        [f"{_coordinate(dice)} .. {_coordinate(dice)}", "~5", "5 +- 1", "<3", "> 2.50", ".."]
    ),
    "query_int": lambda dice: dice.choice(["1&2", "1|!2", "(1)", "", "1&"]),
    "isbn13": lambda dice: dice.choice(["978-0-393-04002-9", "9780393040029", "0-393-04002-X", "x"]),
    "issn13": lambda dice: dice.choice(["9771436452008", "977-1436-452-00-8", "1436-4522", "x"]),
    "ismn13": lambda dice: dice.choice(["979-0-2306-7118-7", "M-2306-7118-7", "9790230671187", "x"]),
    "isbn": lambda dice: dice.choice(["0-393-04002-X", "9780393040029", "0393040029", "x"]),
    "ean13": lambda dice: dice.choice(["978-0-393-04002-9", "9780393040029", "1", "x"]),
    "issn": lambda dice: dice.choice(["1436-4522", "14364522", "9771436452008", "x"]),
    "ismn": lambda dice: dice.choice(["M-2306-7118-7", "979-0-2306-7118-7", "x"]),
    "upc": lambda dice: dice.choice(["220356483481", "0220356483481", "x"]),
    "vector": lambda dice: "[" + ",".join(_coordinate(dice) for _ in range(dice.choice([3, 3, 2, 0]))) + "]",
}
"""Texts of some types at random, by their name or that of another of their category."""


def _in_array(text: str, delimiter: str, dice: random.Random) -> str:
    special = not text or text.lower() == "null" or bool(set(text) & set('{}"\\ \t\n\r\v\f' + delimiter))
    if not special and dice.random() < 0.7:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _in_range(text: str, dice: random.Random) -> str:
    if text and not set(text) & set('()[],"\\ \t\n') and dice.random() < 0.7:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '""') + '"'


def _order(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def _outputs(connection: Connection, name: str, size: int, dice: random.Random) -> list[str]:
    """What PostgreSQL writes for values of which the binary form is random; nothing where it takes none."""
    found: list[str] = []
    header = b"PGCOPY\n\xff\r\n\0" + bytes(8)
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT bytes")
        try:
            cursor.execute(f"CREATE TEMP TABLE from_bytes (c {name}) ON COMMIT DROP")
        except psycopg2.Error:
            cursor.execute("ROLLBACK TO SAVEPOINT bytes")
            return []
        for _ in range(40):
            cursor.execute("SAVEPOINT bytes")
            try:
                data = (
                    dice.randbytes(size) if dice.random() < 0.7 else bytes(size // 2) + dice.randbytes(size - size // 2)
                )
                tuple_ = struct.pack(">hi", 1, size) + data + b"\xff\xff"
                cursor.copy_expert("COPY from_bytes FROM STDIN (FORMAT binary)", io.BytesIO(header + tuple_))
                cursor.execute("SELECT format('%s', c) FROM from_bytes")
            except psycopg2.Error:
                cursor.execute("ROLLBACK TO SAVEPOINT bytes")
        cursor.execute("SELECT format('%s', c) FROM from_bytes")
        found = [text for (text,) in cursor]
        cursor.execute("DROP TABLE from_bytes")
    return found


def texts_of(types: Types, oid: int, dice: random.Random, count: int) -> list[str]:
    """Different texts for a type, the empty one among them, that the database's encoding has."""
    made = {"", *(types.text(oid, dice) for _ in range(count))}
    return sorted(text for text in made if _is_plain(text) and _has(types.codec, text))


def _is_plain(text: str) -> bool:
    """Whether COPY on every version reads it as it stands in quotes: a line of backslash and point ends the data until
    PostgreSQL 17."""
    return "\\." not in text.splitlines() and "\0" not in text


def _has(codec: str, text: str) -> bool:
    try:
        text.encode(codec)
    except UnicodeEncodeError:
        return False
    return True
