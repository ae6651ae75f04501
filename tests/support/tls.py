"""A certificate authority of a test's own, a server's certificate by it, and TLS in front of a server that has none."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from support.clock import PATIENCE


def make_certificates(folder: Path, host: str) -> None:
    """``ca.pem``, and ``server.crt`` with ``server.key`` for ``host`` alone, good for a day."""
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _certificate("The rehearsal's CA", authority_key, "The rehearsal's CA", authority_key).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    server = _certificate(host, server_key, "The rehearsal's CA", authority_key).add_extension(
        x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(authority.sign(authority_key, hashes.SHA256()).public_bytes(pem))
    (folder / "server.crt").write_bytes(server.sign(authority_key, hashes.SHA256()).public_bytes(pem))
    (folder / "server.key").write_bytes(
        server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


_SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""What a client that wants TLS says first (PostgreSQL's manual, 54.7, "Message Formats": SSLRequest)."""


@contextlib.contextmanager
def tls_front(folder: Path, server_port: int) -> Iterator[int]:
    """TLS for the PostgreSQL at ``server_port``; gives the port at which it is had. Who asks for no TLS is sent away.

    As the server itself does it: the client asks, is told ``S``, and begins its handshake. Not every build of the
    server can do TLS; the client, which is what is tested, cannot tell the difference.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(folder / "server.crt", folder / "server.key")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if await reader.readexactly(8) == _SSL_REQUEST:
                writer.write(b"S")
                await writer.drain()
                await writer.start_tls(context)
                behind, to_behind = await asyncio.open_connection("127.0.0.1", server_port)
                await asyncio.gather(_pass_on(reader, to_behind), _pass_on(behind, writer))
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
        stop = asyncio.Event()
        started.put((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), stop))
        await stop.wait()
        server.close()

    started: queue.Queue[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()
    thread = threading.Thread(target=lambda: asyncio.run(run()), name="tls-front")
    thread.start()
    port, loop, stop = started.get(timeout=PATIENCE)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(1 << 18):
            target.write(data)
            await target.drain()
    except OSError:
        pass  # either end is gone, and so is what was on its way
    finally:
        target.close()
