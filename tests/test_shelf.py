"""The specs of a place: each by itself, and each by its whole path."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.s3 import FaultProxy

import loader
from loader.cli import main
from loader.core.errors import SourceUnavailableError, SpecError, UsageError
from loader.spec_store import FRESH, Held, SpecShelf, check_specs

GOOD = 'source = "{}"\ntable = "t"\n'
MISSPELT = GOOD + 'mod = "append"\n'

Write = Callable[[str, bytes], None]


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Write]:
    """Where specs may lie, and how one gets there."""
    if request.param == "folder":

        def write(name: str, data: bytes) -> None:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)

        return str(tmp_path), write
    s3 = request.getfixturevalue("s3")
    return s3.uri("specs/"), lambda name, data: s3.put(f"specs/{name}", data)


def put(place: tuple[str, Write], **specs: str | bytes) -> SpecShelf:
    for name, text in specs.items():
        place[1](f"{name}.toml", text if isinstance(text, bytes) else text.encode())
    return SpecShelf(place[0])


def test_a_wrong_spec_fails_the_keys_that_it_matches_and_no_others(place: tuple[str, Write]) -> None:
    """What is wrong with it is the reason, whole."""
    shelf = put(place, good=GOOD.format("good/*.csv"), other=MISSPELT.format("other/*.csv"))
    assert shelf.find("b", "good/a.csv").source == "good/*.csv"
    with pytest.raises(SpecError, match=r"other\.toml: mod: unknown key"):
        shelf.find("b", "other/a.csv")
    with pytest.raises(UsageError, match=r"b/third/a\.csv: no spec in .* matches it \(\"good\"\)$"):
        shelf.find("b", "third/a.csv")


@pytest.mark.parametrize(
    "text",
    [
        b'source = "*.csv',
        b"\xff\xfe",
        b'sorce = "*.csv"\ntable = "t"',
        b'source = 5\ntable = "t"',
        b"a = " + b"[" * 9999,
    ],
)
def test_a_spec_whose_source_is_unknown_fails_only_what_no_other_matches(place: tuple[str, Write], text: bytes) -> None:
    """It might have matched, so the error tells of it."""
    shelf = put(place, good=GOOD.format("good/*.csv"), other=text)
    assert shelf.find("b", "good/a.csv").table == "t"
    with pytest.raises(UsageError, match=r"no spec in .* matches it .*, unless one .* does: .*other\.toml: ") as caught:
        shelf.find("b", "other/a.csv")
    assert not caught.value.retryable


def test_a_wrong_spec_is_told_of_once_each_time_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(MISSPELT.format("a/*"))
    (tmp_path / "b.toml").write_text(GOOD.format("b/*"))
    told: list[Held] = []
    shelf = SpecShelf(str(tmp_path), tell=told.append)
    for _ in range(3):
        shelf.find("b", "b/1")
    assert [each.name for each in told] == ["a"]


def test_specs_are_known_by_their_whole_path(place: tuple[str, Write]) -> None:
    """One in a folder below does not take the place of one of the same name."""
    shelf = put(place, good=GOOD.format("a/*"), **{"z/good": GOOD.format("z/*")})
    assert [each.name for each in shelf.all()] == ["good", "z/good"]
    assert shelf.find("b", "a/1").source == shelf.named("good").source == "a/*"
    assert shelf.find("b", "z/1").source == shelf.named("z/good.toml").source == "z/*"
    with pytest.raises(UsageError, match=r'there is no spec "good2" .*did you mean "good"'):
        shelf.named("good2")


@pytest.mark.parametrize("second", [GOOD, MISSPELT])
def test_two_that_match_one_key_are_both_named(place: tuple[str, Write], second: str) -> None:
    """A wrong one, too."""
    shelf = put(place, good=GOOD.format("**.csv"), **{"z/good": second.format("**.csv")})
    with pytest.raises(UsageError, match=r"b/a\.csv: several specs match it: good, z/good"):
        shelf.find("b", "a.csv")


def test_a_wrong_spec_that_is_named_says_what_is_wrong(place: tuple[str, Write]) -> None:
    shelf = put(place, other=MISSPELT.format("other/*"))
    for _ in range(2):
        with pytest.raises(SpecError, match="mod: unknown key"):
            shelf.named("other")


def test_encodings(place: tuple[str, Write]) -> None:
    """UTF-8 with its mark is UTF-8. No other is guessed, and no byte replaced; the place is told."""
    text = GOOD.format("Köln/*")
    shelf = put(
        place,
        marked=codecs.BOM_UTF8 + text.encode(),
        latin=b'# in\n\ntable = "K\xf6ln"\n',
        wide=text.encode("utf-16"),
        wide_unmarked=text.encode("utf-16-le"),
    )
    assert shelf.named("marked").source == "Köln/*"
    problems = {each.name: each.problems for each in shelf.all()}
    assert problems == {
        "marked": (),
        "latin": ("not valid UTF-8 at byte 16 (counted from 0, in line 3: 0xF6); save the file as UTF-8",),
        "wide": ("not valid UTF-8 at byte 0: it begins with the mark of UTF-16; save the file as UTF-8",),
        "wide_unmarked": ("has a NUL at byte 1, so it is probably UTF-16; save the file as UTF-8",),
    }


class Faulty(SpecShelf):
    """Of a bucket that does not answer for one of its specs."""

    fails = True

    def _read(self, uri: str) -> str:
        if self.fails and uri.endswith("absent.toml"):
            raise SourceUnavailableError(f"{uri}: S3 did not answer")
        return super()._read(uri)


def test_a_spec_that_s3_does_not_give_is_asked_for_again(s3: Any) -> None:
    """Until then, what another spec matches is loaded, and the rest may be tried again."""
    s3.put("specs/absent.toml", GOOD.format("absent/*").encode())
    s3.put("specs/good.toml", GOOD.format("good/*").encode())
    shelf = Faulty(s3.uri("specs/"))
    with pytest.raises(SourceUnavailableError) as caught:
        shelf.find("b", "absent/1")
    assert caught.value.retryable
    assert shelf.find("b", "good/1").source == "good/*"
    shelf.fails = False
    assert shelf.find("b", "absent/1").source == "absent/*"


def test_a_key_without_a_spec_has_them_read_again(s3: Any) -> None:
    """Its spec may have come a moment after the others were read."""
    s3.put("specs/good.toml", GOOD.format("good/*").encode())
    shelf = SpecShelf(s3.uri("specs/"))
    shelf.find("b", "good/1")
    s3.put("specs/new.toml", GOOD.format("new/*").encode())
    assert shelf._read_at is not None
    shelf._read_at -= 6  # seconds pass
    assert shelf.find("b", "new/1").source == "new/*"


# --- specs check


def test_specs_that_have_not_changed_are_not_read_again(s3: Any, fault_proxy: FaultProxy) -> None:
    """There may be hundreds, and each costs two requests. One that has changed, is new or was deleted is seen."""
    for name in ("same", "changed", "deleted"):
        s3.put(f"specs/{name}.toml", GOOD.format(f"{name}/*").encode())
    shelf = SpecShelf(s3.uri("specs/"))
    s3.put("specs/wrong.toml", MISSPELT.format("wrong/*").encode())
    assert len(shelf.all()) == 4
    s3.put("specs/changed.toml", GOOD.format("other/*").encode())
    s3.put("specs/new.toml", MISSPELT.format("new/*").encode())
    s3.delete("specs/deleted.toml")
    fault_proxy.requests.clear()
    assert shelf._read_at is not None
    shelf._read_at -= FRESH + 1  # seconds pass
    assert [(held.name, held.asks and held.asks.source) for held in shelf.all()] == [
        ("changed", "other/*"),
        ("new", "new/*"),
        ("same", "same/*"),
        ("wrong", "wrong/*"),
    ]
    read = [(each.method, each.key) for each in fault_proxy.requests if each.key]
    assert read == [(method, f"specs/{name}.toml") for name in ("changed", "new") for method in ("HEAD", "GET")]


def test_every_problem_of_every_spec(place: tuple[str, Write], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2; the specs that are right are listed, too."""
    put(
        place,
        good=GOOD.format("good/*.csv"),
        **{"z/two": 'source = "two/*"\ntable = "loader.loads"\nmod = "append"\n', "broken": "a = ["},
    )
    assert main(["specs", "check", place[0], "--json"]) == 2
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert found["good"]["problems"] == []
    assert [each.split(":")[0] for each in found["z/two"]["problems"]] == ["mod", "table"]
    assert found["broken"]["problems"][0].startswith("not valid TOML")
    assert (found["z/two"]["source"], found["broken"]["source"]) == ("two/*", None)
    assert found == {each["name"]: each for each in loader.check_specs(place[0])}
    assert main(["specs", "check", place[0]]) == 2
    out, err = capsys.readouterr()
    assert "good: ok" in out.splitlines()
    assert "  - mod: unknown key" in out
    assert "3 specs, 2 of them wrong" in err


