"""The rates of createTask: exact for any window, shared by the replicas, one for each key and one for each user."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from reconciler.postgres.create_rates import LONGEST_SHUT, SLACK, CreateRates
from tests.postgres.books import Books, opened

KEY = "0123456789abcdef"
ANN = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
BOB = "0d4b2f7e-33a1-4f0c-8a56-0c7bd5a9a022"


@pytest.fixture
async def books(dsn: str) -> AsyncIterator[Books]:
    async with opened(dsn) as found:
        yield found


def create_rates(books: Books, rate: float = 20.0, user_rate: float = 6.0) -> CreateRates:
    """Return the rates, as one replica draws from them."""
    return CreateRates(books.database, rate=rate, user_rate=user_rate)


async def recent(books: Books) -> list[datetime]:
    found: list[datetime] = await books.pool.fetchval(
        "SELECT recent FROM reconciler.creations WHERE key_hash = $1", KEY
    )
    return found


async def aged(books: Books, seconds: float) -> None:
    """Move everything that was granted so much into the past."""
    sql = "UPDATE reconciler.creations SET recent = ARRAY(SELECT unnest(recent) - $1::interval), shut = shut - $1"
    await books.pool.execute(sql, timedelta(seconds=seconds))


async def test_twenty_in_ten_seconds_are_granted_and_not_one_more_on_any_replica(books: Books) -> None:
    replicas = [create_rates(books) for _ in range(2)]
    waits = await asyncio.gather(*(replicas[n % 2].grant(KEY) for n in range(50)))
    assert waits.count(0.0) == 20
    assert len(await recent(books)) == 20
    assert await replicas[0].grant("another-key") == 0.0


async def test_the_window_slides_with_every_request(books: Books) -> None:
    mine = create_rates(books)
    for _ in range(15):
        assert await mine.grant(KEY) == 0.0
    await aged(books, 4.0)
    for _ in range(5):
        assert await mine.grant(KEY) == 0.0
    assert 5.0 < await mine.grant(KEY) <= 6.0 + SLACK
    await aged(books, 6.0 + SLACK)
    assert [await mine.grant(KEY) == 0.0 for _ in range(16)] == [True] * 15 + [False]
    assert 3.0 < await mine.grant(KEY) <= 4.0 + SLACK


@pytest.mark.parametrize(("rate", "count", "seconds"), [(0.5, 1, 20.0), (2.5, 2, 8.0), (40.0, 40, 10.0)])
async def test_other_rates_are_as_exact(books: Books, rate: float, count: int, seconds: float) -> None:
    mine = create_rates(books, rate)
    assert [await mine.grant(KEY) for _ in range(count)] == [0.0] * count
    await aged(books, seconds)
    assert 0.0 < await mine.grant(KEY) <= SLACK
    await aged(books, SLACK)
    assert await mine.grant(KEY) == 0.0


async def test_nothing_is_granted_while_kie_says_that_we_are_too_fast(books: Books) -> None:
    mine = create_rates(books)
    await mine.pause(KEY, 10.0)
    assert 9.0 < await mine.grant(KEY) <= 10.0
    await mine.pause(KEY, 3.0)
    assert await mine.grant(KEY) > 8.0
    await aged(books, 10.0)
    assert await mine.grant(KEY) == 0.0


async def test_no_wait_is_longer_than_a_minute_for_any_answer_and_any_clock(books: Books) -> None:
    mine = create_rates(books)
    await mine.pause(KEY, 86_400.0)
    assert 59.0 < await mine.grant(KEY) <= 60.0
    await aged(books, -3600.0)
    assert [await mine.grant(KEY) for _ in range(20)] == [0.0] * 20
    assert await mine.grant(KEY) > 0.0
    await aged(books, -3600.0)
    assert await mine.grant(KEY) == 0.0


async def peek(books: Books, rates: CreateRates, *keys: str) -> float:
    async with books.database.transaction() as connection:
        return await rates.peek(connection, keys)


async def test_a_peek_takes_nothing_and_tells_the_shortest_wait_of_the_keys(books: Books) -> None:
    rates = create_rates(books, 1.0)
    assert await peek(books, rates, KEY, "another-key") == 0.0
    await rates.grant(KEY)
    assert await peek(books, rates, KEY, "another-key") == 0.0
    await rates.grant("another-key")
    await rates.pause("another-key", LONGEST_SHUT)
    assert 0.0 < await peek(books, rates, KEY, "another-key") <= 10.0 + SLACK
    await aged(books, 10.0 + SLACK)
    assert await peek(books, rates, KEY, "another-key") == 0.0
    assert len(await recent(books)) == 1


async def draw(books: Books, rates: CreateRates, user_id: str) -> float:
    async with books.database.transaction() as connection:
        return await rates.draw_user(connection, user_id)


async def test_a_user_orders_six_times_a_minute_on_all_replicas_together(books: Books) -> None:
    replicas = [create_rates(books) for _ in range(2)]
    waits = await asyncio.gather(*(draw(books, replicas[n % 2], ANN) for n in range(20)))
    assert waits.count(0.0) == 6
    assert all(0.0 < wait <= 60.0 for wait in waits if wait)
    assert await draw(books, replicas[0], BOB) == 0.0


async def test_a_users_window_slides(books: Books) -> None:
    rates = create_rates(books, user_rate=0.5)
    assert await draw(books, rates, ANN) == 0.0
    assert 100.0 < await draw(books, rates, ANN) <= 120.0
    await books.pool.execute(
        "UPDATE reconciler.user_orders SET recent = ARRAY(SELECT unnest(recent) - interval '120 seconds')"
    )
    assert await draw(books, rates, ANN) == 0.0


async def test_a_user_who_orders_no_more_is_forgotten_after_a_week(books: Books) -> None:
    rates = create_rates(books)
    for user_id in (ANN, BOB):
        await draw(books, rates, user_id)
    await books.pool.execute("UPDATE reconciler.user_orders SET at = now() - interval '8 days' WHERE user_id = $1", ANN)
    await books.retention().traces()
    assert await books.pool.fetchval("SELECT array_agg(user_id) FROM reconciler.user_orders") == [BOB]


async def test_n4_a_rest_counts_although_a_jumping_clock_has_dated_an_earlier_one_ahead(books: Books) -> None:
    mine = create_rates(books)
    await mine.pause(KEY, 10.0)
    await aged(books, -25 * 3600.0)
    assert await mine.grant(KEY) == 0.0
    await mine.pause(KEY, 10.0)
    assert 8.0 < await mine.grant(KEY) <= 10.0
