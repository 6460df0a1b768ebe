"""The limits of connections over a real socket: slow heads, many headers, unread answers, too many connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from reconciler.health import Health
from reconciler.http.app import application, serving
from reconciler.http.limits import RequestLimits
from reconciler.metrics import Metrics
from tests.http.sockets import (
    Server,
    connected,
    head,
    read_answer,
    request,
    serve,
    sized,
)


async def test_of_too_many_connections_the_one_that_has_been_silent_the_longest_is_closed() -> None:
    async with serve(connections=2) as server, connected(server) as (reader, writer), connected(server) as (silent, _):
        writer.write(b"".join(sized(3)))
        assert (await read_answer(reader))[0] == 200
        async with connected(server) as (third, third_writer):
            async with asyncio.timeout(5):
                assert await silent.read() == b""
            third_writer.write(b"".join(sized(4)))
            assert (await read_answer(third))[0] == 200
        writer.write(b"".join(sized(5)))
        assert (await read_answer(reader))[2] == {"length": 5}


async def test_a_connection_that_is_being_served_is_not_closed_for_a_new_one() -> None:
    async with serve(connections=1) as server, connected(server) as (reader, writer):
        writer.write(head("Content-Length: 10") + b"12345")
        async with asyncio.timeout(5):
            while True:
                async with connected(server) as (other, _):
                    # Until the server has read the head.
                    if await other.read() == b"" and not reader.at_eof():
                        break
        writer.write(b"67890")
        assert (await read_answer(reader))[2] == {"length": 10}


async def test_n7_a_request_is_answered_while_strangers_hold_open_all_the_connections_they_can() -> None:
    """Slow heads, one after the other."""
    async with serve(connections=8) as server, AsyncExitStack() as stack:
        for _ in range(30):
            _, writer = await stack.enter_async_context(connected(server))
            writer.write(b"POST /api/echo HTTP/1.1\r\nX: ")
        assert (await request(server, b"".join(sized(3))))[2] == {"length": 3}


async def test_a_client_that_does_not_read_its_answer_is_disconnected() -> None:
    ended = asyncio.Event()
    router = APIRouter()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 65_536
        ended.set()

    @router.get("/api/large")
    async def large() -> StreamingResponse:
        return StreamingResponse(pieces())

    bounds = RequestLimits(read_answer_seconds=0.2)
    app = application(Health(45.0, reason=None), Metrics(), routers=[router], limits=bounds)
    async with serving(app, "127.0.0.1", 0, limits=bounds) as port, connected(Server(port)) as (_, writer):
        writer.write(head(method="GET", path="/api/large"))
        async with asyncio.timeout(5):
            await ended.wait()


async def test_too_many_headers_are_refused() -> None:
    async with serve() as server, connected(server) as (reader, writer):
        writer.write(head(*(f"X-{number}: 1" for number in range(100)), "Content-Length: 0"))
        got, _, answer = await read_answer(reader)
        assert (got, answer["error"], server.lengths) == (431, "too_many_headers", [])


async def test_a_head_without_end_is_refused() -> None:
    async with serve() as server, connected(server) as (reader, writer):
        writer.write(head("X: " + "x" * 300_000)[:-4])
        assert (await reader.readline()).startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize(
    "start", [b"", b"POST /api", head("Content-Length: 0")[:-2]], ids=["nothing", "a word", "half"]
)
async def test_a_connection_that_sends_no_whole_head_is_closed(start: bytes) -> None:
    async with serve(head_seconds=0.2) as server, connected(server) as (reader, writer):
        writer.write(start)
        async with asyncio.timeout(3):
            assert await reader.read() == b""


async def test_a_connection_that_stalls_after_its_first_request_is_closed() -> None:
    async with serve(head_seconds=0.3) as server, connected(server) as (reader, writer):
        writer.write(b"".join(sized(3)))
        assert (await read_answer(reader))[0] == 200
        writer.write(b"POST /api")
        async with asyncio.timeout(3):
            assert await reader.read() == b""


async def test_a_slow_route_is_not_cut_off_by_the_limits() -> None:
    finish = asyncio.Event()
    router = APIRouter()

    @router.get("/api/slow")
    async def slow() -> dict[str, bool]:
        await finish.wait()
        return {"done": True}

    bounds = RequestLimits(head_seconds=0.1, body_seconds=0.1)
    app = application(Health(45.0, reason=None), Metrics(), routers=[router], limits=bounds)
    async with serving(app, "127.0.0.1", 0, limits=bounds) as port, connected(Server(port)) as (reader, writer):
        writer.write(head(method="GET", path="/api/slow"))
        asyncio.get_running_loop().call_later(0.4, finish.set)
        assert (await read_answer(reader))[2] == {"done": True}
