"""Orders, deliveries, callbacks and repairs on the shop's own table, in both of its shapes, beside its statements."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from reconciler.bootstrap import Parts, operator
from reconciler.bootstrap.http import task_creator
from reconciler.domain.findings.findings import FindingThresholds, findings
from reconciler.domain.model import Trigger
from reconciler.operations.explain import ended
from reconciler.operations.operator import leases_kept
from reconciler.postgres.create_requests import Order, Requester
from reconciler.postgres.migrations.migrate import migrate
from reconciler.worker.create.create_task import TaskCreated
from testkit.shop_table import SHOP_USER, YEARS, made_shop, shop_insert, shop_webhook
from testkit.waiting import until
from tests.worker.rig import Rig, opened_rig

CDN = "https://cdn.shop.example/lighthouse.png"


@pytest.fixture(params=YEARS)
async def shop(empty_dsn: str, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    await made_shop(empty_dsn, request.param)
    await migrate(empty_dsn)
    async with opened_rig(empty_dsn, tmp_path) as rig:
        yield rig


@pytest.fixture
async def built(shop: Rig) -> AsyncIterator[Parts]:
    async with shop.instance() as parts:
        yield parts


async def delivered(shop: Rig, built: Parts, **order: Any) -> tuple[str, str, str]:
    """Let the shop insert a row, deliver it; return its id, our address, and the provider's."""
    task_id = shop.kie.add_task(**order)
    generation_id = await shop_insert(shop.pool, task_id)
    outcome = await shop.visit(built, generation_id)
    assert outcome.event == "succeeded"
    (source,) = outcome.row.sources
    return generation_id, (await shop.books.generation(generation_id))["asset_url"], source


async def shows(shop: Rig, generation_id: str) -> str | None:
    address: str | None = (await shop.books.generation(generation_id))["asset_url"]
    return address


async def test_an_order_is_delivered_and_the_shops_view_shows_it(shop: Rig, built: Parts) -> None:
    creator = task_creator(built)
    order = Order("nano-banana-2", {"prompt": "a lighthouse"}, "image", user_id=SHOP_USER)
    answer = await creator.create(order, Requester(""))
    await creator.drain(5)
    assert isinstance(answer, TaskCreated)
    assert answer.task_id is not None
    shop.kie.end(answer.task_id)
    assert (await shop.visit(built, answer.generation_id)).event == "succeeded"
    row = await shop.books.generation(answer.generation_id)
    assert (row["type"], row["status"], row["model_id"]) == ("photo", "success", "nano-banana-2")
    sql = "SELECT type, asset_url FROM public.recent_generations WHERE id::text = $1"
    assert tuple(await shop.pool.fetchrow(sql, answer.generation_id)) == ("photo", row["asset_url"])
    assert len(shop.names()) == 1


async def test_the_shops_callback_that_wins_with_the_providers_address_is_healed(shop: Rig, built: Parts) -> None:
    task_id = shop.kie.add_task()
    generation_id = await shop_insert(shop.pool, task_id)
    await shop_webhook(shop.pool, task_id, "https://tempfile.aiquickdraw.com/r/a.png", asset=True)
    assert (await shop.visit(built, generation_id, Trigger.NOTIFY)).event == "healed"
    assert (await shows(shop, generation_id) or "").startswith("http://127.0.0.1:9/files/")


async def test_a_success_that_the_shops_webhook_writes_without_an_asset_is_delivered(shop: Rig, built: Parts) -> None:
    task_id = shop.kie.add_task()
    generation_id = await shop_insert(shop.pool, task_id)
    await shop_webhook(shop.pool, task_id, "https://tempfile.aiquickdraw.com/r/a.png", asset=False)
    async with leases_kept(built.worker):
        state = await operator(built).visit(generation_id, Trigger.SYNC)
    assert state.details is not None
    assert ended(state.details, built.settings)
    assert len(shop.names()) == 1


async def test_an_overwritten_address_is_written_again_without_a_command(shop: Rig, built: Parts) -> None:
    generation_id, ours, source = await delivered(shop, built)
    polls = sum(task.polls for task in shop.kie.tasks.values())
    task_id = (await shop.books.generation(generation_id))["task_id"]
    async with shop.working(built), hearing(built, shop.dsn):
        await shop_webhook(shop.pool, task_id, source, asset=True)

        async def mended() -> bool:
            return await shows(shop, generation_id) == ours

        await until(mended, what="our address")
    assert await shop.books.events(generation_id) == ["succeeded", "repaired"]
    assert sum(task.polls for task in shop.kie.tasks.values()) == polls
    assert len(shop.names()) == 1


