"""Counts speak of the file's records: each record is counted once, as what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support.postgres import query

import loader

pytestmark = pytest.mark.every_postgres

NAMES = ("read", "inserted", "updated", "unchanged", "duplicate", "filtered", "rejected")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "t.csv"


def load(dsn: str, file: Path, text: str, **spec: Any) -> loader.LoadReport:
    file.write_text(text)
    limits = {"max_rows": 1000, "max_ratio": 1.0}
    return loader.load(str(file), {"table": "t", "rejects": limits, **spec}, dsn=dsn)


def counts(report: loader.LoadReport) -> dict[str, int]:
    """The counts that are not zero."""
    found = {name: getattr(report, f"rows_{name}") for name in NAMES}
    assert found["read"] == sum(found[name] for name in NAMES[1:])
    assert min(found.values()) >= 0
    return {name: count for name, count in found.items() if count}


def table(dsn: str, name: str = "t") -> list[tuple[Any, ...]]:
    return query(dsn, f"SELECT * FROM {name} ORDER BY 1, 2")


TRIGGER = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} RETURN NEW; END $$"
SWALLOW = TRIGGER.format("IF NEW.v LIKE '%gone%' THEN RETURN NULL; END IF;")


class TestKeysOfManyRows:
    """All rows of a record's key are updated, and the record counts once."""

    @pytest.mark.parametrize("mode", ["merge", "replace"])
    def test_no_record_is_lost(self, dsn: str, file: Path, mode: str) -> None:
        query(dsn, "CREATE TABLE t (k int, v text)")
        query(dsn, "INSERT INTO t VALUES (1, 'a'), (1, 'b')")
        report = load(dsn, file, "k,v\n1,new\n2,lost\n", mode=mode, key=["k"])
        if mode == "merge":
            assert counts(report) == {"read": 2, "inserted": 1, "updated": 1}
            assert table(dsn) == [(1, "new"), (1, "new"), (2, "lost")]
        else:
            assert {(1, "new"), (2, "lost")} == set(table(dsn))

    def test_a_table_that_is_referred_to_is_replaced_by_key(self, dsn: str, file: Path) -> None:
        query(dsn, "CREATE TABLE t (k int, v text, id serial PRIMARY KEY)")
        query(dsn, "CREATE TABLE other (id int REFERENCES t)")
        query(dsn, "INSERT INTO t VALUES (1, 'a'), (1, 'b'), (7, 'z')")
        report = load(dsn, file, "k,v\n1,new\n2,lost\n", mode="replace", key=["k"])
        assert counts(report) == {"read": 2, "inserted": 1, "updated": 1}
        assert query(dsn, "SELECT k, v FROM t ORDER BY 1") == [(1, "new"), (1, "new"), (2, "lost")]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("1,a\n", {"updated": 1}),
            ("1,new\n", {"updated": 1}),
            ("3,same\n", {"unchanged": 1}),
            ("3,same\n1,a\n9,x\n3,same\n", {"unchanged": 1, "updated": 1, "inserted": 1, "duplicate": 1}),
        ],
    )
    def test_one_changed_row_is_enough(self, dsn: str, file: Path, text: str, expected: dict[str, int]) -> None:
        """Unchanged is a record whose every row was compared and is the same."""
        query(dsn, "CREATE TABLE t (k int, v text)")
        query(dsn, "INSERT INTO t VALUES (1, 'a'), (1, 'b'), (3, 'same'), (3, 'same')")
        report = load(dsn, file, f"k,v\n{text}", mode="merge", key=["k"])
        assert counts(report) == {"read": text.count("\n"), **expected}

    def test_nothing_but_a_key(self, dsn: str, file: Path) -> None:
        query(dsn, "CREATE TABLE t (k int)")
        query(dsn, "INSERT INTO t VALUES (1), (1), (2)")
        report = load(dsn, file, "k\n1\n2\n3\n", mode="merge", key=["k"])
        assert counts(report) == {"read": 3, "inserted": 1, "unchanged": 2}
        query(dsn, "CREATE TABLE u (k int PRIMARY KEY); INSERT INTO u VALUES (1)")
        report = load(dsn, file, "k\n1\n2\n", mode="merge", table="u")
        assert counts(report) == {"read": 2, "inserted": 1, "unchanged": 1}

    def test_a_unique_key_says_nothing_of_tables_that_inherit(self, dsn: str, file: Path) -> None:
        query(dsn, "CREATE TABLE t (k int PRIMARY KEY, v text); CREATE TABLE child () INHERITS (t)")
        query(dsn, "INSERT INTO t VALUES (1, 'a'); INSERT INTO child VALUES (1, 'b'), (5, 'c'), (5, 'c')")
        report = load(dsn, file, "k,v\n1,new\n2,x\n5,c\n", mode="merge")
        assert counts(report) == {"read": 3, "inserted": 1, "updated": 1, "unchanged": 1}
        assert table(dsn) == [(1, "new"), (1, "new"), (2, "x"), (5, "c"), (5, "c")]

    def test_with_care_too(self, dsn: str, file: Path) -> None:
        """A record that the table refuses makes the others be written in halves."""
        query(dsn, "CREATE TABLE t (k int, v text, EXCLUDE USING gist (int4range(k, k, '[]') WITH =) WHERE (k > 90))")
        query(dsn, "INSERT INTO t VALUES (1, 'a'), (1, 'b'), (2, 'same'), (2, 'same'), (91, 'x')")
        query(dsn, TRIGGER.format("IF NEW.v = 'boom' THEN RAISE 'boom'; END IF;"))
        query(dsn, "CREATE TRIGGER f AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()")
        report = load(dsn, file, "k,v\n1,new\n2,same\n3,boom\n4,x\n1,newer\n91,x\n", mode="merge", key=["k"])
        expected = {"read": 6, "inserted": 1, "updated": 1, "unchanged": 2, "duplicate": 1, "rejected": 1}
        assert counts(report) == expected

    def test_many_rows(self, dsn: str, file: Path) -> None:
        """More than every course is short for."""
        query(dsn, "CREATE TABLE t (k int, v text)")
        query(dsn, "INSERT INTO t SELECT n / 2, 'v' || n / 2 FROM generate_series(0, 19999) n")
        lines = "".join(f"{k},{'new' if k % 2 else f'v{k}'}\n" for k in range(5000, 20000))
        report = load(dsn, file, f"k,v\n{lines}", mode="merge", key=["k"])
        assert counts(report) == {"read": 15000, "inserted": 10000, "updated": 2500, "unchanged": 2500}


