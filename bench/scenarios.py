"""What is measured: a table in some state, a file, and who puts the one into the other, side by side."""

from __future__ import annotations

import gzip
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.data import Data
from bench.objects import BUCKET
from bench.peers import INTERPRETER, PEERS, Peer
from bench.rig import Server
from bench.shapes import SHAPES

LIMIT = 240.0
"""Seconds that one run may take."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where everything is: ``folder`` is served as the bucket. ``rows``: of the file."""

    server: Server
    folder: Path
    data: Data
    rows: int
    file: Path

    def spec(self, name: str, text: str) -> Path:
        path = self.folder / f"{name}.toml"
        path.write_text(f"{text}{self.data.settings}", "utf-8")
        return path

    def few(self, rows: int) -> Path:
        """A file of fewer rows, for those that take too long for more."""
        path = self.folder / "few" / self.data.name / str(rows)
        path.mkdir(parents=True, exist_ok=True)
        made = list(path.glob("**/*.csv"))
        return made[0] if made else self.data.make(path, rows)


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who loads ``rows`` rows of the file into ``table`` by a command. ``checked``: whether the table must be,
    row for row, what psql makes of the file. ``environment``: variables beside those that point to the bucket."""

    name: str
    table: str
    rows: int
    command: Sequence[str]
    checked: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scenario:
    """``prepare`` makes a contender's table as it is before; ``contenders`` are those that run, the loader first.
    ``share``: of the rows that the suite was asked for, beside the file's own. ``pinned``: the server and the client
    have a core each. ``peers``: whether others than psql run. ``starts``: those whose start is measured as well, by a
    file of one record."""

    name: str
    what: str
    prepare: Callable[[Bench, str], None]
    contenders: Callable[[Bench], list[Contender]]
    data: tuple[str, ...] = ("lineitem",)
    share: float = 1.0
    pinned: bool = False
    peers: bool = False
    starts: Callable[[Bench], list[Contender]] | None = None

    def rows(self, data: Data, asked: int) -> int:
        """Of the file, where the suite was asked for so many."""
        return max(int(asked * self.share * data.share), 1)


LOADER, WITHOUT_KERNEL = "loader", "loader, without kernel"


def loader(bench: Bench, name: str, *options: str, file: Path | None = None, checked: bool = True) -> Contender:
    """``loader load`` as a user would run it, from S3."""
    source = f"s3://{BUCKET}/{(file or bench.file).relative_to(bench.folder)}"
    spec = ["--spec", str(bench.spec("settings", ""))] if bench.data.settings and "--spec" not in options else []
    command = [sys.executable, "-m", "loader", "load", source, "--dsn", bench.server.dsn, "--table", name, "--force"]
    return Contender(LOADER, name, bench.rows, [*command, *spec, *options], checked)


def without_kernel(bench: Bench) -> Contender:
    """The same command on the Arrow lane."""
    return replace(loader(bench, "by_arrow"), name=WITHOUT_KERNEL, environment={"LOADER_KERNEL": "off"})


def _psql(bench: Bench, *statements: str) -> list[str]:
    options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", bench.server.dsn]
    return [bench.server.psql, *options, *(f"--command={each}" for each in statements)]


def copy(bench: Bench, table: str = "by_psql") -> Contender:
    statement = rf"\copy {table} from '{bench.file}' (format csv, header)"
    return Contender(r"psql \copy", table, bench.rows, _psql(bench, statement))


def upsert(bench: Bench, table: str = "by_upsert") -> Contender:
    r"""The customary way: ``\copy`` into a temporary table, then ``INSERT … ON CONFLICT DO UPDATE``."""
    key = ", ".join(bench.data.key)
    changes = ", ".join(f"{name} = excluded.{name}" for name in bench.data.columns if name not in bench.data.key)
    command = _psql(
        bench,
        "SET temp_buffers = '64MB'",
        f"CREATE TEMPORARY TABLE incoming (LIKE {table})",
        rf"\copy incoming from '{bench.file}' (format csv, header)",
        "ANALYZE incoming",
        f"INSERT INTO {table} SELECT * FROM incoming ON CONFLICT ({key}) DO UPDATE SET {changes}",
    )
    return Contender(r"psql \copy, ON CONFLICT", table, bench.rows, command)


def ceiling(bench: Bench, table: str = "by_binary") -> Contender:
    r"""Ready-made binary COPY: what one backend can take at most. The file is made by the server itself."""
    made = bench.folder / f"{bench.file.stem}.ready.bin"
    if not made.exists():
        server = bench.server
        server.execute(
            "SET client_min_messages = warning", "DROP TABLE IF EXISTS model", bench.data.table("model", unlogged=True)
        )
        server.execute(rf"\copy model from '{bench.file}' (format csv, header)")
        server.execute(rf"\copy model to '{made}' (format binary)", "DROP TABLE model")
    return Contender(
        "binary COPY, ready-made", table, bench.rows, _psql(bench, rf"\copy {table} from '{made}' (format binary)")
    )


def peers(bench: Bench, names: Sequence[str]) -> list[Contender]:
    """Those of the names that are installed, and that on a user's own server stay in the benchmark's schema."""
    own = bench.server.own
    return [_peer(bench, each) for each in PEERS if each.name in names and each.unable(own=own) is None]


def _peer(bench: Bench, peer: Peer) -> Contender:
    rows = min(peer.rows or bench.rows, bench.rows)
    file = bench.file if rows == bench.rows else bench.few(rows)
    table = f"by_{peer.name.replace('-', '_')}"
    command = [INTERPRETER, "-m", "bench.peers", peer.name, str(file), bench.server.dsn, table]
    return Contender(peer.name, table, rows, command, checked=False)


# --- tables as they are before


def _empty(bench: Bench, table: str, *, unlogged: bool = False, keyed: bool = False) -> None:
    drop = f"DROP TABLE IF EXISTS {table}"
    bench.server.execute(
        "SET client_min_messages = warning", drop, bench.data.table(table, unlogged=unlogged, keyed=keyed)
    )


def _unlogged(bench: Bench, table: str) -> None:
    _empty(bench, table, unlogged=True)


def _keyed(bench: Bench, table: str) -> None:
    _empty(bench, table, keyed=True)


@dataclass(frozen=True, slots=True)
class _Filled:
    """A keyed table that holds the file's rows, with the ``change`` made in them that a statement says."""

    name: str
    change: str = ""

    def __call__(self, bench: Bench, table: str) -> None:
        server, key = bench.server, ", ".join(bench.data.key)
        column, value = bench.data.other
        filled = f"filled_{self.name}"
        if not server.ask(f"SELECT to_regclass('{filled}')"):
            server.execute(bench.data.table(filled, unlogged=True))
            server.execute(rf"\copy {filled} from '{bench.file}' (format csv, header)")
            if self.change:
                told = self.change.format(table=filled, key=bench.data.key[0], column=column, value=value)
                server.execute(told)
        _empty(bench, table)
        server.execute(
            f"INSERT INTO {table} SELECT * FROM {filled} ORDER BY {key}",
            f"ALTER TABLE {table} ADD PRIMARY KEY ({key})",
            f"VACUUM (ANALYZE) {table}",
        )


