"""The row is the truth and a notification a hint: without any notification everything is delivered too."""

from __future__ import annotations

import pytest

from reconciler.simulator import MediaSpec
from testkit.stage import Rig
from testkit.waiting import until


@pytest.mark.parametrize("rig", ["supabase", pytest.param("folder", marks=pytest.mark.soak)], indirect=True)
async def test_a_new_row_is_delivered_long_before_the_next_sweep(rig: Rig) -> None:
    replica = await rig.run(RECONCILER_SWEEP_SECONDS="600")
    await until(lambda: replica.said("listener.connected"), what="a listener")
    # Once something was delivered, the sweep that comes with a new listener is over.
    await rig.delivered([await rig.order()])
    await replica.delivers(1)
    swept = await replica.figure("deliveries_total", outcome="delivered", trigger="sweep")
    videos = [MediaSpec(kind="video", ext="mp4", size=7 << 20)]
    ids = [
        await rig.order(),
        await rig.order(results=[MediaSpec(), MediaSpec(ext="jpg")]),
        await rig.order(results=videos),
    ]
    await rig.delivered(ids)
    await replica.delivers(4)
    assert await replica.figure("deliveries_total", outcome="delivered", trigger="notify") >= 1
    assert await replica.figure("deliveries_total", outcome="delivered", trigger="sweep") == swept


async def test_with_the_triggers_dropped_everything_is_delivered_by_the_sweep(rig: Rig) -> None:
    await rig.pool.execute("DROP TRIGGER reconciler_inserted_3 ON public.generations")
    await rig.pool.execute("DROP TRIGGER reconciler_updated_2 ON public.generations")
    before = [await rig.order() for _ in range(5)]
    replica = await rig.run()
    await rig.delivered(before)
    after = [await rig.order() for _ in range(20)]
    untasked = await rig.insert(None)
    await rig.delivered(after)
    await until(lambda: rig.work(untasked), what="a row without a task that was found")
    task = rig.kie.add_task()
    await rig.pool.execute("UPDATE public.generations SET task_id = $2 WHERE id::text = $1", untasked, task)
    await rig.delivered([untasked])
    assert await replica.figure("notifications_total") == 0
