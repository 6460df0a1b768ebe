"""The callback's door on a real port over a real database; behind it the inbox, and a list of who was woken."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import httpx
from starlette.types import ASGIApp

from reconciler.domain.model import Trigger
from reconciler.domain.object_keys import CALLBACK_PATH
from reconciler.health import Health
from reconciler.http.app import application, serving
from reconciler.http.readiness_gate import ReadinessGate, RouteServices
from reconciler.http.routes import callback
from reconciler.http.routes.callback import CallbackProofs
from reconciler.metrics import CALLBACKS, Metrics
from reconciler.postgres.inbox import Inbox
from reconciler.postgres.pool import Database
from reconciler.postgres.schema import TableShape
from reconciler.simulator.api.callbacks import sign
from tests.postgres.books import Books, opened

SECRET = "secret/of the+callback=ключ"
KEY = "key-of-the-signature"
BY_SECRET = CallbackProofs(SECRET.encode())
BY_KEY = CallbackProofs(key=KEY.encode())
BY_BOTH = CallbackProofs(SECRET.encode(), KEY.encode())
BY_NOTHING = CallbackProofs()
RESULT = "https://tempfile.aiquickdraw.com/r/one.png?signed=yes"


def market(task_id: str, **more: object) -> dict[str, Any]:
    """What the market posts when a task has ended well."""
    record = {"taskId": task_id, "state": "success", "resultJson": json.dumps({"resultUrls": [RESULT]}), **more}
    return {"code": 200, "msg": "Playground task completed successfully.", "data": record}


def signed(task_id: str, *, key: str = KEY, late: float = 0.0) -> dict[str, str]:
    """KIE's two headers, stamped so many seconds ago."""
    at = int(time.time() - late)
    return {"X-Webhook-Timestamp": str(at), "X-Webhook-Signature": sign(key, task_id, at)}


@dataclass
class Wakes:
    """Who was woken, and why."""

    seen: list[tuple[str, Trigger]] = field(default_factory=list)

    def wake(self, generation_id: str, trigger: Trigger = Trigger.NOTIFY) -> None:
        self.seen.append((generation_id, trigger))


@dataclass
class Door:
    """One replica's door and what is behind it."""

    app: ASGIApp
    client: httpx.AsyncClient
    metrics: Metrics
    entrance: ReadinessGate
    wakes: Wakes
    _counts: dict[str, int] = field(default_factory=dict)

    async def call(self, body: object, *, headers: Any = None, **query: Any) -> httpx.Response:
        """Post a callback as KIE does, with the right secret unless another is given; bytes go out as they are."""
        params = {name: value for name, value in {"secret": SECRET, **query}.items() if value is not None}
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(CALLBACK_PATH, params=params, content=sent, headers=headers)

    def counted(self) -> dict[str, int]:
        """The callbacks since the last look, by what became of them."""
        counts = {word: int(self.metrics.callbacks.labels(word)._value.get()) for word in CALLBACKS}
        grown = {word: count - self._counts.get(word, 0) for word, count in counts.items()}
        self._counts = counts
        return {word: count for word, count in grown.items() if count}

    def woken(self) -> set[str]:
        """Who has been woken since the last look; by callbacks only."""
        seen, self.wakes.seen = self.wakes.seen, []
        assert {trigger for _, trigger in seen} <= {Trigger.CALLBACK}
        return {generation_id for generation_id, _ in seen}


@contextlib.asynccontextmanager
async def opened_door(database: Database, table: TableShape, asked: CallbackProofs = BY_SECRET) -> AsyncIterator[Door]:
    """A replica that takes callbacks."""
    metrics, entrance, wakes = Metrics(), ReadinessGate(Health(patience=45.0, reason=None)), Wakes()
    entrance.inside = cast("RouteServices", SimpleNamespace(work=wakes, inbox=Inbox(database, table)))
    app = application(entrance.health, metrics, routers=[callback.routes(asked, entrance, metrics)])
    async with (
        serving(app, "127.0.0.1", 0) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False, timeout=20) as client,
    ):
        yield Door(app, client, metrics, entrance, wakes)


@dataclass
class Stage:
    """A database and a door for each way of proving; every test takes tasks of its own."""

    dsn: str
    books: Books
    doors: dict[CallbackProofs, Door]

    @property
    def door(self) -> Door:
        """The door that asks for the secret alone."""
        return self.doors[BY_SECRET]

    def task(self) -> str:
        """A task that nobody has heard of."""
        for door in self.doors.values():
            door.counted(), door.woken()
        return uuid.uuid4().hex

    async def kept(self, task_id: str) -> int:
        """How many bodies are kept of a task."""
        sql = "SELECT count(*) FROM reconciler.callbacks WHERE task_id = $1"
        count: int = await self.books.pool.fetchval(sql, task_id)
        return count

    async def versions(self) -> list[tuple[Any, ...]]:
        """Every row of the application's table with its version: any write changes one."""
        rows = await self.books.pool.fetch("SELECT id::text, xmin::text FROM public.generations g ORDER BY id")
        return [tuple(row) for row in rows]


@contextlib.asynccontextmanager
async def opened_stage(dsn: str) -> AsyncIterator[Stage]:
    """A stage on this database."""
    async with contextlib.AsyncExitStack() as stack:
        books = await stack.enter_async_context(opened(dsn))
        doors = {
            asked: await stack.enter_async_context(opened_door(books.database, books.table, asked))
            for asked in (BY_SECRET, BY_KEY, BY_BOTH, BY_NOTHING)
        }
        yield Stage(dsn, books, doors)
