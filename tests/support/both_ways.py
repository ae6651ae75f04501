"""The same loads by the way of small objects and by that of large ones, and all that each of them leaves.

The two go into tables of the same name in schemas ``small`` and ``large``, which are made by the same statements.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import loader
from loader import pipeline
from loader.core.report import LoadReport
from loader.engine import small_load
from loader.pipeline import load_one
from loader.postgres.database import Database
from support.postgres import query

WAYS = ("small", "large")

OWN = ("load_id", "target", "plan", "started_at", "finished_at", "seen_at", "waited", "spec", "fingerprint", "applied")
"""Columns of the ledger that two loads have each for itself; the spec has the table's name in it."""


@contextmanager
def way(name: str) -> Iterator[None]:
    """Loads go the way of that name."""
    with mock.patch.dict(os.environ, {small_load.SETTING: {"small": "", "large": "0"}[name]}):
        yield


class Taken:
    """Which loads went the way of small objects to its end: True or False for each, as they came to that."""

    def __init__(self) -> None:
        self.each: list[bool] = []

    def __call__(self, task: Any) -> LoadReport | None:
        report = None
        try:
            report = small_load.load_small(task)
        finally:
            self.each.append(report is not None)
        return report


@contextmanager
def watching() -> Iterator[Taken]:
    """See which way each load takes; nothing is changed about it."""
    taken = Taken()
    with mock.patch.object(pipeline, "load_small", taken):
        yield taken


def make(dsn: str, *statements: str) -> None:
    """Both schemas anew, and in each what the statements make there; ``{s}`` stands for its name."""
    made = [f"DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}" for name in WAYS]
    made += [statement.replace("{s}", name) for name in WAYS for statement in statements]
    query(dsn, "; ".join(made))


def load_each(
    database: Database, path: Path, spec: Mapping[str, Any], dsn: str, *, columns: str = "t.*"
) -> dict[str, dict[str, Any]]:
    """Load the file by each way; gives all that it left, which is the same."""
    return {name: load_by(name, database, path, spec, dsn, columns) for name in WAYS}


def load_by(
    name: str, database: Database, path: Path, spec: Mapping[str, Any], dsn: str, columns: str
) -> dict[str, Any]:
    with way(name):
        try:
            told = load_one(str(path), loader.LoadSpec.from_dict({"table": f"{name}.t", **spec}), database)
            error = None
        except loader.LoaderError as caught:
            told, error = caught.report, f"{type(caught).__name__}: {caught}"
    return {"error": _plain(error, name), **left_by(dsn, name, told, columns)}


def left_by(dsn: str, name: str, report: LoadReport | None, columns: str) -> dict[str, Any]:
    """All that a load left: the table, its row in the ledger, its rejects, and the report."""
    load_id = report.load_id if report else None
    told = {} if report is None else report.to_dict()
    for each in ("load_id", "table", "plan", "seconds", "waited"):
        told.pop(each, None)
    return {
        "report": _plain(repr(told), name),
        "table": query(dsn, f"SELECT s::text FROM (SELECT {columns} FROM {name}.t t) s ORDER BY 1"),
        "ledger": _plain(repr(query(dsn, _LEDGER, list(OWN), load_id)), name),
        "rejects": _plain(repr(query(dsn, _REJECTS, load_id)), name),
        "running": query(dsn, "SELECT 1 FROM loader.loads WHERE state = 'running'"),
        "staging": query(
            dsn, "SELECT tablename FROM pg_tables WHERE schemaname = 'loader' AND tablename ~ '^(staging|touched)_'"
        ),
    }


_LEDGER = "SELECT to_jsonb(l) - %s::text[] FROM loader.loads l WHERE load_id = %s"

_REJECTS = """
    SELECT record_number, line_number, byte_offset, column_name, reason, message, raw, raw_length, sqlstate
      FROM loader.rejects WHERE load_id = %s ORDER BY 1"""


def _plain(text: str | None, name: str) -> str | None:
    """Without the names of schemas and ids of loads."""
    if text is None:
        return None
    text = text.replace(f"{name}.", "s.").replace(f"'{name}'", "'s'").replace(f'"{name}"', '"s"')
    return re.sub(r"(load|rejects|replay) \d+", r"\1 N", text)


def records(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    return "".join(",".join(row) + "\n" for row in [header, *rows])
