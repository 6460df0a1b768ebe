"""Retention counts from the failure, however old the row is, and never takes a failure for older than it can be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from reconciler.domain.model import Fail
from reconciler.postgres.ledger.reopen import Reopener
from reconciler.postgres.migrations.migrate import migrate
from tests.postgres.books import Books, opened

DAY = 86_400.0
MONTH = timedelta(days=30)


async def deleted(books: Books) -> int:
    return (await books.retention().failed(MONTH)).count


async def aged(books: Books, generation_id: str, days: int = 31) -> None:
    """Let everything that is known of the row have happened so many days earlier."""
    await books.change(generation_id, f"updated_at = updated_at - interval '{days} days'")
    await books.set(
        generation_id,
        f"failed_at = failed_at - interval '{days} days', looked_at = looked_at - interval '{days} days'",
    )
    sql = f"UPDATE reconciler.events SET at = at - interval '{days} days' WHERE generation_id = $1"
    await books.pool.execute(sql, generation_id)


async def test_a_row_created_31_days_ago_that_failed_just_now_stays_for_a_month(books: Books) -> None:
    """N9: it was deleted within the hour, together with the reason that its user should have read."""
    row, claim = await books.held(await books.insert(status="generating", age=31 * DAY))
    assert await books.ledger().fail(row, claim, Fail("refused (500)")) == "failed"
    await books.change(row.id, "updated_at = created_at")
    assert await deleted(books) == 0
    await aged(books, row.id, 29)
    assert await deleted(books) == 0
    await aged(books, row.id, 2)
    assert await deleted(books) == 1


async def test_a_failure_that_the_application_wrote_counts_from_when_a_visit_saw_it(books: Books) -> None:
    row, claim = await books.held(await books.insert(age=31 * DAY))
    await books.change(row.id, "status = 'failed', updated_at = created_at")
    await books.ledger().leave(replace(row, status="failed"), claim, "the application failed it")
    assert await deleted(books) == 0
    await aged(books, row.id)
    assert await deleted(books) == 1


@pytest.mark.parametrize("known", [
    "looked_at = now() - interval '29 days'", "ordered_at = now() - interval '29 days'",
    "task_since = now() - interval '29 days'",
    "failed_at = now() - interval '29 days', seen_task = 'another'",
    "failed_at = now() - interval '40 days', task_since = now() - interval '29 days'",
])  # fmt: skip
async def test_a_failure_that_nobody_noted_is_no_older_than_what_is_known_of_the_row(books: Books, known: str) -> None:
    failed = await books.insert(status="failed", age=50 * DAY)
    await books.pool.execute("INSERT INTO reconciler.work (generation_id, seen_task) VALUES ($1, 'task-1')", failed)
    await books.set(failed, known)
    assert await deleted(books) == 0
    await books.pool.execute("UPDATE reconciler.work SET looked_at = NULL, ordered_at = NULL, task_since = NULL")
    await books.set(failed, "failed_at = NULL")
    assert await deleted(books) == 1


@pytest.mark.parametrize("kind", ["failed", "gave_up"])
async def test_the_event_of_a_failure_tells_when_it_was(books: Books, kind: str) -> None:
    failed = await books.insert(status="failed", age=50 * DAY)
    sql = "INSERT INTO reconciler.events (key, generation_id, kind, payload) VALUES ('a failure', $1, $2, '{}')"
    await books.pool.execute(sql, failed, kind)
    assert await deleted(books) == 0
    await books.pool.execute("DELETE FROM reconciler.events")
    assert await deleted(books) == 1


async def test_a_row_that_we_never_followed_counts_from_its_last_change(books: Books) -> None:
    failed = await books.insert(status="failed", age=50 * DAY)
    await books.change(failed, "updated_at = now() - interval '29 days'")
    assert await deleted(books) == 0
    await books.change(failed, "updated_at = 'infinity'")
    assert await deleted(books) == 0, "nothing is known, so the failure was noted now"
    await books.set(failed, "failed_at = now() - interval '31 days'")
    assert await deleted(books) == 1


async def test_a_row_that_failed_again_counts_from_the_second_failure(books: Books) -> None:
    row, claim = await books.held(await books.insert(status="generating", age=99 * DAY))
    await books.ledger().fail(row, claim, Fail("refused (500)"))
    await aged(books, row.id, 60)
    await books.change(row.id, "status = 'generating', task_id = 'task-2'")
    row, claim = await books.held(row.id)
    await books.ledger().note(row, claim)
    assert (await books.work(row.id) or {})["failed_at"] is None
    await books.ledger().fail(row, claim, Fail("refused (500)"))
    await books.change(row.id, "updated_at = created_at")
    assert await deleted(books) == 0


async def test_a_failure_that_is_only_handed_over_is_none_yet(books: Books) -> None:
    row, claim = await books.held(await books.insert(status="generating", age=99 * DAY))
    await books.ledger(handover=True).fail(row, claim, Fail("refused (500)"))
    assert (await books.work(row.id) or {})["failed_at"] is None


async def test_a_visit_under_way_and_a_retry_keep_the_row_whatever_its_age(books: Books) -> None:
    """The bookkeeping is locked before the row is looked at for the last time."""
    failed = await books.insert(status="failed", age=50 * DAY)
    assert await Reopener(books.database, books.table, term=30).reopen(failed)
    await books.set(failed, "reopened = false, due_at = NULL")
    async with books.pool.acquire() as other, other.transaction():
        await other.execute("UPDATE reconciler.work SET reopened = true, due_at = now()")
        assert await deleted(books) == 0, "a retry is being written"
    assert await deleted(books) == 0
    await books.set(failed, "reopened = false, due_at = NULL, lease = gen_random_uuid(), lease_until = now() + '20 s'")
    assert await deleted(books) == 0, "a visit holds it"
    await books.set(failed, "lease_until = now() - interval '1 second'")
    assert await deleted(books) == 1


@pytest.fixture
async def bare(empty_dsn: str) -> AsyncIterator[Books]:
    """A table with the least columns."""
    connection: Any = await asyncpg.connect(empty_dsn)
    await connection.execute(
        "CREATE TABLE public.generations (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid, status text,"
        " task_id text, asset_url text, created_at timestamptz)"
    )
    await connection.close()
    await migrate(empty_dsn)
    async with opened(empty_dsn) as books:
        yield books


async def test_where_nothing_tells_when_a_row_failed_it_stays_for_a_month_from_when_that_was_first_seen(
    bare: Books,
) -> None:
    long = "x" * 5000
    await bare.pool.execute(
        "INSERT INTO public.generations (status, task_id, created_at)"
        " SELECT 'failed', task, now() - interval '99 days' FROM unnest($1::text[]) AS task", ["task", None, long]
    )  # fmt: skip
    dry = await bare.retention().failed(MONTH, dry_run=True)
    assert (dry.count, await bare.pool.fetchval("SELECT count(*) FROM reconciler.work")) == (0, 0)
    assert [await deleted(bare) for _ in range(2)] == [0, 0]
    await bare.pool.execute("UPDATE reconciler.work SET failed_at = failed_at - interval '31 days'")
    assert await deleted(bare) == 3
    assert await bare.pool.fetchval("SELECT count(*) FROM reconciler.work") == 0
