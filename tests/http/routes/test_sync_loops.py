"""A user who syncs in loops: neither KIE's shared rate nor the visits nor the connections of others pay for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reconciler.domain.model import Trigger
from reconciler.operations import user_syncs
from reconciler.simulator import Simulator, never
from reconciler.worker.visit import VisitOutcome
from testkit.rows import add, keep
from testkit.waiting import until
from tests.http.api import ANN, BOB, ServedApi
from tests.http.routes.test_sync import sync

LOOPS = 40


async def running(pool: Any, kie: Simulator, user: str, count: int = LOOPS) -> list[str]:
    """So many rows of this user that KIE generates; their tasks."""
    tasks = [kie.add_task(life=never("waiting")) for _ in range(count)]
    for task in tasks:
        await add(pool, "queued", user_id=user, task_id=task)
    return tasks


@pytest.fixture
def at_once(api: ServedApi, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record how many visits are under way whenever one begins."""
    once, under_way, seen = api.parts.worker.once, set[str](), list[int]()

    async def counted(generation_id: str, trigger: Trigger) -> VisitOutcome | None:
        under_way.add(generation_id)
        seen.append(len(under_way))
        try:
            return await once(generation_id, trigger)
        finally:
            under_way.discard(generation_id)

    monkeypatch.setattr(api.parts.worker, "once", counted)
    return seen


async def test_forty_loops_of_one_user_ask_kie_a_few_times_and_two_visits_are_under_way(
    pool: Any, kie: Simulator, api: ServedApi, at_once: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """N9: these loops took the whole rate, and everybody else waited 9 s instead of 2."""
    monkeypatch.setattr(user_syncs, "REFILL", 3600.0)
    monkeypatch.setattr(user_syncs, "TURN_SECONDS", 0.0)
    kie.latency = 0.1
    tasks = await running(pool, kie, ANN)

    answers = await asyncio.gather(*(sync(api.ann, task) for task in tasks))

    assert {(one.status_code, one.json()["status"]) for one in answers} == {(200, "queued"), (202, "queued")}
    assert (kie.counts.records, max(at_once)) == (user_syncs.VISITS, user_syncs.AT_ONCE)
    for task in await running(pool, kie, BOB, 1):
        assert (await sync(api.bob, task)).status_code == 200
    assert kie.counts.records == user_syncs.VISITS + 1


async def test_the_operator_is_not_limited(
    pool: Any, kie: Simulator, api: ServedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_syncs, "TURN_SECONDS", 3600.0)
    tasks = await running(pool, kie, ANN)
    answers = await asyncio.gather(*(sync(api.operator, task) for task in tasks))
    assert {one.status_code for one in answers} == {200}
    assert kie.counts.records == LOOPS


async def test_a_repeat_within_seconds_answers_what_is_known_without_a_request_to_kie(
    pool: Any, kie: Simulator, api: ServedApi
) -> None:
    (task,) = await running(pool, kie, ANN, 1)
    assert (await sync(api.ann, task)).status_code == 200
    await pool.execute("UPDATE public.generations SET status = 'generating'")

    again = await sync(api.ann, task)

    assert (again.status_code, again.json()["status"]) == (200, "generating")
    assert kie.counts.records == 1


async def test_while_two_syncs_of_a_user_are_answered_a_third_waits_and_then_answers_what_is_known(
    pool: Any, kie: Simulator, api: ServedApi
) -> None:
    """The rows of the first two are held by another instance."""
    for n in range(2):
        row = await add(pool, "queued", user_id=ANN, task_id=f"held-{n}")
        await keep(pool, row, seen_task=f"held-{n}", lease="0b7d3c1e-5a42-4f0e-9f5d-3a8f5a0c9e11", lease_until_in=60)
    (task,) = await running(pool, kie, ANN, 1)
    held = [asyncio.create_task(sync(api.ann, f"held-{n}")) for n in range(2)]

    async def woken() -> bool:
        return bool(await pool.fetchval("SELECT count(*) = 2 FROM reconciler.work WHERE woken > 0"))

    await until(woken, what="both visits wait for their holder")
    answer = await sync(api.ann, task, wait=0)
    assert (answer.status_code, answer.json()["status"], kie.counts.records) == (202, "queued", 0)
    assert (await sync(api.operator, task)).status_code == 200
    for one in held:
        one.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    await api.parts.worker.drain(0)


async def test_a_user_of_whom_too_many_syncs_wait_is_told_when_to_come_back(
    pool: Any, kie: Simulator, api: ServedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_syncs, "WAITING", -user_syncs.AT_ONCE)
    (task,) = await running(pool, kie, ANN, 1)

    answer = await sync(api.ann, task)

    assert (answer.status_code, answer.json()["error"], answer.headers["Retry-After"]) == (429, "too_many_syncs", "5")
    assert kie.counts.records == 0
