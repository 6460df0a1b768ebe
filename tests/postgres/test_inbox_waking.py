"""A kept callback makes its rows due, even when the process that kept it dies right after."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.domain.model import Trigger
from reconciler.postgres.inbox import PAUSE, CallbackMessage, Inbox
from tests.postgres.books import OURS, Books, resting

HELLO = CallbackMessage("task-1", None, {"data": {"taskId": "task-1"}}, "digest")


@pytest.fixture
def inbox(books: Books) -> Inbox:
    return Inbox(books.database, books.table)


async def asleep(books: Books, **columns: Any) -> str:
    """Return a row that is due in an hour."""
    generation_id = await books.insert(**columns)
    row, claim = await books.held(generation_id)
    await books.ledger().rest(row, claim, resting(3600))
    return generation_id


async def work(books: Books, generation_id: str) -> dict[str, Any]:
    found = await books.work(generation_id)
    assert found is not None
    return dict(found)


async def test_a_row_is_due_with_the_answer_itself(books: Books, inbox: Inbox) -> None:
    row = await asleep(books)
    await inbox.keep(HELLO)
    assert 0 < (await work(books, row))["due_in"] <= PAUSE
    await books.set(row, "due_at = now()")
    (claim,) = await books.claims().due(10)
    assert (claim.generation_id, claim.trigger) == (row, Trigger.CALLBACK)


async def test_a_repeated_callback_makes_the_row_due_again(books: Books, inbox: Inbox) -> None:
    row = await asleep(books)
    await inbox.keep(HELLO)
    await books.set(row, "due_at = now() + interval '1 hour'")
    await inbox.keep(HELLO)
    assert (await work(books, row))["due_in"] <= PAUSE


async def test_a_row_that_is_due_sooner_stays_so(books: Books, inbox: Inbox) -> None:
    row = await asleep(books)
    await books.set(row, "due_at = now() - interval '1 minute'")
    await inbox.keep(HELLO)
    assert (await work(books, row))["due_in"] < -50


async def test_a_row_without_a_task_is_due_by_its_name(books: Books, inbox: Inbox) -> None:
    row = await asleep(books, task_id=None)
    await inbox.keep(CallbackMessage("task-1", row, {}, "digest"))
    assert (await work(books, row))["due_in"] <= PAUSE


async def test_the_holder_of_the_row_visits_it_once_more(books: Books, inbox: Inbox) -> None:
    generation_id = await books.insert()
    row, claim = await books.held(generation_id)
    await inbox.keep(HELLO)
    await books.ledger().rest(row, claim, resting(3600))
    assert (await work(books, generation_id))["due_in"] <= PAUSE


async def test_the_wake_that_follows_need_not_wait_and_leaves_nothing_behind(books: Books, inbox: Inbox) -> None:
    generation_id = await asleep(books)
    await inbox.keep(HELLO)
    row, claim = await books.held(generation_id)
    await books.ledger().rest(row, claim, resting(3600))
    assert (await work(books, generation_id))["due_in"] > 3000


ENDS = [f"status = 'success', asset_url = '{OURS}'", "status = 'cancelled'", "status = 'failed'"]


@pytest.mark.parametrize("ended", ENDS)
async def test_a_row_that_has_ended_is_not_made_due(books: Books, inbox: Inbox, ended: str) -> None:
    row = await asleep(books)
    await books.change(row, ended)
    before = await books.everything()
    await inbox.keep(HELLO)
    assert await books.everything() == before


@pytest.mark.parametrize("fact", ["gave_up", "reopened"])
async def test_a_row_that_we_gave_up_is_made_due(books: Books, inbox: Inbox, fact: str) -> None:
    row = await asleep(books)
    await books.change(row, "status = 'failed'")
    await books.set(row, f"{fact} = true")
    await inbox.keep(HELLO)
    assert (await work(books, row))["due_in"] <= PAUSE


async def test_a_row_that_is_being_written_delays_no_callback(books: Books, inbox: Inbox) -> None:
    row = await asleep(books)
    async with books.pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM reconciler.work WHERE generation_id = $1 FOR UPDATE", row)
        assert (await inbox.keep(HELLO)).fresh
