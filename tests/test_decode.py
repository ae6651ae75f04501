"""Compressed or plain, in whatever encoding: the same text in UTF-8, or the place where it cannot be."""

from __future__ import annotations

import bz2
import gzip
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import zstandard
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from loader.core.errors import DecodeError, SourceChangedError
from loader.sources.decode import PIECE, SLICE, decompress, find_encoding, gather, transcode

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": zstandard.compress,
    "bz2": bz2.compress,
}
PACKED = ["gzip", "zstd", "bz2"]
SKIPPABLE = b"\x5a\x2a\x4d\x18\x04\0\0\0abcd"  # a zstd frame of a program's own

ENCODINGS = [
    "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-7",
    "latin-1", "cp1252", "cp037", "koi8-r", "cp932", "gb18030", "big5", "euc-kr", "iso2022_jp", "hz",
]  # fmt: skip
WRITTEN = 'aé"ü,ж日本\n한€😀\u2028'  # each encoding has some of these

unhurried = settings(deadline=None)  # a busy machine is no failure
compressions = st.sampled_from(PACKED)
cuts = st.lists(st.integers(1, 7), min_size=1, max_size=5)


def cut_up(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """``data`` in chunks of these sizes, over and over."""
    at = number = 0
    while at < len(data):
        size = sizes[number % len(sizes)]
        yield data[at : at + size]
        at, number = at + size, number + 1


def unpacked(data: bytes, compression: str = "auto", sizes: list[int] | None = None) -> bytes:
    return b"".join(decompress(cut_up(data, sizes or [1 << 23]), compression, name="f"))


def recoded(data: bytes, encoding: str, sizes: list[int] | None = None) -> str:
    return recoded_bytes(data, encoding, sizes).decode()


def recoded_bytes(data: bytes, encoding: str, sizes: list[int] | None = None) -> bytes:
    found, _, chunks = find_encoding(cut_up(data, sizes or [1 << 23]), encoding)
    return b"".join(transcode(chunks, found, name="f"))


def unpack_error(data: bytes, compression: str = "auto", sizes: list[int] | None = None) -> str:
    with pytest.raises(DecodeError) as caught:
        unpacked(data, compression, sizes)
    return str(caught.value)


# --- decompression


@unhurried
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=3), st.sampled_from(sorted(COMPRESS)), cuts)
def test_members_make_up_one_text(texts: list[bytes], compression: str, sizes: list[int]) -> None:
    """Whatever compression was declared or found, and however the bytes come in."""
    packed = b"".join(COMPRESS[compression](text) for text in texts)
    assert unpacked(packed, compression, sizes) == b"".join(texts)
    if compression != "none":
        assert unpacked(packed, "auto", sizes) == b"".join(texts)


@pytest.mark.parametrize("compression", PACKED)
def test_a_large_text_comes_in_pieces(compression: str) -> None:
    """Of which none is longer than a block."""
    text = b"".join(b"%d,%d\n" % (number, number * 7919 % 10007) for number in range(150_000))
    pieces = list(decompress(cut_up(COMPRESS[compression](text), [1 << 22]), "auto", name="f"))
    assert b"".join(pieces) == text
    assert max(map(len, pieces)) <= PIECE


@pytest.mark.parametrize("compression", PACKED)
def test_a_bomb_does_not_take_memory(compression: str) -> None:
    """What a few bytes claim to hold is unpacked a piece at a time."""
    bomb = COMPRESS[compression](bytes(100 << 20))
    tracemalloc.start()
    try:
        assert sum(map(len, decompress(iter([bomb]), "auto", name="f"))) == 100 << 20
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    [b"", b"a", b"a,b\n", b"BZh9,is a text\n", b"BZ", b"\x1f", b"P*M,1\n", "ünï,ço\n".encode(), "é".encode("utf-16")],
)
def test_plain_text_is_not_mistaken(text: bytes) -> None:
    """Nor is the shortest file too short to tell."""
    assert unpacked(text, "auto", [1]) == text


def test_what_is_declared_as_plain_stays_as_it_is() -> None:
    """Even where it does not look so; and the chunks are handed on as they are."""
    chunk = gzip.compress(b"abc")
    (handed,) = decompress(iter([chunk]), "none", name="f")
    assert handed is chunk


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_zeros_after_gzip_are_padding(size: int) -> None:
    """As tapes and gzip(1) have it, before another member too."""
    packed = gzip.compress(b"abc")
    assert unpacked(packed + bytes(1000), sizes=[size]) == b"abc"
    assert unpacked(packed + bytes(100) + packed + bytes(3), sizes=[size]) == b"abcabc"


@pytest.mark.parametrize("place", ["before", "after", "alone"])
def test_skippable_frames_are_skipped(place: str) -> None:
    """A zstd file may begin with one, and consist of nothing else."""
    packed = {"before": SKIPPABLE + zstandard.compress(b"abc"), "after": zstandard.compress(b"abc") + SKIPPABLE}
    assert unpacked(packed.get(place, SKIPPABLE), sizes=[3]) == (b"" if place == "alone" else b"abc")


