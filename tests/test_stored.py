"""What another version of the program stored: keys that are new to this one, and keys that are missing."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support.postgres import query

import loader
from loader.core.errors import PausedError, SpecError
from loader.core.report import LoadReport
from loader.core.stored import StoredFormError, read_report, read_stored
from loader.ledger import checkpoints, ledger
from loader.ledger.checkpoints import Checkpoint, Counts, Found
from loader.pipeline import How, load
from loader.postgres.database import Database
from loader.records.block import Place
from loader.sharding import runs
from loader.sharding.messages import ShardPlan, ShardReport
from loader.sharding.shards import finish, load_shard, plan_shards

LATER = {"of a later version": {"what": ["not", "known"]}}

FORMS: dict[Any, dict[str, Any]] = {
    ShardPlan: ShardPlan("split", "s3://b/k", {"table": "t"}, ranges=((0, 5), (5, 9)), size=9).to_dict(),
    ShardReport: ShardReport(1, 2, 3, 4, records=5, kept=5).to_dict(),
    LoadReport: LoadReport("loaded", "t.csv", "t", "append", notes=("one",)).to_dict(),
}


def reader(kind: Any) -> Any:
    return read_report if kind is LoadReport else kind.from_dict


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("kind", FORMS)
def test_unknown_keys_are_ignored(kind: Any) -> None:
    stored = as_json(FORMS[kind])
    assert reader(kind)({**stored, **LATER}) == reader(kind)(stored)
    assert reader(kind)(stored).to_dict() == FORMS[kind]


@pytest.mark.parametrize("kind", FORMS)
def test_missing_keys_have_their_defaults(kind: Any) -> None:
    """Those without which the rest means nothing are asked for in a sentence, and the caller may try again."""
    stored = as_json(FORMS[kind])
    needed = {each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING}
    for name in stored:
        rest = {key: value for key, value in stored.items() if key != name}
        if name in needed:
            with pytest.raises(StoredFormError, match=f'lacks "{name}"') as caught:
                reader(kind)(rest)
            assert caught.value.retryable
        else:
            made = reader(kind)(rest).to_dict()
            assert made == {**FORMS[kind], name: made[name]}


@pytest.mark.parametrize("stored", [None, [], "text", 7])
def test_what_is_no_mapping_is_refused(stored: Any) -> None:
    with pytest.raises(StoredFormError, match="not a mapping"):
        read_stored(Found, stored, what="a finding")


def test_ranges_that_are_none() -> None:
    for ranges in ([1, 2], [["a", "b"]], 5, [[1, 2, 3]]):
        with pytest.raises(StoredFormError, match="ranges"):
            ShardPlan.from_dict({**FORMS[ShardPlan], "ranges": ranges})


def test_a_stored_spec() -> None:
    """A setting that is new and says nothing is ignored; of one that says something, the meaning is not known."""
    stored = as_json(loader.LoadSpec.from_dict({"table": "t", "columns": {"a": "int"}}).to_dict())
    spec = loader.LoadSpec.from_stored(stored, origin="load 1's spec")
    quiet = {**stored, "later": {"one": None, "two": ""}, "csv": {**stored["csv"], "other": False}}
    assert loader.LoadSpec.from_stored(quiet, origin="load 1's spec") == spec
    for told in (
        {**stored, "later": {"max_bytes": 5}},
        {**stored, "csv": {**stored["csv"], "digits": ","}},
        {**stored, "columns": {"a": {"type": "int", "unit": "m"}}},
    ):
        with pytest.raises(StoredFormError, match=r"^load 1's spec: has the setting \"[a-z.]+\", which this version"):
            loader.LoadSpec.from_stored(told, origin="load 1's spec")
    with pytest.raises(SpecError):
        loader.LoadSpec.from_stored([], origin="load 1's spec")  # type: ignore[arg-type]


# --- in the ledger


@pytest.fixture
def checkpoint(dsn: str, tmp_path: Path) -> tuple[str, Checkpoint]:
    """A file whose load has come to rest behind a checkpoint, and that."""
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f"{number},{'x' * 100}\n" for number in range(60_000)))
    query(dsn, "CREATE TABLE t (a bigint PRIMARY KEY, b text)")
    query(dsn, "INSERT INTO t VALUES (0, 'x')")
    assert resting(dsn, path)
    with psycopg2.connect(dsn) as connection:
        found = checkpoints.find(connection, 1)
    connection.close()
    assert found is not None
    assert found.counts.read > 0
    return str(path), found


SPEC = {"table": "t", "mode": "merge", "segment_mb": 1}


def resting(dsn: str, path: Path) -> PausedError:
    from loader.core.deadline import Deadline
    from loader.engine.counters import Progress
    from loader.pipeline import How, load_one

    deadline = Deadline()

    def stop(progress: Progress) -> None:
        if progress.rows > 30_000:
            deadline.stop("it was told to stop")

    with pytest.raises(PausedError) as caught:
        load_one(
            str(path), loader.LoadSpec.from_dict(SPEC), Database(dsn), How(progress=stop, deadline=deadline, threads=1)
        )
    return caught.value


def test_a_checkpoint_with_unknown_keys_is_gone_on_with(dsn: str, checkpoint: tuple[str, Checkpoint]) -> None:
    path, before = checkpoint
    with psycopg2.connect(dsn) as connection:
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE loader.checkpoints SET found = (found::jsonb || '{\"later\": 1}')::text::json,"
                " tally = ((tally::jsonb - 'long') || '{\"later\": 0}')::text::json"
            )
        assert checkpoints.find(connection, 1) == before
    connection.close()
    report = load(path, SPEC, dsn=dsn)
    assert (report.rows_read, report.resumes) == (60_000, 1)


@pytest.mark.parametrize(
    "change",
    ["tally = (tally::jsonb || '{\"vanished\": 3}')::text::json", "found = 'null'", "tally = '[]'"],
)
def test_a_checkpoint_whose_meaning_is_not_known_begins_anew(
    dsn: str, checkpoint: tuple[str, Checkpoint], change: str
) -> None:
    """Records that this version cannot count would be missing in the load's sum."""
    query(dsn, f"UPDATE loader.checkpoints SET {change}")
    report = load(checkpoint[0], SPEC, dsn=dsn)
    assert (report.state, report.rows_read, report.resumes) == ("loaded", 60_000, 0)
    assert query(dsn, "SELECT count(*) FROM t") == [(60_000,)]


