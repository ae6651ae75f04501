"""One version of an object or file, whole and in order, or a clear error."""

from __future__ import annotations

import hashlib
import os
import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.clock import PATIENCE
from support.effort import effort
from support.s3 import S3, Fault, FaultProxy, answer, call, cut, ignore, stall, truncate

from loader.core.errors import SourceChangedError, SourceError, SourceNotFoundError, SourceUnavailableError, UsageError
from loader.sources import files, s3
from loader.sources.source import Source, expand, open_source, s3_client

PART = 4096
DATA = random.Random(1).randbytes(5 * PART + 123)


@pytest.fixture
def bucket(s3: S3) -> S3:
    """The bucket that keeps versions; `s3` is the module's name here."""
    return s3


@pytest.fixture
def impatient(fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client through the proxy that retries nothing itself and waits briefly; the loader's own pauses are short."""
    monkeypatch.setattr(s3, "BACKOFF", 0.001)
    client = s3_client(read_timeout=3, retries={"mode": "standard", "total_max_attempts": 1})
    yield client
    client.close()


def read(source: Source, start: int = 0) -> bytes:
    with source:
        return b"".join(source.chunks(start))


def small(uri: str, **options: Any) -> Source:
    """A source of small parts."""
    return open_source(uri, part_size=PART, **options)


def reading_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "loader-s3"]


# --- opening


def test_opening_tells_size_and_version(bucket: S3) -> None:
    """All that the ledger wants to know of an object comes from one HEAD."""
    version = bucket.put("in/a.csv", DATA)
    with open_source(bucket.uri("in/a.csv")) as source:
        assert (source.uri, source.bucket, source.key) == (bucket.uri("in/a.csv"), bucket.bucket, "in/a.csv")
        assert (source.size, source.version, source.digest()) == (len(DATA), version, version)
        assert source.last_modified.utcoffset() == timedelta(0)
        assert abs(source.last_modified - datetime.now(UTC)) < timedelta(minutes=1)


def test_an_unread_source_sends_nothing_more(bucket: S3, fault_proxy: FaultProxy) -> None:
    """Neither closing it, nor asking for chunks and not taking any, sends a GET."""
    bucket.put("a.csv", DATA)
    with open_source(bucket.uri("a.csv")) as source:
        source.chunks()
    assert [each.method for each in fault_proxy.requests] == ["HEAD"]


# --- small objects, asked for at once

AHEAD = len(DATA)


def test_a_small_object_costs_one_request(bucket: S3, fault_proxy: FaultProxy) -> None:
    """Which tells of it, and brings it, too. A second pass asks for its ranges."""
    version = bucket.put("a.csv", DATA)
    with small(bucket.uri("a.csv"), ahead=AHEAD) as source:
        assert (source.size, source.version) == (len(DATA), version)
        assert list(source.chunks()) == [DATA]
        assert [(each.method, each.first) for each in fault_proxy.requests] == [("GET", None)]
        assert b"".join(source.chunks()) == DATA
    assert reading_threads() == []


def test_a_larger_object_is_read_by_ranges(bucket: S3, fault_proxy: FaultProxy) -> None:
    bucket.put("a.csv", DATA)
    with small(bucket.uri("a.csv"), ahead=AHEAD - 1) as source:
        assert b"".join(source.chunks()) == DATA
    firsts = [each.first for each in fault_proxy.requests]
    assert (firsts[0], sorted(firsts[1:])) == (None, list(range(0, len(DATA), PART)))


@pytest.mark.parametrize("ahead", [AHEAD, 1 << 20])
@pytest.mark.parametrize("way", ["unread", "in part"])
def test_what_came_at_once_need_not_be_read(bucket: S3, fault_proxy: FaultProxy, ahead: int, way: str) -> None:
    """Such as of a version that was loaded before."""
    bucket.put("a.csv", DATA)
    with closing(s3_client(max_pool_connections=1)) as client:
        for _ in range(3):
            with small(bucket.uri("a.csv"), ahead=ahead, client=client) as source:
                if way == "in part":
                    assert source.read_range(1, 5) == DATA[1:5]
                    assert b"".join(source.chunks(3)) == DATA[3:]