_SHIFT = "UPDATE {table} SET {key} = {key} + 8"  # lineitem has 8 of each 32 order keys (TPC-H specification, 4.2.3)
_HALF = "UPDATE {table} SET {key} = {key} + 8 WHERE {key} % 64 < 32"
_CHANGE = "UPDATE {table} SET {column} = {value}"


def _absent(bench: Bench, table: str) -> None:
    """No table for those who create it; an empty one for what copies into it."""
    if table == "by_binary":
        _empty(bench, table)
    else:
        bench.server.execute("SET client_min_messages = warning", f"DROP TABLE IF EXISTS {table}")


def _never_staged(bench: Bench, table: str) -> None:
    """An UNLOGGED table, and an empty ledger: a load that another began would be taken up."""
    _unlogged(bench, table)
    bench.server.forget_loads()


# --- who runs where


def _lanes(bench: Bench) -> list[Contender]:
    return [loader(bench, "by_loader"), without_kernel(bench)]


def _straight(*names: str) -> Callable[[Bench], list[Contender]]:
    def contenders(bench: Bench) -> list[Contender]:
        return [*_lanes(bench), copy(bench), ceiling(bench), *peers(bench, names)]

    return contenders


def _created(bench: Bench) -> list[Contender]:
    """The table is not there. psql creates it and copies into it in one transaction."""
    columns = "".join(f'{name} = "{kind}"\n' for name, kind in bench.data.columns.items())
    spec = str(bench.spec("created", f"[columns]\n{columns}"))
    statements = (
        "BEGIN",
        bench.data.table("by_psql"),
        rf"\copy by_psql from '{bench.file}' (format csv, header)",
        "COMMIT",
    )
    plain = Contender(r"psql CREATE TABLE, \copy", "by_psql", bench.rows, _psql(bench, *statements))
    return [loader(bench, "by_loader", "--spec", spec), plain, ceiling(bench)]


