"""Every type that a column can have: what a load stores and what it rejects is what COPY does."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support import type_law
from support.effort import effort
from support.laws import BrokenLawError, database
from support.postgres import query
from support.type_law import Column, Way, check

import loader

ROUNDS = effort(1, 40)


@pytest.mark.parametrize(
    ("server", "encoding"),
    [("embedded-18", "UTF8"), ("embedded-17", "UTF8"), ("system-15", "UTF8"), ("embedded-18", "LATIN1")],
)
def test_a_load_is_copy(servers: Any, server: str, encoding: str) -> None:
    """For types of all kinds, and texts that are values of them, nearly are, or are not; `make fuzz` goes further."""
    dice = random.Random()
    for _ in range(ROUNDS):
        seed = dice.randrange(2**32)
        try:
            compared = check(random.Random(seed), servers(server), encoding=encoding, columns=8, records=500, texts=60)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        assert compared == 8 * 500


def test_a_law_has_a_database_of_its_own(server: str) -> None:
    """The same one for each of its rounds."""
    assert database(server, "a_law") == database(server, "a_law")
    assert database(server, "a_law") != database(server, "another_law")


SEEN: dict[str, tuple[Any, str]] = {
    "another value": (lambda rows, _: rows[4].__setitem__(1, "6"), "stores '1', and the load '6'"),
    "a NULL": (lambda rows, _: rows[4].__setitem__(1, None), "and the load None"),
    "a reject too many": (lambda rows, rejects: rejects.update({int(rows[0][0]): "why"}), "the load rejected: why"),
    "a reject too few": (lambda _, rejects: rejects.clear(), "refuses what the load took"),
}


@pytest.mark.parametrize("what", SEEN)
def test_a_broken_law_is_seen(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """One value, or one reject, among all."""
    spoil, message = SEEN[what]

    def load(_place: Any, columns: Any, _way: Any, records: Any) -> Any:
        good = [(n, texts) for n, texts in records if texts[0] in columns[0].taken]
        rows = [[str(n), columns[0].taken[texts[0]]] for n, texts in good]
        rejects = {n: "x" for n, texts in records if texts[0] in columns[0].refused}
        spoil(rows, rejects)
        return rows, rejects

    monkeypatch.setattr(type_law, "_load", load)
    column = Column("c", "integer", {" 1": "1"}, {"x": "22P02", "": "22P02"})
    with pytest.raises(BrokenLawError, match=message):
        type_law.compare(None, [column], Way(), random.Random(1), 20)  # type: ignore[arg-type] - no place is needed


# --- values that PostgreSQL stores, and whose binary form it would not read again

DEFINITIONS = """
    CREATE DOMAIN moment AS timestamp(2);
    CREATE DOMAIN numbers AS int2vector;
    CREATE TYPE visit AS (at timestamp(0), who text);
