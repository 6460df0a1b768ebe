"""The events route on a real port over a real database, and readers of its streams."""

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
from reconciler.http.live.event_stream import StreamTimes
from reconciler.http.live.hub import Hub
from reconciler.http.readiness_gate import ReadinessGate, RouteServices
from reconciler.http.routes.events import routes
from reconciler.metrics import Metrics
from reconciler.postgres.listener import Listener
from reconciler.postgres.reports.change_feed import ChangeFeed
from testkit.waiting import until
from tests.postgres.books import Books

OPERATOR = "operator-token"
SECRET = "secret-of-the-project-that-signs-tokens"
ANNA = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
BORIS = "0b7d3c1e-5a42-4f0e-9f5d-3a8f5a0c9e11"


def token(user_id: str, seconds: float = 600) -> str:
    """Return a token as Supabase issues it to this user, which expires after so many seconds."""
    claims = {"sub": user_id, "aud": "authenticated", "role": "authenticated", "exp": time.time() + seconds}
    return jwt.encode(claims, SECRET, algorithm="HS256")


@dataclass
class ReceivedEvent:
    """One event as a browser reads it."""

    event: str
    id: str | None
    data: dict[str, Any]
    retry: str | None = None


@dataclass
class Reader:
    """One open stream; `events` and `comments` grow while it is read."""

    status: int = 0
    headers: Any = None
    events: list[ReceivedEvent] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    ended: bool = False

    def take(self, block: str) -> None:
        """Read one block, which ends with an empty line."""
        fields: dict[str, str] = {}
        for line in block.splitlines():
            name, _, value = line.partition(":")
            if name:
                fields[name] = value.removeprefix(" ")
            else:
                self.comments.append(value.strip())
        if "data" in fields:
            event = fields.get("event", "message")
            self.events.append(ReceivedEvent(event, fields.get("id"), json.loads(fields["data"]), fields.get("retry")))

    def of(self, kind: str) -> list[ReceivedEvent]:
        return [event for event in self.events if event.event == kind]

    @property
    def changes(self) -> list[dict[str, Any]]:
        """The data of its `generation` events."""
        return [event.data for event in self.of("generation")]

    @property
    def rows(self) -> list[str]:
        """The ids of the generations in its events, sorted: the events of one batch come in any order."""
        return sorted(change["id"] for change in self.changes)

    @property
    def ids(self) -> list[int]:
        """The ids of the outbox's events that it received."""
        return [int(event.id) for event in self.of("generation") if event.id is not None]


@dataclass
class EventServer:
    """One port with the events route; a test may wake `hub` itself."""

    port: int
    hub: Hub
    health: Health
    readiness_gate: ReadinessGate
    session: aiohttp.ClientSession

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/events"

    def reading(self, user_id: str | None = None, last: str | None = None) -> AbstractAsyncContextManager[Reader]:
        """Read as this user (None: the operator), from the first event on; `last` is sent as Last-Event-ID."""
        bearer = OPERATOR if user_id is None else token(user_id)
        return reading(self.session, self.address, bearer, last)

    async def status(self, **headers: str) -> int:
        """Return the status of a request."""
        async with self.session.get(self.address, headers=headers) as answer:
            return answer.status

    @property
    def open(self) -> int:
        """The number of streams in the hub."""
        return sum(map(len, self.hub._streams.values()))


@asynccontextmanager
async def reading(
    session: aiohttp.ClientSession, address: str, bearer: str, last: str | None = None
) -> AsyncIterator[Reader]:
    """Read this stream with this token, from its first event on."""
    headers = {"Authorization": f"Bearer {bearer}"} | ({} if last is None else {"Last-Event-ID": last})
    reader = Reader()
    async with session.get(address, headers=headers) as answer:
        reader.status, reader.headers = answer.status, answer.headers
        task = asyncio.create_task(_read(answer, reader))
        try:
            await until(lambda: reader.events or task.done(), what="the first event")
            yield reader
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _read(answer: aiohttp.ClientResponse, reader: Reader) -> None:
    rest = ""
    async for piece in answer.content.iter_any():
        *blocks, rest = (rest + piece.decode()).split("\n\n")
        for block in blocks:
            reader.take(block)
    reader.ended = True


@asynccontextmanager
async def event_server(hub: Hub, times: StreamTimes | None = None) -> AsyncIterator[EventServer]:
    """Serve this hub's streams, and run the hub meanwhile."""
    health = Health(patience=45.0, reason=None)
    readiness_gate = ReadinessGate(health, cast("RouteServices", SimpleNamespace(hub=hub)))
    app = application(
        health, Metrics(), routers=[routes(Authenticator(OPERATOR, TokenVerifier(SECRET)), readiness_gate, times)]
    )
    running = asyncio.create_task(hub.run())
    async with (
        serving(app, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        yield EventServer(port, hub, health, readiness_gate, session)
        assert not running.done()
        hub.close()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def listening_server(
    books: Books, dsn: str, *, times: StreamTimes | None = None, **bounds: int
) -> AsyncIterator[EventServer]:
    """Serve the changes of this database, with a listener that wakes the hub."""
    async with AsyncExitStack() as stack:
        hub = Hub(ChangeFeed(books.database, books.table), **bounds)
        canaries: list[float | None] = []
        listener = Listener(
            dsn,
            books.database,
            on_generation=hub.wake,
            on_connected=hub.gap,
            on_canary=canaries.append,
            on_event=hub.wake,
            every=0.2,
            within=5,
        )
        listening = asyncio.create_task(listener.run())
        stack.callback(listening.cancel)
        await until(lambda: canaries and canaries[-1] is not None, what="a listener")
        yield await stack.enter_async_context(event_server(hub, times))
        assert not listening.done()
