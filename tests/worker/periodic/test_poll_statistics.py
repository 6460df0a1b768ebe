"""The poll statistics: what the leader learns is what every replica goes by."""

from __future__ import annotations

from reconciler.bootstrap import Parts
from tests.worker.periodic.daemon_tasks import built, task
from tests.worker.rig import Rig


async def test_every_replica_goes_by_what_the_leader_has_learned(rig: Rig, parts: Parts) -> None:
    await rig.pool.executemany("INSERT INTO reconciler.timings (model, took) VALUES ('flux', $1)", [(40.0,)] * 30)
    async with rig.instance() as other:
        leader, follower = built(parts), built(other)
        await leader.heartbeat.run_once()
        await follower.heartbeat.run_once()
        await task(follower, "pace").run_once()
        assert other.policy.limits.duration_models == {}
        await task(leader, "pace").run_once()
        await task(follower, "pace").run_once()
        assert other.policy.limits.duration_models == parts.policy.limits.duration_models
        assert set(parts.policy.limits.duration_models) == {"flux"}
