"""The application's own hook on a failure: once for each generation, in the same transaction, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from reconciler.domain.model import Fail
from reconciler.errors import Permanent
from testkit.waiting import until
from tests.postgres.books import Books, delivered, opened

HOOK = """
CREATE TABLE public.refunds (generation_id uuid, reason text, status text);
CREATE FUNCTION reconciler.on_failed(generation uuid, reason text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.refunds SELECT generation, reason, status FROM public.generations WHERE id = generation;
END
$$;
"""
THROWS = """
CREATE FUNCTION reconciler.on_failed(generation uuid, reason text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.refunds VALUES (generation, reason, 'before it threw');
    RAISE EXCEPTION 'no such wallet';
END
$$;
"""


@pytest.fixture
async def books(dsn: str) -> AsyncIterator[Books]:
    async with opened(dsn) as found:
        await found.pool.execute(HOOK)
        yield found


async def refunds(books: Books) -> list[tuple[str, str, str]]:
    rows = await books.pool.fetch("SELECT generation_id::text AS id, reason, status FROM public.refunds")
    return [(row["id"], row["reason"], row["status"]) for row in rows]


async def test_the_hook_is_called_once_and_sees_the_failure(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    await books.ledger().fail(row, claim, Fail("refused (400)"))
    assert await refunds(books) == [(row.id, "refused (400)", "failed")]
    work = await books.work(row.id)
    assert work is not None
    assert work["refunded_at"] is not None


async def test_a_generation_that_fails_twice_is_refunded_once(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    await books.ledger().fail(row, claim, Fail("first", recheck_at=datetime.now(UTC)))
    await books.change(row.id, "status = 'queued'")
    row, claim = await books.held(row.id)
    await books.ledger().fail(row, claim, Fail("second"))
    assert [reason for _, reason, _ in await refunds(books)] == ["first"]
    assert await books.events(row.id) == ["gave_up", "failed"]


async def test_a_recovery_says_that_the_user_was_refunded(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    await books.ledger().fail(row, claim, Fail("gave up", recheck_at=datetime.now(UTC)))
    row, claim = await books.held(row.id)
    row = await books.stored(row, claim)
    assert await books.ledger().finish(row, claim, delivered()) == "recovered"
    sql = "SELECT payload ->> 'refunded' FROM reconciler.events WHERE kind = 'recovered'"
    assert await books.pool.fetchval(sql) == "true"


async def test_a_hook_that_throws_rolls_the_failure_back(books: Books) -> None:
    await books.pool.execute("DROP FUNCTION reconciler.on_failed")
    await books.pool.execute(THROWS)
    row, claim = await books.held(await books.insert())
    before = await books.everything()
    with pytest.raises(Permanent, match="no such wallet") as thrown:
        await books.ledger().fail(row, claim, Fail("refused"))
    assert thrown.value.code == "hook_failed"
    assert await books.everything() == before
    assert await refunds(books) == []
    assert await books.claims().renew([claim]) == {claim.lease}


async def test_the_hook_is_not_called_for_a_failure_that_is_handed_over(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    await books.ledger(handover=True).fail(row, claim, Fail("refused"))
    assert await refunds(books) == []


async def test_the_hook_is_not_called_where_the_row_has_moved(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    await books.change(row.id, "status = 'cancelled'")
    assert await books.ledger().fail(row, claim, Fail("refused")) is None
    assert await refunds(books) == []


async def test_a_hook_in_a_deadlock_with_the_application_is_called_again_and_refunds_once(books: Books) -> None:
    """The application locks its wallet and then the row, we lock the row and then the wallet."""
    await books.pool.execute("CREATE TABLE public.wallet (left_over int); INSERT INTO public.wallet VALUES (0)")
    body = """CREATE OR REPLACE FUNCTION reconciler.on_failed(generation uuid, reason text) RETURNS void
              LANGUAGE sql AS $$ UPDATE public.wallet SET left_over = left_over + 1 $$"""
    await books.pool.execute(body)
    row, claim = await books.held(await books.insert())
    async with books.pool.acquire() as application, application.transaction():
        # Our session looks for a deadlock after a second, before the other does, so PostgreSQL ends ours.
        await application.execute("SET LOCAL deadlock_timeout = '30s'")
        await application.execute("SELECT FROM public.wallet FOR UPDATE")
        failing = asyncio.ensure_future(books.ledger(lock_wait=10).fail(row, claim, Fail("refused")))
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        await until(lambda: books.pool.fetchval(waiting), what="the hook waits for the wallet")
        await application.execute("UPDATE public.generations SET prompt = 'x'")
    assert await failing == "failed"
    assert await books.pool.fetchval("SELECT left_over FROM public.wallet") == 1
    assert await books.events(row.id) == ["failed"]
