"""Measures for how long the event loop stands still while something happens, in CPU seconds of its own thread.

Other processes take time from the wall's clock and not from a thread's, so a busy machine changes little.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_REFERENCE = json.dumps({f"{n:06d}": n / 7 for n in range(30_000)})


@dataclass
class LoopSteps:
    """The longest step of the loop that was seen, in CPU seconds."""

    longest: float = 0.0


@contextmanager
def watched_loop() -> Iterator[LoopSteps]:
    """Watch every step of this thread's loop; between two steps the loop turns."""
    steps = LoopSteps()
    original = asyncio.Handle._run

    def run(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        original(handle)
        steps.longest = max(steps.longest, time.thread_time() - began)

    asyncio.Handle._run = run  # type: ignore[method-assign]
    try:
        yield steps
    finally:
        asyncio.Handle._run = original  # type: ignore[method-assign]


def allowed_step() -> float:
    """Return 50 ms; on a slow machine more: four times what it takes to parse the largest text that is read."""
    times = []
    for _ in range(5):
        began = time.thread_time()
        json.loads(_REFERENCE)
        times.append(time.thread_time() - began)
    return max(0.05, 4 * min(times))


async def assert_loop_turns(work: Callable[[], Awaitable[object]], what: str, *, times: int = 8) -> None:
    """Fail where a step of the loop is longer than allowed, each time this work is done.

    A disturbance can make a step longer, never shorter: the shortest of several is the work's own.
    """
    longest = []
    for _ in range(times):
        # A task of its own, so that its first step is seen, too.
        with watched_loop() as steps:
            await asyncio.gather(work())
        longest.append(steps.longest)
        if longest[-1] < allowed_step():
            return
    raise AssertionError(f"{what}: a step of the loop took {min(longest):.3f} s")
