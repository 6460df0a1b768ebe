"""Deliveries a second and CPU seconds per 1,000, from a ready backlog: the daemon against the bare script, in turn."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from benchmarks.stage import HERE, KEY, Stage, backlog, cpu, program, script, stage

MODEL = "nano-banana-2"


@dataclass(frozen=True, slots=True)
class Run:
    """One run: deliveries a second, CPU seconds per 1,000 deliveries."""

    rate: float
    cpu: float


async def measure(*, rounds: int, count: int, size: int) -> list[tuple[Run, Run]]:
    """Return pairs of (bare, daemon), measured in turn, the first of each pair alternating."""
    pairs = []
    async with stage(media_size=size) as on, asyncpg.create_pool(on.dsn, min_size=1, max_size=2) as pool:
        for n in range(rounds):
            if n % 2:
                ours = await daemon(on, pool, count)
                bare = await _bare(on, pool, count)
            else:
                bare = await _bare(on, pool, count)
                ours = await daemon(on, pool, count)
            pairs.append((bare, ours))
    return pairs


async def _bare(on: Stage, pool: asyncpg.Pool, count: int) -> Run:
    await backlog(on, pool, count=count, model=MODEL)
    arguments = (on.dsn, on.kie, on.storage, on.storage_key, KEY)
    figures = await asyncio.to_thread(script, "bare", arguments)
    await _all_delivered(pool, count)
    return Run(count / figures["seconds"], figures["cpu"] * 1000 / count)


async def daemon(on: Stage, pool: asyncpg.Pool, count: int, checkout: Path = HERE) -> Run:
    """Measure one run of a checkout's daemon over a fresh backlog."""
    await backlog(on, pool, count=count, model=MODEL)
    with program("-m", "reconciler", "run", environment=on.environment(), checkout=checkout) as process:
        # The clock starts with the first claim: starting an interpreter is not delivering.
        while not await pool.fetchval("SELECT EXISTS (SELECT FROM reconciler.work)"):
            assert process.poll() is None, "the daemon ended"
            await asyncio.sleep(0.005)
        began, spent = time.perf_counter(), cpu(process.pid)
        while await pool.fetchval("SELECT count(*) FROM public.generations WHERE status = 'success'") < count:
            assert process.poll() is None, "the daemon ended"
            assert time.perf_counter() - began < 300, "the daemon did not deliver everything"
            await asyncio.sleep(0.05)
        run = Run(count / (time.perf_counter() - began), (cpu(process.pid) - spent) * 1000 / count)
    await _all_delivered(pool, count)
    return run


async def _all_delivered(pool: asyncpg.Pool, count: int) -> None:
    done = await pool.fetchval("SELECT count(*) FROM public.generations WHERE status = 'success' AND asset_url <> ''")
    assert done == count, f"{done} of {count} delivered"
