"""Reopening by hand: the row is polled once more, and facts that do not depend on its task stay."""

from __future__ import annotations

from reconciler.domain.model import Fail
from reconciler.postgres.ledger.reopen import Reopener
from tests.postgres.books import Books, delivered

PAST = "refunded_at = now(), delivered_at = now(), sources = ARRAY['http://localhost/old'], looks = 7"


async def test_a_failed_row_is_made_due_and_keeps_the_facts_about_its_task(books: Books) -> None:
    generation_id = await books.insert()
    row, claim = await books.held(generation_id)
    await books.ledger().fail(row, claim, Fail("refused (500)"))
    await books.set(generation_id, PAST)
    assert await Reopener(books.database, books.table, term=30).reopen(generation_id)
    work = await books.work(generation_id)
    assert work is not None
    assert (work["reopened"], work["looks"], work["refunded_at"] is not None) == (True, 7, True)
    assert work["due_in"] <= 0


async def test_facts_about_another_task_are_forgotten_but_not_the_refund(books: Books) -> None:
    generation_id = await books.insert()
    row, claim = await books.held(generation_id)
    await books.ledger().fail(row, claim, Fail("refused (500)"))
    await books.set(generation_id, PAST)
    await books.change(generation_id, "task_id = 'task-2'")
    assert await Reopener(books.database, books.table, term=30).reopen(generation_id)
    work = await books.work(generation_id)
    assert work is not None
    assert (work["reopened"], work["looks"], work["sources"], work["seen_task"]) == (True, 0, None, "task-2")
    assert work["refunded_at"] is not None
    assert work["delivered_at"] is not None


async def test_a_row_that_has_not_failed_keeps_its_facts(books: Books) -> None:
    generation_id = await books.insert()
    row, claim = await books.held(generation_id)
    row = await books.stored(row, claim)
    assert await books.ledger().finish(row, claim, delivered()) == "succeeded"
    before = await books.work(generation_id)
    assert before is not None
    assert not await Reopener(books.database, books.table, term=30).reopen(generation_id)
    after = await books.work(generation_id)
    assert after is not None
    assert after["delivered_at"] == before["delivered_at"]
