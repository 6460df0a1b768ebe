"""The application in the storm: it orders, and checks afterwards that everything has arrived once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import asyncpg

from benchmarks.chaos.world import World
from reconciler.simulator import MediaSpec

SHAPES = ("png", "jpg", "webp")
LOOK = 0.25
AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What the shop meets when its own database is away."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of some orders: generations that did not arrive, generations or objects that came twice.

    `refunded_twice` counts the refunds beyond the first of each generation.
    """

    lost: Sequence[str]
    doubled: Sequence[str]
    refunded_twice: int


async def order(on: World, dice: random.Random, *, life: float) -> str:
    """Have something made that takes so many seconds, and return the generation's id once its row is written."""
    if dice.random() < 0.04:
        results = [MediaSpec(kind="video", ext="mp4", size=dice.randrange(6 << 20, 10 << 20))]
    else:
        pictures = dice.choice((1, 1, 1, 1, 2, 6))
        results = [MediaSpec(ext=dice.choice(SHAPES), size=dice.randrange(20_000, 400_000)) for _ in range(pictures)]
    task_id = on.rig.kie.add_task(life=life, results=results)
    while True:
        try:
            return await on.rig.insert(task_id, kind=results[0].kind, age=0.0)
        except AWAY:
            await asyncio.sleep(0.2)


async def arrival(on: World, *, within: float) -> bool:
    """Wait until every row is a success; False where that takes longer than so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        with contextlib.suppress(*AWAY):
            if await on.rig.pool.fetchval(
                "SELECT NOT EXISTS (SELECT FROM public.generations WHERE status <> 'success')"
            ):
                return True
        await asyncio.sleep(LOOK)
    return False


async def verdict(on: World, ids: Sequence[str], tasks: Collection[str]) -> Verdict:
    """Compare every byte of these generations with its source, and count what was made for their tasks."""
    lost = [generation_id for generation_id in ids if not await _arrived(on, generation_id)]
    # A crash may hide from the shop that its row was written: then it has ordered twice, and both rows are served.
    rows = await on.rig.pool.fetch("SELECT id::text, task_id FROM public.generations WHERE task_id = ANY($1)", tasks)
    names = {row["id"] for row in rows}
    told = await on.rig.pool.fetch(
        "SELECT generation_id FROM reconciler.events WHERE kind = 'succeeded' AND generation_id = ANY($1)", names
    )
    times = Counter(row["generation_id"] for row in told)
    doubled = [name for name in names if times[name] > 1]
    doubled += [key for key in on.storage.twice() if _generation(key) in names]
    wanted = sum(len(on.rig.kie.tasks[row["task_id"]].results) for row in rows)
    stored = sum(_generation(key) in names for key in on.storage.objects)
    if stored != wanted:
        (doubled if stored > wanted else lost).append(f"{stored} objects for {wanted} results")
    return Verdict(lost, doubled, await _refunded_twice(on))


async def _refunded_twice(on: World) -> int:
    if await on.rig.pool.fetchval("SELECT to_regclass('public.refunds') IS NULL"):
        return 0
    count: int = await on.rig.pool.fetchval("SELECT count(*) - count(DISTINCT generation_id) FROM public.refunds")
    return count


def _generation(key: str) -> str:
    return key.rpartition("/")[2].rpartition("_")[0]


async def _arrived(on: World, generation_id: str) -> bool:
    try:
        await on.rig.prove(generation_id)
    except (AssertionError, TypeError):
        return False
    return True
