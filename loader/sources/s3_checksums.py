"""What S3 says of an object's checksum, and of its parts'.

The answers of S3's look-alikes are taken with care: what is missing or unknown there is a note in the report, never an
error. An object without a checksum is not compared with its ETag: that is an MD5 only of what was uploaded in one piece
and without KMS, and MD5 takes 1.4 s of CPU per GB, where all else that a load does takes about 12."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from loader.sources import crc
from loader.sources.checksums import Checksum, NoChecksum, ObjectPart, combined

ASKED = 1000
"""Parts that are asked for one by one at most, where GetObjectAttributes is not permitted: about 20 s."""

_PAGE = 1000  # parts in one answer of GetObjectAttributes, S3's most

Named = Mapping[str, str]
"""What names one version of an object in a request."""


class _UnusableError(Exception):
    """What the store says of its checksum is of no use; the message says why."""


def find_checksum(client: Any, named: Named, head: Mapping[str, Any]) -> Checksum | NoChecksum:
    """The checksum that ``head`` gives, which is S3's answer to HeadObject with ChecksumMode.

    Where it is one of parts' checksums, S3 is asked for the parts.
    """
    told = {name.removeprefix("Checksum").lower(): value for name, value in head.items() if _is_value(name, value)}
    if not told:
        return NoChecksum("S3 keeps no checksum of this object, so the bytes that arrived were not compared with one")
    try:
        algorithm, value, count = _understood(told)
        kind = head.get("ChecksumType") or ("COMPOSITE" if count else None if "-" in head["ETag"] else "FULL_OBJECT")
        if kind == "FULL_OBJECT":
            return Checksum(algorithm, value)
        if kind != "COMPOSITE":
            raise _UnusableError("the store does not say whether it is of the whole object")
        parts = _find_parts(client, named, algorithm, head["ContentLength"])
        if not parts or (count.isdigit() and int(count) != len(parts)):
            raise _UnusableError("it is one of the object's parts, and S3 does not say which parts it has")
    except _UnusableError as why:
        return NoChecksum(f"the bytes that arrived were not compared with S3's checksum of the object: {why}")
    found = Checksum(algorithm, value, parts)
    if found.knows_parts and combined(algorithm, parts) == value:
        return found
    return Checksum(algorithm, value, tuple(replace(part, value=None) for part in parts))


def _understood(told: Mapping[str, str]) -> tuple[str, bytes, str]:
    """Algorithm, value, and after a hyphen the number of parts, of a checksum that can be computed here."""
    algorithm = next((each for each in crc.SIZES if each in told), None)
    if algorithm is None:
        raise _UnusableError(f"this version does not compute {', '.join(told).upper()}")
    if not crc.available(algorithm):
        raise _UnusableError(f"{algorithm.upper()} needs the Python package awscrt, which is not installed")
    spelt, _, count = told[algorithm].partition("-")
    value = _decoded(algorithm, spelt)
    if value is None:
        raise _UnusableError(f"{told[algorithm][:60]!r} is no {algorithm.upper()}")
    return algorithm, value, count


def _is_value(name: str, value: Any) -> bool:
    return name.startswith("Checksum") and name != "ChecksumType" and isinstance(value, str) and bool(value)


def _decoded(algorithm: str, spelt: str | None) -> bytes | None:
    try:
        value = base64.b64decode(spelt or "", validate=True)
    except binascii.Error:
        return None
    return value if len(value) == crc.SIZES[algorithm] else None


def _find_parts(client: Any, named: Named, algorithm: str, size: int) -> tuple[ObjectPart, ...]:
    """All parts in their order; none where S3 does not tell them, or what it tells does not add up."""
    for ask in (_listed, _one_by_one):
        try:
            parts = tuple(ask(client, named, algorithm))
        except (BotoCoreError, ClientError, LookupError):  # LookupError: an answer without what is asked for
            continue
        if parts and sum(part.size for part in parts) == size:
            return parts
    return ()


def _listed(client: Any, named: Named, algorithm: str) -> Iterator[ObjectPart]:
    asked = {name: value for name, value in named.items() if name != "IfMatch"}  # which the request does not know
    marker = 0
    while True:
        answer = client.get_object_attributes(
            **asked, ObjectAttributes=["ETag", "ObjectParts"], MaxParts=_PAGE, PartNumberMarker=marker
        )
        if answer["ETag"].strip('"') != named.get("IfMatch", answer["ETag"]).strip('"'):
            return
        found = answer["ObjectParts"]
        for part in found["Parts"]:
            yield ObjectPart(
                part["PartNumber"], part["Size"], _decoded(algorithm, part.get(f"Checksum{algorithm.upper()}"))
            )
        if not found.get("IsTruncated"):
            return
        marker = int(found["NextPartNumberMarker"])


def _one_by_one(client: Any, named: Named, algorithm: str) -> Iterator[ObjectPart]:
    number, count = 1, 1
    while number <= count:
        answer = client.head_object(**named, PartNumber=number, ChecksumMode="ENABLED")
        count = answer["PartsCount"]
        if count > ASKED:
            return
        yield ObjectPart(
            number, answer["ContentLength"], _decoded(algorithm, answer.get(f"Checksum{algorithm.upper()}"))
        )
        number += 1
