"""`loader.core.spec.model`: a spec is checked whole, every mistake is named, and what is right goes round unchanged."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import replace
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loader.core.errors import SpecError
from loader.core.spec.model import (
    PLACEHOLDERS,
    ColumnSpec,
    CsvSpec,
    LoadSpec,
    RejectSpec,
    Step,
    TransformSpec,
    is_type_name,
    split_table,
)

WHOLE = r"""
source = "incoming/trips/*.csv*"
table  = "public.trips"
mode   = "merge"
key    = ["trip_id"]

[csv]
delimiter = ";"
quote     = "'"
escape    = "\\"
header    = true
skip_lines = 2
encoding  = "latin-1"
compression = "gzip"
null      = ["", "NULL"]
ragged    = "reject"

[rejects]
max_rows  = 10
max_ratio = 0.5

[columns]
trip_id   = "bigint"
pickup_at = { type = "timestamptz", from = "Pickup time", format = "%d/%m/%Y %H:%M", timezone = "Europe/Berlin" }
fare      = { type = "numeric(10,2)", from = "Fare ($)", transform = ["strip", "strip_currency", { null_if = "-" }] }
vendor    = { transform = [{ replace = ["_", ""] }, { map = { Y = "yes", N = "no" } }], default = "UNKNOWN" }
origin    = { type = "text", value = "{{{bucket}/{key}}}" }

