"""A row without a task gets its own task, at most once and never against a change of the application."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from reconciler.domain.model import Row, Trigger
from reconciler.errors import LeaseLost, Permanent
from reconciler.postgres.claims.claims import Claim
from testkit.waiting import until
from tests.postgres.books import Books, opened, resting
from tests.postgres.ledger.test_ledger_tables import TABLES, created

WAITS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def offer(books: Books, generation_id: str | None, task_id: str, *, days: float = 0) -> None:
    """Keep a callback of this task that names this generation."""
    sql = """INSERT INTO reconciler.callbacks (task_id, generation_id, body, digest, at)
             VALUES ($1, $2, '{}', md5(random()::text), now() - $3 * interval '1 day')"""
    await books.pool.execute(sql, task_id, generation_id, days)


async def rested(books: Books, generation_id: str) -> Row:
    """Make a visit that learns nothing; return the row as it was read."""
    row, claim = await books.held(generation_id)
    await books.ledger().rest(row, claim, resting(1800))
    return row


async def wakes(books: Books, generation_id: str, trigger: Trigger) -> list[Claim]:
    return await books.claims().woken({generation_id: trigger})


async def test_a_row_without_a_task_is_read_with_what_callbacks_offer_the_newest_and_the_first(books: Books) -> None:
    generation_id, other = await books.insert(task_id=None), await books.insert(task_id=None)
    for task_id in ("a", "b", "a", "c", "d"):
        await offer(books, generation_id, task_id)
    await offer(books, generation_id, "too old", days=14.1)
    await offer(books, other, "another's")
    await offer(books, None, "nobody's")
    row, _ = await books.held(generation_id)
    assert row.offered == ("d", "a", "b")
    assert (await books.held(other))[0].offered == ("another's",)


async def test_a_row_that_has_a_task_is_offered_nothing(books: Books) -> None:
    generation_id = await books.insert()
    await offer(books, generation_id, "task-2")
    assert (await books.held(generation_id))[0].offered == ()


async def test_a_task_that_the_row_has_had_is_not_offered_to_it_again(books: Books) -> None:
    generation_id, other = await books.insert(), await books.insert(task_id=None)
    for n in (1, 2, 3):
        await offer(books, generation_id, f"task-{n}")
        await offer(books, other, f"task-{n}")
        await rested(books, generation_id)
        await books.change(generation_id, "task_id = NULL")
        # While the bookkeeping is still about the removed task, and after that.
        assert (await rested(books, generation_id)).offered == ()
        assert (await rested(books, generation_id)).offered == ()
        assert await books.claims().discover() == int(n == 1), "only the other row has an offer"
        await books.change(generation_id, f"task_id = 'task-{n + 1}'")
    await books.change(generation_id, "task_id = NULL")
    await offer(books, generation_id, "task-9")
    assert (await rested(books, generation_id)).offered == ("task-9",)
    assert (await books.held(other))[0].offered == ("task-3", "task-1", "task-2")


@pytest.mark.parametrize(("status", "then"), [("queued", "generating"), ("generating", "generating")])
async def test_an_adopted_task_is_written_with_its_facts(books: Books, status: str, then: str) -> None:
    generation_id = await books.insert(status=status, task_id=None)
    row, claim = await books.held(generation_id)
    known = replace(
        row, key_hash="5" * 16, family="market", acknowledged_at=datetime.now(UTC), polls=1, reason="KIE agrees"
    )
    assert await books.ledger().adopt(known, claim, "task-7")

    generation = await books.generation(generation_id)
    assert (generation["task_id"], generation["status"]) == ("task-7", then)
    again = (await books.ledger().read([generation_id]))[generation_id].row
    assert again.task_since is not None
    assert again == replace(known, task_id="task-7", status=then, task_since=again.task_since)


async def test_our_own_adoption_does_not_wake_us(books: Books) -> None:
    generation_id = await books.insert(task_id=None)
    row, claim = await books.held(generation_id)
    await books.ledger().adopt(row, claim, "task-7")
    assert await wakes(books, generation_id, Trigger.NOTIFY) == []
    row = (await books.ledger().read([generation_id]))[generation_id].row
    await books.ledger().rest(row, claim, resting())
    work = await books.work(generation_id)
    assert work is not None
    assert work["due_in"] > 50
    assert await books.claims().discover() == 0


@pytest.mark.parametrize(
    "change",
    ["task_id = 'task-1'", "status = 'cancelled'", "status = 'failed'", "status = 'success'"],
)
async def test_a_row_that_moved_meanwhile_is_not_written(books: Books, change: str) -> None:
    generation_id = await books.insert(task_id=None)
    row, claim = await books.held(generation_id)
    await books.change(generation_id, change)
    before = await books.everything()
    assert not await books.ledger().adopt(row, claim, "task-7")
    assert await books.everything() == before


async def test_createtasks_own_answer_in_the_same_moment_wins_and_harms_nothing(books: Books) -> None:
    generation_id = await books.insert(task_id=None)
    row, claim = await books.held(generation_id)
    async with books.pool.acquire() as creating, creating.transaction():
        await creating.execute("UPDATE public.generations SET task_id = 'task-7', status = 'generating'")
        adopting = asyncio.ensure_future(books.ledger(lock_wait=30).adopt(row, claim, "task-7"))
        await until(lambda: books.pool.fetchval(WAITS), what="a statement that waits for a lock")
    assert not await adopting
    again = (await books.ledger().read([generation_id]))[generation_id].row
    assert (again.task_id, again.status) == ("task-7", "generating")


async def test_without_the_lease_no_task_is_adopted(books: Books) -> None:
    generation_id = await books.insert(task_id=None)
    row, claim = await books.held(generation_id)
    await books.taken_over(generation_id)
    before = await books.everything()
    with pytest.raises(LeaseLost):
        await books.ledger().adopt(row, claim, "task-7")
    assert await books.everything() == before


@pytest.mark.parametrize(
    "refusing",
    [
        "CREATE UNIQUE INDEX one_row_a_task ON public.generations (task_id)",
        (
            "DROP TRIGGER reconciler_updated_2 ON public.generations;"
            "ALTER TABLE public.generations ALTER task_id TYPE varchar(6)"
        ),
        "ALTER TABLE public.generations ADD CHECK (task_id NOT LIKE 'theirs%') NOT VALID",
    ],
)
async def test_a_table_that_refuses_the_id_raises_permanent(dsn: str, refusing: str) -> None:
    async with opened(dsn) as books:
        await books.insert(task_id="theirs")
        await books.pool.execute(refusing)
        generation_id = await books.insert(task_id=None)
        row, claim = await books.held(generation_id)
        before = await books.everything()
        with pytest.raises(Permanent) as raised:
            await books.ledger().adopt(row, claim, "theirs" if "UNIQUE" in refusing else "theirs too")
        assert raised.value.code == "no_task"
        assert await books.everything() == before


@pytest.mark.parametrize("name", TABLES)
async def test_a_task_is_adopted_in_any_table(empty_dsn: str, name: str) -> None:
    table = TABLES[name]
    await created(empty_dsn, table)
    async with opened(empty_dsn) as books:
        generation_id = await books.insert(task_id=None, **dict(table.values))
        await offer(books, generation_id, "task-7")
        row, claim = await books.held(generation_id)
        assert row.offered == ("task-7",)
        assert await books.ledger().adopt(row, claim, "task-7")
        generation = await books.generation(generation_id)
        assert (generation["task_id"], generation["status"]) == ("task-7", table.begun)


async def test_an_offer_makes_a_resting_row_due_when_its_callback_wakes_it(books: Books) -> None:
    generation_id = await books.insert(task_id=None)
    row, claim = await books.held(generation_id)
    await books.ledger().rest(row, claim, resting(1800))
    assert await wakes(books, generation_id, Trigger.NOTIFY) == []
    (claim,) = await wakes(books, generation_id, Trigger.CALLBACK)
    assert claim.trigger is Trigger.CALLBACK


async def test_an_offer_without_a_wake_is_found_by_the_sweep_once(books: Books) -> None:
    generation_id = await books.insert(task_id=None)
    row, claim = await books.held(generation_id)
    await books.ledger().rest(row, claim, resting(1800))
    assert await books.claims().discover() == 0
    await offer(books, generation_id, "task-7")
    assert await books.claims().discover() == 1
    (claim,) = await books.claims().due(10)
    row = (await books.ledger().read([generation_id]))[generation_id].row
    assert row.offered == ("task-7",)

    looked = await books.pool.fetchval("SELECT clock_timestamp()")
    await books.ledger().rest(replace(row, polled_at=looked), claim, resting(1800))
    assert await books.claims().discover() == 0
    await offer(books, generation_id, "task-8")
    assert await books.claims().discover() == 1


async def test_the_sweep_ignores_an_offer_to_a_row_that_has_a_task(books: Books) -> None:
    generation_id = await books.insert()
    row, claim = await books.held(generation_id)
    await books.ledger().rest(row, claim, resting(1800))
    await offer(books, generation_id, "task-7")
    assert await books.claims().discover() == 0
