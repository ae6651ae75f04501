"""The text of a spec, from its bytes, wherever they lie: a file, a folder, a bucket."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from loader.core.errors import SpecError
from loader.core.spec.bounds import SPEC_LIMIT

_OTHER_BOMS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def toml_text(data: bytes, origin: str) -> str:
    """The text of a TOML file, which is UTF-8, with or without a BOM (TOML 1.0, "Spec").

    Raises SpecError for any other encoding; it names the place. Nothing is guessed, and nothing replaced.
    """
    if len(data) > SPEC_LIMIT:
        raise SpecError([f"is longer than {SPEC_LIMIT:,} bytes, so it is not a spec"], origin)
    for bom, encoding in _OTHER_BOMS:
        if data.startswith(bom):
            raise SpecError(
                [f"not valid UTF-8 at byte 0: it begins with the mark of {encoding}; save the file as UTF-8"], origin
            )
    if b"\0" in data[:4]:  # no TOML begins like that, and ASCII in UTF-16 or UTF-32 does
        offset = data.index(b"\0")
        raise SpecError([f"has a NUL at byte {offset}, so it is probably UTF-16; save the file as UTF-8"], origin)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        offset = error.start + (len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0)
        line = data.count(b"\n", 0, offset) + 1
        problem = f"not valid UTF-8 at byte {offset} (counted from 0, in line {line}: 0x{data[offset]:02X})"
        raise SpecError([f"{problem}; save the file as UTF-8"], origin) from error


def read_toml(path: str | os.PathLike[str]) -> str:
    """The text of the TOML file at ``path``. Raises SpecError."""
    origin = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(SPEC_LIMIT + 1)
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SpecError([f"cannot be read: {cause}"], origin) from error
    return toml_text(data, origin)
