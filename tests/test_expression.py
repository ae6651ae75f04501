"""`loader.core.spec.filter`: what the language takes, what it means, and that it means what PostgreSQL means."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import psycopg2
import psycopg2.extras
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from psycopg2 import sql
from support.zones import MACHINE_ZONES

from loader.core.pgtypes import column_type
from loader.core.spec.filter import (
    DEPTH_LIMIT,
    LENGTH_LIMIT,
    NeedsServerError,
    _like_matcher,
    _like_pieces,
    _like_regex,
    parse,
)
from loader.postgres.filter_sql import Operand, where


def kept(condition: str, **columns: pa.Array) -> list[bool]:
    batch = pa.record_batch(columns)
    mask = parse(condition).bind(batch.schema)(batch)
    assert mask.null_count == 0
    return mask.to_pylist()


def ints(*values: int | None) -> pa.Array:
    return pa.array(values, pa.int32())


def bigints(*values: int | None) -> pa.Array:
    return pa.array(values, pa.int64())


def numerics(*values: str | None, precision: int = 15, scale: int = 2) -> pa.Array:
    return pa.array([None if value is None else Decimal(value) for value in values], pa.decimal128(precision, scale))


# the machine may be busy: what an example costs is no matter of right and wrong
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


# --- the text


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("", "the condition is empty"),
        (" \n", "the condition is empty"),
        ("fare >= ", "the condition breaks off after character 7"),
        ("(fare > 1", "the condition breaks off after character 9"),
        ("fare > = 1", '"=" is not expected at character 8'),
        ("fare > 1; drop table x", '";" is not expected at character 9'),
        ("fare § 1", '"§" is not expected at character 6'),
        ("name = 'x", "the quote ' at character 8 is never closed"),
        ('"name = 1', 'the quote " at character 1 is never closed'),
        ("fare in ()", '")" is not expected at character 10'),
        ("and > 1", '"and" is not expected at character 1'),
        ("12abc = 1", '"abc" is not expected at character 3'),
        ("name like other", '"other" is not expected at character 11'),
        ("__import__('os')", '"(" is not expected at character 11'),
        ("a.b = 1", '".b" is not expected at character 2'),
        (r"name like 'a\'", r"the pattern 'a\' ends with an escape character"),
        ("a" * (LENGTH_LIMIT + 1), "the condition is 10,001 characters long, more than 10,000"),
        ("not " * DEPTH_LIMIT + "a", "the condition is nested more than 100 levels deep"),
        ("- " * 2000 + "a = 1", "the condition is nested more than 100 levels deep"),
    ],
)
def test_a_mistake_is_placed(condition: str, message: str) -> None:
    """A text that is no condition is refused in one sentence that says what stands where."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse(condition)


