"""Words and documents: the page offers them, a browser saves them, and nothing in them runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, expect
from playwright.async_api import Error as BrowserError

from reconciler.health import Health
from reconciler.http.app import application, serving
from reconciler.media.spool import SpoolDirectory
from reconciler.metrics import Metrics
from reconciler.storage.local import LocalStore
from reconciler.storage.store import Store
from testkit.standins.storage import SupabaseStorage
from testkit.waiting import until
from tests.browser.stage import Stage, Visit
from tests.storage.storing import connected, filled, put
from tests.wire import Origin, ok, origin

pytestmark = pytest.mark.asyncio(loop_scope="session")


def drawing(beacon: str) -> bytes:
    """Return an SVG whose script asks the beacon."""
    script = f"<script>new Image().src = '{beacon}/ran'; fetch('{beacon}/ran')</script>"
    return f"<svg xmlns='http://www.w3.org/2000/svg' onload=\"fetch('{beacon}/ran')\">{script}</svg>".encode()


def document(beacon: str) -> bytes:
    """Return a PDF whose script opens the beacon's address."""
    action = f"<< /S /JavaScript /JS (app.launchURL('{beacon}/ran')) >>"
    return f"%PDF-1.4\n1 0 obj << /Type /Catalog /OpenAction {action} >> endobj\ntrailer << /Root 1 0 R >>".encode()


def hidden_page(beacon: str) -> bytes:
    """Return a text that a browser must not take for a page."""
    return f"words\n<html><script>fetch('{beacon}/ran')</script></html>".encode()


ACTIVE = {
    "u/image/drawing_0.svg": ("image/svg+xml", drawing),
    "u/file/document_0.pdf": ("application/pdf", document),
    "u/text/words_0.txt": ("text/plain", hidden_page),
    "u/text/words_0.json": ("application/json", hidden_page),
    "u/text/words_0.vtt": ("text/vtt", hidden_page),
    "u/text/words_0.srt": ("application/x-subrip", hidden_page),
}


READ_IN_A_TAB = {"text/plain", "application/json", "text/vtt"}


@pytest_asyncio.fixture(loop_scope="session")
async def beacon() -> AsyncIterator[Origin]:
    """A server that scripts ask when they run."""
    async with origin(ok(b"", "Access-Control-Allow-Origin: *")) as server:
        yield server


@asynccontextmanager
async def supabase(folder: Path) -> AsyncIterator[Store]:
    async with SupabaseStorage() as server:
        store = connected(server.url, server.key)
        try:
            yield store
        finally:
            await store.close()


@asynccontextmanager
async def local(folder: Path) -> AsyncIterator[Store]:
    app = application(Health(patience=45.0, reason=None), Metrics(), folder / "files")
    async with serving(app, "127.0.0.1", 0) as port:
        yield LocalStore(folder / "files", f"http://127.0.0.1:{port}")


async def stored(store: Store, folder: Path, key: str, content: bytes) -> str:
    """Store a file as a delivery does; return its public address."""
    async with filled(SpoolDirectory(folder / "spool", 1 << 20), content) as spool:
        await put(store, spool, path=key, mime=ACTIVE[key][0])
    return store.address(key)


@pytest_asyncio.fixture(loop_scope="session")
async def context(chromium: Any) -> AsyncIterator[BrowserContext]:
    opened = await chromium.new_context(accept_downloads=True)
    yield opened
    await opened.close()


async def opened_alone(context: BrowserContext, address: str) -> bool:
    """Open an address in a tab; return whether the browser saves it as a file."""
    page, saved = await context.new_page(), asyncio.Event()
    page.on("download", lambda _: saved.set())
    try:
        await page.goto(address, wait_until="load")
    except BrowserError as error:
        if "Download is starting" not in str(error):
            raise
        await until(saved.is_set, what="the download")
    await page.close()
    return saved.is_set()


async def embedded(context: BrowserContext, address: str, host: Origin) -> None:
    """Open a page of another server that shows an address in every way that could run it."""
    ways = (f'<img src="{address}">', f'<iframe src="{address}"></iframe>', f'<object data="{address}"></object>',
            f'<embed src="{address}">', f'<script src="{address}"></script>')  # fmt: skip
    page = await context.new_page()
    await page.goto(host.url, wait_until="load")
    await page.set_content("".join(ways), wait_until="load")
    await page.close()


