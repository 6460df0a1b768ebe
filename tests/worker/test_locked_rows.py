"""Rows that the application locks, and refund hooks that wait for it, cost only the rows that they are about."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from reconciler.bootstrap import Parts
from reconciler.bootstrap.pools import Pools
from reconciler.domain.model import Finish, Reschedule
from testkit.waiting import until
from tests.worker.rig import Rig

REFUNDS = """
CREATE TABLE public.wallet (left_over int);
INSERT INTO public.wallet VALUES (0);
CREATE TABLE public.refunds (generation_id uuid);
CREATE FUNCTION reconciler.on_failed(generation uuid, reason text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE public.wallet SET left_over = left_over + 1;
    INSERT INTO public.refunds VALUES (generation);
END $$;
"""
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
LOCKED = "SELECT count(*) FROM reconciler.work WHERE locked_write IS NOT NULL"


@asynccontextmanager
async def locking(rig: Rig, what: str, *args: object) -> AsyncIterator[None]:
    """A session of the application that locks rows, and does not end of itself."""
    application = await asyncpg.connect(rig.dsn)
    try:
        async with application.transaction():
            await application.execute(what, *args)
            yield
    finally:
        await application.close()


async def resting(rig: Rig, count: int) -> None:
    """Wait until so many rows wait for a lock."""

    async def enough() -> bool:
        found: int = await rig.pool.fetchval(LOCKED)
        return found == count

    await until(enough, within=30, what=f"{count} rows that wait for a lock")


async def work_of(rig: Rig, generation_id: str) -> Mapping[str, Any]:
    work = await rig.books.work(generation_id)
    assert work is not None
    return work


async def most_waiting(rig: Rig) -> int:
    """Make every further try due, and return how many statements waited for locks at once until all were made."""
    await rig.pool.execute("UPDATE reconciler.work SET write_at = now() WHERE write_at IS NOT NULL")
    counts: list[int] = []

    async def all_made() -> bool:
        counts.append(await rig.pool.fetchval(WAITING))
        none: bool = await rig.pool.fetchval("SELECT NOT EXISTS (SELECT FROM reconciler.work WHERE write_at <= now())")
        return none

    await until(all_made, within=60, what="a further try of every row")
    return max(counts)


async def failed(rig: Rig, ids: list[str]) -> bool:
    sql = "SELECT count(*) FROM public.generations WHERE id::text = ANY($1) AND status = 'failed'"
    count: int = await rig.pool.fetchval(sql, ids)
    return count == len(ids)


@pytest.mark.soak
async def test_rows_that_the_application_locks_delay_no_other_row_and_are_delivered_when_it_ends(
    rig: Rig, parts: Parts
) -> None:
    """N1: forty rows that are held FOR UPDATE."""
    brief = rig.broad(parts, term=3.0, sweep=0.5, polling=40)
    locked = [await rig.order() for _ in range(40)]
    async with rig.working(brief):
        lock = "SELECT FROM public.generations WHERE id::text = ANY($1) FOR UPDATE"
        async with locking(rig, lock, locked):
            for generation_id in locked:
                brief.worker.wake(generation_id)
            await resting(rig, 40)
            fetched, asked = rig.kie.counts.downloads, rig.kie.counts.records
            for _ in range(5):
                good = await rig.order()
                brief.worker.wake(good)
                await rig.delivered(good, within=10)
            assert await most_waiting(rig) <= 2, "only two further tries wait for locks at once"
            assert (await work_of(rig, locked[0]))["why"].startswith("the write of public.generations waits for a lock")
        for generation_id in locked:
            await rig.delivered(generation_id, within=30)
    assert parts.metrics.leases_lost._value.get() == 0
    assert (rig.kie.counts.downloads - fetched, rig.kie.counts.records - asked) == (5, 5), "one for each good row"
    for generation_id in locked:
        await rig.proves(generation_id)
        assert await rig.books.events(generation_id) == ["succeeded"]


async def test_refunds_that_wait_for_one_wallet_delay_no_other_row_and_are_made_once(own_rig: Rig) -> None:
    """N1: a refund hook behind one locked wallet row."""
    await own_rig.pool.execute(REFUNDS)
    async with own_rig.instance() as built:
        brief = own_rig.broad(built, term=3.0, sweep=0.5, polling=40)
        refused = [await own_rig.order(fate="fail") for _ in range(20)]
        async with own_rig.working(brief):
            async with locking(own_rig, "SELECT FROM public.wallet FOR UPDATE"):
                for generation_id in refused:
                    brief.worker.wake(generation_id)
                await resting(own_rig, 20)
                asked = own_rig.kie.counts.records
                for _ in range(5):
                    good = await own_rig.order()
                    brief.worker.wake(good)
                    await own_rig.delivered(good, within=10)
                assert (await work_of(own_rig, refused[0]))["why"].startswith("reconciler.on_failed waits for a lock")
                assert await own_rig.pool.fetchval("SELECT count(*) FROM public.refunds") == 0
            await until(lambda: failed(own_rig, refused), within=30, what="every failure")
        assert built.metrics.leases_lost._value.get() == 0
        assert own_rig.kie.counts.records - asked == 5, "one for each good row"
    made = [row["id"] for row in await own_rig.pool.fetch("SELECT generation_id::text AS id FROM public.refunds")]
    assert sorted(made) == sorted(refused)
    assert [await own_rig.books.events(generation_id) for generation_id in refused] == [["failed"]] * 20


async def test_a_lock_counts_as_no_failure_and_the_next_try_transfers_nothing(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order()
    async with locking(rig, "SELECT FROM public.generations FOR UPDATE"):
        assert isinstance((await rig.visit(parts, generation_id)).decision, Reschedule)
    work = await work_of(rig, generation_id)
    assert (work["misses"], work["failing_since"], work["finding"], work["lease"]) == (0, None, None, None)
    assert 290 < work["due_in"] <= 300
    assert len(await rig.receipts(generation_id)) == 1
    async with rig.working(parts):
        await rig.delivered(generation_id)
    assert (rig.kie.counts.downloads, rig.kie.counts.records) == (1, 1)
    work = await work_of(rig, generation_id)
    assert (work["locked_write"], work["write_at"], work["why"]) == (None, None, None)


async def test_a_lock_that_lasts_is_a_finding(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order()
    async with locking(rig, "SELECT FROM public.generations FOR UPDATE"):
        await rig.visit(parts, generation_id)
        earlier = "locked_write = jsonb_set(locked_write, '{since}', to_jsonb(now() - interval '3 minutes'))"
        await rig.books.set(generation_id, earlier)
        async with rig.working(parts):

            async def found() -> bool:
                return (await work_of(rig, generation_id))["finding"] == "row_locked"

            await until(found, within=20, what="the finding")
    assert (await parts.reports.snapshot()).waiting == {"row_locked": 1}


async def test_a_row_that_the_application_changes_while_it_is_locked_is_visited_anew(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(fate="fail")
    async with locking(rig, "SELECT FROM public.generations FOR UPDATE"):
        await rig.visit(parts, generation_id)
    other = rig.kie.add_task()
    await rig.books.change(generation_id, f"task_id = '{other}'")
    async with rig.working(parts):
        await rig.delivered(generation_id, within=20)
    assert await rig.books.events(generation_id) == ["succeeded"], "the failure of the former task was not written"


async def test_a_task_that_is_attached_late_is_delivered(rig: Rig, parts: Parts) -> None:
    """A locked row without a task: its write is the task's id, and a visit follows."""
    generation_id = await rig.order()
    task_id = (await rig.books.generation(generation_id))["task_id"]
    async with locking(rig, "SELECT FROM public.generations FOR UPDATE"):
        await rig.visit(parts, generation_id)
    await rig.books.change(generation_id, "task_id = NULL")
    attach = '{"attach": "%s", "task_id": null, "status": "queued", "polls": 0, "since": "%s", "tries": 1}'
    kept = attach % (task_id, "2026-01-01T00:00:00+00:00")
    await rig.books.set(generation_id, f"seen_task = NULL, results_task = NULL, looks = 0, locked_write = '{kept}'")
    async with rig.working(parts):
        await rig.delivered(generation_id, within=20)


async def test_leases_are_renewed_while_every_other_connection_is_blocked(rig: Rig, parts: Parts) -> None:
    """N1: no write that is stuck delays a renewal, whichever pool it holds."""
    brief = rig.broad(parts, term=1.5)
    generation_id = await rig.order()
    rig.kie.slow_seconds = 60.0
    rig.kie.strike("file.slow")
    brief.worker.wake(generation_id)
    async with rig.working(brief), AsyncExitStack() as held:
        await until(lambda: rig.kie.counts.faults["file.slow"], what="the download")
        pools = (parts.pools.main, parts.pools.claims, parts.pools.application)
        for pool, size in zip(pools, ("main", "claims", "application"), strict=True):
            for _ in range(Pools.SIZES[size]):
                await held.enter_async_context(pool.transaction())
        first = (await work_of(rig, generation_id))["lease_until"]
        for _ in range(3):

            async def renewed(before: object = first) -> bool:
                return (await work_of(rig, generation_id))["lease_until"] > before

            await until(renewed, within=10, what="a renewal")
            first = (await work_of(rig, generation_id))["lease_until"]
        assert brief.worker.in_hand == 1
    assert parts.metrics.leases_lost._value.get() == 0


async def test_what_another_instance_has_left_is_tried_again_here(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order()
    async with rig.instance() as other, locking(rig, "SELECT FROM public.generations FOR UPDATE"):
        assert isinstance((await rig.visit(other, generation_id)).decision, Reschedule)
    async with rig.working(rig.broad(parts, sweep=0.3)):
        await rig.delivered(generation_id)
    assert rig.kie.counts.records == 1


async def test_a_row_that_is_locked_meanwhile_is_tried_again_long_before_the_next_look(rig: Rig) -> None:
    looked = asyncio.Event()
    async with rig.instance(RECONCILER_SWEEP_SECONDS="600") as idle:
        look = idle.claims.next_locked

        async def noted() -> float | None:
            looked.set()
            return await look()

        idle.claims.next_locked = noted  # type: ignore[method-assign]
        async with rig.working(idle):
            await asyncio.wait_for(looked.wait(), 10)
            generation_id = await rig.order()
            async with locking(rig, "SELECT FROM public.generations FOR UPDATE"):
                idle.worker.wake(generation_id)
                await resting(rig, 1)
            await rig.delivered(generation_id, within=20)


async def test_a_visit_on_demand_writes_what_had_to_wait(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order()
    async with locking(rig, "SELECT FROM public.generations FOR UPDATE"):
        await rig.visit(parts, generation_id)
    assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
    assert (await work_of(rig, generation_id))["write_at"] is None


@pytest.mark.parametrize("concurrency", ["1", "64"])
async def test_the_pools_of_a_process_hold_fourteen_connections(rig: Rig, concurrency: str) -> None:
    async with rig.instance(RECONCILER_CONCURRENCY=concurrency) as built:
        pools = [getattr(built.pools, name) for name in Pools.SIZES]
        busy = [asyncio.ensure_future(pool.fetch("SELECT pg_sleep(2)")) for pool in pools for _ in range(20)]
        sql = """SELECT count(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND application_name = 'kie-reconciler'"""

        async def all_busy() -> bool:
            sleeping: int = await rig.pool.fetchval(f"{sql} AND wait_event = 'PgSleep'")
            return sleeping == sum(Pools.SIZES.values())

        await until(all_busy, within=20, what="every connection at work")
        assert await rig.pool.fetchval(sql) == 14
        for statement in busy:
            statement.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