@pytest.mark.parametrize("fault", [cut(100), cut(100, reset=True), stall(100), stall(0)], ids=repr)
def test_a_small_object_that_breaks_off_is_read_by_ranges(
    bucket: S3, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """In a thread, which can be waited for, and no longer than the deadline allows."""
    monkeypatch.setattr(s3, "SILENCE", 0.05)
    bucket.put("a.csv", DATA)
    fault_proxy.faults.append(fault)
    with small(bucket.uri("a.csv"), ahead=AHEAD) as source:
        assert b"".join(source.chunks()) == DATA
        assert fault_proxy.faults == []


def test_an_archived_object_is_opened_nevertheless(bucket: S3, fault_proxy: FaultProxy) -> None:
    """It may have been loaded before, and be archived since; only to read it is an error."""
    version = bucket.put("a.csv", DATA)
    fault_proxy.faults += [answer(403, "InvalidObjectState"), answer(403, "InvalidObjectState")]
    with small(bucket.uri("a.csv"), ahead=AHEAD) as source:
        assert (source.size, source.version) == (len(DATA), version)
        with pytest.raises(SourceError, match=r"a\.csv"):
            read(source)


def test_without_versions_the_etag_is_the_version(s3_unversioned: S3) -> None:
    """It is named as such, so that it is never taken for a version id."""
    s3_unversioned.put("a.csv", b"abc")
    with open_source(s3_unversioned.uri("a.csv")) as source:
        assert source.version == f"etag:{hashlib.md5(b'abc').hexdigest()}"


def test_an_older_version_can_be_opened(bucket: S3) -> None:
    """An event names the version that it is about, which may not be the latest by now."""
    first = bucket.put("a.csv", b"first")
    bucket.put("a.csv", b"second")
    bucket.delete("a.csv")
    assert read(open_source(bucket.uri("a.csv"), version_id=first)) == b"first"


def test_a_version_from_before_versioning_is_held_by_its_etag(s3_unversioned: S3) -> None:
    """Its version id is "null", which a later object can have too."""
    s3_unversioned.put("a.csv", b"old")
    versioning = {"Status": "Enabled"}
    s3_unversioned.client.put_bucket_versioning(Bucket=s3_unversioned.bucket, VersioningConfiguration=versioning)
    with open_source(s3_unversioned.uri("a.csv")) as source:
        assert source.version is not None
        assert source.version.startswith("etag:")


def test_what_is_not_there_is_named(bucket: S3) -> None:
    """A missing key, a missing bucket and a missing version are told apart, each in one sentence."""
    bucket.put("a.csv", b"x")
    missing = "s3://no-such-bucket-here/a.csv"
    with pytest.raises(SourceNotFoundError, match=f"^{bucket.uri('b.csv')}: there is no such object$"):
        open_source(bucket.uri("b.csv"))
    with pytest.raises(SourceNotFoundError, match=f"^{missing}: there is no bucket no-such-bucket-here$"):
        open_source(missing)
    with pytest.raises(SourceNotFoundError, match=r"a\.csv \(version 7f1\): there is no such object$"):
        open_source(bucket.uri("a.csv"), version_id="7f1")


def test_a_marker_of_deletion_is_no_version(bucket: S3) -> None:
    """What is wrong is that the object was deleted."""
    bucket.put("a.csv", b"x")
    marker = bucket.client.delete_object(Bucket=bucket.bucket, Key="a.csv")["VersionId"]
    with pytest.raises(SourceNotFoundError, match=r"was deleted|no such object"):
        open_source(bucket.uri("a.csv"), version_id=marker)


def test_no_permission_reads_as_not_found(bucket: S3, fault_proxy: FaultProxy) -> None:
    """S3 answers 403 for a missing key, too, to those who may not list the bucket."""
    bucket.put("a.csv", DATA)
    fault_proxy.faults = [answer(403, "AccessDenied", method="HEAD"), answer(403, "AccessDenied")]
    with pytest.raises(SourceNotFoundError, match=r"does not exist, or there is no permission .*\(403 Forbidden\)"):
        open_source(bucket.uri("a.csv"))
    with pytest.raises(SourceNotFoundError, match="AccessDenied: Made up"):
        read(open_source(bucket.uri("a.csv")))


def test_an_archived_object_is_refused_in_s3s_words(bucket: S3, fault_proxy: FaultProxy) -> None:
    """It is there, and may be seen, but not read: a retry does not help, nor does a permission."""
    bucket.put("a.csv", DATA)
    fault_proxy.faults = [answer(403, "InvalidObjectState")]
    with pytest.raises(SourceError, match="S3 refused it: InvalidObjectState: Made up") as caught:
        read(open_source(bucket.uri("a.csv")))
    assert type(caught.value) is SourceError


def test_a_busy_store_is_unavailable(bucket: S3, fault_proxy: FaultProxy, impatient: Any) -> None:
    """Which the same call may find over later."""
    bucket.put("a.csv", b"x")
    fault_proxy.faults = [answer(503, "SlowDown", method="HEAD")]
    with pytest.raises(SourceUnavailableError, match=r"a\.csv: S3 did not serve it: 503 ") as caught:
        open_source(bucket.uri("a.csv"), client=impatient)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "InvalidAccessKeyId"),
        (403, "SignatureDoesNotMatch"),
        (400, "ExpiredToken"),
        (400, "KMS.DisabledException"),
        (501, "NotImplemented"),
    ],
)
def test_a_refusal_that_will_be_repeated_fails_at_once(
    bucket: S3, fault_proxy: FaultProxy, impatient: Any, status: int, code: str
) -> None:
    """In S3's words: it is somebody's to mend."""
    bucket.put("a.csv", DATA)
    fault_proxy.faults = [answer(status, code, at=PART), answer(status, code, at=PART)]
    with pytest.raises(SourceError, match=f"a.csv: S3 refused it: {code}: Made up") as caught:
        read(small(bucket.uri("a.csv"), client=impatient, prefetch=1))
    assert type(caught.value) is SourceError
    assert not caught.value.retryable
    assert len(fault_proxy.faults) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "RequestTimeout"),
        (400, "ThrottlingException"),
        (400, "KMS.ThrottlingException"),
        (403, "RequestTimeTooSkewed"),
        (429, "TooManyRequests"),
        (502, "OfAProxy"),
        (503, "ServiceUnavailable"),
    ],
)
def test_a_refusal_that_passes_is_tried_again(
    bucket: S3, fault_proxy: FaultProxy, impatient: Any, status: int, code: str
) -> None:
    """Whatever its status is, its code counts; and its status where nobody knows the code."""
    bucket.put("a.csv", DATA)
    fault_proxy.faults = [answer(status, code, at=PART), answer(status, code, at=PART)]
    assert read(small(bucket.uri("a.csv"), client=impatient)) == DATA
    assert not fault_proxy.faults


