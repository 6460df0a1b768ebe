"""`run --observe`, beside an existing webhook: the daemon polls and counts, and changes nothing."""

from __future__ import annotations

import pytest

from reconciler.simulator import never
from testkit.stage import Rig
from testkit.waiting import until


@pytest.mark.soak
async def test_observing_asks_and_counts_but_writes_and_stores_nothing(rig: Rig) -> None:
    assert rig.storage is not None
    witness = await rig.witness()
    await rig.order()
    await rig.order(life=never("generating"))
    await rig.order(fate="fail")
    await rig.order(task_id="denied", life=never("unknown"))
    await rig.order(status="success")
    replica = await rig.run("--observe", RECONCILER_GIVE_UP_AFTER="10s")
    await rig.order()
    await until(lambda: all(task.polls for task in rig.kie.tasks.values()), 30, "looks at every task")
    await until(lambda: sum(task.polls > 1 for task in rig.kie.tasks.values()) >= 3, 30, "second looks")
    for outcome in ("ready", "working", "refused", "unknown"):
        assert await replica.figure("polls_total", outcome=outcome) > 0
    assert await witness.changes() == []
    assert rig.storage.history == {}
    assert rig.storage.requests.keys() <= {"bucket"}
    assert rig.kie.counts.downloads == 0
    assert await rig.pool.fetchval("SELECT count(*) FROM reconciler.events") == 0
    assert await rig.pool.fetchval("SELECT count(*) FROM reconciler.assets") == 0
