"""Callbacks of every kind meet rows of every kind: only KIE's record ends a row, except where KIE is unreachable."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from reconciler.bootstrap import Parts
from reconciler.domain.model import Finish, Reschedule, Trigger
from reconciler.domain.observations import Unreachable
from reconciler.simulator import MediaSpec, never
from reconciler.simulator.api.callback_bodies import callback_body
from reconciler.simulator.records.snapshots import take_snapshot
from testkit.waiting import until
from tests.worker.rig import KEY, Rig

DAY = 86_400.0


def true_body(rig: Rig, task_id: str, state: str = "success") -> dict[str, Any]:
    """The body that KIE sends about this task."""
    return callback_body(take_snapshot(rig.kie, rig.kie.tasks[task_id], state))


async def store_callback(rig: Rig, task_id: str, body: Mapping[str, object]) -> None:
    """Store a callback as the HTTP route does."""
    sql = """INSERT INTO reconciler.callbacks AS c (task_id, body, digest) VALUES ($1, $2::text::jsonb, md5($2))
             ON CONFLICT (task_id, digest) DO UPDATE SET count = c.count + 1"""
    await rig.pool.execute(sql, task_id, json.dumps(body))


def tampered_body(rig: Rig, task_id: str) -> dict[str, Any]:
    """The true body with every result on another host; KIE's signature covers neither."""
    text = json.dumps(true_body(rig, task_id)).replace(rig.kie.origin, "https://stranger.example")
    assert "stranger" in text
    body: dict[str, Any] = json.loads(text)
    return body


def false_failure(rig: Rig, task_id: str) -> dict[str, Any]:
    return {"code": 501, "msg": "failed", "data": {"taskId": task_id, "state": "fail", "failMsg": "a lie"}}


BODIES: Mapping[str, Callable[[Rig, str], dict[str, Any]]] = {
    "true": true_body,
    "tampered": tampered_body,
    "a false failure": false_failure,
    "unreadable": lambda rig, task_id: {"taskId": task_id, "data": 7},
}
STATES = ("queued", "generating", "unhealed", "delivered", "refused", "given up", "cancelled")


async def row_in_state(rig: Rig, parts: Parts, task_id: str, state: str) -> str:
    """A row of this task that is in this state when the callback comes."""
    if state in {"queued", "generating", "cancelled"}:
        return await rig.insert(task_id, status=state)
    if state == "unhealed":
        return await rig.insert(task_id, status="success")
    generation_id = await rig.insert(task_id, age=DAY + 60 if state == "given up" else 0.0)
    if state == "given up":
        rig.kie.tasks[task_id].life = never_life(rig)
        await rig.visit(parts, generation_id)
        rig.kie.end(task_id)
    elif state == "refused":
        rig.kie.end(task_id, "fail")
        await rig.visit(parts, generation_id)
    else:
        await rig.visit(parts, generation_id)
    return generation_id


def never_life(rig: Rig) -> Any:
    return rig.kie.tasks[rig.kie.add_task(life=never())].life


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("body", BODIES)
async def test_any_callback_sent_twice_gives_a_row_of_any_state_only_what_kie_says(
    rig: Rig, parts: Parts, body: str, state: str
) -> None:
    """F19: twice, late and tampered, against every state of the row. Callbacks before the row: test_visit_offers."""
    task_id = rig.kie.add_task(results=(MediaSpec(), MediaSpec(ext="webp")))
    generation_id = await row_in_state(rig, parts, task_id, state)
    before, events = await rig.books.generation(generation_id), await rig.books.events(generation_id)
    for _ in range(2):
        await store_callback(rig, task_id, BODIES[body](rig, task_id))
        await parts.worker.once(generation_id, Trigger.CALLBACK)
    if state in {"delivered", "refused", "cancelled"}:
        assert await rig.books.generation(generation_id) == before
        assert await rig.books.events(generation_id) == events
        return
    await rig.proves(generation_id)
    new = {"unhealed": "healed", "given up": "recovered"}.get(state, "succeeded")
    assert await rig.books.events(generation_id) == [*events, new]


