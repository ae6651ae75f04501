"""Small odd files, after kinds met in public trackers, loaded with no option at all: as a person would say."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support.clock import PATIENCE
from support.commands import run
from support.postgres import fresh_database, query

import loader
from loader.convert.infer import infer_spec
from loader.core.spec.model import LoadSpec
from loader.records.reading.sniffer import sniff
from loader.sources.source import open_source
from loader.sources.standard_input import spool

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Odd:
    """``columns``: names and types as a person would declare them. ``rows``: as texts, in the file's order."""

    name: str
    data: str | bytes
    columns: dict[str, str]
    rows: Rows

    @property
    def bytes(self) -> bytes:
        return self.data.encode() if isinstance(self.data, str) else self.data


N, T, D = "bigint", "text", "numeric"

ODD = [
    # delimiters
    Odd("tab", "id\tname\n1\tAnn\n2\tBob\n", {"id": N, "name": T}, [("1", "Ann"), ("2", "Bob")]),
    Odd("bar", "id|name|n\n1|Ann, A.|5\n2|Bob; B.|6\n", {"id": N, "name": T, "n": N},
        [("1", "Ann, A.", "5"), ("2", "Bob; B.", "6")]),
    Odd("comma_blank", 'id, name, n\n1, Ann, 5\n2, "Lee, Bob", 6\n', {"id": N, "name": T, "n": N},
        [("1", "Ann", "5"), ("2", "Lee, Bob", "6")]),
    Odd("two_bars", "id||name||n\n1||a|b||5\n2||c||6\n", {"id": N, "name": T, "n": N},
        [("1", "a|b", "5"), ("2", "c", "6")]),
    Odd("bar_tilde", "id|~|name\n1|~|Ann\n2|~|Bob\n", {"id": N, "name": T}, [("1", "Ann"), ("2", "Bob")]),
    Odd("padded_bars", "id | name | n\n1 | Ann | 5\n2 | Bob | 6\n", {"id": N, "name": T, "n": N},
        [("1", "Ann", "5"), ("2", "Bob", "6")]),
    Odd("caret", "id^name\n1^Ann\n2^Bob\n", {"id": N, "name": T}, [("1", "Ann"), ("2", "Bob")]),
    Odd("hive", "1\x01Ann\x015.5\n2\x01Bob\x016.5\n", {"column_1": N, "column_2": T, "column_3": D},
        [("1", "Ann", "5.5"), ("2", "Bob", "6.5")]),
    Odd("sep_line", "sep=;\r\nid;x\r\n1;a,b\r\n2;c\r\n", {"id": N, "x": T}, [("1", "a,b"), ("2", "c")]),
    Odd("passwd", "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000:Ann,,,:/home/ann:/bin/sh\n",
        {"column_1": T, "column_2": T, "column_3": N, "column_4": N, "column_5": T, "column_6": T, "column_7": T},
        [("root", "x", "0", "0", "root", "/root", "/bin/bash"),
         ("ann", "x", "1000", "1000", "Ann,,,", "/home/ann", "/bin/sh")]),
    Odd("times_in_columns", "start,end\n10:00:00,10:05:00\n10:05:00,10:15:00\n", {"start": T, "end": T},
        [("10:00:00", "10:05:00"), ("10:05:00", "10:15:00")]),
    # quotes and escapes
    Odd("single_quotes", "id,name\n1,'Lee, Ann'\n2,'Bob'\n", {"id": N, "name": T}, [("1", "Lee, Ann"), ("2", "Bob")]),
    Odd("apostrophes", "id,name\n1,O'Neill\n2,'t Hooft\n", {"id": N, "name": T}, [("1", "O'Neill"), ("2", "'t Hooft")]),
    Odd("backslash", 'id,said\n1,"say \\"hi, all\\" now"\n2,"no"\n', {"id": N, "said": T},
        [("1", 'say "hi, all" now'), ("2", "no")]),
    Odd("inches", 'size\tn\n5" pipe\t1\n6" pipe\t2\n7 pipe\t3\n', {"size": T, "n": N},
        [('5" pipe', "1"), ('6" pipe', "2"), ("7 pipe", "3")]),
    Odd("newlines", 'id;text\n1;"two\nlines; and more"\n2;"x"\n', {"id": N, "text": T},
        [("1", "two\nlines; and more"), ("2", "x")]),
    Odd("doubled", 'id,x\n1,"a ""b"", c"\n2,d\n', {"id": N, "x": T}, [("1", 'a "b", c'), ("2", "d")]),
    Odd("json_in_cell", 'id;doc\n1;{"a": 1, "b": 2}\n2;{"a": 3, "b": 4}\n', {"id": N, "doc": T},
        [("1", '{"a": 1, "b": 2}'), ("2", '{"a": 3, "b": 4}')]),
    # what stands around
    Odd("title", "Sales report\n\nid,name\n1,Ann\n2,Bob\n", {"id": N, "name": T}, [("1", "Ann"), ("2", "Bob")]),
    Odd("title_with_commas", "Report, week 3\nid,name,n\n1,Ann,5\n2,Bob,6\n", {"id": N, "name": T, "n": N},
        [("1", "Ann", "5"), ("2", "Bob", "6")]),
    Odd("title_of_excel", "Sales report,,\n,,\nid,name,n\n1,Ann,5\n2,Bob,6\n", {"id": N, "name": T, "n": N},
        [("1", "Ann", "5"), ("2", "Bob", "6")]),
    Odd("blank_first", "\n\nid,name\n1,Ann\n2,Bob\n", {"id": N, "name": T}, [("1", "Ann"), ("2", "Bob")]),
    Odd("blank_between", "id,name\n1,Ann\n\n2,Bob\n\n3,Joe\n", {"id": N, "name": T},
        [("1", "Ann"), ("2", "Bob"), ("3", "Joe")]),
    Odd("blank_last", "id,name\n1,Ann\n2,Bob\n\n\n", {"id": N, "name": T}, [("1", "Ann"), ("2", "Bob")]),
    Odd("comments", "# made by x, y\n# on Monday\nid,name\n1,Ann\n# so far, so good, ok\n2,Bob\n",
        {"id": N, "name": T}, [("1", "Ann"), ("2", "Bob")]),
    Odd("hash_header", "#id\tname\n1\tAnn\n2\tBob\n", {"#id": N, "name": T}, [("1", "Ann"), ("2", "Bob")]),
    Odd("vcf", "##fileformat=VCFv4.2\n##source=x\n#CHROM\tPOS\tREF\n1\t100\tA\n2\t200\tC\n",
        {"#CHROM": N, "POS": N, "REF": T}, [("1", "100", "A"), ("2", "200", "C")]),
    Odd("hash_values", "color,n\n#ff0000,1\n#00ff00,2\n", {"color": T, "n": N}, [("#ff0000", "1"), ("#00ff00", "2")]),
    Odd("sqlcmd", "id,name\n--,----\n1,Ann\n2,Bob\n\n(2 rows affected)\n", {"id": N, "name": T},
        [("1", "Ann"), ("2", "Bob")]),
    Odd("footer", "id;name\n1;Ann\n2;Bob\n(2 rows)\n", {"id": N, "name": T}, [("1", "Ann"), ("2", "Bob")]),
    Odd("notes", "id,name,n\n1,Ann,5\n2,Bob,6\n3,Joe,7\n\nNotes: this is, a note\nMore, of, them, here\n",
        {"id": N, "name": T, "n": N}, [("1", "Ann", "5"), ("2", "Bob", "6"), ("3", "Joe", "7")]),
    Odd("total", "id,name,n\n1,Ann,5\n2,Bob,6\nTotal,,11\n", {"id": N, "name": T, "n": N},
        [("1", "Ann", "5"), ("2", "Bob", "6")]),
    Odd("trailing", "id,name,\n1,Ann,\n2,Bob,\n", {"id": N, "name": T}, [("1", "Ann"), ("2", "Bob")]),
    Odd("trailing_in_records", "id;name\n1;Ann;\n2;Bob;\n", {"id": N, "name": T}, [("1", "Ann"), ("2", "Bob")]),
    Odd("short_records", "a,b,c\n1,2\n3,4,5\n6\n7,8,9\n", {"a": N, "b": N, "c": N},
        [("1", "2", None), ("3", "4", "5"), ("6", None, None), ("7", "8", "9")]),
    # one column
    Odd("grouped_numbers", "american_movie\n11,830,420\n9,123,456\n1,234\n", {"american_movie": N},
        [("11830420",), ("9123456",), ("1234",)]),
    Odd("grouped_numbers_alone", "11,830,420\n9,123,456\n1,234,005\n", {"column_1": N},
        [("11830420",), ("9123456",), ("1234005",)]),
    Odd("times", "a\n01:02:03\n04:05:06\n", {"a": T}, [("01:02:03",), ("04:05:06",)]),
    Odd("names", "name\nSmith, John\nLee, Ann\nOh, Sandra\n", {"name": T},
        [("Smith, John",), ("Lee, Ann",), ("Oh, Sandra",)]),
    Odd("sentences", "note\nIt was late.\nNobody came, so we left.\n", {"note": T},
        [("It was late.",), ("Nobody came, so we left.",)]),
    Odd("timestamps", "at\n2024-01-05 10:00:00\n2024-01-06 11:30:00\n", {"at": "timestamp without time zone"},
        [("2024-01-05 10:00:00",), ("2024-01-06 11:30:00",)]),
    Odd("decimal_commas_alone", "price\n1,50\n12,75\n", {"price": D}, [("1.50",), ("12.75",)]),
    # headers
    Odd("years", "Country,2020,2021\nItaly,5.1,6.2\nPeru,7.5,8\n", {"Country": T, "2020": D, "2021": D},
        [("Italy", "5.1", "6.2"), ("Peru", "7.5", "8")]),
    Odd("numbers_as_names", "date,10,20,30\n2024-01-05,1.5,2.5,3.5\n2024-01-06,4.5,5.5,6.5\n",
        {"date": "date", "10": D, "20": D, "30": D},
        [("2024-01-05", "1.5", "2.5", "3.5"), ("2024-01-06", "4.5", "5.5", "6.5")]),
    Odd("matrix", "gene,1,2\na,0.5,0.6\nb,0.1,0.2\n", {"gene": T, "1": D, "2": D},
        [("a", "0.5", "0.6"), ("b", "0.1", "0.2")]),
    Odd("header_alone", "id,name,total\n", {"id": T, "name": T, "total": T}, []),
    Odd("no_header", "1,Ann,2024-01-05\n2,Bob,2024-01-06\n", {"column_1": N, "column_2": T, "column_3": "date"},
        [("1", "Ann", "2024-01-05"), ("2", "Bob", "2024-01-06")]),
    Odd("index_without_name", ",name\n0,Ann\n1,Bob\n", {"column_1": N, "name": T}, [("0", "Ann"), ("1", "Bob")]),
    # encodings
    Odd("utf16_without_mark", "id;name\n1;Ann\n2;Zoë\n".encode("utf-16-le"), {"id": N, "name": T},
        [("1", "Ann"), ("2", "Zoë")]),
    Odd("utf16_with_mark", "id\tname\n1\tAnn\n2\tZoë\n".encode("utf-16"), {"id": N, "name": T},
        [("1", "Ann"), ("2", "Zoë")]),
    Odd("cp1252", "id;name;price\n1;Zoë;€ 5\n2;Müller–Lüdenscheidt;€ 6\n".encode("cp1252"),
        {"id": N, "name": T, "price": T}, [("1", "Zoë", "€ 5"), ("2", "Müller–Lüdenscheidt", "€ 6")]),
    Odd("utf8_with_mark", b"\xef\xbb\xbf" + "id;name\n1;Zoë\n2;Bob\n".encode(), {"id": N, "name": T},
        [("1", "Zoë"), ("2", "Bob")]),
    # numbers and days
    Odd("european", "id;betrag;datum\n007;1.343,64;31.05.2024\n008;-2,50;02.02.2024\n",
        {"id": T, "betrag": D, "datum": "date"},
        [("007", "1343.64", "2024-05-31"), ("008", "-2.50", "2024-02-02")]),
    Odd("american", 'id,amount,day\n1,"1,234.50",05/31/2024\n2,12.00,01/02/2024\n',
        {"id": N, "amount": D, "day": "date"}, [("1", "1234.50", "2024-05-31"), ("2", "12.00", "2024-01-02")]),
    Odd("british", "id,day\n1,31/05/2024\n2,01/02/2024\n", {"id": N, "day": "date"},
        [("1", "2024-05-31"), ("2", "2024-02-01")]),
    Odd("day_or_month", "id,day\n1,01/02/2024\n2,03/04/2024\n", {"id": N, "day": T},
        [("1", "01/02/2024"), ("2", "03/04/2024")]),
    Odd("swiss", "id;n\n1;1'234.50\n2;12.25\n", {"id": N, "n": D}, [("1", "1234.50"), ("2", "12.25")]),
    Odd("french", "id;n\n1;1\u202f234,50\n2;12,25\n", {"id": N, "n": D}, [("1", "1234.50"), ("2", "12.25")]),
    Odd("yes_and_no", "id,paid,ok\n1,yes,yes\n2,no,yes\n", {"id": N, "paid": "boolean", "ok": T},
        [("1", "true", "yes"), ("2", "false", "yes")]),
    Odd("instants", "id,at\n1,2024-01-05T10:00:00Z\n2,2024-01-05T11:00:00.5Z\n",
        {"id": N, "at": "timestamp with time zone"},
        [("1", "2024-01-05 10:00:00+00"), ("2", "2024-01-05 11:00:00.5+00")]),
    Odd("mac", "id;name\r1;Ann\r2;Bob\r", {"id": N, "name": T}, [("1", "Ann"), ("2", "Bob")]),
]  # fmt: skip


