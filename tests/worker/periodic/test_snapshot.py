"""The snapshot: only the leader shows the table-wide figures, and old figures are never shown as new ones."""

from __future__ import annotations

import math

import pytest

from reconciler.bootstrap import Parts
from reconciler.errors import Transient
from reconciler.simulator import never
from tests.worker.periodic.daemon_tasks import built
from tests.worker.rig import Rig


async def test_one_instance_shows_the_figures_and_the_other_shows_none(rig: Rig, parts: Parts) -> None:
    await rig.order(life=never())
    async with rig.instance() as other:
        leader, follower = built(parts), built(other)
        for periodic in (leader, follower):
            await periodic.heartbeat.run_once()
        assert [one.metrics.is_leader._value.get() for one in (parts, other)] == [1, 0]
        for periodic in (leader, follower):
            await periodic.snapshot.run_once()
        assert parts.metrics.in_flight.labels("queued")._value.get() == 1
        assert parts.metrics.instances._value.get() == 2
        assert math.isnan(other.metrics.in_flight.labels("queued")._value.get())


async def test_a_leader_whose_snapshot_fails_shows_no_old_figures(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unanswered() -> None:
        raise Transient("too slow", code="timeout")

    await rig.order(life=never())
    periodic = built(parts)
    await periodic.heartbeat.run_once()
    await periodic.snapshot.run_once()
    assert parts.metrics.instances._value.get() == 1
    with monkeypatch.context() as patched:
        patched.setattr(parts.reports, "snapshot", unanswered)
        with pytest.raises(Transient):
            await periodic.snapshot.run_once()
    assert math.isnan(parts.metrics.instances._value.get())
    assert math.isnan(parts.metrics.in_flight.labels("queued")._value.get())
    await periodic.snapshot.run_once()
    assert parts.metrics.in_flight.labels("queued")._value.get() == 1
