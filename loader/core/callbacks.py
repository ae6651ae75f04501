"""Calls what the caller of a load handed in, so that no layer takes its errors for the load's own.

A callback may raise anything: a `psycopg2.Error` that looks like a refusal of the table, or a `PausedError` that looks
like the deadline. Inside the load it travels as `CallbackError`, which ends the attempt and is entered in the ledger;
`passing_on` gives the caller the callback's own error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class CallbackError(Exception):
    """``error``: what a callback raised. It says nothing about the file, so the load may be continued."""

    retryable = True

    def __init__(self, name: str, error: Exception) -> None:
        super().__init__(f"the {name} callback raised {type(error).__name__}: {error}")
        self.error = error


def call(name: str, callback: Callable[..., object], *arguments: Any) -> None:
    """Call ``callback``, which messages call ``name``. Raises CallbackError for any Exception that it raises."""
    try:
        callback(*arguments)
    except Exception as error:
        raise CallbackError(name, error) from error


def passing_on(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, which raises a callback's own error, with its own traceback, where it would raise CallbackError."""

    @wraps(function)
    def called(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return function(*arguments, **options)
        except CallbackError as carrier:
            error = carrier.error
        raise error

    return called
