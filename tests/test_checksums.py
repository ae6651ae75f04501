"""Bytes on their way: what S3 keeps a checksum of is loaded as it is stored, or not at all."""

from __future__ import annotations

import base64
import gzip
import hashlib
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import boto3
import pytest
from awscrt import checksums as awscrt
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from support.effort import effort
from support.postgres import query
from support.s3 import S3, FaultProxy, attributes, damage

import loader
from loader.core.deadline import Deadline
from loader.core.errors import SourceCorruptedError
from loader.engine.counters import Progress
from loader.pipeline import How, load_one
from loader.postgres.database import Database
from loader.sharding.shards import ReplanError, ShardPlan, finish, load_shard, plan_shards, prove
from loader.sources.checksums import ByteCheck, Checksum, NoChecksum, ObjectPart, Seen
from loader.sources.s3_checksums import find_checksum
from loader.sources.source import open_source

SUMS: dict[str, Callable[[bytes], bytes]] = {
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "crc32c": lambda data: awscrt.crc32c(data).to_bytes(4, "big"),
    "crc64nvme": lambda data: awscrt.crc64nvme(data).to_bytes(8, "big"),
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
}
"""Each algorithm by itself, as S3 would compute it."""

ROWS = 24_000
TEXT = b"id,v\n" + b"".join(
    b"%d,a text %d that makes the record longer than it would be*\n" % (n, n) for n in range(ROWS)
)
SPEC: dict[str, Any] = {"table": "t", "segment_mb": 1}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loader.engine.attempts.backoff", lambda _attempt: 0.0)
    monkeypatch.setattr("loader.sharding.workers.backoff", lambda _attempt: 0.0)


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    made = bytearray(data)
    made[at] ^= 1 << bit
    return bytes(made)


# --- one pass, and several


def parts_of(data: bytes, borders: list[int]) -> list[bytes]:
    places = [0, *sorted({each % len(data) for each in borders} - {0}), len(data)] if data else [0]
    return [data[first:past] for first, past in pairwise(places)]


def checksum_of(data: bytes, algorithm: str, kind: str, borders: list[int]) -> Checksum:
    """``kind``: "whole", "parts" whose checksums S3 tells, or "sizes" of parts alone."""
    if kind == "whole" or not data:
        return Checksum(algorithm, SUMS[algorithm](data))
    sums = [(len(part), SUMS[algorithm](part)) for part in parts_of(data, borders)]
    value = SUMS[algorithm](b"".join(each for _, each in sums))
    told = kind == "parts"
    return Checksum(
        algorithm,
        value,
        tuple(ObjectPart(number, size, each if told else None) for number, (size, each) in enumerate(sums, start=1)),
    )


def chunks(data: bytes, size: int, start: int = 0) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(start, len(data), size))


KINDS = st.sampled_from(["whole", "parts", "sizes"])
BORDERS = st.lists(st.integers(1, 400), max_size=4)


@pytest.mark.parametrize("algorithm", SUMS)
@given(data=st.binary(max_size=400), kind=KINDS, borders=BORDERS, size=st.integers(1, 500))
def test_the_object_s_own_bytes_pass(algorithm: str, data: bytes, kind: str, borders: list[int], size: int) -> None:
    check = ByteCheck("x", len(data), checksum_of(data, algorithm, kind, borders))
    assert b"".join(check.watch(chunks(data, size))) == data
    assert check.proved


@pytest.mark.parametrize("algorithm", SUMS)
@given(
    data=st.binary(min_size=1, max_size=400),
    kind=KINDS,
    borders=BORDERS,
    size=st.integers(1, 500),
    at=st.integers(0, 399),
    bit=st.integers(0, 7),
)
def test_one_bit_is_noticed_before_the_last_byte_is_handed_on(
    algorithm: str, data: bytes, kind: str, borders: list[int], size: int, at: int, bit: int
) -> None:
    check = ByteCheck("x", len(data), checksum_of(data, algorithm, kind, borders))
    handed: list[bytes] = []
    damaged = check.watch(chunks(flipped(data, at % len(data), bit), size))
    with pytest.raises(SourceCorruptedError) as caught:
        handed.extend(damaged)
    seen = len(b"".join(handed))
    assert seen < len(data)
    assert caught.value.retryable
    assert not check.proved


