"""Several daemons on one database: they share the work and the rate, and take over from dead ones."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time

import pytest

from reconciler.simulator import Simulator, never
from testkit.stage import KEY, Rig
from testkit.standins.storage import Fault
from testkit.waiting import until

ALONE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child=SIGKILL")
"""Starts a program in a process namespace of its own, as containers do: its pid is always 1."""


# All but the time of the next audit: a lost lease brings it forward.
_KEPT = """
SELECT (SELECT jsonb_agg(to_jsonb(w) - 'audit_at' ORDER BY generation_id) FROM reconciler.work w)
    || (SELECT jsonb_agg(to_jsonb(a) ORDER BY generation_id, n) FROM reconciler.assets a)
    || (SELECT jsonb_agg(to_jsonb(e) ORDER BY id) FROM reconciler.events e)
"""

SLOW = 5.0
"""Seconds for which a file and a request to storage are under way: longer than a lease."""


def may_be_alone() -> bool:
    if shutil.which(ALONE[0]) is None:
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_be_alone(), reason="this user may not make process namespaces")
async def test_a_successor_with_the_dead_ones_name_and_pid_takes_its_orphans_over(rig: Rig) -> None:
    first = await rig.run(through=ALONE)
    rig.kie.strike("file.hang", times=5)
    ids = [await rig.order() for _ in range(5)]
    await rig.struck("file.hang", 5)
    await first.kill()
    await rig.run(through=ALONE)
    await rig.delivered(ids, within=15)
    identities = await rig.pool.fetch("SELECT DISTINCT host, pid FROM reconciler.instances")
    assert [identity["pid"] for identity in identities] == [1]


@pytest.mark.soak
async def test_a_replica_that_slept_past_its_leases_writes_nothing_when_it_wakes(rig: Rig) -> None:
    assert rig.storage is not None
    witness = await rig.witness()
    sleeper = await rig.run(RECONCILER_CONCURRENCY="30")
    fetching = [rig.kie.add_task() for _ in range(10)]
    for task_id in fetching:
        rig.kie.strike("file.slow", task=task_id)
    rig.kie.slow_seconds = SLOW
    rig.storage.faults.add("put", Fault("slow", seconds=SLOW), times=10)
    storing = [rig.kie.add_task() for _ in range(10)]
    ids = {task_id: await rig.insert(task_id) for task_id in (*fetching, *storing)}
    await rig.struck("file.slow", 10)
    await until(lambda: rig.storage and rig.storage.requests["put"] == 10, what="bytes on their way")
    sleeper.signal(signal.SIGSTOP)
    answered = time.monotonic() + SLOW + 0.5
    rig.kie.calm()
    rig.storage.faults.clear()
    other = await rig.run()
    await rig.delivered(ids.values(), within=30)
    await until(lambda: time.monotonic() > answered, SLOW + 1, "the answers that the sleeper has missed")
    written = {name: len(versions) for name, versions in rig.storage.history.items()}
    before, kept = await witness.changes(), await rig.pool.fetchval(_KEPT)
    sleeper.signal(signal.SIGCONT)

    async def has_noticed() -> bool:
        return await sleeper.figure("leases_lost_total") >= 20

    await until(has_noticed, what="a sleeper that has noticed")
    assert await witness.changes() == before
    assert await rig.pool.fetchval(_KEPT) == kept
    assert {change.id for change in before if change.status == "success"} == set(ids.values())
    assert [change for change in before if change.moves_an_end] == []
    assert rig.storage.twice() == {}
    assert {name: len(versions) for name, versions in rig.storage.history.items()} == written
    assert await other.delivers(20) == 20
    assert await sleeper.figure("deliveries_total", outcome="delivered") == 0
    await other.kill()
    await rig.delivered([await rig.order()])


@pytest.mark.soak
class TestARate:
    """Against a KIE that counts, and refuses the eleventh request in a second."""

    RATE = 5
    ROWS = 300
    LOOKS = 60

    @pytest.fixture
    def kie(self) -> Simulator:
        return Simulator(keys=(KEY,), limits=True)

    async def test_three_replicas_that_start_together_keep_to_it_together(self, rig: Rig) -> None:
        for _ in range(self.ROWS):
            await rig.insert(rig.kie.add_task(life=never()))
        replicas = [await rig.begin(RECONCILER_POLL_RATE=str(self.RATE)) for _ in range(3)]
        await until(lambda: rig.kie.counts.records >= self.LOOKS, 60, f"{self.LOOKS} looks")
        rig.keeps_to(self.RATE)
        for replica in replicas:
            assert await replica.figure("polls_total") > 0


@pytest.mark.soak
@pytest.mark.parametrize("age", [14.0, 30.0], ids=["almost due", "due"])
async def test_hopeless_rows_in_front_do_not_keep_a_good_row_waiting(rig: Rig, age: float) -> None:
    await rig.pool.executemany(
        "INSERT INTO public.generations (kind, model_key, task_id, created_at)"
        " VALUES ('image', 'nano-banana-2', $1, now() - interval '2 hours')",
        [(f"hopeless-{n}",) for n in range(1000)],
    )
    await rig.run(RECONCILER_POLL_RATE="10")
    await until(lambda: rig.kie.counts.records >= 30, 30, "looks at hopeless rows")
    good = await rig.insert(rig.kie.add_task(), age=age)
    await rig.delivered([good], within=12)
    assert rig.kie.counts.records < 300
