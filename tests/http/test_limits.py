"""How much and how slowly strangers may send, over a real socket: nobody behind the door waits for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from reconciler.health import Health
from reconciler.http.app import application, serving
from reconciler.http.limits import RequestLimits
from reconciler.metrics import Metrics

MIB = 1 << 20


@dataclass
class Reached:
    """What came to the route."""

    port: int = 0
    lengths: list[int] = field(default_factory=list)


@asynccontextmanager
async def door(**limits: float) -> AsyncIterator[Reached]:
    reached = Reached()
    router = APIRouter()

    @router.post("/api/taken")
    async def taken(request: Request) -> dict[str, int]:
        reached.lengths.append(len(await request.body()))
        return {"length": reached.lengths[-1]}

    bounds = RequestLimits(**limits)  # type: ignore[arg-type]
    app = application(Health(45.0, reason=None), Metrics(), routers=[router], limits=bounds)
    async with serving(app, "127.0.0.1", 0, limits=bounds) as reached.port:
        yield reached


@asynccontextmanager
async def connected(reached: Reached) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", reached.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answered(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], dict[str, object]]:
    """One answer: its status, its headers and its JSON."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1]), headers, json.loads(body)


def head(*lines: str, method: str = "POST", path: str = "/api/taken") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: here", *lines, "", "")).encode()


