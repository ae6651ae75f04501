"""The function's handler, with pauses of a second or so between the deliveries of a message that fails."""

from __future__ import annotations

from typing import Any
from unittest import mock

from loader.aws.handler import handler as _handler


def handler(event: Any, context: Any) -> Any:
    """`loader.handler.handler`; what is changed for it is changed for its own time, whatever process it runs in."""
    with mock.patch("loader.aws.redelivery.LONGEST_LASTING", 1.5):
        return _handler(event, context)
