"""Replicas are killed at any moment, as by a power cut: nothing is lost, doubled or moved."""

from __future__ import annotations

import asyncio
import random

import pytest

from reconciler.simulator import MediaSpec, Simulator, never
from testkit.replica import Replica
from testkit.stage import KEY, Rig
from testkit.waiting import until

SEED = 20
ROWS_PER_KILL = 10


@pytest.fixture
def kie() -> Simulator:
    """A KIE with files slow enough that a kill interrupts some of them."""
    return Simulator(keys=(KEY,), limits=False, slow_seconds=0.5, latency=0.02)


def results(dice: random.Random) -> list[MediaSpec]:
    if dice.random() < 0.06:
        return [MediaSpec(kind="video", ext="mp4", size=dice.randrange(7 << 20, 14 << 20))]
    count = 6 if dice.random() < 0.1 else 1
    return [
        MediaSpec(ext=dice.choice(("png", "jpg", "webp")), size=dice.randrange(50_000, 900_000)) for _ in range(count)
    ]


async def ordered(rig: Rig, dice: random.Random, count: int) -> list[str]:
    """Insert rows with tasks that end on demand; a third of their files arrive slowly."""
    ids = []
    for _ in range(count):
        ids.append(await rig.order(life=never(dice.choice(("waiting", "generating"))), results=results(dice)))
    for task_id in rig.kie.tasks:
        if dice.random() < 0.3:
            rig.kie.strike("file.slow", task=task_id)
    return ids


async def chosen(rig: Rig, replicas: list[Replica], dice: random.Random, *, busy: bool) -> Replica:
    """Choose the replica to kill and wait for the moment; `busy`: one that is delivering."""
    victim = dice.choice(replicas)
    if busy:

        async def delivers() -> list[Replica]:
            pids = await rig.delivering()
            return [replica for replica in replicas if replica.pid in pids]

        victim = (await until(delivers, 30, "a replica that delivers"))[0]
    moment = asyncio.get_running_loop().time() + dice.uniform(0, 0.2 if busy else 2.5)
    await until(lambda: asyncio.get_running_loop().time() >= moment)
    return victim


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.soak)], ids=lambda kills: f"{kills} kills")
async def test_kills_lose_nothing_double_nothing_and_move_no_end(rig: Rig, kills: int) -> None:
    dice = random.Random(SEED)
    witness = await rig.witness()
    ids = await ordered(rig, dice, kills * ROWS_PER_KILL)
    tasks = dice.sample(list(rig.kie.tasks), len(ids))
    replicas = [await rig.begin(RECONCILER_POLL_RATE="100") for _ in range(2)]
    for turn in range(kills):
        for task_id in tasks[turn::kills]:
            rig.kie.end(task_id)
        victim = await chosen(rig, replicas, dice, busy=turn % 2 == 0)
        await victim.kill()
        replicas[replicas.index(victim)] = await rig.begin(RECONCILER_POLL_RATE="100")
    await rig.delivered(ids, within=60)
    assert rig.storage is not None
    assert rig.storage.twice() == {}
    assert len(rig.storage.objects) == sum(len(task.results) for task in rig.kie.tasks.values())
    changes = await witness.changes()
    assert [change for change in changes if change.moves_an_end] == []
    assert sorted(change.id for change in changes if change.status == "success") == sorted(ids)
    events = await rig.pool.fetch("SELECT generation_id FROM reconciler.events WHERE kind = 'succeeded'")
    assert sorted(event["generation_id"] for event in events) == sorted(ids)
    assert rig.kie.counts.creates == 0
