"""Deliveries are compared with storage again, and a missing or changed object is delivered once more.

On both storage backends. The tests change objects in the folder or in the stand-in, and make the audit due.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from reconciler.bootstrap import Parts
from reconciler.domain.decide import REPAIR_ATTEMPTS
from reconciler.domain.model import Trigger
from reconciler.simulator import Fault, MediaSpec
from testkit.waiting import until
from tests.worker.periodic.daemon_tasks import built, running
from tests.worker.rig import Rig, opened_rig

FIRST, SECOND = 0, 1


@pytest.fixture(params=["folder", "supabase"])
async def rig(request: pytest.FixtureRequest, rows_dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with opened_rig(rows_dsn, tmp_path, supabase=request.param == "supabase") as rig:
        yield rig


async def delivered(rig: Rig, parts: Parts, **order: Any) -> str:
    """A generation that was delivered a moment ago, and whose audit is due."""
    generation_id = await rig.order(**order)
    await rig.visit(parts, generation_id)
    await rig.proves(generation_id)
    await due(rig, generation_id)
    return generation_id


async def due(rig: Rig, generation_id: str) -> None:
    await rig.books.set(generation_id, "audit_at = now() - interval '1 second'")


async def audited(parts: Parts) -> dict[str, float]:
    """What one run has counted, with the runs before it."""
    await parts.verification.run_once()
    return counted(parts)


def counted(parts: Parts) -> dict[str, float]:
    found = {outcome: child._value.get() for (outcome,), child in parts.metrics.audits._metrics.items()}
    return {outcome: count for outcome, count in found.items() if count}


async def repaired(rig: Rig, parts: Parts, generation_id: str) -> None:
    """Claim what is due, which is this generation, and deliver it."""
    (claim,) = await parts.claims.due(1)
    assert claim.generation_id == generation_id
    await parts.claims.release([claim], seconds=0.0)
    await rig.visit(parts, generation_id)


def place(rig: Rig, key: str) -> Path:
    return rig.folder / "stored" / key


async def key(rig: Rig, generation_id: str, n: int = FIRST) -> str:
    sql = "SELECT path FROM reconciler.assets WHERE generation_id = $1 AND n = $2"
    found: str = await rig.pool.fetchval(sql, generation_id, n)
    return found


async def remove(rig: Rig, parts: Parts, generation_id: str) -> None:
    await parts.store.remove([await key(rig, generation_id)])


async def overwrite(rig: Rig, generation_id: str, body: bytes, n: int = FIRST) -> None:
    """Another writer's bytes, with an ETag and a version of their own."""
    name = await key(rig, generation_id, n)
    if rig.storage is None:
        place(rig, name).write_bytes(body)
        return
    parcel = rig.storage.shelf.parcel()
    parcel.write(body)
    rig.storage.shelf.put(f"generations/{name}", parcel, mime="image/png", cache="no-cache", metadata={}, way="raw")


async def original(rig: Rig, generation_id: str) -> bytes:
    return rig.stored((await rig.books.generation(generation_id))["asset_url"])


async def other_bytes(rig: Rig, parts: Parts, generation_id: str) -> None:
    body = await original(rig, generation_id)
    await overwrite(rig, generation_id, bytes(len(body)))


async def another_size(rig: Rig, parts: Parts, generation_id: str) -> None:
    await overwrite(rig, generation_id, (await original(rig, generation_id))[:-1])


Spoil = Callable[[Rig, Parts, str], Awaitable[None]]


@pytest.mark.parametrize("spoil", [remove, other_bytes, another_size])
async def test_a_missing_or_changed_object_is_delivered_once_more_and_the_row_is_not_touched(
    rig: Rig, spoil: Spoil
) -> None:
    async with rig.instance() as parts:
        generation_id = await delivered(rig, parts)
        await spoil(rig, parts, generation_id)
        before = await rig.pool.fetchrow("SELECT xmin::text, g.* FROM public.generations g")
        assert await audited(parts) == {"broken": 1}
        assert await rig.receipts(generation_id) == []
        await repaired(rig, parts, generation_id)
        assert counted(parts) == {"broken": 1, "repaired": 1}
    assert await rig.pool.fetchrow("SELECT xmin::text, g.* FROM public.generations g") == before
    await rig.proves(generation_id)
    assert await rig.books.events(generation_id) == ["succeeded", "repaired"]