@unhurried
@given(st.text(max_size=60) | st.text("ab()=<>'\"and or not 12.+-*/,\\%", max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    """Whatever the text, parsing gives a condition or a ValueError of one line, and nothing else."""
    try:
        parse(text)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017  # either way is right


@pytest.mark.parametrize("long", ["(" * 4000 + "a" + ")" * 4000, "a" + " or a" * 1900, "a = 1" + " + 1" * 30])
def test_long_conditions_are_not_deep(long: str) -> None:
    """Parentheses and chains of one operator may be as long as the limit on characters lets them."""
    assert parse(long).columns == {"a"}


def test_depth_up_to_the_limit_can_be_run() -> None:
    """A condition as deep as the limit lets it be binds and runs without coming near Python's own limit."""
    levels = DEPTH_LIMIT - 3  # what is left holds the comparison, a column and a number
    assert kept("not " * levels + "a > 1", a=ints(1, 2)) == [True, False]
    assert kept("-(" * levels + "a" + ")" * levels + " < 0", a=ints(1, -1)) == [True, False]


def test_parsing_is_light() -> None:
    """A condition is parsed without pyarrow: a spec is checked before anything heavy is imported."""
    program = (
        "import sys; from loader.core.spec.filter import parse; parse('a > 1'); assert 'pyarrow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_columns_are_those_it_names() -> None:
    """A condition tells its columns: bare names as written, quoted ones with their doubled quotes resolved."""
    condition = parse('''Fare > 1 AND "Tip ""net""" in (x, 2) or not trip$_2 is null and 'no' like 'n%' ''')
    assert condition.columns == {"Fare", 'Tip "net"', "x", "trip$_2"}


def test_keywords_take_any_case_and_names_keep_theirs() -> None:
    """Keywords are the same in any case; names that begin like one are names."""
    assert kept("android > 1 AnD nOt ISLAND iS nUlL", android=ints(2, 2, 0), ISLAND=ints(1, None, 1)) == [
        True,
        False,
        False,
    ]


# --- binding


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("fair > 1", 'there is no column "fair"; did you mean "fare"?'),
        ("vendor = 5", '"vendor" (text) cannot be compared with 5 (a number)'),
        ("fare in (1, vendor)", '"fare" (a number) cannot be compared with "vendor" (text)'),
        ("vendor between 1 and 2", '"vendor" (text) cannot be compared with 1 (a number)'),
        ("day > '2024-02-30'", "\"day\" is a date, and '2024-02-30' is none; write it like '2024-01-31'"),
        ("day > '2024-02-03 10:00'", "\"day\" is a date, and '2024-02-03 10:00' is none; write it like '2024-01-31'"),
        ("'soon' < at", "\"at\" is a timestamp with time zone, and 'soon' is none;"),
        ("day + 1 > day", '"day" is a date, and arithmetic takes numbers'),
        ("fare + 1", '("fare" + 1) is a number, not a condition'),
        ("vendor", '"vendor" is text, not a condition'),
        ("not fare", '"fare" is a number, not a condition'),
        ("fare like '1%'", '"fare" is a number, and like takes text'),
        ("tags = tags", '"tags" (of type list<item: string>) cannot be compared with "tags"'),
        ("fare * fare * fare * fare * fare > 1", "may need more than 76 digits"),
        ("fare < 1e99", '("fare" < 1E+99) may need more than 76 digits'),
        ("ratio < 1e999", "1E+999 is out of the range of double precision"),
    ],
)
def test_a_condition_that_does_not_fit_is_refused(condition: str, message: str) -> None:
    """What does not fit the columns' types is refused when it is bound, naming the column and the literal."""
    schema = pa.schema(
        {
            "fare": pa.decimal128(15, 2),
            "vendor": pa.string(),
            "day": pa.date32(),
            "at": pa.timestamp("us", "UTC"),
            "tags": pa.list_(pa.string()),
            "ratio": pa.float64(),
        }
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(condition).bind(schema)


def test_any_type_can_be_null() -> None:
    """``is null`` works on a column of any type."""
    assert kept("tags is not null", tags=pa.array([["a"], None])) == [True, False]


# --- meaning, by example


@pytest.mark.parametrize(
    "condition", ["null", "x = null", "not (x > 1)", "x <> 5", "x in (1, null)", "x not in (1, null)"]
)
def test_unknown_is_not_kept(condition: str) -> None:
    """A record for which the condition is unknown is not kept, and neither is one for its negation."""
    assert kept(condition, x=ints(None)) == [False]


def test_constants_are_conditions() -> None:
    """A condition without a column holds for all records or for none."""
    assert kept("true", x=ints(1, None)) == [True, True]
    assert kept("1 = 2 or null", x=ints(1, None)) == [False, False]
    assert kept("1 + 1 in (2, 3)", x=ints()) == []


def test_decimals_compare_exactly() -> None:
    """A decimal is compared digit by digit with what is written, also with more digits than its column has."""
    fares = numerics("0.10", "9007199254740993.01", None, precision=18)
    assert kept("fare = 0.1", fare=fares) == [True, False, False]
    assert kept("fare > 9007199254740993", fare=fares) == [False, True, False]
    assert kept("fare < 0.1000000000000000000000000000000001", fare=fares) == [True, False, False]
    assert kept("fare in (0.100, 7)", fare=fares) == [True, False, False]


def test_several_constants_beside_a_real_are_reals() -> None:
    """A single one is compared as double precision, as PostgreSQL does it, where 0.1 is no real."""
    reals = pa.array([0.1, 16777216.0, None], pa.float32())
    assert kept("r in (0.1, 0.2)", r=reals) == [True, False, False]
    assert kept("r in (16777217, null)", r=reals) == [False, True, False]
    assert kept("r in (0.1)", r=reals) == kept("r = 0.1", r=reals) == [False, False, False]
    for beyond in ("1e40", "1e-50"):
        with pytest.raises(ValueError, match="out of the range of real"):
            kept(f"r in (1, {beyond})", r=reals)


def test_nothing_wraps() -> None:
    """Arithmetic gives the right number where it leaves the range of its columns' types."""
    ends = bigints(2**63 - 1, -(2**63))
    assert kept("x + 1 > x and x - 1 < x and x * x > 85070591730234615847396907784232501000", x=ends) == [True, True]
    assert kept("-x = 9223372036854775808 or x / -1 = -9223372036854775807", x=ends) == [True, True]
    small = pa.array([-32768, 32767], pa.int16())
    assert kept("-x = 32768 or x + x = 65534", x=small) == [True, True]
    assert kept("x * 10000000000 + 0.5 > 92233720368547758070000000000", x=ends) == [True, False]


def test_division_by_zero_is_null() -> None:
    """Dividing by zero makes NULL, for whole numbers and floating ones alike; but NaN stays NaN."""
    assert kept("f / 0 > 1", f=pa.array([float("nan"), 1.0, float("inf")])) == [True, False, False]
    columns = {"i": ints(7, 7), "f": pa.array([0.0, 2.0])}
    for divisor in ("f", "(i - i)"):
        assert kept(f"i / {divisor} is null", **columns) == [True, divisor == "(i - i)"]


def test_quotients_of_whole_numbers_are_whole() -> None:
    """A quotient is cut towards zero between whole numbers; the digits of another exact one are PostgreSQL's rule."""
    assert kept("x / 2 = -3", x=ints(-7)) == [True]
    assert kept("x / 3 = -3074457345618258602", x=bigints(-(2**63))) == [True]
    for condition, values in (("x / 3.0 = 2.3", ints(7)), ("x / 3 > 0.33", numerics("1.00"))):
        with pytest.raises(NeedsServerError):
            kept(condition, x=values)


def test_nan_is_the_greatest_number() -> None:
    """NaN equals itself and is greater than infinity."""
    numbers = pa.array([float("nan"), float("inf"), -0.0, None])
    assert kept("x = x", x=numbers) == [True, True, True, False]
    assert kept("x > 1e300", x=numbers) == [True, True, False, False]
    assert kept("x in (0, 1)", x=numbers) == [False, False, True, False]


@pytest.mark.parametrize("length", [3, 5000])
def test_like_counts_characters(length: int) -> None:
    """An underscore stands for one character, a line end and one beyond the basic plane included."""
    texts = pa.array(["𝄞" * length, "\n" * length, "a" * (length - 1), "é%" + "a" * (length - 2), None])
    assert kept(f"x like '{'_' * length}'", x=texts) == [True, True, False, True, False]


def test_like_escapes() -> None:
    """A backslash takes the meaning from what follows it, as by PostgreSQL's default."""
    texts = pa.array(["50%", "500", "x\\", "a_c", "abc"])
    assert kept(r"x like '50\%' or x like '%\\' or x like 'a\_c'", x=texts) == [True, False, True, True, False]


@pytest.mark.parametrize(
    ("literal", "column"),
    [
        ("2024-01-05", pa.array([date(2024, 1, 4), date(2024, 1, 5), date(2024, 1, 6)])),
        ("2024-01-05", pa.array([datetime(2024, 1, day) for day in (4, 5, 6)], pa.timestamp("us"))),
        ("2024-01-05T10:00:00.5", pa.array([datetime(2024, 1, 5, 10, 0, 0, us) for us in (0, 500000, 500001)])),
        (
            "2024-01-05 10:00+02",
            pa.array([datetime(2024, 1, 5, hour) for hour in (7, 8, 9)], pa.timestamp("us", "UTC")),
        ),
        (
            "2024-01-05 10:00Z",
            pa.array([datetime(2024, 1, 5, hour) for hour in (9, 10, 11)], pa.timestamp("us", "UTC")),
        ),
        ("10:30", pa.array([time(10, 29), time(10, 30), time(10, 31)], pa.time64("us"))),
    ],
)
def test_texts_are_dates_beside_dates(literal: str, column: pa.Array) -> None:
    """A text beside a date or time column is read as one of its type."""
    assert kept(f"x < '{literal}'", x=column) == [True, False, False]
    assert kept(f"'{literal}' = x", x=column) == [False, True, False]
    assert kept(f"x in ('{literal}', null)", x=column) == [False, True, False]
    assert kept(f"x not between '{literal}' and '{literal}'", x=column) == [True, False, True]


# --- meaning, by PostgreSQL


def database_time(dsn: str, text: str, zone: str) -> datetime:
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT set_config('TimeZone', %s, false)", (zone,))
        cursor.execute("SELECT %s::timestamptz AT TIME ZONE 'UTC'", (text,))
        (moment,) = cursor.fetchone()
    connection.close()
    return moment.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("2024-07-01", "Europe/Berlin"),
        ("2024-03-31 02:30", "Europe/Berlin"),
        ("2024-10-27 02:30:00", "Europe/Berlin"),
        ("2024-11-03 01:30", "America/New_York"),
        ("2024-04-07 01:45", "Australia/Lord_Howe"),
        ("2024-10-27 02:30+00", "Europe/Berlin"),
    ],
)
def test_local_times_are_postgres_local_times(dsn: str, text: str, zone: str) -> None:
    """A timestamp without an offset means what it means in a session of that zone, around changes of clocks too."""
    moment = database_time(dsn, text, zone)
    batch = pa.record_batch({"x": pa.array([moment, moment + timedelta(hours=1)], pa.timestamp("us", "UTC"))})
    assert parse(f"x = '{text}'").bind(batch.schema, zone=zone, zones=MACHINE_ZONES)(batch).to_pylist() == [True, False]