def test_specs_that_are_right(place: tuple[str, Write]) -> None:
    put(place, one=GOOD.format("one/*"), two=GOOD.format("two/**/*.csv"), three='table = "named_only"\n')
    assert main(["specs", "check", place[0]]) == 0


@pytest.mark.parametrize(
    ("first", "second", "key"),
    [
        ("in/*.csv", "in/*.csv", "in/x.csv"),
        ("in/**", "in/*.csv", "in/x.csv"),
        ("in/a.csv", "in/?.csv", "in/a.csv"),
        ("s3://bucket/in/*", "in/**/*", "in/x"),
        ("s3://bucket/in/*", "s3://other/in/*", None),
        ("in/*.csv", "in/*.txt", None),
    ],
)
def test_overlaps_that_can_be_seen(tmp_path: Path, first: str, second: str, key: str | None) -> None:
    (tmp_path / "a.toml").write_text(GOOD.format(first))
    (tmp_path / "b.toml").write_text(GOOD.format(second))
    problems = [problem for each in check_specs(str(tmp_path)) for problem in each["problems"]]
    assert len(problems) == (2 if key else 0)
    assert all(f'such as "{key}"' in each for each in problems)


def test_a_place_without_specs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["specs", "check", str(tmp_path)]) == 2
    assert "there is no spec in" in capsys.readouterr().err
    assert main(["specs", "check", str(tmp_path / "nosuch")]) == 2
