"""A server with one route that reads bodies, and requests to it over plain sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import Request

from reconciler.health import Health
from reconciler.http.app import application, serving
from reconciler.http.bodies import BodyRouter, BodyRule
from reconciler.http.limits import RequestLimits
from reconciler.http.problems import Problem
from reconciler.metrics import Metrics

MIB = 1 << 20


@dataclass
class Server:
    """A port, and the lengths of the bodies that reached the route; senders with the header X-Stranger are refused."""

    port: int = 0
    lengths: list[int] = field(default_factory=list)

    async def admit(self, request: Request) -> None:
        if "X-Stranger" in request.headers:
            raise Problem(401, "unauthorized", "a stranger")


@asynccontextmanager
async def serve(**limits: float) -> AsyncIterator[Server]:
    server = Server()
    router = BodyRouter()
    router.reads_body("/api/echo", BodyRule(server.admit, "users"))

    @router.post("/api/echo")
    async def echo(request: Request) -> dict[str, int]:
        server.lengths.append(len(await request.body()))
        return {"length": server.lengths[-1]}

    bounds = RequestLimits(**limits)  # type: ignore[arg-type]
    app = application(Health(45.0, reason=None), Metrics(), routers=[router], limits=bounds)
    async with serving(app, "127.0.0.1", 0, limits=bounds) as server.port:
        yield server


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], dict[str, object]]:
    """Read one answer; return its status, headers and JSON."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1]), headers, json.loads(body)


def head(*lines: str, method: str = "POST", path: str = "/api/echo") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: here", *lines, "", "")).encode()


def chunked(total: int) -> bytes:
    """Return a chunked body, which states no total length."""
    piece = b"x" * 65_536
    parts = [b"%x\r\n%b\r\n" % (len(piece), piece)] * (total // len(piece))
    rest = total % len(piece)
    return b"".join(parts) + (b"%x\r\n%b\r\n" % (rest, b"x" * rest) if rest else b"") + b"0\r\n\r\n"


def sized(total: int) -> tuple[bytes, bytes]:
    return head(f"Content-Length: {total}"), b"x" * total


def unsized(total: int) -> tuple[bytes, bytes]:
    return head("Transfer-Encoding: chunked"), chunked(total)


async def refused_with(status: int, reader: asyncio.StreamReader) -> None:
    assert (await read_answer(reader))[0] == status


async def request(server: Server, content: bytes) -> tuple[int, dict[str, str], dict[str, object]]:
    """Send one request on its own connection; return the answer."""
    async with connected(server) as (reader, writer):
        writer.write(content)
        return await read_answer(reader)
