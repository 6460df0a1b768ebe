"""Measures for how long the event loop stands still while something happens."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

_TICK = 0.001
_REFERENCE = b"[" + b"0.5," * 30_000 + b"0.5]"


async def longest_gap(work: Callable[[], Awaitable[object]]) -> float:
    """Return the seconds for which the loop stood still at most while this work ran."""
    longest = 0.0
    running = True

    async def tick() -> None:
        nonlocal longest
        while running:
            began = time.perf_counter()
            await asyncio.sleep(_TICK)
            longest = max(longest, time.perf_counter() - began - _TICK)

    ticking = asyncio.create_task(tick())
    try:
        await asyncio.sleep(0)
        await work()
    finally:
        running = False
        await ticking
    return longest


def allowed_gap() -> float:
    """Return 50 ms; on a slow machine more: twenty times what it takes to parse a reference text there."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        json.loads(_REFERENCE)
        times.append(time.perf_counter() - began)
    return max(0.05, 20 * min(times))


async def assert_loop_turns(work: Callable[[], Awaitable[object]], what: str, *, times: int = 12) -> None:
    """Fail where the loop stands still for longer than allowed, each time this work is done.

    Another process can make a gap longer, never shorter: the shortest of several is the work's own.
    """
    gaps = []
    for _ in range(times):
        gaps.append(await longest_gap(work))
        if gaps[-1] < allowed_gap():
            return
    raise AssertionError(f"{what}: the loop stood still for {min(gaps):.3f} s")
