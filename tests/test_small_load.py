"""A small object in one transaction of one session: what it costs, where it dies, and what a warm session must not
believe any more. That it leaves what the way of large objects leaves is the law of `test_small_law`."""

from __future__ import annotations

import gzip
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from bench.small.proxy import proxied
from psycopg2.extensions import make_dsn
from support.both_ways import Taken, load_each, make, watching, way
from support.lost_commit import Loses, losing_commit
from support.postgres import query, run_alone

import loader
from loader import kept_staging, small_load
from loader.database import Database
from loader.pipeline import How, load_one
from loader.report import LoadReport

_numbers = itertools.count()


class Warm:
    """One `Database` whose session stays, and files for it. ``taken``: see `Taken`."""

    def __init__(self, dsn: str, folder: Path, taken: Taken) -> None:
        self.dsn, self.taken, self._folder = dsn, taken, folder
        self.database = Database(dsn)

    def file(self, text: str | bytes, name: str | None = None) -> Path:
        path = self._folder / (name or f"{next(_numbers)}.csv")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def load(self, text: str | bytes, *, small: bool | None = True, how: How | None = None, **spec: Any) -> LoadReport:
        """Load a file of that text. ``small``: whether that must go the way of small objects; None: either."""
        report = self.load_file(self.file(text), how=how, **spec)
        assert small is None or self.taken.each[-1] is small
        return report

    def load_file(self, path: Path, how: How | None = None, **spec: Any) -> LoadReport:
        parsed = loader.LoadSpec.from_dict({"table": "t", "mode": "merge", "rejects": {"max_ratio": 1}, **spec})
        return load_one(str(path), parsed, self.database, how or How())

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return query(self.dsn, statement, *parameters)

    @property
    def kept(self) -> dict[str, Any]:
        """What its one idle session keeps."""
        (session,) = self.database._kept
        return session.kept

    def table(self, name: str = "t") -> list[str]:
        return [text for (text,) in self.query(f"SELECT x::text FROM {name} x ORDER BY 1")]


@pytest.fixture
def warm(dsn: str, tmp_path: Path) -> Iterator[Warm]:
    with watching() as taken:
        warm = Warm(dsn, tmp_path, taken)
        yield warm
        warm.database.close()


# --- what it costs


@pytest.mark.parametrize("mode", ["merge", "append", "replace"])
def test_a_warm_load_costs_few_statements(warm: Warm, mode: str) -> None:
    warm.query("CREATE TABLE t (a bigint PRIMARY KEY, b text, n numeric(10,2), at timestamptz)")
    with proxied(warm.dsn) as proxy:
        warm.database = Database(proxy.dsn)
        for number in range(3):
            warm.load(f"a,b,n,at\n{number},x,1.5,2024-05-06 07:08:09+02\n", mode=mode)
        before = proxy.counts
        warm.load("a,b,n,at\n7,x,1.5,2024-05-06 07:08:09+02\n", mode=mode)
        cost = proxy.counts - before
        warm.database.close()
    assert cost.sessions == 0
    assert cost.commits <= 2
    assert cost.statements <= 20
    assert cost.round_trips <= 24


def test_a_cold_load_takes_one_session(warm: Warm) -> None:
    warm.query("CREATE TABLE t (a bigint PRIMARY KEY, b text)")
    with proxied(warm.dsn) as proxy:
        warm.database = Database(proxy.dsn)
        warm.load("a,b\n1,x\n")
        assert proxy.counts.sessions == 1
        warm.database.close()


# --- what a warm session must not believe any more

