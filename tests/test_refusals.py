"""What the target refuses is rejected by record: set by set where there is a question to ask, else by halving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.postgres import query

import loader

pytestmark = pytest.mark.every_postgres

ANYTHING = {"max_rows": 1000, "max_ratio": 1.0}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "t.csv"


def load(dsn: str, file: Path, text: str, **spec: Any) -> loader.LoadReport:
    file.write_text(text)
    report = loader.load(str(file), {"table": "t", "rejects": ANYTHING, **spec}, dsn=dsn)
    sums = report.rows_inserted + report.rows_updated + report.rows_unchanged + report.rows_duplicate
    assert report.rows_read == sums + report.rows_filtered + report.rows_rejected
    return report


def rejected(dsn: str) -> list[tuple[Any, ...]]:
    return query(dsn, "SELECT record_number, column_name, reason, raw FROM loader.rejects ORDER BY record_number")


def test_checks_keys_and_references(dsn: str, file: Path) -> None:
    """Of two records with one key the first stays, as COPY given one record after another would have it."""
    query(dsn, "CREATE TABLE parent (id int PRIMARY KEY)")
    query(dsn, "INSERT INTO parent VALUES (1), (2)")
    query(dsn, "CREATE TABLE t (a int PRIMARY KEY, p int REFERENCES parent, c int CHECK (c > 1), d int NOT NULL)")
    query(dsn, "INSERT INTO t VALUES (10, 1, 5, 0)")
    load(dsn, file, "a,p,c,d\n1,1,5,0\n1,1,6,0\n10,1,5,0\n2,3,5,0\n3,,1,0\n4,2,,0\n5,2,9,\n6,2,9,0\n")
    assert rejected(dsn) == [
        (2, "a", "unique_violation", "1,1,6,0"),
        (3, "a", "unique_violation", "10,1,5,0"),
        (4, "p", "foreign_key_violation", "2,3,5,0"),
        (5, "c", "check_violation", "3,,1,0"),
        (7, "d", "null_value", "5,2,9,"),
    ]
    assert query(dsn, "SELECT a, c FROM t ORDER BY 1") == [(1, 5), (4, None), (6, 9), (10, 5)]


def test_a_clean_load_into_a_constrained_table_is_not_slowed(dsn: str, file: Path) -> None:
    """Nothing is asked where nothing was refused: no staging table was ever made."""
    query(dsn, "CREATE TABLE t (a int PRIMARY KEY CHECK (a > 0))")
    assert load(dsn, file, "a\n1\n2\n").rows_inserted == 2
    assert rejected(dsn) == []


def test_a_record_that_is_refused_blocks_no_other(dsn: str, file: Path) -> None:
    """Its key is free for the next record."""
    query(dsn, "CREATE TABLE t (a int PRIMARY KEY, c int CHECK (c > 1))")
    load(dsn, file, "a,c\n1,0\n1,5\n1,6\n")
    assert rejected(dsn) == [(1, "c", "check_violation", "1,0"), (3, "a", "unique_violation", "1,6")]
    assert query(dsn, "SELECT * FROM t") == [(1, 5)]


def test_several_unique_indexes_as_one_record_after_another(dsn: str, file: Path) -> None:
    """Record 3 shares a value with record 2 alone, which is refused: so it stays."""
    query(dsn, "CREATE TABLE t (a int UNIQUE, b int UNIQUE)")
    load(dsn, file, "a,b\n1,1\n2,1\n2,3\n4,3\n")
    assert [each[0] for each in rejected(dsn)] == [2, 4]
    assert query(dsn, "SELECT * FROM t ORDER BY 1") == [(1, 1), (2, 3)]


def test_nulls_are_distinct_or_not_as_the_index_says(dsn: str, file: Path) -> None:
    """UNIQUE NULLS NOT DISTINCT, from PostgreSQL 15 on."""
    query(dsn, "CREATE TABLE t (a int UNIQUE, b int UNIQUE NULLS NOT DISTINCT)")
    load(dsn, file, "a,b\n,1\n,2\n3,\n4,\n")
    assert [each[0] for each in rejected(dsn)] == [4]


def test_partial_and_expression_indexes(dsn: str, file: Path) -> None:
    """No question covers them: they are found by halving."""
    query(dsn, "CREATE TABLE t (a int, b text)")
    query(dsn, "CREATE UNIQUE INDEX ON t (lower(b))")
    query(dsn, "CREATE UNIQUE INDEX ON t (a) WHERE b <> 'x'")
    load(dsn, file, "a,b\n1,x\n2,X\n1,y\n1,z\n5,w\n")
    assert [(number, reason) for number, _, reason, _ in rejected(dsn)] == [
        (2, "unique_violation"),
        (4, "unique_violation"),
    ]


def test_a_table_that_refers_to_itself(dsn: str, file: Path) -> None:
    """A parent may stand in the same file, before its child or after."""
    query(dsn, "CREATE TABLE t (id int PRIMARY KEY, parent int REFERENCES t)")
    load(dsn, file, "id,parent\n1,2\n2,\n3,9\n4,3\n")
    assert [each[0] for each in rejected(dsn)] == [3, 4]


def test_exclusion_constraints_triggers_and_partitions(dsn: str, file: Path) -> None:
    """What nobody can ask in advance is found record by record, and named by PostgreSQL's own code."""
    query(dsn, "CREATE TABLE t (a int, b text, EXCLUDE (a WITH =))")
    query(
        dsn,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF new.b = 'boom' THEN RAISE EXCEPTION 'no %', new.b; END IF; RETURN new; END $$",
    )
    query(dsn, "CREATE TRIGGER refuse BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION refuse()")
    load(dsn, file, "a,b\n1,x\n1,y\n2,boom\n3,z\n")
    assert rejected(dsn) == [(2, None, "exclusion_violation", "1,y"), (3, None, "refused", "2,boom")]
    query(dsn, "DROP TABLE t")
    query(dsn, "CREATE TABLE t (a int, b text) PARTITION BY RANGE (a)")
    query(dsn, "CREATE TABLE t_low PARTITION OF t FOR VALUES FROM (0) TO (10)")
    report = load(dsn, file, "a,b\n1,x\n11,y\n5,z\n")
    assert (report.rows_inserted, report.rows_rejected) == (2, 1)