[transform]
filter = "fare >= 0 and vendor <> 'x'"
python = "trips:clean"
"""

WHOLE_SPEC = LoadSpec(
    table="public.trips",
    source="incoming/trips/*.csv*",
    mode="merge",
    key=("trip_id",),
    csv=CsvSpec(";", "'", "\\", True, 2, "latin-1", "gzip", ("", "NULL"), "reject"),
    rejects=RejectSpec(10, 0.5),
    columns=(
        ColumnSpec("trip_id", "bigint"),
        ColumnSpec("pickup_at", "timestamptz", "Pickup time", "%d/%m/%Y %H:%M", "Europe/Berlin"),
        ColumnSpec(
            "fare",
            "numeric(10,2)",
            "Fare ($)",
            transform=(Step("strip"), Step("strip_currency"), Step("null_if", ("-",))),
        ),
        ColumnSpec(
            "vendor",
            transform=(Step("replace", ("_", "")), Step("map", (("Y", "yes"), ("N", "no")))),
            default="UNKNOWN",
        ),
        ColumnSpec("origin", "text", value="{{{bucket}/{key}}}"),
    ),
    transform=TransformSpec("fare >= 0 and vendor <> 'x'", "trips:clean"),
)


# the machine may be busy: what an example costs is no matter of right and wrong
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def spec(**mapping: Any) -> LoadSpec:
    return LoadSpec.from_dict({"table": "trips", **mapping})


def problems(**mapping: Any) -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        spec(**mapping)
    return caught.value.problems


def column_problems(**column: Any) -> tuple[str, ...]:
    return problems(columns={"c": column})


# --- what is right


def test_a_whole_spec_is_read() -> None:
    """Every key of a spec arrives where it belongs."""
    assert LoadSpec.from_toml_text(WHOLE) == WHOLE_SPEC


def test_a_table_is_enough() -> None:
    """All but the table has a default."""
    assert spec() == LoadSpec("trips")
    assert spec(columns={}, csv={}, rejects={}, transform={}) == LoadSpec("trips")


def test_a_key_makes_a_merge() -> None:
    """The mode is merge when a key is given, append otherwise."""
    assert (spec().mode, spec(key=["id"]).mode, spec(key=["id"], mode="replace").mode) == ("append", "merge", "replace")


def test_options_win_over_the_spec(tmp_path: Path) -> None:
    """A table, mode or key given beside the spec replaces its own, and is checked like it."""
    path = tmp_path / "trips.toml"
    path.write_text('table = "a b.c.d"\nmode = "append"')
    assert LoadSpec.from_toml(path, table="trips", mode="merge", key=["id"]) == LoadSpec(
        "trips", mode="merge", key=("id",)
    )
    with pytest.raises(SpecError, match='options: mode: "mrege" is not one of append, replace, merge; did you mean'):
        LoadSpec.from_dict({}, origin="options", table="trips", mode="mrege")


def test_the_escape_follows_the_quote() -> None:
    """The escape is the quote unless given, as with COPY."""
    assert spec(csv={"quote": "'"}).csv.escape == "'"
    assert spec(csv={"quote": ""}).csv == CsvSpec(quote="", escape="")
    assert spec(csv={"escape": "\\"}).csv == CsvSpec(escape="\\")


def test_one_text_stands_for_a_list_of_one() -> None:
    """``null``, ``transform`` and ``null_if`` take a string for a list of one."""
    given = spec(csv={"null": "-"}, columns={"a": {"transform": "strip"}, "b": {"transform": [{"null_if": "x"}]}})
    assert given.csv.null == ("-",)
    assert [column.transform for column in given.columns] == [(Step("strip"),), (Step("null_if", ("x",)),)]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("x", "x"),
        (7, "7"),
        (1.5, "1.5"),
        (True, "true"),
        (False, "false"),
        (date(2024, 1, 31), "2024-01-31"),
        (time(10, 30), "10:30:00"),
        (datetime(2024, 1, 31, 10, 30), "2024-01-31 10:30:00"),
    ],
)
def test_plain_values_become_texts(given: object, text: str) -> None:
    """Numbers, booleans, dates and times become the text that PostgreSQL has for them."""
    assert spec(columns={"c": {"default": given}}).columns[0].default == text
    assert spec(columns={"c": {"value": given}}).columns[0].value == text
    assert spec(columns={"c": {"transform": [{"map": {"Y": given}}]}}).columns[0].transform[0].args == (("Y", text),)


# --- what is wrong


def test_every_mistake_is_told_at_once() -> None:
    """All that is wrong is told in one error, in the spec's order."""
    found = problems(mode="mrge", csv={"delimeter": ";"}, rejects={"max_rows": -1}, transform={"python": "os.system"})
    assert [problem.partition(":")[0] for problem in found] == [
        "mode",
        "csv.delimeter",
        "rejects.max_rows",
        "transform.python",
    ]


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        ({"tabel": "x"}, 'tabel: unknown key; did you mean "table"?'),
        ({"csv": {"delimeter": ";"}}, 'csv.delimeter: unknown key; did you mean "delimiter"?'),
        ({"rejects": {"max_row": 1}}, 'rejects.max_row: unknown key; did you mean "max_rows"?'),
        ({"transform": {"fliter": "a"}}, 'transform.fliter: unknown key; did you mean "filter"?'),
        ({"columns": {"c": {"fromm": "x"}}}, 'columns.c.fromm: unknown key; did you mean "from"?'),
        ({"columns": {"my col": {"typ": "x"}}}, 'columns."my col".typ: unknown key; did you mean "type"?'),
        ({"columns": {"c": {"transform": "strp"}}}, 'columns.c.transform: unknown step "strp"; did you mean "strip"?'),
        (
            {"columns": {"c": {"transform": [{"nullif": "x"}]}}},
            'columns.c.transform: "nullif" is not a step with arguments; did you mean "null_if"?',
        ),
        ({"mode": "apend"}, 'mode: "apend" is not one of append, replace, merge; did you mean "append"?'),
        (
            {"csv": {"compression": "gz"}},
            'csv.compression: "gz" is not one of auto, none, gzip, zstd, bz2; did you mean "gzip"?',
        ),
        ({"csv": {"encoding": "utf-9"}}, 'csv.encoding: unknown codec "utf-9"; did you mean "utf-8"?'),
        (
            {"columns": {"c": {"timezone": "+5:30"}}},
            'columns.c.timezone: "+5:30" is no offset such as +05:30',
        ),
        (
            {"columns": {"c": {"value": "{kee}"}}},
            'columns.c.value: unknown placeholder {kee}; did you mean "key"?',
        ),
        (
            {"columns": {"fare": "int", "tip": "int"}, "key": ["fair"]},
            'key: "fair" is not among the declared columns; did you mean "fare"?',
        ),
        (
            {"columns": {"fare": "int"}, "transform": {"filter": "fair > 0"}},
            'transform.filter: no column "fair" is declared; did you mean "fare"?',
        ),
    ],
)
def test_a_misspelling_is_answered_with_the_nearest(mapping: dict[str, Any], problem: str) -> None:
    """A misspelt key or word is answered with the nearest right one, at every level."""
    assert problems(**mapping) == (problem,)


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        ({"source": 1}, "source: must be a string, not 1"),
        ({"source": ""}, "source: must not be empty"),
        ({"source": None}, "source: must be a string, not nothing"),
        ({"mode": True}, "mode: must be a string, not true"),
        ({"key": "id"}, 'key: must be a list of column names, not "id"'),
        ({"key": ["id", 2]}, "key: must be a list of column names, and 2 is not a string"),
        ({"csv": "x"}, 'csv: must be a table, not "x"'),
        ({"csv": {"header": "yes"}}, 'csv.header: must be true or false, not "yes"'),
        ({"csv": {"skip_lines": -1}}, "csv.skip_lines: must be a whole number, 0 or more, not -1"),
        ({"csv": {"skip_lines": True}}, "csv.skip_lines: must be a whole number, 0 or more, not true"),
        ({"csv": {"null": 0}}, "csv.null: must be a list of strings, not 0"),
        ({"rejects": {"max_rows": 1.5}}, "rejects.max_rows: must be a whole number, 0 or more, not 1.5"),
        ({"rejects": {"max_ratio": 1.01}}, "rejects.max_ratio: must be a number from 0 to 1, not 1.01"),
        ({"rejects": {"max_ratio": float("nan")}}, "rejects.max_ratio: must be a number from 0 to 1, not nan"),
        ({"columns": ["a"]}, "columns: must be a table, not a list"),
        ({"columns": {"c": 5}}, 'columns.c: must be a type\'s name or a table such as { type = "text" }, not 5'),
        ({"columns": {1: "int"}}, "columns.1: a column's name must be a string"),
        ({"columns": {"": "int"}}, 'columns."": a name must not be empty'),
        ({"columns": {"c": {"from": ""}}}, "columns.c.from: must not be empty"),
        ({"columns": {"c": {"default": [1]}}}, "columns.c.default: must be a string, not a list"),
        ({"transform": {"filter": ""}}, "transform.filter: must not be empty"),
        ({"columns": {"c": {"default": "a\0"}}}, "columns.c.default: must not hold a NUL character"),
        ({"csv": {"null": "\ud800"}}, "csv.null: must not hold half of a surrogate pair"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(mapping: dict[str, Any], problem: str) -> None:
    """A value of the wrong type or range is told with what it should be."""
    assert problems(**mapping) == (problem,)


@pytest.mark.parametrize(
    ("csv", "problem"),
    [
        ({"delimiter": ""}, "csv.delimiter: must not be empty"),
        ({"delimiter": "\n"}, "csv.delimiter: must not hold a line end"),
        ({"header_rows": 0}, "csv.header_rows: must be at least 1; a file without a header has header = false"),
        ({"delimiter": '"'}, "csv.delimiter: must not hold the quote '\"'"),
        ({"quote": "''"}, "csv.quote: must be one ASCII character, not \"''\""),
        ({"quote": "\r"}, "csv.quote: must not hold a line end"),
        ({"escape": "\\\n"}, "csv.escape: must not hold a line end"),
        (
            {"quote": "", "escape": "\\"},
            "csv.escape: does nothing without a quote, because only quoted fields have escapes",
        ),
        ({"null": ["a,b"]}, 'csv.null: "a,b" can never be an unquoted field of this file'),
        ({"null": ['"']}, "csv.null: '\"' can never be an unquoted field of this file"),
        ({"encoding": "hex"}, 'csv.encoding: "hex" is not an encoding of text'),
        ({"encoding": "undefined"}, 'csv.encoding: "undefined" is not an encoding that texts can be read in'),
        ({"comment": '"#'}, "csv.comment: must not begin with the quote '\"'"),
        ({"comment": "#\n"}, "csv.comment: must not hold a line end"),
    ],
)
def test_a_dialect_that_cannot_be_is_refused(csv: dict[str, Any], problem: str) -> None:
    """A dialect that is ambiguous, or that cannot be read yet, is refused and not ignored."""
    assert problems(csv=csv) == (problem,)


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ({"type": "int; drop table x"}, 'type: "int; drop table x" is not a type\'s name'),
        ({"type": "text", "format": "%Y"}, "format: is for dates and times, and the column is text"),
        ({"type": "timetz", "format": "%H:%M"}, "format: is for dates and times, and the column is timetz"),
        ({"type": "date", "timezone": "UTC"}, "timezone: is for timestamps, and the column is date"),
        ({"type": "time(3)", "timezone": "UTC"}, "timezone: is for timestamps, and the column is time(3)"),
        ({"timezone": "+99:00"}, 'timezone: "+99:00" is no offset such as +05:30'),
        ({"timezone": " "}, 'timezone: " " is no name of a time zone'),
        ({"value": "{}"}, 'value: unknown placeholder {}; there is "bucket", "key", '),
        ({"value": "{key.__class__}"}, "value: unknown placeholder {key.__class__}"),
        ({"value": "{key!r:>9}"}, "value: unknown placeholder {key!r:>9}"),
        ({"value": "{key"}, 'value: "{key" has a brace without its partner; a brace itself is written twice'),
        ({"value": "x", "from": "y"}, 'from: "value" makes this column, so nothing is read for it;'),
        ({"value": "x", "type": "date", "format": "%Y"}, 'format: "value" makes this column,'),
        ({"value": "x", "transform": "strip"}, 'transform: "value" makes this column,'),
        ({"value": "x", "default": "y"}, 'default: "value" makes this column,'),
        ({"transform": "null_if"}, 'transform: "null_if" needs arguments; write it as { null_if = ["-", "n/a"] }'),
        ({"transform": [{"strip": True}]}, 'transform: "strip" is not a step with arguments; write it as "strip"'),
        ({"transform": [{}]}, "transform: a step is a string or a table of one key such as"),
        ({"transform": [1]}, "transform: a step is a string or a table of one key such as"),
        ({"transform": 1}, 'transform: must be a list of steps such as ["strip", "upper"], not 1'),
        ({"transform": [{"null_if": []}]}, "transform.null_if: must name a text at least"),
        ({"transform": [{"replace": ["a"]}]}, "transform.replace: must be two strings, the old text and the new"),
        ({"transform": [{"replace": ["", "a"]}]}, "transform.replace: must be two strings, the old text and the new"),
        ({"transform": [{"map": {}}]}, "transform.map: must be a table of texts and what they become, not an empty"),
        ({"transform": [{"map": {"Y": []}}]}, "transform.map.Y: must be a string, not an empty list"),
    ],
)
def test_a_column_that_cannot_be_is_refused(column: dict[str, Any], problem: str) -> None:
    """A column whose settings mean nothing, by themselves or together, is refused."""
    (found,) = column_problems(**column)
    assert found.startswith(f"columns.c.{problem}")