@unhurried
@given(compressions, st.binary(max_size=200), st.booleans(), cuts, st.data())
@example("zstd", b"abc", True, [1], None)
def test_data_that_breaks_off_is_an_error(
    compression: str, text: bytes, second: bool, sizes: list[int], data: st.DataObject | None
) -> None:
    """Wherever it does, though never between two members: with the length of what there is."""
    packed = COMPRESS[compression](text)
    left = data.draw(st.integers(1, len(packed) - 1)) if data else len(packed) - 1
    broken = (packed if second else b"") + packed[:left]
    assert (
        unpack_error(broken, compression, sizes)
        == f"f: the {compression} data breaks off at compressed byte {len(broken)}"
    )


@pytest.mark.parametrize("compression", PACKED)
def test_an_empty_file_is_not_compressed(compression: str) -> None:
    """Where it was declared to be, it broke off before it began."""
    assert unpack_error(b"", compression) == f"f: the {compression} data breaks off at compressed byte 0"


@pytest.mark.parametrize("compression", PACKED)
def test_the_pieces_before_the_break_are_handed_out(compression: str) -> None:
    """The error comes in its place, not in place of what was read."""
    text = bytes(3 * PIECE)
    pieces = decompress(iter([COMPRESS[compression](text)[:-1]]), "auto", name="f")
    assert len(next(pieces)) == PIECE
    with pytest.raises(DecodeError, match="breaks off"):
        list(pieces)


@pytest.mark.parametrize("compression", PACKED)
@pytest.mark.parametrize("rest", [b"\n", b"garbage that is longer than any header", b"\0\0\0\0x"])
def test_what_follows_the_end_must_be_more_of_it(compression: str, rest: bytes) -> None:
    """Half of a file may be plain text by mistake; it is not left out in silence."""
    packed = COMPRESS[compression](b"abc" * 100)
    message = unpack_error(packed + rest)
    assert "breaks off" in message or message.startswith(f"f: no valid {compression} data near compressed byte ")


@unhurried
@given(compressions, st.binary(min_size=50, max_size=300), st.data())
def test_damage_never_passes(compression: str, text: bytes, data: st.DataObject) -> None:
    """A changed byte is an error, or was of no account to the text."""
    packed = bytearray(
        zstandard.ZstdCompressor(write_checksum=True).compress(text)
        if compression == "zstd"
        else COMPRESS[compression](text)
    )
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(DecodeError):
        assert unpacked(bytes(packed), compression) == text


def test_damage_is_told_with_its_place() -> None:
    """Near the byte that was being unpacked."""
    assert unpack_error(b"a,b\n", "gzip").startswith("f: no valid gzip data near compressed byte 0: ")
    assert unpack_error(gzip.compress(b"a") + b"text", "gzip").startswith(
        "f: no valid gzip data near compressed byte 21: "
    )
    assert unpack_error(b"a,b\n1,2\n", "zstd").startswith("f: no valid zstd data near compressed byte ")


@pytest.mark.parametrize("compression", [*PACKED, "none"])
def test_an_error_of_the_source_passes_through(compression: str) -> None:
    """It is not the data's fault."""

    def chunks() -> Iterator[bytes]:
        yield COMPRESS[compression](b"abc" * 1000)[:10]
        raise SourceChangedError("f: changed while it was being read")

    with pytest.raises(SourceChangedError):
        list(decompress(chunks(), compression, name="f"))


# --- text


@unhurried
@given(st.sampled_from(ENCODINGS), st.text(st.characters(codec="utf-8"), max_size=20), cuts)
@example("utf-16", WRITTEN, [1])
@example("gb18030", WRITTEN, [1])
def test_every_encoding_gives_its_text(encoding: str, text: str, sizes: list[int]) -> None:
    """However its bytes come in, one by one at the worst."""
    data = text.encode(encoding, "ignore")
    text = data.decode(encoding)
    assume(not text.startswith("\ufeff"))
    assume(data[:2] not in (b"\xff\xfe", b"\xfe\xff") or encoding.startswith("utf"))
    assume(data[:3] != b"\xef\xbb\xbf" or encoding.startswith("utf"))
    assert recoded(data, encoding, sizes) == text


