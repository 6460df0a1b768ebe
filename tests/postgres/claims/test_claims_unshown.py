"""A delivered row that lost its address is found, although neither status nor task has changed."""

from __future__ import annotations

from tests.postgres.books import Books, delivered


async def finished(books: Books) -> str:
    generation_id = await books.insert()
    row, claim = await books.held(generation_id)
    row = await books.stored(row, claim)
    assert await books.ledger().finish(row, claim, delivered()) == "succeeded"
    return generation_id


async def test_a_delivered_row_without_its_address_is_found_and_due(books: Books) -> None:
    generation_id = await finished(books)
    assert await books.claims().discover() == 0
    await books.change(generation_id, "asset_url = NULL")
    assert await books.claims().discover() == 1
    assert [claim.generation_id for claim in await books.claims().due(5)] == [generation_id]


async def test_a_row_that_a_visit_has_left_since_is_not_found_again(books: Books) -> None:
    generation_id = await finished(books)
    await books.change(generation_id, "asset_url = NULL")
    row, claim = await books.held(generation_id)
    await books.ledger().leave(row, claim, "KIE refused the task")
    assert await books.claims().discover() == 0