def test_an_object_that_is_shorter_by_now_has_changed(
    s3_unversioned: S3, fault_proxy: FaultProxy, impatient: Any
) -> None:
    """S3 says 416 for what is asked of it then; the same call reads what is there now."""
    s3_unversioned.put("a.csv", DATA)
    fault_proxy.faults = [answer(416, "InvalidRange", at=PART)]
    with pytest.raises(SourceChangedError) as caught:
        read(small(s3_unversioned.uri("a.csv"), client=impatient))
    assert caught.value.retryable
    assert read(small(s3_unversioned.uri("a.csv"), client=impatient)) == DATA


def served(answer: bytes, tls: ssl.SSLContext | None = None) -> tuple[int, Callable[[], None]]:
    """A server that answers everything with that; its port, and how to end it."""
    listener = socket.create_server(("127.0.0.1", 0))
    ending = threading.Event()

    def serve() -> None:
        while not ending.is_set():
            if select.select([listener], [], [], 0.02)[0]:
                client, _ = listener.accept()
                with suppress(OSError), client, tls.wrap_socket(client, server_side=True) if tls else client as line:
                    line.recv(65536)
                    line.sendall(answer)

    def end() -> None:
        ending.set()
        thread.join()
        listener.close()

    thread = threading.Thread(target=serve)
    thread.start()
    return listener.getsockname()[1], end


