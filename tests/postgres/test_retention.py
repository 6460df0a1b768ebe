"""Only old records are deleted: failures with nothing stored, our own traces, bookkeeping of deleted rows."""

from __future__ import annotations

from datetime import timedelta

import pytest

from reconciler.domain.model import Fail
from reconciler.postgres.retention import BATCH, Retention
from tests.postgres.books import OURS, THEIRS, Books

DAY = 86_400.0


async def failed(books: Books, days: int) -> int:
    """Delete one batch and return how many rows that were."""
    return (await books.retention().failed(timedelta(days=days))).count


async def generations(books: Books) -> set[str]:
    return {row["id"] for row in await books.pool.fetch("SELECT id::text FROM public.generations")}


async def test_old_failures_with_nothing_stored_are_deleted_with_their_bookkeeping(books: Books) -> None:
    old = await books.insert(status="queued", age=31 * DAY)
    await books.claim(old)
    await books.change(old, "status = 'failed', result_urls = '[]'")
    await books.set(
        old, "seen_status = 'failed', failed_at = now() - interval '31 days', lease = NULL, lease_until = NULL"
    )
    assert await failed(books, 30) == 1
    assert await generations(books) == set()
    assert await books.work(old) is None


KEPT = {
    "young": {"status": "failed", "age": 29 * DAY},
    "in flight": {"status": "generating", "age": 99 * DAY},
    "delivered": {"status": "success", "age": 99 * DAY, "asset_url": OURS},
    "cancelled": {"status": "cancelled", "age": 99 * DAY},
    "with an asset": {"status": "failed", "age": 99 * DAY, "asset_url": OURS},
    "with results": {"status": "failed", "age": 99 * DAY, "result_urls": f'["{THEIRS}"]'},
    "with further assets": {"status": "failed", "age": 99 * DAY, "asset_urls": f'["{OURS}"]'},
}


@pytest.mark.parametrize("name", KEPT)
async def test_nothing_else_is_deleted(books: Books, name: str) -> None:
    generation_id = await books.insert(**KEPT[name])
    assert await failed(books, 30) == 0
    assert await generations(books) == {generation_id}


async def test_a_failure_of_which_a_part_is_stored_is_kept(books: Books) -> None:
    row, claim = await books.held(await books.insert(age=99 * DAY))
    await books.stored(row, claim)
    await books.change(row.id, "status = 'failed'")
    assert await failed(books, 30) == 0


async def test_a_failure_that_we_concluded_and_that_may_still_succeed_is_kept(books: Books) -> None:
    row, claim = await books.held(await books.insert(age=20 * DAY))
    assert (
        await books.ledger().fail(row, claim, Fail("gave up", recheck_at=row.created_at + timedelta(days=30)))
        == "gave_up"
    )
    assert await failed(books, 14) == 0


async def test_a_locked_row_is_left_for_the_next_time(books: Books) -> None:
    await books.insert(status="failed", age=31 * DAY)
    locked = await books.insert(status="failed", age=31 * DAY)
    async with books.pool.acquire() as other, other.transaction():
        await other.execute("SELECT FROM public.generations WHERE id::text = $1 FOR UPDATE", locked)
        assert await failed(books, 30) == 1
    assert await generations(books) == {locked}


async def test_one_call_deletes_one_batch(books: Books) -> None:
    await books.pool.execute(
        """INSERT INTO public.generations (status, created_at, updated_at)
           SELECT 'failed', now() - interval '31 days', now() - interval '31 days' FROM generate_series(1, $1)""",
        BATCH + 20,
    )
    assert [await failed(books, 30) for _ in range(3)] == [BATCH, 20, 0]


async def test_old_records_are_deleted_and_those_still_needed_stay(books: Books) -> None:
    await books.pool.execute(
        """
        INSERT INTO reconciler.instances (id, host, pid, version, seen_at)
             VALUES (gen_random_uuid(), 'alive', 1, '1', now()),
                    (gen_random_uuid(), 'dead', 2, '1', now() - interval '2 days');
        INSERT INTO reconciler.events (key, generation_id, kind, payload, at, announced_at)
             VALUES ('old', 'g', 'failed', '{}', now() - interval '31 days', now()),
                    ('untold', 'g', 'failed', '{}', now() - interval '31 days', NULL),
                    ('young', 'g', 'failed', '{}', now(), now());
        INSERT INTO reconciler.callbacks (task_id, body, at)
             VALUES ('old', '{}', now() - interval '31 days'), ('young', '{}', now());
        """
    )
    await books.retention().traces()

    async def left(sql: str) -> list[str]:
        return sorted(row[0] for row in await books.pool.fetch(sql))

    assert await left("SELECT host FROM reconciler.instances") == ["alive"]
    assert await left("SELECT key FROM reconciler.events") == ["young"]
    assert await left("SELECT task_id FROM reconciler.callbacks") == ["young"]


async def test_with_webhooks_old_events_stay_until_they_are_sent_or_given_up(books: Books) -> None:
    await books.pool.execute(
        """
        INSERT INTO reconciler.events (key, generation_id, kind, payload, at, announced_at, dead_at)
             VALUES ('told', 'g', 'failed', '{}', now() - interval '31 days', now(), NULL),
                    ('dead', 'g', 'failed', '{}', now() - interval '31 days', NULL, now()),
                    ('dead lately', 'g', 'failed', '{}', now() - interval '29 days', NULL, now()),
                    ('untold', 'g', 'failed', '{}', now() - interval '31 days', NULL, NULL);
        """
    )
    await Retention(books.database, books.table, term=30, webhooks=True).traces()
    kept = await books.pool.fetch("SELECT key FROM reconciler.events ORDER BY key")
    assert [row["key"] for row in kept] == ["dead lately", "untold"]


async def test_callbacks_of_unknown_tasks_are_deleted_sooner(books: Books) -> None:
    row = await books.insert(task_id="known")
    await books.claim(row)
    await books.pool.execute(
        """INSERT INTO reconciler.callbacks (task_id, digest, body, at)
           SELECT task_id, days, '{}', now() - days * interval '1 day'
             FROM unnest(ARRAY['known', 'unknown']) AS task_id, unnest(ARRAY[13, 15, 31]) AS days"""
    )
    await books.retention().traces()
    left = await books.pool.fetch("SELECT task_id, digest FROM reconciler.callbacks")
    assert {tuple(one) for one in left} == {("known", "13"), ("known", "15"), ("unknown", "13")}


async def test_bookkeeping_of_deleted_rows_is_deleted_and_their_objects_are_orphans(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    row = await books.stored(row, claim)
    alive, _ = await books.held(await books.insert())
    await books.set(alive.id, "lease = NULL, lease_until = NULL")
    await books.pool.execute("DELETE FROM public.generations WHERE id::text = $1", row.id)
    assert await books.retention().deserted() == 0, "an instance still holds it"
    await books.set(row.id, "lease_until = now() - interval '1 second'")
    assert await books.retention().deserted() == 1
    assert await books.work(row.id) is None
    assert await books.work(alive.id) is not None
    orphans = await books.pool.fetch("SELECT path FROM reconciler.orphans")
    assert [one["path"] for one in orphans] == [row.assets[0].path]