def _staged(bench: Bench) -> list[Contender]:
    """The loader by two streams, until all is staged and proved; its merge is not part of it."""
    source = f"s3://{BUCKET}/{bench.file.relative_to(bench.folder)}"
    command = [sys.executable, "-m", "bench.staged", source, bench.server.dsn, "by_loader", str(bench.rows)]
    return [Contender(LOADER, "by_loader", bench.rows, command, checked=False), copy(bench)]


def _both_lanes(bench: Bench) -> list[Contender]:
    return [*_lanes(bench), copy(bench)]


def _merge(bench: Bench) -> list[Contender]:
    return [loader(bench, "by_loader", "--mode", "merge"), upsert(bench)]


def _replace(bench: Bench) -> list[Contender]:
    column = bench.data.key
    delete = _psql(
        bench,
        "BEGIN",
        "DELETE FROM by_psql",
        rf"\copy by_psql from '{bench.file}' (format csv, header)",
        "COMMIT",
    )
    mine = loader(bench, "by_loader", "--mode", "replace", "--key", ",".join(column))
    return [mine, Contender(r"psql DELETE, \copy", "by_psql", bench.rows, delete)]


def _gzip(bench: Bench) -> list[Contender]:
    packed = bench.folder / f"{bench.file.stem}.csv.gz"
    if not packed.exists():
        with bench.file.open("rb") as plain, gzip.open(packed, "wb", compresslevel=6) as file:
            shutil.copyfileobj(plain, file, 1 << 20)
    piped = rf"\copy by_psql from program 'gzip -dc {packed}' (format csv, header)"
    return [
        loader(bench, "by_loader", file=packed),
        Contender(r"gzip -dc, psql \copy", "by_psql", bench.rows, _psql(bench, piped)),
    ]


_TRANSFORMED = """
[columns]
l_orderkey = "bigint"
l_partkey = "bigint"
l_suppkey = "bigint"
l_linenumber = "integer"
l_quantity = { type = "numeric(15,2)", transform = ["strip"] }
l_extendedprice = { type = "numeric(15,2)", transform = ["strip", "strip_currency"] }
l_discount = "numeric(15,2)"
l_tax = "numeric(15,2)"
l_returnflag = { type = "char(1)", transform = ["upper"] }
l_linestatus = { type = "char(1)", transform = ["lower"] }
l_shipdate = { type = "date", format = "%Y-%m-%d" }
l_commitdate = { type = "date", format = "%Y-%m-%d" }
l_receiptdate = { type = "date", format = "%Y-%m-%d" }
l_shipinstruct = { type = "char(25)", transform = ["strip", "lower"] }
l_shipmode = { type = "char(10)", transform = ["lower"], default = "none" }
l_comment = { type = "varchar(44)", transform = ["strip", "upper"] }
[transform]
filter = "l_quantity > 1"
"""