def test_counts_and_findings_keep_their_names() -> None:
    """Processes of other versions read them."""
    assert list(asdict(Counts())) == ["read", "kept", "filtered", "short", "long", "swallowed"]
    assert list(asdict(Found())) == ["careful", "staged", "widened", "defaults"]
    assert asdict(Place()) == {"offset": 0, "record": 1, "line": 1, "fields": None}


def test_a_ledger_of_a_later_version_is_left_as_it_is(dsn: str, tmp_path: Path) -> None:
    """A process of the version before goes on with it."""
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n")
    assert load(str(path), {"table": "t"}, dsn=dsn).state == "loaded"
    query(dsn, "INSERT INTO loader.schema_version (version) VALUES (%s)", ledger.SCHEMA_VERSION + 1)
    query(dsn, "ALTER TABLE loader.loads ADD COLUMN later text DEFAULT 'x'")
    path.write_text("a\n2\n")
    assert load(str(path), {"table": "t"}, dsn=dsn).state == "loaded"
    with psycopg2.connect(dsn) as connection:
        assert ledger.is_current(connection)
        assert [each["state"] for each in ledger.history(connection)] == ["loaded", "loaded"]
    connection.close()


def test_shards_of_a_later_version(dsn: str, tmp_path: Path) -> None:
    """Plan, reports and findings with keys that are new: load and finish by them. A report that cannot be read is one
    that is not there, and so is an open plan."""
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f"{number},x\n" for number in range(2_000)))
    spec, database = loader.LoadSpec.from_dict({"table": "t"}), Database(dsn)
    try:
        made = plan_shards(str(path), spec, database, shards=2).to_dict()
        plan = ShardPlan.from_dict(
            as_json({**made, **LATER, "found": {**made["found"], **LATER}, "spec": {**made["spec"], "later": None}})
        )
        reports = [load_shard(plan, number, database) for number in (0, 1)]
        query(dsn, "UPDATE loader.shards SET report = (report::jsonb || '{\"later\": 1}')::text::json")
        query(dsn, "UPDATE loader.loads SET shard_plan = (shard_plan::jsonb || '{\"later\": 1}')::text::json")
        with database.session() as connection:
            assert runs.reports(connection, plan) == reports
        assert finish(plan, None, database).rows_read == 2_000

        again = plan_shards(str(path), spec, database, shards=2, how=How(force=True, token="a"))
        load_shard(again, 0, database)
        query(dsn, "UPDATE loader.shards SET report = (report::jsonb - 'run')::text::json")
        query(
            dsn, "UPDATE loader.loads SET shard_plan = (shard_plan::jsonb - 'spec')::text::json WHERE state <> 'loaded'"
        )
        with database.session() as connection:
            assert runs.reports(connection, again) == []
            assert runs.find_summary(connection, again.load_id or 0) is None
        anew = plan_shards(str(path), spec, database, shards=2, how=How(force=True, token="a"))
        assert (anew.load_id, anew.attempt) == (again.load_id, again.attempt + 1)
    finally:
        database.close()
