"""The daemon as a real process with its page, and visits to the page in a browser."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import BrowserContext, ConsoleMessage, Locator, Page, Request, expect

from reconciler.simulator import Failure, MediaSpec, never
from testkit.stage import Rig
from tests.http.tokens import SECRET, shared

OPERATOR = "token-of-the-operator"
SETTINGS = {"RECONCILER_API_TOKEN": OPERATOR, "SUPABASE_JWT_SECRET": SECRET}

_INSERT = """
INSERT INTO public.generations
    (user_id, kind, model_key, task_id, status, prompt, error, asset_url, result_urls, preview_url, provider,
     created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, now() - $12 * interval '1 second') RETURNING id::text
"""
_ROW: dict[str, object] = {
    "kind": "image", "model": "nano-banana-2", "task": None, "status": "queued", "prompt": None, "error": None,
    "asset": None, "results": "[]", "preview": None, "provider": "kie", "age": 30.0,
}  # fmt: skip

# The browser writes violations to the console as well, but its words differ by version.
_WATCH = """addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy: ${event.effectiveDirective} forbids ${event.blockedURI}`);
});"""


@dataclass
class Stage:
    """A daemon with a database, a KIE and a Supabase, all on loopback; `url` is the address of the page."""

    rig: Rig
    url: str
    film: MediaSpec

    async def row(self, user: str, **row: object) -> str:
        """Insert a row as the application does; return its id."""
        values = _ROW | row
        generation_id: str = await self.rig.pool.fetchval(_INSERT, user, *(values[name] for name in list(_ROW)))
        return generation_id

    async def order(self, user: str, *results: MediaSpec, ends: bool = True, **row: object) -> str:
        """Insert a row of a task that KIE has finished, or with `ends` False finishes at `end`; return its id."""
        task = self.rig.kie.add_task(results=results, life=0.0 if ends else never("generating"))
        kind = results[0].kind if results else "image"
        return await self.row(user, task=task, **{"kind": kind, "status": "generating", **row})

    async def end(self, generation_id: str) -> None:
        """Make KIE finish the task of a row."""
        name = await self.rig.pool.fetchval("SELECT task_id FROM public.generations WHERE id::text = $1", generation_id)
        self.rig.kie.end(name)

    async def refused(self, user: str, message: str) -> str:
        """Insert a row of a task that KIE has failed; return its id."""
        task = self.rig.kie.add_task(fate="fail", failure=Failure("422", message), life=0.0)
        return await self.row(user, task=task, status="generating")

    @property
    def allowed_origins(self) -> set[str]:
        """The origins to which the page may send requests."""
        assert self.rig.storage is not None
        return {_origin(address) for address in (self.url, self.rig.storage.url, self.rig.kie.files_url)}


@dataclass
class Visit:
    """One tab, with the errors and the origins seen there."""

    stage: Stage
    page: Page
    context: BrowserContext
    url: str
    errors: list[str] = field(default_factory=list)
    origins: set[str] = field(default_factory=set)
    allowed: list[str] = field(default_factory=list)

    @classmethod
    async def begin(cls, stage: Stage, context: BrowserContext, url: str = "") -> Visit:
        """Open a tab and record its errors and requests."""
        await context.add_init_script(_WATCH)
        visit = cls(stage, await context.new_page(), context, url or stage.url)
        visit.page.on("console", visit._on_console)
        visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
        visit.page.on("request", visit._on_request)
        return visit

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _on_request(self, request: Request) -> None:
        self.origins.add(_origin(request.url))

    async def go(self, token: str = "", path: str = "/") -> Page:
        """Open the page, with a token in the fragment."""
        await self.page.goto(f"{self.url}{path}{f'#token={token}' if token else ''}")
        return self.page

    async def go_as(self, user: str, path: str = "/") -> Page:
        """Open the page as this user."""
        return await self.go(shared(user), path)

    def card(self, generation_id: str) -> Locator:
        """The card of a generation."""
        return self.page.locator(f".card[data-id='{generation_id}']")

    async def ready(self, generation_id: str, within: float = 25.0) -> Locator:
        """Wait until a generation is shown as ready; return its card."""
        card = self.card(generation_id)
        await expect(card).to_have_attribute("data-standing", "ready", timeout=within * 1000)
        # A card out of view does not fetch its result.
        await card.scroll_into_view_if_needed()
        return card

    async def connection(self, word: str, within: float = 20.0) -> None:
        """Wait until the page shows this state of its connection."""
        await expect(self.page.locator("#connection")).to_have_attribute("data-state", word, timeout=within * 1000)

    def allow(self, *patterns: str) -> None:
        """Allow console messages that match these patterns."""
        self.allowed += patterns

    def problems(self) -> list[str]:
        """Return the unexpected console errors, and requests to other origins."""
        unexpected = [text for text in self.errors if not any(re.search(pattern, text) for pattern in self.allowed)]
        foreign = self.origins - self.stage.allowed_origins - {_origin(self.url)}
        return [*unexpected, *(f"it asked {origin}" for origin in sorted(foreign))]


async def loaded(image: Locator) -> None:
    """Wait until an image is loaded."""
    await expect(image).to_have_js_property("complete", True)
    assert await image.evaluate("image => image.naturalWidth") > 0


async def texts(locators: Locator) -> Sequence[str]:
    """Return the texts of these elements."""
    return [text.strip() for text in await locators.all_text_contents()]


def _origin(address: str) -> str:
    parts: Any = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"
