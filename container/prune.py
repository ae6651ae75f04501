"""Take out of an installed environment what the loader never runs, and say what that saves.

    python prune.py ENVIRONMENT

Each pattern has its reason. One that matches nothing is an error: its package has changed, and somebody has to look at
it again. What is left is imported by smoke.py, in the same build.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

UNUSED: dict[str, str] = {
    # pyarrow: the loader uses arrays, compute, CSV and nothing that talks to a network. Parquet, datasets and Substrait
    # stay: pyarrow's core is linked to them.
    "pyarrow/libarrow_flight.so*": "Flight, Arrow's RPC",
    "pyarrow/libarrow_python_flight.so*": "Flight",
    "pyarrow/_flight*": "Flight",
    "pyarrow/libarrow_s3.so*": "Arrow's own S3 client; the loader reads with botocore",
    "pyarrow/_s3fs*": "Arrow's own S3 client",
    "pyarrow/_gcsfs*": "Google's storage",
    "pyarrow/_azurefs*": "Azure's storage",
    "pyarrow/_hdfs*": "Hadoop's storage",
    "pyarrow/include": "C++ headers",
    "pyarrow/includes": "Cython declarations",
    "pyarrow/src": "C++ sources",
    "pyarrow/tests": "tests",
    "pyarrow/**/*.pyx": "Cython sources",
    "pyarrow/**/*.pxi": "Cython sources",
    "pyarrow/**/*.pxd": "Cython declarations",
    # numpy and pandas: their tests are installed with them
    "numpy/**/tests": "tests",
    "numpy/f2py": "the Fortran compiler's front end",
    "numpy/_core/include": "C headers",
    "numpy/_core/lib": "libraries to link extensions with",
    "numpy/random/lib": "libraries to link extensions with",
    "numpy/**/*.pxd": "Cython declarations",
    "pandas/tests": "tests",
    # powertools: metrics alone are used
    "aws_lambda_powertools/event_handler": "web APIs",
    # boto3's object interface: the loader uses clients
    "boto3/data": "descriptions of resources",
    "boto3/examples": "examples",
    # awscrt: its checksums are used, nothing that talks to a network. Without awscrt.auth botocore does not import it
    # at each start, which takes 0.14 s; the loader imports the checksums alone, where an object needs them
    "awscrt/aio": "asyncio's clients",
    "awscrt/auth.py": "signatures; botocore has its own",
    "awscrt/crypto.py": "keys",
    "awscrt/eventstream": "event streams",
    "awscrt/http.py": "an HTTP client",
    "awscrt/io.py": "event loops",
    "awscrt/mqtt*.py": "MQTT",
    "awscrt/s3.py": "an S3 client of its own",
    "awscrt/websocket.py": "web sockets",
    "**/*.pyi": "type stubs",
}

SERVICES = {"lambda", "s3", "secretsmanager", "sqs", "sso", "sso-oidc", "sts"}
"""What is kept of botocore's descriptions of services. sso and sso-oidc: its chain of credentials loads them."""


def main(environment: Path) -> int:
    (site,) = environment.glob("lib/python*/site-packages")
    before = size(site)
    unmatched = []
    for pattern in UNUSED:
        found = [path for path in site.glob(pattern) if path.exists()]
        if not found:
            unmatched.append(pattern)
        for path in found:
            remove(path)
    for path in (site / "botocore" / "data").iterdir():
        if path.is_dir() and path.name not in SERVICES:
            remove(path)
    for path in site.rglob("*.so*"):
        link_copies(path)
    print(f"{before / 1e6:,.0f} MB installed, {size(site) / 1e6:,.0f} MB left")
    for pattern in unmatched:
        print(f"prune.py: nothing is named {pattern}", file=sys.stderr)
    return 1 if unmatched else 0


def link_copies(path: Path) -> None:
    """A wheel cannot hold links, so it has a library once for each of its names; the one that others link to stays."""
    if path.is_symlink() or not path.name.endswith(".so"):
        return
    copies = [each for each in path.parent.glob(f"{path.name}.*") if each.stat().st_size == path.stat().st_size]
    if not copies:
        return
    kept = min(copies, key=lambda each: len(each.name))
    for each in {path, *copies} - {kept}:
        if each.read_bytes() == kept.read_bytes():
            each.unlink()
            each.symlink_to(kept.name)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def size(folder: Path) -> int:
    """Bytes of the files in it, as ``du --apparent-size`` counts them."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