async def test_a_repair_is_not_counted_as_a_delivery_and_is_verified_again_itself(rig: Rig) -> None:
    async with rig.instance() as parts:
        generation_id = await delivered(rig, parts)
        at = (await rig.books.work(generation_id) or {})["delivered_at"]
        await remove(rig, parts, generation_id)
        await parts.verification.run_once()
        await repaired(rig, parts, generation_id)
        assert parts.metrics.deliveries.labels("delivered", "sync")._value.get() == 1
    work = await rig.books.work(generation_id)
    assert work is not None
    assert (work["delivered_at"], work["reopened"], work["due_at"]) == (at, False, None)
    assert await waits(rig, generation_id) == pytest.approx(60, abs=10)


async def waits(rig: Rig, generation_id: str) -> float:
    """Seconds until the next audit."""
    sql = "SELECT extract(epoch FROM audit_at - now())::float8 FROM reconciler.work WHERE generation_id = $1"
    seconds: float = await rig.pool.fetchval(sql, generation_id)
    return seconds


async def test_the_first_audit_is_due_two_leases_after_the_delivery_and_the_next_in_a_month(rig: Rig) -> None:
    async with rig.instance(RECONCILER_LEASE_SECONDS="40") as parts:
        generation_id = await rig.order()
        await rig.visit(parts, generation_id)
        assert await waits(rig, generation_id) == pytest.approx(80, abs=10)
        assert await audited(parts) == {}
        await due(rig, generation_id)
        assert await audited(parts) == {"ok": 1}
    assert 27 * 86400 - 60 < await waits(rig, generation_id) < 33 * 86400
    assert await rig.books.events(generation_id) == ["succeeded"]


async def test_the_same_bytes_written_again_are_intact_with_any_version(rig: Rig) -> None:
    async with rig.instance() as parts:
        generation_id = await delivered(rig, parts)
        await overwrite(rig, generation_id, await original(rig, generation_id))
        assert await audited(parts) == {"ok": 1}


async def test_only_the_broken_result_of_several_is_fetched_again(rig: Rig) -> None:
    async with rig.instance() as parts:
        generation_id = await delivered(rig, parts, results=[MediaSpec()] * 3)
        await overwrite(rig, generation_id, b"late", n=SECOND)
        fetched = rig.kie.counts.downloads
        await parts.verification.run_once()
        assert len(await rig.receipts(generation_id)) == 2
        await repaired(rig, parts, generation_id)
        assert rig.kie.counts.downloads - fetched == 1
    await rig.proves(generation_id)


async def test_nothing_is_concluded_while_storage_is_away(rig: Rig) -> None:
    async with rig.instance() as parts:
        ids = [await delivered(rig, parts) for _ in range(4)]
        receipts = [await rig.receipts(one) for one in ids]
        await away(rig)
        assert await audited(parts) == {"away": 3}
        assert [await rig.receipts(one) for one in ids] == receipts
        assert await audited(parts) == {"away": 3}, "all are claimed for a while"
    for one in ids:
        assert 840 < await waits(rig, one) < 1800
        assert (await rig.books.work(one) or {})["due_at"] is None


async def away(rig: Rig) -> None:
    """Storage stops answering; a folder's disk is not mounted."""
    if rig.storage is not None:
        await rig.storage.stop()
    else:
        (rig.folder / "stored").rename(rig.folder / "unmounted")


