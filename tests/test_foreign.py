"""Files that are no CSV are recognised, and no CSV is taken for one."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.postgres import query

import loader
from loader.cli import main
from loader.core.errors import ForeignFormatError
from loader.sources.foreign_formats import SAMPLE, check_format

TABLE = pa.table({"id": pa.array(range(3)), "name": pa.array(["a", "b", "c"])})
TWICE = "is gzip-compressed inside its gzip compression, not CSV; compress it only once"
ODS = b"application/vnd.oasis.opendocument.spreadsheet"
CSV = b"id,name\n1,a\n2,b\n"


def zipped(method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def workbook(big_first: bytes = b"<worksheet/>") -> bytes:
    names = {
        "[Content_Types].xml": b"<Types/>",
        "_rels/.rels": b"",
        "docProps/app.xml": big_first,
        "xl/workbook.xml": b"",
    }
    return zipped(**names)


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("data.csv")
        member.size = len(CSV)
        archive.addfile(member, io.BytesIO(CSV))
    return out.getvalue()


def made(write: Callable[[Any, Any], Any]) -> bytes:
    out = io.BytesIO()
    write(TABLE, out)
    return out.getvalue()


def sqlite() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (a)")
    return connection.serialize()


def stream(table: pa.Table, out: Any) -> None:
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)


def filled(data: bytes) -> bytes:
    """What follows the magic is as it may be in such a file."""
    return data + b"\x00\x01\x02\x03\xff" * 50


FOREIGN = [
    ("t.xlsx", workbook(), "an Excel workbook", "save the sheet as CSV and load that"),
    ("t.xlsx", workbook(bytes(range(256)) * 4000), "an Excel workbook", "save the sheet"),
    ("t.docx", zipped(**{"[Content_Types].xml": b"", "word/document.xml": b"x"}), "a Word document", "export it"),
    ("t.ods", zipped(zipfile.ZIP_STORED, mimetype=ODS), "an OpenDocument spreadsheet", "save the sheet"),
    ("t.jar", zipped(**{"META-INF/MANIFEST.MF": b""}), "a Java archive", "right file"),
    ("t.zip", zipped(**{"data.csv": CSV}), 'a zip archive of "data.csv"', "unpack it and load the CSV in it"),
    ("t.zip", zipped(), "an empty zip archive", ""),
    ("t.xls", filled(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), "an old Excel workbook", "save the sheet as CSV"),
    ("t.csv.xz", lzma.compress(CSV), "xz-compressed", "compress it with gzip"),
    ("t.csv.lzma", lzma.compress(CSV, lzma.FORMAT_ALONE), "lzma-compressed", "compress it with gzip"),
    ("t.csv.lz4", filled(b"\x04\x22\x4d\x18\x64"), "lz4-compressed", "gzip"),
    ("t.sz", filled(b"\xff\x06\x00\x00sNaPpY\x00"), "snappy-compressed", "gzip"),
    ("t.7z", filled(b"7z\xbc\xaf\x27\x1c\x00\x04"), "a 7-Zip archive", "unpack"),
    ("t.rar", filled(b"Rar!\x1a\x07\x01\x00"), "a RAR archive", "unpack"),
    ("t.tar", tarred(), "a tar archive", "unpack"),
    ("t.parquet", made(pa.parquet.write_table), "an Apache Parquet file", "export it as CSV"),
    ("t.orc", made(pa.orc.write_table), "an Apache ORC file", "export it as CSV"),
    ("t.feather", made(pa.feather.write_feather), "an Apache Arrow (Feather) file", "export"),
    ("t.arrows", made(stream), "an Apache Arrow stream", "export"),
    ("t.avro", filled(b"Obj\x01\x04\x14avro.codec\x08null"), "an Apache Avro file", "export"),
    ("t.pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", "a PDF document", "export"),
    ("t.db", sqlite(), "an SQLite database", "export its table"),
    ("t.dump", filled(b"PGDMP\x01\x10\x00\x04\x08"), "a PostgreSQL dump", "load it with pg_restore"),
    ("t.png", filled(b"\x89PNG\r\n\x1a\n"), "a PNG image", "right file"),
    ("t.jpg", filled(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00"), "a JPEG image", "right file"),
    ("t.gif", filled(b"GIF89a\x01\x00"), "a GIF image", "right file"),
    ("t.elf", filled(b"\x7fELF\x02\x01\x01\x00"), "a program (ELF)", "right file"),
    ("t.exe", b"MZ" + bytes(58) + b"\x40\x00\x00\x00PE\x00\x00" + bytes(99), "a program (Windows)", "right"),
    ("t.gpg", filled(b"\x85\x02\x0c\x03\x1f\x9d\xaa\xbb\xcc\xdd\xee\xff\x01\x0f"), "encrypted (OpenPGP)", "decrypt"),
    ("t.asc", b"-----BEGIN PGP MESSAGE-----\n\nhQIM\n", "encrypted or signed (OpenPGP)", "decrypt"),
    ("t.html", b"<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", "an HTML page", "download it again"),
    ("t.html", b"\xef\xbb\xbf\n <HTML lang=en>\n", "an HTML page", "download it again"),
    ("t.xml", b'<?xml version="1.0"?>\n<Error><Code>NoSuchKey</Code>', "an error message of S3 (NoSuchKey)", "again"),
    ("t.xml", b'<?xml version="1.0"?>\n<rows/>', "an XML document", "export"),
    ("t.json", json.dumps([{"a": 1, "b": "x,y"}] * 3, indent=2).encode(), "JSON", "convert it to CSV"),
    ("t.json", json.dumps([{"a": 1.5, "b": "x,y"}] * 30_000).encode(), "JSON", "convert it to CSV"),
    ("t.jsonl", b'{"a": 1, "b": [1, 2]}\n{"a": 2}\n', "JSON", "convert it to CSV"),
    ("t.jsonl", b'{"a": 1, "b": "x"}\r\n' * 20_000, "JSON", "convert it to CSV"),
    ("t.json", b"[]", "JSON", "convert it to CSV"),
    ("t.sql", b"--\n-- PostgreSQL database dump\n--\n\nSET x = 0;\n", "an SQL dump", "run it with psql"),
    ("t.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "a Git LFS pointer", "git lfs pull"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "what", "advice"), FOREIGN)
@pytest.mark.parametrize("packed", ["", "gzip", "bz2"])
def test_a_foreign_file_is_named(name: str, data: bytes, what: str, advice: str, packed: str) -> None:
    """With what to do, whatever it is compressed by."""
    with pytest.raises(ForeignFormatError) as caught:
        check_format(data[:SAMPLE], name=name, encoding="utf-8", has_header=True, compression=packed or "none")
    message = str(caught.value)
    assert message.startswith(f"{name}: is {what}")
    assert f"{f' inside its {packed} compression' if packed else ''}, not CSV; " in message
    assert advice in message
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\n", b"id,name\n1,a\n", b"PAR1,PAR2\n1,2\n", b"MZ,intensity\n100.5,3\n", b"ORC,ELF\n1,2\n",
        b"GIF89a\nx\n",
        b"PGDMP,b\n1,2\n", b"Rar!,b\n", b"PK,name\n1,a\n", b"7z,b\n", b"BZh9,b\n", b"Obj,b\n", b"SQLite format 3,b\n",
        b"MZ\xe4,b\n", b"PAR1,Gr\xf6\xdfe\n", b"[id],[name]\n1,2\n", b'{id},"{name}"\n1,2\n', b'["id","name"]\n1,2\n',
        b'["id","name"],b\n1,2\n', b'{"a": 1},b\n', b'[1],x\n', b"{\n", b"[\n", b"{}x\n", b'{"a\n1\n',
        b"<id>,<name>\n1,2\n", b"<htmlx>,b\n", b"--,-\n1,2\n", b"version,oid\n1,2\n", b"%PDF,b\n", b"<xml>,b\n",
        "名前,値\n1,2\n".encode(), b"\xef\xbb\xbfid\n1\n", b'[1,2],"x"\n3,4\n', b"{1},{2}\n",
        b"[2024-01-01] a,b\nx,y\n",
    ],
)  # fmt: skip
def test_a_csv_is_not_taken_for_anything_else(data: bytes) -> None:
    """Though its first letters may be those of a format."""
    check_format(data, name="t.csv", encoding="utf-8", has_header=True)


@given(st.lists(st.lists(st.text(max_size=8), min_size=2, max_size=4), min_size=1, max_size=5))
def test_no_csv_of_any_texts_is_refused(rows: list[list[str]]) -> None:
    """Whatever the header's names are."""
    text = "".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in rows)
    check_format(text.encode(), name="t.csv", encoding="utf-8", has_header=True)


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("䭐\u0403,b\n".encode("utf-16-le"), "utf-16-le"),  # PK\x03\x04
        ("鴟¹,b\n".encode("utf-16-le"), "utf-16-le"),
        ("ÿØÿà,b\n".encode("cp1252"), "cp1252"),
        ("ÐÏ,b\n".encode("latin-1"), "latin-1"),
    ],
)
def test_text_in_its_own_encoding_is_text(data: bytes, encoding: str) -> None:
    """Bytes that would be another format's."""
    check_format(data, name="t.csv", encoding=encoding, has_header=True)


