"""Success without every result, and results that come later."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from reconciler.domain.model import Result, Row
from reconciler.errors import LeaseLost
from reconciler.postgres.claims.claims import Claim
from reconciler.postgres.ledger.ledger import StoredResults
from reconciler.postgres.schema import introspect
from tests.postgres.books import OURS, THEIRS, Books, asset, opened, proven

TRACKS = (Result("a1", 0, (f"{THEIRS}?a",)), Result("b2", 1))
BOTH = (replace(TRACKS[1], addresses=(f"{THEIRS}?b",)), TRACKS[0])
LATER = datetime(2030, 1, 1, tzinfo=UTC)


def shown(*numbers: int, recheck_at: datetime | None = None) -> StoredResults:
    return StoredResults([f"{OURS}?{n}" for n in numbers], [asset(n).path for n in numbers], recheck_at=recheck_at)


@pytest.fixture
async def own_books(dsn: str) -> AsyncIterator[Books]:
    """A database whose table a test may change."""
    async with opened(dsn) as connected:
        yield connected


async def altered(books: Books, change: str) -> Books:
    """Change the application's table; return the books with the table as it is now."""
    await books.pool.execute(f"ALTER TABLE public.generations {change}")
    async with books.pool.acquire() as connection:
        return replace(books, table=await introspect(connection))


async def half_stored(books: Books, **columns: Any) -> tuple[Row, Claim]:
    row, claim = await books.held(await books.insert(status="generating", **columns))
    row = await books.stored(row, claim)
    return replace(row, results=TRACKS, missing_since=row.created_at), claim


async def event(pool: asyncpg.Pool, kind: str) -> dict[str, Any]:
    payload: str = await pool.fetchval("SELECT payload FROM reconciler.events WHERE kind = $1", kind)
    return dict(json.loads(payload))


async def delivered_by_half(books: Books) -> tuple[Row, Claim]:
    """Return a row that shows its first result, claimed again when the second has come and is stored."""
    row, claim = await half_stored(books)
    assert await books.ledger().finish(row, claim, shown(0, recheck_at=LATER)) == "succeeded"
    row, claim = await books.held(row.id)
    row = replace(row, results=BOTH)
    await books.ledger().intend(row, claim, asset(1))
    await books.ledger().stored(row, claim, proven(1))
    return replace(row, assets=(proven(0), proven(1))), claim


async def test_a_success_without_every_result_says_what_is_missing_and_is_asked_about_again(books: Books) -> None:
    row, claim = await half_stored(books)

    assert await books.ledger().finish(row, claim, shown(0, recheck_at=LATER)) == "succeeded"

    work = await books.work(row.id)
    assert work is not None
    assert (work["due_at"], work["finding"], work["shown"], work["lease"]) == (LATER, "results_missing", 1, None)
    assert "1 of 2" in work["why"]
    assert (await books.generation(row.id))["status"] == "success"
    assert (await event(books.pool, "succeeded"))["missing"] == ["b2"]
    again, _ = await books.held(row.id)
    assert [result.key for result in again.missing] == ["b2"]


