"""A server that speaks PostgreSQL's startup and refuses every connection: the words of poolers that cannot run here."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

_SSL_REQUEST = (80877103).to_bytes(4)


def fatal(sqlstate: str, message: str) -> Mapping[str, str]:
    """The fields of a FATAL error."""
    return {"S": "FATAL", "V": "FATAL", "C": sqlstate, "M": message}


def error_response(fields: Mapping[str, str]) -> bytes:
    """The ErrorResponse with these fields."""
    said = b"".join(letter.encode() + value.encode() + b"\0" for letter, value in fields.items()) + b"\0"
    return b"E" + (len(said) + 4).to_bytes(4) + said


async def startup(reader: asyncio.StreamReader) -> bytes:
    """The next startup packet, without its length."""
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4)


def asks_for_encryption(packet: bytes) -> bool:
    """Whether this packet asks for TLS: no startup packet has this number."""
    return packet[:4] == _SSL_REQUEST


@asynccontextmanager
async def refusing(
    plain: Mapping[str, str], *, encrypted: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """The address of a server that refuses with `plain`; with `tls` it encrypts, and refuses with `encrypted` then."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fields = plain
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while asks_for_encryption(await startup(reader)):
                writer.write(b"N" if tls is None else b"S")
                await writer.drain()
                if tls is not None:
                    await writer.start_tls(tls)
                    fields = plain if encrypted is None else encrypted
            writer.write(error_response(fields))
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"postgresql://postgres.abcdefghijkl:the-password@127.0.0.1:{port}/postgres"