async def test_a_loss_that_kie_cannot_replace_is_announced_once_and_the_row_stays(rig: Rig) -> None:
    async with rig.instance() as parts:
        generation_id = await lost(rig, parts)
        row = await rig.books.generation(generation_id)
        assert row["status"] == "success"
        assert row["asset_url"]
        assert await rig.books.events(generation_id) == ["succeeded", "lost"]
        assert (await parts.reports.snapshot()).lost == 1
        await due(rig, generation_id)
        assert await audited(parts) == {"broken": 1, "lost": 1, "left": 1}
        assert (await rig.books.work(generation_id) or {})["due_at"] is None
    assert await rig.books.events(generation_id) == ["succeeded", "lost"]
    payload = json.loads(await rig.pool.fetchval("SELECT payload FROM reconciler.events WHERE kind = 'lost'"))
    assert (payload["task_id"], payload["asset_url"]) == (row["task_id"], row["asset_url"])
    assert payload["paths"] == [await key(rig, generation_id)]


async def lost(rig: Rig, parts: Parts) -> str:
    """A delivery that is gone from storage, too old for KIE, and given up after every attempt."""
    generation_id = await delivered(rig, parts)
    await rig.books.set(generation_id, "completed_at = now() - interval '15 days', media_deadline = now()")
    await remove(rig, parts, generation_id)
    rig.kie.tasks.clear()
    await parts.verification.run_once()
    for _ in range(REPAIR_ATTEMPTS):
        assert (await rig.books.work(generation_id) or {})["due_at"] is not None
        await rig.visit(parts, generation_id)
        await rig.elapse(generation_id, 2)
    return generation_id


async def test_a_lost_object_that_is_put_back_is_no_longer_lost(rig: Rig) -> None:
    async with rig.instance() as parts:
        generation_id = await rig.order()
        await rig.visit(parts, generation_id)
        body = await original(rig, generation_id)
        await rig.books.set(generation_id, "lost_at = now(), audit_at = now()")
        await rig.pool.execute("UPDATE reconciler.assets SET verified_by = NULL, version = NULL, stored_at = NULL")
        await overwrite(rig, generation_id, body)
        assert await audited(parts) == {"ok": 1}
        assert (await parts.reports.snapshot()).lost == 0
    await rig.proves(generation_id)


async def test_an_outage_of_kie_loses_nothing_even_for_old_media(rig: Rig) -> None:
    async with rig.instance() as parts:
        generation_id = await delivered(rig, parts)
        await rig.books.set(generation_id, "completed_at = now() - interval '15 days', media_deadline = now()")
        await remove(rig, parts, generation_id)
        await parts.verification.run_once()
        task = rig.kie.tasks[(await rig.books.generation(generation_id))["task_id"]]
        task.faults.append(Fault("record.http_500", 3))
        for _ in range(3):
            await rig.visit(parts, generation_id)
        await rig.visit(parts, generation_id)
    await rig.proves(generation_id)
    assert await rig.books.events(generation_id) == ["succeeded", "repaired"]


async def test_a_row_deleted_during_a_repair_is_forgotten_and_its_object_is_an_orphan(rig: Rig) -> None:
    async with rig.instance() as parts:
        generation_id = await delivered(rig, parts)
        path = await key(rig, generation_id)
        await remove(rig, parts, generation_id)
        await parts.verification.run_once()
        await rig.pool.execute("DELETE FROM public.generations")
        assert await parts.worker.once(generation_id, Trigger.SYNC) is None
        async with rig.working(parts):
            await until(lambda: gone(rig, generation_id), what="forgotten")
    assert await rig.pool.fetchval("SELECT array_agg(path) FROM reconciler.orphans") == [path]


async def gone(rig: Rig, generation_id: str) -> bool:
    return await rig.books.work(generation_id) is None


