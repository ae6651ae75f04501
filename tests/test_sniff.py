"""Delimiter and header, found by the beginning of a file."""

from __future__ import annotations

import csv
import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import PATIENCE

from loader.core.spec.model import CsvSpec
from loader.records.reading.sniffer import SAMPLE, sniff, sniffed

AUTO = CsvSpec(delimiter="auto", header="auto")


def found(text: str | bytes, asked: CsvSpec = AUTO, size: int = 1 << 20) -> CsvSpec:
    """The dialect of ``text``, which comes in chunks of ``size`` bytes."""
    data = text.encode() if isinstance(text, str) else text
    resolved, rest = sniff((data[at : at + size] for at in range(0, len(data), size)), asked)
    assert b"".join(rest) == data, "every byte is handed on"
    return resolved


def delimiter(text: str | bytes) -> str:
    return found(text).delimiter


def header(text: str | bytes, delimiter: str = ",") -> bool | str:
    return found(text, CsvSpec(delimiter=delimiter, header="auto")).header


@pytest.mark.parametrize("expected", [",", ";", "\t", "|", ":", " ", "^", "~", "||", "::", "^^", "~~"])
def test_each_candidate_is_found(expected: str) -> None:
    rows = [["id", "name", "price"], ["1", "Ann", "1.50"], ["2", "Bob", "22.75"], ["3", "Joe", ""]]
    assert delimiter("".join(expected.join(row) + "\n" for row in rows)) == expected


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (";", "1,50;2,75\n3,00;4,25\n5,10;6,15\n"),  # decimal commas, and no header to tell
        (";", "n;price\n1;1,50\n2;2,75\n"),
        (",", "10:00:00,5\n10:05:00,6\n10:10:00,7\n"),
        (",", "when,what\n2024-01-05 10:00:00,1\n2024-01-05 10:05:00,2\n"),
        (",", "full name,home town\nJohn Smith,New York\nAnn Lee,Los Angeles\n"),
        ("\t", "name\tplace\nSmith, John\tBoston, MA\nLee, Ann\tAustin, TX\n"),
        ("\t", "Smith, John\tBoston, MA\nLee, Ann\tAustin, TX\n"),
        ("|", "a|b\nx;1|y;2\nz|w\n"),
        (" ", "x y z\n1,5 2,5 3,5\n4,5 5,5 6,5\n"),
        (" ", "2024-01-05 10:00:00 5.1\n2024-01-05 10:05:00 5.2\n"),
        (":", "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000:Ann,,,:/home/ann:/bin/sh\n"),
        (",", '"a;b","c;d"\n"e;f","g;h"\n'),
        (";", '"a,b";"c,d"\n"e,f";"g,h"\n'),
        (";", 'id;text\n1;"two\nlines; and more"\n2;"x"\n'),
        (",", "1,,2\n3,,4\n"),  # an empty column is likelier than two commas for a delimiter
        ("|", "a||b\nc|d|e\n"),
        ("|", "a|b|c\n" + "||\n" * 100),
        ("||", "a||b\n1||x\n2||y|\n"),
        (";", "a;b;c\r1;2;3\r4;5;6\r"),
        (",", "Lat,Lon,City\n48.1,11.5,Munich\n52.5,13.4,Berlin\n"),
        (";", "a;b\n" + "1;2\n" * 20 + "3;4;5\n"),  # a ragged record
        (";", "a;b;c;d\n1;2\n1;2;3\n1;2;3;4\n1;2;3\n"),  # nothing but ragged records
        (",", "word\nanother\nthird\n"),
        (",", "a sentence here\nand another one there\nthird\n"),
        (",", ""),
        (",", "\n"),
        (",", "x"),
        (";", "a;b"),
        (";", 'size;n\n5" pipe;1\n6 pipe;2\n7 pipe;3\n8 pipe;4\n9 pipe;5\n10 pipe;6\n'),  # a stray quote
        (",", "url,n\nhttp://a.b/c?d;e,1\nhttp://f.g/h,2\n"),
        (";", "date;amount\n05.01.2024;1.234,50\n06.01.2024;17,00\n"),
    ],
)
def test_the_right_one_of_several_is_found(expected: str, text: str) -> None:
    assert delimiter(text) == expected