def test_a_format_is_checked() -> None:
    """A date format that cannot be read is refused when the spec is, with the format's own message."""
    (found,) = column_problems(type="date", format="%Q")
    assert found.startswith("columns.c.format: ")
    assert "%Q" in found


def test_fixed_offsets_are_zones() -> None:
    """A time zone is an offset, or a name that is the server's to know."""
    for zone in ("UTC", "America/New_York", "+05:45", "-03:30", "UTC+3", "EST5EDT4,M3.2.0,M11.1.0"):
        assert spec(columns={"c": {"type": "timestamptz(3)", "timezone": zone}}).columns[0].timezone == zone


def test_without_a_header_position_is_all() -> None:
    """Without a header, a column cannot say which name it comes from."""
    assert problems(csv={"header": False}, columns={"c": {"type": "int", "from": "C"}}) == (
        "columns.c.from: without a header columns go by their position; take it out",
    )
    assert not spec(csv={"header": False}).csv.header


def test_keys_are_checked() -> None:
    """A key is of declared columns, each once, and makes no sense when appending."""
    assert problems(key=["a", "b", "a"], mode="append", columns={"a": "int"}) == (
        'key: mode "append" ignores keys; give mode = "merge", or leave the key out',
        'key: "a" stands 2 times',
        'key: "b" is not among the declared columns; there is "a"',
    )