@pytest.mark.parametrize("algorithm", SUMS)
@given(
    data=st.binary(min_size=1, max_size=400),
    kind=KINDS,
    borders=BORDERS,
    sizes=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    stop=st.integers(0, 400),
    behind=st.one_of(st.none(), st.integers(0, 200)),
    wrong=st.one_of(st.none(), st.tuples(st.sampled_from(["first", "second"]), st.integers(0, 399), st.integers(0, 7))),
)
def test_two_passes_prove_what_one_does(
    algorithm: str,
    data: bytes,
    kind: str,
    borders: list[int],
    sizes: tuple[int, int],
    stop: int,
    behind: int | None,
    wrong: tuple[str, int, int] | None,
) -> None:
    """A pass ends after any chunk; its checkpoint lies behind that or, as of compressed objects, at the beginning.

    A byte that either of them read wrong, and that was used, is noticed.
    """
    spoilt = {"first": data, "second": data}
    if wrong is not None:
        spoilt[wrong[0]] = flipped(data, wrong[1] % len(data), wrong[2])
    checksum = checksum_of(data, algorithm, kind, borders)
    first = ByteCheck("x", len(data), checksum)
    try:
        for chunk in first.watch(chunks(spoilt["first"], sizes[0])):
            if first.at >= min(stop, len(data)) or not chunk:
                break
        offset = None if behind is None else max(0, first.at - behind)
        seen = Seen.from_dict(first.seen(offset).to_dict())
        assert seen is not None
        assert seen.start[0] <= (offset or 0)
        second = ByteCheck("x", len(data), checksum, earlier=seen)
        for _ in second.watch(chunks(spoilt["second"], sizes[1], second.at)):
            pass
    except SourceCorruptedError:
        assert wrong is not None
        return
    assert second.proved
    if wrong is not None:  # it was not read by that pass
        at = wrong[1] % len(data)
        assert at >= first.at if wrong[0] == "first" else at < seen.start[0]


def test_an_older_checkpoint_says_nothing() -> None:
    assert Seen.from_dict(None) is None
    assert Seen.from_dict({"algorithm": "crc128", "start": [0, 0], "marks": [], "proved": False}) is None


# --- what S3 says


ALGORITHMS = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_checksum_of_the_whole_is_found_with_the_first_request(
    s3: S3, fault_proxy: FaultProxy, algorithm: str
) -> None:
    s3.client.put_object(Bucket=s3.bucket, Key="x.csv", Body=TEXT, ChecksumAlgorithm=algorithm)
    with open_source(s3.uri("x.csv")) as source:
        assert source.checksum() == Checksum(algorithm.lower(), SUMS[algorithm.lower()](TEXT))
    assert [each.method for each in fault_proxy.requests] == ["HEAD"]


def upload_in_parts(s3: S3, key: str, parts: list[bytes], algorithm: str, kind: str) -> None:
    named = {"Bucket": s3.bucket, "Key": key}
    begun = s3.client.create_multipart_upload(**named, ChecksumAlgorithm=algorithm, ChecksumType=kind)
    done = []
    for number, part in enumerate(parts, start=1):
        told = s3.client.upload_part(
            **named, PartNumber=number, UploadId=begun["UploadId"], Body=part, ChecksumAlgorithm=algorithm
        )
        spelt = base64.b64encode(SUMS[algorithm.lower()](part)).decode()
        done.append({"PartNumber": number, "ETag": told["ETag"], f"Checksum{algorithm}": spelt})
    s3.client.complete_multipart_upload(**named, UploadId=begun["UploadId"], MultipartUpload={"Parts": done})