def runs(beacon: Origin) -> int:
    return beacon.paths.count("/ran")


@pytest.mark.soak
async def test_the_beacon_hears_a_drawing_that_is_served_as_one(context: BrowserContext, beacon: Origin) -> None:
    async with origin(ok(drawing(beacon.url), "Content-Type: image/svg+xml")) as careless:
        assert not await opened_alone(context, f"{careless.url}/drawing.svg")
        await until(lambda: runs(beacon), what="the script")


@pytest.mark.sample(2)
@pytest.mark.parametrize("key", ACTIVE)
@pytest.mark.parametrize("backend", [supabase, local])
async def test_nothing_in_a_stored_document_runs(
    context: BrowserContext, beacon: Origin, tmp_path: Path, backend: Any, key: str
) -> None:
    mime, made = ACTIVE[key]
    async with backend(tmp_path) as store, origin(ok(b"<p>another site", "Content-Type: text/html")) as host:
        address = await stored(store, tmp_path, key, made(beacon.url))
        saved = await opened_alone(context, address)
        await embedded(context, address, host)
        # A script that runs is heard before this, which is asked after it.
        page = await context.new_page()
        await page.goto(f"{beacon.url}/after", wait_until="load")
        assert "/after" in beacon.paths
    assert runs(beacon) == 0
    # Supabase tells no browser to save a file, and words may be read in a tab.
    assert saved == (backend is local or mime not in READ_IN_A_TAB)


async def words(stage: Stage, user: str, name: str) -> str:
    """Insert a row whose result this server itself serves; return its id."""
    return await stage.row(
        user, status="success", asset=f"{stage.url}/files/u/{name}", provider="older", prompt="Words"
    )


async def test_words_are_shown_as_text_and_never_as_markup(stage: Stage, visit: Visit, user: str) -> None:
    hostile = "[Verse 1]\n<img src=x onerror=alert(1)><script>alert(1)</script> луна"
    asked: list[str | None] = []

    async def serve(route: Any) -> None:
        asked.append(route.request.headers.get("range"))
        await route.fulfill(status=206, body=hostile, content_type="text/plain; charset=utf-8")

    await visit.page.route("**/files/**", serve)
    row = await words(stage, user, "text/x_0.txt")
    await visit.go_as(user)
    card = await visit.ready(row)
    await expect(card.locator("pre")).to_have_text(hostile)
    await expect(card.locator(".stage img, .stage script")).to_have_count(0)
    assert asked == ["bytes=0-65535"]
    assert (await card.get_by_role("link", name="Download").get_attribute("href") or "").endswith(
        "/files/u/text/x_0.txt"
    )


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("file/x_0.pdf", "PDFFile"),
        ("file/x_0.zip", "ZIPFile"),
        ("file/x_0.glb", "GLBFile"),
        ("file/x_0.mkv", "MKVFile"),
    ],
)
async def test_a_document_is_offered_for_download(stage: Stage, visit: Visit, user: str, name: str, shown: str) -> None:
    row = await words(stage, user, name)
    await visit.go_as(user)
    card = await visit.ready(row)
    await expect(card.locator(".paper")).to_have_text(shown)
    await expect(card.get_by_role("link", name="Download")).to_be_visible()


async def test_words_in_supabase_are_offered_for_download_and_not_asked_for(
    stage: Stage, visit: Visit, user: str
) -> None:
    assert stage.rig.storage is not None
    address = f"{stage.rig.storage.url}/storage/v1/object/public/generations/u/text/x_0.srt"
    row = await stage.row(user, status="success", asset=address, provider="older", prompt="Subtitles")
    await visit.go_as(user)
    card = await visit.ready(row)
    await expect(card.locator(".paper")).to_have_text("SRTText")
    assert (await card.get_by_role("link", name="Download").get_attribute("href") or "") == f"{address}?download="
    assert visit.origins == {stage.url}


async def test_words_that_cannot_be_read_leave_the_link(stage: Stage, visit: Visit, user: str) -> None:
    visit.allow("status of 404")
    row = await words(stage, user, "text/gone_0.txt")
    await visit.go_as(user)
    card = await visit.ready(row)
    await expect(card.locator(".paper")).to_have_text("TXTText")
    await expect(card.get_by_role("link", name="Download")).to_be_visible()
