"""A folder's files as S3 objects, fast enough not to be what is measured, and counted.

It speaks as much of S3's protocol as a load needs: HEAD, ranged GET with ``If-Match``, and listings in one page (Amazon
S3 API Reference, HeadObject, GetObject and ListObjectsV2). moto, which the tests use, reads the whole object for each
range.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import Request, urlopen
from xml.sax.saxutils import escape

BUCKET = "bench"


class Objects(ThreadingHTTPServer):
    """Serves ``folder`` as the bucket `BUCKET`. ``sent``: bytes of bodies so far. ``pace``: bytes a second of each
    connection, None for as fast as it goes. ``latency``: seconds until an answer begins. ``versioned``: whether
    objects have version ids; only their present versions can be read."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.sent = 0
        self.pace: float | None = None
        self.latency = 0.0
        self.versioned = False
        self.guard = threading.Lock()

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that point AWS's clients here."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def version(self, path: Path) -> str:
        """Of the object that the file is: its ETag, and where the bucket has any, its version id."""
        found = path.stat()
        return f"{found.st_mtime_ns:x}-{found.st_size:x}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no news."""


@contextmanager
def serving(folder: Path) -> Iterator[Objects]:
    """The files of ``folder`` as ``s3://bench/NAME`` while the body runs."""
    server = Objects(folder)
    thread = threading.Thread(target=server.serve_forever, name="bench-objects")
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def wire_speed(objects: Objects, key: Path) -> float:
    """Bytes a second that the server gives to four connections with ranges of 8 MiB, and nothing done with them."""
    size, part = (objects.folder / key).stat().st_size, 8 << 20

    def fetch(start: int) -> int:
        headers = {"Range": f"bytes={start}-{min(start + part, size) - 1}"}
        request = Request(f"{objects.environment['AWS_ENDPOINT_URL']}/{BUCKET}/{key}", headers=headers)
        with urlopen(request) as answer:
            return len(answer.read())

    began = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        fetched = sum(pool.map(fetch, range(0, size, part)))
    return fetched / (time.perf_counter() - began)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a small body waits 40 ms for the client's ACK of the head
    server: Objects

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        if self.server.latency:
            threading.Event().wait(self.server.latency)
        bucket, _, key = unquote(urlsplit(self.path).path).removeprefix("/").partition("/")
        if bucket == BUCKET and not key:
            self._list(parse_qs(urlsplit(self.path).query))
            return
        path = self.server.folder / key
        if bucket != BUCKET or not path.is_file():
            self._refuse(404, "NoSuchKey")
            return
        found, version = path.stat(), self.server.version(path)
        etag = f'"{version}"'
        if parse_qs(urlsplit(self.path).query).get("versionId", [version]) != [version]:
            self._refuse(404, "NoSuchVersion")
            return
        if self.headers.get("If-Match") not in (None, etag):
            self._refuse(412, "PreconditionFailed")
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        first, last = (int(asked[1]), min(int(asked[2]), found.st_size - 1)) if asked else (0, found.st_size - 1)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{found.st_size}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("ETag", etag)
        if self.server.versioned:
            self.send_header("x-amz-version-id", version)
        self.send_header("Last-Modified", formatdate(found.st_mtime, usegmt=True))
        self.end_headers()
        if body:
            self._send(path, first, last + 1)

    def _list(self, query: Mapping[str, list[str]]) -> None:
        prefix = query.get("prefix", [""])[0]
        found = []
        for path in sorted(each for each in self.server.folder.rglob("*") if each.is_file()):
            key = path.relative_to(self.server.folder).as_posix()
            if key.startswith(prefix):
                written = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
                etag = escape(f'"{self.server.version(path)}"')
                told = f"<LastModified>{written}</LastModified><ETag>{etag}</ETag><Size>{path.stat().st_size}</Size>"
                found.append(f"<Contents><Key>{escape(key)}</Key>{told}</Contents>")
        head = f"<Name>{BUCKET}</Name><KeyCount>{len(found)}</KeyCount><IsTruncated>false</IsTruncated>"
        body = f"<ListBucketResult>{head}{''.join(found)}</ListBucketResult>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send(self, path: Path, first: int, past: int) -> None:
        step = 1 << 20 if self.server.pace is None else 64 << 10
        with path.open("rb") as file:
            while first < past:
                size = min(step, past - first)
                sent = os.sendfile(self.connection.fileno(), file.fileno(), first, size)
                first += sent
                with self.server.guard:
                    self.server.sent += sent
                if self.server.pace is not None:
                    threading.Event().wait(sent / self.server.pace)

    def _refuse(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", "0" if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent: the benchmark's own lines are what matters."""
