"""The kernel under the sanitizers: ``python tests/sanitize.py SECONDS``.

tests/fuzz_kernel.c is built with AddressSanitizer and UndefinedBehaviorSanitizer, once with the processor's own vectors
and once in plain C (LOADER_PLAIN_C), and fed inputs made at random; where clang has libFuzzer, inputs are also made by
coverage. The time is shared out among what can be built. The exit code is that of the first that finds something; its
input or seed is printed.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = [
    ROOT / "tests/fuzz_kernel.c",
    *(ROOT / "loader/kernel" / f"{name}.c" for name in ("express", "scan", "text")),
]
FOUND = ROOT / "tests/data/kernel"
"""Inputs that once found something."""

ROUNDS = 50_000
"""Inputs between two looks at the clock."""


@dataclass(frozen=True)
class Build:
    """One way to build the harness, and how it is run for so many seconds: gives the exit code and what it says."""

    name: str
    compiler: str
    flags: tuple[str, ...]
    run: Callable[[Path, float], int]

    def make(self, folder: Path) -> Path | None:
        """The program; None where this machine cannot build it."""
        if shutil.which(self.compiler) is None:
            return None
        made = folder / self.name.replace(" ", "-")
        options = ["-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-fno-sanitize-recover=all", *self.flags]
        command = [self.compiler, *options, *map(str, SOURCES), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and "fuzzer" in done.stderr:  # clang without its runtime libraries
            return None
        if done.returncode:
            sys.exit(f"{self.name}: {done.stderr}")
        return made


def at_random(program: Path, seconds: float) -> int:
    if code := subprocess.run([program, *FOUND.iterdir()], check=False).returncode:
        return code
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        seed = random.SystemRandom().randrange(2**31)
        if code := subprocess.run([program, str(ROUNDS), str(seed)], stdout=subprocess.DEVNULL, check=False).returncode:
            print(f"seed {seed}")
            return code
        count += ROUNDS
    print(f"  {count:,} inputs, nothing out of bounds and nothing undefined")
    return 0


def by_coverage(program: Path, seconds: float) -> int:
    """The input that finds something is left in the working directory: it belongs to those in `FOUND`."""
    with tempfile.TemporaryDirectory() as corpus:
        options = [f"-max_total_time={max(1, int(seconds))}", "-max_len=2048", "-print_final_stats=1", "-verbosity=0"]
        done = subprocess.run([program, *options, corpus, FOUND], capture_output=True, text=True, check=False)
        inputs = [line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line]
        if done.returncode:
            print(done.stderr)
            return done.returncode
        new = len(list(Path(corpus).iterdir()))
        print(f"  {int(inputs[0]):,} inputs, {new:,} of which reached something new; nothing found")
    return 0


SANITIZERS = "-fsanitize=address,undefined"
BUILDS = (
    Build("vectors", "gcc", (SANITIZERS, "-DSTANDALONE"), at_random),
    Build("plain C", "gcc", (SANITIZERS, "-DSTANDALONE", "-DLOADER_PLAIN_C"), at_random),
    Build("vectors by coverage", "clang", ("-fsanitize=fuzzer,address,undefined",), by_coverage),
    Build("plain C by coverage", "clang", ("-fsanitize=fuzzer,address,undefined", "-DLOADER_PLAIN_C"), by_coverage),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float, nargs="?", default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        built = [(build, program) for build in BUILDS if (program := build.make(Path(folder))) is not None]
        if not built:
            sys.exit("neither gcc nor clang is here")
        for build, program in built:
            print(f"{build.name}, {build.compiler}", flush=True)
            if code := build.run(program, options.seconds / len(built)):
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
