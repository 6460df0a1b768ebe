"""The bad neighbours: each one begins, lasts until its context ends, and takes its rows with it.

The storm uses them as faults, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import Unpack

import asyncpg
import httpx
import jwt

from reconciler.simulator import Failure, MediaSpec, TaskSpec, never
from reconciler.simulator.faults import Fault
from testkit.stage import USER, Rig

Neighbour = Callable[[Rig, str], AbstractAsyncContextManager[None]]
"""What begins a neighbour: the stage, and the address of a replica's port."""

JWT_SECRET = "secret-of-the-benchmark-with-at-least-32-characters"
SILENT_HOST = "127.0.0.2"
"""A second address of this machine: nothing but the silent server listens there."""

SETTINGS = {
    "RECONCILER_ORDERS": "users",
    "RECONCILER_RESULT_HOSTS": f"127.0.0.1,{SILENT_HOST}",
    "SUPABASE_JWT_SECRET": JWT_SECRET,
}
"""What a replica needs for the neighbours to reach it."""

LOCK_SECONDS = 30.0
PICTURE = MediaSpec(ext="png", size=350_000)

_INSERT = """
INSERT INTO public.generations (user_id, kind, model_key, provider, task_id, status, asset_url, created_at)
SELECT $1, 'image', 'nano-banana-2', 'kie', task_id, $3, $4, now() - $5 * interval '1 second'
  FROM unnest($2::text[]) AS u (task_id)
"""
_WALLET = """
CREATE TABLE IF NOT EXISTS public.wallets (id int PRIMARY KEY, balance int NOT NULL);
CREATE TABLE IF NOT EXISTS public.refunds (generation_id uuid NOT NULL);
INSERT INTO public.wallets VALUES (1, 0) ON CONFLICT DO NOTHING;
CREATE OR REPLACE FUNCTION reconciler.on_failed(generation_id uuid, reason text) RETURNS void
    LANGUAGE sql SET search_path = '' AS $$
        UPDATE public.wallets SET balance = balance + 1 WHERE id = 1;
        INSERT INTO public.refunds VALUES ($1) $$;
"""


@contextlib.asynccontextmanager
async def _rows(
    rig: Rig, tasks: Sequence[str], *, status: str = "generating", asset: str | None = None, age: float = 30.0
) -> AsyncIterator[None]:
    """Insert rows of these tasks, and delete rows and tasks at the end."""
    try:
        await rig.pool.execute(_INSERT, USER, list(tasks), status, asset, age)
        yield
    finally:
        await _deleted(rig, tasks)
        for task in tasks:
            if task in rig.kie.tasks:
                rig.kie.forget(task)


async def _deleted(rig: Rig, tasks: Sequence[str]) -> None:
    """Delete the rows of these tasks, as soon as the database is there."""
    while True:
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await rig.pool.execute("DELETE FROM public.generations WHERE task_id = ANY($1)", list(tasks))
            return
        await asyncio.sleep(0.5)


def _tasks(rig: Rig, count: int, **spec: Unpack[TaskSpec]) -> list[str]:
    return [rig.kie.add_task(**spec) for _ in range(count)]


@contextlib.asynccontextmanager
async def silent_host(rig: Rig, _: str) -> AsyncIterator[None]:
    """Sixty rows whose results lie on a host that accepts connections and says nothing."""
    over = asyncio.Event()

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.transport.abort()

    server = await asyncio.start_server(hold, SILENT_HOST, 0)
    port = server.sockets[0].getsockname()[1]
    names = itertools.count()

    def addresses(_: Sequence[str]) -> object:
        return {"resultUrls": [f"http://{SILENT_HOST}:{port}/{next(names)}.png"]}

    try:
        async with _rows(rig, _tasks(rig, 60, life=0.0, results=[PICTURE], wrap=addresses)):
            yield
    finally:
        over.set()
        server.close()


@contextlib.asynccontextmanager
async def slow_downloads(rig: Rig, _: str) -> AsyncIterator[None]:
    """Eight results that the good rows' own host sends at 40 kB a second."""
    usual, rig.kie.slow_seconds = rig.kie.slow_seconds, (1 << 20) / 40_000
    large = MediaSpec(ext="png", size=6 << 20)
    tasks = _tasks(rig, 8, life=0.0, results=[large], faults=[Fault("file.slow", times=1000)])
    try:
        async with _rows(rig, tasks):
            yield
    finally:
        rig.kie.slow_seconds = usual


@contextlib.asynccontextmanager
async def hanging_path(rig: Rig, _: str) -> AsyncIterator[None]:
    """Sixty rows of Veo, whose record page does not answer."""
    tasks = _tasks(rig, 60, family="veo", life=0.0, faults=[Fault("record.hang", times=100_000)])
    async with _rows(rig, tasks):
        yield


@contextlib.asynccontextmanager
async def locked_rows(rig: Rig, _: str) -> AsyncIterator[None]:
    """Forty finished rows that the application holds FOR UPDATE."""
    tasks = _tasks(rig, 40, life=never("generating"), results=[PICTURE])
    async with _rows(rig, tasks), _held(rig, "SELECT FROM public.generations WHERE task_id = ANY($1)", tasks):
        for task in tasks:
            rig.kie.end(task)
        yield


