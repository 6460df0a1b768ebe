"""N3, law 10: no backlog of one sort of rows keeps the rows of another waiting, whatever is claimed at a time."""

from __future__ import annotations

import asyncpg
import pytest

from reconciler.domain import poll_interval
from reconciler.domain.model import Trigger
from reconciler.domain.poll_interval import MIN_POLL_PRICE, PRIORS
from reconciler.postgres.claims.claims import Claims
from reconciler.postgres.claims.queues import LONG, NEW, WEIGHTS, Queue
from tests.postgres.books import OURS, Books

FILL = """
INSERT INTO reconciler.work (generation_id, due_at, seen_status, seen_task, looks, misses, trigger)
SELECT $1 || n, now() - ($2 + n / 1000.0) * interval '1 second', $3, 'task', $4, $5, $6 FROM generate_series(1, $7) n
"""
SORTS = {
    Queue.REQUESTED: (1.0, "queued", 1, 0, "callback"),
    Queue.FRESH: (1.0, "queued", 0, 0, None),
    Queue.IN_FLIGHT: (NEW + 1.0, "queued", 0, 0, None),
    Queue.PATIENT: (LONG + 10.0, "generating", 1, 0, None),
    Queue.FAILING: (1.0, "queued", 1, 1, None),
    Queue.HOPELESS: (1.0, "queued", 9, 9, None),
    Queue.ENDED: (1.0, "success", 1, 0, None),
}


async def fill(books: Books, queue: Queue, count: int) -> None:
    """Insert overdue rows that wait in this queue."""
    await books.pool.execute(FILL, f"{queue}-", *SORTS[queue], count)


async def served(claims: Claims, places: int) -> list[Queue]:
    """Claim one row at a time, as places become free, and hold them all; return the queues in order."""
    order: list[Queue] = []
    for _ in range(places):
        order += [claim.queue for claim in await claims.due(1, {queue: order.count(queue) for queue in WEIGHTS})]
    return order


async def test_n3_each_queue_has_its_share_of_the_places_however_many_rows_wait_in_the_others(books: Books) -> None:
    for number, queue in enumerate(WEIGHTS):
        await fill(books, queue, 3000 if number % 2 else 40)
    whole = sum(WEIGHTS.values())
    order = await served(books.claims(), whole)
    assert {queue: order.count(queue) for queue in WEIGHTS} == dict(WEIGHTS)
    many = [claim.queue for claim in await books.claims().due(whole)]
    assert {queue: many.count(queue) for queue in WEIGHTS} == dict(WEIGHTS)


@pytest.mark.parametrize("queue", list(SORTS))
async def test_n3_a_row_of_any_sort_is_claimed_soon_before_thousands_of_every_other(books: Books, queue: Queue) -> None:
    for other in WEIGHTS:
        await fill(books, other, 1 if other is queue else 2000)
    assert queue in await served(books.claims(), 17)


async def test_n3_of_rows_never_asked_about_the_newest_has_a_share_beside_a_bulk_that_became_due_earlier(
    books: Books,
) -> None:
    await books.pool.execute(FILL, "bulk-", 0.5, "queued", 0, 0, None, 3000)
    await books.pool.execute(FILL, "new-", 0.0, "queued", 0, 0, None, 1)
    assert "new-1" in [claim.generation_id for claim in await books.claims().due(2)]
    await books.pool.execute("UPDATE reconciler.work SET due_at = due_at - interval '1 minute' WHERE lease IS NULL")
    await books.pool.execute(FILL, "newer-", 0.0, "queued", 0, 0, None, 1)
    assert "newer-1" in [claim.generation_id for claim in await books.claims().due(4)]


async def test_n3_a_queue_alone_gets_every_place(books: Books) -> None:
    await fill(books, Queue.ENDED, 30)
    assert await served(books.claims(), 20) == [Queue.ENDED] * 20


async def test_n3_among_2000_equal_rows_nobody_is_asked_twice_before_nine_in_ten_were_asked_once(books: Books) -> None:
    """At 20 requests a second, with the real claim and the intervals of the daemon; only the clock is moved by hand."""
    await books.pool.execute(FILL, "row-", 0.0, "queued", 0, 0, None, 2000)
    claims, asked, price = books.claims(), dict[str, int](), MIN_POLL_PRICE
    for second in range(120):
        for claim in await claims.due(20):
            asked[claim.generation_id] = asked.get(claim.generation_id, 0) + 1
        twice = [name for name, times in asked.items() if times > 1]
        if twice:
            break
        wait = poll_interval.interval(PRIORS["image"], 30.0 + second, price)
        await rested(books.pool, wait)
        await let_pass(books.pool, 1.0)
    assert len(asked) >= 1800


async def rested(pool: asyncpg.Pool, wait: float) -> None:
    """End every visit with an answer that says nothing new; the next look comes after so many seconds."""
    sql = """UPDATE reconciler.work SET lease = NULL, lease_until = NULL, looks = looks + 1,
                    due_at = now() + $1 * interval '1 second' WHERE lease IS NOT NULL"""
    await pool.execute(sql, wait)