def test_excels_line_decides_and_is_skipped() -> None:
    resolved = found("sep=;\r\na,b;c\r\n1,2;3\r\n")
    assert (resolved.delimiter, resolved.skip_lines) == (";", 1)
    assert found("SEP=\t\na b\tc\n").delimiter == "\t"
    assert found('"sep=|"\na|b\n').delimiter == "|"
    assert found("sep=;").skip_lines == 1
    assert found("sep=;\na;b\n", CsvSpec(delimiter=";", header="auto")).skip_lines == 1


@pytest.mark.parametrize("text", ['sep="\na;b\n', "sep=\na;b\n", "x\nsep=,\na;b\n", "sep=a very long one\na;b\n"])
def test_what_is_no_line_of_excels_is_a_record(text: str) -> None:
    assert found(text).skip_lines == 0


def test_a_file_that_does_not_ask_is_not_looked_at() -> None:
    given = CsvSpec()
    text = iter([b"a"])
    assert sniff(text, given) == (given, text)


def test_only_what_is_asked_for_is_found() -> None:
    assert found("a;b\n1;2\n", CsvSpec(delimiter="auto")) == CsvSpec(delimiter=";")
    assert found("a;b\n1;2\n", CsvSpec(delimiter="auto", header=False)) == CsvSpec(delimiter=";", header=False)
    assert found("a;b\n1;2\n", CsvSpec(header="auto")) == CsvSpec(header=True)


def test_skipped_lines_comments_and_the_footer_say_nothing() -> None:
    text = "a report, with, commas\nof, this, week\n#c,o,m,m,e,n,t\nid;n\n1;2\n3;4\ntotal, of, all\n"
    asked = CsvSpec(delimiter="auto", header="auto", skip_lines=2, comment="#", skip_footer=1)
    resolved = found(text, asked)
    assert (resolved.delimiter, resolved.header) == (";", True)


def test_the_quote_and_the_escape_are_no_candidates() -> None:
    asked = CsvSpec(delimiter="auto", quote="|", escape="|")
    assert found("|a|;|b|\n|c|;|d|\n", asked).delimiter == ";"


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (True, "id,name\n1,Ann\n2,Bob\n"),
        (False, "1,Ann\n2,Bob\n"),
        (True, "name,town\nAnn,Rome\nBob,Oslo\n"),
        (False, "Ann,Rome\nBob,Oslo\nAnn,Bonn\n"),  # the first record's Ann comes again
        (True, '"","name","n"\n"1","Ann",5\n"2","Bob",6\n'),  # as R writes it: an index without a name
        (True, ",name\n0,Ann\n1,Bob\n"),
        (True, '"","0","1"\n"0",27,29\n"1",59,53\n'),
        (True, "row,,x\n"),
        (True, ",name\na,Ann\nb,Bob\n"),
        (False, ",Ann\na,Bob\n,Joe\n"),  # no index: it has gaps
        (True, "country,code,1990,1991,1992\nItaly,IT,1,2,3\nPeru,PE,4,5,6\n"),
        (False, "1990,1991,1993\n5,6,7\n"),
        (True, "a,a,b\n1,2,3\n4,5,6\n"),  # names may be repeated where values tell
        (False, "a,a,b\nx,y,z\n"),
        (True, "when,x\n2024-01-05,1\n2024-01-06,2\n"),
        (False, "2024-01-05,a\n2024-01-06,b\n"),
        (False, "NA,5\n3,6\n4,7\n"),
        (False, "unknown,5,6\n1,7,8\n2,9,10\n"),  # two columns to one
        (True, "id,2020\n1,5\n2,6\n"),
        (False, "true,x\nfalse,y\n"),
        (True, "flag,x\ntrue,y\nfalse,z\n"),
        (True, "a,b,c\n"),  # a header alone
        (False, "1,2,3\n"),
        (True, ""),
        (True, "n\n1\n\n2\n"),
        (True, "name\nAnn\nBob\n"),
        (True, "id,x\n1,\n2,\n"),
        (False, "10:30,x\n11:30,y\n"),
        (False, "$5.00,x\n$6.00,y\n"),
        (False, '"1,5",x\n"2,5",y\n'),
        (False, "0f8fad5b-d9cb-469f-a165-70867728950e,x\n7c9e6679-7425-40de-944b-e07fc1f90ae7,y\n"),
    ],
)
def test_a_header_is_told_from_a_record(expected: bool, text: str) -> None:
    assert header(text) is expected