@pytest.mark.parametrize("body", BODIES)
async def test_a_callback_that_comes_before_kie_itself_knows_the_end_is_a_hint(
    rig: Rig, parts: Parts, body: str
) -> None:
    task_id = rig.kie.add_task(life=(("generating", 3600.0),))
    generation_id = await rig.insert(task_id)
    await store_callback(rig, task_id, BODIES[body](rig, task_id))
    visited = await rig.visit(parts, generation_id, Trigger.CALLBACK)
    assert isinstance(visited.decision, Reschedule)
    assert (await rig.books.generation(generation_id))["status"] == "generating"
    rig.kie.end(task_id)
    await rig.visit(parts, generation_id, Trigger.CALLBACK)
    await rig.proves(generation_id)


async def visits_without_kie(rig: Rig, parts: Parts, generation_id: str, count: int) -> list[bool]:
    """Visit every ten seconds while KIE answers 500; whether each visit ended in a delivery."""
    rig.kie.strike("record.http_500", times=count)
    ended = []
    for _ in range(count):
        if ended:
            await rig.elapse(generation_id, 1 / 6)
        ended.append(isinstance((await rig.visit(parts, generation_id, Trigger.CALLBACK)).decision, Finish))
    return ended


async def test_a_payload_is_believed_and_logged_at_the_third_poll_that_finds_kie_away(rig: Rig, parts: Parts) -> None:
    task_id = rig.kie.add_task(results=(MediaSpec(), MediaSpec(ext="webp")))
    generation_id = await rig.insert(task_id)
    await store_callback(rig, task_id, true_body(rig, task_id))
    with capture_logs() as lines:
        assert await visits_without_kie(rig, parts, generation_id, 3) == [False, False, True]
    await rig.proves(generation_id)
    assert await rig.books.events(generation_id) == ["succeeded"]
    (line,) = [line for line in lines if line["event"] == "callback.believed"]
    assert (line["generation_id"], line["task_id"], line["addresses"]) == (generation_id, task_id, 2)
    assert line["unheard"] == "server_error"


async def test_a_payload_is_believed_at_once_where_the_key_is_rejected(rig: Rig, parts: Parts) -> None:
    task_id = rig.kie.add_task()
    generation_id = await rig.insert(task_id)
    await store_callback(rig, task_id, true_body(rig, task_id))
    rig.kie.strike("record.body_401")
    assert isinstance((await rig.visit(parts, generation_id, Trigger.CALLBACK)).decision, Finish)
    await rig.proves(generation_id)


async def test_a_payload_is_not_believed_while_another_key_of_the_ring_can_ask(rig: Rig) -> None:
    rig.kie.keys = (KEY,)
    task, other = rig.kie.add_task(), rig.kie.add_task()
    generation_id = await rig.insert(task)
    forged = true_body(rig, other)
    forged["data"]["taskId"] = task
    await store_callback(rig, task, forged)
    async with rig.instance(KIE_API_KEY_PHOTO="revoked") as built, rig.working(built):
        built.worker.wake(generation_id)
        await rig.delivered(generation_id)
    await rig.proves(generation_id)


@pytest.mark.parametrize("body", ["a false failure", "unreadable"])
async def test_a_failure_that_only_a_callback_reports_is_never_believed(rig: Rig, parts: Parts, body: str) -> None:
    task_id = rig.kie.add_task()
    generation_id = await rig.insert(task_id)
    before = await rig.books.generation(generation_id)
    await store_callback(rig, task_id, BODIES[body](rig, task_id))
    assert await visits_without_kie(rig, parts, generation_id, 5) == [False] * 5
    assert await rig.books.generation(generation_id) == before
    await rig.visit(parts, generation_id)
    await rig.proves(generation_id)


