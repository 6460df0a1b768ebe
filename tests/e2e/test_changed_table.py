"""The application's table changes while a real daemon works on a stream of orders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from testkit.replica import Replica
from testkit.stage import Rig
from testkit.waiting import until

ALTER = "ALTER TABLE public.generations"
CHECK = f"{ALTER} DROP CONSTRAINT generations_status_check, ADD CONSTRAINT generations_status_check CHECK (status IN"
USABLE = (
    f"{ALTER} RENAME COLUMN result_urls TO shown",
    f"{ALTER} ADD COLUMN result_urls text[]",
    f"{ALTER} ALTER COLUMN result_urls TYPE jsonb USING to_jsonb(result_urls)",
    f"{ALTER} DROP COLUMN result_urls",
    f"{ALTER} RENAME COLUMN shown TO result_urls",
    f"{ALTER} ADD COLUMN more text NOT NULL DEFAULT ''",
)
UNUSABLE = (
    (f"{ALTER} RENAME TO away", "ALTER TABLE public.away RENAME TO generations"),
    (f"{CHECK} ('queued', 'generating', 'failed')) NOT VALID",
     f"{CHECK} ('queued', 'generating', 'success', 'failed', 'cancelled')) NOT VALID"),
)  # fmt: skip
WITHIN = 30.0
"""The most seconds that a row may wait after the table can be used again."""


@asynccontextmanager
async def orders(rig: Rig) -> AsyncIterator[list[str]]:
    """A new order every fifth of a second while the context lasts; the ids so far."""
    ids: list[str] = []
    over = asyncio.Event()

    async def order() -> None:
        while not over.is_set():
            ids.append(await rig.order())
            try:
                await asyncio.wait_for(over.wait(), 0.2)
            except TimeoutError:
                continue

    ordering = asyncio.create_task(order())
    try:
        yield ids
    finally:
        over.set()
        await ordering


async def unusable(replica: Replica) -> bool:
    return "public.generations" in str(await replica.reason())


@pytest.mark.soak
async def test_a_table_that_changes_under_load_delays_rows_by_seconds_N11(rig: Rig) -> None:
    replica = await rig.run()
    for change in USABLE:
        async with orders(rig) as ids:
            await until(lambda ids=ids: len(ids) > 2, what="orders before the change")
            await rig.pool.execute(change)
            before = len(ids)
            await until(lambda ids=ids, before=before: len(ids) > before + 2, what="orders after the change")
        await rig.delivered(ids, within=WITHIN)
    for change, undo in UNUSABLE:
        ids = [await rig.order() for _ in range(3)]
        await rig.pool.execute(change)
        await until(lambda: unusable(replica), 20, "the daemon to say what it cannot work with")
        await rig.pool.execute(undo)
        await rig.delivered(ids, within=WITHIN)
        assert await replica.reason() is None
    assert replica.running
    assert await rig.pool.fetchval("SELECT count(*) FROM reconciler.events WHERE kind <> 'succeeded'") == 0
    assert replica.said("visit.broke") == []
    assert replica.said("claims.broke") == []
