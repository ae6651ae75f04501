"""``loader.handler.handler``, the Lambda entry point, by the name that deployments know it by."""

from loader.aws.handler import handler

__all__ = ["handler"]
