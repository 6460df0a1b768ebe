"""The round that calls `reconciler.on_delivered`: it makes every call that is due and tells of those that fail."""

from __future__ import annotations

import pytest
import structlog

from reconciler.bootstrap import Parts
from reconciler.domain.model import Trigger
from reconciler.errors import Transient
from reconciler.postgres.hooks import DeliveredHook
from reconciler.postgres.pool import Database
from reconciler.worker.periodic.hook_calls import HookCalls
from tests.worker.periodic.daemon_tasks import built, task
from tests.worker.rig import Rig

HOOK = """
CREATE OR REPLACE FUNCTION reconciler.on_delivered(generation uuid, task text) RETURNS void LANGUAGE plpgsql AS
    $$BEGIN IF task LIKE 'bad%' THEN RAISE EXCEPTION 'no such wallet'; END IF; END$$
"""
DUE = """
INSERT INTO reconciler.hook_calls (hook, generation_id, task_id, due_at)
SELECT 'on_delivered', gen_random_uuid(), task, now() FROM unnest($1::text[]) AS task
"""


async def test_one_round_makes_every_call_and_a_line_tells_of_each_that_failed(rig: Rig, parts: Parts) -> None:
    await rig.pool.execute(HOOK)
    try:
        await rig.pool.execute(DUE, [*(f"good-{n}" for n in range(8)), "bad-1", "bad-2"])
        with structlog.testing.capture_logs() as lines:
            await task(built(parts), "hooks").run_once()
        left = await rig.pool.fetch("SELECT task_id FROM reconciler.hook_calls WHERE done_at IS NULL")
        assert {row["task_id"] for row in left} == {"bad-1", "bad-2"}
        failed = [line for line in lines if line["event"] == "hook.failed"]
        assert {(line["hook"], line["task_id"], line["tries"], line["reason"]) for line in failed} == {
            ("on_delivered", "bad-1", 1, "no such wallet"),
            ("on_delivered", "bad-2", 1, "no such wallet"),
        }
        assert (await parts.reports.snapshot()).hooks == {"on_delivered": 2}
    finally:
        await rig.pool.execute("DROP FUNCTION reconciler.on_delivered(uuid, text); DELETE FROM reconciler.hook_calls")


async def test_an_instance_that_only_observes_calls_no_hook(rig: Rig) -> None:
    async with rig.instance(observe=True) as observing:
        assert "hooks" not in built(observing).scheduler.tasks


async def test_while_the_database_is_away_the_round_ends_with_that_error(parts: Parts) -> None:
    away = Database("postgresql://127.0.0.1:9/nothing")
    calls = HookCalls(DeliveredHook(away, parts.table), sweep_seconds=3600.0)
    # It looks again at the next round: nothing was found out.
    for _ in range(2):
        with pytest.raises(Transient):
            await calls.run_once()


async def test_without_a_delivery_it_looks_once_a_sweep_and_a_failed_call_is_tried_again_soon(
    rig: Rig, parts: Parts
) -> None:
    await rig.pool.execute(HOOK)
    calls = HookCalls(DeliveredHook(parts.pools.application, parts.table), sweep_seconds=3600.0)
    try:
        await calls.run_once()
        await rig.pool.execute(DUE, ["bad-1"])
        await calls.run_once()
        assert await tries(rig) == [0]
        row = await rig.insert(task_id=rig.kie.add_task())
        outcome = await parts.worker.once(row, Trigger.SYNC)
        assert outcome is not None
        calls.on_visit(outcome)
        for count in (1, 2):
            await calls.run_once()
            assert await tries(rig) == [count]
            await rig.pool.execute("UPDATE reconciler.hook_calls SET due_at = now() WHERE task_id = 'bad-1'")
    finally:
        await rig.pool.execute("DROP FUNCTION reconciler.on_delivered(uuid, text); DELETE FROM reconciler.hook_calls")


async def tries(rig: Rig) -> list[int]:
    """How often the call about bad-1 was tried."""
    return [
        row["tries"] for row in await rig.pool.fetch("SELECT tries FROM reconciler.hook_calls WHERE task_id = 'bad-1'")
    ]