COLUMNS: dict[str, tuple[str, pa.DataType, list[Any]]] = {
    "i": ("int", pa.int32(), [-5, -2, -1, 0, 1, 3, 5]),
    "s": ("smallint", pa.int16(), [-4, 0, 1, 2, 4]),
    "l": ("bigint", pa.int64(), [-(2**63), -1, 0, 1, 3, 2**63 - 1]),
    "n": (
        "numeric(8,2)",
        pa.decimal128(8, 2),
        [Decimal(text) for text in ("-999999.99", "-1.50", "-0.10", "0.00", "1.00", "3.25", "999999.99")],
    ),
    "f": ("double precision", pa.float64(), [-2.25, -0.0, 0.0, 0.1, 1.5, 1e300, float("nan"), float("inf")]),
    "r": ("real", pa.float32(), [-1.5, 0.0, 0.1, 3.0]),
    "t": ('text COLLATE "C"', pa.string(), ["", "a", "ab", "a%", "b_\n", "a\\", "Ab", "é", "'"]),
    "b": ("boolean", pa.bool_(), [True, False]),
    "d": ("date", pa.date32(), [date(1999, 12, 31), date(2024, 2, 29), date(2024, 3, 1)]),
    "at": (
        "timestamp",
        pa.timestamp("us"),
        [datetime(1999, 12, 31), datetime(2024, 2, 29, 10, 30), datetime(2024, 3, 1)],
    ),
}


