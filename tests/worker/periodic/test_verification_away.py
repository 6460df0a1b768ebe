"""Storage that cannot answer about some deliveries: the others are compared all the same."""

from __future__ import annotations

from reconciler.bootstrap import Parts
from testkit.standins.storage import Fault
from tests.worker.periodic.test_verification import audited, counted, due, key
from tests.worker.rig import Rig


async def poisoned(rig: Rig, *ids: str) -> None:
    """Let storage answer with an error about the objects of these generations only."""
    assert rig.storage is not None
    for one in ids:
        rig.storage.faults.add("info", Fault("error", status=500), times=1000, path=await key(rig, one))


async def waiting(rig: Rig, ids: list[str]) -> list[float]:
    """Seconds until the next audit of each."""
    sql = "SELECT extract(epoch FROM audit_at - now())::float8 FROM reconciler.work WHERE generation_id = $1"
    return [await rig.pool.fetchval(sql, one) for one in ids]


async def five_due(rig: Rig, parts: Parts) -> list[str]:
    """Five deliveries, the longest overdue first."""
    ids = []
    for overdue in range(5, 0, -1):
        ids.append(await rig.order())
        await rig.visit(parts, ids[-1])
        await rig.books.set(ids[-1], f"audit_at = now() - interval '{overdue} seconds'")
    return ids


async def test_a_delivery_that_storage_cannot_answer_about_holds_up_no_other(supabase_rig: Rig) -> None:
    rig = supabase_rig
    async with rig.instance() as parts:
        ids = await five_due(rig, parts)
        await poisoned(rig, *ids[:2])
        assert await audited(parts) == {"away": 2, "ok": 3}
    assert all(seconds < 3600 for seconds in await waiting(rig, ids[:2]))
    assert all(seconds > 27 * 86400 - 60 for seconds in await waiting(rig, ids[2:]))


async def test_after_three_unanswered_deliveries_in_a_row_the_rest_waits(supabase_rig: Rig) -> None:
    rig = supabase_rig
    async with rig.instance() as parts:
        ids = await five_due(rig, parts)
        await poisoned(rig, *ids[:3])
        asked = rig.storage.faults.left
        assert await audited(parts) == {"away": 3}
        assert asked - rig.storage.faults.left == 3
    assert all(seconds < 3600 for seconds in await waiting(rig, ids))


async def test_unanswered_deliveries_are_due_again_at_different_times(supabase_rig: Rig) -> None:
    rig = supabase_rig
    async with rig.instance() as parts:
        ids = await five_due(rig, parts)
        await poisoned(rig, *ids)
        await audited(parts)
        back = await waiting(rig, ids)
        assert all(15 * 60 - 60 < seconds <= 30 * 60 for seconds in back)
        assert max(back) - min(back) > 10
        rig.storage.faults.clear()
        for one in ids:
            await due(rig, one)
        await parts.verification.run_once()
        assert counted(parts) == {"away": 3, "ok": 5}
