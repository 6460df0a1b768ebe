"""The leases of the claiming loop: renewed while it works, given back when it stops; a lost one cancels its visit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from reconciler.bootstrap import Parts
from reconciler.domain.model import Trigger
from reconciler.errors import LeaseLost, Transient
from reconciler.postgres.claims.claims import Claim, WakeResult
from reconciler.simulator import MediaSpec, never
from reconciler.worker import worker
from testkit.standins.proxy import Proxy
from testkit.waiting import until
from tests.worker.rig import Rig


@asynccontextmanager
async def downloading(rig: Rig, parts: Parts, *, seconds: float = 60.0) -> AsyncIterator[str]:
    """A generation whose download is under way and takes so long."""
    rig.kie.slow_seconds = seconds
    generation_id = await rig.order(results=(MediaSpec(size=40_000),))
    rig.kie.strike("file.slow")
    parts.worker.wake(generation_id)
    await until(lambda: rig.kie.counts.faults["file.slow"], what="the download")
    yield generation_id


async def free(rig: Rig, generation_id: str, within: float = 5.0) -> float:
    """Wait until the row is held by no instance; the seconds until it is due."""

    async def given_back() -> tuple[float] | None:
        work = await rig.books.work(generation_id)
        return (work["due_in"],) if work is not None and work["lease"] is None else None

    return (await until(given_back, within=within, what="the lease is given back"))[0]


async def test_a_lease_is_kept_for_as_long_as_the_visit_lasts(rig: Rig, parts: Parts) -> None:
    brief = rig.broad(parts, term=3.0)
    async with rig.working(brief), downloading(rig, brief, seconds=7.0) as generation_id:
        lease = (await rig.books.work(generation_id) or {})["lease"]
        other = rig.broad(parts, term=3.0)

        async def delivered() -> bool:
            assert await other.claims.due(1) == []
            return (await rig.books.generation(generation_id))["status"] == "success"

        await until(delivered, within=30, what="the delivery")
    assert lease is not None
    assert rig.kie.counts.downloads == 1, "a lease that ended would have led to a second download"
    assert parts.metrics.leases_lost._value.get() == 0
    await rig.proves(generation_id)


async def test_a_row_that_is_just_being_written_when_its_lease_is_to_be_renewed_is_not_lost(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = rig.broad(parts, term=1.5)
    renewed: list[set[UUID]] = []
    renew = brief.claims.renew

    async def noted(held: Sequence[Claim]) -> set[UUID]:
        renewed.append(await renew(held))
        return renewed[-1]

    monkeypatch.setattr(brief.claims, "renew", noted)
    async with rig.working(brief), downloading(rig, brief, seconds=3.0) as generation_id:
        async with rig.pool.acquire() as other, other.transaction():
            await other.execute("SELECT FROM reconciler.work FOR UPDATE")
            await until(lambda: set() in renewed, what="a renewal that skips the row")
        await rig.delivered(generation_id)
    assert parts.metrics.leases_lost._value.get() == 0


async def test_a_visit_that_lost_its_lease_is_cancelled_and_writes_nothing(rig: Rig, parts: Parts) -> None:
    """F8: a process that was stopped past its lease."""
    brief = rig.broad(parts, term=0.6)
    async with rig.working(brief), downloading(rig, brief) as generation_id:
        await rig.books.set(generation_id, "lease = gen_random_uuid(), due_at = now() + interval '1 hour'")
        before = await rig.books.everything()
        await until(lambda: not brief.worker._visits, what="the visit is cancelled")
        assert parts.metrics.leases_lost._value.get() == 1
        assert await rig.books.everything() == before
        assert rig.names() == []


async def test_work_of_a_dead_instance_is_taken_over_when_its_lease_ends(rig: Rig, parts: Parts) -> None:
    """F6 and F7: an instance dies without a word."""
    generation_id = await rig.order(results=(MediaSpec(), MediaSpec()))
    await rig.books.claim(generation_id, term=1.0)
    brief = rig.broad(parts, term=1.0, sweep=0.2)
    async with rig.working(brief):
        await rig.delivered(generation_id, within=4)
    await rig.proves(generation_id)


@pytest.mark.soak
async def test_a_row_that_the_application_locks_costs_no_other_row_its_lease_or_its_wake(
    rig: Rig, parts: Parts
) -> None:
    """Law 10: our write waits for the application, and holds our own row meanwhile."""
    brief = rig.broad(parts, term=3.0, sweep=0.3)
    other = rig.broad(parts, term=3.0)
    stuck = await rig.order()
    async with rig.pool.acquire() as application:
        lock = application.transaction()
        await lock.start()
        await application.execute("SELECT FROM public.generations FOR UPDATE")
        async with rig.working(brief), downloading(rig, brief, seconds=7.0) as slow:
            brief.worker.wake(stuck)
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            await until(lambda: rig.pool.fetchval(waiting), what="the write that waits")
            brief.worker.wake(stuck, Trigger.CALLBACK)
            fresh = await rig.order()
            brief.worker.wake(fresh)
            await rig.delivered(fresh)

            async def delivered() -> bool:
                assert await other.claims.due(1) == []
                return (await rig.books.generation(slow))["status"] == "success"

            await until(delivered, within=30, what="the slow delivery")
            assert rig.kie.counts.downloads == 3, "each of the three is fetched once"
            assert parts.metrics.leases_lost._value.get() == 0
            await lock.rollback()
            await rig.delivered(stuck)
    assert await rig.books.events(stuck) == ["succeeded"]


async def test_a_drain_lets_running_visits_end(rig: Rig, parts: Parts) -> None:
    async with rig.working(parts), downloading(rig, parts, seconds=0.5) as generation_id:
        await parts.worker.drain(10)
        assert (await rig.books.generation(generation_id))["status"] == "success"


async def test_a_drain_gives_back_visits_that_do_not_end_in_time_and_another_instance_continues(
    rig: Rig, parts: Parts
) -> None:
    async with rig.working(parts), downloading(rig, parts) as generation_id:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await parts.worker.drain(0.2)
        assert loop.time() - began < 3
        assert await free(rig, generation_id) <= 5
    assert rig.names() == []
    async with rig.instance() as successor:
        await rig.visit(successor, generation_id)
    await rig.proves(generation_id)


async def test_nothing_is_claimed_once_the_drain_has_begun(rig: Rig, parts: Parts) -> None:
    async with rig.working(parts):
        await parts.worker.drain(1)
        generation_id = await rig.order()
        parts.worker.wake(generation_id)
        await parts.worker.drain(0)
    assert await rig.books.work(generation_id) is None


@pytest.fixture
def claim(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Two events: a claim was sent to the database; its answer may arrive."""
    drawn, answered = asyncio.Event(), asyncio.Event()
    take = parts.claims.take

    async def slow(wakes: Mapping[str, Trigger], *, limit: int, ended: int) -> WakeResult:
        taken = await take(wakes, limit=limit, ended=ended)
        drawn.set()
        await answered.wait()
        return taken

    monkeypatch.setattr(parts.claims, "take", slow)
    return drawn, answered


