"""Build the wheel and the sdist into dist/, and try both in clean environments: ``python tests/wheel.py``.

The wheel is made from the sdist, so the sdist is complete. It is installed where no compiler works, brings the kernel
along, and loads a file into an embedded PostgreSQL with it. The sdist is installed there too: without the kernel it
loads the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
WITHOUT_COMPILER = {"CC": "/bin/false", "CXX": "/bin/false"}
QUIETLY = ("--quiet", "--disable-pip-version-check")

PROGRAM = """
import sys
import loader
from loader.kernel.compiled import kernel_state
from loader.embedded_postgres import start
assert "/site-packages/" in loader.__file__, loader.__file__
spec = {"table": sys.argv[2], "columns": {"id": "int", "name": "text"}}
report = loader.load(sys.argv[1], spec, dsn=start())
print(f"  kernel {kernel_state()}: {report.rows_inserted} rows inserted, {report.plan}")
assert (report.rows_read, report.rows_inserted, report.rows_rejected) == (1001, 1000, 1)
"""


def run(*command: str | Path, **environment: str) -> str:
    """What it prints. Ends the program with what it says where it fails."""
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env={**os.environ, **environment}, cwd="/", check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def environment_at(folder: Path) -> Path:
    """A new environment's ``python``."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def build(target: Path, work: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that is made of it."""
    python = environment_at(work / "build")
    run(python, "-m", "pip", "install", *QUIETLY, "build>=1.2")
    run(python, "-m", "build", "--outdir", target, ROOT)
    return newest(target, "*.tar.gz"), newest(target, "*.whl")


def newest(folder: Path, pattern: str) -> Path:
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns)


def check_contents(sdist: Path, wheel: Path) -> None:
    """The C is in the sdist, the compiled kernel in the wheel, and neither has the other."""
    with tarfile.open(sdist) as archive:
        kernel = {Path(name).suffix for name in archive.getnames() if "/loader/kernel/" in name}
    assert {".c", ".h", ".py"} <= kernel, kernel
    assert ".so" not in kernel, kernel
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("loader/kernel/_express.") for name in names), f"{wheel.name} has no compiled kernel"
    assert not [name for name in names if name.endswith((".c", ".h"))], names
    for needed in ("loader/py.typed", "loader/ledger/schema/1.sql", "loader/core/spec/filter.lark"):
        assert needed in names, needed


def load(python: Path, folder: Path, name: str, **environment: str) -> None:
    """A file with one bad record, by the package as it is installed, into an embedded PostgreSQL."""
    file = folder / "some.csv"
    file.write_text("id,name\n" + "".join(f"{number},name {number}\n" for number in range(1000)) + "x,y\n")
    print(run(python, "-c", PROGRAM, file, name, LOADER_DATA_DIR=str(folder / "data"), **environment), end="")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, nargs="?", default=ROOT / "dist")
    target = parser.parse_args().target.resolve()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        work.chmod(0o755)  # the server's own user has to get to its data
        sdist, wheel = build(target, work)
        check_contents(sdist, wheel)
        print(f"{wheel.name}: {wheel.stat().st_size:,} bytes", flush=True)
        python = environment_at(work / "wheel")
        run(python, "-m", "pip", "install", *QUIETLY, f"{wheel}[local]", **WITHOUT_COMPILER)
        print("  " + run(python, "-m", "loader", "--version"), end="")
        try:
            load(python, work, "by_wheel", LOADER_KERNEL="on")
            print(f"{sdist.name}, where no compiler works", flush=True)
            run(python, "-m", "pip", "uninstall", *QUIETLY, "--yes", "csv-postgres-loader")
            run(python, "-m", "pip", "install", *QUIETLY, "--no-deps", sdist, **WITHOUT_COMPILER)
            told = run(python, "-m", "loader", "--version")
            print("  " + told, end="")
            assert "kernel not compiled" in told
            load(python, work, "by_sdist")
        finally:
            run(python, "-m", "loader", "local", "stop", LOADER_DATA_DIR=str(work / "data"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
