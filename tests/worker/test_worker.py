"""The claiming loop: wakes are coalesced, waiting for KIE is bounded, one bad row harms no other."""

from __future__ import annotations

import asyncio
import math

import pytest

from reconciler.bootstrap import Parts
from reconciler.domain.model import Trigger
from reconciler.domain.observations import Observation
from reconciler.kie.client import KieClient, KieReply
from reconciler.kie.dialects import Dialect, judge
from reconciler.simulator import MediaSpec, never
from reconciler.worker import poll
from testkit.waiting import until
from tests.worker.rig import Rig


async def wait_until_rested(rig: Rig, generation_id: str, polls: int = 1) -> None:
    """Wait until the row rests after so many polls."""

    async def at_rest() -> bool:
        work = await rig.books.work(generation_id)
        return work is not None and work["lease"] is None and work["looks"] >= polls

    await until(at_rest, what=f"{polls} polls of {generation_id}")


async def test_a_woken_row_is_delivered_at_once(rig: Rig, parts: Parts) -> None:
    async with rig.working(parts):
        generation_id = await rig.order()
        parts.worker.wake(generation_id)
        await rig.delivered(generation_id, within=3)
    await rig.proves(generation_id)


async def test_a_thousand_wakes_of_one_generation_are_one_poll(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(life=never())
    for _ in range(1000):
        parts.worker.wake(generation_id, Trigger.CALLBACK)
    async with rig.working(parts):
        await wait_until_rested(rig, generation_id)
        work = await rig.books.work(generation_id)
    assert work is not None
    assert (work["looks"], rig.kie.counts.records) == (1, 1)


async def test_a_thousand_wakes_during_a_poll_are_one_more_poll(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id = await rig.order(life=never())
    answered, record = asyncio.Event(), KieClient.record

    async def slow(self: KieClient, task_id: str, *, path: str, key_hash: str) -> KieReply:
        reply = await record(self, task_id, path=path, key_hash=key_hash)
        await answered.wait()
        return reply

    monkeypatch.setattr(KieClient, "record", slow)
    async with rig.working(parts):
        parts.worker.wake(generation_id, Trigger.CALLBACK)
        await until(lambda: rig.kie.counts.records, what="the first poll")
        for _ in range(10):
            for _ in range(100):
                parts.worker.wake(generation_id, Trigger.CALLBACK)
            await until(
                lambda: not (parts.worker._wakes or parts.worker._claiming.locked()), what="the wakes are taken"
            )
        answered.set()
        await wait_until_rested(rig, generation_id, polls=2)
        polled = rig.kie.tasks[(await rig.books.generation(generation_id))["task_id"]].polled_at
    assert len(polled) == 2
    assert polled[1] - polled[0] > 1.6


async def test_a_wake_during_the_last_moment_of_a_visit_is_not_lost(rig: Rig, parts: Parts) -> None:
    """KIE ends the task just after it has answered "working"; the callback arrives while that answer is on its way."""
    rig.kie.latency = 0.2
    generation_id = await rig.order(life=never())
    task = (await rig.books.generation(generation_id))["task_id"]
    async with rig.working(parts):
        parts.worker.wake(generation_id)
        await until(lambda: rig.kie.tasks[task].polls == 1, what="KIE is asked")
        rig.kie.end(task)
        parts.worker.wake(generation_id, Trigger.CALLBACK)
        await rig.delivered(generation_id, within=5)


async def test_a_wake_that_finds_its_row_being_written_is_repeated(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(life=never())
    await rig.visit(parts, generation_id)
    await rig.books.set(generation_id, "early_at = NULL, due_at = now() + interval '1 hour'")
    rig.kie.end((await rig.books.generation(generation_id))["task_id"])
    async with rig.working(parts):
        async with rig.pool.acquire() as other, other.transaction():
            await other.execute("SELECT FROM reconciler.work FOR UPDATE")
            parts.worker.wake(generation_id, Trigger.CALLBACK)
            await until(lambda: not parts.worker._wakes, what="the wake finds the row busy")
        await rig.delivered(generation_id, within=5)


async def test_no_more_visits_poll_at_once_than_allowed(rig: Rig, parts: Parts) -> None:
    few = rig.broad(parts, polling=3)
    ids = [await rig.order(life=never()) for _ in range(6)]
    rig.kie.strike("record.hang", times=math.inf)
    async with rig.working(few):
        for generation_id in ids:
            few.worker.wake(generation_id)
        await until(lambda: rig.kie.counts.faults["record.hang"] == 3, what="three requests")
        assert len(few.worker._visits) == len(few.worker._polling) == 3
        assert await rig.pool.fetchval("SELECT count(*) FROM reconciler.work WHERE lease IS NOT NULL") == 3
        rig.kie.calm()
        rig.kie._responses.close()
        await until(lambda: rig.kie.counts.records >= 6, what="the others' turn")


async def test_deliveries_do_not_keep_other_visits_from_polling(rig: Rig, parts: Parts) -> None:
    rig.kie.slow_seconds = 60.0
    slow = await rig.order()
    rig.kie.strike("file.slow", task=(await rig.books.generation(slow))["task_id"])
    few = rig.broad(parts, polling=1)
    async with rig.working(few):
        few.worker.wake(slow)
        await until(lambda: rig.kie.counts.faults["file.slow"], what="the slow delivery")
        other = await rig.order()
        few.worker.wake(other)
        await rig.delivered(other, within=10)


async def test_no_more_generations_are_delivered_at_once_than_there_are_slots(rig: Rig) -> None:
    rig.kie.slow_seconds = 0.2
    ids = [await rig.order(results=(MediaSpec(size=40_000),)) for _ in range(4)]
    rig.kie.strike("file.slow", times=math.inf)
    most = 0
    async with rig.instance(RECONCILER_CONCURRENCY="2") as parts, rig.working(parts):
        for generation_id in ids:
            parts.worker.wake(generation_id)

        async def all_delivered() -> bool:
            nonlocal most
            most = max(most, len(parts.deliverer.transfers))
            unfinished = "SELECT count(*) FROM public.generations WHERE status <> 'success'"
            return await rig.pool.fetchval(unfinished) == 0

        await until(all_delivered, what="all four")
    assert most == 2


async def test_a_thousand_hopeless_rows_do_not_delay_a_good_one(rig: Rig) -> None:
    """F9: hopeless rows at the head of the queue."""
    await rig.pool.execute(
        """INSERT INTO public.generations (status, task_id, kind, created_at)
           SELECT 'queued', md5(n::text), 'image', now() - interval '1 hour' FROM generate_series(1, 1000) n"""
    )
    async with rig.instance(RECONCILER_POLL_RATE="50") as parts, rig.working(parts):
        assert await parts.claims.discover() == 1000
        parts.worker.stir()
        await until(lambda: rig.kie.counts.records > 20, what="the hopeless ones are asked about")
        generation_id = await rig.order()
        parts.worker.wake(generation_id, Trigger.CALLBACK)
        await rig.delivered(generation_id, within=5)
        assert rig.kie.counts.records < 500


async def test_a_visit_that_breaks_costs_its_own_row_a_minute(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = await rig.order(), await rig.order(fate="fail")

    def breaks(family: Dialect, status: int, body: object, retry_after: float | None = None) -> Observation:
        if "'state': 'fail'" in str(body):
            raise ZeroDivisionError
        return judge(family, status, body, retry_after)

    monkeypatch.setattr(poll, "judge", breaks)
    async with rig.working(parts):
        for generation_id in (bad, good):
            parts.worker.wake(generation_id)
        await rig.delivered(good, within=20)
        await until(parts.metrics.failures.labels("visit", "broke")._value.get, what="the break")

        async def given_back() -> bool:
            work = await rig.books.work(bad)
            return work is not None and work["lease"] is None and 50 < work["due_in"] <= 60

        await until(given_back, what="the row is given back")


async def test_a_spare_request_polls_a_row_before_it_is_due(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(life=never())
    await rig.visit(parts, generation_id)
    await rig.books.set(generation_id, "early_at = now(), due_at = now() + interval '1 hour'")
    rig.kie.end((await rig.books.generation(generation_id))["task_id"])
    async with rig.working(parts):
        await rig.delivered(generation_id, within=3)


async def test_an_idle_loop_queries_the_database_about_once_a_second(rig: Rig, parts: Parts) -> None:
    """F12: idle load."""
    queries = 0
    early = parts.claims.early

    async def counted(limit: int) -> object:
        nonlocal queries
        queries += 1
        return await early(limit)

    generation_id = await rig.order(life=never())
    await rig.visit(parts, generation_id)
    await rig.books.set(generation_id, "early_at = now() + interval '1 hour', due_at = now() + interval '2 hours'")
    parts.claims.early = counted  # type: ignore[method-assign,assignment]
    loop = asyncio.get_running_loop()
    async with rig.working(parts):
        began = loop.time()
        await until(lambda: queries >= 3, what="three queries")
        assert loop.time() - began > 1.5
