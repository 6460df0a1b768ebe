"""An order that is held up after its grant: KIE gets it within the rate, or not at all."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from reconciler.bootstrap.http import task_creator
from reconciler.errors import Transient
from reconciler.postgres.create_requests import CreateRequests, Order, OrderBegun, Requester, StoredRequest
from reconciler.worker.create import create_quota
from reconciler.worker.create.create_task import TaskCreated, TaskDeclined
from testkit.waiting import until
from tests.worker.rig import USER, Rig

ORDER = Order("nano-banana-2", {"prompt": "a lighthouse"}, "image", user_id=USER)
ANONYMOUS = Requester("")


@pytest.fixture
def held_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hold every order up once its row is written, and make these assignments to the row meanwhile."""
    assignments: list[str] = []
    begin = CreateRequests.begin

    async def slowly(requests: CreateRequests, *args: Any, **kwargs: Any) -> OrderBegun:
        begun = await begin(requests, *args, **kwargs)
        assert isinstance(begun, OrderBegun)
        for assignment in assignments:
            await rig.books.change(begun.generation_id, assignment)
        late = time.monotonic() + create_quota.FRESH
        await until(lambda: time.monotonic() > late, what="a grant that is stale")
        return begun

    monkeypatch.setattr(CreateRequests, "begin", slowly)
    return assignments


async def granted(rig: Rig) -> int:
    count: int = await rig.pool.fetchval("SELECT cardinality(recent) FROM reconciler.creations")
    return count


@pytest.mark.usefixtures("held_up")
async def test_a_late_order_takes_a_new_grant(rig: Rig) -> None:
    async with rig.instance() as built:
        answer = await task_creator(built).create(ORDER, ANONYMOUS)
    assert isinstance(answer, TaskCreated)
    assert (rig.kie.counts.creates, await granted(rig)) == (1, 2)


@pytest.mark.usefixtures("held_up")
async def test_a_late_order_waits_for_a_grant_when_the_rate_is_used_up(rig: Rig) -> None:
    async with rig.instance(RECONCILER_CREATE_RATE="1") as built:
        creator = task_creator(built)
        asking = asyncio.create_task(creator.create(ORDER, ANONYMOUS))

        async def written() -> bool:
            return bool(await rig.pool.fetchval("SELECT count(*) FROM public.generations"))

        await until(written, what="the row")
        await rig.pool.execute("UPDATE reconciler.creations SET recent = ARRAY[now() - interval '9.5 seconds']")
        assert isinstance(await asking, TaskCreated)
        first = await rig.pool.fetchval("SELECT created_at FROM public.generations")
        assert (await rig.pool.fetchval("SELECT recent[1] FROM reconciler.creations") - first).total_seconds() > 1.2
    assert rig.kie.counts.creates == 1


@pytest.mark.parametrize("assignment", ["status = 'cancelled'", "status = 'failed'", "task_id = 'another'"])
async def test_a_late_order_whose_generation_has_ended_is_not_sent(
    rig: Rig, held_up: list[str], assignment: str
) -> None:
    held_up.append(assignment)
    async with rig.instance() as built:
        answer = await task_creator(built).create(ORDER, ANONYMOUS)
    assert isinstance(answer, TaskDeclined)
    assert answer.code is None
    assert rig.kie.counts.creates == 0
    (row,) = await rig.pool.fetch("SELECT id::text, task_id FROM public.generations")
    assert row["task_id"] in (None, "another")
    assert await rig.books.events(row["id"]) == []


async def test_a_drain_that_starts_while_the_idempotency_key_is_looked_up_stops_the_order(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = CreateRequests.find
    async with rig.instance() as built:
        creator = task_creator(built)

        async def drained(requests: CreateRequests, requester: Requester) -> StoredRequest | None:
            await creator.drain(1)
            return await find(requests, requester)

        monkeypatch.setattr(CreateRequests, "find", drained)
        with pytest.raises(Transient):
            await creator.create(ORDER, ANONYMOUS)
    assert await rig.pool.fetchval("SELECT count(*) FROM public.generations") == 0
