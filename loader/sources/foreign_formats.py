"""Files that are no CSV, known by their first bytes: what each is, and what to do about it.

A table of our own, not a library such as filetype or puremagic: those know hundreds of formats and give a MIME type,
and what helps here is the sentence of advice beside each of the few that people really upload as CSV. Nor do they weigh
a false alarm as we must: a CSV that could be loaded is never refused. So a binary format is known only by bytes that no
readable header holds (`_BINARY`), and a text format, which COPY might well take line by line, only where the file's
beginning is to be read as a header (`_TEXT`).
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass

from loader.core.display import shown
from loader.core.errors import ForeignFormatError

SAMPLE = 64 << 10
"""Bytes of a file's beginning that are looked at."""


@dataclass(frozen=True, slots=True)
class _Format:
    """``what``: the file is. ``advice``: what to do with it. ``binary``: it counts only with a NUL in its beginning,
    because its first bytes alone might be a CSV's."""

    begins: re.Pattern[bytes]
    what: str
    advice: str
    binary: bool = False


def _known(begins: bytes, what: str, advice: str, *, binary: bool = False) -> _Format:
    return _Format(re.compile(begins, re.DOTALL), what, advice, binary)


_UNPACK = "unpack it and load the CSV in it"
_AGAIN = "compress it with gzip, zstd or bzip2, or not at all"
_EXPORT = "export it as CSV and load that"
_NO_TABLE = "it holds no records; was the right file uploaded?"

_SAVE = "save the sheet as CSV and load that"
_ONCE = "compress it only once"
_ZIP = "a zip archive"