async def test_a_strangers_addresses_are_refused_and_kies_are_fetched_once_it_can_be_asked(
    rig: Rig, parts: Parts
) -> None:
    task_id = rig.kie.add_task()
    generation_id = await rig.insert(task_id)
    await store_callback(rig, task_id, tampered_body(rig, task_id))
    assert await visits_without_kie(rig, parts, generation_id, 3) == [False] * 3
    work = await rig.books.work(generation_id)
    assert work is not None
    assert work["finding"] == "host_unlisted"
    assert rig.names() == []
    assert isinstance((await rig.visit(parts, generation_id, Trigger.CALLBACK)).decision, Finish)
    await rig.proves(generation_id)


async def test_callbacks_that_contradict_each_other_wait_for_kie(rig: Rig, parts: Parts) -> None:
    task_id = rig.kie.add_task()
    generation_id = await rig.insert(task_id)
    await store_callback(rig, task_id, tampered_body(rig, task_id))
    await store_callback(rig, task_id, true_body(rig, task_id))
    assert await visits_without_kie(rig, parts, generation_id, 4) == [False] * 4
    await rig.visit(parts, generation_id)
    await rig.proves(generation_id)


async def test_callbacks_are_read_only_after_the_third_poll_that_found_kie_away(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = rig.kie.add_task(life=never("generating"))
    generation_id = await rig.insert(task_id)
    queried: list[str] = []
    said = parts.inbox.bodies

    async def counted(task_id: str) -> Any:
        queried.append(task_id)
        return await said(task_id)

    monkeypatch.setattr(parts.inbox, "bodies", counted)
    await rig.visit(parts, generation_id, Trigger.CALLBACK)
    await visits_without_kie(rig, parts, generation_id, 2)
    assert queried == []
    await visits_without_kie(rig, parts, generation_id, 1)
    assert queried == [task_id]


async def test_a_woken_row_is_polled_at_once_however_busy_kie_is(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.rate_limit, "spare", lambda _: False)
    waiting, woken = await rig.order(), await rig.order()
    assert isinstance((await rig.visit(parts, waiting, Trigger.NOTIFY)).decision, Reschedule)
    assert rig.kie.counts.records == 0
    assert isinstance((await rig.visit(parts, woken, Trigger.CALLBACK)).decision, Finish)
    await rig.proves(woken)


@pytest.mark.parametrize("holder", ["itself", "another replica"])
async def test_a_callback_that_comes_while_the_row_is_held_makes_it_due_at_once(
    rig: Rig, parts: Parts, holder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = rig.kie.add_task(life=never("generating"))
    generation_id = await rig.insert(task_id)
    rest, resting, called_back = parts.ledger.rest, asyncio.Event(), asyncio.Event()

    async def delayed(*args: Any) -> None:
        # KIE has answered "generating". The task ends and its callback comes before that is written down.
        resting.set()
        await called_back.wait()
        await rest(*args)

    monkeypatch.setattr(parts.ledger, "rest", delayed)
    async with rig.instance() as replica:
        waker = parts if holder == "itself" else replica
        visiting = asyncio.create_task(parts.worker.once(generation_id, Trigger.POLL))
        await until(resting.is_set, what="the visit is about to rest")
        rig.kie.end(task_id)
        await store_callback(rig, task_id, true_body(rig, task_id))
        assert await waker.claims.woken({generation_id: Trigger.CALLBACK}) == []
        called_back.set()
        visited = await visiting
    assert visited is not None
    assert isinstance(visited.decision, Reschedule)
    work = await rig.books.work(generation_id)
    assert work is not None
    assert work["due_in"] <= 2.0
    assert work["trigger"] == "callback"
    monkeypatch.undo()
    async with rig.working(parts):
        await rig.delivered(generation_id)
    await rig.proves(generation_id)


async def test_a_task_that_no_row_knows_yet_is_delivered_when_its_row_comes(rig: Rig, parts: Parts) -> None:
    task_id = rig.kie.add_task()
    await store_callback(rig, task_id, true_body(rig, task_id))
    generation_id = await rig.insert(task_id)
    visited = await rig.visit(parts, generation_id, Trigger.NOTIFY)
    assert not isinstance(visited.observation, Unreachable)
    await rig.proves(generation_id)
