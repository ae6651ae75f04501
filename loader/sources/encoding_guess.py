"""Which encoding bytes that are not UTF-8 look like, for a message to suggest.

A small heuristic of our own, not charset-normalizer: that gives an answer for every text, and of the few bytes that a
header or a rejected record has it calls none cp1252 that is (see tests/test_charset.py). A wrong suggestion is worse
than none, so only what is sure is suggested: UTF-16 and UTF-32 by their NULs, and Windows-1252, the usual encoding of
files from Western Europe and the Americas that are not UTF-8, where every byte beyond ASCII stands where letters and
signs of that encoding do.
"""

from __future__ import annotations

import re

SAMPLE = 64 << 10
"""Bytes that are looked at."""

_WIDE = (
    ("utf-32-le", "UTF-32", 4, (1, 2, 3)),
    ("utf-32-be", "UTF-32", 4, (0, 1, 2)),
    ("utf-16-le", "UTF-16", 2, (1,)),
    ("utf-16-be", "UTF-16", 2, (0,)),
)
"""Codec, name, bytes of a character, and at which of them ASCII's characters have their NULs."""


def suggest_encoding(data: bytes) -> str:
    """``; it looks like Windows-1252: set encoding = "cp1252"``, or nothing where that is not sure.

    ``data``: bytes from the file's beginning on, or records of it that are not valid UTF-8, joined by LF.
    """
    found = _wide(data[:SAMPLE]) or _cp1252(data[:SAMPLE])
    return f'; it looks like {found[1]}: set encoding = "{found[0]}"' if found else ""


HEAD = 1 << 20
"""Bytes that tell an encoding, where the spec asks to find it."""


def find_charset(data: bytes) -> str | None:
    """The codec of a file that begins with ``data``, which has no byte order mark; None where none is likely.

    UTF-16 and UTF-32 by their NULs; UTF-8 where it is valid, or mostly, so that a bad byte costs its record; else
    Windows-1252, or ISO-8859-1 where a byte has no meaning in that, unless letters beyond ASCII stand together as they
    do in other alphabets.
    """
    if wide := _wide(data[:SAMPLE]):
        return wide[0]
    if _is_utf8(data):
        return "utf-8"
    codec = "cp1252" if _decodes(data, "cp1252") else "iso8859-1"
    runs = re.findall("[^\x00-\x7f]+", data.decode("latin-1"))
    foreign = sum(len(run) > _LONGEST for run in runs)
    return None if 2 * foreign > len(runs) or _is_binary(data) else codec


def _is_utf8(data: bytes) -> bool:
    """Whether it is valid, but for a character that is cut off at its end, or has more good characters than bad."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        text = data[:-3].decode("utf-8", "replace") if len(data) == HEAD else data.decode("utf-8", "replace")
        bad = text.count("\ufffd")
        return 2 * bad < len(re.findall("[^\x00-\x7f\ufffd]", text)) or not bad
    return True


def _is_binary(data: bytes) -> bool:
    """Whether there are control characters that no text has."""
    return re.search(rb"[\x00-\x08\x0e-\x1a]", data[:SAMPLE]) is not None


def _wide(data: bytes) -> tuple[str, str] | None:
    for codec, name, width, nuls in _WIDE:
        text = data[: len(data) // width * width]
        least = min(text[at::width].count(0) for at in nuls)
        others = sum(text[at::width].count(0) for at in range(width) if at not in nuls)
        if len(text) >= 2 * width and least * width * 8 >= len(text) and not others and _decodes(text, codec):
            return codec, name
    return None


def _decodes(data: bytes, codec: str) -> bool:
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        return False
    return not re.search("[\x00-\x08\x0e-\x1f]", text)


_LETTERS = frozenset(
    "àáâãäåæçèéêëìíîïñòóôõöøùúûüÿœß"
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜŒ"
)  # fmt: skip
"""Without the letters of Icelandic, which are Turkish or Czech in the encodings beside: ð þ ý, and š ž."""

_SIGNS = frozenset("€£§©®°±²³µ·ºª«»¼½¾¿¡¢¥¹™•…–—‘’“”\xa0")

_STRANGERS = (("ø", "ìèù"), ("õ", "öüû"), ("ã", "þîº"), ("å", "ìù"), ("æ", "ê"))
"""Letters that stand together in no language of Western Europe, but do where the bytes are of cp1250: Czech,
Hungarian, Romanian, Polish."""


def _cp1252(data: bytes) -> tuple[str, str] | None:
    """None where characters beyond ASCII stand as those of other encodings do: in pairs, as in East Asia and in UTF-8,
    in whole words, as in Cyrillic and Greek, or as a sign within a word."""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return None
    runs = list(re.finditer("[^\x00-\x7f]+", text))
    votes = {
        _vote(text[max(0, run.start() - 1) : run.start()], run[0], text[run.end() : run.end() + 1]) for run in runs
    }
    letters = {each for each in text.lower() if each in _LETTERS}
    if not runs or "no" in votes or votes == {"perhaps"}:
        return None
    if any(one in letters and letters & set(others) for one, others in _STRANGERS):
        return None
    return "cp1252", "Windows-1252"


def _vote(before: str, run: str, after: str) -> str:
    """What a run of characters beyond ASCII says: "yes", "sign" where it says as much, "perhaps" or "no"."""
    letter_before, letter_after = before.isalpha(), after.isalpha()
    if set(run) <= _LETTERS:
        if not (letter_before or letter_after):
            return "perhaps" if run in _WORDS else "no"
        return "yes" if len(run) == 1 or (len(run) <= _LONGEST and (run.islower() or run.isupper())) else "no"
    if run == "’":
        return "sign" if letter_before else "no"
    within = letter_before and letter_after and run != "\xa0"
    return "no" if within or len(run) > 1 or run not in _SIGNS else "sign"


_WORDS = frozenset("àÀèÈéÉóÓ")
"""Letters that are words by themselves; in Cyrillic encodings others are, too."""

_LONGEST = 3  # letters beyond ASCII in a row, as in "créée"
