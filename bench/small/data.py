"""Small files of orders, and the table that they go into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.rig import Server

HEADER = ("id", "customer", "amount", "day", "status", "note")

_COLUMNS = "id bigint, customer integer, amount numeric(12,2), day date, status text, note text"

_STEP = 7919
"""A prime: as many steps as a table has rows meet each of them once, unless it divides their number."""


def make_table(server: Server, name: str, *, rows: int, keyed: bool) -> None:
    """The table with ``rows`` orders, numbered from 0 on."""
    server.execute(
        "SET client_min_messages = warning",
        f"DROP TABLE IF EXISTS {name}",
        f"CREATE TABLE {name} ({_COLUMNS})",
        f"INSERT INTO {name} SELECT n, n % 1000, n % 500 + 0.25, date '2026-01-01' + n % 365, 'open', 'as it was'"
        f" FROM generate_series(0, {rows - 1}) n",
        *([f"ALTER TABLE {name} ADD PRIMARY KEY (id)"] if keyed else []),
        f"VACUUM (ANALYZE) {name}",
    )


def order_numbers(first: int, rows: int, table_rows: int) -> list[int]:
    """Of the records ``first`` and on, so many: each other is an order of a table with ``table_rows``, the rest are
    new. No two files, and no two records of one, have a new order in common."""
    return [
        table_rows + number if number % 2 else number // 2 * _STEP % table_rows for number in range(first, first + rows)
    ]


def make_files(folder: Path, files: int, rows: int, *, table_rows: int, first: int = 0) -> list[Path]:
    """So many files of so many records, in the order of their names. ``first``: the number of the first file."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(first, first + files):
        path = folder / f"{number:06}.csv"
        path.write_text("".join(_lines(number, rows, table_rows)), "utf-8")
        made.append(path)
    return made


def _lines(number: int, rows: int, table_rows: int) -> Iterator[str]:
    yield ",".join(HEADER) + "\n"
    for each in order_numbers(number * rows, rows, table_rows):
        yield f"{each},{each % 1000},{each % 900}.50,2026-{each % 12 + 1:02}-15,shipped,by file {number}\n"
