"""The shared rate: however many replicas draw, a key's requests keep their distance."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest

from reconciler.errors import Transient
from reconciler.postgres.pool import Database
from reconciler.postgres.rate_limit import CURRENT_GAPS, KeyResting, RateLimit
from testkit.standins.proxy import Proxy
from testkit.waiting import until

RATE = 25.0
GAP = 1 / RATE
LEFT = "SELECT extract(epoch FROM next_at - clock_timestamp())::float8 FROM reconciler.budget"
SLACK = 0.005
"""Two clocks are compared, the database's and ours."""


def counted(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list to which the texts of this pool's statements are added from now on."""
    statements: list[str] = []
    value = database.value

    async def noted(sql: str, *args: object) -> object:
        statements.append(sql)
        return await value(sql, *args)

    monkeypatch.setattr(database, "value", noted)
    return statements


async def granted(rate_limit: RateLimit, times: list[float], key: str = "key") -> None:
    await rate_limit.take(key)
    times.append(asyncio.get_running_loop().time())


async def test_the_rate_holds_for_all_replicas_together(replicas: Sequence[Database]) -> None:
    times: list[float] = []
    budgets = [RateLimit(database, RATE) for database in replicas]
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(granted(budgets[n % 2], times) for n in range(30)))
    # A grant may be acted on late, never early.
    assert all(at - began >= n * GAP - SLACK for n, at in enumerate(sorted(times)))


