"""A replica that takes over another's rows can fail in turn: it is killed, or its loop stands still."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import httpx
import pytest

from testkit.replica import ROOT, Replica
from testkit.stage import Rig
from testkit.standins.storage import Fault
from testkit.waiting import until

pytestmark = pytest.mark.soak

BLOCKED = 8.0
"""Seconds for which the loop is blocked: more than two leases."""

BLOCKABLE = f"""
import signal, threading
signal.signal(signal.SIGUSR1, lambda *_: threading.Event().wait({BLOCKED}))
"""
"""Python runs it in each process that begins with its folder in the path; the signal stops the main thread alone."""


async def holds(rig: Rig, replica: Replica, count: int) -> None:
    """Wait until this replica holds so many rows."""
    sql = """SELECT count(*) FROM reconciler.work w JOIN reconciler.instances i ON i.id = w.instance
              WHERE i.pid = $1 AND w.lease_until > now()"""

    async def held() -> bool:
        return bool(await rig.pool.fetchval(sql, replica.pid) == count)

    await until(held, 20, f"{count} rows in the hands of one")


async def test_a_rescuer_that_is_killed_is_rescued(rig: Rig) -> None:
    """F6: rows of a killed replica that had taken them over from another killed replica."""
    assert rig.storage is not None
    tasks = [rig.kie.add_task() for _ in range(5)]
    for task_id in tasks:
        rig.kie.strike("file.hang", task=task_id, times=3)
    ids = [await rig.insert(task_id) for task_id in tasks]
    for n in range(3):
        replica = await rig.run()
        await rig.struck("file.hang", 5 * (n + 1))
        await holds(rig, replica, 5)
        await replica.kill()
    last = await rig.run()
    await rig.delivered(ids, within=20)
    assert await last.delivers(5) == 5
    assert rig.storage.twice() == {}


async def answers(replica: Replica) -> int | None:
    """The status that /healthz answers within two seconds, None without an answer."""
    port = await replica.port()
    async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
        try:
            return (await client.get(f"http://127.0.0.1:{port}/healthz")).status_code
        except httpx.TimeoutException:
            return None


async def test_a_loop_that_stands_still_past_its_leases_stores_nothing_twice(rig: Rig, tmp_path: Path) -> None:
    """F10: its rows are taken over, /healthz shows the standstill, and its late writes are refused."""
    assert rig.storage is not None
    (tmp_path / "sitecustomize.py").write_text(BLOCKABLE)
    witness = await rig.witness()
    # Ready before the standstill begins, since a busy machine takes longer than that to start a process.
    other = await rig.run()
    other.signal(signal.SIGSTOP)
    blocked = await rig.run(PYTHONPATH=f"{tmp_path}:{ROOT}")
    rig.storage.faults.add("put", Fault("slow", seconds=1), times=6)
    tasks = [rig.kie.add_task() for _ in range(12)]
    rig.kie.slow_seconds = 2.0
    for task_id in tasks[:6]:
        rig.kie.strike("file.slow", task=task_id)
    ids = [await rig.insert(task_id) for task_id in tasks]
    await rig.struck("file.slow", 6)
    await until(lambda: rig.storage and rig.storage.requests["put"] >= 6, what="bytes on their way")
    blocked.signal(signal.SIGUSR1)
    began = time.monotonic()
    other.signal(signal.SIGCONT)
    health = await answers(blocked)
    assert health in (None, 503)
    await rig.delivered(ids, within=BLOCKED + 10)
    await other.delivers(1)
    await until(lambda: time.monotonic() > began + BLOCKED, BLOCKED + 1, "the end of the standstill")

    async def turns() -> bool:
        return await answers(blocked) == 200 and await blocked.figure("leases_lost_total") > 0

    await until(turns, 30, "a loop that turns, and knows what it lost")
    assert rig.storage.twice() == {}
    changes = await witness.changes()
    assert sorted(change.id for change in changes if change.status == "success") == sorted(ids)
    assert [change for change in changes if change.moves_an_end] == []
    assert blocked.running
