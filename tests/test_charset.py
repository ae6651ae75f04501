"""The suggestion of an encoding: right, or not made.

Of these same bytes charset-normalizer 3.5 calls not one of the Western ones cp1252, but cp1250, cp1006, big5, cp932 or
UTF-16, and of the others six of 21 by their names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.postgres import query

import loader
from loader.sources.encoding_guess import suggest_encoding

WESTERN = [
    "name,city\nJosé,São Paulo\nMüller,Köln\n",
    "Größe,Straße\n",
    "prénom\nFrançois\nChloé\nNoël\n",
    "it’s “quoted” – and 5 €\n",
    "año\nniño\n",
    "Ærø,blåbær,Ålesund\n",
    "21 °C,5 m²,£5,½\n",
    "naïve café\n",
    "città,perché,è\n",
    "créée,DÉJÀ VU\n",
    "a\xa0b\n",
]

OTHERS = [
    ("名前,値\n東京,日本\n", "shift_jis"),
    ("カタカナ,ひらがな\n", "shift_jis"),
    ("ア,イ\n", "shift_jis"),
    ("名前,値\n東京\n", "euc-jp"),
    ("姓名,城市\n张伟,北京\n", "gbk"),
    ("中,国\n", "gbk"),
    ("姓名,城市\n", "big5"),
    ("이름,도시\n서울\n", "euc-kr"),
    ("имя,город\nМосква\n", "cp1251"),
    ("имя,город\nМосква\n", "koi8-r"),
    ("я,и\n", "cp1251"),
    ("όνομα,πόλη\n", "cp1253"),
    ("שם,עיר\n", "cp1255"),
    ("اسم,مدينة\n", "cp1256"),
    ("ชื่อ\n", "cp874"),
    ("Łódź,Kraków,Świętosław\n", "cp1250"),
    ("příklad,žluťoučký kůň,měření\n", "cp1250"),
    ("hosszú fűszoknya,őrült\n", "cp1250"),
    ("Ağrı,Iğdır,şehir\n", "cp1254"),
    ("café,Müller\n", "cp437"),
    ("café,Müller\n", "mac-roman"),
]


@pytest.mark.parametrize("text", WESTERN)
def test_windows_1252_is_suggested(text: str) -> None:
    """For whole files and for single records."""
    expected = '; it looks like Windows-1252: set encoding = "cp1252"'
    for data in (text.encode("cp1252"), *(line.encode("cp1252") for line in text.split("\n"))):
        assert suggest_encoding(data) == (expected if max(data, default=0) > 0x7F else "")


@pytest.mark.parametrize(("text", "encoding"), OTHERS)
def test_nothing_is_suggested_for_another_encoding(text: str, encoding: str) -> None:
    """Not even of a few bytes."""
    assert suggest_encoding(text.encode(encoding)) == ""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"plain\n",
        "é".encode(),
        "naïve,Ünïcödé".encode()[:-1],
        b"\xff\xfe\xfd",
        b"a\x81b",
        b"\x00\x01\x02",
        b"a\0b",
    ],
)
def test_nothing_is_suggested_for_what_is_no_text(data: bytes) -> None:
    """Nor for UTF-8 that was cut, nor for a single NUL."""
    assert suggest_encoding(data) == ""


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", ["id,name\n1,a\n", "id,名前\n1,東京\n", "größe\n5 €\n"])
def test_wide_characters_are_known_by_their_nuls(text: str, encoding: str) -> None:
    """From the beginning of the file on."""
    name = encoding[:6].upper()
    assert suggest_encoding(text.encode(encoding)) == f'; it looks like {name}: set encoding = "{encoding}"'


def load(dsn: str, path: Path, data: bytes, **spec: Any) -> str:
    path.write_bytes(data)
    with pytest.raises(loader.LoaderError) as caught:
        loader.load(str(path), {"table": "t", **spec}, dsn=dsn)
    return str(caught.value)


@pytest.mark.parametrize(
    ("encoding", "name"), [("cp1252", "Windows-1252"), ("utf-16-le", "UTF-16"), ("utf-16-be", "UTF-16")]
)
def test_a_header_that_is_not_utf_8_gives_the_suggestion(dsn: str, tmp_path: Path, encoding: str, name: str) -> None:
    """And with it the file loads."""
    path = tmp_path / "t.csv"
    data = "größe,name\n5,Müller\n".encode(encoding)
    assert load(dsn, path, data).endswith(f'; it looks like {name}: set encoding = "{encoding}"')
    assert loader.load(str(path), {"table": "t", "csv": {"encoding": encoding}}, dsn=dsn).rows_inserted == 1


@pytest.mark.parametrize(("text", "encoding"), [("名前,値\n", "shift_jis"), ("имя,город\n", "cp1251")])
def test_a_header_of_another_encoding_gives_none(dsn: str, tmp_path: Path, text: str, encoding: str) -> None:
    """The message ends with what is wrong, and shows no bytes literal."""
    message = load(dsn, tmp_path / "t.csv", text.encode(encoding))
    assert message.endswith(", is not valid UTF-8")
    assert "b'" not in message


def test_rejects_that_are_not_utf_8_give_the_suggestion_once(dsn: str, tmp_path: Path) -> None:
    """In the failure of the load, not in each reject."""
    path = tmp_path / "t.csv"
    message = load(dsn, path, b"id,name\n" + b"".join(b"%d,Caf\xe9 %d\n" % (n, n) for n in range(300)))
    expected = '(300); it looks like Windows-1252: set encoding = "cp1252"; 300 were counted'
    assert expected in message
    assert query(dsn, "SELECT count(*) FROM loader.rejects WHERE message LIKE '%%looks like%%'") == [(0,)]
    few = load(dsn, path, b"id,name\n1,Caf\xe9\n" + b"x\n" * 5)
    assert "looks like" not in few


def test_a_file_in_the_encoding_that_was_asked_for_gives_none(dsn: str, tmp_path: Path) -> None:
    """There is no better one to suggest."""
    message = load(dsn, tmp_path / "t.csv", b"id,name\n1,Caf\xe9\x81\n", csv={"encoding": "ascii"})
    assert "looks like" not in message
    message = load(dsn, tmp_path / "t.csv", b"id,name\n1,Caf\xe9\n", csv={"encoding": "gbk"})
    assert "looks like" not in message