class TestLeftOut:
    """What a trigger keeps out of the table counts as filtered, and a note says how many."""

    NOTE = "{} records were left out by a trigger of public.t (counted as filtered)"
    TEXT = "k,v\n1,a\n2,gone\n3,c\n4,gone\n"

    @pytest.mark.parametrize("spec", [{}, {"mode": "replace"}, {"mode": "merge", "key": ["k"]}])
    @pytest.mark.parametrize("there", [False, True])
    def test_before_insert(self, dsn: str, file: Path, spec: dict[str, Any], there: bool) -> None:
        query(dsn, f"CREATE TABLE t (k int PRIMARY KEY, v text); {SWALLOW}")
        query(dsn, "INSERT INTO t VALUES (9, 'z')" if there else "SELECT")
        query(dsn, "CREATE TRIGGER f BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()")
        report = load(dsn, file, self.TEXT, **spec)
        assert counts(report) == {"read": 4, "inserted": 2, "filtered": 2}
        assert self.NOTE.format(2) in report.notes

    def test_a_trigger_that_puts_rows_elsewhere(self, dsn: str, file: Path) -> None:
        query(dsn, "CREATE TABLE t (k int, v text); CREATE TABLE elsewhere (k int, v text)")
        query(dsn, TRIGGER.format("INSERT INTO elsewhere VALUES (NEW.*); RETURN NULL;"))
        query(dsn, "CREATE TRIGGER f BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()")
        report = load(dsn, file, self.TEXT)
        assert counts(report) == {"read": 4, "filtered": 4}
        assert self.NOTE.format(4) in report.notes
        assert len(table(dsn, "elsewhere")) == 4

    def test_of_a_partition(self, dsn: str, file: Path) -> None:
        """COPY straight into the table would not see it coming."""
        query(dsn, f"CREATE TABLE t (k int, v text) PARTITION BY RANGE (k); {SWALLOW}")
        query(dsn, "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (100)")
        query(dsn, "CREATE TRIGGER f BEFORE INSERT ON t_1 FOR EACH ROW EXECUTE FUNCTION f()")
        report = load(dsn, file, self.TEXT)
        assert counts(report) == {"read": 4, "inserted": 2, "filtered": 2}
        assert self.NOTE.format(2) in report.notes

    @pytest.mark.parametrize("key", [True, False])
    def test_an_update_that_is_prevented(self, dsn: str, file: Path, key: bool) -> None:
        query(dsn, f"CREATE TABLE t (k int {'PRIMARY KEY' if key else ''}, v text); {SWALLOW}")
        query(dsn, "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'b')")
        query(dsn, "CREATE TRIGGER f BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()")
        report = load(dsn, file, self.TEXT, mode="merge", key=["k"])
        assert counts(report) == {"read": 4, "inserted": 1, "updated": 1, "unchanged": 1, "filtered": 1}
        assert self.NOTE.format(1) in report.notes or "1 records were left out" in str(report.notes)
        assert table(dsn) == [(1, "a"), (2, "b"), (3, "c"), (4, "gone")]

    def test_with_care_too(self, dsn: str, file: Path) -> None:
        query(dsn, f"CREATE TABLE t (k int PRIMARY KEY, v text, CHECK (k <> 7)); {SWALLOW}")
        query(dsn, "INSERT INTO t VALUES (2, 'b'), (1, 'a')")
        query(dsn, "CREATE TRIGGER f BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()")
        report = load(dsn, file, self.TEXT + "7,x\n", mode="merge")
        assert counts(report) == {"read": 5, "inserted": 1, "unchanged": 1, "filtered": 2, "rejected": 1}

    def test_row_security(self, dsn: str, file: Path) -> None:
        """A row that may be read and not changed is not unchanged."""
        role = f"reader_{abs(hash(dsn)) % 10**9}"
        query(dsn, "CREATE TABLE t (k int, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
        query(dsn, "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY r ON t FOR SELECT USING (true)")
        query(dsn, "CREATE POLICY i ON t FOR INSERT WITH CHECK (true); CREATE POLICY u ON t FOR UPDATE USING (k > 2)")
        query(dsn, f"CREATE ROLE {role} LOGIN; GRANT ALL ON t TO {role}")
        query(dsn, f"DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO {role}', current_database()); END $$")
        as_role = psycopg2.extensions.make_dsn(dsn, user=role)
        try:
            assert query(as_role, "SELECT current_user") == [(role,)]
        except psycopg2.OperationalError:
            pytest.skip("this server lets no other role in")
        report = load(as_role, file, "k,v\n1,new\n2,b\n3,new\n4,new\n", mode="merge", key=["k"])
        assert counts(report) == {"read": 4, "inserted": 1, "updated": 1, "unchanged": 1, "filtered": 1}
        assert "1 records were left out by row security of public.t (counted as filtered)" in report.notes

    def test_a_view_with_triggers(self, dsn: str, file: Path) -> None:
        query(dsn, "CREATE TABLE base (k int, v text); CREATE VIEW t AS SELECT * FROM base")
        query(dsn, TRIGGER.format("IF NEW.v = 'gone' THEN RETURN NULL; END IF; INSERT INTO base VALUES (NEW.*);"))
        query(dsn, "CREATE TRIGGER f INSTEAD OF INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()")
        report = load(dsn, file, self.TEXT)
        assert counts(report) == {"read": 4, "inserted": 2, "filtered": 2}


def test_old_rows_of_the_ledger_are_put_right(dsn: str, file: Path) -> None:
    """Up to version 5 a count could be negative; the constraint that forbids it comes after the repair."""
    query(dsn, "CREATE TABLE t (k int, v text)")
    load(dsn, file, "k,v\n1,a\n2,b\n")
    query(dsn, "ALTER TABLE loader.loads DROP CONSTRAINT loads_counts_check")
    query(dsn, "DELETE FROM loader.schema_version WHERE version > 5")
    query(dsn, "UPDATE loader.loads SET rows_inserted = 0, rows_updated = 3, rows_unchanged = -1")
    load(dsn, file, "k,v\n3,a\n")
    found = query(
        dsn, "SELECT rows_read, rows_inserted, rows_updated, rows_unchanged FROM loader.loads ORDER BY load_id"
    )
    assert found == [(2, 0, 2, 0), (1, 1, 0, 0)]
    with pytest.raises(psycopg2.errors.CheckViolation):
        query(dsn, "UPDATE loader.loads SET rows_unchanged = -1, rows_updated = 1, rows_inserted = 1")
