"""Files of shapes other than lineitem's: very wide, very long, nearly empty, of several lines, and of single types.

``share``: of the rows that the suite was asked for, so that ``psql \\copy`` is busy for about three seconds with each
when those are two million.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from bench.data import DATA, Data
from bench.tiles import tiled

Value = Callable[[Random], str]

INTEGERS = 1000
SPARSE = 30
LONG = 500_000
"""Characters of a long text."""

VALUES = 4
"""Columns of a file that is about one type."""

ONLY_SERVER = ", which only the server reads"


def _integers(chance: Random) -> str:
    return ",".join([str(chance.randrange(-(10**6), 10**6)) for _ in range(INTEGERS)]) + "\n"


_LETTERS = string.ascii_letters + string.digits + "     "


def _long(chance: Random) -> str:
    return f"{chance.randrange(10**6)},{''.join(chance.choices(_LETTERS, k=LONG))}\n"


def _sparse(chance: Random) -> str:
    """One field in twenty has a value."""
    return ",".join([str(chance.randrange(10**6)) if chance.random() < 0.05 else "" for _ in range(SPARSE)]) + "\n"


def _words(chance: Random, count: int) -> str:
    return " ".join(["".join(chance.choices(string.ascii_lowercase, k=chance.randint(2, 10))) for _ in range(count)])


def _lines(chance: Random) -> str:
    """An address and a remark of several lines each, with quotes and commas in them."""
    address = f"{_words(chance, 2)},\n{chance.randrange(1, 200)} {_words(chance, 1)}\n{_words(chance, 1)}"
    remark = f'{_words(chance, 3)}\r\n""{_words(chance, 2)}"", {_words(chance, 2)}'
    return f'{chance.randrange(10**6)},"{address}","{remark}",{chance.randrange(10**6)}\n'


def _json(chance: Random) -> str:
    document = {
        "id": chance.randrange(10**6),
        "name": _words(chance, 2),
        "price": chance.randrange(10**5) / 100,
        "tags": [_words(chance, 1), _words(chance, 1)],
        "at": {"x": round(chance.random(), 4), "seen": True},
    }
    quoted = json.dumps(document).replace('"', '""')
    return f'{chance.randrange(10**6)},"{quoted}"\n'


def _moment(chance: Random) -> str:
    date = f"{chance.randint(1990, 2030)}-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}"
    clock = f"{chance.randrange(24):02}:{chance.randrange(60):02}:{chance.randrange(60):02}"
    return f"{date} {clock}.{chance.randrange(10**6):06}"


def _moment_with_offset(chance: Random) -> str:
    return f"{_moment(chance)}{chance.choice(('+00:00', '+02:00', '-05:00', '+05:30'))}"


def _double(chance: Random) -> str:
    return repr(
        chance.choice(
            (chance.random(), chance.uniform(-1e6, 1e6), chance.gauss(0, 1) * 10.0 ** chance.randint(-12, 12))
        )
    )


def _uuid(chance: Random) -> str:
    told = f"{chance.getrandbits(128):032x}"
    return f"{told[:8]}-{told[8:12]}-{told[12:16]}-{told[16:20]}-{told[20:]}"


def _array(chance: Random) -> str:
    return '"{' + ",".join([str(chance.randrange(10**6)) for _ in range(chance.randint(0, 8))]) + '}"'


def _range(chance: Random) -> str:
    low = chance.randrange(10**6)
    return f'"[{low},{low + chance.randrange(1, 1000)})"'


def _values(value: Value) -> Callable[[Random], str]:
    return lambda chance: f"{chance.randrange(10**6)},{','.join([value(chance) for _ in range(VALUES)])}\n"


def _of_type(name: str, type_name: str, value: Value, share: float, what: str = "") -> Data:
    """A number, and four columns of the type."""
    names = [f"v{number}" for number in range(VALUES)]
    columns = {"id": "integer", **dict.fromkeys(names, type_name)}
    return _shape(name, f"{VALUES} {type_name}{what}", columns, _values(value), share)


def _shape(name: str, what: str, columns: dict[str, str], record: Callable[[Random], str], share: float) -> Data:
    ddl = "CREATE TABLE {} (" + ", ".join(f"{column} {kind}" for column, kind in columns.items()) + ")"
    names: Sequence[str] = tuple(columns)
    return Data(name, what, ddl, (names[0],), (names[1], names[1]), tiled(name, ",".join(names), record), share=share)


SHAPES: tuple[Data, ...] = (
    _shape(
        "integers-1000",
        "1,000 integer columns",
        {f"n{number}": "integer" for number in range(INTEGERS)},
        _integers,
        0.028,
    ),
    _shape("long-texts", "a text of 500,000 characters a record", {"id": "integer", "body": "text"}, _long, 0.0005),
    _shape(
        "sparse", "30 columns, nearly all NULL", {f"n{number}": "integer" for number in range(SPARSE)}, _sparse, 3.0
    ),
    _shape(
        "quoted-lines",
        "quoted fields with line breaks, quotes and commas in them",
        {"id": "integer", "address": "text", "remark": "text", "n": "integer"},
        _lines,
        2.5,
    ),
    _shape("jsonb", "a jsonb document of five members", {"id": "integer", "doc": "jsonb"}, _json, 0.85),
    _of_type("timestamptz-offset", "timestamptz", _moment_with_offset, 1.0, ", with an offset"),
    _of_type("timestamptz", "timestamptz", _moment, 1.1, ", without an offset"),
    _of_type("double", "double precision", _double, 1.9),
    _of_type("uuid", "uuid", _uuid, 0.95),
    replace(_of_type("int-array", "integer[]", _array, 1.1, ONLY_SERVER), asked=0.9),
    replace(_of_type("int4range", "int4range", _range, 1.5, ONLY_SERVER), asked=0.9),
)

EVERY = DATA | {each.name: each for each in SHAPES}
"""All files that scenarios load, by name."""