async def test_a_whole_success_says_nothing_of_missing_results(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    row = await books.stored(row, claim)
    await books.ledger().finish(row, claim, shown(0))

    assert {"missing", "contradiction"}.isdisjoint(await event(books.pool, "succeeded"))


async def test_a_failure_that_kie_reports_beside_results_is_kept_in_the_event(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    row = replace(await books.stored(row, claim), contradiction="one take failed (501)")
    await books.ledger().finish(row, claim, shown(0))

    assert (await event(books.pool, "succeeded"))["contradiction"] == "one take failed (501)"


async def test_a_result_that_comes_later_is_added_in_kies_order_and_asset_url_stays(books: Books) -> None:
    row, claim = await delivered_by_half(books)
    before = await books.generation(row.id)

    assert await books.ledger().extend(row, claim, shown(1, 0)) == "extended"

    after = await books.generation(row.id)
    assert after["asset_url"] == before["asset_url"] == f"{OURS}?0"
    assert json.loads(after["asset_urls"]) == [f"{OURS}?1", f"{OURS}?0"]
    assert json.loads(after["result_urls"]) == [f"{THEIRS}?b", f"{THEIRS}?a"]
    extended = await event(books.pool, "extended")
    assert (extended["asset_url"], extended["asset_urls"]) == (f"{OURS}?0", [f"{OURS}?1", f"{OURS}?0"])
    work = await books.work(row.id)
    assert work is not None
    assert (work["due_at"], work["finding"], work["shown"]) == (None, None, 2)
    assert await books.events(row.id) == ["succeeded", "extended"]


async def test_the_receipt_of_a_document_that_changes_before_it_is_shown_is_withdrawn(books: Books) -> None:
    row, claim = await half_stored(books)

    await books.ledger().intend(row, claim, asset(sha256="cc"))

    again = (await books.ledger().read([row.id]))[row.id].row
    assert again.assets == (asset(sha256="cc"),)


async def test_the_receipt_of_a_document_that_was_shown_stays(books: Books) -> None:
    row, claim = await delivered_by_half(books)

    with pytest.raises(LeaseLost):
        await books.ledger().intend(row, claim, asset(sha256="cc"))

    again = (await books.ledger().read([row.id]))[row.id].row
    assert again.assets == (proven(0), proven(1))


@pytest.mark.parametrize(
    "change",
    ["status = 'cancelled'", "task_id = 'task-2'", "asset_url = 'https://cdn.shop.example/own.mp3'"],
    ids=["cancelled", "another task", "an address of its own"],
)
async def test_a_row_that_the_application_has_changed_is_not_extended(books: Books, change: str) -> None:
    row, claim = await delivered_by_half(books)
    await books.change(row.id, change)
    before = await books.generation(row.id)

    assert await books.ledger().extend(row, claim, shown(1, 0)) is None

    assert await books.generation(row.id) == before
    assert await books.events(row.id) == ["succeeded"]


async def test_a_row_whose_lease_is_lost_is_not_extended(books: Books) -> None:
    row, claim = await delivered_by_half(books)
    await books.taken_over(row.id)

    with pytest.raises(LeaseLost):
        await books.ledger().extend(row, claim, shown(1, 0))


async def test_a_result_without_a_receipt_is_not_shown(books: Books) -> None:
    row, claim = await delivered_by_half(books)
    await books.pool.execute("UPDATE reconciler.assets SET verified_by = NULL WHERE n = 1")

    assert await books.ledger().extend(row, claim, shown(1, 0)) is None


async def test_a_table_without_lists_of_addresses_is_extended_in_the_event_alone(own_books: Books) -> None:
    books = await altered(own_books, "DROP asset_urls, DROP result_urls")
    row, claim = await delivered_by_half(books)
    before = await books.generation(row.id)

    assert await books.ledger().extend(row, claim, shown(1, 0)) == "extended"
    assert await books.generation(row.id) == before


async def test_objects_of_a_former_task_become_orphans_thirty_days_after_they_were_replaced(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    row = await books.stored(row, claim)
    await books.ledger().finish(row, claim, shown(0))
    await books.change(row.id, "task_id = 'task-2', status = 'generating'")
    row, claim = await books.held(row.id)
    assert row.another_task
    await books.ledger().intend(row, claim, asset(path="u/image/g_0-0123abcd.png"))
    await books.ledger().stored(row, claim, proven(path="u/image/g_0-0123abcd.png"))
    row = replace(row, results=TRACKS[:1], assets=(proven(path="u/image/g_0-0123abcd.png"),))

    results = StoredResults([f"{OURS}?0-0123abcd"], ["u/image/g_0-0123abcd.png"])
    assert await books.ledger().finish(row, claim, results) == "succeeded"

    (path, since), *others = await books.pool.fetch("SELECT path, since - now() FROM reconciler.orphans")
    assert (path, others) == (asset(0).path, [])
    assert timedelta(days=29) < since <= timedelta(days=30)


@pytest.mark.parametrize("kind", ["jsonb", "json", "text"])
async def test_a_document_is_written_where_the_table_has_a_column_for_it(own_books: Books, kind: str) -> None:
    books = await altered(own_books, f"ADD result_json {kind}")
    row, claim = await books.held(await books.insert())
    row = await books.stored(row, claim)
    words = Result("json", 0, text='{"text": "good evening"}', mime="application/json")
    await books.ledger().finish(replace(row, results=(words,)), claim, shown(0))

    assert json.loads((await books.generation(row.id))["result_json"]) == {"text": "good evening"}


async def test_a_success_without_a_document_leaves_the_column_as_it_is(own_books: Books) -> None:
    books = await altered(own_books, """ADD result_json jsonb DEFAULT '{"mine": 1}'""")
    row, claim = await books.held(await books.insert())
    row = await books.stored(row, claim)
    await books.ledger().finish(row, claim, shown(0))

    assert json.loads((await books.generation(row.id))["result_json"]) == {"mine": 1}
