"""Replicas start at once over a table full of rows in flight: KIE hears no more than the rate."""

from __future__ import annotations

import pytest

from reconciler.simulator import Simulator, never
from testkit.stage import KEY, USER, Rig
from testkit.waiting import until

pytestmark = pytest.mark.soak

RATE = 5
SECONDS = 10

_FILL = """
INSERT INTO public.generations (user_id, kind, model_key, provider, task_id, status, created_at)
SELECT $1, 'image', 'nano-banana-2', 'kie', task, 'queued', now() - interval '30 seconds' FROM unnest($2::text[]) task
"""


@pytest.fixture
def kie() -> Simulator:
    """A KIE that counts, and refuses the eleventh request in a second."""
    return Simulator(keys=(KEY,), limits=True)


@pytest.mark.parametrize(("replicas", "rows"), [(2, 500), (4, 10_000)], ids=["two", "four"])
async def test_replicas_that_start_at_once_over_many_rows_keep_to_the_rate_together(
    rig: Rig, replicas: int, rows: int
) -> None:
    """F11: as after an outage or a deploy of all replicas."""
    await rig.pool.execute(_FILL, USER, [rig.kie.add_task(life=never()) for _ in range(rows)])
    started = [await rig.begin(RECONCILER_POLL_RATE=str(RATE)) for _ in range(replicas)]
    await until(lambda: rig.kie.counts.records >= RATE * SECONDS, 60, "looks for ten seconds")
    rig.keeps_to(RATE)
    for replica in started:
        assert (await replica.get("/healthz")).status_code == 200
    assert rig.kie.counts.creates == 0
