"""What stands among the data and holds no records does not fail the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.postgres import query

import loader
from loader.aws.events import Ignored, ObjectCreated, told_by
from loader.cli import main
from loader.core.errors import SourceNotFoundError
from loader.sources.folder_markers import is_left_out, is_marker
from loader.sources.source import expand

MARKERS = {
    "in/": b"",
    "in/deep/": b"",
    "in/_SUCCESS": b"",
    "in/_SUCCESS.crc": b"",
    "in/_committed_123": b'{"added": []}',
    "in/_started_123": b"",
    "in/deep_$folder$": b"",
    "in/.DS_Store": b"\x00\x00\x00\x01Bud1",
    "in/._a.csv": b"\x00\x05\x16\x07",
    "in/.part-0.csv.crc": b"crc\x00",
    "in/.hidden.csv": b"id\n9\n",
    "in/_temporary/0/part-0.csv": b"id\n9\n",
    "in/_delta_log/0.json": b"{}",
    "in/Thumbs.db": b"\xd0\xcf\x11\xe0",
}
DATA = {"in/a.csv": b"id\n1\n", "in/_b.csv": b"id\n2\n", "in/deep/c.csv": b"id\n3\n"}


def test_a_prefix_of_s3_is_its_data(dsn: str, s3: Any) -> None:
    """The note names what was left out; a name that begins with "_" and holds data is data."""
    for key, data in {**MARKERS, **DATA}.items():
        s3.put(key, data)
    report = loader.load(s3.uri("in/"), {"table": "t"}, dsn=dsn)
    assert (report.state, report.rows_inserted) == ("loaded", 3)
    (note,) = [each for each in report.notes if "left out" in each]
    assert note.startswith(f"{s3.uri('in/')}: {len(MARKERS)} names were left out, for they stand for no data: ")
    assert expand(s3.uri("in/**")) == [s3.uri(each) for each in sorted(DATA)]


def test_a_glob_of_files_is_its_data(dsn: str, tmp_path: Path, capsys: Any) -> None:
    """On the command line the note goes to standard error."""
    for name, data in (("_SUCCESS", b""), ("a.csv", b"id\n1\n"), ("b_$folder$", b"")):
        (tmp_path / name).write_bytes(data)
    assert main(["load", f"{tmp_path}/*", "--table", "t", "--dsn", dsn]) == 0
    left_out = f'"{tmp_path}/_SUCCESS", "{tmp_path}/b_$folder$"'
    if len(str(tmp_path)) < 48:
        assert left_out in capsys.readouterr().err
    else:
        assert f"{tmp_path}/*: 2 names were left out, for they stand for no data: " in capsys.readouterr().err
    assert query(dsn, "SELECT * FROM t") == [(1,)]


def test_what_holds_nothing_else_is_not_found(tmp_path: Path, s3: Any) -> None:
    """And what was left out is named."""
    (tmp_path / "_SUCCESS").write_bytes(b"")
    s3.put("in/_SUCCESS", b"")
    s3.put("in/", b"")
    for uri in (f"{tmp_path}/*", s3.uri("in/")):
        with pytest.raises(SourceNotFoundError, match=r"matches\. (?:1 name|2 names).* left out"):
            expand(uri)


def test_what_is_named_itself_is_taken(dsn: str, tmp_path: Path, s3: Any) -> None:
    """An empty file has no header, and fails; in a folder, too, where it has a data file's name."""
    s3.put("in/_SUCCESS", b"")
    (tmp_path / "part-0.csv").write_bytes(b"")
    (tmp_path / ".hidden.csv").write_bytes(b"id\n1\n")
    for uri in (s3.uri("in/_SUCCESS"), f"{tmp_path}/*.csv"):
        with pytest.raises(loader.ShapeError, match="the file is empty; a header was expected"):
            loader.load(uri, {"table": "t"}, dsn=dsn)
    assert loader.load(f"{tmp_path}/.hid*", {"table": "t"}, dsn=dsn).rows_inserted == 1


@pytest.mark.parametrize(
    ("key", "pattern", "expected"),
    [
        (".in/a.csv", ".in/", False),
        ("x/.in/a.csv", "x/", True),
        ("x/.in/a.csv", "x/.in/*.csv", False),
        ("x/.in/a.csv", "**/a.csv", True),
        ("x/_a.csv", "x/*", False),
        ("_temporary/a.csv", "*/a.csv", True),
        ("_temporary/a.csv", "_temporary/", False),
        ("_temporary/a.csv", "_*/a.csv", False),
    ],
)
def test_what_a_pattern_asks_for_is_meant(key: str, pattern: str, *, expected: bool) -> None:
    """A hidden folder that it names is no reason to leave anything out."""
    assert is_left_out(key, 1, pattern) is expected


@pytest.mark.parametrize("eventbridge", [False, True])
@pytest.mark.parametrize(
    ("key", "size", "ignored"),
    [
        ("in/", 0, True),
        ("in/_SUCCESS", 0, True),
        ("in/_SUCCESS", 12, True),
        ("in/.DS_Store", 6148, True),
        ("in/a.csv", 0, False),
        ("in/_a.csv", 10, False),
        ("in/.a.csv", 10, False),
        ("in/a.csv", None, False),
    ],
)
def test_an_event_of_a_marker_asks_for_nothing(key: str, size: int | None, *, ignored: bool, eventbridge: bool) -> None:
    """Of an empty data file it does: that fails, and is seen."""
    stored = {"key": key} | ({} if size is None else {"size": size})
    if eventbridge:
        detail = {"bucket": {"name": "b"}, "object": stored}
        event: dict[str, Any] = {"source": "aws.s3", "detail-type": "Object Created", "detail": detail}
    else:
        s3 = {"bucket": {"name": "b"}, "object": stored}
        event = {"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": s3}]}
    (told,) = told_by(event)
    if ignored:
        assert isinstance(told, Ignored)
        assert told.to_dict()["why"] == "it stands for no data"
    else:
        assert isinstance(told, ObjectCreated)
    assert is_marker(key, size) is ignored