def test_a_filter_is_parsed() -> None:
    """A filter that is no condition is told with its place; its columns are open where none are declared."""
    assert problems(transform={"filter": "fare >"}) == ("transform.filter: the condition breaks off after character 6",)
    assert spec(transform={"filter": "anything > 0"}).transform.filter == "anything > 0"


@pytest.mark.parametrize(
    "hook", ["os.system", "trips", "trips:", ":clean", "_trips:clean", "trips:_clean", "a.b:c", "a:b()"]
)
def test_a_hook_is_a_public_function(hook: str) -> None:
    """A hook is module:function, both plain names that do not begin with an underscore."""
    (found,) = problems(transform={"python": hook})
    assert found.startswith(f'transform.python: "{hook}" is not of the form module:function')


# --- files


def test_a_missing_file_is_a_spec_error(tmp_path: Path) -> None:
    """A file that is not there, or is a directory, is one sentence with its path."""
    with pytest.raises(SpecError) as missing:
        LoadSpec.from_toml(tmp_path / "none.toml")
    assert str(missing.value) == f"{tmp_path}/none.toml: cannot be read: No such file or directory"
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        LoadSpec.from_toml(str(tmp_path))


def test_toml_mistakes_have_a_line(tmp_path: Path) -> None:
    """A file that is not TOML is told with its path and line."""
    path = tmp_path / "x.toml"
    path.write_text('table = "x"\nkey = [')
    with pytest.raises(SpecError, match=rf"^{path}: not valid TOML: .*\(at (line 2|end of document)"):
        LoadSpec.from_toml(path)
    path.write_bytes(b'table = "\xff"')
    with pytest.raises(SpecError, match=rf"^{path}: not valid UTF-8 at byte 9 .*0xFF\); save the file as UTF-8$"):
        LoadSpec.from_toml(path)
    with pytest.raises(SpecError, match="not valid TOML: nested too deep"):
        LoadSpec.from_toml_text("a = " + "[" * 5000)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    """A spec that an editor saved with a byte order mark is read."""
    path = tmp_path / "x.toml"
    path.write_text('table = "x"', encoding="utf-8-sig")
    assert LoadSpec.from_toml(path) == LoadSpec("x")


