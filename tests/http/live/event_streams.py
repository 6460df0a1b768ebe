"""The events' door on a real port over a real database, and readers of its streams."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import jwt

from reconciler.health import Health
from reconciler.http.app import application, serving
from reconciler.http.auth import Authenticator, TokenVerifier
from reconciler.http.live.hub import Hub
from reconciler.http.readiness_gate import ReadinessGate, RouteServices
from reconciler.http.routes.events import StreamTimes, routes
from reconciler.metrics import Metrics
from reconciler.postgres.listener import Listener, NotificationHandlers
from reconciler.postgres.reports.change_feed import ChangeFeed
from testkit.waiting import until
from tests.postgres.books import Books

OPERATOR = "operator-token"
SECRET = "secret-of-the-project-that-signs-tokens"
ANNA = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
BORIS = "0b7d3c1e-5a42-4f0e-9f5d-3a8f5a0c9e11"


def token(user_id: str) -> str:
    """What Supabase would give this user."""
    claims = {"sub": user_id, "aud": "authenticated", "role": "authenticated", "exp": time.time() + 600}
    return jwt.encode(claims, SECRET, algorithm="HS256")


@dataclass
class Said:
    """One event as a browser reads it."""

    event: str
    id: str | None
    data: dict[str, Any]
    retry: str | None = None


@dataclass
class Reader:
    """One open stream; `said` and `comments` grow while it is read."""

    status: int = 0
    headers: Any = None
    said: list[Said] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    ended: bool = False

    def take(self, block: str) -> None:
        """Read what stands between two empty lines."""
        fields: dict[str, str] = {}
        for line in block.splitlines():
            name, _, value = line.partition(":")
            if name:
                fields[name] = value.removeprefix(" ")
            else:
                self.comments.append(value.strip())
        if "data" in fields:
            event = fields.get("event", "message")
            self.said.append(Said(event, fields.get("id"), json.loads(fields["data"]), fields.get("retry")))

    def of(self, event: str) -> list[Said]:
        return [one for one in self.said if one.event == event]

    @property
    def told(self) -> list[dict[str, Any]]:
        """What it was told of generations."""
        return [one.data for one in self.of("generation")]

    @property
    def rows(self) -> list[str]:
        """The generations that it was told of, sorted: what is told together comes in any order."""
        return sorted(one["id"] for one in self.told)

    @property
    def ids(self) -> list[int]:
        """The ids of the outbox's events that it was told."""
        return [int(one.id) for one in self.of("generation") if one.id is not None]


@dataclass
class Air:
    """One port with the events' door; `hub` may be woken by hand."""

    port: int
    hub: Hub
    health: Health
    entrance: ReadinessGate
    session: aiohttp.ClientSession

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/events"

    def reading(self, user_id: str | None = None, last: str | None = None) -> AbstractAsyncContextManager[Reader]:
        """Read as this user (None: the operator), from the first event on; `last` is sent as Last-Event-ID."""
        shown = OPERATOR if user_id is None else token(user_id)
        return reading(self.session, self.address, shown, last)

    async def status(self, **headers: str) -> int:
        """How a request is answered that gets no stream."""
        async with self.session.get(self.address, headers=headers) as answer:
            return answer.status

    @property
    def open(self) -> int:
        """How many streams the hub tells things to."""
        return sum(map(len, self.hub._streams.values()))


@asynccontextmanager
async def reading(
    session: aiohttp.ClientSession, address: str, shown: str, last: str | None = None
) -> AsyncIterator[Reader]:
    """Read this stream with the token that is shown, from its first event on."""
    headers = {"Authorization": f"Bearer {shown}"} | ({} if last is None else {"Last-Event-ID": last})
    reader = Reader()
    async with session.get(address, headers=headers) as answer:
        reader.status, reader.headers = answer.status, answer.headers
        taking = asyncio.create_task(_read(answer, reader))
        try:
            await until(lambda: reader.said or taking.done(), what="the first event")
            yield reader
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)


async def _read(answer: aiohttp.ClientResponse, reader: Reader) -> None:
    rest = ""
    async for piece in answer.content.iter_any():
        *blocks, rest = (rest + piece.decode()).split("\n\n")
        for block in blocks:
            reader.take(block)
    reader.ended = True


@asynccontextmanager
async def door(hub: Hub, times: StreamTimes | None = None) -> AsyncIterator[Air]:
    """Open the door to this hub, which runs meanwhile."""
    health = Health(patience=45.0, reason=None)
    entrance = ReadinessGate(health, cast("RouteServices", SimpleNamespace(hub=hub)))
    app = application(
        health, Metrics(), routers=[routes(Authenticator(OPERATOR, TokenVerifier(SECRET)), entrance, times)]
    )
    running = asyncio.create_task(hub.run())
    async with (
        serving(app, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        yield Air(port, hub, health, entrance, session)
        assert not running.done()
        hub.close()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def on_air(books: Books, dsn: str, *, times: StreamTimes | None = None, **bounds: int) -> AsyncIterator[Air]:
    """Listen to this database and tell of it."""
    async with AsyncExitStack() as stack:
        hub = Hub(ChangeFeed(books.database, books.table), **bounds)
        canaries: list[float | None] = []
        hears = NotificationHandlers(wake=hub.wake, gap=hub.gap, canary=canaries.append, event=hub.wake)
        listening = asyncio.create_task(Listener(dsn, books.database, hears, every=0.2, within=5).run())
        stack.callback(listening.cancel)
        await until(lambda: canaries and canaries[-1] is not None, what="a listener")
        yield await stack.enter_async_context(door(hub, times))
        assert not listening.done()