_COMPRESSED = (
    ("gzip", re.compile(rb"\x1f\x8b\x08")),
    ("zstd", re.compile(rb"\x28\xb5\x2f\xfd")),
    ("bz2", re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")),
)
"""What the loader unpacks by itself, unless the spec says otherwise, and once."""

_MEMBER = re.compile(rb"PK\x03\x04.{22}(..)..(?=(.{0,200}))", re.DOTALL)

_ZIPPED = (
    (b"xl/", "an Excel workbook", _SAVE),
    (b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet", "an OpenDocument spreadsheet", _SAVE),
    (b"mimetypeapplication/vnd.oasis.opendocument", "an OpenDocument document", _EXPORT),
    (b"Index/", "an Apple Numbers or other iWork document", _SAVE),
    (b"word/", "a Word document", _EXPORT),
    (b"ppt/", "a PowerPoint document", _EXPORT),
    (b"META-INF/", "a Java archive (jar)", _NO_TABLE),
)

_BINARY = (
    _known(rb"PK\x03\x04", _ZIP, _UNPACK),
    _known(rb"PK\x05\x06", "an empty zip archive", _NO_TABLE),
    _known(rb"PK\x07\x08", "a split zip archive", _UNPACK),
    _known(rb"\xfd7zXZ\x00", "xz-compressed", _AGAIN),
    _known(rb"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    _known(rb"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    _known(rb"\x04\x22\x4d\x18", "lz4-compressed", _AGAIN),
    _known(rb"\xff\x06\x00\x00sNaPpY", "snappy-compressed", _AGAIN),
    _known(rb"LZIP\x01", "lzip-compressed", _AGAIN),
    _known(rb"\x89LZO\x00\r\n\x1a\n", "lzop-compressed", _AGAIN),
    _known(rb"\x5d\x00\x00[\x00-\xff]{2}(?:\xff{8}|.{3}\x00{5})", "lzma-compressed", _AGAIN),
    _known(rb"\x1f\x9d[\x80-\x90]", "compressed by compress (.Z)", _AGAIN),
    _known(rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook (.xls) or another old Office document", _SAVE),
    _known(rb"PAR1", "an Apache Parquet file", _EXPORT, binary=True),
    _known(rb"PARE", "an encrypted Apache Parquet file", _EXPORT, binary=True),
    _known(rb"ORC", "an Apache ORC file", _EXPORT, binary=True),
    _known(rb"Obj\x01", "an Apache Avro file", _EXPORT),
    _known(rb"ARROW1", "an Apache Arrow (Feather) file", _EXPORT, binary=True),
    _known(rb"FEA1", "a Feather file", _EXPORT, binary=True),
    _known(rb"\xff\xff\xff\xff.{3}\x00[\x04-\x20]\x00\x00\x00", "an Apache Arrow stream", _EXPORT),
    _known(rb"SEQ[\x04-\x06]", "a Hadoop sequence file", _EXPORT, binary=True),
    _known(rb"%PDF-[0-9]\.[0-9]", "a PDF document", _EXPORT),
    _known(rb"SQLite format 3\x00", "an SQLite database", "export its table as CSV and load that"),
    _known(rb"\x00\x01\x00\x00Standard (?:Jet|ACE) DB", "an Access database", _EXPORT),
    _known(rb"PGDMP", "a PostgreSQL dump (pg_dump's custom format)", "load it with pg_restore", binary=True),
    _known(rb"PGCOPY\n\xff\r\n\x00", "in PostgreSQL's binary COPY format", "load it with COPY … (FORMAT binary)"),
    _known(rb"\x89HDF\r\n\x1a\n", "an HDF5 file", _EXPORT),
    _known(rb"\x93NUMPY", "a NumPy array", _EXPORT),
    _known(rb"\x80[\x02-\x05](?:\x95|[}\]c(])", "a Python pickle", _EXPORT),
    _known(rb"\$FL[23]@\(#\)", "an SPSS file", _EXPORT, binary=True),
    _known(rb"(?:RD[XA][23]\n)?[XA]\n\x00\x00\x00[\x02\x03]", "an R data file", _EXPORT),
    _known(rb"\x89PNG\r\n\x1a\n", "a PNG image", _NO_TABLE),
    _known(rb"\xff\xd8\xff[\xc0-\xfe]", "a JPEG image", _NO_TABLE, binary=True),
    _known(rb"GIF8[79]a", "a GIF image", _NO_TABLE, binary=True),
    _known(rb"(?:II\*\x00|MM\x00\*)", "a TIFF image", _NO_TABLE),
    _known(rb"RIFF.{4}(?:WEBP|WAVE|AVI )", "a RIFF media file", _NO_TABLE, binary=True),
    _known(rb".{4}ftyp[a-zA-Z0-9 ]{4}\x00", "a media file (MP4)", _NO_TABLE),
    _known(rb"\x7fELF[\x01\x02]", "a program (ELF)", _NO_TABLE),
    _known(rb"(?:\xfe\xed\xfa[\xce\xcf]|[\xce\xcf]\xfa\xed\xfe)", "a program (Mach-O)", _NO_TABLE),
    _known(rb"MZ.{58}(?P<at>.{4})", "a program (Windows)", _NO_TABLE, binary=True),
    _known(rb"(?:\x85[\x01-\x04].|\x84.|\xc1[\xc0-\xdf]?.)\x03.{8}[\x01\x10\x12]|\x8c\x0d\x04[\x01-\x0b][\x00-\x03]",
           "encrypted (OpenPGP)", "decrypt it and load the CSV in it"),
    _known(rb".{257}ustar(?:\x00| {2}\x00)", "a tar archive", _UNPACK),
)  # fmt: skip

_SPACE = rb"(?:\xef\xbb\xbf)?\s*"
_TEXT = (
    _known(_SPACE + rb"(?i:<!doctype html|<html[\s>])", "an HTML page",
           "an error page or a login page is often saved in a download's place; download it again"),
    _known(_SPACE + rb"(?:<\?xml[^>]*\?>\s*)?<Error>\s*<Code>(?P<code>[A-Za-z]{1,40})</Code>",
           "an error message of S3", "download the file again"),
    _known(_SPACE + rb"<\?xml\s", "an XML document", _EXPORT),
    _known(_SPACE + rb"-----BEGIN PGP (?:MESSAGE|SIGNED MESSAGE)-----", "encrypted or signed (OpenPGP)",
           "decrypt it and load the CSV in it"),
    _known(rb"\{\\rtf1", "a rich text document (RTF)", "save it as CSV and load that"),
    _known(rb"version https://git-lfs\.github\.com/spec/v1\r?\noid ", "a Git LFS pointer",
           "fetch the file itself with: git lfs pull"),
    _known(rb"--\r?\n-- PostgreSQL database (?:cluster )?dump\r?\n", "an SQL dump", "run it with psql"),
)  # fmt: skip


def check_format(data: bytes, *, name: str, encoding: str, has_header: bool, compression: str = "none") -> None:
    """Raise ForeignFormatError where a file that begins with ``data`` is of another format than CSV.

    ``data``: up to `SAMPLE` bytes, once ``compression`` and a byte order mark are taken off; less is the whole file.
    ``encoding``: in which it is to be read. ``has_header``: its beginning is to be read as a header.
    """
    found = None if _is_text(data[:_LOOK], encoding) else _find_binary(data, name, twice=compression != "none")
    if found is None and has_header:
        found = _find_text(data)
    if found is not None:
        inside = f" inside its {compression} compression" if compression != "none" else ""
        raise ForeignFormatError(f"{name}: is {found[0]}{inside}, not CSV; {found[1]}")


_LOOK = 512  # bytes that have to be text; formats that begin with letters have a NUL among as many


def _is_text(data: bytes, encoding: str) -> bool:
    """Whether they are text in that encoding without control characters: then COPY might take them."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(data)
    except (UnicodeError, LookupError):
        return False
    return not _CONTROL.search(text)


_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")


def _find_binary(data: bytes, name: str, *, twice: bool) -> tuple[str, str] | None:
    for kind, begins in _COMPRESSED:
        if begins.match(data):
            return (f"{kind}-compressed", _ONCE if twice else f'set compression = "{kind}", or "auto"')
    for each in _BINARY:
        match = each.begins.match(data)
        if match is None or (each.binary and b"\0" not in data[:_LOOK]):
            continue
        if (at := match.groupdict().get("at")) is not None:
            place = int.from_bytes(at, "little")
            if data[place : place + 4] != b"PE\0\0":
                continue
        return _of_zip(data, name) if each.what == _ZIP else (each.what, each.advice)
    return None


def _of_zip(data: bytes, name: str) -> tuple[str, str]:
    """What a zip archive holds, by the names of its first members; OpenDocument's type stands right behind a name."""
    members = [found[1][: int.from_bytes(found[0], "little")] for found in _MEMBER.findall(data)]
    for begins, what, advice in _ZIPPED:
        if any(each.startswith(begins) for each in (data[30:130], *members)):
            return what, advice
    if any(each == b"[Content_Types].xml" for each in members):  # what is in it stands further behind
        ending = name.lower().rpartition(".")[2]
        return ("an Excel workbook", _SAVE) if ending.startswith("xls") else ("an Office document", _EXPORT)
    first = f" of {shown(members[0])}" if members and members[0] else ""
    return f"a zip archive{first}", _UNPACK


def _find_text(data: bytes) -> tuple[str, str] | None:
    for each in _TEXT:
        if match := each.begins.match(data):
            code = match.groupdict().get("code")
            return each.what + (f" ({code.decode()})" if code else ""), each.advice
    if _is_json(data):
        return "JSON", "convert it to CSV and load that"
    return None


def _is_json(data: bytes) -> bool:
    """Whether all of ``data`` is JSON documents, one after another, each an object or an array, the last one maybe cut.

    A CSV may begin with a bracket, too; but then the comma after its first field is no JSON.
    """
    text = data.decode("utf-8", "ignore").strip()
    if not text.startswith(("{", "[")):
        return False
    decoder = json.JSONDecoder()
    at = 0
    while at < len(text):
        if text[at] not in "{[":
            return False
        try:
            _, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated string") or error.pos >= len(text) - _LITERAL
            return cut and len(data) >= SAMPLE
        except RecursionError:
            return True  # no CSV begins with so many brackets
        between = _BLANK.match(text, end)
        at = between.end() if between else end
        if at < len(text) and "\n" not in text[end:at] and "\r" not in text[end:at]:
            return False
    return True


_LITERAL = 24  # characters of a number or word that the sample's end may have cut
_BLANK = re.compile(r"\s*")