@pytest.fixture(scope="module")
def one_database(servers: Any) -> Iterator[str]:
    with fresh_database(servers("embedded-18")) as dsn:
        yield psycopg2.extensions.make_dsn(dsn, options="-c timezone=UTC")


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.name)
def test_it_is_loaded_as_a_person_would(tmp_path: Path, one_database: str, odd: Odd) -> None:
    path = tmp_path / f"{odd.name}.csv"
    path.write_bytes(odd.bytes)
    report = loader.load(str(path), dsn=one_database)
    assert (report.table, report.rows_rejected) == (f"public.{odd.name}", 0)
    columns = query(
        one_database,
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = %s ORDER BY ordinal_position",
        odd.name,
    )
    assert dict(columns) == odd.columns
    names = ", ".join(f'"{name}"::text' for name in odd.columns)
    assert sorted(query(one_database, f'SELECT {names} FROM "{odd.name}"'), key=str) == sorted(odd.rows, key=str)


# --- what is told


def load(path: Path, dsn: str, data: str | bytes, **options: Any) -> loader.LoadReport:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return loader.load(str(path), dsn=dsn, **options)


def test_what_was_found_is_in_the_report_and_the_ledger(tmp_path: Path, dsn: str) -> None:
    data = "Umsätze\n\nid;betrag\n1;1.343,64\n2;2,50\n".encode("cp1252")
    report = load(tmp_path / "t.csv", dsn, data)
    (told,) = (note for note in report.notes if "sniffing" in note)
    assert told == (
        'the delimiter ";", a header, skip_lines = 2, encoding = "cp1252", decimal = "," and thousands = "." were '
        "found by sniffing"
    )
    ((dialect,),) = query(dsn, "SELECT dialect::jsonb FROM loader.loads")
    found = {name: dialect[name] for name in ("delimiter", "encoding", "decimal", "thousands", "skip_lines")}
    assert found == {"delimiter": ";", "encoding": "cp1252", "decimal": ",", "thousands": ".", "skip_lines": 2}


