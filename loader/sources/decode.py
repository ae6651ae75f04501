"""An object's bytes → its text in UTF-8: decompressed, then transcoded, a piece at a time.

Whatever a few compressed bytes claim to hold, they are unpacked in pieces, so that memory does not depend on it.
Text that is UTF-8 already passes through untouched: whether its bytes are valid is judged record by record, later;
and what cannot be decoded from another encoding is spelt so that it is not valid either.
"""

from __future__ import annotations

import bz2
import codecs
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Protocol

from loader.core.errors import DecodeError

PIECE = 1 << 20
"""Bytes of a decompressed piece at most, and of what is transcoded at once: a block's worth."""

SLICE = 256 << 10
"""Compressed bytes given to a decompressor at once. What it leaves over is copied each time, so 8 MiB is slower
than 256 KiB; so is 64 KiB, by 10 %."""

_SKIPPABLE = tuple(bytes([0x50 + number, 0x2A, 0x4D, 0x18]) for number in range(16))  # RFC 8878, 3.1.2
_BZ2_MAGIC = tuple(b"BZh%d%s" % (level, mark) for level in range(1, 10) for mark in (b"1AY&SY", b"\x17rE8P\x90"))
"""With the first block's mark, or that of an empty stream's end: a CSV may well begin with "BZh"."""

_MAGIC = (("gzip", (b"\x1f\x8b",)), ("zstd", (b"\x28\xb5\x2f\xfd", *_SKIPPABLE)), ("bz2", _BZ2_MAGIC))
_MAGIC_LENGTH = 10

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, which begins alike
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BOM_LENGTH = 4

_UTF8 = ("utf-8", "utf-8-sig", "ascii")

# Python's incremental decoders, unlike bytes.decode, refuse these without a BOM
_WITHOUT_BOM = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}


# --- decompression


def find_compression(chunks: Iterator[bytes], declared: str) -> tuple[str, Iterator[bytes]]:
    """How the bytes are compressed: as ``declared``, or where that is auto, as their magic bytes say."""
    if declared != "auto":
        return declared, chunks
    head, chunks = peek(chunks, _MAGIC_LENGTH)
    return next((kind for kind, magic in _MAGIC if head.startswith(magic)), "none"), chunks


def decompress(chunks: Iterator[bytes], compression: str, *, name: str) -> Iterator[bytes]:
    """The bytes that ``chunks`` hold: ``compression`` is auto (by magic bytes), none, gzip, zstd or bz2.

    Several members, frames or streams after one another are one text, as the tools of each format have it; zero
    bytes that pad a gzip file out are skipped. Raises DecodeError for damage, for data that breaks off, and for
    anything else that follows the end, with its place in the compressed bytes.
    """
    compression, chunks = find_compression(chunks, compression)
    if compression == "none":
        yield from chunks
    elif compression == "zstd":
        yield from _unpack_zstd(chunks, name)
    else:
        yield from _unpack(chunks, compression, name)


class _Member(Protocol):
    """The decompressor of one gzip member or bz2 stream, with the interface of `bz2.BZ2Decompressor`."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipMember:
    """zlib's decompressor behind bz2's interface: what it has not consumed yet is its own affair."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # | 16: with gzip's header and CRC
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._inner.decompress(self._inner.unconsumed_tail or data, max_length)
        self.needs_input = not self._inner.unconsumed_tail and len(piece) < max_length
        return piece


_NEW_MEMBER: dict[str, Callable[[], _Member]] = {"gzip": _GzipMember, "bz2": bz2.BZ2Decompressor}


def _unpack(chunks: Iterator[bytes], compression: str, name: str) -> Iterator[bytes]:
    """gzip members or bz2 streams, one after another."""
    member: _Member | None = None
    ended = position = 0  # members; compressed bytes
    for fed in _slices(chunks, SLICE):
        data = fed
        position += len(data)
        while data or (member is not None and not member.needs_input):
            if member is None:
                data = data.lstrip(b"\0") if ended and compression == "gzip" else data
                if not data:
                    break
                member = _NEW_MEMBER[compression]()
            try:
                piece = member.decompress(data, PIECE)
            except (zlib.error, OSError) as error:
                raise _damaged(name, compression, position - len(data), error) from error
            data = b""
            if member.eof:
                data, member = member.unused_data, None
                ended += 1
            if piece:
                yield piece
    if member is not None or not ended:
        raise _broken_off(name, compression, position)


