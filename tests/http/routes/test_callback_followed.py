"""What the daemon does after a callback: it delivers a row in flight, and leaves an ended row alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from reconciler.bootstrap import Parts
from reconciler.bootstrap.http import route_services
from reconciler.bootstrap.pools import Pools
from reconciler.domain.object_keys import CALLBACK_PATH
from reconciler.health import Health
from reconciler.http.app import application, serving
from reconciler.http.readiness_gate import ReadinessGate
from reconciler.http.routes import callback
from testkit.waiting import until
from tests.http.callback_client import BY_SECRET, SECRET, market
from tests.postgres.books import OURS, resting
from tests.worker.rig import Rig, counts_delivery, opened_rig


@pytest.fixture
async def rig(rows_dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with opened_rig(rows_dsn, tmp_path) as opened:
        yield opened


@contextlib.asynccontextmanager
async def working(rig: Rig, **changes: str) -> AsyncIterator[tuple[Parts, str]]:
    """Yield an instance that works on woken rows only, and its callback address; no sweep, no notifications."""
    async with rig.instance(**changes) as built:
        readiness_gate = ReadinessGate(Health(patience=45.0, reason=None))
        readiness_gate.services = route_services(built)
        routes = callback.routes(BY_SECRET, readiness_gate, built.metrics)
        app = application(readiness_gate.health, built.metrics, routers=[routes])
        async with serving(app, "127.0.0.1", 0) as port, rig.working(built):
            yield built, f"http://127.0.0.1:{port}{CALLBACK_PATH}?secret={quote(SECRET, safe='')}"


async def versions(rig: Rig) -> list[Any]:
    return [tuple(row) for row in await rig.pool.fetch("SELECT id, status, xmin::text FROM public.generations g")]


async def idle(built: Parts) -> None:
    """Wait until every woken row has been visited."""
    await until(lambda: not built.worker._wakes and not built.worker._visits, what="the end of the visits")


async def test_a_callback_causes_the_delivery_of_a_row_in_flight(rig: Rig) -> None:
    async with working(rig) as (built, address):
        row = await rig.order(status="generating")
        task = (await rig.books.generation(row))["task_id"]
        async with httpx.AsyncClient(trust_env=False, verify=False) as kie:
            assert (await kie.post(address, json=market(task))).status_code == 200
        await rig.delivered(row)
        await rig.proves(row)
        await counts_delivery(built, "callback")


async def test_another_replica_delivers_after_the_one_that_answered_has_died(rig: Rig) -> None:
    row = await rig.order(status="generating")
    task = (await rig.books.generation(row))["task_id"]
    seen, claim = await rig.books.held(row)
    await rig.books.ledger().rest(seen, claim, resting(3600))
    async with rig.instance() as dying:
        readiness_gate = ReadinessGate(Health(patience=45.0, reason=None))
        readiness_gate.services = route_services(dying)
        app = application(
            readiness_gate.health, dying.metrics, routers=[callback.routes(BY_SECRET, readiness_gate, dying.metrics)]
        )
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as kie:
            assert (await kie.post(CALLBACK_PATH, params={"secret": SECRET}, json=market(task))).status_code == 200
    async with rig.instance() as other, rig.working(other):
        await rig.delivered(row)


async def test_a_row_is_delivered_although_its_callback_came_first(rig: Rig) -> None:
    async with working(rig) as (_, address), httpx.AsyncClient(trust_env=False, verify=False) as kie:
        task = rig.kie.add_task()
        assert (await kie.post(address, json=market(task))).status_code == 202
        row = await rig.insert(task)
        assert (await kie.post(address, json=market(task))).status_code == 200
        await rig.delivered(row)
        assert await rig.pool.fetchval("SELECT count FROM reconciler.callbacks WHERE task_id = $1", task) == 2


async def test_a_callback_is_stored_while_deliveries_hold_every_connection(rig: Rig) -> None:
    async with working(rig, RECONCILER_CONCURRENCY="1") as (built, address), AsyncExitStack() as held:
        row = await rig.order(status="generating")
        task = (await rig.books.generation(row))["task_id"]
        for _ in range(Pools.SIZES["main"]):
            await held.enter_async_context(built.database.transaction())
        kie = await held.enter_async_context(httpx.AsyncClient(trust_env=False, verify=False, timeout=5))
        assert (await kie.post(address, json=market(task))).status_code == 200
        assert await rig.pool.fetchval("SELECT count FROM reconciler.callbacks WHERE task_id = $1", task) == 1


ENDED = {
    "failed, and KIE says success": ("success", {"status": "failed", "error": "refused"}),
    "delivered, and KIE says failed": ("fail", {"status": "success", "asset_url": OURS}),
    "cancelled, and KIE says success": ("success", {"status": "cancelled"}),
}


@pytest.mark.parametrize("name", ENDED)
async def test_a_callback_does_not_change_an_ended_row(rig: Rig, name: str) -> None:
    fate, columns = ENDED[name]
    task = rig.kie.add_task(fate=fate)
    await rig.insert(task, **columns)
    before = await versions(rig)
    async with working(rig) as (built, address), httpx.AsyncClient(trust_env=False, verify=False) as kie:
        assert (await kie.post(address, json=market(task))).status_code == 200
        await idle(built)
        assert built.metrics.callbacks.labels("late")._value.get() == 1
    assert (await versions(rig), rig.names()) == (before, [])


async def test_a_callback_delivers_a_row_that_we_gave_up(rig: Rig) -> None:
    task = rig.kie.add_task()
    row = await rig.insert(task)
    await rig.books.claim(row)
    await rig.books.change(row, "status = 'failed', error = 'no result for a day'")
    await rig.books.set(row, "gave_up = true, lease = NULL, lease_until = NULL, due_at = now() + interval '1 hour'")
    async with working(rig) as (_, address), httpx.AsyncClient(trust_env=False, verify=False) as kie:
        assert (await kie.post(address, json=market(task))).status_code == 200
        await rig.delivered(row)


async def test_one_callback_to_two_replicas_at_once_is_one_delivery(rig: Rig) -> None:
    async with (
        working(rig) as (one, first),
        working(rig) as (two, second),
        httpx.AsyncClient(trust_env=False, verify=False) as kie,
    ):
        row = await rig.order(status="generating")
        task = (await rig.books.generation(row))["task_id"]
        answers = await asyncio.gather(*(kie.post(address, json=market(task)) for address in (first, second)))
        assert {answer.status_code for answer in answers} == {200}
        await rig.delivered(row)
        await rig.proves(row)
        await idle(one)
        await idle(two)
    assert await rig.books.events(row) == ["succeeded"]


async def test_the_simulated_kie_gets_200_for_every_callback(rig: Rig) -> None:
    async with working(rig) as (_, address):
        task = rig.kie.add_task(callback_url=address, life=3600, family="suno")
        row = await rig.insert(task, model_key="suno")
        for seconds in (1200, 1200, 1200):
            rig.kie.skip(seconds)
        await rig.delivered(row)
        await until(lambda: rig.kie.tasks[task].call_answers == [200, 200, 200], what="three callbacks")