def test_a_spec_that_is_no_table_is_refused() -> None:
    """A spec that is not a mapping is a spec error too, because it may come from an event."""
    with pytest.raises(SpecError, match=r"^event: must be a table of settings, not a list$"):
        LoadSpec.from_dict([1], origin="event")  # type: ignore[arg-type]


def test_the_import_is_light() -> None:
    """Importing the spec, and reading one without a filter, imports none of the heavy libraries."""
    heavy = "{'pyarrow', 'numpy', 'lark', 'pandas', 'boto3', 'psycopg2'}"
    program = (
        "import sys; from loader.core.spec.model import LoadSpec; "
        "LoadSpec.from_dict({'table': 't', 'columns': {'a': 'int'}})\n"
        f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# --- names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("trips", (None, "trips")),
        ("public.trips", ("public", "trips")),
        ("Public.Trips", ("Public", "Trips")),
        ('public."My Table"', ("public", "My Table")),
        ('"a.b"."c ""d"""', ("a.b", 'c "d"')),
        ("my table", (None, "my table")),
    ],
)
def test_a_table_is_named_with_or_without_its_schema(text: str, name: tuple[str | None, str]) -> None:
    """A name has one or two parts, each taken literally; quotes let a part hold dots, spaces and quotes."""
    assert split_table(text) == name
    assert spec(table=text).table_name == name


@pytest.mark.parametrize("text", ["", "a.b.c", ".a", "a.", 'a"b', '"a', '""', '"a"b', " a", "a\0", "x" * 64, "é" * 32])
def test_other_texts_name_no_table(text: str) -> None:
    """A text that is no name, or that PostgreSQL would cut off, is refused."""
    (found,) = problems(table=text)
    assert found.startswith("table: ")


def test_a_table_is_needed() -> None:
    """Without a table there is nowhere to load to."""
    with pytest.raises(SpecError, match=r"^spec: table: is missing: name the table to load into$"):
        LoadSpec.from_dict({})


@pytest.mark.parametrize(
    "name",
    [
        "integer",
        "BIGINT",
        "int8",
        "numeric(15,2)",
        "numeric(5,-2)",
        "numeric( 15 , 2 )",
        "varchar(20)",
        "geometry",
        "pg_catalog.int4",
        'my_schema."My Type"',
        '"odd; name"',
        '"a""b"',
        "int[]",
        "int[3]",
        "text[][]",
        "numeric(10,2) []",
        "double precision",
        "character varying(10)",
        "char varying (10)",
        "national character varying(3)",
        "bit varying(3)",
        "timestamp(3) with time zone",
        "TIMESTAMP WITHOUT TIME ZONE",
        "time with time zone[]",
        "interval day to second(3)",
        "interval year",
    ],
)
def test_type_names_are_known_by_their_form(name: str) -> None:
    """A name, schema and quotes included, its modifiers, array bounds and SQL's own phrases are a type's name."""
    assert is_type_name(name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " int",
        "int\n",
        "int;",
        "int -- x",
        "int /* x */",
        "int not null",
        "int default 1",
        "numeric(a)",
        "numeric(1,2,3)",
        "numeric(1); drop table x",
        "numeric((1))",
        "varchar(select 1)",
        "numeric(--1)",
        'a"b',
        '"a" "b"',
        '"a',
        "'x'",
        "int[1,2]",
        "int[-1]",
        "a.b.c",
        "double  drop",
        "setof int",
        "x%type",
        "int٣",
        "ſet",
        "numeric(٣)",
        '"a\0"',
    ],
)
def test_nothing_else_is_a_type_name(text: str) -> None:
    """Whatever could carry more SQL than a type is not a type's name."""
    assert not is_type_name(text)
    assert column_problems(type=text)