LARGE = [TEXT * 4, TEXT[:100_000]]  # a part but the last has 5 MiB at least
assert len(LARGE[0]) >= 5 << 20


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC64NVME"])
def test_of_an_upload_in_parts_the_whole_is_compared(s3: S3, algorithm: str) -> None:
    upload_in_parts(s3, "x.csv", LARGE, algorithm, "FULL_OBJECT")
    with open_source(s3.uri("x.csv")) as source:
        assert source.checksum() == Checksum(algorithm.lower(), SUMS[algorithm.lower()](b"".join(LARGE)))


PARTS_XML = """<?xml version="1.0" encoding="UTF-8"?>
<GetObjectAttributesResponse xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><ETag>{etag}</ETag><ObjectParts>
<IsTruncated>{truncated}</IsTruncated><NextPartNumberMarker>{marker}</NextPartNumberMarker>{parts}
</ObjectParts></GetObjectAttributesResponse>"""


def tells_parts(s3: S3, key: str, parts: list[bytes], algorithm: str, page: int = 1) -> list[Any]:
    """Answers to GetObjectAttributes as S3 gives them, ``page`` parts each; the emulator leaves the parts out."""
    etag = s3.client.head_object(Bucket=s3.bucket, Key=key)["ETag"].strip('"')
    pages = []
    for first in range(0, len(parts), page):
        spelt = "".join(
            f"<Part><PartNumber>{number}</PartNumber><Size>{len(part)}</Size>"
            f"<Checksum{algorithm}>{base64.b64encode(SUMS[algorithm.lower()](part)).decode()}</Checksum{algorithm}></Part>"
            for number, part in enumerate(parts[first : first + page], start=first + 1)
        )
        more = first + page < len(parts)
        body = PARTS_XML.format(etag=etag, truncated=str(more).lower(), marker=first + page, parts=spelt)
        pages.append(attributes(body.encode()))
    return pages


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA256"])
@pytest.mark.parametrize("told", [True, False])
def test_of_an_upload_in_parts_the_parts_are_compared(
    s3: S3, fault_proxy: FaultProxy, algorithm: str, told: bool
) -> None:
    """Where S3 gives their checksums, each; where it gives their sizes only, the checksum of all checksums."""
    upload_in_parts(s3, "x.csv", LARGE, algorithm, "COMPOSITE")
    if told:
        fault_proxy.faults += tells_parts(s3, "x.csv", LARGE, algorithm)
    name = algorithm.lower()
    with open_source(s3.uri("x.csv")) as source:
        found = source.checksum()
        assert isinstance(found, Checksum)
        assert [(part.size, part.value) for part in found.parts] == [
            (len(part), SUMS[name](part) if told else None) for part in LARGE
        ]
        assert found.value == SUMS[name](b"".join(map(SUMS[name], LARGE)))
        check = ByteCheck(source.uri, source.size, found)
        assert b"".join(check.watch(source.chunks())) == b"".join(LARGE)
        assert check.proved
        fault_proxy.faults.append(damage(b"".join(LARGE), flipped(b"".join(LARGE), len(LARGE[0]) + 5)))
        with pytest.raises(SourceCorruptedError, match="of part 2" if told else "of the checksums of 2 parts"):
            list(ByteCheck(source.uri, source.size, found).watch(source.chunks()))


HEAD = {"ETag": '"abc"', "ContentLength": 3}


