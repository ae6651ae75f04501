"""Hooks: named functions of the deployment's own package, and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from loader.convert.hooks import find_hook
from loader.core.errors import SpecError, TransformError

TRIPS = """
import os
from os import system

import pyarrow as pa
import pyarrow.compute as pc


def double(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.set_column(0, "a", pc.multiply(batch.column("a"), 2))


def frame(frame: "pandas.DataFrame"):
    frame["b"] = frame["b"].str.upper()
    return frame


def short(batch):
    return batch.slice(1)


def renamed(batch):
    return batch.rename_columns(["x", "y", "loader_record"])


def fewer(batch):
    return batch.select(["a"])


def more(batch):
    return batch.append_column("c", batch.column("a"))


def twice(batch):
    return pa.RecordBatch.from_arrays([batch.column("a"), batch.column("a")], ["a", "a"])


def nothing(batch):
    return None


def table(batch):
    return pa.Table.from_batches([batch])


def uneven(batch):
    return pa.RecordBatch.from_arrays([batch.column("a"), pa.array(["x"])], ["a", "b"])


def others(batch):
    return batch.take(pa.array([0] * batch.num_rows))


def unnumbered(batch):
    return batch.set_column(2, "loader_record", pa.array(["x"] * batch.num_rows))


def reordered(batch):
    return batch.take(pa.array(range(batch.num_rows - 1, -1, -1)))


def columns_reordered(batch):
    return batch.select(["b", "a"])


def anew(batch):
    return pa.record_batch({"a": [1.5] * batch.num_rows, "b": batch.column("b")})


def frame_reordered(frame: "pandas.DataFrame"):
    return frame.iloc[::-1]


def frame_reset(frame: "pandas.DataFrame"):
    return frame.iloc[::-1].reset_index(drop=True)


def frame_short(frame: "pandas.DataFrame"):
    return frame.iloc[1:]


def frame_twice(frame: "pandas.DataFrame"):
    return frame.iloc[[0, 0]]


def frame_of_one_name(frame: "pandas.DataFrame"):
    frame.columns = ["a", "a"]
    return frame


def frame_none(frame: "pandas.DataFrame"):
    frame["a"] = 1


def frame_of_objects(frame: "pandas.DataFrame"):
    frame["a"] = object()
    return frame


def frame_of_complex(frame: "pandas.DataFrame"):
    frame["a"] = 1j
    return frame


def untyped(batch):
    return batch.to_pydict()


def failing(batch):
    raise KeyError("c")


def leaving(batch):
    import sys

    sys.exit(0)


def annotated(batch: "list[int] | None"):
    return batch


def generic(batch: list[int] | None):
    return batch


_private = double
answer = 42
"""

BATCH = pa.record_batch({"a": pa.array([1, None], pa.int64()), "b": ["x", None]})


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "our_hooks").mkdir()
    (tmp_path / "our_hooks" / "__init__.py").touch()
    (tmp_path / "our_hooks" / "trips.py").write_text(TRIPS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LOADER_HOOKS", "our_hooks")
    yield
    for name in [name for name in sys.modules if name.startswith("our_hooks")]:
        del sys.modules[name]


def test_a_hook_over_record_batches() -> None:
    """It is given the batch and gives one back."""
    assert find_hook("trips:double")(BATCH).to_pylist() == [{"a": 2, "b": "x"}, {"a": None, "b": None}]


def test_a_hook_over_frames() -> None:
    """If it is annotated so; NULLs and types survive the way there and back."""
    made = find_hook("trips:frame")(BATCH)
    assert made.schema.types == BATCH.schema.types
    assert made.to_pylist() == [{"a": 1, "b": "X"}, {"a": None, "b": None}]


RESET = "returned a frame with another index than it was given, and the index says which record a row is of"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", 'returned 1 rows for 2; leave rows out with "filter"'),
        ("renamed", r"returned the columns \['x', 'y'\], not \['a', 'b'\]"),
        ("fewer", r"returned the columns \['a'\], not \['a', 'b'\]"),
        ("more", r"returned the columns \['a', 'b', 'c'\], not \['a', 'b'\]"),
        ("twice", 'returned several columns of one name: "a"'),
        ("untyped", "returned dict, not a RecordBatch"),
        ("nothing", "returned NoneType, not a RecordBatch"),
        ("table", "returned Table, not a RecordBatch"),
        ("uneven", "raised ValueError: Arrays were not all the same length"),
        ("others", 'returned other records than it was given, by the column "loader_record"'),
        ("unnumbered", 'returned something else than the records\' numbers in the column "loader_record"'),
        ("failing", "raised KeyError: 'c'"),
        ("leaving", "raised SystemExit: 0"),
        ("frame_reset", RESET),
        ("frame_twice", RESET),
        ("frame_short", 'returned 1 rows for 2; leave rows out with "filter"'),
        ("frame_of_one_name", 'returned several columns of one name: "a"'),
        ("frame_none", "returned NoneType, not a DataFrame"),
        ("frame_of_objects", 'returned a value of type object in the column "a", of which there is no text'),
        ("frame_of_complex", 'returned a column "a" of complex128 that Arrow cannot hold'),
    ],
)
def test_a_hook_that_does_what_it_must_not(name: str, message: str) -> None:
    """The error names it and says what was wrong."""
    expected = rf'^the hook "trips:{name}" {message}'
    with pytest.raises(TransformError, match=expected):
        find_hook(f"trips:{name}")(BATCH)


@pytest.mark.parametrize("name", ["reordered", "frame_reordered", "columns_reordered"])
def test_a_row_is_its_records_wherever_it_is(name: str) -> None:
    """By the numbers of the records, which go with the rows."""
    numbers = np.array([7, 9])
    assert find_hook(f"trips:{name}")(BATCH, numbers).to_pylist() == BATCH.to_pylist()


def test_a_batch_that_is_made_anew_is_in_its_order() -> None:
    """Its columns may be of other types, which are for the loader to judge."""
    made = find_hook("trips:anew")(BATCH)
    assert made.to_pylist() == [{"a": 1.5, "b": "x"}, {"a": 1.5, "b": None}]


def test_a_column_of_the_tables_may_have_the_name_of_the_records() -> None:
    """The records' is longer then."""
    batch = pa.record_batch({"loader_record": ["x", "y"]})
    assert find_hook("trips:annotated")(batch) == batch
    assert find_hook("trips:others")(pa.record_batch({"loader_record": ["x"]})).to_pylist() == [{"loader_record": "x"}]


@pytest.mark.parametrize(
    "name",
    ["trips:nosuch", "nosuch:double", "trips:answer", "trips:system", "trips:os.system", "trips:_private", "os:system",
     "trips", ":", "trips:", "../trips:double", "trips.double:double", "__init__:double"],
)  # fmt: skip
def test_only_functions_of_the_package_itself_can_be_named(name: str) -> None:
    """Not what its modules import, not its privates, not other packages."""
    with pytest.raises(SpecError, match=r"transform\.python"):
        find_hook(name)


@pytest.mark.parametrize("name", ["annotated", "generic"])
def test_an_annotation_that_is_no_class(name: str) -> None:
    """It does not ask for a frame, so there is a batch."""
    assert find_hook(f"trips:{name}")(BATCH) == BATCH


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("nosuch", None, 'there is no module "nosuch" in the package "our_hooks"'),
        ("needy", "import nosuch_dependency.part", 'the module "our_hooks.needy" imports "nosuch_dependency", which'),
        ("inner", "import our_hooks.gone", 'the module "our_hooks.inner" imports "our_hooks.gone", which'),
        ("typo", "def hook(:", 'the module "our_hooks.typo" cannot be imported: SyntaxError: '),
        ("leaving", "raise SystemExit(0)", 'the module "our_hooks.leaving" cannot be imported: SystemExit: 0'),
        ("raising", "1 / 0", 'the module "our_hooks.raising" cannot be imported: ZeroDivisionError: division by zero'),
        ("name", "from os import nosuch", 'the module "our_hooks.name" cannot be imported: ImportError: '),
    ],
)
def test_a_module_that_cannot_be_imported(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    """Not there is one thing, and there but in want of something else another."""
    if text is not None:
        (tmp_path / "our_hooks" / f"{name}.py").write_text(text)
    with pytest.raises(SpecError) as caught:
        find_hook(f"{name}:hook")
    assert str(caught.value).startswith(f"spec: transform.python: {message}")


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("nosuch_hooks", 'there is no module "trips" in the package "nosuch_hooks"'),
        ("nosuch.hooks", 'there is no module "trips" in the package "nosuch.hooks"'),
        ("", 'LOADER_HOOKS is ""'),
        ("../hooks", 'LOADER_HOOKS is "../hooks"'),
    ],
)
def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch, package: str, message: str) -> None:
    monkeypatch.setenv("LOADER_HOOKS", package)
    with pytest.raises(SpecError) as caught:
        find_hook("trips:double")
    assert str(caught.value).startswith(f"spec: transform.python: {message}")