@pytest.mark.parametrize("declared", ["utf-8", "latin-1", "utf-16", "cp932", "ascii"])
@pytest.mark.parametrize("actual", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@unhurried
@given(sizes=cuts)
def test_a_byte_order_mark_decides(declared: str, actual: str, sizes: list[int]) -> None:
    """Whatever encoding was declared; the mark is not part of the text."""
    assert recoded(("\ufeff" + WRITTEN).encode(actual), declared, sizes) == WRITTEN
    assert recoded("\ufeff".encode(actual), declared, sizes) == ""


def test_a_mark_of_another_encoding_is_no_text_either() -> None:
    """GB 18030 has one of its own; a second mark, anywhere, is a character."""
    assert recoded("\ufeffa\ufeff".encode("gb18030"), "gb18030", [1]) == "a\ufeff"
    assert recoded("\ufeff\ufeffa".encode(), "utf-8", [1]) == "\ufeffa"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_without_a_mark_the_small_end_comes_first(encoding: str) -> None:
    """As `bytes.decode` has it on this machine, though not Python's own incremental decoders."""
    assert recoded(WRITTEN.encode(f"{encoding}-le"), encoding, [1]) == WRITTEN


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf_8_sig", "ascii", "us-ascii"])
def test_utf8_passes_untouched(encoding: str) -> None:
    """It is not copied, and invalid bytes are for later: they cost a record, not the file."""
    chunks = [b"a\xff", b"\xc3", b"\xa9"]
    found, _, text = find_encoding(iter(chunks), encoding)
    handed = list(transcode(text, found, name="f"))
    assert all(one is other for one, other in zip(handed, chunks, strict=True))


def bad(*values: int) -> bytes:
    """How the bytes that cannot be decoded are spelt."""
    return "".join(chr(0xDC00 + value) for value in values).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("encoding", "data", "text"),
    [
        ("cp1252", b"a\x81b\n\xe9", b"a" + bad(0x81) + b"b\n\xc3\xa9"),
        ("utf-16-le", b"a\0\x00\xd8b\0\n\0", b"a" + bad(0x00, 0xD8) + b"b\n"),
        ("utf-16-be", b"\0a\xdc\x00\0\n", b"a" + bad(0xDC, 0x00) + b"\n"),
        ("utf-16", b"\xff\xfea\0b", b"a" + bad(0x62)),
        ("utf-32-le", b"a\0\0\0\xff\xff\xff\xff\n\0\0\0", b"a" + bad(255, 255, 255, 255) + b"\n"),
        ("cp932", b"a\x81", b"a" + bad(0x81)),
        ("cp932", b"a\x81\nb,c\n", b"a" + bad(0x81) + b"\nb,c\n"),
        ("euc-kr", b'"a\xb0","b"\n', b'"a' + bad(0xB0) + b'","b"\n'),
        ("gb18030", b"\x81\x30\x81,1\n", bad(0x81) + b"0" + bad(0x81) + b",1\n"),
    ],
)
def test_a_byte_that_cannot_be_decoded_is_no_valid_utf8(encoding: str, data: bytes, text: bytes, size: int) -> None:
    """So it costs its record, later. What follows is read as ever: a line end or a delimiter is not swallowed."""
    assert recoded_bytes(data, encoding, [size]) == text


@unhurried
@given(
    st.sampled_from(["cp1252", "utf-16-le", "utf-16-be", "utf-32", "cp932", "gb18030", "euc-kr", "utf-7", "big5"]),
    st.binary(max_size=30),
    cuts,
)
@example("utf-7", b"+2AA-\n", [1])
def test_bytes_at_random_are_text_or_are_spelt(encoding: str, data: bytes, sizes: list[int]) -> None:
    """However they come in. Where all of them can be decoded, the text is Python's own."""
    assume(not data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")))
    text = recoded_bytes(data, encoding, sizes)
    assert text == recoded_bytes(data, encoding)
    try:
        expected = data.decode("utf-32-le" if encoding == "utf-32" else encoding)
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError):
            text.decode()
    else:
        assert text == expected.removeprefix("\ufeff").encode("utf-8", "surrogatepass")


def test_bad_bytes_cost_no_more_time_than_they_are() -> None:
    """A million of them in a row are spelt in a moment."""
    data = b"\x81" * (1 << 20)
    assert recoded_bytes(data, "cp1252") == bad(0x81) * len(data)


def test_a_codec_that_cannot_go_on_is_an_error() -> None:
    """Python's idna knows no error handlers; what it can read, it reads."""
    assert recoded("bücher\n".encode("idna"), "idna") == "bücher\n"
    with pytest.raises(DecodeError, match=r"^f: not valid idna: "):
        recoded(b"b\xfc", "idna")


def test_small_chunks_are_put_together() -> None:
    """Each chunk costs what is held already; of many bytes that come alone, the square."""
    assert [len(chunk) for chunk in gather([b"x"] * (SLICE + 5))] == [SLICE, 5]
    assert list(gather([])) == []


def test_a_large_text_is_transcoded_in_pieces() -> None:
    """A chunk's size puts no bound on what a chunk of another encoding takes."""
    text = "é" * (3 * PIECE)
    pieces = list(transcode(iter([text.encode("latin-1")]), "iso8859-1", name="f"))
    assert b"".join(pieces).decode() == text
    assert max(map(len, pieces)) <= 2 * PIECE
