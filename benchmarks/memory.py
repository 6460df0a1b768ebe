"""Resident memory under an hour of load, and how fast it still grows: `python -m benchmarks.memory [--minutes N]`.

Two generations a second, most of them pictures, with a twentieth of everything failing on the way, and a scrape every
15 s, with as many deliveries at once as the daemon begins by default. The slope is a line through the means of the
minutes after the warm-up; neighbouring minutes are alike, so that its interval counts them by their correlation.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
import httpx
import psutil

from benchmarks.stage import CREATE, KEY, USER, Stage, free_port, program, set_up

MIB = 1 << 20
RATE = 2.0
SAMPLE = 5.0
"""Seconds between two looks at the daemon's memory."""

SCRAPE = 15.0
MODELS = (*("nano-banana-2",) * 8, "kling-2.6/text-to-video", "elevenlabs/text-to-speech-multilingual-v2")


@dataclass(frozen=True, slots=True)
class Slope:
    """MiB an hour with the bounds of the 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Load:
    """What an hour came to: deliveries, the MiB resident at the first, after the warm-up and at most, the slope."""

    delivered: int
    first: float
    warm: float
    peak: float
    slope: Slope


async def measure(*, minutes: float, warm_up: float) -> Load:
    """Load the daemon for so many minutes and read its memory; the first `warm_up` minutes do not count."""
    arguments = ("--no-limits", "--speed", "20", "--faults", "0.05")
    async with set_up(*arguments) as on, asyncpg.create_pool(on.dsn, min_size=1, max_size=4) as pool:
        port = str(free_port())
        environment = on.environment(RECONCILER_CONCURRENCY="8", RECONCILER_POLL_RATE="50", RECONCILER_HTTP_PORT=port)
        with program("-m", "reconciler", "run", environment=environment) as process:
            while not await pool.fetchval("SELECT EXISTS (SELECT FROM reconciler.instances)"):
                assert process.poll() is None, "the daemon ended"
                await asyncio.sleep(0.1)
            load = [asyncio.create_task(_shop(on, pool)), asyncio.create_task(_scraper(f"http://127.0.0.1:{port}"))]
            try:
                looks = await _watch(psutil.Process(process.pid), load, minutes * 60)
            finally:
                for task in load:
                    task.cancel()
                await asyncio.gather(*load, return_exceptions=True)
            delivered = await pool.fetchval("SELECT count(*) FROM public.generations WHERE status = 'success'")
    counted = [(at, size) for at, size in looks if at >= warm_up * 60]
    sizes = [size for _, size in looks]
    return Load(delivered, sizes[0], counted[0][1], max(sizes), slope(_by_minute(counted)))


async def _watch(
    daemon: psutil.Process, load: Sequence[asyncio.Task[None]], seconds: float
) -> list[tuple[float, float]]:
    """Return seconds since the begin and MiB resident; load that has ended is an error."""
    began, looks = time.monotonic(), []
    while (at := time.monotonic() - began) < seconds:
        for task in load:
            assert not task.done(), f"the load has ended: {task}"
        looks.append((at, daemon.memory_info().rss / MIB))
        await asyncio.sleep(SAMPLE)
    return looks


async def _shop(on: Stage, pool: asyncpg.Pool) -> None:
    """Order at an even pace, as a shop does: task first, then its row."""
    ordered = 0
    async with httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {KEY}"}) as client:
        began = time.monotonic()
        while True:
            await asyncio.sleep(max(0.0, began + ordered / RATE - time.monotonic()))
            model = MODELS[ordered % len(MODELS)]
            ordered += 1
            answer = await client.post(on.kie + CREATE, json={"model": model, "input": {"prompt": "x"}})
            task = (answer.json().get("data") or {}).get("taskId") if answer.is_success else None
            if task is not None:
                await pool.execute(
                    "INSERT INTO public.generations (user_id, kind, model_key, provider, task_id, status)"
                    " VALUES ($1, 'image', $2, 'kie', $3, 'generating')",
                    USER,
                    model,
                    task,
                )


async def _scraper(url: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        while True:
            answer = await client.get(f"{url}/metrics")
            answer.raise_for_status()
            await asyncio.sleep(SCRAPE)


def _by_minute(looks: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return hours since the begin and the mean of each whole minute."""
    minutes: dict[int, list[float]] = {}
    for at, size in looks:
        minutes.setdefault(int(at // 60), []).append(size)
    return [(minute / 60, statistics.fmean(sizes)) for minute, sizes in sorted(minutes.items())]


def slope(points: Sequence[tuple[float, float]]) -> Slope:
    """Return the slope of a line through (hours, MiB) with its 95 % interval, neighbours' likeness allowed for."""
    hours, sizes = [at for at, _ in points], [size for _, size in points]
    line = statistics.linear_regression(hours, sizes)
    rest = [size - line.slope * at - line.intercept for at, size in points]
    likeness = sum(one * two for one, two in itertools.pairwise(rest)) / (sum(r * r for r in rest) or 1.0)
    likeness = min(max(likeness, 0.0), 0.95)
    counted = max(3.0, len(points) * (1 - likeness) / (1 + likeness))
    middle = statistics.fmean(hours)
    error = (sum(r * r for r in rest) / sum((at - middle) ** 2 for at in hours) / (counted - 2)) ** 0.5
    reach = _student(counted - 2) * error
    return Slope(line.slope, line.slope - reach, line.slope + reach)


def _student(freedom: float) -> float:
    """Return the 97.5 % point of Student's t: Cornish and Fisher's expansion of the normal one, good from four on."""
    z = statistics.NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2


def main() -> None:
    """Load, then say what memory did."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--warm-up", type=float, default=15.0, help="minutes that do not count")
    given = parser.parse_args()
    if given.minutes < given.warm_up + 5:
        parser.error("a slope needs five minutes after the warm-up")
    found = asyncio.run(measure(minutes=given.minutes, warm_up=given.warm_up))
    print(
        f"{found.delivered} delivered in {given.minutes:.0f} minutes; resident {found.first:.0f} MiB at the first,"
        f" {found.warm:.0f} after {given.warm_up:.0f} minutes, {found.peak:.0f} at most; from then on"
        f" {found.slope.mean:+.2f} MiB an hour, 95 % interval {found.slope.low:+.2f} to {found.slope.high:+.2f}"
    )


if __name__ == "__main__":
    main()
