"""The application's webhook receiver; it verifies every signature and records every event."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

SECRET = "whsec_" + base64.b64encode(b"what the shop and the daemon know").decode()

Answer = Callable[["Heard"], Awaitable[int] | int]


@dataclass(frozen=True)
class Heard:
    """One verified request: `id` is its webhook-id, `status` what it was answered with."""

    id: str
    kind: str
    generation_id: str
    payload: dict[str, Any]
    status: int = 0


class Receiver:
    """Listens on loopback while it is entered; `answer` says what comes back, `token` is part of its address."""

    def __init__(self, token: str = "t0ken-in-the-address") -> None:
        self.token = token
        self.heard: list[Heard] = []
        self.answer: Answer = lambda _: 204
        self.headers: dict[str, str] = {}
        self.forged = 0
        self.at_once = self.most_at_once = 0
        self._port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/hook?token={self.token}"

    @property
    def taken(self) -> list[Heard]:
        """What was answered with 2xx."""
        return [one for one in self.heard if 200 <= one.status < 300]

    def of(self, generation_id: str) -> list[Heard]:
        """What it has taken of one generation, in the order it came."""
        return [one for one in self.taken if one.generation_id == generation_id]

    async def _told(self, request: web.Request) -> web.Response:
        raw = await request.read()
        try:
            body = Webhook(SECRET).verify(raw, dict(request.headers))
        except WebhookVerificationError:
            self.forged += 1
            return web.Response(status=401)
        heard = Heard(request.headers["webhook-id"], body["type"], body["data"].get("generation_id", ""), body["data"])
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            said = self.answer(heard)
            status = said if isinstance(said, int) else await said
        finally:
            self.at_once -= 1
        self.heard.append(Heard(heard.id, heard.kind, heard.generation_id, heard.payload, status))
        return web.Response(status=status, headers=self.headers)

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.down()

    async def up(self) -> None:
        """Listen, at the same address as before."""
        app = web.Application()
        app.router.add_post("/hook", self._told)
        # Not 0: the library takes that for no limit.
        self._runner = web.AppRunner(app, shutdown_timeout=0.05, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._port or self._runner.addresses[0][1]

    async def down(self) -> None:
        """Listen no more; who is being answered is cut off."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()


async def never(_: Heard) -> int:
    """An answer that does not come."""
    await asyncio.Event().wait()
    return 0
