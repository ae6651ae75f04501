"""Whether the kernel is built where it can be, and who says whether it is used."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from support.postgres import query

import loader
from loader import kernel
from loader.kernel import kernel_state


def test_it_is_compiled_where_a_compiler_is() -> None:
    """The extension is optional to pip, so nobody else would say that its build failed."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if not any(map(shutil.which, (compiler, "gcc", "clang"))):
        pytest.skip("this machine has no C compiler")
    assert kernel.COMPILED, (
        "a C compiler is here, but the kernel is not built: pip install --verbose --editable . says why"
    )


@pytest.mark.parametrize("setting", ["auto", "off"])
def test_the_version_says_what_is_installed(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setenv("LOADER_KERNEL", setting)
    told = subprocess.check_output([sys.executable, "-m", "loader", "--version"], text=True)
    assert told == f"loader {loader.__version__} (Python {platform.python_version()}, kernel {kernel_state()})\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,x\n2,y\n")
    return path


def lane(dsn: str, file: Path, **spec: Any) -> str:
    """What the report's plan and the ledger's say of it, which is the same."""
    report = loader.load(str(file), {"table": "t", **spec}, dsn=dsn)
    assert query(dsn, "SELECT plan FROM loader.loads") == [(report.plan,)]
    assert report.plan is not None
    return report.plan.rpartition("; ")[2]


def test_a_plan_says_that_the_kernel_converts(dsn: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernel.COMPILED:
        pytest.skip("the kernel is not compiled here")
    monkeypatch.setenv("LOADER_KERNEL", "auto")
    assert lane(dsn, file) == "converted by the kernel"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (
            {"transform": {"filter": "a > '1'"}, "columns": {"a": "text", "b": "text"}},
            "the spec has a filter or a hook",
        ),
        ({"csv": {"comment": "#"}}, "it does not know the file's dialect"),
        ({"columns": {"a": "interval", "b": "text"}}, "it does not know columns: a"),
    ],
)
def test_a_plan_says_why_not(
    dsn: str, file: Path, monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any], why: str
) -> None:
    if not kernel.COMPILED:
        pytest.skip("the kernel is not compiled here")
    monkeypatch.setenv("LOADER_KERNEL", "auto")
    assert lane(dsn, file, **spec) == f"converted without the kernel ({why})"


def test_a_plan_says_that_it_is_switched_off(dsn: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "COMPILED", True)
    monkeypatch.setenv("LOADER_KERNEL", "off")
    assert lane(dsn, file) == "converted without the kernel (compiled, switched off by LOADER_KERNEL)"


def test_a_plan_says_that_it_is_not_compiled(dsn: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "COMPILED", False)
    monkeypatch.setattr(kernel, "_compiled", None)
    monkeypatch.setenv("LOADER_KERNEL", "auto")
    assert lane(dsn, file) == "converted without the kernel (not compiled)"
