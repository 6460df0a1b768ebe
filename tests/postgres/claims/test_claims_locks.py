"""Law 10: a locked row costs no other row anything, neither its wake nor its lease.

A write that waits for the application's lock holds our own row meanwhile, for seconds or minutes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from reconciler.domain.model import Trigger
from tests.postgres.books import Books, resting


@asynccontextmanager
async def locked(books: Books, generation_id: str) -> AsyncIterator[None]:
    """Hold a lock on our row of this generation, as a writer that does not finish."""
    async with books.pool.acquire() as other, other.transaction():
        await other.execute("SELECT FROM reconciler.work WHERE generation_id = $1 FOR UPDATE", generation_id)
        async with asyncio.timeout(5):
            yield


async def pair(books: Books) -> tuple[str, str]:
    """Two generations that rest for a minute."""
    ids = [await books.insert() for _ in range(2)]
    for generation_id in ids:
        row, claim = await books.held(generation_id)
        await books.ledger().rest(row, claim, resting())
    return ids[0], ids[1]


async def test_a_wake_of_a_locked_row_delays_no_other_wake_and_is_returned_as_busy(books: Books) -> None:
    busy, free = await pair(books)
    fresh = await books.insert()
    wakes = dict.fromkeys((busy, free, fresh), Trigger.CALLBACK)
    room = {"limit": 3, "ended": 3}
    async with locked(books, busy):
        taken = await books.claims().take(wakes, **room)
    assert {claim.generation_id for claim in taken.claims} == {free, fresh}
    assert taken.busy == (busy,)
    again = await books.claims().take(wakes, **room)
    assert [claim.generation_id for claim in again.claims] == [busy]
    assert again.busy == ()


async def test_a_lease_is_renewed_while_another_row_is_locked_and_neither_counts_as_lost(books: Books) -> None:
    ids = await pair(books)
    claims = books.claims(term=30)
    busy, free = [await books.claim(generation_id, term=30) for generation_id in ids]
    await books.pool.execute("UPDATE reconciler.work SET lease_until = now() + interval '5 seconds'")
    async with locked(books, busy.generation_id):
        assert await claims.renew([busy, free]) == {free.lease}
        assert await claims.lost([busy, free]) == set()
    assert await claims.renew([busy, free]) == {busy.lease, free.lease}


async def test_a_lease_is_lost_when_another_was_drawn_or_the_row_is_gone(books: Books) -> None:
    ids = await pair(books)
    drawn, gone = [await books.claim(generation_id) for generation_id in ids]
    kept = await books.claim(await books.insert())
    await books.taken_over(drawn.generation_id)
    await books.pool.execute("DELETE FROM reconciler.work WHERE generation_id = $1", gone.generation_id)
    assert await books.claims().lost([drawn, gone, kept]) == {drawn.lease, gone.lease}


async def test_a_locked_row_keeps_no_other_from_being_released(books: Books) -> None:
    ids = await pair(books)
    busy, free = [await books.claim(generation_id) for generation_id in ids]
    async with locked(books, busy.generation_id):
        await books.claims().release([busy, free])
    leases = [(await books.work(generation_id) or {})["lease"] for generation_id in ids]
    assert leases == [busy.lease, None]


async def test_a_locked_row_does_not_disturb_the_sweep(books: Books) -> None:
    busy, free = await pair(books)
    lost = await books.insert()
    for generation_id in (busy, free):
        await books.change(generation_id, "status = 'generating'")
    async with locked(books, busy):
        assert await books.claims().discover() == 2
    assert {claim.generation_id for claim in await books.claims().due(10)} == {free, lost}
    assert await books.claims().discover() == 1
