"""Every HTTP client checks the TLS certificate of the server."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from reconciler.net.http_clients import json_client, kie_session, media_session, storage_session


def certificate(folder: Path) -> Path:
    """Return the file with a self-signed certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now, day = datetime.now(UTC), timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    signed = builder.add_extension(here, critical=False).sign(key, hashes.SHA256())
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = folder / "both.pem"
    pem = serialization.Encoding.PEM
    path.write_bytes(signed.public_bytes(pem) + key.private_bytes(pem, *form))
    return path


@pytest.fixture
async def self_signed(tmp_path: Path) -> AsyncIterator[str]:
    """Yield the address of a TLS server with a self-signed certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate(tmp_path))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def test_the_json_client_refuses_a_self_signed_certificate(self_signed: str) -> None:
    async with json_client() as client:
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await client.get(self_signed)


async def test_every_session_refuses_a_self_signed_certificate(self_signed: str) -> None:
    for session in (media_session(allow_private=True, slots=1), storage_session(slots=1), kie_session()):
        async with session:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(self_signed)


async def test_the_server_answers_a_client_that_skips_the_check(self_signed: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(self_signed, ssl=False) as answer:
        assert await answer.text() == "{}"
