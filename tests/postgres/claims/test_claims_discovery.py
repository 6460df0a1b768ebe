"""The sweep finds the rows that no notification announced."""

from __future__ import annotations

import pytest

from reconciler.domain.model import Trigger
from tests.postgres.books import OURS, Books, resting


async def test_rows_whose_notification_was_lost_are_found_once_and_are_due_at_once(books: Books) -> None:
    ids = {await books.insert() for _ in range(3)}
    instance = books.claims()
    assert await instance.discover() == 3
    assert await instance.discover() == 0
    claims = await instance.due(10)
    assert {claim.generation_id for claim in claims} == ids
    assert {claim.trigger for claim in claims} == {Trigger.SWEEP}


@pytest.mark.parametrize("change", ["status = 'generating'", "task_id = 'task-2'"])
async def test_a_row_whose_change_was_not_notified_is_found(books: Books, change: str) -> None:
    generation_id = await books.insert()
    row, claim = await books.held(generation_id)
    await books.ledger().rest(row, claim, resting())
    assert await books.claims().discover() == 0
    await books.change(generation_id, change)
    assert await books.claims().discover() == 1
    assert len(await books.claims().due(1)) == 1


async def test_a_failed_row_that_the_application_reopened_without_notification_is_found(books: Books) -> None:
    generation_id = await books.insert()
    row, claim = await books.held(generation_id)
    await books.ledger().leave(row, claim, "nothing more to do")
    await books.change(generation_id, "status = 'failed'")
    assert await books.claims().discover() == 0
    await books.change(generation_id, "status = 'queued', task_id = 'task-2'")
    assert await books.claims().discover() == 1


async def test_a_row_that_another_instance_holds_is_left_alone(books: Books) -> None:
    generation_id = await books.insert()
    claim = await books.claim(generation_id)
    await books.change(generation_id, "status = 'generating'")
    assert await books.claims().discover() == 0
    work = await books.work(generation_id)
    assert work is not None
    assert work["lease"] == claim.lease


async def test_a_success_without_its_asset_is_found_while_its_media_can_live(books: Books) -> None:
    young = await books.insert(status="success", age=13 * 86400)
    old = await books.insert(status="success", age=15 * 86400)
    assert await books.claims().discover() == 1
    assert await books.work(young) is not None
    assert await books.work(old) is None


async def test_a_row_in_flight_is_found_at_any_age(books: Books) -> None:
    await books.insert(status="generating", age=400 * 86400)
    assert await books.claims().discover() == 1


async def test_a_row_that_was_visited_for_the_last_time_is_not_found_again(books: Books) -> None:
    generation_id = await books.insert(status="generating")
    row, claim = await books.held(generation_id)
    await books.ledger().leave(row, claim, "nothing left to fetch")
    assert await books.claims().discover() == 0


async def test_delivered_rows_are_not_found(books: Books) -> None:
    await books.insert(status="success", asset_url=OURS)
    assert await books.claims().discover() == 0