@asynccontextmanager
async def hearing(built: Parts, dsn: str) -> AsyncIterator[None]:
    """Wake the worker by the notifications of the triggers, as the daemon does."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.add_listener(
            "reconciler_generations",
            lambda *heard: built.worker.wake(json.loads(heard[3])["id"], Trigger.NOTIFY),
        )
        yield
    finally:
        await connection.close()


async def test_the_fourth_time_in_a_day_is_told_by_a_finding(shop: Rig, built: Parts) -> None:
    generation_id, ours, source = await delivered(shop, built)
    for _ in range(3):
        await shop.books.change(generation_id, f"asset_url = '{source}'")
        assert (await shop.visit(built, generation_id, Trigger.NOTIFY)).event == "repaired"
        assert await shows(shop, generation_id) == ours
    await shop.books.change(generation_id, f"asset_url = '{source}'")
    await shop.visit(built, generation_id, Trigger.NOTIFY)
    assert await shows(shop, generation_id) == source
    found = findings(await built.reports.snapshot(), FindingThresholds())
    assert {finding.name: finding.count for finding in found} == {"asset_overwritten": 1}
    await shop.books.set(generation_id, "healed_at = ARRAY(SELECT at - interval '1 day' FROM unnest(healed_at) AS at)")
    assert (await shop.visit(built, generation_id)).event == "repaired"
    assert await shows(shop, generation_id) == ours


async def test_the_shops_own_address_is_its_decision(shop: Rig, built: Parts) -> None:
    generation_id, _, _ = await delivered(shop, built)
    await shop.books.change(generation_id, f"asset_url = '{CDN}'")
    assert await built.worker.once(generation_id, Trigger.NOTIFY) is None
    assert await built.claims.discover() == 0
    details = await built.reports.details(generation_id)
    assert details is not None
    assert ended(details, built.settings)
    assert (await built.reports.unhealed()).found == ()
    assert await shows(shop, generation_id) == CDN


async def test_sync_backfill_and_the_sweep_agree_on_what_is_the_providers(shop: Rig, built: Parts) -> None:
    generation_id, _, source = await delivered(shop, built)
    await shop.books.change(generation_id, f"asset_url = '{source}'")
    details = await built.reports.details(generation_id)
    assert details is not None
    assert not ended(details, built.settings)
    assert (await built.reports.unhealed()).found == (generation_id,)
    assert await built.claims.discover() == 1


async def test_our_object_that_the_providers_address_displaced_is_no_orphan(shop: Rig, built: Parts) -> None:
    generation_id, _, source = await delivered(shop, built)
    (path,) = shop.names()
    await shop.books.change(generation_id, f"asset_url = '{source}', result_urls = NULL")
    await shop.pool.execute("INSERT INTO reconciler.orphans VALUES ($1, 'a mark', now() - interval '60 days')", path)
    assert await shop.books.orphans().page(timedelta(days=1)) == ([], None)


async def test_a_preview_at_the_provider_is_mended_with_the_asset(shop: Rig, built: Parts) -> None:
    task_id = shop.kie.add_task()
    generation_id = await shop_insert(shop.pool, task_id)
    await shop.books.change(generation_id, "preview_url = 'https://tempfile.aiquickdraw.com/r/p.png'")
    assert (await shop.visit(built, generation_id)).event == "succeeded"
    row = await shop.books.generation(generation_id)
    assert row["preview_url"] == row["asset_url"] is not None
    await shop.books.change(generation_id, "preview_url = asset_url, asset_url = 'https://kie.ai/x.png'")
    await shop.books.change(generation_id, "preview_url = 'https://kie.ai/p.png'")
    assert (await shop.visit(built, generation_id, Trigger.NOTIFY)).event == "repaired"
    row = await shop.books.generation(generation_id)
    assert row["preview_url"] == row["asset_url"]


async def test_the_shops_own_preview_and_its_state_stay(shop: Rig, built: Parts) -> None:
    generation_id = await shop_insert(shop.pool, shop.kie.add_task())
    await shop.books.change(generation_id, f"preview_url = '{CDN}'")
    if "preview_status" in built.table.shape.columns:
        await shop.books.change(generation_id, "preview_status = 'processing'")
    assert (await shop.visit(built, generation_id)).event == "succeeded"
    row = await shop.books.generation(generation_id)
    assert row["preview_url"] == CDN
    assert row.get("preview_status", "processing") == "processing"


async def test_a_preview_state_that_is_null_becomes_none_if_the_table_allows_that_word(shop: Rig, built: Parts) -> None:
    await shop.pool.execute("ALTER TABLE public.generations ADD COLUMN IF NOT EXISTS preview_status text")
    await migrate(shop.dsn)
    async with shop.instance() as parts:
        first = await shop_insert(shop.pool, shop.kie.add_task())
        await shop.books.change(first, "preview_status = NULL")
        assert (await shop.visit(parts, first)).event == "succeeded"
        assert (await shop.books.generation(first))["preview_status"] == "none"
    await shop.pool.execute(
        "ALTER TABLE public.generations DROP CONSTRAINT IF EXISTS generations_preview_status_check;"
        "ALTER TABLE public.generations ALTER COLUMN preview_status DROP DEFAULT;"
        "UPDATE public.generations SET preview_status = NULL;"
        "ALTER TABLE public.generations ADD CHECK (preview_status IN ('ready', 'failed'))"
    )
    async with shop.instance() as parts:
        second = await shop_insert(shop.pool, shop.kie.add_task())
        await shop.books.change(second, "preview_status = NULL")
        assert (await shop.visit(parts, second)).event == "succeeded"
        assert (await shop.books.generation(second))["preview_status"] is None
