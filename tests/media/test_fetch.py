"""Fetching: a result arrives whole and with an accepted type, or an error says what to do."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import psutil
import pytest

from reconciler.errors import Gone, Permanent, ReconcilerError, Transient
from reconciler.media.fetch import Fetcher, FetchTimeouts
from reconciler.media.spool import PIECE, SpoolDirectory
from reconciler.net.http_clients import USER_AGENT, media_session
from tests.wire import Origin, bare, chunked, ok, origin

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
MP4 = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp42"


@pytest.fixture
def room(tmp_path: Path) -> SpoolDirectory:
    return SpoolDirectory(tmp_path, 1 << 30)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with media_session(allow_private=True, slots=4) as opened:
        yield opened


@pytest.fixture
def fetcher(session: aiohttp.ClientSession) -> Fetcher:
    return Fetcher(session, hosts=("*",), max_bytes=1 << 20, allow_private=True)


async def failure(fetcher: Fetcher, room: SpoolDirectory, source: str) -> ReconcilerError:
    async with room.spool() as spool:
        with pytest.raises(ReconcilerError) as caught:
            await fetcher.fetch(source, spool)
    return caught.value


async def test_a_result_is_downloaded_whole_with_type_and_hashes(fetcher: Fetcher, room: SpoolDirectory) -> None:
    async with origin(ok(PNG, "Content-Type: text/html")) as server, room.spool() as spool:
        mime = await fetcher.fetch(f"{server.url}/r/T_1_a.png", spool)
        assert mime == "image/png", "the bytes are believed, not the header"
        assert b"".join([chunk async for chunk in spool.chunks()]) == PNG
        assert spool.sha256 == hashlib.sha256(PNG).hexdigest()
    head = server.heads[0].lower()
    assert f"user-agent: {USER_AGENT}" in head
    assert "accept-encoding: identity" in head
    assert "cookie:" not in head
    assert "authorization:" not in head


async def test_a_body_without_a_length_is_read_to_its_end(fetcher: Fetcher, room: SpoolDirectory) -> None:
    until_close = bare(PNG)
    in_chunks = bare(chunked(PNG[:9], PNG[9:5000], PNG[5000:]), "Transfer-Encoding: chunked")
    async with origin(until_close, in_chunks) as server:
        for _ in range(2):
            async with room.spool() as spool:
                assert await fetcher.fetch(f"{server.url}/x", spool) == "image/png"
                assert spool.size == len(PNG)


async def test_progress_is_reported_as_bytes_arrive(fetcher: Fetcher, room: SpoolDirectory) -> None:
    told: list[tuple[int, int | None]] = []
    async with origin(ok(PNG), bare(PNG)) as server:
        for _ in range(2):
            async with room.spool() as spool:
                await fetcher.fetch(server.url, spool, progress=lambda *step: told.append(step))
    assert (len(PNG), len(PNG)) in told
    assert (len(PNG), None) in told
    assert all(0 < done <= len(PNG) for done, _ in told)


async def test_the_address_is_sent_byte_for_byte(fetcher: Fetcher, room: SpoolDirectory) -> None:
    # A signature covers the exact path; a normalised one would be refused.
    path = "/a%2fb/%41==~'(x)?X-Amz-Signature=%2B+/:@&&b=%7e"
    async with origin(ok(PNG)) as server, room.spool() as spool:
        await fetcher.fetch(server.url + path, spool)
    assert server.paths == [path]


async def test_an_address_that_is_not_ascii_is_sent_encoded(fetcher: Fetcher, room: SpoolDirectory) -> None:
    async with origin(ok(PNG)) as server, room.spool() as spool:
        await fetcher.fetch(f"{server.url}/ü/文.png", spool)
    assert server.paths == ["/%C3%BC/%E6%96%87.png"]


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        ("404 Not Found", Gone, "http_404"),
        ("403 Forbidden", Gone, "http_403"),
        ("410 Gone", Gone, "http_410"),
        ("400 Bad Request", Gone, "http_4xx"),
        ("451 Legal", Gone, "http_4xx"),
        ("429 Too Many", Transient, "http_429"),
        ("408 Timeout", Transient, "http_408"),
        ("500 Broken", Transient, "http_5xx"),
        ("503 Away", Transient, "http_5xx"),
        ("522 Cloudflare", Transient, "http_5xx"),
        ("206 Partial Content", Transient, "http_2xx"),
        ("300 Multiple Choices", Transient, "http_3xx"),
    ],
)
async def test_each_status_means_waiting_or_a_new_address(
    fetcher: Fetcher, room: SpoolDirectory, status: str, kind: type[ReconcilerError], code: str
) -> None:
    async with origin(ok(PNG, status=status)) as server:
        error = await failure(fetcher, room, server.url)
    assert type(error) is kind
    assert error.code == code


async def test_the_retry_after_of_a_busy_source_is_kept(fetcher: Fetcher, room: SpoolDirectory) -> None:
    async with origin(ok(b"", "Retry-After: 17", status="503 Away")) as server:
        error = await failure(fetcher, room, server.url)
    assert isinstance(error, Transient)
    assert error.retry_after == 17.0


LYING = {
    "Content-Length larger than the body": (ok(PNG, length=len(PNG) + 1), "short"),
    "no last chunk": (bare(chunked(PNG, end=False), "Transfer-Encoding: chunked"), "short"),
    "a chunk cut in two": (bare(b"ffff\r\n" + PNG, "Transfer-Encoding: chunked"), "short"),
    "no body at all": (ok(b""), "empty"),
    "closed at once": (bare(b""), "empty"),
    "204": (ok(b"", status="204 No Content"), "http_2xx"),
    "two lengths": (bare(PNG, "Content-Length: 5", "Content-Length: 9"), "bad_answer"),
    "a length and chunks": (
        bare(chunked(PNG), "Content-Length: 5", "Transfer-Encoding: chunked"),
        "bad_answer",
    ),
    "a length that is no number": (bare(PNG, "Content-Length: -1"), "bad_answer"),
    "a chunk of no size": (bare(b"xyz\r\n", "Transfer-Encoding: chunked"), "bad_answer"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n", "bad_answer"),
    "nothing": (b"", "network"),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-Le", "network"),
    "a 10 MB header": (bare(PNG, "X-Big: " + "x" * 10_000_000), "bad_answer"),
    "100,000 headers": (bare(PNG, *(f"X-{i}: y" for i in range(100_000))), "bad_answer"),
    "an error page": (ok(b"<html>Sorry</html>"), "not_media"),
    "KIE's envelope": (ok(b'{"code":500,"msg":"gone"}'), "not_media"),
    "Cloudflare's words": (ok(b"error code: 1010"), "not_media"),
}


@pytest.mark.parametrize("what", LYING)
async def test_a_wrong_length_or_an_interrupted_body_is_a_transient_error(
    fetcher: Fetcher, room: SpoolDirectory, what: str
) -> None:
    answer, code = LYING[what]
    async with origin(answer) as server:
        error = await failure(fetcher, room, server.url)
    assert isinstance(error, Transient), error
    assert error.code == code
    assert room.used == 0


async def test_bytes_after_the_announced_length_are_never_stored(fetcher: Fetcher, room: SpoolDirectory) -> None:
    async with origin(ok(PNG + b"<script>", length=len(PNG))) as server, room.spool() as spool:
        # It is noticed when it comes with the last bytes, and left in the socket when it comes later.
        with suppress(Transient):
            await fetcher.fetch(server.url, spool)
        assert b"<script>" not in b"".join([chunk async for chunk in spool.chunks()])


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (ok(b"#!/bin/sh\nexit 0\n"), "type_refused"),
        (ok(b"MZ\x90\0" + bytes(400), "Content-Type: image/png"), "type_refused"),
        (ok(PNG, "Content-Encoding: gzip"), "encoding_refused"),
        (ok(PNG, "Content-Encoding: br"), "encoding_refused"),
        (ok(PNG, length=(1 << 20) + 1), "too_large"),
    ],
)
async def test_a_body_that_may_not_be_stored_is_a_permanent_error(
    fetcher: Fetcher, room: SpoolDirectory, answer: bytes, code: str
) -> None:
    async with origin(answer) as server:
        error = await failure(fetcher, room, server.url)
    assert type(error) is Permanent
    assert error.code == code


async def test_identity_is_no_encoding(fetcher: Fetcher, room: SpoolDirectory) -> None:
    async with origin(ok(PNG, "Content-Encoding: Identity")) as server, room.spool() as spool:
        assert await fetcher.fetch(server.url, spool) == "image/png"


async def endless(writer: asyncio.StreamWriter, head: str) -> None:
    """Send a body that never ends, as fast as it is read."""
    writer.write(bare(MP4))
    while True:
        writer.write(bytes(1 << 16))
        await writer.drain()


async def test_an_endless_body_is_stopped_at_the_limit(fetcher: Fetcher, room: SpoolDirectory) -> None:
    async with origin(endless) as server:
        error = await failure(fetcher, room, server.url)
    assert type(error) is Permanent
    assert error.code == "too_large"


async def test_a_refused_type_is_not_downloaded_to_its_end(
    session: aiohttp.ClientSession, room: SpoolDirectory
) -> None:
    async def endless_zeros(writer: asyncio.StreamWriter, head: str) -> None:
        writer.write(bare(b""))
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()

    fetcher = Fetcher(session, hosts=("*",), max_bytes=1 << 50, allow_private=True)
    async with origin(endless_zeros) as server:
        error = await failure(fetcher, room, server.url)
    assert error.code == "type_refused"


async def test_a_full_spool_stops_the_download(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    fetcher = Fetcher(session, hosts=("*",), max_bytes=1 << 50, allow_private=True)
    room = SpoolDirectory(tmp_path, 3 * PIECE)
    async with origin(endless) as server:
        error = await failure(fetcher, room, server.url)
    assert isinstance(error, Transient)
    assert error.code == "spool_full"
    assert room.used == 0


async def silent(writer: asyncio.StreamWriter, head: str) -> None:
    await asyncio.Event().wait()


async def stalled(writer: asyncio.StreamWriter, head: str) -> None:
    writer.write(ok(PNG, length=len(PNG) * 2))
    await asyncio.Event().wait()


@pytest.mark.parametrize("answer", [silent, stalled])
async def test_silence_ends_with_a_timeout(
    session: aiohttp.ClientSession, room: SpoolDirectory, answer: object
) -> None:
    fetcher = Fetcher(
        session,
        hosts=("*",),
        max_bytes=1 << 20,
        allow_private=True,
        timeouts=FetchTimeouts(idle=0.1, start=30),
    )
    async with origin(answer) as server:  # type: ignore[arg-type]
        error = await failure(fetcher, room, server.url)
    assert isinstance(error, Transient)
    assert error.code == "timeout"


async def drip(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Send one piece every 10 ms: never silent, never complete."""
    never = asyncio.Event()
    while True:
        writer.write(piece)
        await writer.drain()
        try:
            await asyncio.wait_for(never.wait(), 0.01)
        except TimeoutError:
            continue


