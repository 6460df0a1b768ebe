"""Rows that change during a visit: cancelled, deleted, given another task, ended by the application."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from reconciler.bootstrap import Parts
from reconciler.domain.model import Done, Finish, Trigger
from reconciler.errors import LeaseLost
from reconciler.simulator import MediaSpec, never
from reconciler.worker.visit import VisitOutcome
from testkit.waiting import until
from tests.worker.rig import Rig

APPLICATIONS_ADDRESS = "https://elsewhere.example/made-by-the-application.png"


@asynccontextmanager
async def fetching(rig: Rig, parts: Parts, generation_id: str) -> AsyncIterator[asyncio.Task[VisitOutcome | None]]:
    """A visit in the middle of its last download, which ends with the block."""
    task = rig.kie.tasks[(await rig.books.generation(generation_id))["task_id"]]
    n = len(task.results) - 1
    rig.kie.slow_seconds = 60.0
    rig.kie.strike("file.slow", task=task.id, n=n)
    visiting = asyncio.create_task(parts.worker.once(generation_id, Trigger.SYNC))
    try:
        await until(lambda: task.downloads[n] == 1, what="the download has begun")
        yield visiting
        rig.kie.slow_seconds = 0.0
        rig.kie._responses.close()
    finally:
        if not visiting.done():
            await asyncio.wait([visiting], timeout=20)


async def test_a_row_that_is_cancelled_meanwhile_stays_cancelled(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(results=(MediaSpec(), MediaSpec()))
    async with fetching(rig, parts, generation_id) as visiting:
        await rig.books.change(generation_id, "status = 'cancelled'")
        before = await rig.books.generation(generation_id)
    visited = await visiting
    assert visited is not None
    assert isinstance(visited.decision, Done)
    assert await rig.books.generation(generation_id) == before
    assert await rig.books.events(generation_id) == []
    orphans = [row["path"] for row in await rig.pool.fetch("SELECT path FROM reconciler.orphans ORDER BY path")]
    assert orphans == rig.names()
    assert len(orphans) == 2


async def test_a_cancelled_row_that_comes_back_is_delivered_anew_and_its_objects_are_no_orphans(
    rig: Rig, parts: Parts
) -> None:
    generation_id = await rig.order()
    async with fetching(rig, parts, generation_id) as visiting:
        await rig.books.change(generation_id, "status = 'cancelled'")
    await visiting
    (rig.folder / "stored" / rig.names()[0]).unlink()
    await rig.books.change(generation_id, "status = 'queued'")
    assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
    await rig.proves(generation_id)
    assert await rig.pool.fetch("SELECT path FROM reconciler.orphans") == []


async def test_a_row_that_is_deleted_meanwhile_leaves_its_objects_to_be_removed(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order()
    async with fetching(rig, parts, generation_id) as visiting:
        await rig.pool.execute("DELETE FROM public.generations")
    visited = await visiting
    assert visited is not None
    assert visited.decision == Done("the application deleted the row")
    assert await rig.books.work(generation_id) is None
    orphans = [row["path"] for row in await rig.pool.fetch("SELECT path FROM reconciler.orphans")]
    assert orphans == rig.names()


async def test_a_row_that_is_deleted_while_it_rests_is_forgotten_at_its_next_visit(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(results=(MediaSpec(), MediaSpec()))
    rig.kie.strike("file.500", n=1)
    await rig.visit(parts, generation_id)
    await rig.pool.execute("DELETE FROM public.generations")
    await rig.books.set(generation_id, "due_at = now()")
    async with rig.working(parts):

        async def forgotten() -> bool:
            return await rig.books.work(generation_id) is None

        await until(forgotten, what="the row is forgotten")
    orphans = [row["path"] for row in await rig.pool.fetch("SELECT path FROM reconciler.orphans")]
    assert orphans == rig.names()


async def test_a_row_that_gets_another_task_meanwhile_gets_that_tasks_results(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(results=(MediaSpec(ext="webp"),))
    other = rig.kie.add_task(results=(MediaSpec(size=5_000), MediaSpec(size=6_000)))
    async with fetching(rig, parts, generation_id) as visiting:
        await rig.books.change(generation_id, f"task_id = '{other}'")
    visited = await visiting
    assert visited is not None
    assert isinstance(visited.decision, Finish)
    generation = await rig.books.generation(generation_id)
    assert generation["task_id"] == other
    digests = await rig.pool.fetch("SELECT sha256 FROM reconciler.assets WHERE task_id = $1 ORDER BY n", other)
    assert [row["sha256"] for row in digests] == [rig.kie.sha256(other, n) for n in range(2)]
    assert await rig.books.events(generation_id) == ["succeeded"]
    orphans = [row["path"] for row in await rig.pool.fetch("SELECT path FROM reconciler.orphans")]
    assert [path.rpartition(".")[2] for path in orphans] == ["webp"]


async def test_a_row_that_gets_its_first_task_back_is_not_served_with_the_others_bytes(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(results=(MediaSpec(), MediaSpec()))
    first = (await rig.books.generation(generation_id))["task_id"]
    rig.kie.strike("file.500", task=first, n=1)
    await rig.visit(parts, generation_id)
    other = rig.kie.add_task(results=(MediaSpec(size=5_000), MediaSpec(size=6_000)))
    rig.kie.strike("file.500", task=other, n=1)
    await rig.books.change(generation_id, f"task_id = '{other}'")
    await rig.visit(parts, generation_id)
    assert set(await rig.receipts(generation_id)) == {rig.kie.sha256(first, 0), rig.kie.sha256(other, 0)}
    await rig.books.change(generation_id, f"task_id = '{first}'")
    await rig.visit(parts, generation_id)
    await rig.proves(generation_id)


async def test_another_task_of_a_row_that_was_shown_gets_an_address_of_its_own(rig: Rig, parts: Parts) -> None:
    """A browser or a cache that has the former address must not show the former picture for the new one."""
    generation_id = await rig.order()
    await rig.visit(parts, generation_id)
    first = (await rig.proves(generation_id))["asset_url"]
    another = rig.kie.add_task(results=(MediaSpec(size=5_000),))
    await rig.books.change(generation_id, f"task_id = '{another}', status = 'generating', asset_url = NULL")
    await rig.visit(parts, generation_id)
    second = (await rig.proves(generation_id))["asset_url"]
    assert first.endswith(f"{generation_id}_0.png")
    assert re.search(rf"{generation_id}_0-[0-9a-f]{{8}}\.png$", second), second
    assert len(rig.stored(first)) != len(rig.stored(second)) == 5_000


async def test_progress_that_the_application_wrote_meanwhile_does_not_stop_the_delivery(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order()
    async with fetching(rig, parts, generation_id) as visiting:
        await rig.books.change(generation_id, "status = 'generating'")
    visited = await visiting
    assert visited is not None
    assert visited.event == "succeeded"
    await rig.proves(generation_id)


async def test_a_result_that_the_application_delivered_meanwhile_is_left_alone(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order()
    async with fetching(rig, parts, generation_id) as visiting:
        await rig.books.change(generation_id, f"status = 'success', asset_url = '{APPLICATIONS_ADDRESS}'")
        before = await rig.books.generation(generation_id)
    visited = await visiting
    assert visited is not None
    assert isinstance(visited.decision, Done)
    assert await rig.books.generation(generation_id) == before


async def test_a_success_that_the_application_wrote_without_an_asset_is_completed(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order()
    async with fetching(rig, parts, generation_id) as visiting:
        await rig.books.change(generation_id, "status = 'success'")
    visited = await visiting
    assert visited is not None
    assert visited.event == "healed"
    await rig.proves(generation_id)


async def but_audit(rig: Rig, generation_id: str) -> dict[str, list[str]]:
    """Everything that the database holds but the time of the next audit."""
    await rig.books.set(generation_id, "audit_at = NULL")
    return await rig.books.everything()


async def test_a_visit_that_was_overtaken_writes_nothing_more(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(results=(MediaSpec(), MediaSpec(ext="webp")))
    async with rig.instance() as successor, fetching(rig, parts, generation_id) as visiting:
        await rig.abandoned(generation_id)
        assert isinstance((await rig.visit(successor, generation_id)).decision, Finish)
        before = await but_audit(rig, generation_id)
    with pytest.raises(LeaseLost):
        await visiting
    # A visit that lost its lease has its row audited soon.
    assert await but_audit(rig, generation_id) == before
    await rig.proves(generation_id)
    assert len(rig.names()) == 2


async def test_a_second_task_is_delivered_though_the_application_says_success_first(rig: Rig) -> None:
    generation_id = await rig.order()
    async with rig.instance() as built:
        await rig.visit(built, generation_id)
        await rig.proves(generation_id)
        second = rig.kie.add_task(life=never())
        await rig.books.change(generation_id, f"task_id = '{second}', status = 'queued'")
        await rig.visit(built, generation_id)
        rig.kie.end(second)
        await rig.books.change(generation_id, "status = 'success'")
        async with rig.working(built):
            built.worker.wake(generation_id)

            async def healed() -> bool:
                return "healed" in await rig.books.events(generation_id)

            await until(healed, what="the second delivery")
        await rig.proves(generation_id)
