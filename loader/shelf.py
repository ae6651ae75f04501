"""The specs that a deployment holds, in a folder or under a bucket's prefix, and the one that a key asks for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from loader.errors import SourceNotFoundError, UsageError
from loader.source import expand, open_source
from loader.spec import LoadSpec

FRESH = 60.0
"""Seconds for which specs that were read from a bucket are not read again."""


class SpecShelf:
    """``place``: a folder, or ``s3://bucket/prefix/``; its ``*.toml`` files are the specs, named without the ending."""

    def __init__(self, place: str, client: Any = None) -> None:
        self._place = place
        self._client = client
        self._specs: Mapping[str, LoadSpec] = {}
        self._read_at: float | None = None

    def find(self, bucket: str, key: str) -> LoadSpec:
        """The one spec whose ``source`` matches. Raises UsageError where none does, or several do."""
        matching = {
            name: spec
            for name, spec in self._all().items()
            if spec.source_bucket in (None, bucket) and spec.matches(key)
        }
        if len(matching) == 1:
            return next(iter(matching.values()))
        held = ", ".join(sorted(matching or self._all())) or "there are none"
        if matching:
            raise UsageError(f"s3://{bucket}/{key}: several specs match it: {held}")
        raise UsageError(f"s3://{bucket}/{key}: no spec in {self._place} matches it ({held})")

    def named(self, name: str) -> LoadSpec:
        """The spec of that name, with or without ``.toml``. Raises UsageError."""
        specs = self._all()
        found = specs.get(name.removesuffix(".toml"))
        if found is None:
            held = ", ".join(sorted(specs)) or "there are none"
            raise UsageError(f'there is no spec "{name}" in {self._place} ({held})')
        return found

    def names(self) -> list[str]:
        """Of all specs there are, each of which was read. Raises SpecError for the first that is none."""
        return sorted(self._all())

    def _all(self) -> Mapping[str, LoadSpec]:
        now = time.monotonic()
        if self._place.startswith("s3://"):
            if self._read_at is None or now - self._read_at > FRESH:
                self._specs, self._read_at = self._of_bucket(), now
        elif self._read_at is None:
            self._specs, self._read_at = self._of_folder(), now
        return self._specs

    def _of_folder(self) -> dict[str, LoadSpec]:
        folder = Path(self._place)
        if not folder.is_dir():
            raise UsageError(f"{self._place}: is no folder; LOADER_SPECS says where the specs are")
        return {path.stem: LoadSpec.from_toml(path) for path in sorted(folder.glob("*.toml"))}

    def _of_bucket(self) -> dict[str, LoadSpec]:
        try:
            uris = expand(self._place.rstrip("/") + "/", client=self._client)
        except SourceNotFoundError:
            return {}
        specs = {}
        for uri in uris:
            if uri.endswith(".toml"):
                with open_source(uri, client=self._client) as source:
                    text = b"".join(source.chunks()).decode("utf-8", "replace")
                specs[PurePosixPath(uri).stem] = LoadSpec.from_toml_text(text, origin=uri)
        return specs
