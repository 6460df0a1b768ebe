"""A delivered row whose address the application replaces by one at the provider is woken, and found by the sweep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.domain.model import Trigger
from reconciler.postgres.claims import discovery
from tests.postgres.books import ELIGIBLE, OURS, THEIRS, Books, delivered, insert, resting

ELSEWHERE = "https://mirror.example/lighthouse.png"


async def delivered_row(books: Books, **columns: Any) -> str:
    """Insert a row and deliver it; return its id."""
    generation_id = await insert(books.pool, **columns)
    row, claim = await books.held(generation_id)
    row = await books.stored(row, claim)
    assert await books.ledger().finish(row, claim, delivered()) == "succeeded"
    return generation_id


async def woken(books: Books, generation_id: str) -> bool:
    return len(await books.claims().woken({generation_id: Trigger.NOTIFY})) == 1


@pytest.mark.parametrize("host", ["tempfile.aiquickdraw.com", "KIE.AI", "user@kie.ai:443", "kie.ai."])
async def test_its_notification_claims_it(books: Books, host: str) -> None:
    generation_id = await delivered_row(books)
    assert not await woken(books, generation_id)
    await books.change(generation_id, f"asset_url = 'https://{host}/r/x.png'")
    assert await woken(books, generation_id)


async def test_the_sweep_finds_it_once_where_its_notification_was_lost(books: Books) -> None:
    generation_id = await delivered_row(books)
    instance = books.claims()
    assert await instance.discover() == 0
    await books.change(generation_id, f"asset_url = '{THEIRS}'")
    assert await instance.discover() == 1
    assert await instance.discover() == 0
    (claim,) = await instance.due(10)
    assert (claim.generation_id, claim.trigger) == (generation_id, Trigger.SWEEP)


async def test_an_address_among_the_rows_results_is_the_providers_at_any_host(books: Books) -> None:
    generation_id = await delivered_row(books)
    await books.change(generation_id, f"asset_url = '{ELSEWHERE}'")
    assert not await woken(books, generation_id)
    assert await books.claims().discover() == 0
    await books.change(generation_id, f"""result_urls = '["{ELSEWHERE}"]'""")
    assert await woken(books, generation_id)
    row = (await books.ledger().read([generation_id]))[generation_id].row
    assert row.asset_is_result


async def test_an_address_that_kie_gave_is_the_providers_though_the_table_lists_it_no_more(books: Books) -> None:
    generation_id = await delivered_row(books)
    await books.set(generation_id, f"sources = ARRAY['{ELSEWHERE}']")
    await books.change(generation_id, f"result_urls = NULL, asset_url = '{ELSEWHERE}'")
    assert await books.claims().discover() == 1


async def test_an_address_in_our_storage_is_never_the_providers(books: Books) -> None:
    generation_id = await delivered_row(books)
    other = "https://project.supabase.co/storage/v1/object/public/other/one.png"
    await books.change(generation_id, f"""asset_url = '{other}', result_urls = '["{other}"]'""")
    ours = replace(ELIGIBLE, rules=replace(ELIGIBLE.rules, storage="https://project.supabase.co/"))
    assert await books.claims(eligible=ours).woken({generation_id: Trigger.NOTIFY}) == []
    assert await books.claims(eligible=ours).discover() == 0
    assert await books.claims().discover() == 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(f"asset_url = '{ELSEWHERE}'", id="the shop's own address"),
        pytest.param(f"asset_url = '{OURS}'", id="ours"),
        pytest.param(f"asset_url = '{THEIRS}', status = 'cancelled'", id="a row that was cancelled"),
    ],
)
async def test_any_other_row_is_left_alone(books: Books, change: str) -> None:
    generation_id = await delivered_row(books)
    await books.change(generation_id, change)
    assert await books.claims().discover() == 0


async def test_a_row_that_rests_because_it_was_overwritten_too_often_is_not_woken_before_its_time(books: Books) -> None:
    generation_id = await delivered_row(books)
    await books.change(generation_id, f"asset_url = '{THEIRS}'")
    row, claim = await books.held(generation_id)
    await books.ledger().rest(row, claim, replace(resting(3600), finding="asset_overwritten"))
    assert not await woken(books, generation_id)
    assert await books.claims().discover() == 0


async def test_the_sweep_comes_round_to_every_delivery(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "WALK", 2)
    ids = [await delivered_row(books, task_id=f"task-{n}") for n in range(7)]
    await books.pool.execute(f"UPDATE public.generations SET asset_url = '{THEIRS}'")
    instance = books.claims()
    found = [await instance.discover() for _ in range(4)]
    assert (found[0], sum(found)) == (4, 7)
    assert {claim.generation_id for claim in await instance.due(10)} == set(ids)
    assert await instance.discover() == 0