def test_a_check_that_cannot_be_computed_refuses_its_record(dsn: str, file: Path) -> None:
    """Division by zero, as COPY would say."""
    query(dsn, "CREATE TABLE t (a int, CHECK (10 / a > 1))")
    load(dsn, file, "a\n1\n0\n100\n")
    assert [(number, reason) for number, _, reason, _ in rejected(dsn)] == [
        (2, "invalid_value"),
        (3, "check_violation"),
    ]


def test_domains_and_json_inside_a_stream(dsn: str, file: Path) -> None:
    """A stream that the server breaks off for one value begins again with the server as the judge of each."""
    query(dsn, "CREATE DOMAIN positive AS int CHECK (value > 0)")
    query(dsn, "CREATE TABLE t (a positive, j jsonb)")
    load(dsn, file, 'a,j\n1,"{""x"": 1}"\n0,1\n2,{x\n3,null\n')
    assert rejected(dsn) == [(2, "a", "check_violation", "0,1"), (3, "j", "invalid_value", "2,{x")]
    assert query(dsn, "SELECT a, j::text FROM t ORDER BY 1") == [(1, '{"x": 1}'), (3, "null")]


@pytest.mark.parametrize("mode", ["merge", "replace"])
def test_other_modes_reject_by_record_too(dsn: str, file: Path, mode: str) -> None:
    """A second unique index, a CHECK; existing keys are no violation."""
    query(dsn, "CREATE TABLE t (id int PRIMARY KEY, mail text UNIQUE, age int CHECK (age > 0))")
    query(dsn, "INSERT INTO t VALUES (1, 'a', 5), (2, 'b', 6)")
    report = load(dsn, file, "id,mail,age\n1,a,7\n2,b,6\n3,a,1\n4,d,0\n5,e,1\n", mode=mode)
    assert [(number, reason) for number, _, reason, _ in rejected(dsn)] == [
        (3, "unique_violation"),
        (4, "check_violation"),
    ]
    assert (report.rows_inserted, report.rows_updated, report.rows_unchanged) == (1, 1, 1)
    assert query(dsn, "SELECT id, age FROM t ORDER BY 1") == [(1, 7), (2, 6), (5, 1)]


def test_too_many_refusals_stop_the_load_and_change_nothing(dsn: str, file: Path) -> None:
    """The limit counts them like all others, and what was seen of them is kept."""
    query(dsn, "CREATE TABLE t (a int CHECK (a < 0))")
    file.write_text("a\n" + "".join(f"{number}\n" for number in range(500)))
    with pytest.raises(loader.RejectLimitError) as caught:
        loader.load(str(file), {"table": "t", "rejects": {"max_rows": 10, "max_ratio": 1.0}}, dsn=dsn)
    assert caught.value.report is not None
    assert caught.value.report.state == "failed"
    assert len(rejected(dsn)) == 11
    assert query(dsn, "SELECT count(*) FROM t") == [(0,)]
    assert query(dsn, "SELECT relname FROM pg_class WHERE relname LIKE 'staging%'") == []


def test_rejects_of_both_lanes_keep_their_places(dsn: str, file: Path) -> None:
    """Record, line and raw text of a record that the target refused are those of the file, newlines and all."""
    query(dsn, "CREATE TABLE t (a int UNIQUE, b text)")
    load(dsn, file, 'a,b\n1,"x\ny"\nbad,z\n1,"p\nq"\n2,r\n')
    assert query(dsn, "SELECT record_number, line_number, reason, raw FROM loader.rejects ORDER BY 1") == [
        (2, 4, "invalid_value", "bad,z"),
        (3, 5, "unique_violation", '1,"p\nq"'),
    ]
