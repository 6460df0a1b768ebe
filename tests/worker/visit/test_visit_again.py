"""A generation that the application makes again, long after the first time: its new task counts like a first one."""

from __future__ import annotations

from typing import Unpack

import pytest

from reconciler.bootstrap import Parts
from reconciler.domain.model import Fail, Finish, Reschedule, Trigger
from reconciler.simulator import TaskSpec, never
from tests.worker.rig import Rig
from tests.worker.visit.test_visit_offers import address, offer

HOUR = 3600.0
DAY = 24 * HOUR


async def made_again(rig: Rig, parts: Parts, age: float) -> tuple[str, str]:
    """A delivered row of this age that has just got a new, running task; the ids of the row and of the task."""
    generation_id = await rig.order(age=age)
    await rig.visit(parts, generation_id)
    await rig.proves(generation_id)
    task_id = rig.kie.add_task(life=never("generating"))
    await rig.books.change(generation_id, f"status = 'queued', task_id = '{task_id}', asset_url = NULL")
    return generation_id, task_id


async def treated_as_new(rig: Rig, parts: Parts, generation_id: str, task_id: str) -> None:
    """The row is polled again within a minute, and delivered once its new task has ended."""
    visited = await rig.visit(parts, generation_id, Trigger.NOTIFY)
    assert isinstance(visited.decision, Reschedule)
    assert (visited.decision.due_at - visited.at).total_seconds() < 60
    rig.kie.end(task_id)
    assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
    assert (await rig.proves(generation_id))["task_id"] == task_id


@pytest.mark.parametrize("age", [20 * HOUR, 2 * DAY, 15 * DAY])
async def test_a_new_task_of_an_old_row_is_polled_like_a_new_row_and_delivered(
    rig: Rig, parts: Parts, age: float
) -> None:
    generation_id, task_id = await made_again(rig, parts, age)
    await treated_as_new(rig, parts, generation_id, task_id)
    assert await rig.books.events(generation_id) == ["succeeded", "succeeded"]


@pytest.mark.parametrize("age", [2 * DAY, 15 * DAY])
async def test_a_row_that_waited_for_its_first_task_gives_it_all_its_time(rig: Rig, parts: Parts, age: float) -> None:
    """For example where a person releases each prompt first."""
    generation_id = await rig.insert(None, age=age)
    await rig.visit(parts, generation_id)
    task_id = rig.kie.add_task(life=never("generating"))
    await rig.books.change(generation_id, f"task_id = '{task_id}'")
    await treated_as_new(rig, parts, generation_id, task_id)


async def test_a_new_task_that_kie_does_not_know_yet_is_waited_for(rig: Rig, parts: Parts) -> None:
    generation_id, task_id = await made_again(rig, parts, 15 * DAY)
    rig.kie.strike("record.body_422", task=task_id)
    visited = await rig.visit(parts, generation_id, Trigger.NOTIFY)
    assert isinstance(visited.decision, Reschedule)
    assert visited.decision.finding is None
    rig.kie.end(task_id)
    await rig.visit(parts, generation_id)
    assert (await rig.proves(generation_id))["task_id"] == task_id


async def test_a_new_task_is_given_up_a_day_after_it_came(rig: Rig, parts: Parts) -> None:
    generation_id, _ = await made_again(rig, parts, 2 * DAY)
    await rig.visit(parts, generation_id, Trigger.NOTIFY)
    await rig.books.set(generation_id, "task_since = now() - interval '23 hours'")
    assert isinstance((await rig.visit(parts, generation_id)).decision, Reschedule)
    await rig.books.set(generation_id, "task_since = now() - interval '25 hours'")
    visited = await rig.visit(parts, generation_id)
    assert isinstance(visited.decision, Fail)
    assert visited.decision.reason.startswith("gave up after 24 h")


async def made_with(rig: Rig, parts: Parts, **order: Unpack[TaskSpec]) -> tuple[str, str]:
    """A row that was visited once and its task, whose stored callback names the row; the ids of both."""
    generation_id = await rig.insert(None)
    made: TaskSpec = {"callback_url": address(generation_id), **order}
    task_id = rig.kie.add_task(**made)
    await rig.books.change(generation_id, f"task_id = '{task_id}'")
    await offer(rig, generation_id, task_id)
    await rig.visit(parts, generation_id)
    return generation_id, task_id


async def reset(rig: Rig, generation_id: str) -> None:
    """The application resets the row and is calling createTask."""
    await rig.books.change(generation_id, "status = 'queued', task_id = NULL, asset_url = NULL, error = NULL")


ENDS: dict[str, TaskSpec] = {
    "failed": {"fate": "fail"},
    "succeeded": {},
    "running": {"life": never("generating")},
}


@pytest.mark.parametrize("end", ENDS)
async def test_the_rows_old_task_is_not_taken_for_its_new_one(rig: Rig, parts: Parts, end: str) -> None:
    generation_id, old = await made_with(rig, parts, **ENDS[end])
    await reset(rig, generation_id)
    for _ in range(2):
        visited = await rig.visit(parts, generation_id, Trigger.SYNC)
        assert isinstance(visited.decision, Reschedule)
        assert visited.decision.reason == "no task id yet"
    row = await rig.books.generation(generation_id)
    assert (row["status"], row["task_id"]) == ("queued", None)

    new = rig.kie.add_task(callback_url=address(generation_id))
    await rig.books.change(generation_id, f"task_id = '{new}'")
    assert await parts.claims.discover() == 1
    visited = await rig.visit(parts, generation_id, Trigger.NOTIFY)
    assert isinstance(visited.decision, Finish)
    assert (await rig.proves(generation_id))["task_id"] == new
    assert await rig.books.events(generation_id) == [end, "succeeded"][end == "running" :]
    assert rig.kie.tasks[old].polls == 1


async def test_a_new_task_that_is_written_later_wakes_a_resting_row(rig: Rig, parts: Parts) -> None:
    generation_id, _ = await made_with(rig, parts)
    await reset(rig, generation_id)
    await rig.visit(parts, generation_id, Trigger.NOTIFY)
    assert await parts.worker.once(generation_id, Trigger.NOTIFY) is None
    new = rig.kie.add_task()
    await rig.books.change(generation_id, f"task_id = '{new}'")
    await rig.visit(parts, generation_id, Trigger.NOTIFY)
    assert (await rig.proves(generation_id))["task_id"] == new


async def test_a_new_task_whose_id_was_lost_is_adopted_beside_the_old_one(rig: Rig, parts: Parts) -> None:
    generation_id, _ = await made_with(rig, parts)
    await reset(rig, generation_id)
    await rig.visit(parts, generation_id, Trigger.NOTIFY)
    new = rig.kie.add_task(callback_url=address(generation_id))
    await offer(rig, generation_id, new)
    await rig.visit(parts, generation_id, Trigger.CALLBACK)
    assert (await rig.proves(generation_id))["task_id"] == new
