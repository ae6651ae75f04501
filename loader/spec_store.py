"""The specs that a deployment holds, in a folder or under a bucket's prefix, and the one that a key asks for.

Each spec is read by itself. One that is wrong fails the keys that it asks for, and no others.
"""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from loader.core.display import shown
from loader.core.errors import LoaderError, SetupError, SourceNotFoundError, SpecError, UsageError
from loader.core.spec.bounds import SPEC_LIMIT
from loader.core.spec.model import LoadSpec
from loader.core.spec.text import read_toml, toml_text
from loader.core.suggestions import did_you_mean, listed
from loader.sources.source import open_source

FRESH = 60.0
"""Seconds for which specs that were read from a bucket are not listed again. Then those that have changed are read."""

STALE = 5.0
"""Seconds after which they are listed again for a key or a name that none of them fits: its spec may have come
since."""

OVERLAPS = 10
"""Other specs that match the same keys, of which a check names each."""

_ENDING = ".toml"


@dataclass(frozen=True, slots=True)
class Held:
    """One spec of a place. ``name``: its path there, without the ending. ``origin``: its whole path or address.

    ``spec``: None where it is wrong, and ``error`` says why. ``asks``: the spec with nothing but its ``source``, as far
    as that could be read; None where nobody knows which keys the spec is for.
    """

    name: str
    origin: str
    spec: LoadSpec | None = None
    error: LoaderError | None = None
    asks: LoadSpec | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with it, a sentence each."""
        if isinstance(self.error, SpecError):
            return self.error.problems
        return () if self.error is None else (str(self.error),)

    def asks_for(self, bucket: str, key: str) -> bool:
        """Whether its ``source`` matches, as far as that is known."""
        return self.asks is not None and self.asks.source_bucket in (None, bucket) and self.asks.matches(key)


class SpecShelf:
    """``place``: a folder, or ``s3://bucket/prefix/``; its ``*.toml`` files, at any depth, are the specs. Or one file.

    ``tell`` is called with each spec that is found to be wrong, once each time that the specs are read.
    """

    def __init__(self, place: str, client: Any = None, tell: Callable[[Held], None] | None = None) -> None:
        self._place = place
        self._client = client
        self._tell = tell
        self._held: Mapping[str, Held] = {}
        self._seen: dict[str, tuple[str, Held]] = {}  # of a bucket, by address: the ETag, and what was read then
        self._read_at: float | None = None

    def find(self, bucket: str, key: str) -> LoadSpec:
        """The one spec whose ``source`` matches.

        Raises UsageError where none does, or several do, and what is wrong with the one that does.
        """
        uri = f"s3://{bucket}/{key}"
        matching = self._matching(bucket, key, FRESH) or self._matching(bucket, key, STALE)
        if len(matching) > 1:
            names = ", ".join(_told(each) for each in matching)
            raise UsageError(f"{uri}: several specs match it: {names}; let only one of them match")
        if not matching:
            raise self._without(f"{uri}: no spec in {self._place} matches it")
        return self._checked(matching[0])

    def named(self, name: str) -> LoadSpec:
        """The spec of that name, with or without ``.toml``. Raises UsageError, or what is wrong with the spec."""
        name = name.removesuffix(_ENDING)
        held = self._all(FRESH).get(name) or self._all(STALE).get(name)
        if held is None:
            specs = self._all(FRESH)
            known = did_you_mean(name, sorted(specs)) if specs else "; there are none"
            raise UsageError(f"there is no spec {shown(name)} in {self._place}{known}")
        return self._checked(held)

    def all(self) -> list[Held]:
        """All specs there are, the wrong ones included, in the order of their names. Raises LoaderError where the place
        itself cannot be read."""
        return [held for _, held in sorted(self._all(FRESH).items())]

    def _matching(self, bucket: str, key: str, fresh: float) -> list[Held]:
        return [held for _, held in sorted(self._all(fresh).items()) if held.asks_for(bucket, key)]

    def _checked(self, held: Held) -> LoadSpec:
        if held.error is not None:
            raise held.error.with_traceback(None)  # it is raised again and again, and would remember each time
        assert held.spec is not None
        return held.spec

    def _without(self, what: str) -> LoaderError:
        """The error for a key that no spec matches, as far as is known: one that cannot be read might."""
        held = self._all(FRESH).values()
        if not held:  # or none that may be seen
            return SetupError(f"{what} (there are none)")
        unknown = [each for each in held if each.asks is None and each.error is not None]
        for each in unknown:
            if each.error is not None and each.error.retryable:  # S3 did not answer, so nobody can tell yet
                return each.error.with_traceback(None)
        names = listed(sorted(each.name for each in held if each.error is None)) or "none is right"
        might = "; ".join(str(each.error) for each in unknown[:3])
        if might:
            return UsageError(f"{what} ({names}), unless one of those that cannot be read does: {might}")
        return UsageError(f"{what} ({names})")

    def _all(self, fresh: float) -> Mapping[str, Held]:
        """What there is, not older than ``fresh`` seconds. A folder is a part of the function, and is read once."""
        now = time.monotonic()
        if self._read_at is None or (self._place.startswith("s3://") and now - self._read_at > fresh):
            found = self._of_bucket() if self._place.startswith("s3://") else self._of_folder()
            self._held = {held.name: held for held in found}
            passing = any(held.error is not None and held.error.retryable for held in self._held.values())
            self._read_at = now - FRESH + STALE if passing else now
            for held in self._held.values():
                if held.error is not None and self._tell is not None:
                    self._tell(held)
        return self._held

    def _of_folder(self) -> Iterator[Held]:
        folder = Path(self._place)
        if folder.is_file():
            yield _held(folder.name, str(folder), partial(read_toml, folder))
            return
        if not folder.is_dir():
            raise SetupError(f"{self._place}: there is no such folder of specs, which LOADER_SPECS or the call names")
        for path in sorted(folder.rglob(f"*{_ENDING}")):
            if not path.is_dir():
                name = path.relative_to(folder).as_posix()
                yield _held(name, str(path), partial(read_toml, path))

    def _of_bucket(self) -> Iterator[Held]:
        """What was read before and is the same still is not read again: there may be hundreds."""
        from loader.sources import s3  # here: those who load from their own disk have no use for it

        prefix = self._place.rstrip("/") + "/"
        try:
            etags = s3.etags(prefix, client=self._client)
        except SourceNotFoundError:
            return
        known, self._seen = self._seen, {}
        for uri, etag in sorted(etags.items()):
            if not uri.endswith(_ENDING):
                continue
            before, held = known.get(uri, (None, None))
            if held is None or not etag or before != etag:
                held = _held(uri.removeprefix(prefix), uri, partial(self._read, uri))
            if held.error is None or not held.error.retryable:
                self._seen[uri] = etag, held
            yield held

    def _read(self, uri: str) -> str:
        with open_source(uri, client=self._client) as source:
            return toml_text(b"".join(source.chunks(0, min(source.size, SPEC_LIMIT + 1))), uri)


def _told(held: Held) -> str:
    return f"{held.name} (which is wrong: {held.error})" if held.error is not None else held.name


def _held(path: str, origin: str, read: Callable[[], str]) -> Held:
    """The spec whose text ``read`` gives, whatever is wrong with it."""
    name = path.removesuffix(_ENDING) or path
    text = None
    try:
        text = read()
        spec = LoadSpec.from_toml_text(text, origin=origin)
    except LoaderError as error:
        return Held(name, origin, error=error, asks=None if text is None else _asks(text))
    return Held(name, origin, spec=spec, asks=spec)


def _asks(text: str) -> LoadSpec | None:
    """What a spec that is wrong elsewhere is for, if its ``source`` is right."""
    try:
        return LoadSpec.from_dict({"source": tomllib.loads(text)["source"], "table": "unknown"})
    except (tomllib.TOMLDecodeError, RecursionError, KeyError, ValueError, SpecError):
        return None


# --- all of them, looked at together


def check_specs(place: str, client: Any = None) -> list[dict[str, Any]]:
    """Every spec of a folder or of ``s3://bucket/prefix/``, with every problem that can be seen without a file.

    Of each: ``name``, ``origin``, ``source`` and ``table`` as far as they are known, and ``problems``, a sentence each;
    none where it is right. Raises LoaderError where the place itself cannot be read, or holds no spec.
    """
    held = SpecShelf(place, client).all()
    if not held:
        raise UsageError(f"there is no spec in {place}")
    return [
        {
            "name": each.name,
            "origin": each.origin,
            "source": None if each.asks is None else each.asks.source,
            "table": None if each.spec is None else each.spec.table,
            "problems": [*each.problems, *islice(_overlaps(each, held), OVERLAPS)],
        }
        for each in held
    ]


def _overlaps(one: Held, held: list[Held]) -> Iterator[str]:
    for other in held:
        if other is not one and (key := _common_key(one, other)) is not None:
            also = f'source: the spec "{other.name}" matches the same keys, such as {shown(key)}'
            yield f"{also}, and an upload that several specs match fails; change one of the two"


def _common_key(one: Held, other: Held) -> str | None:
    """A key that both ask for, as far as a simple one shows it; None does not mean that there is none."""
    if one.asks is None or other.asks is None or len({one.asks.source_bucket, other.asks.source_bucket} - {None}) > 1:
        return None
    patterns = [each for each in (one.asks.source_pattern, other.asks.source_pattern) if each]
    keys = (key for pattern in patterns for key in (_simplest(pattern), pattern))
    return next((key for key in keys if one.asks.matches(key) and other.asks.matches(key)), None)


def _simplest(pattern: str) -> str:
    return re.sub(r"\*+|\?", "x", re.sub(r"(?<![^/])\*\*/", "", pattern))