SPELLED = {"int": "integer", 'text COLLATE "C"': "text", "timestamp": "timestamp without time zone"}


def sample_rows(count: int) -> list[tuple[Any, ...]]:
    """Rows that are the same in every run; a quarter of the values are NULL."""
    chance = random.Random(18)
    pools = [pool for _, _, pool in COLUMNS.values()]
    return [tuple(None if chance.random() < 0.25 else chance.choice(pool) for pool in pools) for _ in range(count)]


Pair = tuple[str, str]
"""The same condition as it is given to the loader, and as PostgreSQL has to be asked: there x / 0 is an error."""


def same(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Pair]:
    return texts.map(lambda text: (text, text))


def joined(template: str, *parts: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    return st.tuples(*parts).map(
        lambda pairs: (template.format(*(pair[0] for pair in pairs)), template.format(*(pair[1] for pair in pairs)))
    )


def words(*texts: str) -> st.SearchStrategy[Pair]:
    return same(st.sampled_from(texts))


def divided(dividend: st.SearchStrategy[Pair], divisor: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    return st.tuples(dividend, divisor).map(
        lambda pairs: (f"({pairs[0][0]} / {pairs[1][0]})", f"({pairs[0][1]} / nullif({pairs[1][1]}, 0))")
    )


INTEGERS = words("i", "s", "0", "1", "2", "7", "- 3", "(- i)")
WHOLE = (
    INTEGERS
    | joined("{} {} {}", INTEGERS, words("+", "-", "*"), INTEGERS)
    | joined("({} {} {}) {} {}", INTEGERS, words("+", "-", "*"), INTEGERS, words("+", "-", "*"), INTEGERS)
    | divided(INTEGERS, INTEGERS)
    | joined("{} + {}", INTEGERS, divided(INTEGERS, INTEGERS))
)
# a decimal is divided only by what leaves no remainder: PostgreSQL rounds where Arrow cuts
DECIMALS = words("n", "0.1", "- 1.50", "1e2", ".25", "3.") | divided(
    words("n", "1.50"), words("2", "8", "- 4", "5", "0")
)
EXACT = (
    WHOLE
    | DECIMALS
    | joined("{} {} {}", DECIMALS, words("+", "-", "*"), INTEGERS)
    | joined("{} {} {} * {}", INTEGERS, words("+", "-"), DECIMALS, DECIMALS)
)
FLOATING = words("f", "r", "f * 0.5", "r + 0.1", "(- f)") | divided(words("f", "r"), words("i", "2", "0"))
NUMBERS = EXACT | words("l", "9223372036854775807", "10000000000000000000") | FLOATING
TEXTS = words("t", "''", "'a'", "'ab'", "'é'", "''''", "'b_\n'")
PATTERNS = same(
    st.text("a%_\\b'é\n", max_size=5)
    .filter(lambda text: (len(text) - len(text.rstrip("\\"))) % 2 == 0)
    .map(lambda text: "'" + text.replace("'", "''") + "'")
)
DATES = words("d", "at", "d", "'2024-02-29'", "'1999-12-31'")
COMPARATORS = words("=", "<>", "!=", "<", "<=", ">", ">=")


def over(values: st.SearchStrategy[Pair], columns: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    """Conditions on one kind of value; ``columns`` are those of them that are no literals."""
    return (
        joined("{} {} {}", columns, COMPARATORS, values)
        | joined("{} {} {}", values, COMPARATORS, columns)
        | joined("{} {} ({}, {})", columns, words("in", "not in"), values, values | words("null"))
        | joined("{} {} {} and {}", columns, words("between", "not between"), values, values)
        | joined("{} {}", columns, words("is null", "is not null"))
        | joined("{} {} null", columns, COMPARATORS)
    )


SIMPLE = (
    over(EXACT, EXACT)
    | over(NUMBERS, words("i", "s", "l", "n", "f", "r"))
    | over(TEXTS, words("t"))
    | over(DATES, words("d", "at"))
    | over(words("b", "true", "false"), words("b"))
    | joined("t {} {}", words("like", "not like"), PATTERNS)
    | words("b", "true", "false", "null")
)
CONDITIONS = st.recursive(
    SIMPLE,
    lambda inner: (
        joined("{} {} {}", inner, words("and", "or"), inner)
        | joined("not {}", inner)
        | joined("({}) {}", inner, words("is null", "is not null"))
        | joined("({}) {} ({})", inner, words("=", "<>", "<", ">="), inner)
        | joined("({})", inner)
    ),
    max_leaves=6,
)


def create_sample(connection: Any, rows: list[tuple[Any, ...]]) -> None:
    declared = ", ".join(f"{name} {sql}" for name, (sql, _, _) in COLUMNS.items())
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TEMPORARY TABLE sample (id int, {declared})")
        numbered = [(number, *row) for number, row in enumerate(rows)]
        psycopg2.extras.execute_values(cursor, "INSERT INTO sample VALUES %s", numbered)


def asker(connection: Any) -> Callable[[str], set[int]]:
    def ask(condition: str) -> set[int]:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT id FROM sample WHERE {condition}")
            return {number for (number,) in cursor.fetchall()}

    return ask


def test_conditions_mean_what_they_mean_to_postgres(dsn: str) -> None:
    """Any condition keeps the records that PostgreSQL's WHERE keeps."""
    rows = sample_rows(60)
    arrays = [
        pa.array(values, arrow) for values, (_, arrow, _) in zip(zip(*rows, strict=True), COLUMNS.values(), strict=True)
    ]
    batch = pa.RecordBatch.from_arrays(arrays, list(COLUMNS))
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    create_sample(connection, rows)
    ask = asker(connection)
    operands = {
        name: Operand(sql.Identifier(name), column_type(SPELLED.get(type_, type_)))
        for name, (type_, _, _) in COLUMNS.items()
    }

    @settings(unhurried, max_examples=300)
    @given(CONDITIONS)
    def check(pair: Pair) -> None:
        ours, theirs = pair
        condition, expected = parse(ours), ask(theirs)
        assert ask(where(condition.root, operands).as_string(connection)) == expected
        try:
            keep, unsure = condition.bind(batch.schema).judge(batch)
        except NeedsServerError:
            return
        except ValueError as error:
            if "may need more than 76 digits" in str(error):
                reject()
            raise
        assert set(np.flatnonzero(keep).tolist()) == expected - set(np.flatnonzero(unsure).tolist())

    try:
        check()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("%" + "a%" * 2000, [True, True, False, None]),
        ("a%" * 2000 + "b", [False, True, False, None]),
        ("%_" * 2000, [True, True, False, None]),
        ("_" * 3000, [True, False, False, None]),
        ("%a_" * 1500 + "b", [False, True, False, None]),
    ],
)
def test_a_like_pattern_of_thousands_of_wildcards(pattern: str, expected: list[bool | None]) -> None:
    """It is matched from left to right and never back, so it takes no longer than the pattern and the text are."""
    texts = pa.array(["a" * 3000, "a" * 3000 + "b", "b", None])
    batch = pa.RecordBatch.from_arrays([texts], ["v"])
    condition = parse(f"v like '{pattern}'")
    assert condition.bind(batch.schema)(batch).to_pylist() == [bool(each) for each in expected]


@given(
    pattern=st.text(alphabet="ab%_", max_size=8),
    texts=st.lists(st.text(alphabet="ab%_\n", max_size=8), max_size=5),
)
def test_both_ways_of_like_agree(pattern: str, texts: list[str]) -> None:
    pieces = _like_pieces(pattern)
    matches = _like_matcher(pieces)
    by_regex = pc.match_substring_regex(pa.array(texts, pa.string()), _like_regex(pieces)).to_pylist()
    assert [matches(text) for text in texts] == by_regex


def test_a_long_chain_of_operators_ends_in_a_sentence() -> None:
    """Each works on the result of the one before, so they are levels like any other."""
    with pytest.raises(ValueError, match="nested more than 100 levels deep"):
        parse("n" + "/n" * 3000 + " > 1")