STALE: dict[str, tuple[str, str, str]] = {
    "a column more": ("a,b\n1,x\n", "ALTER TABLE {s}.t ADD c int DEFAULT 7", "a,b,c\n2,x,\n3,y,8\n"),
    "a column less": ("a,b,c\n1,x,1\n", "ALTER TABLE {s}.t DROP c", "a,b\n2,x\n"),
    "another type": ("a,b\n1,x\n", "ALTER TABLE {s}.t ALTER b TYPE varchar(2)", "a,b\n2,x\n3,long\n"),
    "no key": ("a,b\n1,x\n", "ALTER TABLE {s}.t DROP CONSTRAINT t_pkey", "a,b\n2,x\n"),
    "another key": (
        "a,b\n1,x\n",
        "ALTER TABLE {s}.t DROP CONSTRAINT t_pkey; ALTER TABLE {s}.t ADD PRIMARY KEY (b)",
        "a,b\n2,x\n",
    ),
    "not null": ("a,b\n1,x\n", "ALTER TABLE {s}.t ALTER b SET NOT NULL", "a,b\n2,x\n3,\n"),
    "made again": ("a,b\n1,x\n", "DROP TABLE {s}.t; CREATE TABLE {s}.t (a int PRIMARY KEY, b text)", "a,b\n2,x\n"),
    "a trigger": (
        "a,b\n1,x\n",
        "CREATE FUNCTION {s}.f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;"
        "CREATE TRIGGER g BEFORE INSERT ON {s}.t FOR EACH ROW EXECUTE FUNCTION {s}.f()",
        "a,b\n2,x\n1,y\n",
    ),
    "a rule": (
        "a,b\n1,x\n",
        "CREATE RULE r AS ON UPDATE TO {s}.t DO INSTEAD NOTHING",
        "a,b\n2,x\n1,y\n",
    ),
    "a view": ("a,b\n1,x\n", "ALTER TABLE {s}.t RENAME TO u; CREATE VIEW {s}.t AS SELECT * FROM {s}.u", "a,b\n2,x\n"),
    "a label more": ("a,m\n1,p\n", "ALTER TYPE {s}.mood ADD VALUE 'q'", "a,m\n2,q\n"),
    "a label with another name": ("a,m\n1,p\n", "ALTER TYPE {s}.mood RENAME VALUE 'p' TO 'q'", "a,m\n2,q\n3,p\n"),
    "a stricter domain": (
        "a,d\n1,1\n",
        "ALTER DOMAIN {s}.dom ADD CHECK (VALUE < 5)",
        "a,d\n2,4\n3,6\n",
    ),
    "a laxer domain": ("a,d\n1,1\n2,-1\n", "ALTER DOMAIN {s}.dom DROP CONSTRAINT dom_check", "a,d\n3,-4\n"),
    "a domain of another type": (
        "a,d\n1,1\n",
        "DROP DOMAIN {s}.dom CASCADE; CREATE DOMAIN {s}.dom AS real; ALTER TABLE {s}.t ADD d {s}.dom",
        "a,d\n2,4\n",
    ),
    "an enum that became a domain": (
        "a,m\n1,p\n",
        "DROP TYPE {s}.mood CASCADE; CREATE DOMAIN {s}.mood AS bytea; ALTER TABLE {s}.t ADD m {s}.mood",
        "a,m\n2,p\n3,\\\\x70\n",
    ),
}


@pytest.fixture
def databases(dsn: str) -> Iterator[dict[str, Database]]:
    databases = {name: Database(dsn) for name in ("small", "large")}
    yield databases
    for each in databases.values():
        each.close()


@pytest.mark.parametrize("mode", ["merge", "append"])
def test_a_warm_session_sees_what_has_changed(
    dsn: str, databases: dict[str, Database], tmp_path: Path, mode: str
) -> None:
    wrong = {}
    for what, (before, change, after) in STALE.items():
        names = before.partition("\n")[0].split(",")[1:]
        types = {"b": "text", "c": "int", "m": "{s}.mood", "d": "{s}.dom"}
        columns = "".join(f", {name} {types[name]}" for name in names)
        make(
            dsn,
            "CREATE TYPE {s}.mood AS ENUM ('p')",
            "CREATE DOMAIN {s}.dom AS int CHECK (VALUE > 0)",
            f"CREATE TABLE {{s}}.t (a int PRIMARY KEY{columns})",
        )
        spec = {"mode": mode, "key": ["a"] if mode == "merge" else [], "rejects": {"max_ratio": 1}}
        for number, text in enumerate([before, before.replace("\n1,", "\n9,").replace(",x", ",z"), after]):
            if number == 2:
                query(dsn, "; ".join(change.replace("{s}", name) for name in databases))
            path = tmp_path / f"{what} {number}.csv"
            path.write_text(f"{what} {mode} {number}\n{text}")
            left = load_each(databases, path, {**spec, "csv": {"skip_lines": 1}}, dsn)
            if left["small"] != left["large"]:
                wrong[what] = left
    assert not wrong
