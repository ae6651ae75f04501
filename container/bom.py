"""Add the system under the environment to its bill of materials (CycloneDX): Debian's packages, and CPython.

python bom.py PYTHON.json ALL.json
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

FIELDS = "${Package}\t${Version}\t${Architecture}\n"


def main(given: Path, written: Path) -> None:
    bom = json.loads(given.read_text("utf-8"))
    bom["components"] += [python(), *debian()]
    written.write_text(json.dumps(bom, indent=1, sort_keys=True), "utf-8")
    print(f"{len(bom['components'])} components")


def python() -> dict[str, Any]:
    version = platform.python_version()
    return component("python", version, f"pkg:generic/python@{version}", "platform")


def debian() -> list[dict[str, Any]]:
    """(Package URLs' specification, type deb.)"""
    command = ["dpkg-query", "--show", f"--showformat={FIELDS}"]
    told = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - the base image's own
    found = []
    for line in told.stdout.splitlines():
        name, version, architecture = line.split("\t")
        url = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}&distro=bookworm"
        found.append(component(name, version, url, "library"))
    return found


def component(name: str, version: str, url: str, kind: str) -> dict[str, Any]:
    return {"type": kind, "name": name, "version": version, "purl": url, "bom-ref": url}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