class Silent:
    """A store that knows nothing of parts."""

    def get_object_attributes(self, **_asked: Any) -> dict[str, Any]:
        raise ClientError({"Error": {"Code": "AccessDenied"}}, "GetObjectAttributes")

    def head_object(self, **_asked: Any) -> dict[str, Any]:
        return dict(HEAD)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({}, "S3 keeps no checksum of this object"),
        ({"ChecksumXXHASH64": "AAAAAAAAAAA="}, "this version does not compute XXHASH64"),
        ({"ChecksumCRC32": "no base64"}, "'no base64' is no CRC32"),
        ({"ChecksumCRC32": "AAAAAAAAAAA="}, "is no CRC32"),
        ({"ChecksumCRC32": "AAAAAA==", "ChecksumType": "SOME_OTHER"}, "does not say whether it is of the whole object"),
        ({"ChecksumCRC32": "AAAAAA==", "ETag": '"abc-2"'}, "does not say whether it is of the whole object"),
        ({"ChecksumCRC32": "AAAAAA==-2"}, "does not say which parts it has"),
        ({"ChecksumSHA256": "AAAAAA==", "ChecksumType": "COMPOSITE"}, "is no SHA256"),
    ],
)
def test_what_cannot_be_compared_is_a_note(told: dict[str, Any], why: str) -> None:
    found = find_checksum(Silent(), {"Bucket": "b", "Key": "k"}, {**HEAD, **told})
    assert isinstance(found, NoChecksum)
    assert why in found.why


def test_without_awscrt_only_its_algorithms_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loader.sources.crc._has_awscrt", lambda: False)
    named = {"Bucket": "b", "Key": "k"}
    value = base64.b64encode(SUMS["crc64nvme"](b"abc")).decode()
    found = find_checksum(Silent(), named, {**HEAD, "ChecksumCRC64NVME": value})
    assert isinstance(found, NoChecksum)
    assert "awscrt, which is not installed" in found.why
    for name in ("crc32", "sha256"):
        value = base64.b64encode(SUMS[name](b"abc")).decode()
        check = ByteCheck("x", 3, find_checksum(Silent(), named, {**HEAD, f"Checksum{name.upper()}": value}))
        assert list(check.watch(iter([b"abc"]))) == [b"abc"]
        assert check.proved


# --- loads


def load(database: Database, uri: str, spec: dict[str, Any] = SPEC, **how: Any) -> loader.LoadReport:
    return load_one(uri, loader.LoadSpec.from_dict(spec), database, How(**how))


def swapped(data: bytes, one: int, other: int, size: int) -> bytes:
    made = bytearray(data)
    made[one : one + size], made[other : other + size] = data[other : other + size], data[one : one + size]
    return bytes(made)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit in the header": lambda data: flipped(data, 1),
    "a bit in a number": lambda data: flipped(data, data.index(b"\n4000,") + 1),
    "a bit in a text": lambda data: flipped(data, data.index(b"record") + 2),
    "a bit that makes a line end": lambda data: flipped(data, data.index(b"*"), 5),
    "the last byte": lambda data: flipped(data, len(data) - 1, 6),
    "two ranges swapped": lambda data: swapped(data, 1000, 500_000, 4096),
    "a range twice": lambda data: data[:200_000] + data[100_000:200_000] + data[300_000:],
    "zeros for the end": lambda data: data[:-300] + bytes(300),
    "another version's bytes": lambda data: data[: len(data) // 2] + data[len(data) // 2 :].replace(b"text", b"TEXT"),
}


def exact(dsn: str) -> list[tuple[Any, ...]]:
    return query(dsn, "SELECT count(*), sum(id), md5(string_agg(v, '|' ORDER BY id)) FROM t WHERE v <> 'before'")


EXPECTED = [
    (
        ROWS,
        sum(range(ROWS)),
        hashlib.md5(
            "|".join(f"a text {n} that makes the record longer than it would be*" for n in range(ROWS)).encode()
        ).hexdigest(),
    )
]


def left(dsn: str) -> list[tuple[Any, ...]]:
    tables = query(dsn, "SELECT tablename FROM pg_tables WHERE schemaname = 'loader' AND tablename LIKE 'staging%%'")
    return tables + query(dsn, "SELECT load_id FROM loader.checkpoints") + query(dsn, "SELECT run FROM loader.shards")


STAGED = {**SPEC, "mode": "merge", "key": ["id"]}


def make_target(dsn: str, way: str) -> None:
    if way == "staged":
        query(dsn, "CREATE TABLE t (id bigint PRIMARY KEY, v text)")
        query(dsn, "INSERT INTO t VALUES (-1, 'before')")


