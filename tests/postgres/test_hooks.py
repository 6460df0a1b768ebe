"""The application's hook `reconciler.on_delivered`: called once for each task, behind the success, until it works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from reconciler.postgres.hooks import DeliveredCall, DeliveredHook, pause
from reconciler.postgres.pool import Database
from tests.postgres.books import Books, delivered, opened

TABLE = "CREATE TABLE public.told (generation_id uuid, task_id text, status text)"
HOOK = """
CREATE OR REPLACE FUNCTION reconciler.on_delivered(generation uuid, task text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.told SELECT generation, task, g.status FROM public.generations g WHERE g.id = generation;
    {more}
END
$$
"""
FAILED = DeliveredCall("", "", 0, "no call was due")
DROP = "DROP FUNCTION reconciler.on_delivered(uuid, text)"


@pytest.fixture
async def books(dsn: str) -> AsyncIterator[Books]:
    async with opened(dsn) as found:
        await found.pool.execute(TABLE)
        yield found


async def define(books: Books, more: str = "") -> None:
    await books.pool.execute(HOOK.format(more=more))


async def deliver(books: Books, generation_id: str | None = None, *, task_id: str = "task-1") -> str:
    """Deliver a generation."""
    generation_id = generation_id or await books.insert(task_id=task_id)
    row, claim = await books.held(generation_id)
    await books.ledger().note(row, claim)
    row = await books.stored(row, claim)
    assert await books.ledger().finish(row, claim, delivered()) is not None
    return generation_id


def hook(books: Books) -> DeliveredHook:
    return DeliveredHook(books.database, books.table)


async def told(books: Books) -> list[tuple[str, str, str]]:
    rows = await books.pool.fetch("SELECT generation_id::text, task_id, status FROM public.told")
    return [tuple(row) for row in rows]


async def call_all(books: Books) -> list[DeliveredCall]:
    """Make every call that is due."""
    calls = []
    while (call := await hook(books).call_next()) is not None:
        calls.append(call)
    return calls


async def due_now(books: Books) -> None:
    await books.pool.execute("UPDATE reconciler.hook_calls SET due_at = now() WHERE done_at IS NULL")


async def test_the_hook_is_called_once_for_a_delivery_and_sees_the_success(books: Books) -> None:
    await define(books)
    generation_id = await deliver(books)
    assert await call_all(books) == [DeliveredCall(generation_id, "task-1", tries=1, trouble=None)]
    assert await call_all(books) == []
    assert await told(books) == [(generation_id, "task-1", "success")]


async def test_without_the_hook_nothing_is_noted(books: Books) -> None:
    await deliver(books)
    assert await books.pool.fetchval("SELECT count(*) FROM reconciler.hook_calls") == 0
    assert await call_all(books) == []


async def test_a_hook_that_is_created_later_is_called_for_what_is_delivered_from_then_on(books: Books) -> None:
    ledger_of_a_running_daemon = books.ledger()
    await deliver(books)
    await define(books)
    row, claim = await books.held(await books.insert(task_id="task-2"))
    row = await books.stored(row, claim)
    await ledger_of_a_running_daemon.finish(row, claim, delivered())
    await call_all(books)
    assert await told(books) == [(row.id, "task-2", "success")]


async def test_each_task_of_a_generation_is_told_and_none_twice(books: Books) -> None:
    await define(books)
    generation_id = await deliver(books, task_id="first")
    for task_id in ("second", "first"):
        await books.pool.execute(
            "UPDATE public.generations SET status = 'queued', asset_url = NULL, task_id = $2 WHERE id::text = $1",
            generation_id, task_id,
        )  # fmt: skip
        await deliver(books, generation_id)
        await call_all(books)
    assert [task_id for _, task_id, _ in await told(books)] == ["first", "second"]


async def test_a_hook_that_throws_leaves_the_success_and_is_called_again_until_it_works(books: Books) -> None:
    await define(books, "RAISE EXCEPTION 'no such wallet';")
    generation_id = await deliver(books)
    for tries in (1, 2, 3):
        assert await call_all(books) == [DeliveredCall(generation_id, "task-1", tries, "no such wallet")]
        await due_now(books)
    assert await told(books) == []
    assert (await books.generation(generation_id))["status"] == "success"
    await define(books)
    assert await call_all(books) == [DeliveredCall(generation_id, "task-1", 4, None)]
    assert len(await told(books)) == 1


def test_the_pauses_double_up_to_ten_minutes() -> None:
    assert [pause(tries) for tries in (1, 2, 3, 9, 10, 10_000)] == [2.0, 4.0, 8.0, 512.0, 600.0, 600.0]


async def test_a_call_that_failed_is_due_after_its_pause(books: Books) -> None:
    await define(books, "RAISE EXCEPTION 'no';")
    await deliver(books)
    await books.pool.execute("UPDATE reconciler.hook_calls SET tries = 9")
    await call_all(books)
    left = await books.pool.fetchval("SELECT extract(epoch FROM due_at - clock_timestamp()) FROM reconciler.hook_calls")
    assert 512 < left <= 600


async def test_a_hook_that_hangs_is_ended_and_holds_nothing_up(books: Books) -> None:
    await define(books, "IF task = 'task-1' THEN PERFORM pg_sleep(600); END IF;")
    slow = await deliver(books)
    fast = await deliver(books, task_id="task-2")
    calls = {call.generation_id: call for call in await call_all(books)}
    assert "statement timeout" in (calls[slow].trouble or "")
    assert calls[fast].trouble is None
    assert [generation_id for generation_id, _, _ in await told(books)] == [fast]


async def test_a_call_takes_five_seconds_at_most_and_waits_two_for_a_lock(books: Books) -> None:
    await define(books, "RAISE '% %', current_setting('statement_timeout'), current_setting('lock_timeout');")
    await deliver(books)
    assert [call.trouble for call in await call_all(books)] == ["5s 2s"]


async def test_what_the_application_checks_at_the_end_of_a_transaction_fails_the_call(books: Books) -> None:
    await books.pool.execute("ALTER TABLE public.told ADD UNIQUE (status) DEFERRABLE INITIALLY DEFERRED")
    await define(books)
    await deliver(books)
    await deliver(books, task_id="task-2")
    assert sorted(call.trouble is None for call in await call_all(books)) == [False, True]
    assert len(await told(books)) == 1


async def test_two_replicas_never_make_the_same_call(books: Books) -> None:
    await define(books, "PERFORM pg_sleep(0.01);")
    made = {await deliver(books, task_id=f"task-{n}") for n in range(12)}
    await asyncio.gather(*(call_all(books) for _ in range(4)))
    assert len(await told(books)) == 12
    assert {generation_id for generation_id, _, _ in await told(books)} == made


async def test_a_call_whose_process_dies_is_made_by_another_one(books: Books) -> None:
    """The effect of the call and its mark are one transaction: neither is there without the other."""
    await define(books, "PERFORM pg_terminate_backend(pg_backend_pid());")
    generation_id = await deliver(books)
    with pytest.raises(Exception, match="database is away"):
        await hook(books).call_next()
    assert await told(books) == []
    await define(books)
    assert await call_all(books) == [DeliveredCall(generation_id, "task-1", 1, None)]
    assert len(await told(books)) == 1


async def test_the_calls_of_a_hook_that_is_dropped_wait_until_it_is_there_again(books: Books) -> None:
    await define(books)
    generation_id = await deliver(books)
    await books.pool.execute(DROP)
    assert await call_all(books) == []
    await define(books)
    await call_all(books)
    assert [one for one, _, _ in await told(books)] == [generation_id]


async def test_a_hook_that_returns_another_type_from_now_on_is_called_all_the_same(books: Books, dsn: str) -> None:
    """The pool has one connection, which has prepared the call."""
    database = Database(dsn, size=1)
    mine = DeliveredHook(database, books.table)
    await define(books)
    await deliver(books)
    assert (await mine.call_next() or FAILED).trouble is None
    returns = ("boolean LANGUAGE sql AS 'SELECT true'", "SETOF integer LANGUAGE sql AS 'SELECT 1 UNION SELECT 2'")
    for n, kind in enumerate(returns):
        await books.pool.execute(f"{DROP}; CREATE FUNCTION reconciler.on_delivered(g uuid, t text) RETURNS {kind}")
        await deliver(books, task_id=f"next-{n}")
        assert (await mine.call_next() or FAILED).trouble is None
    await database.close()


async def test_a_fresh_delivery_is_told_before_those_that_failed(books: Books) -> None:
    await define(books, "RAISE EXCEPTION 'no';")
    for n in range(3):
        await deliver(books, task_id=f"task-{n}")
    await call_all(books)
    await due_now(books)
    fresh = await deliver(books, task_id="fresh")
    call = await hook(books).call_next()
    assert call is not None
    assert call.generation_id == fresh