def _unpack_zstd(chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """zstd frames, one after another, by way of Arrow.

    The zstandard package, which is the usual choice, has no interface that is safe here: its stream reader takes
    a file that breaks off for a whole one, and its other decompressors put no bound on what a chunk unpacks to.
    """
    import pyarrow as pa

    file = _ChunkFile(chunks)
    with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd") as unpacked:
        while True:
            try:
                piece = unpacked.read(PIECE)
            except OSError as error:
                if file.ended:
                    raise _broken_off(name, "zstd", file.position) from error
                raise _damaged(name, "zstd", file.position, error) from error
            if not piece:
                break
            yield piece
    if not file.position:
        raise _broken_off(name, "zstd", 0)


class _ChunkFile:
    """Chunks as the file that Arrow reads from. ``position`` is how many bytes it took."""

    closed = False

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._slices = _slices(chunks, SLICE)
        self._slice = memoryview(b"")
        self.position = 0
        self.ended = False

    def read(self, size: int) -> bytes:
        if not self._slice:
            self._slice = memoryview(next(self._slices, b""))
            self.ended = not self._slice
        taken, self._slice = bytes(self._slice[:size]), self._slice[size:]
        self.position += len(taken)
        return taken

    def close(self) -> None:
        """Arrow closes what it reads; the chunks are their owner's to close."""


def _damaged(name: str, compression: str, position: int, error: Exception) -> DecodeError:
    return DecodeError(f"{name}: no valid {compression} data near compressed byte {position}: {error}")


def _broken_off(name: str, compression: str, position: int) -> DecodeError:
    return DecodeError(f"{name}: the {compression} data breaks off at compressed byte {position}")


# --- text


def find_encoding(chunks: Iterator[bytes], declared: str) -> tuple[str, int, Iterator[bytes]]:
    """What the text is encoded in, bytes of its byte order mark, and the chunks without that.

    A byte order mark of UTF-8, 16 or 32 decides, whatever encoding was ``declared``. UTF-16 and UTF-32 without a
    mark are little-endian. The name is that of Python's codec; ASCII is taken for the UTF-8 that it is.
    """
    head, chunks = peek(chunks, _BOM_LENGTH)
    for bom, found in _BOMS:
        if head.startswith(bom):
            return found, len(bom), without(chunks, len(bom))
    codec = codecs.lookup(declared).name
    return "utf-8" if codec in _UTF8 else _WITHOUT_BOM.get(codec, codec), 0, chunks


def transcode(chunks: Iterator[bytes], encoding: str, *, name: str) -> Iterator[bytes]:
    """The text that ``chunks`` hold in ``encoding``, one of `find_encoding`'s, as UTF-8 without a byte order mark.

    UTF-8 passes through untouched. A byte that cannot be decoded becomes three that are not valid UTF-8, so that
    it costs its record and no more: the surrogate U+DC00 and the byte's value. Raises DecodeError where Python's
    codec cannot go on after such a byte.
    """
    if encoding == "utf-8":
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(encoding)("strict" if encoding in _STRICT_ONLY else _ERRORS)
    begun = False
    for data in chain(_slices(chunks, PIECE), [None]):
        try:
            text = decoder.decode(data or b"", data is None)
        except UnicodeError as error:
            raise DecodeError(f"{name}: not valid {encoding}: {error}") from error
        if text and not begun:
            # the mark as other encodings have it, GB 18030's for one
            text, begun = text.removeprefix("\ufeff"), True
        if text:
            yield text.encode("utf-8", "surrogatepass")


def _spell_undecodable(error: UnicodeError) -> tuple[str, int]:
    """A surrogate for each byte that cannot be decoded, as Python's ``surrogateescape``, but for ASCII's bytes too.

    A byte of ASCII that was taken for the second half of a character is given another chance: it may be a line end
    or a delimiter. Not so where every character has at least two bytes.
    """
    if not isinstance(error, UnicodeDecodeError):
        raise error
    bad = error.object[error.start : error.end]
    if not error.encoding.lower().startswith(("utf-16", "utf16", "utf-32", "utf32")):
        size = next((at for at, byte in enumerate(bad) if at and byte < 0x80), len(bad))
        bad = bad[:size]
    return "".join(chr(0xDC00 + byte) for byte in bad), error.start + len(bad)


_STRICT_ONLY = ("idna", "punycode")

_ERRORS = "loader.undecodable"
codecs.register_error(_ERRORS, _spell_undecodable)


def gather(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks, small ones put together: to take in a chunk costs what is held already, which may be a record."""
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= SLICE:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


# --- chunks


def peek(chunks: Iterator[bytes], length: int) -> tuple[bytes, Iterator[bytes]]:
    """The first ``length`` bytes, or all where there are fewer, and the chunks with nothing taken off."""
    taken: list[bytes] = []
    while sum(map(len, taken)) < length and (chunk := next(chunks, None)) is not None:
        taken.append(chunk)
    return b"".join(chunk[:length] for chunk in taken)[:length], chain(taken, chunks)


def without(chunks: Iterator[bytes], length: int) -> Iterator[bytes]:
    """The chunks without their first ``length`` bytes."""
    for chunk in chunks:
        rest = chunk[length:] if length else chunk
        length -= len(chunk) - len(rest)
        if rest:
            yield rest


def _slices(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The chunks, cut so that none is longer than ``size``."""
    for chunk in chunks:
        if len(chunk) <= size:
            yield chunk
        else:
            yield from (chunk[at : at + size] for at in range(0, len(chunk), size))
