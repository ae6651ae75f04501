"""The Lambda handler, with parts, blocks and segments of some kilobytes: small files have many of each."""

from loader import reading
from loader.handler import handler
from support.victim import make_small

__all__ = ["handler"]

make_small()
reading.HEAD = reading.SAMPLE = 64 << 10