def test_without_a_header_a_text_is_taken_line_by_line(dsn: str, tmp_path: Path) -> None:
    """As COPY takes JSON lines into a column, where the spec says so."""
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"a": 1, "b": "x,y"}\n{"a": 2}\n')
    spec = {"table": "t", "csv": {"header": False, "delimiter": "\x1e", "quote": ""}, "columns": {"line": "jsonb"}}
    assert loader.load(str(path), spec, dsn=dsn).rows_inserted == 2
    page = tmp_path / "t.html"
    page.write_bytes(b"<html>\n</html>\n")
    assert loader.load(str(page), {**spec, "columns": {"line": "text"}, "table": "pages"}, dsn=dsn).rows_inserted == 2


@pytest.mark.parametrize("packed", [False, True])
def test_nothing_is_stored_of_a_foreign_file(dsn: str, tmp_path: Path, capsys: Any, *, packed: bool) -> None:
    """By load, infer and plan alike; the failure is on record, in one short sentence."""
    path = tmp_path / "t.xlsx"
    path.write_bytes(gzip.compress(workbook()) if packed else workbook())
    inside = " inside its gzip compression" if packed else ""
    message = f"{path}: is an Excel workbook{inside}, not CSV; save the sheet as CSV and load that"
    for command in (["load", str(path), "--dsn", dsn], ["infer", str(path)], ["plan", str(path), "--dsn", dsn]):
        assert main(command) == 1
        assert capsys.readouterr().err == f"loader: {message}\n"
    assert query(dsn, "SELECT state, retryable, error FROM loader.loads") == [("failed", False, message)]
    assert query(dsn, "SELECT count(*) FROM loader.rejects") == [(0,)]
    assert query(dsn, "SELECT to_regclass('t')") == [(None,)]


@pytest.mark.parametrize(
    ("data", "compression", "message"),
    [
        (gzip.compress(CSV, mtime=0), "none", 'is gzip-compressed, not CSV; set compression = "gzip", or "auto"'),
        (bz2.compress(CSV), "gzip", 'is bz2-compressed, not CSV; set compression = "bz2", or "auto"'),
        (gzip.compress(gzip.compress(CSV, mtime=0), mtime=0), "auto", TWICE),
        (workbook(), "gzip", "is an Excel workbook, not CSV; save the sheet as CSV and load that"),
    ],
    ids=["gzip", "bz2", "gzip in gzip", "workbook"],
)  # fmt: skip
def test_a_compression_that_the_spec_denies_is_named(
    dsn: str, tmp_path: Path, data: bytes, compression: str, message: str
) -> None:
    """Or that comes twice."""
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(ForeignFormatError) as caught:
        loader.load(str(path), {"table": "t", "csv": {"compression": compression}}, dsn=dsn)
    assert str(caught.value) == f"{path}: {message}"
