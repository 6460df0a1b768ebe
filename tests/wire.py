"""A server that sends exactly the bytes that a test gives it, including invalid ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Answer = Callable[[asyncio.StreamWriter, str], Awaitable[None]]


@dataclass
class Origin:
    """A running server: its `url` without a final slash, the requests it received, and the number of connections."""

    url: str = ""
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def paths(self) -> list[str]:
        return [head.split(" ", 2)[1] for head in self.heads]


@asynccontextmanager
async def origin(*answers: Answer | bytes, host: str = "127.0.0.1") -> AsyncIterator[Origin]:
    """Serve on loopback: the n-th request gets the n-th answer, further requests get the last one.

    Every connection carries one request and is closed after its answer.
    """
    received = Origin()
    open_connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_connections.add(task)
        received.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            received.heads.append(head)
            received.bodies.append(await reader.readexactly(_length(head)))
            answer = answers[min(len(received.heads), len(answers)) - 1]
            if isinstance(answer, bytes):
                writer.write(answer)
            else:
                await answer(writer, head)
            await writer.drain()
        with suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(serve, host, 0, limit=1 << 20)
    port = server.sockets[0].getsockname()[1]
    received.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    try:
        yield received
    finally:
        server.close()
        for task in open_connections:
            task.cancel()
        await asyncio.gather(*open_connections, return_exceptions=True)


def ok(body: bytes, *headers: str, length: int | None = None, status: str = "200 OK") -> bytes:
    """Return an answer with a Content-Length, which is the body's length unless `length` is given."""
    stated = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {stated}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def bare(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """Return an answer with these headers and no others."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode("latin-1") + body


def chunked(*pieces: bytes, end: bool = True) -> bytes:
    """Return a body in chunked transfer coding, with or without its end."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return body + (b"0\r\n\r\n" if end else b"")


def _length(head: str) -> int:
    for line in head.lower().splitlines():
        if line.startswith("content-length:"):
            return int(line.split(":")[1])
    return 0
