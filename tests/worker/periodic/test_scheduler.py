"""The timed passes: what no notification told is found, one instance leads, and one broken round breaks no other."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from reconciler.bootstrap import Parts
from reconciler.daemon import _rounds
from reconciler.errors import Transient
from reconciler.postgres.heartbeat import Heartbeat
from reconciler.postgres.reports.activity import ActivityReader
from reconciler.simulator import never
from reconciler.worker.periodic.scheduler import Every, PeriodicTasks
from testkit.rows import HOUR
from testkit.waiting import until
from tests.worker.rig import Rig


def rounds(parts: Parts, *, sweep: float = 60.0) -> PeriodicTasks:
    """The daemon's own rounds, with other intervals."""
    made = _rounds(parts, Heartbeat(parts.database, parts.instance, term=30.0))
    made._every = Every(sweep=sweep, presence=10.0)
    return made


@asynccontextmanager
async def running(made: PeriodicTasks) -> AsyncIterator[PeriodicTasks]:
    made.start()
    try:
        yield made
    finally:
        made.stop()


async def test_a_row_that_no_notification_told_of_is_found_by_the_sweep(rig: Rig, parts: Parts) -> None:
    async with rig.working(parts), running(rounds(parts, sweep=0.3)):
        generation_id = await rig.order()
        await rig.delivered(generation_id, within=5)
    await rig.proves(generation_id)
    assert parts.metrics.deliveries.labels("delivered", "sweep")._value.get() == 1


