"""Random faults everywhere, from a seed: every generation still arrives, complete and once."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack

import pytest

from reconciler.bootstrap import Parts
from reconciler.domain.model import Trigger
from reconciler.errors import LeaseLost, Transient
from reconciler.postgres import rate_limit
from reconciler.simulator import MediaSpec
from testkit.standins.storage.faults import at_random
from tests.worker.rig import Rig

KINDS = (
    MediaSpec(),
    MediaSpec(ext="webp", size=5_000),
    MediaSpec("video", "mp4", size=200_000),
    MediaSpec("audio", "mp3", size=30_000),
)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_three_instances_among_faults_deliver_everything_once(
    supabase_rig: Rig, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rig, dice = supabase_rig, random.Random(seed)
    assert rig.storage is not None
    monkeypatch.setattr(rate_limit, "WINDOW", 0.02)
    rig.kie.seed, rig.kie.faults, rig.kie.slow_seconds = seed, 0.4, 0.02
    rig.storage.faults.roll = at_random(0.15, seed)
    ids = [await rig.order(results=dice.choices(KINDS, k=dice.randint(1, 4))) for _ in range(40)]
    async with AsyncExitStack() as stack:
        instances = [await stack.enter_async_context(rig.instance()) for _ in range(3)]
        async with asyncio.timeout(60), asyncio.TaskGroup() as workers:
            for instance in instances:
                workers.create_task(visiting(rig, instance, list(ids), dice))
        rig.storage.faults.clear()
    for generation_id in ids:
        await rig.proves(generation_id)
        assert await rig.books.events(generation_id) == ["succeeded"]
    assert rig.storage.twice() == {}
    assert len(rig.names()) == sum(len(task.results) for task in rig.kie.tasks.values())
    assert await rig.pool.fetch("SELECT path FROM reconciler.orphans") == []
    assert sum(rig.kie.counts.faults.values()) > 20


async def visiting(rig: Rig, instance: Parts, ids: list[str], dice: random.Random) -> None:
    """Visit these until all are delivered; now and then end a lease, as if its instance had died."""
    while ids:
        generation_id = dice.choice(ids)
        if dice.random() < 0.1:
            await rig.pool.execute(
                "UPDATE reconciler.work SET lease_until = now() WHERE generation_id = $1 AND lease IS NOT NULL",
                generation_id,
            )
        try:
            await instance.worker.once(generation_id, Trigger.SYNC)
        except (LeaseLost, Transient):
            continue
        if (await rig.books.generation(generation_id))["status"] == "success":
            ids.remove(generation_id)
