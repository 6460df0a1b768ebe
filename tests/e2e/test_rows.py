"""Unusual rows: tasks made with any key, two rows for one task, rows cancelled, changed or deleted during a visit."""

from __future__ import annotations

import pytest

from reconciler.simulator import MediaSpec, Simulator
from testkit.stage import KEY, Rig
from testkit.waiting import until

pytestmark = pytest.mark.soak

RING = {"KIE_API_KEY": "", "KIE_API_KEY_PHOTO": KEY, "KIE_API_KEY_VIDEO_POOL": "key-for-videos"}
SECRETS = (KEY, "key-for-videos")


@pytest.fixture
def kie() -> Simulator:
    return Simulator(keys=SECRETS, limits=False)


async def test_tasks_made_with_any_key_of_the_ring_are_found(rig: Rig) -> None:
    ids = [await rig.order(key=secret) for secret in SECRETS]
    ids += [await rig.order(key=secret, results=[MediaSpec(kind="video", ext="mp4")]) for secret in SECRETS]
    replica = await rig.run(**RING)
    await rig.delivered(ids, within=30)
    assert rig.kie.counts.refused == 0
    assert [task.polls for task in rig.kie.tasks.values()] == [1] * 4
    assert not any(secret in str(replica.log) for secret in SECRETS)


async def test_each_of_two_rows_with_one_task_is_delivered(rig: Rig) -> None:
    task_id = rig.kie.add_task(results=[MediaSpec(), MediaSpec(ext="jpg")])
    await rig.run()
    ids = [await rig.insert(task_id), await rig.insert(task_id)]
    await rig.delivered(ids)
    assert len(rig.keys()) == 4


@pytest.mark.parametrize("status", ["cancelled", "archived"])
async def test_a_row_that_is_cancelled_during_a_visit_is_left_alone(rig: Rig, status: str) -> None:
    await rig.pool.execute("ALTER TABLE public.generations DROP CONSTRAINT generations_status_check")
    rig.kie.slow_seconds = 3.0
    task_id = rig.kie.add_task()
    rig.kie.strike("file.slow", task=task_id)
    replica = await rig.run()
    taken = await rig.insert(task_id)
    await rig.struck("file.slow", 1)
    witness = await rig.witness()
    await rig.pool.execute("UPDATE public.generations SET status = $2 WHERE id::text = $1", taken, status)

    async def is_left() -> bool:
        return (await rig.work(taken))["due_at"] is None and not await rig.held()

    await until(is_left, what="a row that is left alone")
    assert status in (await rig.work(taken))["why"]
    assert await witness.statuses(taken) == [status]
    assert await rig.pool.fetchval("SELECT count(*) FROM reconciler.events") == 0
    await rig.delivered([await rig.order()])
    assert replica.said("visit.broke") == []


async def test_a_row_that_gets_another_task_during_a_visit_gets_that_tasks_results(rig: Rig) -> None:
    rig.kie.slow_seconds = 3.0
    first, second = rig.kie.add_task(), rig.kie.add_task(results=[MediaSpec(ext="webp"), MediaSpec()])
    rig.kie.strike("file.slow", task=first)
    await rig.run()
    moved = await rig.insert(first)
    await rig.struck("file.slow", 1)
    await rig.pool.execute("UPDATE public.generations SET task_id = $2 WHERE id::text = $1", moved, second)
    await rig.delivered([moved])
    assert await rig.pool.fetchval("SELECT count(*) FROM reconciler.events WHERE kind = 'succeeded'") == 1


async def test_a_row_that_is_deleted_during_a_visit_leaves_only_orphans(rig: Rig) -> None:
    rig.kie.slow_seconds = 3.0
    task_id = rig.kie.add_task(results=[MediaSpec(), MediaSpec(ext="jpg")])
    rig.kie.strike("file.slow", task=task_id, n=1)
    await rig.run()
    deleted = await rig.insert(task_id)
    await until(rig.keys, what="a first result that is stored")
    await rig.pool.execute("DELETE FROM public.generations")

    async def is_forgotten() -> bool:
        return await rig.work(deleted) is None

    await until(is_forgotten, what="a row that is forgotten")
    orphans = await rig.pool.fetch("SELECT path FROM reconciler.orphans")
    assert {orphan["path"] for orphan in orphans} >= set(rig.keys())
