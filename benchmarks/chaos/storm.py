"""The storm: generations are ordered, faults strike and overlap, and afterwards everything has arrived once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.shop import AWAY, LOOK, Verdict, arrival, order, verdict
from benchmarks.chaos.world import Terms, World, world

BURST = (6, 10)
GAP = (0.5, 1.5)
"""Faults of one burst, and seconds between the beginnings of two: about three are under way at once."""

PACE = 3.5
"""Seconds that a fault takes of the whole, its share of the calm after the burst included: the shop orders by it."""

SLEEPS = "replica stopped past its leases"
"""The fault that outlasts the others by half a minute: neither the calm nor the next burst waits for it."""

LATE = 60.0
"""Seconds after which a recovery is late: what then waits is printed with its reason."""

QUIET = 180.0
"""Seconds that everything has to arrive after the last fault."""


@dataclass(frozen=True, slots=True)
class Struck:
    """One fault: what it was, the seconds it lasted, the seconds until all that waited when it ended had arrived."""

    name: str
    lasted: float
    recovery: float


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it; `creates` counts createTask calls."""

    struck: Sequence[Struck]
    generations: int
    found: Verdict
    creates: int


async def storm(folder: Path, *, seed: int, faults: int, generations: int, replicas: int, terms: Terms) -> Result:
    """Let so many faults strike in bursts while so many generations are made, and look what has become of them.

    No recovery can end while the world stays bad: after each burst it is good until all that waited has arrived.
    """
    dice = random.Random(seed)
    async with world(folder, replicas=replicas, seed=seed, terms=terms) as on:
        shop = asyncio.create_task(_shop(on, random.Random(dice.random()), generations, PACE * faults / generations))
        names, striking = _drawn(dice, faults), []
        while names:
            waited = []
            for name in [names.pop() for _ in range(min(dice.randint(*BURST), len(names)))]:
                await asyncio.sleep(dice.uniform(*GAP))
                striking.append(asyncio.create_task(_strike(on, name, random.Random(dice.random()))))
                waited += [] if name == SLEEPS else striking[-1:]
            await asyncio.gather(*waited)
        struck = await asyncio.gather(*striking)
        return await _result(on, await shop, struck)


def _drawn(dice: random.Random, count: int) -> list[str]:
    """Every kind as often as the others, in any order."""
    names = [list(FAULTS)[n % len(FAULTS)] for n in range(count)]
    dice.shuffle(names)
    return names


async def _shop(on: World, dice: random.Random, count: int, pause: float) -> list[str]:
    """The application: it goes on ordering whenever its own database is there."""
    made: list[str] = []
    while len(made) < count:
        await asyncio.sleep(pause)
        made.append(await order(on, dice, life=dice.uniform(0, 12)))
    return made


async def _strike(on: World, name: str, dice: random.Random) -> Struck:
    began = time.monotonic()
    async with FAULTS[name](on, dice):
        await asyncio.sleep(dice.uniform(0.2, 6.0))
    ended = time.monotonic()
    waiting, said = await _waiting(on), False
    while waiting:
        await asyncio.sleep(LOOK)
        waiting &= await _waiting(on)
        if time.monotonic() - ended > QUIET:
            break
        if time.monotonic() - ended > LATE and not said:
            said = True
            print(f"{name}: {len(waiting)} wait {LATE:g} s after it: {await _reasons(on, waiting)}", file=sys.stderr)
    return Struck(name, ended - began, time.monotonic() - ended)


async def _reasons(on: World, waiting: set[str]) -> list[str]:
    """Return due time, lease, polls, failures, finding and reason of the first five of these rows."""
    with contextlib.suppress(*AWAY):
        rows = await on.rig.pool.fetch(
            "SELECT generation_id, due_at - now(), lease_until - now(), looks, misses, finding, why"
            "  FROM reconciler.work WHERE generation_id = ANY($1) ORDER BY due_at LIMIT 5",
            list(waiting),
        )
        return [str(tuple(row)) for row in rows]
    return ["the database is away"]


async def _waiting(on: World) -> set[str]:
    """Generations whose task has ended at KIE, and that are not delivered; a database that is away is waited for."""
    now = on.rig.kie.clock.now()
    done = [task.id for task in on.rig.kie.tasks.values() if now >= task.ends]
    while True:
        with contextlib.suppress(*AWAY):
            rows = await on.rig.pool.fetch(
                "SELECT id::text FROM public.generations WHERE status <> 'success' AND task_id = ANY($1)", done
            )
            return {row["id"] for row in rows}
        await asyncio.sleep(LOOK)


async def _result(on: World, ids: Sequence[str], struck: Sequence[Struck]) -> Result:
    await arrival(on, within=QUIET)
    found = await verdict(on, ids, list(on.rig.kie.tasks))
    return Result(struck, len(ids), found, on.rig.kie.counts.creates)
