"""Objects and files that stand among the data and hold no records: folder markers, ``_SUCCESS``, ``.DS_Store``.

Whoever asks for a whole prefix, folder or glob does not mean them. One that is named itself is taken at its name.
An empty object with a data file's name is no marker: a failed export looks the same, so it fails as it does alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from loader.core.suggestions import listed

_KNOWN = re.compile(
    r"_(?:SUCCESS|FAILURE|FAILED|(?:common_)?metadata)|_(?:committed|started)_.*"  # Hadoop, Spark, Databricks
    r"|.*_\$folder\$"  # Hadoop's folders in S3
    r"|\.DS_Store|\._.*|\..*\.crc|Thumbs\.db|desktop\.ini",
    re.DOTALL,
)
_KNOWN_FOLDERS = frozenset({"_temporary", "_delta_log", "__MACOSX"})


def is_marker(key: str, size: int | None) -> bool:
    """Whether the object or file of that key or path, of ``size`` bytes, stands for no data, whoever reads it.

    None: its size is not known.
    """
    name = key.rpartition("/")[2]
    return _KNOWN.fullmatch(name) is not None or (size == 0 and name[:1] in ("", "_", "."))


def is_left_out(key: str, size: int, pattern: str) -> bool:
    """Whether an object or file is left out of what ``pattern``, a prefix or a glob, stands for: markers, hidden ones,
    and what lies in a folder of either kind. Not where the pattern asks for such names itself."""
    folder = _WILD.split(pattern, maxsplit=1)[0].rpartition("/")[0]
    asked, below = pattern[len(folder) :].split("/"), key[len(folder) :].split("/")
    if any(each.startswith((".", "_")) for each in asked):
        return False
    return is_marker(key, size) or any(each.startswith(".") or each in _KNOWN_FOLDERS for each in below)


_WILD = re.compile(r"[*?\[]")


def told(left_out: Sequence[str]) -> tuple[str, ...]:
    """A note on what was left out, if anything was."""
    if not left_out:
        return ()
    what = "1 name that stands for no data was" if len(left_out) == 1 else f"{len(left_out):,} names were"
    why = "" if len(left_out) == 1 else ", for they stand for no data"
    return (f"{what} left out{why}: {listed(left_out)}",)
