"""Each fault alone: it strikes a busy shop once, and the next one waits until everything has arrived."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.shop import Verdict, arrival, order, verdict
from benchmarks.chaos.world import Terms, World, world

PAUSE = 0.3
LIFE = (2.0, 10.0)
"""Seconds between two orders, and how long each takes to be made: about two dozen are in flight."""

BUSY = 7.0
"""Seconds that the shop is busy before anything strikes."""

LATENCY = 0.3
"""Seconds that KIE takes to answer, as it does: every replica holds a few rows when a fault strikes."""

QUIET = 180.0
"""Seconds that everything has to arrive after a fault."""


@dataclass(frozen=True, slots=True)
class Alone:
    """One strike: how long it lasted, and what became of those it met; all in seconds.

    `recovery` is the longest that one of those in flight at its end took from there, or from when its result was made,
    until it was delivered; `wait` the same from the fault's beginning.
    """

    name: str
    lasted: float
    recovery: float
    wait: float
    met: int
    found: Verdict


async def alone(folder: Path, *, seed: int, times: int, replicas: int, terms: Terms) -> tuple[Sequence[Alone], int]:
    """Let every fault strike so many times; return what came of each, and how often createTask was called."""
    dice = random.Random(seed)
    async with world(folder, replicas=replicas, seed=seed, terms=terms, latency=LATENCY) as on:
        struck = []
        for name in FAULTS:
            for _ in range(times):
                struck.append(await _strike(on, name, random.Random(dice.random())))
                for replica in on.replicas:
                    await replica.ready(within=QUIET)
        return struck, on.rig.kie.counts.creates


async def _strike(on: World, name: str, dice: random.Random) -> Alone:
    known = set(on.rig.kie.tasks)
    ids: list[str] = []
    shop = asyncio.create_task(_shop(on, dice, ids))
    await asyncio.sleep(BUSY)
    began = time.time()
    async with FAULTS[name](on, dice):
        await asyncio.sleep(dice.uniform(1.0, 6.0))
        shop.cancel()
    ended = time.time()
    await asyncio.gather(shop, return_exceptions=True)
    await arrival(on, within=QUIET)
    tasks = [task_id for task_id in on.rig.kie.tasks if task_id not in known]
    since_end, since_beginning = await _waits(on, tasks, ended), await _waits(on, tasks, began)
    found = await verdict(on, ids, tasks)
    worst, wait = max(since_end, default=0.0), max(since_beginning, default=0.0)
    return Alone(name, ended - began, worst, wait, len(since_end), found)


async def _shop(on: World, dice: random.Random, ids: list[str]) -> None:
    while True:
        ids.append(await order(on, dice, life=dice.uniform(*LIFE)))
        await asyncio.sleep(PAUSE)


async def _waits(on: World, tasks: Sequence[str], since: float) -> list[float]:
    """Seconds from this moment, or from a later one at which its result was made, to each delivery after it."""
    rows = await on.rig.pool.fetch(
        """SELECT g.task_id, extract(epoch FROM min(e.at))::float8 AS at
             FROM public.generations g JOIN reconciler.events e ON e.generation_id = g.id::text
            WHERE g.task_id = ANY($1) AND e.kind = 'succeeded' GROUP BY g.id""",
        tasks,
    )
    kie = on.rig.kie
    return [
        row["at"] - max(since, kie.clock.epoch(kie.tasks[row["task_id"]].ends)) for row in rows if row["at"] > since
    ]
