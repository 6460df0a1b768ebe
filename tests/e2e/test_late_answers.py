"""A success whose address comes late, with a running daemon, real callbacks and real syncs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from reconciler.simulator import Fault
from testkit.replica import Replica
from testkit.stage import Rig
from testkit.waiting import until
from tests.e2e.test_failing import HOOK, events

TOKEN, SECRET = "token-of-the-operator", "secret-of-the-callback"
LATE = 6.0
"""Seconds after which the address appears: the daemon looks 8 s after the first time."""


@asynccontextmanager
async def asking(replica: Replica) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    address = f"http://127.0.0.1:{await replica.port()}"
    async with httpx.AsyncClient(base_url=address, headers=headers, trust_env=False, timeout=30) as client:
        yield client


async def ask_six_times(client: httpx.AsyncClient, task: str) -> None:
    """Send six callbacks of an empty success, and six syncs."""
    body = {"code": 200, "msg": "success", "data": {"taskId": task, "state": "success", "resultJson": "{}"}}
    for n in range(6):
        called = await client.post("/api/kie/callback", params={"secret": SECRET}, json={**body, "number": n})
        assert called.status_code == 200, called.text
        synced = await client.get("/api/kie/sync", params={"taskId": task, "wait": 0.2})
        assert synced.status_code in {200, 202}, synced.text


async def empty(rig: Rig, seconds: float) -> tuple[str, str]:
    """A task whose success has no output for so many seconds, and its row, which has been seen so; both ids."""
    generation_id = await rig.order(faults=[Fault("late.empty", seconds=seconds)])

    async def seen() -> bool:
        work = await rig.work(generation_id)
        return work is not None and work["finding"] == "empty_success"

    await until(seen, what="an empty success")
    return generation_id, await rig.pool.fetchval("SELECT task_id FROM public.generations")


@pytest.fixture
async def replica(rig: Rig) -> Replica:
    await rig.pool.execute(HOOK)
    return await rig.run(RECONCILER_API_TOKEN=TOKEN, KIE_CALLBACK_SECRET=SECRET)


async def test_callbacks_and_syncs_conclude_nothing_and_the_late_address_is_delivered_by_itself(
    rig: Rig, replica: Replica
) -> None:
    witness = await rig.witness()
    began = time.monotonic()
    generation_id, task = await empty(rig, LATE)
    async with asking(replica) as client:
        await ask_six_times(client, task)
    assert time.monotonic() - began < LATE, "the address must still be away"
    assert await witness.statuses(generation_id) == []
    await rig.delivered([generation_id], within=LATE + 20)
    assert await events(rig, generation_id) == ["succeeded"]
    assert await rig.pool.fetchval("SELECT count(*) FROM public.refunds") == 0


@pytest.mark.soak
async def test_a_sync_delivers_at_once_what_has_appeared(rig: Rig, replica: Replica) -> None:
    generation_id, task = await empty(rig, 3600)
    async with asking(replica) as client:
        await ask_six_times(client, task)
        rig.kie.skip(3600)
        answer = await asyncio.wait_for(client.get("/api/kie/sync", params={"taskId": task, "wait": 10}), 10)
    assert (answer.status_code, answer.json()["status"]) == (200, "success")
    await rig.prove(generation_id)
    assert await rig.pool.fetchval("SELECT count(*) FROM public.refunds") == 0
