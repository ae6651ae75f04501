"""Counts speak of the file's records: each record is counted once, as what became of it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support.postgres import query

import loader
from loader.ledger import ledger
from loader.postgres.database import Database
from loader.sharding.shards import finish, load_shard, plan_shards

ON_ALL = pytest.mark.every_postgres

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

    @ON_ALL
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

    @ON_ALL
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

    @ON_ALL
    def test_of_a_partition(self, dsn: str, file: Path) -> None:
        """COPY straight into the table would not see it coming."""
        query(dsn, f"CREATE TABLE t (k int, v text) PARTITION BY RANGE (k); {SWALLOW}")
        query(dsn, "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (100)")
        query(dsn, "CREATE TRIGGER f BEFORE INSERT ON t_1 FOR EACH ROW EXECUTE FUNCTION f()")
        report = load(dsn, file, self.TEXT)
        assert counts(report) == {"read": 4, "inserted": 2, "filtered": 2}
        assert self.NOTE.format(2) in report.notes

    @ON_ALL
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

    @pytest.mark.without_ledger
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

    @pytest.mark.parametrize("instead", [True, False])
    def test_a_merge_through_a_view(self, dsn: str, file: Path, instead: bool) -> None:
        query(dsn, "CREATE TABLE base (k int PRIMARY KEY, v text); CREATE VIEW t AS SELECT * FROM base")
        query(dsn, "INSERT INTO base VALUES (1, 'a'), (2, 'b'), (3, 'b')")
        writing = (
            "IF TG_OP = 'INSERT' THEN INSERT INTO base VALUES (NEW.*);"
            " ELSE UPDATE base SET v = NEW.v WHERE k = NEW.k; END IF; RETURN NEW;"
        )
        query(dsn, SWALLOW.replace("RETURN NEW;", writing if instead else "RETURN NEW;"))
        when, where = ("INSTEAD OF", "t") if instead else ("BEFORE", "base")
        query(dsn, f"CREATE TRIGGER f {when} INSERT OR UPDATE ON {where} FOR EACH ROW EXECUTE FUNCTION f()")
        report = load(dsn, file, self.TEXT + "5,new\n", mode="merge", key=["k"])
        assert counts(report) == {"read": 5, "inserted": 1, "updated": 1, "unchanged": 1, "filtered": 2}
        assert table(dsn, "base") == [(1, "a"), (2, "b"), (3, "c"), (5, "new")]

    @pytest.mark.usefixtures("large_way")
    def test_segment_by_segment(self, dsn: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Inserted while later segments are copied."""
        monkeypatch.setattr("loader.engine.job.STRAIGHT", 0)
        monkeypatch.setattr("loader.engine.routes.Ahead._will_get_through", lambda *_: True)
        query(dsn, f"CREATE TABLE t (k int, v text); {SWALLOW}")
        query(dsn, "CREATE TRIGGER f BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()")
        lines = "".join(f"{k},{'gone' if k % 1000 == 0 else 'some longer text'}\n" for k in range(100_000))
        report = load(dsn, file, f"k,v\n{lines}", segment_mb=1)
        assert (report.plan or "").startswith("inserted segment by segment, while later ones were copied; ")
        assert counts(report) == {"read": 100_000, "inserted": 99_900, "filtered": 100}
        assert self.NOTE.format(100) in report.notes

    @pytest.mark.parametrize("care", [False, True])
    def test_in_shards(self, dsn: str, file: Path, care: bool) -> None:
        """Keys of many rows, a collation of their own, a trigger: all at once, and with a refused record."""
        query(dsn, f"CREATE TABLE t (k text COLLATE \"C\", v text, CHECK (v <> 'refused')); {SWALLOW}")
        query(dsn, "INSERT INTO t VALUES ('1', 'a'), ('1', 'b'), ('2', 'row 2'), ('2', 'row 2'), ('3', 'x')")
        query(dsn, "CREATE TRIGGER f BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()")
        special = {3: "gone", 7: "gone", **({9: "refused"} if care else {})}
        lines = "".join(f"{k},{special.get(k, f'row {k}')}\n" for k in range(1, 1001))
        file.write_text(f"k,v\n{lines}5,again\n")
        limits = {"max_rows": 10, "max_ratio": 1}
        spec = loader.LoadSpec.from_dict({"table": "t", "mode": "merge", "key": ["k"], "rejects": limits})
        with contextlib.closing(Database(dsn)) as database:
            plan = plan_shards(str(file), spec, database, shards=3)
            report = finish(plan, [load_shard(plan, number, database, threads=1) for number in range(3)], database)
        found = {"read": 1001, "inserted": 996 - care, "updated": 1, "unchanged": 1, "duplicate": 1, "filtered": 2}
        assert counts(report) == {**found, **({"rejected": 1} if care else {})}
        assert self.NOTE.format(2) in report.notes


