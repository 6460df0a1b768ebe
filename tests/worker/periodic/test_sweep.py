"""The sweep: a generation that no notification announced is found, within seconds where the listener hears nothing."""

from __future__ import annotations

from reconciler.bootstrap import Parts
from reconciler.bootstrap.http import route_services
from reconciler.bootstrap.periodic import PeriodicTasks, listener
from testkit.waiting import until
from tests.worker.periodic.daemon_tasks import built, running, task
from tests.worker.rig import Rig, counts_delivery


async def test_a_row_that_no_notification_announced_is_found_by_the_sweep(rig: Rig, parts: Parts) -> None:
    async with rig.working(parts), running(built(parts, sweep=0.3)):
        generation_id = await rig.order()
        await rig.delivered(generation_id, within=5)
        # The row says success before its visit is counted, and the end of this block cancels visits.
        await counts_delivery(parts, "sweep")
    await rig.proves(generation_id)


async def test_every_start_of_listening_is_followed_by_a_sweep(rig: Rig, parts: Parts) -> None:
    async with rig.working(parts), running(built(parts)) as periodic:
        periodic.sweep.listener.record_canary(0.01)
        await until(lambda: parts.metrics.last_sweep._value.get() > 0, what="the first sweep")
        generation_id = await rig.order()
        listener(parts, periodic, route_services(parts).hub, None).on_connected()
        await rig.delivered(generation_id, within=5)


async def test_a_deaf_listener_makes_the_sweep_come_more_often(rig: Rig, parts: Parts) -> None:
    periodic = built(parts, sweep=3.0)
    periodic.sweep._finished_at -= 1.5
    assert await made_up(rig, periodic)
    periodic.sweep.listener.record_canary(0.01)
    periodic.sweep._finished_at -= 1.5
    assert not await made_up(rig, periodic)


async def made_up(rig: Rig, periodic: PeriodicTasks) -> bool:
    """Whether the sweep that makes up for a deaf listener finds a new row."""
    generation_id = await rig.order()
    await task(periodic, "make_up").run_once()
    return await rig.books.work(generation_id) is not None
