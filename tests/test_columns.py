"""Which field of a file becomes which column of a table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from support.clock import PATIENCE
from support.postgres import query

import loader
from loader.convert.column_mapping import Match, match_columns
from loader.core.errors import ShapeError, TableError
from loader.core.spec.model import ColumnSpec, LoadSpec
from loader.postgres.tables import Table, TableColumn
from loader.records.header import Fields, names_to_ask_for, usable_names

TRIPS = Table(
    "public",
    "trips",
    (
        TableColumn("id", "integer", not_null=True),
        TableColumn("fare", "numeric(8,2)"),
        TableColumn("vendor", "text", has_default=True),
        TableColumn("total", "numeric", generated=True),
    ),
    primary_key=("id",),
    oid=1,
)
ABSENT = Table("public", "trips")


def match(
    header: Sequence[str] | None,
    table: Table = TRIPS,
    inferred: Mapping[str, str] | None = None,
    **settings: object,
) -> Match:
    spec = LoadSpec.from_dict({"table": "trips", **settings})
    found = tuple(ColumnSpec(name, type_name) for name, type_name in (inferred or {}).items())
    types = {column.type: column.type for column in (*spec.columns, *found) if column.type}
    return match_columns(spec, header, table, types, inferred=found, name="t.csv", session_zone="UTC")


def places(found: Match) -> dict[str, int | None]:
    return {column.name: column.field for column in found.columns}


def message(header: Sequence[str], table: Table = TRIPS, **settings: object) -> str:
    with pytest.raises((ShapeError, TableError)) as caught:
        match(header, table, **settings)
    return str(caught.value)


def test_columns_are_found_by_name_in_any_order() -> None:
    found = match(["vendor", "fare", "id"])
    assert places(found) == {"id": 2, "fare": 1, "vendor": 0}
    assert (found.fields, found.notes) == (3, ())


def test_a_column_that_the_file_lacks_is_left_to_the_table() -> None:
    found = match(["id"])
    assert places(found) == {"id": 0}
    assert found.notes == ('the header has no "fare", "vendor": left to the table\'s defaults',)


def test_what_has_to_have_a_value_must_not_be_missing() -> None:
    assert message(["fare"]).startswith('t.csv: the header has no column "id", and public.trips.id is NOT NULL')
    columns = {"id": "int", "fare": "numeric"}
    assert 'no column "id", which is of the key' in message(["fare"], ABSENT, columns=columns, key=["id"])
    assert places(match(["fare"], Table(**{**_fields(TRIPS), "fills_in": True}))) == {"fare": 0}


def _fields(table: Table) -> dict[str, object]:
    return {name: getattr(table, name) for name in Table.__dataclass_fields__}


def test_a_file_with_no_column_of_the_table_is_the_wrong_file() -> None:
    """The nearest name is told."""
    assert 'the header has no column "id", nor any other that is to be loaded; it has "x", "y"' in message(["x", "y"])


def test_a_declared_column_that_the_file_lacks_gets_its_default() -> None:
    columns = {"id": "int", "vendor": {"type": "text", "default": "{none}"}, "note": "text"}
    found = match(["id"], ABSENT, columns=columns)
    assert [(column.name, column.field, column.value) for column in found.columns] == [
        ("id", 0, None),
        ("vendor", None, "{{none}}"),
    ]
    assert [column.name for column in found.absent] == ["note"], "the new table has it all the same"
    assert len(found.notes) == 2


@pytest.mark.parametrize("name", ["ID", " id ", "Id", "iD\t"])
def test_case_and_blanks_around_a_name_are_forgiven(name: str) -> None:
    found = match([name, "fare"])
    assert places(found) == {"id": 0, "fare": 1}
    assert any("was taken for" in note for note in found.notes)


@pytest.mark.parametrize("name", ["pick up at", "Pick_Up_At", "PICK  UP AT", " pick_up at "])
def test_blanks_and_underscores_are_the_same(name: str) -> None:
    table = Table("public", "t", (TableColumn("pick_up_at", "date"),), oid=1)
    assert places(match([name], table)) == {"pick_up_at": 0}


def test_nothing_is_forgiven_where_two_could_be_meant() -> None:
    """Neither two of the header for one that is wanted, nor one of the header for two."""
    found = match(["id", "FARE", "Fare"])
    assert places(found) == {"id": 0}
    twins = Table("public", "t", (TableColumn("a b", "int"), TableColumn("a_b", "int"), TableColumn("x", "int")), oid=1)
    assert places(match(["A B", "x"], twins)) == {"x": 1}


def test_the_very_name_goes_before_one_that_is_forgiven() -> None:
    found = match(["ID", "id"])
    assert places(found) == {"id": 1}
    assert found.notes[-1] == 'columns of the file that are not loaded: "ID"'
    both = Table("public", "t", (TableColumn("A", "int"), TableColumn("a", "int")), oid=1)
    assert places(match(["A"], both)) == {"A": 0}, "what one column means exactly is not lent to another"


def test_a_repeated_name_is_asked_for_by_its_number() -> None:
    error = message(["id", "fare", "fare"])
    assert error == 't.csv: the header has the column "fare" 2 times; say which with from = "fare_1", "fare_2"'
    for source, place in (("fare_1", 1), ("fare_2", 2)):
        columns = {"id": "integer", "fare": {"type": "numeric(8,2)", "from": source}}
        assert places(match(["id", "fare", "fare"], columns=columns)) == {"id": 0, "fare": place}


def test_an_empty_name_is_its_place() -> None:
    columns = {"id": "integer", "fare": {"type": "numeric(8,2)", "from": "column_2"}}
    assert places(match(["id", "", ""], columns=columns)) == {"id": 0, "fare": 1}


def test_what_is_surplus_is_left_out_and_told() -> None:
    found = match(["id", "extra", "more"])
    assert found.notes[-1] == 'columns of the file that are not loaded: "extra", "more"'
    many = match(["id", *(f"x{number}" for number in range(30))])
    assert many.notes[-1].endswith('"x19", …')
    assert many.fields == 31


def test_what_is_surplus_may_be_an_error() -> None:
    assert message(["id", "fair"], unknown="error") == (
        't.csv: the header\'s column "fair" is not in public.trips; did you mean "fare"?'
    )


def test_what_is_surplus_may_be_added() -> None:
    found = match(["extra", "id"], inferred={"extra": "bigint", "id": "bigint"}, unknown="add")
    assert [(column.name, column.type.name, column.field) for column in found.added] == [("extra", "bigint", 0)]
    assert places(found) == {"id": 1, "extra": 0}
    assert not found.added[0].not_null


def test_a_column_whose_name_is_taken_is_not_added_again() -> None:
    """By one that PostgreSQL computes, or one that the spec makes of another field."""
    found = match(["id", "total"], inferred={"id": "bigint", "total": "bigint"}, unknown="add")
    assert (places(found), found.added) == ({"id": 0}, ())
    assert found.notes[-1] == 'columns of the file that are not loaded: "total"'
    columns = {"id": "integer", "fare": {"type": "numeric(8,2)", "from": "price"}}
    inferred = {"id": "bigint", "price": "bigint", "fare": "bigint"}
    found = match(["id", "price", "fare"], inferred=inferred, columns=columns, unknown="add")
    assert (places(found), found.added) == ({"id": 0, "fare": 1}, ())


def test_a_new_table_has_names_that_a_table_can_have() -> None:
    header = ["a", "a", "", "x" * 70]
    names = usable_names(header)
    assert names == ("a", "a_2", "column_3", "x" * 63)
    found = match(header, ABSENT, dict.fromkeys(names, "text"))
    assert places(found) == {"a": 0, "a_2": 1, "column_3": 2, "x" * 63: 3}
    assert '"a" is "a_2", "" is "column_3"' in found.notes[-1]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (["a", "b"], ("a", "b")),
        (["a", "a", "a"], ("a", "a_2", "a_3")),
        (["a", "a", "a_2"], ("a", "a_3", "a_2")),
        (["a", "a", "a_2", "a_2"], ("a", "a_3", "a_2", "a_2_2")),
        (["", " ", "column_1"], ("column_1_2", "column_2", "column_1")),
        (["xmin", "ctid", "oid"], ("xmin_", "ctid_", "oid")),
        (["x" * 63, "x" * 64], ("x" * 63, "x" * 61 + "_2")),
        (["é" * 32, "é" * 33], ("é" * 31, "é" * 30 + "_2")),
        (["A", "a"], ("A", "a")),
    ],
)
def test_names_are_made_usable(header: list[str], expected: tuple[str, ...]) -> None:
    assert usable_names(header) == expected


@pytest.mark.parametrize(
    "header",
    [
        ["a"] * 50_000,
        [f"{'x' * 63}{number}" for number in range(50_000)],
        [f"{'x' * 59}{number % 9999:04}" for number in range(50_000)],
        ["a", *(f"a_{number}" for number in range(25_000)), *["a"] * 25_000],
        [""] * 50_000,
        [f"name {number}" for number in range(50_000)],
        ["x" * 4_000_000],
    ],
    ids=["one name", "cut to one", "nearly cut to one", "taken", "empty", "unlike", "long"],
)
def test_a_hostile_header_costs_no_more_than_seconds(header: list[str]) -> None:
    """And its message can be read."""
    began = time.process_time()
    assert len(set(names_to_ask_for(header))) == len(header)
    fields = Fields(header, [f"column {number}" for number in range(1600)], name="t.csv")
    for number in range(1600):
        assert fields.find(f"column {number}") is None
    assert len(str(fields.missing("column 1"))) < 3000
    assert time.process_time() - began < PATIENCE  # a hundred times what it takes


def test_without_a_header_columns_go_by_place() -> None:
    found = match(None, csv={"header": False})
    assert places(found) == {"id": 0, "fare": 1, "vendor": 2}
    columns = {"fare": "numeric(8,2)", "vendor": {"value": "x"}, "id": "integer"}
    assert places(match(None, csv={"header": False}, columns=columns)) == {"fare": 0, "vendor": None, "id": 1}


def test_added_columns_are_there_with_the_rows_or_not_at_all(dsn: str, tmp_path: Path) -> None:
    query(dsn, "CREATE TABLE t (id int, CHECK (id < 100)); INSERT INTO t VALUES (0)")
    path = tmp_path / "t.csv"
    path.write_text("id,Größe,id\n1,5,x\n2,,y\n")
    spec: dict[str, object] = {
        "table": "t",
        "unknown": "add",
        "columns": {"id": {"type": "int", "from": "id_1"}},
        "rejects": {"max_rows": 0},
    }
    report = loader.load(str(path), spec, dsn=dsn)
    assert report.rows_inserted == 2
    assert query(dsn, 'SELECT id, "Größe", id_2 FROM t ORDER BY id') == [(0, None, None), (1, 5, "x"), (2, None, "y")]
    path.write_text("id,new\n1,5\n200,6\n")
    with pytest.raises(loader.LoaderError):
        loader.load(str(path), spec | {"columns": {"id": "int"}}, dsn=dsn)
    columns = query(dsn, "SELECT attname FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0")
    assert [name for (name,) in columns] == ["id", "Größe", "id_2"]


def test_no_table_has_more_than_1600_columns(dsn: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(",".join(f"c{number}" for number in range(1601)) + "\n")
    with pytest.raises(ShapeError, match="has 1,601 columns, and a table can have no more than 1,600"):
        loader.load(str(path), {"table": "t"}, dsn=dsn)