@pytest.mark.parametrize(
    ("way", "what"),
    effort(
        [*(("straight", what) for what in list(DAMAGES)[::2]), *(("staged", what) for what in list(DAMAGES)[1::2])],
        [(way, what) for way in ("straight", "staged") for what in DAMAGES],
    ),
)
def test_damaged_bytes_are_never_loaded(
    dsn: str, database: Database, s3: S3, fault_proxy: FaultProxy, way: str, what: str
) -> None:
    """As long as they arrive damaged, nothing is loaded, whatever the damage does to records; then all of it is."""
    make_target(dsn, way)
    s3.client.put_object(Bucket=s3.bucket, Key="x.csv", Body=TEXT, ChecksumAlgorithm="CRC64NVME")
    spec = STAGED if way == "staged" else SPEC
    fault_proxy.faults.append(damage(TEXT, DAMAGES[what](TEXT), lasting=True))
    with pytest.raises(
        SourceCorruptedError, match=r"x\.csv: the bytes that arrived have the CRC64NVME .*=, and S3 says"
    ) as caught:
        load(database, s3.uri("x.csv"), spec)
    assert caught.value.retryable
    assert caught.value.report is not None
    assert (caught.value.report.state, caught.value.report.attempts) == ("failed", 3)
    assert query(dsn, "SELECT state, retryable FROM loader.loads") == [("failed", True)]
    if way == "straight":
        assert query(dsn, "SELECT to_regclass('t')") == [(None,)]
    else:
        assert query(dsn, "TABLE t") == [(-1, "before")]
    assert left(dsn) == []
    assert query(dsn, "SELECT count(*) FROM loader.rejects") == [(0,)]
    fault_proxy.faults.clear()
    report = load(database, s3.uri("x.csv"), spec)
    assert (report.state, report.rows_read, report.rows_rejected, report.notes[1:]) == ("loaded", ROWS, 0, ())
    assert exact(dsn) == EXPECTED
    types = query(
        dsn, "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 't' ORDER BY 1"
    )
    assert types == [("id", "bigint"), ("v", "text")]


@pytest.mark.usefixtures("large_way")
@pytest.mark.parametrize("what", ["a bit in the header", "a bit that makes a line end", "two ranges swapped"])
def test_damage_that_passes_needs_no_second_call(
    dsn: str, database: Database, s3: S3, fault_proxy: FaultProxy, what: str
) -> None:
    s3.put("x.csv", TEXT)  # by the SDK of today with a CRC32
    fault_proxy.faults.append(damage(TEXT, DAMAGES[what](TEXT)))
    report = load(database, s3.uri("x.csv"))
    assert (report.state, report.attempts, report.rows_read) == ("loaded", 2, ROWS)
    assert exact(dsn) == EXPECTED


@pytest.mark.parametrize("place", [0.001, 0.5, 0.98])
@pytest.mark.parametrize("form", ["gzip", "utf-16"])
def test_damaged_bytes_of_other_forms_are_never_loaded(
    dsn: str, database: Database, s3: S3, fault_proxy: FaultProxy, form: str, place: float
) -> None:
    """What a decompressor or a codec makes of damaged bytes is not the object's fault either."""
    data = gzip.compress(TEXT, 6) if form == "gzip" else TEXT.decode().encode("utf-16")
    s3.put("x.csv", data)
    fault_proxy.faults.append(damage(data, flipped(data, int(len(data) * place)), lasting=True))
    spec = {**SPEC, "csv": {"encoding": "utf-8" if form == "gzip" else "utf-16"}}
    with pytest.raises(SourceCorruptedError, match="CRC32"):
        load(database, s3.uri("x.csv"), spec)
    assert query(dsn, "SELECT to_regclass('t')") == [(None,)]
    fault_proxy.faults.clear()
    assert load(database, s3.uri("x.csv"), spec).state == "loaded"
    assert exact(dsn) == EXPECTED