async def test_what_has_gone_from_storage_is_delivered_once_more_by_itself(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order()
    await rig.visit(parts, generation_id)
    row = await rig.proves(generation_id)
    path = await rig.pool.fetchval("SELECT path FROM reconciler.assets")
    await parts.store.remove([path])
    await rig.books.set(generation_id, "audit_at = now()")

    async def repaired() -> bool:
        return await rig.books.events(generation_id) == ["succeeded", "repaired"]

    async with rig.working(parts), running(rounds(parts)):
        await until(repaired, what="the repair")
    assert await rig.proves(generation_id) == row


async def test_who_only_observes_deletes_no_failure(rig: Rig) -> None:
    await rig.insert(None, status="failed", age=40 * 86400)
    async with rig.instance(observe=True) as watching:
        made = rounds(watching)
        await made.attend()
        await made.upkeep()
    assert await left(rig) == 1


async def test_every_gap_in_hearing_ends_in_a_sweep(rig: Rig, parts: Parts) -> None:
    async with rig.working(parts), running(rounds(parts)) as made:
        made.heard(0.01)
        await until(lambda: parts.metrics.last_sweep._value.get() > 0, what="the first sweep")
        generation_id = await rig.order()
        made.gap()
        await rig.delivered(generation_id, within=5)


async def test_a_deaf_listener_makes_the_sweep_come_more_often(rig: Rig, parts: Parts) -> None:
    made = rounds(parts, sweep=3.0)
    made._swept_at -= 1.5
    found = await swept(rig, made)
    assert found
    made.heard(0.01)
    made._swept_at -= 1.5
    assert not await swept(rig, made)


async def test_a_sweep_that_does_not_end_holds_no_pulse_up(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    never = asyncio.Event()
    monkeypatch.setattr(parts.claims, "discover", never.wait)
    made = rounds(parts)
    made._swept_at -= 100
    async with running(made):
        before = made.pulse
        await until(lambda: made.pulse > before + 1.5, what="a pulse that goes on")
        assert not made.swept


async def test_memory_is_given_back_again_and_again(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[None] = []
    monkeypatch.setattr("reconciler.worker.periodic.scheduler.give_back", lambda: given.append(None))
    made = rounds(parts)
    made._every = Every(sweep=60.0, presence=10.0, tidy=0.05)
    async with running(made):
        await until(lambda: len(given) > 2, what="a third time")


async def swept(rig: Rig, made: PeriodicTasks) -> bool:
    generation_id = await rig.order()
    await made.make_up()
    return await rig.books.work(generation_id) is not None


async def test_one_instance_draws_the_figures_and_the_other_shows_none(rig: Rig, parts: Parts) -> None:
    await rig.order(life=never())
    async with rig.instance() as other:
        leads, follows = rounds(parts), rounds(other)
        await leads.attend()
        await follows.attend()
        assert [one.metrics.is_leader._value.get() for one in (parts, other)] == [1, 0]
        for made in (leads, follows):
            await made.snapshot()
        assert parts.metrics.in_flight.labels("queued")._value.get() == 1
        assert parts.metrics.instances._value.get() == 2
        assert math.isnan(other.metrics.in_flight.labels("queued")._value.get())


async def test_a_leader_whose_snapshot_fails_shows_no_figures_of_the_past(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unanswered() -> None:
        raise Transient("too slow", code="timeout")

    await rig.order(life=never())
    made = rounds(parts)
    await made.attend()
    await made.snapshot()
    assert parts.metrics.instances._value.get() == 1
    with monkeypatch.context() as patched:
        patched.setattr(parts.reports, "snapshot", unanswered)
        with pytest.raises(Transient):
            await made.snapshot()
    assert math.isnan(parts.metrics.instances._value.get())
    assert math.isnan(parts.metrics.in_flight.labels("queued")._value.get())
    await made.snapshot()
    assert parts.metrics.in_flight.labels("queued")._value.get() == 1


async def test_a_replica_says_what_it_is_doing_each_second_only_while_somebody_watches(rig: Rig, parts: Parts) -> None:
    seen = "SELECT seen_at FROM reconciler.instances"
    made = rounds(parts)
    await made.attend()
    first = await rig.pool.fetchval(seen)
    await made.show()
    assert await rig.pool.fetchval(seen) == first

    await ActivityReader(parts.database, alive=HOUR).watch()
    await made.attend()
    second = await rig.pool.fetchval(seen)
    await made.show()
    third = await rig.pool.fetchval(seen)
    assert first < second < third

    await rig.pool.execute("UPDATE reconciler.watching SET until = now()")
    await made.show()
    fourth = await rig.pool.fetchval(seen)
    await made.show()
    assert third < fourth == await rig.pool.fetchval(seen)


async def test_what_the_leader_learns_is_what_everybody_goes_by(rig: Rig, parts: Parts) -> None:
    await rig.pool.executemany("INSERT INTO reconciler.timings (model, took) VALUES ('flux', $1)", [(40.0,)] * 30)
    async with rig.instance() as other:
        leads, follows = rounds(parts), rounds(other)
        await leads.attend()
        await follows.attend()
        await follows.pace()
        assert other.current.limits.curves == {}
        await leads.pace()
        await follows.pace()
        assert other.current.limits.curves == parts.current.limits.curves
        assert set(parts.current.limits.curves) == {"flux"}


async def test_only_the_leader_deletes_and_asks_for_credit_and_nobody_deletes_where_the_days_are_none(
    rig: Rig, parts: Parts
) -> None:
    await rig.insert(None, status="failed", age=40 * 86400)
    made = rounds(parts)
    for round_ in (made.upkeep, made.credit):
        await round_()
    assert await left(rig) == 1
    assert rig.kie.counts.credits == 0
    await made.attend()
    made._bearings = replace(made._bearings, retention_days=0)
    await made.upkeep()
    assert await left(rig) == 1
    made._bearings = replace(made._bearings, retention_days=30)
    for round_ in (made.upkeep, made.credit):
        await round_()
    assert await left(rig) == 0
    assert parts.metrics.kie_credits._value.get() == rig.kie.credits


async def left(rig: Rig) -> int:
    count: int = await rig.pool.fetchval("SELECT count(*) FROM public.generations")
    return count


async def test_a_round_that_breaks_comes_again_and_breaks_no_other(rig: Rig, parts: Parts) -> None:
    broken = 0

    async def breaks(_: object) -> None:
        nonlocal broken
        broken += 1
        raise ZeroDivisionError

    async with rig.working(parts):
        made = rounds(parts, sweep=0.3)
        made._eyes = replace(made._eyes, presence=Broken(breaks))  # type: ignore[arg-type]
        made._every = Every(sweep=0.3, presence=0.1)
        with capture_logs() as lines:
            async with running(made):
                generation_id = await rig.order()
                await rig.delivered(generation_id, within=5)
                await until(lambda: broken >= 2, what="the broken round comes again")
        told = [line["round"] for line in lines if line["event"] == "round.broke"]
        assert set(told) == {"attend"}


class Broken:
    """A presence that breaks."""

    def __init__(self, beat: object) -> None:
        self.beat = beat


async def test_rounds_that_are_stopped_do_nothing_more(rig: Rig, parts: Parts) -> None:
    async with running(rounds(parts, sweep=0.2)) as made:
        await until(lambda: parts.metrics.last_sweep._value.get() > 0, what="a sweep")
    await until(lambda: not made._scheduler.running, what="the end")