def test_a_store_whose_answers_break_off_is_unavailable(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing that is no XML is one that did not come to its end, or a gateway's page; botocore calls it 500."""
    port, end = served(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n<ListBuck")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    try:
        with (
            closing(s3_client(retries={"mode": "standard", "total_max_attempts": 1})) as client,
            pytest.raises(SourceUnavailableError, match=r"^s3://b: S3 did not serve it: 500 ") as caught,
        ):
            expand("s3://b/in/", client=client)
        assert caught.value.retryable
    finally:
        end()


def test_an_endpoint_that_is_not_to_be_trusted_is_not_asked_again(
    aws: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its certificate will be no better next time."""
    port, end = served(b"", own_certificate(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{port}")
    try:
        with (
            closing(s3_client(retries={"mode": "standard", "total_max_attempts": 1})) as client,
            pytest.raises(SourceError, match="CERTIFICATE_VERIFY_FAILED") as caught,
        ):
            open_source("s3://b/k", client=client)
        assert type(caught.value) is SourceError
        assert not caught.value.retryable
    finally:
        end()


def own_certificate(folder: Path) -> ssl.SSLContext:
    """One that nobody vouches for, for 127.0.0.1."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(pem, form, serialization.NoEncryption())
    (folder / "own.pem").write_bytes(secret + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "own.pem")
    return context


def test_an_endpoint_that_nobody_listens_at_is_unavailable(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says so without the password that its URL holds."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://name:secret@127.0.0.1:9")
    with (
        closing(s3_client(retries={"mode": "standard", "total_max_attempts": 1})) as client,
        pytest.raises(SourceUnavailableError, match=r"^s3://b/k: S3 did not answer: ") as caught,
    ):
        open_source("s3://b/k", client=client)
    assert "secret" not in str(caught.value)


def test_missing_credentials_are_one_sentence(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They will still be missing when the same call is made again."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it remembers those that it found before
    with pytest.raises(SourceError, match=r"^s3://b/k: cannot be asked for: Unable to locate credentials$") as caught:
        open_source("s3://b/k")
    assert not caught.value.retryable


def test_a_wrong_profile_is_one_sentence(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As any mistake in the environment's configuration is."""
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(SourceError, match=r"^S3: no client can be made: .*\(nobody\) could not be found$"):
        s3_client()


def test_what_botocore_knows_of_s3_is_parsed_once_for_all_clients(aws: str) -> None:
    """Which takes four fifths of the CPU that a client takes."""
    with closing(s3_client()) as one, closing(s3_client()) as other:
        assert one.meta.service_model.metadata is other.meta.service_model.metadata


# --- reading


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_parts_make_up_the_object(bucket: S3, data: st.DataObject) -> None:
    """Whatever the size of the parts, their number at once, and the byte to start from."""
    body = DATA[: data.draw(st.integers(0, 300))]
    part_size = data.draw(st.integers(40, 400))
    prefetch = data.draw(st.integers(1, 5))
    start = data.draw(st.integers(0, len(body)))
    bucket.put("a.csv", body)
    with open_source(bucket.uri("a.csv"), part_size=part_size, prefetch=prefetch, client=bucket.client) as source:
        chunks = list(source.chunks(start))
    assert b"".join(chunks) == body[start:]
    assert all(type(chunk) is bytes and len(chunk) == part_size for chunk in chunks[:-1])


def test_a_source_can_be_read_again(bucket: S3) -> None:
    """Each pass is one of its own, even where two are under way at once."""
    bucket.put("a.csv", DATA)
    with small(bucket.uri("a.csv")) as source:
        assert [first + second for first, second in zip(source.chunks(), source.chunks(), strict=True)] == [
            chunk * 2 for chunk in source.chunks()
        ]


def test_an_empty_object_has_no_chunks(bucket: S3, fault_proxy: FaultProxy) -> None:
    """Nor is a GET sent: there is no range of no bytes."""
    bucket.put("a.csv", b"")
    assert read(open_source(bucket.uri("a.csv"))) == b""
    assert [each.method for each in fault_proxy.requests] == ["HEAD"]


def test_every_get_asks_for_the_same_version(bucket: S3, s3_unversioned: S3, fault_proxy: FaultProxy) -> None:
    """By its version id, or by its ETag where there is none; the ranges tile the object."""
    version = bucket.put("a.csv", DATA)
    assert read(small(bucket.uri("a.csv"))) == DATA
    gets = [each for each in fault_proxy.requests if each.method == "GET"]
    assert {(each.version_id, each.if_match) for each in gets} == {(version, None)}
    firsts = range(0, len(DATA), PART)
    assert sorted(fault_proxy.ranges) == [(first, min(first + PART, len(DATA)) - 1) for first in firsts]

    s3_unversioned.put("a.csv", DATA)
    fault_proxy.requests.clear()
    assert read(small(s3_unversioned.uri("a.csv"))) == DATA
    etag = f'"{hashlib.md5(DATA).hexdigest()}"'
    gets = [each for each in fault_proxy.requests if each.method == "GET"]
    assert {(each.version_id, each.if_match) for each in gets} == {(None, etag)}


def test_reading_ahead_is_bounded(bucket: S3, fault_proxy: FaultProxy) -> None:
    """However slow the consumer, no more parts were asked for than it took, and ``prefetch``."""
    bucket.put("a.csv", DATA)
    with small(bucket.uri("a.csv"), prefetch=3) as source:
        for number, _ in enumerate(source.chunks(), start=1):
            assert len(fault_proxy.ranges) <= number + 3
    assert len(fault_proxy.ranges) == 6


@pytest.mark.parametrize(
    "key", ["a b.csv", "a+b", "ünï/ço", "#1", "a?b=c", "100%41", "a//b", "/a", "x[1].csv", "*", "~'\"<&>;,", "../a"]
)
def test_a_key_may_hold_any_character(bucket: S3, key: str) -> None:
    """Addresses are literal: nothing in them is URL-encoded, and what exists is no glob."""
    bucket.put(key, DATA[:100])
    assert expand(bucket.uri(key)) == [bucket.uri(key)]
    assert read(open_source(bucket.uri(key))) == DATA[:100]


# --- faults


@pytest.mark.parametrize("prefetch", effort([4], [1, 4]))
@pytest.mark.parametrize(
    ("fault", "reached"),
    [
        (cut(1000, at=PART), 1000),
        (cut(0, at=PART), 0),
        (cut(PART - 1, at=PART), PART - 1),
        (truncate(1000, at=PART), 1000),
        (stall(1000, at=PART), 1000),
        (stall(-1, at=PART), 0),
        (answer(500, "InternalError", at=PART), 0),
        (answer(503, "SlowDown", at=PART), 0),
    ],
)
def test_a_body_that_breaks_off_is_taken_up_again(
    bucket: S3, fault_proxy: FaultProxy, impatient: Any, fault: Fault, reached: int, prefetch: int
) -> None:
    """At the byte it had reached, and in the same version."""
    version = bucket.put("a.csv", DATA)
    fault_proxy.faults = [fault]
    with small(bucket.uri("a.csv"), client=impatient, prefetch=prefetch) as source:
        assert b"".join(source.chunks()) == DATA
    assert not fault_proxy.faults
    in_part = [(first, last) for first, last in fault_proxy.ranges if first and PART <= first < 2 * PART]
    assert in_part == [(PART, 2 * PART - 1), (PART + reached, 2 * PART - 1)]
    assert {each.version_id for each in fault_proxy.requests if each.method == "GET"} == {version}


def test_a_reset_connection_is_taken_up_again(bucket: S3, fault_proxy: FaultProxy, impatient: Any) -> None:
    """At whichever byte had come through."""
    bucket.put("a.csv", DATA)
    fault_proxy.faults = [cut(1000, at=0, reset=True), cut(10, at=3 * PART, reset=True)]
    assert read(small(bucket.uri("a.csv"), client=impatient)) == DATA


def test_progress_earns_new_attempts(bucket: S3, fault_proxy: FaultProxy, impatient: Any) -> None:
    """However often it breaks off, a read that gets on goes on."""
    bucket.put("a.csv", DATA[:PART])
    fault_proxy.faults = [cut(100) for _ in range(3 * s3.ATTEMPTS)]
    assert read(small(bucket.uri("a.csv"), client=impatient)) == DATA[:PART]
    assert [first for first, _ in fault_proxy.ranges] == [100 * number for number in range(3 * s3.ATTEMPTS + 1)]


def test_a_read_that_does_not_get_on_ends(bucket: S3, fault_proxy: FaultProxy, impatient: Any) -> None:
    """After a number of attempts, with the byte that did not come; the same load may succeed later."""
    bucket.put("a.csv", DATA[:PART])
    fault_proxy.faults = [cut(100)] + [answer(503, "SlowDown")] * s3.ATTEMPTS
    with pytest.raises(
        SourceUnavailableError, match=r"a\.csv: byte 100 did not come in 5 attempts: .*SlowDown"
    ) as caught:
        read(small(bucket.uri("a.csv"), client=impatient))
    assert caught.value.retryable
    assert not reading_threads()


@pytest.mark.parametrize(
    "interfere", [lambda bucket: bucket.put("a.csv", DATA[::-1]), lambda bucket: bucket.delete("a.csv")]
)
@pytest.mark.parametrize("moment", [0, 3 * PART])
def test_two_versions_are_never_spliced(
    s3_unversioned: S3, fault_proxy: FaultProxy, interfere: Callable[[S3], None], moment: int
) -> None:
    """An object without versions that is overwritten or deleted while it is read is an error; what is there now may
    be read by the same call."""
    s3_unversioned.put("a.csv", DATA)
    fault_proxy.faults = [call(lambda: interfere(s3_unversioned), at=moment)]
    with pytest.raises(SourceChangedError, match=r"a\.csv: changed or was deleted while it was being read") as caught:
        read(small(s3_unversioned.uri("a.csv"), prefetch=2))
    assert caught.value.retryable
    assert not reading_threads()


def test_a_resumed_body_is_not_spliced_either(s3_unversioned: S3, fault_proxy: FaultProxy, impatient: Any) -> None:
    """The GET that goes on in mid-part asks for the same ETag."""
    s3_unversioned.put("a.csv", DATA)
    fault_proxy.faults = [cut(1000, at=0), call(lambda: s3_unversioned.put("a.csv", DATA[::-1]), at=1000)]
    with pytest.raises(SourceChangedError):
        read(small(s3_unversioned.uri("a.csv"), client=impatient, prefetch=1))


def test_a_store_without_if_match_is_seen_through(s3_unversioned: S3, fault_proxy: FaultProxy) -> None:
    """Its answer's ETag is not that of the version being read."""
    s3_unversioned.put("a.csv", DATA)
    replace = Fault(before=lambda: s3_unversioned.put("a.csv", DATA[::-1]), ignored=("If-Match",), at=PART)
    fault_proxy.faults = [replace, *(ignore("If-Match") for _ in range(20))]
    with pytest.raises(SourceChangedError):
        read(small(s3_unversioned.uri("a.csv"), prefetch=1))


def test_a_version_stays_readable_when_a_new_one_comes(bucket: S3, fault_proxy: FaultProxy) -> None:
    """In a bucket that keeps versions, nobody disturbs the reader."""
    bucket.put("a.csv", DATA)
    fault_proxy.faults = [
        call(lambda: bucket.put("a.csv", b"new"), at=0),
        call(lambda: bucket.delete("a.csv"), at=PART),
    ]
    assert read(small(bucket.uri("a.csv"))) == DATA


def test_a_store_that_ignores_ranges_is_refused(bucket: S3, fault_proxy: FaultProxy) -> None:
    """A whole object in a part's place would be spliced in."""
    bucket.put("a.csv", DATA)
    fault_proxy.faults = [ignore("Range", at=PART)]
    with pytest.raises(SourceError, match=f"bytes {PART} to {2 * PART - 1} and answered with status 200 and no range"):
        read(small(bucket.uri("a.csv")))
    assert not reading_threads()


def test_a_whole_object_may_come_without_range(bucket: S3, fault_proxy: FaultProxy) -> None:
    """Where the part is the object, status 200 is as good."""
    bucket.put("a.csv", DATA)
    fault_proxy.faults = [ignore("Range")]
    assert read(open_source(bucket.uri("a.csv"))) == DATA


# --- a range


def test_a_range_is_these_bytes_and_no_others(bucket: S3, fault_proxy: FaultProxy, tmp_path: Path) -> None:
    """By one request."""
    version = bucket.put("a.csv", DATA)
    (tmp_path / "a.csv").write_bytes(DATA)
    with small(bucket.uri("a.csv")) as source, open_source(tmp_path / "a.csv") as file:
        for start, stop in [(0, 1), (5, 5), (3, PART * 2 + 1), (len(DATA) - 7, len(DATA))]:
            assert source.read_range(start, stop) == file.read_range(start, stop) == DATA[start:stop]
    assert fault_proxy.ranges == [(0, 0), (3, PART * 2), (len(DATA) - 7, len(DATA) - 1)]
    assert {each.version_id for each in fault_proxy.requests if each.method == "GET"} == {version}
    assert not reading_threads()


def test_a_range_whose_body_breaks_off_is_taken_up_again(bucket: S3, fault_proxy: FaultProxy, impatient: Any) -> None:
    bucket.put("a.csv", DATA)
    fault_proxy.faults = [stall(10)]
    with small(bucket.uri("a.csv"), client=impatient) as source:
        assert source.read_range(0, 100) == DATA[:100]
    assert fault_proxy.ranges == [(0, 99), (10, 99)]


def test_a_range_of_a_file_that_changed_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(DATA)
    source = open_source(path)
    path.write_bytes(DATA[:-1])
    with pytest.raises(SourceChangedError):
        source.read_range(0, 10)


# --- ending early


@pytest.mark.parametrize("end", ["generator", "source"])
def test_a_reader_that_stops_leaves_no_thread(bucket: S3, fault_proxy: FaultProxy, end: str) -> None:
    """Not even where bodies are stalled, long before any timeout."""
    bucket.put("a.csv", DATA)
    fault_proxy.faults = [stall(10, at=PART * number) for number in (1, 2, 3)]
    with closing(s3_client(read_timeout=10 * PATIENCE)) as client:
        source = small(bucket.uri("a.csv"), client=client, prefetch=3)
        chunks = source.chunks()
        assert next(chunks) == DATA[:PART]
        assert reading_threads()
        began = time.monotonic()
        (chunks if end == "generator" else source).close()  # type: ignore[attr-defined]
        assert not reading_threads()
        assert time.monotonic() - began < PATIENCE
        source.close()


def test_a_request_without_answer_does_not_hold_up_the_end(
    bucket: S3, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be called back; it ends behind the reader's back when its connection does."""
    monkeypatch.setattr(s3, "PATIENCE", 0.05)
    bucket.put("a.csv", DATA)
    fault_proxy.faults = [stall(-1, at=PART)]
    retries = {"mode": "standard", "total_max_attempts": 1}
    with closing(s3_client(read_timeout=10 * PATIENCE, retries=retries)) as client:
        began = time.monotonic()
        with small(bucket.uri("a.csv"), client=client, prefetch=1) as source:
            assert next(source.chunks()) == DATA[:PART]
        assert time.monotonic() - began < PATIENCE
        left = reading_threads()
        fault_proxy.close()
        for thread in left:
            thread.join(PATIENCE)
    assert not reading_threads()


def test_closing_a_source_ends_its_reader(bucket: S3, fault_proxy: FaultProxy) -> None:
    """A thread that waits for the next chunk gets an error, and not a short file."""
    bucket.put("a.csv", DATA)
    fault_proxy.faults = [stall(10, at=PART)]
    errors: list[BaseException] = []
    waiting = threading.Event()

    def consume(source: Source) -> None:
        chunks = source.chunks()
        next(chunks)
        waiting.set()
        try:
            next(chunks)
        except SourceError as error:
            errors.append(error)

    with small(bucket.uri("a.csv"), prefetch=1) as source:
        thread = threading.Thread(target=consume, args=(source,))
        thread.start()
        assert waiting.wait(PATIENCE)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert [str(each) for each in errors] == [f"{bucket.uri('a.csv')}: was closed while it was being read"]
    assert not reading_threads()


# --- expanding


def test_a_prefix_stands_for_its_objects(bucket: S3) -> None:
    """In the order of their keys; the console's folders are none."""
    for key in ("in/b.csv", "in/a.csv", "in/deep/c.csv", "in/", "in/deep/", "other/d.csv", "in.csv"):
        bucket.put(key, b"" if key.endswith("/") else b"x")
    inside = [bucket.uri(key) for key in ("in/a.csv", "in/b.csv", "in/deep/c.csv")]
    everything = [bucket.uri("in.csv"), *inside, bucket.uri("other/d.csv")]
    assert expand(bucket.uri("in/")) == inside
    assert expand(bucket.uri("")) == expand(f"s3://{bucket.bucket}") == everything


@pytest.mark.parametrize(
    ("glob", "keys"),
    [
        ("in/*.csv", ["in/a.csv", "in/b.csv"]),
        ("in/**.csv", ["in/a.csv", "in/b.csv", "in/x/c.csv", "in/x/y/d.csv"]),
        ("**/[a-c].csv", ["in/a.csv", "in/b.csv", "in/x/c.csv"]),
        ("in/*/?.csv", ["in/x/c.csv"]),
        ("in/x*/", ["in/x/c.csv", "in/x/y/d.csv"]),
        ("in/a*", ["in/a.csv"]),
    ],
)
def test_a_glob_stands_for_the_keys_it_matches(bucket: S3, glob: str, keys: list[str]) -> None:
    """``*`` stays within a level of the key, ``**`` does not."""
    for key in ("in/a.csv", "in/b.csv", "in/x/c.csv", "in/x/y/d.csv", "in/c.txt"):
        bucket.put(key, b"x")
    assert expand(bucket.uri(glob)) == [bucket.uri(key) for key in keys]


def test_a_key_that_looks_like_a_glob_is_a_key_first(bucket: S3) -> None:
    """Where it exists; where it does not, it is a glob."""
    bucket.put("a1.csv", b"x")
    assert expand(bucket.uri("a[1].csv")) == [bucket.uri("a1.csv")]
    bucket.put("a[1].csv", b"x")
    assert expand(bucket.uri("a[1].csv")) == [bucket.uri("a[1].csv")]


def test_what_stands_for_nothing_is_not_found(bucket: S3) -> None:
    """The message gives the address as it was asked for, or the bucket that does not exist."""
    for key in ("no/", "no/*.csv"):
        with pytest.raises(SourceNotFoundError) as caught:
            expand(bucket.uri(key))
        assert str(caught.value) == f"{bucket.uri(key)}: no object matches"
    with pytest.raises(SourceNotFoundError, match=r"^s3://no-such-bucket-here: there is no such bucket$"):
        expand("s3://no-such-bucket-here/a/")


@pytest.mark.parametrize(
    "uri", ["s3://", "s3:///key", "s3://buck et/key", "s3://b*/key", "gs://bucket/key", "https://a/b"]
)
def test_an_address_that_is_none_is_wrong_usage(uri: str) -> None:
    """It says so before anything is asked."""
    with pytest.raises(UsageError):
        expand(uri)
    with pytest.raises(UsageError):
        open_source(uri)


def test_a_bucket_is_not_an_object() -> None:
    """It can be expanded, not opened."""
    for uri in ("s3://bucket", "s3://bucket/"):
        with pytest.raises(UsageError, match="names a bucket, not an object"):
            open_source(uri)


# --- local files


@pytest.mark.parametrize("size", [0, 1, files.CHUNK_SIZE, 2 * files.CHUNK_SIZE + 1])
def test_a_file_is_read_whole(tmp_path: Path, size: int) -> None:
    """And its version, which is its content's hash, is known then."""
    path = tmp_path / "a.csv"
    path.write_bytes((DATA * (size // len(DATA) + 1))[:size])
    with open_source(path) as source:
        assert (source.uri, source.bucket, source.key, source.size) == (str(path), None, str(path), size)
        assert b"".join(source.chunks()) == path.read_bytes()
        assert source.version == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_a_file_can_be_read_from_any_byte(tmp_path: Path) -> None:
    """Which tells nothing of its version."""
    path = tmp_path / "a.csv"
    path.write_bytes(DATA)
    with open_source(path) as source:
        assert b"".join(source.chunks(12_345)) == DATA[12_345:]
        assert b"".join(source.chunks(len(DATA))) == b""
        assert source.version is None


def test_a_digest_does_not_wait_for_a_read(tmp_path: Path) -> None:
    """And once the version is known, the file is not read for it again."""
    path = tmp_path / "a.csv"
    path.write_bytes(DATA)
    with open_source(path) as source:
        digest = source.digest()
        assert digest == source.version == f"sha256:{hashlib.sha256(DATA).hexdigest()}"
        assert b"".join(source.chunks()) == DATA
        path.unlink()
        assert source.digest() == digest


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _shorten(path: Path) -> None:
    os.truncate(path, 10)


def _replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    other.rename(path)


def _rewrite(path: Path) -> None:
    path.write_bytes(DATA[::-1] * 300)
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("interfere", [_append, _shorten, _rewrite])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, interfere: Callable[[Path], None]) -> None:
    """The last chunk is not handed out, and no version is known."""
    path = tmp_path / "a.csv"
    path.write_bytes(DATA * 300)
    with open_source(path) as source:
        chunks = source.chunks()
        next(chunks)
        interfere(path)
        with pytest.raises(SourceChangedError, match=f"^{path}: changed while it was being read$"):
            list(chunks)
        assert source.version is None


@pytest.mark.parametrize("interfere", [_append, _shorten, _rewrite, _replace])
def test_a_file_that_changed_before_it_was_read_is_an_error(tmp_path: Path, interfere: Callable[[Path], None]) -> None:
    """What was opened is what is read, even where the digest was taken in between."""
    path = tmp_path / "a.csv"
    path.write_bytes(DATA * 300)
    with open_source(path) as source:
        source.digest()
        interfere(path)
        with pytest.raises(SourceChangedError):
            next(source.chunks())


def test_a_path_that_is_no_readable_file_is_one_sentence(tmp_path: Path) -> None:
    """A missing file, a directory, and what cannot be read twice."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for name, kind, cause in [
        ("no.csv", SourceNotFoundError, "no such file"),
        ("file/no.csv", SourceNotFoundError, "no such file"),
        ("a\0b", SourceError, "cannot be read: .*null.*"),
        ("", SourceError, 'is a directory; name its files, as in ".*csv"'),
        ("pipe", SourceError, "is not a regular file"),
        ("../../../../../../../../dev/null", SourceError, "is not a regular file"),
    ]:
        path = f"{tmp_path}/{name}"
        with pytest.raises(kind, match=f": {cause}$"):
            open_source(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_one_sentence(tmp_path: Path) -> None:
    """It is said when it is opened, not when it is read."""
    path = tmp_path / "a.csv"
    path.touch(mode=0o000)
    with pytest.raises(SourceNotFoundError, match="no permission to read it"):
        open_source(path)


def test_a_local_glob_stands_for_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of their names, as absolute paths, without the directories."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.csv", "a.csv", "deep/c.csv", "deep/er/d.csv", "e.csv/f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    at = str(tmp_path) + "/"
    assert expand("*.csv") == expand(f"{at}*.csv") == [at + "a.csv", at + "b.csv"]
    assert expand("**/*.csv") == [at + name for name in ("a.csv", "b.csv", "deep/c.csv", "deep/er/d.csv")]
    assert expand("a.csv") == expand(Path("deep/../a.csv")) == [at + "a.csv"]
    assert expand("missing.csv") == [at + "missing.csv"]
    with pytest.raises(SourceNotFoundError, match=r"^\*\.tsv: no file matches$"):
        expand("*.tsv")


def test_a_file_that_looks_like_a_glob_is_a_file_first(tmp_path: Path) -> None:
    """Where it exists; where it does not, it is a glob."""
    (tmp_path / "a1.csv").touch()
    glob = str(tmp_path / "a[1].csv")
    assert expand(glob) == [str(tmp_path / "a1.csv")]
    Path(glob).touch()
    assert expand(glob) == [glob]