@pytest.mark.without_ledger
def test_old_rows_of_the_ledger_are_put_right(dsn: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to version 5 a count could be negative; the constraint that forbids it comes after the repair."""
    with monkeypatch.context() as before, contextlib.closing(psycopg2.connect(dsn)) as connection:
        before.setattr(ledger, "SCHEMA_VERSION", 5)
        ledger.migrate(connection)
    names = "rows_read, rows_inserted, rows_updated, rows_unchanged"
    query(
        dsn,
        "INSERT INTO loader.loads (state, source, key, target, mode, forced, spec, " + names + ") SELECT 'loaded', 's',"
        " 'k', 't', 'merge', true, '{}', n.* FROM (VALUES (1, 0, 2, -1), (5, 0, 2, 3), (3, 4, 1, -2)) n",
    )
    query(dsn, "CREATE TABLE t (k int, v text)")
    load(dsn, file, "k,v\n3,a\n")
    found = query(dsn, f"SELECT {names} FROM loader.loads ORDER BY load_id")
    assert found == [(1, 0, 1, 0), (5, 0, 2, 3), (3, 3, 0, 0), (1, 1, 0, 0)]
    with pytest.raises(psycopg2.errors.CheckViolation):
        query(dsn, "UPDATE loader.loads SET rows_unchanged = -1, rows_updated = 1, rows_inserted = 1")


@pytest.mark.parametrize("server", ["system-15"], indirect=True)  # the others were built without ICU
class TestCollations:
    """Keys are the same where the target's columns say so, and the last record wins."""

    CASELESS = "CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"

    @pytest.fixture(autouse=True)
    def caseless(self, dsn: str) -> None:
        try:
            query(dsn, self.CASELESS)
        except psycopg2.Error as error:
            pytest.skip(f"this server has no such collation: {error.diag.message_primary}")

    @pytest.mark.parametrize("unique", ["PRIMARY KEY", "UNIQUE", ""])
    @pytest.mark.parametrize("there", [None, "ABC", "abc"])
    @pytest.mark.parametrize("mode", ["merge", "replace"])
    def test_the_last_record_wins(self, dsn: str, file: Path, unique: str, there: str | None, mode: str) -> None:
        query(dsn, f"CREATE TABLE t (k text COLLATE caseless {unique}, v text)")
        query(dsn, "INSERT INTO t VALUES (%s, 'old')", there) if there else None
        report = load(dsn, file, "k,v\nAbc,first\nx,y\nabc,last\n", mode=mode, key=["k"])
        assert table(dsn) == [("abc", "last"), ("x", "y")]
        assert report.rows_duplicate == 1
        assert sum(counts(report).values()) == 6

    def test_an_index_of_another_collation(self, dsn: str, file: Path) -> None:
        """It does not tell apart what the column does not, and refuses only what it refuses itself."""
        query(dsn, 'CREATE TABLE t (k text COLLATE caseless, v text); CREATE UNIQUE INDEX ON t (k COLLATE "C")')
        query(dsn, "INSERT INTO t VALUES ('Abc', 'a'), ('abc', 'b'), ('x', 'c')")
        report = load(dsn, file, "k,v\nX,new\nABC,twice by the index\n", mode="merge", key=["k"])
        assert counts(report) == {"read": 2, "updated": 1, "rejected": 1}
        assert table(dsn)[-1] == ("X", "new")
        report = load(dsn, file, "k,v\nxyz,1\nXYZ,2\nabc,3\n")
        assert counts(report) == {"read": 3, "inserted": 2, "rejected": 1}

    def test_checks_and_references_by_it(self, dsn: str, file: Path) -> None:
        query(dsn, "CREATE TABLE parent (id text COLLATE caseless PRIMARY KEY); INSERT INTO parent VALUES ('ONE')")
        query(dsn, "CREATE TABLE t (n int, p text COLLATE caseless REFERENCES parent, CHECK (p <> 'two'))")
        query(dsn, "INSERT INTO parent VALUES ('two')")
        report = load(dsn, file, "n,p\n1,one\n2,TWO\n3,three\n4,oNe\n")
        assert counts(report) == {"read": 4, "inserted": 2, "rejected": 2}
        assert report.rejects_by_reason == {"check_violation": 1, "foreign_key_violation": 1}

    def test_references_between_collations(self, dsn: str, file: Path) -> None:
        query(dsn, "CREATE TABLE parent (id text COLLATE \"C\" PRIMARY KEY); INSERT INTO parent VALUES ('one')")
        query(dsn, 'CREATE TABLE t (n int, p text COLLATE "POSIX" REFERENCES parent)')
        report = load(dsn, file, "n,p\n1,one\n2,ONE\n")
        assert counts(report) == {"read": 2, "inserted": 1, "rejected": 1}


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("numeric", ("1.0", "1.00")),
        ("double precision", ("0", "-0")),
        ("char(5)", ("a", "a  ")),
        ("jsonb", ('"{""a"":1}"', '"{""a"": 1.0}"')),
        ("interval", ("1 day", "24:00:00")),
        ("timestamptz", ("2024-01-05 12:00Z", "2024-01-05 13:00+01")),
        ("bytea", (r"\x41", "A")),
        ("numeric[]", ('"{1.0}"', '"{1.00}"')),
        ("inet", ("10.0.0.1", "10.0.0.1/32")),
        ("uuid", ("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc999c0b4ef8bb6d6bb9bd380a11")),
    ],
)
@pytest.mark.parametrize("unique", ["PRIMARY KEY", ""])
def test_keys_that_are_equal_and_not_spelt_the_same(
    dsn: str, file: Path, kind: str, texts: tuple[str, str], unique: str
) -> None:
    """The type's own equality decides, and the last record wins."""
    query(dsn, f"CREATE TABLE t (k {kind} {unique}, v text)")
    report = load(dsn, file, f"k,v\n{texts[0]},first\n{texts[1]},last\n", mode="merge", key=["k"])
    assert counts(report) == {"read": 2, "inserted": 1, "duplicate": 1}
    report = load(dsn, file, f"k,v\n{texts[0]},again\n{texts[1]},newer\n", mode="merge", key=["k"])
    assert counts(report) == {"read": 2, "updated": 1, "duplicate": 1}
    assert query(dsn, "SELECT v FROM t") == [("newer",)]
    copied = "CREATE TABLE u (LIKE t); INSERT INTO u VALUES (%s, 'newer')"
    query(dsn, copied, texts[1].strip('"').replace('""', '"'))
    assert query(dsn, "SELECT k::text FROM t") == query(dsn, "SELECT k::text FROM u")
    report = load(dsn, file, f"k,v\n{texts[1]},newer\n", mode="merge", key=["k"])
    assert counts(report) == {"read": 1, "unchanged": 1}


