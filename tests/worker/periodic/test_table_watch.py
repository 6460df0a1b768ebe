"""The application's table changes under a working instance: no row waits for anything but the table.

The pauses between two reads are shortened here; `tests/e2e/test_changed_table.py` runs with the real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from reconciler.bootstrap import Parts
from reconciler.bootstrap.periodic import periodic_tasks
from reconciler.domain.findings.findings import FindingThresholds, findings
from reconciler.domain.model import Trigger
from reconciler.errors import TableChanged
from reconciler.worker.periodic import table_watch
from testkit.waiting import until
from tests.worker.rig import Rig

ALTER = "ALTER TABLE public.generations"
NO_CHECK = f"{ALTER} DROP CONSTRAINT generations_status_check"
CHECK = f"{ALTER} ADD CONSTRAINT generations_status_check CHECK (status IN ({{}})) NOT VALID"
WORDS = "'queued', 'generating', 'success', 'failed', 'cancelled'"

USABLE = {
    "a written column gets another name": (
        f"{ALTER} RENAME COLUMN asset_urls TO shown",
        f"{ALTER} RENAME COLUMN shown TO asset_urls",
    ),
    "a written column goes and comes": (
        f"{ALTER} DROP COLUMN result_urls",
        f"{ALTER} ADD COLUMN result_urls jsonb",
    ),
    "addresses become an array, then JSON": (
        f"{ALTER} ALTER COLUMN result_urls TYPE text[] USING NULL",
        f"{ALTER} ALTER COLUMN result_urls TYPE jsonb USING to_jsonb(result_urls)",
    ),
    "a column that must be filled": (
        f"{ALTER} ADD COLUMN more text NOT NULL DEFAULT ''",
        f"{ALTER} DROP COLUMN more",
    ),
    "the CHECK goes and comes": (NO_CHECK, CHECK.format(WORDS)),
}
UNUSABLE = {
    "the table has another name": (f"{ALTER} RENAME TO away", "ALTER TABLE public.away RENAME TO generations"),
    "a needed column has another name": (
        f"{ALTER} RENAME COLUMN user_id TO owner_id",
        f"{ALTER} RENAME COLUMN owner_id TO user_id",
    ),
    "the CHECK refuses success": (
        f"{NO_CHECK}; {CHECK.format(WORDS.replace(chr(39) + 'success' + chr(39) + ', ', ''))}",
        f"{NO_CHECK}; {CHECK.format(WORDS)}",
    ),
}


@pytest.fixture
async def parts(own_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Parts]:
    """An instance that reads the table again soon after a doubt."""
    monkeypatch.setattr(table_watch, "DOUBT_SECONDS", 0.2)
    monkeypatch.setattr(table_watch, "SETTLE_SECONDS", 0.1)
    async with own_rig.instance() as built:
        yield built


@asynccontextmanager
async def watched(rig: Rig, parts: Parts) -> AsyncIterator[None]:
    """Run the worker and the watch."""
    watching = asyncio.create_task(periodic_tasks(parts).table_watch.run())
    try:
        async with rig.working(parts):
            yield
        assert not watching.done(), "the watch has ended"
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def ordered(rig: Rig, parts: Parts, count: int = 3) -> list[str]:
    ids = [await rig.order() for _ in range(count)]
    for generation_id in ids:
        parts.worker.wake(generation_id, Trigger.NOTIFY)
    return ids


async def delivered(rig: Rig, ids: Sequence[str]) -> None:
    for generation_id in ids:
        generation = await rig.delivered(generation_id, within=30)
        assert rig.stored(generation["asset_url"])
        assert rig.kie.tasks[generation["task_id"]].downloads == [1]


@pytest.mark.parametrize("name", USABLE)
async def test_a_change_that_leaves_the_table_usable_delays_rows_by_seconds_N11(
    own_rig: Rig, parts: Parts, name: str
) -> None:
    async with watched(own_rig, parts):
        await delivered(own_rig, await ordered(own_rig, parts))
        for change in USABLE[name]:
            before = await ordered(own_rig, parts)
            await own_rig.pool.execute(change)
            await delivered(own_rig, before + await ordered(own_rig, parts))
    assert await own_rig.pool.fetchval("SELECT count(*) FROM reconciler.events WHERE kind <> 'succeeded'") == 0


@pytest.mark.parametrize("name", UNUSABLE)
async def test_rows_of_a_table_that_cannot_be_used_wait_until_it_can_N11(own_rig: Rig, parts: Parts, name: str) -> None:
    change, undo = UNUSABLE[name]
    periodic = periodic_tasks(parts)
    await periodic.heartbeat.run_once()
    ids = [await own_rig.order() for _ in range(3)]
    await own_rig.pool.execute(change)
    async with watched(own_rig, parts):
        for generation_id in ids:
            parts.worker.wake(generation_id)
        await until(lambda: parts.table.trouble, what="the table to be told as unusable")
        await periodic.snapshot.run_once()
        assert periodic.snapshot.last is not None
        (finding,) = [
            found for found in findings(periodic.snapshot.last, FindingThresholds()) if found.severity == "page"
        ]
        assert finding.name == "table_changed"
        assert str(parts.table.trouble) in finding.says
        await own_rig.pool.execute(undo)
        await delivered(own_rig, ids)


async def test_rows_that_a_check_has_refused_are_tried_again_when_it_is_gone_N11(own_rig: Rig, parts: Parts) -> None:
    await own_rig.pool.execute(f"{ALTER} ADD CONSTRAINT short CHECK (length(asset_url) < 5)")
    async with watched(own_rig, parts):
        ids = await ordered(own_rig, parts)
        refused = "SELECT count(*) = 3 FROM reconciler.work WHERE finding = 'row_refused' AND lease IS NULL"
        await until(lambda: own_rig.pool.fetchval(refused), what="three refused rows")
        await own_rig.pool.execute(f"{ALTER} DROP CONSTRAINT short")
        await delivered(own_rig, ids)


def altering(rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch, *, read: bool) -> None:
    """Take a written column away just before the first success is written; `read` the table right after."""
    finish, changes = parts.ledger.finish, [f"{ALTER} DROP COLUMN result_urls"]

    async def late(*arguments: Any) -> str | None:
        if changes:
            await rig.pool.execute(changes.pop())
            if read:
                await parts.table.read()
        return await finish(*arguments)

    monkeypatch.setattr(parts.ledger, "finish", late)


async def test_a_change_between_transfer_and_success_costs_no_second_transfer_N11(
    own_rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    altering(own_rig, parts, monkeypatch, read=False)
    async with watched(own_rig, parts):
        await delivered(own_rig, await ordered(own_rig, parts, 1))


async def test_a_write_for_the_former_table_rests_with_its_finding_until_the_table_is_read(
    own_rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    altering(own_rig, parts, monkeypatch, read=False)
    generation_id = await own_rig.order()
    await own_rig.visit(parts, generation_id)
    work = await own_rig.books.work(generation_id)
    assert work is not None
    assert (work["finding"], work["lease"]) == ("table_changed", None)
    assert 'column "result_urls"' in work["why"]
    assert work["due_in"] > 60
    await parts.claims.retry_refused()
    work = await own_rig.books.work(generation_id)
    assert work is not None
    assert work["due_in"] <= 0


async def test_a_visit_keeps_to_the_table_that_it_began_with_and_its_row_is_due_again_at_once(
    own_rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    altering(own_rig, parts, monkeypatch, read=True)
    generation_id = await own_rig.order()
    await own_rig.visit(parts, generation_id)
    work = await own_rig.books.work(generation_id)
    assert work is not None
    assert (work["finding"], work["due_in"] <= 0) == ("table_changed", True)
    await own_rig.visit(parts, generation_id)
    assert (await own_rig.books.generation(generation_id))["status"] == "success"


async def test_nobody_claims_a_row_of_a_table_that_cannot_be_used(own_rig: Rig, parts: Parts) -> None:
    await own_rig.order()
    await parts.claims.discover()
    await own_rig.pool.execute(UNUSABLE["a needed column has another name"][0])
    assert await parts.table.read() is False
    with pytest.raises(TableChanged, match="lacks user_id"):
        await parts.claims.due(1)
    assert await own_rig.pool.fetchval("SELECT count(*) FROM reconciler.work WHERE lease IS NULL") == 1
