"""A row that gets another task: every write of the new one notes since when, and keeps the former ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.domain.model import Fail, Row
from reconciler.domain.results import from_addresses
from reconciler.postgres.claims.claims import Claim
from reconciler.postgres.create_rates import CreateRates
from reconciler.postgres.create_requests import CreateRequests
from reconciler.postgres.ledger.reopen import Reopener
from reconciler.postgres.predicates import FORMER_TASKS
from tests.postgres.books import THEIRS, Books, asset, delivered, proven, resting

MOMENT = timedelta(seconds=30)

Write = Callable[[Books, Row, Claim], Awaitable[object]]


async def rested(books: Books, generation_id: str) -> Row:
    """Make a visit that learns nothing; return the row as it was read."""
    row, claim = await books.held(generation_id)
    await books.ledger().rest(row, claim, resting())
    return row


async def give(books: Books, generation_id: str, task_id: str | None) -> None:
    await books.change(generation_id, "task_id = NULL" if task_id is None else f"task_id = '{task_id}'")


async def history(books: Books, generation_id: str) -> tuple[timedelta | None, list[str]]:
    """Return how long ago the row got its task, and its former tasks."""
    sql = "SELECT now() - task_since AS ago, former_tasks FROM reconciler.work WHERE generation_id = $1"
    row = await books.pool.fetchrow(sql, generation_id)
    return row["ago"], row["former_tasks"]


async def counts_from_now(books: Books, generation_id: str, *, had: list[str]) -> Row:
    """Assert that the task of a day-old row counts as new, and these are its former tasks; return the row."""
    row = await rested(books, generation_id)
    assert row.task_since is not None
    assert row.task_since - row.created_at > timedelta(hours=23)
    ago, former = await history(books, generation_id)
    assert ago is not None
    assert (ago < MOMENT, former) == (True, had)
    return row


async def test_a_task_that_came_with_the_row_counts_from_the_rows_creation(books: Books) -> None:
    generation_id = await books.insert(age=86400)
    assert (await rested(books, generation_id)).task_since is None
    assert (await rested(books, generation_id)).task_since is None
    assert await history(books, generation_id) == (None, [])


async def test_a_first_task_of_a_row_seen_without_one_counts_from_when_it_came(books: Books) -> None:
    generation_id = await books.insert(task_id=None, age=86400)
    assert (await rested(books, generation_id)).task_since is None
    await give(books, generation_id, "first")
    await counts_from_now(books, generation_id, had=[])


async def test_another_task_counts_from_when_it_was_first_seen(books: Books) -> None:
    generation_id = await books.insert(age=86400)
    await rested(books, generation_id)
    await give(books, generation_id, "second")
    row = await counts_from_now(books, generation_id, had=["task-1"])
    assert row.task_since is not None
    await books.set(generation_id, "task_since = task_since - interval '1 hour'")
    again = await rested(books, generation_id)
    assert again.task_since is not None
    assert timedelta(minutes=59) < row.task_since - again.task_since < timedelta(minutes=61)
    assert (await history(books, generation_id))[1] == ["task-1"]


async def test_a_task_after_a_time_without_one_counts_from_when_it_came(books: Books) -> None:
    generation_id = await books.insert()
    await rested(books, generation_id)
    await give(books, generation_id, None)
    assert (await rested(books, generation_id)).task_since is not None
    ago, former = await history(books, generation_id)
    assert (ago is not None, former) == (True, ["task-1"])
    await books.set(generation_id, "task_since = task_since - interval '1 hour'")
    await give(books, generation_id, "second")
    assert (await rested(books, generation_id)).task_since is not None
    ago, former = await history(books, generation_id)
    assert ago is not None
    assert (ago < MOMENT, former) == (True, ["task-1"])


async def test_only_the_latest_former_tasks_are_remembered(books: Books) -> None:
    generation_id = await books.insert(task_id="t-0")
    for n in range(1, FORMER_TASKS + 4):
        await rested(books, generation_id)
        await give(books, generation_id, f"t-{n}")
    await rested(books, generation_id)
    _, former = await history(books, generation_id)
    assert former == [f"t-{n}" for n in range(3, FORMER_TASKS + 3)]


async def _note(books: Books, row: Row, claim: Claim) -> None:
    await books.ledger().note(row, claim)


async def _begin(books: Books, row: Row, claim: Claim) -> None:
    await books.ledger().rest(row, claim, resting(begun=True))


async def _leave(books: Books, row: Row, claim: Claim) -> None:
    await books.ledger().leave(row, claim, "nothing more to do")


async def _intend(books: Books, row: Row, claim: Claim) -> None:
    await books.ledger().intend(row, claim, asset())


async def _lose(books: Books, row: Row, claim: Claim) -> None:
    await books.ledger().lose(row, claim, "gone")


async def _fail(books: Books, row: Row, claim: Claim) -> None:
    assert await books.ledger().fail(row, claim, Fail("refused")) == "failed"


async def _finish(books: Books, row: Row, claim: Claim) -> None:
    sql = """INSERT INTO reconciler.assets (generation_id, task_id, n, path, mime, size, sha256, md5, verified_by)
             VALUES ($1, $2, 0, 'p', 'image/png', 3, 'aa', 'bb', 'etag-md5')"""
    await books.pool.execute(sql, row.id, row.task_id)
    row = replace(row, results=from_addresses((THEIRS,)), assets=(proven(),))
    assert await books.ledger().finish(row, claim, delivered()) == "succeeded"


async def _adopt(books: Books, row: Row, claim: Claim) -> None:
    await give(books, row.id, None)
    assert await books.ledger().adopt(replace(row, task_id=None), claim, "second")


async def _save(books: Books, row: Row, claim: Claim) -> None:
    await books.claims().release([claim])
    await give(books, row.id, None)
    rates = CreateRates(books.database, rate=20, user_rate=6)
    requests = CreateRequests(books.database, books.table, rates=rates, provider="kie")
    await requests.save(row.id, "second", key_hash="k", dialect="market")


async def _reopen(books: Books, row: Row, claim: Claim) -> None:
    await books.claims().release([claim])
    await books.change(row.id, "status = 'failed'")
    assert await Reopener(books.database, books.table, term=30).reopen(row.id)


WRITES = [_note, _begin, _leave, _intend, _lose, _fail, _finish, _adopt, _save, _reopen]


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__.strip("_"))
async def test_every_write_of_another_task_remembers_the_former_one(books: Books, write: Write) -> None:
    generation_id = await books.insert(age=86400)
    await rested(books, generation_id)
    await give(books, generation_id, "second")
    row, claim = await books.held(generation_id)
    assert await history(books, generation_id) == (None, [])
    await write(books, row, claim)
    ago, former = await history(books, generation_id)
    assert ago is not None
    assert (ago < MOMENT, former) == (True, ["task-1"])
    work = await books.work(generation_id)
    assert work is not None
    assert work["seen_task"] == "second"
