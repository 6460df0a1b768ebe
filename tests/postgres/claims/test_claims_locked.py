"""Claims of rows whose write waits for a lock: apart from all others, and again a visit's once they are given back."""

from __future__ import annotations

from datetime import UTC, datetime

from reconciler.domain.locked_write import wait_for_lock
from reconciler.domain.model import Finish, Trigger
from reconciler.postgres.claims.claims import Claim
from tests.postgres.books import Books


async def locked(books: Books) -> str:
    """Return a row that rests because its lock was not given, and whose next try is due."""
    row, claim = await books.held(await books.insert())
    await books.ledger().rest(row, claim, wait_for_lock(row, Finish(), datetime.now(UTC), reason="locked"))
    await books.set(row.id, "write_at = now()")
    return row.id


def named(claims: list[Claim]) -> list[str]:
    return [claim.generation_id for claim in claims]


async def test_only_a_further_try_claims_a_locked_row_before_it_is_due(books: Books) -> None:
    claims, generation_id = books.claims(), await locked(books)
    assert await claims.due(10) == await claims.early(10) == []
    assert await claims.woken({generation_id: Trigger.NOTIFY}) == []
    assert await claims.discover() == 0
    assert named(await claims.locked(10)) == [generation_id]
    assert await claims.locked(10) == []


async def test_the_next_try_is_known_and_none_is_where_none_waits(books: Books) -> None:
    claims = books.claims()
    assert await claims.next_locked() is None
    generation_id = await locked(books)
    await books.set(generation_id, "write_at = now() + interval '1 hour'")
    assert await claims.locked(10) == []
    seconds = await claims.next_locked()
    assert seconds is not None
    assert 3500 < seconds <= 3600


async def test_a_try_that_is_given_back_becomes_a_visit(books: Books) -> None:
    """A row that has changed is for a visit, and no further try takes it before."""
    claims, generation_id = books.claims(), await locked(books)
    await claims.release(await claims.locked(1), seconds=0.0)
    assert await claims.locked(1) == []
    assert named(await claims.due(1)) == [generation_id]


async def test_every_end_of_a_visit_ends_the_tries(books: Books) -> None:
    generation_id = await locked(books)
    row, claim = await books.held(generation_id)
    assert row.locked_write is not None
    await books.ledger().leave(row, claim, "done")
    work = await books.work(generation_id)
    assert work is not None
    assert (work["locked_write"], work["write_at"]) == (None, None)
