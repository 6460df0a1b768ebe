"""How the page learns of changes: by the stream, by polling while the stream is down, and after an outage."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Page, expect

from testkit.standins.proxy import Proxy
from tests.browser.playable import picture
from tests.browser.stage import Stage, Visit

pytestmark = pytest.mark.asyncio(loop_scope="session")

_HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
CUT = ("Failed to load resource: net::ERR_", "the server responded with a status of 503")


@pytest.mark.soak
async def test_without_the_stream_the_page_polls_and_later_returns_to_the_stream(
    stage: Stage, visit: Visit, user: str
) -> None:
    visit.allow(*CUT)
    await visit.page.route("**/api/events", lambda route: route.abort())
    await stage.row(user)
    await visit.go_as(user)
    await visit.connection("polling")
    row = await stage.order(user, picture(), ends=False)
    await expect(visit.card(row).locator(".ring")).to_be_visible(timeout=15_000)
    await stage.end(row)
    await visit.ready(row)
    await visit.page.unroute("**/api/events")
    await visit.page.evaluate("dispatchEvent(new Event('online'))")
    await visit.connection("live")


async def test_an_outage_is_shown_and_the_changes_meanwhile_appear_after_it(
    stage: Stage, visits: Callable[..., Awaitable[Visit]], user: str
) -> None:
    async with Proxy(stage.url) as proxy:
        visit = await visits(proxy.dsn)
        visit.allow(*CUT)
        page = await visit.go_as(user)
        await visit.connection("live")
        await proxy.refuse()
        await visit.connection("away")
        await expect(page.locator("#notice")).to_contain_text("The server cannot be reached.")
        row = await stage.row(user, status="cancelled")
        proxy.mend()
        await expect(visit.card(row)).to_be_visible(timeout=20_000)
        await visit.connection("live")
        await expect(page.locator("#notice")).to_be_hidden()


async def test_the_page_reconnects_at_once_when_the_network_is_back(stage: Stage, visit: Visit, user: str) -> None:
    visit.allow(*CUT)
    page = await visit.go_as(user)
    await visit.connection("live")
    await visit.context.set_offline(True)
    await page.get_by_role("radio", name="Ready").check()
    await visit.connection("away")
    await visit.context.set_offline(False)
    await visit.connection("live")


async def test_a_hidden_page_closes_its_stream_and_opens_it_again_when_shown(
    stage: Stage, visit: Visit, user: str
) -> None:
    page = await visit.go_as(user)
    await visit.connection("live")
    async with page.expect_event("requestfailed", lambda request: request.url.endswith("/api/events")):
        await page.evaluate(_HIDE, True)
    row = await stage.row(user, status="cancelled")
    await page.evaluate(_HIDE, False)
    await expect(visit.card(row)).to_be_visible()
    await visit.connection("live")


async def test_a_row_that_is_deleted_leaves_the_page(stage: Stage, visit: Visit, user: str) -> None:
    remaining = await stage.row(user)
    row = await stage.row(user, status="cancelled")
    await visit.page.route("**/api/events", lambda route: route.abort())
    visit.allow(*CUT)
    await visit.go_as(user)
    await expect(visit.card(row)).to_be_visible()
    await stage.rig.pool.execute("DELETE FROM public.generations WHERE id::text = $1", row)
    await expect(visit.card(row)).to_have_count(0, timeout=15_000)
    await expect(visit.card(remaining)).to_be_visible()


async def _parsed(page: Page, *pieces: str) -> list[list[str | None]]:
    """Return the events that the page's parser reads from these pieces."""
    parsed: list[list[str | None]] = await page.evaluate(
        """async (pieces) => {
          const { events } = await import("/page/live.js");
          const coded = new TextEncoder();
          const body = new ReadableStream({
            start(control) {
              for (const piece of pieces) control.enqueue(coded.encode(piece));
              control.close();
            },
          });
          const found = [];
          for await (const event of events(body)) found.push([event.type, event.data, event.id ?? null]);
          return found;
        }""",
        list(pieces),
    )
    return parsed


async def test_the_stream_is_parsed_as_the_standard_says(visit: Visit) -> None:
    page = await visit.go()
    assert await _parsed(page, "data: a\n\n") == [["message", "a", None]]
    assert await _parsed(page, ": still here\n\nevent: x\nid: 7\nda", "ta:b\ndata\n", "\n") == [["x", "b\n", "7"]]
    assert await _parsed(page, "id: 1\r\ndata: a\r", "\ndata: b\r\n", "\r\n") == [["message", "a\nb", "1"]]
    assert await _parsed(page, "id: 1\ndata: a\n\nevent: y\ndata: ж\n\n") == [["message", "a", "1"], ["y", "ж", "1"]]
    assert await _parsed(page, "event: x\n\ndata: cut off") == []
