"""What an operator does to a table while loads run: changes of its form, each in one transaction, that keep its
rows."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg2
from psycopg2 import sql

_KEYS = """
    SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = to_regclass(%s) AND contype IN ('p', 'u')"""

_DROP = "ALTER TABLE {table} DROP CONSTRAINT {key}"
_ADD = "ALTER TABLE {table} ADD CONSTRAINT {key} {definition}"

KEYLESS = "key dropped, and added again later"
SWAPPED = "table swapped for a copy"

CHANGES = {
    "key dropped and added again": f"{_DROP}; {_ADD}",
    KEYLESS: _DROP,
    SWAPPED: """
        LOCK TABLE {table};
        CREATE TABLE public.{copy} (LIKE {table} INCLUDING ALL);
        INSERT INTO public.{copy} SELECT * FROM {table};
        DROP TABLE {table};
        ALTER TABLE public.{copy} RENAME TO {name}""",
    "table renamed, and back": "ALTER TABLE {table} RENAME TO {copy}; ALTER TABLE public.{copy} RENAME TO {name}",
    "table moved, and back": """
        CREATE SCHEMA IF NOT EXISTS elsewhere;
        ALTER TABLE {table} SET SCHEMA elsewhere;
        ALTER TABLE elsewhere.{name} SET SCHEMA public""",
    "id made bigint": "ALTER TABLE {table} ALTER id TYPE bigint",
    "id made text": "ALTER TABLE {table} ALTER id TYPE text, ADD CHECK (id ~ '^[0-9]+$')",
    "v made varchar": "ALTER TABLE {table} ALTER v TYPE varchar(500)",
    "v made text": "ALTER TABLE {table} ALTER v TYPE text",
    "column added": "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS added integer DEFAULT 7",
}
"""SQL by what it does. Of a change whose key is added again later, loads run in between."""


@dataclass(frozen=True)
class Change:
    """``after``: seconds until it is tried; ``patience``: how long it waits for a lock, in milliseconds."""

    what: str
    after: float
    patience: int

    @classmethod
    def at_random(cls, rng: random.Random, without: Collection[str]) -> Change:
        """Any but those ``without``."""
        what = rng.choice([each for each in CHANGES if each not in without])
        return cls(what, rng.uniform(0, 0.4), rng.choice([20, 300, 2000]))


class Operator:
    """Makes changes to a table of schema public, one after the other, while the context's body runs.

    What cannot be done is left: the lock is not to be had in time, the server is down, the table is not there.
    ``struck`` counts what was done.
    """

    def __init__(self, dsn: str, table: str, changes: Sequence[Change], struck: Counter[str]) -> None:
        self._dsn = dsn
        self._table = table
        self._changes = changes
        self._struck = struck
        self._dropped: list[tuple[str, str]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="operator")

    def __enter__(self) -> Operator:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def add_again(self) -> None:
        """The key that was dropped, if one was. Raises psycopg2.Error: IntegrityError where rows forbid it."""
        while self._dropped:
            key, definition = self._dropped[-1]
            with self._transaction(0) as cursor:
                cursor.execute(self._statement(_ADD, key, definition))
            self._dropped.pop()

    def _work(self) -> None:
        for change in self._changes:
            if self._done.wait(change.after):
                return
            with suppress(psycopg2.Error):
                self._make(change)

    def _make(self, change: Change) -> None:
        with self._transaction(change.patience) as cursor:
            cursor.execute(_KEYS, (f"public.{self._table}",))
            keys = cursor.fetchall()
            if not keys and "{key}" in CHANGES[change.what]:
                return
            for key, definition in keys if "{key}" in CHANGES[change.what] else [("", "")]:
                cursor.execute(self._statement(CHANGES[change.what], key, definition))
        if CHANGES[change.what] is _DROP:
            self._dropped += keys
        self._struck[f"operator: {change.what}"] += 1

    def _statement(self, text: str, key: str, definition: str) -> sql.Composable:
        return sql.SQL(text).format(
            table=sql.Identifier("public", self._table),
            name=sql.Identifier(self._table),
            copy=sql.Identifier(f"{self._table}_copy"),
            key=sql.Identifier(key or "none"),
            definition=sql.SQL(definition),
        )

    @contextmanager
    def _transaction(self, patience: int) -> Iterator[psycopg2.extensions.cursor]:
        connection = psycopg2.connect(self._dsn)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, true)", (str(patience),))
                yield cursor
        finally:
            connection.close()
