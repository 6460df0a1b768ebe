"""Words and other files without a signature are results where the provider or the address announces them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from reconciler.domain.object_keys import TYPES, extra_type
from reconciler.errors import Permanent, ReconcilerError, Transient
from reconciler.media.fetch import Fetcher
from reconciler.media.spool import SpoolDirectory
from reconciler.net.http_clients import media_session
from tests.wire import bare, ok, origin

SRT = b"1\n00:00:01,000 --> 00:00:02,000\nHello\n"
LYRICS = "[Verse 1]\nThe moon is down, луна зашла\n".encode()
BODIES = {
    "txt": ("text/plain", LYRICS),
    "json": ("application/json", json.dumps({"segments": [{"start": 0.5, "text": "луна"}] * 500}).encode()),
    "srt": ("application/x-subrip", SRT),
    "vtt": ("text/vtt", b"WEBVTT\n\n00:01.000 --> 00:02.000\nHello\n"),
    "pcm": ("audio/pcm", bytes(range(256)) * 40),
    "svg": ("image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "pdf": ("application/pdf", b"%PDF-1.7\n1 0 obj"),
}


@pytest.fixture
def room(tmp_path: Path) -> SpoolDirectory:
    return SpoolDirectory(tmp_path, 1 << 30)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with media_session(allow_private=True, slots=4) as opened:
        yield opened


@pytest.fixture
def fetcher(session: aiohttp.ClientSession) -> Fetcher:
    return Fetcher(session, hosts=("*",), max_bytes=1 << 24, allow_private=True)


async def fetched(
    fetcher: Fetcher, room: SpoolDirectory, body: bytes, path: str, *, announced: str | None = None
) -> tuple[str, bytes]:
    """Return the type and the bytes of a body that lies at this path."""
    async with origin(ok(body)) as server, room.spool() as spool:
        mime = await fetcher.fetch(f"{server.url}{path}", spool, announced=announced)
        return mime, b"".join([bytes(chunk) async for chunk in spool.chunks()])


async def failure(
    fetcher: Fetcher, room: SpoolDirectory, body: bytes, path: str, *, announced: str | None = None
) -> ReconcilerError:
    with pytest.raises(ReconcilerError) as caught:
        await fetched(fetcher, room, body, path, announced=announced)
    return caught.value


@pytest.mark.parametrize("ext", BODIES)
async def test_the_extension_of_the_address_announces_a_type(fetcher: Fetcher, room: SpoolDirectory, ext: str) -> None:
    mime, body = BODIES[ext]
    assert await fetched(fetcher, room, body, f"/r/result.{ext}") == (mime, body)


@pytest.mark.parametrize("ext", BODIES)
async def test_the_provider_announces_a_type_for_an_address_without_one(
    fetcher: Fetcher, room: SpoolDirectory, ext: str
) -> None:
    mime, body = BODIES[ext]
    assert await fetched(fetcher, room, body, "/r/result", announced=mime) == (mime, body)


@pytest.mark.parametrize(
    "path", ["/r/song.TXT", "/r/a.png/song.txt?X-Amz-Expires=1200&name=a.png", "/r/song.txt#a.png"]
)
async def test_only_the_path_of_the_address_announces(fetcher: Fetcher, room: SpoolDirectory, path: str) -> None:
    assert (await fetched(fetcher, room, LYRICS, path))[0] == "text/plain"


@pytest.mark.parametrize(
    "path",
    ["/r/song.png", "/r/song.jpeg", "/r/song.mp3", "/r/song", "/r/song.txt/raw", "/r/x?name=a.txt", "/r/txt.", "/"],
)
async def test_words_at_an_address_of_media_or_of_nothing_are_no_result(
    fetcher: Fetcher, room: SpoolDirectory, path: str
) -> None:
    error = await failure(fetcher, room, LYRICS, path)
    assert (type(error), error.code) == (Transient, "not_media")


async def test_the_provider_counts_more_than_the_extension(fetcher: Fetcher, room: SpoolDirectory) -> None:
    error = await failure(fetcher, room, LYRICS, "/r/cover.txt", announced="image/png")
    assert error.code == "not_media"
    assert (await fetched(fetcher, room, LYRICS, "/r/cover.png", announced="text/plain"))[0] == "text/plain"


async def test_an_unknown_announcement_leaves_it_to_the_extension(fetcher: Fetcher, room: SpoolDirectory) -> None:
    assert (await fetched(fetcher, room, LYRICS, "/r/song.txt", announced="text/x-lyrics"))[0] == "text/plain"


async def test_words_of_a_type_that_is_not_stored_wait_for_the_operator(fetcher: Fetcher, room: SpoolDirectory) -> None:
    for path, announced in (("/r/table.csv", None), ("/r/table", "text/csv")):
        error = await failure(fetcher, room, b"a,b\n1,2\n", path, announced=announced)
        assert (type(error), error.code) == (Permanent, "type_refused")
        assert "text/csv" in str(error)


async def test_the_operator_may_add_types(session: aiohttp.ClientSession, room: SpoolDirectory) -> None:
    added = {"text/csv": extra_type("csv"), "application/x-foo": extra_type("foo")}
    fetcher = Fetcher(session, hosts=("*",), max_bytes=1 << 24, allow_private=True, types={**TYPES, **added})
    assert (await fetched(fetcher, room, b"a,b\n", "/r/table.csv"))[0] == "text/csv"
    assert (await fetched(fetcher, room, bytes(9000), "/r/model.foo"))[0] == "application/x-foo"
    assert (await fetched(fetcher, room, bytes(9000), "/r/model", announced="application/x-foo"))[0] == (
        "application/x-foo"
    )
    error = await failure(fetcher, room, b"<html>", "/r/model.foo")
    assert error.code == "not_media"


async def test_the_first_address_announces_also_behind_redirects(fetcher: Fetcher, room: SpoolDirectory) -> None:
    for path, target, mime in (("/r/song.txt", "/blob", "text/plain"), ("/r/song.mp3", "/blob.txt", None)):
        moved = bare(b"", f"Location: {target}", "Content-Length: 0", status="302 Found")
        async with origin(moved, ok(LYRICS)) as server, room.spool() as spool:
            if mime is not None:
                assert await fetcher.fetch(f"{server.url}{path}", spool) == mime
                continue
            with pytest.raises(Transient):
                await fetcher.fetch(f"{server.url}{path}", spool)


@pytest.mark.parametrize("address", ["http://[", "", "no address", "http://h/\udcff.txt", "http://h/a.txt\n"])
def test_every_address_may_be_asked_for_its_announcement(fetcher: Fetcher, address: str) -> None:
    assert fetcher.announced_by(address) in {None, "text/plain"}


async def test_a_page_under_the_name_of_words_is_no_result(fetcher: Fetcher, room: SpoolDirectory) -> None:
    for body in (b"<!doctype html><script>alert(1)</script>", b'{"code":500,"msg":"gone","data":null}'):
        for ext in BODIES:
            error = await failure(fetcher, room, body, f"/r/result.{ext}")
            assert (type(error), error.code) == (Transient, "not_media")


async def test_json_that_is_cut_is_no_result(fetcher: Fetcher, room: SpoolDirectory) -> None:
    assert (await failure(fetcher, room, b'{"segments": [', "/r/words.json")).code == "not_media"


async def test_an_archive_that_unpacks_to_gigabytes_is_stored_as_it_came(
    fetcher: Fetcher, room: SpoolDirectory
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive, archive.open("a", "w") as file:
        for _ in range(256):
            file.write(bytes(1 << 20))
    assert await fetched(fetcher, room, packed.getvalue(), "/r/all.zip") == ("application/zip", packed.getvalue())


async def test_words_out_of_an_answer_fill_a_spool_from_memory(room: SpoolDirectory) -> None:
    for body in (b"", LYRICS, LYRICS * 50_000):
        async with room.spool() as spool:
            await spool.write(body)
            await spool.seal()
            assert b"".join([bytes(chunk) async for chunk in spool.chunks()]) == body