@unhurried
@given(
    st.lists(st.sampled_from(["int", "a.", '"', '""', "(", "1", ",", ")", "[", "]", ";", "--", "'", " ", "with", "\n"]))
)
def test_a_type_name_holds_no_more_than_a_type(pieces: list[str]) -> None:
    """Outside quoted identifiers, a type's name has only letters, digits, integers in parentheses and array bounds."""
    text = "".join(pieces)
    if is_type_name(text):
        bare = "".join(text.split('"')[::2])
        assert not set(bare) & set(";'-\n")
        assert text.count('"') % 2 == 0
        assert bare.count("(") == bare.count(")") <= 1


# --- globs


@pytest.mark.parametrize(
    ("source", "yes", "no"),
    [
        ("incoming/trips/*.csv*", ["incoming/trips/a.csv", "incoming/trips/.csv.gz"], ["incoming/trips/x/a.csv"]),
        ("in/**/x.csv", ["in/x.csv", "in/a/x.csv", "in/a/b/x.csv"], ["in/ax.csv", "x.csv", "in//y.csv"]),
        ("**/x.csv", ["x.csv", "a/x.csv"], ["ax.csv"]),
        ("in/**", ["in/a", "in/a/b", "in/"], ["in"]),
        ("in/a**z", ["in/az", "in/a/b/z"], ["in/b/z"]),
        ("day-?.csv", ["day-1.csv", "day-é.csv"], ["day-.csv", "day-10.csv", "day-/.csv"]),
        ("[a-c][!0-9].csv", ["ax.csv", "c/.csv".replace("/", "-")], ["dx.csv", "a1.csv", "a/.csv"]),
        ("a[.csv", ["a[.csv"], ["a.csv"]),
        ("a[]]b", ["a]b"], ["ab"]),
        ("a+(b).csv", ["a+(b).csv"], ["aab.csv"]),
        ("s3://bucket/in/*.csv", ["in/a.csv"], ["bucket/in/a.csv"]),
        ("", [], ["", "a"]),
    ],
)
def test_globs_stay_within_a_level(source: str, yes: list[str], no: list[str]) -> None:
    """``*``, ``?`` and ``[…]`` stay within one level of a path, ``**`` goes through levels."""
    loads = LoadSpec("t", source=source or None)
    assert [key for key in yes if not loads.matches(key)] == []
    assert [key for key in no if loads.matches(key)] == []


def test_a_glob_takes_no_longer_for_being_clever() -> None:
    """A pattern full of stars is followed all ways at once, so that a long key costs milliseconds."""
    assert not LoadSpec("t", source="**a*" * 40 + "b").matches("a" * 1000)


def test_the_source_may_name_its_bucket() -> None:
    """An ``s3://`` source names a bucket, plainly; any other is for whatever bucket."""
    assert spec(source="s3://bucket/in/*.csv").source_bucket == "bucket"
    assert spec(source="in/*.csv").source_bucket is None
    assert spec().source_bucket is None
    for source in ("s3://bucket", "s3://bucket/", "s3://b*/x", "s3:///x"):
        assert problems(source=source)[0].startswith(f'source: "{source}" is not of the form s3://bucket/pattern')