def pause(database: Database, uri: str, spec: dict[str, Any], at: int) -> None:
    deadline = Deadline()

    def stop(progress: Progress) -> None:
        if progress.rows >= at:
            deadline.stop("it was told to stop")

    with pytest.raises(loader.PausedError):
        load(database, uri, spec, progress=stop, deadline=deadline)


@pytest.mark.usefixtures("large_way")
@pytest.mark.parametrize(
    ("algorithm", "form"),
    effort(
        [("CRC64NVME", "plain"), ("SHA256", "gzip")],
        [(algorithm, form) for algorithm in ("CRC64NVME", "CRC32", "SHA256") for form in ("plain", "gzip")],
    ),
)
@pytest.mark.parametrize("when", ["before the break", "after it", "never"])
def test_a_load_that_was_continued_is_proved_as_a_whole(
    dsn: str, database: Database, s3: S3, fault_proxy: FaultProxy, when: str, form: str, algorithm: str
) -> None:
    """What was staged from damaged bytes before the break is thrown away, although no damage is seen any more."""
    make_target(dsn, "staged")
    data = gzip.compress(TEXT, 0) if form == "gzip" else TEXT
    s3.client.put_object(Bucket=s3.bucket, Key="x.csv", Body=data, ChecksumAlgorithm=algorithm)
    uri = s3.uri("x.csv")
    # of gzip's own checksum, the break keeps the first pass from seeing it
    before = damage(data, flipped(data, data.index(b"a text 1000 ") + 2))
    after = damage(data, flipped(data, data.index(b"a text 23000 ") + 2))
    if when == "before the break":
        fault_proxy.faults.append(before)
    pause(database, uri, STAGED, 12_000)
    assert fault_proxy.faults == []
    if when == "after it":
        fault_proxy.faults += [after, after]  # the head, which is read for the plan, and then the rest
    report = load(database, uri, STAGED)
    assert (report.state, fault_proxy.faults) == ("loaded", [])
    if when != "after it":
        assert (report.resumes, report.attempts) == ((1, 2) if when == "never" else (1, 3))
    assert exact(dsn) == EXPECTED


def test_only_a_part_before_the_checkpoint_is_read_again(dsn: str, database: Database, s3: S3) -> None:
    """A pass goes on at the beginning of a part, whose bytes before the checkpoint must be the same as before."""
    make_target(dsn, "staged")
    data = TEXT + b"".join(b"%d,%s\n" % (number, b"x" * 1000) for number in range(ROWS, ROWS + 12_000))
    s3.put("x.csv", data)
    pause(database, s3.uri("x.csv"), STAGED, ROWS + 11_000)
    report = load(database, s3.uri("x.csv"), STAGED)
    assert (report.state, report.resumes, report.rows_read) == ("loaded", 1, ROWS + 12_000)
    assert report.bytes_read <= len(data) - 8 * (1 << 20)


def test_a_checkpoint_that_says_nothing_of_the_bytes_is_not_trusted(dsn: str, database: Database, s3: S3) -> None:
    """As that of the version before: the load begins anew, once."""
    make_target(dsn, "staged")
    s3.put("x.csv", TEXT)
    pause(database, s3.uri("x.csv"), STAGED, 12_000)
    query(dsn, "UPDATE loader.checkpoints SET found = (found::jsonb - 'bytes')::json")
    report = load(database, s3.uri("x.csv"), STAGED)
    assert (report.state, report.resumes) == ("loaded", 0)
    assert exact(dsn) == EXPECTED


@pytest.mark.usefixtures("large_way")
def test_a_type_that_damage_made_wider_is_not_kept(
    dsn: str, database: Database, s3: S3, fault_proxy: FaultProxy
) -> None:
    """A byte past the sample that is no digit widens the column for the pass after it, which reads it right."""
    s3.put("x.csv", TEXT)
    fault_proxy.faults.append(damage(TEXT, flipped(TEXT, TEXT.index(b"\n20000,") + 1, 6)))
    report = load(database, s3.uri("x.csv"))
    assert (report.state, report.attempts, report.rows_rejected) == ("loaded", 2, 0)
    assert query(
        dsn, "SELECT data_type FROM information_schema.columns WHERE table_name = 't' AND column_name = 'id'"
    ) == [("bigint",)]
    assert exact(dsn) == EXPECTED


