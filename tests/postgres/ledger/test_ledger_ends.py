"""How a generation ends in the application's table: success with every receipt, failure, and nothing where it moved."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.domain.model import Fail, Row
from reconciler.postgres.claims.claims import Claim
from tests.postgres.books import OURS, Books, asset, delivered, proven


async def test_a_success_writes_results_addresses_event_and_timing_together(books: Books) -> None:
    row, claim = await books.held(await books.insert(model_key="flux", status="generating", error="an old one"))
    row = await books.stored(row, claim, sources=2)
    assert await books.ledger().finish(row, claim, delivered(2)) == "succeeded"
    generation = await books.generation(row.id)
    assert (generation["status"], generation["asset_url"], generation["error"]) == ("success", f"{OURS}?0", None)
    assert json.loads(generation["asset_urls"]) == [f"{OURS}?0", f"{OURS}?1"]
    assert json.loads(generation["result_urls"]) == list(row.sources)
    assert generation["updated_at"] > generation["created_at"]
    work = await books.work(row.id)
    assert work is not None
    assert (work["lease"], work["due_at"], work["seen_status"], work["why"]) == (None, None, "success", None)
    assert work["delivered_at"] is not None
    assert await books.pool.fetch("SELECT model, took FROM reconciler.timings") == [("flux", 12.0)]
    key, payload = await books.pool.fetchrow("SELECT key, payload FROM reconciler.events")
    assert key == f"{row.id}|task-1|succeeded|0"
    assert json.loads(payload) == {
        "generation_id": row.id,
        "task_id": "task-1",
        "status": "success",
        "asset_url": f"{OURS}?0",
        "asset_urls": [f"{OURS}?0", f"{OURS}?1"],
        "paths": [asset(0).path, asset(1).path],
        "result_urls": list(row.sources),
        "refunded": False,
    }


async def test_an_event_key_is_never_used_twice_although_old_events_are_deleted(books: Books) -> None:
    generation_id = await books.insert()
    for failing in range(6):
        await books.change(generation_id, "status = 'queued'")
        row, claim = await books.held(generation_id)
        await books.ledger().fail(row, claim, Fail("no credits"))
        if failing % 2:
            oldest = "DELETE FROM reconciler.events WHERE id = (SELECT min(id) FROM reconciler.events)"
            assert await books.pool.execute(oldest) == "DELETE 1"
    assert await books.events(generation_id) == ["failed"] * 3


@pytest.mark.parametrize(
    ("status", "gave_up", "kind"),
    [("generating", False, "succeeded"), ("success", False, "healed"), ("failed", True, "recovered")],
)
async def test_the_kind_of_the_event_depends_on_the_status_before(
    books: Books, status: str, gave_up: bool, kind: str
) -> None:
    row, claim = await books.held(await books.insert())
    await books.change(row.id, f"status = '{status}'")
    row = await books.stored(replace(row, status=status, gave_up=gave_up), claim)
    assert await books.ledger().finish(row, claim, delivered()) == kind
    assert await books.events(row.id) == [kind]
    assert (await books.generation(row.id))["status"] == "success"


async def without_its_last_receipt(books: Books, row: Row, claim: Claim) -> None:
    await books.pool.execute("UPDATE reconciler.assets SET verified_by = NULL WHERE n = 1")


async def with_the_receipts_of_another_task(books: Books, row: Row, claim: Claim) -> None:
    await books.pool.execute("UPDATE reconciler.assets SET task_id = 'task-0'")


async def when_the_address_has_changed(books: Books, row: Row, claim: Claim) -> None:
    await books.change(row.id, "asset_url = 'https://elsewhere.example/x.png'")


async def when_the_task_was_replaced(books: Books, row: Row, claim: Claim) -> None:
    await books.change(row.id, "task_id = 'task-2'")


async def when_the_user_cancelled(books: Books, row: Row, claim: Claim) -> None:
    await books.change(row.id, "status = 'cancelled'")


async def when_the_row_is_gone(books: Books, row: Row, claim: Claim) -> None:
    await books.pool.execute("DELETE FROM public.generations")


@pytest.mark.parametrize(
    "happens",
    [
        without_its_last_receipt,
        with_the_receipts_of_another_task,
        when_the_address_has_changed,
        when_the_task_was_replaced,
        when_the_user_cancelled,
        when_the_row_is_gone,
    ],
)
async def test_no_success_is_written(books: Books, happens: object) -> None:
    row, claim = await books.held(await books.insert())
    row = await books.stored(row, claim, sources=2)
    await happens(books, row, claim)  # type: ignore[operator]
    before = await books.everything()
    assert await books.ledger().finish(row, claim, delivered(2)) is None
    assert await books.everything() == before
    assert await books.claims().renew([claim]) == {claim.lease}


async def but_for_a_receipt(books: Books) -> tuple[Row, Claim]:
    """A row with two stored objects, the receipt of the last not yet written."""
    row, claim = await books.held(await books.insert(status="generating"))
    row = await books.stored(row, claim, sources=2)
    await without_its_last_receipt(books, row, claim)
    return row, claim


async def test_the_last_receipt_is_written_with_the_success_that_it_proves(books: Books) -> None:
    row, claim = await but_for_a_receipt(books)
    assert await books.ledger().finish(row, claim, replace(delivered(2), receipt=proven(1))) == "succeeded"
    assert await receipts(books) == [proven(0).verified_by, proven(1).verified_by]


async def test_the_last_receipt_is_kept_where_the_row_has_moved_and_gets_no_success(books: Books) -> None:
    row, claim = await but_for_a_receipt(books)
    await when_the_user_cancelled(books, row, claim)
    assert await books.ledger().finish(row, claim, replace(delivered(2), receipt=proven(1))) is None
    assert await receipts(books) == [proven(0).verified_by, proven(1).verified_by]
    assert (await books.generation(row.id))["asset_url"] is None


async def test_the_receipt_of_another_number_does_not_stand_in_for_a_missing_one(books: Books) -> None:
    row, claim = await but_for_a_receipt(books)
    assert await books.ledger().finish(row, claim, replace(delivered(2), receipt=proven(0))) is None


async def receipts(books: Books) -> list[str | None]:
    return [row[0] for row in await books.pool.fetch("SELECT verified_by FROM reconciler.assets ORDER BY n")]


async def test_a_refusal_writes_failed_its_reason_and_its_event_together(books: Books) -> None:
    row, claim = await books.held(await books.insert(status="generating"))
    assert await books.ledger().fail(row, claim, Fail("too rude (400)")) == "failed"
    generation = await books.generation(row.id)
    assert (generation["status"], generation["error"], generation["asset_url"]) == ("failed", "too rude (400)", None)
    work = await books.work(row.id)
    assert work is not None
    assert (work["lease"], work["due_at"], work["seen_status"], work["gave_up"]) == (None, None, "failed", False)
    key, payload = await books.pool.fetchrow("SELECT key, payload FROM reconciler.events")
    assert key == f"{row.id}|task-1|failed|0"
    expected = {"generation_id": row.id, "task_id": "task-1", "status": "failed", "reason": "too rude (400)"}
    assert json.loads(payload) == {**expected, "gave_up": False}


async def test_our_own_give_up_is_looked_at_again_later(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    until = datetime.now(UTC) + timedelta(hours=1)
    assert await books.ledger().fail(row, claim, Fail("gave up", recheck_at=until)) == "gave_up"
    work = await books.work(row.id)
    assert work is not None
    assert (work["due_at"], work["gave_up"], work["early_at"]) == (until, True, None)
    assert await books.events(row.id) == ["gave_up"]


async def test_no_failure_overwrites_a_change_of_the_application(books: Books) -> None:
    for change in ("status = 'cancelled'", "task_id = 'task-2'", "status = 'success'"):
        row, claim = await books.held(await books.insert())
        await books.change(row.id, change)
        before = await books.everything()
        assert await books.ledger().fail(row, claim, Fail("refused")) is None
        assert await books.everything() == before


async def test_a_failure_after_a_failure_that_was_reopened_is_an_event_of_its_own(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    await books.ledger().fail(row, claim, Fail("first"))
    await books.change(row.id, "status = 'queued'")
    row, claim = await books.held(row.id)
    await books.ledger().fail(row, claim, Fail("second"))
    assert await books.events(row.id) == ["failed", "failed"]
