"""An order that was held up after its grant: KIE hears it within the rate, or not at all."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from reconciler.bootstrap.http import task_creator
from reconciler.errors import Transient
from reconciler.postgres.create_requests import CreateRequests, Order, Requester
from reconciler.worker.create import create_quota
from reconciler.worker.create.create_task import TaskCreated, TaskDeclined
from testkit.waiting import until
from tests.worker.rig import USER, Rig

ORDER = Order("nano-banana-2", {"prompt": "a lighthouse"}, "image", user_id=USER)
NOBODY = Requester("")


@pytest.fixture
def held_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every order is held up once its row is written, and meanwhile this happens to the row."""
    assignments: list[str] = []
    begin = CreateRequests.begin

    async def slowly(creations: CreateRequests, *given: Any, **named: Any) -> str | None:
        made = await begin(creations, *given, **named)
        assert made is not None
        for happened in assignments:
            await rig.books.change(made, happened)
        late = time.monotonic() + create_quota.FRESH
        await until(lambda: time.monotonic() > late, what="a grant that is stale")
        return made

    monkeypatch.setattr(CreateRequests, "begin", slowly)
    return assignments


async def granted(rig: Rig) -> int:
    count: int = await rig.pool.fetchval("SELECT cardinality(recent) FROM reconciler.creations")
    return count


@pytest.mark.usefixtures("held_up")
async def test_it_goes_out_with_a_grant_of_its_time(rig: Rig) -> None:
    async with rig.instance() as built:
        answer = await task_creator(built).create(ORDER, NOBODY)
    assert isinstance(answer, TaskCreated)
    assert (rig.kie.counts.creates, await granted(rig)) == (1, 2)


@pytest.mark.usefixtures("held_up")
async def test_it_waits_for_one_where_others_have_used_up_the_rate(rig: Rig) -> None:
    async with rig.instance(RECONCILER_CREATE_RATE="1") as built:
        creation = task_creator(built)
        asking = asyncio.create_task(creation.create(ORDER, NOBODY))

        async def written() -> bool:
            return bool(await rig.pool.fetchval("SELECT count(*) FROM public.generations"))

        await until(written, what="the row")
        await rig.pool.execute("UPDATE reconciler.creations SET recent = ARRAY[now() - interval '9.5 seconds']")
        assert isinstance(await asking, TaskCreated)
        first = await rig.pool.fetchval("SELECT created_at FROM public.generations")
        assert (await rig.pool.fetchval("SELECT recent[1] FROM reconciler.creations") - first).total_seconds() > 1.2
    assert rig.kie.counts.creates == 1


@pytest.mark.parametrize("happened", ["status = 'cancelled'", "status = 'failed'", "task_id = 'another'"])
async def test_what_has_ended_meanwhile_is_not_paid_for(rig: Rig, held_up: list[str], happened: str) -> None:
    held_up.append(happened)
    async with rig.instance() as built:
        answer = await task_creator(built).create(ORDER, NOBODY)
    assert isinstance(answer, TaskDeclined)
    assert answer.code is None
    assert rig.kie.counts.creates == 0
    (row,) = await rig.pool.fetch("SELECT id::text, task_id FROM public.generations")
    assert row["task_id"] in (None, "another")
    assert await rig.books.events(row["id"]) == []


async def test_a_drain_that_begins_while_the_rate_is_asked_lets_nothing_begin(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = CreateRequests.grant
    async with rig.instance() as built:
        creation = task_creator(built)

        async def drained(creations: CreateRequests, key_hash: str) -> float:
            await creation.drain(1)
            return await grant(creations, key_hash)

        monkeypatch.setattr(CreateRequests, "grant", drained)
        with pytest.raises(Transient):
            await creation.create(ORDER, NOBODY)
    assert await rig.pool.fetchval("SELECT count(*) FROM public.generations") == 0