async def test_an_object_that_the_row_no_longer_shows_is_not_judged(rig: Rig) -> None:
    async with rig.instance() as parts:
        moved, deleted, elsewhere = [await delivered(rig, parts) for _ in range(3)]
        for one in (moved, deleted, elsewhere):
            await remove(rig, parts, one)
        await rig.books.change(moved, "asset_url = 'https://cdn.shop.example/copy.png'")
        await rig.books.change(elsewhere, "asset_url = replace(asset_url, '_0.png', '_1.png')")
        await rig.pool.execute("DELETE FROM public.generations WHERE id::text = $1", deleted)
        assert await audited(parts) == {"left": 3}


async def test_an_instance_that_only_observes_reports_and_leaves_the_receipt(rig: Rig) -> None:
    async with rig.instance() as parts:
        generation_id = await delivered(rig, parts)
        await remove(rig, parts, generation_id)
    async with rig.instance(observe=True) as watching:
        assert await audited(watching) == {"broken": 1}
    assert len(await rig.receipts(generation_id)) == 1
    assert (await rig.books.work(generation_id) or {})["due_at"] is None


async def test_two_replicas_together_compare_each_delivery_once_and_repair_it_once(rig: Rig) -> None:
    async with rig.instance() as parts, rig.instance() as other:
        ids = [await delivered(rig, parts) for _ in range(6)]
        for one in ids[:3]:
            await remove(rig, parts, one)
        await asyncio.gather(parts.verification.run_once(), other.verification.run_once())
        found = [counted(one) for one in (parts, other)]
        for outcome in ("ok", "broken"):
            assert sum(one.get(outcome, 0) for one in found) == 3
        async with rig.working(parts), rig.working(other):
            await until(lambda: settled(rig), what="three repairs")
    events = [await rig.books.events(one) for one in ids]
    assert events == [["succeeded", "repaired"]] * 3 + [["succeeded"]] * 3
    for one in ids:
        await rig.proves(one)


async def settled(rig: Rig) -> bool:
    waiting: int = await rig.pool.fetchval("SELECT count(*) FROM reconciler.work WHERE due_at IS NOT NULL")
    return waiting == 0


async def test_a_result_from_before_the_repair_does_not_reopen_the_delivery(rig: Rig) -> None:
    async with rig.instance() as parts:
        generation_id = await delivered(rig, parts)
        await remove(rig, parts, generation_id)
        (one,) = await parts.verification.queue.page(timedelta(days=1))
        result = await parts.verification.compare(one)
        assert await parts.verification.settle(result)
        await repaired(rig, parts, generation_id)
        assert not await parts.verification.settle(result)
    await rig.proves(generation_id)


async def test_a_repair_with_another_type_changes_the_address_and_leaves_an_orphan(rig: Rig) -> None:
    async with rig.instance() as parts:
        generation_id = await delivered(rig, parts)
        before = await key(rig, generation_id)
        await overwrite(rig, generation_id, b"late")
        await rig.pool.execute("UPDATE reconciler.work SET media_deadline = now()")
        task = rig.kie.tasks[(await rig.books.generation(generation_id))["task_id"]]
        task.results = (MediaSpec(ext="webp"),)
        await parts.verification.run_once()
        await repaired(rig, parts, generation_id)
    row = await rig.proves(generation_id)
    assert row["asset_url"].endswith(".webp")
    # The former object stays for a month: pages and caches may still show its address.
    orphans = await rig.pool.fetch("SELECT path, since > now() + interval '29 days' AS later FROM reconciler.orphans")
    assert [tuple(orphan) for orphan in orphans] == [(before, True)]


async def test_a_daemon_repairs_a_removed_object_by_itself(rig: Rig, parts: Parts) -> None:
    generation_id = await delivered(rig, parts)
    row = await rig.proves(generation_id)
    await parts.store.remove([await rig.pool.fetchval("SELECT path FROM reconciler.assets")])

    async def repaired() -> bool:
        return await rig.books.events(generation_id) == ["succeeded", "repaired"]

    async with rig.working(parts), running(built(parts)):
        await until(repaired, what="the repair")
    assert await rig.proves(generation_id) == row
