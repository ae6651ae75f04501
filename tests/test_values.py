"""How messages show values and other people's texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.postgres import query

import loader
from loader.cli import main
from loader.core.display import LONGEST, SHOWN, brief, printable, shown, to_json

UNSAFE = "\x00\x1b\x7f\x85\u202e\u2066\u2028\ufeff\ud800"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", '"a"'),
        (None, "NULL"),
        (b"caf\xe9", '"caf\\xe9"'),
        ("a\tb\n\x1b[31m\u202egnp", '"a\\tb\\n\\x1b[31m\\u202egnp"'),
        ("x" * SHOWN, f'"{"x" * SHOWN}"'),
        ("x" * 100, f'"{"x" * SHOWN}…"'),
        (b"PK\x03\x04" * 1000, '"' + "PK\\x03\\x04" * 6 + '…"'),
        ("é" * 100, f'"{"é" * SHOWN}…"'),
    ],
)
def test_a_value_is_shown_short_and_safe(value: str | bytes | None, expected: str) -> None:
    """In double quotes, as PostgreSQL does; an escape is never cut in two."""
    assert shown(value) == expected


@given(st.one_of(st.text(), st.binary()))
def test_whatever_is_shown_fits(value: str | bytes) -> None:
    """No value makes more of a message than that, and nothing of it acts on a terminal."""
    text = shown(value)
    assert len(text) <= SHOWN + 3
    assert printable(text) == text


@pytest.mark.parametrize(
    ("message", "values", "expected"),
    [
        ('invalid input syntax for type integer: "%s"', (), 'invalid input syntax for type integer: "%s"'),
        ("Key (a, b)=(1, %s) already exists.", (), "Key (a, b)=(%s) already exists."),
        ("Failing row contains (%s).", (), "Failing row contains (%s)."),
        ('Key (k)=(%s) is not present in table "r".', (), 'Key (k)=(%s) is not present in table "r".'),
        ("not liked by a trigger: %s, says it", ("%s",), "not liked by a trigger: %s, says it"),
        ("the pattern '%s' doesn't end, isn't it", (), "the pattern '%s' doesn't end, isn't it"),
    ],
)
def test_a_message_of_somebody_else_is_cut_at_its_values(message: str, values: tuple[str, ...], expected: str) -> None:
    """Wherever PostgreSQL puts them, and wherever one is known."""
    long = "x" * 1_000_000
    told = brief(message.replace("%s", long), [each.replace("%s", long) for each in values])
    prefix = "1, " if "1, %s" in message else ""
    assert told == expected.replace("%s", (prefix + long)[:SHOWN] + "…")


def test_a_message_that_shows_no_value_stays() -> None:
    """Sentences with apostrophes, names and brackets are not mistaken for values."""
    message = (
        "the table's column \"a\" isn't one (of 3) that anybody's file of today's date has, is it, so it's left as it's"
    )
    assert brief(message) == message
    assert len(brief("y" * 10_000)) == LONGEST + 1


def test_json_is_the_same_document() -> None:
    """Only its spelling is safe: no control or bidirectional character is raw."""
    text = to_json({"a": UNSAFE, "b": "é"})
    assert json.loads(text) == {"a": UNSAFE, "b": "é"}
    assert printable(text) == text


def messages(dsn: str) -> list[str]:
    told = "SELECT message FROM loader.rejects UNION ALL SELECT error FROM loader.loads WHERE error IS NOT NULL"
    return [message for (message,) in query(dsn, told)]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("a int", "x" * 100_000),
        ("a int", "1" * 100_000),
        ("a numeric(3)", "1" * 5000),
        ("a date", "y" * 5000),
        ("a jsonb", '{"k": ' + "z" * 5000),
        ("a int[]", "{" + "q" * 5000),
        ("a uuid", "u" * 5000),
        ("a varchar(5)", "v" * 5000),
        ("a text CHECK (a <> '" + "c" * 2000 + "')", "c" * 2000),
        ("a inet", "\u202e" * 5000),
        ("a int", "\x1b[31m" * 500),
    ],
)
def test_no_reject_shows_a_long_value(dsn: str, tmp_path: Path, column: str, value: str) -> None:
    """Whoever refuses it, and on whichever lane; its raw text is kept whole."""
    query(dsn, f"CREATE TABLE t ({column}, b int)")
    path = tmp_path / "t.csv"
    path.write_text('a,b\n"' + value.replace('"', '""') + '",1\n')
    report = loader.load(str(path), {"table": "t", "rejects": {"max_ratio": 1.0}}, dsn=dsn)
    assert report.rows_rejected == 1
    (message,) = messages(dsn)
    check(message, value)
    assert query(dsn, "SELECT raw_length FROM loader.rejects")[0][0] > len(value)


def check(message: str, value: str) -> None:
    assert len(message) <= LONGEST + 1
    assert value[: SHOWN + 1] not in message
    assert printable(message) == message
    assert "b'" not in message


def test_no_detail_shows_a_long_value(dsn: str, tmp_path: Path) -> None:
    """Of a unique index, a trigger and the rows of a merge."""
    value = "k" * 2000
    query(dsn, "CREATE TABLE t (a text UNIQUE, b text)")
    query(
        dsn,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.b <> 'fine' THEN RAISE EXCEPTION 'no % here', NEW.b; END IF; RETURN NEW; END $$",
    )
    query(dsn, "CREATE TRIGGER refuse BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION refuse()")
    path = tmp_path / "t.csv"
    path.write_text(f"a,b\n{value},fine\n{value},fine\nother,{value}\n")
    report = loader.load(str(path), {"table": "t", "rejects": {"max_ratio": 1.0}}, dsn=dsn)
    assert (report.rows_inserted, report.rows_rejected) == (1, 2)
    for message in messages(dsn):
        check(message, value)


def test_an_error_shows_a_name_of_the_header_short_and_safe(dsn: str, tmp_path: Path, capsys: Any) -> None:
    """And the name of the file as it can be printed."""
    path = tmp_path / "a\u202eb\x1b[31m.csv"
    name = "n" * 5000
    path.write_text(f"{name}\n1\n")
    query(dsn, "CREATE TABLE t (a int)")
    with pytest.raises(loader.ShapeError) as caught:
        loader.load(str(path), {"table": "t", "columns": {"a": {"type": "int", "from": name + "x"}}}, dsn=dsn)
    check(str(caught.value), name)
    for arguments in (["load", str(path), "--table", "t"], ["status"], ["status", "1"], ["status", "--json"]):
        main([*arguments, "--dsn", dsn])
        told = capsys.readouterr()
        for text in (told.out, told.err):
            assert printable(text, lines=True) == text


def test_a_spec_that_is_printed_is_safe_and_the_same() -> None:
    """TOML has escapes for what a header may hold."""
    names = ['a\u202e\\" b\x1b', "c\x7f", "d'\u2066", 'plain "quotes"']
    columns = {f"c{number}": {"type": "text", "from": name} for number, name in enumerate(names)}
    spec = loader.LoadSpec.from_dict({"table": "t", "columns": columns})
    text = spec.to_toml()
    assert printable(text, lines=True) == text
    assert loader.LoadSpec.from_toml_text(text) == spec
