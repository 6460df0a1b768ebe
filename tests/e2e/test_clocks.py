"""Wrong clocks, and clocks set while the daemon waits: leases use the database's clock, waits the monotonic one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.simulator import never
from testkit.replica import Replica
from testkit.stage import Rig
from testkit.standins.clock import COMPILER, Clock
from testkit.waiting import until

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="a clock that can be set has to be compiled"),
    pytest.mark.soak,
]

HOUR = 3600


@pytest.fixture
def ahead(tmp_path: Path) -> Iterator[Clock]:
    with Clock(tmp_path / "ahead", HOUR) as clock:
        yield clock


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Clock]:
    with Clock(tmp_path / "behind", -HOUR) as clock:
        yield clock


def hours_off(replica: Replica) -> int:
    """The hours by which a replica's clock is wrong, read from its last line of the log."""
    told = datetime.fromisoformat(replica.log[-1]["timestamp"])
    return round((told - datetime.now(UTC)).total_seconds() / HOUR)


async def test_replicas_whose_clocks_are_hours_apart_share_the_work_and_lose_no_lease(
    rig: Rig, ahead: Clock, behind: Clock
) -> None:
    """F17: no lease begins or ends by the clock of a replica."""
    assert rig.storage is not None
    rig.kie.slow_seconds = 4.0
    replicas = [await rig.run(**clock.environment) for clock in (ahead, behind)]
    assert [hours_off(replica) for replica in replicas] == [1, -1]
    tasks = [rig.kie.add_task() for _ in range(20)]
    for task_id in tasks[:6]:
        rig.kie.strike("file.slow", task=task_id)
    witness = await rig.witness()
    ids = [await rig.insert(task_id) for task_id in tasks]
    # Some transfers take longer than a lease of three seconds.
    await rig.delivered(ids, within=60)
    assert rig.storage.twice() == {}
    assert {name: len(versions) for name, versions in rig.storage.history.items() if len(versions) > 1} == {}
    assert sorted(change.id for change in await witness.changes() if change.status == "success") == sorted(ids)
    for replica in replicas:
        assert await replica.figure("leases_lost_total") == 0
    assert (rig.kie.counts.creates, rig.kie.counts.limited) == (0, 0)


async def test_the_longest_times_that_the_settings_allow_work(rig: Rig) -> None:
    names = ("SWEEP_SECONDS", "LEASE_SECONDS", "STUCK_AFTER", "GIVE_UP_AFTER", "DRAIN_SECONDS")
    replica = await rig.run(**{f"RECONCILER_{name}": "36500d" for name in names})
    await rig.delivered([await rig.order()])
    replica.signal(signal.SIGTERM)
    assert (await replica.ended(within=20)).code == 0


@pytest.mark.parametrize("to", [-HOUR, HOUR], ids=["back", "forth"])
async def test_a_clock_that_is_set_stops_no_periodic_task_and_ends_no_row(rig: Rig, tmp_path: Path, to: int) -> None:
    """F17: what is due, and what the sweep finds, comes at its time although the wall clock is set by an hour."""
    await rig.pool.execute("DROP TRIGGER reconciler_inserted_3 ON public.generations")
    with Clock(tmp_path / "set") as clock:
        replica = await rig.run(RECONCILER_GIVE_UP_AFTER="45m", **clock.environment)
        waiting = await rig.order(life=never("waiting"))
        task = rig.kie.tasks[next(iter(rig.kie.tasks))]
        await until(lambda: task.polls, 15, "a first look")
        clock.turn(to)
        looks = task.polls
        # Only the sweep finds this row: its trigger is dropped.
        await rig.delivered([await rig.order()], within=10)
        await until(lambda: task.polls > looks, 15, "a look at what was in flight")
        assert hours_off(replica) == to // HOUR
        assert (await rig.work(waiting))["gave_up"] is False
        assert (await replica.get("/healthz")).status_code == 200
        rig.kie.end(task.id)
        await rig.delivered([waiting])
