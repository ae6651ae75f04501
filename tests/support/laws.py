"""What the laws of `tests/fuzz_laws.py` share: a database of a law's own on each server."""

from __future__ import annotations

import functools
import random
import uuid
from collections.abc import Callable

from support.postgres import of_database, run_alone

Law = Callable[[random.Random, str], int]
"""One round of a law: ``check(dice, server)``, where ``server`` is the DSN of a server's database ``postgres``. Gives
the number of values that were compared; raises `BrokenLawError`, or what the loader raises, where the law is broken.

A law's round takes about a second, makes all its choices by ``dice``, and keeps what it needs on a server (`database`)
for its next round there."""


class BrokenLawError(AssertionError):
    """A law that does not hold, with the values by which that is seen."""


@functools.cache
def database(server: str, law: str, encoding: str = "UTF8") -> str:
    """The DSN of a database of that ``law``'s own on a server, made when it is first asked for."""
    name = f"{law}_{encoding.lower()}_{uuid.uuid4().hex[:8]}"
    options = f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' STRATEGY file_copy"
    run_alone(server, f"CREATE DATABASE {name} TEMPLATE template0 {options}")
    return of_database(server, name)
