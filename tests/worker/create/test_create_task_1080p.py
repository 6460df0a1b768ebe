"""The 1080p version of a Veo film is ordered and followed like any task, although KIE makes no task for it."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from reconciler.bootstrap.http import task_creator
from reconciler.domain.model import Finish, Reschedule, Trigger
from reconciler.errors import Permanent
from reconciler.postgres.create_requests import Order, Requester
from reconciler.worker.create.create_task import TaskCreated
from testkit.waiting import until
from tests.wire import ok, origin
from tests.worker.rig import USER, Rig

NOBODY = Requester("")
PROCESSING = b'{"code":400,"msg":"1080P is processing. It should be ready in 1-2 minutes.","data":null}'


def order(film: str, index: int = 0) -> Order:
    return Order("veo3", {"taskId": film, "index": index}, "video", user_id=USER, endpoint="veo/get-1080p-video")


async def created(rig: Rig, order: Order, requester: Requester = NOBODY, **changes: str) -> str:
    async with rig.instance(**changes) as built:
        answer = await task_creator(built).create(order, requester)
    assert isinstance(answer, TaskCreated)
    return answer.generation_id


async def test_it_is_a_row_with_a_task_of_its_own_and_nothing_is_sent_for_it(rig: Rig) -> None:
    film = rig.kie.add_task(family="veo")
    async with rig.instance() as built:
        answer = await task_creator(built).create(order(film, 1), NOBODY)
    assert isinstance(answer, TaskCreated)
    assert (answer.task_id, answer.status) == (f"{film}~1080p-1", "queued")
    row = await rig.books.generation(answer.generation_id)
    assert (row["task_id"], row["status"], str(row["user_id"])) == (f"{film}~1080p-1", "queued", USER)
    assert (rig.kie.counts.creates, rig.kie.counts.records) == (0, 0)


async def test_it_is_waited_for_and_delivered_by_the_daemon(rig: Rig) -> None:
    film = rig.kie.add_task(family="veo", life=60)
    generation_id = await created(rig, order(film))
    async with rig.instance() as built:
        visited = await rig.visit(built, generation_id, Trigger.NOTIFY)
        assert isinstance(visited.decision, Reschedule)
        assert visited.decision.reason == "KIE says processing"
        row = await rig.books.generation(generation_id)
        assert (row["status"], row["task_id"]) == ("generating", f"{film}~1080p-0")
        rig.kie.end(film)
        visited = await rig.visit(built, generation_id)
    assert isinstance(visited.decision, Finish)
    row = await rig.books.generation(generation_id)
    stored = hashlib.sha256(rig.stored(row["asset_url"])).hexdigest()
    assert (row["status"], stored) == ("success", rig.kie.sha256(film, 0))


async def test_the_row_is_due_at_once_and_found_by_a_running_daemon(rig: Rig) -> None:
    film = rig.kie.add_task(family="veo")
    generation_id = await created(rig, order(film))
    async with rig.instance() as built, rig.working(built):
        await rig.delivered(generation_id)


async def test_kie_sees_the_films_own_id_and_the_index(rig: Rig) -> None:
    generation_id = await created(rig, order("veo_task_1", 2))
    async with origin(ok(PROCESSING)) as kie, rig.instance(KIE_MARKET_BASE_URL=kie.url) as built:
        await rig.visit(built, generation_id)
        await rig.visit(built, generation_id)
    assert kie.paths == ["/api/v1/veo/get-1080p-video?index=2&taskId=veo_task_1"] * 2


async def test_every_key_is_tried_until_one_knows_the_film(rig: Rig) -> None:
    film = rig.kie.add_task(family="veo", key="third")
    pooled = {"KIE_API_KEY_VIDEO_POOL": "second,third"}
    generation_id = await created(rig, order(film), **pooled)
    async with rig.instance(**pooled) as built, rig.working(built):
        await rig.delivered(generation_id)


async def test_two_orders_of_one_film_are_two_rows_where_the_table_allows_it(rig: Rig) -> None:
    film = rig.kie.add_task(family="veo")
    ids = [await created(rig, order(film)) for _ in range(2)]
    async with rig.instance() as built:
        for generation_id in ids:
            assert isinstance((await rig.visit(built, generation_id)).decision, Finish)


async def test_where_a_task_may_stand_once_the_second_order_is_refused_and_the_film_is_no_obstacle(rig: Rig) -> None:
    film = rig.kie.add_task(family="veo")
    await rig.pool.execute("CREATE UNIQUE INDEX one_row_a_task ON public.generations (task_id)")
    try:
        await rig.insert(film)
        await created(rig, order(film))
        with pytest.raises(Permanent) as raised:
            await created(rig, order(film))
    finally:
        await rig.pool.execute("DROP INDEX public.one_row_a_task")
    assert raised.value.code == "row_refused"
    assert await rig.pool.fetchval("SELECT count(*) FROM public.generations") == 2


async def test_an_idempotency_key_gives_the_same_row(rig: Rig) -> None:
    film = rig.kie.add_task(family="veo")
    requester = Requester(USER, "key-1")
    assert await created(rig, order(film), requester) == await created(rig, order(film), requester)
    assert await rig.pool.fetchval("SELECT count(*) FROM public.generations") == 1


async def test_a_film_that_kie_does_not_know_leaves_the_row_in_flight(rig: Rig) -> None:
    generation_id = await created(rig, order("veo_task_unknown"))
    async with rig.instance() as built:
        await rig.visit(built, generation_id)

    async def known() -> Any:
        work = await rig.books.work(generation_id)
        return work and work["why"]

    assert await until(known, what="the reason") == "KIE does not know the task: record_null"
    assert (await rig.books.generation(generation_id))["status"] == "queued"
