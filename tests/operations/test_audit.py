"""`audit`: every byte is read back, and what is broken is reported and repaired at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler import bootstrap
from reconciler.bootstrap import Parts
from reconciler.errors import Transient
from reconciler.operations.audit import Audit, AuditTotals, BrokenDelivery
from reconciler.postgres.ledger.verification import PAGE, VerificationQueue
from testkit.standins.storage.faults import Fault
from tests.worker.rig import Rig, opened_rig

WEEK = timedelta(days=7)


@pytest.fixture
async def rig(rows_dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with opened_rig(rows_dsn, tmp_path, supabase=True) as rig:
        yield rig


@pytest.fixture
async def parts(rig: Rig) -> AsyncIterator[Parts]:
    async with rig.instance() as built:
        yield built


async def audited(parts: Parts, since: timedelta = WEEK) -> tuple[AuditTotals, list[BrokenDelivery]]:
    broken: list[BrokenDelivery] = []
    queue = VerificationQueue(parts.database, parts.table, term=30)
    audit = Audit(bootstrap.operator(parts, at_once=4), queue, parts.verification, broken.append)
    return await audit.run(since), broken


async def delivered(rig: Rig, parts: Parts) -> str:
    generation_id = await rig.order()
    await rig.visit(parts, generation_id)
    return generation_id


async def corrupt(rig: Rig, generation_id: str) -> None:
    """Change the bytes but not their number; storage still shows the old ETag."""
    assert rig.storage is not None
    address = (await rig.books.generation(generation_id))["asset_url"]
    name = address.partition("/object/public/")[2]
    thing = rig.storage.objects[name]
    thing.content = bytes(thing.size)


async def test_bytes_that_changed_behind_their_etag_are_found_and_repaired(rig: Rig, parts: Parts) -> None:
    whole, changed = [await delivered(rig, parts) for _ in range(2)]
    await corrupt(rig, changed)
    totals, broken = await audited(parts)
    assert [(one.generation_id, one.word) for one in broken] == [(changed, "repaired")]
    assert (totals.deliveries, totals.objects, totals.broken, totals.repaired) == (2, 2, 1, 1)
    assert not totals.well
    await rig.proves(whole)
    await rig.proves(changed)
    totals, broken = await audited(parts)
    assert (totals.well, broken) == (True, [])


async def test_only_deliveries_within_the_time_are_read(rig: Rig, parts: Parts) -> None:
    old = await delivered(rig, parts)
    await delivered(rig, parts)
    await rig.books.set(old, "delivered_at = now() - interval '8 days'")
    totals, _ = await audited(parts)
    assert totals.deliveries == 1


async def test_more_than_one_page_is_read_even_if_all_were_delivered_at_one_moment(rig: Rig, parts: Parts) -> None:
    await rig.pool.execute(
        "INSERT INTO reconciler.work (generation_id, seen_task, delivered_at)"
        " SELECT gen_random_uuid()::text, 'task', date_trunc('day', now()) FROM generate_series(1, $1)",
        PAGE + 5,
    )
    totals, _ = await audited(parts)
    assert (totals.left, totals.deliveries, totals.well) == (PAGE + 5, 0, True)


async def test_what_kie_no_longer_has_is_lost_and_is_reported_each_time(rig: Rig, parts: Parts) -> None:
    generation_id = await delivered(rig, parts)
    await corrupt(rig, generation_id)
    await rig.books.set(generation_id, "media_deadline = now()")
    refused = rig.kie.add_task(fate="fail")
    task_id = (await rig.books.generation(generation_id))["task_id"]
    rig.kie.tasks[task_id] = replace(rig.kie.tasks[refused], id=task_id)
    for _ in range(2):
        _, broken = await audited(parts)
        assert [one.word for one in broken] == ["lost"]
    assert await rig.books.events(generation_id) == ["succeeded", "lost"]
    assert (await rig.books.generation(generation_id))["status"] == "success"


async def test_a_repair_for_which_kie_is_away_is_waiting(rig: Rig, parts: Parts) -> None:
    generation_id = await delivered(rig, parts)
    await corrupt(rig, generation_id)
    await rig.books.set(generation_id, "media_deadline = now()")
    await rig.kie.__aexit__(None, None, None)
    _, broken = await audited(parts)
    assert [one.word for one in broken] == ["waiting"]
    assert (await rig.books.work(generation_id) or {})["due_at"] is not None


async def test_a_delivery_that_another_visit_holds_is_waiting(rig: Rig, parts: Parts) -> None:
    generation_id = await delivered(rig, parts)
    await corrupt(rig, generation_id)
    await rig.books.set(generation_id, "lease = gen_random_uuid(), lease_until = now() + interval '1 minute'")
    _, broken = await audited(parts)
    assert [one.word for one in broken] == ["waiting"]
    assert len(await rig.receipts(generation_id)) == 1


async def test_an_unreadable_object_is_counted_and_a_storage_that_is_away_ends_the_audit(
    rig: Rig, parts: Parts
) -> None:
    assert rig.storage is not None
    for _ in range(6):
        await delivered(rig, parts)
    rig.storage.faults.add("read", Fault("html", status=503), times=1)
    totals, broken = await audited(parts)
    assert (totals.deliveries, totals.unread, totals.well, broken) == (5, 1, False, [])
    await rig.storage.stop()
    with pytest.raises(Transient):
        await audited(parts)
    assert await rig.pool.fetchval("SELECT count(*) FROM reconciler.work WHERE due_at IS NOT NULL") == 0