async def let_pass(pool: asyncpg.Pool, seconds: float) -> None:
    """Move every due time so many seconds towards the past; the lines stay."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        sql = "UPDATE reconciler.work SET due_at = due_at - $1 * interval '1 second'"
        await connection.execute(sql, seconds)


async def test_rows_of_one_line_come_in_the_order_of_their_due_times(books: Books) -> None:
    await fill(books, Queue.IN_FLIGHT, 50)
    await books.pool.execute("DELETE FROM reconciler.work WHERE generation_id = 'in_flight-50'")
    names = [claim.generation_id for claim in await books.claims().due(3)]
    assert set(names) == {"in_flight-49", "in_flight-48", "in_flight-47"}


async def test_a_row_whose_task_probably_ended_comes_before_one_that_was_to_wait_longer(books: Books) -> None:
    await books.pool.execute(FILL, "long-", 30.0, "queued", 1, 0, None, 50)
    await books.pool.execute("UPDATE reconciler.work SET line = 3")
    await books.pool.execute(FILL, "short-", 20.0, "queued", 1, 0, None, 1)
    (claim,) = await books.claims().due(1)
    assert claim.generation_id == "short-1"


LINES = [
    ("queued", 0, 0, None, 0.0, 0), ("queued", 1, 0, None, 4.0, 1), ("queued", 1, 0, "poll", 30.0, 2),
    ("generating", 1, 0, None, 300.0, 3), ("queued", 1, 1, None, 5.0, 4), ("queued", 9, 4, None, 900.0, 5),
    ("success", 1, 0, None, 5.0, 6), ("failed", 9, 9, None, 900.0, 6), ("success", 1, 0, "sync", 0.0, 7),
    ("queued", 1, 0, "callback", 0.0, 7), ("queued", 1, 0, "callback", 60.0, 2), (None, 0, 0, None, 0.0, 0),
]  # fmt: skip


@pytest.mark.parametrize(("status", "looks", "misses", "trigger", "wait", "line"), LINES)
async def test_a_row_waits_in_a_line_that_claims_read_and_takes_another_with_its_due_time(
    books: Books, status: str | None, looks: int, misses: int, trigger: str | None, wait: float, line: int
) -> None:
    insert = """INSERT INTO reconciler.work (generation_id, due_at, seen_status, looks, misses, trigger)
                VALUES ('row', now() + $1 * interval '1 second', $2, $3, $4, $5)"""
    await books.pool.execute(insert, wait, status, looks, misses, trigger)
    chosen = "SELECT line FROM reconciler.work"
    assert await books.pool.fetchval(chosen) == line
    await books.pool.execute("UPDATE reconciler.work SET looks = looks + 1, misses = 2, seen_status = 'queued'")
    assert await books.pool.fetchval(chosen) == line
    await books.pool.execute("UPDATE reconciler.work SET due_at = now() + interval '1 minute'")
    assert await books.pool.fetchval(chosen) == 4
    await books.pool.execute("UPDATE reconciler.work SET due_at = NULL")
    assert await books.pool.fetchval(chosen) is None


async def test_wakes_beyond_the_places_become_due_rows_and_requested_ones_are_claimed_first(books: Books) -> None:
    ids = [await books.insert() for _ in range(6)]
    wakes = dict.fromkeys(ids[:5], Trigger.NOTIFY) | {ids[5]: Trigger.CALLBACK}
    taken = await books.claims().take(wakes, limit=3, ended=1)
    assert {claim.generation_id for claim in taken.claims} == {ids[0], ids[1], ids[5]}
    assert taken.busy == ()
    for generation_id in ids[2:5]:
        work = await books.work(generation_id)
        assert work is not None
        assert (work["lease"], work["line"]) == (None, 0)
        # A new row is worth a first look once tasks begin to end; a spare request may come sooner.
        assert 5 < work["due_in"] < 11
    await books.pool.execute("UPDATE reconciler.work SET early_at = now()")
    assert len(await books.claims().early(10)) == 3


async def test_an_announced_row_that_is_old_becomes_due_at_once_and_a_due_one_keeps_its_place(books: Books) -> None:
    old, due = await books.insert(age=60), await books.insert(age=60)
    assert await books.claims().discover() == 2
    await books.pool.execute("DELETE FROM reconciler.work WHERE generation_id = $1", old)
    await books.set(due, "due_at = now() - interval '1 hour'")
    assert (await books.claims().take(dict.fromkeys([old, due], Trigger.NOTIFY), limit=0, ended=0)).claims == []
    assert {claim.generation_id for claim in await books.claims().due(5)} == {old, due}
    work = await books.work(due)
    assert work is not None
    assert work["due_in"] < -3500


async def test_n3_successes_without_an_asset_have_places_of_their_own_among_the_woken(books: Books) -> None:
    ended = [await books.insert(status="success") for _ in range(5)]
    flying = [await books.insert() for _ in range(2)]
    taken = await books.claims().take(dict.fromkeys([*ended, *flying], Trigger.NOTIFY), limit=7, ended=1)
    assert {claim.generation_id for claim in taken.claims} == {ended[0], *flying}
    assert {claim.queue for claim in await books.claims().due(10)} == {Queue.ENDED}


async def test_n3_history_and_rows_of_others_get_no_bookkeeping_and_take_no_place_from_a_new_row(books: Books) -> None:
    await books.pool.execute(
        """INSERT INTO public.generations (status, task_id, asset_url, provider)
           SELECT CASE WHEN n % 3 = 0 THEN 'failed' ELSE 'success' END, 'task-' || n,
                  CASE WHEN n % 2 = 0 THEN $1 END, CASE WHEN n % 2 = 0 THEN 'kie' ELSE 'replicate' END
             FROM generate_series(1, 500) n""",
        OURS,
    )
    history = [row[0] for row in await books.pool.fetch("SELECT id::text FROM public.generations")]
    new = await books.insert()
    taken = await books.claims().take(dict.fromkeys([*history, new], Trigger.NOTIFY), limit=1, ended=1)
    assert [claim.generation_id for claim in taken.claims] == [new]
    assert await books.pool.fetchval("SELECT count(*) FROM reconciler.work") == 1