"""

LAST = "294276-12-31 23:59:59.999999"

UNREADABLE = {
    "a time": [("timestamp(0)", LAST)],
    "a time with a zone": [("timestamp(3) with time zone", f"{LAST}+00")],
    "a domain": [("moment", LAST)],
    "others": [
        ("timestamp(0)[]", f"{{{LAST},NULL}}"),
        ("timestamptz(3)[]", "{2024-01-05 10:00:00.1234+00}"),
        ("moment[]", f"{{{LAST}}}"),
        ("visit", f'("{LAST}",me)'),
        ("int2vector", ""),
        ("oidvector", ""),
        ("oidvector[]", '{""}'),
        ("numbers", ""),
        ("tsquery", ""),
        ("tsquery[]", '{"",a}'),
        ("time(0) with time zone", "23:59:59.9-15:59:59"),
        ("aclitem", "postgres=r/postgres"),
        ("aclitem[]", "{}"),
    ],
}


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


@pytest.mark.parametrize("server", ["embedded-18", "system-15"], indirect=True)
@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_value_is_stored_whatever_its_binary_form(dsn: str, tmp_path: Path, kind: str) -> None:
    """PostgreSQL takes such a value from a text and not from its own bytes, or has no bytes for it. As it stands, after
    a step, merged, beside a record that is refused, and with a filter; and the NULLs beside it."""
    query(dsn, DEFINITIONS)
    declared = ", ".join(f"v{place} {name}" for place, (name, _) in enumerate(UNREADABLE[kind]))
    query(dsn, f"CREATE TABLE t (n int, {declared}); CREATE TABLE c (LIKE t)")
    values = ",".join(quoted(text) for _, text in UNREADABLE[kind])
    names = [f"v{place}" for place in range(len(UNREADABLE[kind]))]
    path = tmp_path / "t.csv"
    records = f"0,{values}\n1{',' * len(names)}\n"
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        cursor.copy_expert("COPY c FROM STDIN (FORMAT csv)", io.StringIO(records))
    connection.close()
    wanted = query(dsn, "SELECT c::text FROM c ORDER BY n")

    def stored(refused: int = 0, **spec: Any) -> list[Any]:
        path.write_text(f"n,{','.join(names)}\n" + records + f"x,{values}\n" * refused)
        query(dsn, "TRUNCATE t")
        report = loader.load(str(path), {"table": "t", "rejects": {"max_ratio": 1}, **spec}, dsn=dsn, force=True)
        assert report.rows_rejected == refused
        return query(dsn, "SELECT t::text FROM t ORDER BY n")

    assert stored() == wanted
    assert stored(columns={"n": {}, **{name: {"transform": [{"null_if": "-"}]} for name in names}}) == wanted
    assert stored(mode="merge", key=["n"]) == wanted
    assert stored(1) == wanted
    if kind == "others":  # of the rest, Arrow has no such time to show
        assert stored(transform={"filter": "n >= 0"}) == wanted


@pytest.mark.parametrize("server", ["embedded-18", "system-15"], indirect=True)
def test_a_new_table_has_the_specs_types(dsn: str, tmp_path: Path) -> None:
    """With the modifiers of intervals and of arrays' elements."""
    path = tmp_path / "t.csv"
    spelled = {
        "interval hour": "interval hour",
        "interval day to second(3)": "interval day to second(3)",
        "interval second(2)[]": "interval second(2)[]",
        "varchar(2)[]": "character varying(2)[]",
        "numeric(5,2)[]": "numeric(5,2)[]",
        "bit(3)[]": "bit(3)[]",
        "timestamp(0)[]": "timestamp(0) without time zone[]",
        "timestamptz(3) array": "timestamp(3) with time zone[]",
        "numeric(3,-2)": "numeric(3,-2)",
    }
    path.write_text(",".join(f"c{place}" for place in range(len(spelled))) + "\n" + "," * (len(spelled) - 1) + "\n")
    columns = {f"c{place}": written for place, written in enumerate(spelled)}
    assert loader.load(str(path), {"table": "t", "columns": columns}, dsn=dsn).rows_inserted == 1
    found = query(
        dsn,
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = 't'::regclass AND attnum > 0 ORDER BY attnum",
    )
    assert [name for (name,) in found] == list(spelled.values())


def test_a_type_of_the_users_is_not_taken_for_postgresqls(dsn: str, tmp_path: Path) -> None:
    """Though it has its name, where the search path finds it first."""
    query(dsn, "CREATE TYPE public.uuid AS (a int, b text)")
    first = psycopg2.extensions.make_dsn(dsn, options="-c search_path=public,pg_catalog")
    query(first, "CREATE TABLE t (n int, v uuid)")
    path = tmp_path / "t.csv"
    path.write_text('n,v\n1,"(1,x)"\n2,a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\n')
    report = loader.load(str(path), {"table": "t", "rejects": {"max_ratio": 1}}, dsn=first)
    assert (report.rows_inserted, report.rows_rejected) == (1, 1)
    assert query(first, "SELECT v::text FROM t") == [("(1,x)",)]


@pytest.mark.parametrize("kernel", ["auto", "off"])
@pytest.mark.parametrize("type_name", ["real", "double precision"])
def test_a_number_that_is_too_small_is_rejected(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type_name: str, kernel: str
) -> None:
    """And not stored as 0; neither with an exponent nor without, at the beginning of a block or amid it."""
    monkeypatch.setenv("LOADER_KERNEL", kernel)
    query(dsn, f"CREATE TABLE t (n int, v {type_name})")
    small = ["1e-400", f"0.{'0' * 400}1", f"-.{'0' * 399}9e-5", f"{'0' * 50}.{'0' * 350}1"]
    zero = ["0", "-0.0", f"0.{'0' * 400}", "0e-999", f"{'0' * 400}"]
    path = tmp_path / "t.csv"
    fields = [*small, *zero, *["1.5"] * 1000, *small]
    path.write_text("n,v\n" + "".join(f"{n},{text}\n" for n, text in enumerate(fields)))
    report = loader.load(str(path), {"table": "t", "rejects": {"max_ratio": 1}}, dsn=dsn)
    assert report.rows_rejected == 2 * len(small)
    assert query(dsn, "SELECT count(*) FROM t WHERE v = 0") == [(len(zero),)]