def chunked(total: int) -> bytes:
    """A body whose length nobody is told of."""
    piece = b"x" * 65_536
    parts = [b"%x\r\n%b\r\n" % (len(piece), piece)] * (total // len(piece))
    rest = total % len(piece)
    return b"".join(parts) + (b"%x\r\n%b\r\n" % (rest, b"x" * rest) if rest else b"") + b"0\r\n\r\n"


def sized(total: int) -> tuple[bytes, bytes]:
    return head(f"Content-Length: {total}"), b"x" * total


def unsized(total: int) -> tuple[bytes, bytes]:
    return head("Transfer-Encoding: chunked"), chunked(total)


@pytest.mark.parametrize("of", [sized, unsized])
@pytest.mark.parametrize(("total", "status"), [(0, 200), (1, 200), (MIB, 200), (MIB + 1, 413), (2 * MIB, 413)])
async def test_a_body_of_a_mebibyte_is_read_and_no_byte_more(of: object, total: int, status: int) -> None:
    start, body = of(total)  # type: ignore[operator]
    async with door() as reached, connected(reached) as (reader, writer):
        writer.write(start + body)
        got, headers, said = await answered(reader)
        assert got == status
        assert reached.lengths == ([total] if status == 200 else [])
        if status == 413:
            assert (headers["content-type"], said["error"]) == ("application/problem+json", "too_large")
            assert await reader.read() == b""


async def test_a_body_that_says_it_is_huge_is_refused_before_it_comes() -> None:
    async with door() as reached, connected(reached) as (reader, writer):
        writer.write(head(f"Content-Length: {1 << 40}"))
        assert (await answered(reader))[0] == 413


async def test_a_body_without_end_is_refused_once_nobody_would_read_on() -> None:
    async with door(patience=2 * MIB) as reached, connected(reached) as (reader, writer):
        writer.write(head("Transfer-Encoding: chunked") + chunked(3 * MIB)[:-5])
        assert (await answered(reader))[0] == 413
        assert reached.lengths == []


@pytest.mark.parametrize(
    "start", [head("Content-Length: 10") + b"12345", head("Transfer-Encoding: chunked") + b"5\r\n12345"]
)
async def test_a_body_that_does_not_come_in_time_is_given_up(start: bytes) -> None:
    async with door(body_seconds=0.2) as reached, connected(reached) as (reader, writer):
        writer.write(start)
        got, headers, said = await answered(reader)
        assert (got, headers["content-type"], said["error"]) == (408, "application/problem+json", "too_slow")
        assert await reader.read() == b""
        assert reached.lengths == []


async def test_a_sender_who_hangs_up_reaches_no_route() -> None:
    async with door() as reached:
        async with connected(reached) as (_, writer):
            writer.write(head("Content-Length: 10") + b"12345")
            await writer.drain()
        async with connected(reached) as (reader, writer):
            writer.write(head("Content-Length: 2") + b"{}")
            assert (await answered(reader))[0] == 200
        assert reached.lengths == [2]


async def test_a_connection_is_used_for_more_than_one_request() -> None:
    async with door() as reached, connected(reached) as (reader, writer):
        for total in (5, 0, 7):
            writer.write(b"".join(sized(total)))
            assert (await answered(reader))[2] == {"length": total}


async def test_a_body_with_a_length_and_an_end_of_its_own_is_refused_with_whatever_follows() -> None:
    async with door() as reached, connected(reached) as (reader, writer):
        smuggled = head("Content-Length: 1") + b"x"
        writer.write(head("Content-Length: 4", "Transfer-Encoding: chunked") + chunked(0) + smuggled)
        assert (await answered(reader))[0] == 400
        assert await reader.read() == b""
        assert reached.lengths == []


async def test_bodies_that_are_being_read_have_a_bound_together() -> None:
    async with door(held=MIB) as reached, connected(reached) as (_, stalling):
        stalling.write(head(f"Content-Length: {MIB}") + b"x" * (MIB - 1000))
        start, body = sized(2000)
        async with asyncio.timeout(5):
            while (got := await once(reached, start + body))[0] == 200:
                pass
        assert (got[0], got[1]["retry-after"], got[2]["error"]) == (503, "10", "unavailable")
        stalling.write(b"x" * 1000)
        async with asyncio.timeout(5):
            while (got := await once(reached, start + body))[0] != 200:
                pass


async def once(reached: Reached, sent: bytes) -> tuple[int, dict[str, str], dict[str, object]]:
    """What one request on a connection of its own is answered."""
    async with connected(reached) as (reader, writer):
        writer.write(sent)
        return await answered(reader)


async def test_one_connection_too_many_is_closed_and_the_others_are_served() -> None:
    async with door(connections=2) as reached, connected(reached) as (reader, writer), connected(reached) as others:
        writer.write(b"".join(sized(3)))
        assert (await answered(reader))[0] == 200
        async with connected(reached) as (third, _), asyncio.timeout(3):
            assert await third.read() == b""
        others[1].write(b"".join(sized(4)))
        assert (await answered(others[0]))[0] == 200


async def test_whoever_does_not_take_the_answer_is_cut_off() -> None:
    ended = asyncio.Event()
    router = APIRouter()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 65_536
        ended.set()

    @router.get("/api/large")
    async def large() -> StreamingResponse:
        return StreamingResponse(pieces())

    bounds = RequestLimits(taking_seconds=0.2)
    app = application(Health(45.0, reason=None), Metrics(), routers=[router], limits=bounds)
    async with serving(app, "127.0.0.1", 0, limits=bounds) as port, connected(Reached(port)) as (_, writer):
        writer.write(head(method="GET", path="/api/large"))
        async with asyncio.timeout(5):
            await ended.wait()


async def test_too_many_headers_are_refused() -> None:
    async with door() as reached, connected(reached) as (reader, writer):
        writer.write(head(*(f"X-{number}: 1" for number in range(100)), "Content-Length: 0"))
        got, _, said = await answered(reader)
        assert (got, said["error"], reached.lengths) == (431, "too_many_headers", [])


async def test_a_head_without_end_is_refused() -> None:
    async with door() as reached, connected(reached) as (reader, writer):
        writer.write(head("X: " + "x" * 300_000)[:-4])
        assert (await reader.readline()).startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize(
    "start", [b"", b"POST /api", head("Content-Length: 0")[:-2]], ids=["nothing", "a word", "half"]
)
async def test_a_connection_that_sends_no_whole_head_is_closed(start: bytes) -> None:
    async with door(head_seconds=0.2) as reached, connected(reached) as (reader, writer):
        writer.write(start)
        async with asyncio.timeout(3):
            assert await reader.read() == b""


async def test_so_is_one_that_dawdles_after_its_first_request() -> None:
    async with door(head_seconds=0.3) as reached, connected(reached) as (reader, writer):
        writer.write(b"".join(sized(3)))
        assert (await answered(reader))[0] == 200
        writer.write(b"POST /api")
        async with asyncio.timeout(3):
            assert await reader.read() == b""


async def test_a_request_that_takes_long_is_not_cut_for_that() -> None:
    finish = asyncio.Event()
    router = APIRouter()

    @router.get("/api/slow")
    async def slow() -> dict[str, bool]:
        await finish.wait()
        return {"done": True}

    bounds = RequestLimits(head_seconds=0.1, body_seconds=0.1)
    app = application(Health(45.0, reason=None), Metrics(), routers=[router], limits=bounds)
    async with serving(app, "127.0.0.1", 0, limits=bounds) as port, connected(Reached(port)) as (reader, writer):
        writer.write(head(method="GET", path="/api/slow"))
        asyncio.get_running_loop().call_later(0.4, finish.set)
        assert (await answered(reader))[2] == {"done": True}