async def slow_body(writer: asyncio.StreamWriter, head: str) -> None:
    writer.write(bare(MP4))
    await drip(writer, b"x")


async def slow_head(writer: asyncio.StreamWriter, head: str) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    await drip(writer, b"y")


@pytest.mark.parametrize("answer", [slow_body, slow_head])
async def test_a_trickle_ends_with_a_timeout_although_it_is_never_silent(
    session: aiohttp.ClientSession, room: SpoolDirectory, answer: object
) -> None:
    fetcher = Fetcher(
        session,
        hosts=("*",),
        max_bytes=1 << 20,
        allow_private=True,
        timeouts=FetchTimeouts(idle=20, start=0.3),
    )
    async with origin(answer) as server:  # type: ignore[arg-type]
        error = await failure(fetcher, room, server.url)
    assert isinstance(error, Transient)
    assert error.code == "timeout"


async def test_a_large_file_gets_more_time(session: aiohttp.ClientSession, room: SpoolDirectory) -> None:
    async def steady(writer: asyncio.StreamWriter, head: str) -> None:
        writer.write(ok(MP4, length=len(MP4) + 4 * PIECE))
        never = asyncio.Event()
        for _ in range(4):
            writer.write(bytes(PIECE))
            await writer.drain()
            try:
                await asyncio.wait_for(never.wait(), 0.2)
            except TimeoutError:
                continue

    # It takes 0.8 s, but only 0.5 s are allowed at the start: received bytes extend the deadline.
    patience = FetchTimeouts(idle=20, start=0.5, pace=2 * PIECE)
    fetcher = Fetcher(session, hosts=("*",), max_bytes=1 << 30, allow_private=True, timeouts=patience)
    async with origin(steady) as server, room.spool() as spool:
        assert await fetcher.fetch(server.url, spool) == "video/mp4"


