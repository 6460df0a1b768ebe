"""The daemon as a real process with its page, and people who look at it in a browser."""

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

# The browser tells the console too, but not everywhere in the same words.
_WATCH = """addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy: ${event.effectiveDirective} forbids ${event.blockedURI}`);
});"""


@dataclass
class Stage:
    """A daemon on a database, a KIE and a Supabase, all on loopback; `url` is where the page is."""

    rig: Rig
    url: str
    film: MediaSpec

    async def row(self, user: str, **row: object) -> str:
        """A row as the application writes it; its id."""
        told = _ROW | row
        found: str = await self.rig.pool.fetchval(_INSERT, user, *(told[name] for name in list(_ROW)))
        return found

    async def order(self, user: str, *results: MediaSpec, ends: bool = True, **row: object) -> str:
        """A row of a task that KIE has finished, or with `ends` False is to finish by `end`; its id."""
        task = self.rig.kie.add_task(results=results, life=0.0 if ends else never("generating"))
        kind = results[0].kind if results else "image"
        return await self.row(user, task=task, **{"kind": kind, "status": "generating", **row})

    async def end(self, generation_id: str) -> None:
        """Let KIE finish the task of a row."""
        name = await self.rig.pool.fetchval("SELECT task_id FROM public.generations WHERE id::text = $1", generation_id)
        self.rig.kie.end(name)

    async def refused(self, user: str, message: str) -> str:
        """A row of a task that KIE has refused."""
        task = self.rig.kie.add_task(fate="fail", failure=Failure("422", message), life=0.0)
        return await self.row(user, task=task, status="generating")

    @property
    def ours(self) -> set[str]:
        """The origins that the page may ask for anything."""
        assert self.rig.storage is not None
        return {_origin(address) for address in (self.url, self.rig.storage.url, self.rig.kie.files_url)}


@dataclass
class Visit:
    """One person in one tab, and whatever went wrong there."""

    stage: Stage
    page: Page
    context: BrowserContext
    url: str
    faults: list[str] = field(default_factory=list)
    origins: set[str] = field(default_factory=set)
    allowed: list[str] = field(default_factory=list)

    @classmethod
    async def begin(cls, stage: Stage, context: BrowserContext, url: str = "") -> Visit:
        """Open a tab that is listened to."""
        await context.add_init_script(_WATCH)
        visit = cls(stage, await context.new_page(), context, url or stage.url)
        visit.page.on("console", visit._said)
        visit.page.on("pageerror", lambda error: visit.faults.append(str(error)))
        visit.page.on("request", visit._asked)
        return visit

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def _asked(self, request: Request) -> None:
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
        """Wait until a generation is shown as ready; its card."""
        card = self.card(generation_id)
        await expect(card).to_have_attribute("data-standing", "ready", timeout=within * 1000)
        # What nobody looks at is not fetched.
        await card.scroll_into_view_if_needed()
        return card

    async def connection(self, word: str, within: float = 20.0) -> None:
        """Wait until the page says so of its connection."""
        await expect(self.page.locator("#connection")).to_have_attribute("data-state", word, timeout=within * 1000)

    def allow(self, *patterns: str) -> None:
        """Expect what the console says of these."""
        self.allowed += patterns

    def wrong(self) -> list[str]:
        """What was complained of and not expected, and where else the page asked."""
        told = [one for one in self.faults if not any(re.search(pattern, one) for pattern in self.allowed)]
        strangers = self.origins - self.stage.ours - {_origin(self.url)}
        return [*told, *(f"it asked {origin}" for origin in sorted(strangers))]


async def loaded(image: Locator) -> None:
    """Wait until a picture is there with all its pixels."""
    await expect(image).to_have_js_property("complete", True)
    assert await image.evaluate("image => image.naturalWidth") > 0


async def texts(locators: Locator) -> Sequence[str]:
    """What these say."""
    return [text.strip() for text in await locators.all_text_contents()]


def _origin(address: str) -> str:
    parts: Any = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"