async def test_a_claim_that_was_under_way_when_the_drain_began_is_given_back(
    rig: Rig, parts: Parts, claim: tuple[asyncio.Event, asyncio.Event]
) -> None:
    drawn, answered = claim
    generation_id = await rig.order(life=never())
    async with rig.working(parts):
        parts.worker.wake(generation_id)
        await drawn.wait()
        draining = asyncio.create_task(parts.worker.drain(5))
        await until(lambda: parts.worker.draining, what="the drain")
        answered.set()
        await draining
    assert await free(rig, generation_id) < 1
    assert rig.kie.counts.records == 0


async def test_a_slow_claim_is_waited_for_and_given_back(
    rig: Rig, parts: Parts, claim: tuple[asyncio.Event, asyncio.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled, it would leave rows that no visit holds until their leases end."""
    monkeypatch.setattr(worker, "RELEASE_SECONDS", 0.05)
    drawn, answered = claim
    generation_id = await rig.order(life=never())
    async with rig.working(parts):
        parts.worker.wake(generation_id)
        await drawn.wait()
        asyncio.get_running_loop().call_later(0.5, answered.set)
        await parts.worker.drain(30)
    assert await free(rig, generation_id) < 1


async def test_a_row_that_is_just_being_written_when_it_is_given_back_is_given_back_after_that(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = asyncio.Event()
    release = parts.claims.release

    async def noted(held: Sequence[Claim], *, seconds: float = 5.0) -> None:
        await release(held, seconds=seconds)
        released.set()

    monkeypatch.setattr(parts.claims, "release", noted)
    async with rig.working(parts), downloading(rig, parts) as generation_id:
        async with rig.pool.acquire() as other, other.transaction():
            await other.execute("SELECT FROM reconciler.work FOR UPDATE")
            draining = asyncio.create_task(parts.worker.drain(0.1))
            await released.wait()
            assert (await rig.books.work(generation_id) or {})["lease"] is not None
        await draining
        assert await free(rig, generation_id) <= 5


async def test_a_second_signal_while_rows_are_given_back_leaves_none_to_its_lease(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = asyncio.Event()

    async def hanging(held: Sequence[Claim], *, seconds: float = 5.0) -> None:
        began.set()
        await asyncio.Event().wait()

    async with rig.working(parts), downloading(rig, parts) as generation_id:
        with monkeypatch.context() as slow:
            slow.setattr(parts.claims, "release", hanging)
            draining = asyncio.create_task(parts.worker.drain(0.1))
            await began.wait()
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)
        await parts.worker.drain(0)
        assert await free(rig, generation_id) <= 5


async def test_a_lease_that_is_lost_by_our_clock_alone_is_given_back(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop stood still for a while, and the database still holds the row for us."""

    async def late(*_: object) -> None:
        raise LeaseLost

    monkeypatch.setattr(parts.worker.visitor, "visit", late)
    generation_id = await rig.order()
    async with rig.working(parts):
        parts.worker.wake(generation_id)
        await until(parts.metrics.leases_lost._value.get, what="the lease is lost")
        assert 0 < await free(rig, generation_id) <= 5


async def test_a_generation_that_one_process_delivers_twice_at_once_breaks_neither_visit(
    rig: Rig, parts: Parts
) -> None:
    async with rig.working(parts), downloading(rig, parts, seconds=2.0) as generation_id:
        await rig.abandoned(generation_id)
        parts.worker.stir()
        await rig.delivered(generation_id)
        await until(lambda: not parts.worker.in_hand, what="both visits have ended")
    assert parts.metrics.failures.labels("visit", "broke")._value.get() == 0
    assert parts.deliverer.transfers == {}


async def test_a_row_whose_visit_lost_the_database_does_not_wait_for_its_lease_to_end(rig: Rig) -> None:
    async with Proxy(rig.dsn) as proxy, rig.instance(DATABASE_URL=proxy.dsn) as parts:
        brief = rig.broad(parts, term=60.0, sweep=0.3)
        async with rig.working(brief), downloading(rig, brief, seconds=0.5) as generation_id:
            await proxy.refuse()
            await until(lambda: not brief.worker._visits, what="the visit is interrupted")
            assert (await rig.books.generation(generation_id))["status"] == "queued"
            proxy.mend()
            await rig.delivered(generation_id, within=20)
            await rig.proves(generation_id)
            assert await rig.books.events(generation_id) == ["succeeded"]


async def test_a_claim_whose_answer_was_lost_costs_no_lease(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = rig.broad(parts, term=60.0, sweep=60.0)
    take, lost = patient.pools.claims.fetch, 0

    async def without_answer(sql: str, *args: object) -> Any:
        nonlocal lost
        rows = await take(sql, *args)
        if "reconciler.work" in sql and rows and "claimed" in rows[0] and not lost:
            lost += 1
            raise Transient("the database is away", code="database_away")
        return rows

    monkeypatch.setattr(patient.pools.claims, "fetch", without_answer)
    generation_id = await rig.order()
    patient.worker.wake(generation_id)
    async with rig.working(patient):
        await rig.delivered(generation_id, within=20)
    assert lost == 1
    await rig.proves(generation_id)


async def test_the_loop_outlives_a_database_that_is_away_and_keeps_its_wakes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed: list[str] = []
    async with Proxy(rig.dsn) as proxy, rig.instance(DATABASE_URL=proxy.dsn) as parts:
        take = parts.claims.take

        async def noted(wakes: Mapping[str, Trigger], *, limit: int, ended: int) -> WakeResult:
            claimed.extend(wakes)
            return await take(wakes, limit=limit, ended=ended)

        monkeypatch.setattr(parts.claims, "take", noted)
        await proxy.refuse()
        generation_id = await rig.order()
        parts.worker.wake(generation_id)
        async with rig.working(parts):
            await until(lambda: claimed.count(generation_id) == 2, what="the wake is tried again")
            assert parts.database.trouble is not None
            proxy.mend()
            await rig.delivered(generation_id, within=5)
        assert parts.database.trouble is None


@pytest.mark.soak
async def test_a_drain_ends_in_time_while_the_database_is_away(rig: Rig) -> None:
    """F15: hangs at shutdown."""
    loop = asyncio.get_running_loop()
    async with Proxy(rig.dsn) as proxy:
        async with rig.instance(DATABASE_URL=proxy.dsn) as parts:
            async with rig.working(parts), downloading(rig, parts):
                proxy.swallow()
                began = loop.time()
                await parts.worker.drain(0.5)
                assert loop.time() - began < 6
            closing = loop.time()
        assert loop.time() - closing < 4
