"""The function's handler, with pauses of a second or so between the deliveries of a message that fails."""

from loader import redelivery
from loader.handler import handler

__all__ = ["handler"]

redelivery.LONGEST_LASTING = 1.5
