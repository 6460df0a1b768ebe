"""Which connections to KIE are reused, and which are closed."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress

import aiohttp
import pytest

from reconciler.net.http_clients import CONNECTIONS, kie_session
from tests.kie.test_client import KEY, MARKET, envelope, kie
from tests.wire import Origin, bare, chunked


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with kie_session(timeout=5.0) as opened:
        yield opened


async def test_a_compressed_answer_whose_end_comes_separately_keeps_its_connection(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, unpacked, unpacker = 0, asyncio.Event(), zlib.decompressobj

    def watched(kind: int) -> object:
        asyncio.get_running_loop().call_soon(unpacked.set)
        return unpacker(kind)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                unpacked.clear()
                piece = chunked(gzip.compress(b"{}"), end=False)
                writer.write(bare(piece, "Content-Encoding: gzip", "Transfer-Encoding: chunked"))
                await unpacked.wait()
                writer.write(b"0\r\n\r\n")
        writer.close()

    monkeypatch.setattr(zlib, "decompressobj", watched)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for _ in range(2):
            reply = await kie(session, Origin(url)).record("T", path=MARKET, key_hash=KEY)
            assert reply.body == {}
    assert opened == 1


async def test_a_connection_that_is_an_answer_behind_is_closed_once_that_is_known(
    session: aiohttp.ClientSession,
) -> None:
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        behind, before = opened == 1, "somebody's"
        with suppress(asyncio.IncompleteReadError):
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                asked = head.partition("taskId=")[2].partition(" ")[0]
                body = envelope(200, before if behind else asked)
                before = asked
                writer.write(bare(body, f"Content-Length: {len(body)}"))
                if "connection: close" in head.lower():
                    break
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        ring = kie(session, Origin(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))

        async def told(task_id: str) -> object:
            body = (await ring.record(task_id, path=MARKET, key_hash=KEY)).body
            return body["data"] if isinstance(body, dict) else None

        assert [await told(task_id) for task_id in "ab"] == ["somebody's", "a"]
        ring.renew()
        assert [await told(task_id) for task_id in "cdef"] == list("bdef")
        assert [await told("g") for _ in range(2 * CONNECTIONS)] == ["g"] * 2 * CONNECTIONS
    assert opened <= 1 + CONNECTIONS
