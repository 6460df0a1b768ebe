"""One large video from KIE into storage: how much memory the daemon takes for it, and how fast it is.

`make bench` delivers 1 GB; `python -m benchmarks.large --gib 4` any size, and says what the daemon took at most.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import dataclass

import asyncpg
import psutil

from benchmarks.stage import backlog, program, stage

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Large:
    """MiB a second through the daemon, the MiB that its resident memory grew by at most, and what it was at most."""

    rate: float
    growth: float
    peak: float


async def measure(*, size: int = 1 << 30) -> Large:
    """Deliver a small video first, so that everything is loaded, then the large one."""
    await _deliver(8 * MIB)
    return await _deliver(size)


async def _deliver(size: int) -> Large:
    async with stage(media_size=size) as on, asyncpg.create_pool(on.dsn, min_size=1, max_size=1) as pool:
        with program("-m", "reconciler", "run", environment=on.environment()) as process:
            while not await pool.fetchval("SELECT EXISTS (SELECT FROM reconciler.instances)"):
                await asyncio.sleep(0.05)
            daemon = psutil.Process(process.pid)
            before = daemon.memory_info().rss
            await backlog(on, pool, count=1, model="kling-2.6/text-to-video")
            began, peak = time.perf_counter(), before
            while await pool.fetchval("SELECT count(*) FROM public.generations WHERE status = 'success'") < 1:
                assert time.perf_counter() - began < 300, "the video was not delivered"
                peak = max(peak, daemon.memory_info().rss)
                await asyncio.sleep(0.02)
            return Large(size / MIB / (time.perf_counter() - began), (peak - before) / MIB, peak / MIB)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large")
    parser.add_argument("--gib", type=int, default=4)
    found = asyncio.run(measure(size=parser.parse_args().gib << 30))
    print(f"{found.rate:.0f} MiB/s; resident at most {found.peak:.0f} MiB, {found.growth:.0f} more than before")
