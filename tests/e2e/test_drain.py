"""How a replica stops: it finishes or releases what it holds, within the drain time."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

from testkit.replica import ROOT, Replica
from testkit.stage import Rig
from testkit.waiting import until

# The command line with an import of the daemon that does not end.
_IMPORTING = """
import signal, sys
class Endless:
    def find_spec(self, name, *_):
        if name == "reconciler.daemon":
            print("importing", flush=True)
            signal.pause()
sys.meta_path.insert(0, Endless())
sys.argv = ["kie-reconciler", "run"]
from reconciler.cli import main
main()
"""


async def hanging(rig: Rig, count: int) -> list[str]:
    """Rows with results that never arrive."""
    ids = []
    for _ in range(count):
        task_id = rig.kie.add_task()
        rig.kie.strike("file.hang", task=task_id)
        ids.append(await rig.insert(task_id))
    return ids


async def draining(replica: Replica) -> None:
    """Wait until it says that it drains."""

    async def told() -> bool:
        return await replica.reason() == "draining"

    await until(told, what="a replica that drains")


async def test_rows_in_hand_are_finished_before_the_exit(rig: Rig) -> None:
    replica = await rig.run()
    rig.kie.latency = 1.0
    ids = [await rig.order() for _ in range(3)]

    async def all_held() -> bool:
        return await rig.held() == len(ids)

    await until(all_held, what="generations in hand")
    replica.signal(signal.SIGTERM)
    await draining(replica)
    assert (await replica.ended(within=10)).code == 0
    await rig.delivered(ids, within=0.1)


async def test_rows_that_outlast_the_drain_time_are_released_and_taken_over(rig: Rig) -> None:
    replica = await rig.run(RECONCILER_LEASE_SECONDS="600", RECONCILER_DRAIN_SECONDS="1")
    ids = await hanging(rig, 5)
    await rig.struck("file.hang", 5)
    rig.kie.calm()
    other = await rig.run(RECONCILER_LEASE_SECONDS="600")
    replica.signal(signal.SIGTERM)
    assert (await replica.ended(within=4)).code == 0
    assert replica.said("work.drained")[0]["released"] == 5
    await rig.delivered(ids, within=15)
    assert await other.delivers(5) == 5
    assert rig.storage is not None
    assert rig.storage.twice() == {}


@pytest.mark.soak
async def test_a_second_signal_ends_the_drain(rig: Rig) -> None:
    replica = await rig.run(RECONCILER_LEASE_SECONDS="600", RECONCILER_DRAIN_SECONDS="600")
    ids = await hanging(rig, 2)
    await rig.struck("file.hang", 2)
    replica.signal(signal.SIGTERM)
    await draining(replica)
    replica.signal(signal.SIGTERM)
    assert (await replica.ended(within=5)).code == 0
    rig.kie.calm()
    await rig.run(RECONCILER_LEASE_SECONDS="600")
    await rig.delivered(ids, within=15)


async def test_a_hangup_is_ignored(rig: Rig) -> None:
    replica = await rig.run()
    replica.signal(signal.SIGHUP)
    await rig.delivered([await rig.order()])
    assert replica.running


@pytest.mark.soak
async def test_while_it_drains_nothing_new_is_claimed(rig: Rig) -> None:
    replica = await rig.run(RECONCILER_DRAIN_SECONDS="3")
    await hanging(rig, 1)
    await rig.struck("file.hang", 1)
    replica.signal(signal.SIGTERM)
    await draining(replica)
    late = await rig.order()
    assert (await replica.ended(within=8)).code == 0
    work = await rig.work(late)
    assert work is None or work["looks"] == 0


async def test_a_stop_before_anything_began_is_a_stop(rig: Rig) -> None:
    assert rig.storage is not None
    await rig.storage.stop()
    replica = await rig.begin()
    await replica.port()
    await until(lambda: replica.said("daemon.waiting"), what="a replica that waits")
    replica.signal(signal.SIGINT)
    assert (await replica.ended(within=5)).code == 0


async def test_a_signal_that_comes_before_it_has_begun_ends_it_as_well() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _IMPORTING, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 30) == b"importing\n"
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 30) == 0
