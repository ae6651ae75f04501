"""The Lambda handler, with parts, blocks and segments of some kilobytes: small files have many of each.

``$BLOCKS``: an invocation has time for so many, however long they take.
"""

import os
from typing import Any

from loader.aws.handler import handler as _handler
from loader.records.reading import reader
from support.clock import Invocation, by_blocks
from support.victim import make_small

__all__ = ["handler"]

make_small()
reader.HEAD = reader.SAMPLE = 64 << 10


def handler(event: Any, context: Any) -> Any:
    """`loader.handler.handler`."""
    if "BLOCKS" not in os.environ:
        return _handler(event, context)
    with by_blocks() as clock:
        return _handler(event, Invocation(int(os.environ["BLOCKS"]) * 10.0, clock))
