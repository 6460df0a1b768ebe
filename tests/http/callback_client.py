"""The callback route on a real port over a real database, with the inbox and a list of woken generations behind it."""

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
from reconciler.kie.callback_proofs import CallbackProofs
from reconciler.metrics import CALLBACKS, Metrics
from reconciler.postgres.inbox import Inbox
from reconciler.postgres.pool import Database
from reconciler.postgres.schema import TableShape
from reconciler.simulator.api.callbacks import sign
from tests.postgres.books import Books, opened

SECRET = "secret/of the+callback=ключ"
KEY = "key-of-the-signature"
BY_SECRET = CallbackProofs(SECRET.encode())
BY_KEY = CallbackProofs(signing_key=KEY.encode())
BY_BOTH = CallbackProofs(SECRET.encode(), KEY.encode())
BY_NOTHING = CallbackProofs()
RESULT = "https://tempfile.aiquickdraw.com/r/one.png?signed=yes"


def market(task_id: str, **more: object) -> dict[str, Any]:
    """Return what the market family posts when a task has succeeded."""
    record = {"taskId": task_id, "state": "success", "resultJson": json.dumps({"resultUrls": [RESULT]}), **more}
    return {"code": 200, "msg": "Playground task completed successfully.", "data": record}


def signed(task_id: str, *, key: str = KEY, late: float = 0.0) -> dict[str, str]:
    """Return KIE's two headers with a timestamp of `late` seconds ago."""
    at = int(time.time() - late)
    return {"X-Webhook-Timestamp": str(at), "X-Webhook-Signature": sign(key, task_id, at)}


@dataclass
class WakeRecorder:
    """Records which generations were woken, and by which trigger."""

    calls: list[tuple[str, Trigger]] = field(default_factory=list)

    def wake(self, generation_id: str, trigger: Trigger = Trigger.NOTIFY) -> None:
        self.calls.append((generation_id, trigger))


@dataclass
class Replica:
    """One replica that takes callbacks."""

    app: ASGIApp
    client: httpx.AsyncClient
    metrics: Metrics
    readiness_gate: ReadinessGate
    wakes: WakeRecorder
    _counts: dict[str, int] = field(default_factory=dict)

    async def call(self, body: object, *, headers: Any = None, **query: Any) -> httpx.Response:
        """Post a callback as KIE does, with the right secret unless another is given; bytes are sent unchanged."""
        params = {name: value for name, value in {"secret": SECRET, **query}.items() if value is not None}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(CALLBACK_PATH, params=params, content=content, headers=headers)

    def counted(self) -> dict[str, int]:
        """Return the callbacks since the last call, by their result."""
        counts = {result: int(self.metrics.callbacks.labels(result)._value.get()) for result in CALLBACKS}
        added = {result: count - self._counts.get(result, 0) for result, count in counts.items()}
        self._counts = counts
        return {result: count for result, count in added.items() if count}

    def woken(self) -> set[str]:
        """Return the generations woken since the last call; only callbacks may have woken them."""
        calls, self.wakes.calls = self.wakes.calls, []
        assert {trigger for _, trigger in calls} <= {Trigger.CALLBACK}
        return {generation_id for generation_id, _ in calls}


@contextlib.asynccontextmanager
async def opened_replica(
    database: Database, table: TableShape, proofs: CallbackProofs = BY_SECRET
) -> AsyncIterator[Replica]:
    """Serve a replica that takes callbacks."""
    metrics, wakes = Metrics(), WakeRecorder()
    readiness_gate = ReadinessGate(Health(patience=45.0, reason=None))
    readiness_gate.services = cast("RouteServices", SimpleNamespace(worker=wakes, inbox=Inbox(database, table)))
    app = application(readiness_gate.health, metrics, routers=[callback.routes(proofs, readiness_gate, metrics)])
    async with (
        serving(app, "127.0.0.1", 0) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False, timeout=20) as client,
    ):
        yield Replica(app, client, metrics, readiness_gate, wakes)


@dataclass
class Stage:
    """A database and a replica for each set of proofs; every test uses its own tasks."""

    dsn: str
    books: Books
    replicas: dict[CallbackProofs, Replica]

    @property
    def replica(self) -> Replica:
        """The replica that requires the secret alone."""
        return self.replicas[BY_SECRET]

    def task(self) -> str:
        """Return a new task id, after the counts of every replica were reset."""
        for replica in self.replicas.values():
            replica.counted(), replica.woken()
        return uuid.uuid4().hex

    async def stored(self, task_id: str) -> int:
        """Return how many bodies are stored for a task."""
        sql = "SELECT count(*) FROM reconciler.callbacks WHERE task_id = $1"
        count: int = await self.books.pool.fetchval(sql, task_id)
        return count

    async def versions(self) -> list[tuple[Any, ...]]:
        """Return every row of the application's table with its version: any write changes it."""
        rows = await self.books.pool.fetch("SELECT id::text, xmin::text FROM public.generations g ORDER BY id")
        return [tuple(row) for row in rows]


@contextlib.asynccontextmanager
async def opened_stage(dsn: str) -> AsyncIterator[Stage]:
    """Open a stage on this database."""
    async with contextlib.AsyncExitStack() as stack:
        books = await stack.enter_async_context(opened(dsn))
        replicas = {
            proofs: await stack.enter_async_context(opened_replica(books.database, books.table, proofs))
            for proofs in (BY_SECRET, BY_KEY, BY_BOTH, BY_NOTHING)
        }
        yield Stage(dsn, books, replicas)
