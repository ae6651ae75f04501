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
from sanitize import FOUND, SANITIZERS, SOURCES
from support.effort import LONG, effort
from support.postgres import query

import loader
from loader.kernel import compiled
from loader.kernel.compiled import kernel_state


def test_it_is_compiled_where_a_compiler_is() -> None:
    """The extension is optional to pip, so nobody else would say that its build failed."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if not any(map(shutil.which, (compiler, "gcc", "clang"))):
        pytest.skip("this machine has no C compiler")
    assert compiled.COMPILED, (
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
    if not compiled.COMPILED:
        pytest.skip("the kernel is not compiled here")
    monkeypatch.setenv("LOADER_KERNEL", "auto")
    assert lane(dsn, file) == "converted by the kernel"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"csv": {"comment": "#"}}, "it does not know the file's dialect"),
        (
            {
                "columns": {name: {"type": "timestamptz", "format": "%Y", "timezone": "Asia/Tokyo"} for name in "ab"},
                "rejects": {"max_ratio": 1},
            },
            'it does not know columns: "a", "b"',
        ),
    ],
)
def test_a_plan_says_why_not(
    dsn: str, file: Path, monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any], why: str
) -> None:
    if not compiled.COMPILED:
        pytest.skip("the kernel is not compiled here")
    monkeypatch.setenv("LOADER_KERNEL", "auto")
    assert lane(dsn, file, **spec) == f"converted without the kernel ({why})"


@pytest.mark.parametrize(
    ("columns", "transform", "told"),
    [
        ({"a": "text", "b": "text"}, {"filter": "a > '1'"}, "converted by the kernel"),
        ({"a": "text", "b": "text"}, {"filter": "a like '1%'"}, "converted by the kernel, with Arrow for the filter"),
        ({"a": "interval", "b": "text"}, {}, "sent to PostgreSQL as text"),
    ],
)
def test_a_plan_says_what_else_is_done(
    dsn: str, file: Path, monkeypatch: pytest.MonkeyPatch, columns: dict[str, str], transform: dict[str, str], told: str
) -> None:
    if not compiled.COMPILED:
        pytest.skip("the kernel is not compiled here")
    monkeypatch.setenv("LOADER_KERNEL", "auto")
    assert lane(dsn, file, columns=columns, transform=transform) == told


def test_a_plan_says_that_it_is_switched_off(dsn: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "COMPILED", True)
    monkeypatch.setenv("LOADER_KERNEL", "off")
    assert lane(dsn, file) == "converted without the kernel (compiled, switched off by LOADER_KERNEL)"


def test_a_plan_says_that_it_is_not_compiled(dsn: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "COMPILED", False)
    monkeypatch.setattr(compiled, "_compiled", None)
    monkeypatch.setenv("LOADER_KERNEL", "auto")
    assert lane(dsn, file) == "converted without the kernel (not compiled)"


def built(folder: Path, compiler: str, *flags: str) -> Path:
    """tests/fuzz_kernel.c as a program."""
    if shutil.which(compiler) is None:
        pytest.skip(f"this machine has no {compiler}")
    program = folder / "fuzz_kernel"
    options = ("-std=c11", "-g", "-Wall", "-Wextra", "-Werror", "-DSTANDALONE", *flags)
    subprocess.run([compiler, *options, *SOURCES, "-o", program], check=True)
    return program


ROUNDS = effort("10000", "1000000")


def test_nothing_is_read_or_written_out_of_bounds(tmp_path: Path) -> None:
    """Under the sanitizers, with vectors and in plain C: inputs that once found something, and others at random, of
    which both make the same bytes. `make sanitize` looks further."""
    made = set()
    for flags in ([], ["-DLOADER_PLAIN_C"]):
        program = built(tmp_path, "gcc", "-O1", SANITIZERS, "-fno-sanitize-recover=all", *flags)
        for arguments in ([*FOUND.iterdir()], [ROUNDS, "1"]):
            done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        made.add(done.stdout)
    assert len(made) == 1


@pytest.mark.skipif(not LONG, reason="make test-long, or make kernel-arm64")
def test_arm64_makes_the_same_bytes(tmp_path: Path) -> None:
    """By NEON, where a cross compiler and qemu are."""
    if shutil.which("qemu-aarch64-static") is None:
        pytest.skip("this machine has no qemu for arm64")
    made = subprocess.check_output([built(tmp_path, "gcc", "-O2"), ROUNDS, "1"])
    other = built(tmp_path, "aarch64-linux-gnu-gcc", "-O2", "-static")
    assert subprocess.check_output(["qemu-aarch64-static", other, ROUNDS, "1"]) == made
