"""A task that KIE refuses fails once: the row, its event and the application's refund in one transaction."""

from __future__ import annotations

import pytest

from reconciler.simulator import Failure
from testkit.stage import Rig
from testkit.waiting import until

REFUSED = Failure("422", "The prompt is not allowed")

HOOK = """
CREATE TABLE public.refunds (generation_id uuid, reason text, by xid8 DEFAULT pg_current_xact_id());
CREATE OR REPLACE FUNCTION reconciler.on_failed(generation_id uuid, reason text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.refunds VALUES (generation_id, reason);
    IF EXISTS (SELECT FROM public.generations WHERE id = $1 AND prompt = 'no refund') THEN
        RAISE EXCEPTION 'the ledger of credits is closed';
    END IF;
END
$$;
"""


async def refused(rig: Rig) -> str:
    """A row with a task that KIE refuses."""
    return await rig.order(fate="fail", failure=REFUSED)


async def failed(rig: Rig, generation_id: str) -> None:
    async def is_failed() -> bool:
        status = await rig.pool.fetchval("SELECT status FROM public.generations WHERE id::text = $1", generation_id)
        return bool(status == "failed")

    await until(is_failed, what="a failed row")


async def events(rig: Rig, generation_id: str) -> list[str]:
    rows = await rig.pool.fetch("SELECT kind FROM reconciler.events WHERE generation_id = $1", generation_id)
    return [row["kind"] for row in rows]


async def test_a_refusal_fails_the_row_and_refunds_once_in_the_same_transaction(rig: Rig) -> None:
    await rig.pool.execute(HOOK)
    witness = await rig.witness()
    await rig.run()
    await rig.run()
    ids = [await refused(rig) for _ in range(5)]
    for generation_id in ids:
        await failed(rig, generation_id)
        assert await events(rig, generation_id) == ["failed"]
        assert await witness.statuses(generation_id) == ["failed"]
    rows = await rig.pool.fetch(
        "SELECT g.id::text, g.error, r.reason, g.xmin::text = r.by::text AS together"
        "  FROM public.refunds r JOIN public.generations g ON g.id = r.generation_id"
    )
    assert sorted(row["id"] for row in rows) == sorted(ids)
    assert {(row["error"], row["reason"], row["together"]) for row in rows} == {
        ("The prompt is not allowed (422)", "The prompt is not allowed (422)", True)
    }


async def test_a_throwing_hook_rolls_everything_back_and_the_row_waits_with_a_finding(rig: Rig) -> None:
    await rig.pool.execute(HOOK)
    witness = await rig.witness()
    generation_id = await refused(rig)
    await rig.pool.execute("UPDATE public.generations SET prompt = 'no refund'")
    await rig.run()

    async def waits() -> bool:
        work = await rig.work(generation_id)
        return work is not None and work["finding"] == "hook_failed" and work["lease"] is None

    await until(waits, what="a row that waits behind its hook")
    assert "the ledger of credits is closed" in (await rig.work(generation_id))["why"]
    assert await events(rig, generation_id) == []
    assert await rig.pool.fetchval("SELECT count(*) FROM public.refunds") == 0
    assert await witness.statuses(generation_id) == ["queued"]
    await rig.pool.execute("UPDATE public.generations SET prompt = NULL")
    await rig.pool.execute("UPDATE reconciler.work SET due_at = now()")
    await failed(rig, generation_id)
    assert await events(rig, generation_id) == ["failed"]
    assert await rig.pool.fetchval("SELECT count(*) FROM public.refunds") == 1


@pytest.mark.sample(1)
@pytest.mark.parametrize("hook", ["", HOOK], ids=["no hook", "a hook"])
async def test_handover_records_a_failure_as_one_event_and_writes_no_row(rig: Rig, hook: str) -> None:
    if hook:
        await rig.pool.execute(hook)
    witness = await rig.witness()
    await rig.run(RECONCILER_ON_FAIL="handover")
    generation_id = await refused(rig)

    async def told() -> bool:
        return await events(rig, generation_id) == ["failed"]

    await until(told, what="an event")
    later = await rig.order()
    await rig.delivered([later])
    for _ in range(3):
        await rig.delivered([await rig.order()])
    work = await rig.work(generation_id)
    assert (work["due_at"], work["lease"]) == (None, None)
    assert await events(rig, generation_id) == ["failed"]
    assert await witness.statuses(generation_id) == []
    if hook:
        assert await rig.pool.fetchval("SELECT count(*) FROM public.refunds") == 0
