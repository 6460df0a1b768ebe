"""The retention: only the leader deletes failed rows, and only where the settings say after how many days."""

from __future__ import annotations

from reconciler.bootstrap import Parts
from tests.worker.periodic.daemon_tasks import built, rows, task
from tests.worker.rig import Rig


async def test_an_instance_that_only_observes_deletes_no_failure(rig: Rig) -> None:
    await rig.insert(None, status="failed", age=40 * 86400)
    async with rig.instance(observe=True) as observing:
        periodic = built(observing)
        await periodic.heartbeat.run_once()
        await task(periodic, "upkeep").run_once()
    assert await rows(rig.pool) == 1


async def test_only_the_leader_deletes_and_asks_for_credit_and_zero_days_delete_nothing(rig: Rig, parts: Parts) -> None:
    await rig.insert(None, status="failed", age=40 * 86400)
    periodic = built(parts)
    retention, credit = task(periodic, "upkeep"), task(periodic, "credit")
    for one in (retention, credit):
        await one.run_once()
    assert await rows(rig.pool) == 1
    assert rig.kie.counts.credits == 0
    await periodic.heartbeat.run_once()
    await retention.run_once(failed_days=0)  # type: ignore[call-arg]
    assert await rows(rig.pool) == 1
    await retention.run_once(failed_days=30)  # type: ignore[call-arg]
    await credit.run_once()
    assert await rows(rig.pool) == 0
    assert parts.metrics.kie_credits._value.get() == rig.kie.credits
