"""The limits of requests over a real socket: size, speed, headers, connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from reconciler.health import Health
from reconciler.http.app import application, serving
from reconciler.http.bodies import BodyRouter, BodyRule
from reconciler.http.limits import RequestLimits
from reconciler.http.problems import Problem
from reconciler.metrics import Metrics
from reconciler.net.large_json import MAX_VALUES

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


@pytest.mark.parametrize("request_of", [sized, unsized])
@pytest.mark.parametrize(("total", "status"), [(0, 200), (1, 200), (MIB, 200), (MIB + 1, 413), (2 * MIB, 413)])
async def test_a_body_of_one_mebibyte_is_read_and_a_longer_one_is_refused(
    request_of: object, total: int, status: int
) -> None:
    start, body = request_of(total)  # type: ignore[operator]
    async with serve() as server, connected(server) as (reader, writer):
        writer.write(start + body)
        got, headers, answer = await read_answer(reader)
        assert got == status
        assert server.lengths == ([total] if status == 200 else [])
        if status == 413:
            assert (headers["content-type"], answer["error"]) == ("application/problem+json", "too_large")
            assert await reader.read() == b""


async def test_a_huge_content_length_is_refused_before_the_body_comes() -> None:
    async with serve() as server, connected(server) as (reader, writer):
        writer.write(head(f"Content-Length: {1 << 40}"))
        assert (await read_answer(reader))[0] == 413


async def test_an_endless_body_is_refused_when_the_discard_limit_is_reached() -> None:
    async with serve(discard=2 * MIB) as server, connected(server) as (reader, writer):
        writer.write(head("Transfer-Encoding: chunked") + chunked(3 * MIB)[:-5])
        assert (await read_answer(reader))[0] == 413
        assert server.lengths == []


@pytest.mark.parametrize(
    "start", [head("Content-Length: 10") + b"12345", head("Transfer-Encoding: chunked") + b"5\r\n12345"]
)
async def test_a_body_that_does_not_come_in_time_is_408(start: bytes) -> None:
    async with serve(body_seconds=0.2) as server, connected(server) as (reader, writer):
        writer.write(start)
        got, headers, answer = await read_answer(reader)
        assert (got, headers["content-type"], answer["error"]) == (408, "application/problem+json", "too_slow")
        assert await reader.read() == b""
        assert server.lengths == []


async def test_a_request_whose_sender_disconnects_reaches_no_route() -> None:
    async with serve() as server:
        async with connected(server) as (_, writer):
            writer.write(head("Content-Length: 10") + b"12345")
            await writer.drain()
        async with connected(server) as (reader, writer):
            writer.write(head("Content-Length: 2") + b"{}")
            assert (await read_answer(reader))[0] == 200
        assert server.lengths == [2]


async def test_a_connection_is_used_for_more_than_one_request() -> None:
    async with serve() as server, connected(server) as (reader, writer):
        for total in (5, 0, 7):
            writer.write(b"".join(sized(total)))
            assert (await read_answer(reader))[2] == {"length": total}


async def test_a_body_with_content_length_and_chunked_encoding_is_refused() -> None:
    async with serve() as server, connected(server) as (reader, writer):
        smuggled = head("Content-Length: 1") + b"x"
        writer.write(head("Content-Length: 4", "Transfer-Encoding: chunked") + chunked(0) + smuggled)
        assert (await read_answer(reader))[0] == 400
        assert await reader.read() == b""
        assert server.lengths == []


async def test_where_memory_ends_the_body_that_has_been_coming_the_longest_gives_way() -> None:
    async with serve(held=MIB) as server, connected(server) as (reader, stalling):
        stalling.write(head(f"Content-Length: {MIB}") + b"x" * (MIB - 1000))
        start, body = sized(2000)
        refused = asyncio.create_task(read_answer(reader))
        async with asyncio.timeout(20):
            # Until the first body has come that far.
            while not refused.done():
                assert (await request(server, start + body))[0] == 200
        got, headers, answer = await refused
        assert (got, headers["retry-after"], answer["error"]) == (503, "10", "unavailable")


async def test_where_too_many_bodies_come_at_once_the_oldest_gives_way() -> None:
    async with serve(bodies=3) as server, AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(connected(server)) for _ in range(5)]
        for _, writer in slow:
            writer.write(head("Content-Length: 10") + b"12345")
        await asyncio.wait_for(asyncio.gather(*(refused_with(503, reader) for reader, _ in slow[:2])), 20)
        assert (await request(server, b"".join(sized(7))))[2] == {"length": 7}
        # The third gave way to the request that was served; the others go on.
        await asyncio.wait_for(refused_with(503, slow[2][0]), 20)
        for reader, writer in slow[3:]:
            writer.write(b"67890")
            assert (await read_answer(reader))[2] == {"length": 10}


async def refused_with(status: int, reader: asyncio.StreamReader) -> None:
    assert (await read_answer(reader))[0] == status


async def test_seventy_slow_strangers_are_answered_at_once_and_hold_no_body() -> None:
    async with serve(held=MIB, discard_seconds=30.0) as server, AsyncExitStack() as stack:
        strangers = [await stack.enter_async_context(connected(server)) for _ in range(70)]
        for _, writer in strangers:
            writer.write(head(f"Content-Length: {MIB}", "X-Stranger: yes") + b"x" * 60_000)
        for reader, _ in strangers:
            await asyncio.wait_for(refused_with(401, reader), 20)
        # They are still sending.
        assert (await request(server, b"".join(sized(MIB))))[2] == {"length": MIB}
        assert server.lengths == [MIB]


async def test_a_stranger_who_asks_whether_to_send_is_refused_without_being_asked_for_the_body() -> None:
    async with serve() as server, connected(server) as (reader, writer):
        writer.write(head("Content-Length: 10", "Expect: 100-continue", "X-Stranger: yes"))
        assert (await read_answer(reader))[0] == 401
        assert await reader.read() == b""


async def test_whoever_is_admitted_is_asked_for_the_body() -> None:
    async with serve() as server, connected(server) as (reader, writer):
        writer.write(head("Content-Length: 3", "Expect: 100-continue"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(b"123")
        assert (await read_answer(reader))[2] == {"length": 3}


@pytest.mark.parametrize("request_of", [sized, unsized])
async def test_a_stranger_that_sends_a_long_body_reads_the_refusal(request_of: object) -> None:
    start, body = request_of(3 * MIB)  # type: ignore[operator]
    async with serve() as server:
        assert (await request(server, start[:-2] + b"X-Stranger: yes\r\n\r\n" + body))[0] == 401


async def test_a_body_for_a_route_that_reads_none_is_discarded() -> None:
    async with serve() as server:
        for path, method, status in (
            ("/api/nothing", "POST", 404),
            ("/api/echo", "GET", 405),
            ("/healthz", "GET", 200),
        ):
            async with connected(server) as (reader, writer):
                writer.write(head(f"Content-Length: {2 * MIB}", method=method, path=path) + b"x" * (2 * MIB))
                assert (await reader.readline()).startswith(b"HTTP/1.1 %d" % status)


async def test_a_body_with_too_many_values_is_refused_before_it_is_parsed() -> None:
    body = b"[" + b"0," * MAX_VALUES + b"0]"
    async with serve() as server:
        got = await request(server, head(f"Content-Length: {len(body)}") + body)
        assert (got[0], got[2]["error"], server.lengths) == (400, "invalid_request", [])


@pytest.mark.parametrize(
    "lengths", [("Content-Length: 5", "Content-Length: 6"), ("Content-Length: five",), ("Content-Length: -1",)]
)
async def test_a_length_that_is_none_is_refused(lengths: tuple[str, ...]) -> None:
    async with serve() as server, connected(server) as (reader, writer):
        writer.write(head(*lengths) + b"12345")
        assert (await reader.readline()).startswith(b"HTTP/1.1 400")
        assert server.lengths == []


async def request(server: Server, content: bytes) -> tuple[int, dict[str, str], dict[str, object]]:
    """Send one request on its own connection; return the answer."""
    async with connected(server) as (reader, writer):
        writer.write(content)
        return await read_answer(reader)


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


async def test_a_request_is_answered_while_strangers_hold_open_all_the_connections_they_can() -> None:
    """N7: slow heads, one after the other."""
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
