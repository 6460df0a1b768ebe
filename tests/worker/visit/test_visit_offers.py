"""A row whose createTask answer was lost: a callback offers its task, KIE's record confirms it, and it is delivered."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Unpack

import pytest
from structlog.testing import capture_logs

from reconciler.bootstrap import Parts
from reconciler.domain.model import Finish, Reschedule, Trigger
from reconciler.simulator import TaskSpec, never
from testkit.waiting import until
from tests.worker.rig import Rig

POOLED = {"KIE_API_KEY_PHOTO_POOL": "another-key,and-a-third"}


def address(generation_id: str) -> str:
    return f"https://app.example/api/kie/callback?secret=s&generation={generation_id}"


async def offer(rig: Rig, generation_id: str, task_id: str) -> None:
    """Store a callback of this task that came to an address with this generation's id."""
    body = json.dumps({"code": 200, "msg": "success", "data": {"taskId": task_id, "state": "success"}})
    sql = "INSERT INTO reconciler.callbacks (task_id, generation_id, body, digest) VALUES ($1, $2, $3, md5($1))"
    await rig.pool.execute(sql, task_id, generation_id, body)


async def orphaned(
    rig: Rig, *, age: float = 0.0, none: str | None = None, **order: Unpack[TaskSpec]
) -> tuple[str, str]:
    """A row without its task's id, and the task, which a callback offers; the ids of both."""
    generation_id = await rig.insert(none, age=age)
    made: TaskSpec = {"callback_url": address(generation_id), **order}
    task_id = rig.kie.add_task(**made)
    await offer(rig, generation_id, task_id)
    return generation_id, task_id


async def resting(rig: Rig, generation_id: str) -> Any:
    work = await rig.books.work(generation_id)
    assert work is not None
    assert work["lease"] is None
    assert work["due_in"] is not None
    return work


@pytest.mark.parametrize("none", [None, ""])
async def test_a_task_whose_id_was_lost_is_found_by_its_callback_and_delivered_in_the_same_visit(
    rig: Rig, parts: Parts, none: str | None
) -> None:
    generation_id, task_id = await orphaned(rig, none=none)
    with capture_logs() as lines:
        visited = await rig.visit(parts, generation_id, Trigger.CALLBACK)
    assert isinstance(visited.decision, Finish)
    assert (await rig.proves(generation_id))["task_id"] == task_id
    assert await rig.books.events(generation_id) == ["succeeded"]
    assert rig.kie.counts.creates == 0
    (line,) = [line for line in lines if line["event"] == "generation.adopted"]
    assert (line["generation_id"], line["task_id"]) == (generation_id, task_id)


async def test_a_task_that_still_runs_is_adopted_and_waited_for(rig: Rig, parts: Parts) -> None:
    generation_id, task_id = await orphaned(rig, life=never("generating"))
    visited = await rig.visit(parts, generation_id, Trigger.CALLBACK)
    assert isinstance(visited.decision, Reschedule)
    generation = await rig.books.generation(generation_id)
    assert (generation["task_id"], generation["status"]) == (task_id, "generating")
    rig.kie.end(task_id)
    await rig.visit(parts, generation_id, Trigger.CALLBACK)
    await rig.proves(generation_id)


async def test_a_failure_of_the_adopted_task_fails_the_row_by_kies_word(rig: Rig, parts: Parts) -> None:
    generation_id, task_id = await orphaned(rig, fate="fail")
    await rig.visit(parts, generation_id, Trigger.CALLBACK)
    generation = await rig.books.generation(generation_id)
    assert (generation["task_id"], generation["status"]) == (task_id, "failed")


@pytest.mark.parametrize("named", ["another generation", "none", "two"])
async def test_a_task_that_kie_does_not_attribute_to_the_row_is_refused_with_a_finding(
    rig: Rig, parts: Parts, named: str
) -> None:
    generation_id = await rig.insert(None, age=601)
    other = await rig.insert(None)
    addresses = {"another generation": address(other), "two": f"{address(generation_id)}&generation={other}"}
    order: TaskSpec = {"callback_url": addresses[named]} if named in addresses else {}
    task_id = rig.kie.add_task(**order)
    await offer(rig, generation_id, task_id)
    before = await rig.books.generation(generation_id)
    visited = await rig.visit(parts, generation_id, Trigger.CALLBACK)
    assert isinstance(visited.decision, Reschedule)
    assert await rig.books.generation(generation_id) == before
    work = await resting(rig, generation_id)
    assert (work["misses"], work["finding"]) == (1, "no_task")
    assert work["why"] == (
        f"no task id yet; a callback offers one, but the record of {task_id} names another generation or none"
    )


