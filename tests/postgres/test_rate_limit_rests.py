"""N5: a slot that was taken before KIE said 429 is not used after it, in any replica."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from reconciler.postgres.pool import Database
from reconciler.postgres.rate_limit import CURRENT_GAPS, KeyResting, RateLimit
from testkit.waiting import until

RATE = 20.0


class Callers:
    """Callers that wait for a slot; `used` counts those that got one."""

    def __init__(self) -> None:
        self.used = 0
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, rate_limit: RateLimit, count: int) -> None:
        self._tasks += [asyncio.create_task(self._take(rate_limit)) for _ in range(count)]

    async def _take(self, rate_limit: RateLimit) -> None:
        await rate_limit.take("key")
        self.used += 1

    async def refused(self) -> int:
        """Wait for the end of every caller; return how many were refused because the key rests."""
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(end is None or isinstance(end, KeyResting) for end in ends), ends
        return sum(isinstance(end, KeyResting) for end in ends)


async def test_n5_slots_taken_before_a_429_are_not_used_after_it_in_this_process(replicas: Sequence[Database]) -> None:
    rate_limit, callers = RateLimit(replicas[0], RATE), Callers()
    callers.begin(rate_limit, 40)
    await until(lambda: callers.used >= 2, what="the first slots")
    used = callers.used
    async with asyncio.timeout(1):
        await rate_limit.pause("key", 20)
        assert await callers.refused() == 40 - used


async def test_n5_another_replica_uses_no_more_than_the_slots_of_one_look(replicas: Sequence[Database]) -> None:
    first, second = (RateLimit(database, RATE) for database in replicas)
    callers = Callers()
    callers.begin(second, 40)
    await until(lambda: callers.used >= 2, what="the first slots")
    await first.pause("key", 20)
    used = callers.used
    async with asyncio.timeout(1.5):
        refused = await callers.refused()
    assert 40 - refused - used <= CURRENT_GAPS + 1
    assert not second.spare("key")


async def test_n5_the_process_that_met_a_429_refuses_before_the_database_knows(
    replicas: Sequence[Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    rate_limit, callers, written = RateLimit(replicas[0], RATE), Callers(), asyncio.Event()

    async def slow(_sql: str, *_args: object) -> None:
        await written.wait()

    monkeypatch.setattr(replicas[0], "execute", slow)
    callers.begin(rate_limit, 10)
    await until(lambda: callers.used >= 1, what="the first slot")
    used = callers.used
    pause = asyncio.create_task(rate_limit.pause("key", 20))
    assert await callers.refused() == 10 - used
    written.set()
    await pause


async def test_n5_callers_wait_a_short_rest_out_and_keep_their_distance_after_it(replicas: Sequence[Database]) -> None:
    first, second = (RateLimit(database, RATE) for database in replicas)
    await first.take("key")
    times: list[float] = []
    loop = asyncio.get_running_loop()

    async def taken(rate_limit: RateLimit) -> None:
        await rate_limit.take("key")
        times.append(loop.time())

    waiting = [asyncio.create_task(taken(rate_limit)) for rate_limit in (first, second) * 4]
    await until(lambda: times, what="the first slot")
    await first.pause("key", 0.8)
    rests_until = loop.time() + 0.8
    await asyncio.gather(*waiting)
    after = sorted(time for time in times if time >= rests_until - 0.05)
    assert len(after) >= 4
    assert after[-1] - after[0] >= (len(after) - 1) / RATE - 0.01


async def test_n5_an_impatient_caller_uses_no_slot_from_before_a_429(replicas: Sequence[Database]) -> None:
    rate_limit = RateLimit(replicas[0], 2)
    await rate_limit.take("key")
    waiting = asyncio.create_task(rate_limit.take_soon("key", 3))
    booked = "SELECT next_at > clock_timestamp() + interval '0.6 seconds' FROM reconciler.budget"
    await until(lambda: replicas[0].value(booked), what="the slot is taken")
    await rate_limit.pause("key", 20)
    assert not await waiting