def test_an_object_without_a_checksum_is_loaded_and_the_report_says_so(
    dsn: str, database: Database, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    boto3.client("s3", endpoint_url=s3.endpoint).put_object(Bucket=s3.bucket, Key="x.csv", Body=TEXT)
    report = load(database, s3.uri("x.csv"))
    assert report.notes[1:] == (
        "S3 keeps no checksum of this object, so the bytes that arrived were not compared with one",
    )
    assert query(dsn, "SELECT notes FROM loader.loads") == [(list(report.notes),)]


def test_a_file_has_none_and_no_note(database: Database, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(TEXT)
    assert load(database, str(tmp_path / "x.csv")).notes[1:] == ()


def test_a_failure_of_the_object_itself_stays_one(dsn: str, database: Database, s3: S3) -> None:
    """Its bytes were compared, and are not to blame."""
    s3.put("x.csv", TEXT.replace(b"\n7,", b"\nseven,"))
    spec = {**SPEC, "columns": {"id": "bigint", "v": "text"}, "rejects": {"max_rows": 0}}
    with pytest.raises(loader.RejectLimitError) as caught:
        load(database, s3.uri("x.csv"), spec)
    assert not caught.value.retryable
    assert query(dsn, "SELECT count(*), max(attempts) FROM loader.rejects, loader.loads") == [(1, 1)]


@pytest.mark.parametrize("seed", range(6))
def test_whichever_bit_it_is(dsn: str, database: Database, s3: S3, fault_proxy: FaultProxy, seed: int) -> None:
    """Any bit of the object, in any way of loading it: once damaged, the table is right all the same."""
    rng = random.Random(seed)
    way, form = rng.choice(["straight", "staged"]), rng.choice(["plain", "gzip"])
    make_target(dsn, way)
    data = gzip.compress(TEXT, 1) if form == "gzip" else TEXT
    s3.client.put_object(Bucket=s3.bucket, Key="x.csv", Body=data, ChecksumAlgorithm=rng.choice(ALGORITHMS))
    for _ in range(2):
        fault_proxy.faults.append(damage(data, flipped(data, rng.randrange(len(data)), rng.randrange(8))))
    report = load(database, s3.uri("x.csv"), STAGED if way == "staged" else SPEC)
    assert (report.state, report.rows_read) == ("loaded", ROWS)
    assert exact(dsn) == EXPECTED


# --- by workers


@pytest.mark.parametrize(
    ("what", "lasting"),
    [
        ("a bit in a number", False),
        ("a bit in the header", True),
        *effort(
            [],
            [
                *((what, False) for what in ("a bit in the header", "two ranges swapped", "the last byte")),
                *((what, True) for what in ("a range twice", "a bit that makes a line end")),
            ],
        ),
    ],
)
def test_workers_load_no_damaged_bytes(
    dsn: str,
    database: Database,
    s3: S3,
    fault_proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    lasting: bool,
) -> None:
    monkeypatch.setattr("loader.sharding.workers.LEAST", 400_000)
    make_target(dsn, "staged")
    s3.client.put_object(Bucket=s3.bucket, Key="x.csv", Body=TEXT, ChecksumAlgorithm="CRC64NVME")
    fault_proxy.faults.append(damage(TEXT, DAMAGES[what](TEXT), lasting=lasting))
    if lasting:
        with pytest.raises(SourceCorruptedError) as caught:
            load(database, s3.uri("x.csv"), STAGED, workers=2)
        assert caught.value.retryable
        assert query(dsn, "TABLE t") == [(-1, "before")]
        fault_proxy.faults.clear()
    report = load(database, s3.uri("x.csv"), STAGED, workers=2)
    assert (report.state, report.rows_read, report.rows_rejected) == ("loaded", ROWS, 0)
    assert any("loaded in" in note for note in report.notes)
    assert exact(dsn) == EXPECTED
    assert left(dsn) == []


def plan_for(uri: str, database: Database, shards: int) -> ShardPlan:
    return plan_shards(uri, loader.LoadSpec.from_dict(STAGED), database, shards=shards)


def test_shards_are_cut_where_parts_begin_and_each_compares_its_own(
    dsn: str, database: Database, s3: S3, fault_proxy: FaultProxy
) -> None:
    make_target(dsn, "staged")
    upload_in_parts(s3, "x.csv", LARGE, "SHA256", "COMPOSITE")
    whole = b"".join(LARGE)
    (told,) = tells_parts(s3, "x.csv", LARGE, "SHA256", page=2)
    fault_proxy.faults.append(replace(told, lasting=True))
    plan = plan_for(s3.uri("x.csv"), database, 5)
    assert plan.ranges == ((0, len(LARGE[0])), (len(LARGE[0]), len(whole)))
    fault_proxy.faults.append(damage(whole, flipped(whole, len(LARGE[0]) + 90_000)))
    with pytest.raises(SourceCorruptedError, match="SHA256 of part 2"):
        load_shard(plan, 1, database)
    assert load_shard(plan, 1, database).problem is None


@pytest.mark.parametrize(("algorithm", "verdict"), [("CRC32C", "split"), ("SHA256", "single")])
def test_a_hash_of_the_whole_is_for_one_worker(
    dsn: str, database: Database, s3: S3, algorithm: str, verdict: str
) -> None:
    make_target(dsn, "staged")
    s3.client.put_object(Bucket=s3.bucket, Key="x.csv", Body=TEXT, ChecksumAlgorithm=algorithm)
    plan = plan_for(s3.uri("x.csv"), database, 3)
    assert plan.verdict == verdict
    assert ("in their order only" in plan.why) == (verdict == "single")


@pytest.mark.parametrize("which", ["tail", "rejected", "widened", "head"])
def test_what_a_shard_reads_besides_its_range_is_compared(
    dsn: str, database: Database, s3: S3, fault_proxy: FaultProxy, which: str
) -> None:
    """What finishes its last record, and the head of the object; and what it refuses, it reads twice."""
    if which != "widened":
        query(dsn, "CREATE TABLE t (id bigint PRIMARY KEY, v text)")
    s3.client.put_object(Bucket=s3.bucket, Key="x.csv", Body=TEXT, ChecksumAlgorithm="CRC64NVME")
    spec = loader.LoadSpec.from_dict({**STAGED, "rejects": {"max_rows": 0}})
    plan = plan_shards(s3.uri("x.csv"), spec, database, shards=3)
    if which in ("rejected", "widened"):
        # past the head, and past the window of the guess
        place = TEXT.index(b"\n", max(1 << 20, plan.ranges[2][0]) + 200_000) + 1
        fault_proxy.faults += [damage(TEXT, flipped(TEXT, place, 6))] * 2  # the head's second piece, and the range
        with pytest.raises(SourceCorruptedError, match="were read twice and were not the same"):
            load_shard(plan, 2, database)
        return
    reports = [load_shard(plan, number, database) for number in (0, 2)]
    past = plan.ranges[1][1]
    if which == "tail":
        fault_proxy.faults.append(replace(damage(TEXT, flipped(TEXT, past + 5)), at=past))
    else:
        fault_proxy.faults.append(damage(TEXT, flipped(TEXT, 1)))
    reports.append(load_shard(plan, 1, database))
    assert fault_proxy.faults == []
    if which == "head":
        assert prove(plan, reports).problem is not None
        with pytest.raises(ReplanError, match="beginning of the object was not read alike"):
            finish(plan, reports, database)
    else:
        with pytest.raises(SourceCorruptedError, match="what shard 1 and its neighbour both read was not the same"):
            finish(plan, reports, database)
        assert left(dsn) == []  # nothing of it is used again
    assert query(dsn, "TABLE t") == []
