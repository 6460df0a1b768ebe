"""Decompression bombs: nothing decompresses or decodes a body that is stored."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from reconciler.errors import Permanent, ReconcilerError
from reconciler.media.fetch import Fetcher
from reconciler.media.spool import SpoolDirectory
from reconciler.net.http_clients import media_session
from tests.wire import bare, chunked, ok, origin

BURST = 200 << 20


@pytest.fixture(scope="module")
def packed() -> bytes:
    return gzip.compress(bytes(BURST), 9)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with media_session(allow_private=True, slots=4) as opened:
        yield opened


@pytest.fixture
def fetcher(session: aiohttp.ClientSession) -> Fetcher:
    return Fetcher(session, hosts=("*",), max_bytes=1 << 30, allow_private=True)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def vast_picture() -> bytes:
    """Return a PNG of a few hundred kilobytes that declares 2^31-1 by 2^31-1 black pixels."""
    head = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    pixels = _chunk(b"IDAT", zlib.compress(bytes(BURST), 9))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + pixels + _chunk(b"IEND", b"")


@pytest.mark.parametrize("encoding", ["Content-Encoding: gzip", "Content-Encoding: deflate, gzip"])
async def test_a_compressed_body_is_refused_and_not_decompressed(
    fetcher: Fetcher, tmp_path: Path, packed: bytes, encoding: str
) -> None:
    tracemalloc.start()
    try:
        async with origin(ok(packed, encoding)) as server, SpoolDirectory(tmp_path, 1 << 30).spool() as spool:
            with pytest.raises(Permanent) as caught:
                await fetcher.fetch(server.url, spool)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.code == "encoding_refused"
    assert peak < 10 << 20


async def test_a_body_with_a_compressed_transfer_is_not_decompressed_either(
    fetcher: Fetcher, tmp_path: Path, packed: bytes
) -> None:
    answer = bare(chunked(packed), "Transfer-Encoding: gzip, chunked")
    async with origin(answer) as server, SpoolDirectory(tmp_path, 1 << 30).spool() as spool:
        with pytest.raises(ReconcilerError):
            await fetcher.fetch(server.url, spool)
        assert spool.size <= len(packed)


async def test_an_image_that_declares_a_huge_size_is_stored_and_never_decoded(fetcher: Fetcher, tmp_path: Path) -> None:
    picture = vast_picture()
    tracemalloc.start()
    try:
        async with origin(ok(picture)) as server, SpoolDirectory(tmp_path, 1 << 30).spool() as spool:
            assert await fetcher.fetch(server.url, spool) == "image/png"
            assert spool.size == len(picture)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 << 20