@contextlib.asynccontextmanager
async def locked_wallet(rig: Rig, _: str) -> AsyncIterator[None]:
    """Forty failures whose refund waits for one row of the application."""
    await rig.pool.execute(_WALLET)
    tasks = _tasks(rig, 40, life=0.0, fate="fail", failure=Failure("422", "refused"))
    async with _held(rig, "SELECT FROM public.wallets WHERE id = 1"), _rows(rig, tasks):
        yield


@contextlib.asynccontextmanager
async def _held(rig: Rig, sql: str, *arguments: object) -> AsyncIterator[None]:
    """Hold these rows FOR UPDATE for LOCK_SECONDS, or until the context ends."""
    connection = await asyncpg.connect(rig.dsn)
    transaction = connection.transaction()
    await transaction.start()
    await connection.fetch(f"{sql} FOR UPDATE", *arguments)
    ends = asyncio.get_running_loop().call_later(LOCK_SECONDS, connection.terminate)
    try:
        yield
    finally:
        ends.cancel()
        connection.terminate()


@contextlib.asynccontextmanager
async def open_rows(rig: Rig, _: str) -> AsyncIterator[None]:
    """A bulk insert of 20,000 open rows."""
    async with _rows(rig, _tasks(rig, 20_000, life=never("generating"))):
        yield


@contextlib.asynccontextmanager
async def ended_rows(rig: Rig, _: str) -> AsyncIterator[None]:
    """A bulk insert of 30,000 rows that ended long ago and have their asset."""
    names = [f"history-{n}" for n in range(30_000)]
    asset = f"{rig.storage.url if rig.storage else ''}/storage/v1/object/public/generations/old.png"
    async with _rows(rig, names, status="success", asset=asset, age=90 * 86400.0):
        yield


@contextlib.asynccontextmanager
async def foreign_successes(rig: Rig, _: str) -> AsyncIterator[None]:
    """300 successes without an asset whose tasks KIE does not know."""
    names = [f"foreign-{n}" for n in range(300)]
    async with _rows(rig, names, status="success"):
        yield


@contextlib.asynccontextmanager
async def sync_loops(rig: Rig, url: str) -> AsyncIterator[None]:
    """Forty loops in which one user syncs a generation that is not ready."""
    [task] = _tasks(rig, 1, life=never("generating"))
    async with _rows(rig, [task]), _looping(40, url, user_token(), _sync(task)):
        yield


@contextlib.asynccontextmanager
async def hostile_bodies(_: Rig, url: str) -> AsyncIterator[None]:
    """Eight loops in which one user sends orders of 105,000 unknown keys."""
    order = {"model": "nano-banana-2", "input": {}, "kind": "image", **{f"k{n}": 0 for n in range(105_000)}}
    body = json.dumps(order, separators=(",", ":")).encode()

    async def send(client: httpx.AsyncClient) -> None:
        await client.post("/api/kie/createTask", content=body, headers={"Content-Type": "application/json"})

    async with _looping(8, url, user_token(), send):
        yield


@contextlib.asynccontextmanager
async def slow_bodies(_: Rig, url: str) -> AsyncIterator[None]:
    """Seventy callbacks and orders of strangers whose bodies come a byte a second."""
    host, port = url.removeprefix("http://").split(":")

    async def drip(n: int) -> None:
        path = "/api/kie/callback" if n % 2 else "/api/kie/createTask"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
        )
        while True:
            with contextlib.suppress(OSError):
                writer = (await asyncio.open_connection(host, int(port)))[1]
                try:
                    writer.write(f'{head}Content-Length: 1000000\r\n\r\n{{"'.encode())
                    while not writer.transport.is_closing():
                        await asyncio.sleep(1)
                        writer.write(b"x")
                        await writer.drain()
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.1)

    async with _running([drip(n) for n in range(70)]):
        yield


def user_token() -> str:
    """Return an end user's token."""
    now = int(time.time())
    claims = {"sub": USER, "aud": "authenticated", "role": "authenticated", "iat": now, "exp": now + 3600}
    return jwt.encode(claims, JWT_SECRET, algorithm="HS256")


Request = Callable[[httpx.AsyncClient], Awaitable[object]]


def _sync(task: str) -> Request:
    return lambda client: client.get("/api/kie/sync", params={"taskId": task})


@contextlib.asynccontextmanager
async def _looping(count: int, url: str, token: str, request: Request) -> AsyncIterator[None]:
    """Send this request in so many loops until the context ends, whatever the answers are."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=30) as client:

        async def loop() -> None:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    await request(client)
                # Also where every answer is a refusal at once: the neighbour must not take this process's core.
                await asyncio.sleep(0.01)

        async with _running([loop() for _ in range(count)]):
            yield


@contextlib.asynccontextmanager
async def _running(loops: Sequence[Coroutine[None, None, None]]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


NEIGHBOURS: MappingProxyType[str, Neighbour] = MappingProxyType(
    {
        "60 rows on a silent result host": silent_host,
        "8 downloads at 40 kB a second": slow_downloads,
        "60 rows on a hanging KIE page": hanging_path,
        "40 rows locked FOR UPDATE for 30 s": locked_rows,
        "40 refund hooks behind a locked row": locked_wallet,
        "20,000 open rows inserted at once": open_rows,
        "30,000 ended rows inserted at once": ended_rows,
        "300 foreign successes": foreign_successes,
        "one user's 40 sync loops": sync_loops,
        "70 slow bodies of strangers": slow_bodies,
        "8 loops of hostile createTask bodies": hostile_bodies,
    }
)