def test_a_day_that_may_be_a_month_is_told(tmp_path: Path, dsn: str) -> None:
    notes = load(tmp_path / "t.csv", dsn, "id,day\n1,01/02/2024\n2,03/04/2024\n").notes
    assert any('"day" is text' in note and "%d/%m/%Y or %m/%d/%Y" in note for note in notes)


def test_a_comma_that_may_be_a_decimal_one_is_told(tmp_path: Path, dsn: str) -> None:
    notes = load(tmp_path / "t.csv", dsn, "id;n\n1;1,234\n2;5,678\n").notes
    assert any('"n" is text' in note and "decimal" in note for note in notes)


@pytest.mark.parametrize("large", [False, True])
def test_a_table_that_is_there_gets_days_as_the_file_has_them(
    tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """Its session would take the first number for the month."""
    if large:
        monkeypatch.setenv("LOADER_SMALL_BYTES", "0")
    query(dsn, "CREATE TABLE t (id int, day date, n numeric)")
    load(tmp_path / "1.csv", dsn, "id;day;n\n1;05.03.2024;1,5\n2;31.03.2024;2,5\n", table="t")
    load(tmp_path / "2.csv", dsn, "id;day;n\n3;31/05/2024;1.234,5\n4;01/02/2024;2,5\n", table="t")
    assert query(dsn, "SELECT id, day::text, n::text FROM t ORDER BY id") == [
        (1, "2024-03-05", "1.5"),
        (2, "2024-03-31", "2.5"),
        (3, "2024-05-31", "1234.5"),
        (4, "2024-02-01", "2.5"),
    ]


def test_a_later_record_that_is_no_day_widens_the_column(tmp_path: Path, dsn: str) -> None:
    records = "".join(f"{number};31.05.2024\n" for number in range(60_000))
    report = load(tmp_path / "t.csv", dsn, f"id;day\n{records}60000;unknown\n")
    assert report.rows_inserted == 60_001
    assert query(dsn, "SELECT day FROM t WHERE id IN (0, 60000) ORDER BY id") == [("31.05.2024",), ("unknown",)]


def test_a_number_of_another_style_is_rejected_and_never_another_number(tmp_path: Path, dsn: str) -> None:
    query(dsn, "CREATE TABLE t (id int, n numeric)")
    spec = {"table": "t", "csv": {"delimiter": ";", "decimal": ",", "thousands": "."}, "rejects": {"max_ratio": 1.0}}
    data = "id;n\n1;1.343,64\n2;1.5\n3;1.23,4\n4;-7\n5;1e3\n6;,5\n"
    report = load(tmp_path / "t.csv", dsn, data, spec=spec)
    assert query(dsn, "SELECT id, n::text FROM t ORDER BY id") == [(1, "1343.64"), (4, "-7"), (5, "1000")]
    assert (report.rows_rejected, report.rejects_by_column) == (3, {"n": {"invalid_value": 3}})


# --- what is asked


def test_one_column_named_after_the_whole_header_is_refused(tmp_path: Path, dsn: str) -> None:
    data = "id\tname\ttotal\n1\tAnn\t5\n2\tBob\t6\n"
    for asked in ({"delimiter": ";"}, {"spec": {"table": "t"}}):
        with pytest.raises(loader.ShapeError, match=r'set delimiter = "\\t" in \[csv\], or --delimiter'):
            load(tmp_path / "t.csv", dsn, data, **asked)
    assert query(dsn, "SELECT to_regclass('t')") == [(None,)]
    declared = {"table": "t", "columns": {"id\tname\ttotal": "text"}}
    assert load(tmp_path / "t.csv", dsn, data, spec=declared).rows_inserted == 2


def test_two_delimiters_that_fit_equally_are_for_a_person_to_choose_from(tmp_path: Path, dsn: str) -> None:
    data = "a,b;c\nx,y;z\nu,v;w\n"
    with pytest.raises(loader.ShapeError, match=r'the delimiter may be "," or ";", by which'):
        load(tmp_path / "t.csv", dsn, data)
    assert load(tmp_path / "t.csv", dsn, data, delimiter=";").rows_inserted == 2


def test_an_encoding_that_nobody_can_tell_is_for_a_person_to_say(tmp_path: Path, dsn: str) -> None:
    data = "id,name\n1,Москва\n2,Новгород\n".encode("cp1251")
    with pytest.raises(loader.DecodeError, match="set encoding in \\[csv\\], or --encoding"):
        load(tmp_path / "t.csv", dsn, data)
    load(tmp_path / "t.csv", dsn, data, encoding="cp1251")
    assert query(dsn, "SELECT name FROM t ORDER BY id") == [("Москва",), ("Новгород",)]


def test_what_is_given_stands(tmp_path: Path, dsn: str) -> None:
    report = load(
        tmp_path / "t.csv", dsn, "1,NA\n2,x\n", table="other", mode="append", header=False, null=["NA"], unknown="error"
    )
    assert report.table == "public.other"
    assert query(dsn, "SELECT * FROM other ORDER BY 1") == [(1, None), (2, "x")]
    spec = {"table": "other", "csv": {"header": False}}
    load(tmp_path / "2.csv", dsn, "3;y\n", spec=spec, delimiter=";")
    assert query(dsn, "SELECT count(*) FROM other") == [(3,)]


def test_options_of_the_command_line_stand(tmp_path: Path, dsn: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("1\tMöbius;x\n2\tNA\n".encode("cp1252"))
    query(dsn, "CREATE TABLE t (id int, name text)")
    options = ("--delimiter", "\\t", "--no-header", "--encoding", "cp1252", "--null", "NA", "--unknown", "error")
    assert 'delimiter = "\\t"' in run("infer", str(path), *options[:-2]).stdout
    assert "encoding" not in run("plan", str(path), *options, "--dsn", dsn).stdout  # it was not found, but given
    assert 'encoding = "cp1252"' in run("plan", str(path), "--dsn", dsn).stdout
    assert run("load", str(path), *options, "--dsn", dsn).returncode == 0
    assert query(dsn, "SELECT * FROM t ORDER BY id") == [(1, "Möbius;x"), (2, None)]


def test_the_spec_that_is_inferred_loads_the_same(tmp_path: Path, dsn: str) -> None:
    for odd in ODD:
        if odd.name in ("european", "title_of_excel", "trailing", "comments", "cp1252", "short_records", "backslash"):
            path = tmp_path / f"{odd.name}.csv"
            path.write_bytes(odd.bytes)
            with open_source(path) as source:
                toml = infer_spec(source, LoadSpec.sniffed(table=odd.name)).to_toml()
            loader.load(str(path), LoadSpec.from_toml_text(toml), dsn=dsn)
            names = ", ".join(f'"{name}"::text' for name in odd.columns)
            assert sorted(query(dsn, f'SELECT {names} FROM "{odd.name}"'), key=str) == sorted(odd.rows, key=str)


# --- what it costs


def test_an_ordinary_file_costs_little() -> None:
    """28 ms of CPU where it was written; a slower machine takes as much longer to read the same text ten times."""
    line = '{0},Name {0},2024-01-05 10:00:{1:02},{2:.2f},"a, b"\n'
    text = "id,name,at,price,note\n" + "".join(line.format(each, each % 60, each / 100) for each in range(20_000))
    asked = LoadSpec.sniffed(table="t").csv

    def sniffing() -> float:
        began = time.process_time()
        sniff(iter([text.encode()]), asked)
        return time.process_time() - began

    began = time.process_time()
    for _ in range(10):
        list(csv.reader(io.StringIO(text)))
    reading = time.process_time() - began
    assert min(sniffing() for _ in range(3)) < reading


# --- a pipe


def test_a_pipe_is_loaded_once(tmp_path: Path, dsn: str) -> None:
    def piped(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "loader", *arguments]
        text = "id\tname\n1\tAnn\n2\tBob\n"
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, input=text)

    loaded = piped("load", "-", "--table", "t", "--dsn", dsn)
    assert (loaded.returncode, loaded.stderr) == (0, "")
    assert "standard input → public.t: loaded (load 1)" in loaded.stdout
    assert "skipped (load 1)" in piped("load", "-", "--table", "t", "--dsn", dsn).stdout
    assert query(dsn, "SELECT * FROM t ORDER BY id") == [(1, "Ann"), (2, "Bob")]
    assert 'name = "text"' in piped("infer", "-", "--table", "t").stdout
    assert "give --table" in piped("load", "-", "--dsn", dsn).stderr


def test_a_pipe_that_never_ends_is_not_taken() -> None:
    out = io.BytesIO()
    with pytest.raises(loader.SourceError, match="holds more than 10 bytes"):
        spool(io.BytesIO(b"x" * 11), out, limit=10)
    assert spool(io.BytesIO(b"x" * 10), io.BytesIO(), limit=10) == sha256(b"x" * 10).hexdigest()


def test_days_that_a_table_leaves_open_are_told(dsn: str, tmp_path: Path) -> None:
    """The first file decides what its days are; the second one does not, and its days are PostgreSQL's to read."""
    path = tmp_path / "t.csv"
    path.write_text("a,d\n1,31/05/2024\n")
    for force in (False, True):
        assert "DateStyle" not in str(loader.load(str(path), table="t", dsn=dsn, force=force).notes)
    path.write_text("a,d\n2,01/02/2024\n")
    (note,) = [each for each in loader.load(str(path), table="t", dsn=dsn).notes if "DateStyle" in each]
    assert note.startswith(
        'column "d": "01/02/2024" is a day by %d/%m/%Y or %m/%d/%Y, and the file does not tell which'
    )
