"""What a start costs: the CPU and memory of an import, in a process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any

ROUNDS = 5

IMPORTS = ("loader.handler", "loader.cli")

_MEASURED = """
import json, sys
import {module}
import resource
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
usage = resource.getrusage(resource.RUSAGE_SELF)
told = dict(cpu=usage.ru_utime + usage.ru_stime, peak=peak / 1024, pyarrow="pyarrow" in sys.modules)
print(json.dumps(told))
"""


def start_costs() -> dict[str, dict[str, Any]]:
    """By module: ``cpu`` (seconds) and ``peak`` (MB) of a process that imports it, a bare interpreter's ``bare_cpu``,
    and whether ``pyarrow`` is imported. Medians of five."""
    bare = _median([_imported("sys") for _ in range(ROUNDS)])
    return {
        module: {**_median([_imported(module) for _ in range(ROUNDS)]), "bare_cpu": bare["cpu"]} for module in IMPORTS
    }


def _imported(module: str) -> dict[str, Any]:
    command = [sys.executable, "-c", _MEASURED.format(module=module)]
    told: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return told


def _median(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "cpu": statistics.median(each["cpu"] for each in found),
        "peak": statistics.median(each["peak"] for each in found),
        "pyarrow": found[0]["pyarrow"],
    }