async def test_an_offered_task_that_kie_does_not_know_is_polled_ever_more_slowly(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.insert(None)
    await offer(rig, generation_id, "invented")
    waits = []
    for _ in range(4):
        await rig.visit(parts, generation_id, Trigger.CALLBACK)
        waits.append((await resting(rig, generation_id))["due_in"])
    assert waits == sorted(waits)
    assert waits[-1] > 30
    work = await resting(rig, generation_id)
    assert work["why"] == "no task id yet; a callback offers one, but KIE does not know invented"


async def test_a_forged_offer_does_not_hide_the_true_one(rig: Rig, parts: Parts) -> None:
    generation_id, task_id = await orphaned(rig)
    await offer(rig, generation_id, "\x7f unaskable/../../id")
    await offer(rig, generation_id, rig.kie.add_task())
    await rig.visit(parts, generation_id, Trigger.CALLBACK)
    assert (await rig.proves(generation_id))["task_id"] == task_id


async def test_a_task_is_attached_by_kies_record_even_where_another_row_has_it(rig: Rig, parts: Parts) -> None:
    generation_id, task_id = await orphaned(rig)
    other = await rig.insert(task_id)
    for name in (generation_id, other):
        await rig.visit(parts, name, Trigger.CALLBACK)
        assert (await rig.proves(name))["task_id"] == task_id


async def test_a_table_that_takes_a_task_once_makes_the_second_row_wait_with_a_finding(rig: Rig, parts: Parts) -> None:
    generation_id, task_id = await orphaned(rig)
    await rig.insert(task_id)
    await rig.pool.execute("CREATE UNIQUE INDEX one_row_a_task ON public.generations (task_id)")
    try:
        visited = await rig.visit(parts, generation_id, Trigger.CALLBACK)
    finally:
        await rig.pool.execute("DROP INDEX public.one_row_a_task")
    assert isinstance(visited.decision, Reschedule)
    work = await resting(rig, generation_id)
    assert work["finding"] == "no_task"
    assert "the table refuses the task id" in work["why"]


async def test_every_key_of_the_ring_is_asked_and_the_right_one_remembered(rig: Rig) -> None:
    generation_id, task_id = await orphaned(rig, key="and-a-third")
    async with rig.instance(**POOLED) as parts:
        await rig.visit(parts, generation_id, Trigger.CALLBACK)
        assert (await rig.proves(generation_id))["task_id"] == task_id
        # Two keys that do not know it, one that does; the last request asks for the result.
        assert rig.kie.counts.records <= 4


async def test_while_kie_is_away_the_offer_waits_and_is_taken_when_it_comes_back(rig: Rig, parts: Parts) -> None:
    generation_id, task_id = await orphaned(rig)
    rig.kie.strike("record.http_500", times=3)
    for _ in range(3):
        visited = await rig.visit(parts, generation_id, Trigger.CALLBACK)
        assert isinstance(visited.decision, Reschedule)
    work = await resting(rig, generation_id)
    assert work["why"] == (
        f"no task id yet; a callback offers one, but KIE could not be asked about {task_id} (server_error)"
    )
    assert (work["misses"], work["finding"]) == (3, None)
    await rig.books.set(generation_id, "due_at = now()")
    await rig.visit(parts, generation_id, Trigger.POLL)
    await rig.proves(generation_id)


async def test_an_observer_adopts_nothing(rig: Rig) -> None:
    generation_id, _ = await orphaned(rig)
    before = await rig.books.generation(generation_id)
    async with rig.instance(observe=True) as parts:
        visited = await rig.visit(parts, generation_id, Trigger.CALLBACK)
    assert isinstance(visited.decision, Reschedule)
    assert visited.decision.reason == "no task id yet"
    assert rig.kie.counts.records == 0
    assert await rig.books.generation(generation_id) == before


async def test_createtask_and_the_callback_at_once_end_in_one_delivery(rig: Rig, parts: Parts) -> None:
    generation_id, task_id = await orphaned(rig)
    visiting = asyncio.create_task(parts.worker.once(generation_id, Trigger.CALLBACK))
    await until(lambda: rig.kie.counts.records >= 1, what="KIE is asked about the offered task")
    await rig.pool.execute(
        "UPDATE public.generations SET task_id = $2, status = 'generating' WHERE id::text = $1 AND task_id IS NULL",
        generation_id, task_id,
    )  # fmt: skip
    visited = await visiting
    assert visited is not None
    assert isinstance(visited.decision, Finish)
    await rig.proves(generation_id)
    assert await rig.books.events(generation_id) == ["succeeded"]


async def test_a_callback_that_came_while_no_instance_ran_is_found_by_the_sweep(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.insert(None)
    await rig.visit(parts, generation_id)
    task_id = rig.kie.add_task(callback_url=address(generation_id))
    await offer(rig, generation_id, task_id)
    async with rig.working(parts):
        await parts.claims.discover()
        parts.worker.stir()
        await rig.delivered(generation_id)
    await rig.proves(generation_id)