def test_headers_of_several_rows_are_compared_with_what_follows_them() -> None:
    asked = CsvSpec(header="auto", header_rows=2)
    assert found("trip,fare\nid,$\n1,5\n2,6\n", asked).header is True


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_how_the_text_is_cut_into_chunks_does_not_matter(size: int) -> None:
    text = "id;text;n\n" + "".join(f'{each};"x, y\n{each}";1,5\n' for each in range(50))
    assert found(text, size=size) == found(text)
    assert (found(text).delimiter, found(text).header) == (";", True)


def test_a_header_longer_than_the_sample_is_found_all_the_same() -> None:
    names = [f"a rather long name of a column, {number}" for number in range(12_000)]
    assert len(";".join(names)) < SAMPLE
    resolved = found(f"{';'.join(names)}\n{';'.join('1' for _ in names)}\n")
    assert (resolved.delimiter, resolved.header) == (";", True)


def test_no_more_than_the_sample_is_read() -> None:
    asked: list[int] = []

    def chunks() -> object:
        for number in range(1000):
            asked.append(number)
            yield b"1;2;3\n" * 2000

    resolved, rest = sniff(chunks(), AUTO)  # type: ignore[arg-type]
    assert resolved.delimiter == ";"
    assert len(asked) * 12_000 < SAMPLE + 24_000
    assert sum(map(len, rest)) == 12_000_000


@pytest.mark.parametrize(
    "data",
    [
        b"," * (SAMPLE + 1),
        b"a," * SAMPLE,
        b'"' * (SAMPLE + 1),
        b'a"' * SAMPLE,
        b'",' * SAMPLE,
        b'x"\n' * SAMPLE,
        b'"\n' * SAMPLE,
        b"\n" * SAMPLE,
        b"\r" * SAMPLE,
        b",;\t|: ^~\n" * SAMPLE,
        b"\x00\xff\xfe" * SAMPLE,
        b"1" * SAMPLE,
        b"||" * SAMPLE,
        b'x,;\t|: ^~"\n' * SAMPLE,
        b'x",";|\n' * SAMPLE,
    ],
    ids=lambda data: repr(data[:10]),
)
def test_a_hostile_file_costs_no_more_than_seconds(data: bytes) -> None:
    began = time.process_time()
    found(data)
    assert time.process_time() - began < PATIENCE  # a thousand times what it takes; a square would take hours


def test_the_report_says_what_was_found() -> None:
    assert sniffed(AUTO, found("a;b\n1;2\n")) == ('the delimiter ";" and a header were found by sniffing',)
    assert sniffed(AUTO, found("1\t2\n3\t4\n")) == (
        'the delimiter "\\t" and that there is no header were found by sniffing',
    )
    assert sniffed(CsvSpec(delimiter="auto"), CsvSpec()) == ('the delimiter "," was found by sniffing',)
    assert sniffed(CsvSpec(), CsvSpec()) == ()


NAMES = st.lists(st.from_regex(r"[a-z]{1,8}( [a-z]{1,8})?", fullmatch=True), min_size=2, max_size=8, unique=True)
CELLS = st.one_of(
    st.integers().map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=2).map(str),
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12),
    st.datetimes().map(str),
)


@given(names=NAMES, rows=st.data(), delimiter=st.sampled_from(",;\t|"))
def test_what_python_writes_with_a_number_in_each_record_is_read_back(
    names: list[str], rows: st.DataObject, delimiter: str
) -> None:
    """Texts of any kind, quoted where they have to be."""
    records = rows.draw(st.lists(st.tuples(st.integers(), *(CELLS for _ in names[1:])), min_size=3, max_size=10))
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([names, *records])
    resolved = found(out.getvalue())
    assert (resolved.delimiter, resolved.header) == (delimiter, True)
