"""The application's own hook on a failure: once for each generation or task, in the same transaction, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

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


BY_TASK = """
CREATE TABLE public.task_refunds (generation_id uuid, task_id text, reason text);
CREATE FUNCTION reconciler.on_failed(generation uuid, task text, reason text) RETURNS void LANGUAGE sql AS
    'INSERT INTO public.task_refunds VALUES (generation, task, reason)';
"""


@pytest.fixture
async def by_task(dsn: str) -> AsyncIterator[Books]:
    """Books with a hook that takes the task."""
    async with opened(dsn) as found:
        await found.pool.execute(BY_TASK)
        yield found


async def task_refunds(books: Books) -> list[tuple[str | None, str]]:
    rows = await books.pool.fetch("SELECT task_id, reason FROM public.task_refunds")
    return [(row["task_id"], row["reason"]) for row in rows]


async def failed(books: Books, generation_id: str, reason: str) -> None:
    """Fail the generation as it is now."""
    row, claim = await books.held(generation_id)
    await books.ledger().note(row, claim)
    await books.ledger().fail(row, claim, Fail(reason))


async def made_again(books: Books, generation_id: str, task_id: str | None) -> None:
    """Give the generation another task, as an application does that makes it again."""
    await books.pool.execute(
        "UPDATE public.generations SET status = 'queued', task_id = $2 WHERE id::text = $1", generation_id, task_id
    )


async def test_n9_a_generation_made_again_is_refunded_for_each_of_its_tasks(by_task: Books) -> None:
    generation_id = await by_task.insert(task_id="first")
    await failed(by_task, generation_id, "refused once")
    await made_again(by_task, generation_id, "second")
    await failed(by_task, generation_id, "refused twice")
    assert await task_refunds(by_task) == [("first", "refused once"), ("second", "refused twice")]


async def test_a_task_that_fails_twice_is_refunded_once(by_task: Books) -> None:
    generation_id = await by_task.insert(task_id="first")
    await failed(by_task, generation_id, "given up")
    for task_id in ("first", "second", "first"):
        await made_again(by_task, generation_id, task_id)
        await failed(by_task, generation_id, "again")
    assert await task_refunds(by_task) == [("first", "given up"), ("second", "again")]


async def test_an_order_that_never_had_a_task_is_refunded_once_without_one(by_task: Books) -> None:
    generation_id = await by_task.insert(task_id=None)
    await failed(by_task, generation_id, "no credits (402)")
    await made_again(by_task, generation_id, None)
    await failed(by_task, generation_id, "again")
    assert await task_refunds(by_task) == [(None, "no credits (402)")]


@pytest.mark.parametrize("forget", ["cleanup", "the application"])
async def test_a_generation_that_is_deleted_and_inserted_again_gets_no_second_refund_for_its_task(
    by_task: Books, forget: str
) -> None:
    generation_id = await by_task.insert(task_id="first")
    await failed(by_task, generation_id, "refused")
    if forget == "cleanup":
        past = "now() - interval '60 days'"
        await by_task.change(generation_id, f"created_at = {past}, updated_at = {past}")
        await by_task.set(generation_id, f"failed_at = {past}, task_since = {past}")
        await by_task.pool.execute(f"UPDATE reconciler.events SET at = {past}")
        assert (await by_task.retention().failed(timedelta(days=30))).count == 1
    else:
        await by_task.pool.execute("DELETE FROM public.generations")
        assert await by_task.retention().deserted() == 1
    assert await by_task.work(generation_id) is None
    for task_id in ("first", "second"):
        await by_task.pool.execute("DELETE FROM public.generations")
        await by_task.insert(id=generation_id, task_id=task_id)
        await failed(by_task, generation_id, "again")
    assert await task_refunds(by_task) == [("first", "refused"), ("second", "again")]


async def test_with_two_parameters_too_no_task_is_refunded_twice_after_a_deletion(books: Books) -> None:
    generation_id = await books.insert(task_id="first")
    await failed(books, generation_id, "refused")
    await books.pool.execute("DELETE FROM public.generations")
    assert await books.retention().deserted() == 1
    await books.insert(id=generation_id, task_id="first")
    await failed(books, generation_id, "again")
    assert [reason for _, reason, _ in await refunds(books)] == ["refused"]


async def test_where_both_forms_of_the_hook_exist_the_one_with_the_task_is_called(books: Books) -> None:
    generation_id = await books.insert(task_id="first")
    await failed(books, generation_id, "by the generation")
    await books.pool.execute(BY_TASK)
    await made_again(books, generation_id, "first")
    await failed(books, generation_id, "refunded already")
    await made_again(books, generation_id, "second")
    await failed(books, generation_id, "by the task")
    assert [reason for _, reason, _ in await refunds(books)] == ["by the generation"]
    assert await task_refunds(books) == [("second", "by the task")]


async def test_a_refund_that_an_older_daemon_made_counts_for_the_task_of_its_time(by_task: Books) -> None:
    """It writes refunded_at and no mark."""
    generation_id = await by_task.insert(task_id="first")
    row, claim = await by_task.held(generation_id)
    await by_task.ledger().note(row, claim)
    await by_task.claims().release([claim])
    await by_task.set(generation_id, "refunded_at = now()")
    await failed(by_task, generation_id, "again")
    assert await task_refunds(by_task) == []
    await made_again(by_task, generation_id, "second")
    await failed(by_task, generation_id, "refused")
    assert await task_refunds(by_task) == [("second", "refused")]


async def test_the_success_of_another_task_does_not_say_that_the_user_was_refunded(by_task: Books) -> None:
    generation_id = await by_task.insert(task_id="task-0")
    await failed(by_task, generation_id, "refused")
    await made_again(by_task, generation_id, "task-1")
    row, claim = await by_task.held(generation_id)
    row = await by_task.stored(row, claim)
    assert await by_task.ledger().finish(row, claim, delivered()) == "succeeded"
    sql = "SELECT payload ->> 'refunded' FROM reconciler.events WHERE kind = 'succeeded'"
    assert await by_task.pool.fetchval(sql) == "false"
