"""The limits of bodies over a real socket: who may send one, its size, its speed, and all bodies together."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack

import pytest

from reconciler.kie.dialects.parsing import MAX_VALUES
from tests.http.sockets import (
    MIB,
    chunked,
    connected,
    head,
    read_answer,
    refused_with,
    request,
    serve,
    sized,
    unsized,
)


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


async def test_n7_seventy_slow_strangers_are_answered_at_once_and_hold_no_body() -> None:
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
async def test_a_stranger_that_sends_a_long_body_before_it_reads_gets_the_refusal(request_of: object) -> None:
    start, body = request_of(7 * MIB)  # type: ignore[operator]

    def send_whole() -> bytes:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(start[:-2] + b"X-Stranger: yes\r\n\r\n" + body)
            return connection.recv(1000)

    async with serve() as server:
        assert (await asyncio.to_thread(send_whole)).startswith(b"HTTP/1.1 401")


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
