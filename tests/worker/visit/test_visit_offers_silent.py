"""A row whose createTask answer was lost, in a family whose records repeat no callback address."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reconciler.bootstrap import Parts
from reconciler.bootstrap.http import task_creator
from reconciler.domain.model import Finish, Trigger
from reconciler.postgres.create_requests import Order, Requester
from reconciler.worker.create.create_task import OutcomeUnknown
from tests.worker.rig import USER, Rig

ORDER = Order("runway", {"prompt": "a film"}, "video", user_id=USER)
FAMILIES = {"runway": ORDER, "flux_kontext": Order("flux-kontext-pro", {"prompt": "a lens"}, "image", user_id=USER)}


async def lost(rig: Rig, parts: Parts, order: Order = ORDER) -> tuple[str, str]:
    """An order whose answer was lost, and the task that KIE made for it, which its callback offers."""
    rig.kie.strike("create.lost")
    before = set(rig.kie.tasks)
    answer = await task_creator(parts).create(order, Requester(""))
    assert isinstance(answer, OutcomeUnknown)
    (task_id,) = set(rig.kie.tasks) - before
    silence(rig, task_id)
    rig.kie.end(task_id)
    await offer(rig, answer.generation_id, task_id)
    return answer.generation_id, task_id


def silence(rig: Rig, task_id: str) -> None:
    """Let the record of a task repeat nothing of its order."""
    rig.kie.tasks[task_id].param = '{"prompt":"p"}'


async def offer(rig: Rig, generation_id: str | None, task_id: str) -> None:
    """Store a callback of this task that came to an address with this generation's id."""
    body = json.dumps({"code": 200, "msg": "success", "data": {"task_id": task_id}})
    sql = """INSERT INTO reconciler.callbacks (task_id, generation_id, body, digest)
             VALUES ($1, $2, $3, md5($1 || coalesce($2, '')))"""
    await rig.pool.execute(sql, task_id, generation_id, body)


async def withdrawn(rig: Rig, task_id: str) -> None:
    """Let the true callback of an order be lost, too."""
    await rig.pool.execute("DELETE FROM reconciler.callbacks WHERE task_id = $1", task_id)


async def visited(rig: Rig, parts: Parts, generation_id: str) -> Any:
    await rig.visit(parts, generation_id, Trigger.CALLBACK)
    return await rig.books.generation(generation_id)


@pytest.mark.parametrize("family", FAMILIES)
async def test_the_task_that_was_made_with_the_order_is_attached_and_delivered(
    rig: Rig, parts: Parts, family: str
) -> None:
    generation_id, task_id = await lost(rig, parts, FAMILIES[family])
    ended = await rig.visit(parts, generation_id, Trigger.CALLBACK)
    assert isinstance(ended.decision, Finish)
    assert (await rig.proves(generation_id))["task_id"] == task_id
    # One request identifies the task, and one asks for its results.
    assert (rig.kie.counts.creates, rig.kie.counts.records) == (1, 2)


async def foreign(rig: Rig, parts: Parts, how: str, family: str) -> str:
    """A task of the same family and key that belongs elsewhere."""
    task_id = rig.kie.add_task(family=family)
    silence(rig, task_id)
    match how:
        case "another row has it":
            await rig.insert(task_id, status="success", kind="video")
        case "another row had it last":
            other = await rig.insert(task_id, kind="video")
            await rig.visit(parts, other)
            await rig.books.change(other, "task_id = NULL")
        case "it was offered to another generation":
            await offer(rig, await rig.insert(None), task_id)
        case "it was called back without a generation":
            await offer(rig, None, task_id)
        case "its record names another generation":
            address = f"https://app.example/api/kie/callback?generation={await rig.insert(None)}"
            rig.kie.tasks[task_id].param = json.dumps({"prompt": "p", "callBackUrl": address})
        case "an hour old":
            rig.kie.tasks[task_id].born -= 3600
    rig.kie.tasks[task_id].answers.clear()
    return task_id


FOREIGN = [
    "another row has it",
    "another row had it last",
    "it was offered to another generation",
    "it was called back without a generation",
    "an hour old",
]


@pytest.mark.parametrize("how", [*FOREIGN, "its record names another generation"])
async def test_a_forged_callback_attaches_no_foreign_task(rig: Rig, parts: Parts, how: str) -> None:
    # Runway's records repeat no address, and their times have no zone.
    family = "flux_kontext" if how in {"an hour old", "its record names another generation"} else "runway"
    generation_id, true_task = await lost(rig, parts, FAMILIES[family])
    await withdrawn(rig, true_task)
    task_id = await foreign(rig, parts, how, family)
    await offer(rig, generation_id, task_id)
    row = await visited(rig, parts, generation_id)
    assert (row["status"], row["task_id"]) == ("queued", None)
    work = await rig.books.work(generation_id)
    assert work is not None
    assert work["why"].endswith(f"the record of {task_id} names another generation or none")
    # The true callback still settles it.
    await offer(rig, generation_id, true_task)
    assert (await visited(rig, parts, generation_id))["task_id"] == true_task


async def test_of_two_tasks_that_could_be_meant_none_is_attached(rig: Rig, parts: Parts) -> None:
    generation_id, task_id = await lost(rig, parts)
    stray = rig.kie.add_task(family="runway")
    await offer(rig, generation_id, stray)
    row = await visited(rig, parts, generation_id)
    assert (row["status"], row["task_id"]) == ("queued", None)
    work = await rig.books.work(generation_id)
    assert work is not None
    for each in (task_id, stray):
        assert f"the record of {each} names none and could be meant" in work["why"]
    # An operator decides: the other task gets a row of its own.
    await rig.insert(stray, kind="video")
    assert (await visited(rig, parts, generation_id))["task_id"] == task_id


async def test_while_one_offered_task_cannot_be_asked_about_the_other_is_not_attached(rig: Rig, parts: Parts) -> None:
    generation_id, task_id = await lost(rig, parts)
    away = rig.kie.add_task(family="runway")
    await offer(rig, generation_id, away)
    rig.kie.strike("record.http_500", task=away)
    row = await visited(rig, parts, generation_id)
    assert row["task_id"] is None
    await rig.insert(away, kind="video")
    assert (await visited(rig, parts, generation_id))["task_id"] == task_id


async def test_an_offer_that_can_never_be_asked_about_hides_nothing(rig: Rig, parts: Parts) -> None:
    generation_id, task_id = await lost(rig, parts)
    await offer(rig, generation_id, "x" * 9000)
    assert (await visited(rig, parts, generation_id))["task_id"] == task_id


async def test_a_row_that_was_not_ordered_here_gets_a_task_only_by_its_name(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.insert(None, model_key="runway", kind="video")
    task_id = rig.kie.add_task(family="runway")
    await offer(rig, generation_id, task_id)
    assert (await visited(rig, parts, generation_id))["task_id"] is None


async def test_a_row_that_was_not_ordered_here_is_asked_about_in_its_models_dialect(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.insert(None, model_key="veo3_fast", kind="video")
    address = f"https://app.example/api/kie/callback?generation={generation_id}"
    task_id = rig.kie.add_task(family="veo", request={"prompt": "p", "callBackUrl": address})
    await offer(rig, generation_id, task_id)
    assert (await visited(rig, parts, generation_id))["task_id"] == task_id