class TestRules:
    """Rewrite rules are not run: COPY would not."""

    ALSO = "CREATE TABLE log (k int, v text); CREATE RULE r AS ON INSERT TO t DO ALSO INSERT INTO log VALUES (NEW.*)"
    NOTHING = "CREATE RULE r AS ON INSERT TO t DO INSTEAD NOTHING"
    WHERE = "CREATE RULE r AS ON INSERT TO t WHERE NEW.k = 2 DO INSTEAD NOTHING"

    @pytest.mark.parametrize("rule", [ALSO, NOTHING, WHERE])
    @pytest.mark.parametrize("staged", [True, False])
    @pytest.mark.parametrize("spec", [{}, {"mode": "replace"}, {"mode": "merge", "key": ["k"]}])
    def test_on_insert(
        self, dsn: str, file: Path, rule: str, staged: bool, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("loader.engine.job.STRAIGHT", 0 if staged else 24)
        monkeypatch.setattr("loader.postgres.merging.copy_rows.CHUNK", 16)
        query(dsn, f"CREATE TABLE t (k int PRIMARY KEY, v text); {rule}")
        report = load(dsn, file, 'k,v\n1,a\n2,"b\\\tc\n"\n3,\n4,""\n', **spec)
        assert counts(report) == {"read": 4, "inserted": 4}
        assert table(dsn) == [(1, "a"), (2, "b\\\tc\n"), (3, None), (4, "")]
        if rule == self.ALSO:
            assert table(dsn, "log") == []

    @ON_ALL
    def test_on_insert_beside_rows_that_are_there(self, dsn: str, file: Path) -> None:
        query(dsn, f"CREATE TABLE t (k int PRIMARY KEY, v text, CHECK (k <> 7)); {self.NOTHING}")
        load(dsn, file, "k,v\n1,a\n2,b\n")
        report = load(dsn, file, "k,v\n1,a\n2,new\n3,c\n7,x\n", mode="merge")
        assert counts(report) == {"read": 4, "inserted": 1, "updated": 1, "unchanged": 1, "rejected": 1}

    @pytest.mark.parametrize(("command", "mode"), [("UPDATE", "merge"), ("DELETE", "replace"), ("UPDATE", "replace")])
    def test_what_cannot_be_done_right_is_refused(self, dsn: str, file: Path, command: str, mode: str) -> None:
        query(dsn, f"CREATE TABLE t (k int PRIMARY KEY, v text); CREATE RULE r AS ON {command} TO t DO INSTEAD NOTHING")
        query(dsn, "CREATE TABLE other (k int REFERENCES t)")
        with pytest.raises(loader.TableError, match=f"rewrite rules on {command}"):
            load(dsn, file, "k,v\n1,a\n", mode=mode)
        assert query(dsn, "SELECT tablename FROM pg_tables WHERE tablename LIKE 'staging%'") == []
        assert counts(load(dsn, file, "k,v\n2,a\n")) == {"read": 1, "inserted": 1}

    def test_a_view_that_rules_make_writable_is_refused(self, dsn: str, file: Path) -> None:
        query(dsn, "CREATE TABLE base (k int, v text); CREATE VIEW t AS SELECT DISTINCT * FROM base")
        query(dsn, "CREATE RULE r AS ON INSERT TO t DO INSTEAD INSERT INTO base VALUES (NEW.*)")
        with pytest.raises(loader.TableError, match="is a view with rewrite rules on INSERT"):
            load(dsn, file, "k,v\n1,a\n")


class TestReasons:
    """`no_partition` is what the server's own partitioning says, nothing else."""

    @ON_ALL
    def test_a_triggers_own_violation(self, dsn: str, file: Path) -> None:
        query(dsn, "CREATE TABLE t (k int, v text) PARTITION BY RANGE (k)")
        query(dsn, "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (100)")
        query(dsn, TRIGGER.format("IF NEW.v = 'x' THEN RAISE 'no x' USING ERRCODE = 'check_violation'; END IF;"))
        query(dsn, "CREATE TRIGGER f AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()")
        report = load(dsn, file, "k,v\n1,a\n2,x\n100,b\n")
        assert report.rejects_by_reason == {"check_violation": 1, "no_partition": 1}

    def test_a_row_of_another_partition(self, dsn: str, file: Path) -> None:
        query(dsn, "CREATE TABLE parent (k int, v text) PARTITION BY RANGE (k)")
        query(dsn, "CREATE TABLE t PARTITION OF parent FOR VALUES FROM (0) TO (100)")
        report = load(dsn, file, "k,v\n1,a\n100,b\n")
        assert report.rejects_by_reason == {"no_partition": 1}
