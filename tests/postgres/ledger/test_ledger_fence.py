"""Without the lease nothing is written, however late the write arrives, and nothing is written twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from reconciler.domain.model import Fail, Row
from reconciler.errors import LeaseLost
from reconciler.postgres.claims.claims import Claim
from reconciler.postgres.ledger.ledger import Ledger
from testkit.waiting import until
from tests.postgres.books import Books, asset, delivered, proven, resting

Write = Callable[[Ledger, Row, Claim], Awaitable[object]]

ENDS: dict[str, Write] = {
    "rest": lambda ledger, row, claim: ledger.rest(row, claim, resting()),
    "progress": lambda ledger, row, claim: ledger.rest(row, claim, resting(begun=True)),
    "leave": lambda ledger, row, claim: ledger.leave(row, claim, "done"),
    "finish": lambda ledger, row, claim: ledger.finish(row, claim, delivered()),
    "fail": lambda ledger, row, claim: ledger.fail(row, claim, Fail("refused")),
    "give up": lambda ledger, row, claim: ledger.fail(row, claim, Fail("late", recheck_at=SOON)),
}
STEPS: dict[str, Write] = {
    "adopt": lambda ledger, row, claim: ledger.adopt(row, claim, "task-2"),
    "note": lambda ledger, row, claim: ledger.note(row, claim),
    "intend": lambda ledger, row, claim: ledger.intend(row, claim, asset(1)),
    "begun": lambda ledger, row, claim: ledger.save_upload_name(row, claim, 0, "upload-1"),
    "stored": lambda ledger, row, claim: ledger.stored(row, claim, proven(0)),
}
WRITES = STEPS | ENDS
SOON = datetime.now(UTC) + timedelta(hours=1)

WAITS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def ready(books: Books, *, term: float = 30.0) -> tuple[Row, Claim]:
    """Return a held generation whose only result is stored."""
    row, claim = await books.held(await books.insert(), term=term)
    return await books.stored(row, claim), claim


async def blocked(books: Books) -> None:
    await until(lambda: books.pool.fetchval(WAITS), what="a statement that waits for a lock")


@pytest.mark.parametrize("write", WRITES)
async def test_no_write_passes_after_another_lease_was_drawn(books: Books, write: str) -> None:
    row, claim = await ready(books)
    await books.taken_over(row.id)
    before = await books.everything()
    with pytest.raises(LeaseLost):
        await WRITES[write](books.ledger(), row, claim)
    assert await books.everything() == before


async def test_without_the_lease_no_generation_is_forgotten(books: Books) -> None:
    row, claim = await ready(books)
    await books.taken_over(row.id)
    before = await books.everything()
    await books.ledger().forget(claim)
    assert await books.everything() == before


@pytest.mark.parametrize("write", WRITES)
async def test_a_write_that_waits_for_a_claim_under_way_is_refused_when_that_commits(books: Books, write: str) -> None:
    row, claim = await ready(books)
    async with books.pool.acquire() as successor, successor.transaction():
        await successor.execute("UPDATE reconciler.work SET lease = gen_random_uuid()")
        late = asyncio.ensure_future(WRITES[write](books.ledger(), row, claim))
        await blocked(books)
    before = await books.everything()
    with pytest.raises(LeaseLost):
        await late
    assert await books.everything() == before


@pytest.mark.parametrize("write", ["finish", "fail", "progress"])
async def test_a_write_that_waits_for_the_application_keeps_its_successor_waiting(books: Books, write: str) -> None:
    """Law 5: the application locks its row, our lease runs out meanwhile, and a successor claims the generation."""
    row, claim = await ready(books, term=0.5)
    async with books.pool.acquire() as application, application.transaction():
        await application.execute("SELECT FROM public.generations FOR UPDATE")
        writing = asyncio.ensure_future(WRITES[write](books.ledger(lock_wait=10), row, claim))
        await blocked(books)
        await until(lambda: lease_over(books.pool, row.id), what="the end of the lease")
        assert await books.claims(term=0.5).due(1) == []
    await writing
    successor = await books.claim(row.id) if write == "progress" else None
    before = await books.everything()
    with pytest.raises(LeaseLost):
        await WRITES[write](books.ledger(), row, claim)
    assert await books.everything() == before
    assert successor is None or await books.claims().renew([successor]) == {successor.lease}


async def lease_over(pool: asyncpg.Pool, generation_id: str) -> bool:
    # The row itself is locked; its last committed version can be read.
    sql = "SELECT lease_until < clock_timestamp() FROM reconciler.work WHERE generation_id = $1"
    over: bool = await pool.fetchval(sql, generation_id)
    return over


@pytest.mark.parametrize("write", ENDS)
async def test_the_last_write_of_a_visit_repeated_after_a_lost_answer_changes_nothing(books: Books, write: str) -> None:
    row, claim = await ready(books)
    await ENDS[write](books.ledger(), row, claim)
    before = await books.everything()
    with pytest.raises(LeaseLost):
        await ENDS[write](books.ledger(), row, claim)
    assert await books.everything() == before


@pytest.mark.parametrize("write", STEPS)
async def test_a_step_repeated_after_a_lost_answer_leaves_the_same_facts(books: Books, write: str) -> None:
    row, claim = await ready(books)
    await STEPS[write](books.ledger(), row, claim)
    once = (await books.ledger().read([row.id]))[row.id].row
    await STEPS[write](books.ledger(), row, claim)
    assert (await books.ledger().read([row.id]))[row.id].row == once
    assert await books.events(row.id) == []


async def test_two_writers_of_one_end_write_it_once(books: Books) -> None:
    row, claim = await ready(books)
    both = [books.ledger().finish(row, claim, delivered()) for _ in range(2)]
    ended = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(type(end).__name__ for end in ended) == ["LeaseLost", "str"]
    assert await books.events(row.id) == ["succeeded"]


async def test_many_ends_succeed_beside_an_application_that_locks_many_rows(books: Books) -> None:
    held = [await ready(books) for _ in range(6)]

    async def application() -> None:
        for _ in range(10):
            async with books.pool.acquire() as connection, connection.transaction():
                for row, _ in reversed(held):
                    await connection.execute("UPDATE public.generations SET prompt = 'x' WHERE id::text = $1", row.id)

    finishing = [books.ledger(lock_wait=30).finish(row, claim, delivered()) for row, claim in held]
    assert await asyncio.gather(application(), *finishing) == [None, *["succeeded"] * 6]
