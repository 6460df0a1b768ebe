"""KIE says 429 while replicas have a queue of requests: they let the key rest together."""

from __future__ import annotations

import asyncio

import pytest

from reconciler.postgres.rate_limit import rest_seconds
from reconciler.simulator import never
from testkit.stage import USER, Rig
from testkit.waiting import until
from tests.e2e.test_herd import _FILL


@pytest.mark.sample(1)
@pytest.mark.parametrize("replicas", [1, 2])
async def test_n5_after_a_429_at_most_three_requests_of_each_replica_reach_kie_until_it_is_over(
    rig: Rig, replicas: int
) -> None:
    """N5: slots that were drawn before a 429 were used after it, 80 of them."""
    await rig.pool.execute(_FILL, USER, [rig.kie.add_task(life=never()) for _ in range(300)])
    for _ in range(replicas):
        await rig.begin(RECONCILER_POLL_RATE="20")
    await until(lambda: rig.kie.counts.records >= 60, 90, "requests of full queues")
    loop = asyncio.get_running_loop()
    rig.kie.strike("record.http_429")
    await rig.struck("record.http_429", 1)
    began, before = loop.time(), rig.kie.counts.records
    await until(lambda: rig.kie.counts.records > before + 3 * replicas, 90, "requests after the rest")
    assert loop.time() - began > rest_seconds(None) - 1
    assert rig.kie.counts.creates == 0