async def test_a_closed_port_is_a_network_failure(fetcher: Fetcher, room: SpoolDirectory) -> None:
    async with origin(ok(PNG)) as server:
        url = server.url
    error = await failure(fetcher, room, url)
    assert isinstance(error, Transient)
    assert error.code == "network"


async def test_a_cancelled_fetch_stays_cancelled(fetcher: Fetcher, room: SpoolDirectory) -> None:
    asked = asyncio.Event()

    async def hold(writer: asyncio.StreamWriter, head: str) -> None:
        asked.set()
        await asyncio.Event().wait()

    async def visit(server: Origin) -> None:
        async with room.spool() as spool:
            await fetcher.fetch(server.url, spool)

    async with origin(hold) as server:
        task = asyncio.create_task(visit(server))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_no_error_shows_a_signed_address(fetcher: Fetcher, room: SpoolDirectory) -> None:
    answers = [ok(PNG, status="403 Forbidden"), ok(PNG, length=1 << 19), b"junk", b""]
    for answer in answers:
        async with origin(answer) as server:
            error = await failure(fetcher, room, f"{server.url}/x?X-Amz-Signature=sesame")
        assert "sesame" not in f"{error} {error.hint} {error!r}"
        assert error.__cause__ is None
        assert error.__suppress_context__ or error.__context__ is None