async def test_callers_of_one_moment_share_a_statement_and_are_served_in_turn(
    replicas: Sequence[Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = counted(replicas[0], monkeypatch)
    rate_limit, times = RateLimit(replicas[0], RATE), []
    waits = await asyncio.gather(*(rate_limit.take("key") for _ in range(10)))
    draws = [sql for sql in statements if "INSERT" in sql]
    assert len(draws) == 1
    assert waits == sorted(waits)
    assert waits[0] < GAP
    assert all(abs(second - first - GAP) < 0.001 for first, second in pairwise(waits[1:]))
    await granted(rate_limit, times)
    assert len([sql for sql in statements if "INSERT" in sql]) == 2


async def test_a_slot_that_comes_soon_costs_one_statement_and_a_queue_shares_its_looks(
    replicas: Sequence[Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = counted(replicas[0], monkeypatch)
    await RateLimit(replicas[0], RATE).take("one at a time")
    assert len(statements) == 1
    statements.clear()
    # A second of slots: a look at the rest stays current for the length of two and a half.
    await asyncio.gather(*(rate_limit.take("many") for rate_limit in [RateLimit(replicas[0], RATE)] * 25))
    assert 2 <= len(statements) <= 1 + 25 / CURRENT_GAPS


async def test_unused_slots_are_not_saved_up(replicas: Sequence[Database]) -> None:
    rate_limit, times = RateLimit(replicas[0], RATE), []
    await granted(rate_limit, times)
    await replicas[0].execute("UPDATE reconciler.budget SET next_at = now() - interval '1 hour'")
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(granted(rate_limit, times) for _ in range(6)))
    assert times[-1] - began >= 5 * GAP - SLACK


async def test_each_key_has_a_rate_of_its_own(replicas: Sequence[Database]) -> None:
    rate_limit = RateLimit(replicas[0], 0.1)
    async with asyncio.timeout(5):
        waits = [await rate_limit.take(key) for key in ("one", "two", "three")]
    assert waits == [0, 0, 0]


async def test_a_key_that_was_too_fast_rests_in_every_replica(replicas: Sequence[Database]) -> None:
    first, second = (RateLimit(database, RATE) for database in replicas)
    await first.take("key")
    await first.pause("key", 0.5)
    assert not first.spare("key")
    assert 0.4 < await second.take("key") <= 0.5
    await until(lambda: first.spare("key"), what="the rest is over")


async def test_a_long_rest_raises_and_takes_no_slot(replicas: Sequence[Database]) -> None:
    first, second = (RateLimit(database, RATE) for database in replicas)
    await first.pause("key", 20)
    rests = await asyncio.gather(*(second.take("key") for _ in range(3)), return_exceptions=True)
    assert all(isinstance(rest, KeyResting) and 19 < (rest.retry_after or 0) <= 20 for rest in rests)
    assert not second.spare("key")
    assert 19 < await replicas[0].value(LEFT) <= 20
    assert await second.take("another key") == 0


async def test_a_long_queue_is_no_rest(replicas: Sequence[Database]) -> None:
    rate_limit = RateLimit(replicas[0], RATE)
    await rate_limit.take("key")
    await replicas[0].execute("UPDATE reconciler.budget SET next_at = now() + interval '20 seconds'")
    waiting = asyncio.create_task(rate_limit.take("key"))
    await until(lambda: not rate_limit.spare("key") and rate_limit._granted["key"] > 19, what="the slot is taken")
    done = waiting.done()
    waiting.cancel()
    assert not done


@pytest.mark.parametrize("column", ["next_at", "rests_until"])
async def test_a_time_written_by_a_jumping_clock_delays_no_caller(replicas: Sequence[Database], column: str) -> None:
    """F17: clocks jump."""
    rate_limit = RateLimit(replicas[0], RATE)
    await rate_limit.take("key")
    await replicas[0].execute(f"UPDATE reconciler.budget SET {column} = now() + interval '10 minutes'")
    assert await rate_limit.take("key") <= GAP
    await replicas[0].execute(f"UPDATE reconciler.budget SET {column} = now() + interval '10 minutes'")
    await rate_limit.pause("key", 1)
    assert 0 < await rate_limit.take("key") <= 1


async def test_a_slow_rate_may_book_far_ahead(replicas: Sequence[Database]) -> None:
    rate_limit = RateLimit(replicas[0], 0.1)
    await rate_limit.take("key")
    await replicas[0].execute("UPDATE reconciler.budget SET next_at = now() + interval '15 minutes'")
    waiting = asyncio.create_task(rate_limit.take("key"))
    left = f"{LEFT} WHERE next_at > now() + interval '15 minutes'"
    await until(lambda: replicas[0].value(left), what="the slot behind the others")
    waiting.cancel()


async def test_a_short_rest_does_not_end_a_long_one(replicas: Sequence[Database]) -> None:
    first, second = (RateLimit(database, RATE) for database in replicas)
    await first.pause("key", 60)
    await second.pause("key", 1)
    assert await replicas[0].value(LEFT) > 50


async def test_a_request_is_spare_only_where_none_was_granted_just_now(replicas: Sequence[Database]) -> None:
    rate_limit = RateLimit(replicas[0], 5)
    assert rate_limit.spare("key")
    await rate_limit.take("key")
    assert not rate_limit.spare("key")
    assert rate_limit.spare("another key")
    await until(lambda: rate_limit.spare("key"), within=2, what="the gap is over")


async def test_an_impatient_caller_takes_no_slot(replicas: Sequence[Database]) -> None:
    first, second = (RateLimit(database, RATE) for database in replicas)
    await first.pause("key", 60)
    left = "SELECT next_at FROM reconciler.budget"
    before = await replicas[0].value(left)
    assert not await second.take_soon("key", 3)
    assert await replicas[0].value(left) == before


async def test_a_patient_caller_keeps_the_distance_to_all_others(replicas: Sequence[Database]) -> None:
    times: list[float] = []
    budgets = [RateLimit(database, RATE) for database in replicas]

    async def soon(rate_limit: RateLimit) -> None:
        assert await rate_limit.take_soon("key", 5)
        times.append(asyncio.get_running_loop().time())

    began = asyncio.get_running_loop().time()
    mixed = [soon(rate_limit) for rate_limit in budgets * 3] + [
        granted(rate_limit, times) for rate_limit in budgets * 3
    ]
    await asyncio.gather(*mixed)
    assert all(at - began >= n * GAP - SLACK for n, at in enumerate(sorted(times)))


async def test_a_cancelled_caller_takes_no_other_turn(replicas: Sequence[Database]) -> None:
    rate_limit = RateLimit(replicas[0], RATE)
    takers = [asyncio.create_task(rate_limit.take("key")) for _ in range(4)]
    takers[0].cancel()
    ended = await asyncio.gather(*takers, return_exceptions=True)
    assert isinstance(ended[0], asyncio.CancelledError)
    assert all(isinstance(wait, float) for wait in ended[1:])


async def test_a_failed_draw_fails_its_own_callers_and_no_later_ones(rows_dsn: str) -> None:
    async with Proxy(rows_dsn) as proxy:
        database = Database(proxy.dsn, size=1)
        rate_limit = RateLimit(database, RATE)
        await rate_limit.take("key")
        await proxy.refuse()
        ended = await asyncio.gather(*(rate_limit.take("key") for _ in range(3)), return_exceptions=True)
        assert all(isinstance(error, Transient) for error in ended)
        proxy.mend()
        assert await rate_limit.take("key") < 1
        await database.close()