# --- round trips

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
names = texts.filter(lambda text: text != "" and len(text.encode()) <= 63)
steps = st.lists(
    st.sampled_from(["strip", "lower", "upper", "strip_currency"])
    | st.builds(lambda given: {"null_if": given}, st.lists(texts, min_size=1, max_size=3))
    | st.builds(lambda old, new: {"replace": [old, new]}, texts.filter(bool), texts)
    | st.builds(lambda pairs: {"map": pairs}, st.dictionaries(texts, texts, min_size=1, max_size=3)),
    max_size=3,
)
placeholders = st.lists(st.sampled_from([f"{{{name}}}" for name in PLACEHOLDERS] + ["{{", "}}", "/"])).map("".join)
columns = (
    st.sampled_from(["bigint", "numeric(10,2)", '"my type"[]'])
    | st.fixed_dictionaries({}, optional={"type": st.just("text"), "transform": steps, "default": texts})
    | st.fixed_dictionaries({"value": placeholders})
    | st.fixed_dictionaries({"type": st.just("timestamptz"), "timezone": st.just("Europe/Berlin")})
)
dialects = st.fixed_dictionaries(
    {},
    optional={
        "delimiter": st.sampled_from([",", ";", "\t", "\x7f"]),
        "quote": st.sampled_from(['"', "'", ""]),
        "header": st.booleans(),
        "skip_lines": st.integers(0, 9),
        "encoding": st.sampled_from(["utf-8", "cp1252"]),
        "null": st.lists(st.sampled_from(["", "NULL", "\\N"])),
    },
)
mappings = st.fixed_dictionaries(
    {"table": st.sampled_from(["trips", "public.trips", 'public."My ""Table"""'])},
    optional={
        "source": names,
        "mode": st.sampled_from(["append", "replace", "merge"]),
        "csv": dialects,
        "rejects": st.fixed_dictionaries(
            {}, optional={"max_rows": st.integers(0, 10**12), "max_ratio": st.floats(0, 1) | st.integers(0, 1)}
        ),
        "columns": st.dictionaries(names, columns, max_size=4),
        "transform": st.fixed_dictionaries({}, optional={"filter": st.just("a = 'x'"), "python": st.just("m:f")}),
    },
).filter(lambda mapping: "filter" not in mapping.get("transform", {}) or not mapping.get("columns"))


@unhurried
@given(mappings)
def test_a_spec_goes_round_unchanged(mapping: dict[str, Any]) -> None:
    """What a spec writes, as a dict or as TOML, reads back as the same spec."""
    given_spec = LoadSpec.from_dict(mapping)
    assert LoadSpec.from_dict(given_spec.to_dict()) == given_spec
    assert LoadSpec.from_toml_text(given_spec.to_toml()) == given_spec


def test_the_whole_spec_goes_round() -> None:
    """The spec with every key set survives both ways of writing it."""
    assert LoadSpec.from_dict(WHOLE_SPEC.to_dict()) == WHOLE_SPEC
    assert LoadSpec.from_toml_text(WHOLE_SPEC.to_toml()) == WHOLE_SPEC


def test_toml_leaves_defaults_out() -> None:
    """A written spec has what was decided and not what is usual, so that it is short to edit."""
    made = spec(columns={"id": "bigint", "Fare ($)": {"from": "x", "transform": ["strip"]}})
    assert made.to_toml() == (
        'table = "trips"\nmode = "append"\n\n'
        '[columns]\nid = "bigint"\n"Fare ($)" = { from = "x", transform = ["strip"] }\n'
    )
    assert tomllib.loads(spec().to_toml()) == {"table": "trips", "mode": "append"}


def test_a_fingerprint_is_of_what_a_file_becomes() -> None:
    """The fingerprint changes with every setting but the source, and with the order of the columns."""
    usual = WHOLE_SPEC.fingerprint()
    assert len(usual) == 64
    assert replace(WHOLE_SPEC, source="elsewhere/*.csv").fingerprint() == usual
    others = [
        replace(WHOLE_SPEC, table="other"),
        replace(WHOLE_SPEC, csv=CsvSpec()),
        replace(WHOLE_SPEC, columns=WHOLE_SPEC.columns[::-1]),
        replace(WHOLE_SPEC, transform=TransformSpec()),
    ]
    assert len({usual, *(other.fingerprint() for other in others)}) == 5


def test_auto_is_no_delimiter_itself() -> None:
    """Its letters may be quotes, and it may stand in null texts."""
    csv = LoadSpec.from_dict({"table": "t", "csv": {"delimiter": "auto", "quote": "a", "null": ["none"]}}).csv
    assert (csv.delimiter, csv.quote) == ("auto", "a")
    assert LoadSpec.from_dict({"table": "t", "csv": {"delimiter": "auto", "null": "automatic"}}).csv.null[0]