BIG = 300 << 20
SERVER = """
import asyncio, sys
async def serve(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    left = int(sys.argv[1])
    head = b"\\0\\0\\0\\x18ftypisom\\0\\0\\2\\0isommp42"
    writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % left + head)
    left -= len(head)
    while left:
        piece = bytes(min(left, 1 << 18)); left -= len(piece); writer.write(piece)
        await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()
asyncio.run(main())
"""


@pytest.mark.soak
async def test_a_large_file_takes_no_more_memory_than_a_small_one(
    session: aiohttp.ClientSession, room: SpoolDirectory
) -> None:
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVER, str(BIG)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdout is not None
    url = f"http://127.0.0.1:{int(await server.stdout.readline())}/film.mp4"
    process, seen = psutil.Process(), [0]

    def watch(done: int, promised: int | None) -> None:
        seen[0] = max(seen[0], process.memory_info().rss)

    fetcher = Fetcher(session, hosts=("*",), max_bytes=1 << 30, allow_private=True)
    before = process.memory_info().rss
    try:
        async with room.spool() as spool:
            assert await fetcher.fetch(url, spool, progress=watch) == "video/mp4"
            assert spool.size == BIG
            async for chunk in spool.chunks():
                watch(len(chunk), BIG)
    finally:
        await server.communicate(b"")
    assert seen[0] - before < 30 << 20