def _transformed(bench: Bench) -> list[Contender]:
    r"""psql does not transform; its plain ``\copy`` is what it is held against."""
    spec = str(bench.spec("transformed", _TRANSFORMED))
    return [loader(bench, "by_loader", "--spec", spec, checked=False), copy(bench)]


def _rejects(bench: Bench) -> list[Contender]:
    r"""One record in ten thousand is bad. psql would give up at the first, so it gets the file without them."""
    bad = bench.folder / f"{bench.file.stem}.rejects.csv"
    if not bad.exists():
        with bench.file.open(encoding="utf-8") as good, bad.open("w", encoding="utf-8") as file:
            for number, line in enumerate(good):
                file.write(line)
                if number % 10_000 == 1:
                    file.write(f"bad{line}")
    spec = str(bench.spec("rejects", "[rejects]\nmax_rows = 100000\n"))
    return [loader(bench, "by_loader", "--spec", spec, file=bad), copy(bench)]


def _ragged(bench: Bench) -> list[Contender]:
    return [loader(bench, "by_loader", checked=False)]


def _straight_only(bench: Bench) -> list[Contender]:
    return [loader(bench, "by_loader"), copy(bench)]


LARGE = 3.0
"""What "large" means: 6 million rows where the suite is asked for its two."""

SCENARIOS = {
    each.name: each
    for each in (
        Scenario(
            "staging",
            "into an UNLOGGED table, typed and checked",
            _unlogged,
            _straight("adbc", "polars", "pgloader", "dlt", "pandas", "pandas-multi", "awswrangler"),
            peers=True,
            starts=_lanes,
        ),
        Scenario("append", "into an ordinary table", _empty, _straight(), starts=_lanes),
        Scenario("append-large", "three times as many rows", _empty, _straight(), share=LARGE, starts=_lanes),
        Scenario("created", "into a table that the load creates", _absent, _created),
        Scenario("created-large", "the same, three times as many rows", _absent, _created, share=LARGE),
        Scenario(
            "append-pinned",
            "into an ordinary table, a core each for server and client",
            _empty,
            _straight(),
            pinned=True,
        ),
        Scenario("two-streams", "staged by two streams, until the merge would begin", _never_staged, _staged),
        Scenario("wide", "39 columns of text", _empty, _both_lanes, ("wide",), 0.1),
        Scenario("wide-large", "the same, three times as many rows", _empty, _straight_only, ("wide",), 0.3),
        Scenario("narrow", "4 columns of numbers", _empty, _both_lanes, ("narrow",)),
        Scenario("narrow-large", "the same, five times as many rows", _empty, _straight_only, ("narrow",), 5.0),
        *(Scenario(each.name, each.what, _empty, _straight_only, (each.name,)) for each in SHAPES),
        Scenario("ragged", "records too short, filled up (psql refuses them)", _empty, _ragged, ("ragged",), 0.5),
        Scenario("gzip", "compressed", _empty, _gzip),
        Scenario(
            "transforms", "a spec that trims, changes case, parses dates by a format and filters", _empty, _transformed
        ),
        Scenario("rejects", "one record in ten thousand is bad", _empty, _rejects, ("lineitem",), 0.5),
        Scenario("first", "the first load into a keyed table", _keyed, _merge),
        Scenario(
            "merge-new", "all rows are new, between those of a filled keyed table", _Filled("shifted", _SHIFT), _merge
        ),
        Scenario("merge-half", "half of the rows are new, the others as they were", _Filled("half", _HALF), _merge),
        Scenario("merge-changed", "all rows are there, and differ", _Filled("changed", _CHANGE), _merge),
        Scenario("merge-same", "the same file again, nothing changed", _Filled("same"), _merge),
        Scenario("replace", "all rows are there as they were, and replaced", _Filled("same"), _replace),
    )
}
